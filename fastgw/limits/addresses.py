"""What several processes have let each client address have of its limit: a table of meters in the region that they share.

    entry     hash (2 words) | which copy is whole, one to spare | a copy | the other copy

Owns: where an address's meter is there, and that one request is taken of it by all processes as by one. It is beside the
records of keys, so no crowd of strangers takes the room of these. Must never: lock (the region has, when it calls). Whoever is
killed leaves each entry as it was, or as it is to be. Addresses for which there is no room share the last entry.
"""

from __future__ import annotations

from typing import Final

from fastgw.limits.meter import Meter
from fastgw.limits.shared import Pages, Record

MOST_ADDRESSES: Final = 262_144
"""For which there is room: of 160 bytes each, twice as many places as addresses, where they are used."""

# (The compiled twin has these as C numbers.)
_copy: Final = 8  # what a meter writes of which nothing comes back
_entry: Final = 4 + 2 * 8
_near: Final = 16  # places where an address may be


def words_for(places: int) -> int:
    """How many words of the region so many places take."""
    return _entry * (places + _near + 1)


class Addresses:
    """See the head of this file. ``first``: where the table begins, with so many ``places``."""

    __slots__ = ("_first", "_pages", "_places")

    def __init__(self, pages: Pages, first: int, places: int) -> None:
        self._pages = pages
        self._first = first
        self._places = places

    def take(self, meter: Meter, now_us: int) -> bool:
        """Take one request of what all processes have of the meter's address; False = nothing was taken."""
        record = meter.record
        assert record is not None
        words = self._pages.words
        at = record.at
        if not at or (not record.crowd and (words[at] != record.high or words[at + 1] != record.low)):
            at = record.at = self._find(record, now_us)
        whole = at + 4 + _copy * words[at + 2]
        if words[whole + 5]:  # (the rate: somebody has written it)
            meter.load(words, whole, 0)
        if not meter.take(now_us, 1):
            return False
        other = 1 - words[at + 2]
        meter.save(words, at + 4 + _copy * other)
        self._pages.settle()
        words[at + 2] = other
        return True

    def _find(self, record: Record, now_us: int) -> int:
        """Where it was put, or a new place, or that where all are for which there is none."""
        words = self._pages.words
        crowd = self._first + _entry * (self._places + _near)
        free = 0
        if record.crowd:
            return crowd
        at = self._first + _entry * (record.low % self._places)
        for _ in range(_near):
            if words[at] == record.high and words[at + 1] == record.low:
                return at
            if not free and (not words[at] or self._idle(at, now_us)):
                free = at
            at += _entry
        if not free:
            record.crowd = True
            return crowd
        words[free] = 0
        self._pages.settle()
        for word in range(free + 1, free + 4 + _copy):
            words[word] = 0
        self._pages.settle()
        words[free + 1] = record.low
        words[free] = record.high
        return free

    def _idle(self, at: int, now_us: int) -> bool:
        """Whether it is as good as new, by the limit that it was written with."""
        words = self._pages.words
        at += 4 + _copy * words[at + 2]
        debt = words[at]
        return not words[at + 3] and (not debt or now_us - words[at + 1] > debt // max(1, words[at + 5]))
