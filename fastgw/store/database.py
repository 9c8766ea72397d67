"""One connection to the state file: how it is opened, written in one transaction, read, and closed.

Owns: every statement about usage, the audit and the file itself (those about keys stand in ``keys``). All calls block, so
they belong in the store's thread or in a command. Must never: let SQLite map a file into memory, where whoever cuts that file
short ends the process (SIGBUS): so there is a rollback journal, and no write-ahead log with its shared index. Invariant:
nothing is committed in part, and usage rows are totals of their day, so writing a row again changes nothing.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from fastgw.limits.key import Batch, UsageRow
from fastgw.store import place
from fastgw.store.schema import CorruptState, StateError, Unavailable, is_busy, is_current, judge, migrate, trouble

BUSY_S: Final = 5.0
PAUSE_S: Final = 0.01  # between two transactions of one process: the turn of whoever else waits to write
DAY_S: Final = 86_400
MAX_ROW_BYTES: Final = 4 << 20  # the largest key and the longest line of audit are half of it
MAX_COUNT: Final = 1 << 61  # of a day's tokens: sums fit 64 bits
_USAGE: Final = "SELECT key_id, day, prompt, completion, requests, estimated, cached, reasoning FROM usage"


def today() -> int:
    """The UTC day, counted from 1970-01-01."""
    return int(time.time() // DAY_S)


class Database:
    """An open state file. Made by :meth:`open` (to write) or ``reading.read``; not safe for two threads at once."""

    __slots__ = ("_busy_s", "_connection", "_when_closed", "_wrote_at", "identity", "lost_log", "path")

    def __init__(self, path: str, connection: sqlite3.Connection, busy_s: float = BUSY_S) -> None:
        self.path = path
        self._connection = connection
        self._busy_s = busy_s
        self._wrote_at = 0.0
        self._when_closed: Callable[[], None] | None = None
        self.lost_log = False  # its first keys may have been in a log that is gone
        self.identity = place.identity(path)

    # --- opening and closing
    @classmethod
    def open(
        cls, path: str, *, create: bool = True, busy_s: float | None = None, check: bool = True, probe: bool = True
    ) -> Database:
        """Open to write: made if ``create`` and there was never any, and brought to the newest schema.

        ``check`` looks for damage in every page (time grows with the file); ``probe`` proves by a write that it can be
        written. Waits up to ``busy_s`` (5) for other writers. Raises :class:`Unavailable`, :class:`CorruptState` (also for a
        file that holds no store) or another :class:`StateError`.
        """
        what = f"cannot open {path}"
        busy_s = BUSY_S if busy_s is None else busy_s
        database: Database | None = None
        try:
            if place.look(path) is None:
                if not create:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                place.make(path, closed=False)
            database = cls(path, connect(path, "mode=rw", busy_s), busy_s)
            database.settle(busy_s, write=True)
            if check:
                database.look_for_damage()
            database.migrate()
            database.look_for_gaps()
            if database.lost_log:
                database.stay_closed()
            if probe:
                database.probe()
        except BaseException as error:
            if database is not None:
                database.close()
            if isinstance(error, OSError | StateError | sqlite3.Error):
                raise trouble(what, error) from error
            raise
        return database

    def close(self) -> None:
        """Does nothing the second time."""
        with suppress(sqlite3.Error):
            self._connection.close()
        if self._when_closed is not None:
            self._when_closed()
            self._when_closed = None

    def settle(self, busy_s: float = BUSY_S, *, write: bool = False) -> None:
        """Judge the file, and leave the log that earlier versions kept beside it.

        The index of such a log is shared memory, except for a connection that has the file for itself before it first reads.
        """
        connection = self._connection
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)
        had_log = is_filled(self.path + "-wal")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        end = time.monotonic() + busy_s
        while True:
            try:
                judge(connection, self.path)
                break
            except sqlite3.OperationalError as error:
                # SQLite waits for most locks, but not for this one: two that leave the log at once meet here.
                if not is_busy(error) or time.monotonic() > end:
                    raise
                time.sleep(0.01)
        # Without spill nothing is written into the file before its commit, so nothing else has to be undone there.
        for pragma in ("mmap_size = 0", "trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY",
                       "synchronous = FULL", "cache_spill = OFF"):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")
        was = self.rows("PRAGMA journal_mode")
        # TRUNCATE: the journal stays beside the file, empty, so that a file which is gone is missed.
        if self.rows("PRAGMA journal_mode = TRUNCATE") == [("wal",)]:
            raise Unavailable("its log cannot be left")
        size = self.rows("PRAGMA page_count")[0][0] * self.rows("PRAGMA page_size")[0][0]
        # (As bytes: a path may be any.)
        if os.stat(self.rows("SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'")[0][0]).st_size < size:
            raise CorruptState(f"{self.path} is damaged: it was cut short")
        if write:
            for rest in ("-wal", "-shm"):  # of a log that nobody has any more
                with suppress(OSError):
                    os.unlink(self.path + rest)
        connection.execute("PRAGMA locking_mode = NORMAL")
        self.rows("SELECT count(*) FROM sqlite_master")  # which lets go of the lock
        self.lost_log = was == [("wal",)] and not had_log

    def migrate(self) -> None:
        migrate(self._connection, self.path)

    def is_current(self) -> bool:
        """Of the newest schema; raises :class:`StateError` for what is no store."""
        return is_current(self._connection, self.path)

    def keep_until_closed(self, cleanup: Callable[[], None]) -> None:
        self._when_closed = cleanup

    def look_for_damage(self) -> None:
        """Raise :class:`CorruptState` with SQLite's first finding."""
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise CorruptState(f"{self.path} is damaged: {' '.join(found.split())}")

    def look_for_gaps(self) -> None:
        """Raise :class:`CorruptState` where rows are gone that every store has."""
        meta = dict(self.rows("SELECT name, value FROM meta"))
        revision, last = meta.get("revision"), self.rows("SELECT max(revision) FROM keys")[0][0]
        if not isinstance(meta.get("store"), str) or type(revision) is not int or revision < 0:
            raise CorruptState(f"{self.path} is damaged: it does not say which store it is, or what has changed in it")
        if revision and last is None:
            raise CorruptState(f"{self.path} is damaged: it has held keys, and not even their traces are there")
        if last is not None and (type(last) is not int or last > revision):
            raise CorruptState(f"{self.path} is damaged: it has keys of changes that it does not know of")

    def integrity(self) -> list[str]:
        """What a full check finds, indexes and order included; empty = sound."""
        found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    # --- statements
    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything within is committed together, or not at all."""
        connection = self._connection
        self._begin()
        try:
            yield
            connection.execute("COMMIT")
            self._wrote_at = time.monotonic()
        except BaseException:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                # Pages are put back from the journal, which somebody may have cut: the file has them as they were.
                connection.execute("PRAGMA shrink_memory")
            raise

    def _begin(self) -> None:
        """Take the writer's turn. SQLite looks for it every 100 ms, and may never meet the moment between two transactions of
        somebody who has many to do; so he leaves :data:`PAUSE_S` in between, and whoever waits looks more often."""
        begin = time.monotonic()
        if begin - self._wrote_at < PAUSE_S:
            time.sleep(PAUSE_S - (begin - self._wrote_at))
        end = begin + self._busy_s
        self.rows("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    self._connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if not is_busy(error) or time.monotonic() >= end:
                        raise
                time.sleep(PAUSE_S / 4)
        finally:
            self.wait_for_others(self._busy_s)

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

    def each(
        self, sql: str, arguments: Sequence[object] | dict[str, object] = ()
    ) -> Generator[tuple[Any, ...], None, None]:
        """Row by row; others cannot write until this has ended or is closed."""
        cursor = self._connection.execute(sql, arguments)
        try:
            yield from cursor
        finally:
            with suppress(sqlite3.Error):  # closed before, with the connection
                cursor.close()

    def change(self, sql: str, arguments: Sequence[object] | dict[str, object] = ()) -> int:
        """Run one statement that changes rows; returns how many."""
        return self._connection.execute(sql, arguments).rowcount

    # --- the file as a whole
    def revision(self) -> int:
        """Grows by one with every change to a key."""
        return int(self._meta("revision"))

    def next_revision(self) -> int:
        """Take a new one; within a transaction."""
        self.change("UPDATE meta SET value = value + 1 WHERE name = 'revision'")
        return self.revision()

    def store_id(self) -> str:
        """Made with the file: tells it from another that lies at the same path."""
        return str(self._meta("store"))

    def is_closed(self) -> bool:
        """Whether it has held keys, or stands in the place of one that may have: then a gateway asks for a key."""
        return bool(self.lost_log or self.revision() or self.rows("SELECT 1 FROM meta WHERE name = 'closed'"))

    def stay_closed(self) -> None:
        """Write down that it may have held keys."""
        with self.transaction():
            self.change("INSERT OR REPLACE INTO meta VALUES ('closed', 1)")

    def _meta(self, name: str) -> Any:
        found = self.rows("SELECT value FROM meta WHERE name = ?", (name,))
        if not found:
            raise CorruptState(f"{self.path} is damaged: its {name} is gone")
        return found[0][0]

    def data_version(self) -> int:
        """Differs from the last answer when another connection has committed (``PRAGMA data_version``)."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def moved(self) -> bool:
        """Another file lies at the path by now, or none."""
        return place.identity(self.path) != self.identity

    def probe(self) -> None:
        """Write something small: an error is what a write would meet."""
        with self.transaction():
            self.change("INSERT OR REPLACE INTO meta VALUES ('probe', ?)", (time.time(),))

    def has_log(self) -> bool:
        """Another program has switched the file to a write-ahead log, whose index would be mapped into memory."""
        return os.path.lexists(self.path + "-wal")

    def wait_for_others(self, busy_s: float) -> None:
        """How long a statement waits for others."""
        self._busy_s = busy_s
        self.rows(f"PRAGMA busy_timeout = {int(busy_s * 1e3)}")

    # --- usage
    def upsert_usage(self, rows: Iterable[UsageRow], spent: Batch | None = None) -> None:
        """Write totals, and add what was ``spent``, in one transaction. Of a row of totals that is there already the greater
        counts stay: totals only grow, a repeat counts nothing twice, and a day that the clock comes back to goes on."""
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO usage (key_id, day, prompt, completion, requests, estimated, cached, reasoning) "
                "VALUES (?, ?, min(?, 1 << 61), min(?, 1 << 61), min(?, 1 << 61), min(?, 1 << 61), min(?, 1 << 61), "
                "min(?, 1 << 61)) ON CONFLICT (day, key_id) DO UPDATE SET prompt = max(prompt, excluded.prompt), "
                "completion = max(completion, excluded.completion), requests = max(requests, excluded.requests), "
                "estimated = max(estimated, excluded.estimated), cached = max(cached, excluded.cached), "
                "reasoning = max(reasoning, excluded.reasoning)",
                rows,
            )
            if spent is not None:
                self._spend(spent)

    def add_usage(self, spent: Batch) -> None:
        """Add what was ``spent`` to the totals too: for whoever has none, as another process has counted the rest of them."""
        counts = ("prompt", "completion", "requests", "estimated", "cached", "reasoning")
        with self.transaction():
            if self.rows("SELECT 1 FROM meta WHERE name = 'spent' AND value = ?", (spent.id,)):
                return
            self._connection.executemany(
                f"INSERT INTO usage (key_id, day, {', '.join(counts)}) VALUES (?, ?{', ?' * len(counts)}) "  # noqa: S608
                "ON CONFLICT (day, key_id) DO UPDATE SET "
                + ", ".join(f"{name} = min({name} + excluded.{name}, 1 << 61)" for name in counts),
                [(row[0], *row[3:10]) for row in spent.rows],
            )
            self._spend(spent)

    def _spend(self, spent: Batch) -> None:
        """Add a batch, unless it is the last one that was added: its writer may not have been told so."""
        if self.rows("SELECT 1 FROM meta WHERE name = 'spent' AND value = ?", (spent.id,)):
            return
        counts = ("prompt", "completion", "requests", "estimated", "cached", "reasoning", "cost", "unpriced")
        self._connection.executemany(
            f"INSERT INTO spending (key_id, tenant, model, day, {', '.join(counts)}) VALUES (?, ?, ?, ?{', ?' * len(counts)}) "  # noqa: S608
            "ON CONFLICT (day, key_id, tenant, model) DO UPDATE SET "
            + ", ".join(f"{name} = min({name} + excluded.{name}, 1 << 61)" for name in counts),
            spent.rows,
        )
        self._connection.executemany(
            "INSERT INTO told VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (kind, name, begins, ends, amount) "
            "DO UPDATE SET percent = max(percent, excluded.percent)",
            spent.told,
        )
        self.change("INSERT OR REPLACE INTO meta VALUES ('spent', ?)", (spent.id,))

    def load_usage(self, day: int, last_day: int | None = None) -> list[UsageRow]:
        """The totals of a day, or of several, of all keys. Raises :class:`CorruptState` for what is no total."""
        rows = self.rows(f"{_USAGE} WHERE day BETWEEN ? AND ?", (day, day if last_day is None else last_day))
        for row in rows:
            for count in row[2:]:
                if type(count) is not int or not 0 <= count <= MAX_COUNT:
                    raise CorruptState(f"{self.path} is damaged: it has usage that cannot be")
        return rows

    def usage_around(self, day: int) -> list[UsageRow]:
        """The totals of ``day``, of the one before it, and of the last other day that has any: a clock that was wrong when the
        gateway was started, or is now, finds that day's counts when it is set right."""
        rows = self.load_usage(day - 1, day)
        last = self.rows("SELECT max(day) FROM usage WHERE day > ?", (day,))[0][0]
        if last is None:
            last = self.rows("SELECT max(day) FROM usage WHERE day < ?", (day - 1,))[0][0]
        return rows if last is None else rows + self.load_usage(last)

    def usage_of(self, key_id: str, days: int, last_day: int | None = None) -> list[UsageRow]:
        """A key's totals of the last ``days`` days up to ``last_day`` (today), the newest first; days without are left out."""
        last_day = today() if last_day is None else last_day
        found: list[UsageRow] = []
        for day in range(last_day, last_day - days, -1):
            found += self.rows(f"{_USAGE} WHERE day = ? AND key_id = ?", (day, key_id))
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
            self.change("DELETE FROM spending WHERE day <= ?", (day,))
            self.change("DELETE FROM told WHERE ends <= ?", (day,))
        return gone

    # --- audit
    def note(self, at: float, actor: str, action: str, key_id: str, changes: str) -> None:
        """Add a line to the audit; within the transaction of what it tells of."""
        self.change("INSERT INTO audit (at, actor, action, key_id, changes) VALUES (?, ?, ?, ?, ?)",
                    (at, actor, action, key_id, changes))  # fmt: skip


def is_filled(path: str) -> bool:
    """Something lies there, and it is not empty."""
    found = place.plain(path)
    return found is not None and found.st_size > 0


_PLAIN: Final = frozenset(b"/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")  # of a path, in a URI


def connect(path: str, query: str, busy_s: float) -> sqlite3.Connection:
    # (By hand: `pathlib` and `urllib` are four milliseconds of a start.)
    # (The working directory is asked for only where it matters: it may have been removed, as with a release that was replaced.)
    where = os.fsencode(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))
    uri = f"file://{''.join([chr(one) if one in _PLAIN else f'%{one:02X}' for one in where])}?{query}"
    # Transactions are written out; the thread that opens it may hand it to the one that uses it.
    return sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
