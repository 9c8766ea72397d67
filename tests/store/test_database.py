"""The connection: file modes, usage that is never counted twice, damage, and reading where nothing can be written."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits.key import UsageRow
from fastgw.store import keys
from fastgw.store.database import Database, make_folder
from fastgw.store.schema import CorruptState, StateError, Unavailable, migrate


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "fastgw.db")


def test_only_the_owner_may_read_the_folder_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    make_folder(str(folder))
    database = Database.open(str(folder / "fastgw.db"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()} == {0o600}
    assert {one.name for one in folder.iterdir()} == {"fastgw.db", "fastgw.db-wal", "fastgw.db-shm"}
    database.close()


def test_a_file_in_the_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    for folder in (tmp_path / "state", tmp_path / "state" / "below"):
        with pytest.raises(StateError, match="is not a folder"):
            make_folder(str(folder))


def test_rows_are_totals_so_a_repeat_changes_nothing(path: str) -> None:
    database = Database.open(path)
    for _ in range(3):
        database.upsert_usage([("a", 10, 5, 6, 2, 1), ("b", 10, 1, 1, 1, 0)])
    database.upsert_usage([("a", 10, 7, 6, 3, 1), ("a", 11, 1, 0, 1, 0)])
    assert sorted(database.load_usage(10)) == [("a", 10, 7, 6, 3, 1), ("b", 10, 1, 1, 1, 0)]
    assert database.usage_of("a", 3, 11) == [("a", 11, 1, 0, 1, 0), ("a", 10, 7, 6, 3, 1)]
    assert database.usage_of("a", 1, 10) == [("a", 10, 7, 6, 3, 1)]
    assert database.prune(11) == 2
    assert (database.load_usage(10), database.load_usage(11)) == ([], [("a", 11, 1, 0, 1, 0)])
    database.close()


rows = st.tuples(st.sampled_from("abc"), st.integers(0, 3), *[st.integers(0, 2**62)] * 4)


@settings(max_examples=40, deadline=None)
@given(batches=st.lists(st.lists(rows, max_size=6), max_size=8), again=st.booleans())
def test_the_file_holds_the_greatest_totals_of_each_key_and_day(batches: list[list[UsageRow]], again: bool) -> None:
    database = Database("", sqlite3.connect(":memory:", isolation_level=None))
    migrate(database._connection, "")
    model: dict[tuple[str, int], UsageRow] = {}
    for batch in batches:
        for _ in range(1 + again):
            database.upsert_usage(batch)
        for row in batch:
            key_id, day, *counts = row
            before = model.get((key_id, day), (key_id, day, 0, 0, 0, 0))
            most = [max(pair) for pair in zip(before[2:], counts, strict=True)]
            model[key_id, day] = (key_id, day, *most)
    assert {(row[0], row[1]): row for day in range(4) for row in database.load_usage(day)} == model
    database.close()


def test_a_batch_that_fails_leaves_nothing(path: str) -> None:
    database = Database.open(path)
    with pytest.raises(OverflowError):
        database.upsert_usage([("a", 1, 1, 1, 1, 1), ("b", 1, 2**63, 0, 0, 0)])
    assert database.load_usage(1) == []
    database.upsert_usage([("a", 1, 1, 1, 1, 1)])
    assert len(database.load_usage(1)) == 1
    database.close()


def _fill(path: str) -> int:
    """A file of some hundred pages; returns its size."""
    database = Database.open(path)
    database.upsert_usage([(f"key_{number:016x}", 20_000, number, 1, 1, 0) for number in range(20_000)])
    database.close()
    return os.path.getsize(path)


def test_damage_is_found_at_the_start(path: str) -> None:
    size = _fill(path)
    with open(path, "r+b") as file:
        file.seek(size // 2)
        file.write(b"\xaa" * 8192)
    for way in (Database.open, Database.read):
        with pytest.raises(CorruptState):
            way(path)


def test_a_file_that_was_cut_short_is_corrupt(path: str) -> None:
    os.truncate(path, _fill(path) // 2)
    with pytest.raises(CorruptState):
        Database.open(path)


def test_reading_beside_a_writer_sees_what_was_committed(path: str) -> None:
    database = Database.open(path)
    database.upsert_usage([("a", 1, 1, 1, 1, 1)])
    reader = Database.read(path)
    assert reader.load_usage(1) == [("a", 1, 1, 1, 1, 1)]
    with pytest.raises(Exception, match="readonly"):
        reader.upsert_usage([("a", 1, 2, 1, 1, 1)])
    reader.close()
    database.close()


def test_a_log_without_its_index_is_read_in_a_copy(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves on a disk that is read-only from then on."""
    database = Database.open(path)
    database.upsert_usage([("a", 1, 1, 1, 1, 1)])
    left = tmp_path / "left"
    left.mkdir()
    for end in ("", "-wal"):
        shutil.copyfile(path + end, left / f"fastgw.db{end}")
    database.close()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    def denied(path: str) -> Database:
        raise PermissionError(13, "denied")

    monkeypatch.setattr("fastgw.store.database._read_shared", denied)
    reader = Database.read(str(left / "fastgw.db"))
    assert reader.load_usage(1) == [("a", 1, 1, 1, 1, 1)]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):  # a copy takes no writes, which would be lost with it
        reader.upsert_usage([("a", 1, 2, 1, 1, 1)])
    reader.close()
    assert sorted(one.name for one in left.iterdir()) == ["fastgw.db", "fastgw.db-wal"]
    assert list(temporary.iterdir()) == []


def test_without_a_file_there_is_nothing_to_read(path: str) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        Database.open(path, create=False)
    with pytest.raises(Unavailable):
        Database.read(path)
    assert not os.path.exists(path)


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
