"""Both ends of an exchange by hand, and the loop and the clock between them: no socket, and no time but the test's own.

    HandLoop      what of an event loop the data plane asks for; its clock stands until it is told to go on
    HandClient    a client's stream: a test says what the client sends, and looks at what it sees
    HandStream    a request at an engine: a test says what the engine sends, and looks at what it got
    HandPool      an engine: what becomes of dials, and how it answers by itself, if it does

They are subclasses of the real bases, and so work over both twins. Owns: no judgement. What a client's bytes mean is read by
the gateway's own reader of heads, and what its answer is by ``answers.py``, as over sockets.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError, Source, described
from fastgw.net import clock
from fastgw.net.client import ClientStream, Connection
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.upstream import Carrier, UpstreamStream
from fastgw.net.wire import DEAD, QUEUED, SENT
from fastgw.protocol.body import CHUNKS, PLAIN, LengthSource, source_of
from fastgw.protocol.body import Source as Body
from fastgw.protocol.http1.client import ResponseReader
from fastgw.protocol.http1.framing import RequestChunks
from fastgw.protocol.http1.server import RequestReader
from fastgw.protocol.http1.writer import CHUNKED, frame, length_line
from fastgw.protocol.start import RequestStart
from fastgw.stats import EventLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine
from tests.support.answers import RawResponse, parse_head

BEGIN_S: Final = 1000.0
MOST_TURNS: Final = 100_000
ENDLESS: Final = "it never comes to rest"


class HandTimer:
    """What ``call_later`` returns."""

    __slots__ = ("_call", "args")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._call: Callable[..., object] | None = call
        self.args = args

    def cancel(self) -> None:
        self._call = None

    def run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(*self.args)


class HandLoop:
    """See the head of this file. While there is one, the clock of the data plane is its own (:meth:`close`)."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, HandTimer]] = []
        self._serial = itertools.count()
        clock.hold(self.now)

    def close(self) -> None:
        clock.hold(-1.0)
        self._soon.clear()
        self._timers.clear()

    def time(self) -> float:
        return self.now

    def add_reader(self, fd: int, call: Callable[..., object]) -> None:
        """Nothing is ever ready."""

    def remove_reader(self, fd: int) -> None: ...

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        self._soon.append((call, args))

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> HandTimer:
        timer = HandTimer(call, args)
        heapq.heappush(self._timers, (self.now + seconds, next(self._serial), timer))
        return timer

    def settle(self) -> None:
        """Go on until nothing is left to be done now."""
        for _ in range(MOST_TURNS):
            if not self._soon:
                return
            call, args = self._soon.popleft()
            call(*args)
        raise AssertionError(ENDLESS)

    def passes(self, seconds: float) -> None:
        """So much time goes by: what falls due is done when it does."""
        end = self.now + seconds
        self.settle()
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self._set(max(at, self.now))
            timer.run()
            self.settle()
        self._set(end)

    def _set(self, now: float) -> None:
        self.now = now
        clock.hold(now)


class HandConnection(Connection):
    """What the drain asks about a client."""

    def __init__(self, client: HandClient) -> None:
        super().__init__()
        self.client = client

    def streams(self) -> list[ClientStream]:
        return [self.client] if self.client.sink is not None else []

    def close_idle(self) -> bool:
        if self.client.sink is not None:
            return False
        self.client.close()
        return True

    def close(self, reset: bool = False) -> None:
        self.client.close(reset)


