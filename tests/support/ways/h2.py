"""Both ends in HTTP/2, on a test's loop: an engine whose script says what it does, and a client of many requests.

Frames are those of ``tests/support/h2``, whose strict reader fails a test where the gateway sends what it may not: beyond a
window, a frame too long, a stream that goes back. What is sent here keeps to the gateway's windows, which a test can see.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, cast

from fastgw.sim import RawRequest
from fastgw.sim.scripted import reset_transport
from tests.support.answers import BadResponse, RawResponse
from tests.support.h2 import frames as f
from tests.support.h2.peer import Client, Peer, Server
from tests.support.h2.reading import Seen
from tests.support.ways.h1 import HEALTH, How, Play

HOPS = (b"connection", b"host", b"transfer-encoding")
STREAMS = 100
UNBORN = "not there yet"  # a line that was accepted, and whose handshake is not over


class Stream:
    """One request and its answer, as one end of it has them."""

    def __init__(self, line: Line, number: int) -> None:
        self.line = line
        self.number = number
        self.window = line.first_window
        self.sent_bytes = 0
        self.reset = ""  # the code with which the other side gave it up
        self.gone_s: float | None = None

    def took(self, seen: Seen) -> None:
        """A frame of it has come."""

    async def sends(self, payload: bytes, end: bool = False) -> None:
        """All of it, as the other side gives credit for it. ConnectionError where it is not wanted any more."""
        line = self.line
        while payload or end:
            if self.reset or line.lost:
                raise ConnectionResetError(self.reset or line.lost)
            room = min(self.window, line.window, f.FRAME)
            if payload and room <= 0:
                await line.changes()
                continue
            piece, payload = payload[:room], payload[max(room, 0) :]
            self.window -= len(piece)
            line.window -= len(piece)
            self.sent_bytes += len(piece)
            line.says(f.data(self.number, piece, end=end and not payload))
            await line.drained.wait()
            if not payload:
                return

    async def given_up(self, within_s: float = 5.0) -> float:
        """When it saw that nobody wants it any more: it is reset, or the connection ends."""
        async with asyncio.timeout(within_s):
            while self.gone_s is None:
                await self.line.changes()
        return self.gone_s


class Line(asyncio.Protocol):
    """One connection. ``streams``: those of it by number; ``opened`` makes one of a first frame."""

    def __init__(self, peer: Peer, opened: Callable[[Line, Seen], Stream | None]) -> None:
        self.peer = peer
        self.opened = opened
        self.window = self.first_window = f.WINDOW
        self.streams: dict[int, Stream] = {}
        self.lost = UNBORN
        self.goes = False  # the other side has said GOAWAY
        self.gives = True  # credit for what comes, at once
        self.probed = False  # who asks in HTTP/1.1 first is hung up on, and is no fault
        self.wrong: AssertionError | None = None
        self.drained = asyncio.Event()
        self.drained.set()
        self._changed: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    async def changes(self) -> None:
        """Until something has come."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def says(self, *pieces: bytes) -> None:
        data = self.peer.says(*pieces)
        if not self.lost and not self.transport.is_closing():
            self.transport.write(data)

    def ends(self, how: How) -> None:
        if how == "rst":
            reset_transport(self.transport)
        else:
            self.transport.close()

    # --- what the loop calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.lost = ""
        self.transport = cast(asyncio.Transport, transport)
        if self.transport.get_extra_info("sslcontext") is None:
            self.transport.set_write_buffer_limits(0)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport.write(self.peer.begins())

    def data_received(self, data: bytes) -> None:
        if self.probed and not self.peer.reader.preface and data.startswith(b"GET "):
            self.transport.close()
            return
        try:
            out = self.peer.hears(data)
            unread, self.peer.unread = self.peer.unread, []
            out += b"".join(self._took(seen) for seen in unread)
        except AssertionError as error:
            self.wrong = error
            self.transport.abort()
            return
        if out and not self.transport.is_closing():
            self.transport.write(out)
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = "fin" if exc is None else "rst"
        now = time.monotonic()
        for stream in self.streams.values():
            stream.gone_s = stream.gone_s or now
        self.drained.set()
        self._wake()

    def pause_writing(self) -> None:
        self.drained.clear()

    def resume_writing(self) -> None:
        self.drained.set()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
        self._changed = None

    def _took(self, seen: Seen) -> bytes:
        stream = self.streams.get(seen.stream)
        match seen.kind:
            case "SETTINGS" if "INITIAL_WINDOW_SIZE" in seen.facts:
                first = int(seen.facts["INITIAL_WINDOW_SIZE"])
                for one in self.streams.values():
                    one.window += first - self.first_window
                self.first_window = first
            case "WINDOW_UPDATE" if not seen.stream:
                self.window += int(seen.facts["increment"])
            case "WINDOW_UPDATE" if stream is not None:
                stream.window += int(seen.facts["increment"])
            case "RST_STREAM" if stream is not None:
                stream.reset = seen.facts["code"]
                stream.gone_s = time.monotonic()
                stream.took(seen)
            case "GOAWAY":
                self.goes = True
            case "HEADERS" if stream is None:
                made = self.opened(self, seen)
                if made is not None:
                    self.streams[seen.stream] = made
                    made.took(seen)
            case "HEADERS" | "DATA" if stream is not None:
                stream.took(seen)
                if seen.kind == "DATA" and seen.payload and self.gives:
                    return self.credit(seen.stream, len(seen.payload), seen.ends)
        return b""

    def credit(self, stream: int, size: int, ended: bool = False) -> bytes:
        return self.peer.says(f.window(0, size), b"" if ended else f.window(stream, size))


