"""An engine that a test scripts byte by byte.

Owns: one listening socket, the connections made to it, and every byte they brought. Must never: understand more HTTP than
it takes to find the end of a request, or add, buffer or repair a byte of what a script sends. Invariant: ``await send(b)``
returns when the kernel has taken all of ``b`` (without TLS), so what was sent before ``reset()`` or ``close()`` has left this
process.

    async def handler(conn: ScriptedConnection) -> None:
        request = await conn.read_request()
        await conn.send(b"HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nhel")
        conn.reset()

    async with ScriptedEngine(handler) as engine:
        ...  # talk to engine.url

An exception that leaves a handler is raised again where the ``async with`` ends, so a failed assertion fails its test.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import cast

# What a connection keeps of the bytes it received; ``received_total`` goes on counting.
KEPT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One request: ``head`` with its final empty line, ``body`` with any chunked coding taken off."""

    head: bytes
    body: bytes
    at_s: float = field(default_factory=time.monotonic, compare=False)

    @property
    def method(self) -> bytes:
        return self.head.split(b" ", 1)[0]

    @property
    def target(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0].split(b" ")[1]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields in order, names as sent, values without surrounding blanks."""
        pairs = []
        for line in self.head.split(b"\r\n")[1:]:
            name, colon, value = line.partition(b":")
            if colon:
                pairs.append((name, value.strip(b" \t")))
        return pairs

    def header(self, name: bytes) -> bytes | None:
        """The first field called ``name``, in any case; None when there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class ScriptedConnection(asyncio.Protocol):
    """One accepted connection, as a script sees it."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._task: asyncio.Task[None] | None = None
        self._secure = False
        self.number = 0
        self.received = bytearray()
        self.received_total = 0
        self.sent_total = 0
        self.opened_s = time.monotonic()
        self.closed_s: float | None = None
        self.closed_how: str | None = None

    def __repr__(self) -> str:
        return f"<ScriptedConnection {self.number} in={self.received_total} out={self.sent_total} closed={self.closed_how}>"

    # What a script calls.

    async def read_request(self, timeout_s: float = 10.0) -> RawRequest:
        """The next request, head and body. EOFError when the peer left first, TimeoutError after ``timeout_s``."""
        async with asyncio.timeout(timeout_s):
            head = await self.read_until(b"\r\n\r\n")
            request = RawRequest(head, b"")
            if (request.header(b"transfer-encoding") or b"").lower().endswith(b"chunked"):
                body = await self._read_chunked()
            else:
                body = await self.read_exactly(int(request.header(b"content-length") or b"0"))
        request = RawRequest(head, body)
        self._engine.requests.append(request)
        return request

    def _no_h2(self) -> None:
        """The peer asks whether this is HTTP/2: answered as servers of HTTP/1.1 do, and no part of what has been seen."""
        self._engine.connections.remove(self)
        self._engine.asked_for_h2 += 1
        if self._transport is not None:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()
        self._mark_closed("fin")

    async def read_until(self, mark: bytes) -> bytes:
        """Everything up to and including ``mark``."""
        while (at := self._unread.find(mark)) < 0:
            await self._more()
        return self._take(at + len(mark))

    async def read_exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            await self._more()
        return self._take(size)

    async def read_some(self) -> bytes:
        """What has arrived, waiting for at least one byte."""
        while not self._unread:
            await self._more()
        return self._take(len(self._unread))

    async def send(self, data: bytes) -> None:
        """Write ``data``; returns when the kernel has it. ConnectionError when the connection is gone."""
        if self._transport is None or self.closed_how == "rst" or self._transport.is_closing():
            raise ConnectionResetError("the peer is gone")
        self._transport.write(data)
        self.sent_total += len(data)
        await self._drained.wait()
        if self.closed_how == "rst":
            raise ConnectionResetError("the peer is gone")

    async def send_slowly(self, data: bytes, gap_s: float, step: int = 1) -> None:
        """Write ``data`` in pieces of ``step`` bytes with ``gap_s`` between them."""
        for at in range(0, len(data), step):
            await self.send(data[at : at + step])
            await asyncio.sleep(gap_s)

    def close(self) -> None:
        """FIN both ways, after whatever is still unsent."""
        if self._transport is not None:
            self._transport.close()

    def finish_sending(self) -> None:
        """FIN on our side only; the peer can still be read."""
        if self._transport is not None:
            self._transport.write_eof()

    def reset(self) -> None:
        """RST: SO_LINGER 0 and close."""
        if self._transport is not None:
            reset_transport(self._transport)

    def pause_reading(self) -> None:
        """Stop taking bytes, so that the peer's window closes."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    async def wait_closed(self, timeout_s: float = 10.0) -> float:
        """When (``time.monotonic``) the peer's FIN or RST came; ``closed_how`` says which."""
        async with asyncio.timeout(timeout_s):
            while self.closed_s is None:
                self._changed.clear()
                await self._changed.wait()
        return self.closed_s

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance
        self._transport = transport
        self._secure = transport.get_extra_info("sslcontext") is not None
        if not self._secure:
            # (A transport of TLS that is to hold nothing is full with its first write, and never says that it no longer is.)
            transport.set_write_buffer_limits(0)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = len(self._engine.connections)
        self._engine.connections.append(self)
        self._task = asyncio.get_running_loop().create_task(self._engine.run(self), name=f"scripted-{self.number}")

    def data_received(self, data: bytes) -> None:
        if not self.received_total and data.startswith(b"PRI * HTTP/2.0\r\n"):
            self._no_h2()
            return
        self.received_total += len(data)
        if len(self.received) < KEPT_BYTES:
            self.received += data
        self._unread += data
        self._changed.set()

    def eof_received(self) -> bool:
        self._mark_closed("fin")
        return not self._secure  # the script decides when our side ends; with TLS there is no half of a connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._mark_closed("rst" if exc is not None else "fin")
        if exc is not None:
            self.closed_how = "rst"
        self._drained.set()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def _mark_closed(self, how: str) -> None:
        if self.closed_s is None:
            self.closed_s = time.monotonic()
            self.closed_how = how
        self._changed.set()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken

    async def _more(self) -> None:
        if self.closed_s is not None:
            raise EOFError(f"the peer closed ({self.closed_how}) with {len(self._unread)} bytes unread")
        self._changed.clear()
        await self._changed.wait()

    async def _read_chunked(self) -> bytes:
        body = bytearray()
        while True:
            size = int((await self.read_until(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                while await self.read_until(b"\r\n") != b"\r\n":
                    pass
                return bytes(body)
            body += await self.read_exactly(size)
            await self.read_exactly(2)

    async def _stop(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._transport is not None:
            self._transport.abort()


Handler = Callable[[ScriptedConnection], Awaitable[None]]


class ScriptedEngine:
    """A server on 127.0.0.1 (or a Unix socket at ``unix``) that runs ``handler`` once per connection.

    ``connections`` and ``requests`` are everything seen so far, in order, but for those that began with HTTP/2: these are
    answered as servers of HTTP/1.1 do, whatever the script, and counted in ``asked_for_h2``. A connection is closed when its
    handler returns.
    """

    def __init__(
        self, handler: Handler, *, unix: str = "", ssl_context: ssl.SSLContext | None = None, backlog: int = 1024
    ) -> None:
        self._handler = handler
        self._unix = unix
        self._ssl = ssl_context
        self._backlog = backlog
        self._server: asyncio.AbstractServer | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.connections: list[ScriptedConnection] = []
        self.requests: list[RawRequest] = []
        self.asked_for_h2 = 0
        self.errors: list[BaseException] = []

    @property
    def url(self) -> str:
        if self._unix:
            return f"unix:{self._unix}"
        return f"{'https' if self._ssl else 'http'}://{self.host}:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()

        def factory() -> ScriptedConnection:
            return ScriptedConnection(self)

        if self._unix:
            self._server = await loop.create_unix_server(factory, self._unix, ssl=self._ssl, backlog=self._backlog)
            return
        server = await loop.create_server(factory, self.host, self.port, ssl=self._ssl, backlog=self._backlog)
        self._server = server
        self.port = server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        """Close the listening socket: new connections are refused, live ones go on. ``start()`` opens it again."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Close everything; raises the first exception that left a handler."""
        await self.stop_listening()
        for connection in self.connections:
            await connection._stop()
        # One turn of the loop: transports report their end there, and a test may look for leftovers right after.
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors[0]

    async def run(self, connection: ScriptedConnection) -> None:
        try:
            await self._handler(connection)
        except (EOFError, ConnectionError):
            pass  # the peer left while the script was reading or writing: not the script's failure
        except Exception as error:
            self.errors.append(error)
        finally:
            connection.close()

    async def __aenter__(self) -> ScriptedEngine:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        except Exception:
            if error is None:
                raise


def reset_transport(transport: asyncio.Transport) -> None:
    """Close with RST instead of FIN; unsent bytes are dropped."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
