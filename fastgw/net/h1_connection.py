"""One client's HTTP/1 connection: requests in, one at a time; answers out, in order.

It is in exactly one of the states that ``net/h1_states.py`` explains. Bytes that arrive before their turn (pipelining) wait in
``surplus``, bounded; nothing of a request reaches the service before the answers to all earlier ones have left. A FIN from the
client, half-closed or not, counts as leaving.

Connections take turns: one look of the poller, or one turn of the loop, brings at most one request of each to the service,
however many of them came in one read. So a connection that floods waits for all others after each of its requests. One whose
requests are refused time and again is closed: who floods with wrong keys pays for a new connection now and then.

Its deadline is that of what it waits for: a head, a body, the next request, a client that takes what is written. The limit of
the whole exchange, and what an answer looks like, is its stream's (``net/h1_client.py``).
"""

from __future__ import annotations

import contextlib
from typing import Any

from fastgw.accel.heads import HeadMemory
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError
from fastgw.net.client import H1, MAX_REFUSALS, NO_HEAD, ClientStream, ConnLimits, Service, Spoken
from fastgw.net.clock import monotonic
from fastgw.net.h1_arrival import Arrival
from fastgw.net.h1_client import H1ClientStream
from fastgw.net.h1_states import (
    BODY,
    BUSY,
    CLOSED,
    DISCARD,
    DISCARD_BYTES,
    FLUSH,
    HEAD,
    LINGER,
    LINGER_BYTES,
    LINGER_REFUSED_BYTES,
    LINGER_S,
    OPENING,
    PIPELINED_BYTES,
    SURPLUS_BYTES,
    TUNNEL,
)
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER, TICK_S
from fastgw.net.wire import RECV_BYTES, Wire
from fastgw.protocol.body import LengthSource
from fastgw.protocol.http1.framing import RequestChunks
from fastgw.protocol.http1.server import RequestReader
from fastgw.stats import Stats