# --- an engine
class H2Turn(Stream):
    """One request at an engine, and what is said to it."""

    def __init__(self, line: Line, seen: Seen, engine: H2Engine) -> None:
        super().__init__(line, seen.stream)
        self.engine = engine
        self.fields = dict(seen.fields)
        self.all_fields = seen.fields
        self.trailers: tuple[f.Field, ...] = ()
        self.body = b""
        self.over = False
        self._begun = False

    @property
    def connection(self) -> int:
        return self.engine.lines.index(self.line)

    @property
    def request(self) -> RawRequest:
        """As it would be in HTTP/1.1."""
        lines = b"".join(b"%b: %b\r\n" % one for one in self.all_fields if not one[0].startswith(b":"))
        first = b"%b %b HTTP/2\r\nhost: %b\r\n" % tuple(self.fields[name] for name in (b":method", b":path", b":authority"))
        return RawRequest(first + lines + b"\r\n", self.body)

    def took(self, seen: Seen) -> None:
        if seen.kind == "DATA":
            self.body += seen.payload
        elif seen.kind == "HEADERS" and self._begun:
            self.trailers = seen.fields
        self._begun = True
        if seen.ends:
            self.engine.asked(self)

    async def early(self, count: int = 1) -> None:
        self.line.says(f.headers(self.number, f.fields(":status: 103", "link: </a.css>; rel=preload")) * count)

    async def head(self, *lines: bytes, status: int = 200, length: int | None = None) -> None:
        pairs = [tuple(part.strip() for part in line.split(b":", 1)) for line in lines]
        told = [] if length is None else [(b"content-length", b"%d" % length)]
        fields = [(b":status", b"%d" % status), *((name.lower(), value) for name, value in pairs), *told]
        self.line.says(f.headers(self.number, fields))

    async def data(self, payload: bytes) -> None:
        await self.sends(payload)

    async def end(self, *trailers: bytes) -> None:
        self.over = True
        if trailers:
            pairs = [tuple(part.strip() for part in line.split(b":", 1)) for line in trailers]
            self.line.says(f.headers(self.number, cast(Any, pairs), end=True))
        else:
            await self.sends(b"", end=True)

    async def breaks(self, how: How) -> None:
        self.over = True
        self.line.ends(how)

    async def resets(self, code: str) -> None:
        self.over = True
        self.line.says(f.rst(self.number, code))


class H2Engine:
    """Healthy; each other request is a turn, and ``play``'s business. ``settings``: those it begins with."""

    def __init__(self, play: Play, *, ssl_context: ssl.SSLContext | None = None, **settings: int) -> None:
        self.play = play
        self.probed = False  # by a gateway that has to find out what is spoken here
        self.turns: list[H2Turn] = []
        self.lines: list[Line] = []
        self.errors: list[BaseException] = []
        self._settings = {"MAX_CONCURRENT_STREAMS": STREAMS, **settings}
        self._ssl = ssl_context
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        if ssl_context is not None:
            ssl_context.set_alpn_protocols(["h2"])

    @property
    def url(self) -> str:
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> list[Line]:
        return self.lines

    def _line(self) -> Line:
        line = Line(Server(settings=f.settings(**self._settings)), lambda line, seen: H2Turn(line, seen, self))
        line.probed = self.probed
        self.lines.append(line)
        return line

    def asked(self, turn: H2Turn) -> None:
        if turn.fields[b":method"] == b"POST":
            self.turns.append(turn)
        task = asyncio.get_running_loop().create_task(self._play(turn))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, turn: H2Turn) -> None:
        try:
            if turn.fields[b":method"] == b"GET":
                await turn.head(b"content-type: application/json", length=len(HEALTH))
                await turn.sends(HEALTH, end=True)
            else:
                await self.play(turn)
        except (EOFError, ConnectionError):
            pass  # the gateway left while the script was at it
        except Exception as error:
            self.errors.append(error)

    async def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def __aenter__(self) -> H2Engine:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._line, "127.0.0.1", 0, ssl=self._ssl, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_listening()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for line in self.lines:
            if line.lost != UNBORN:
                line.transport.abort()
        await asyncio.sleep(0)
        wrong = [line.wrong for line in self.lines if line.wrong is not None]
        if error is None and (wrong or self.errors):
            raise [*wrong, *self.errors][0]


