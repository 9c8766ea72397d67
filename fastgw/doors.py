"""The doors of a gateway that strangers come to, put together: the listener for clients, and where runners dial in.

Owns what stands between a listener and the rest, which know nothing of each other: how many clients find room, whom the limit
per address spares, what a client is told for whom there is none.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from fastgw import errors
from fastgw.config import Config
from fastgw.config.address import is_loopback
from fastgw.config.machine import connections_in, files_for, open_files
from fastgw.digests import digest
from fastgw.errors import GatewayError
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.handshake import check_handshake
from fastgw.net.client import ConnLimits, Spoken, told_of
from fastgw.net.clock import monotonic
from fastgw.net.h1_connection import H1Connection
from fastgw.net.listener import Listener
from fastgw.net.own import HERE
from fastgw.net.shortage import Shortage
from fastgw.net.wire import PlainWire
from fastgw.protocol.headers import handshake_lines, is_trusted
from fastgw.protocol.http1.server import PREFACE_HEAD
from fastgw.protocol.http1.writer import simple_response
from fastgw.protocol.websocket import TUNNEL
from fastgw.tasks import Tasks
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.pool import Pool

if TYPE_CHECKING:
    from fastgw.control.proof import Throttle
    from fastgw.control.runners_ws import RunnerSockets
    from fastgw.net.certificates import Shown
    from fastgw.net.tls import TlsWire
    from fastgw.runners import RunnerDesk
    from fastgw.upstream.runners import Runner

REMEMBERED_ADDRESSES: Final = 1024  # of clients, with what is known of each: finding out costs more than all else of an accept
LEAST_PER_IP: Final = 64  # connections that any one address may have, where the setting does not say


def shown_to_clients(config: Config) -> Shown | None:
    """The certificates that are shown at ``host`` and ``port``, None = TLS is not asked for. Raises ``TlsError``."""
    if not config.tls_cert_file:
        return None
    # (Imported here: OpenSSL takes four megabytes, and as many milliseconds.)
    from fastgw.net.certificates import BOTH, HTTP_1, Showing, Shown

    kind = errors.lookup("bad_request", config.compat)
    text = errors.body(kind, "HTTP without TLS was sent to a port that speaks TLS: use https://.")
    keys = config.tls_key_file or config.tls_cert_file
    showing = Showing(
        tuple(zip(config.tls_cert_file, keys, strict=True)),
        config.tls_client_ca_file,
        config.tls_client_auth == "required",
        config.tls_min_version,
        HTTP_1 if config.http2 is False else BOTH,
    )
    return Shown(showing, simple_response(kind.status, body=text, close=True))


class ClientDoor:
    """The listener for clients, from now on until it is closed, on ``socks``, which are bound already. What comes over TCP
    speaks TLS by the certificates that are ``shown``; a Unix socket's clients do not."""

    def __init__(
        self,
        core: GatewayCore,
        socks: Sequence[socket.socket],
        shortage: Shortage,
        runners: RunnerDoor,
        shown: Shown | None = None,
    ) -> None:
        config = core.config
        self.runners = runners
        self._core = core
        self._shown = shown
        self._limits = limits = ConnLimits(**_figures(config))
        self._chosen = config.max_connections_per_ip is not None
        self._short_of = (0, 0)
        connections, reactor, stats = core.connections, core.reactor, core.stats
        self._known = known = lru_cache(REMEMBERED_ADDRESSES)(self._told_by)

        def accepted(fd: int, ip: str) -> None:
            believed, _, lines = known(ip)
            wire = PlainWire(reactor, fd)
            connections.add(H1Connection(reactor, wire, core, limits, stats, ip, believed, lines, core.heads))

        if config.http2:
            core.on_preface = self._prior_knowledge
        most = self._most_connections(config)
        self._most_per_ip = _most_per_ip(config, most)
        self.listener = Listener(
            reactor,
            socks,
            accepted if shown is None else self._by_tls(shown, accepted),
            stats,
            core.log,
            max_connections=most,
            max_per_ip=self._most_per_ip,
            exempt=self._exempt,
            refusal=self._refusal,
            shortage=shortage,
            scheme="http" if shown is None else "https",
        )
        core.on_closed = self.listener.released
        runners.open(self.listener, socks)

    def follow(self, config: Config, trusted: bool) -> None:
        """From the next connection on go by ``config``; its times hold for those that are there too, from when each next
        begins. ``trusted``: other proxies are believed."""
        self._limits.set(**_figures(config))
        self.runners.follow(config)
        chosen = config.max_connections_per_ip is not None
        others = trusted or chosen != self._chosen or not self._most_per_ip
        if others:
            self._known.cache_clear()
        self._chosen = chosen
        most = self._most_connections(config)
        self._most_per_ip = _most_per_ip(config, most)
        self.listener.follow(most, self._most_per_ip, self._addresses() if others else None)

    def _most_connections(self, config: Config) -> int:
        """``max_connections``, or as many as find room: where descriptors ran out, one address could take all, and whoever came
        next would have no answer at all. (It is told when the figures are others.)"""
        wanted = config.max_connections
        files = open_files()
        room = connections_in(files) if files else wanted
        before, self._short_of = self._short_of, (files, wanted) if room < wanted else (0, 0)
        if before != self._short_of and room < wanted:
            self._core.log.warning(
                "the limit of open files is too low for max_connections",
                open_files=files,
                max_connections=wanted,
                connections=room,
                hint=f"raise it to {files_for(wanted)} (ulimit -n, LimitNOFILE), or set max_connections to {room}",
            )
        return min(room, wanted)

    def _addresses(self) -> Iterator[str]:
        for one in self._core.connections:
            # (Of one request at a time, which has its connection's address; or of none yet, and it has that itself.)
            who: Any = getattr(one, "stream", one)
            if who is not None:
                yield who.peer_ip

    def _told_by(self, ip: str) -> tuple[bool, bool, bytes]:
        """Whether its word about others is taken; whether the limit per address spares it; what engines are told of it."""
        trusted = self._core.trusted
        believed = bool(trusted) and is_trusted(ip, trusted)
        # Behind a proxy are many; and this machine's own clients, load generators among them, could do worse.
        spared = believed or (not self._chosen and is_loopback(ip))
        return believed, spared, told_of(ip, believed, self._shown is not None and ip != "unix")

    def _exempt(self, ip: str) -> bool:
        return self._known(ip)[1]

    def _refusal(self, ip: str) -> bytes:
        kind = errors.lookup("too_many_connections", self._core.profile)
        self._core.refused_connection(ip, kind)
        if self._shown is not None and ip != "unix":
            return b""  # (whoever has not been met by TLS yet cannot read it)
        return simple_response(kind.status, body=errors.body(kind), extra=b"retry-after: 1\r\n", close=True)

    def _prior_knowledge(self, first: H1Connection, rest: bytes) -> None:
        from fastgw.net.h2_connection import H2Connection

        core = self._core
        taken = H2Connection.in_place_of(first, core, core.stats)
        core.connections.add(taken)
        taken.begin(rest, len(PREFACE_HEAD) + 4)

    # --- over TLS
    def _by_tls(self, shown: Shown, plain: Callable[[int, str], None]) -> Callable[[int, str], None]:
        """What takes a connection over, where those of TCP begin with a handshake."""
        from fastgw.net.handshake import Entrance

        core = self._core
        entrance = Entrance(
            core.reactor, shown, core, self._limits, core.stats, core.connections, self._shaken, self._not_shaken
        )

        def accepted(fd: int, ip: str) -> None:
            if ip == "unix":
                plain(fd, ip)
            else:
                entrance.admit(fd, ip)

        return accepted

    def _shaken(self, wire: TlsWire, ip: str) -> None:
        core = self._core
        certificate = wire.certificate
        protocol = "h2" if wire.protocol == "h2" else "h1"
        # (One for all that show none: the log tells by it whether a connection is like the last.)
        spoken = (
            Spoken(protocol, wire.version, digest(certificate)) if certificate else _uncertified(protocol, wire.version)
        )
        believed, _, lines = self._known(ip)
        if spoken.protocol == "h2":
            from fastgw.net.h2_connection import H2Connection

            taken = H2Connection(core.reactor, wire, core, self._limits, core.stats, ip, believed, lines, spoken)
            core.stats.connections_open += 1
            core.stats.connections_total += 1
            core.connections.add(taken)
            taken.begin(b"", 0)
            return
        # (What was judged of a head is remembered by address; a certificate says more than that.)
        heads = None if certificate else core.heads
        core.connections.add(
            H1Connection(core.reactor, wire, core, self._limits, core.stats, ip, believed, lines, heads, spoken)
        )

    def _not_shaken(self, ip: str, why: str) -> None:
        self._core.log.info("TLS handshake failed", client=ip, reason=why)


