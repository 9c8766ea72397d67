"""The composition root: from a configuration to a running gateway, top to bottom.

    log, access     observe
    state           store: keys, usage
    filters         policy, in ORDER
    core            exchange
    pools, health   upstream
    listener        net
    control         admin API, metrics

``Gateway`` is the embeddable object: several may live in one process, each with its own counters, tasks and sockets,
and nothing is left behind when it has stopped. ``serve`` is one of them with signals, for the command line.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from time import monotonic, time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from fastgw import errors, twins
from fastgw.config import Config
from fastgw.config.address import is_loopback, parse_host_port
from fastgw.config.machine import connections_in, files_for, open_files
from fastgw.errors import GatewayError
from fastgw.exchange.filter import Filter
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.local import LocalEndpoints
from fastgw.exchange.record import AccessRecord as AccessRecord
from fastgw.exchange.record import AccessSink
from fastgw.housekeeping import Housekeeping
from fastgw.limits.account import Accounts, Defaults
from fastgw.limits.key import UsageRow
from fastgw.limits.ledger import day_of
from fastgw.limits.meter import Meters
from fastgw.net.client import ConnLimits
from fastgw.net.clock import micros
from fastgw.net.h1_connection import H1Connection
from fastgw.net.listener import BindError, Listener, bind
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.net.wire import PlainWire
from fastgw.policy import build
from fastgw.policy.iplimit import IpLimit
from fastgw.policy.queue import Queue
from fastgw.policy.route import serving
from fastgw.policy.routing import strategy_for
from fastgw.protocol.headers import is_trusted
from fastgw.protocol.hosts import HostRule
from fastgw.protocol.http1.writer import simple_response
from fastgw.stats import EventLog, NullLog, Stats
from fastgw.tasks import Tasks
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.health import Health
from fastgw.upstream.pool import Pool
from fastgw.vitals import Vitals

if TYPE_CHECKING:
    from fastgw.control.server import ControlServer
    from fastgw.store.state import State

BACKLOG: Final = 4096
LEAST_PER_IP: Final = 64  # connections that any one address may have, where the setting does not say
LOOK_S: Final = 0.01
PIECE: Final = 1000  # keys taken over at once at a start
STATE_WAIT_S: Final = 5.0  # for the store to take the last of it
GRACE_S: Final = 0.5  # for the last answers and error events to leave
RESOLVE_WAIT_S: Final = 0.5  # names are looked up before traffic, but a dead resolver must not hold the start


class StartError(Exception):
    """The gateway cannot start; the text says why in one line. Nothing is left half-started."""


class Gateway:
    """A gateway in the running event loop.

    ``async with Gateway(config) as gateway: ... gateway.url`` or :meth:`start` and :meth:`stop`. ``log`` takes rare
    events, ``access`` one record per exchange (any object with ``append``; it gets an :class:`AccessRecord` each time);
    both default to nothing. ``alone``: nothing else of weight runs in this loop, so traffic may keep it for up to two
    milliseconds at a time. Raises :class:`StartError` when it cannot listen.
    """

    def __init__(
        self,
        config: Config,
        *,
        log: EventLog | None = None,
        access: AccessSink | None = None,
        stats: Stats | None = None,
        alone: bool = False,
    ) -> None:
        self.config = config
        self._alone = alone
        self.stats = stats or Stats()
        self.log: EventLog = log or NullLog()
        self._access = access
        self._reactor: Reactor | None = None
        self._listener: Listener | None = None
        self._tasks: Tasks | None = None
        self._keeping: Housekeeping | None = None
        self._state: State | None = None
        self._control: ControlServer | None = None
        self._fleet: Fleet | None = None
        self._queue: Queue | None = None
        self._filters: tuple[Filter, ...] = ()
        self.core: GatewayCore | None = None
        self.addresses: list[str] = []

    @property
    def url(self) -> str:
        """Where the gateway listens (the first address)."""
        if not self.addresses:
            raise RuntimeError("the gateway has not started")
        return self.addresses[0]

    @property
    def control_url(self) -> str:
        """Where the control listener is, empty where there is none."""
        return self._control.url if self._control is not None else ""

    @property
    def fleet(self) -> Fleet:
        """The engines, which may be added, drained and removed while traffic runs. Raises RuntimeError before the start."""
        if self._fleet is None:
            raise RuntimeError("the gateway has not started")
        return self._fleet

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, warm the pools, begin to probe. Returns when requests are taken."""
        if self._listener is not None:
            raise RuntimeError("the gateway has started already")
        config = self.config
        try:
            # What the environment insists on holds for an embedded gateway too, whose configuration did not come from there.
            twins.select(twins.asked() if config.native == "auto" else config.native)
        except (ImportError, ValueError) as error:
            raise StartError(str(error)) from error
        loop = asyncio.get_running_loop()
        accounts, usage = self._open_accounts()
        try:
            socks = bind(config.host, config.port, config.unix_socket, BACKLOG)
        except BindError as error:
            await self._close_state()
            raise StartError(str(error)) from error
        reactor = self._reactor = Reactor(loop, self._alone)
        tasks = self._tasks = Tasks(self.log)
        shortage = Shortage(self.log)
        fleet = self._fleet = Fleet(
            config, reactor, self.stats, self.log, shortage, published=self._publish, room=self._room
        )
        health = Health(lambda: fleet.pools, config, self.log, fleet.publish, self._room, shortage)
        filters = self._filters = build(config)
        self._queue = next((one for one in filters if isinstance(one, Queue)), None)
        core = self.core = GatewayCore(
            config,
            reactor=reactor,
            stats=self.stats,
            log=self.log,
            access=self._access,
            filters=filters,
            strategy=strategy_for(config),
            health=health,
            table=fleet.table,
            accounts=accounts,
            instance=os.urandom(4).hex().encode(),
        )
        core.serving = serving
        LocalEndpoints(core, tasks.spawn)
        try:
            await health.resolve_all(RESOLVE_WAIT_S)
        except BaseException:
            for sock in socks:
                sock.close()
            await self._close_state()
            raise
        meters = next((one.meters for one in filters if isinstance(one, IpLimit)), None)
        keeping = self._keeping = Housekeeping(
            core,
            loop,
            meters=meters,
            store=self._state,
            flush_s=config.flush_interval_s,
        )
        keeping.restore(usage)
        if self._state is not None:
            self._state.start(loop, keeping.keys_changed)
            keeping.ask_for(core.today)  # in case it could not be read, or midnight has passed since
        if config.embedding_merge_s:
            from fastgw.exchange.merging import Merger

            core.merger = Merger(core, loop, wait_s=config.embedding_merge_s, most_inputs=config.embedding_merge_inputs)
        limits = ConnLimits(
            head_bytes=config.max_head_bytes,
            header_count=config.max_header_count,
            head_s=config.head_timeout_s,
            idle_s=config.keepalive_timeout_s,
            body_s=config.body_timeout_s,
            write_s=config.write_timeout_s,
        )
        trusted = core.trusted
        connections = core.connections
        stats = self.stats

        def accepted(sock: socket.socket, ip: str) -> None:
            wire = PlainWire(reactor, sock)
            known = bool(trusted) and is_trusted(ip, trusted)
            connections.add(H1Connection(reactor, wire, core, limits, stats, ip, known))

        most = self._most_connections()
        max_per_ip = config.max_connections_per_ip
        chosen = max_per_ip is not None
        if max_per_ip is None:
            # (No one address has all of them, however few they are.)
            max_per_ip = max(1, min(most // 2, max(LEAST_PER_IP, most // 8)))
        listener = self._listener = Listener(
            reactor,
            socks,
            accepted,
            stats,
            self.log,
            max_connections=most,
            max_per_ip=max_per_ip,
            # Behind a proxy are many; and this machine's own clients, load generators among them, could do worse.
            exempt=lambda ip: (not chosen and is_loopback(ip)) or (bool(trusted) and is_trusted(ip, trusted)),
            refusal=self._refusal,
            shortage=shortage,
        )
        if max_per_ip:
            core.on_closed = listener.released
        self.addresses = listener.addresses
        for pool in fleet.pools:
            pool.keep_warm()
        tasks.spawn("health", health.run())
        fleet.joined = lambda pool: self._look_at(health, pool)
        fleet.left = lambda pool: health.forget(pool.engine)
        if config.scheduler == "auto":
            from fastgw.upstream.scheduler import Scheduler

            scheduler = Scheduler(
                lambda: fleet.pools,
                interval_s=config.scheduler_interval_s,
                timeout_s=config.health_timeout_s,
                log=self.log,
                changed=self._room,
            )
            tasks.spawn("scheduler", scheduler.run())
        keeping.start()
        if config.control_listen:
            await self._open_control(meters)

    def _most_connections(self) -> int:
        """``max_connections``, or as many as find room: where descriptors ran out, one address could take all, and whoever came
        next would have no answer at all."""
        wanted = self.config.max_connections
        files = open_files()
        room = connections_in(files) if files else wanted
        if room >= wanted:
            return wanted
        self.log.warning(
            "the limit of open files is too low for max_connections",
            open_files=files,
            max_connections=wanted,
            connections=room,
            hint=f"raise it to {files_for(wanted)} (ulimit -n, LimitNOFILE), or set max_connections to {room}",
        )
        return room

    def _open_accounts(self) -> tuple[Accounts, list[UsageRow]]:
        """Who may use the gateway, from the configuration and the store, and what they have used already."""
        config = self.config
        accounts = Accounts(
            Defaults(
                requests_per_minute=config.rate_limit_per_minute,
                burst=config.key_burst,
                tokens_per_minute=config.tokens_per_minute,
                daily_tokens=config.daily_token_quota,
                concurrency=config.key_concurrency,
                cut=config.on_exhausted == "cut",
            ),
            config.api_key_digests,
            required=config.require_key,
        )
        if not config.state_dir:
            return accounts, []
        from fastgw.store.schema import StateError
        from fastgw.store.state import State

        state = State(config.state_dir, log=self.log, on_corrupt=config.on_corrupt_state, flush_s=config.flush_interval_s)
        try:
            loaded = state.open(day_of(time()))
        except StateError as error:
            raise StartError(str(error)) from error
        self._state = state
        while loaded.keys:
            # Each record goes as its account comes: the memory of both at once would never be given back.
            accounts.apply(loaded.keys[-PIECE:], micros(monotonic()), time())
            del loaded.keys[-PIECE:]
        if loaded.unread and not accounts.required:
            self.log.warning("what the store held is not known, and may have been keys: requests without one are refused")
        if loaded.closed or loaded.unread:
            accounts.required = True  # there were keys once: the last one that went left the gateway closed
        return accounts, loaded.usage

    async def _open_control(self, meters: Meters | None) -> None:
        """The control listener: imported here, for it takes longer than all the rest of a start."""
        from fastgw.control.server import ControlServer
        from fastgw.engines import EngineDesk
        from fastgw.observe.metrics import GatewayCollector, render

        config = self.config
        core = self.core
        assert core is not None
        keys = None
        if self._state is not None:
            from fastgw.keyring import Keyring

            keys = Keyring(self._state, self._usage_today)
        collector = GatewayCollector(
            Vitals(
                core,
                engines=self.fleet.engines,
                queue=self._queue,
                meters=meters,
                store_failing=lambda: self._state is not None and self._state.failing,
                admin_auth_failures=lambda: self._control.auth_failures if self._control is not None else 0,
            )
        )
        listen = config.control_listen
        free = listen.endswith(":0")  # the system chooses the port
        host, port = parse_host_port(listen.removesuffix(":0") + ":1" if free else listen)
        control = ControlServer(
            host=host,
            port=0 if free else port,
            admin_key=config.admin_key,
            log=self.log,
            render_metrics=lambda: render(collector),
            health=lambda: dict(zip(("healthy_engines", "total_engines"), core.health.counts(), strict=True)),
            keys=keys,
            engines=EngineDesk(self.fleet),
            hosts=HostRule(config.allowed_hosts, os.uname().nodename),
        )
        try:
            await control.start()
        except BaseException as error:
            await self.stop(0.0)
            if isinstance(error, BindError):
                raise StartError(str(error)) from error
            raise
        self._control = control

    def _usage_today(self, key_id: str) -> UsageRow | None:
        core = self.core
        account = core.accounts.by_id(key_id) if core is not None else None
        if core is None or account is None:
            return None
        ledger = account.ledger
        ledger.roll(core.today)
        return (
            key_id, ledger.day, ledger.prompt, ledger.completion, ledger.requests, ledger.estimated, ledger.cached,
            ledger.reasoning,
        )  # fmt: skip

    def _room(self) -> None:
        """Engines have become well or ill, or take more: whoever waits is looked at."""
        core = self.core
        if core is not None:
            core.room()

    async def _close_state(self) -> None:
        state, self._state = self._state, None
        if state is not None and not await state.close(STATE_WAIT_S):
            self.log.warning("usage of the last moments was not written down", reason=state.reason or "the disk was slow")

    def _publish(self) -> None:
        """There is a new snapshot of who is there and serves what."""
        core = self.core
        if core is not None:
            before, table = core.table, self.fleet.table
            core.take_table(table, self.fleet.keys())
            if self._queue is not None:
                self._queue.follow(before, table)
            core.room()

    def _look_at(self, health: Health, pool: Pool) -> None:
        """An engine has joined: it is asked at once how it is."""
        if self._tasks is not None:
            self._tasks.spawn(f"first probe of {pool.engine.name}", health.probe(pool))

    def _refusal(self, ip: str) -> bytes:
        kind = errors.lookup("too_many_connections", self.config.compat)
        core = self.core
        if core is not None:
            core.refused_connection(ip, kind)
        return simple_response(kind.status, body=errors.body(kind), extra=b"retry-after: 1\r\n", close=True)

    async def stop(self, drain_s: float | None = None) -> None:
        """Drain and stop: not ready, no new connections, live exchanges get ``drain_s`` (default: the configuration's),
        the rest is aborted, streams with the typed event. Safe to call twice."""
        core = self.core
        if core is None or self._listener is None:
            return
        deadline = monotonic() + (self.config.drain_timeout_s if drain_s is None else drain_s)
        self._listener.close()
        core.begin_drain()
        await self._until(lambda: not core.busy(), deadline)
        if core.busy():
            self.log.warning("drain time over", aborted=core.busy())
            core.abort_all()
        # The last answers and error events are given a moment to leave.
        await self._until(lambda: not core.connections, monotonic() + GRACE_S)
        core.close_all()
        self.fleet.close()
        if self._control is not None:
            await self._control.stop()
            self._control = None
        if self._keeping is not None:
            if self._state is not None:
                await self._keeping.last(STATE_WAIT_S)
            self._keeping.stop()
            self._keeping = None
        await self._close_state()
        if self._tasks is not None:
            await self._tasks.close()
        if self._reactor is not None:
            self._reactor.close()
        self._listener = None
        self.addresses = []


    @staticmethod
    async def _until(condition: Callable[[], bool], deadline: float) -> None:
        """Look every few milliseconds: the data plane has no event for "the last one ended", and pays for none."""
        while not condition() and monotonic() < deadline:
            pause = min(LOOK_S, max(0.0, deadline - monotonic()))
            await asyncio.sleep(pause)


def serve(config: Config) -> int:
    """Run a gateway until SIGTERM or SIGINT; returns the exit code. Raises :class:`StartError`."""
    import gc
    import signal

    import uvloop

    from fastgw.observe.logs import to_stderr

    _raise_file_limit()
    _no_core_file()
    stats = Stats()
    log = to_stderr(config.log_level, config.log_format, stats, config.log_flood_rate)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        access = log if config.access_log else None
        gateway = Gateway(config, log=log, access=access, stats=stats, alone=True)
        drain, at_once = asyncio.Event(), asyncio.Event()

        def signalled() -> None:
            if drain.is_set():
                at_once.set()
            drain.set()

        # Before anything listens: a signal that comes during the start is a drain like any other.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled)
        await gateway.start()
        log.start(loop)
        for warning in config.warnings:
            log.warning(warning)
        log.info(
            "listening",
            urls=" ".join(gateway.addresses),
            engines=" ".join(engine.name for engine in config.engines) or "none",
            auth="keys" if gateway.core is not None and gateway.core.accounts.required else "none",
            **({"control": gateway.control_url} if gateway.control_url else {}),
            native="yes" if twins.native() else "no",
            pid=os.getpid(),
        )
        # What lives now lives until the end: the collector need not look at it again, nor so often at the rest. It is not
        # looked through even once: that would hold the first requests for milliseconds.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        gc.enable()
        await drain.wait()
        log.info("draining", seconds=config.drain_timeout_s, exchanges=stats.exchanges_open)
        stopping = asyncio.ensure_future(gateway.stop())
        hurry = asyncio.ensure_future(at_once.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait({stopping})
            await gateway.stop(0.0)
        else:
            stopping.result()
        log.info("stopped")

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        log.close()
    return 0


def _raise_file_limit() -> None:
    """As many descriptors as the system allows: each client and each engine connection takes one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            print(f"fastgw: cannot raise the limit of open files from {soft}: {error}", file=sys.stderr)


def _no_core_file() -> None:
    """A crash leaves no core file: it would hold keys and prompts. ``prlimit --core`` brings it back while debugging."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


__all__ = ["Gateway", "GatewayError", "StartError", "serve"]
