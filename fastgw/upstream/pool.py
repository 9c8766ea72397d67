"""The connections to one engine, which carry its streams: idle ones kept newest-first, dials bounded, the engine's idle-close
time learned.

Who returned last is taken first. So an idle connection that has lain for a while is one more than were needed at once in that
while, and :data:`UNNEEDED_S` says how long that is: what is kept follows the most that were in use together lately, with no
figure to keep of it, and goes back to the warm ones when a crowd has gone.

uvicorn and llama.cpp close a connection after 5 idle seconds, others after a minute, some after 100 requests; a pool
that writes on a connection in that very moment loses the request. So the limit is learned from ``Keep-Alive`` fields
and from watching idle connections die, and a parked connection is given back before its engine would close it. What
still slips through is the replay rule's, which is above.

An engine that speaks HTTP/2 has its connections in ``h2_slots``, which is made when the first shows it, and no idle ones
here: so a request finds none, and is asked for there. Uploads and answers, health and breakers know nothing of it.

Invariant: ``connections`` counts every connection that is dialling, busy or idle, and never exceeds the engine's maximum.
Idle ones are bounded by the engine's ``max_idle``: few where its kind pays for each.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.errors import GatewayError, Source, described
from fastgw.net.clock import monotonic
from fastgw.net.h1_upstream import H1UpstreamConn, H1UpstreamStream, Home
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage, no_socket
from fastgw.net.timers import TICK_S
from fastgw.net.upstream import HTTP1, UPGRADE, Carrier, UpstreamStream
from fastgw.net.wire import PlainWire, Wire
from fastgw.stats import EventLog, Stats
from fastgw.upstream.target import Engine

IDLE_LIMIT_S: Final = 30.0  # until the engine shows another
UNNEEDED_S: Final = 10.0  # for so long nobody needed it: one too many, unless it is to be kept warm
CLOSES: Final = 64  # of unneeded ones in a tick of the wheel, of all in a turn of the loop: each costs the kernel 10 to 15 µs
ENDS: Final = 8  # streams, in a turn of the loop, of an engine that is to be gone now: each takes 65 µs, with what follows
IDLE_FLOOR_S: Final = 0.5  # below this a "learned" limit is an engine that dies, not one that tidies up
NEIGHBOURS: Final = 16  # of those that came back before this turn: among so many one is looked for that has been silent
_neighbours: Final = NEIGHBOURS  # (the compiled twin has it as a C number)
WARM_GAP_S: Final = 0.005  # between two warm dials
IDLE_SHARE: Final = 0.8  # of the engine's own limit: time for the FIN to cross the request


class Pool(Home):
    """See the head of this file."""

    __slots__ = (
        "_closed",
        "_conns",
        "_died",
        "_from_before",
        "_h2",
        "_log",
        "_reactor",
        "_shortage",
        "_slots",
        "_stats",
        "_tick",
        "_tick_closes",
        "_turn",
        "_warming",
        "connect_timeout_s",
        "connections",
        "engine",
        "gone_at_once",
        "idle",
        "idle_limit_s",
    )

    def __init__(
        self,
        engine: Engine,
        reactor: Reactor,
        stats: Stats,
        log: EventLog,
        connect_timeout_s: float,
        shortage: Shortage | None = None,
    ) -> None:
        self.engine = engine
        self._reactor = reactor
        self._stats = stats
        self._log = log
        self._shortage = shortage or Shortage(log)
        self.connect_timeout_s = connect_timeout_s
        self.idle: list[H1UpstreamConn] = []  # the newest last; those that died since the last sweep are among them
        self._died = 0
        self._turn = 0  # the poller's, when one was last taken or came back,
        self._from_before = 0  # and how many of the idle ones, the first, had come back before it
        self._tick = 0  # the wheel's last that found one unneeded (it may have several turns of the loop),
        self._tick_closes = 0  # and how many it did
        self.connections = 0
        self.idle_limit_s = IDLE_LIMIT_S
        self._warming: H1UpstreamConn | None = None
        self._conns: set[H1UpstreamConn] = set()  # all that are open
        self._closed = False
        self.gone_at_once = False
        self._slots: Any = None  # the engine's HTTP/2, once it has been asked for
        self._h2 = False  # new requests go there
        if engine.protocol == "h2":
            self.speaks(True)

    def __repr__(self) -> str:
        name, idle = self.engine.name, len(self.idle)
        return f"<Pool {name} connections={self.connections} idle={idle} idle_limit={self.idle_limit_s:g}s>"

    # --- taking and giving back
    def open(self, carrier: Carrier, now: float, fresh: int = 0) -> UpstreamStream:
        """A stream for one request of ``carrier``: on an idle connection, and then it is ``connected``; else, or where it is
        to be :data:`~fastgw.net.upstream.FRESH`, for an :data:`UPGRADE` or in :data:`HTTP1`, a dial is under way, and
        ``carrier`` is told from the loop how that went.

        Raises GatewayError: ``engine_busy`` at the engine's maximum, ``bad_gateway`` (retryable) when the engine's
        name is not known to resolve, ``no_websockets`` (retryable) where it speaks HTTP/2 alone and takes none.
        """
        if not fresh:
            conn = self._take_idle(now)
            if conn is not None:
                return conn.take(carrier)
        if self._h2 and fresh != HTTP1 and (fresh != UPGRADE or self._slots.takes_tunnels()):
            made: UpstreamStream = self._slots.open(carrier, now, fresh)
            return made
        return self._dial(carrier, fresh)

    def _take_idle(self, now: float) -> H1UpstreamConn | None:
        """The idle connection used last, if one is still good."""
        # What an engine sends after the end of an answer must not become the answer to the next request, somebody else's.
        # The poller tells of it, and closes; but of those that came back in this very turn nobody has asked it yet. So one
        # of those from before, which spares a system call.
        idle = self.idle
        at = self._before()
        least = at - _neighbours
        while at > 0 and at > least:
            at -= 1
            conn = idle[at]
            if now >= conn.idle_limit_at:
                self._stats.stale_avoided += 1
                del idle[at]
                self._drop(conn)
            elif conn.wire.silent_since(conn.idle_turn):
                del idle[at]
                self._from_before = at
                return conn
        while idle:
            conn = idle.pop()
            if now < conn.idle_limit_at and not conn.wire.unread():
                return conn
            self._stats.stale_avoided += 1
            self._drop(conn)
        return None

    def _before(self) -> int:
        """How many of the idle ones came back before this turn; they are the first."""
        turn = self._reactor.poller.turn
        last = len(self.idle)
        if turn != self._turn:
            self._turn = turn
            self._from_before = last
        elif self._from_before > last:
            self._from_before = last
        return self._from_before

    def _drop(self, conn: H1UpstreamConn) -> None:
        """It was idle for too long, or has died already."""
        if conn.stream is None:
            self._died -= 1
        conn.close()

    def _dial(self, carrier: Carrier, fresh: int) -> H1UpstreamStream:
        engine = self.engine
        if self.connections >= engine.max_connections:
            raise GatewayError(
                "engine_busy",
                source=Source.GATEWAY,
                retry_after_s=1.0,
                retryable=True,
                detail=f"{engine.name}: {self.connections} connections open",
            )
        if not engine.addresses:
            raise GatewayError(
                "bad_gateway", source=Source.UPSTREAM, retryable=True, detail=f"{engine.name}: name not resolved"
            )
        if self.gone_at_once:
            # (Nothing was sent: another engine may be asked.)
            raise GatewayError("bad_gateway", source=Source.UPSTREAM, retryable=True, detail=f"{engine.name}: removed")
        try:
            conn = self._connection(carrier, fresh)
        except OSError as error:
            self._shortage.met(error.errno or 0, "a connection to an engine")
            raise no_socket(str(error)) from error
        stream = conn.stream
        assert stream is not None  # nothing is told, and so nothing closes, before this has returned
        return stream

    def _connection(self, carrier: Carrier | None, fresh: int = 0) -> H1UpstreamConn:
        """One more, being dialled. Raises OSError where no socket can be made."""
        engine = self.engine
        # (Who has not been told which protocol it is to be agrees on either: see `agreed_on_h2`.)
        secure = engine.secure_h2 if engine.protocol == "auto" and fresh != UPGRADE and fresh != HTTP1 else engine.secure
        wire = None if secure is None else secure.wire(self._reactor)
        conn = H1UpstreamConn.dial(
            self._reactor, engine.addresses, self, engine.head_block, carrier, self._stats, self.connect_timeout_s, wire
        )
        self.connections += 1
        self._conns.add(conn)
        return conn

    def give_back(self, stream: UpstreamStream, now: float, idle_s: float, max_requests: int) -> None:
        """Take back the connection of a stream whose message ended exactly where it should.

        ``idle_s`` and ``max_requests`` are what the engine announced (-1 = nothing).
        """
        if idle_s >= 0 and idle_s * IDLE_SHARE < self.idle_limit_s:
            self.idle_limit_s = max(idle_s * IDLE_SHARE, 0.0)
        full = self._closed or self._h2 or len(self.idle) - self._died >= self.engine.max_idle
        if full or max_requests == 0 or self.idle_limit_s <= 0 or stream.closed:
            stream.cancel()
            return
        assert isinstance(stream, H1UpstreamStream)  # (named again: compiled, the name decides what is known of it)
        mine = stream
        conn = mine.conn
        self._before()
        conn.park(now, self.idle_limit_s, UNNEEDED_S)
        self.idle.append(conn)

    # --- what connections report
    def idle_closed(self, conn: H1UpstreamConn, by_engine: bool) -> None:
        # All at once: many may have died in this look, and each would be looked for among all.
        self._died += 1
        if self._died == 1:
            self._reactor.poller.soon(self._sweep)
        if by_engine and conn.idle_since:
            age = monotonic() - conn.idle_since
            limit = age * IDLE_SHARE
            if age >= IDLE_FLOOR_S and limit < self.idle_limit_s:
                self.idle_limit_s = limit
                self._log.debug("idle limit learned", engine=self.engine.name, idle_limit_s=round(limit, 3))

    def _sweep(self) -> None:
        self._died = 0
        self.idle = [conn for conn in self.idle if conn.stream is not None]
        self.keep_warm()

    def unneeded(self, conn: H1UpstreamConn, now: float) -> float:
        if now < conn.idle_limit_at and len(self.idle) - self._died <= self.engine.warm_connections:
            return conn.idle_limit_at
        self._stats.stale_avoided += now >= conn.idle_limit_at
        tick = int(now / TICK_S)
        if tick != self._tick:
            self._tick = tick
            self._tick_closes = 0
        self._tick_closes += 1
        # What is left of a crowd goes by and by.
        return now + TICK_S * (self._tick_closes // CLOSES) if self._tick_closes > CLOSES else 0.0

    def gone(self, conn: H1UpstreamConn) -> None:
        self.connections -= 1
        self._conns.discard(conn)

    def warmed(self, conn: H1UpstreamConn) -> None:
        self._warming = None
        self._stats.dials_warm += 1
        # The oldest end of the list: traffic prefers connections that have proven themselves.
        conn.park(monotonic(), self.idle_limit_s, self.idle_limit_s)
        self.idle.insert(0, conn)
        if len(self.idle) - self._died < self.engine.warm_connections:
            self._reactor.loop.call_later(WARM_GAP_S, self.keep_warm)

    def warm_failed(self, detail: str) -> None:
        self._warming = None
        self.unlearn()

    def agreed_on_h2(self, conn: H1UpstreamConn) -> bool:
        if self.engine.secure is None or not conn.wire.for_h2():
            return False
        self.speaks(True)
        return True

    def unlearn(self) -> None:
        """The engine does not take connections: those it closed were no tidying up, and taught nothing."""
        self.idle_limit_s = IDLE_LIMIT_S

    def crashed(self, error: BaseException) -> None:
        self._log.error("engine connection failed inside fastgw", engine=self.engine.name, error=described(error))

    # --- warmth
    def keep_warm(self) -> None:
        """Dial until the wanted number of connections is idle, one after another: many at once leave llama.cpp with
        connections that none of its threads looks at for seconds. Called at start, after losses and by the health task."""
        engine = self.engine
        if self._h2:
            self._slots.keep_warm()
            return
        if self._closed or not engine.addresses or engine.healthy is False:
            return
        missing = engine.warm_connections - len(self.idle) + self._died
        # Busy connections come back and are warm then.
        room = min(engine.warm_connections, engine.max_connections) - self.connections
        if self._warming is not None or missing <= 0 or room <= 0:
            return
        try:
            self._warming = self._connection(None)
        except OSError as error:
            self._shortage.met(error.errno or 0, "a connection kept warm")

    def change(self, connect_timeout_s: float) -> None:
        """The engine's settings have changed: requests from now on are sent by them, on the connections that there are too."""
        self.connect_timeout_s = connect_timeout_s
        own = self.engine.head_block
        for conn in self._conns:
            conn.own = own
        if self._slots is not None:
            self._slots.change(connect_timeout_s)
        self.keep_warm()

    def close(self, at_once: bool = False) -> None:
        """Close what is idle or being warmed, of many some in each turn of the loop; busy connections close as they come back.
        ``at_once``: nobody's stream waits meanwhile."""
        self._closed = True
        if self._slots is not None:
            self._slots.close(at_once)
        self._let_idle_go(len(self.idle) if at_once else CLOSES)

    def _let_idle_go(self, most: int = CLOSES) -> None:
        if self._warming is not None:
            self._warming.close()
            self._warming = None
        self._close_idle(most)

    def _close_idle(self, most: int = CLOSES) -> None:
        idle = self.idle
        while idle and most and (self._closed or self._h2):
            most -= 1
            self._drop(idle.pop())
        if idle and (self._closed or self._h2):
            self._reactor.loop.call_soon(self._close_idle)
            self._reactor.poller.hurry()

    def reopen(self) -> None:
        """After :meth:`close`: connections are kept, and warmed, again."""
        self._closed = False
        if self._slots is not None:
            self._slots.reopen()
        self.keep_warm()

    def break_off(self) -> None:
        """The engine is to be gone now: all connections end as if it had reset them, and none is opened any more. Of many some
        end in each turn of the loop."""
        self.gone_at_once = True
        if self._slots is not None:
            self._slots.break_off()
        self._lose(list(self._conns))

    def break_off_waiting(self) -> None:
        """The engine may be gone: what it has not begun to answer ends as if it had reset the connection, what it has begun
        goes on."""
        if self._slots is not None:
            self._slots.break_off_waiting()
        self._lose([conn for conn in self._conns if conn.stream is not None and not conn.stream.begun()])

    def _lose(self, left: list[H1UpstreamConn]) -> None:
        for conn in left[-ENDS:]:
            conn.lost()
        del left[-ENDS:]
        if left:
            self._reactor.loop.call_soon(self._lose, left)
            self._reactor.poller.hurry()

    # --- which protocol
    def speaks(self, h2: bool) -> None:
        """The engine has shown which protocol it speaks, or that it does not speak HTTP/2 any more: new requests go that
        way."""
        engine = self.engine
        engine.h2 = h2
        if h2 == self._h2:
            return
        self._h2 = h2
        self._log.info("engine speaks HTTP/2" if h2 else "engine speaks HTTP/1.1", engine=engine.name)
        if not h2:
            self._slots.close()
            self.keep_warm()
            return
        if self._slots is None:
            # Only now: what speaks HTTP/2 is no part of a start.
            from fastgw.upstream.h2_slots import H2Slots

            self._slots = H2Slots(
                engine, self, self._reactor, self._stats, self._log, self.connect_timeout_s, self._shortage,
                self.wire, self._not_h2,
            )  # fmt: skip
        self._let_idle_go()
        if not self._closed:
            self._slots.reopen()
            self.keep_warm()

    def adopt(self, wire: Wire) -> Any:
        """A connection of HTTP/2 that the engine's side has made, over ``wire``; returns it. (``protocol = h2`` alone.)"""
        self.engine.came_back()
        return self._slots.adopt(wire)

    def wire(self) -> Wire:
        """What a connection of HTTP/2 is dialled with."""
        secure = self.engine.secure_h2
        return PlainWire(self._reactor) if secure is None else secure.wire(self._reactor)

    def _not_h2(self, detail: str) -> bool:
        """Whoever answered does not speak HTTP/2: whether it is asked in HTTP/1.1 instead."""
        if self.engine.protocol == "h2":
            return False
        self._log.warning("engine does not speak HTTP/2 any more", engine=self.engine.name, reason=detail)
        self.speaks(False)
        return True
