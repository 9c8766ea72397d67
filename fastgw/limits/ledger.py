"""What one key has used on one UTC day, against its daily limit: reserve, then settle.

Owns: the counts of two days, so that a clock that steps over midnight, or a year ahead, and back finds the counts it left,
and which of them the store has not written yet. Never asks for the time (each call is told the day) and never does I/O.

Invariants: ``reserve`` and ``extend`` never make used plus reserved pass the limit. It may pass it by what ``settle`` counts
beyond a reservation, and by the reservations in flight when the clock steps back to a day that was used already. Each
settled token is counted on exactly one day: that of its settling.
"""

from __future__ import annotations

from typing import Final

DAY_S: Final = 86_400

MAX_TOKENS: Final = 1 << 40
"""The most that one call may reserve or settle: what a lying engine reports must not overflow a day's sum."""

# The compiled twin has it as a C number.
_most: Final = 1 << 40

Row = tuple[int, int, int, int, int, int]
"""(day, prompt tokens, completion tokens, requests, of the tokens those that were estimated, version)."""


class Ledger:
    """A key's tokens of today. ``limit``: tokens per day, 0 = unlimited (then it only counts).

    ``day``, ``prompt``, ``completion``, ``requests``, ``estimated``: the counts of the current day, as of the last call.
    ``reserved``: tokens of requests in flight; they belong to whichever day is current. ``dirty``: a row waits for the store.

    Days are whole numbers since 1970-01-01 UTC (:func:`day_of`).
    """

    __slots__ = (
        "_before", "_changes", "_version", "_written", "completion", "day", "dirty", "estimated", "limit", "prompt",
        "requests", "reserved",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.day = 0
        self.prompt = 0
        self.completion = 0
        self.requests = 0
        self.estimated = 0
        self.reserved = 0
        self.dirty = False
        # Versions are drawn from one count for all days, so that no two states ever share one.
        self._changes = 0
        self._version = 0
        self._written = 0
        # The other day: a Row, and the version that the store has.
        self._before: tuple[int, int, int, int, int, int, int] | None = None

    def roll(self, day: int) -> None:
        """Make ``day`` the current one; all other methods that are told a day do this.

        The counts of the day that was current are kept, those of a third day are forgotten, and a day on which nothing was
        counted takes no place. Reservations go along.
        """
        if day == self.day:
            return
        came = self._before
        if came is not None and came[0] != day:
            came = None
        if self._version:
            self._before = (
                self.day, self.prompt, self.completion, self.requests, self.estimated, self._version, self._written,
            )  # fmt: skip
        elif came is not None:
            self._before = None
        if came is None:
            came = (day, 0, 0, 0, 0, 0, 0)
        self.day, self.prompt, self.completion, self.requests, self.estimated, self._version, self._written = came
        self._look()

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

    def settle(self, day: int, reserved: int, prompt: int, completion: int, estimated: bool) -> None:
        """End of a request: give back all it had ``reserved`` (extensions included) and count what it used, today.

        ``estimated``: the engine gave no usage. Never raises for figures out of range: what is negative counts as 0, what is
        beyond :data:`MAX_TOKENS` as that.
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
        self._changes += 1
        self._version = self._changes
        self.dirty = True

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

    def restore(self, day: int, prompt: int, completion: int, requests: int, estimated: int) -> None:
        """Set what the store has of ``day``, before the first request; ``day`` becomes current. Not dirty by that."""
        self.roll(day)
        self.prompt = prompt
        self.completion = completion
        self.requests = requests
        self.estimated = estimated
        self._changes += 1
        self._version = self._written = self._changes
        self._look()

    def rows(self) -> list[Row]:
        """What the store does not have yet, at most two days; hand each back to :meth:`clean` once it is written.

        Totals of the day, not differences: to write one twice does no harm. A day that was forgotten here (the clock was on
        two other days since) starts again from nothing, so a writer keeps the greater of its total and this one.
        """
        found: list[Row] = []
        if self._version != self._written:
            found.append((self.day, self.prompt, self.completion, self.requests, self.estimated, self._version))
        before = self._before
        if before is not None and before[5] != before[6]:
            found.append(before[:6])
        return found

    def clean(self, day: int, version: int) -> None:
        """The row of ``day`` with this version was written. It stays dirty when it has changed since."""
        before = self._before
        if day == self.day:
            if version == self._version:
                self._written = version
        elif before is not None and before[0] == day and before[5] == version:
            self._before = (*before[:6], version)
        self._look()

    def _look(self) -> None:
        before = self._before
        self.dirty = self._version != self._written or (before is not None and before[5] != before[6])


def day_of(unix_s: float) -> int:
    """The UTC day of a Unix time, in days since 1970-01-01 (Unix time has no leap seconds, POSIX §4.16)."""
    return int(unix_s // DAY_S)


def seconds_to_midnight(unix_s: float) -> float:
    """Seconds until the next UTC midnight: above 0, at most 86400."""
    return DAY_S - unix_s % DAY_S or float(DAY_S)
