"""What several processes have used of the same limits: one region of memory, which each of them has mapped.

Owns: a bounded table of records there, found by a keyed hash of what they are of, and the sections in which one process alone
works on some of them. Must never: count by itself. The meters, ledgers and purses that each process has go on counting: a
section brings what others have used into them, and writes it back at its end. The limits themselves are each process's
settings. So between ``enter`` and ``leave`` all code of limits runs as ever, alone in the machine; it is some microseconds, and
never waits.

    head      the lock; what the region is made for; the key of the hash
    index     the hashes of the records that there are
    records   version, which copy is whole | a copy | the other copy | what each process holds
    addresses the meters of clients' addresses (``addresses``)

**What is used is shared; what is held is each process's own.** ``inflight``, ``reserved`` and what may come back to a meter
are, in a section, the sums over all processes; what one changes there it adds to its own slot. So :meth:`Region.release` frees
all that a process held that has ended.

**A process may end anywhere.** A copy is written beside the one that is whole, and one word says which is: who is killed before
it leaves what was, who is killed behind it what is. The version goes up before, so that nobody takes for known what he does not
know. The lock goes with its holder (``shared``). Who is killed between two records of one section has counted in one of them:
the request was its own, and ends with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final

from fastgw.limits.account import Account
from fastgw.limits.addresses import MOST_ADDRESSES, words_for
from fastgw.limits.meter import METER_WORDS, Meter
from fastgw.limits.purse import Purse
from fastgw.limits.scope import EACH, Scope, Share
from fastgw.limits.shared import LOCK_WORDS, Pages, Record
from fastgw.limits.table import (
    COPY_WORDS,
    HEAD_WORDS,
    INDEX,
    KEY_BYTES,
    KINDS,
    MONEY,
    OF_LEDGER,
    OF_PURSE,
    SLOT_WORDS,
    TAIL,
    WINDOW,
    Table,
)

MOST_RECORDS: Final = 65_536
"""Keys, tenants and models, and what keys have of them, for which there is room: of two kilobytes each where it is used."""
MOST_WORKERS: Final = 64
AT_ONCE: Final = 256
"""Records that are looked at under one lock, of those of a process that has ended."""

MAGIC: Final = 0x66676C696D000001
"""The layout: another number, another layout."""
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


class Region(Table):
    """See the head of this file. ``worker``: which of the processes this is, 0 = the one that controls the others.

    ``now_us`` and ``today``: about now, as whoever looks after the gateway says from time to time: by them a record is as good
    as new, which makes room. ``trial``: called where a process might be killed; for tests.
    """

    __slots__ = ("_depth", "_purses", "_scopes", "trial")

    def __init__(self, fds: Sequence[int], worker: int, pages: Pages) -> None:
        super().__init__(fds, worker, pages)
        self._depth = 0
        self._scopes: list[Scope] = []
        self._purses: list[Purse] = []
        self.trial: Any = None

    @classmethod
    def create(cls, workers: int, most: int = MOST_RECORDS, addresses: int = MOST_ADDRESSES) -> Region:
        """For so many workers beside this process, with room for ``most`` records, and for so many ``addresses``."""
        if not 1 <= workers <= MOST_WORKERS or most < 1 or addresses < 1:
            raise ValueError(f"a region is for 1 to {MOST_WORKERS} workers, and for at least one record")
        places = 2 * most
        stride = _record + 2 * _copy + _slot * (workers + 1)
        size = _index + 2 * (places + _window) + stride * (places + _window + len(KINDS))
        size += words_for(2 * addresses)
        fd = os.memfd_create("fastgw-limits")
        os.ftruncate(fd, size * 8)
        pages = Pages(fd, size, True)
        _set(pages, (workers, places, size, 2 * addresses), os.urandom(KEY_BYTES))
        bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers + 1)]
        return cls((fd, *bells), 0, pages)

    @classmethod
    def attached(cls, fds: Sequence[int], worker: int) -> Region:
        """That of another process, by the descriptors that it has handed on (:meth:`fds`).

        :raises ValueError: it is none, or of another version of this program.
        """
        head = os.pread(fds[0], 8 * 16, 8 * LOCK_WORDS)
        numbers = [int.from_bytes(head[at : at + 8], "little", signed=True) for at in range(0, len(head), 8)]
        if not numbers or numbers[0] != MAGIC or not 0 <= worker <= numbers[1] or len(fds) != numbers[1] + 2:
            raise ValueError("what was handed on is no memory of limits that this version of fastgw knows")
        return cls(fds, worker, Pages(fds[0], numbers[3], False))

    def fds(self) -> tuple[int, ...]:
        """All descriptors that :meth:`attached` wants, in its order."""
        return self._fds

    def wake_fd(self, worker: int) -> int:
        """The eventfd by which that process hears that a place has come free for which somebody waits there."""
        return self._fds[1 + worker]

    @property
    def fd(self) -> int:
        """The file's, on which processes may take turns as well."""
        return int(self._fds[0])

    def look(self, now_us: int, today: int) -> None:
        """It is about then now."""
        self.now_us, self.today = now_us, today

    def close(self) -> None:
        self._pages.close()
        for fd in self._fds:
            os.close(fd)

    # --- whose records there are
    def record(self, kind: str, name: str, model: str = "") -> Record:
        """The record of that; where it is is found when it is needed first."""
        text = "\0".join((kind, name, model)).encode("utf-8", "surrogatepass")
        digest = blake2b(text, digest_size=16, key=self._key).digest()
        high = int.from_bytes(digest[:8], "little") >> 1 | 1
        return Record(self, kind, high, int.from_bytes(digest[8:], "little") >> 1)

    def address(self, name: str) -> Record:
        """The record of a client's address; of none: that which all have in common for which there is no room."""
        record = self.record("address", name)
        record.crowd = not name
        return record

    def take(self, meter: Meter, now_us: int) -> bool:
        """Take one request of an address's limit, as all processes have used it; False = nothing was taken."""
        self.begin()
        try:
            return self._addresses.take(meter, now_us)
        finally:
            self.leave()

    def join(self, scope: Scope, model: str = "") -> None:
        """From now on that scope is one with those of other processes of the same name (and ``model``: it is a key's of that,
        without which it is none)."""
        if scope.record is None and (model or scope.kind != EACH):
            scope.record = self.record(scope.kind, scope.id, model)

    def join_money(self, purse: Purse) -> None:
        """The same of a budget; one of another period is another."""
        kind = f"{MONEY} {purse.period}"
        if purse.record is None or purse.record.kind != kind:
            purse.record = self.record(kind, purse.kind, purse.name)
            purse.common = True

    # --- sections
    def enter(self, account: Account, shares: tuple[Share, ...]) -> None:
        """Alone from here to :meth:`leave`, with what all processes have used of what a request of ``account`` needs."""
        if not self._depth:
            self._pages.lock()
        self._depth += 1
        try:
            self._bring(account)
            joint = account.joint
            if joint is not None:
                self._bring(joint)
            purse = account.purse
            if purse is not None:
                self._bring_money(purse)
            purse = account.shared
            if purse is not None:
                self._bring_money(purse)
            for share in shares:
                self._bring(share.scope)
        except BaseException:
            self.leave()
            raise

    def bring(self, scopes: tuple[Scope, ...]) -> None:
        """With these as well, in a section that has begun."""
        if self._depth:
            for scope in scopes:
                self._bring(scope)

    def begin(self) -> None:
        """As :meth:`enter`, with nothing yet."""
        if not self._depth:
            self._pages.lock()
        self._depth += 1

    def leave(self) -> None:
        """The end of a section: what was used in it is what has been used. (Of one within another, nothing yet.)"""
        self._depth -= 1
        if self._depth:
            return
        scopes, purses = self._scopes, self._purses
        try:
            for scope in scopes:
                self._save(scope)
            for purse in purses:
                self._save_money(purse)
        finally:
            if scopes:
                for scope in scopes:
                    scope.record.inside = False  # type: ignore[union-attr]
                scopes.clear()
            if purses:
                for purse in purses:
                    purse.record.inside = False  # type: ignore[union-attr]
                purses.clear()
            self._pages.unlock()
            if self._wake:
                self._ring()

    def inside(self, *things: Scope | Purse) -> Inside:
        """``with region.inside(...)``: a section with these, of any process's own time."""
        return Inside(self, things)

    def _bring(self, scope: Scope) -> None:
        record = scope.record
        if record is None:
            self.join(scope)
            record = scope.record
        if record is None or record.inside:
            return
        day = scope.day
        if day is not None:
            day.common = True
        words = self._pages.words
        if not record.crowd and (not record.at or words[record.entry] != record.high or words[record.entry + 1] != record.low):
            self._find(record)
        record.inside = True
        self._scopes.append(scope)
        at = record.at
        if words[at] == record.seen:
            return
        self._tell(scope, record)
        self._load(scope, record, at + _record + _copy * words[at + 1])

    def _load(self, scope: Scope, record: Record, at: int) -> None:
        """Go on from the copy at ``at``, and from what all hold."""
        scope.inflight = record.inflight = self._sum(record.at, 0)
        meter = scope.requests
        if meter is not None:
            record.open_requests = self._sum(record.at, 2)
            meter.load(self._pages.words, at, record.open_requests)
        meter = scope.tokens
        if meter is not None:
            record.open_tokens = self._sum(record.at, 3)
            meter.load(self._pages.words, at + _meter, record.open_tokens)
        if isinstance(scope, Account):
            if not record.crowd:  # (there each has its own day)
                account: Account = scope
                account.ledger.reserved = record.reserved = self._sum(record.at, 1)
                account.ledger.load(self._pages.words, at + _tail)
        elif scope.day is not None:
            scope.day.reserved = record.reserved = self._sum(record.at, 1)
            scope.day.load(self._pages.words, at + _tail)

    def _save(self, scope: Scope) -> None:
        record = scope.record
        assert record is not None
        words = self._pages.words
        at = record.at
        other = 1 - words[at + 1]
        before = at + _record + _copy * words[at + 1]
        to = at + _record + _copy * other
        self._meet(scope, record, before)
        if scope.requests is not None:
            scope.requests.save(words, to)
        else:
            self._carry(before, to, _meter)
        if scope.tokens is not None:
            scope.tokens.save(words, to + _meter)
        else:
            self._carry(before + _meter, to + _meter, _meter)
        if isinstance(scope, Account):
            account: Account = scope
            words[at + 2] = _LEDGER
            account.ledger.save(words, to + _tail)
        elif scope.day is not None:
            words[at + 2] = _PURSE
            scope.day.save(words, to + _tail)
        else:
            self._carry(before + _tail, to + _tail, _copy - _tail)
        self._commit(record, other)
        self._tell(scope, record)

    def _meet(self, scope: Scope, record: Record, at: int) -> None:
        """A limit that is new here may be one that others have already: it goes on from what they have used."""
        words = self._pages.words
        meter = scope.requests
        if meter is not None and meter is not record.requests and words[at + 5]:
            meter.load(words, at, self._sum(record.at, 2))
            record.requests = meter
            record.open_requests = 0 if meter.past is None else meter.past.open
        meter = scope.tokens
        if meter is not None and meter is not record.tokens and words[at + _meter + 5]:
            meter.load(words, at + _meter, self._sum(record.at, 3))
            record.tokens = meter
            record.open_tokens = 0 if meter.past is None else meter.past.open
        day = scope.day
        if day is not None and day is not record.day and words[at + _tail + 1]:
            day.load(words, at + _tail)
            day.reserved = record.reserved = self._sum(record.at, 1)
            record.day = day

    def _commit(self, record: Record, other: int) -> None:
        """The copy that was written is the one that holds."""
        words = self._pages.words
        at = record.at
        self._pages.settle()
        words[at] += 1
        record.seen = words[at]
        if self.trial is not None:
            self.trial()
        words[at + 1] = other
        self._pages.settle()

    def _tell(self, scope: Scope, record: Record) -> None:
        """Add to this process's slot what it holds more, or less, than it has told of so far."""
        words = self._pages.words
        mine = record.at + _record + 2 * _copy + _slot * self.worker
        more = scope.inflight - record.inflight
        if more:
            record.inflight = scope.inflight
            words[mine] = max(0, words[mine] + more)
        queue = scope.parked
        words[mine + 4] = 0 if queue is None else len(queue)
        meter = scope.requests
        if meter is not record.requests:
            record.requests = meter
            record.open_requests = words[mine + 2] = 0
        if meter is not None and meter.past is not None:
            words[mine + 2] = max(0, words[mine + 2] + meter.past.open - record.open_requests)
            record.open_requests = meter.past.open
        meter = scope.tokens
        if meter is not record.tokens:
            record.tokens = meter
            record.open_tokens = words[mine + 3] = 0
        if meter is not None and meter.past is not None:
            words[mine + 3] = max(0, words[mine + 3] + meter.past.open - record.open_tokens)
            record.open_tokens = meter.past.open
        reserved = 0
        if isinstance(scope, Account):
            account: Account = scope
            reserved = 0 if record.crowd else account.ledger.reserved
        else:
            if scope.day is not record.day:
                record.day = scope.day
                record.reserved = words[mine + 1] = 0
            if scope.day is not None:
                reserved = scope.day.reserved
        words[mine + 1] = max(0, words[mine + 1] + reserved - record.reserved)
        record.reserved = reserved
        if more < 0 and scope.concurrency:
            self._freed(record.at + _record + 2 * _copy)

    def _bring_money(self, purse: Purse) -> None:
        self.join_money(purse)
        record = purse.record
        if record is None or record.inside:
            return
        words = self._pages.words
        if not record.crowd and (not record.at or words[record.entry] != record.high or words[record.entry + 1] != record.low):
            self._find(record)
        if record.crowd:
            return  # (what others have spent is not one's own)
        record.inside = True
        self._purses.append(purse)
        at = record.at
        if words[at] != record.seen:
            self._tell_money(purse, record)
            purse.reserved = record.reserved = self._sum(at, 1)
            purse.load(words, at + _record + _copy * words[at + 1] + _tail)

    def _save_money(self, purse: Purse) -> None:
        record = purse.record
        assert record is not None
        words = self._pages.words
        at = record.at
        other = 1 - words[at + 1]
        words[at + 2] = _PURSE
        purse.save(words, at + _record + _copy * other + _tail)
        self._commit(record, other)
        self._tell_money(purse, record)

    def _tell_money(self, purse: Purse, record: Record) -> None:
        words = self._pages.words
        mine = record.at + _record + 2 * _copy + _slot * self.worker
        words[mine + 1] = max(0, words[mine + 1] + purse.reserved - record.reserved)
        record.reserved = purse.reserved

    def _carry(self, before: int, to: int, count: int) -> None:
        """Words that this process has nothing to say of."""
        words = self._pages.words
        for at in range(count):
            words[to + at] = words[before + at]

    # --- who waits, and who has ended
    def release(self, worker: int) -> Iterator[int]:
        """All that a process held that has ended is free. In pieces, each of which says how many records it had something
        in."""
        for first in range(0, self._places + _window + len(KINDS), AT_ONCE):
            yield self._release(worker, first, min(first + AT_ONCE, self._places + _window + len(KINDS)))

    def _release(self, worker: int, first: int, end: int) -> int:
        words = self._pages.words
        held = 0
        self._pages.lock()
        try:
            for place in range(first, end):
                if place < self._places + _window and not words[_index + 2 * place]:
                    continue
                at = self._first + self._stride * place
                slot = at + _record + 2 * _copy + _slot * worker
                freed = words[slot]
                some = False
                for what in range(slot, slot + 5):
                    if words[what]:
                        some = True
                if some:
                    words[at] += 1  # (before: whoever has seen it looks again)
                    self._pages.settle()
                    for what in range(slot, slot + 5):
                        words[what] = 0
                    held += 1
                    if freed:
                        self._freed(at + _record + 2 * _copy)
        finally:
            self._pages.unlock()
        if self._wake:
            self._ring()
        return held


class Inside:
    """A section, as ``with`` wants it."""

    __slots__ = ("_region", "_things")

    def __init__(self, region: Region, things: tuple[Scope | Purse, ...]) -> None:
        self._region = region
        self._things = things

    def __enter__(self) -> None:
        region = self._region
        region.begin()
        try:
            for thing in self._things:
                if isinstance(thing, Purse):
                    region._bring_money(thing)
                else:
                    region._bring(thing)
        except BaseException:
            region.leave()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._region.leave()


def _set(pages: Pages, numbers: tuple[int, int, int, int], key: bytes) -> None:
    """What a new region says of itself; the layout last."""
    words = pages.words
    words[_head + 1], words[_head + 2], words[_head + 3], words[_head + 8] = numbers
    for at in range(KEY_BYTES // 8):
        words[_head + 4 + at] = int.from_bytes(key[8 * at : 8 * at + 8], "little", signed=True)
    words[_head] = MAGIC
