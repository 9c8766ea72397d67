"""Engines that are held back although they are well: new ones for a while, and those that do worse than their like.

*Slow start*: an engine that has joined, or come back, may have so much of what the others have under way, for its weight, as of
``slow_start_s`` has passed, a tenth at the least and one request in any case. *Ejection*: one that fails so often in a row, or
so often in ten seconds, or is so much slower to the first token than the median of its group, gets no request for a while
unless no other takes it; for twice as long the second time, three times the third, ten times at the most, and each such time
without a new reason makes one less. Where one caller alone got what it is ejected for, it is so for him alone: as soon as
another asks it is no more (``Engine.hears``), as a breaker is closed then; and if somebody was served in time meanwhile, he has
himself to thank for waiting (a long prompt is slow on any engine). The share of a group that may be ejected at once is
bounded, so that what ails all ejects nobody. It is ejected from all of its groups at once; where no other of one is well, it
goes on to be asked there.

Who is held back stands on the engines (``Engine.held``): every strategy and the queue go by that, and where nobody is, it costs
nothing. All engines are looked at four times a second, only while a setting says so.

Invariants: an engine is ejected only where another could answer in its place, in one of its groups at the least. Must never:
judge by anything but what calls told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from fastgw.config import Config
from fastgw.limits.breaker import ALL
from fastgw.net.clock import monotonic
from fastgw.stats import EventLog
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.target import Engine
from fastgw.upstream.watch import NEVER_LATE
from fastgw.upstream.watched import holds_back

LOOK_S: Final = 0.25
WINDOW_S: Final = 10.0  # for which calls that failed are counted
LEAST_SHARE: Final = 0.1  # of what the others have, for one that has just come
FEWEST_CALLS: Final = 10  # in a window, before a share of them says anything
FEWEST_TIMES: Final = 5  # first tokens, before an engine's time says anything
FEWEST_ENGINES: Final = 3  # with such a time, before there is a median to speak of
LEAST_SLOWER_S: Final = 0.1  # than the median; what is less is no reason, whatever the factor
MOST_TIMES: Final = 10  # by which the time of an ejection grows


class _Seen:
    """What is remembered of one engine."""

    __slots__ = ("answers", "calm_at", "ejected", "faults", "since", "times", "well")

    def __init__(self, well: bool, since: float) -> None:
        self.well = well
        self.since = since  # when it became well, long ago = it always was
        self.ejected = False
        self.times = 0  # that it was ejected, less those that are forgiven
        self.calm_at = 0.0  # when one is forgiven
        self.answers = self.faults = 0  # when the window began


def _places(groups: Sequence[Group]) -> dict[Engine, tuple[int, ...]]:
    """In which of ``groups`` each engine is."""
    found: dict[Engine, list[int]] = {}
    for at, group in enumerate(groups):
        for pool in group.pools:
            found.setdefault(pool.engine, []).append(at)
    return {engine: tuple(places) for engine, places in found.items()}


class _Stays:
    """How many engines of each group are ejected, and how many are well beside them, counted once for a look."""

    __slots__ = ("_ejected", "_most", "_of", "_well")

    def __init__(self, groups: Sequence[Group], seen: dict[Engine, _Seen], most_percent: int) -> None:
        self._of = _places(groups)
        self._most = [max(1, len(group.pools) * most_percent // 100) for group in groups]
        self._ejected: list[int] = []
        self._well: list[int] = []
        for group in groups:
            ones = [one for pool in group.pools if (one := seen.get(pool.engine)) is not None]
            self._ejected.append(sum(one.ejected for one in ones))
            self._well.append(sum(one.well and not one.ejected for one in ones))

    def without(self, engine: Engine) -> bool:
        """Whether it may be ejected: others are well in a group of its, and enough stay in each where that is so (where none
        is, it is asked all the same). Then it counts as ejected."""
        places = self._of.get(engine, ())
        beside = [at for at in places if self._well[at] > 1]
        if not beside or any(self._ejected[at] >= self._most[at] for at in beside):
            return False
        for at in places:
            self._well[at] -= 1
            self._ejected[at] += 1
        return True


class Restraint:
    """See the head of this file. ``pools`` and ``groups`` are asked anew each time; ``room`` is called when an engine may have
    more than before: who waits is looked at. ``happened`` is told of ejections and their ends: what, which engine, and why."""

    __slots__ = (
        "_config", "_groups", "_happened", "_log", "_loop", "_pools", "_room", "_seen", "_timer", "_window_at",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pools: Callable[[], Sequence[Pool]],
        groups: Callable[[], Iterable[Group]],
        log: EventLog,
        room: Callable[[], None],
        happened: Callable[[str, str, str], None],
    ) -> None:
        self._loop = loop
        self._pools = pools
        self._groups = groups
        self._log = log
        self._room = room
        self._happened = happened
        self._config: Config | None = None
        self._seen: dict[Engine, _Seen] | None = None  # None: nobody has been looked at yet
        self._window_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, config: Config) -> None:
        """From now on hold engines back as ``config`` says; where it says nothing, none is."""
        self._config = config
        if holds_back(config):
            if self._timer is None:
                self._timer = self._loop.call_later(LOOK_S, self._look)
            return
        self.close()
        for pool in self._pools():
            engine = pool.engine
            engine.held = engine.rests()
            engine.ramp = 0
            engine.ejected_until = 0.0
            engine.ejected_by = ALL
            if engine.watch is not None:
                engine.watch.late_s = NEVER_LATE

    def close(self) -> None:
        """Nobody is looked at any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._seen = None

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look)
        try:
            self.look(monotonic())
        except Exception as error:  # (a bug here must not end the looks, nor the loop's turn)
            self._log.error("holding engines back failed inside fastgw", error=f"{type(error).__name__}: {error}")

    def look(self, now: float) -> None:
        """Look at all engines once."""
        config = self._config
        assert config is not None
        pools = self._pools()
        before = self._seen
        seen: dict[Engine, _Seen] = {}
        for pool in pools:
            engine = pool.engine
            one = before.get(engine) if before is not None else None
            well = engine.healthy is not False and not engine.draining
            if one is None:
                one = _Seen(well, -1e9 if before is None else now)
            elif well and not one.well:
                one.since = now
            one.well = well
            seen[engine] = one
        self._seen = seen
        more = self._end_ejections(seen, now)
        if config.outlier_errors or config.outlier_error_percent or config.outlier_ttft_factor:
            more = self._eject(config, seen, now) or more
        if self._ramps(config, seen, now) or more:
            self._room()

    # --- slow start
    def _ramps(self, config: Config, seen: dict[Engine, _Seen], now: float) -> bool:
        """How much the new ones may have; whether it is more for one of them."""
        more = False
        of: dict[Engine, tuple[int, ...]] | None = None
        groups: list[Group] = []
        known: dict[tuple[int, ...], tuple[int, int]] = {}  # groups that somebody is in -> what goes on beside him
        for engine, one in seen.items():
            passed = now - one.since
            ramp = 0
            if one.well and passed < config.slow_start_s:
                if of is None:
                    groups = [group for group in self._groups() if len(group.pools) > 1]
                    of = _places(groups)
                places = of.get(engine, ())
                beside = known.get(places)
                if beside is None:
                    beside = known[places] = self._settled([groups[at] for at in places], seen, now, config)
                under_way, weight = beside
                share = max(LEAST_SHARE, passed / config.slow_start_s)
                # (Where nobody is left who is not new, there is nobody to go by, nor to spare it.)
                ramp = max(1, -int(-share * under_way * engine.weight // weight)) if weight else 0
            if engine.ramp and (not ramp or ramp > engine.ramp):
                more = True
            engine.ramp = ramp
            engine.held = ramp > 0 or engine.ejected_until > 0.0 or engine.rests()
        return more

    @staticmethod
    def _settled(groups: list[Group], seen: dict[Engine, _Seen], now: float, config: Config) -> tuple[int, int]:
        """What the engines of ``groups`` that are not new have under way, and their weight."""
        under_way = weight = 0
        for other in {pool.engine for group in groups for pool in group.pools}:
            known = seen.get(other)
            if known is not None and known.well and not known.ejected and now - known.since >= config.slow_start_s:
                under_way += other.inflight - other.light
                weight += other.weight
        return under_way, weight

    # --- ejection
    def _end_ejections(self, seen: dict[Engine, _Seen], now: float) -> bool:
        """Those whose time is over come back, as new ones; whether there are any."""
        more = False
        for engine, one in seen.items():
            if one.ejected and now >= engine.ejected_until:
                one.ejected = False
                one.since = now
                engine.ejected_until = 0.0
                engine.ejected_by = ALL
                more = True
                self._log.info("engine is not ejected any more", engine=engine.name)
                self._happened("engine_readmitted", engine.name, "")
                watch = engine.watch
                if watch is not None:
                    # What it did before says nothing of how it does now.
                    watch.samples = watch.row = 0
                    watch.begins_anew()
                    one.answers, one.faults = watch.answers, watch.faults
            elif one.times and not one.ejected and now >= one.calm_at:
                one.times -= 1
                one.calm_at = now + self._config.outlier_eject_s  # type: ignore[union-attr]
        return more

    def _eject(self, config: Config, seen: dict[Engine, _Seen], now: float) -> bool:
        """Eject who is to be; whether one is on one caller's word alone, so that all others are heard."""
        doubted = False
        groups = list(self._groups())
        slow = self._slow(config, groups, seen, now)
        stays: _Stays | None = None  # (counted where somebody has given a reason)
        for engine, one in seen.items():
            watch = engine.watch
            if watch is None or not one.well or one.ejected:
                continue
            why, by = "", ALL
            if engine in slow and (told := watch.late_for()) is not None:
                why, by = f"{watch.latency_s(now):.3f} s to the first token", told
            faults, answers = watch.faults - one.faults, watch.answers - one.answers
            if config.outlier_errors and watch.row >= config.outlier_errors:
                why, by = f"{watch.row} failures in a row", watch.row_by
            elif (
                config.outlier_error_percent
                and faults + answers >= FEWEST_CALLS
                and faults * 100 >= config.outlier_error_percent * (faults + answers)
            ):
                why, by = f"{faults} of {faults + answers} calls failed", watch.faults_by
            if not why:
                continue
            if stays is None:
                stays = _Stays(groups, seen, config.outlier_most_percent)
            if stays.without(engine):
                one.ejected = True
                if by == ALL:  # (one caller alone makes it no longer for the others)
                    one.times = min(one.times + 1, MOST_TIMES)
                seconds = config.outlier_eject_s * max(1, one.times)
                engine.ejected_by = by
                doubted = doubted or by != ALL
                one.calm_at = now + seconds + config.outlier_eject_s
                engine.ejected_until = now + seconds
                engine.ejections_total += 1
                engine.held = True
                self._log.warning("engine ejected", engine=engine.name, reason=why, seconds=seconds)
                self._happened("engine_ejected", engine.name, f"{why}; for {seconds:g} s")
        if now - self._window_at >= WINDOW_S:
            self._window_at = now
            for engine, one in seen.items():
                if engine.watch is not None:
                    one.answers, one.faults = engine.watch.answers, engine.watch.faults
                    engine.watch.begins_anew()
        return doubted

    def _slow(self, config: Config, groups: Sequence[Group], seen: dict[Engine, _Seen], now: float) -> set[Engine]:
        """Those that are much slower than their like, in one of their groups. Each is told from when on it is late there."""
        found: set[Engine] = set()
        for engine in seen:
            if engine.watch is not None:
                engine.watch.late_s = NEVER_LATE
        for group in groups if config.outlier_ttft_factor else ():
            limit = self._slowest(config, group, seen, now)
            for pool in group.pools if limit else ():
                watch = pool.engine.watch
                if watch is None:
                    continue
                watch.late_s = min(watch.late_s, limit)
                if watch.samples >= FEWEST_TIMES and watch.latency_s(now) > limit:
                    found.add(pool.engine)
        return found

    @staticmethod
    def _slowest(config: Config, group: Group, seen: dict[Engine, _Seen], now: float) -> float:
        """The time to the first token above which an engine is an outlier of its group, 0 = there is none."""
        times = [
            watch.latency_s(now)
            for pool in group.pools
            if (watch := pool.engine.watch) is not None and watch.samples >= FEWEST_TIMES
            if (one := seen.get(pool.engine)) is not None and one.well and not one.ejected
        ]
        if len(times) < FEWEST_ENGINES:
            return 0.0
        middle = sorted(times)[(len(times) - 1) // 2]
        return max(middle * config.outlier_ttft_factor, middle + LEAST_SLOWER_S)
