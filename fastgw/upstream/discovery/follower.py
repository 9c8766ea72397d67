"""The fleet follows what its sources say: who is named comes, who is named no longer is drained and goes.

Owns: which engines came from which source. A look that fails changes nothing; an engine leaves when its source has missed it
in as many looks as the source asks for, and what is under way there goes on to its end. Whoever comes does so before others
leave, and is asked how it is, so that somebody serves all the while, also where other settings name other sources, or leave to
one an engine that they named themselves: those yield, until all sources have been looked at anew. What the operator has done to
one (drained, removed, another weight) holds as long as the source names it. Must never: touch an engine that somebody else has
added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from fastgw.config import Config, ConfigErrors, EngineConfig
from fastgw.errors import described
from fastgw.net.clock import monotonic
from fastgw.net.unusable import TlsError
from fastgw.stats import EventLog
from fastgw.upstream.absent import ENGINE, Who, names_of
from fastgw.upstream.discovery.source import Found, LookFailed, Source
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.identity import IDENTITY, FleetError, Origin, same
from fastgw.upstream.target import Engine

AGAIN_S: Final = 5.0
"""After a look that failed."""
ILL_S: Final = 2.0
"""Between two looks while nobody of a source is well: who has taken their place may be known by now."""
MEET_S: Final = 2.0
"""For those that have come to be asked how they are, before others leave,"""
LOOK_S: Final = 0.02
"""and how often that is looked at."""
FIRST_S: Final = 5.0
"""For new sources to be looked at, before those that came from others leave."""
MOST_REASONS: Final = 8
"""That the log has of one source, of one after the other, until it is well."""
CHANGED: Final = tuple(
    name for name in EngineConfig.__struct_fields__ if name not in (*IDENTITY, "name", "discover")
)  # fmt: skip

Spawn = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


def sources_of(config: Config) -> list[Source]:
    """Those that the configuration names. (What each takes is imported with it.)"""
    found: list[Source] = []
    named = [one for one in config.engines if one.discover]
    if named:
        from fastgw.upstream.discovery.names import Asking, ByAddress, ByService

        asking = Asking(config.discovery_dns, config.health_timeout_s)
        found += [
            (ByService if one.discover == "srv" else ByAddress)(
                one, asking, config.discovery_interval_s, config.discovery_stale_s
            )
            for one in named
        ]
    if config.engines_file:
        from fastgw.upstream.discovery.file import ByFile

        found.append(ByFile(config.engines_file))
    return found


class _Followed:
    """One source, and who is there by its word."""

    __slots__ = ("bad", "engines", "failing", "found", "looked", "missed", "refused", "source", "task", "well_at")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.engines: dict[str, EngineConfig] = {}  # by name, as it named them last
        self.missed: dict[str, int] = {}  # looks in a row
        self.refused: dict[str, str] = {}  # why one is not there, as the log has it
        self.failing: list[str] = []  # why, as the log has it; none = it does not fail
        self.bad: set[str] = set()  # what it has said that is nobody's address, as the log has it
        self.found: Found | None = None  # what it has said last
        self.looked = asyncio.Event()  # since it was asked for
        self.well_at = 0.0  # when it last did not fail
        self.task: asyncio.Task[None] | None = None


class Follower:
    """See the head of this file."""

    __slots__ = ("_fleet", "_followed", "_handing", "_log", "_spawn")

    def __init__(self, fleet: Fleet, log: EventLog, spawn: Spawn) -> None:
        self._fleet = fleet
        self._log = log
        self._spawn = spawn
        self._followed: dict[str, _Followed] = {}
        self._handing: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._followed)

    async def start(self, config: Config, limit_s: float) -> None:
        """Look at all sources once, but wait no longer than ``limit_s``, and follow them from then on."""
        self.follow(config)
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                for one in self._followed.values():
                    await one.looked.wait()

    def abandoned(self, config: Config) -> set[str]:
        """Engines that came from sources which ``config`` names no more."""
        wanted = {one.key for one in sources_of(config)}
        gone = [one for key, one in self._followed.items() if key not in wanted]
        return {name for one in gone for name in one.engines if self._fleet.is_by(name, one.source.origin)}

    def follow(self, config: Config) -> None:
        """Follow the sources of ``config`` from now on; what came from others leaves, and what ``config`` names itself is no
        source's."""
        wanted = {one.key: one for one in sources_of(config)}
        for key in [key for key in self._followed if key not in wanted]:
            gone = self._followed.pop(key)
            self._stop(gone)
            for engine in self._fleet.engines():
                if engine.name in gone.engines and self._fleet.is_by(engine.name, gone.source.origin):
                    self._fleet.leaving.yielding.add(engine.name)
            self._fleet.absent.ends(key)
        for key, source in wanted.items():
            one = self._followed.get(key)
            if one is None:
                one = self._followed[key] = _Followed(source)
                like = source.like
                models, tenant = (like.models, like.tenant) if like is not None else ((), "")
                self._fleet.absent.awaits(key, models, tenant, monotonic())
            else:
                self._stop(one)  # it is asked for anew, and may have other settings
                one.source = source
                one.found = None
                one.looked.clear()
                one.engines = {name: engine for name, engine in one.engines.items() if not self._fleet.is_by(name, "config")}
            one.task = self._spawn(f"discovery: {key}", self._run(one))
        if self._fleet.leaving.yielding:
            if self._handing is not None:
                self._handing.cancel()
            self._handing = self._spawn("discovery: other sources", self._hand_over())

    async def _hand_over(self) -> None:
        """Those that yield leave, when all sources have said who is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_S):
                for one in list(self._followed.values()):
                    await one.looked.wait()
        await self._met({name for one in self._followed.values() for name in one.engines})
        self._handing = None
        while self._fleet.leaving.yielding:
            name = next(iter(self._fleet.leaving.yielding))
            self._fleet.absent.came(Who(ENGINE, name))
            self._fleet.remove(name)
            await asyncio.sleep(0)

    async def _met(self, names: Collection[str]) -> None:
        """Return when all of them have been asked how they are, or do not answer for long."""
        fleet = self._fleet
        with suppress(TimeoutError):
            async with asyncio.timeout(MEET_S):
                while any(not pool.engine.probed_at for pool in fleet.pools if pool.engine.name in names):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_S)

    @staticmethod
    def _stop(one: _Followed) -> None:
        if one.task is not None:
            one.task.cancel()
            one.task = None

    async def _run(self, one: _Followed) -> None:
        while True:
            pause_s = AGAIN_S
            try:
                one.found = found = await one.source.look()
                self._well(one)
                await self._take(one, found)
                self._fleet.absent.came(Who(ENGINE, one.source.key))
                self._fleet.absent.here(self._fleet.engines())
                pause_s = found.again_s
            except LookFailed as error:
                self._failed(one, str(error))
                await self._forget(one, str(error))
                if one.found is not None:  # (those of the next group may be wanted meanwhile)
                    await self._arrive(one, {engine.name: engine for engine in self._wanted(one, one.found.groups)})
            except Exception as error:
                # A bug met by one source must not end the looks at it for ever.
                self._log.error("discovery failed inside fastgw", source=one.source.key, error=described(error))
            one.looked.set()
            await self._pause(one, pause_s)

    async def _pause(self, one: _Followed, pause_s: float) -> None:
        """Until ``pause_s`` is over, or the last of the source's engines has fallen ill; but not before :data:`ILL_S` is."""
        least_s = min(pause_s, ILL_S)
        await asyncio.sleep(least_s)
        events = self._fleet.events
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s - least_s):
                while self._is_any_well(one) or events.closed:
                    await (asyncio.sleep(pause_s) if events.closed else events.more())

    def _is_any_well(self, one: _Followed) -> bool:
        return any(pool.engine.healthy is True for pool in self._fleet.pools if pool.engine.name in one.engines)

    def _well(self, one: _Followed) -> None:
        one.well_at = monotonic()
        if one.failing:
            one.failing.clear()
            self._log.info("engines are found again", source=one.source.key)
            self._fleet.events.add("discovery_well", "", one.source.key)

    def _failed(self, one: _Followed, why: str) -> None:
        """Each reason is told once, until all is well; what is there stays."""
        if why not in one.failing and len(one.failing) < MOST_REASONS:
            one.failing.append(why)
            key, stays_s = one.source.key, one.source.stale_s
            about = {"seconds": round(max(0.0, one.well_at + stays_s - monotonic()))} if stays_s and one.engines else {}
            self._log.warning("engines cannot be looked up: what is there stays", source=key, reason=why, **about)
            self._fleet.events.add("discovery_failed", "", f"{key}: {why}")

    async def _forget(self, one: _Followed, why: str) -> None:
        """What was found holds no longer than so long: somebody else may have those addresses by now."""
        if not one.engines or not one.source.stale_s or monotonic() - one.well_at < one.source.stale_s:
            return
        one.found = None
        key, count = one.source.key, len(one.engines)
        self._log.error("engines leave: they could not be looked up for long", source=key, engines=count, reason=why)
        self._fleet.events.add("discovery_stale", "", f"{key}: {count} leave: {why}")
        for name in list(one.engines):
            self._leave(one, name)
            await asyncio.sleep(0)

    # --- what a source has said
    async def _take(self, one: _Followed, found: Found) -> None:
        """(Each that comes or goes is a new table, so that requests have their turn in between.)"""
        wanted = {engine.name: engine for engine in self._wanted(one, found.groups)}
        going = []
        for name in [name for name in one.engines if name not in wanted]:
            one.missed[name] = one.missed.get(name, 0) + 1
            if one.missed[name] >= one.source.misses:
                going.append(name)
        for bad in [bad for bad in found.bad if bad not in one.bad]:
            self._log.warning("engine found, but not taken", engine=bad.partition(" ")[0], source=one.source.key, reason=bad)
        one.bad = set(found.bad)
        one.refused = {name: why for name, why in one.refused.items() if name in wanted}
        await self._arrive(one, wanted, going)
        if going:
            await self._met(wanted.keys())
        for name in going:
            self._leave(one, name)
            await asyncio.sleep(0)

    async def _arrive(self, one: _Followed, wanted: Mapping[str, EngineConfig], going: Collection[str] = ()) -> None:
        """``going``: those of it that are about to leave. So are those whose names are others' from now on: names may change
        places among addresses."""
        fleet = self._fleet
        moved = [name for name, before in one.engines.items() if name in wanted and not same(before, wanted[name])]
        leaving = {name for name in (*going, *moved) if fleet.is_by(name, one.source.origin)}
        for name, engine in wanted.items():
            one.missed.pop(name, None)
            if name in one.engines:
                self._stay(one, name, engine, leaving)
            else:
                self._come(one, name, engine, leaving)
                await asyncio.sleep(0)
            leaving.discard(name)

    def _wanted(self, one: _Followed, groups: Sequence[Sequence[EngineConfig]]) -> Iterator[EngineConfig]:
        """Those of the first group of which somebody is well, or may be, and of all before."""
        there = {pool.engine.name: pool.engine for pool in self._fleet.pools} if len(groups) > 1 else {}
        for group in groups:
            yield from group
            for engine in group:
                known = there.get(engine.name)
                if known is None or known.healthy is True or not known.probed_at:  # (one that is new may be)
                    return

    def _come(self, one: _Followed, name: str, engine: EngineConfig, instead_of: Collection[str]) -> None:
        try:
            self._fleet.add(engine, one.source.origin, instead_of)
        except (FleetError, TlsError, ConfigErrors) as error:
            if one.refused.get(name) != str(error):
                one.refused[name] = str(error)
                self._log.warning("engine found, but not taken", engine=name, source=one.source.key, reason=str(error))
            return
        one.refused.pop(name, None)
        one.engines[name] = engine

    def _stay(self, one: _Followed, name: str, engine: EngineConfig, leaving: Collection[str]) -> None:
        before = one.engines[name]
        if before == engine:
            return
        if not same(before, engine):
            self._come(one, name, engine, leaving)
            return
        there = self._fleet.is_by(name, one.source.origin)
        one.engines[name] = engine
        other = {field: getattr(engine, field) for field in CHANGED if getattr(before, field) != getattr(engine, field)}
        if other and there:
            self._fleet.change(name, other)

    def _leave(self, one: _Followed, name: str) -> None:
        """Its source names it no longer, and may do so again. (Of one that the operator has drained nobody waits for more.)"""
        one.engines.pop(name, None)
        one.missed.pop(name, None)
        engine = self._there(name, one.source.origin)
        if engine is not None:
            if not engine.draining:
                self._fleet.absent.went(Who(ENGINE, name), names_of(engine), monotonic(), engine.tenant, one.source.key)
            self._fleet.remove(name)

    def _there(self, name: str, origin: Origin) -> Engine | None:
        """(The operator may have removed it, and added another by that name.)"""
        return self._fleet.find(name).engine if self._fleet.is_by(name, origin) else None
