"""The gateway's side: what it loads, writes and is told, and what it does about a disk that fails."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastgw.limits.key import KeyRecord, UsageRow
from fastgw.limits.ledger import Ledger
from fastgw.store import folder as folder_module
from fastgw.store import keys, state
from fastgw.store.database import Database
from fastgw.store.reading import read
from fastgw.store.schema import StateError, Unavailable
from fastgw.store.state import State
from tests.store.crowd import fill

DAY = 20_000


class Log:
    """Keeps events as (level, message)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def debug(self, message: str, **fields: object) -> None: ...

    def info(self, message: str, **fields: object) -> None:
        if message != "keys changed":  # as often as keys do
            self.lines.append(("info", message))

    def warning(self, message: str, **fields: object) -> None:
        self.lines.append(("warning", message))

    def error(self, message: str, **fields: object) -> None:
        self.lines.append(("error", message))


class Held:
    """A started state with what it said."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.log = Log()
        self.state = State(str(folder), log=self.log, flush_s=0.05, **options)
        self.loaded = self.state.open(DAY)
        self.told: list[KeyRecord] = []
        self.threads: set[str] = set()
        self.state.start(asyncio.get_running_loop(), self._changed)

    def _changed(self, records: list[KeyRecord]) -> None:
        self.threads.add(threading.current_thread().name)
        self.told += records

    async def write(self, *rows: UsageRow) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        assert self.state.write(rows, answer.set_result)
        return await answer


async def until(condition: Callable[[], object], within_s: float = 8.0) -> float:
    """Wait; returns how long it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < within_s, "it did not come about"
        await asyncio.sleep(0.01)
    return time.monotonic() - begin


def usage(folder: Path, day: int = DAY) -> list[UsageRow]:
    database = read(str(folder / "fastgw.db"))
    try:
        return sorted(database.load_usage(day))
    finally:
        database.close()


async def test_what_was_written_is_loaded_at_the_next_start(tmp_path: Path) -> None:
    held = Held(tmp_path / "state")
    assert held.loaded == ([], [], 0, False, False)
    record, _text = await held.state.run(keys.create, {"name": "a"}, "test")
    await held.state.run(keys.create, {"name": "b"}, "test")
    await held.state.run(keys.delete, "b", "test")
    before = ((record.id, DAY - 1, 9, 9, 9, 0, 0, 0), (record.id, DAY - 2, 7, 7, 7, 0, 0, 0))
    assert await held.write((record.id, DAY, 1, 2, 3, 0, 0, 0), *before)
    assert await held.state.close(rows=[(record.id, DAY, 4, 5, 6, 1, 0, 0)])
    assert sorted(os.listdir(tmp_path / "state")) == ["fastgw.db", "fastgw.db-journal", "lock"]
    again = State(str(tmp_path / "state"), log=Log())
    loaded = again.open(DAY)
    assert (loaded.keys, loaded.revision) == ([record], 3)
    assert sorted(loaded.usage) == [*before[::-1], (record.id, DAY, 4, 5, 6, 1, 0, 0)]
    assert await again.close()


@pytest.mark.parametrize(("day", "found"), [
    (DAY, (DAY + 365, DAY, DAY - 1)), (DAY + 1, (DAY + 365, DAY)), (DAY + 365, (DAY + 365, DAY)), (0, (DAY + 365,)),
    (DAY - 1, (DAY + 365, DAY - 1, DAY - 2)),
])  # fmt: skip
async def test_a_gateway_that_starts_with_a_wrong_clock_knows_the_last_day(
    tmp_path: Path, day: int, found: tuple[int, ...]
) -> None:
    """Counts that are in the file are found when the clock is set right, and never more than three days of a key are held."""
    held = Held(tmp_path)
    days = (DAY - 3, DAY - 2, DAY - 1, DAY, DAY + 365)
    assert await held.write(*[("a", one, one, 1, 1, 0, 0, 0) for one in days])
    assert await held.state.close()
    again = State(str(tmp_path), log=Log())
    loaded = again.open(day)
    assert sorted(row[1] for row in loaded.usage) == sorted(found)
    ledger = Ledger(0)
    for row in sorted(loaded.usage, key=lambda row: row[1]):
        ledger.restore(*row[1:])
    ledger.roll(day)
    for one in found:
        assert ledger.left(one) == -1
        assert ledger.prompt == one
    assert await again.close()


