"""Where the records of a region are, and who is told that a place has come free.

Owns the layout, the index and how a place is found in it. Must never: know what a record says, but whether it is as good as
new.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from fastgw.limits.addresses import Addresses, words_for
from fastgw.limits.ledger import LEDGER_WORDS
from fastgw.limits.meter import METER_WORDS
from fastgw.limits.shared import LOCK_WORDS, Pages, Record

WINDOW: Final = 16
"""Places where a record may be. With twice as many places as records all of them are taken by chance once in many millions."""
KEY_BYTES: Final = 32
MONEY: Final = "money"
KINDS: Final = ("key", "tenant", "model", "each", MONEY)
"""Each has one record that those of it share for which there is no room; money has it by itself."""

INDEX: Final = LOCK_WORDS + 16
HEAD_WORDS: Final = 4
"""Of a record: its version, which copy is whole, what its tail is, one to spare."""
TAIL: Final = 2 * METER_WORDS
COPY_WORDS: Final = TAIL + LEDGER_WORDS
SLOT_WORDS: Final = 8
"""What one process holds: inflight, reserved, open requests, open tokens, waiting, and three to spare: a line of a cache."""
OF_PURSE: Final = 1
OF_LEDGER: Final = 2

# The compiled twin has these as C numbers.
_head: Final = LOCK_WORDS
_index: Final = INDEX
_record: Final = HEAD_WORDS
_meter: Final = METER_WORDS
_tail: Final = TAIL
_copy: Final = COPY_WORDS
_slot: Final = SLOT_WORDS
_window: Final = WINDOW
_PURSE: Final = OF_PURSE
_LEDGER: Final = OF_LEDGER


class Table:
    """See the head of this file."""

    __slots__ = (
        "_addresses", "_fds", "_first", "_key", "_pages", "_places", "_stride", "_wake", "crowded_total", "now_us", "today",
        "worker", "workers",
    )  # fmt: skip

    def __init__(self, fds: Sequence[int], worker: int, pages: Pages) -> None:
        self._fds = tuple(fds)
        self._pages = pages
        self.worker = worker
        self._wake = 0
        self.crowded_total = 0
        self.now_us = 0
        self.today = 0
        self._learn(pages)

    def _learn(self, pages: Pages) -> None:
        words = pages.words
        self.workers: int = words[_head + 1]
        self._places: int = words[_head + 2]
        self._first: int = _index + 2 * (self._places + _window)
        self._stride = _record + 2 * _copy + _slot * (self.workers + 1)
        places: int = words[_head + 8]
        self._addresses = Addresses(pages, words[_head + 3] - words_for(places), places)
        self._key = b"".join([int(words[_head + 4 + at]).to_bytes(8, "little", signed=True) for at in range(KEY_BYTES // 8)])

    def _sum(self, at: int, what: int) -> int:
        """Of that, over all processes."""
        words = self._pages.words
        at += _record + 2 * _copy + what
        found = 0
        for _ in range(self.workers + 1):
            found += words[at]
            at += _slot
        return found

    # --- where records are
    def _find(self, record: Record) -> None:
        """Where it is: where it was put, or in a new place, or where all share one."""
        words = self._pages.words
        number = record.low % self._places
        free = -1
        for place in range(number, number + _window):
            entry = _index + 2 * place
            if words[entry] == record.high and words[entry + 1] == record.low:
                self._at(record, entry, place)
                return
            if free < 0 and not words[entry] and not words[entry + 1]:
                free = place
        if free < 0:
            free = self._spare(number)
        if free < 0:
            self.crowded_total += 1
            kind = record.kind.partition(" ")[0]
            place = self._places + _window + KINDS.index(kind)
            record.crowd = True
            self._at(record, 0, place)
            return
        entry = _index + 2 * free
        at = self._first + self._stride * free
        words[entry] = words[entry + 1] = 0
        self._pages.settle()
        for word in range(at + 1, at + self._stride):
            words[word] = 0
        words[at] += 1  # (no version is ever there twice)
        self._pages.settle()
        words[entry + 1] = record.low
        words[entry] = record.high
        fresh = not record.at
        self._at(record, entry, free)
        if fresh:
            record.seen = words[at]

    def _at(self, record: Record, entry: int, place: int) -> None:
        """It is there. (Where this process has found it before, and it has gone since, it goes on from nothing.)"""
        record.seen = -1
        record.at = self._first + self._stride * place
        record.entry = entry

    def _spare(self, number: int) -> int:
        """Of the places where it may be one whose record is as good as new, and of which nobody holds anything; -1 = none."""
        for place in range(number, number + _window):
            at = self._first + self._stride * place
            if self._idle(at):
                return place
        return -1

    def _idle(self, at: int) -> bool:
        words = self._pages.words
        copy = at + _record + _copy * words[at + 1]
        for slot in range(at + _record + 2 * _copy, at + self._stride, _slot):
            for what in range(5):
                if words[slot + what]:
                    return False
        for meter in (copy, copy + _meter):
            # (By the limit that it was written with.)
            debt = words[meter]
            if words[meter + 3] or (debt and self.now_us - words[meter + 1] <= debt // max(1, words[meter + 5])):
                return False
        tail = copy + _tail
        if words[at + 2] == _LEDGER:
            # (The store has what was used on the day before by the end of this one.)
            return words[tail] < self.today - 1 or not words[tail + 1]
        if words[at + 2] == _PURSE:
            return words[tail + 1] <= self.today or not words[tail + 2]
        return True

    # --- who waits
    def _freed(self, slots: int) -> None:
        """A place has come free: those are to look at it who have somebody waiting for it."""
        words = self._pages.words
        for worker in range(self.workers + 1):
            if worker != self.worker and words[slots + _slot * worker + 4]:
                self._wake |= 1 << worker

    def _ring(self) -> None:
        wake, self._wake = self._wake, 0
        for worker in range(self.workers + 1):
            if wake >> worker & 1:
                with suppress(BlockingIOError):  # (it has been told often enough)
                    os.eventfd_write(self._fds[1 + worker], 1)
