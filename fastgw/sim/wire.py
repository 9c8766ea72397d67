"""One HTTP/1.1 connection: bytes in become requests, answers become bytes out.

States: HEAD -> BODY -> BUSY -> HEAD ..., with WEBSOCKET and OVER as the ways out. Owns: the transport, the order of answers,
keep-alive. Must never: decide what to answer (routes do) or how to break an answer (the player does). Invariant: a request
that was begun ends in exactly one outcome, and its job is over when the connection is.

A connection is a Sink, as an HTTP/2 stream is (``h2_stream``).
"""

from __future__ import annotations

import asyncio
import enum
import socket
import time
from typing import Final, Protocol, cast

from fastgw.sim.answers import Clock, refusal, status_line
from fastgw.sim.config import SimConfig
from fastgw.sim.engine import Answer, Engine, Fields, FullError, Job, Shape, Sink, State
from fastgw.sim.faults import FAULT_HEADER, FaultChooser, FaultError
from fastgw.sim.heads import Head, HeadMemo, MalformedError
from fastgw.sim.player import Player
from fastgw.sim.reading import RequestReader
from fastgw.sim.received import Received
from fastgw.sim.routes import Routes
from fastgw.sim.scripted import reset_transport
from fastgw.sim.shapes import BadRequestError
from fastgw.sim.websocket import PATHS, WebSocketEngine

# What a client may send ahead of its turn before reading stops.
_AHEAD_BYTES: Final = 256 * 1024
_LINGER_S: Final = 1.0
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class _At(enum.Enum):
    HEAD = 0
    BODY = 1
    BUSY = 2
    WEBSOCKET = 3
    OVER = 4


class Lived(Protocol):
    """A connection, whatever it speaks."""

    transport: asyncio.Transport
    number: int
    on_connection: int

    def reset(self) -> None: ...


class Owner(Protocol):
    """The simulated engine that a connection belongs to."""

    config: SimConfig
    engine: Engine
    memo: HeadMemo
    clock: Clock
    chooser: FaultChooser
    routes: Routes

    @property
    def state(self) -> State: ...
    def opened(self, connection: Lived) -> int: ...
    def received(self, connection: Lived, head: Head) -> Received: ...
    def closed(self, connection: Lived) -> None: ...
    def finished(self, outcome: str) -> None: ...
    def malformed(self, reason: str) -> None: ...


def given(engine: Engine, shape: Shape, sink: Sink, lead_s: float | None, itl_s: float | None) -> Job | None:
    """Give ``shape`` to ``engine``; its output goes to ``sink``. None when it is over already, or refused."""
    job = Job(engine, shape, sink, lead_s, itl_s)
    try:
        engine.submit(job)
    except FullError:
        sink.answer(BadRequestError("The queue is full.", 503, "ServiceUnavailableError").answer())
        return None
    return None if job.over else job


