"""A store that holds nothing readable closes the gateway, whatever became of it; the command refuses it too.

One row is one way in which a file that had keys can be found. Each is met by a gateway that refuses damage, by one that sets it
aside (and by its next start, which must not be open either), and by ``fastgw keys``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fastgw.store import cli, keys, place
from fastgw.store.database import Database
from fastgw.store.folder import Loaded
from fastgw.store.reading import read
from fastgw.store.schema import APPLICATION_ID, MIGRATIONS, CorruptState, StateError, Unavailable
from fastgw.store.state import State
from tests.store.crowd import fill
from tests.store.test_state import DAY, Log

Way = Callable[[Path], object]


@cache
def _whole(count: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fastgw.db")
        database = Database.open(str(path))
        for number in range(min(count, 3)):
            record, _text = keys.create(database, {"name": f"k{number}"}, "test")
            database.upsert_usage([(record.id, DAY, 1, 2, 3, 0, 0, 0)])
        if count > 3:
            fill(database, count)
        database.close()
        assert {one.name for one in path.parent.iterdir()} == {"fastgw.db", "fastgw.db-journal"}
        return path.read_bytes()


def made(folder: Path, count: int = 3) -> Path:
    """A store that has keys and usage, as a gateway leaves it; returns its file."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / "fastgw.db"
    path.write_bytes(_whole(count))
    Path(f"{path}-journal").touch()
    for one in folder.iterdir():
        one.chmod(0o600)
    return path


