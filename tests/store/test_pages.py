"""A page reads its own rows: its cost does not grow with the other keys, whatever it is filtered by.

Cost is counted in SQLite's own steps, not in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fastgw.limits.key import KeyRecord
from fastgw.store import keys
from fastgw.store.database import Database
from fastgw.store.keys import KeyNotFound
from tests.store.crowd import fill

MANY = 20_000


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, list[KeyRecord]]]:
    database = Database.open(str(tmp_path_factory.mktemp("crowd") / "fastgw.db"))
    yield database, fill(database, MANY)
    database.close()


@contextmanager
def watched(database: Database) -> Iterator[list[str]]:
    """The statements that are run."""
    told: list[str] = []
    database._connection.set_trace_callback(told.append)
    try:
        yield told
    finally:
        database._connection.set_trace_callback(None)


def steps(database: Database, function: Callable[[], object]) -> int:
    """How many instructions of SQLite's machine that takes, in tens."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 10

    database._connection.set_progress_handler(step, 10)
    try:
        function()
    finally:
        database._connection.set_progress_handler(None, 0)
    return count


FILTERS: list[dict[str, str]] = [
    {},
    {"tenant": "tenant 7"},
    {"name": "name 11"},
    {"tenant": "tenant 11", "name": "name 11"},
    {"tenant": "nobody"},
    {"name": "nobody"},
    {"tenant": "tenant 7", "name": "nobody"},
]


def kept(records: list[KeyRecord], filters: dict[str, str]) -> list[KeyRecord]:
    found = [one for one in records if not one.deleted and all(getattr(one, name) == filters[name] for name in filters)]
    return sorted(found, key=lambda record: record.id)


@pytest.mark.parametrize("filters", FILTERS)
def test_pages_one_after_the_other_are_all_keys_in_order(
    filters: dict[str, str], crowd: tuple[Database, list[KeyRecord]]
) -> None:
    database, records = crowd
    found: list[KeyRecord] = []
    more = True
    while more:
        some, more = keys.page(database, limit=997, after=found[-1].id if found else "", **filters)
        assert len(some) == 997 or not more
        found += some
    assert found == kept(records, filters)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("after", ["", "key_8", "key_f"])
def test_a_page_of_ten_reads_ten_rows(after: str, filters: dict[str, str], crowd: tuple[Database, list[KeyRecord]]) -> None:
    database, records = crowd
    expected = [one for one in kept(records, filters) if one.id > after]
    with watched(database) as told:
        found, more = keys.page(database, limit=10, after=after, **filters)
    assert (found, more) == (expected[:10], len(expected) > 10)
    assert steps(database, lambda: keys.page(database, limit=10, after=after, **filters)) < 700
    (statement,) = told
    plan = [row[3] for row in database.rows(f"EXPLAIN QUERY PLAN {statement}")]
    (line,) = plan
    assert line.startswith("SEARCH keys USING INDEX live_keys"), plan  # no scan, and nothing is sorted


OTHERS: dict[str, Callable[[Database, list[KeyRecord]], object]] = {
    "a key by its id": lambda database, records: keys.find(database, records[1].id),
    "a key by a name that is its own": lambda database, records: keys.find(database, "alone"),
    "a key by a name that nobody has": lambda database, records: keys.find(database, "nobody"),
    "a key by a name that all have": lambda database, records: keys.find(database, "same"),
    "the last changes": lambda database, records: keys.audit(database, 10),
    "changes before": lambda database, records: keys.audit(database, 10, 2000),
    "what changed lately": lambda database, records: keys.changed_since(database, 3990),
    "that nothing changed": lambda database, records: keys.changed_since(database, 5000),
    "a change": lambda database, records: keys.update(database, records[1].id, {"burst": 3}, "test"),
    "a change that is none": lambda database, records: keys.enable(database, records[1].id, "test"),
    "the revision": lambda database, records: database.revision(),
    "a look for gaps": lambda database, records: database.look_for_gaps(),
    "usage of a key": lambda database, records: database.usage_of(records[1].id, 7),
    "whether it is closed": lambda database, records: database.is_closed(),
}