class HandClient(ClientStream):
    """A client with one connection: requests one after the other, as HTTP/1 has them.

    ``takes``: what becomes of what is written to it. ``answers``: what it has seen so far, the last one may still go on; of each
    ``status`` 0 = nothing has come. ``closed``: how its connection ended, empty = it has not.
    """

    def __init__(self, loop: HandLoop, reactor: Reactor, core: Any, peer_ip: str, trusted: bool) -> None:
        lines = b"" if trusted else b"x-forwarded-for: %b\r\nx-forwarded-proto: http\r\n" % peer_ip.encode()
        super().__init__(reactor.wheel, core, peer_ip, trusted, lines)
        self._loop = loop
        self._core = core
        self._reader = RequestReader()
        self._body: Body | None = None
        self._begun = b""
        self._unread = bytearray()  # of the answer
        self._minds = False
        self.takes = SENT
        self.answers: list[RawResponse] = []
        self.closed = ""
        self.held_back = False
        self.paused = False
        self.went_ahead = False
        self.passed_on = bytearray()  # of an upgraded protocol

    # --- what a test says
    def says(self, data: bytes) -> HandClient:
        """Send a request, or more of one; then whatever follows from it happens."""
        assert not self.closed, "its connection has ended"
        try:
            self._take(data)
        except Exception as error:
            self._core.crashed(self, error)
        self._loop.settle()
        return self

    def _take(self, data: bytes) -> None:
        sink = self.sink
        if self.tunnel_open:
            assert sink is not None
            sink.on_tunnel_data(data)
            return
        if self._body is not None:
            self._take_body(data)
            return
        assert sink is None, "HTTP/1 has one request at a time"
        head = self._reader.feed(data)
        if head is None:
            return
        self.received_at = clock.monotonic()
        self.head = head
        self.sent = 0
        rest = self._reader.rest
        self._body = RequestChunks() if head.chunked else LengthSource(max(head.content_length, 0))
        if not head.chunked and head.content_length <= 0:
            self._body = None
        count = len(self.answers)
        self.service.open(self, head)
        if len(self.answers) > count and self.sink is None:
            self._body = None  # answered already; what follows of the body is read for nothing
        elif self._body is None:
            sink = self.sink
            assert sink is not None
            sink.on_body(b"", True)
        elif rest:
            self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        sink = self.sink
        try:
            payload = body.feed(data)
        except GatewayError as error:
            self._body = None
            if sink is not None:
                sink.on_error(error)
            return
        if body.done:
            self._body = None
        if sink is not None and (payload or body.done):
            sink.on_body(payload, body.done)

    def leaves(self, how: Literal["fin", "reset"] = "fin") -> HandClient:
        sink, self.sink = self.sink, None
        self.closed = self.closed or how
        if sink is not None:
            sink.on_gone(how)
        self._loop.settle()
        return self

    def stalls(self) -> HandClient:
        """It has taken nothing for too long."""
        sink, self.sink = self.sink, None
        self.close(True)
        self._core.stats.stalled += 1
        assert sink is not None
        sink.on_stalled()
        self._loop.settle()
        return self

    def drains(self) -> HandClient:
        """What was queued for it has gone out."""
        self.takes = SENT
        if self.sink is not None:
            self.sink.on_drained()
        self._loop.settle()
        return self

    # --- what it sees
    @property
    def answer_(self) -> RawResponse:
        """The last one."""
        assert self.answers, "nothing has come"
        return self.answers[-1]

    def sees(self, status: int, code: str | None = None) -> RawResponse:
        """One whole answer of this status, and this error where there is a ``code``."""
        answer = self.answer_
        assert (answer.status, answer.complete) == (status, True), (answer, answer.body, self.closed)
        if code is not None:
            assert answer.error["code"] == code, answer.error
        return answer

    @property
    def waits(self) -> bool:
        """Whether its last request has had no word of an answer."""
        return self.sink is not None and (not self.answers or self.answers[-1].how_ended != "open")

    # --- what the layers above ask for
    def expired(self, now: float) -> None:
        self.deadline = NEVER
        if self.sink is not None:
            try:
                self.sink.on_total_timeout()
            except Exception as error:
                self._core.crashed(self, error)

    def due(self, deadline: float) -> None:
        self.wheel.arm(self, deadline)

    def go_ahead(self) -> None:
        self.went_ahead = True

    def hold_back(self) -> None:
        self.held_back = True

    def go_on(self) -> None:
        self.held_back = False

    def mind_leaving(self, minded: bool) -> None:
        self._minds = minded

    def _whole(self, head: bytes, body: bytes) -> None:
        self.sent += len(head) + len(body)
        answer = parse_head(head, head_only=self.head.method == b"HEAD")
        self.answers.append(answer)
        self._read(body)
        self.sink = None
        self.deadline = NEVER
        self._ended()

    def _read(self, data: bytes) -> None:
        answer = self.answers[-1]
        self._unread += data
        if not answer.complete:
            answer.feed(self._unread)
        assert answer.how_ended == "open" or not self._unread, "bytes behind the end of an answer"

    def _ended(self) -> None:
        self.held_back = False
        if self.service.draining:
            self.close()

    def answer(self, head: ResponseHead, request_id: bytes, extra: bytes, body: bytes) -> None:
        self._whole(self._head(head, length_line(len(body)), request_id, extra), body)

    @staticmethod
    def _head(head: ResponseHead, framing: bytes, request_id: bytes, extra: bytes) -> bytes:
        own = b"x-request-id: %b\r\n%b" % (request_id, extra)
        return b"HTTP/1.1 " + b"%b%b%b%b\r\n" % (head.status_line.removeprefix(b"HTTP/1.1 "), head.forward, own, framing)

    def local(self, status: int, content_type: bytes, body: bytes, lines: bytes) -> None:
        told = b"content-type: %b\r\n" % content_type if content_type else b""
        framing = length_line(len(body)) if status != 204 else b""
        shown = b"" if self.head.method == b"HEAD" else body
        self._whole(b"HTTP/1.1 %d Own\r\n%b%b%b\r\n" % (status, told, lines, framing), shown)

    def refuse(self, status: int, body: bytes, lines: bytes, close: bool) -> None:
        self.local(status, b"application/json", body, lines)
        if close:
            self.close()

    def begin(self, head: ResponseHead, length: int, request_id: bytes, extra: bytes) -> None:
        self.bounded = length != -1
        self.frames = PLAIN if self.bounded else CHUNKS
        if length >= 0:
            framing = length_line(length)
        elif length == -1:
            framing = CHUNKED
        else:
            framing = length_line(head.content_length) if head.content_length >= 0 and head.status != 204 else b""
        self._begun = self._head(head, framing, request_id, extra)

    def flush(self) -> int:
        return self.write_wire(b"")

    def write(self, payload: bytes) -> int:
        if not payload:
            return self.takes
        return self.write_wire(frame(payload, False) if self.frames == CHUNKS else payload)

    def write_wire(self, wire: bytes) -> int:
        if self.takes == DEAD or self.closed:
            return DEAD
        if self._begun:
            self.sent += len(self._begun)
            self.answers.append(parse_head(self._begun, head_only=self.head.method == b"HEAD"))
            self._begun = b""
        self.sent += len(wire)
        self._read(wire)
        return self.takes

    def end(self, payload: bytes) -> int:
        return self.write_wire(frame(payload, True) if self.frames == CHUNKS else payload)

    def finish(self) -> None:
        self.sink = None
        self.deadline = NEVER
        assert self.answers[-1].complete, "it was said to be whole"
        self._ended()

    def break_off(self, told: bool) -> None:
        self._begun = b""
        self.sink = None
        self._cut("eof" if told and self.frames == CHUNKS else "reset")

    def close(self, reset: bool = False) -> None:
        self.sink = None
        self._cut("reset" if reset else "eof")

    def _cut(self, how: Literal["eof", "reset"]) -> None:
        self.closed = self.closed or how
        self.wheel.disarm(self)
        if self.answers and self.answers[-1].how_ended == "open":
            self.answers[-1].how_ended = how

    # --- an upgraded protocol
    tunnel_open = False

    def upgrade(self, head: ResponseHead, request_id: bytes, data: bytes) -> int:
        self.tunnel_open = True
        self.deadline = NEVER
        self._begun = b""
        whole = self._head(head, b"connection: upgrade\r\n", request_id, b"")
        self.answers.append(parse_head(whole))
        return self.pass_on(data)

    def early(self) -> bytes:
        return b""

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def pass_on(self, data: bytes) -> int:
        self.sent += len(data)
        self.passed_on += data
        return self.takes

    def hang_up(self) -> None:
        self.sink = None
        self._cut("eof")


