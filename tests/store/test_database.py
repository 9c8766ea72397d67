"""The connection: file modes, usage that is never counted twice, damage, and reading where nothing can be written."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.limits.key import UsageRow
from fastgw.store import keys, reading
from fastgw.store.database import MAX_COUNT, Database
from fastgw.store.place import claim
from fastgw.store.reading import read
from fastgw.store.schema import CorruptState, StateError, Unavailable, build


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "fastgw.db")


def test_only_the_owner_may_read_the_folder_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    claim(str(folder))
    database = Database.open(str(folder / "fastgw.db"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert {one.name for one in folder.iterdir()} == {"fastgw.db", "fastgw.db-journal"}
    database.close()


def test_how_a_file_is_kept(path: str) -> None:
    """Nothing is mapped, nothing written before its commit or left to the disk's cache, and no table of anybody's runs code."""
    database = Database.open(path)
    names = ("journal_mode", "synchronous", "mmap_size", "cache_spill", "trusted_schema", "temp_store", "locking_mode")
    assert [database.rows(f"PRAGMA {name}")[0][0] for name in names] == ["truncate", 2, 0, 0, 0, 2, "normal"]
    database.upsert_usage([("a", 1, 1, 1, 1, 0, 0, 0)])
    assert not [line for line in Path("/proc/self/maps").read_text().splitlines() if path in line]
    database.close()


def test_a_file_in_the_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    for folder in (tmp_path / "state", tmp_path / "state" / "below"):
        with pytest.raises(StateError, match="is not a folder"):
            claim(str(folder))


def test_rows_are_totals_so_a_repeat_changes_nothing(path: str) -> None:
    database = Database.open(path)
    for _ in range(3):
        database.upsert_usage([("a", 10, 5, 6, 2, 1, 4, 3), ("b", 10, 1, 1, 1, 0, 0, 0)])
    database.upsert_usage([("a", 10, 7, 6, 3, 1, 5, 3), ("a", 11, 1, 0, 1, 0, 0, 0)])
    assert sorted(database.load_usage(10)) == [("a", 10, 7, 6, 3, 1, 5, 3), ("b", 10, 1, 1, 1, 0, 0, 0)]
    assert database.usage_of("a", 3, 11) == [("a", 11, 1, 0, 1, 0, 0, 0), ("a", 10, 7, 6, 3, 1, 5, 3)]
    assert database.usage_of("a", 1, 10) == [("a", 10, 7, 6, 3, 1, 5, 3)]
    assert database.prune(11) == 2
    assert (database.load_usage(10), database.load_usage(11)) == ([], [("a", 11, 1, 0, 1, 0, 0, 0)])
    database.close()


rows = st.tuples(st.sampled_from("abc"), st.integers(0, 3), *[st.integers(0, MAX_COUNT)] * 6)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.store.database.PAUSE_S", 0.0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(rows, max_size=6), max_size=8), again=st.booleans())
def test_the_file_holds_the_greatest_totals_of_each_key_and_day(
    no_pause: None, batches: list[list[UsageRow]], again: bool
) -> None:
    database = Database("", sqlite3.connect(":memory:", isolation_level=None))
    build(database._connection, closed=False)
    model: dict[tuple[str, int], UsageRow] = {}
    for batch in batches:
        for _ in range(1 + again):
            database.upsert_usage(batch)
        for row in batch:
            key_id, day, *counts = row
            before = model.get((key_id, day), (key_id, day, 0, 0, 0, 0, 0, 0))
            most = [max(pair) for pair in zip(before[2:], counts, strict=True)]
            model[key_id, day] = (key_id, day, *most)
    assert {(row[0], row[1]): row for day in range(4) for row in database.load_usage(day)} == model
    database.close()


def test_a_batch_that_fails_leaves_nothing(path: str) -> None:
    database = Database.open(path)
    with pytest.raises(OverflowError):
        database.upsert_usage([("a", 1, 1, 1, 1, 1, 0, 0), ("b", 1, 2**63, 0, 0, 0, 0, 0)])
    assert database.load_usage(1) == []
    database.upsert_usage([("a", 1, 1, 1, 1, 1, 0, 0)])
    assert len(database.load_usage(1)) == 1
    database.close()


@pytest.mark.parametrize("what", ["cut", "removed", "left alone"])
def test_what_was_undone_is_undone_whatever_became_of_the_journal(what: str, path: str) -> None:
    """It lies in a folder where somebody cleans up. Nothing is killed: what the file has is what counts."""
    database = Database.open(path)
    database.rows("PRAGMA cache_size = 5")
    rows = [(f"key_{number:016x}", 1, 1, 1, 1, 0, 0, 0) for number in range(5000)]
    database.upsert_usage(rows)
    undone = database.transaction()
    undone.__enter__()
    database.change("UPDATE usage SET prompt = 1000")
    database.change("DELETE FROM meta")
    if what == "cut":
        os.truncate(path + "-journal", 0)
    elif what == "removed":
        os.unlink(path + "-journal")
    assert not undone.__exit__(KeyError, KeyError(), None)
    assert database.load_usage(1) == rows
    database.upsert_usage([(rows[0][0], 1, 2, 1, 1, 0, 0, 0)])
    assert database.integrity() == []
    database.close()
    database = Database.open(path)
    assert [row[2] for row in database.load_usage(1)] == [2] + [1] * 4999
    database.close()


def _fill(path: str) -> int:
    """A file of some hundred pages; returns its size."""
    database = Database.open(path)
    database.upsert_usage([(f"key_{number:016x}", 20_000, number, 1, 1, 0, 0, 0) for number in range(20_000)])
    database.close()
    return os.path.getsize(path)


def test_damage_is_found_at_the_start(path: str) -> None:
    size = _fill(path)
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(b"\xaa" * 8192)
    for way in (Database.open, read):
        with pytest.raises(CorruptState):
            way(path)


def test_a_file_that_was_cut_short_is_corrupt(path: str) -> None:
    os.truncate(path, _fill(path) // 2)
    with pytest.raises(CorruptState):
        Database.open(path)


def test_reading_beside_a_writer_sees_what_was_committed(path: str) -> None:
    database = Database.open(path)
    database.upsert_usage([("a", 1, 1, 1, 1, 1, 0, 0)])
    reader = read(path)
    assert reader.load_usage(1) == [("a", 1, 1, 1, 1, 1, 0, 0)]
    with pytest.raises(Exception, match="readonly"):
        reader.upsert_usage([("a", 1, 2, 1, 1, 1, 0, 0)])
    reader.close()
    database.close()


def torn(folder: Path, to: Path) -> None:
    """Leave in ``to`` what a kill leaves in the middle of a commit: a file that is half new, and the journal that undoes it."""
    connection = sqlite3.connect(folder / "fastgw.db", isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE usage SET prompt = prompt + 1000000")
    connection.execute("DELETE FROM keys")
    to.mkdir(mode=0o700)
    for end in ("", "-journal"):
        shutil.copy(folder / f"fastgw.db{end}", to / f"fastgw.db{end}")
    connection.execute("ROLLBACK")
    connection.close()
    assert (to / "fastgw.db").read_bytes() != (folder / "fastgw.db").read_bytes()


def test_a_journal_that_a_kill_has_left_is_put_right_in_a_copy(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that is read-only from then on."""
    database = Database.open(path)
    database.upsert_usage([(f"key_{number:016x}", 20_000, number, 1, 1, 0, 0, 0) for number in range(2000)])
    database.close()
    left = tmp_path / "left"
    torn(tmp_path, left)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def denied(path: str) -> Database:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(reading, "_shared", denied)
    before = {one.name: one.read_bytes() for one in left.iterdir()}
    reader = read(str(left / "fastgw.db"))
    assert max(row[2] for row in reader.load_usage(20_000)) == 1999
    with pytest.raises(sqlite3.OperationalError, match="readonly"):  # a copy takes no writes, which would be lost with it
        reader.upsert_usage([("a", 1, 2, 1, 1, 1, 0, 0)])
    reader.close()
    assert {one.name: one.read_bytes() for one in left.iterdir()} == before
    assert list(temporary.iterdir()) == []


