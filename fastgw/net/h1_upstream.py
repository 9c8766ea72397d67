"""One HTTP/1 connection to an engine, and the request on it.

    CONNECTING  the dial is under way
    IDLE        in the pool; readable now means that the engine closed it (or misbehaves)
    READY       taken for a request that has not been written yet
    HEAD        a request was written, no response head yet
    BODY        the response body is arriving; every read goes to the carrier as it is
    TUNNEL      an upgraded protocol
    CLOSED      terminal; it has no stream any more

There is one stream for each connection, used for one request after the other. The connection owns the response head's reader,
and its deadline is that of the dial, or of its time in the pool; the stream's is that of the engine's next sign of life. Never
reads twice per wake-up, and never writes on a connection that its engine has closed as far as the kernel knows.
"""

from __future__ import annotations

import contextlib
import enum
import os
from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError, Source
from fastgw.net.dial import Dial, DialError
from fastgw.net.poller import Reactor
from fastgw.net.shortage import no_socket
from fastgw.net.timers import NEVER, TICK_S
from fastgw.net.upstream import UNPROCESSED, Carrier, UpstreamStream
from fastgw.net.wire import RECV_BYTES, Address, Holder, PlainWire, Wire
from fastgw.protocol.body import LengthSource, source_of
from fastgw.protocol.http1.client import ResponseReader
from fastgw.protocol.http1.writer import LAST_CHUNK, frame, request_head, request_line
from fastgw.protocol.start import RequestStart
from fastgw.stats import Stats

MAX_INTERIM: Final = 16  # 1xx responses before the real one
# Bodies up to this are joined with their head: a copy of a larger one costs more than the call that takes two.
JOIN_BYTES: Final = 8192


class UpstreamState(enum.IntEnum):
    CONNECTING = 0
    IDLE = 1
    READY = 2
    HEAD = 3
    BODY = 4
    TUNNEL = 5
    CLOSED = 6


# Plain module constants: looking a member up on an Enum class costs 50 ns on CPython 3.11.
CONNECTING: Final = UpstreamState.CONNECTING
IDLE: Final = UpstreamState.IDLE
READY: Final = UpstreamState.READY
HEAD: Final = UpstreamState.HEAD
BODY: Final = UpstreamState.BODY
TUNNEL: Final = UpstreamState.TUNNEL
CLOSED: Final = UpstreamState.CLOSED


class Home:
    """The pool that an engine connection belongs to; the layer above is one."""

    __slots__ = ()

    def idle_closed(self, conn: H1UpstreamConn, by_engine: bool) -> None:
        """An idle connection has closed."""
        raise NotImplementedError

    def unneeded(self, conn: H1UpstreamConn, now: float) -> float:
        """An idle connection has waited as long as it was told to: until when it waits on, in any case; 0 = it closes."""
        raise NotImplementedError

    def gone(self, conn: H1UpstreamConn) -> None:
        """A connection has closed, whatever it was doing."""
        raise NotImplementedError

    def warmed(self, conn: H1UpstreamConn) -> None:
        """A dial without a request succeeded."""
        raise NotImplementedError

    def warm_failed(self, detail: str) -> None:
        """A dial without a request failed."""
        raise NotImplementedError

    def agreed_on_h2(self, conn: H1UpstreamConn) -> bool:
        """Whether a dial ended in HTTP/2: another kind of connection is wanted."""
        return False

    def crashed(self, error: BaseException) -> None:
        """A bug showed while a connection was served."""
        raise NotImplementedError


class H1UpstreamStream(UpstreamStream):
    """The request on a connection to an engine; see the head of this file."""

    __slots__ = ("_chunked", "conn", "method", "upgrade")

    def __init__(self, conn: H1UpstreamConn, reactor: Reactor) -> None:
        super().__init__(reactor.wheel)
        self.conn = conn
        self.method = b""  # of the request: it says whether its answer has a body
        self.upgrade = False  # a 101 is an answer to it
        self._chunked = False  # its body goes out in chunks

    def __repr__(self) -> str:
        return f"<H1UpstreamStream on {self.conn!r}>"

    def due(self, deadline: float) -> None:
        if self.wheel_slot and self.wheel_slot * TICK_S <= deadline:
            # Usually the wheel still holds this stream in an earlier bucket: an assignment is enough.
            self.deadline = deadline
        else:
            self.wheel.arm(self, deadline)

    def expired(self, now: float) -> None:
        carrier = self.carrier
        if carrier is None:
            return
        conn = self.conn
        try:
            carrier.on_silent()
        except Exception as error:
            conn.crash(error, carrier)

    def send(
        self, start: RequestStart, trace: bytes, request_id: bytes, length: int, lead: bytes, body: bytes, skip: int, due: float
    ) -> None:
        if not start.line:
            start.line = request_line(start.method, start.target)
        conn = self.conn
        self.method = start.method
        self.upgrade = start.upgrade
        self._chunked = length < 0
        self.waiting = True
        conn.state = HEAD
        conn.requests += 1
        self.due(due)
        head = request_head(start, conn.own, trace, request_id, length)
        # A dead socket is not judged here: what the engine said before it closed may still be readable.
        wire = conn.wire
        size = len(body)
        if not size:
            wire.write(head)
            return
        if length < 0:
            body = frame(body, False)
        if lead:
            wire.write_both(head + lead, body, skip)
        elif size > JOIN_BYTES:
            wire.write_both(head, body, 0)
        else:
            wire.write(head + body)

    def write(self, data: bytes) -> int:
        return self.conn.wire.write(frame(data, False) if self._chunked else data)

    def end(self) -> None:
        if self._chunked:
            self._chunked = False
            self.conn.wire.write(LAST_CHUNK)
        elif self.conn.state is TUNNEL and not self.conn.wire.queued_bytes:
            with contextlib.suppress(OSError):
                self.conn.wire.shutdown()

    def queued(self) -> int:
        return self.conn.wire.queued_bytes

    def begun(self) -> bool:
        conn = self.conn
        return conn.state is BODY or conn.state is TUNNEL or conn.interim > 0 or conn.reader.partial

    def hold(self) -> None:
        self.deadline = NEVER
        self.conn.wire.pause()

    def resume(self) -> None:
        self.conn.wire.resume()

    def tunnel(self) -> None:
        self._chunked = False
        self.conn.state = TUNNEL

    def cancel(self) -> None:
        self.conn.close()


