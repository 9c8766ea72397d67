"""Who was told to come back, and when: each refused caller has a place of his own, behind those who were told before.

All who are told the same moment come at the same moment, and all but one are refused again: so each is given the time that
those before him take at the meter's rate (or at that of a queue), and the moment after theirs. This is a schedule and no
reservation: nobody's place is kept, and nothing is remembered of whom it was given to. A promise is over when its time is.

Whoever asks again before his time is behind himself. So the second caller is told the same moment as the first, who may be
the same, where that is not upon them; and nobody's hammering moves others further away than :data:`MOST_S`. Who is refused
when a crowd's places have begun to be taken is a newcomer, or has lost his place to one: then places are given further apart,
so that there is room for others as well. And a crowd that has been coming for a while goes on coming: while it does its
newcomers take whatever place is given, and whoever is told one twice has lost both retries. So nobody is told a place within
:data:`GOES_ON` times as long as it has been coming, and whoever is refused twice comes when it is over. Then two retries in a
row are enough.

Must never: read a clock or throw dice. Constant size and time.
"""

from __future__ import annotations

from typing import Final

MOST_S: Final = 60.0
"""The furthest place: OpenAI's SDKs wait no longer than this when they are told to, and try again much earlier instead."""

SPREAD: Final = 0.25
"""Beyond the furthest place the order is lost: callers come in the last quarter of that time, by chance."""

APART: Final = 1.0625
"""Places are a sixteenth further apart than the meter needs, and callers come up to that much late, by chance: so none comes
too early for his own because the one before him was late."""

CROWD_S: Final = 0.1
"""Who is refused within this after the first one belongs to the same crowd."""

NEWCOMERS: Final = 1.25
"""So much further apart are the places that are given later: a fifth of what the meter has is for those who come unforeseen."""

NARROW: Final = 2.0
"""The same where the meter saves up nothing (a burst of less than :data:`CROWD_S`): who comes a moment late wastes it."""

GOES_ON: Final = 8.0
"""A crowd is expected to go on coming for so many times as long as it has been (and the meter been in use without a pause)."""

GOES_ON_MOST_S: Final = 4.5
"""But no longer than this."""

# The compiled twin has these as C numbers.
_most_s: Final = MOST_S
_spread: Final = SPREAD
_apart: Final = APART
_crowd_s: Final = CROWD_S
_goes_on: Final = GOES_ON
_goes_on_most_s: Final = GOES_ON_MOST_S
_same_s: Final = 0.001  # a place and the meter's word differ by roundings


class Promises:
    """The places given by one meter, or one queue. Times in seconds on one monotonic clock.

    ``newcomers``: see :data:`NEWCOMERS`; 1.0 where who comes unforeseen may wait.
    """

    __slots__ = ("_alone", "_begun", "_newcomers", "_next")

    def __init__(self, newcomers: float = NEWCOMERS) -> None:
        self._newcomers = newcomers
        self._alone = False  # only one has been told anything that is still to come
        self._begun = 0.0  # when the first of this crowd was refused
        self._next = 0.0  # the place of the next one; in the past = nobody has been told anything that is still to come

    def told(self, now: float, word_s: float, each_s: float, chance: float, busy_s: float = 0.0) -> float:
        """How long the next one is told to wait: never less than ``word_s``, the meter's own word.

        ``each_s``: what he takes of the meter's time when he comes. ``chance``: 0 to 1, by which he comes a little later than
        his place. ``busy_s``: how long the crowd has been coming; 0.0 where it may wait for its places.
        """
        ahead = self._next - now
        if ahead <= 0.0:
            self._alone = True
            self._begun = now
            self._next = now + word_s
            return word_s
        place = max(word_s, ahead)
        if not self._alone or ahead < _crowd_s:
            place = max(place, min(_goes_on * busy_s, _goes_on_most_s))
        self._alone = False
        furthest = max(_most_s, word_s)
        each_s *= _apart
        if now - self._begun > _crowd_s:
            each_s *= self._newcomers
        self._next = now + min(place + each_s, furthest)
        if place >= furthest:
            return max(word_s, _most_s * (1.0 - _spread * chance))
        if place > word_s + _same_s:
            place = min(place + each_s * (1.0 - 1.0 / _apart) * chance, furthest)
        return place
