"""The HTTP/2 connections to one engine: as many as its limit of streams asks for, and one that is warm.

A request gets a place on the oldest connection that has room. Where none has, it waits for one that is being dialled, or for a
place that comes free; so many are dialled as those who wait will fill, by the limit that the engine has shown (and one alone
until it has). One that may take no more (GOAWAY) is replaced at once, and ends when its last stream does.

Invariant: each stream is in the queue, has a place, or is closed; and there are never more connections that take requests than
the streams under way need, the warm ones, and one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from fastgw.errors import GatewayError, Source, described
from fastgw.net.clock import monotonic
from fastgw.net.dial import DialError
from fastgw.net.h2_stream import H2UpstreamStream
from fastgw.net.h2_upstream import H2Home, H2UpstreamConn
from fastgw.net.h2_upstream_tunnel import H2UpstreamTunnel
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage, no_socket
from fastgw.net.timers import NEVER
from fastgw.net.upstream import FRESH, UNPROCESSED, UPGRADE, Carrier
from fastgw.net.wire import Wire
from fastgw.protocol.h2.frames import NO_ERROR
from fastgw.protocol.h2.writer import own_block
from fastgw.stats import EventLog, Stats
from fastgw.upstream.target import Engine

MOST_WAITING: Final = 16384
"""Requests that wait for a place at one engine. (Its queue comes before, and bounds them by the gateway's own settings.)"""

MOST_UNWANTED: Final = 3
"""Requests in a row that an engine wants in HTTP/1.1: so many are no matter of theirs, and all are asked so from then on."""

WARM_PAUSE_S: Final = 1.0  # between two connections that are kept warm one after the other, and go


class Keeper(Protocol):
    """Who counts an engine's connections, whatever they speak."""

    connections: int


class H2Slots(H2Home):
    """See the head of this file. ``wire`` makes what a connection is dialled with; ``refused`` is called where who answers
    does not speak HTTP/2: True = the requests that wait are to be asked again, in another way."""

    __slots__ = (
        "_closed",
        "_gone_at_once",
        "_keeper",
        "_log",
        "_own",
        "_reactor",
        "_refused",
        "_shortage",
        "_stats",
        "_warmed_at",
        "_wire",
        "connect_timeout_s",
        "connects",
        "conns",
        "dialling",
        "engine",
        "leavers",
        "limit",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        engine: Engine,
        keeper: Keeper,
        reactor: Reactor,
        stats: Stats,
        log: EventLog,
        connect_timeout_s: float,
        shortage: Shortage,
        wire: Callable[[], Wire],
        refused: Callable[[str], bool],
    ) -> None:
        super().__init__()
        self.engine = engine
        self._keeper = keeper
        self._reactor = reactor
        self._stats = stats
        self._log = log
        self._shortage = shortage
        self._wire = wire
        self._refused = refused
        self.connect_timeout_s = connect_timeout_s
        self._own = own_block(engine.head_block, engine.secure is not None)
        self.conns: list[H2UpstreamConn] = []  # that take requests, the oldest first
        self.dialling: set[H2UpstreamConn] = set()
        self.leavers: set[H2UpstreamConn] = set()
        self.waiting: OrderedDict[H2UpstreamStream, None] = OrderedDict()  # the longest first
        self.limit = -1  # streams that the engine takes on one connection; -1 = not known yet
        self._warmed_at = -WARM_PAUSE_S  # when one was dialled last for nobody
        self.connects: bool | None = None  # whether it takes WebSockets on them; None = not known yet
        self._closed = False
        self._gone_at_once = False

    def __repr__(self) -> str:
        return (
            f"<H2Slots {self.engine.name} connections={len(self.conns)} dialling={len(self.dialling)} "
            f"leaving={len(self.leavers)} waiting={len(self.waiting)}>"
        )

    # --- taking
    def open(self, carrier: Carrier, now: float, fresh: int = 0) -> H2UpstreamStream:
        """A stream for one request of ``carrier``, as :meth:`upstream.pool.Pool.open` says."""
        stream = self._tunnel(carrier) if fresh == UPGRADE else H2UpstreamStream(self, self._reactor, carrier)
        if not self.waiting:
            conn = self._with_room() if fresh != FRESH else self._that_lives()
            if conn is not None:
                conn.place(stream)
                return stream
        if len(self.waiting) >= MOST_WAITING:
            raise self._busy()
        if self.engine.tunnelled:
            return self._wait_for_tunnel(stream, now)
        if not self.engine.addresses:
            raise self._unusable("name not resolved")
        if self._gone_at_once:
            raise self._unusable("removed")
        self.waiting[stream] = None
        try:
            self._dial()
        except OSError as error:
            self._shortage.met(error.errno or 0, "a connection to an engine")
            if not self.conns and not self.dialling:
                del self.waiting[stream]
                raise no_socket(str(error)) from error
        if not self.conns and not self.dialling:
            del self.waiting[stream]
            raise self._busy()
        self._reactor.wheel.arm(stream, now + self.connect_timeout_s)
        return stream

    def _wait_for_tunnel(self, stream: H2UpstreamStream, now: float) -> H2UpstreamStream:
        """For a place on a connection that the engine's side has made, or is making. None can be dialled."""
        if not self.conns and not self.dialling:
            raise self._unusable("its runner is not connected")
        self.waiting[stream] = None
        self._reactor.wheel.arm(stream, now + self.connect_timeout_s)
        return stream

    def adopt(self, wire: Wire) -> H2UpstreamConn:
        """A connection whose wire is ready: who stands before the engine has dialled in. It is never closed for being idle."""
        conn = H2UpstreamConn(self._reactor, wire, self, self._own, self._stats)
        self._keeper.connections += 1
        self.dialling.add(conn)
        self._reactor.wheel.arm(conn, monotonic() + self.connect_timeout_s)
        conn.connected()
        return conn

    def _tunnel(self, carrier: Carrier) -> H2UpstreamStream:
        tunnel = H2UpstreamTunnel(self, self._reactor, carrier)
        tunnel.set_up()
        return tunnel

    def takes_tunnels(self) -> bool:
        """Whether a WebSocket is asked for here; else in HTTP/1.1. Raises GatewayError where that is not spoken with it."""
        if self.connects is not False:
            return True
        error = self.no_tunnels()
        if error is not None:
            raise error
        return False

    def no_tunnels(self) -> GatewayError | None:
        self.connects = False
        if self.engine.protocol != "h2":
            return None
        detail = f"{self.engine.name}: offers no extended CONNECT, and protocol = h2"
        return GatewayError("no_websockets", source=Source.GATEWAY, retryable=True, detail=detail)

    def _busy(self) -> GatewayError:
        detail = f"{self.engine.name}: {self._keeper.connections} connections open"
        return GatewayError("engine_busy", source=Source.GATEWAY, retry_after_s=1.0, retryable=True, detail=detail)

    def _unusable(self, why: str) -> GatewayError:
        detail = f"{self.engine.name}: {why}"
        return GatewayError("bad_gateway", source=Source.UPSTREAM, retryable=True, detail=detail)

    def _with_room(self) -> H2UpstreamConn | None:
        for conn in self.conns:
            if conn.spare() > 0:
                return conn
        return None

    def _that_lives(self) -> H2UpstreamConn | None:
        """The same for a request that takes no more chances: an idle connection of which there is something to be read may
        have ended, as the last one did, and one of which nothing was heard may be as dead."""
        for conn in self.conns:
            if conn.spare() > 0 and not conn.doubted() and (conn.busy() or not conn.unread()):
                return conn
        return None

    def _dial(self) -> None:
        """As many connections as those who wait will fill. Raises OSError."""
        want = 1
        if self.limit > 0:
            want = -(-len(self.waiting) // self.limit)
        elif self.limit == 0 and self.conns:
            return  # it takes none for now: another connection would not change its mind
        while len(self.dialling) < want and self._keeper.connections < self.engine.max_connections:
            self._connect()

    def _connect(self) -> None:
        """One more. Raises OSError where no socket can be made."""
        conn = H2UpstreamConn.dial(
            self._reactor, self._wire(), self.engine.addresses, self, self._own, self._stats, self.connect_timeout_s
        )
        self._keeper.connections += 1
        self.dialling.add(conn)

    def _serve(self) -> None:
        """Those who wait, as far as there is room."""
        waiting = self.waiting
        while waiting:
            conn = self._with_room()
            if conn is None:
                break
            stream, _ = waiting.popitem(last=False)
            conn.place(stream)
            stream.deadline = NEVER
            carrier = stream.carrier
            assert carrier is not None
            try:
                carrier.on_stream()
            except Exception as error:
                stream.crash(error, carrier)

    def _dial_more(self) -> None:
        if not self.waiting or not self.engine.addresses:
            return
        try:
            self._dial()
        except OSError as error:
            self._shortage.met(error.errno or 0, "a connection to an engine")

    def gave_up(self, stream: H2UpstreamStream) -> None:
        carrier = stream.carrier
        if carrier is None:
            return
        stream.cancel()
        detail = "no place on a connection in time"
        try:
            if self.conns or self.leavers:
                # The engine is there, and has as much as it takes: that is no fault. It is one to take nothing at all, whatever
                # it keeps.
                full = [conn for conn in (*self.conns, *self.leavers) if conn.busy() and conn.limit > 0]
                source = Source.GATEWAY if full else Source.UPSTREAM
                carrier.on_error(GatewayError("engine_busy", source=source, retry_after_s=1.0, retryable=True, detail=detail))
            else:
                carrier.on_unreachable(detail, True)
        except Exception as error:
            stream.crash(error, carrier)

    def left(self, stream: H2UpstreamStream) -> None:
        self.waiting.pop(stream, None)

    def _forget(self) -> list[H2UpstreamStream]:
        """Those who wait no longer."""
        found = list(self.waiting)
        self.waiting.clear()
        return found

    # --- what connections report
    def opened(self, conn: H2UpstreamConn) -> None:
        self.dialling.discard(conn)
        self.conns.append(conn)
        self.limit = conn.limit
        self.connects = conn.connects
        if self._closed and not self.waiting:
            conn.retire("not needed any more")
            return
        self._serve()
        self._dial_more()
        self.keep_warm()

    def freed(self, conn: H2UpstreamConn) -> None:
        if conn in self.conns:
            self.limit = conn.limit
            self.connects = conn.connects
        self._serve()
        if self.waiting:
            self._dial_more()
        elif self._closed and not conn.busy():
            conn.retire("not needed any more")

    def leaving(self, conn: H2UpstreamConn, why: str, broken: bool) -> None:
        if broken:
            self._log.warning("engine broke HTTP/2", engine=self.engine.name, reason=why)
        if conn in self.conns:
            self.conns.remove(conn)
            self.leavers.add(conn)
            self._log.debug("engine connection is replaced", engine=self.engine.name, reason=why)
            if self.waiting:
                self._dial_more()
            else:
                self._replace(conn)

    def dial_failed(self, conn: H2UpstreamConn, error: DialError) -> None:
        if self.conns or self.dialling:
            return  # those who wait have others to wait for
        for stream in self._forget():
            carrier = stream.carrier
            assert carrier is not None
            stream.cancel()
            try:
                if error.lacking:
                    carrier.on_error(no_socket(error.detail))
                else:
                    carrier.on_unreachable(error.detail, error.timed_out)
            except Exception as bug:
                stream.crash(bug, carrier)

    def no_h2(self, conn: H2UpstreamConn, detail: str) -> None:
        if not self.wants_h1(detail, 0):
            self.dial_failed(conn, DialError(f"does not speak HTTP/2: {detail}"))

    def wants_h1(self, detail: str, requests: int) -> bool:
        if requests and self.engine.protocol != "h2":
            self.unwanted += requests
            if self.unwanted < MOST_UNWANTED:
                return True  # what it says of one, it says of no other (RFC 9113 §7)
        if not self._refused(detail):
            return False
        for stream in self._forget():
            stream.fate = UNPROCESSED
            stream.deliver()
        return True

    def gone(self, conn: H2UpstreamConn) -> None:
        self._keeper.connections -= 1
        self.dialling.discard(conn)
        self.leavers.discard(conn)
        if conn in self.conns:
            self.conns.remove(conn)
            self._reactor.poller.soon(lambda: self._replace(conn))
        if self.waiting:
            self._reactor.poller.soon(self._dial_more)  # (where there may be so many and no more, one has to go first)

    def unneeded(self, conn: H2UpstreamConn) -> bool:
        return len(self.conns) > self.engine.warm_connections and not self.engine.tunnelled

    def crashed(self, error: BaseException) -> None:
        self._log.error("engine connection failed inside fastgw", engine=self.engine.name, error=described(error))

    # --- warmth
    def keep_warm(self) -> None:
        """Dial until so many connections take requests as are to be warm."""
        engine = self.engine
        if self._closed or not engine.addresses or engine.healthy is False or self.dialling:
            return
        if len(self.conns) < engine.warm_connections and self._keeper.connections < engine.max_connections:
            self._warmed_at = monotonic()
            try:
                self._connect()
                self._stats.dials_warm += 1
            except OSError as error:
                self._shortage.met(error.errno or 0, "a connection kept warm")

    def _replace(self, conn: H2UpstreamConn) -> None:
        """``conn`` takes no more: another is kept warm. An engine that is about to end takes connections and gives them up at
        once, and would be dialled without a pause: what was of no use leaves that to the next probe."""
        if not conn.is_idle(1) or monotonic() - self._warmed_at >= WARM_PAUSE_S:
            self.keep_warm()

    def change(self, connect_timeout_s: float) -> None:
        """As :meth:`upstream.pool.Pool.change`."""
        self.connect_timeout_s = connect_timeout_s
        self._own = own = own_block(self.engine.head_block, self.engine.secure is not None)
        for conn in (*self.conns, *self.dialling, *self.leavers):
            conn.own = own

    def close(self, at_once: bool = False) -> None:
        """Close what is idle, or dialled for nobody; busy connections close as they come to rest. ``at_once``: nobody has a
        stream any more, and what an engine has still to say behind its answers is not waited for."""
        if self.engine.tunnelled and not at_once:
            return  # (whoever dialled in closes it)
        self._closed = True
        if not self.waiting:
            for conn in list(self.dialling):
                conn.close()
        for conn in list(self.conns):
            conn.retire("not needed any more")
        for conn in list(self.leavers) if at_once else ():
            conn.close(NO_ERROR)

    def reopen(self) -> None:
        """After :meth:`close`: connections are kept again."""
        self._closed = False
        self.unwanted = 0

    def break_off_waiting(self) -> None:
        """Connections on which nothing has begun to be answered end as if the engine had reset them; nobody waits for one."""
        for conn in [*self.dialling, *self.conns, *self.leavers]:
            if not any(stream.begun() for stream in conn.streams.values()):
                conn.lost()
        self._end_waits()

    def break_off(self) -> None:
        """All connections end as if the engine had reset them, and none is opened any more."""
        self._gone_at_once = True
        for conn in [*self.dialling, *self.conns, *self.leavers]:
            conn.lost()
        self._end_waits()

    def _end_waits(self) -> None:
        now = monotonic()
        for stream in self._forget():
            stream.expired(now)
