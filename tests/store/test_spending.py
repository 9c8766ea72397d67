"""What was spent is added once, whatever its writer was told; sums find it, by key, tenant, model and day."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.limits.key import Batch
from fastgw.limits.purse import KEY, TENANT, Asked
from fastgw.limits.scope import MODEL
from fastgw.limits.spending import SpentRow
from fastgw.store import keys, spending
from fastgw.store.database import MAX_COUNT, Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(str(tmp_path / "fastgw.db"))


def row(key: str, tenant: str, model: str, day: int, cost: int) -> SpentRow:
    return key, tenant, model, day, 10, 5, 1, 0, 2, 1, cost, 0


def test_a_batch_that_is_handed_over_again_is_added_once(database: Database) -> None:
    first, second = Batch("a:1", [row("k", "lab", "m", 7, 30)]), Batch("a:2", [row("k", "lab", "m", 7, 12)])
    for batch in (first, first, second, second):
        database.upsert_usage([], batch)
    assert spending.sums(database, [(KEY, "k", 7, 8, 9, None)]) == ("a:2", [42], [0])
    database.upsert_usage([], Batch("b:1", [row("k", "lab", "m", 7, MAX_COUNT)]))
    assert spending.sums(database, [(KEY, "k", 7, 8, 9, None)])[1] == [MAX_COUNT], "sums end where they fit 64 bits"


def test_sums_of_what_a_lying_engine_says_are_sums(database: Database) -> None:
    """Each row ends where it fits 64 bits, and so many of them are more than SQLite adds up: no budget is asked in vain."""
    rows = [row("k", "lab", f"m-{number}", 7, MAX_COUNT) for number in range(9)]
    database.upsert_usage([], Batch("a:1", [*rows, row("k", "lab", "m", 7, 1), row("j", "", "m", 7, 2)]))
    asked: list[Asked] = [(KEY, "k", 7, 8, 9, None), (TENANT, "lab", 7, 8, 9, None), (KEY, "j", 7, 8, 9, None)]
    assert spending.sums(database, asked)[1] == [9 * MAX_COUNT + 1, 9 * MAX_COUNT + 1, 2]
    found: dict[tuple[str | int, ...], list[int]] = {}
    spending.add_day(database, 7, ["key"], found)
    assert {known: sums for (known,), sums in found.items()} == {
        "k": [100, 50, 10, 0, 20, 10, 9 * MAX_COUNT + 1, 0], "j": [10, 5, 1, 0, 2, 1, 2, 0],
    }  # fmt: skip


def test_a_batch_that_fails_leaves_nothing_of_it(database: Database) -> None:
    broken = Batch("a:1", [row("k", "", "m", 7, 30), ("k", None)])  # type: ignore[list-item]
    with pytest.raises(Exception, match="binding"):
        database.upsert_usage([("k", 7, 1, 2, 3, 0, 0, 0)], broken)
    assert database.load_usage(7) == []
    database.upsert_usage([], Batch("a:1", [row("k", "", "m", 7, 30)]))
    assert spending.sums(database, [(KEY, "k", 7, 8, 9, None)]) == ("a:1", [30], [0])


def test_budgets_find_their_own_period(database: Database) -> None:
    rows = [row("k", "lab", "m", 7, 1), row("k", "lab", "n", 8, 2), row("j", "lab", "m", 8, 4), row("k", "old", "m", 8, 8)]
    database.upsert_usage([], Batch("a:1", rows))
    asked: list[Asked] = [(KEY, "k", 7, 9, 50, None), (KEY, "k", 8, 9, 50, None)]
    asked += [(TENANT, name, begins, 9, 50, None) for name, begins in (("lab", 7), ("lab", 8), ("old", 0), ("", 0))]
    assert spending.sums(database, asked)[1] == [11, 10, 7, 6, 8, 0]


def test_tokens_of_a_day_are_those_of_their_owner_and_of_the_models_that_are_asked_for(database: Database) -> None:
    rows = [row("k", "lab", "m", 7, 1), row("k", "lab", "nick", 7, 2), row("j", "lab", "n", 7, 4), row("j", "", "m", 7, 8)]
    database.upsert_usage([], Batch("a:1", [*rows, row("k", "lab", "m", 8, 1)]))
    asked: dict[tuple[str, str, tuple[str, ...]], int] = {
        (TENANT, "lab", ()): 45, (TENANT, "", ()): 0, (MODEL, "", ("m", "nick")): 45, (KEY, "k", ("m",)): 15,
        (KEY, "k", ("m", "nick")): 30, (KEY, "", ("m",)): 0,
    }  # fmt: skip
    found = spending.sums(database, [(kind, name, 7, 8, 50, models) for kind, name, models in asked])[1]
    assert found == [*asked.values()]


def test_what_was_told_is_of_one_budget_and_never_less_again(database: Database) -> None:
    told = [(KEY, "k", 7, 9, 50, 80), (KEY, "k", 7, 9, 50, 100), (KEY, "k", 7, 9, 50, 80), (TENANT, "k", 7, 9, 50, 80)]
    database.upsert_usage([], Batch("a:1", [], told))
    asked = [(KEY, "k", 7, 9, 50), (KEY, "k", 7, 9, 60), (KEY, "k", 7, 8, 50), (KEY, "k", 9, 11, 50), (TENANT, "k", 7, 9, 50)]
    assert spending.sums(database, [(*one, None) for one in asked])[2] == [100, 0, 0, 0, 80]


def test_sums_are_by_what_was_asked_for_and_deleted_keys_are_among_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = keys.create(database, {"name": "ann"}, "test")
    keys.delete(database, record.id, "test")
    rows = [row(record.id, "lab", "m", 7, 1), row(record.id, "lab", "n", 7, 2), row("j", "", "m", 8, 4)]
    database.upsert_usage([], Batch("a:1", rows))
    found: dict[tuple[str | int, ...], list[int]] = {}
    for day in (7, 8):
        spending.add_day(database, day, ["model", "day"], found)
    assert {known: sums[6] for known, sums in found.items()} == {("m", 7): 1, ("n", 7): 2, ("m", 8): 4}
    found = {}
    for day in (7, 8):
        spending.add_day(database, day, ["key"], found)
    assert found[record.id,] == [20, 10, 2, 0, 4, 2, 3, 0]
    assert spending.names_of(database, [record.id, "j"]) == {record.id: "ann"}
    monkeypatch.setattr(spending, "MAX_GROUPS", 1)
    with pytest.raises(spending.TooManyGroups):
        spending.add_day(database, 7, ["model"], {})


def test_what_is_pruned_is_gone_from_all_tables(database: Database) -> None:
    for day in (7, 8):
        told = [(KEY, "k", day - 1, day, 50, 80)]
        database.upsert_usage([("k", day, 1, 2, 3, 0, 0, 0)], Batch(f"a:{day}", [row("k", "", "m", day, 1)], told))
    database.prune(8)
    assert database.rows("SELECT DISTINCT day FROM spending") == [(8,)]
    assert database.rows("SELECT DISTINCT ends FROM told") == [(8,)]
