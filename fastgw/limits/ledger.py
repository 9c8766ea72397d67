"""What one key has used on one UTC day, against its daily limit: reserve, then settle.

Owns: the counts of three days, so that a clock that steps over midnight, or a year ahead, or over two other days, and back
finds the counts it left, and which of them the store has not written yet. A day that is not among them begins from nothing,
and :meth:`Ledger.begin` adds what the store has of it, once. Never asks for the time (each call is told the day) and never
does I/O.

Invariants: ``reserve`` and ``extend`` never make used plus reserved pass the limit. It may pass it by what ``settle`` counts
beyond a reservation, and by the reservations in flight when the clock steps back to a day that was used already. Each
settled token is counted on exactly one day: that of its settling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastgw.limits.promises import Promises

DAY_S: Final = 86_400

MAX_TOKENS: Final = 1 << 40
"""The most that one call may reserve or settle: what a lying engine reports must not overflow a day's sum."""

# The compiled twin has it as a C number.
_most: Final = 1 << 40

DAY_WORDS: Final = 8
WHOLE: Final = 2
"""As :meth:`Ledger.save` writes a day: of so many words, the second of which is 0 where nothing was counted on it, and from
this on where what the store had is in it."""

MOST_OTHERS: Final = 2
"""Days beside the current one that keep their counts."""

LEDGER_WORDS: Final = DAY_WORDS * (1 + MOST_OTHERS)
"""What :meth:`Ledger.save` writes."""

Row = tuple[int, int, int, int, int, int, int, int]
"""(day, prompt tokens, completion tokens, requests, of the tokens those that were estimated, of the prompt's those that the
engine had at hand, of the completion's those that nobody sees, version)."""


class Day:
    """The counts of a day that is not the current one, and the version of them that the store has."""

    __slots__ = ("cached", "completion", "day", "estimated", "prompt", "reasoning", "requests", "version", "whole", "written")

    def __init__(self, day: int) -> None:
        self.day = day
        self.whole = False  # what the store had of it is in it
        self.prompt = 0
        self.completion = 0
        self.requests = 0
        self.estimated = 0
        self.cached = 0
        self.reasoning = 0
        self.version = 0
        self.written = 0

    def save(self, words: memoryview[int], at: int) -> None:
        words[at] = self.day
        words[at + 1] = (1 if self.version else 0) + (WHOLE if self.whole else 0)
        words[at + 2] = self.prompt
        words[at + 3] = self.completion
        words[at + 4] = self.requests
        words[at + 5] = self.estimated
        words[at + 6] = self.cached
        words[at + 7] = self.reasoning

    def load(self, words: memoryview[int], at: int) -> bool:
        """True = it is another by that."""
        self.whole = words[at + 1] >= WHOLE
        counts = (self.prompt, self.completion, self.requests, self.estimated)
        self.prompt = words[at + 2]
        self.completion = words[at + 3]
        self.requests = words[at + 4]
        self.estimated = words[at + 5]
        self.cached = words[at + 6]
        self.reasoning = words[at + 7]
        return not self.version or counts != (self.prompt, self.completion, self.requests, self.estimated)

    def row(self) -> Row:
        return (
            self.day, self.prompt, self.completion, self.requests, self.estimated, self.cached, self.reasoning, self.version,
        )  # fmt: skip


