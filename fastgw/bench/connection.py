"""Connections to the server: one request at a time on each, kept while it keeps them.

Owns: sockets, and the clock's reading when bytes arrive: before anything looks at them. Must never: leave a request without an
end (each has a deadline), or send one again whose answer had begun.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import Final, cast

from fastgw.bench.answer import MAX_FIELDS, MAX_HEAD_BYTES, Answer, Wrong, printable
from fastgw.bench.plan import Plan
from fastgw.protocol.http1.client import ResponseReader

now: Final = time.perf_counter


class Connection(asyncio.Protocol):
    """``ended_at``: when the last byte of the last answer came. ``used``: how many requests it has carried."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._waiter: asyncio.Future[Wrong | None] | None = None
        self.reader = ResponseReader(MAX_HEAD_BYTES, MAX_FIELDS)
        self.ended_at = 0.0
        self.used = 0

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        at = now()
        answer = self._answer
        if answer is None:
            self.close()  # nobody asked
            return
        try:
            if not answer.feed(data, at):
                return
            wrong = None
        except Wrong as error:
            wrong = error
        self._over(wrong, at)

    def eof_received(self) -> None:
        self._ended("fin")

    def connection_lost(self, error: Exception | None) -> None:
        self._ended("reset" if error else "fin")
        self._transport = None

    def _ended(self, how: str) -> None:
        if self._answer is None:
            return
        at, wrong = now(), None
        try:
            self._answer.ended(how)
        except Wrong as error:
            wrong = error
        self._over(wrong, at)

    def _over(self, wrong: Wrong | None, at: float) -> None:
        answer, self._answer = self._answer, None
        self.ended_at = at
        sent = self._transport is not None and not self._transport.get_write_buffer_size()
        if not (answer is not None and answer.complete and answer.keep_alive and sent):
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(wrong)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, request: bytes, answer: Answer, timeout_s: float) -> Wrong | None:
        """Send, and wait until the answer is over; ``None`` = it is whole and good."""
        assert self._transport is not None
        self.used += 1
        self._answer = answer
        self._waiter = self._loop.create_future()
        self._transport.write(request)
        late = self._loop.call_later(timeout_s, self._late, timeout_s)
        try:
            return await self._waiter
        finally:
            late.cancel()
            if self._answer is not None:  # whoever waited has left
                self._answer = None
                self.close()

    def _late(self, timeout_s: float) -> None:
        self._over(Wrong("timeout", f"not whole after {timeout_s:g} s"), now())


class Connections:
    """Those that wait for a request, and how to make one more. The one that was used last is used first."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._idle: list[Connection] = []
        self._found: list[str] = []
        self._tls = _tls(plan)
        self.made = 0

    async def find(self) -> None:
        """Look the server's name up, once for all.

        :raises Wrong: there is no such name.
        """
        address = self._plan.address
        if address.unix_path or self._found:
            return
        try:
            found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Wrong("no connection", f"{address.host}: {error.strerror or error}") from None
        self._found = list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def take(self) -> Connection | None:
        """One that is open and idle."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def dial(self) -> Connection:
        """:raises Wrong: no connection can be had."""
        await self.find()
        why = "there is no address"
        for place in self._found or [""]:
            try:
                async with asyncio.timeout(self._plan.connect_timeout_s):
                    connection = await self._dial(place)
            except TimeoutError:
                why = f"not within {self._plan.connect_timeout_s:g} s"
            except ssl.SSLCertVerificationError as error:
                why = f"the certificate is not believed: {error.verify_message}"
            except OSError as error:
                why = error.strerror or str(error)
            else:
                self.made += 1
                return connection
        raise Wrong("no connection", printable(why))

    async def _dial(self, place: str) -> Connection:
        loop, address = asyncio.get_running_loop(), self._plan.address
        if address.unix_path:
            _, connection = await loop.create_unix_connection(Connection, address.unix_path)
        else:
            name = address.host if self._tls is not None else None
            _, connection = await loop.create_connection(Connection, place, address.port, ssl=self._tls, server_hostname=name)
        return connection

    def give(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _tls(plan: Plan) -> ssl.SSLContext | None:
    if not plan.address.secure:
        return None
    context = ssl.create_default_context(cafile=plan.ca_file or None)
    context.set_alpn_protocols(["http/1.1"])
    if plan.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
