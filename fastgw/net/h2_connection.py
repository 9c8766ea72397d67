"""One client's HTTP/2 connection: many requests in, their answers out in turns.

    GREETING  nothing but the client's preface may come, and then its SETTINGS (RFC 9113 §3.4)
    OPEN      takes requests, so many at once (``net/h2_arrival.py``)
    LEAVING   GOAWAY was said: what is under way goes on to its end, and nothing else
    CLOSED    nothing is served any more. What was said last may still be on its way: then it lingers, as HTTP/1 does

What a turn has written for the connection is framed at its end, a frame of each stream after the other, and leaves with one
call.

Deadlines are looked at together, now and then (:meth:`expired`): of bodies that do not come, of what is not taken, of silence.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Final

from fastgw.net.client import H2, ClientStream, Connection, ConnLimits, Service, Spoken
from fastgw.net.clock import monotonic
from fastgw.net.h1_arrival import Arrival
from fastgw.net.h1_states import DISCARD_BYTES, LINGER_BYTES, LINGER_S, WRITE_PROGRESS_BYTES
from fastgw.net.h2_arrival import MOST_LIMBO, MOST_STREAM, H2Arrival
from fastgw.net.h2_client import GONE_ON, NO_ROOM, STUCK, H2ClientStream
from fastgw.net.h2_link import CLOSED, GREETING, LEAVING, OPEN
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.wire import Wire
from fastgw.protocol.h2 import frames as h2
from fastgw.protocol.h2.frames import PREFACE, H2Error
from fastgw.protocol.h2.hpack import NO_TABLE
from fastgw.protocol.h2.lean import MOST_STREAMS
from fastgw.stats import Stats

MOST_TURN_BYTES: Final = 262144  # that one turn sends on one connection
MOST_UNTAKEN_BYTES: Final = 2 * MOST_TURN_BYTES
"""More than this waits for the client, and it is not read until that has gone: heads, acknowledgements and resets know no
window."""
UNANSWERED_S: Final = 5.0
"""Behind a GOAWAY that still takes what is on its way, and behind the last words of an answer that ends in RST_STREAM, a PING
asks whether the client has seen it: so long it is waited for."""


class H2Connection(Connection):
    """A client's HTTP/2 connection, as far as who serves it must know."""

    __slots__ = ("link", "peer_ip")

    def __init__(
        self, reactor: Reactor, wire: Wire, service: Service, limits: ConnLimits, stats: Stats, peer_ip: str, trusted: bool,
        forwarded: bytes, spoken: Spoken = H2, most: int = MOST_STREAMS,
    ) -> None:  # fmt: skip
        """``wire``: of a connection that was counted already (``stats.connections_open``); :meth:`begin` follows. ``most``:
        requests under way at once."""
        super().__init__()
        self.peer_ip = peer_ip
        self.link = H2ClientLink(reactor, wire, service, limits, stats, peer_ip, trusted, forwarded, spoken, most)
        self.link.connection = self

    @classmethod
    def in_place_of(cls, first: Arrival, service: Service, stats: Stats) -> H2Connection:
        """With the wire of an HTTP/1 connection whose client's first words were HTTP/2's."""
        stream = first.stream
        assert stream is not None
        return cls(
            first.reactor, first.wire, service, first.limits, stats, stream.peer_ip, stream.trusted, stream.forwarded,
            Spoken("h2", stream.spoken.tls, stream.spoken.certificate),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<H2Connection {self.link!r}>"

    def begin(self, data: bytes, seen: int) -> None:
        """Speak, and read: ``data`` was read already, and behind the first ``seen`` bytes of the client's preface."""
        self.link.begin(data, seen)

    def streams(self) -> list[ClientStream]:
        return [stream for stream in self.link.streams.values() if stream.sink is not None]

    def close_idle(self) -> bool:
        return self.link.leave()

    def retire(self) -> None:
        self.link.parts_later()

    def close(self, reset: bool = False) -> None:
        self.link.shut(reset)


class H2ClientLink(H2Arrival):
    """See the head of this file."""

    __slots__ = ("_drained_bytes", "_first", "_in_kernel", "_moved_at", "_parting", "_preface", "_ready", "connection", "stats")

    def __init__(
        self, reactor: Reactor, wire: Wire, service: Service, limits: ConnLimits, stats: Stats, peer_ip: str, trusted: bool,
        forwarded: bytes, spoken: Spoken, most: int,
    ) -> None:  # fmt: skip
        super().__init__(reactor, wire, service, limits, peer_ip, trusted, forwarded, spoken, most)
        self.connection: H2Connection | None = None
        self.stats = stats
        self._preface = PREFACE  # what is still to come of it
        self._first = True  # no block has gone out
        self._ready: deque[H2ClientStream] = deque()  # that have something to send, in turns
        # Whose RST_STREAM waits for the answer to a PING, and its number.
        self._parting: deque[tuple[int, H2ClientStream]] = deque()
        self._drained_bytes = 0
        self._in_kernel = 0  # bytes that the client had not acknowledged when its progress was last looked at
        self._moved_at = 0.0  # when that was

    def __repr__(self) -> str:
        return f"<H2ClientLink {self.peer_ip} {self.state.name} streams={len(self.streams)} queued={self.wire.queued_bytes}>"

    def begin(self, data: bytes, seen: int) -> None:
        self._preface = PREFACE[seen:]
        self.greet()
        self.reactor.wheel.arm(self, monotonic() + self.limits.head_s)
        if data:
            self.came(data)
        self.wire.resume()

    def came(self, data: bytes) -> None:
        if self.state is CLOSED:
            self._drained_bytes += len(data)
            if self._drained_bytes > LINGER_BYTES:
                self.wire.hold()  # enough was read for nothing: the peer's own end is waited for
            return
        preface = self._preface
        if preface:
            size = min(len(preface), len(data))
            if data[:size] != preface[:size]:
                self.broken(H2Error(h2.PROTOCOL_ERROR, "no preface"))
                return
            self._preface = preface[size:]
            data = data[size:]
            if not data:
                return
        H2Arrival.came(self, data)

    def on_left(self) -> None:
        self.ended("fin")

    # --- the write side
    def head(self, block: bytes) -> bytes:
        if self._first:
            self._first = False
            return NO_TABLE + block
        return block

    def ready(self, stream: H2ClientStream) -> None:
        self._ready.append(stream)
        self.flush_soon()

    def flushing(self) -> None:
        """A frame of each stream that has something to send, and again, as far as windows and the turn go."""
        ready = self._ready
        if not self.writable:
            return
        out = self._out
        left = MOST_TURN_BYTES
        while ready and left > 0:
            stream = ready[0]
            if stream.is_over:
                ready.popleft()
                stream.queued = False
                continue
            before = stream.out_bytes
            state = stream.go(out)
            left -= before - stream.out_bytes
            if state == NO_ROOM:
                break
            ready.popleft()
            if state == GONE_ON:
                ready.append(stream)
                continue
            stream.queued = False
            if state == STUCK:
                stream.kept()
            else:
                stream.drained()
        for stream in ready:
            stream.kept()
        if self._parting and self._parting[-1][0] > self._pings:
            self.ping()

    def spare(self, stream: H2ClientStream) -> None:
        # A reset tells a client that still sends that nothing more is wanted (RFC 9113 §8.1). But some that wait for a window
        # do not see it, and wait on (httpx), and some lose the answer that it comes with (curl). So what is short may still
        # come, and is thrown away; what is not is reset, as in `part`.
        number, room = stream.number, stream.room
        rest = stream.length - stream.got if stream.length >= 0 else DISCARD_BYTES + 1
        self.over(stream, -1)
        if rest > DISCARD_BYTES:
            self.part(stream)
            self.flush_soon()
        elif rest > room:
            self.put(h2.window_update(number, rest - room))
            room = rest
        self._forget(number, room)

    def part(self, stream: H2ClientStream) -> None:
        # Clients throw away what they have not passed on when a reset comes (curl, browsers), which in one read with it would
        # be the error event. Who answers a PING has read what came before it.
        parting = self._parting
        parting.append((self._pings + 1, stream))
        if len(parting) > MOST_LIMBO:
            self._parted(parting[0][0])
        if not self.streams and self.state is not CLOSED:
            self.reactor.wheel.arm(self, min(self._idle_until, monotonic() + UNANSWERED_S))

    def flushed(self) -> None:
        if not self.writable and self.wire.queued_bytes > MOST_UNTAKEN_BYTES:
            self.wire.hold()
        if self.state is LEAVING and not self.streams:
            self.finish(h2.NO_ERROR)
        elif self._ready and self.writable and self.window > 0:
            self.flush_soon()

    def on_room(self) -> None:
        if self._ready:
            self.flush_soon()

    def on_window(self, number: int, more: int) -> None:
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.window += more
        if not more or stream.window > h2.MOST_WINDOW:
            code = h2.FLOW_CONTROL_ERROR if more else h2.PROTOCOL_ERROR
            self._fail(stream, code, "a window of no or of too many bytes")
        else:
            self._pump(stream)

    def _pump(self, stream: H2ClientStream) -> None:
        if stream.out_bytes and not stream.queued and stream.window > 0:
            stream.queued = True
            self.ready(stream)

    def on_settings(self, more: int) -> None:
        self._first_window = self.control.window()
        if more:
            for stream in self.streams.values():
                stream.window += more
                if stream.window > h2.MOST_WINDOW:
                    raise H2Error(h2.FLOW_CONTROL_ERROR, "a window that is too large")
                self._pump(stream)
        if self.state is GREETING:
            self.state = OPEN
            self.deadline = NEVER
            if self.service.draining:
                self.warn()  # (what comes with its first words is answered)
            self.rest()

    def on_congested(self) -> None:
        self._in_kernel = self.wire.unacknowledged()
        self._moved_at = monotonic()
        if not self.streams:
            self.reactor.wheel.arm(self, self._moved_at + self._look_s)

    def on_progressed(self) -> None:
        self._in_kernel = self.wire.unacknowledged()
        self._moved_at = monotonic()

    def on_written(self) -> None:
        if self.state is CLOSED:
            self._linger()
            return
        now = monotonic()
        for stream in self._ready:
            stream.stuck_at = now if stream.stuck_at else 0.0
        H2Arrival.on_written(self)
        self.wire.resume()
        self.flush_soon()

    def on_broken(self) -> None:
        self.ended("reset")

    # --- time
    def expired(self, now: float) -> None:
        if self.state is CLOSED:
            self._dispose(False)
            return
        if self.state is GREETING:
            self.finish(h2.PROTOCOL_ERROR)
            return
        if self.wire.queued_bytes and now - self._moved_at >= self.limits.write_s and not self._takes(now):
            self._stalled()
            return
        if self.half_for(now) >= self.limits.head_s:
            self.finish(h2.PROTOCOL_ERROR)
            return
        if self._parting and self.unanswered_for(now) >= UNANSWERED_S:
            self._parted(self._pings)
        if not self.streams and not self.wire.queued_bytes:
            if now >= self._idle_until:
                self.finish(h2.NO_ERROR)
            else:
                self.reactor.wheel.arm(self, self._idle_until if not self._parting else min(self._idle_until, now + 1.0))
            return
        if self.service.draining and self._left == MOST_STREAM:
            self.leave()
        elif self._left == MOST_STREAM - 1 and self.unanswered_for(now) >= UNANSWERED_S:
            self.retire()
        for stream in list(self.streams.values()):
            self._look_at(stream, now)
        self.reactor.wheel.arm(self, now + self._look_s)

    def halved(self) -> None:
        due = monotonic() + self.limits.head_s
        if due < self.deadline:
            self.reactor.wheel.arm(self, due)

    def _look_at(self, stream: H2ClientStream, now: float) -> None:
        """Whether it goes on."""
        limits = self.limits
        if stream.stuck_at and self.writable and now - stream.stuck_at >= limits.write_s:
            sink = stream.sink
            stream.sink = None
            self.over(stream, h2.CANCEL)
            self.stats.stalled += 1
            if sink is not None:
                try:
                    sink.on_stalled()
                except Exception as error:
                    self.service.crashed(stream, error)
        elif stream.connects or stream.told or stream.held:
            return  # nothing is due
        elif stream.sink is not None and now - stream.body_at >= limits.body_s:
            try:
                stream.body_late("body stalled")
            except Exception as error:
                self.service.crashed(stream, error)

    def _takes(self, now: float) -> bool:
        """Whether the client has taken some of what is in the kernel all the same, and gets more time."""
        left = self.wire.unacknowledged()
        if left > self._in_kernel - WRITE_PROGRESS_BYTES:
            return False
        self._in_kernel = left
        self._moved_at = now
        return True

    def _stalled(self) -> None:
        """The client reads nothing at all."""
        streams = list(self.streams.values())
        self.streams.clear()
        self._dispose(True)
        for stream in streams:
            stream.is_over = True
            sink = stream.sink
            stream.sink = None
            self.reactor.wheel.disarm(stream)
            if sink is not None:
                self.stats.stalled += 1
                try:
                    sink.on_stalled()
                except Exception as error:
                    self.service.crashed(stream, error)

    # --- the end
    def on_goaway(self, last: int, code: int) -> None:
        if self.streams:
            self.retire()  # (said, for its word was of our streams: it might open more)
        elif self.state is OPEN:
            self.state = LEAVING
            self._left = self._last
            self.flush_soon()

    def leave(self) -> bool:
        """Take no more requests than are on their way already: close where there is none, and say whether it did."""
        if self.state is CLOSED:
            return False
        if not self.streams and not self.wire.queued_bytes:
            self.finish(h2.NO_ERROR)
            return True
        if self.state is OPEN and self._left == MOST_STREAM:
            self.warn()
        return False

    def parts_later(self) -> None:
        """As :meth:`leave`, but also where no request is under way: one may be on its way here."""
        if self.state is OPEN and self._left == MOST_STREAM:
            self.warn()

    def warn(self) -> None:
        """Say that it ends. What is under way to us is taken still, until the client must have seen this (§6.8)."""
        self._left = MOST_STREAM - 1
        self.put(h2.goaway(MOST_STREAM, h2.NO_ERROR))
        self.ping()

    def on_acked(self, ping: int) -> None:
        self._parted(ping)
        if self.state is OPEN and self._left == MOST_STREAM - 1 and not self.unacked():
            self.retire()

    def _parted(self, ping: int) -> None:
        parting = self._parting
        while parting and parting[0][0] <= ping:
            stream = parting.popleft()[1]
            if not stream.is_over:
                self.over(stream, stream.code)
            elif self._limbo.get(stream.number, -1) >= 0 and self.state is not CLOSED:
                self.put(h2.rst_stream(stream.number, h2.NO_ERROR))

    def retire(self) -> None:
        if self.state is OPEN:
            self.state = LEAVING
            self._left = self._last
            self.put(h2.goaway(self._last, h2.NO_ERROR))

    def broken(self, error: H2Error) -> None:
        if self.state is not CLOSED:
            self.finish(error.code)

    def finish(self, code: int) -> None:
        """GOAWAY, and the end in stages: what is said is to arrive."""
        if self.state is CLOSED:
            return
        self.state = CLOSED
        self.last_words(self._last, code)
        self._tell_all("reset")
        self._linger()

    def _linger(self) -> None:
        wire = self.wire
        if wire.closed:
            return
        now = monotonic()
        if wire.queued_bytes:
            self.reactor.wheel.arm(self, now + self.limits.write_s)
            return
        try:
            wire.shutdown()
        except OSError:
            self._dispose(False)
            return
        wire.resume()
        self.reactor.wheel.arm(self, now + LINGER_S)

    def ended(self, how: str) -> None:
        if self.state is CLOSED:
            self._dispose(False)
            return
        self.state = CLOSED
        self.wire.pause()
        self.reactor.poller.soon(self._gone_now)
        self._tell_all(how)

    def _gone_now(self) -> None:
        self._dispose(False)

    def _tell_all(self, how: str) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.is_over = True
            self._tell_gone(stream, how)
        for stream in self._gone:
            self._tell_gone(stream, how)
        self._gone.clear()

    def shut(self, reset: bool) -> None:
        """Close at once."""
        if self.state is not CLOSED and not reset:
            with contextlib.suppress(OSError):
                self.last_words(self._last, h2.NO_ERROR)
        self._tell_all("reset")
        self._dispose(reset)

    def _dispose(self, reset: bool) -> None:
        connection = self.connection
        if connection is None:
            return
        self.state = CLOSED
        self.connection = None
        self._out.clear()
        self._ready.clear()
        self._parting.clear()
        self._dirty.clear()
        self.wire.dispose(reset)
        self.reactor.wheel.disarm(self)
        self.stats.connections_open -= 1
        self.service.closed(connection, self.peer_ip)
