"""One connection to an engine: dialled, idle in a pool, or carrying one exchange.

    CONNECTING  the dial is under way
    IDLE        in the pool; readable now means that the engine closed it (or misbehaves)
    HEAD        a request was written, no response head yet
    BODY        the response body is arriving; every read goes to the carrier as it is
    TUNNEL      an upgraded protocol
    CLOSED      terminal

Owns the response head's reader; the body's framing belongs to the relay above. Never reads twice per wake-up, and
never writes on a connection that its engine has closed as far as the kernel knows.
"""

from __future__ import annotations

import enum
import os
import socket
from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.accel.sockets import recv
from fastgw.errors import GatewayError, Source
from fastgw.net.clock import monotonic
from fastgw.net.poller import WRITE, Reactor
from fastgw.net.session import Session
from fastgw.net.shortage import LACKING
from fastgw.net.stream import RECV_BYTES, RawStream
from fastgw.net.timers import NEVER, TICK_S
from fastgw.protocol.http1.client import ResponseReader
from fastgw.stats import Stats

Address = tuple[int, object]  # family, socket address

MAX_INTERIM: Final = 16  # 1xx responses before the real one

_IN_PROGRESS: Final = (115, 11)  # EINPROGRESS; EAGAIN is a Unix socket's full backlog


class UpstreamState(enum.IntEnum):
    CONNECTING = 0
    IDLE = 1
    HEAD = 2
    BODY = 3
    TUNNEL = 4
    CLOSED = 5


# Plain module constants: looking a member up on an Enum class costs 50 ns on CPython 3.11.
CONNECTING: Final = UpstreamState.CONNECTING
IDLE: Final = UpstreamState.IDLE
HEAD: Final = UpstreamState.HEAD
BODY: Final = UpstreamState.BODY
TUNNEL: Final = UpstreamState.TUNNEL
CLOSED: Final = UpstreamState.CLOSED


class Home:
    """The pool that an engine connection belongs to; the layer above is one."""

    __slots__ = ()

    def idle_closed(self, conn: UpstreamConn, by_engine: bool) -> None:
        """An idle connection has closed."""
        raise NotImplementedError

    def gone(self, conn: UpstreamConn) -> None:
        """A connection has closed, whatever it was doing."""
        raise NotImplementedError

    def warmed(self, conn: UpstreamConn) -> None:
        """A dial without a request succeeded."""
        raise NotImplementedError

    def warm_failed(self, detail: str) -> None:
        """A dial without a request failed."""
        raise NotImplementedError

    def crashed(self, error: BaseException) -> None:
        """A bug showed while a connection was served."""
        raise NotImplementedError


