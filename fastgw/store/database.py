"""One connection to the state file: how it is opened, written in one transaction, read, and closed.

Owns: every statement about usage, the audit and the file itself (those about keys stand in ``keys``). All calls block, so
they belong in the store's thread or in a command. Invariant: nothing is committed in part, and usage rows are totals of
their day, so writing a row again changes nothing.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fastgw.limits.key import UsageRow
from fastgw.store.schema import CorruptState, StateError, Unavailable, is_current, judge, migrate, trouble

FILE_NAME: Final = "fastgw.db"
BUSY_S: Final = 5.0
DAY_S: Final = 86_400

# Small, so that a full disk is met with little in the log and a start after a kill has little to replay.
_CHECKPOINT_PAGES: Final = 256
_WAL_LEFT_BYTES: Final = 1 << 20


def today() -> int:
    """The UTC day, counted from 1970-01-01."""
    return int(time.time() // DAY_S)


def make_folder(folder: str) -> None:
    """Make the state folder for its owner alone (parents as usual); raises :class:`StateError`."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StateError(f"the state folder {folder} is not a folder") from None
    except OSError as error:
        raise trouble(f"cannot make the state folder {folder}", error) from error


class Database:
    """An open state file. Made by :meth:`open` (to write) or :meth:`read`; not safe for two threads at once."""

    __slots__ = ("_connection", "_copy", "identity", "path")

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self.identity = file_identity(path)

    # --- opening and closing
    @classmethod
    def open(
        cls, path: str, *, create: bool = True, busy_s: float = BUSY_S, check: bool = True, probe: bool = True
    ) -> Database:
        """Open to write: made (mode 0600) if ``create``, and brought to the newest schema.

        ``check`` looks for damage first (time grows with the file); ``probe`` proves by a write that it can be written.
        Waits up to ``busy_s`` for other writers. Raises :class:`Unavailable`, :class:`CorruptState` or another
        :class:`StateError`.
        """
        what = f"cannot open {path}"
        try:
            _make_file(path, create)
            connection = _connect(path, "mode=rw", busy_s)
        except (OSError, sqlite3.Error) as error:
            raise trouble(what, error) from error
        database = cls(path, connection)
        try:
            judge(connection, path)
            _use_wal(connection, busy_s)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LEFT_BYTES}")
            if check:
                database._look_for_damage()
            migrate(connection, path)
            if probe:
                database.probe()
        except (StateError, sqlite3.Error) as error:
            database.close()
            raise trouble(what, error) from error
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def read(cls, path: str) -> Database:
        """Open only to read, also where nothing can be written: on a read-only or full disk.

        SQLite reads a file in WAL mode only where it may make its index beside it. Elsewhere a file without a log is read
        as one that nobody changes, and one with a log, or of an older schema, is copied to the folder for temporary files.
        Raises as :meth:`open`.
        """
        what = f"cannot read {path}"
        for way in (_read_shared, _read_still, _read_copy):
            database: Database | None = None
            try:
                database = way(path)
                if not is_current(database._connection, path):
                    raise Unavailable(f"{what}: it is of an older schema, and cannot be changed")
                database._look_for_damage()
            except (OSError, StateError, sqlite3.Error) as error:
                if database is not None:
                    database.close()
                last = trouble(what, error)
                if not isinstance(last, Unavailable):
                    raise last from error
            else:
                return database
        raise last

    def close(self) -> None:
        """Close; the last one to close also empties and removes the log. Does nothing the second time."""
        with suppress(sqlite3.Error):
            self._connection.close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def _look_for_damage(self) -> None:
        """Raise :class:`CorruptState` with SQLite's first finding."""
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise CorruptState(f"{self.path} is damaged: {' '.join(found.split())}")

    def integrity(self) -> list[str]:
        """What a full check finds, indexes and order included; empty = sound."""
        found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    # --- statements
    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything within is committed together, or not at all."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads within see the file at one moment."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def rows(self, sql: str, arguments: Sequence[object] | dict[str, object] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, arguments).fetchall()

    def change(self, sql: str, arguments: Sequence[object] | dict[str, object] = ()) -> int:
        """Run one statement that changes rows; returns how many."""
        return self._connection.execute(sql, arguments).rowcount

    # --- the file as a whole
    def revision(self) -> int:
        """Grows by one with every change to a key."""
        return int(self.rows("SELECT value FROM meta WHERE name = 'revision'")[0][0])

    def next_revision(self) -> int:
        """Take a new one; within a transaction."""
        self.change("UPDATE meta SET value = value + 1 WHERE name = 'revision'")
        return self.revision()

    def store_id(self) -> str:
        """Made with the file: tells it from another that lies at the same path."""
        return str(self.rows("SELECT value FROM meta WHERE name = 'store'")[0][0])

    def data_version(self) -> int:
        """Differs from the last answer when another connection has committed (``PRAGMA data_version``)."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def moved(self) -> bool:
        """Another file lies at the path by now, or none."""
        return file_identity(self.path) != self.identity

    def probe(self) -> None:
        """Write something small: an error is what a write would meet."""
        with self.transaction():
            self.change("INSERT OR REPLACE INTO meta VALUES ('probe', ?)", (time.time(),))

    def checkpoint(self) -> None:
        """Move the log's content into the file and cut it, as far as readers allow."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def wait_for_others(self, busy_s: float) -> None:
        """How long a statement waits for another writer."""
        self.rows(f"PRAGMA busy_timeout = {int(busy_s * 1e3)}")

    # --- usage
    def upsert_usage(self, rows: Iterable[UsageRow]) -> None:
        """Write totals in one transaction. Of a row that is there already the greater counts stay: totals only grow, a repeat
        counts nothing twice, and a day that the clock came back to does not begin anew."""
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO usage (key_id, day, prompt, completion, requests, estimated) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (day, key_id) DO UPDATE SET prompt = max(prompt, excluded.prompt), "
                "completion = max(completion, excluded.completion), requests = max(requests, excluded.requests), "
                "estimated = max(estimated, excluded.estimated)",
                rows,
            )

    def load_usage(self, day: int) -> list[UsageRow]:
        """The totals of one day, of all keys."""
        return self.rows("SELECT key_id, day, prompt, completion, requests, estimated FROM usage WHERE day = ?", (day,))

    def usage_of(self, key_id: str, days: int, last_day: int | None = None) -> list[UsageRow]:
        """A key's totals of the last ``days`` days up to ``last_day`` (today), the newest first; days without are left out."""
        last_day = today() if last_day is None else last_day
        found: list[UsageRow] = []
        sql = "SELECT key_id, day, prompt, completion, requests, estimated FROM usage WHERE day = ? AND key_id = ?"
        for day in range(last_day, last_day - days, -1):
            found += self.rows(sql, (day, key_id))
        return found

    def day_of_last(self, days: int) -> int | None:
        """The first of the last ``days`` days that have usage; None where there are fewer."""
        found = self.rows(
            "WITH RECURSIVE known (day) AS (SELECT max(day) FROM usage UNION ALL SELECT (SELECT max(usage.day) FROM usage "
            "WHERE usage.day < known.day) FROM known WHERE known.day IS NOT NULL) "
            "SELECT day FROM known WHERE day IS NOT NULL LIMIT 1 OFFSET ?",
            (days - 1,),
        )
        return int(found[0][0]) if found else None

    def prune(self, before_day: int) -> int:
        """Drop the usage of days before ``before_day``, a transaction for each day; returns how many rows went."""
        gone = 0
        while (day := self.rows("SELECT min(day) FROM usage WHERE day < ?", (before_day,))[0][0]) is not None:
            gone += self.change("DELETE FROM usage WHERE day = ?", (day,))
        return gone

    # --- audit
    def note(self, at: float, actor: str, action: str, key_id: str, changes: str) -> None:
        """Add a line to the audit; within the transaction of what it tells of."""
        self.change("INSERT INTO audit (at, actor, action, key_id, changes) VALUES (?, ?, ?, ?, ?)",
                    (at, actor, action, key_id, changes))  # fmt: skip