class H1UpstreamConn(Holder):
    """A connection to one engine; see the head of this file."""

    __slots__ = (
        "_spare",
        "home",
        "idle_limit_at",
        "idle_since",
        "idle_turn",
        "interim",
        "making",
        "own",
        "reactor",
        "reader",
        "requests",
        "state",
        "stats",
        "stream",
        "wire",
    )

    def __init__(self, reactor: Reactor, wire: Wire, home: Home, own: bytes, carrier: Carrier | None, stats: Stats) -> None:
        super().__init__()
        self.reactor = reactor
        self.wire = wire
        self.home = home
        self.own = own  # the lines that all requests to this engine have: its name, its key
        self.stats = stats
        # (Gone with the end: they would keep each other alive until a collection.)
        self.stream: H1UpstreamStream | None = H1UpstreamStream(self, reactor)
        self.stream.carrier = carrier
        self.state = CONNECTING
        self.reader = ResponseReader()
        self.interim = 0
        self.requests = 0
        self.idle_since = 0.0
        self.idle_turn = 0  # the poller's, when it became idle
        self.idle_limit_at = NEVER
        self.making: Dial | None = None  # which it is the end of
        self._spare = LengthSource(0)  # what reads the usual body
        wire.holder = self
        stats.upstream_open += 1
        stats.dials_total += 1

    def __repr__(self) -> str:
        return f"<H1UpstreamConn {self.state.name} requests={self.requests} queued={self.wire.queued_bytes}>"

    # --- dialling
    @classmethod
    def dial(cls, reactor: Reactor, addresses: tuple[Address, ...], home: Home, own: bytes, carrier: Carrier | None,
             stats: Stats, timeout_s: float, wire: Wire | None = None) -> H1UpstreamConn:  # fmt: skip
        """Start to connect; ``carrier.on_stream`` or ``on_unreachable`` is called from the loop, never from here.

        Several addresses are tried in order within the one time limit, a handshake of the ``wire`` included. Raises OSError
        when no socket can be made.
        """
        if wire is None:
            wire = PlainWire(reactor)
        dial = Dial(reactor, wire, addresses, timeout_s)
        conn = cls(reactor, wire, home, own, carrier, stats)
        conn.making = dial
        dial.begin(conn)
        return conn

    def on_dialled(self, code: int) -> None:
        dial = self.making
        stream = self.stream
        if stream is None or dial is None:
            return
        if code:
            error = dial.failed(self, code)
            if error is not None:
                self._give_up(error)
            return
        self.making = None
        carrier = stream.carrier
        self.deadline = NEVER
        stream.connected = True
        self.wire.resume()
        other = self.home.agreed_on_h2(self)
        if other:
            self.close()
        if carrier is None:
            if not other:
                self.home.warmed(self)
            return
        try:
            if other:
                carrier.on_end(UNPROCESSED)
                return
            self.state = READY
            carrier.on_stream()
        except Exception as error:
            self.crash(error, carrier)

    def _give_up(self, error: DialError) -> None:
        """It did not come about."""
        stream = self.stream
        assert stream is not None
        carrier = stream.carrier
        self.close()
        if carrier is None:
            self.home.warm_failed(error.detail)
            return
        try:
            if error.lacking:
                carrier.on_error(no_socket(error.detail))
            else:
                carrier.on_unreachable(error.detail, error.timed_out)
        except Exception as bug:
            self.crash(bug, carrier)

    # --- one exchange
    def take(self, carrier: Carrier) -> H1UpstreamStream:
        """Out of the pool, for one request of ``carrier``."""
        stream = self.stream
        assert stream is not None
        self.state = READY
        self.deadline = NEVER
        stream.carrier = carrier
        return stream

    def on_readable(self) -> None:
        try:
            data = self.wire.recv(RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._ended("reset")
            return
        if not data:
            self._ended("fin")
            return
        stream = self.stream
        assert stream is not None
        carrier = stream.carrier
        state = self.state
        try:
            if state is BODY or state is TUNNEL:
                assert carrier is not None
                carrier.on_data(data)
            elif state is HEAD:
                assert carrier is not None
                try:
                    head = self.reader.feed(data)
                    if head is not None and head.status < 200:
                        head = self._after_interim(head, stream.upgrade)
                except GatewayError as error:
                    self.close()
                    carrier.on_error(error)
                    return
                if head is not None:
                    self.state = BODY
                    stream.waiting = False
                    carrier.on_head(head, source_of(head, stream.method, self._spare), self.reader.rest)
            else:
                # Bytes that nobody asked for (a late 408, garbage): such a connection is of no use.
                self._ended("reset")
        except Exception as error:
            self.crash(error, carrier)

    def _after_interim(self, head: ResponseHead | None, upgrade: bool) -> ResponseHead | None:
        """Pass over 100 and 103 (RFC 9110 §15.2), a bounded number of them; 101 is final where it was asked for."""
        while head is not None and head.status < 200:
            if head.status == 101:
                if upgrade:
                    return head
                raise GatewayError("bad_gateway", source=Source.UPSTREAM, detail="101 without an upgrade")
            self.interim += 1
            if self.interim > MAX_INTERIM:
                raise GatewayError("bad_gateway", source=Source.UPSTREAM, detail="too many interim responses")
            rest = self.reader.rest
            if not rest:
                return None
            head = self.reader.feed(rest)
        return head

    def _ended(self, how: str) -> None:
        stream = self.stream
        assert stream is not None
        carrier = stream.carrier
        if self.state is IDLE or carrier is None:
            self._idle_gone(True)
            return
        self.wire.pause()
        try:
            carrier.on_end(how)
        except Exception as error:
            self.crash(error, carrier)

    def on_unwatched(self, code: int) -> None:
        detail = os.strerror(code)
        stream = self.stream
        assert stream is not None
        carrier = stream.carrier
        if self.state is CONNECTING:
            self._give_up(DialError(detail, lacking=True))
        elif self.state is IDLE or carrier is None:
            self._idle_gone(False)
        else:
            self.close()
            try:
                carrier.on_error(no_socket(detail))
            except Exception as error:
                self.crash(error, carrier)

    # --- idleness and the end
    def park(self, now: float, limit_s: float, wait_s: float) -> None:
        """Become idle in the pool: fit to be taken for ``limit_s``; after ``wait_s``, where that is less, it asks the pool."""
        stream = self.stream
        assert stream is not None
        stream.carrier = None
        stream.deadline = NEVER
        self.wire.resume()
        self.state = IDLE
        self.interim = 0
        self.idle_since = now
        self.idle_turn = self.reactor.poller.turn
        self.idle_limit_at = now + limit_s
        ask_at = now + (wait_s if wait_s < limit_s else limit_s)
        slot = self.wheel_slot
        if slot and slot * TICK_S <= ask_at:
            self.deadline = ask_at
        else:
            self.reactor.wheel.arm(self, ask_at)

    def _idle_gone(self, by_engine: bool) -> None:
        self.close()
        self.home.idle_closed(self, by_engine)

    def expired(self, now: float) -> None:
        if self.state is CONNECTING:
            self._give_up(DialError("connect timeout", timed_out=True))
        elif self.state is IDLE:
            until = self.home.unneeded(self, now)
            if until > now:
                self.reactor.wheel.arm(self, until)
            else:
                self._idle_gone(False)

    def on_written(self) -> None:
        stream = self.stream
        assert stream is not None
        carrier = stream.carrier
        if carrier is not None:
            try:
                carrier.on_drained()
            except Exception as error:
                self.crash(error, carrier)

    def lost(self) -> None:
        """End as if the engine had reset the connection: whoever has it is told so, and closes it."""
        if self.wire.closed:
            return
        if self.state is CONNECTING:
            self._give_up(DialError("connection reset"))
        else:
            self._ended("reset")

    def close(self) -> None:
        """Close at once (this is also how generation is cancelled); the carrier is not told."""
        stream = self.stream
        if stream is None:
            return
        self.state = CLOSED
        self.stream = None
        self.idle_limit_at = 0.0  # a pool that has it still does not take it
        self.wire.dispose()
        wheel = self.reactor.wheel
        wheel.disarm(self)
        wheel.disarm(stream)
        stream.carrier = None
        stream.closed = True
        self.stats.upstream_open -= 1
        self.home.gone(self)

    def crash(self, error: BaseException, carrier: Carrier | None) -> None:
        """A bug above: log it, and do not leave the exchange (and its client) waiting."""
        if self.state is IDLE:
            self._idle_gone(False)  # back in the pool already: nobody must take it from there
        else:
            self.close()
        self.home.crashed(error)
        if carrier is not None:
            try:
                carrier.on_error(GatewayError("internal", source=Source.GATEWAY))
            except Exception as again:
                self.home.crashed(again)
