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
from fastgw.net.client import ClientStream, Connection, ConnLimits, Service
from fastgw.net.clock import monotonic
from fastgw.net.descriptors import finish
from fastgw.net.h1_states import LINGER_S
from fastgw.net.poller import READ, Reactor
from fastgw.net.timers import NEVER
from fastgw.net.tls import TlsWire
from fastgw.net.tls_end import End
from fastgw.net.wire import RECV_BYTES
from fastgw.protocol.x509 import ends_at
from fastgw.stats import Stats

LINGER_BYTES: Final = 65536  # of who was told why there is no connection, read for nothing
OVER: Final = "TLS: its certificate has expired since the session that goes on began"


class Entrance:
    """What all handshakes at one listener have in common. ``connections`` has each of them until its end; ``done`` takes over
    the wire of a client at an address, ``failed`` is told why there is none."""

    __slots__ = ("connections", "done", "end", "failed", "limits", "reactor", "service", "stats")

    def __init__(
        self,
        reactor: Reactor,
        end: End,
        service: Service,
        limits: ConnLimits,
        stats: Stats,
        connections: set[Connection],
        done: Callable[[TlsWire, str], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self.reactor = reactor
        self.end = end
        self.service = service
        self.limits = limits
        self.stats = stats
        self.connections = connections
        self.done = done
        self.failed = failed

    def admit(self, fd: int, peer_ip: str) -> Handshake:
        """Begin one, on a socket that has just been accepted."""
        one = Handshake(self, TlsWire(self.reactor, self.end, fd), peer_ip)
        self.connections.add(one)
        one.wire.accept()
        return one


class Handshake(Connection):
    """See the head of this file."""

    __slots__ = ("_door", "_drained_bytes", "_lingers", "peer_ip", "wire")

    def __init__(self, door: Entrance, wire: TlsWire, peer_ip: str) -> None:
        self.deadline = NEVER
        self.wheel_slot = 0
        self.wire = wire
        self.peer_ip = peer_ip
        self._door = door
        self._lingers = False
        self._drained_bytes = 0
        door.stats.connections_open += 1
        wire.holder = self
        door.reactor.wheel.arm(self, monotonic() + door.limits.head_s)

    def __repr__(self) -> str:
        return f"<Handshake {self.peer_ip}>"

    def on_dialled(self, code: int) -> None:
        door = self._door
        wire = self.wire
        stats = door.stats
        resumed = not code and wire.resumed()
        why = ""
        if code:
            why = wire.why(code)
        elif resumed and wire.certificate and ends_at(wire.certificate) < time():
            why = OVER
        if why:
            stats.handshakes_failed += 1
            door.failed(self.peer_ip, why)
            self._linger()
            return
        stats.handshakes_total += 1
        if resumed:
            stats.handshakes_resumed += 1
        self._end()
        door.connections.discard(self)
        done = door.done
        done(wire, self.peer_ip)

    def _linger(self) -> None:
        """Close our side; what still comes is read for nothing, within bounds, until the peer's end."""
        try:
            finish(self.wire.fd)
        except OSError:
            self.close()
            return
        self._lingers = True
        self._door.reactor.poller.watch(self.wire, READ)
        self._door.reactor.wheel.arm(self, monotonic() + LINGER_S)

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
        door = self._door
        door.stats.handshakes_failed += 1
        door.failed(self.peer_ip, "the TLS handshake took too long")
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
            service = self._door.service
            service.closed(self, self.peer_ip)

    def _end(self) -> None:
        self._door.reactor.wheel.disarm(self)
        self._door.stats.connections_open -= 1