class HandStream(UpstreamStream):
    """A request at an engine, also when it has ended: what the engine got, and what became of it.

    ``body``: what has come of it, ``whole`` whether that is all. ``cancelled``: the gateway has given it up. ``kept``: its
    connection went back to the pool.
    """

    def __init__(self, pool: HandPool, reactor: Reactor) -> None:
        super().__init__(reactor.wheel)
        self.pool = pool
        self.start: RequestStart | None = None
        self.head = b""
        self.request_id = b""
        self.body = b""
        self.length = -1
        self.whole = False
        self.cancelled = False
        self.kept = False
        self.held = False
        self.takes = SENT
        self.ended = ""
        self._kept_back: list[bytes | str] = []
        self._reader = ResponseReader()
        self._in_body = False
        self._interim = False
        self.tunnelled = False

    # --- what a test says
    def says(self, *pieces: bytes) -> HandStream:
        """Send these, each read by itself; then whatever follows from it happens."""
        for data in pieces:
            self._hear(data)
            self.pool.loop.settle()
        return self

    def closes(self, how: Literal["fin", "reset"] = "fin") -> HandStream:
        """The engine closes the connection."""
        self._hear(how)
        self.pool.loop.settle()
        return self

    def _hear(self, what: bytes | str) -> None:
        if self.closed or self.kept:
            return  # nobody hears it any more
        if self.held:
            self._kept_back.append(what)
            return
        carrier = self.carrier
        assert carrier is not None
        try:
            if isinstance(what, str):
                self.ended = what
                carrier.on_end(what)
            elif self._in_body:
                carrier.on_data(what)
            else:
                self._take_head(carrier, what)
        except Exception as error:
            self.crash(carrier, error)

    def _take_head(self, carrier: Carrier, data: bytes) -> None:
        start = self.start
        assert start is not None, "it has not been asked yet"
        try:
            head = self._reader.feed(data)
            while head is not None and head.status < 200 and not (head.status == 101 and start.upgrade):
                self._interim = True
                rest = self._reader.rest
                head = self._reader.feed(rest) if rest else None
        except GatewayError as error:
            self.cancel()
            carrier.on_error(error)
            return
        if head is not None:
            self.waiting = False
            self._in_body = True
            carrier.on_head(head, source_of(head, start.method, LengthSource(0)), self._reader.rest)

    def crash(self, carrier: Carrier, error: Exception) -> None:
        """As the real one: logged, and the exchange does not go on waiting."""
        if not self.closed:
            self.cancel()
        self.pool.log.error("engine connection failed inside fastgw", error=described(error))
        carrier.on_error(GatewayError("internal", source=Source.GATEWAY))

    def drains(self) -> HandStream:
        self.takes = SENT
        assert self.carrier is not None
        self.carrier.on_drained()
        self.pool.loop.settle()
        return self

    # --- what it has got
    def json(self) -> Any:
        return json.loads(self.body)

    def field(self, name: bytes) -> bytes | None:
        """The value of a header field that came to the engine."""
        assert self.start is not None
        for line in (self.start.block + self.request_id + b"\r\n").split(b"\r\n"):
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip()
        return None

    # --- what the layers above ask for
    def expired(self, now: float) -> None:
        carrier = self.carrier
        if carrier is not None:
            try:
                carrier.on_silent()
            except Exception as error:
                self.crash(carrier, error)

    def due(self, deadline: float) -> None:
        self.wheel.arm(self, deadline)

    def send(self, start: RequestStart, request_id: bytes, length: int, body: bytes, due: float) -> None:
        assert self.connected
        assert not self.closed
        self.start = start
        self.request_id = request_id
        self.length = length
        self.body = body
        self.whole = length == len(body)
        self.waiting = True
        self.due(due)
        self.pool.asked.append(self)
        if self.whole and self.pool.play is not None:
            self.pool.loop.call_soon(self._play)

    def _play(self) -> None:
        if not self.closed and self.pool.play is not None:
            self.pool.play(self)

    def write(self, data: bytes) -> int:
        self.body += data
        if self.start is not None and self.length >= 0 and not self.tunnelled:
            self.whole = len(self.body) >= self.length
            if self.whole and self.pool.play is not None:
                self.pool.loop.call_soon(self._play)
        return self.takes

    def end(self) -> None:
        if not self.whole and self.pool.play is not None:
            self.pool.loop.call_soon(self._play)
        self.whole = True

    def queued(self) -> int:
        return 1 if self.takes == QUEUED else 0

    def begun(self) -> bool:
        return self._in_body or self._interim or self._reader.partial

    def hold(self) -> None:
        self.held = True
        self.deadline = NEVER

    def resume(self) -> None:
        self.held = False
        self.pool.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        while self._kept_back and not self.held:
            self._hear(self._kept_back.pop(0))

    def tunnel(self) -> None:
        self.tunnelled = True

    def cancel(self) -> None:
        if not self.closed:
            self.cancelled = True
            self.leave()

    def leave(self) -> None:
        """It is of no use any more."""
        self.closed = True
        self.carrier = None
        self.wheel.disarm(self)
        self.pool.let_go(self)


