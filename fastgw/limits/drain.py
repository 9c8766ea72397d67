"""How fast a queue drains, and so when it is worth to come back.

Owns the count of those that left a queue for an engine, in ten buckets over a window. Removals by clients and deadlines are
not counted: no place came free with them. Constant size and time, whatever the rate.
"""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 10


class DrainRate:
    """Places that came free per second, over the last ``window_s``.

    ``now`` is a clock in seconds; one that steps back counts as standing still.

    :raises ValueError: for a window that is not positive.
    """

    __slots__ = ("_begun", "_bucket", "_counts", "_latest", "_total", "_width_s")

    def __init__(self, window_s: float = 10.0) -> None:
        if not window_s > 0:
            raise ValueError("window_s must be positive")
        self._width_s = window_s / BUCKETS
        self._counts = [0] * BUCKETS
        self._total = 0
        self._bucket = 0  # counted from the clock's zero
        self._latest = 0.0
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

    def retry_after_s(self, waiting: int, now: float, least: float = 1.0, most: float = 60.0) -> float:
        """Seconds until ``waiting`` more have left at the present rate, within ``least`` and ``most``.

        ``least`` when nothing was measured: a queue that has not drained lately may have been idle as well as stuck.
        """
        rate = self.rate(now)
        if rate == 0.0:
            return least
        return min(max(waiting / rate, least), most)

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
