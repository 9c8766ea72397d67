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
import socket
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic, time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from fastgw import accounts, doors, operating, twins
from fastgw.assembled import core_of
from fastgw.care import EngineCare
from fastgw.certified import Certificates
from fastgw.config import Config, ConfigError, ConfigErrors
from fastgw.config.changes import Change, between
from fastgw.draining import drain, retire, until
from fastgw.exchange.context import Strategy
from fastgw.exchange.filter import Filter, hooks
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.local import LocalEndpoints
from fastgw.exchange.record import AccessRecord as AccessRecord
from fastgw.exchange.record import AccessSink
from fastgw.housekeeping import Housekeeping
from fastgw.limits.account import Accounts
from fastgw.limits.key import UsageRow
from fastgw.limits.meter import Meters
from fastgw.loading import Loading, import_for, merger_for
from fastgw.net.listener import BindError, bind
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.net.unusable import TlsError
from fastgw.policy import rebuild
from fastgw.policy.iplimit import IpLimit
from fastgw.policy.queue import Queue
from fastgw.policy.routing import strategy_for
from fastgw.stats import EventLog, NullLog, Stats
from fastgw.stored import STATE_WAIT_S, NotOpened, Stored
from fastgw.tasks import Tasks
from fastgw.traces import tracer_for
from fastgw.upgrade.refusals import NotTaken
from fastgw.upstream.discovery.follower import Follower
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.health import Health
from fastgw.upstream.pool import Pool
from fastgw.vitals import MetricsDoor, Vitals
from fastgw.workers.part import Around, NotBegun

if TYPE_CHECKING:
    from fastgw.control.server import ControlServer
    from fastgw.net.certificates import Shown
    from fastgw.net.given import Given
    from fastgw.net.process_line import ProcessLine
    from fastgw.store.state import State
    from fastgw.upgrade.beside import Beside
    from fastgw.upgrade.giving import Giving
    from fastgw.upgrade.taking import Taking
    from fastgw.workers.part import Part

BACKLOG: Final = 4096
GRACE_S: Final = 0.5  # for the last answers and error events to leave
OF_MERGING: Final = ("embedding_merge_s", "embedding_merge_inputs")
RESOLVE_WAIT_S: Final = 0.5  # names are looked up before traffic, but a dead resolver must not hold the start

