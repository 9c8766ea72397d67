"""A line that a budget crosses is told once in its period, whatever becomes of the process, and of whoever is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw import crossings, housekeeping
from fastgw.crossings import Crossings
from fastgw.housekeeping import Housekeeping
from fastgw.limits.account import Accounts, Defaults
from fastgw.limits.key import Batch, UsageRow
from fastgw.limits.ledger import DAY_S
from fastgw.limits.purse import Asked, Purse, Sums
from fastgw.stats import Stats
from fastgw.store import spending
from fastgw.store.database import Database
from tests.support.gateway import Events

MONTH, NEXT = 20_059, 20_089  # 2024-12-02, 2025-01-01


class Life:
    """A gateway between its start and its end, on a store that outlives it. ``sent``: what its receiver was told, and how to
    say that it has taken it."""

    def __init__(self, database: Database, limit: int = 1000, url: str = "http://127.0.0.1:9/", day: int = MONTH) -> None:
        self.database = database
        self.day = day
        self.sent: list[tuple[Mapping[str, Any], Callable[[], None]]] = []
        self.accounts = Accounts(Defaults(), [], required=False)
        self.share(limit)
        config = SimpleNamespace(budget_webhook_url=url, budget_webhook_secret="", currency="EUR")
        self.stats, self.log = Stats(), Events()
        self.core: Any = SimpleNamespace(
            accounts=self.accounts, config=config, stats=self.stats, log=self.log, today=day, room=lambda: None,
            most_bodies=lambda: 0, version=0,
        )
        self.house = Housekeeping(
            self.core, asyncio.get_running_loop(), meters=None, store=self, flush_s=0.0, spawn=None if not url else Any  # type: ignore[arg-type]
        )
        self.house._crossings._hook = SimpleNamespace(tell=lambda event, taken: self.sent.append((event, taken)))  # type: ignore[assignment]
        self.house.restore([], lambda asked: spending.sums(database, asked))

    def share(self, limit: int) -> None:
        self.accounts.share({"lab": (limit, "month")})

    @property
    def purse(self) -> Purse:
        return self.accounts.purses()[0]

    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None = None) -> bool:
        self.database.upsert_usage(rows, spent)
        done(True)
        return True

    def load(self, day: int, done: Callable[[list[UsageRow] | None], None]) -> bool:
        done([])
        return True

    def sums(self, asked: Sequence[Asked], done: Callable[[Sums | None], None]) -> bool:
        done(spending.sums(self.database, asked))
        return False  # (nothing is under way any more)

    def spend(self, cost: int) -> None:
        self.accounts.books.use("key", "lab", "m", self.core.today).count(cost, 1, 1, 0, 0, False)
        if self.purse.charge(self.core.today, cost):
            self.accounts.cross(self.purse)

    def look(self) -> list[Any]:
        """The percentages that somebody is told of by now."""
        self.house._look()
        self.house.stop()
        return [event["percent"] for event, _ in self.sent]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    for module in (housekeeping, crossings):
        monkeypatch.setattr(module, "time", lambda: MONTH * DAY_S + 60.0)
    return Database.open(str(tmp_path / "fastgw.db"))


async def test_it_is_told_with_what_was_spent_of_what_and_when(database: Database) -> None:
    life = Life(database)
    life.spend(799)
    assert life.look() == []
    life.spend(1)
    assert life.look() == life.look() == [80]
    assert life.sent[0][0] == {
        "id": "tenant:lab:2024-12-01:0.000001:80", "type": "budget.crossed", "at": "2024-12-02T00:01:00Z", "tenant": "lab",
        "percent": 80, "spent": "0.0000008", "budget": "0.000001", "currency": "EUR", "period": "month",
        "begins": "2024-12-01", "ends": "2025-01-01",
    }  # fmt: skip
    life.spend(5000)
    assert life.look() == [80, 100]
    assert (life.stats.budgets_warned, life.stats.budgets_spent, len(life.log.lines)) == (1, 1, 2)


@pytest.mark.parametrize(("url", "taken", "again"), [("", False, []), ("http://x/", True, []), ("http://x/", False, [80])])
async def test_a_start_tells_what_nobody_has_taken_and_nothing_twice(
    database: Database, url: str, taken: bool, again: list[int]
) -> None:
    life = Life(database, url=url)
    life.spend(850)
    life.look()
    for _, done in life.sent if taken else ():
        done()
    life.look()
    second = Life(database, url=url)
    told = len(second.log.lines)
    assert second.look() == again
    assert len(second.log.lines) - told == len(again)
    second.spend(150)
    second.look()
    assert second.stats.budgets_spent == 1, "what comes is told as ever"


async def test_what_was_crossed_just_before_a_kill_is_told_after_it(database: Database) -> None:
    life = Life(database)
    life.house._flushed_at = 0.0
    life.spend(900)
    life.house.flush()  # and its next look never comes
    assert Life(database).look() == [80]


async def test_a_budget_that_is_set_below_what_is_spent_is_told_at_once(database: Database) -> None:
    def told(life: Life, limit: int) -> list[Any]:
        life.share(limit)
        life.look()  # (which asks whether it was told before)
        return life.look()

    life = Life(database, limit=10_000)
    life.spend(900)
    assert life.look() == []
    assert told(life, 1000) == [80]
    assert told(life, 1000) == [80], "settings that are read again are no new budget"
    assert told(life, 500) == [80, 100]
    assert (told(life, 1000), told(life, 500)) == ([80, 100], [80, 100]), "nor are limits that have been set back"
    for _, done in life.sent:
        done()
    life.look()
    assert Life(database, limit=500).look() == []
    assert Life(database, limit=1100).look() == [80], "of another budget nobody was told"
    second = Life(database, limit=10_000)
    assert [told(second, limit) for limit in (1000, 500, 600)] == [[], [], [100]], "what a process before has told is known"


async def test_a_budget_that_is_raised_before_anybody_was_told_is_not_told_of(database: Database) -> None:
    life = Life(database)
    life.spend(900)
    life.share(10_000)
    assert (life.look(), life.log.lines) == ([], [])


async def test_another_period_is_another_budget_and_the_last_moment_of_one_is_its_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(database)
    life.spend(800)
    monkeypatch.setattr(housekeeping, "time", lambda: NEXT * DAY_S + 1.0)
    assert life.look() == [80]
    assert life.sent[0][0]["begins"] == "2024-12-01"
    life.sent[0][1]()
    life.look()
    life.spend(1000)
    assert life.look() == [80, 100]
    life.sent[1][1]()
    life.look()
    rows = database.rows("SELECT begins, percent FROM told ORDER BY begins")
    assert [percent for _, percent in rows] == [80, 100]
    monkeypatch.setattr(housekeeping, "time", lambda: MONTH * DAY_S + 60.0)
    assert life.look() == [80, 100]
    assert life.look() == [80, 100], "a clock that was set back finds what was told"


async def test_a_key_that_the_settings_had_not_while_its_period_turned_is_told_of_as_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(database, url="")
    soon = asyncio.get_running_loop().call_soon
    life.sums = lambda asked, done: bool(soon(done, spending.sums(database, asked)))  # type: ignore[method-assign]
    life.accounts.follow(Defaults(budget=1000, budget_period="day"), 0)
    life.accounts.admit([b"digest"], 0)
    account = life.accounts.find(b"digest")
    assert account is not None
    life.look()
    await asyncio.sleep(0)
    life.accounts.retire([b"digest"])
    monkeypatch.setattr(housekeeping, "time", lambda: (MONTH + 1) * DAY_S + 1.0)
    life.look()
    await asyncio.sleep(0)
    life.accounts.admit([b"digest"], 0)
    life.look()
    assert account.purse is not None
    if account.purse.charge(life.core.today, 850):
        life.accounts.cross(account.purse)
    life.look()
    assert life.stats.budgets_warned == 1


async def test_a_store_that_cannot_be_read_keeps_nobody_from_being_told(database: Database) -> None:
    life = Life(database)
    life.purse.known = False
    life.accounts.unread.append(life.purse)
    life.sums = lambda asked, done: done(None) or True  # type: ignore[method-assign, func-returns-value]
    life.spend(800)
    life.look()
    assert life.look() == [80]


async def test_what_was_told_is_bounded_by_what_can_be_told_of(database: Database) -> None:
    """The greatest of each budget is what the store is handed, so many at a time."""
    told = Crossings(Life(database).core)
    for percent in (80, 100, 80):
        told._taken(("key", "a", 1, 2, 9, percent))
    told._taken(("key", "b", 1, 2, 9, 80))
    assert sorted(told.take(1) + told.take(5)) == [("key", "a", 1, 2, 9, 100), ("key", "b", 1, 2, 9, 80)]
    assert told.rows == {}
