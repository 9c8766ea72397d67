"""The file's versions: made, migrated, refused."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from fastgw.stats import NullLog
from fastgw.store import keys, schema
from fastgw.store.database import Database
from fastgw.store.reading import _copied, read
from fastgw.store.schema import APPLICATION_ID, MIGRATIONS, CorruptState, StateError
from fastgw.store.spending import add_day
from fastgw.store.state import State

OLD = "key_0123456789abcdef"
NEXT = (*MIGRATIONS, ("ALTER TABLE keys ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'",))


def pragma(path: Path, name: str) -> object:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        connection.close()


def made(path: Path) -> str:
    """A file of the newest schema with one key and a day's usage; returns the key's id."""
    database = Database.open(str(path))
    record, _text = keys.create(database, {"name": "old"}, "test")
    database.upsert_usage([(record.id, 7, 1, 2, 3, 4, 5, 6)])
    database.close()
    return record.id


def test_a_new_file_says_whose_it_is_and_which_version(tmp_path: Path) -> None:
    path = tmp_path / "fastgw.db"
    made(path)
    assert pragma(path, "application_id") == APPLICATION_ID
    assert pragma(path, "user_version") == len(MIGRATIONS)
    assert pragma(path, "journal_mode") == "delete", "no log, whose index would be mapped into memory"


def test_an_old_file_is_migrated_and_keeps_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fastgw.db"
    key_id = made(path)
    monkeypatch.setattr(schema, "MIGRATIONS", NEXT)
    database = Database.open(str(path))
    assert database.rows("SELECT id, colour FROM keys") == [(key_id, "grey")]
    assert database.usage_of(key_id, 1, 7) == [(key_id, 7, 1, 2, 3, 4, 5, 6)]
    database.close()
    assert pragma(path, "user_version") == len(NEXT)
    Database.open(str(path)).close()  # and that is done once


def of_version(path: Path, version: int) -> None:
    """A file as the fastgw of ``version`` has left it: a key, and two days' usage in the columns that there were."""
    connection = sqlite3.connect(path)
    for statements in MIGRATIONS[:version]:
        for statement in statements:
            connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('store', 'aaaaaaaaaaaaaaaa')")
    connection.execute("UPDATE meta SET value = 1 WHERE name = 'revision'")
    connection.execute(
        "INSERT INTO keys (id, digest, name, tenant, created_at, expires_at, disabled, models, networks, previous_digest, "
        f"previous_until, revision, deleted) VALUES ('{OLD}', zeroblob(32), 'old', 'lab', 1.0, 0.0, 0, '[]', '[]', x'', 0.0, "
        "1, 0)"
    )
    into = "INSERT INTO usage (key_id, day, prompt, completion, requests, estimated) VALUES (?, ?, ?, ?, ?, ?)"
    used = [(OLD, 7, 1, 2, 3, 4), (OLD, 8, 10, 20, 30, 0)]
    connection.executemany(into, used)
    if version >= 5:  # it has counted by model, too
        for key, day, prompt, completion, requests, estimated in used:
            row = (day, key, "lab", "", prompt, completion, requests, estimated, 0, 0, 0, prompt + completion)
            connection.execute(f"INSERT INTO spending VALUES ({', '.join('?' * len(row))})", row)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_gateway_goes_on_with_the_file_of_an_earlier_version(tmp_path: Path, version: int) -> None:
    path = tmp_path / "fastgw.db"
    of_version(path, version)
    copied = tmp_path / "copied.db"
    copied.write_bytes(path.read_bytes())
    looked = _copied(str(copied))  # as where the disk cannot be written
    assert looked.usage_of(OLD, 1, 8) == [(OLD, 8, 10, 20, 30, 0, 0, 0)]
    looked.close()
    state = State(str(tmp_path), log=NullLog())
    loaded = state.open(8)
    assert [record.name for record in loaded.keys] == ["old"]
    assert sorted(loaded.usage) == [(OLD, 7, 1, 2, 3, 4, 0, 0), (OLD, 8, 10, 20, 30, 0, 0, 0)]
    state.start(asyncio.get_running_loop(), lambda records: None)
    assert await state.close(rows=[(OLD, 8, 11, 21, 31, 0, 6, 5)])
    assert pragma(path, "user_version") == len(MIGRATIONS)
    database = Database.open(str(path))
    assert database.usage_of(OLD, 2, 8) == [(OLD, 8, 11, 21, 31, 0, 6, 5), (OLD, 7, 1, 2, 3, 4, 0, 0)]
    found: dict[tuple[str | int, ...], list[int]] = {}
    for day in (7, 8):
        add_day(database, day, ["key", "tenant", "model"], found)
    assert found == {(OLD, "lab", ""): [11, 22, 33, 4, 0, 0, 0, 33]}, "what was used before models were counted is told too"
    database.close()


def test_an_old_file_on_a_disk_that_cannot_be_written_is_migrated_in_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fastgw.db"
    key_id = made(path)
    before = path.read_bytes()
    monkeypatch.setattr(schema, "MIGRATIONS", NEXT)
    database = read(str(path))
    assert database.rows("SELECT id, colour FROM keys") == [(key_id, "grey")]
    database.close()
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fastgw.db"
    key_id = made(path)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, (*NEXT[-1], "INSERT INTO nowhere VALUES (1)")))
        with pytest.raises(StateError, match="nowhere"):
            Database.open(str(path))
    assert pragma(path, "user_version") == len(MIGRATIONS)
    database = Database.open(str(path))
    assert [record.id for record in keys.list_keys(database)] == [key_id]
    assert "colour" not in {row[1] for row in database.rows("PRAGMA table_info(keys)")}
    database.close()


def test_a_file_of_a_newer_fastgw_is_refused_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fastgw.db"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", NEXT)
        made(path)
    before = path.read_bytes()
    for way in (Database.open, read):
        with pytest.raises(StateError, match=f"newer fastgw .schema {len(NEXT)}, this one knows {len(MIGRATIONS)}"):
            way(str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("statement", ["CREATE TABLE theirs (a)", "PRAGMA application_id = 5", "PRAGMA user_version = 1"])
def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "fastgw.db"
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StateError, match="another program's") as caught:
        Database.open(str(path))
    assert not isinstance(caught.value, CorruptState)  # so it is never set aside
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "fastgw.db"
    path.write_bytes(b"these are not the pages you are looking for\n" * 400)
    with pytest.raises(CorruptState):
        Database.open(str(path))
