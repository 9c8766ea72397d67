"""A client's connection until its TLS handshake is over; then it is whatever was agreed on, on the same wire.

Counted as a connection from its first moment, and closed when its time is over: who connects and says nothing holds no more
than a connection that does not send its head.
"""

from __future__ import annotations

from collections.abc import Callable

from fastgw.net.client import ClientStream, Connection, Service
from fastgw.net.clock import monotonic
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.tls import TlsWire
from fastgw.stats import Stats

Shaken = Callable[["Handshake", TlsWire, str], None]


class Handshake(Connection):
    """See the head of this file. ``done`` takes the wire over; ``failed`` is told why there is none."""

    __slots__ = ("_done", "_failed", "_service", "_stats", "peer_ip", "reactor", "wire")

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
        stats.connections_open += 1
        wire.holder = self
        reactor.wheel.arm(self, monotonic() + limit_s)
        wire.accept()

    def __repr__(self) -> str:
        return f"<Handshake {self.peer_ip}>"

    def on_dialled(self, code: int) -> None:
        if code:
            self._stats.handshakes_failed += 1
            self._failed(self.peer_ip, self.wire.why(code))
            self.close()
            return
        self._stats.handshakes_total += 1
        if self.wire.resumed():
            self._stats.handshakes_resumed += 1
        self._end()
        self._done(self, self.wire, self.peer_ip)

    def expired(self, now: float) -> None:
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