@pytest.fixture(scope="module")
def namesakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, list[KeyRecord]]]:
    """4,000 keys; of those and of the deleted ones among them three quarters have the same name."""
    database = Database.open(str(tmp_path_factory.mktemp("namesakes") / "fastgw.db"))
    records = fill(database, 4000)
    database.change("UPDATE keys SET name = 'same' WHERE id NOT IN (SELECT id FROM keys LIMIT 1000)")
    database.change("UPDATE keys SET name = 'alone' WHERE id = ?", (records[1].id,))
    yield database, records
    database.close()


@pytest.mark.parametrize("what", OTHERS)
def test_nothing_else_that_is_asked_reads_all_keys(what: str, namesakes: tuple[Database, list[KeyRecord]]) -> None:
    database, records = namesakes

    def ask() -> None:
        with suppress(KeyNotFound):
            OTHERS[what](database, records)

    assert steps(database, ask) < 1500


def test_of_many_that_share_a_name_five_are_named(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "fastgw.db"))
    records = kept(fill(database, 30, name="same"), {})
    with pytest.raises(KeyNotFound) as caught:
        keys.find(database, "same")
    five = ", ".join(one.id for one in records[:5])
    assert str(caught.value) == f"more than 5 keys have that name; use the id: {five}, ..."
    database.close()


def test_the_list_of_the_command_lets_others_write_in_between(crowd: tuple[Database, list[KeyRecord]]) -> None:
    database, records = crowd
    with watched(database) as told:
        found = keys.list_keys(database)
    assert len(told) > len(found) / 1001
    assert [one.created_at for one in found] == sorted(one.created_at for one in records if not one.deleted)
    one = keys.list_keys(database, "tenant 7")
    assert [record.id for record in one] == [record.id for record in found if record.tenant == "tenant 7"]


def test_a_page_ends_where_it_would_grow_too_long(tmp_path: Path) -> None:
    """Models have no length of their own: a thousand keys with a thousand models each are a gigabyte of JSON."""
    database = Database.open(str(tmp_path / "fastgw.db"))
    models = tuple(f"model {number} {'x' * 240}" for number in range(1000))
    records = kept(fill(database, 20, models=models), {})
    found: list[KeyRecord] = []
    more, pages = True, 0
    while more:
        some, more = keys.page(database, limit=1000, after=found[-1].id if found else "")
        assert 1 <= len(some) <= 1 + keys.MAX_PAGE_CHARS // len(json.dumps(models))
        found += some
        pages += 1
    assert found == records
    assert pages == -(-len(records) // 4)
    assert len(keys.page(database, limit=1000)[0]) == 4
    database.close()


def test_an_answer_of_the_audit_ends_where_it_would_grow_too_long(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "fastgw.db"))
    record, _text = keys.create(database, {}, "test")
    for number in range(8):
        keys.update(database, record.id, {"models": [f"{number} {one} {'x' * 240}" for one in range(1000)]}, "test")
    before, numbers = None, []
    while True:
        rows, more = keys.audit(database, 1000, before)
        assert sum(len(json.dumps(row.changes)) for row in rows[1:]) <= keys.MAX_PAGE_CHARS
        numbers += [row.number for row in rows]
        if not more:
            break
        before = rows[-1].number
    assert numbers == list(range(9, 0, -1))
    database.close()


def test_a_line_of_the_audit_that_somebody_has_changed_hides_no_other(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "fastgw.db"))
    for number in range(4):
        keys.create(database, {"name": f"n{number}"}, "test")
    for number, change in enumerate(("changes = '{'", "at = 'yesterday'", "actor = x'00'"), 1):
        database.change(f"UPDATE audit SET {change} WHERE number = {number}")
    rows, _more = keys.audit(database)
    assert [(row.number, row.action) for row in rows] == [(4, "create"), *((number, "unreadable") for number in (3, 2, 1))]
    database.close()