class Ledger:
    """A key's tokens of today. ``limit``: tokens per day, 0 = unlimited (then it only counts).

    ``day``, ``prompt``, ``completion``, ``requests``, ``estimated``, ``cached`` (of the prompt's), ``reasoning`` (of the
    completion's): the counts of the current day, as of the last call.
    ``reserved``: tokens of requests in flight; they belong to whichever day is current. ``dirty``: a row waits for the store.

    Days are whole numbers since 1970-01-01 UTC (:func:`day_of`).
    """

    __slots__ = (
        "_changes", "_others", "_version", "_whole", "_written", "cached", "completion", "day", "dirty", "estimated", "limit",
        "promises", "prompt", "reasoning", "requests", "reserved",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.day = 0
        self.prompt = 0
        self.completion = 0
        self.requests = 0
        self.estimated = 0
        self.cached = 0
        self.reasoning = 0
        self.reserved = 0
        self.dirty = False
        self.promises: Promises | None = None  # to those who found the rest reserved
        # Versions are drawn from one count for all days, so that no two states ever share one.
        self._changes = 0
        self._version = 0
        self._written = 0
        self._whole = False
        # The other days, the one that was current last first.
        self._others: tuple[Day, ...] = ()

    def roll(self, day: int) -> None:
        """Make ``day`` the current one; all other methods that are told a day do this.

        The counts of the two days that were current before it are kept, those of a fourth day are forgotten (one that the store
        has, if there is such a one), and a day on which nothing was counted takes no place. Reservations go along.
        """
        if day == self.day:
            return
        came: Day | None = None
        kept: list[Day] = []
        if self._version:
            kept.append(self._left())
        for other in self._others:
            if other.day == day:
                came = other
            else:
                kept.append(other)
        if len(kept) > MOST_OTHERS:
            gone = kept[MOST_OTHERS]
            for other in kept:
                if other.version == other.written:
                    gone = other
            kept.remove(gone)
        if came is None:
            came = Day(day)
        self._others = tuple(kept)
        self._become(came)
        self._look()

    def _left(self) -> Day:
        """The current day, as one that is not."""
        left = Day(self.day)
        left.prompt = self.prompt
        left.completion = self.completion
        left.requests = self.requests
        left.estimated = self.estimated
        left.cached = self.cached
        left.reasoning = self.reasoning
        left.version = self._version
        left.written = self._written
        left.whole = self._whole
        return left

    def _become(self, came: Day) -> None:
        self.day = came.day
        self.prompt = came.prompt
        self.completion = came.completion
        self.requests = came.requests
        self.estimated = came.estimated
        self.cached = came.cached
        self.reasoning = came.reasoning
        self._version = came.version
        self._written = came.written
        self._whole = came.whole

    def reserve(self, day: int, cost: int) -> bool:
        """Take ``cost`` tokens (0 to :data:`MAX_TOKENS`) before a request. False = not that many are left; nothing is taken.

        :raises ValueError: for a negative cost.
        """
        if cost < 0:
            raise ValueError("a negative cost")
        if day != self.day:
            self.roll(day)
        if cost > _most or (self.limit and cost > self.limit - self.prompt - self.completion - self.reserved):
            return False
        self.reserved += cost
        return True

    def extend(self, day: int, cost: int) -> int:
        """Take as many of ``cost`` tokens as are left, for a stream that goes on beyond its reservation. Returns how many.

        :raises ValueError: for a negative cost.
        """
        if cost < 0:
            raise ValueError("a negative cost")
        if day != self.day:
            self.roll(day)
        cost = min(cost, _most)
        if self.limit:
            cost = max(0, min(cost, self.limit - self.prompt - self.completion - self.reserved))
        self.reserved += cost
        return cost

    def settle(
        self, day: int, reserved: int, prompt: int, completion: int, estimated: bool, cached: int = 0, reasoning: int = 0
    ) -> None:
        """End of a request: give back all it had ``reserved`` (extensions included) and count what it used, today.

        ``estimated``: no engine counted it, or not all of it. ``cached`` of the prompt's tokens and ``reasoning`` of the
        completion's are counted beside them, and cost nothing more. Never raises for figures out of range: what is negative
        counts as 0, what is beyond :data:`MAX_TOKENS` as that, and a part is no greater than its whole.
        """
        if day != self.day:
            self.roll(day)
        if reserved:
            self.release(reserved)
        if not (0 <= prompt <= _most and 0 <= completion <= _most):
            prompt = max(0, min(prompt, _most))
            completion = max(0, min(completion, _most))
        self.prompt += prompt
        self.completion += completion
        self.requests += 1
        if estimated:
            self.estimated += prompt + completion
        if cached > 0:
            self.cached += min(cached, prompt)
        if reasoning > 0:
            self.reasoning += min(reasoning, completion)
        self._changes += 1
        self._version = self._changes
        self.dirty = True

    def add(
        self, day: int, prompt: int, completion: int, requests: int, estimated: int, cached: int, reasoning: int
    ) -> None:
        """Count what so many requests have used that ended elsewhere, with figures as :meth:`settle` has counted them there."""
        self.settle(day, 0, prompt, completion, False, cached, reasoning)
        self.requests += requests - 1
        self.estimated += estimated

    def release(self, reserved: int) -> None:
        """Give a reservation back without a charge: the request used nothing and is not counted."""
        self.reserved = max(0, self.reserved - max(0, reserved))

    def left(self, day: int) -> int:
        """Tokens that could be reserved now; -1 = unlimited."""
        if day != self.day:
            self.roll(day)
        if not self.limit:
            return -1
        return max(0, self.limit - self.prompt - self.completion - self.reserved)

    def restore(
        self, day: int, prompt: int, completion: int, requests: int, estimated: int, cached: int = 0, reasoning: int = 0
    ) -> None:
        """Set what the store has of ``day``, before the first request; ``day`` becomes current. Not dirty by that."""
        self.roll(day)
        self.prompt = prompt
        self.completion = completion
        self.requests = requests
        self.estimated = estimated
        self.cached = cached
        self.reasoning = reasoning
        self._changes += 1
        self._version = self._written = self._changes
        self._whole = True
        self._look()

    def begin(
        self, day: int, prompt: int, completion: int, requests: int, estimated: int, cached: int = 0, reasoning: int = 0
    ) -> None:
        """Add what the store had of ``day`` before anything of it came from here: once, and to no day that was handed to it."""
        if day == self.day:
            if self._whole:
                return
            self._whole = True
            self.prompt += prompt
            self.completion += completion
            self.requests += requests
            self.estimated += estimated
            self.cached += cached
            self.reasoning += reasoning
            if self._version == self._written:
                self._changes += 1
                self._version = self._written = self._changes
            return
        for other in self._others:
            if other.day == day and not other.whole:
                other.whole = True
                other.prompt += prompt
                other.completion += completion
                other.requests += requests
                other.estimated += estimated
                other.cached += cached
                other.reasoning += reasoning

    def rows(self, unknown: tuple[int, ...] = ()) -> list[Row]:
        """What the store does not have yet, at most three days; hand each back to :meth:`clean` once it is written.

        Totals of the day, not differences: to write one twice does no harm. So those of the ``unknown`` days are left out, of
        which what the store has was not given to :meth:`begin` yet: what it has from then on came from here.
        """
        found: list[Row] = []
        if self._version != self._written and self.day not in unknown:
            self._whole = True
            found.append((
                self.day, self.prompt, self.completion, self.requests, self.estimated, self.cached, self.reasoning,
                self._version,
            ))  # fmt: skip
        for other in self._others:
            if other.version != other.written and other.day not in unknown:
                other.whole = True
                found.append(other.row())
        return found

    def clean(self, day: int, version: int) -> None:
        """The row of ``day`` with this version was written. It stays dirty when it has changed since."""
        if day == self.day:
            if version == self._version:
                self._written = version
        else:
            for other in self._others:
                if other.day == day and other.version == version:
                    other.written = version
        self._look()

    # --- for other processes
    def save(self, words: memoryview[int], at: int) -> None:
        """Write its days there, the current one first. (What the store has of them is the business of who asks it.)"""
        self._left().save(words, at)
        for place in range(MOST_OTHERS):
            at += DAY_WORDS
            if place < len(self._others):
                other = self._others[place]
                other.save(words, at)
            else:
                words[at] = words[at + 1] = 0

    def load(self, words: memoryview[int], at: int) -> None:
        """Go on from what was written there. A day that is another by it waits for the store; ``dirty`` does not say so:
        whoever looks after the store is told of it."""
        if words[at] != self.day:
            self._order(words, at)
        self._whole = words[at + 1] >= WHOLE
        if (
            words[at + 2] != self.prompt or words[at + 3] != self.completion or words[at + 4] != self.requests
            or words[at + 5] != self.estimated or (words[at + 1] and not self._version)
        ):  # fmt: skip
            self.prompt = words[at + 2]
            self.completion = words[at + 3]
            self.requests = words[at + 4]
            self.estimated = words[at + 5]
            self.cached = words[at + 6]
            self.reasoning = words[at + 7]
            self._changes += 1
            self._version = self._changes
        for _ in range(MOST_OTHERS):
            at += DAY_WORDS
            if words[at + 1]:
                self._load_other(words, at)

    def _order(self, words: memoryview[int], at: int) -> None:
        """Make the days that were written there the days here, in that order, and keep what the store does not have yet."""
        known = [self._left(), *self._others]
        found: list[Day] = []
        for place in range(at, at + DAY_WORDS * (1 + MOST_OTHERS), DAY_WORDS):
            if place == at or words[place + 1]:
                found.append(_of(known, words[place]) or Day(words[place]))  # noqa: PERF401 - of C's words
        for day in known:
            if day.version != day.written and day not in found and len(found) <= MOST_OTHERS:
                found.append(day)
        self._become(found[0])
        self._others = tuple(found[1:])

    def _load_other(self, words: memoryview[int], at: int) -> None:
        other = _of(self._others, words[at])
        if other is None:
            other = Day(words[at])
            self._others = (other, *self._others)[:MOST_OTHERS]
        if other.load(words, at):
            self._changes += 1
            other.version = self._changes

    def _look(self) -> None:
        """See whether any of the days waits for the store."""
        dirty = self._version != self._written
        for other in self._others:
            if other.version != other.written:
                dirty = True
        self.dirty = dirty


def _of(days: Sequence[Day], number: int) -> Day | None:
    for day in days:
        if day.day == number:
            return day
    return None


def day_of(unix_s: float) -> int:
    """The UTC day of a Unix time, in days since 1970-01-01 (Unix time has no leap seconds, POSIX §4.16)."""
    return int(unix_s // DAY_S)


def seconds_to_midnight(unix_s: float) -> float:
    """Seconds until the next UTC midnight: above 0, at most 86400."""
    return DAY_S - unix_s % DAY_S or float(DAY_S)
