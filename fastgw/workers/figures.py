"""What a worker has counted, told to the control process: of everything what has come since it was told last.

Owns: what was told last. Differences, so that whoever adds them up has all that was ever counted, by workers that have gone as
well. In pieces, between which the loop gets its turn. Must never: cost a request anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from fastgw.accel.histograms import Exemplar, Histogram
from fastgw.limits.breaker import CLOSED
from fastgw.observe.energy import Drawn
from fastgw.observe.recent import Ended
from fastgw.observe.tallies import OTHER, Cell, Tallies
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.pool import Pool
from fastgw.workers.part import Around

PIECE: Final = 50  # cells or engines in one word: half a millisecond
TIMES: Final = ("duration", "first_token", "gaps", "per_token", "queued", "own", "prompt", "completion")
SUMS: Final = ("well_s", "cached", "reasoning", "estimated", "cost")
OF_CALLER: Final = ("requests", "prompt", "completion", "cost")
LIVE: Final = ("inflight", "light", "idle", "connections")
"""What of an engine's figures is what a worker has now."""
OF_ENGINE: Final = ("inflight", "light", "answered_total", "failures_total", "truncations_total", "ejections_total")
OF_QUEUE: Final = "queue"

Moved = dict[str, int]
"""By name what has come since, where anything has."""


class Spread(msgspec.Struct, array_like=True, frozen=True):
    """A histogram: what has come into each bucket, and in all; and what of it somebody can look up."""

    counts: list[int]
    total: float
    exemplars: dict[int, Exemplar] | None = None


class CellRow(msgspec.Struct, array_like=True, frozen=True):
    """Of one endpoint and model: as ``observe.tallies.Cell``."""

    endpoint: str
    model: str
    statuses: dict[int, int]
    times: dict[str, Spread]
    failed: dict[str, Spread]
    sums: dict[str, float]


class EngineRow(msgspec.Struct, array_like=True, frozen=True):
    """Of one engine: what has moved, and how its breaker stands, and until when nobody else is left to ask."""

    name: str
    moved: Moved
    times: dict[str, Spread]
    opened: int
    breaker: int
    ejected_until: float


class DrawnRow(msgspec.Struct, array_like=True, frozen=True):
    """Tokens that an engine has made, by whose they are."""

    engine: str
    model: str
    caller: str
    prompt: int
    generated: int


class Counted(msgspec.Struct, tag="counted", frozen=True, omit_defaults=True):
    """Some of it. What is missing has not moved."""

    stats: Moved = {}
    cells: list[CellRow] = []
    callers: dict[str, Moved] = {}
    outcomes: Moved = {}
    failures: Moved = {}
    kinds: Moved = {}
    ended: list[Ended] = []
    faults: int = 0
    refusals: int = 0
    engines: list[EngineRow] = []
    queue: Moved = {}
    lag: Spread | None = None
    drawn: list[DrawnRow] = []
    process: dict[str, float] = {}


class _Times:
    """Histograms as they were told last, by whose they are."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: dict[Any, tuple[list[int], float, dict[int, Exemplar] | None]] = {}

    def moved(self, whose: Any, one: Histogram) -> Spread | None:
        counts, total = one.counts(), one.total
        before = self._told.get(whose)
        if before is not None and before[0] == counts:
            return None
        if before is None and not any(counts):
            return None
        exemplars = dict(one.exemplars) if one.exemplars else None
        self._told[whose] = counts, total, exemplars
        if before is None:
            return Spread(counts, total, exemplars)
        return Spread(
            [now - then for now, then in zip(counts, before[0], strict=True)], total - before[1],
            exemplars if exemplars != before[2] else None,
        )  # fmt: skip

    def fold(self, whose: Any, into: Any) -> None:
        """What one had been told of is another's by now."""
        gone = self._told.pop(whose, None)
        if gone is None:
            return
        there = self._told.get(into)
        if there is None:
            self._told[into] = gone
        else:
            counts = [one + other for one, other in zip(there[0], gone[0], strict=True)]
            self._told[into] = counts, there[1] + gone[1], there[2]


def _moved(now: Mapping[Any, Any], told: dict[Any, Any]) -> dict[Any, Any]:
    """What has come since ``told``, which is made ``now``."""
    found = {name: count - told.get(name, 0) for name, count in now.items() if count != told.get(name, 0)}
    told.update(now)
    return found


