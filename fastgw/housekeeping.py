"""What a gateway looks after four times a second, off the path of requests.

The UTC day that usage counts for (and what the store has of it, where the clock came to a day that memory does not hold), keys
that expire, heads that are kept for connections to come, meters of addresses that have gone, queues that wait for an engine's
recovery; memory that a crowd of long bodies has left; and, where there is a store, what was used since it was last written
down. All of it is bounded work: what is left over waits for the next look. It is done in pieces of a fraction of a millisecond,
between which the loop gets its turn, so that no stream waits for longer. Must never: wait for the store in the loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from time import time
from typing import Final, Protocol

from fastgw.accel.histograms import Bounds, Histogram
from fastgw.accel.landing import give_back, most_room
from fastgw.crossings import Crossings, Spawn
from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.account import Account
from fastgw.limits.key import Batch, KeyRecord, UsageRow
from fastgw.limits.ledger import day_of, seconds_to_midnight
from fastgw.limits.meter import Meters
from fastgw.limits.purse import KEY, MOST_SPENT, TENANT, Asked, Purse, Sums
from fastgw.limits.scope import MODEL
from fastgw.limits.spending import SpentRow
from fastgw.net.clock import micros, monotonic

LOOK_S: Final = 0.25
LAG: Final = Bounds((0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0))
FORGET_S: Final = 10.0  # a head that nobody has brought again for this long, to twice as long, is forgotten
AFTER_MIDNIGHT_S: Final = 0.002
MOST_KEYS: Final = 5000  # whose usage is one batch of the store's
MOST_SUMS: Final = 500  # budgets of which is asked at once what they have seen
MOST_ROWS: Final = 2000  # rows of what was spent in one batch: two milliseconds
MOST_TOLD: Final = 500  # lines of budgets that were told of, likewise
MOST_DAYS: Final = 64  # of which it is not known what the store has; only while it cannot be read are there several
SWEEP: Final = 5000  # meters looked at in one look: a million in less than a minute
CROWD: Final = 32 << 20  # bytes of bodies at once, after which memory is given back
FEW: Final = 8 << 20  # when they have not been more than these
CALM: Final = 20  # looks long: who comes in waves finds the pages of the last one
PIECE: Final = 250  # keys or meters, before the loop gets its turn: a third of a millisecond, where 5000 keys took 14


class UsageStore(Protocol):
    """Where usage is written down. ``done`` is called in the loop, with whether the rows are there now."""

    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None = None) -> bool: ...

    def load(self, day: int, done: Callable[[list[UsageRow] | None], None]) -> bool:
        """``done`` is called in the loop, with what there is of that day, or None: it cannot be read. False = it is not."""

    def sums(self, asked: Sequence[Asked], done: Callable[[Sums | None], None]) -> bool:
        """The same of what budgets have seen."""


class Housekeeping:
    """See the head of this file. ``store`` None = nothing is written down. ``spawn``: as of :class:`Crossings`.

    Of a day of which it is not known what the store has, nothing is written: what is used meanwhile is added to that, and the
    sums are written then. So the rows of a day that the store has are never older than those that are written over them.
    """

    def __init__(
        self,
        core: GatewayCore,
        loop: asyncio.AbstractEventLoop,
        *,
        meters: Meters | None,
        store: UsageStore | None,
        flush_s: float,
        spawn: Spawn | None = None,
    ) -> None:
        self._core = core
        self._crossings = Crossings(core, spawn)
        self._loop = loop
        self._meters = meters
        self._store = store
        self._flush_s = flush_s
        self._flushed_at = self._forgot_at = monotonic()
        self._writing: list[tuple[Account, int, int]] | None = None  # (account, day, version) of the batch under way
        self._rows: list[UsageRow] = []  # of that batch, while it is put together
        self._spent: Batch | None = None  # what was spent, until the store has said that it has it
        self._batches = 0
        self._instance = os.urandom(8).hex()
        core.accounts.books.kept = store is not None
        self._unknown: list[int] = []  # days of which it is not known what the store has, or not yet taken over
        self._unwritten: list[Account] = []  # looked at for that batch, and still to be written
        self._days = True
        self._asking = False
        self._summing = False
        self._paused = False
        self._more = False  # than went into that batch
        self._most_bodies = 0  # bytes of them at once, since memory was given back last
        self._calm = 0  # looks in a row before which there were few
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.lag = Histogram(LAG)  # how late the loop came to its looks

    def start(self) -> None:
        self._set(LOOK_S)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def follow(self, meters: Meters | None, flush_s: float) -> None:
        """Look after these meters, and write so often, from now on."""
        self._meters = meters
        self._flush_s = flush_s

    async def known(self, wait_s: float) -> bool:
        """Whether it is known what the store has of each day, so that what is counted here is all; it may take so long."""
        end = monotonic() + wait_s
        while self._unknown and monotonic() < end:  # noqa: ASYNC110 - as in `draining`
            await asyncio.sleep(0.005)
        return not self._unknown

    async def pause(self, wait_s: float) -> bool:
        """Write what there is, and then nothing, and ask for nothing, until :meth:`go_on`. False = that cannot be: it has not
        ended in time, or of a day it is not known what the store has."""
        end = monotonic() + wait_s
        for _ in range(2):  # (the second is what came while the first was written)
            self.flush()
            while self._writing is not None and monotonic() < end:  # noqa: ASYNC110 - as in `draining`
                await asyncio.sleep(0.002)
        self._paused = self._writing is None and not self._unknown
        return self._paused

    def go_on(self, store: UsageStore | None) -> None:
        """Go on after :meth:`pause`, with this one."""
        self._store = store
        self._paused = self._asking = self._summing = False

    def told_elsewhere(self) -> None:
        """Another process is to look after budgets, and to write down what is used from now on: nobody hears of their lines
        here, and it is kept until :meth:`go_on` hands it over, or :meth:`take_back` has it written here."""
        self._crossings.told_elsewhere()
        self._core.accounts.books.kept = True

    def take_back(self, store: UsageStore | None) -> None:
        """Nobody has taken over after :meth:`told_elsewhere`, or before it: all is as it was, with this store."""
        self.go_on(store)
        self._crossings.told_elsewhere(False)
        self._core.accounts.books.kept = store is not None

    def leave_days(self) -> None:
        """Another process looks after days and budgets, as all count them: only what requests have used is said here."""
        self._days = False
        self._crossings.told_elsewhere()

    def waiting(self) -> list[SpentRow]:
        """What was used and is not written down; it leaves the books."""
        rows, self._spent = list(self._spent.rows) if self._spent is not None else [], None
        return rows + self._core.accounts.books.take(sys.maxsize)

    def _set(self, seconds: float) -> None:
        self._due = monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        core = self._core
        unix_s = time()
        # (Those who were told to come at midnight come then.)
        now = monotonic()
        self.lag.observe(now - self._due)
        if core.accounts.region is not None:
            core.accounts.region.look(micros(now), core.today)
        self._set(min(LOOK_S, seconds_to_midnight(unix_s) + AFTER_MIDNIGHT_S))
        if core.accounts.crossed:
            self._crossings.tell()  # (before the period is another)
        today = day_of(unix_s)
        if today != core.today:
            core.today = today
            self.ask_for(today)
            self._turn_over(core.accounts.purses())
        if now - self._forgot_at >= FORGET_S:
            self._forgot_at = now
            core.heads.sweep()
        if core.accounts.expire(unix_s):
            core.version += 1
        if self._meters is not None and len(self._meters):
            self._sweep(min(SWEEP, len(self._meters)))
        core.room()
        if core.accounts.unread and not (self._summing or self._paused):
            self._ask_sums()
        self._watch_bodies(core.most_bodies())
        if self._store is not None and now - self._flushed_at >= self._flush_s:
            self._flushed_at = now
            self._ask()
            self.flush()

    def _sweep(self, left: int) -> None:
        if self._meters is None or self._timer is None:
            return
        self._meters.sweep(micros(monotonic()), min(left, PIECE))
        if left > PIECE:
            self._loop.call_soon(self._sweep, left - PIECE)

    def _watch_bodies(self, most: int) -> None:
        """``most``: bytes of them that were held at once since the last look, however short that was."""
        self._most_bodies = max(self._most_bodies, most, most_room())
        self._calm = self._calm + 1 if most <= FEW else 0
        if self._most_bodies > CROWD and self._calm >= CALM:
            self._most_bodies = 0
            self._give_back()

    def _give_back(self) -> None:
        if self._timer is not None and give_back():
            self._loop.call_soon(self._give_back)

    # --- keys
    def keys_changed(self, records: Sequence[KeyRecord]) -> None:
        """The store has new or changed keys (some hundred at most): requests from now on are judged by them."""
        core = self._core
        if core.accounts.apply(records, micros(monotonic()), time()):
            core.version += 1
            core.room()

    # --- budgets
    def _turn_over(self, purses: list[Purse]) -> None:
        """A day has come: some of the budgets have a new period."""
        accounts = self._core.accounts
        for purse in purses[-PIECE:]:
            purse.roll(self._core.today)
            if not purse.known:
                accounts.unread.append(purse)
        del purses[-PIECE:]
        if purses and self._timer is not None:
            self._loop.call_soon(self._turn_over, purses)

    def _ask_sums(self) -> None:
        accounts = self._core.accounts
        store = self._store
        if store is None:
            for purse in accounts.unread:
                purse.roll(self._core.today)
                purse.known = True  # what is counted here is all that there is
                accounts.cross(purse)
            accounts.unread.clear()
            return
        purses = accounts.unread[:MOST_SUMS]
        asked = self.asked_of(purses)
        self._summing = store.sums(asked, lambda sums: self._summed(purses, asked, sums))

    def asked_of(self, purses: Sequence[Purse]) -> list[Asked]:
        """What the store is asked, of the periods that are current now."""
        for purse in purses:
            purse.roll(self._core.today)
        return [(purse.kind, purse.name, purse.begins, purse.ends, purse.limit, purse.models) for purse in purses]

    def _summed(self, purses: Sequence[Purse], asked: Sequence[Asked], sums: Sums | None) -> None:
        accounts = self._core.accounts
        self._summing = False
        if sums is not None:
            del accounts.unread[: len(purses)]
            accounts.unread.extend(self.take_sums(purses, asked, sums))
            return
        for purse in purses:  # (The next look asks again; until then what was spent since is all that is known.)
            accounts.cross(purse)

    def take_sums(self, purses: Sequence[Purse], asked: Sequence[Asked], sums: Sums) -> list[Purse]:
        """Go on from what the store has of these budgets, and what of it is still on its way there. Returns those that are no
        more what was asked for, as a day has come or a setting is another meanwhile: of them nothing is known by this."""
        last, counts, told = sums
        accounts = self._core.accounts
        waiting = accounts.books.rows()
        if self._spent is not None and self._spent.id != last:
            waiting.extend(self._spent.rows)
        # By owner and day: money of all models, and tokens of all and of each.
        spent: dict[tuple[str, str, int, bool, str | None], int] = {}
        for key, tenant, model, day, prompt, completion, *_, cost, _ in waiting:
            for kind, name in ((KEY, key), (TENANT, tenant), (MODEL, "")):
                used = prompt + completion
                for tokens, of, count in ((False, None, cost), (True, None, used), (True, model, used)):
                    owner = (kind, name, day, tokens, of)
                    spent[owner] = spent.get(owner, 0) + count
        others: list[Purse] = []
        for purse, before, now, count, percent in zip(purses, asked, self.asked_of(purses), counts, told, strict=True):
            if now != before:
                others.append(purse)
                continue
            days = range(purse.begins, purse.ends) if spent else ()
            tokens = purse.models is not None
            more = sum(
                spent.get((purse.kind, purse.name, day, tokens, model), 0) for day in days for model in purse.models or (None,)
            )  # fmt: skip
            with accounts.inside(*accounts.holder_of(purse)):
                purse.restore(purse.begins, min(count + more, MOST_SPENT), percent)
            accounts.cross(purse)
        return others

    # --- usage
    def restore(
        self, rows: Sequence[UsageRow], sums_of: Callable[[Sequence[Asked]], Sums | None] | None = None
    ) -> None:
        """Take over what was used before this process began, and what budgets have seen, as ``sums_of`` says (None = it cannot
        be read now). Rows of the day before come first."""
        for row in sorted(rows, key=lambda row: row[1]):
            account = self._core.accounts.by_id(row[0])
            if account is not None:
                with self._core.accounts.inside(account):
                    restore(account, row)
        core = self._core
        core.accounts.scopes.remember([row[0] for row in rows if row[1] == core.today], micros(monotonic()), core.today)
        if sums_of is not None and self._core.accounts.unread:
            unread = self._core.accounts.unread
            asked = self.asked_of(unread)
            sums = sums_of(asked)
            if sums is not None:
                unread[:] = self.take_sums(unread, asked, sums)

    def ask_for(self, day: int) -> None:
        """Have the store say what it has of that day, which becomes the current one."""
        if self._store is None or day in self._unknown:
            return
        self._unknown.append(day)
        del self._unknown[:-MOST_DAYS]
        self._ask()

    def _ask(self) -> None:
        store = self._store
        if store is None or self._asking or self._paused or not self._unknown:
            return
        day = self._unknown[-1]  # (the current one is in haste)
        self._asking = True
        if not store.load(day, lambda rows: self._told(day, rows)):
            self._asking = False

    def _told(self, day: int, rows: list[UsageRow] | None, missed: bool = False) -> None:
        """Go on from what the store has of the day, some keys at a time. ``missed``: it was not the current one all the time,
        so that some have not taken their rows; if it is now, they are asked for again."""
        if rows is None:
            self._asking = False  # the next look at what is to be written asks again, for another day if there is one
            if day in self._unknown:
                self._unknown.remove(day)
                self._unknown.insert(0, day)
            if self._core.accounts.touched:
                self._core.stats.store_failures += 1  # what waits for this could not be written
            return
        core = self._core
        missed = missed or day != core.today
        for row in rows[-PIECE:]:
            account = core.accounts.by_id(row[0])
            if account is not None:
                with core.accounts.inside(account):
                    if day == core.today:
                        account.ledger.roll(day)
                    account.ledger.begin(*row[1:])
        del rows[-PIECE:]
        if rows:
            self._loop.call_soon(self._told, day, rows, missed)
            return
        self._asking = False
        if day in self._unknown and not (missed and day == core.today):
            self._unknown.remove(day)
        if self._unknown:
            self._ask()

    def _anything(self) -> bool:
        """Whether anything is to be written."""
        accounts = self._core.accounts
        return bool(accounts.touched or self._spent is not None or len(accounts.books) or self._crossings.rows)

    def flush(self) -> None:
        """Hand over what was used since; one batch is under way at a time, and the next follows when it is written."""
        store = self._store
        if not self._days:
            self._core.accounts.touched.clear()  # (which are not touched again: their ledgers stay dirty)
        if store is None or self._paused or self._writing is not None or not self._anything():
            return
        self._writing = []
        self._rows = []
        self._gather()

    def _gather(self) -> None:
        """Put some more into the batch; then hand it over, or go on in the loop's next turn."""
        store, batch, rows = self._store, self._writing, self._rows
        assert store is not None
        assert batch is not None
        touched = self._core.accounts.touched
        piece = touched[:PIECE]
        del touched[:PIECE]
        unknown = tuple(self._unknown)
        for account in piece:
            with self._core.accounts.inside(account):
                found = account.ledger.rows(unknown)
            if not found and account.ledger.dirty:
                self._unwritten.append(account)
            for row in found:
                rows.append((account.id, *row[:-1]))
                batch.append((account, row[0], row[-1]))
        if touched and len(batch) < MOST_KEYS:
            self._loop.call_soon(self._gather)
            return
        books = self._core.accounts.books
        crossings = self._crossings
        if self._spent is None and (len(books) or crossings.rows):
            self._batches += 1
            self._spent = Batch(f"{self._instance}:{self._batches}", books.take(MOST_ROWS), crossings.take(MOST_TOLD))
        self._more = bool(touched or len(books) or crossings.rows)
        touched.extend(self._unwritten)
        self._unwritten = []
        self._rows = []
        if not batch and self._spent is None:
            self._writing = None
        elif not store.write(rows, self._written, self._spent):
            self._written(False)

    def _written(self, well: bool) -> None:
        if well:
            self._spent = None
        else:
            self._core.stats.store_failures += 1
        self._check_off(well)

    def _check_off(self, well: bool) -> None:
        """Some of the batch, which was written or was not: who has been busy meanwhile is written again."""
        batch = self._writing
        assert batch is not None
        cut = max(0, len(batch) - PIECE)
        while cut and batch[cut - 1][0] is batch[cut][0]:
            cut -= 1  # all rows of an account at once: until then it is none that was written
        seen: dict[Account, None] = {}
        for account, day, version in batch[cut:]:
            if well:
                account.ledger.clean(day, version)
            seen[account] = None
        del batch[cut:]
        self._unwritten.extend(account for account in seen if account.ledger.dirty)
        if batch:
            self._loop.call_soon(self._check_off, well)
            return
        self._writing = None
        self._core.accounts.touched.extend(self._unwritten)
        self._unwritten = []
        if well and self._more:
            self.flush()

    async def last(self, wait_s: float) -> None:
        """Write down all there is, waiting no longer than ``wait_s``."""
        self.stop()
        if self._store is None:
            return
        end = monotonic() + wait_s
        while (self._writing is not None or self._anything()) and monotonic() < end:
            self._ask()
            self.flush()
            await asyncio.sleep(0.005)


def restore(account: Account, row: UsageRow) -> None:
    """Take over what the store has of a key's day; where other processes may have had it before, once."""
    ledger = account.ledger
    if account.record is None:
        ledger.restore(*row[1:])
    else:
        ledger.roll(row[1])
        ledger.begin(*row[1:])
