"""The engines of one gateway, which come and go while traffic runs.

    add ----> at work ----> draining ----> gone
                 ^            |  (remove: when nothing is under way there, or at once)
                 +-- undrain -+

The configuration names engines, and may be read again (``follow``): what it names is there then, as it says and in its order,
what it named before and does not now is removed as above (where sources of engines may bring it, when those have said whom they
have), and what others have added stays.

Whoever leaves is in nobody's way (``leaving.py``): its address and its name are free at once. Where a name goes to another, the
one before serves until the table that has its successor, and that one is believed to serve what it did until it has been asked.

Owns the pools, in the order in which they came, and the table that requests read: a snapshot, a new one whenever somebody
comes or goes, or serves other models. Everybody who looks after engines asks for ``pools`` each time: probes, the scheduler,
metrics, the admin API. A drained engine stays in the table, as an ill one does: its models are known, and whoever asks for one
that nobody else has is told to come again. It gets no new request (``Engine.permitted``), what is under way there goes on to
its end, and its idle connections close.

Invariants: no two engines have one name; a pool that has left ``pools`` is closed with the next table, and nothing of the fleet
refers to it once nothing is under way there. Runs in the loop's thread, like all that it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from fastgw.config import Config, ConfigError, ConfigErrors, EngineConfig
from fastgw.config.machine import open_files
from fastgw.config.settings import inherited
from fastgw.net.own import HERE, Own
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.net.unusable import TlsError
from fastgw.stats import EventLog, Stats
from fastgw.upstream.absent import ENGINE, Absent, Who
from fastgw.upstream.chronicle import Chronicle
from fastgw.upstream.identity import EngineExists, FleetError, LeadsHere, Listed, Origin, UnknownEngine, in_its_way, same
from fastgw.upstream.kinds.kind import ANY
from fastgw.upstream.leaving import Leaving, joined
from fastgw.upstream.named import clashes, has_sources, written_in
from fastgw.upstream.pool import Pool
from fastgw.upstream.publishing import Publishing
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine
from fastgw.upstream.watching import Watching

MOST_ENGINES: Final = 1024
"""That the admin API may bring it to: each is probed, and has its series among the metrics."""
PIECE: Final = 50
"""Engines made in one turn of the loop: a millisecond."""


class FleetFull(FleetError):
    """There are :data:`MOST_ENGINES` already."""


def deploy(*laid_out: Any) -> Any:
    """What names come to that are more than plain models. (Most gateways have none, and never load it.)"""
    from fastgw.upstream.deployments import deployed

    return deployed(*laid_out)


def _quiet(pool: Pool) -> None:
    """Nobody wants to know."""


class Fleet:
    """See the head of this file.

    ``published`` is called when there is a new table, ``room`` when an engine may take requests again, or takes none any more:
    whoever waits is looked at. ``joined`` and ``left`` are told of each engine that is added after the start, and that goes,
    ``changed`` of each whose settings are others now. None of them may raise.
    """

    __slots__ = (
        "_added", "_closed", "_config", "_configs", "_idle_files", "_log", "_origins", "_published", "_publishing", "_reactor",
        "_room", "_shortage", "_stats", "_succeeded", "_watching", "absent", "changed", "events", "joined", "leaving", "left",
        "own", "pools", "table",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        stats: Stats,
        log: EventLog,
        shortage: Shortage,
        *,
        published: Callable[[], None],
        room: Callable[[], None],
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._stats = stats
        self._log = log
        self._shortage = shortage
        self._published = published
        self._room = room
        self.joined: Callable[[Pool], None] = _quiet
        self.left: Callable[[Pool], None] = _quiet
        self.changed: Callable[[Pool], None] = _quiet
        self._idle_files = open_files() // 8 or ANY
        self._configs: dict[str, EngineConfig] = {one.name: one for one in written_in(config)}
        self._added: dict[str, EngineConfig] = {}  # by others than the configuration, as they said it
        self._origins: dict[str, Origin] = {}  # who those are
        self.events = Chronicle()
        self.own = Own()
        self.leaving = Leaving(reactor.loop, log, self._ended)
        self._succeeded: list[Pool] = []  # that serve until the table that has their successors
        self._publishing = Publishing(reactor.loop, self.publish)
        self._closed = False
        self._watching = Watching(reactor.loop, lambda: self.pools, lambda: self.table.named(), log, room, self.events.add)
        self.pools: tuple[Pool, ...] = tuple(self._pool(one, config) for one in written_in(config))
        self.absent = Absent()
        self.table = UpstreamTable(self.pools, None, config.routes, deploy, self.absent, config.served_model_name)
        self._watching.follow(config)

    def __repr__(self) -> str:
        return f"<Fleet of {len(self.pools)}, {len(self.leaving)} leaving>"

    def __len__(self) -> int:
        return len(self.pools)

    def engines(self) -> Sequence[Engine]:
        """All that are there, drained ones too."""
        return [pool.engine for pool in self.pools]

    def keys(self) -> list[str]:
        """The keys that are sent to engines now: none of them may be shown to anybody."""
        return [one.api_key for one in self._configs.values() if one.api_key]

    def config_of(self, name: str) -> EngineConfig:
        """The engine as it was configured, or added. Raises UnknownEngine."""
        self.find(name)
        return self._configs[name]

    def find(self, name: str) -> Pool:
        """The pool of the engine of that name. Raises UnknownEngine."""
        for pool in self.pools:
            if pool.engine.name == name:
                return pool
        raise UnknownEngine("There is no engine of this name: GET /admin/engines lists those that are there.")

    def origin_of(self, name: str) -> Origin:
        """Who has named the engine. Raises UnknownEngine."""
        self.find(name)
        return self._origin(name)

    def is_by(self, name: str, origin: Origin) -> bool:
        """Whether there is an engine of that name by its word."""
        return name in self._configs and self._origin(name) == origin

    def _origin(self, name: str) -> Origin:
        return self._origins[name] if name in self._added else "config"

    def leaves(self, name: str) -> bool:
        """Whether it is to be removed: when others have come, or nothing is under way there."""
        return name in self.leaving.going()

    def listed(self) -> Iterator[Listed]:
        """All that are there, and behind them those whose names are others' and at which something is under way."""
        for pool in self.pools:
            name = pool.engine.name
            yield Listed(pool, self._configs[name], self._origin(name), self.leaves(name))
        yield from self.leaving.replaced()

    def publish(self) -> None:
        """A new snapshot of who is there and serves what."""
        self.table = UpstreamTable(
            self.pools, self.table, self._config.routes, deploy, served=self._config.served_model_name
        )
        succeeded, self._succeeded = self._succeeded, []
        for pool in succeeded:
            self._closes(pool)
        self._published()

    def publish_soon(self) -> None:
        """:meth:`publish` in the next turn of the loop, or when there is time for it."""
        self._publishing.soon()

    # --- coming and going
    def add(self, config: EngineConfig, origin: Origin = "admin", instead_of: Collection[str] = ()) -> Pool:
        """An engine more, with what it leaves open filled in from the gateway's settings. It counts as not well until a probe
        has found it so: while others are, no request is risked on it.

        Where one leaves that is this very one (``identity.same``), that one stays, as ``config`` says. ``instead_of``: names
        of engines that are about to leave, and are in its way as little as those that do. Raises EngineExists, LeadsHere,
        FleetFull, TlsError, and ConfigErrors where it has ranks."""
        if config.ranks:
            message = "an engine whose ranks are told apart stands in the configuration"
            raise ConfigErrors([ConfigError("EngineConfig", "ranks", message)])
        pool = self.take_in(config, origin, instead_of)
        self._publishing.in_turn()
        if not pool.engine.probed_at:
            self.joined(pool)
        return pool

    def take_in(self, config: EngineConfig, origin: Origin = "runner", instead_of: Collection[str] = ()) -> Pool:
        """As :meth:`add`, of one for which somebody vouches, so that nobody asks it first; requests meet it when
        :meth:`publish_soon` has been called, and its time come."""
        one = inherited(config, self._config)
        if self.own.leads_here(one.address):
            raise LeadsHere(HERE)
        going = {*self.leaving.going(), *instead_of}
        gives_way: list[str] = []  # (a runner calls itself as it likes, and must not keep out whom the operator names)
        for name, other in self._configs.items():
            if name not in going and (why := in_its_way(one, other)):
                if origin == "runner" or self._origin(name) != "runner":
                    raise EngineExists(why)
                gives_way.append(name)
        if self._closed:
            raise FleetFull("The gateway stops.")
        if one.name in self._configs and self._is_there(one):
            pool = self.find(one.name)
            if self.leaving.stays(one.name):
                self._reopens(pool)
            self._changes(pool, one, self._config)
        elif len(self._configs.keys() - going) >= MOST_ENGINES:
            raise FleetFull(f"There are {len(self.pools)} engines, and {MOST_ENGINES} is the most: remove one first.")
        else:
            pool = self._comes(one, origin)
            for name in [name for name in gives_way if name != one.name]:
                self.remove(name)
        self._added[one.name] = config
        self._origins[one.name] = origin
        return pool

    def _comes(self, one: EngineConfig, origin: Origin) -> Pool:
        """An engine that was not there, whoever had its name."""
        pool = self._pool(one, self._config)
        pool.engine.healthy = False
        self._succeeds(pool.engine, one, heir=origin != "runner")
        self.pools = (*self.pools, pool)
        self._log.info("engine added", engine=one.name)
        self.events.add("engine_added", one.name, origin)
        return pool

    def _succeeds(self, engine: Engine, one: EngineConfig, *, heir: bool = True) -> None:
        """It has its name from now on. Whoever had that is there no longer, and serves until there is a table without it; until
        it has been asked, an ``heir`` of the same tenant is believed to serve what the one did whose name or address it has."""
        self.leaving.followed(engine, one)
        for pool in self.pools:
            before, had = pool.engine, self._configs[pool.engine.name]
            if not in_its_way(one, had):
                continue
            joined(engine, one, before, had)
            if heir and not one.models and not engine.discovered_models and one.tenant == had.tenant:
                engine.discovered_models = before.discovered_models or tuple(sorted(before.configured_models))
                engine.facts = before.facts
            if before.name == one.name:
                self.leaving.replace(pool, had, self._origin(one.name))
                self._succeeded.append(pool)
                self._forget(pool, inflight=before.inflight)
        self._configs[one.name] = one

    def change(self, name: str, fields: Mapping[str, Any]) -> Pool:
        """Other values of some of its settings that do not make it another engine (its name and ``identity.IDENTITY`` do). They
        hold until somebody says otherwise; for one that the configuration names, until that is read again. Raises
        UnknownEngine, ConfigErrors."""
        pool = self.find(name)
        said = self._added.get(name)
        other = inherited(replace(self._configs[name], **fields), self._config)
        if said is not None:
            self._added[name] = replace(said, **fields)
        self._changes(pool, other, self._config)
        self._publishing.in_turn()
        self._room()
        return pool

    def free_name(self, name: str) -> str:
        """``name``, or one like it that no engine has which stays."""
        number, free = 1, name
        while free in self._configs and not self.leaves(free):
            number += 1
            free = f"{name}~{number}"
        return free

    def serves(self, name: str, models: Sequence[str]) -> None:
        """From now on these are the models that it was added with. Raises UnknownEngine."""
        pool = self.find(name)
        if name in self._added:
            self._added[name] = replace(self._added[name], models=tuple(models))
        self._configs[name] = replace(self._configs[name], models=tuple(models))
        pool.engine.serves(models)
        self.publish_soon()

    def drain(self, name: str) -> Pool:
        """It gets no new requests; what is under way there goes on. Raises UnknownEngine."""
        pool = self.find(name)
        if not pool.engine.draining:
            self._drains(pool)
            self._room()
        return pool

    def _drains(self, pool: Pool) -> None:
        pool.engine.draining = True
        pool.close()
        self._log.info("engine drains", engine=pool.engine.name, inflight=pool.engine.inflight)
        self.events.add("engine_drains", pool.engine.name)

    def undrain(self, name: str) -> Pool:
        """It takes requests again, and is not to be removed any more. Raises UnknownEngine, and EngineExists where it leaves
        and another has its address by now."""
        pool = self.find(name)
        one = self._configs[name]
        for other in self._configs.values() if self.leaves(name) else ():
            if other is not one and not self.leaves(other.name) and (why := in_its_way(one, other)):
                raise EngineExists(why)
        self.leaving.stays(name)
        if pool.engine.draining:
            self._reopens(pool)
            self._room()
        return pool

    def _reopens(self, pool: Pool) -> None:
        pool.engine.draining = False
        pool.reopen()
        self._log.info("engine takes requests again", engine=pool.engine.name)
        self.events.add("engine_undrained", pool.engine.name)

    def remove(self, name: str, *, at_once: str = "") -> bool:
        """Drain it, and close it when nothing is under way there. ``at_once``, a reason for the log, ends what is as if the
        engine had died, and what is at those that had its name before: what may be sent again goes to another, streams end with
        the typed event. True where it is gone when this returns. Raises UnknownEngine."""
        if name not in self._configs and self.leaving.had(name):
            if at_once:
                self.leaving.break_off(name)
            return bool(at_once)
        pool = self.drain(name)
        if at_once:
            self._log.warning("engine removed at once", engine=name, reason=at_once, inflight=pool.engine.inflight)
            self._go(pool)
            pool.break_off()
            self.leaving.break_off(name)
            return True
        if not pool.engine.inflight:
            self._go(pool)
            return True
        self.leaving.begins(pool)
        return False

    def lose(self, name: str, reason: str) -> None:
        """It may be gone: it gets no new requests, what it has not begun to answer is asked elsewhere, and what it has begun
        goes on while it can. It is removed when nothing is under way there. Raises UnknownEngine."""
        pool = self.drain(name)
        self._log.warning("engine lost", engine=name, reason=reason, inflight=pool.engine.inflight)
        pool.break_off_waiting()
        self.leaving.begins(pool)

    # --- the configuration is read again
    def clashes(self, config: Config, abandoned: Collection[str] = ()) -> list[str]:
        """Why the engines of ``config`` cannot be, or not beside those that others have added; empty = they can. In no way are
        those ``abandoned``, whose sources it names no more. (A runner's makes room: ``runners.RunnerDesk.follow``.)"""
        written = written_in(config)
        names = {*[one.name for one in written], *self.leaving.going(), *abandoned}
        stay = [one for name, one in self._added.items() if name not in names and self._origin(name) != "runner"]
        here = [f"{one.name}: {HERE}" for one in written if self.own.leads_here(one.address)]
        return here + clashes(written, stay)

    async def prepare(self, config: Config) -> list[Pool]:
        """The engines that ``config`` has and are not here: nobody asks them anything before :meth:`follow`. They count as not
        well, as one that is added. Raises ConfigErrors where one cannot speak TLS as it says."""
        made: list[Pool] = []
        written = {one.name: one for one in written_in(config)}
        added = [inherited(one, config) for one in self._added.values() if one.name not in written]
        for count, one in enumerate((*written.values(), *added), 1):
            if not self._is_there(one):
                try:
                    pool = self._pool(one, config)
                except TlsError as error:
                    raise ConfigErrors([ConfigError("configuration", "engines", f"{one.name}: {error}")]) from error
                pool.engine.healthy = False
                made.append(pool)
            if count % PIECE == 0:
                await asyncio.sleep(0)
        return made

    def follow(self, config: Config, prepared: Sequence[Pool]) -> None:
        """From now on be as ``config`` says: see the head of this file. A drained engine stays drained. One that is another
        by its ``identity`` has what is under way at the one before go on to its end."""
        made = {pool.engine.name: pool for pool in prepared}
        there = {pool.engine.name: pool for pool in self.pools}
        written = {one.name: one for one in written_in(config)}
        self._config = config
        for name, engine in self._added.items():
            if not self.leaves(name):
                written.setdefault(name, inherited(engine, config))
        pools: list[Pool] = []
        for name, one in written.items():
            old = there.pop(name, None)
            if old is not None and self._is_there(one):
                if self.leaving.stays(name):
                    self._reopens(old)
                self._changes(old, one, config)
                pools.append(old)
                continue
            new = made.pop(name, None) or self._pool(one, config)  # (it went in between)
            self._succeeds(new.engine, one)
            pools.append(new)
            self._log.info("engine added", engine=name)
            self.events.add("engine_added", name, self._origin(name))
        for one in written_in(config):
            self._added.pop(one.name, None)
            self._origins.pop(one.name, None)
        self.pools = (*pools, *there.values())
        for pool in made.values():  # (they came in between)
            self._closes(pool)
        self._watching.follow(config)
        sources = has_sources(config)
        for name, pool in there.items():
            leaves = name in self.leaving.named
            self.absent.came(Who(ENGINE, name))
            if sources and not leaves:
                self.leaving.yielding.add(name)
            elif not pool.engine.inflight:
                self._drop(pool)
            elif not leaves:
                self._drains(pool)
                self.leaving.begins(pool)
        self.publish()

    def _is_there(self, one: EngineConfig) -> bool:
        """Whether the engine of that name is this very one."""
        had = self._configs.get(one.name)
        return had is not None and same(had, one)

    def _changes(self, pool: Pool, one: EngineConfig, config: Config) -> None:
        engine = pool.engine
        engine.breaker.change(config.cb_failure_threshold, config.cb_recovery_timeout_s)
        other = self._configs[engine.name] != one
        if not other and engine.configured_max_idle == config.engine_max_idle:
            pool.connect_timeout_s = config.connect_timeout_s
            return
        self._configs[engine.name] = one
        engine.change(one, config.engine_max_idle)
        pool.change(config.connect_timeout_s)
        if other:
            self._log.info("engine changed", engine=engine.name)
            self.events.add("engine_changed", engine.name)
            self.changed(pool)

    def close(self) -> None:
        """The gateway stops: close what is idle; what is busy closes as it comes back."""
        self._closed = True
        self.events.close()
        self._publishing.close()
        self.leaving.close()
        self._watching.close()
        for pool in self.pools:
            pool.close(True)

    # --- within
    def _pool(self, one: EngineConfig, config: Config) -> Pool:
        engine = Engine(
            one, config.cb_failure_threshold, config.cb_recovery_timeout_s, config.engine_max_idle, self._idle_files
        )
        self._watching.begins(engine)
        return Pool(engine, self._reactor, self._stats, self._log, config.connect_timeout_s, self._shortage)

    def _ended(self, pool: Pool) -> None:
        """Nothing is under way at one that leaves."""
        self._drop(pool)
        self.publish_soon()

    def _go(self, pool: Pool) -> None:
        """It is there no longer, for anybody."""
        self._drop(pool)
        self._publishing.in_turn()

    def _drop(self, pool: Pool) -> None:
        name = pool.engine.name
        self.leaving.stays(name)
        self._added.pop(name, None)
        self._origins.pop(name, None)
        self._closes(pool)
        pool.engine.parts()
        self._forget(pool)

    def _closes(self, pool: Pool) -> None:
        """It gets no new requests; connections of those that are under way there close with them."""
        pool.engine.draining = True
        pool.close()
        self._watching.ends(pool.engine)

    def _forget(self, pool: Pool, **about: object) -> None:
        """Its name is nobody's, or another's."""
        name = pool.engine.name
        del self._configs[name]
        self.pools = tuple(one for one in self.pools if one is not pool)
        self._log.info("engine removed", engine=name, **about)
        self.events.add("engine_removed", name)
        self.left(pool)
