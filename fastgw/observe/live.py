"""What a gateway does now, second by second: for who watches it, while somebody does.

Owns: the differences between one look and the next (rates, and percentiles of the last half minute; those of engines are of
``latencies``) and the figures of the last ten minutes that were watched. All is read off the numbers that the metrics read.
Must never: cost anything while nobody looks, or grow with the fleet: what is told of engines and models is bounded, those first
that are ill, then those with most to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Final

import msgspec

from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.net.clock import monotonic
from fastgw.observe.latencies import Latencies, Spread, Timed, spread
from fastgw.observe.metrics import MetricsSource, PoolView
from fastgw.observe.recent import Ended
from fastgw.observe.tallies import Cell
from fastgw.upstream.times import FIRST_TOKEN, PER_TOKEN

MOST_POINTS: Final = 600
"""Seconds of the past: 250 kB."""
MOST_ENGINES: Final = 100
MOST_MODELS: Final = 50
MARK_S: Final = 10.0
MARKS: Final = 3
"""Percentiles are of what has come since the oldest of these: 20 to 30 seconds."""
STALE_S: Final = 5.0
"""Rates are told between two looks that are no further apart."""

_HEALTH: Final = {True: "well", False: "not_well", None: "unknown"}
_BREAKER: Final = {CLOSED: "closed", OPEN: "open", HALF_OPEN: "half_open"}


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One second of the past. Rates are None where there was no look shortly before."""

    at: float
    requests_s: float | None
    faults_s: float | None
    refusals_s: float | None
    prompt_s: float | None
    completion_s: float | None
    active: int
    waiting: int
    ttft_p50: float | None
    ttft_p95: float | None
    itl_p50: float | None
    itl_p95: float | None


class EngineNow(msgspec.Struct):
    """An engine, or all of one name. ``running``, ``waiting`` and ``kv_usage`` as it says itself, None = it does not; ``slots``
    0 = no limit; ``ttft`` and ``itl`` of the last minute."""

    name: str
    health: str = "unknown"
    breaker: str = "closed"
    inflight: int = 0
    slots: int = 0
    requests_s: float = 0.0
    failures_s: float = 0.0
    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None
    ejected: bool = False
    resting: bool = False
    answered: int = 0
    failures: int = 0
    ttft: Spread = None
    itl: Spread = None


class ModelNow(msgspec.Struct, frozen=True):
    """Of the last half minute; tokens are counted when their request ends."""

    name: str
    requests_s: float
    prompt_s: float
    completion_s: float
    ttft: Spread
    itl: Spread


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """A look. Of ``engines`` there are ``engines_total``, of ``models`` ``models_total``, of which these are told."""

    point: Point
    ttft: Spread
    itl: Spread
    connections: int
    engines_total: int
    engines_well: int
    engines: Sequence[EngineNow]
    models_total: int
    models: Sequence[ModelNow]


class _Counts:
    """Of one model, or of all: what is added up, at one moment."""

    __slots__ = ("at", "completion", "first", "gaps", "prompt", "requests")

    def __init__(self, at: float) -> None:
        self.at = at
        self.requests = 0
        self.prompt = self.completion = 0.0
        self.first = [0] * (len(FIRST_TOKEN.values) + 1)
        self.gaps = [0] * (len(PER_TOKEN.values) + 1)

    def add(self, cell: Cell) -> None:
        self.requests += sum(cell.statuses.values())
        self.prompt += cell.prompt.total
        self.completion += cell.completion.total
        self.first = list(map(int.__add__, self.first, cell.first_token.counts()))
        self.gaps = list(map(int.__add__, self.gaps, cell.gaps.counts()))


def _since(count: _Counts, before: _Counts) -> tuple[Spread, Spread]:
    """To the first token, and between pieces of text."""
    first = [one - other for one, other in zip(count.first, before.first, strict=True)]
    gaps = [one - other for one, other in zip(count.gaps, before.gaps, strict=True)]
    return spread(FIRST_TOKEN, first), spread(PER_TOKEN, gaps)


