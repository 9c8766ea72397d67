"""``RawClient`` through TLS, for gateways of the tests' that speak it; and whether all of them are to.

An end without close_notify is a reset here, as it is for whoever minds his answers being whole. ``FASTGW_TESTED_TLS=1`` has
every gateway that a test starts by ``running`` speak TLS, and each ``RawClient`` that goes there: the same tests, another wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tests.support import pki
from tests.support.client import SECURED, RawClient

ALL = os.environ.get("FASTGW_TESTED_TLS") == "1"


@functools.cache
def shared() -> pki.Certificates:
    """One CA for this process."""
    folder = tempfile.TemporaryDirectory(prefix="fastgw-pki-")
    shared.folder = folder  # type: ignore[attr-defined]
    return pki.certificates(Path(folder.name))


class TlsClient(RawClient):
    """See the head of this file."""

    __slots__ = ("_incoming", "_outgoing", "tls")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost", session=session)

    async def shake(self) -> TlsClient:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._put()
                self._incoming.write(await self._received())
            else:
                await self._put()
                return self

    async def _put(self) -> None:
        data = self._outgoing.read()
        if data:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    async def _received(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._sock, 262144)
        if not data:
            raise ConnectionResetError("cut")
        return data

    async def send(self, data: bytes, *, timeout: float = 10.0) -> None:  # noqa: ASYNC109
        async with asyncio.timeout(timeout):
            for at in range(0, len(data), 65536):
                self.tls.write(data[at : at + 65536])
                await self._put()

    def put(self, data: bytes) -> None:
        self.tls.write(data)
        self._sock.send(self._outgoing.read())

    async def _fill(self, end: float) -> Literal["eof", "reset", "timeout"] | None:
        if self._ended is not None:
            return "eof" if self._ended == "fin" else "reset"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(max(end, loop.time() + 0.0001)):
                while True:
                    try:
                        data = self.tls.read(65536)
                    except ssl.SSLWantReadError:
                        self._incoming.write(await self._received())
                        continue
                    break
        except TimeoutError:
            return "timeout"
        except (ConnectionError, ssl.SSLError):
            self._ended = "reset"
            return "reset"
        if not data:
            self._ended = "fin"
            return "eof"
        self._buffer += data
        return None

    def _go_on_as(self, fresh: RawClient) -> None:
        assert isinstance(fresh, TlsClient)
        super()._go_on_as(fresh)
        self._incoming, self._outgoing, self.tls = fresh._incoming, fresh._outgoing, fresh.tls

    def _say_end(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        with contextlib.suppress(OSError):
            self._sock.send(self._outgoing.read())

    def shutdown_write(self) -> None:
        self._say_end()
        super().shutdown_write()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._say_end()
        super().close()


def settings() -> dict[str, Any]:
    """Of a gateway that speaks TLS."""
    pair = shared().gateway
    return {"tls_cert_file": [pair.cert], "tls_key_file": [pair.key]}


@contextlib.contextmanager
def spoken_at(port: int, context: ssl.SSLContext | None = None) -> Iterator[None]:
    """From here on ``RawClient`` speaks TLS to that port."""
    given = context or shared().trusting()
    SECURED[port] = lambda sock: TlsClient(sock, given).shake()
    try:
        yield
    finally:
        del SECURED[port]
