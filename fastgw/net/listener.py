"""Listening sockets: bound all or none, accepted in small batches, capped in total and per address (IPv6: per /64, which is
what one subscriber has).

A connection over a cap is answered with 503 and closed before anything is read from it; established ones are not
touched. When the process runs out of descriptors, accepting pauses for a moment instead of spinning.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

from fastgw.limits.meter import address_key
from fastgw.net.descriptors import accept
from fastgw.net.poller import READ, Polled, Reactor
from fastgw.net.shortage import LACKING, Shortage
from fastgw.net.vanished import watched
from fastgw.stats import EventLog, Stats

ACCEPT_BATCH: Final = 64  # at most; then the loop gets its turn
PAUSE_S: Final = 0.1

Accepted = Callable[[int, str], None]
"""Takes a descriptor, which is its own from then on, and the address at its other end (``unix`` = none)."""


class BindError(Exception):
    """A listening socket could not be made; the text names the address and the reason."""


def bind_each(host: str, port: int, unix_path: str, backlog: int, count: int) -> list[list[socket.socket]]:
    """As :func:`bind`, for so many processes: each has its own sockets of TCP (``SO_REUSEPORT``, socket(7): the kernel spreads
    connections over them), and all have the one at ``unix_path``."""
    # (Where another program listens this fails, as for one process; with SO_REUSEPORT alone it would share the port with us.)
    first = bind(host, port, unix_path, backlog)
    groups: list[list[socket.socket]] = []
    local = [sock for sock in first if sock.family == socket.AF_UNIX]
    names = [sock.getsockname() for sock in first if sock.family != socket.AF_UNIX]
    for sock in first:
        if sock.family != socket.AF_UNIX:
            sock.close()
    try:
        for _ in range(count):
            groups.append([])
            for name in names:
                family = socket.AF_INET6 if ":" in name[0] else socket.AF_INET
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                groups[-1].append(sock)
                _bind(sock, name, backlog, shared=True)
            groups[-1] += [sock.dup() for sock in local]
    except OSError as error:
        for sock in (one for group in groups for one in group):
            sock.close()
        raise BindError(f"cannot listen on {host}:{port} in several processes: {error.strerror or error}") from error
    finally:
        for sock in local:
            sock.close()
    return groups


def _bind(sock: socket.socket, address: Any, backlog: int, shared: bool = False) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(address)
    sock.listen(backlog)


def bind(
    host: str, port: int, unix_path: str, backlog: int, there: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """Listening, non-blocking sockets for ``host:port`` (every address of the name) and ``unix_path`` ("" = none). Those that
    are ``there`` already stand for all of their kind.

    All or none: raises :class:`BindError` after closing what had been bound.
    """
    bound: list[socket.socket] = []
    unix = [sock for sock in there if sock.family == socket.AF_UNIX]
    tcp = [sock for sock in there if sock.family != socket.AF_UNIX]
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # (Text would be encoded by IDNA, which has a table of Unicode loaded; what is ASCII stays as it is.)
    name = host.encode() if host.isascii() else host
    try:
        looked_up = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE) if not tcp else ()
        for family, _, _, _, address in looked_up:
            if port == 0 and bound:
                break  # one ephemeral port, not one per address family
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            bound.append(sock)
            _bind(sock, address, backlog)
        if unix_path and not unix:
            where = f"unix:{unix_path}"
            _clear_stale(unix_path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            bound.append(sock)
            sock.bind(unix_path)
            os.chmod(unix_path, 0o660)
            sock.listen(backlog)
    except OSError as error:
        for sock in bound:
            sock.close()
        reason = error.strerror or str(error)
        raise BindError(f"cannot listen on {where}: {reason}") from error
    return [*tcp, *bound, *unix]


def url_of(sock: socket.socket, scheme: str) -> str:
    """Where it listens."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{scheme}://{host}:{name[1]}"


def _clear_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more; anything else is left, and bind says so."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


class _Door(Polled):
    """One listening socket, as the poller knows it."""

    __slots__ = ("_listener", "batch", "filled_in", "sock")

    def __init__(self, sock: socket.socket, listener: Listener) -> None:
        super().__init__()
        self.fd = sock.fileno()
        self.sock = sock
        self._listener = listener
        self.batch = 1  # how many were asked for last,
        self.filled_in = -1  # and the poller's last turn in which as many came

    def _readable(self) -> None:
        listener = self._listener
        listener.accept(self)

    def _unwatched(self, code: int) -> None:
        listener = self._listener
        listener.pause()