def sql(*statements: str) -> Way:
    def way(path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        for statement in statements:
            connection.execute(statement)
        connection.close()

    return way


def instead(data: bytes) -> Way:
    return lambda path: path.write_bytes(data)


def another(*statements: str) -> Way:
    """Another SQLite file in its place."""

    def way(path: Path) -> None:
        path.unlink()
        sql(*statements)(path)

    return way


def left_alone(*ends: str) -> Way:
    """The file is gone, and what belongs to it is not."""

    def way(path: Path) -> None:
        shutil.rmtree(path.parent)
        path.parent.mkdir(mode=0o700)
        for end in ends:
            Path(f"{path}{end}").write_bytes(b"left" if end != "-journal" else b"")

    return way


def overwritten(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def set_to(column: str, value: object) -> Way:
    def way(path: Path) -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"UPDATE keys SET {column} = ? WHERE name = 'k1'", (value,))
        connection.close()

    return way


DAMAGE: dict[str, Way] = {
    "empty": instead(b""),
    "one byte": instead(b"S"),
    "its first words alone": instead(b"SQLite format 3\0"),
    "empty, a log left": lambda path: (path.write_bytes(b""), Path(f"{path}-wal").write_bytes(b"in which the keys were")),
    "a page of zeros": instead(bytes(4096)),
    "zeros throughout": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another kind of file": instead(b"no database at all\n" * 1000),
    "all but its first page overwritten": overwritten,
    "an SQLite file with nothing in it": another("PRAGMA user_version = 0", "CREATE TABLE t (a)", "DROP TABLE t"),
    "only our mark": another(f"PRAGMA application_id = {APPLICATION_ID}", "CREATE TABLE t (a)", "DROP TABLE t"),
    "only our mark and a version": another(
        f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {len(MIGRATIONS)}"
    ),
    "no version": sql("PRAGMA user_version = 0"),
    "no table of keys": sql("DROP TABLE keys"),
    "no table of usage": sql("DROP TABLE usage"),
    "no table of meta": sql("DROP TABLE meta"),
    "an index gone": sql("DROP INDEX keys_by_revision"),
    "a column gone": sql("ALTER TABLE keys DROP COLUMN networks"),
    "no rows of meta": sql("DELETE FROM meta"),
    "no revision": sql("DELETE FROM meta WHERE name = 'revision'"),
    "a revision that is none": sql("UPDATE meta SET value = 'three' WHERE name = 'revision'"),
    "a revision set back": sql("UPDATE meta SET value = 0 WHERE name = 'revision'"),
    "no id of its own": sql("DELETE FROM meta WHERE name = 'store'"),
    "all keys deleted by hand": sql("DELETE FROM keys"),
    "gone, its journal left": left_alone("-journal"),
    "gone, a log left": left_alone("-wal"),
    "gone, the index of a log left": left_alone("-shm"),
    "gone, one that was set aside left": left_alone(".corrupt-20260101T000000.000000Z"),
    "gone, a copy left": left_alone(".bak"),
    "a row without a digest": set_to("digest", b""),
    "a digest that is text": set_to("digest", "d" * 32),
    "a burst that is text": set_to("burst", "many"),
    "a burst beyond all bounds": set_to("burst", 2**62),
    "a limit below zero": set_to("daily_tokens", -1),
    "a fraction of a request": set_to("requests_per_minute", 0.5),
    "an end that is text": set_to("expires_at", "soon"),
    "an end that never comes": set_to("expires_at", float("inf")),
    "a priority that there is not": set_to("priority", "top"),
    "models that are no list": set_to("models", "{}"),
    "models without an end": set_to("models", "[" * 100_000),
    "a network that is none": set_to("networks", '["everywhere"]'),
    "networks as numbers": set_to("networks", "[1]"),
    "a certificate that is none": set_to("certificates", '["AB"]'),
    "a flag that is neither": set_to("disabled", 7),
    "an id that is none": set_to("id", "key_1"),
    "a name that is bytes": set_to("name", b"k1"),
    "a name that is no text": sql("UPDATE keys SET name = CAST(x'ff' AS TEXT) WHERE name = 'k1'"),
    "a row larger than any": sql("UPDATE keys SET models = '[\"' || hex(zeroblob(4000000)) || '\"]' WHERE name = 'k1'"),
    "usage that is text": sql("UPDATE usage SET prompt = 'much'"),
    "usage below zero": sql("UPDATE usage SET completion = -1"),
}
ROWS = list(DAMAGE)[list(DAMAGE).index("a row without a digest") :]
"""What one row alone shows: found where keys are read, by a start, and by a command that reads them."""


def started(folder: Path, **options: Any) -> tuple[Loaded, Log]:
    """What a gateway would begin with."""
    log = Log()
    state = State(str(folder), log=log, **options)
    try:
        return state.open(DAY), log
    finally:
        state._file.close()


def command(folder: Path, *argv: str) -> int:
    return cli.main(argv, str(folder))


def held(folder: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.name not in ("lock", "fastgw.db-journal")}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_store_that_holds_nothing_readable_is_refused_or_set_aside_and_stays_closed(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made(tmp_path / "state")
    DAMAGE[kind](path)
    folder, before = path.parent, held(path.parent)
    with pytest.raises(StateError, match="on_corrupt_state = set_aside") as caught:
        started(folder)
    assert "\n" not in str(caught.value)
    if kind not in ROWS:
        for argv in (("create",), ("list",), ("show", "k1"), ("disable", "k1")):
            assert command(folder, *argv) == 1, argv
            told = capsys.readouterr()
            assert (told.out, told.err.count("\n")) == ("", 1), told.err
    assert held(folder) == before, "it is left as it was"

    loaded, log = started(folder, on_corrupt="set_aside")
    assert (loaded.keys, loaded.usage, loaded.closed, loaded.unread) == ([], [], True, True)
    assert ("warning", "damaged state was set aside; all keys and usage in it are gone") in log.lines
    for name, data in before.items():
        kept = name.replace("fastgw.db", "fastgw.db*", 1) if ".corrupt-" not in name else name
        assert data in [one.read_bytes() for one in folder.glob(kept)], f"{name} was kept"
    again, log = started(folder, on_corrupt="set_aside")
    assert (again.keys, again.closed, again.unread, log.lines) == ([], True, False, [])
    assert command(folder, "create") == 0


@pytest.mark.parametrize("kind", [one for one in ROWS if "usage" not in one])
def test_one_bad_row_ends_a_command_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path / "state")
    DAMAGE[kind](path)
    assert command(path.parent, "list") == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1), told.err


def test_a_file_that_was_cut_short_anywhere_is_never_an_empty_store(tmp_path: Path) -> None:
    path = made(tmp_path / "state", count=200)
    whole = path.read_bytes()
    assert len(whole) > 10 * 4096
    for size in (*range(0, len(whole), 4096), 1, 15, 16, 18, 99, 100, 511, 512, 4095, 4097, len(whole) - 512, len(whole) - 1):
        path.write_bytes(whole[:size])
        for way in (lambda: Database.open(str(path)), lambda: Database.open(str(path), check=False), lambda: read(str(path))):
            with pytest.raises(CorruptState):
                way().close()


