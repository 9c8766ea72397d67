"""How fast a queue drains, and so when it is worth to come back.

Owns the count of those that left a queue for an engine, in ten buckets over a window, and the places given to those who were
told to come back: each has his own, at the rate of late, behind those who wait and those who were told before. Removals by
clients and deadlines are not counted: no place came free with them. Constant size and time, whatever the rate.
"""

from __future__ import annotations

from typing import Final

from fastgw.limits.promises import MOST_S, Promises

BUCKETS: Final = 10

UNKNOWN_S: Final = 1.0
"""Where none has left within the window the first is told this: a queue that has not drained lately may have been idle as well
as stuck."""

UNKNOWN_RATE: Final = 10.0
"""And so many are told to come per second after him."""

SLACK: Final = 0.85
"""Places are given closer together than what has left, for whoever comes early may wait in the queue, and a place
that nobody comes for is lost."""

# The compiled twin has these as C numbers.
_unknown_s: Final = UNKNOWN_S
_unknown_rate: Final = UNKNOWN_RATE
_most_s: Final = MOST_S
_slack: Final = SLACK


class DrainRate:
    """Places that came free per second, over the last ``window_s``.

    ``now`` is a clock in seconds; one that steps back counts as standing still.

    :raises ValueError: for a window that is not positive.
    """

    __slots__ = ("_begun", "_bucket", "_counts", "_guesses", "_latest", "_promises", "_total", "_width_s")

    def __init__(self, window_s: float = 10.0) -> None:
        if not window_s > 0:
            raise ValueError("window_s must be positive")
        self._width_s = window_s / BUCKETS
        self._counts = [0] * BUCKETS
        self._total = 0
        self._bucket = 0  # counted from the clock's zero
        self._latest = 0.0
        self._promises = Promises(1.0)
        self._guesses = Promises(1.0)  # (what was told in ignorance puts nobody off who is told by a measured rate)
        self._begun = 0.0  # the first that was counted after the window had been empty

    def left(self, now: float) -> None:
        """One left the queue for an engine."""
        now = self._advance(now)
        if self._total == 0:
            self._begun = now
        self._counts[self._bucket % BUCKETS] += 1
        self._total += 1

    def rate(self, now: float) -> float:
        """Per second; 0.0 when none left within the window.

        Over the time that was looked at, which is shorter than the window after a start, but never less than a bucket: the
        first few of a burst are not taken for a rate.
        """
        now = self._advance(now)
        if self._total == 0:
            return 0.0
        begun = max(self._begun, (self._bucket - BUCKETS + 1) * self._width_s)
        return self._total / max(now - begun, self._width_s)

    def retry_after_s(self, waiting: int, now: float, chance: float, longest_s: float = _most_s) -> float:
        """Seconds until ``waiting`` more have left at the present rate, and those who were told before; 60 at most.

        ``longest_s``: by then whoever waits now has left in any case. ``chance``: see :meth:`Promises.told`.
        """
        rate = self.rate(now)
        if rate <= 0.0:
            return self._guesses.told(now, _unknown_s, 1.0 / _unknown_rate, chance)
        each_s = _slack / rate
        return self._promises.told(now, min(waiting * each_s, longest_s, _most_s), each_s, chance)

    def _advance(self, now: float) -> float:
        """Empty the buckets that have passed out of the window; returns the time that counts."""
        if now <= self._latest:
            return self._latest
        self._latest = now
        bucket = int(now / self._width_s)
        passed = min(bucket - self._bucket, BUCKETS)
        if passed > 0:
            for step in range(1, passed + 1):
                at = (self._bucket + step) % BUCKETS
                self._total -= self._counts[at]
                self._counts[at] = 0
            self._bucket = bucket
        return now