class Live:
    """See the head of this file. ``latencies`` knows the times of engines."""

    def __init__(
        self,
        source: MetricsSource,
        latencies: Latencies,
        *,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time,
    ) -> None:
        self._source = source
        self._latencies = latencies
        self._clock = clock
        self._wall = wall
        self._points: deque[Point] = deque(maxlen=MOST_POINTS)
        self._marks: deque[dict[str, _Counts]] = deque(maxlen=MARKS)
        self._last: tuple[_Counts, int, int] | None = None
        self._asked: dict[str, tuple[int, int]] = {}  # what engines had answered, and failed at, by their names
        self._named: dict[str, list[Timed]] = {}  # the engines of the last look, likewise

    def past(self) -> Mapping[str, object]:
        """What somebody gets who comes: the points that are kept, and how they are called."""
        return {"columns": Point.__struct_fields__, "points": list(self._points), "version": self._source.version}

    @property
    def last_error(self) -> int:
        return self._source.tallies.recent.last

    def errors(self, number: int) -> Sequence[Ended]:
        """What has gone wrong since, as far as it is kept."""
        return self._source.tallies.recent.since(number)

    def look(self) -> Now:
        """Called once a second; two calls are two points."""
        now = self._clock()
        recent = self._source.tallies.recent
        models = self._counted(now)
        total = models[""]
        if not self._marks or now - self._marks[-1][""].at > MARK_S * MARKS:
            self._marks.clear()  # (nobody has looked for long)
        if not self._marks or now - self._marks[-1][""].at >= MARK_S:
            self._marks.append(models)
        since = self._marks[0]
        last, self._last = self._last, (total, recent.faults, recent.refusals)
        span = now - last[0].at if last is not None else 0.0
        fresh = 0.0 < span <= STALE_S
        first, gaps = _since(total, since[""])
        counts = self._source.stats.snapshot()
        waiting = self._source.queue().get("waiting")

        def rate(count: float, before: float) -> float | None:
            return round((count - before) / span, 2) if fresh else None

        before = last or (total, recent.faults, recent.refusals)
        point = Point(
            round(self._wall(), 3), rate(total.requests, before[0].requests), rate(recent.faults, before[1]),
            rate(recent.refusals, before[2]), rate(total.prompt, before[0].prompt),
            rate(total.completion, before[0].completion), counts.get("exchanges_open", 0),
            waiting if isinstance(waiting, int) else 0,
            first[0] if first else None, first[1] if first else None, gaps[0] if gaps else None, gaps[1] if gaps else None,
        )  # fmt: skip
        self._points.append(point)
        engines = self._engines(span if fresh else 0.0)
        for one in engines[:MOST_ENGINES]:
            one.ttft, one.itl = self.times(one.name)
        told = _busiest(models, since, now)
        return Now(
            point=point, ttft=first, itl=gaps, connections=counts.get("connections_open", 0), engines_total=len(engines),
            engines_well=sum(one.health == "well" for one in engines), engines=engines[:MOST_ENGINES],
            models_total=len(told), models=told[:MOST_MODELS],
        )  # fmt: skip

    def times(self, engine: str) -> tuple[Spread, Spread]:
        """Of the engine of that name, if it was there at the last look: to the first token, and between pieces of text."""
        found = self._named.get(engine)
        return self._latencies.of(found) if found is not None else (None, None)

    def _counted(self, now: float) -> dict[str, _Counts]:
        """By model, and of all under \"\"."""
        total = _Counts(now)
        models = {"": total}
        for cell in self._source.tallies.cells():
            total.add(cell)
            if cell.model:
                models.setdefault(cell.model, _Counts(now)).add(cell)
        return models

    def _engines(self, span: float) -> list[EngineNow]:
        """All of them, those that are ill first, then by what they have to do. ``span`` 0.0: no rates."""
        named: dict[str, EngineNow] = {}
        self._named = {}
        for pool in self._source.pools():
            name = pool.engine.name
            first = name not in named
            self._named.setdefault(name, []).append(pool.engine)
            _add(named.setdefault(name, EngineNow(name)), pool, first)
        asked, self._asked = self._asked, {name: (one.answered, one.failures) for name, one in named.items()}
        for name, one in named.items():
            answered, failures = asked.get(name, (one.answered, one.failures))
            if span:
                one.requests_s = round(max(0, one.answered - answered) / span, 2)
                one.failures_s = round(max(0, one.failures - failures) / span, 2)
        worst = ("not_well", "unknown", "well").index
        return sorted(
            named.values(), key=lambda one: (worst(one.health), one.breaker == "closed", -one.inflight, -one.answered)
        )


def _add(found: EngineNow, pool: PoolView, first: bool) -> None:
    engine = pool.engine
    health, breaker = _HEALTH[engine.healthy], _BREAKER[engine.breaker.state]
    found.health = health if found.health != "not_well" else found.health
    found.breaker = breaker if found.breaker == "closed" else found.breaker
    found.inflight += engine.inflight
    found.slots = found.slots + engine.slots if engine.slots and (first or found.slots) else 0
    found.answered += engine.answered_total
    found.failures += engine.failures_total
    found.ejected |= engine.ejected_until > 0.0
    found.resting |= engine.rests()
    gauges = engine.gauges
    if gauges is not None:
        found.running, found.waiting = gauges.running, gauges.waiting
        found.kv_usage = round(gauges.kv_usage, 3) if gauges.kv_usage >= 0.0 else None


def _busiest(models: Mapping[str, _Counts], since: Mapping[str, _Counts], now: float) -> list[ModelNow]:
    """What each model has had to do since, the busiest first."""
    span = max(1.0, now - since[""].at)
    found = []
    for name, count in models.items():
        if name:
            before = since.get(name) or _Counts(now)
            found.append(ModelNow(
                name, round((count.requests - before.requests) / span, 2), round((count.prompt - before.prompt) / span, 2),
                round((count.completion - before.completion) / span, 2), *_since(count, before),
            ))  # fmt: skip
    return sorted(found, key=lambda one: (-one.requests_s, one.name))