def test_another_programs_file_is_refused_and_never_set_aside(tmp_path: Path) -> None:
    path = made(tmp_path / "state")
    another("CREATE TABLE theirs (a)")(path)
    before = held(path.parent)
    for how in ("refuse", "set_aside"):
        with pytest.raises(StateError, match="another program's"):
            started(path.parent, on_corrupt=how)
    assert held(path.parent) == before


def killed(folder: Path, before_the_end: Callable[[Database], object]) -> None:
    """A process does something to the store, and is killed in the next moment."""
    folder.mkdir(mode=0o700, exist_ok=True)
    pid = os.fork()
    if not pid:
        try:
            before_the_end(Database.open(str(folder / "fastgw.db")))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
def test_after_the_first_key_the_file_itself_says_so(end: str, tmp_path: Path) -> None:
    """Whatever lies beside it goes away after a kill."""
    folder = tmp_path / "state"
    killed(folder, lambda database: keys.create(database, {"name": "first"}, "test"))
    Path(f"{folder}/fastgw.db{end}").unlink(missing_ok=True)
    loaded, _log = started(folder)
    assert ([one.name for one in loaded.keys], loaded.closed) == (["first"], True)


def test_a_store_that_never_had_a_key_is_open(tmp_path: Path) -> None:
    """Also after a kill, a restart, a command that only looked, and usage."""
    folder = tmp_path / "state"
    killed(folder, lambda database: database.upsert_usage([("anonymous", DAY, 1, 1, 1, 0, 0, 0)]))
    for _ in range(2):
        loaded, _log = started(folder)
        assert (loaded.keys, loaded.closed, loaded.unread, len(loaded.usage)) == ([], False, False, 1)
        assert command(folder, "list") == 0


def of_before(folder: Path, *, close: bool) -> Path:
    """A file as earlier versions kept it: with a log, in which the keys are if it was not closed."""
    path = made(folder, count=0)
    killed_in = folder / "killed"
    killed_in.mkdir(mode=0o700)
    database = Database.open(str(path))
    assert database.rows("PRAGMA journal_mode = WAL") == [("wal",)]
    database.rows("PRAGMA wal_autocheckpoint = 0")
    keys.create(database, {"name": "in the log"}, "test")
    if close:
        database.close()
        return path
    for end in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{end}", killed_in / f"fastgw.db{end}")
    database.close()
    return killed_in / "fastgw.db"


