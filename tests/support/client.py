"""A raw HTTP/1.1 client for tests: sends any bytes, reads answers strictly, and sees how the connection ended.

Owns: its own socket. Answers are read by ``answers.py``, requests made by ``requests.py``; all names are here as well.
Must never: hang: each wait has a time limit.
"""

# ruff: noqa: ASYNC109  (a time limit is part of each read: a peer that goes silent is a result here, not an exception)

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.support.answers import BadResponse, Ending, NoResponse, RawResponse, parse_head
from tests.support.requests import chat, chat_body, chunk, request

__all__ = [
    "BadResponse",
    "Ending",
    "NoResponse",
    "RawClient",
    "RawResponse",
    "chat",
    "chat_body",
    "chunk",
    "parse_head",
    "request",
]

_MAX_HEAD_BYTES = 1 << 20

SECURED: dict[int, Callable[[socket.socket], Awaitable[RawClient]]] = {}
"""The ports of this machine where TLS is spoken, and what makes a client of a socket that is connected there."""


class _Connecting:
    """Both ``await RawClient.connect(…)`` and ``async with RawClient.connect(…) as client``."""

    __slots__ = ("_client", "_make")

    def __init__(self, make: Any) -> None:
        self._make = make
        self._client: RawClient | None = None

    def __await__(self) -> Generator[Any, None, RawClient]:
        made: Generator[Any, None, RawClient] = self._make().__await__()
        return made

    async def __aenter__(self) -> RawClient:
        self._client = await self
        return self._client

    async def __aexit__(self, *_exc: object) -> None:
        if self._client is not None:
            self._client.close()