def file_identity(path: str) -> tuple[int, int]:
    """Device and inode of what lies at ``path``; (0, 0) = nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)


def _make_file(path: str, create: bool) -> None:
    if not create:
        os.stat(path)  # says ENOENT in plain words
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    try:
        # A command run by root must not shut the gateway's own user out of its folder.
        if os.geteuid() == 0:
            owner = os.stat(os.path.dirname(os.path.abspath(path)))
            with suppress(OSError):
                os.fchown(fd, owner.st_uid, owner.st_gid)
    finally:
        os.close(fd)


def _connect(path: str, query: str, busy_s: float) -> sqlite3.Connection:
    uri = f"{Path(path).absolute().as_uri()}?{query}"
    # Transactions are written out; the thread that opens it may hand it to the one that uses it.
    return sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)


def _use_wal(connection: sqlite3.Connection, busy_s: float) -> None:
    """Switch to the write-ahead log. Two that make the same file collide here, and SQLite does not wait for them."""
    end = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _read_shared(path: str) -> Database:
    database = Database(path, _connect(path, "mode=ro", BUSY_S))
    return _proven(database)


def _read_still(path: str) -> Database:
    wal = Path(path + "-wal")
    if wal.exists() and wal.stat().st_size:
        raise FileNotFoundError(2, "the file has a log that cannot be read where it is")
    return _proven(Database(path, _connect(path, "mode=ro&immutable=1", BUSY_S)))


def _read_copy(path: str) -> Database:
    copy = tempfile.TemporaryDirectory(prefix="fastgw-")
    try:
        target = os.path.join(copy.name, FILE_NAME)
        shutil.copyfile(path, target)
        with suppress(FileNotFoundError):
            shutil.copyfile(path + "-wal", target + "-wal")
        database = Database(path, _connect(target, "mode=rw", BUSY_S))
        try:
            migrate(database._connection, path)
            database.rows("PRAGMA query_only = ON")  # what is written here would be lost
        except BaseException:
            database.close()
            raise
    except BaseException:
        copy.cleanup()
        raise
    database._copy = copy
    return database


def _proven(database: Database) -> Database:
    """Read one page: opening alone does not touch the file."""
    try:
        database.rows("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error:
        database.close()
        raise
    return database