async def test_one_batch_at_a_time_and_none_after_the_end(tmp_path: Path) -> None:
    held = Held(tmp_path)
    done: list[bool] = []
    assert held.state.write([("a", DAY, 1, 1, 1, 0, 0, 0)], done.append)
    assert not held.state.write([("a", DAY, 2, 2, 2, 0, 0, 0)], done.append)
    await until(lambda: done)
    assert held.state.write([("a", DAY, 3, 3, 3, 0, 0, 0)], done.append)
    assert await held.state.close()
    assert done == [True, True]
    assert not held.state.write([("a", DAY, 4, 4, 4, 0, 0, 0)], done.append)
    with pytest.raises(StateError, match="closed"):
        await held.state.run(keys.list_keys)
    assert usage(tmp_path) == [("a", DAY, 3, 3, 3, 0, 0, 0)]


async def test_changes_by_others_arrive_within_a_second_in_the_loop(tmp_path: Path) -> None:
    held = Held(tmp_path)
    other = Database.open(str(tmp_path / "fastgw.db"))
    record, _text = keys.create(other, {"name": "a"}, "cli:x")
    took = [await until(lambda: held.told)]
    keys.disable(other, "a", "cli:x")
    took.append(await until(lambda: held.told[-1].disabled))
    keys.delete(other, "a", "cli:x")
    took.append(await until(lambda: held.told[-1].deleted))
    assert max(took) < 1.0
    assert {one.id for one in held.told} == {record.id}
    assert [one.revision for one in held.told] == [1, 2, 3]
    assert held.threads == {threading.current_thread().name}
    other.close()
    assert await held.state.close()


async def test_a_change_of_its_own_is_told_before_the_call_returns(tmp_path: Path) -> None:
    held = Held(tmp_path)
    record, _text = await held.state.run(keys.create, {"name": "a"}, "admin")
    assert held.told == [record]
    with pytest.raises(keys.KeyProblems, match="burst"):
        await held.state.run(keys.update, "a", {"burst": -1}, "admin")
    with pytest.raises(keys.KeyNotFound):
        await held.state.run(keys.find, "nobody")
    assert not held.state.failing
    assert held.told == [record]
    assert await held.state.close()


async def test_the_folder_belongs_to_one_gateway(tmp_path: Path) -> None:
    held = Held(tmp_path)
    with pytest.raises(StateError, match=r"another gateway \(process \d+\) has the state folder"):
        State(str(tmp_path), log=Log()).open(DAY)
    assert await held.state.close()
    second = Held(tmp_path)
    assert await second.state.close()


async def test_what_cannot_be_a_state_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="is not a folder") as caught:
        State(str(tmp_path / "file"), log=Log()).open(DAY)
    assert "\n" not in str(caught.value)


async def test_a_damaged_file_is_refused_or_set_aside(tmp_path: Path) -> None:
    junk = b"not a database " * 1000
    (tmp_path / "fastgw.db").write_bytes(junk)
    (tmp_path / "fastgw.db-wal").write_bytes(b"log")
    with pytest.raises(StateError, match="on_corrupt_state = set_aside") as caught:
        State(str(tmp_path), log=Log()).open(DAY)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "fastgw.db").read_bytes() == junk
    held = Held(tmp_path, on_corrupt="set_aside")
    assert held.log.lines == [("warning", "damaged state was set aside; all keys and usage in it are gone")]
    assert not held.state.failing
    assert await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    assert await held.state.close()
    (kept,) = [one for one in os.listdir(tmp_path) if ".corrupt-" in one and not one.endswith("-wal")]
    assert (tmp_path / kept).read_bytes() == junk
    assert usage(tmp_path) == [("a", DAY, 1, 1, 1, 0, 0, 0)]


