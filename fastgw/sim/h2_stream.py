"""One request on an HTTP/2 connection: the engine's sink, and what a fault's player sees as its line.

States: the request comes (HEADERS, DATA), it is dispatched at its END_STREAM, the answer goes out as the windows allow, it is
over once. Must never: send on a stream that is over, or hold more than the events of one catch-up beyond the window (the job
pauses).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from h2.errors import ErrorCodes

from fastgw.sim.engine import Answer, Fields, Job, Shape
from fastgw.sim.faults import H1_ONLY, FaultError, Faults
from fastgw.sim.h2_player import Breakable, H2Player
from fastgw.sim.h2_seen import H2Owner
from fastgw.sim.heads import Head
from fastgw.sim.player import Player
from fastgw.sim.shapes import BadRequestError
from fastgw.sim.websocket import PATHS, WebSocketEngine
from fastgw.sim.wire import given

_PSEUDO: Final = b":"


class Connected(Breakable, Protocol):
    """What a stream needs of its connection."""

    simulator: H2Owner
    transport: asyncio.Transport
    number: int
    on_connection: int

    @property
    def blocked(self) -> bool: ...
    def flush_soon(self) -> None: ...
    def faults(self, stream: H2Stream) -> Faults | None: ...
    def ended(self, stream: H2Stream) -> None: ...
    def by_fault(self) -> None: ...
    def give_credit(self) -> None: ...
    def reset(self) -> None: ...


class H2Stream:
    """``number`` is the stream's identifier; ``reads_nothing``: no credit is given for its body."""

    __slots__ = (
        "_blocked", "_connection", "_dispatched", "_end", "_flushed", "_job", "_out", "_over", "_player", "_refused",
        "_socket", "number", "on_connection", "pad", "reads_nothing", "request", "trailers",
    )  # fmt: skip

    def __init__(self, connection: Connected, number: int, fields: list[tuple[bytes, bytes]]) -> None:
        self._connection = connection
        self._job: Job | None = None
        self._player: H2Player | None = None
        self._out: deque[bytes] = deque()
        self._end = False
        self._over = False
        self._dispatched = False
        self._refused = False
        self._socket: WebSocketEngine | None = None
        self._blocked = False
        self._flushed: asyncio.Future[None] | None = None
        self.number = number
        self.on_connection = connection.on_connection
        self.reads_nothing = False
        self.pad: int | None = None
        self.trailers: Fields = ()
        self.request = connection.simulator.received(connection, _head(fields))
        self.request.protocol = "HTTP/2"
        self.request.stream = number
        self.request.pseudo = tuple(pair for pair in fields if pair[0].startswith(_PSEUDO))

    @property
    def simulator(self) -> H2Owner:
        return self._connection.simulator

    @property
    def connection(self) -> Connected:
        return self._connection

    @property
    def transport(self) -> asyncio.Transport:
        return self._connection.transport

    # --- the request
    def begin(self) -> None:
        """Its head is there."""
        if self.request.method == "CONNECT":
            self._tunnel()
            return
        try:
            faults = self._connection.faults(self)
            wrong = [name for name in H1_ONLY if faults is not None and name in faults]
            if wrong:
                raise FaultError(f"{wrong[0]} has no meaning on HTTP/2")
        except FaultError as error:
            self.simulator.malformed(str(error))
            self._refuse(BadRequestError(f"x-sim-fault: {error}"))
            return
        if faults is not None:
            self._player = H2Player(self, faults)
            self.reads_nothing = "no-read" in faults
            self._player.at_once()
            if "no-read" in faults or "early" in faults:
                self.dispatch()

    def _tunnel(self) -> None:
        """A WebSocket (RFC 8441 section 4), where the connection has offered it; nothing else is connected to."""
        pseudo = dict(self.request.pseudo)
        offered = self._connection.machine.local_settings.enable_connect_protocol
        if not offered or pseudo.get(b":protocol") != b"websocket":
            self.simulator.malformed("CONNECT that was not offered")
            self.rst(ErrorCodes.PROTOCOL_ERROR)
            return
        if self.request.path not in PATHS:
            self._refuse(BadRequestError("Not Found", 404))
            return
        self._socket = WebSocketEngine(_Tunnel(self), self.simulator.config, self.request.path)
        protocols = self.request.head.fields.get(b"sec-websocket-protocol", b"")
        extra = ((b"sec-websocket-protocol", protocols.split(b",")[0].strip()),) if protocols else ()
        self.head(self.fields(200, b"", extra=extra))
        self.request.finish("served")
        self.simulator.finished("served")

    def take(self, data: bytes) -> None:
        """The next piece of its body."""
        if self._socket is not None:
            self._socket.feed(data)
            return
        if self._over or self._refused:
            return
        self.request.add_body(data, not self.request.head.streams_body)
        if self.request.body_length > self.simulator.config.max_body_bytes:
            self._refuse(BadRequestError("the body is too long", 413))

    def _refuse(self, error: BadRequestError) -> None:
        """An answer at once, in place of any other; one that has begun is broken off."""
        self._refused = True
        if self._dispatched:
            self.rst(ErrorCodes.CANCEL)
        else:
            self.answer(error.answer())

    def dispatch(self) -> None:
        """The request is whole, or is to be answered before it is."""
        if self._over or self._dispatched or self._refused:
            return
        if self._socket is not None:
            self.end_stream()
            return
        self._dispatched = True
        self.request.seal()
        if self._player is not None:
            self._player.begin()
            return
        prepared = self.simulator.routes.prepare(self.request)
        if isinstance(prepared, Answer):
            self.answer(prepared)
        else:
            self.work(prepared, self)

    def work(
        self, shape: Shape, sink: H2Stream | Player, lead_s: float | None = None, itl_s: float | None = None
    ) -> Job | None:
        """As :func:`fastgw.sim.wire.given`, and it ends with this stream."""
        job = self._job = given(self.simulator.engine, shape, sink, lead_s, itl_s)
        if job is not None and self._blocked and sink is self:
            job.pause()
        return job

    # --- the answer: the engine's sink
    def fields(self, status: int, content_type: bytes, length: int = -1, extra: Fields = ()) -> list[tuple[bytes, bytes]]:
        """The head of an ordinary answer."""
        out = [(b":status", b"%d" % status), *self.simulator.clock.fields(), *((name.lower(), value) for name, value in extra)]
        if content_type:
            out.append((b"content-type", content_type))
        if length >= 0:
            out.append((b"content-length", b"%d" % length))
        return out

    def answer(self, answer: Answer) -> None:
        body = b"" if self.request.method == "HEAD" else answer.body
        self.head(self.fields(answer.status, answer.content_type, len(answer.body), answer.headers), end=not body)
        if body:
            self._end = True
            self.data(body)

    def start(self, content_type: bytes) -> None:
        self.head(self.fields(200, content_type))

    def event(self, data: bytes) -> None:
        self.request.events += 1
        self.simulator.state.events_sent += 1
        self.data(data)

    def end(self) -> None:
        self.end_stream()
        if self.simulator.config.close_after_stream:
            self._connection.flush()
            self._connection.close()

    # --- frames
    def head(self, fields: list[tuple[bytes, bytes]], end: bool = False) -> None:
        if self._over:
            return
        self._connection.machine.send_headers(self.number, fields, end_stream=end)
        self._connection.flush_soon()
        if end:
            self.complete()

    def data(self, data: bytes) -> None:
        """Queue; what the windows allow leaves in this turn of the loop."""
        if not self._over:
            self._out.append(data)
            self.pump()

    def end_stream(self) -> None:
        self._end = True
        self.pump()

    def pump(self) -> None:
        """Send what may be sent, each piece that was queued in a DATA frame of its own where it fits."""
        if self._over:
            return
        connection, machine, out = self._connection, self._connection.machine, self._out
        while out and not connection.blocked:
            pad = 0 if self.pad is None else self.pad + 1
            room = min(machine.local_flow_control_window(self.number), machine.max_outbound_frame_size) - pad
            data = out[0]
            if room <= 0 and data:
                break
            piece = data[:room] if len(data) > room else data
            if len(piece) < len(data):
                out[0] = data[len(piece) :]
            else:
                out.popleft()
            last = self._end and not out and not self.trailers
            machine.send_data(self.number, piece, end_stream=last, pad_length=self.pad)
            self.request.body_sent_bytes += len(piece)
            connection.flush_soon()
            if last:
                self.complete()
                return
        self._pause(bool(out))
        if not out:
            self._wake()
            if self._end:
                self._last_frame()

    def _last_frame(self) -> None:
        machine = self._connection.machine
        if self.trailers:
            machine.send_headers(self.number, list(self.trailers), end_stream=True)
        else:
            machine.end_stream(self.number)
        self._connection.flush_soon()
        self.complete()

    def _pause(self, blocked: bool) -> None:
        if blocked is self._blocked:
            return
        self._blocked = blocked
        if self._socket is not None:  # what it echoes is not to pile up here
            self.reads_nothing = blocked
            self._connection.give_credit()
        if self._job is not None and self._player is None:
            if blocked:
                self._job.pause()
            else:
                self._job.resume()

    def rst(self, code: int, outcome: str = "faulted") -> None:
        """RST_STREAM, and it is over."""
        if not self._over:
            self._connection.machine.reset_stream(self.number, code)
            self._connection.flush_soon()
            self._finish(outcome)

    async def flushed(self) -> None:
        """Returns when nothing is queued: the windows have taken it, and the kernel."""
        while self._out and not self._over and not self.transport.is_closing():
            self._flushed = asyncio.get_running_loop().create_future()
            await self._flushed
        await self._connection.flushed()

    # --- the end
    def complete(self, silent_close: bool = False) -> None:
        """The answer is out whole. A request that still comes is reset without an error (RFC 9113 section 8.1)."""
        if self._over:
            return
        whole = self._connection.machine.streams.get(self.number)
        if whole is not None and not whole.closed and self._socket is None:
            self._connection.machine.reset_stream(self.number, ErrorCodes.NO_ERROR)
        self._finish("served")
        if silent_close:
            self._connection.flush()
            self._connection.close()

    def fail(self) -> None:
        """A fault ends it here, and the connection with it."""
        self._connection.by_fault()
        self._finish("faulted")

    def reset(self) -> None:
        """The connection, not the stream."""
        self._connection.reset()

    def will_close(self) -> None:
        """A fault that breaks an answer off cleanly: nothing to announce here."""

    def was_reset(self, code: str) -> None:
        """By the client."""
        self.request.reset_code = code
        self.left()

    def left(self, outcome: str = "cancelled") -> None:
        """The client has given it up, or the connection is gone."""
        if self._player is not None:
            self._player.cancel()
        self._finish(outcome)

    def _finish(self, outcome: str) -> None:
        if self._over:
            return
        self._over = True
        self._out.clear()
        if self.request.outcome == "open":
            self.request.finish(outcome)
            self.simulator.finished(outcome)
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        self._wake()
        self._connection.ended(self)

    def _wake(self) -> None:
        if self._flushed is not None and not self._flushed.done():
            self._flushed.set_result(None)


class _Tunnel:
    """A stream as a WebSocket's transport."""

    __slots__ = ("_stream",)

    def __init__(self, stream: H2Stream) -> None:
        self._stream = stream

    def write(self, data: bytes) -> None:
        self._stream.data(data)

    def close(self) -> None:
        self._stream.end_stream()


def _head(fields: list[tuple[bytes, bytes]]) -> Head:
    """As routes and records know it. The stock machine has judged the fields."""
    pseudo = {name: value for name, value in fields if name.startswith(_PSEUDO)}
    others = tuple((name, value) for name, value in fields if not name.startswith(_PSEUDO))
    named = dict(others)
    if b":authority" in pseudo:
        named.setdefault(b"host", pseudo[b":authority"])
    target = pseudo.get(b":path", b"").decode("latin-1")
    length = named.get(b"content-length", b"")
    return Head(
        raw=b"",
        method=pseudo.get(b":method", b"").decode("latin-1"),
        target=target,
        path=target.partition("?")[0],
        version="2",
        headers=others,
        fields=named,
        length=int(length) if length.isdigit() else 0,
        chunked=False,
        keep_alive=True,
        expects_continue=named.get(b"expect", b"").lower() == b"100-continue",
        websocket=False,
    )
