"""How fast a queue would drain, and so when it is worth to come back.

Owns what is known of how long requests hold their places: how many have begun and ended, and the time that all of them together
have held one (place-seconds), in ten buckets over a window; and the moments given to those who were told to come back: each has
his own, behind those who wait and those who were told before.

So many places as have been held at once, each for as long as requests of late have held theirs, is what can leave per second.
(Little's law: time in place = place-seconds / ends; those still under way are in it with what they have had so far.) That is
known when the first few have ended, though the queue had just begun to fill, and though hardly anybody came before: what has
left per second would say then how many came. Constant size and time, whatever the rate.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from fastgw.limits.promises import MOST_S, Promises

BUCKETS: Final = 10

UNKNOWN_S: Final = 1.0
"""Where none has left within the window the first is told this: a queue that has not drained lately may have been idle as well
as stuck."""

UNKNOWN_SPREAD: Final = 2.0
"""And others so many times that, by chance, beyond it; or beyond what those under way have held their places for, where that is
longer. Soon, for by then more is known, and a queue that was empty has room."""

SLACK: Final = 0.85
"""Places are given closer together than what could leave, for whoever comes early may wait in the queue, and a place
that nobody comes for is lost."""

ROUGH: Final = 0.5
"""What was counted is taken for so many standard deviations more: a few tell little, and too soon is better than too late."""

# The compiled twin has these as C numbers.
_rough: Final = ROUGH
_unknown_s: Final = UNKNOWN_S
_unknown_spread: Final = UNKNOWN_SPREAD
_most_s: Final = MOST_S
_slack: Final = SLACK


class DrainRate:
    """Places that could come free per second, by the last ``window_s``.

    ``now`` is a clock in seconds; one that steps back counts as standing still.

    :raises ValueError: for a window that is not positive.
    """

    __slots__ = (
        "_bucket", "_counts", "_held", "_held_s", "_latest", "_most", "_mosts", "_promises", "_total", "_unknown_until", "_way",
        "_width_s",
    )  # fmt: skip

    def __init__(self, window_s: float = 10.0) -> None:
        if not window_s > 0:
            raise ValueError("window_s must be positive")
        self._width_s = window_s / BUCKETS
        self._counts = [0] * BUCKETS  # how many have ended
        self._held = [0.0] * BUCKETS  # place-seconds, but for the bucket of now
        self._mosts = [0] * BUCKETS  # the most places held at once, but for the bucket of now
        self._total = 0
        self._held_s = 0.0
        self._most = 0
        self._way = 0  # under way
        self._bucket = 0  # counted from the clock's zero
        self._latest = 0.0
        self._promises = Promises(1.0)
        self._unknown_until = 0.0  # till then somebody else was told to come, in ignorance

    def began(self, now: float) -> None:
        """One has got a place."""
        self._advance(now)
        self._way += 1
        if self._way > self._most:
            self._most = self._way

    def left(self, now: float) -> None:
        """One gave its place back."""
        self._advance(now)
        if self._way > 0:
            self._way -= 1
        self._counts[self._bucket % BUCKETS] += 1
        self._total += 1

    def rate(self, now: float) -> float:
        """What could leave per second while others wait; 0.0 where that is not known.

        It is when half as many have left within the window as there are places. After a start those that leave first are
        the short ones, and the others have not been there for long.
        """
        self._advance(now)
        places = self._places()
        if self._total == 0 or 2 * self._total < places:
            return 0.0
        # (Those that end in the very moment in which they begin would do so at any rate.)
        return (self._total + _rough * sqrt(self._total)) * places / max(self._place_seconds(), self._width_s * 1e-3)

    def retry_after_s(self, waiting: int, now: float, chance: float, longest_s: float = _most_s) -> float:
        """Seconds until ``waiting`` more have left at the present rate, and those who were told before; 60 at most.

        ``longest_s``: by then whoever waits now has left in any case. ``chance``: see :meth:`Promises.told`.
        """
        rate = self.rate(now)
        if rate <= 0.0:
            return self._told_in_ignorance(now, chance)
        each_s = _slack / rate
        return self._promises.told(now, min(waiting * each_s, longest_s, _most_s), each_s, chance)

    def _told_in_ignorance(self, now: float, chance: float) -> float:
        if now >= self._unknown_until:
            self._unknown_until = now + _unknown_s
            return _unknown_s
        least_s = max(_unknown_s, self._place_seconds() / max(self._places(), 1))
        return least_s * (1.0 + _unknown_spread * chance)

    def _places(self) -> int:
        most = self._most
        for one in self._mosts:
            most = max(most, one)
        return most

    def _place_seconds(self) -> float:
        held_s = self._held_s
        for one in self._held:
            held_s += one
        return held_s

    def _advance(self, now: float) -> None:
        """Count the time until now, and empty the buckets that have passed out of the window."""
        if now <= self._latest:
            return
        width_s = self._width_s
        bucket = int(now / width_s)
        if bucket == self._bucket:
            self._held_s += self._way * (now - self._latest)
            self._latest = now
            return
        held_s = self._held_s + self._way * max((self._bucket + 1) * width_s - self._latest, 0.0)
        most = self._most
        for one in range(max(self._bucket, bucket - BUCKETS), bucket):
            # What is kept of the bucket that ends, and that all have held theirs through those since.
            at = one % BUCKETS
            if one == self._bucket:
                self._held[at] = held_s
                self._mosts[at] = most
            else:
                self._total -= self._counts[at]
                self._counts[at] = 0
                self._held[at] = self._way * width_s
                self._mosts[at] = self._way
        at = bucket % BUCKETS
        self._total -= self._counts[at]
        self._counts[at] = 0
        self._held[at] = 0.0
        self._mosts[at] = 0
        self._held_s = self._way * (now - bucket * width_s)
        self._most = self._way
        self._bucket = bucket
        self._latest = now
