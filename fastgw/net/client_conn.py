"""One client's connection: requests in, one at a time; answers out, in order.

Theory of operation. The connection is in exactly one state:

    HEAD     waiting for a request head, or in the middle of one
    OPENING  a head is complete and the service is deciding (never seen between two loop callbacks)
    BODY     an exchange lives and its request body is still arriving
    BUSY     an exchange lives and its request is complete
    DISCARD  the answer is out, the rest of a refused request's body is being read and thrown away
    FLUSH    the last answer waits for the client to take it; then LINGER
    LINGER   our side is closed (FIN sent); what the client still sends is drained so that it is not met by an RST,
             which would destroy the answer in flight (RFC 9112 §9.6); after so much it is only waited for its end
    TUNNEL   the bytes belong to an upgraded protocol
    CLOSED   terminal

Bytes that arrive before their turn (pipelining) wait in ``surplus``, bounded; nothing of a request reaches the service
before the answers to all earlier ones have left. A FIN from the client, half-closed or not, counts as leaving.

Connections take turns: one look of the poller, or one turn of the loop, brings at most one request of each to the service,
however many of them came in one read. So a connection that floods waits for all others after each of its requests. One whose
requests are refused time and again is closed: who floods with wrong keys pays for a new connection now and then.
"""

from __future__ import annotations

import contextlib
import enum
import socket
from typing import Any, Final

from fastgw.accel.heads import RequestHead
from fastgw.accel.sockets import keep, recv
from fastgw.errors import GatewayError
from fastgw.net.clock import monotonic
from fastgw.net.poller import LEFT, READ, Reactor
from fastgw.net.session import Session
from fastgw.net.stream import DEAD, RECV_BYTES, RawStream
from fastgw.net.timers import NEVER, TICK_S
from fastgw.protocol.http1.framing import ChunkedBody, LengthBody
from fastgw.protocol.http1.server import RequestReader
from fastgw.stats import Stats

SURPLUS_BYTES: Final = 65536  # pipelined bytes held while an exchange is under way
# Read at once from a client that is not known yet, or that pipelines. What is left of a read is copied for each request in
# it, so a large read full of small requests would cost each of them more than itself.
PIPELINED_BYTES: Final = 16384
MAX_REFUSALS: Final = 10  # on one connection, without an answer of an engine between them
# What is read and thrown away to keep a refused request's connection usable: about what lingering reads in any case.
DISCARD_BYTES: Final = 2 << 20
BODY_PROGRESS_BYTES: Final = 256  # the least that a body must bring within the stall limit
WRITE_PROGRESS_BYTES: Final = 1024  # the least that a client must take within the write limit
LINGER_BYTES: Final = 1 << 20
LINGER_REFUSED_BYTES: Final = 65536  # of who was sent away
LINGER_S: Final = 2.0


class State(enum.IntEnum):
    HEAD = 0
    OPENING = 1
    BODY = 2
    BUSY = 3
    DISCARD = 4
    FLUSH = 5
    LINGER = 6
    TUNNEL = 7
    CLOSED = 8


# Plain module constants: looking a member up on an Enum class costs 50 ns on CPython 3.11, thirty times a request.
HEAD: Final = State.HEAD
OPENING: Final = State.OPENING
BODY: Final = State.BODY
BUSY: Final = State.BUSY
DISCARD: Final = State.DISCARD
FLUSH: Final = State.FLUSH
LINGER: Final = State.LINGER
TUNNEL: Final = State.TUNNEL
CLOSED: Final = State.CLOSED


class Service:
    """What serves the requests of client connections; the layer above is one."""

    __slots__ = ("draining",)

    def __init__(self) -> None:
        self.draining = False

    def open(self, conn: ClientConn, head: RequestHead) -> None:
        """Begin an exchange: set ``conn.sink``, or answer at once."""
        raise NotImplementedError

    def refuse(self, conn: ClientConn, error: GatewayError) -> None:
        """Answer a request whose head could not be read."""
        raise NotImplementedError

    def crashed(self, conn: ClientConn, error: BaseException) -> None:
        """A bug showed while ``conn`` was served."""
        raise NotImplementedError

    def closed(self, conn: ClientConn) -> None:
        """``conn`` has closed."""
        raise NotImplementedError