Play = Callable[[HandStream], object]
Dial = Literal["ok", "refused", "timeout", "hangs"]


class HandPool(Pool):
    """An engine. ``dial``: what becomes of a new connection. ``play``: how it answers whoever has sent his whole request; None =
    the test says. ``asked``: the requests that it has got, in order; ``parked``: its idle connections; ``dials``: all there
    were."""

    def __init__(self, engine: Engine, loop: HandLoop, reactor: Reactor, stats: Stats, log: EventLog) -> None:
        super().__init__(engine, reactor, stats, log, 5.0, 8)
        self.loop = loop
        self.reactor = reactor
        self.stats = stats
        self.log = log
        self.dial: Dial = "ok"
        self.play: Play | None = None
        self.asked: list[HandStream] = []
        self.open_streams: list[HandStream] = []
        self.parked = 0
        self.dials = 0

    @property
    def last(self) -> HandStream:
        """The request that came last."""
        assert self.asked, "it has not been asked"
        return self.asked[-1]

    @property
    def under_way(self) -> list[HandStream]:
        """Those that it has and has not answered whole."""
        return [one for one in self.asked if one in self.open_streams]

    def open(self, carrier: Carrier, now: float, fresh: bool = False) -> HandStream:
        engine = self.engine
        idle = self.parked > 0 and not fresh
        if not idle and self.connections >= engine.max_connections:
            raise GatewayError("engine_busy", source=Source.GATEWAY, retry_after_s=1.0, retryable=True)
        stream = HandStream(self, self.reactor)
        stream.carrier = carrier
        self.open_streams.append(stream)
        if idle:
            self.parked -= 1
            stream.connected = True
            return stream
        self.dials += 1
        self.connections += 1
        self.stats.upstream_open += 1
        if self.dial == "timeout":
            self.loop.call_later(self.connect_timeout_s, self._dialled, stream)
        elif self.dial != "hangs":
            self.loop.call_soon(self._dialled, stream)
        return stream

    def _dialled(self, stream: HandStream) -> None:
        carrier = stream.carrier
        if carrier is None:
            return
        try:
            if self.dial == "ok":
                stream.connected = True
                carrier.on_stream()
            else:
                timed_out = self.dial == "timeout"
                stream.leave()
                carrier.on_unreachable("connect timeout" if timed_out else "Connection refused", timed_out)
        except Exception as error:
            stream.crash(carrier, error)

    def let_go(self, stream: HandStream) -> None:
        """A stream, and its connection with it, has closed."""
        self.open_streams.remove(stream)
        self.connections -= 1
        self.stats.upstream_open -= 1

    def give_back(self, stream: UpstreamStream, now: float, idle_s: float, max_requests: int) -> None:
        assert isinstance(stream, HandStream)
        assert not stream.closed
        stream.carrier = None
        stream.wheel.disarm(stream)
        stream.kept = True
        self.open_streams.remove(stream)
        self.parked += 1

    def close_idle(self) -> None:
        """The idle connections close, without anybody being told."""
        self.connections -= self.parked
        self.stats.upstream_open -= self.parked
        self.parked = 0