Places = tuple[list[UsageRow], list[socket.socket]]
"""What one process alone can have: what was used so far, as the store says, and sockets that listen."""
Assembled = tuple[GatewayCore, EngineCare, Follower]


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
        self._remembered: dict[str, Any] = {}  # by strategies, of requests
        self.log: EventLog = log or NullLog()
        self._access = access
        self._reactor: Reactor | None = None
        self._door: doors.ClientDoor | None = None
        self._care: EngineCare | None = None
        self._following = asyncio.Lock()
        self._tasks: Tasks | None = None
        self._keeping: Housekeeping | None = None
        self._stored = Stored(self.log)
        self._control: ControlServer | None = None
        self._fleet: Fleet | None = None
        self._discovery: Follower | None = None
        self._queue: Queue | None = None
        self._meters: Meters | None = None
        self._given: Given | None = None
        self._part: Part | None = None  # of a gateway of several processes
        self._besides: list[Beside] = []  # that were the gateway before, and have something under way
        self._giving: Giving | None = None  # to whom takes this one's place
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
    def _state(self) -> State | None:
        return self._stored.state

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

    async def start(self, given: Given | None = None, before: Taking | None = None, part: Part | None = None) -> None:
        """Listen, warm the pools, begin to probe. Returns when requests are taken. ``given``: sockets that listen already;
        ``before``: the process whose place this one takes, which has them; ``part``: what this process is, of several."""
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
        who = accounts.of(config)
        self._part = part
        usage, socks = await self._take_places(who, given) if before is None else ([], [])
        shortage = Shortage(self.log, self.stats)
        reactor = self._reactor = Reactor(asyncio.get_running_loop(), self._alone, shortage)
        tasks = self._tasks = Tasks(self.log)
        try:
            core, care, discovery = self._assemble(reactor, shortage, who, tasks)
            core.tracer = tracer
            await care.health.resolve_all(RESOLVE_WAIT_S)
            if before is not None:
                # (Engines are asked while the other process serves still: nobody meets one that is not known yet.)
                await discovery.start(config, RESOLVE_WAIT_S)
                await care.ask(self.fleet.pools)
                import_for(config, start=True)
                self._stored.ahead(config, who)
                given = await before.sockets(core, self._remembered.get("session"))
                usage, socks = await self._take_places(who, given)
        except BaseException as error:
            for sock in socks:
                sock.close()
            await self._stored.close()
            if isinstance(error, TlsError | NotTaken):
                await tasks.close()
                reactor.close()
                raise StartError(str(error)) from error
            raise
        keeping = self._keep(reactor.loop, usage, before)
        core.merger = merger_for(core, config)
        runners = doors.RunnerDoor(core, self.fleet, tasks)
        door = self._door = doors.ClientDoor(core, socks, shortage, runners, shown)
        self.addresses = door.listener.addresses
        care.start(config)
        care.certificates = Certificates(shown, self.fleet, tasks, self.log)
        if before is None:
            await discovery.start(config, RESOLVE_WAIT_S)
            keeping.start()
        else:
            door.listener.hold()
        if tracer is not None:
            tracer.reporter.start(reactor.loop)
        runners.follow(config)
        metrics = MetricsDoor(core, tasks, Vitals(
            core, self.fleet, self.loading, lag=keeping.lag, runners=lambda: runners.there, queue=lambda: self._queue,
            meters=lambda: self._meters, state=lambda: self._state,
        ))  # fmt: skip
        if config.control_listen and (part is None or part.operates):
            await self._open_control(shown, runners, metrics, before is None)
        if before is not None:
            await self._begin(core, door, keeping, before)
        if part is not None:
            await self._begin_part(part, Around(core, self.fleet, keeping, door.listener, metrics, self._stored, self._control))

    async def _take_places(self, who: Accounts, given: Given | None) -> Places:
        """The store, and sockets that listen: what one process alone can have."""
        config, part = self.config, self._part
        try:
            if part is not None:
                given = await part.given(config, who, given)
            self._given = given
            usage = self._stored.open(config, who) if part is None or part.operates else self._stored.read(config, who)
            there, by = (given.client or [], given.by) if given is not None else ([], "")
            if part is not None or (there and by):
                return usage, there
            return usage, bind(config.host, config.port, config.unix_socket, BACKLOG, there)
        except (BindError, NotOpened, NotBegun) as error:
            if given is not None:
                given.close()
            await self._stored.close()
            raise StartError(str(error)) from error

    async def _begin(self, core: GatewayCore, door: doors.ClientDoor, keeping: Housekeeping, before: Taking) -> None:
        """The other process lets go, and this one begins."""
        try:
            await before.go(self.addresses)
        except NotTaken as error:
            await self._abandon()
            raise StartError(str(error)) from error
        self._besides = before.besides()
        keeping.start()
        door.listener.go_on()
        if self._control is not None:
            await self._control.go_on()

    async def _begin_part(self, part: Part, around: Around) -> None:
        """The other processes, or this one among them, begin."""
        try:
            await part.begin(around)
        except NotBegun as error:
            await self.stop(0.0)
            raise StartError(str(error)) from error
        self.addresses = part.addresses or self.addresses

    async def _abandon(self) -> None:
        """Another process is the gateway still: its sockets stay, and nothing that was used is this one's to write down."""
        assert self._door is not None
        self._keeping = None
        self._door.listener.close(others=True)
        await self.stop(0.0)

    def _assemble(self, reactor: Reactor, shortage: Shortage, who: Accounts, tasks: Tasks) -> Assembled:
        """The engines, and the core that asks them."""
        config = self.config
        fleet = self._fleet = Fleet(config, reactor, self.stats, self.log, shortage, published=self._publish, room=self._room)
        looks_after = (config, self.log, fleet.publish, self._room, shortage, fleet.events, tasks.spawn)
        health = Health(lambda: fleet.pools, *looks_after)
        core = self.core = core_of(
            config, reactor=reactor, stats=self.stats, log=self.log, access=self._access, health=health, accounts=who,
            table=fleet.table, remembered=self._remembered,
        )  # fmt: skip
        self._find_in(core.filters)
        LocalEndpoints(core, tasks.spawn)
        care = self._care = EngineCare(core, fleet, health, tasks)
        discovery = self._discovery = Follower(fleet, self.log, tasks.spawn)
        return core, care, discovery

    def _find_in(self, filters: Sequence[Filter]) -> None:
        """Those of the filters that others than requests ask for something."""
        self._queue = next((one for one in filters if isinstance(one, Queue)), None)
        self._meters = next((one.meters for one in filters if isinstance(one, IpLimit)), None)

    def _keep(self, loop: asyncio.AbstractEventLoop, usage: list[UsageRow], before: Taking | None) -> Housekeeping:
        """What looks after keys and usage from now on, with what has been used already."""
        core, tasks, flush_s = self.core, self._tasks, self.config.flush_interval_s
        assert core is not None
        assert tasks is not None
        part = self._part
        store = part.store(self._state) if part is not None else self._state
        keeping = self._keeping = Housekeeping(core, loop, meters=self._meters, store=store, flush_s=flush_s, spawn=tasks.spawn)
        if before is not None:
            before.book(core)
        keeping.restore(usage, self._state.sums_at_start if self._state is not None else None)
        if before is not None:
            before.put(core, self.fleet, self._meters)
        if self._state is not None:
            told = keeping.keys_changed
            self._state.start(loop, part.keys_changed(told) if part is not None else told)
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
            if self._part is not None:
                await self._part.followed()
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
        core.follow(config, lambda name: hooks(filters, name, core.accounts.region), strategy)
        self._find_in(filters)
        self._door.follow(config, before.trusted_proxies != config.trusted_proxies)
        if self._control is not None:
            operating.follow(self._control, config)
        if self._keeping is not None:
            self._keeping.follow(self._meters, config.flush_interval_s)
        if self._state is not None:
            self._state.flush_s = config.flush_interval_s
        if any(getattr(config, name) != getattr(before, name) for name in OF_MERGING):
            core.merger = merger_for(core, config)
        self.fleet.follow(config, come)
        assert self._discovery is not None
        self._discovery.follow(config)
        self._care.follow_at_once(before, config)

    def renew_certificates(self) -> None:
        """Read all files of certificates and keys again, in a thread; no connection ends by it. What cannot be used is told to
        the log, and what was there before goes on."""
        if self._care is not None and self._care.certificates is not None:
            self._care.certificates.renew()

    async def _open_control(self, shown: Shown | None, runners: doors.RunnerDoor, metrics: MetricsDoor, listens: bool) -> None:
        core, given = self._running(), self._given
        try:
            self._control = await operating.for_the_operator(
                core, self.fleet, lambda: self._state, self.loading, runners, metrics, shown,
                given=given.control if given is not None else None, listens=listens, others=self._part,
            )  # fmt: skip
        except BaseException as error:
            await (self.stop(0.0) if listens else self._abandon())
            if isinstance(error, BindError):
                raise StartError(str(error)) from error
            raise

    def _room(self) -> None:
        """Engines have become well or ill, or take more: whoever waits is looked at."""
        if self.core is not None:
            self.core.room()

    def _publish(self) -> None:
        """There is a new snapshot of who is there and serves what."""
        core = self.core
        if core is not None:
            before, table = core.table, self.fleet.table
            core.take_table(table, self.fleet.keys())
            if self._queue is not None:
                self._queue.follow(before, table)
            for one in self._besides:
                one.follow()
            core.room()

    # --- another process takes this one's place
    async def hand_over(self, line: ProcessLine, gone: Callable[[], Awaitable[object]]) -> None:
        """To the process at the other end: it takes who comes from now on, and has all that was counted. :meth:`retire` is to
        follow. Raises NotHanded, and then all is as it was; RuntimeError where the gateway does not run. ``gone``: returns when
        that process has ended, which is not to take over, and has let go of what it may have taken."""
        from fastgw.upgrade.giving import Giving, Left

        async with self._following:
            core, keeping, door = self._running(), self._keeping, self._door
            assert door is not None
            assert keeping is not None
            giving = Giving(Left(
                core=core, fleet=self.fleet, listener=door.listener, control=self._control, keeping=keeping,
                meters=self._meters, by=self._given.by if self._given else "", stored=self._state is not None,
                close=self._stored.close, gone=gone, open=lambda: self._stored.open_again(self.config, core, keeping),
                runners=lambda: door.runners.go_away(True), besides=self._besides, sessions=self._remembered.get("session"),
            ), line)  # fmt: skip
            await giving.give()
            self._giving, self._besides = giving, []

    async def retire(self, seconds: float = -1.0) -> None:
        """Serve what is under way, and what still comes on connections that are there, until there are none: for so long at the
        most (below 0: ``upgrade_timeout_s``). Then :meth:`stop`."""
        self._control = None
        seconds = self.config.upgrade_timeout_s if seconds < 0.0 else seconds
        if self._giving is not None:
            await self._giving.over(seconds)
        elif self._door is not None:
            await retire(self._running(), self._door.listener, seconds)
        await self.stop(0.0)

    async def stop(self, drain_s: float | None = None) -> None:
        """Drain and stop: not ready, new work is 503, live exchanges get ``drain_s`` (default: the configuration's, behind its
        ``drain_delay_s``), the rest is aborted, streams with the typed event. Safe to call twice."""
        core, door = self.core, self._door
        if core is None or door is None:
            return
        config = self.config
        delay_s, drain_s = (config.drain_delay_s, config.drain_timeout_s) if drain_s is None else (0.0, drain_s)
        leave = [asyncio.ensure_future(one.end(delay_s + drain_s)) for one in self._besides]
        if self._part is not None:
            await self._part.end(delay_s + drain_s)
        door.runners.go_away()
        lasting = bool(self._given and self._given.by)
        await drain(core, door.listener, self.log, delay_s=delay_s, drain_s=drain_s, lasting=lasting)
        await door.runners.stop()
        # The last answers and error events are given a moment to leave.
        await until(lambda: not core.connections, monotonic() + GRACE_S)
        core.close_all()
        self.fleet.close()
        if self._control is not None:
            await self._control.stop()
            self._control = None
        await asyncio.gather(*leave)
        if self._keeping is not None:
            if self._giving is not None:
                await self._stored.add(await self._giving.end(STATE_WAIT_S), config)
            else:
                await self._keeping.last(STATE_WAIT_S)
            if self._part is not None:
                await self._stored.add(await self._part.close(self._keeping), config)
            self._keeping.stop()
            self._keeping = None
        await self._stored.close()
        if core.tracer is not None:
            await core.tracer.reporter.close()
        if self._tasks is not None:
            await self._tasks.close()
        if self._reactor is not None:
            self._reactor.close()
        self._door = None
        self.addresses = []


__all__ = ["AccessRecord", "Gateway", "StartError"]