def test_the_index_of_a_log_is_never_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever maps it puts it right first: one that is empty stays so until it is removed."""
    path = of_before(tmp_path / "state", close=False)
    index = Path(f"{path}-shm")
    index.write_bytes(b"")
    read(str(path)).close()
    assert index.stat().st_size == 0
    unlink, removed = os.unlink, []

    def noted(name: str) -> None:
        if name.endswith("-shm"):
            removed.append(index.stat().st_size)
        unlink(name)

    monkeypatch.setattr("fastgw.store.database.os.unlink", noted)
    loaded, _log = started(path.parent)
    assert [one.name for one in loaded.keys] == ["in the log"]
    assert (removed, index.exists()) == ([0], False)


@pytest.mark.parametrize("close", [True, False])
def test_a_file_with_a_log_is_taken_over_with_all_that_is_in_the_log(close: bool, tmp_path: Path) -> None:
    path = of_before(tmp_path / "state", close=close)
    assert path.read_bytes()[18:20] == b"\x02\x02"
    reader = read(str(path))
    assert [one.name for one in keys.list_keys(reader)] == ["in the log"]
    reader.close()
    assert path.read_bytes()[18:20] == b"\x02\x02", "who only reads changes nothing"
    loaded, _log = started(path.parent)
    assert ([one.name for one in loaded.keys], loaded.closed) == (["in the log"], True)
    assert path.read_bytes()[18:20] == b"\x01\x01"
    assert {one.name for one in path.parent.iterdir()} <= {"fastgw.db", "fastgw.db-journal", "lock", "killed"}


def test_a_file_whose_log_is_gone_may_have_had_keys(tmp_path: Path) -> None:
    path = of_before(tmp_path / "state", close=False)
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink()
    reader = read(str(path))
    assert reader.is_closed()
    reader.close()
    for _ in range(2):
        loaded, _log = started(path.parent)
        assert (loaded.keys, loaded.closed) == ([], True)


def test_a_file_that_another_program_has_open_with_a_log_is_neither_copied_nor_read_as_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be in the middle of a write. A gateway that starts meanwhile is closed, and opens no door later either."""
    path = made(tmp_path / "state", count=0)
    monkeypatch.setattr("fastgw.store.database.BUSY_S", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    assert other.execute("PRAGMA journal_mode = WAL").fetchall() == [("wal",)]
    other.execute("INSERT INTO meta VALUES ('theirs', 1)")
    with pytest.raises(Unavailable, match="SQLITE_BUSY"):
        Database.open(str(path))
    assert command(path.parent, "list") == 1
    assert "SQLITE" in capsys.readouterr().err
    loaded, log = started(path.parent)
    assert (loaded.closed, loaded.unread) == (True, True)
    assert [line[0] for line in log.lines] == ["warning"]
    other.close()
    loaded, log = started(path.parent)
    assert (loaded.closed, loaded.unread) == (True, False)
    assert log.lines == [
        ("warning", "the state had a log that is gone, and may have held keys in it: requests without one are refused")
    ]
    assert started(path.parent)[1].lines == []


# --- how it comes to be there
def test_a_store_is_whole_from_the_moment_at_which_it_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fastgw.db"
    seen: list[str] = []
    link = os.link

    def looking(source: str, target: str, **options: Any) -> None:
        assert not path.exists()
        link(source, target, **options)
        assert path.stat().st_mode & 0o777 == 0o600
        reader = read(str(path))
        seen.append(reader.store_id())
        reader.close()

    monkeypatch.setattr(place.os, "link", looking)
    database = Database.open(str(path))
    assert seen == [database.store_id()]
    database.close()
    assert {one.name for one in tmp_path.iterdir()} == {"fastgw.db", "fastgw.db-journal"}


def test_the_second_of_two_that_make_it_takes_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fastgw.db"
    link = os.link
    quicker: list[Database] = []

    def slow(source: str, target: str, **options: Any) -> None:
        monkeypatch.setattr(place.os, "link", link)
        quicker.append(Database.open(str(path)))
        keys.create(quicker[0], {"name": "theirs"}, "test")
        link(source, target, **options)

    monkeypatch.setattr(place.os, "link", slow)
    database = Database.open(str(path))
    assert [one.name for one in keys.list_keys(database)] == ["theirs"]
    assert database.store_id() == quicker[0].store_id()
    database.close()
    quicker[0].close()
    assert {one.name for one in tmp_path.iterdir()} == {"fastgw.db", "fastgw.db-journal"}


def test_a_disk_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(place.os, "link", refused)
    Database.open(str(tmp_path / "fastgw.db")).close()
    assert {one.name for one in tmp_path.iterdir()} == {"fastgw.db", "fastgw.db-journal"}


def test_what_was_begun_by_a_process_that_was_killed_is_swept_away(tmp_path: Path) -> None:
    old, young = tmp_path / "fastgw.db.new-0123456789abcdef", tmp_path / "fastgw.db.new-fedcba9876543210"
    for one in (old, young):
        one.write_bytes(b"half")
        one.chmod(0o600)
    os.utime(old, (1.0, 1.0))
    loaded, _log = started(tmp_path)
    assert (loaded.closed, old.exists(), young.exists()) == (False, False, True)


@pytest.mark.parametrize("at", range(6))
def test_a_kill_at_any_step_of_setting_aside_leaves_a_gateway_closed(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "state")
    path.write_bytes(b"")
    steps = 0

    class Killed(BaseException):
        pass

    def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal steps
            if steps == at:
                raise Killed
            steps += 1
            return plain(*args, **options)

        return step

    with monkeypatch.context() as patch:
        for name in ("rename", "link"):
            patch.setattr(place.os, name, counted(getattr(os, name)))
        patch.setattr(place, "build", counted(place.build))
        with pytest.raises(Killed):  # four names, and the new file: built, and put into its place
            started(path.parent, on_corrupt="set_aside")
    with pytest.raises(StateError):
        started(path.parent)
    for _ in range(2):
        loaded, _log = started(path.parent, on_corrupt="set_aside")
        assert (loaded.keys, loaded.closed) == ([], True)