class H1Connection(Arrival):
    """A client's connection; see the head of this file."""

    __slots__ = (
        "_advancing",  # a turn is to come, or under way
        "_heads",  # of connections that are gone; None as soon as this one's first has been looked for there
        "_memory",  # the same, to the end
        "_recalled",  # what was known of it
        "read_bytes",
        "reader",
        "service",
        "stats",
    )

    def __init__(
        self,
        reactor: Reactor,
        wire: Wire,
        service: Service,
        limits: ConnLimits,
        stats: Stats,
        peer_ip: str,
        trusted: bool,
        forwarded: bytes,
        heads: HeadMemory | None = None,
        spoken: Spoken = H1,
    ) -> None:
        self._set_up(reactor, wire, limits)
        # (Compiled, the types of arguments are not known, and those of fields are.)
        self.service = service
        self.stats = stats
        # (Gone with the end: they would keep each other alive until a collection.)
        self.stream = H1ClientStream(self, self.reactor.wheel, service, peer_ip, trusted, forwarded)
        self.stream.spoken = spoken
        self.reader = RequestReader(self.limits.head_bytes, self.limits.header_count)
        self.read_bytes = PIPELINED_BYTES
        self._advancing = False
        self._heads = self._memory = heads
        self._recalled: Any = None
        self.stats.connections_open += 1
        self.stats.connections_total += 1
        self.wire.holder = self
        self.reactor.wheel.arm(self, monotonic() + self.limits.idle_s)
        self.wire.resume()

    def __repr__(self) -> str:
        who = self.stream.peer_ip if self.stream is not None else "nobody"
        return f"<H1Connection {who} {self.state.name} queued={self.wire.queued_bytes} surplus={len(self.surplus)}>"

    def streams(self) -> list[ClientStream]:
        return [self.stream] if self.stream is not None and self.stream.sink is not None else []

    # --- bytes in
    def on_readable(self) -> None:
        state = self.state
        body = self.body if state is BODY else None
        landing = body.landing if body is not None else None
        data = b""
        size = 0
        try:
            if landing is not None:
                size = self.wire.land(landing)
            else:
                data = self.wire.recv(self.read_bytes if body is None else RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._gone("reset")
            return
        except MemoryError as error:
            # There is no room for the body. To read on would meet it again, or leave a hole in what was read.
            held = self.stream
            assert held is not None
            self.service.crashed(held, error)
            return
        if not data and not size:
            self._gone("fin")
            return
        stream = self.stream
        assert stream is not None
        try:
            if size:
                assert isinstance(body, LengthSource)
                body.took(size)
                self._came(b"", size)
            elif state is HEAD:
                if self.surplus:
                    self._take_early(data)  # its turn is to come: nothing overtakes what waits
                else:
                    self._take_turn(data)
            elif state is BODY:
                self._take_body(data)
            elif state is BUSY or state is FLUSH:
                self._take_early(data)
            elif state is TUNNEL:
                sink = stream.sink
                assert sink is not None
                sink.on_tunnel_data(data)
            elif state is DISCARD:
                self._take_discarded(data)
            elif state is LINGER:
                self._drained_bytes += len(data)
                if self._drained_bytes > LINGER_BYTES:
                    # Enough was read for nothing. A close now would send an RST: the peer's own end is waited for.
                    self.wire.hold()
        except Exception as error:
            self.service.crashed(stream, error)

    def on_left(self) -> None:
        self._gone("fin")

    def _take_head(self, data: bytes) -> None:
        reader = self.reader
        stream = self.stream
        assert stream is not None
        if self._heads is not None:
            self._recall(stream, data)
        try:
            head = reader.feed(data)
        except GatewayError as error:
            if not reader.preface or stream.received_at or not self._hand_over(stream, reader.rest):
                self._refuse(stream, error, monotonic())
            return
        except Exception as error:
            # Nobody has been told of a request yet: without this its client would wait for an answer until the head is late.
            self.service.crashed(stream, error)
            if self.stream is not None:
                self._refuse(stream, GatewayError("internal"), monotonic())
            return
        if head is None:
            # A head's clock starts with its first byte (empty lines before it are none of it, and buy no time).
            if 0 < reader.held <= len(data):
                deadline = monotonic() + self.limits.head_s
                if deadline < self.deadline or self.deadline == NEVER:
                    self.reactor.wheel.arm(self, deadline)
            return
        stream.received_at = monotonic()
        stream.head = head
        stream.sent = 0
        self.state = OPENING
        self.deadline = NEVER
        length = head.content_length
        rest = reader.rest
        if head.chunked:
            self.body = RequestChunks()
        elif length > len(rest):
            self.body = LengthSource(length)
        else:
            # The usual case: head and body came in one read, or there is no body.
            body = rest
            if length < len(rest):
                body = rest[:length] if length > 0 else b""
                self.surplus = rest[length:] if length > 0 else rest
            self.service.open(stream, head)
            if self.state is OPENING:
                self.state = BUSY
                # Held by a name: the call may end the exchange, and the stream's was the last reference to it.
                sink = stream.sink
                assert sink is not None
                sink.on_body(body, True)
            return
        self.body_begun = bool(rest)
        self.service.open(stream, head)
        if self.state is OPENING:
            self.state = BODY
            self._drained_bytes = 0
            self.reactor.wheel.arm(self, stream.received_at + self.limits.body_s)
            sink = stream.sink
            source = self.body
            assert sink is not None
            assert source is not None
            landing = source.landing = sink.landing(length) if length > 0 else None
            if rest:
                self._take_body(rest)
                if landing is not None and len(data) >= self.read_bytes and self.state is BODY and self.wire.reading:
                    self.on_readable()  # there is more: its turn is not over yet
        elif self.state is DISCARD and rest:
            self._take_discarded(rest)

    def _recall(self, stream: H1ClientStream, data: bytes) -> None:
        """The connection's first bytes: perhaps a connection that is gone has said the same."""
        heads = self._heads
        self._heads = None
        assert heads is not None
        kept = heads.find(data)
        if kept is not None:
            head = self.reader.adopt(kept)
            stream.known = self._recalled = self.service.recalled(stream, kept, head)

    def _refuse(self, stream: H1ClientStream, error: GatewayError, now: float) -> None:
        """There is no head that could be read; nothing says where the next one would begin."""
        self.state = OPENING
        stream.received_at = now
        stream.head = NO_HEAD
        stream.sent = 0
        self.service.refuse(stream, error)

    def _take_early(self, data: bytes) -> None:
        self.surplus = self.surplus + data if self.surplus else keep(data)
        if len(self.surplus) >= SURPLUS_BYTES:
            self.wire.hold()

    def _take_discarded(self, data: bytes) -> None:
        body = self.body
        assert body is not None
        self._drained_bytes += len(data)
        try:
            body.feed(data)
        except GatewayError:
            self.linger()
            return
        if body.done:
            self.body = None
            self.surplus = body.rest
            self._rest()
        elif self._drained_bytes > DISCARD_BYTES:
            self.linger()

    def _gone(self, how: str) -> None:
        stream = self.stream
        if stream is None:
            return
        sink = stream.sink
        stream.sink = None
        if sink is None:
            self.close()
            return
        # The engine's work is stopped first. Our own socket is in no hurry: a close costs the kernel 10 microseconds, and
        # a thousand clients may leave in one turn of the loop.
        self.wire.pause()
        self.reactor.poller.slowly(self.close)
        try:
            sink.on_gone(how)
        except Exception as error:
            self.service.crashed(stream, error)

    # --- turns
    def _take_turn(self, data: bytes) -> None:
        """One request, or the next piece of one."""
        self._advancing = True
        try:
            self._take_head(data)
        finally:
            self._advancing = False
        if self.surplus and self.state is HEAD and not self.wire.queued_bytes:
            self._next_turn()

    def _next_turn(self) -> None:
        """Go on with what was pipelined, when everybody else has had a turn.

        A turn of the loop, not only of this look: the exchange that just ended still gives back what it holds, and what an
        engine may send behind its answer has time to show, before its connection is taken for the next request.
        """
        if not self._advancing:
            self._advancing = True
            self.read_bytes = PIPELINED_BYTES
            self.reactor.loop.call_soon(self._advance)
            self.reactor.poller.hurry()

    def _advance(self) -> None:
        """The turn has come."""
        self._advancing = False
        if self.state is HEAD and self.surplus and not self.wire.queued_bytes:
            data = self.surplus
            self.surplus = b""
            stream = self.stream
            assert stream is not None
            try:
                self._take_turn(data)
            except Exception as error:
                self.service.crashed(stream, error)
        if len(self.surplus) < SURPLUS_BYTES and not (self.state is HEAD and self.wire.queued_bytes):
            self.resume()

    def ended(self, keep_alive: bool) -> None:
        self.held_back = False
        if self.wire.closed:
            return
        if not keep_alive or self.service.draining:
            if self._said_last():
                self.close()
            else:
                self.linger()
            return
        body = self.body
        if body is not None:
            if body.left > DISCARD_BYTES:
                self.linger()
                return
            body.landing = None
            self._drained_bytes = 0
            self.state = DISCARD
            self.wire.resume()
            self.reactor.wheel.arm(self, monotonic() + self.limits.body_s)
            return
        self._rest()

    def _rest(self) -> None:
        wire = self.wire
        self.state = HEAD
        if wire.queued_bytes:
            # No further request before this answer has left: its own would be queued behind, without end, and what is
            # read now would overtake the surplus. ``on_written`` comes back here.
            wire.pause()
            self.reactor.wheel.arm(self, monotonic() + self.limits.write_s)
            return
        deadline = monotonic() + self.limits.idle_s
        slot = self.wheel_slot
        if slot and slot * TICK_S <= deadline:
            # Usually the wheel still holds this connection in an earlier bucket: an assignment is enough.
            self.deadline = deadline
        else:
            self.reactor.wheel.arm(self, deadline)
        if self.surplus:
            self._next_turn()
        else:
            # (Of what may be a long one again, what comes with the head is copied: it is to be little.)
            self.read_bytes = PIPELINED_BYTES if self._long else RECV_BYTES
        if not wire.reading and len(self.surplus) < SURPLUS_BYTES:
            self.resume()

    # --- an upgraded protocol
    def tunnel(self) -> None:
        if not self.wire.closed:
            self.state = TUNNEL
            self.deadline = NEVER

    def early(self) -> bytes:
        data = self.surplus
        self.surplus = b""
        # Much of it may have come, and reading stopped for that.
        self.resume()
        return data

    # --- the end
    def linger(self) -> None:
        """Close in stages: write side first, then drain, bounded in bytes and time."""
        stream = self.stream
        if stream is None:
            return
        wire = self.wire
        self.held_back = False
        self.body = None
        self.surplus = b""
        if wire.queued_bytes:
            self.state = FLUSH
            self.reactor.wheel.arm(self, monotonic() + self.limits.write_s)
            return
        self.state = LINGER
        self._drained_bytes = LINGER_BYTES - LINGER_REFUSED_BYTES if stream.refusals >= MAX_REFUSALS else 0
        try:
            wire.shutdown()
        except OSError:
            self.close()
            return
        wire.resume()
        self.reactor.wheel.arm(self, monotonic() + LINGER_S)

    def close(self, reset: bool = False) -> None:
        stream = self.stream
        if stream is None:
            return
        self.state = CLOSED
        self.stream = None
        self.wire.dispose(reset)
        memory = self._memory
        known = stream.known
        if memory is not None and known is not None and known is not self._recalled:
            kept = self.reader.remembered(known)
            if kept is not None and known.head is kept.head:
                memory.keep(kept)
        wheel = self.reactor.wheel
        wheel.disarm(self)
        wheel.disarm(stream)
        self.body = None
        self.surplus = b""
        self.stats.connections_open -= 1
        self.service.closed(self, stream.peer_ip)

    def close_idle(self) -> bool:
        if self.state is HEAD and not self.wire.queued_bytes and not self.reader.partial:
            with contextlib.suppress(OSError):
                self.wire.shutdown()
            self.close()
            return True
        return False

    # --- writing, and deadlines
    def on_written(self) -> None:
        state = self.state
        if state is FLUSH:
            self.linger()
            return
        if state is HEAD:
            self._rest()
            return
        if state is BODY or state is DISCARD:
            self.reactor.wheel.arm(self, monotonic() + self.limits.body_s)
        else:
            self.deadline = NEVER
        stream = self.stream
        assert stream is not None
        sink = stream.sink
        if sink is not None:
            try:
                sink.on_drained()
            except Exception as error:
                self.service.crashed(stream, error)

    def on_broken(self) -> None:
        self._gone("reset")

    def expired(self, now: float) -> None:
        state = self.state
        stream = self.stream
        if stream is None:
            return
        if now >= stream.deadline and stream.sink is not None:
            stream.expired(now)
            return
        wire = self.wire
        try:
            if wire.queued_bytes and state is not LINGER:
                if self.takes(now):
                    return
                # No progress on the write side: the client does not read.
                sink = stream.sink
                stream.sink = None
                self.close(True)
                self.stats.stalled += 1
                if sink is not None:
                    sink.on_stalled()
            elif state is HEAD:
                if self.reader.partial:
                    self._refuse(stream, GatewayError("request_timeout"), now)
                else:
                    self.close()
            elif state is BODY:
                if wire.reading:
                    self._body_late("body stalled")
                else:
                    # We hold the client back ourselves (a slow engine): its silence is not a stall.
                    self.reactor.wheel.arm(self, now + self.limits.body_s)
            elif state is not TUNNEL and stream.sink is None:
                self.close()
        except Exception as error:
            self.service.crashed(stream, error)
