"""What meters and ledgers must decide, written another way: exact fractions and plain dicts, slow and easy to check."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor


class ReferenceMeter:
    """GCRA by virtual scheduling: the theoretical arrival time (TAT) of the next unit is all there is.

    ITU-T I.371 Annex A: one unit moves the TAT by the increment T; what would bring it further ahead of now than the
    tolerance (here ``burst`` units' worth) does not conform, and changes nothing.
    """

    def __init__(self, rate: int, period_us: int, burst: int) -> None:
        self.rate = rate
        self.period_us = period_us
        self.burst = burst
        self.tat = Fraction(0)
        self.latest = 0

    @property
    def increment(self) -> Fraction:
        return Fraction(self.period_us, self.rate)

    @property
    def tolerance(self) -> Fraction:
        return self.burst * self.increment

    @property
    def furthest(self) -> Fraction:
        """How far ahead of now the TAT may come by charges: sixty periods beyond the burst, or what fits 9 * 10**18."""
        units = min(60 * self.rate, (9 * 10**18 - self.burst * self.period_us) // self.period_us)
        return (self.burst + units) * self.increment

    def _arrive(self, now_us: int) -> None:
        self.latest = max(self.latest, now_us)
        self.tat = max(self.tat, Fraction(self.latest))

    def take(self, now_us: int, cost: int) -> bool:
        self._arrive(now_us)
        if self.tat + cost * self.increment > self.latest + self.tolerance:
            return False
        self.tat += cost * self.increment
        return True

    def wait_us(self, now_us: int, cost: int) -> int:
        if cost > self.burst:
            return -1
        self._arrive(now_us)
        conforming = self.tat + cost * self.increment - self.tolerance
        return 0 if conforming <= self.latest else ceil(conforming) - now_us

    def give(self, now_us: int, cost: int) -> None:
        self._arrive(now_us)
        self.tat = max(Fraction(self.latest), self.tat - cost * self.increment)

    def charge(self, now_us: int, cost: int) -> None:
        self._arrive(now_us)
        self.tat = min(self.tat + cost * self.increment, self.latest + self.furthest)

    def left(self, now_us: int) -> int:
        self._arrive(now_us)
        return max(0, floor((self.latest + self.tolerance - self.tat) / self.increment))

    def reset_us(self, now_us: int) -> int:
        self._arrive(now_us)
        return 0 if self.tat <= self.latest else ceil(self.tat) - now_us

    def idle(self, now_us: int) -> bool:
        self._arrive(now_us)
        return self.tat <= self.latest

    def change(self, rate: int, burst: int, now_us: int) -> None:
        self._arrive(now_us)
        units = (self.tat - self.latest) / self.increment
        self.rate = rate
        self.burst = burst
        self.tat = self.latest + min(units * self.increment, self.furthest)


@dataclass
class Counts:
    prompt: int = 0
    completion: int = 0
    requests: int = 0
    estimated: int = 0
    cached: int = 0
    reasoning: int = 0
    touched: bool = False
    """Something was counted or restored."""

    @property
    def totals(self) -> tuple[int, ...]:
        return self.prompt, self.completion, self.requests, self.estimated, self.cached, self.reasoning


class ReferenceLedger:
    """Every day has its counts; of the days with any, the current one and the two current before it are remembered."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.day = 0
        self.reserved = 0
        self.known: dict[int, Counts] = {0: Counts()}  # the one that became current last stands last

    @property
    def today(self) -> Counts:
        return self.known[self.day]

    def roll(self, day: int) -> None:
        if day == self.day:
            return
        came = self.known.pop(day, Counts())
        kept = [(known, counts) for known, counts in self.known.items() if counts.touched]
        self.known = dict([*kept[-2:], (day, came)])
        self.day = day

    def room(self) -> int:
        return self.limit - self.today.prompt - self.today.completion - self.reserved

    def reserve(self, day: int, cost: int) -> bool:
        self.roll(day)
        if self.limit and cost > self.room():
            return False
        self.reserved += cost
        return True

    def extend(self, day: int, cost: int) -> int:
        self.roll(day)
        got = min(cost, max(0, self.room())) if self.limit else cost
        self.reserved += got
        return got

    def settle(
        self, day: int, reserved: int, prompt: int, completion: int, estimated: bool, cached: int, reasoning: int
    ) -> None:
        self.roll(day)
        self.reserved -= reserved
        counts = self.today
        counts.prompt += prompt
        counts.completion += completion
        counts.requests += 1
        counts.estimated += (prompt + completion) * estimated
        counts.cached += max(0, min(cached, prompt))
        counts.reasoning += max(0, min(reasoning, completion))
        counts.touched = True

    def restore(self, day: int, *totals: int) -> None:
        self.roll(day)
        self.known[day] = Counts(*totals, touched=True)

    def left(self, day: int) -> int:
        self.roll(day)
        return max(0, self.room()) if self.limit else -1
