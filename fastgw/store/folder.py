"""The state folder as the store's thread works on it: its lock, the connection, and what is done when either is lost.

Owns: one gateway to a folder (a lock that the system drops with the process), setting a damaged file aside, opening anew
after 0.1 to 5 seconds, and which keys have changed since the last look. All calls block. Invariants: no journal ever meets
another file than its own; what a file held before this gateway could read it stays in the sums; a store that takes the place
of one that had keys, or may have had, says so itself, so that no later start is open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Final, NamedTuple

from fastgw.limits.key import Batch, KeyRecord, UsageRow
from fastgw.store import place
from fastgw.store.database import Database, today
from fastgw.store.keys import changed_since, live_keys, live_rows, sound
from fastgw.store.place import FILE_NAME, LOCK_NAME, Note
from fastgw.store.reading import read
from fastgw.store.schema import CorruptState, StateError, Unavailable, is_busy, is_full_or_busy, trouble

KEEP_DAYS: Final = 400
_REOPEN_BUSY_S: Final = 1.0
_RETRY_S: Final = (0.1, 5.0)


class Loaded(NamedTuple):
    """What a gateway starts from: keys (none that is deleted, unless it was read ahead), usage of three days at most, the
    revision.

    ``closed``: the store has held keys, or may have. ``unread``: there may be a file, and what it holds is not known.
    """

    keys: list[KeyRecord]
    usage: list[UsageRow]
    revision: int
    closed: bool = False
    unread: bool = False


class Folder:
    """Raises :class:`StateError`, and what SQLite raises; :meth:`failed` is then told, and decides what to let go of."""

    def __init__(self, folder: str, *, set_aside: bool) -> None:
        self.reason = ""  # why it cannot be written since the start
        self.notes: list[Note] = []  # for the log
        self._folder = folder
        self._path = os.path.join(folder, FILE_NAME)
        self._set_aside = set_aside
        self._database: Database | None = None
        self._lock_fd = -1
        self._day = 0
        self._store = ""  # the file's own id, once it was read
        self._may_make = False  # a new file: there never was one
        self._closed = False  # it has held keys, or may have
        self._revision = 0
        self._version = -1
        self._known: set[str] = set()
        self._ahead: tuple[str, int] | None = None  # which store was read before it was opened, and as of which revision
        self._afresh = False  # another file lies there: what was known may be gone from it
        self._retry_at = 0.0
        self._retry_s = _RETRY_S[0]
        self._pruned = 0

    @property
    def down(self) -> bool:
        return self._database is None

    def take_notes(self) -> list[Note]:
        notes, self.notes = self.notes, []
        return notes

    # --- opening and closing
    def ahead(self) -> list[KeyRecord]:
        """The keys, read beside another process that has the folder still; :meth:`open` tells what has changed since. Raises as
        that does."""
        database = read(self._path, busy=True)
        try:
            with database.snapshot():
                self._ahead = (database.store_id(), database.revision())
                rows = live_rows(database)
        finally:
            database.close()
        keys = [sound(row) for row in rows]
        self._known = {record.id for record in keys}
        return keys

    def open(self, day: int) -> Loaded:
        self._day = day
        self._may_make = place.is_new(self._path)
        try:
            self.notes += place.claim(self._folder)
            self._take_lock()
            place.sweep(self._folder)
            try:
                self._database = Database.open(self._path, probe=False, check=self._ahead is None)
                loaded = self._load(self._database)
            except CorruptState as error:
                self._close_database()
                if not self._set_aside:
                    raise StateError(
                        f"{error}; restore {self._path}, or start with on_corrupt_state = set_aside to begin without it"
                    ) from error
                self._database = self._begin_without(error)
                loaded = self._load(self._database)._replace(unread=True)
            self._may_make = False
            self._database.probe()  # only now: what is damaged is left as it is
            return loaded
        except (Unavailable, sqlite3.Error) as error:
            self._close_database()
            self.reason = str(trouble(f"cannot write {self._path}", error))
            busy = is_busy(error)
        # What can be read is used; the rest waits until the disk is well.
        self._later()
        database: Database | None = None
        try:
            database = read(self._path, busy=busy)
            return self._load(database)
        except (Unavailable, CorruptState) as error:
            if isinstance(error, CorruptState) and not self._set_aside:
                raise
            self._closed = not self._may_make
            return Loaded([], [], 0, closed=self._closed, unread=self._closed)
        finally:
            if database is not None:
                database.close()

    def _load(self, database: Database) -> Loaded:
        try:
            with database.snapshot():
                self._store = database.store_id()
                keys = live_keys(database) if self._ahead is None else self._since(database, *self._ahead)
                usage = database.usage_around(self._day)
                self._revision = database.revision()
                self._closed = database.is_closed()
        except Exception as error:
            raise trouble(f"cannot read {self._path}", error) from error
        if database.lost_log and not self._revision:
            said = "the state had a log that is gone, and may have held keys in it: requests without one are refused"
            self.notes.append(Note(said, {"file": self._path}))
        self._known.update(record.id for record in keys if not record.deleted)
        self._known.difference_update(record.id for record in keys if record.deleted)
        return Loaded(keys, usage, self._revision, closed=self._closed)

    def _since(self, database: Database, store: str, revision: int) -> list[KeyRecord]:
        """What has changed since the keys were read :meth:`ahead`."""
        if store != self._store or database.revision() < revision:
            raise StateError(f"{self._path} was replaced while it was read")
        found, unreadable = changed_since(database, revision)
        if unreadable:
            raise CorruptState(f"{self._path} has a key that cannot be read")
        return found

    def _take_lock(self) -> None:
        """One gateway a folder; the system drops the lock with the process. Raises :class:`StateError`."""
        path = os.path.join(self._folder, LOCK_NAME)
        if self._lock_fd >= 0:
            held = os.fstat(self._lock_fd)
            if place.identity(path) == (held.st_dev, held.st_ino):
                return
            os.close(self._lock_fd)  # it was removed, or lies in a folder that was: whoever comes next would not see it
            self._lock_fd = -1
        try:
            # Never through a link, whose end would be cut, nor waiting for the other end of a pipe.
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise StateError(f"{path} is not a plain file; move it away") from None
            raise trouble(f"cannot write in the state folder {self._folder}", error) from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # it will be cut, under whatever other name it has
                raise StateError(f"{path} is not a plain file; move it away")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 16, 0).decode("ascii", "replace").strip()
            os.close(fd)
            named = f" (process {holder})" if holder.isdecimal() else ""
            raise StateError(f"another gateway{named} has the state folder {self._folder}; give each its own") from None
        except OSError as error:
            os.close(fd)
            raise trouble(f"cannot lock the state folder {self._folder}", error) from error
        except StateError:
            os.close(fd)
            raise
        self._lock_fd = fd
        place.give_to_owner(fd, path)
        with suppress(OSError):  # a full disk: then the holder has no name
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def _begin_without(self, error: CorruptState) -> Database:
        """Rename the damaged file and what belongs to it; what takes its place is closed to whoever has no key."""
        to = f"{self._path}{place.SET_ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        try:
            place.set_aside(self._path, to)
            place.make(self._path, closed=True)
        except Exception as cause:
            raise trouble(f"cannot set {self._path} aside", cause) from cause
        said = "damaged state was set aside; all keys and usage in it are gone"
        self.notes.append(Note(said, {"file": to, "why": str(error)}))
        return Database.open(self._path, create=False)

    def ready(self, *, at_once: bool = False) -> Database:
        """The connection, opened anew where it was lost; :class:`Unavailable` while that has to wait."""
        if self._database is not None:
            return self._database
        if monotonic() < self._retry_at and not at_once:
            raise Unavailable(self.reason)
        self._later()
        self.notes += place.claim(self._folder, make=self._may_make)
        self._take_lock()
        try:
            # A file that went away under a running gateway is not made anew: all keys would end with it.
            database = Database.open(self._path, create=self._may_make, busy_s=_REOPEN_BUSY_S)
        except CorruptState as error:
            if self._store or not self._set_aside:
                raise
            database = self._begin_without(error)
        try:
            if self._store:
                self._recognise(database)
            else:
                self._store = database.store_id()
        except BaseException:
            database.close()
            raise
        self._may_make = False
        self._version = -1
        self._database = database
        self._retry_s = _RETRY_S[0]
        return database

    def _recognise(self, database: Database) -> None:
        """See whether it is the store that was there before, and no earlier state of it."""
        store, revision = database.store_id(), database.revision()
        if store == self._store and revision >= self._revision:
            return
        if self._closed and not database.is_closed():
            database.stay_closed()
        self._afresh = True
        self._store = store

    def _later(self) -> None:
        self._retry_at = monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, _RETRY_S[1])

    def failed(self, what: str, error: Exception) -> StateError:
        """Keep the connection where only space or time was lacking; otherwise let go of it, to be opened anew."""
        if not is_full_or_busy(error):
            if self._database is not None:
                self._retry_at = monotonic() + self._retry_s
            self._close_database()
        self._version = -1  # a look that failed may have missed a change of our own
        told = trouble(what, error)
        self.reason = str(told)
        return told

    def close(self) -> None:
        self._close_database()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    # --- work
    def write(self, rows: Sequence[UsageRow], spent: Batch | None) -> None:
        database = self.ready()
        self._check_place(database)
        database.upsert_usage(rows, spent)

    def _check_place(self, database: Database) -> None:
        if database.moved():
            self._afresh = True
            raise Unavailable(f"{self._path} was removed or replaced")
        if database.has_log():
            raise Unavailable(f"another program has switched {self._path} to a write-ahead log")

    def probe(self) -> None:
        database = self.ready()
        self._check_place(database)
        database.probe()

    def forget_told(self) -> None:
        """Nothing of what :meth:`changed` has told is remembered."""
        self._version = -1
        self._revision = 0

    def changed(self, *, own: bool) -> list[KeyRecord]:
        """Keys that changed since the last look; ``own``: through this very connection, which its version does not tell."""
        database = self._database
        if database is None:
            return []
        self._check_place(database)
        version = database.data_version()
        if version == self._version and not own:
            return []
        self._recognise(database)
        with database.snapshot():
            found, unreadable = changed_since(database, 0 if self._afresh else self._revision)
            revision = database.revision()
        for id in unreadable:
            self.notes.append(Note("a key cannot be read in the state, and is refused", {"key_id": id}))
            found.append(KeyRecord(id=id, digest=b"", deleted=True))
        if self._afresh:
            there = {record.id for record in found}
            found += [KeyRecord(id=gone, digest=b"", deleted=True) for gone in sorted(self._known - there)]
            self._known = set()
            self._afresh = False
        self._known.update(record.id for record in found if not record.deleted)
        self._known.difference_update(record.id for record in found if record.deleted)
        self._closed |= revision > 0
        self._revision = revision
        self._version = version
        return found

    def prune(self) -> None:
        """Once a day, drop the usage of all but the last days that have any: a clock that jumps ahead takes nothing along."""
        day = today()
        if self._database is not None and day != self._pruned:
            first = self._database.day_of_last(KEEP_DAYS)
            if first is not None:
                self._database.prune(first)
            self._pruned = day
