"""What all workers have counted, in the figures of the control process: metrics, pages and the admin API read them there.

Owns: what of it is live, by worker (requests under way, connections, who waits), so that it is taken back when a worker has
gone. What was counted stays. Must never: make a label of its own: cells, callers and engines are bounded as they are in one
process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastgw.accel.histograms import Histogram
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.limits.purse import MOST_SPENT
from fastgw.observe.energy import Energy
from fastgw.observe.tallies import Tallies
from fastgw.workers.figures import LIVE, OF_CALLER, CellRow, Counted, EngineRow, Spread
from fastgw.workers.part import Around

if TYPE_CHECKING:
    from fastgw.upstream.target import Engine

_OF_POOL: Final = ("idle", "connections")
_SEVERITY: Final = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}


class _Live:
    """What one worker has now."""

    __slots__ = ("breakers", "ejected", "engines", "process", "queue", "stats")

    def __init__(self) -> None:
        self.stats: dict[str, int] = {}
        self.queue: dict[str, int] = {}
        self.engines: dict[str, dict[str, int]] = {}
        self.breakers: dict[str, int] = {}
        self.ejected: dict[str, float] = {}
        self.process: dict[str, float] = {}


class Sums:
    """See the head of this file."""

    def __init__(self, around: Around) -> None:
        self._core = around.core
        self._fleet = around.fleet
        self._keeping = around.keeping
        self._live: dict[Any, _Live] = {}
        self.queue: dict[str, int] = {}
        self._gone_cpu_s = 0.0
        self.energy: Energy | None = None

    # --- what is told
    def told(self, worker: Any, counted: Counted) -> None:
        """A worker has counted this since it was asked last."""
        live = self._live.setdefault(worker, _Live())
        stats = self._core.stats
        for name, more in counted.stats.items():
            setattr(stats, name, getattr(stats, name) + more)
            if name.endswith("_open"):
                live.stats[name] = live.stats.get(name, 0) + more
        for name, more in counted.queue.items():
            self.queue[name] = self.queue.get(name, 0) + more
            live.queue[name] = live.queue.get(name, 0) + more
        if counted.lag is not None:
            _put(self._keeping.lag, counted.lag)
        if counted.process:
            live.process = counted.process
        self._tallied(counted)
        for row in counted.engines:
            self._engine(live, row)

    def _tallied(self, counted: Counted) -> None:
        counts: Any = self._core.tally
        tallies: Tallies = counts
        for there, moved in (
            (tallies.outcomes, counted.outcomes), (tallies.failures, counted.failures), (tallies.recent.kinds, counted.kinds),
        ):  # fmt: skip
            for name, more in moved.items():
                there[name] = there.get(name, 0) + more
        tallies.recent.faults += counted.faults
        tallies.recent.refusals += counted.refusals
        for ended in counted.ended:
            tallies.recent.put(ended)
        for name, fields in counted.callers.items():
            caller = tallies.caller_for(name, self._core.accounts)
            for field in OF_CALLER:
                setattr(caller, field, min(getattr(caller, field) + fields.get(field, 0), MOST_SPENT))
        for row in counted.cells:
            self._cell(tallies, row)
        if self.energy is not None:
            for drawn in counted.drawn:
                self.energy.used(drawn.engine, drawn.model, drawn.caller, drawn.prompt, drawn.generated)

    def _cell(self, tallies: Tallies, row: CellRow) -> None:
        cell = tallies.cell_for(row.endpoint, row.model, self._core.table)
        for key, more in row.statuses.items():
            cell.many(key, more)
        for name, one in row.times.items():
            _put(getattr(cell, name), one)
        for error, one in row.failed.items():
            _put(cell.failures_of(error), one)
        for name, more_ in row.sums.items():
            now = getattr(cell, name) + more_
            setattr(cell, name, now if name == "well_s" else min(int(now), MOST_SPENT))

    def _engine(self, live: _Live, row: EngineRow) -> None:
        engine = self._named(row.name)
        under = live.engines.setdefault(row.name, {})
        for name in LIVE:
            under[name] = under.get(name, 0) + row.moved.get(name, 0)
        if not any(under.values()):
            del live.engines[row.name]
        for states, state, usual in ((live.breakers, row.breaker, CLOSED), (live.ejected, row.ejected_until, 0.0)):
            states.pop(row.name, None)
            if state != usual:
                states[row.name] = state  # type: ignore[assignment]
        if engine is None:
            return
        for name, more in row.moved.items():
            if name not in _OF_POOL:
                setattr(engine, name, max(0, getattr(engine, name) + more))
        for name, one in row.times.items():
            _put(getattr(engine, name), one)
        engine.breaker.opened_total += row.opened
        self._state(engine)

    def _state(self, engine: Engine) -> None:
        """As the worker sees it that has the worst of it."""
        states = [live.breakers.get(engine.name, CLOSED) for live in self._live.values()]
        engine.breaker.state = max(states, key=lambda state: _SEVERITY.get(state, 0), default=CLOSED)
        engine.ejected_until = max((live.ejected.get(engine.name, 0.0) for live in self._live.values()), default=0.0)

    def _named(self, name: str) -> Engine | None:
        return next((engine for engine in self._fleet.engines() if engine.name == name), None)

    # --- a worker has gone
    def gone(self, worker: Any) -> None:
        """What it had under way is under way no more."""
        live = self._live.pop(worker, None)
        if live is None:
            return
        stats = self._core.stats
        for name, count in live.stats.items():
            setattr(stats, name, getattr(stats, name) - count)
        for name, count in live.queue.items():
            self.queue[name] = self.queue.get(name, 0) - count
        self._gone_cpu_s += live.process.get("process_cpu_seconds_total", 0.0)
        for name in live.engines.keys() | live.breakers.keys() | live.ejected.keys():
            engine = self._named(name)
            if engine is not None:
                for field, count in live.engines.get(name, {}).items():
                    if field not in _OF_POOL:
                        setattr(engine, field, max(0, getattr(engine, field) - count))
                self._state(engine)

    def connections(self, engine: str, idle: bool = False) -> int:
        """How many all workers have to an engine, or have ``idle``."""
        field = "idle" if idle else "connections"
        return sum(live.engines.get(engine, {}).get(field, 0) for live in self._live.values())

    def process(self) -> dict[str, float]:
        """What the kernel says of all workers together; time on a processor of those that have gone as well."""
        found = {"process_cpu_seconds_total": self._gone_cpu_s}
        for live in self._live.values():
            for name, value in live.process.items():
                found[name] = found.get(name, 0.0) + value
        return found


def _put(there: Histogram, more: Spread) -> None:
    there.put(more.counts, more.total)
    if more.exemplars:
        for at, (value, when, trace) in more.exemplars.items():
            there.exemplify(at, value, when, trace)