class Figures:
    """See the head of this file. ``queue`` says who waits, as the metrics have it; ``process`` what the kernel says of this
    process."""

    def __init__(
        self,
        around: Around,
        queue: Callable[[], Mapping[str, Any]],
        process: Callable[[], dict[str, float]],
    ) -> None:
        self._core = around.core
        self._fleet: Fleet = around.fleet
        self._lag = around.keeping.lag
        self._queue = queue
        self._process = process
        self._times = _Times()
        self._told: dict[Any, dict[Any, Any]] = {}
        self._number = 0  # of the last that did not end well
        self._turn = asyncio.Lock()
        self.drawn = Drawn()
        self._tallies.energy = self.drawn

    @property
    def _tallies(self) -> Tallies:
        counts: Any = self._core.tally
        found: Tallies = counts
        return found

    def _since(self, of: Any, now: Mapping[Any, Any]) -> dict[Any, Any]:
        return _moved(now, self._told.setdefault(of, {}))

    async def told(self) -> AsyncIterator[Counted]:
        """All that has come since; whoever is told adds it up."""
        async with self._turn:
            yield self._rest()
            for word in self._by_cell():
                yield word
                await asyncio.sleep(0)
            for word in self._by_engine():
                yield word
                await asyncio.sleep(0)

    def _rest(self) -> Counted:
        tallies = self._tallies
        recent = tallies.recent
        ended = recent.since(self._number)
        self._number = recent.last
        queue = self._queue()
        waiting = {"bytes": queue["bytes"], **queue["by_class"]}
        events = self._since("recent", {"faults": recent.faults, "refusals": recent.refusals})
        self._fold_callers(tallies)
        callers = {
            name: moved
            for name, caller in tallies.callers.items()
            if (moved := self._since(("caller", name), {field: getattr(caller, field) for field in OF_CALLER}))
        }
        return Counted(
            stats=self._since("stats", self._core.stats.snapshot()),
            callers=callers,
            outcomes=self._since("outcomes", tallies.outcomes),
            failures=self._since("failures", tallies.failures),
            kinds=self._since("kinds", recent.kinds),
            ended=ended,
            faults=events.get("faults", 0),
            refusals=events.get("refusals", 0),
            queue=self._since(OF_QUEUE, waiting),
            lag=self._times.moved("lag", self._lag),
            drawn=[DrawnRow(*whose, *tokens) for whose, tokens in self.drawn.taken()],
            process=self._process(),
        )

    def _fold_callers(self, tallies: Tallies) -> None:
        """Those that have no name any more are ``other``'s, with what was told of them."""
        gone = [of for of in self._told if isinstance(of, tuple) and of[0] == "caller" and of[1] not in tallies.callers]
        for of in gone:
            self._add(("caller", OTHER), self._told.pop(of))

    def _add(self, of: Any, told: Mapping[Any, Any]) -> None:
        there = self._told.setdefault(of, {})
        for name, count in told.items():
            there[name] = there.get(name, 0) + count

    def _by_cell(self) -> Iterator[Counted]:
        cells = self._tallies.cells()
        there = {(cell.endpoint, cell.model) for cell in cells}
        for of in [of for of in self._told if isinstance(of, tuple) and of[0] == "cell" and of[1:] not in there]:
            into = ("cell", of[1], OTHER)
            told = self._told.pop(of)
            self._add(into, told)
            for name in [*TIMES, *(name for name in told if isinstance(name, tuple))]:
                self._times.fold((of, name), (into, name))
        for at in range(0, len(cells), PIECE):
            rows = [row for cell in cells[at : at + PIECE] if (row := self._cell(cell)) is not None]
            if rows:
                yield Counted(cells=rows)

    def _cell(self, cell: Cell) -> CellRow | None:
        of = ("cell", cell.endpoint, cell.model)
        times = self._spreads(of, {name: getattr(cell, name) for name in TIMES})
        failed = self._spreads(of, {("failed", error): one for error, one in cell.failed.items()})
        statuses = {("status", key): count for key, count in cell.statuses.items()}
        seen = {("failed", error): 1 for error in cell.failed}
        moved = self._since(of, {**statuses, **seen, **{name: getattr(cell, name) for name in SUMS}})
        if not times and not moved:
            return None
        return CellRow(
            cell.endpoint,
            cell.model,
            {name[1]: count for name, count in moved.items() if isinstance(name, tuple) and name[0] == "status"},
            times,
            {name[1]: one for name, one in failed.items()},
            {name: count for name, count in moved.items() if isinstance(name, str)},
        )

    def _spreads(self, of: Any, times: Mapping[Any, Histogram]) -> dict[Any, Spread]:
        return {name: moved for name, one in times.items() if (moved := self._times.moved((of, name), one)) is not None}

    def _by_engine(self) -> Iterator[Counted]:
        pools = list({pool.engine.name: pool for pool in self._fleet.pools}.values())
        names = {pool.engine.name for pool in pools}
        for of in [of for of in self._told if isinstance(of, tuple) and of[0] == "engine" and of[1] not in names]:
            gone = self._told.pop(of)
            for name in ("first_tokens", "gaps"):
                self._times.fold((of, name), ("gone", name))
            if moved := {name: -gone[name] for name in LIVE if gone.get(name)}:
                yield Counted(engines=[EngineRow(of[1], moved, {}, 0, CLOSED, 0.0)])
        for at in range(0, len(pools), PIECE):
            rows = [row for pool in pools[at : at + PIECE] if (row := self._engine(pool)) is not None]
            if rows:
                yield Counted(engines=rows)

    def _engine(self, pool: Pool) -> EngineRow | None:
        engine = pool.engine
        of = ("engine", engine.name)
        breaker, ejected_until = engine.breaker, engine.ejected_until
        times = self._spreads(of, {"first_tokens": engine.first_tokens, "gaps": engine.gaps})
        state = {"opened": breaker.opened_total, "breaker": breaker.state, "ejected_until": ejected_until}
        there = {"idle": len(pool.idle), "connections": pool.connections}
        moved = self._since(of, {**{name: getattr(engine, name) for name in OF_ENGINE}, **there, **state})
        if not moved and not times:
            return None
        opened = moved.pop("opened", 0)
        moved.pop("breaker", None)
        moved.pop("ejected_until", None)
        return EngineRow(engine.name, moved, times, opened, breaker.state, ejected_until)