class UpstreamConn(RawStream):
    """A connection to one engine; see the head of this file."""

    __slots__ = (
        "_rest_of_addresses",
        "carrier",
        "dial_deadline",
        "home",
        "idle_limit_at",
        "idle_since",
        "idle_turn",
        "interim",
        "reader",
        "requests",
        "state",
        "stats",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        home: Home,
        carrier: Session | None,
        stats: Stats,
    ) -> None:
        super().__init__(reactor, sock)
        self.home = home
        self.carrier = carrier
        self.stats = stats
        self.state = CONNECTING
        self.reader = ResponseReader()
        self.interim = 0
        self.requests = 0
        self.idle_since = 0.0
        self.idle_turn = 0  # the poller's, when it became idle
        self.idle_limit_at = NEVER
        self.dial_deadline = NEVER
        self._rest_of_addresses: tuple[Address, ...] = ()
        stats.upstream_open += 1
        stats.dials_total += 1

    def __repr__(self) -> str:
        return f"<UpstreamConn {self.state.name} requests={self.requests} queued={self.queued_bytes}>"

    # --- dialling
    @classmethod
    def dial(
        cls,
        reactor: Reactor,
        addresses: tuple[Address, ...],
        home: Home,
        carrier: Session | None,
        stats: Stats,
        timeout_s: float,
    ) -> UpstreamConn:
        """Start to connect; ``carrier.on_connected`` or ``on_connect_failed`` is called from the loop, never from here.

        Several addresses are tried in order within the one time limit. Raises OSError when no socket can be made.
        """
        sock = _socket(addresses[0][0])
        conn = cls(reactor, sock, home, carrier, stats)
        conn._rest_of_addresses = addresses[1:]
        conn.dial_deadline = monotonic() + timeout_s
        conn._connect(addresses[0])
        return conn

    def _connect(self, address: Address) -> None:
        try:
            code = self.sock.connect_ex(address[1])  # type: ignore[arg-type]
        except OSError as error:
            code = error.errno or 111
        self.wheel.arm(self, self.dial_deadline)
        if code == 0 or code == _IN_PROGRESS[0]:
            self.poller.watch(self, WRITE)
        else:
            # Not from here: whoever dials is not told before the dial has returned.
            self.poller.soon(lambda: self._dial_failed(os.strerror(code), False, code in LACKING))

    def _writable(self) -> None:
        if self.state is CONNECTING:
            self._dialled()
        else:
            RawStream._writable(self)

    def _dialled(self) -> None:
        self.poller.watch(self, 0)
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._dial_failed(os.strerror(code), False, code in LACKING)
            return
        self.deadline = NEVER
        carrier = self.carrier
        self.resume_reading()
        if carrier is None:
            self.home.warmed(self)
            return
        try:
            carrier.on_connected(self)
        except Exception as error:
            self._crash(error, carrier)

    def _dial_failed(self, detail: str, timed_out: bool, lacking: bool = False) -> None:
        """``lacking``: this process is short of something, which says nothing about the engine."""
        if self.closed:
            return
        if self._rest_of_addresses and not timed_out and not lacking:
            address, *rest = self._rest_of_addresses
            self._rest_of_addresses = tuple(rest)
            self.sock.close()
            try:
                self._bind(_socket(address[0]))
            except OSError as error:
                detail = str(error)
                lacking = error.errno in LACKING
            else:
                self._connect(address)
                return
        carrier = self.carrier
        self.close()
        if carrier is None:
            self.home.warm_failed(detail)
        else:
            try:
                if lacking:
                    carrier.on_response_error(no_socket(detail))
                else:
                    carrier.on_connect_failed(detail, timed_out)
            except Exception as error:
                self._crash(error, carrier)

    # --- one exchange
    def begin(self, carrier: Session, data: bytes, deadline: float) -> None:
        """Write a whole request (or its first part); the head is due by ``deadline``."""
        self.carrier = carrier
        self.state = HEAD
        self.requests += 1
        slot = self.wheel_slot
        if slot and slot * TICK_S <= deadline:
            self.deadline = deadline
        else:
            self.wheel.arm(self, deadline)
        # A dead socket is not judged here: what the engine said before it closed may still be readable.
        self.write(data)

    def _readable(self) -> None:
        if self.closed:
            return
        try:
            data = recv(self.fd, RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._ended("reset")
            return
        if not data:
            self._ended("fin")
            return
        carrier = self.carrier
        state = self.state
        try:
            if state is BODY or state is TUNNEL:
                carrier.on_response_data(data)  # type: ignore[union-attr]
            elif state is HEAD:
                assert carrier is not None
                try:
                    head = self.reader.feed(data)
                    if head is not None and head.status < 200:
                        head = self._after_interim(head, carrier.upgrade)
                except GatewayError as error:
                    self.close()
                    carrier.on_response_error(error)
                    return
                if head is not None:
                    self.state = BODY
                    carrier.on_response_head(head, self.reader.rest)
            else:
                # Bytes that nobody asked for (a late 408, garbage): such a connection is of no use.
                self._idle_gone(by_engine=True)
        except Exception as error:
            self._crash(error, carrier)

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
        carrier = self.carrier
        if self.state is IDLE or carrier is None:
            self._idle_gone(by_engine=True)
            return
        if self.state is CONNECTING:
            self._dial_failed("connection reset", False)
            return
        self.pause_reading()
        try:
            carrier.on_response_eof(how)
        except Exception as error:
            self._crash(error, carrier)

    @property
    def response_begun(self) -> bool:
        """Whether any byte of a response to the current request has arrived."""
        return self.state is not HEAD or self.reader.partial or self.interim > 0

    # --- idleness and the end
    def park(self, now: float, limit_s: float) -> None:
        """Become idle in the pool for at most ``limit_s``."""
        self.carrier = None
        self.state = IDLE
        self.interim = 0
        self.idle_since = now
        self.idle_turn = self.poller.turn
        limit_at = now + limit_s
        self.idle_limit_at = limit_at
        slot = self.wheel_slot
        if slot and slot * TICK_S <= limit_at:
            self.deadline = limit_at
        else:
            self.wheel.arm(self, limit_at)

    def _idle_gone(self, *, by_engine: bool) -> None:
        self._close_now()
        self.home.idle_closed(self, by_engine)

    def expired(self, now: float) -> None:
        state = self.state
        carrier = self.carrier
        if state is CONNECTING:
            self._dial_failed("connect timeout", True)
        elif state is IDLE or carrier is None:
            self._idle_gone(by_engine=False)
        else:
            try:
                carrier.on_upstream_timeout()
            except Exception as error:
                self._crash(error, carrier)

    def drained(self) -> None:
        carrier = self.carrier
        if carrier is not None:
            try:
                carrier.on_upstream_drained()
            except Exception as error:
                self._crash(error, carrier)

    def close(self, *, reset: bool = False) -> None:
        """Close at once (this is also how generation is cancelled); the carrier is not told."""
        self._close_now(reset=reset)

    def _close_now(self, *, reset: bool = False) -> None:
        if self.closed:
            return
        self.state = CLOSED
        self.dispose(reset=reset)
        self.carrier = None
        self.stats.upstream_open -= 1
        self.home.gone(self)

    def _crash(self, error: BaseException, carrier: Session | None) -> None:
        """A bug above: log it, and do not leave the exchange (and its client) waiting."""
        if self.state is IDLE:
            self._idle_gone(by_engine=False)  # back in the pool already: nobody must take it from there
        else:
            self.close()
        self.home.crashed(error)
        if carrier is not None:
            try:
                carrier.on_response_error(GatewayError("internal", source=Source.GATEWAY))
            except Exception as again:
                self.home.crashed(again)


def no_socket(detail: str) -> GatewayError:
    """A dial that this process was too short of something for."""
    return GatewayError("engine_busy", source=Source.GATEWAY, retry_after_s=1.0, detail=f"no socket: {detail}")


def _socket(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