class RawClient:
    """One connection. Reads return what came or say how the connection ended; every wait has a limit in seconds."""

    __slots__ = ("_buffer", "_ended", "_over", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._ended: Literal["fin", "reset"] | None = None
        self._over = False  # the last answer asked for has ended the connection

    @staticmethod
    def connect(where: str, port: int | None = None, *, timeout: float = 5.0, rcvbuf: int = 0, source: str = "") -> _Connecting:
        """Connect to ``(host, port)``, to a URL, or to a Unix socket's path (starts with ``/``).

        ``rcvbuf`` sets SO_RCVBUF before the handshake, so that the window is small from the start; ``source`` is the
        local address to come from (``127.0.0.2``).
        """

        async def make() -> RawClient:
            if where.startswith("/"):
                family, address = socket.AF_UNIX, where
            elif "://" in where:
                url = urlsplit(where)
                family, address = socket.AF_INET, (url.hostname or "", url.port or 80)
            else:
                assert port is not None, "a host needs a port"
                family, address = socket.AF_INET, (where, port)
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                if rcvbuf:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
                if family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if source:
                        sock.bind((source, 0))
                async with asyncio.timeout(timeout):
                    await asyncio.get_running_loop().sock_connect(sock, address)
            except BaseException:
                sock.close()
                raise
            # (Where a gateway of the tests' speaks TLS, it is spoken; `tls_client` has it.)
            secured = SECURED.get(address[1]) if family == socket.AF_INET else None
            if secured is None:
                return RawClient(sock)
            try:
                async with asyncio.timeout(timeout):
                    return await secured(sock)
            except BaseException:
                sock.close()
                raise

        return _Connecting(make)

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def local_address(self) -> Any:
        return self._sock.getsockname()

    @property
    def buffered(self) -> bytes:
        """Bytes received and not yet given to anyone (the start of a pipelined answer, of a tunnel)."""
        return bytes(self._buffer)

    async def send(self, data: bytes, *, timeout: float = 10.0) -> None:
        """Send all of it. A peer that has gone raises ConnectionError; a peer that does not read, TimeoutError."""
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def put(self, data: bytes) -> None:
        """Send it, small as it is, without a turn of the loop."""
        self._sock.send(data)

    async def send_slowly(self, data: bytes, sizes: int | Sequence[int] = 1, *, pause: float = 0.0005) -> int:
        """Send in pieces of ``sizes`` (the last one repeats), each its own segment; how many bytes the peer let us send.

        A peer that answers and closes in the middle ends the sending: its answer is still there to be read.
        """
        order = [sizes] if isinstance(sizes, int) else list(sizes)
        at = turn = 0
        try:
            while at < len(data):
                size = max(1, order[min(turn, len(order) - 1)])
                await self.send(data[at : at + size])
                at += size
                turn += 1
                await asyncio.sleep(pause)
        except ConnectionError:
            pass
        return min(at, len(data))

    async def read_response(self, timeout: float = 5.0, head_only: bool = False) -> RawResponse:
        """One whole answer with its interim (1xx) ones; ``head_only`` for the answer to HEAD.

        ``timeout`` covers all of it. Without one whole head: ``NoResponse``. A body that stops early is no exception:
        ``complete`` is false and ``how_ended`` says how.
        """
        end = asyncio.get_running_loop().time() + timeout
        response = await self.read_head(timeout, head_only=head_only)
        return await self.read_body(response, max(0.001, end - asyncio.get_running_loop().time()))

    async def read_head(self, timeout: float = 5.0, *, head_only: bool = False) -> RawResponse:
        """The next final head (or a 101) and no byte more; ``read_body`` and ``read_until`` go on from there."""
        end = asyncio.get_running_loop().time() + timeout
        interim: list[RawResponse] = []
        while True:
            while (stop := self._buffer.find(b"\r\n\r\n")) < 0:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise BadResponse("endless head")
                how = await self._fill(end)
                if how is not None:
                    raise NoResponse(how, bytes(self._buffer))
            head = bytes(self._buffer[: stop + 4])
            del self._buffer[: stop + 4]
            response = parse_head(head, head_only=head_only)
            if 100 <= response.status < 200 and response.status != 101:
                interim.append(response)
                continue
            response.interim = interim
            return response

    async def read_body(self, response: RawResponse, timeout: float = 5.0) -> RawResponse:
        """Read the rest of ``response``'s body into it, to its end."""
        return await self.read_until(response, None, timeout)

    async def read_until(self, response: RawResponse, marker: bytes | None, timeout: float = 5.0) -> RawResponse:
        """Read ``response``'s body until it contains ``marker`` (None: to its end), or ends in whatever way.

        ``how_ended`` stays ``"open"`` when the marker came first. After ``"timeout"`` reading may go on.
        """
        end = asyncio.get_running_loop().time() + timeout
        if response.how_ended == "timeout":
            response.how_ended = "open"
        seen = 0
        while response.how_ended == "open":
            if response.feed(self._buffer):
                break
            if marker is not None:
                if response._body.find(marker, max(0, seen - len(marker))) >= 0:
                    break
                seen = len(response._body)
            how = await self._fill(end)
            if how == "eof" and response._mode == "eof":
                response.complete = True
            if how is not None:
                response.how_ended = how
        return response

    async def read_size(self, response: RawResponse, size: int, timeout: float = 5.0) -> RawResponse:
        """Read ``response``'s body into it until it has ``size`` bytes, or ends in whatever way."""
        end = asyncio.get_running_loop().time() + timeout
        while response.how_ended == "open" and not response.feed(self._buffer) and len(response._body) < size:
            how = await self._fill(end)
            if how == "eof" and response._mode == "eof":
                response.complete = True
            if how is not None:
                response.how_ended = how
        return response

    async def ask(self, data: bytes, timeout: float = 5.0, head_only: bool = False) -> RawResponse:
        """Send a request and read its answer; on a new connection, from the same address, where the last answer said that it
        ends this one. That is how any HTTP client behaves."""
        if self._over:
            host, port = self._sock.getpeername()[:2]
            fresh = await RawClient.connect(host, port, source=self._sock.getsockname()[0])
            self._sock.close()
            self._go_on_as(fresh)
            self._buffer.clear()
            self._ended = None
            self._over = False
        await self.send(data)
        response = await self.read_response(timeout, head_only)
        self._over = (response.header("connection") or "").lower() == "close"
        return response

    async def read_some(self, timeout: float = 5.0) -> bytes:
        """Whatever is there, at least one byte; ``b""`` at the peer's FIN; raises on reset (ConnectionError) and timeout."""
        if not self._buffer:
            how = await self._fill(asyncio.get_running_loop().time() + timeout)
            if how == "timeout":
                raise TimeoutError(f"nothing came within {timeout:g} s")
            if how == "reset":
                raise ConnectionResetError
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def read_until_closed(self, timeout: float = 5.0) -> tuple[bytes, Literal["fin", "reset", "timeout"]]:
        """Everything up to the end of the connection, and how it ended."""
        end = asyncio.get_running_loop().time() + timeout
        while (how := await self._fill(end)) is None:
            pass
        data = bytes(self._buffer)
        self._buffer.clear()
        return data, "fin" if how == "eof" else "timeout" if how == "timeout" else "reset"

    def _go_on_as(self, fresh: RawClient) -> None:
        self._sock = fresh._sock

    def shutdown_write(self) -> None:
        """Send our FIN and go on reading."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST at once."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def close(self) -> None:
        """Close (FIN; the kernel makes it RST when unread bytes remain)."""
        self._sock.close()

    async def _fill(self, end: float) -> Literal["eof", "reset", "timeout"] | None:
        """One receive; None when bytes came. The ends are remembered: asking again gives the same answer."""
        if self._ended is not None:
            return "eof" if self._ended == "fin" else "reset"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(max(end, loop.time() + 0.0001)):
                data = await loop.sock_recv(self._sock, 262144)
        except TimeoutError:
            return "timeout"
        except ConnectionError:
            self._ended = "reset"
            return "reset"
        if not data:
            self._ended = "fin"
            return "eof"
        self._buffer += data
        return None
