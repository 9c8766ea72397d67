"""The composition root: from a configuration to a running gateway, top to bottom.

    log, access     observe
    state           store: keys, usage
    filters         policy, in ORDER
    core            exchange
    pools, health   upstream
    listener        net
    control         admin API, metrics

``Gateway`` is the embeddable object: several may live in one process, each with its own counters, tasks and sockets,
and nothing is left behind when it has stopped. What the two listeners are made of is in ``doors``; ``serve`` is a gateway
with signals, for the command line.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from time import monotonic, time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from fastgw import accounts, doors, twins
from fastgw.care import EngineCare
from fastgw.certified import Certificates
from fastgw.config import Config, ConfigError, ConfigErrors
from fastgw.config.changes import Change, between
from fastgw.draining import drain, until
from fastgw.exchange.context import Strategy
from fastgw.exchange.filter import Filter, hooks
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.local import LocalEndpoints
from fastgw.exchange.record import AccessRecord as AccessRecord
from fastgw.exchange.record import AccessSink
from fastgw.housekeeping import Housekeeping
from fastgw.limits.account import Accounts
from fastgw.limits.key import UsageRow
from fastgw.limits.ledger import day_of
from fastgw.limits.meter import Meters
from fastgw.loading import Loading, import_for
from fastgw.net.listener import BindError, bind
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.net.unusable import TlsError
from fastgw.observe.tallies import Tallies, sampled
from fastgw.policy import build, rebuild
from fastgw.policy.iplimit import IpLimit
from fastgw.policy.queue import Queue
from fastgw.policy.route import serving
from fastgw.policy.routing import strategy_for
from fastgw.stats import EventLog, NullLog, Stats
from fastgw.tasks import Tasks
from fastgw.traces import tracer_for
from fastgw.upstream.discovery.follower import Follower
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.health import Health
from fastgw.upstream.pool import Pool
from fastgw.vitals import MetricsDoor, Vitals

if TYPE_CHECKING:
    from fastgw.control.server import ControlServer
    from fastgw.net.certificates import Shown
    from fastgw.store.state import State

BACKLOG: Final = 4096
STATE_WAIT_S: Final = 5.0  # for the store to take the last of it
GRACE_S: Final = 0.5  # for the last answers and error events to leave
OF_MERGING: Final = ("embedding_merge_s", "embedding_merge_inputs")
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
        self._remembered: dict[str, object] = {}  # by strategies, of requests
        self.log: EventLog = log or NullLog()
        self._access = access
        self._reactor: Reactor | None = None
        self._door: doors.ClientDoor | None = None
        self._care: EngineCare | None = None
        self._following = asyncio.Lock()
        self._tasks: Tasks | None = None
        self._keeping: Housekeeping | None = None
        self._state: State | None = None
        self._control: ControlServer | None = None
        self._fleet: Fleet | None = None
        self._discovery: Follower | None = None
        self._queue: Queue | None = None
        self._meters: Meters | None = None
        self._certificates: Certificates | None = None
        self.core: GatewayCore | None = None
        self.loading = Loading()
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
        if self._door is not None:
            raise RuntimeError("the gateway has started already")
        config = self.config
        try:
            # What the environment insists on holds for an embedded gateway too, whose configuration did not come from there.
            twins.select(twins.asked() if config.native == "auto" else config.native)
            shown = doors.shown_to_clients(config)
            tracer = tracer_for(config, self.stats, self.log)
        except (ImportError, ValueError, TlsError) as error:
            raise StartError(str(error)) from error
        loop = asyncio.get_running_loop()
        who, usage = self._open_accounts()
        try:
            socks = bind(config.host, config.port, config.unix_socket, BACKLOG)
        except BindError as error:
            await self._close_state()
            raise StartError(str(error)) from error
        shortage = Shortage(self.log, self.stats)
        reactor = self._reactor = Reactor(loop, self._alone, shortage)
        tasks = self._tasks = Tasks(self.log)
        try:
            fleet = self._fleet = Fleet(
                config, reactor, self.stats, self.log, shortage, published=self._publish, room=self._room
            )
            looks_after = (config, self.log, fleet.publish, self._room, shortage, fleet.events, tasks.spawn)
            health = Health(lambda: fleet.pools, *looks_after)
            core = self._put_together(reactor, health, who)
            core.tracer = tracer
            LocalEndpoints(core, tasks.spawn)
            await health.resolve_all(RESOLVE_WAIT_S)
        except BaseException as error:
            for sock in socks:
                sock.close()
            await self._close_state()
            if isinstance(error, TlsError):
                reactor.close()
                raise StartError(str(error)) from error
            raise
        keeping = self._keep(loop, usage)
        self._merge(config)
        door = self._door = doors.ClientDoor(core, socks, shortage, doors.RunnerDoor(core, fleet, tasks), shown)
        self.addresses = door.listener.addresses
        care = self._care = EngineCare(core, fleet, health, tasks)
        care.start(config)
        care.certificates = self._certificates = Certificates(shown, fleet, tasks, self.log)
        self._discovery = Follower(fleet, self.log, tasks.spawn)
        await self._discovery.start(config, RESOLVE_WAIT_S)
        keeping.start()
        if tracer is not None:
            tracer.reporter.start(loop)
        door.runners.follow(config)
        vitals = Vitals(
            core, fleet, self.loading, lag=keeping.lag, runners=lambda: door.runners.there, queue=lambda: self._queue,
            meters=lambda: self._meters, state=lambda: self._state,
        )  # fmt: skip
        metrics = MetricsDoor(core, tasks, vitals)
        if config.control_listen:
            await self._open_control(shown, door.runners, metrics)

    def _put_together(self, reactor: Reactor, health: Health, who: Accounts) -> GatewayCore:
        """The filters, and the core that runs requests through them."""
        config = self.config
        filters = build(config)
        self._find_in(filters)
        core = self.core = GatewayCore(
            config, reactor=reactor, stats=self.stats, log=self.log, access=self._access, filters=filters,
            strategy=strategy_for(config, stats=self.stats, remembered=self._remembered), health=health,
            table=self.fleet.table, accounts=who, tally=Tallies(config.metrics_by, sampled),
            instance=os.urandom(4).hex().encode(),
        )  # fmt: skip
        core.serving = serving
        return core

    def _find_in(self, filters: Sequence[Filter]) -> None:
        """Those of the filters that others than requests ask for something."""
        self._queue = next((one for one in filters if isinstance(one, Queue)), None)
        self._meters = next((one.meters for one in filters if isinstance(one, IpLimit)), None)

    def _merge(self, config: Config) -> None:
        """Whoever holds embedding requests together from now on. (Those that are held go on as they were.)"""
        core = self.core
        assert core is not None
        core.merger = None
        if config.embedding_merge_s:
            from fastgw.exchange.merging import Merger

            loop = core.reactor.loop
            core.merger = Merger(core, loop, wait_s=config.embedding_merge_s, most_inputs=config.embedding_merge_inputs)

    def _keep(self, loop: asyncio.AbstractEventLoop, usage: list[UsageRow]) -> Housekeeping:
        """What looks after keys and usage from now on, with what has been used already."""
        core, tasks, flush_s = self.core, self._tasks, self.config.flush_interval_s
        assert core is not None
        assert tasks is not None
        keeping = self._keeping = Housekeeping(
            core, loop, meters=self._meters, store=self._state, flush_s=flush_s, spawn=tasks.spawn
        )
        keeping.restore(usage, self._state.sums_at_start if self._state is not None else None)
        if self._state is not None:
            self._state.start(loop, keeping.keys_changed)
            keeping.ask_for(core.today)  # in case it could not be read, or midnight has passed since
        return keeping

    # --- other settings, while it runs
    async def follow(self, change: Change | Config) -> Change:
        """Go by other settings from now on: a configuration, or what :func:`~fastgw.config.changes.between` made of it and
        :attr:`config`. Requests under way go on; what cannot change stays as it is, and is named in ``pending``.

        Raises ConfigErrors where it cannot be, and RuntimeError before the start and after :meth:`stop` has begun; nothing has
        changed then. One call after the other, in their order.
        """
        async with self._following:
            self._running()
            if isinstance(change, Config):
                change = between(self.config, change)
            config = change.config
            self._refuse_clashes(config)
            strategy = strategy_for(config, stats=self.stats, remembered=self._remembered)
            import_for(config)
            come = await self.fleet.prepare(config)
            care = self._care
            assert care is not None
            try:
                await care.ask(come)  # (others may go in the same moment)
                self._refuse_clashes(config)  # one may have been added meanwhile
                await accounts.follow(self._running(), self.config, config, self._state, self._keeping)
                before = self.config
                self._follow_at_once(self._running(), config, strategy, come)
            finally:
                for pool in come:
                    if pool not in self.fleet.pools:
                        pool.close()
            await care.follow(before, config)
            self.loading.at = time()
            self.loading.pending = change.pending
            return change

    def _running(self) -> GatewayCore:
        core = self.core
        if core is None or self._door is None or core.draining:
            raise RuntimeError("the gateway does not run")
        return core

    def _refuse_clashes(self, config: Config) -> None:
        assert self._discovery is not None
        if clashes := self.fleet.clashes(config, self._discovery.abandoned(config)):
            raise ConfigErrors([ConfigError("configuration", "engines", clash) for clash in clashes])

    def _follow_at_once(self, core: GatewayCore, config: Config, strategy: Strategy, come: Sequence[Pool]) -> None:
        """All that requests meet, in one turn of the loop."""
        assert self._door is not None
        assert self._care is not None
        before, self.config = self.config, config
        filters = core.filters = rebuild(config, core.filters)
        core.follow(config, lambda name: hooks(filters, name), strategy)
        self._find_in(filters)
        self._door.follow(config, before.trusted_proxies != config.trusted_proxies)
        if self._control is not None:
            self._control.follow(doors.operators(config), doors.control_hosts(config))
        if self._keeping is not None:
            self._keeping.follow(self._meters, config.flush_interval_s)
        if self._state is not None:
            self._state.flush_s = config.flush_interval_s
        if any(getattr(config, name) != getattr(before, name) for name in OF_MERGING):
            self._merge(config)
        self.fleet.follow(config, come)
        assert self._discovery is not None
        self._discovery.follow(config)
        self._care.follow_at_once(before, config)

    def renew_certificates(self) -> None:
        """Read all files of certificates and keys again, in a thread; no connection ends by it. What cannot be used is told to
        the log, and what was there before goes on."""
        if self._certificates is not None:
            self._certificates.renew()

    def _open_accounts(self) -> tuple[Accounts, list[UsageRow]]:
        """Who may use the gateway, from the configuration and the store, and what they have used already."""
        config = self.config
        found = accounts.of(config)
        if not config.state_dir:
            return found, []
        from fastgw.store.schema import StateError
        from fastgw.store.state import State

        state = State(config.state_dir, log=self.log, on_corrupt=config.on_corrupt_state, flush_s=config.flush_interval_s)
        try:
            loaded = state.open(day_of(time()))
        except StateError as error:
            raise StartError(str(error)) from error
        self._state = state
        accounts.restore(found, loaded, self.log)
        return found, loaded.usage

    async def _open_control(self, shown: Shown | None, runners: doors.RunnerDoor, metrics: MetricsDoor) -> None:
        core = self._running()
        try:
            self._control = await doors.for_the_operator(
                core, self.fleet, lambda: self._state, self.loading, runners, metrics, shown
            )
        except BaseException as error:
            await self.stop(0.0)
            if isinstance(error, BindError):
                raise StartError(str(error)) from error
            raise

    def _room(self) -> None:
        """Engines have become well or ill, or take more: whoever waits is looked at."""
        if self.core is not None:
            self.core.room()

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

    async def stop(self, drain_s: float | None = None) -> None:
        """Drain and stop: not ready, new work is 503, live exchanges get ``drain_s`` (default: the configuration's, behind its
        ``drain_delay_s``), the rest is aborted, streams with the typed event. Safe to call twice."""
        core = self.core
        if core is None or self._door is None:
            return
        config = self.config
        delay_s, drain_s = (config.drain_delay_s, config.drain_timeout_s) if drain_s is None else (0.0, drain_s)
        await drain(core, self._door.listener, self.log, delay_s=delay_s, drain_s=drain_s)
        await self._door.runners.stop()
        # The last answers and error events are given a moment to leave.
        await until(lambda: not core.connections, monotonic() + GRACE_S)
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
        if core.tracer is not None:
            await core.tracer.reporter.close()
        if self._tasks is not None:
            await self._tasks.close()
        if self._reactor is not None:
            self._reactor.close()
        self._door = None
        self.addresses = []


__all__ = ["AccessRecord", "Gateway", "StartError"]