class ConnLimits:
    """The figures a client connection works under (seconds and bytes)."""

    __slots__ = ("body_s", "head_bytes", "head_s", "header_count", "idle_s", "write_s")

    def __init__(
        self, *, head_bytes: int, header_count: int, head_s: float, idle_s: float, body_s: float, write_s: float
    ) -> None:
        self.head_bytes = head_bytes
        self.header_count = header_count
        self.head_s = head_s
        self.idle_s = idle_s
        self.body_s = body_s
        self.write_s = write_s


class ClientConn(RawStream):
    """A client's connection; see the head of this file."""

    __slots__ = (
        "_advancing",  # a turn is to come, or under way
        "_drained_bytes",  # bytes seen in BODY since the last progress, in DISCARD, in LINGER
        "_in_kernel",  # bytes that the client had not acknowledged when its progress was last looked at
        "body",
        "forwarded",
        "held_back",
        "limits",
        "memo",
        "peer_ip",
        "read_bytes",
        "reader",
        "received_at",
        "refusals",
        "service",
        "sink",
        "state",
        "stats",
        "surplus",
        "total_deadline",
        "trusted",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        service: Service,
        limits: ConnLimits,
        stats: Stats,
        peer_ip: str,
        trusted: bool,
    ) -> None:
        super().__init__(reactor, sock)
        self.service = service
        self.limits = limits
        self.stats = stats
        self.peer_ip = peer_ip
        self.trusted = trusted
        # Constant for a peer whose own word about others is not taken.
        # (A Unix socket has no address to tell.)
        address = b"x-forwarded-for: %b\r\n" % peer_ip.encode() if peer_ip != "unix" else b""
        self.forwarded = b"" if trusted else address + b"x-forwarded-proto: http\r\n"
        self.reader = RequestReader(limits.head_bytes, limits.header_count)
        self.state = HEAD
        self.sink: Session | None = None
        self.body: LengthBody | ChunkedBody | None = None
        self.held_back = False  # by the service
        self.surplus = b""
        self.memo: Any = None  # the service's: what it made of the last head
        self.received_at = 0.0
        self.read_bytes = PIPELINED_BYTES
        self.refusals = 0  # since an engine last answered; the service counts
        self.total_deadline = NEVER
        self._advancing = False
        self._drained_bytes = 0
        self._in_kernel = 0
        stats.connections_open += 1
        stats.connections_total += 1
        self.wheel.arm(self, monotonic() + limits.head_s)
        self.resume_reading()

    def __repr__(self) -> str:
        return f"<ClientConn {self.peer_ip} {self.state.name} queued={self.queued_bytes} surplus={len(self.surplus)}>"

    # --- bytes in
    def _readable(self) -> None:
        if self.closed:
            return
        state = self.state
        try:
            data = recv(self.fd, RECV_BYTES if state is BODY else self.read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._gone("reset")
            return
        if not data:
            self._gone("fin")
            return
        try:
            if state is HEAD:
                if self.surplus:
                    self._take_early(data)  # its turn is to come: nothing overtakes what waits
                else:
                    self._take_turn(data)
            elif state is BODY:
                self._take_body(data)
            elif state is BUSY or state is FLUSH:
                self._take_early(data)
            elif state is TUNNEL:
                sink = self.sink
                assert sink is not None
                sink.on_tunnel_data(data)
            elif state is DISCARD:
                self._take_discarded(data)
            elif state is LINGER:
                self._drained_bytes += len(data)
                if self._drained_bytes > LINGER_BYTES:
                    # Enough was read for nothing. A close now would send an RST: the peer's own end is waited for.
                    self._read_no_more()
        except Exception as error:
            self.service.crashed(self, error)

    def hold_back(self) -> None:
        """For the service: read no more of this request until ``go_on``; that the client leaves is noticed all the same."""
        self.held_back = True
        self._read_no_more()

    def go_on(self) -> None:
        """For the service: what held the client back is over."""
        self.held_back = False
        self.resume_reading()

    def _read_no_more(self) -> None:
        if not self.closed:
            self.reading = False
            self.poller.watch(self, (self.interest & ~READ) | LEFT)

    def resume_reading(self) -> None:
        """Read again, unless the service holds the client back."""
        if not self.reading and not self.closed and not self.held_back:
            self.reading = True
            # (What came before its end is read before that is.)
            self.poller.watch(self, (self.interest | READ) & ~LEFT)

    def mind_leaving(self, minded: bool) -> None:
        """Whether a client that leaves while it is not read is noticed at once. (One that is read is, in any case; and one that
        is held back.)"""
        if self.held_back:
            return
        if not self.closed:
            self.poller.watch(self, self.interest | LEFT if minded else self.interest & ~LEFT)

    def _left(self) -> None:
        self._gone("fin")

    def _take_head(self, data: bytes) -> None:
        reader = self.reader
        try:
            head = reader.feed(data)
        except GatewayError as error:
            self.state = OPENING
            self.received_at = monotonic()
            self.service.refuse(self, error)
            return
        if head is None:
            # The clock of a head starts with its first byte; the connection's first one started at accept.
            if reader.held == len(data):
                deadline = monotonic() + self.limits.head_s
                if deadline < self.deadline or self.deadline == NEVER:
                    self.wheel.arm(self, deadline)
            return
        self.received_at = monotonic()
        self.state = OPENING
        self.deadline = NEVER
        length = head.content_length
        rest = reader.rest
        if head.chunked:
            self.body = ChunkedBody()
        elif length > 0:
            if len(rest) >= length:
                # The usual case: head and body came in one read.
                if len(rest) == length:
                    body = rest
                else:
                    body = rest[:length]
                    self.surplus = rest[length:]
                self.service.open(self, head)
                if self.state is OPENING:
                    self.state = BUSY
                    # Held by a name: the call may end the exchange, and the connection's was the last reference to it.
                    sink = self.sink
                    assert sink is not None
                    sink.on_body(body, True)
                return
            self.body = LengthBody(length)
        else:
            if rest:
                self.surplus = rest
            self.service.open(self, head)
            if self.state is OPENING:
                self.state = BUSY
                sink = self.sink
                assert sink is not None
                sink.on_body(b"", True)
            return
        self.service.open(self, head)
        if self.state is OPENING:
            self.state = BODY
            self._drained_bytes = 0
            self.wheel.arm(self, min(self.received_at + self.limits.body_s, self.total_deadline))
            if rest:
                self._take_body(rest)
        elif self.state is DISCARD and rest:
            self._take_discarded(rest)

    def _take_body(self, data: bytes) -> None:
        body = self.body
        sink = self.sink
        assert body is not None
        assert sink is not None
        try:
            payload = body.feed(data)
        except GatewayError as error:
            self.body = None
            self.state = BUSY
            sink.on_request_error(error)
            return
        if body.done:
            self.body = None
            self.surplus = body.rest
            self.state = BUSY
            self.deadline = NEVER
            if self.total_deadline != NEVER:
                self.wheel.arm(self, self.total_deadline)
            sink.on_body(payload, True)
            return
        self._drained_bytes += len(data)
        if self._drained_bytes >= BODY_PROGRESS_BYTES:
            # A trickle is a stall too: only so many bytes buy more time.
            self._drained_bytes = 0
            self.deadline = min(monotonic() + self.limits.body_s, self.total_deadline)
        if payload:
            sink.on_body(payload, False)

    def _take_early(self, data: bytes) -> None:
        self.surplus = self.surplus + data if self.surplus else keep(data)
        if len(self.surplus) >= SURPLUS_BYTES:
            self._read_no_more()

    def _take_discarded(self, data: bytes) -> None:
        body = self.body
        assert body is not None
        self._drained_bytes += len(data)
        try:
            body.feed(data)
        except GatewayError:
            self._linger()
            return
        if body.done:
            self.body = None
            self.surplus = body.rest
            self._rest()
        elif self._drained_bytes > DISCARD_BYTES:
            self._linger()

    def _gone(self, how: str) -> None:
        sink = self.sink
        self.sink = None
        if sink is None:
            self._close_now()
            return
        # The engine's work is stopped first. Our own socket is in no hurry: a close costs the kernel 10 microseconds, and
        # a thousand clients may leave in one turn of the loop.
        self.pause_reading()
        self.poller.soon(self._close_now)
        try:
            sink.on_client_gone(how)
        except Exception as error:
            self.service.crashed(self, error)

    # --- turns
    def _take_turn(self, data: bytes) -> None:
        """One request, or the next piece of one."""
        self._advancing = True
        try:
            self._take_head(data)
        finally:
            self._advancing = False
        if self.surplus and self.state is HEAD and not self.queued_bytes:
            self._next_turn()

    def _next_turn(self) -> None:
        """Go on with what was pipelined, when everybody else has had a turn.

        A turn of the loop, not only of this look: the exchange that just ended still gives back what it holds, and what an
        engine may send behind its answer has time to show, before its connection is taken for the next request.
        """
        if not self._advancing:
            self._advancing = True
            self.read_bytes = PIPELINED_BYTES
            self.loop.call_soon(self._advance)
            self.poller.hurry()

    def _advance(self) -> None:
        """The turn has come."""
        self._advancing = False
        if self.state is HEAD and self.surplus and not self.queued_bytes:
            data = self.surplus
            self.surplus = b""
            try:
                self._take_turn(data)
            except Exception as error:
                self.service.crashed(self, error)
        if len(self.surplus) < SURPLUS_BYTES and self.state is not CLOSED and not (self.state is HEAD and self.queued_bytes):
            self.resume_reading()

    def finished(self, keep_alive: bool) -> None:
        """The answer to the current request has been written whole; ``keep_alive`` = another may follow."""
        self.sink = None
        self.total_deadline = NEVER
        self.held_back = False
        if self.closed:
            return
        if not keep_alive or self.service.draining:
            self._linger()
            return
        if self.body is not None:
            if isinstance(self.body, LengthBody) and self.body.left > DISCARD_BYTES:
                self._linger()
                return
            self._drained_bytes = 0
            self.state = DISCARD
            self.resume_reading()
            self.wheel.arm(self, monotonic() + self.limits.body_s)
            return
        self._rest()

    def _rest(self) -> None:
        self.state = HEAD
        if self.queued_bytes:
            # No further request before this answer has left: its own would be queued behind, without end, and what is
            # read now would overtake the surplus. ``drained`` comes back here.
            self.pause_reading()
            self.wheel.arm(self, monotonic() + self.limits.write_s)
            return
        deadline = monotonic() + self.limits.idle_s
        slot = self.wheel_slot
        if slot and slot * TICK_S <= deadline:
            # Usually the wheel still holds this connection in an earlier bucket: an assignment is enough.
            self.deadline = deadline
        else:
            self.wheel.arm(self, deadline)
        if self.surplus:
            self._next_turn()
        else:
            self.read_bytes = RECV_BYTES
        if not self.reading and len(self.surplus) < SURPLUS_BYTES:
            self.resume_reading()

    # --- the end
    def answer(self, data: bytes, keep_alive: bool) -> None:
        """Write a complete answer and end the turn."""
        if self.write(data) == DEAD:
            self.sink = None
            self.close()
            return
        self.finished(keep_alive)

    def _linger(self) -> None:
        """Close in stages: write side first, then drain, bounded in bytes and time."""
        self.held_back = False
        self.body = None
        self.surplus = b""
        if self.queued_bytes:
            self.state = FLUSH
            self.wheel.arm(self, monotonic() + self.limits.write_s)
            return
        self.state = LINGER
        self._drained_bytes = LINGER_BYTES - LINGER_REFUSED_BYTES if self.refusals >= MAX_REFUSALS else 0
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.resume_reading()
        self.wheel.arm(self, monotonic() + LINGER_S)

    def abort(self, *, reset: bool = False) -> None:
        """End without completing the answer. Without ``reset`` what is queued still goes out, then FIN."""
        self.sink = None
        if reset:
            self.close(reset=True)
        elif not self.closed:
            self._linger()

    def close(self, *, reset: bool = False) -> None:
        """Close at once; an exchange that still lives is not told."""
        self._close_now(reset=reset)

    def _close_now(self, *, reset: bool = False) -> None:
        if self.closed:
            return
        self.state = CLOSED
        self.dispose(reset=reset)
        self.body = None
        self.surplus = b""
        self.stats.connections_open -= 1
        self.service.closed(self)

    def close_idle(self) -> bool:
        """Close when no request is under way (for the drain); says whether it did."""
        if self.state is HEAD and not self.queued_bytes and not self.reader.partial:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            self.close()
            return True
        return False

    # --- deadlines
    def congested(self) -> None:
        self._in_kernel = self.unacknowledged()
        self.wheel.arm(self, min(monotonic() + self.limits.write_s, self.total_deadline))

    def progressed(self) -> None:
        self._in_kernel = self.unacknowledged()
        self.deadline = min(monotonic() + self.limits.write_s, self.total_deadline)

    def drained(self) -> None:
        state = self.state
        if state is FLUSH:
            self._linger()
            return
        if state is HEAD:
            self._rest()
            return
        if state is BODY or state is DISCARD:
            self.wheel.arm(self, min(monotonic() + self.limits.body_s, self.total_deadline))
        else:
            self.wheel.arm(self, self.total_deadline)
        sink = self.sink
        if sink is not None:
            try:
                sink.on_client_drained()
            except Exception as error:
                self.service.crashed(self, error)

    def write_failed(self) -> None:
        self._gone("reset")

    def set_total_deadline(self, deadline: float) -> None:
        """Bound the whole exchange; survives the shorter deadlines in between."""
        held = self.total_deadline
        self.total_deadline = deadline
        if self.deadline > deadline or self.deadline == held:
            self.wheel.arm(self, deadline)

    def expired(self, now: float) -> None:
        state = self.state
        sink = self.sink
        try:
            over = now >= self.total_deadline
            if over and sink is not None and not (state is BODY and self.reading and not self.queued_bytes):
                self.total_deadline = NEVER
                sink.on_total_timeout()
            elif self.queued_bytes and state is not LINGER:
                left = self.unacknowledged()
                if left <= self._in_kernel - WRITE_PROGRESS_BYTES:
                    # The kernel holds megabytes and asks for more only when much of them has left: a slow reader, who
                    # reads all the same.
                    self._in_kernel = left
                    self.wheel.arm(self, min(now + self.limits.write_s, self.total_deadline))
                    return
                # No progress on the write side: the client does not read.
                self.sink = None
                self.close(reset=True)
                self.stats.stalled += 1
                if sink is not None:
                    sink.on_client_stalled()
            elif state is HEAD:
                if self.reader.partial:
                    self.state = OPENING
                    self.received_at = now
                    self.service.refuse(self, GatewayError("request_timeout"))
                else:
                    self.close()
            elif state is BODY:
                if not self.reading:
                    # We hold the client back ourselves (a slow engine): its silence is not a stall.
                    self.wheel.arm(self, min(now + self.limits.body_s, self.total_deadline))
                    return
                self.body = None
                self.state = BUSY
                if sink is not None:
                    detail = "request_timeout_s reached within the body" if over else "body stalled"
                    sink.on_request_error(GatewayError("request_timeout", detail=detail))
            elif state is not TUNNEL and sink is None:
                self.close()
        except Exception as error:
            self.service.crashed(self, error)


__all__ = ["ClientConn", "ConnLimits", "Service", "State"]