def test_without_a_file_there_is_nothing_to_read(path: str) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        Database.open(path, create=False)
    with pytest.raises(Unavailable):
        read(path)
    assert not os.path.exists(path)


def test_whoever_has_many_transactions_to_do_leaves_others_their_turn(path: str) -> None:
    over = threading.Event()

    def busy() -> None:
        mine = Database.open(path)
        number = 0
        while not over.is_set():
            number += 1
            with mine.transaction():
                mine.change("INSERT OR REPLACE INTO meta VALUES ('mine', ?)", (number,))
                time.sleep(0.03)  # as long as a disk takes
        mine.close()

    Database.open(path).close()
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        database = Database.open(path, busy_s=0.3)
        for number in range(25):
            time.sleep(0.005)
            database.upsert_usage([("a", 1, number, 1, 1, 0, 0, 0)])
        database.close()
    finally:
        over.set()
        thread.join()


def _open_and_create(path: str, count: int) -> None:
    database = Database.open(path, busy_s=20.0)
    for number in range(count):
        keys.create(database, {"name": f"{os.getpid()}-{number}"}, "test")
    database.close()


def test_many_that_make_the_same_file_at_once_lose_nothing(path: str) -> None:
    context = multiprocessing.get_context("spawn")
    makers = [context.Process(target=_open_and_create, args=(path, 5)) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0, 0, 0, 0]
    database = Database.open(path)
    found = keys.list_keys(database)
    assert len(found) == 20
    assert sorted(record.revision for record in found) == list(range(1, 21))
    assert database.integrity() == []
    database.close()


def test_a_path_that_needs_no_working_directory_asks_for_none(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been removed, as with a release that was replaced."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    database = Database.open(os.path.join(str(tmp_path), path))
    assert keys.list_keys(database) == []
    database.close()


def test_a_store_is_opened_where_its_path_is_no_text(tmp_path: Path) -> None:
    """It is none of those that are damaged, and would be set aside."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.db")
    Database.open(path).close()
    database = Database.open(path, create=False)
    assert keys.list_keys(database) == []
    database.close()