class Listener:
    """Accepts on bound sockets until closed."""

    __slots__ = (
        "_accepted", "_also", "_doors", "_exempt", "_lent", "_loop", "_max", "_max_per_ip", "_paused", "_per_ip", "_poller",
        "_refusal", "_scheme", "_shortage", "_stats",
    )  # fmt: skip

    def __init__(
        self,
        reactor: Reactor,
        socks: Sequence[socket.socket],
        accepted: Accepted,
        stats: Stats,
        log: EventLog,
        *,
        max_connections: int,
        max_per_ip: int,
        exempt: Callable[[str], bool],
        refusal: Callable[[str], bytes],
        shortage: Shortage | None = None,
        scheme: str = "http",
    ) -> None:
        self._loop = reactor.loop
        self._poller = reactor.poller
        self._doors = [_Door(sock, self) for sock in socks]
        self._also: dict[int, list[_Door]] = {}  # of those, the ones that are another's, by whose
        self._accepted = accepted
        self._stats = stats
        self._shortage = shortage or Shortage(log)
        self._max = max_connections
        self._max_per_ip = max_per_ip
        self._exempt = exempt
        self._refusal = refusal
        self._scheme = scheme
        self._per_ip: dict[str, int] = {}
        self._lent: dict[object, str] = {}  # addresses of connections that others go on with
        self._paused: asyncio.TimerHandle | None = None
        for sock in socks:
            if sock.family != socket.AF_UNIX:
                # Handed down to every connection that is accepted.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                watched(sock, False)
        self._resume()

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as URLs."""
        return [url_of(door.sock, self._scheme) for door in self._doors]

    def follow(self, max_connections: int, max_per_ip: int, there: Iterable[str] | None) -> None:
        """Other caps, from the next connection on. ``there``: where it is another question who is counted, the address of each
        connection that there is."""
        anew = bool(max_per_ip) != bool(self._max_per_ip)
        self._max = max_connections
        self._max_per_ip = max_per_ip
        if there is None and not anew:
            return
        self._per_ip.clear()
        for ip in chain(there or (), self._lent.values()) if max_per_ip else ():
            self._counts(ip)

    def _counts(self, ip: str) -> None:
        if ip != "unix" and not self._exempt(ip):
            key = address_key(ip)
            self._per_ip[key] = self._per_ip.get(key, 0) + 1

    def lend(self, ip: str) -> Callable[[], None]:
        """A connection that was closed here goes on as somebody else's (:meth:`released` was told of it): it counts as before
        until what is returned is called."""
        lent = object()
        self._lent[lent] = ip
        self._stats.connections_open += 1
        if self._max_per_ip:
            self._counts(ip)

        def ended() -> None:
            if self._lent.pop(lent, None) is not None:
                self._stats.connections_open -= 1
                self.released(ip)

        return ended

    def _resume(self) -> None:
        self._paused = None
        for door in self._doors:
            self._poller.watch(door, READ)

    def accept(self, door: _Door) -> None:
        """Take who waits there: one, and twice as many as before where the next look still finds somebody. (To ask in vain is
        as dear as several looks: the kernel makes a file for the socket before it knows that there is none.)"""
        turn = self._poller.turn
        door.batch = min(2 * door.batch, ACCEPT_BATCH) if door.filled_in == turn - 1 else 1
        for _ in range(door.batch):
            try:
                found = accept(door.sock)
            except OSError as error:
                if error.errno in LACKING:
                    self._shortage.met(error.errno or 0, "a client's connection")
                    self.pause()
                return
            if found is None:
                return
            fd, ip = found
            if self._stats.connections_open >= self._max or not self._admit(ip):
                self._refuse(fd, ip)
            else:
                self._accepted(fd, ip)
        door.filled_in = turn

    def _admit(self, ip: str) -> bool:
        if not self._max_per_ip or ip == "unix" or self._exempt(ip):
            return True
        key = address_key(ip)
        count = self._per_ip.get(key, 0)
        if count >= self._max_per_ip:
            return False
        self._per_ip[key] = count + 1
        return True

    def released(self, ip: str) -> None:
        """A connection from ``ip`` has closed."""
        if not self._per_ip:
            return
        key = address_key(ip)
        count = self._per_ip.get(key)
        if count is not None:
            if count <= 1:
                del self._per_ip[key]
            else:
                self._per_ip[key] = count - 1

    def _refuse(self, fd: int, ip: str) -> None:
        self._stats.connections_refused += 1
        with socket.socket(fileno=fd) as conn, contextlib.suppress(OSError):
            conn.setblocking(False)
            conn.send(self._refusal(ip))
            # What the client has sent already must not turn our FIN into an RST that eats the answer.
            conn.shutdown(socket.SHUT_WR)
            conn.recv(65536)

    def pause(self) -> None:
        """Accept nobody for a moment."""
        for door in self._doors:
            self._poller.watch(door, 0)
        if self._paused is None and self._doors:
            self._paused = self._loop.call_later(PAUSE_S, self._resume)

    @property
    def socks(self) -> list[socket.socket]:
        """What it accepts on."""
        return [door.sock for door in self._doors]

    def hold(self) -> None:
        """Accept nobody until :meth:`go_on`: who comes waits in the backlog."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        for door in self._doors:
            self._poller.watch(door, 0)

    def go_on(self) -> None:
        """Accept again."""
        self._resume()

    def also(self, at: int, socks: Sequence[socket.socket]) -> None:
        """Accept on these too, which are those of another process, number ``at``, until :meth:`no_more_also`."""
        for sock in socks:
            sock.setblocking(False)
        doors = [_Door(sock, self) for sock in socks]
        self.no_more_also(at)
        if not self._doors:
            for sock in socks:  # (nobody is let in any more)
                sock.close()
            return
        self._also[at] = doors
        self._doors += doors
        if self._paused is None:
            for door in doors:
                self._poller.watch(door, READ)

    def no_more_also(self, at: int) -> None:
        """The other process does it itself."""
        for door in self._also.pop(at, ()):
            if door in self._doors:
                self._poller.watch(door, 0)
                self._doors.remove(door)
            door.sock.close()

    def close(self, others: bool = False) -> None:
        """Stop accepting; connections in the backlog are reset by the kernel, unless ``others`` accept on the sockets too."""
        self.hold()
        for door in self._doors:
            sock = door.sock
            name = sock.getsockname() if sock.family == socket.AF_UNIX and not others else ""
            sock.close()
            if name:
                with contextlib.suppress(OSError):
                    os.unlink(name)
        self._doors.clear()
