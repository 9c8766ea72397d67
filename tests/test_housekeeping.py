"""What was used is handed to the store in pieces that the loop can bear, and nothing of it is lost on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw import housekeeping
from fastgw.housekeeping import MOST_KEYS, PIECE, SWEEP, Housekeeping
from fastgw.limits.account import Account, pursed
from fastgw.limits.key import Batch, UsageRow
from fastgw.limits.ledger import DAY_S
from fastgw.limits.purse import KEY, MOST_SPENT, TENANT, Asked, Purse, Sums
from fastgw.limits.scope import MODEL
from fastgw.limits.scopes import Scopes
from fastgw.limits.spending import Books

ONE_PROCESS: dict[str, Any] = {"region": None, "inside": lambda *things: nullcontext(), "holder_of": lambda purse: (purse,)}


class Store:
    """Keeps the batches; the test says how each went."""

    def __init__(self) -> None:
        self.batches: list[Sequence[UsageRow]] = []
        self.done: Callable[[bool], None] | None = None
        self.spent: Batch | None = None

    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None = None) -> bool:
        assert self.done is None, "one batch at a time"
        self.batches.append(rows)
        self.spent = spent
        self.done = done
        return True

    def finish(self, well: bool) -> None:
        done, self.done = self.done, None
        assert done is not None
        done(well)


def keeping(count: int) -> tuple[Housekeeping, Store, Any]:
    accounts = [Account(f"key_{number}") for number in range(count)]
    for account in accounts:
        account.ledger.settle(20_000, 0, 3, 4, False)
    stats = SimpleNamespace(store_failures=0)
    register = SimpleNamespace(
        touched=list(accounts), books=Books(), unread=[], crossed=[], cross=lambda purse: None, **ONE_PROCESS
    )  # fmt: skip
    core: Any = SimpleNamespace(accounts=register, stats=stats, most_bodies=lambda: 0)
    store = Store()
    loop = asyncio.get_running_loop()
    return Housekeeping(core, loop, meters=None, store=store, flush_s=1.0), store, core


async def turns() -> None:
    """As many of the loop's as whatever is under way can need."""
    for _ in range(2 * MOST_KEYS // PIECE):
        await asyncio.sleep(0)


async def put_together(store: Store) -> None:
    for _ in range(2 * MOST_KEYS // PIECE):
        if store.done is None:
            await asyncio.sleep(0)


async def test_a_budget_is_told_all_that_was_spent_and_nothing_twice() -> None:
    """What the store has, what is on its way there, and what is still here."""
    house, store, core = keeping(0)
    core.today = 20_000
    books = core.accounts.books

    def spend(cost: int, day: int = 20_000, key: str = "key") -> None:
        books.use(key, "lab", "m", day).count(cost, 1, 1, 0, 0, False)

    spend(1)
    spend(1000, day=19_000)
    house.flush()
    batch = store.spent
    assert batch is not None
    spend(10)
    spend(100, key="another")
    own, shared = pursed(None, KEY, "key", 10**6, "month"), pursed(None, TENANT, "lab", 10**6, "month")
    assert own is not None
    assert shared is not None
    asked = house.asked_of([own, shared])
    assert [(kind, name) for kind, name, *_ in asked] == [("key", "key"), ("tenant", "lab")]
    house.take_sums([own, shared], asked, ("an earlier one", [5000, 5000], [0, 0]))
    assert (own.spent, shared.spent) == (5011, 5111)
    house.take_sums([own, shared], asked, (batch.id, [5001, 5001], [0, 0]))
    assert (own.spent, shared.spent) == (5011, 5111), "the batch is in the sums by now"
    days = [Purse(TENANT, "lab", ()), Purse(MODEL, "", ("m",)), Purse(KEY, "key", ("m",)), Purse(MODEL, "", ("other",))]
    for day in days:
        day.change(10**6, "day", b"")
    house.take_sums(days, house.asked_of(days), ("an earlier one", [50, 50, 50, 50], [0] * 4))
    assert [day.spent for day in days] == [56, 56, 54, 50], "tokens of the day, likewise"
    house.take_sums([own, shared], asked, (batch.id, [1 << 63, 1 << 64], [0, 0]))
    assert (own.spent, shared.spent) == (MOST_SPENT, MOST_SPENT), "more than 64 bits is as much as they hold"
    store.finish(False)
    house.flush()
    assert store.spent is batch, "what may have been written is handed over as it was"
    store.finish(True)
    house.flush()
    assert store.spent is not batch
    assert sorted(row[10] for row in store.spent.rows) == [10, 100]


@pytest.mark.parametrize("meanwhile", ["midnight", "period", "limit"])
async def test_what_the_store_says_of_a_budget_that_is_another_by_then_is_of_no_other(meanwhile: str) -> None:
    """A slow answer: of the day before, of another period, of another limit. It spends nothing of today's, tells nobody, and is
    asked for again."""
    house, store, core = keeping(0)
    core.today = 20_000
    crossed: list[int] = []
    core.accounts.cross = lambda purse: crossed.append(purse.percent())
    waiting: list[tuple[Sequence[Asked], Callable[[Sums | None], None]]] = []
    store.sums = lambda asked, done: waiting.append((asked, done)) is None  # type: ignore[attr-defined]
    purse = pursed(None, KEY, "key", 1000, "day")
    assert purse is not None
    core.accounts.unread.append(purse)
    house._ask_sums()
    if meanwhile == "midnight":
        core.today += 1
        house._turn_over([purse])
    else:
        pursed(purse, KEY, "key", *((1000, "week") if meanwhile == "period" else (2000, "day")))
    waiting.pop()[1](("", [1000], [100]))
    assert not crossed
    assert (purse.known, purse.told, purse.left(core.today)) == (False, 0, purse.limit)
    house._ask_sums()
    asked, done = waiting.pop()
    assert set(asked) == set(house.asked_of([purse]))
    done(("", [850] * len(asked), [0] * len(asked)))
    assert (purse.known, purse.spent, set(crossed)) == (True, 850, {0 if meanwhile == "limit" else 80})
    assert not core.accounts.unread


async def test_in_one_turn_of_the_loop_so_much_is_done_and_no_more() -> None:
    house, store, core = keeping(MOST_KEYS)
    touched = core.accounts.touched
    left = [len(touched)]
    house.flush()
    while store.done is None:
        left.append(len(touched))
        await asyncio.sleep(0)
    assert max(before - after for before, after in pairwise(left)) <= PIECE
    clean = [0]
    accounts = [row[0] for row in store.batches[0]]
    assert len(accounts) == MOST_KEYS
    all_of_them = [account for account, *_ in house._writing or ()]
    store.finish(True)
    while clean[-1] < MOST_KEYS:
        clean.append(sum(not account.ledger.dirty for account in all_of_them))
        await asyncio.sleep(0)
    assert max(after - before for before, after in pairwise(clean)) <= PIECE


async def test_meters_are_swept_in_pieces() -> None:
    house, _, core = keeping(0)
    core.today = housekeeping.day_of(housekeeping.time())
    core.accounts.expire = lambda unix_s: False
    core.room = lambda: None
    swept: list[list[int]] = []

    class Table(list[None]):
        def sweep(self, now_us: int, most: int) -> int:
            swept[-1].append(most)
            return 0

    house._meters = Table([None] * (SWEEP - 7))  # type: ignore[assignment]
    swept.append([])
    house._look()
    for _ in range(2 * SWEEP // PIECE):
        swept.append([])
        await asyncio.sleep(0)
    house.stop()
    assert max(sum(turn) for turn in swept) <= PIECE
    assert sum(sum(turn) for turn in swept) == SWEEP - 7
    assert sum(house.lag.counts()) == 1, "and how late it came is known"


async def test_many_keys_go_in_pieces_one_after_the_other() -> None:
    house, store, core = keeping(2 * MOST_KEYS + 7)
    house.flush()
    for _ in range(3):
        await put_together(store)
        store.finish(True)
        await turns()
    assert [len(batch) for batch in store.batches] == [MOST_KEYS, MOST_KEYS, 7]
    assert len({row[0] for batch in store.batches for row in batch}) == 2 * MOST_KEYS + 7
    assert core.accounts.touched == []
    assert store.done is None, "nothing is left to be written"


async def test_what_failed_waits_for_the_next_time_and_is_all_written_then() -> None:
    house, store, core = keeping(MOST_KEYS + 1)
    house.flush()
    await put_together(store)
    store.finish(False)
    await turns()
    assert core.stats.store_failures == 1
    assert store.done is None, "a sick disk is not asked again at once"
    assert len(core.accounts.touched) == MOST_KEYS + 1
    house.flush()
    for _ in range(2):
        await put_together(store)
        store.finish(True)
        await turns()
    assert {row[0] for batch in store.batches[1:] for row in batch} == {f"key_{number}" for number in range(MOST_KEYS + 1)}
    assert core.accounts.touched == []


async def test_what_is_used_while_a_batch_is_written_goes_with_the_next() -> None:
    house, store, core = keeping(1)
    account = core.accounts.touched[0]
    house.flush()
    account.ledger.settle(20_000, 0, 10, 0, False)
    store.finish(True)
    house.flush()
    assert store.batches[1] == [("key_0", 20_000, 13, 4, 2, 0, 0, 0)]
    store.finish(True)
    assert core.accounts.touched == []


class Kept:
    """A gateway's usage between its memory and a store, on a clock that does what it likes."""

    def __init__(self, held: dict[tuple[str, int], UsageRow], day: int, patch: pytest.MonkeyPatch) -> None:
        self.held = held
        self.well = True
        self.waiting: list[Callable[[], None]] = []
        self.account = Account("key")
        self.account.ledger.limit = 1000
        self.day = day
        patch.setattr(housekeeping, "time", lambda: self.day * DAY_S + 60.0)
        accounts = SimpleNamespace(
            **ONE_PROCESS,
            touched=[], expire=lambda unix_s: False, by_id=lambda key_id: self.account if key_id == "key" else None,
            books=Books(), purses=list, unread=[], crossed=[], cross=lambda purse: None, scopes=Scopes([]),
        )
        self.core: Any = SimpleNamespace(
            accounts=accounts,
            stats=SimpleNamespace(store_failures=0),
            today=day,
            room=lambda: None,
            most_bodies=lambda: 0,
        )
        self.house = Housekeeping(self.core, asyncio.get_running_loop(), meters=None, store=self, flush_s=0.0)
        # As a start does that knows the day itself, the one before it and the last of all.
        last = max((one for _, one in held), default=day)
        self.house.restore([row for (_, one), row in held.items() if one in (day, day - 1, last)])
        self.house.ask_for(day)

    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None = None) -> bool:
        def written() -> None:
            if self.well:
                for row in rows:
                    old = self.held.get((row[0], row[1]), row)
                    counts: Any = tuple(map(max, old[2:], row[2:]))
                    self.held[row[0], row[1]] = (row[0], row[1], *counts)
            done(self.well)

        self.waiting.append(written)
        return True

    def load(self, day: int, done: Callable[[list[UsageRow] | None], None]) -> bool:
        def loaded() -> None:
            done([row for (_, one), row in self.held.items() if one == day] if self.well else None)

        self.waiting.append(loaded)
        return True

    def use(self, tokens: int) -> bool:
        """A request that takes so many; as the filters do, on the day that the housekeeping has turned to."""
        ledger = self.account.ledger
        if not ledger.reserve(self.core.today, tokens):
            return False
        ledger.settle(self.core.today, tokens, tokens, 0, False)
        if self.account not in self.core.accounts.touched:
            self.core.accounts.touched.append(self.account)
        return True

    def work(self) -> None:
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one()

    def look(self) -> None:
        self.house._look()
        self.house.stop()

    def settle(self) -> None:
        for _ in range(4):
            self.look()
            self.work()


@pytest.mark.parametrize("wrong", [-1, -20_000, 5, 500])
async def test_a_start_under_a_wrong_clock_gives_no_quota_again(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though there are rows of other days, before and behind, and again and again."""
    day = 20_777
    held: dict[tuple[str, int], UsageRow] = {("key", one): ("key", one, 7, 0, 1, 0, 0, 0) for one in (day - 1, day + 30)}
    held["key", day] = ("key", day, 900, 0, 1, 0, 0, 0)
    for turn in range(3):
        kept = Kept(held, day + wrong, monkeypatch)
        kept.settle()
        kept.day = day
        kept.look()
        assert kept.use(10), "until it is known"
        kept.settle()
        assert not kept.use(100)
        assert kept.use(5)
        kept.settle()
        assert held["key", day][2] == 900 + 15 * (turn + 1)
        assert kept.account.ledger.left(day) == 100 - 15 * (turn + 1)


@pytest.mark.parametrize("seed", range(20))
async def test_what_was_used_is_in_the_store_whatever_the_clock_the_disk_and_the_process_do(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    days = [20_777 + step for step in (-300, -1, 0, 1, 2, 30)]
    held: dict[tuple[str, int], UsageRow] = {}
    used = dict.fromkeys(days, 0)
    kept = Kept(held, days[2], monkeypatch)
    for _ in range(400):
        way = chance.random()
        if way < 0.5:
            tokens = chance.randrange(1, 4)
            if kept.use(tokens):
                used[kept.core.today] += tokens
        elif way < 0.7:
            kept.look()
        elif way < 0.85:
            kept.work()
        elif way < 0.9:
            kept.well = not kept.well
        elif way < 0.98:
            kept.well = True  # (unwritten days beyond three are forgotten)
            kept.settle()
            kept.day = chance.choice(days)
        else:
            kept.well = True
            kept.settle()
            kept.day = chance.choice(days)
            kept = Kept(held, kept.day, monkeypatch)
    kept.well = True
    kept.settle()
    assert {day: row[2] for (_, day), row in held.items()} == {day: tokens for day, tokens in used.items() if tokens}
    assert max(used.values()) <= 1000 + 3


async def test_many_keys_are_taken_over_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept({}, 20_000, monkeypatch)
    kept.settle()
    kept.held |= {(f"key_{number}", 20_001): (f"key_{number}", 20_001, 1, 0, 1, 0, 0, 0) for number in range(MOST_KEYS)}
    kept.held["key", 20_001] = ("key", 20_001, 900, 0, 1, 0, 0, 0)
    kept.held |= {(f"a_{number}", 20_001): (f"a_{number}", 20_001, 1, 0, 1, 0, 0, 0) for number in range(MOST_KEYS)}
    kept.day = 20_001
    kept.look()
    kept.use(1)
    kept.work()
    assert kept.account.ledger.left(20_001) == 999
    kept.house.flush()
    assert not kept.waiting, "nothing is written before all are there"
    for _ in range(3 * MOST_KEYS // PIECE):
        await asyncio.sleep(0)
    assert kept.account.ledger.left(20_001) == 99
    kept.settle()
    assert kept.held["key", 20_001][2] == 901


async def test_a_day_that_cannot_be_read_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of that day alone nothing is written, and it is asked for again."""
    held: dict[tuple[str, int], UsageRow] = {("key", 20_001): ("key", 20_001, 400, 0, 1, 0, 0, 0)}
    kept = Kept(held, 20_000, monkeypatch)
    kept.settle()
    kept.day = 20_001
    kept.look()
    kept.well = False
    kept.work()
    kept.well = True
    asked = kept.load
    monkeypatch.setattr(kept, "load", lambda day, done: asked(day, done if day != 20_001 else lambda _: done(None)))
    for day in (20_001, 20_002, 20_003):
        kept.day = day
        kept.look()
        kept.use(7)
        kept.settle()
    assert held["key", 20_001][2] == 400, "what the store has of it is not known"
    assert [held["key", day][2] for day in (20_002, 20_003)] == [7, 7]
    monkeypatch.setattr(kept, "load", asked)
    kept.settle()
    kept.settle()
    assert held["key", 20_001][2] == 407


async def test_a_day_that_comes_back_while_its_rows_are_on_their_way_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept({}, 20_000, monkeypatch)
    kept.settle()
    kept.held |= {(f"key_{number}", 20_001): (f"key_{number}", 20_001, 1, 0, 1, 0, 0, 0) for number in range(MOST_KEYS)}
    kept.held["key", 20_001] = ("key", 20_001, 900, 0, 1, 0, 0, 0)  # (pieces are taken from the end: this is in the first)
    kept.day = 20_001
    kept.look()
    kept.day = 20_000
    kept.look()
    kept.work()
    kept.day = 20_001
    kept.look()
    for _ in range(3 * MOST_KEYS // PIECE):
        await asyncio.sleep(0)
        kept.settle()
    assert kept.account.ledger.left(20_001) == 100