# --- a client
class H2Call(Stream):
    """A request that was sent, and its answer."""

    def __init__(self, line: Line, number: int) -> None:
        super().__init__(line, number)
        self.answer: RawResponse | None = None
        self._interim: list[RawResponse] = []

    def took(self, seen: Seen) -> None:
        answer = self.answer
        if seen.kind == "RST_STREAM":
            if answer is not None and not answer.complete:
                answer.how_ended = "reset"
            if seen.facts["code"] == "NO_ERROR" and (answer is None or not answer.complete):
                raise BadResponse("a reset without an error, of an answer that is not whole")
            return
        if seen.kind == "HEADERS" and answer is None:
            made = self._head(seen)
            if made.status < 200:
                self._interim.append(made)
                return
            made.interim = self._interim
            self.answer = answer = made
        elif seen.kind == "HEADERS":
            assert answer is not None
            assert seen.ends, "a second head"
            answer.trailers = [(name.decode(), value.decode("latin-1")) for name, value in seen.fields]
        elif answer is None:
            raise BadResponse("DATA before a head")
        else:
            answer._body += seen.payload
            answer._raw += seen.payload
        if seen.ends:
            length = answer.header("content-length")
            if length is not None and int(length) != len(answer._body):
                raise BadResponse(f"{len(answer._body)} bytes, where {length} were promised")
            answer.complete, answer.how_ended = True, "end-stream"

    @staticmethod
    def _head(seen: Seen) -> RawResponse:
        fields = dict(seen.fields)
        if [name for name, _ in seen.fields if name in (b"connection", b"transfer-encoding", b"keep-alive")]:
            raise BadResponse("a field of HTTP/1.1")
        headers = [(name.decode(), value.decode("latin-1")) for name, value in seen.fields if not name.startswith(b":")]
        raw = b"".join(b"%b: %b\r\n" % one for one in seen.fields)
        return RawResponse(int(fields[b":status"]), "", headers, "HTTP/2", raw)

    async def _until(self, true: Callable[[], object], within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not true() and not self.line.lost and not self.reset:
                    await self.line.changes()
        except TimeoutError:
            if self.answer is not None:
                self.answer.how_ended = "timeout"
            return
        if self.line.wrong is not None:
            raise self.line.wrong
        if self.line.lost and self.answer is not None and self.answer.how_ended == "open":
            self.answer.how_ended = "eof" if self.line.lost == "fin" else "reset"

    async def head(self, within_s: float = 5.0) -> RawResponse:
        await self._until(lambda: self.answer, within_s)
        assert self.answer is not None, f"no answer: {self.line.lost or self.reset or 'in time'}"
        return self.answer

    async def until(self, marker: bytes, within_s: float = 5.0) -> RawResponse:
        answer = await self.head(within_s)
        await self._until(lambda: answer.complete or marker in answer._body, within_s)
        return answer

    async def whole(self, within_s: float = 5.0) -> RawResponse:
        answer = await self.head(within_s)
        await self._until(lambda: answer.complete, within_s)
        return answer

    def leaves(self, how: str) -> float:
        now = time.monotonic()
        if how == "stream":
            self.line.says(f.rst(self.number, "CANCEL"))
        else:
            self.line.ends(cast(How, how))
        return now


class H2Caller:
    """A client with one connection at a time, for all its requests; a new one where the last has ended."""

    def __init__(self, port: int, slow: bool, context: ssl.SSLContext | None) -> None:
        self._port = port
        self._slow = slow
        self._context = context
        self._next = 1
        self._past: list[Line] = []
        self.line: Line

    async def connect(self) -> H2Caller:
        loop = asyncio.get_running_loop()
        secure: dict[str, Any] = {"ssl": self._context, "server_hostname": "localhost"} if self._context else {}
        self.line = Line(Client(settings=f.settings(ENABLE_PUSH=0)), lambda line, seen: None)
        self.line.gives = not self._slow
        self._past.append(self.line)
        await loop.create_connection(lambda: self.line, "127.0.0.1", self._port, **secure)
        self._next = 1
        return self

    async def says(self, data: bytes) -> H2Call:
        """Send a request that is written in HTTP/1.1; what is missing of its body stays away."""
        if self.line.lost or self.line.goes or self.line.transport.is_closing():
            await self.connect()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, target, _ = first.split(b" ")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        given = dict(pairs)
        scheme = b"https" if self._context else b"http"
        pseudo = [(b":method", method), (b":scheme", scheme), (b":path", target), (b":authority", given[b"host"])]
        call = H2Call(self.line, self._next)
        self.line.streams[self._next] = call
        self._next += 2
        length = int(given.get(b"content-length", b"0"))
        self.line.says(f.headers(call.number, [*pseudo, *(one for one in pairs if one[0] not in HOPS)], end=not length))
        if length:
            await call.sends(body, end=len(body) == length)
        return call

    async def asks(self, data: bytes, within_s: float = 5.0) -> RawResponse:
        return await (await self.says(data)).whole(within_s)

    async def close(self) -> None:
        for line in self._past:
            line.transport.close()
        wrong = [line.wrong for line in self._past if line.wrong is not None]
        if wrong:
            raise wrong[0]


Serves = Callable[[H2Turn], Awaitable[None]]