@lru_cache(8)
def _uncertified(protocol: str, version: str) -> Spoken:
    return Spoken(protocol, version)


def _figures(config: Config) -> dict[str, Any]:
    return {
        "head_bytes": config.max_head_bytes,
        "header_count": config.max_header_count,
        "head_s": config.head_timeout_s,
        "idle_s": config.keepalive_timeout_s,
        "body_s": config.body_timeout_s,
        "write_s": config.write_timeout_s,
    }


def _most_per_ip(config: Config, most: int) -> int:
    """Connections that one address may have, of ``most`` in all; 0 = as many as there are."""
    if config.max_connections_per_ip is not None:
        return config.max_connections_per_ip
    # (No one address has all of them, however few they are.)
    return max(1, min(most // 2, max(LEAST_PER_IP, most // 8)))


def _counted_there() -> None:
    """What stands before a runner's socket is a client's connection still, and counts as that."""


class RunnerDoor:
    """Where runners dial in, on the port for clients and at the control listener: nowhere until there is a token."""

    def __init__(self, core: GatewayCore, fleet: Fleet, tasks: Tasks) -> None:
        self._core = core
        self._fleet = fleet
        self._tasks = tasks
        self._throttle: Throttle | None = None
        self._listener: Listener | None = None
        self.desk: RunnerDesk | None = None
        core.locals.update(ws_runners=self._dial_in, runners=self._list)

    @property
    def there(self) -> Sequence[Runner]:
        """Those that have dialled in, or are waited for."""
        return list(self.desk.registry) if self.desk is not None else ()

    def open(self, listener: Listener, socks: Sequence[socket.socket]) -> None:
        """Here the gateway listens: no engine may be there, and one that the configuration has there gets nothing."""
        self._listener = listener
        fleet = self._fleet
        fleet.own.add(socks)
        for pool in fleet.pools:
            if fleet.own.leads_here(fleet.config_of(pool.engine.name).address):
                self._core.log.error("engine gets no requests", engine=pool.engine.name, reason=HERE)
                fleet.drain(pool.engine.name)

    def follow(self, config: Config) -> None:
        """From now on go by ``config``."""
        if self.desk is not None:
            self.desk.follow(config)
        elif config.runner_auth_token:
            # (Imported here: aiohttp takes longer than all the rest of a start.)
            from fastgw.control.proof import Throttle
            from fastgw.runners import RunnerDesk

            self._throttle = Throttle()
            desk = self.desk = RunnerDesk(self._fleet, self._core.log, config, self._core.room)
            left = self._fleet.left

            def gone(pool: Pool) -> None:
                left(pool)
                desk.yard.forget(pool)

            self._fleet.left = gone
            self._tasks.spawn("runners", desk.run())

    def dialled(self) -> tuple[RunnerDesk, RunnerSockets] | None:
        """Who knows of runners, and who speaks with them; None = nobody, for there is no token."""
        desk = self.desk
        return (desk, desk.sockets) if desk is not None and desk.terms.token else None

    def runner_of(self, engine: str) -> str:
        """The id of the runner that the engine of that name stands for, "" = it stands for none that is there."""
        registry = self.desk.registry if self.desk is not None else ()
        return next((one.id for one in registry if one.engine.name == engine), "")

    def go_away(self, taken: bool = False) -> None:
        """Runners are to dial again, for the gateway ends. ``taken``: another process has its place."""
        if self.desk is not None:
            self.desk.registry.go_away(monotonic(), taken)

    async def stop(self) -> None:
        """All runners are told that the gateway stops."""
        if self.desk is not None:
            await self.desk.stop()

    def _dial_in(self, exchange: Exchange) -> None:
        """A runner's connection is given to who speaks with runners: its socket where that can be, with what has been read."""
        head, client, desk = exchange.head, exchange.client, self.desk
        own = head.own or {}
        if desk is None:
            raise GatewayError("draining", "The gateway starts.", retry_after_s=1.0)
        if b"origin" in own:
            raise GatewayError("forbidden", "Runners are no pages of a browser.")
        if client.connects:
            raise GatewayError("bad_request", "Runners speak WebSocket over HTTP/1.1 here.")
        check_handshake(head, connects=False)
        if TUNNEL in [one.strip() for one in own.get(b"sec-websocket-protocol", b"").split(b",")]:
            self._tunnel_in(exchange, own, desk)
            return
        from fastgw.net.bridge import given_away

        peer, told = exchange.client_ip, b"?" in head.target
        sock, ahead, whole = given_away(self._core.reactor, client, handshake_lines(own, lambda text: False))
        ended = self._lent(client.peer_ip) if whole else _counted_there
        exchange.status = 101
        exchange.end("ok", False)
        self._tasks.spawn("hand a runner over", desk.sockets.adopt(sock, ahead, peer, told, ended))

    def _tunnel_in(self, exchange: Exchange, own: dict[bytes, bytes], desk: RunnerDesk) -> None:
        """A runner whose engine is asked over this very connection: it stays with the data plane."""
        key = own[b"sec-websocket-key"]
        peer, told = exchange.client_ip, b"?" in exchange.head.target
        wire, surplus = exchange.client.release_wire()
        if wire is None:
            raise GatewayError("bad_request", "Runners speak WebSocket over HTTP/1.1 here.")
        exchange.status = 101
        exchange.end("ok", False)
        desk.tunnels.adopt(self._core.reactor, wire, surplus, key, peer, told, self._lent(exchange.client.peer_ip))

    def _lent(self, ip: str) -> Callable[[], None]:
        """A runner's connection counts among its address's for as long as it lives."""
        assert self._listener is not None
        return self._listener.lend(ip)

    def _list(self, exchange: Exchange) -> None:
        """``GET /runners``, to who has the admin key."""
        throttle, now = self._throttle, monotonic()
        if self.desk is None or throttle is None:
            raise GatewayError("forbidden", "Runners are shown to nobody: no ADMIN_KEY is set.")
        from fastgw.control.proof import Operators, keys_of

        who = Operators(keys_of(self._core.config))
        if not who:
            raise GatewayError("forbidden", "Runners are shown to nobody: no ADMIN_KEY is set.")
        ip = exchange.client_ip
        if not who.owns(exchange.head.credential or b""):
            wait_s = throttle.wait_s(ip, now)
            if wait_s > 0.0:
                raise GatewayError("rate_limited", "Too many failed attempts.", retry_after_s=wait_s)
            throttle.failed(ip, now)
            raise GatewayError("unauthorized", "The admin key is required.")
        import msgspec

        document = msgspec.json.encode({"object": "list", "data": self.desk.runners()})
        exchange.answer(200, b"application/json", document, b"cache-control: no-store\r\n")
