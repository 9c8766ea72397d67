"""A client's connection until its TLS handshake is over; then it is whatever was agreed on, on the same wire.

Counted as a connection from its first moment, and closed when its time is over: who connects and says nothing holds no more
than a connection that does not send its head. One that fails ends in stages, as HTTP/1 does: a client of TLS 1.3 sends its
first request before it knows, and an RST for that would eat the alert that says why.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Final

from fastgw.accel.sockets import recv
from fastgw.net.client import ClientStream, Connection, Service
from fastgw.net.clock import monotonic
from fastgw.net.descriptors import finish
from fastgw.net.h1_states import LINGER_S
from fastgw.net.poller import READ, Reactor
from fastgw.net.timers import NEVER
from fastgw.net.tls import TlsWire
from fastgw.net.wire import RECV_BYTES
from fastgw.protocol.x509 import ends_at
from fastgw.stats import Stats

LINGER_BYTES: Final = 65536  # of who was told why there is no connection, read for nothing
OVER: Final = "TLS: its certificate has expired since the session that goes on began"
Shaken = Callable[["Handshake", TlsWire, str], None]


class Handshake(Connection):
    """See the head of this file. ``done`` takes the wire over; ``failed`` is told why there is none."""

    __slots__ = ("_done", "_drained_bytes", "_failed", "_lingers", "_service", "_stats", "peer_ip", "reactor", "wire")

    def __init__(
        self,
        reactor: Reactor,
        wire: TlsWire,
        service: Service,
        stats: Stats,
        peer_ip: str,
        limit_s: float,
        done: Shaken,
        failed: Callable[[str, str], None],
    ) -> None:
        self.deadline = NEVER
        self.wheel_slot = 0
        self.reactor = reactor
        self.wire = wire
        self.peer_ip = peer_ip
        self._service = service
        self._stats = stats
        self._done = done
        self._failed = failed
        self._lingers = False
        self._drained_bytes = 0
        stats.connections_open += 1
        wire.holder = self
        reactor.wheel.arm(self, monotonic() + limit_s)
        wire.accept()

    def __repr__(self) -> str:
        return f"<Handshake {self.peer_ip}>"

    def on_dialled(self, code: int) -> None:
        wire = self.wire
        resumed = not code and wire.resumed()
        why = wire.why(code) if code else OVER if resumed and wire.certificate and ends_at(wire.certificate) < time() else ""
        if why:
            self._stats.handshakes_failed += 1
            self._failed(self.peer_ip, why)
            self._linger()
            return
        self._stats.handshakes_total += 1
        if resumed:
            self._stats.handshakes_resumed += 1
        self._end()
        self._done(self, self.wire, self.peer_ip)

    def _linger(self) -> None:
        """Close our side; what still comes is read for nothing, within bounds, until the peer's end."""
        try:
            finish(self.wire.fd)
        except OSError:
            self.close()
            return
        self._lingers = True
        self.reactor.poller.watch(self.wire, READ)
        self.reactor.wheel.arm(self, monotonic() + LINGER_S)

    def on_readable(self) -> None:
        try:
            data = recv(self.wire.fd, RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._drained_bytes += len(data)
        if not data or self._drained_bytes > LINGER_BYTES:
            self.close()

    def on_left(self) -> None:
        self.close()

    def expired(self, now: float) -> None:
        if self._lingers:
            self.close()
            return
        self._stats.handshakes_failed += 1
        self._failed(self.peer_ip, "the TLS handshake took too long")
        self.close(True)

    def streams(self) -> list[ClientStream]:
        return []

    def close_idle(self) -> bool:
        self.close()
        return True

    def close(self, reset: bool = False) -> None:
        if not self.wire.closed:
            self._end()
            self.wire.dispose(reset)
            self._service.closed(self, self.peer_ip)

    def _end(self) -> None:
        self.reactor.wheel.disarm(self)
        self._stats.connections_open -= 1
