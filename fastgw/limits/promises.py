"""Who was told to come back, and when: each refused caller has a place of his own, behind those who were told before.

All who are told the same moment come at the same moment, and all but one are refused again: so each is given the time that
those before him take at the meter's rate (or at that of a queue), and the moment after theirs. This is a schedule and no
reservation: nobody's place is kept, and nothing is remembered of whom it was given to. A promise is over when its time is.

Whoever asks again before his time is behind himself. So the second caller is told the same moment as the first, who may be
the same; and nobody's hammering moves others further away than :data:`MOST_S`. Two retries in a row are enough: a place
that was lost to a newcomer is followed by one behind all that were given, which is where the backlog ends.

Must never: read a clock or throw dice. Constant size and time.
"""

from __future__ import annotations

from typing import Final

MOST_S: Final = 60.0
"""The furthest place: OpenAI's SDKs wait no longer than this when they are told to, and try again much earlier instead."""

SPREAD: Final = 0.25
"""Beyond the furthest place the order is lost: callers come in the last quarter of that time, by chance."""

# The compiled twin has these as C numbers.
_most_s: Final = MOST_S
_spread: Final = SPREAD


class Promises:
    """The places given by one meter, or one queue. Times in seconds on one monotonic clock."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0.0  # the place of the next one; in the past = nobody has been told anything that is still to come

    def told(self, now: float, word_s: float, each_s: float, chance: float) -> float:
        """How long the next one is told to wait: never less than ``word_s``, the meter's own word.

        ``each_s``: what he takes of the meter's time when he comes. ``chance``: 0 to 1, by which he comes a little later than
        his place: places are given one after the other, callers come by clocks of their own.
        """
        ahead = self._next - now
        if ahead <= 0.0:
            self._next = now + word_s
            return word_s
        place = max(word_s, ahead)
        furthest = max(_most_s, word_s)
        if place + each_s > furthest:
            self._next = now + furthest
            return max(word_s, _most_s * (1.0 - _spread * chance))
        self._next = now + place + each_s
        if place > word_s:
            place += each_s * chance
        return place
