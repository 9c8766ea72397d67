"""An engine by hand: a test says what becomes of dials and what it sends, and looks at what it got.

Subclasses of the real bases, so that they work over both twins. What the engine's bytes mean is read by the gateway's own
reader of heads and its sources, as on a connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from fastgw.errors import GatewayError, Source, described
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.upstream import Carrier, UpstreamStream
from fastgw.net.wire import QUEUED, SENT
from fastgw.protocol.body import LengthSource, source_of
from fastgw.protocol.http1.client import ResponseReader
from fastgw.protocol.start import RequestStart
from fastgw.stats import EventLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine
from tests.support.byhand.loop import HandLoop


class HandStream(UpstreamStream):
    """A request at an engine, also when it has ended: what the engine got, and what became of it.

    ``body``: what has come of it, ``whole`` whether that is all. ``cancelled``: the gateway has given it up. ``kept``: its
    connection went back to the pool; ``kept_before``: it came from there.
    """

    def __init__(self, pool: HandPool, reactor: Reactor) -> None:
        super().__init__(reactor.wheel)
        self.pool = pool
        self.start: RequestStart | None = None
        self.trace = b""
        self.head = b""
        self.request_id = b""
        self.body = b""
        self.length = -1
        self.whole = False
        self.cancelled = False
        self.kept = False
        self.kept_before = False
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
        for line in (self.trace + self.start.fields + self.request_id + b"\r\n").split(b"\r\n"):
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

    def send(
        self, start: RequestStart, trace: bytes, request_id: bytes, length: int, lead: bytes, body: bytes, skip: int, due: float
    ) -> None:
        assert self.connected
        assert not self.closed
        self.start = start
        self.trace = trace
        self.request_id = request_id
        self.length = length
        self.body = lead + body[skip:]
        self.whole = length == len(self.body)
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
    """An engine. ``dial``: what becomes of a new connection. ``play``: how it answers whoever has sent his whole request; None
    = the test says. ``asked``: the requests that it has got, in order; ``parked``: its idle connections; ``dials``: all there
    were."""

    def __init__(self, engine: Engine, loop: HandLoop, reactor: Reactor, stats: Stats, log: EventLog) -> None:
        super().__init__(engine, reactor, stats, log, 5.0)
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
            stream.connected = stream.kept_before = True
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