class Connection(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, simulator: Owner) -> None:
        self._sim = simulator
        self._loop = asyncio.get_running_loop()
        self._at = _At.HEAD
        self._reader = RequestReader(simulator.memo, simulator.config.max_body_bytes)
        self._socket: WebSocketEngine | None = None
        self._player: Player | None = None
        self._job: Job | None = None
        self._blocked = False
        self._idle: asyncio.TimerHandle | None = None
        self._idle_since_s = time.monotonic()
        self._must_close = False
        self._chunked = False
        self._early = False
        self._flushed: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport
        self.request: Received
        self.close_on_reuse = False
        self.number = 0
        self.on_connection = 0

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's transports are none by inheritance
        self.transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = self._sim.opened(self)
        if self._sim.config.keep_alive_s:
            self._idle = self._loop.call_later(self._sim.config.keep_alive_s, self._check_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        if self._idle is not None:
            self._idle.cancel()
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)
        self._sim.closed(self)

    def eof_received(self) -> bool:
        """A half-close counts as leaving, as it does for real engines; unsent answers of the past still go out."""
        if self._at in (_At.BUSY, _At.BODY):
            self._leave()
            self.transport.abort()
        return False

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.feed(data)
            return
        waiting = self._reader.feed(data)
        if self._at in (_At.HEAD, _At.BODY):
            self._advance()
        elif waiting > _AHEAD_BYTES:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._blocked = True
        if self._job is not None and self._player is None:
            self._job.pause()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)
        if self._job is not None and self._player is None:
            self._job.resume()

    # Reading.

    def _advance(self) -> None:
        try:
            while True:
                if self._at is _At.HEAD:
                    head = self._reader.take_head()
                    if head is None:
                        return
                    self._begin(head)
                elif self._at is _At.BODY:
                    piece, ended = self._reader.take_body()
                    if piece:
                        self.request.add_body(piece, not self.request.head.streams_body)
                    if not ended:
                        return
                    self.request.trailers = self._reader.trailers
                    self._dispatch(self.request)
                else:
                    return
        except MalformedError as error:
            self._refuse(error)

    def _begin(self, head: Head) -> None:
        sim = self._sim
        self.on_connection += 1
        self.request = sim.received(self, head)
        self._must_close = not head.keep_alive or 0 < sim.config.max_requests <= self.on_connection
        self._at = _At.BODY
        if not self._pick_faults(head):
            return
        self._reader.check_length()
        if head.websocket and head.path in PATHS and self._player is None:
            self._upgrade(head)
        elif head.expects_continue and (head.length or head.chunked):
            self.transport.write(_CONTINUE)

    def _pick_faults(self, head: Head) -> bool:
        """False when a fault has already taken the request over."""
        self._player = None
        try:
            faults = self._sim.chooser.choose(head.fields.get(FAULT_HEADER), head.method, head.path, self.on_connection)
        except FaultError as error:
            raise MalformedError(f"x-sim-fault: {error}") from error
        if self.on_connection > 1 and (self.close_on_reuse or (faults is not None and "close-on-reuse" in faults)):
            self.fail()
            self.transport.close()
            return False
        if faults is None:
            return True
        if faults.of_h2:
            raise MalformedError(f"x-sim-fault: {faults.of_h2} has no meaning on HTTP/1.1")
        self.close_on_reuse = self.close_on_reuse or "close-on-reuse" in faults
        self._player = Player(self, faults)
        if "no-read" in faults or "early" in faults:
            if "no-read" in faults:
                self.transport.pause_reading()
            self._early = self._must_close = True
            self._dispatch(self.request)
            return False
        return True

    def _dispatch(self, request: Received) -> None:
        self._at = _At.BUSY
        request.seal()
        if self._player is not None:
            self._player.begin()
            return
        prepared = self._sim.routes.prepare(request)
        if isinstance(prepared, Answer):
            self.answer(prepared)
        else:
            self.work(prepared, self)

    def work(
        self, shape: Shape, sink: Connection | Player, lead_s: float | None = None, itl_s: float | None = None
    ) -> Job | None:
        """As :func:`given`, and it ends with this connection."""
        job = self._job = given(self._sim.engine, shape, sink, lead_s, itl_s)
        if job is not None and self._blocked and sink is self:
            job.pause()
        return job

    # Writing: the engine's sink.

    def head_bytes(self, status: int, content_type: bytes, framing: bytes, extra: Fields = ()) -> bytes:
        """The head of an ordinary answer; ``framing`` is a whole line or nothing."""
        lines = b"".join([b"%s: %s\r\n" % field for field in extra]) if extra else b""
        if content_type:
            lines += b"content-type: " + content_type + b"\r\n"
        if self._must_close:
            lines += b"connection: close\r\n"
        elif self.request.head.version == "1.0":
            lines += b"connection: keep-alive\r\n"
        return status_line(status) + self._sim.clock.lines() + lines + framing + b"\r\n"

    def answer(self, answer: Answer) -> None:
        framing = b"content-length: %d\r\n" % len(answer.body)
        data = self.head_bytes(answer.status, answer.content_type, framing, answer.headers)
        if self.request.method != "HEAD":
            data += answer.body
            self.request.body_sent_bytes = len(answer.body)
        self.transport.write(data)
        self.complete()

    def start(self, content_type: bytes) -> None:
        self._chunked = self.request.head.version == "1.1"
        if not self._chunked:
            self._must_close = True
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self.transport.write(self.head_bytes(200, content_type, framing))

    def event(self, data: bytes) -> None:
        request = self.request
        request.events += 1
        request.body_sent_bytes += len(data)
        self._sim.state.events_sent += 1
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        if self._chunked:
            self.transport.write(b"0\r\n\r\n")
        self.complete(silent_close=self._sim.config.close_after_stream)

    # The end of a request.

    def complete(self, silent_close: bool = False) -> None:
        """The answer is out whole; the connection goes on or closes."""
        self._finish("served")
        if self._early:
            # The peer is still sending: a close now would make a reset of it, and the answer might be lost.
            self._at = _At.OVER
            self.transport.write_eof()
            self._loop.call_later(_LINGER_S, self.transport.close)
            return
        if self._must_close or silent_close:
            self._at = _At.OVER
            self.transport.close()
            return
        self._at = _At.HEAD
        self._idle_since_s = time.monotonic()
        if self._reader.waiting:
            # Not at once: whatever pipelined this gets one answer per turn of the loop, and the stack stays flat.
            self._loop.call_soon(self._next)

    def fail(self) -> None:
        """A fault ends the request here; what becomes of the connection is the fault's business."""
        self._finish("faulted")
        self._at = _At.OVER

    def reset(self) -> None:
        reset_transport(self.transport)

    async def flushed(self) -> None:
        """Returns when the kernel has everything written so far. Only with write limits of zero, as the player sets."""
        while self._blocked and not self.transport.is_closing():
            self._flushed = self._loop.create_future()
            await self._flushed

    @property
    def simulator(self) -> Owner:
        return self._sim

    def will_close(self) -> None:
        """The answer announces ``Connection: close``."""
        self._must_close = True

    def _next(self) -> None:
        if self._at is _At.HEAD and not self.transport.is_closing():
            self.transport.resume_reading()
            self._advance()

    def _finish(self, outcome: str) -> None:
        request = self.request
        if request.outcome == "open":
            request.finish(outcome)
            self._sim.finished(outcome)
        job, self._job = self._job, None
        if job is not None:
            job.cancel()

    def _leave(self) -> None:
        if self._at in (_At.BUSY, _At.BODY):
            self._at = _At.OVER
            self._finish("cancelled")
        if self._player is not None:
            self._player.cancel()
        self._at = _At.OVER

    def _refuse(self, error: MalformedError) -> None:
        if self._at is _At.BODY:
            self._finish("faulted")
        self._at = _At.OVER
        self._sim.malformed(error.reason)
        self.transport.write(refusal(error, self._sim.clock))
        self.transport.close()

    def _check_idle(self) -> None:
        limit_s = self._sim.config.keep_alive_s
        left_s = self._idle_since_s + limit_s - time.monotonic() if self._at is _At.HEAD else limit_s
        if left_s <= 0.0005:
            self.transport.close()
            return
        self._idle = self._loop.call_later(left_s, self._check_idle)

    def _upgrade(self, head: Head) -> None:
        self._socket = WebSocketEngine(self.transport, self._sim.config, head.path)
        self._at = _At.WEBSOCKET
        self.transport.write(self._socket.handshake(head))
        self._finish("served")
        self._socket.feed(self._reader.rest())
