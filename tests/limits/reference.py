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
        self.aside = Fraction(0)
        """Units owed beyond what the limit may lock out for; they decay when nothing else is left to."""

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
        before = max(self.tat, Fraction(self.latest))
        self.latest = max(self.latest, now_us)
        self.tat = max(self.tat, Fraction(self.latest))
        self.aside = max(Fraction(0), self.aside - max(Fraction(0), self.latest - before) / self.increment)

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
        return self.tat <= self.latest and not self.aside

    def change(self, rate: int, burst: int, now_us: int) -> None:
        self._arrive(now_us)
        units = (self.tat - self.latest) / self.increment + self.aside
        self.rate = rate
        self.burst = burst
        most = self.furthest / self.increment
        self.tat = self.latest + min(units, most) * self.increment
        self.aside = min(max(Fraction(0), units - most), Fraction(9 * 10**18, self.period_us) - most)


class ReferenceBucket:
    """A meter by its whole history: what was taken, when, and how much of it was used. Nothing is forgotten, and giving back
    is having taken less: the debt is that of the path that there would have been."""

    def __init__(self, rate: int, period_us: int, burst: int) -> None:
        self.rate = rate
        self.period_us = period_us
        self.burst = burst
        self.taken: list[tuple[int, int]] = []
        """(when, units), in order."""

    def debt(self, now_us: int) -> int:
        """In units times the period."""
        debt, at_us = 0, 0
        for when_us, units in self.taken:
            debt = max(0, debt - (when_us - at_us) * self.rate) + units * self.period_us
            at_us = when_us
        return max(0, debt - (now_us - at_us) * self.rate)

    def take(self, now_us: int, cost: int) -> int | None:
        """The number under which it is settled; None = refused."""
        if self.debt(now_us) + cost * self.period_us > self.burst * self.period_us:
            return None
        self.taken.append((now_us, cost))
        return len(self.taken) - 1

    def settle(self, number: int, used: int) -> None:
        when_us, taken = self.taken[number]
        self.taken[number] = (when_us, min(used, taken))

    def most_in_any_window(self) -> Fraction:
        """By how much, of all windows, the fullest is fuller than its length at the rate allows, in units."""
        most = Fraction(0)
        for first, (begin, _) in enumerate(self.taken):
            units = 0
            for end, more in self.taken[first:]:
                units += more
                most = max(most, units - Fraction((end - begin) * self.rate, self.period_us))
        return most


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
    changes: int = 0
    written: int = 0
    """The store has it with so many changes."""

    @property
    def totals(self) -> tuple[int, ...]:
        return self.prompt, self.completion, self.requests, self.estimated, self.cached, self.reasoning


class ReferenceLedger:
    """Every day has its counts; of the days with any, the current one and two others are remembered: those that are not
    written, and then those that were current last."""

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
        if len(kept) > 2:
            kept.remove(next((one for one in kept if one[1].changes == one[1].written), kept[0]))
        self.known = dict([*kept, (day, came)])
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
        counts.changes += 1

    def restore(self, day: int, *totals: int) -> None:
        self.roll(day)
        self.known[day] = Counts(*totals, touched=True)

    def left(self, day: int) -> int:
        self.roll(day)
        return max(0, self.room()) if self.limit else -1