async def test_a_file_of_another_program_is_never_set_aside(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "fastgw.db")
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    with pytest.raises(StateError, match="another program's"):
        State(str(tmp_path), log=Log(), on_corrupt="set_aside").open(DAY)


@pytest.mark.parametrize("how", ["writes", "reads"])
async def test_a_lock_that_another_holds_is_waited_out(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLITE_BUSY: the batch fails, traffic goes on, the next one is written; nothing counts twice."""
    monkeypatch.setattr(state, "_WRITE_BUSY_S", 0.4)
    held = Held(tmp_path)
    other = sqlite3.connect(tmp_path / "fastgw.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE" if how == "writes" else "BEGIN")
    other.execute("SELECT * FROM usage").fetchall()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.005)

    counter = asyncio.create_task(count())
    assert not await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    assert turns > 20  # the loop went on turning while the thread waited
    counter.cancel()
    assert held.state.failing
    assert "SQLITE_BUSY" in held.state.reason
    assert not await held.write(("a", DAY, 2, 2, 2, 0, 0, 0))
    other.execute("ROLLBACK")
    other.close()
    assert await held.write(("a", DAY, 3, 3, 3, 0, 0, 0))
    assert (held.state.failing, held.state.reason) == (False, "")
    assert [level for level, _message in held.log.lines] == ["warning", "info"]
    assert await held.state.close()
    assert usage(tmp_path) == [("a", DAY, 3, 3, 3, 0, 0, 0)]


async def test_it_is_well_again_without_a_batch_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_WRITE_BUSY_S", 0.4)
    held = Held(tmp_path)
    other = sqlite3.connect(tmp_path / "fastgw.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert not await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    other.execute("ROLLBACK")
    other.close()
    await until(lambda: not held.state.failing)
    assert await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    assert await held.state.close()


async def test_a_file_that_goes_away_is_not_made_anew(tmp_path: Path) -> None:
    """An accident must not end all keys at once; the file put back goes on from there, whatever changed in it."""
    held = Held(tmp_path)
    record, _text = await held.state.run(keys.create, {"name": "kept"}, "test")
    gone, _text = await held.state.run(keys.create, {"name": "gone"}, "test")
    (tmp_path / "fastgw.db").rename(tmp_path / "elsewhere.db")
    await until(lambda: held.state.failing)
    assert not await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    assert not (tmp_path / "fastgw.db").exists()
    assert all(not one.deleted for one in held.told)
    for end in ("-wal", "-shm"):
        (tmp_path / f"fastgw.db{end}").unlink(missing_ok=True)
    other = Database.open(str(tmp_path / "elsewhere.db"))
    other.change("DELETE FROM keys WHERE id = ?", (gone.id,))
    other.close()
    (tmp_path / "elsewhere.db").rename(tmp_path / "fastgw.db")
    await until(lambda: not held.state.failing)
    await until(lambda: held.told[-1].deleted)
    assert held.told[-1].id == gone.id
    assert record.id in {one.id for one in held.told[2:]}
    assert await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    assert await held.state.close()


async def test_a_store_that_takes_the_place_of_one_with_keys_says_that_there_were_some(tmp_path: Path) -> None:
    """Under a running gateway: it stays closed, and so does its next start, which knows only the file."""
    held = Held(tmp_path / "state")
    record, _text = await held.state.run(keys.create, {"name": "a"}, "test")
    Database.open(str(tmp_path / "other.db")).close()
    (tmp_path / "other.db").chmod(0o600)
    (tmp_path / "other.db").rename(tmp_path / "state" / "fastgw.db")
    await until(lambda: held.told[-1].deleted)
    assert held.told[-1].id == record.id
    await until(lambda: not held.state.failing)
    assert await held.state.close()
    again = State(str(tmp_path / "state"), log=Log())
    assert again.open(DAY)[:4] == ([], [], 0, True)
    assert await again.close()


async def test_very_many_changes_are_told_in_pieces_between_which_the_loop_turns(tmp_path: Path) -> None:
    """Another file with all keys in it takes the place of the one before."""
    held = Held(tmp_path / "state")
    other = Database.open(str(tmp_path / "other.db"))
    records = fill(other, 5 * state.TOLD_AT_ONCE + 1, deleted=False)
    other.close()
    (tmp_path / "other.db").rename(tmp_path / "state" / "fastgw.db")
    turns: list[int] = []
    turn = 0

    def changed(records: list[KeyRecord]) -> None:
        assert len(records) <= state.TOLD_AT_ONCE
        turns.append(turn)

    held.state._keys_changed = changed
    while len(turns) < 6:
        turn += 1
        await asyncio.sleep(0)
    assert len(set(turns)) == 6, "a turn for each piece"
    assert len(await held.state.run(keys.list_keys)) == len(records)
    assert await held.state.close()


async def test_an_earlier_state_of_the_same_store_is_taken_over_whole(tmp_path: Path) -> None:
    """A backup is put back under a running gateway: what was made since is gone, what was changed since is as it was."""
    held = Held(tmp_path / "state")
    old, _text = await held.state.run(keys.create, {"name": "old"}, "test")
    (tmp_path / "backup.db").write_bytes((tmp_path / "state" / "fastgw.db").read_bytes())
    (tmp_path / "backup.db").chmod(0o600)
    await held.state.run(keys.disable, "old", "test")
    new, _text = await held.state.run(keys.create, {"name": "new"}, "test")
    held.told.clear()
    (tmp_path / "backup.db").rename(tmp_path / "state" / "fastgw.db")
    await until(lambda: len(held.told) >= 2)
    assert held.told[0] == old
    assert [(one.id, one.deleted) for one in held.told[1:]] == [(new.id, True)]
    assert await held.state.close()


async def test_a_key_that_somebody_makes_unreadable_is_refused_and_hides_no_other_change(tmp_path: Path) -> None:
    held = Held(tmp_path / "state")
    bad, _text = await held.state.run(keys.create, {"name": "bad"}, "test")
    good, _text = await held.state.run(keys.create, {"name": "good"}, "test")
    held.told.clear()
    other = Database.open(str(tmp_path / "state" / "fastgw.db"))
    with other.transaction():
        other.change("UPDATE keys SET burst = 'many', revision = ? WHERE name = 'bad'", (other.next_revision(),))
    keys.disable(other, "good", "test")
    other.close()
    await until(lambda: len(held.told) >= 2)
    assert {(one.id, one.deleted, one.disabled) for one in held.told} == {(bad.id, True, False), (good.id, False, True)}
    await until(lambda: held.log.lines)
    assert held.log.lines == [("warning", "a key cannot be read in the state, and is refused")]
    assert not held.state.failing
    assert await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    assert await held.state.close()


async def test_what_cannot_be_read_is_told_once_while_usage_is_written(tmp_path: Path) -> None:
    """Text that is no text: the look for changes fails, and the batches go on; the log does not say both in turn."""
    held = Held(tmp_path / "state")
    await held.state.run(keys.create, {"name": "a"}, "test")
    other = Database.open(str(tmp_path / "state" / "fastgw.db"))
    with other.transaction():
        other.change("UPDATE keys SET name = CAST(x'ff' AS TEXT), revision = ?", (other.next_revision(),))
    await until(lambda: held.state.failing)
    for number in range(1, 9):
        await held.write(("a", DAY, number, 1, 1, 0, 0, 0))
        await asyncio.sleep(0.05)
    assert held.log.lines == [("warning", "the state cannot be written; traffic goes on, usage is kept in memory")]
    assert "not UTF-8" in held.state.reason
    with other.transaction():
        other.change("UPDATE keys SET name = 'a', revision = ?", (other.next_revision(),))
    other.close()
    await until(lambda: not held.state.failing)
    assert await held.write(("a", DAY, 50, 1, 1, 0, 0, 0))
    assert usage(tmp_path / "state") == [("a", DAY, 50, 1, 1, 0, 0, 0)]
    assert await held.state.close()


async def test_what_could_not_be_read_at_the_start_is_read_as_soon_as_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Held(tmp_path)
    record, _text = await first.state.run(keys.create, {"name": "a"}, "test")
    used = ("a", DAY, 10, 20, 3, 1, 8, 7)
    assert await first.state.close(rows=[used, ("a", DAY + 1, 1, 1, 1, 0, 0, 0)])

    def sick(*args: object, **kwargs: object) -> Database:
        raise Unavailable("sick")

    found: list[list[UsageRow] | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(folder_module.Database, "open", sick)
        patch.setattr(folder_module, "read", sick)
        held = Held(tmp_path)
        assert held.loaded == ([], [], 0, True, True), "it may have held keys"
        assert (held.state.failing, held.state.reason) == (True, "sick")
        assert held.state.load(DAY, found.append)
        await until(lambda: found)
        assert found == [None]
        with pytest.raises(StateError, match="sick"):
            await held.state.run(keys.list_keys)
    await until(lambda: not held.state.failing)
    assert held.state.load(DAY, found.append)
    await until(lambda: found[1:])
    assert held.told == [record], "before what they have used"
    assert found[1] == [used]
    assert await held.state.close()
    assert not held.state.load(DAY, found.append)


async def test_calls_are_bounded_in_number_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(tmp_path)
    monkeypatch.setattr(state, "RUN_S", 0.2)
    monkeypatch.setattr(state, "MAX_WAITING", 3)
    go_on = threading.Event()

    def wait(database: Database) -> str:
        go_on.wait(20)
        return "late"

    calls = [asyncio.create_task(held.state.run(wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many"):
        await held.state.run(wait)
    for call in calls:
        with pytest.raises(Unavailable, match="did not answer"):
            await call
    go_on.set()
    await until(lambda: held.state._waiting == 0)
    assert await held.state.run(keys.list_keys) == []
    assert await held.state.close()


async def test_the_end_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    held = Held(tmp_path)
    other = sqlite3.connect(tmp_path / "fastgw.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begin = time.monotonic()
    assert not await held.state.close(0.3, [("a", DAY, 1, 1, 1, 0, 0, 0)])
    assert time.monotonic() - begin < 2.0
    other.execute("ROLLBACK")
    other.close()
    thread = held.state._thread
    assert thread is not None
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert usage(tmp_path) == [("a", DAY, 1, 1, 1, 0, 0, 0)]  # the thread went on trying


async def test_old_days_go_and_a_clock_that_jumps_takes_none_along(tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "fastgw.db"))
    database.upsert_usage([(key, day, 1, 1, 1, 0, 0, 0) for day in range(100, 502) for key in ("a", "b")])
    database.upsert_usage([("a", DAY, 1, 1, 1, 0, 0, 0)])  # far ahead
    database.close()
    held = Held(tmp_path)
    await until(lambda: held.state._file._pruned)
    assert await held.state.close()
    assert [len(usage(tmp_path, day)) for day in (100, 101, 102, 103, 104, 501, DAY)] == [0, 0, 0, 2, 2, 2, 1]


async def test_no_statement_runs_in_the_loops_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(tmp_path)
    threads: set[str] = set()

    def watch(name: str) -> None:
        plain = getattr(Database, name)

        def noted(self: Database, *args: Any) -> Any:
            threads.add(threading.current_thread().name)
            return plain(self, *args)

        monkeypatch.setattr(Database, name, noted)

    for name in ("rows", "change", "each", "upsert_usage", "close"):
        watch(name)
    await held.state.run(keys.create, {"name": "a"}, "test")
    assert await held.write(("a", DAY, 1, 1, 1, 0, 0, 0))
    assert await held.state.close(rows=[("a", DAY, 2, 2, 2, 0, 0, 0)])
    assert threads == {"fastgw-state"}
