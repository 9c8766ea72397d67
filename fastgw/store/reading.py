"""Opening the state file only to read, also where nothing can be written: on a disk that is read-only, full or sick.

Owns: the three ways, and when each may be gone. Must never: read a file as still that somebody may be writing, or write into
the state folder.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import suppress

from fastgw.store import place
from fastgw.store.database import BUSY_S, Database, connect, is_filled
from fastgw.store.place import COMPANIONS, FILE_NAME
from fastgw.store.schema import StateError, Unavailable, is_busy, trouble


def read(path: str, *, busy: bool = False) -> Database:
    """A file that no journal or log belongs to is read where it is; one with a journal that a kill has left, or of an older
    schema, is copied to the folder for temporary files, and put right there. ``busy``: it could not be opened to write because
    others have it, so it is read beside them or not at all. Raises as :meth:`Database.open`."""
    what = f"cannot read {path}"
    for way in (_shared,) if busy else (_shared, _still, _copied):
        database: Database | None = None
        try:
            if place.look(path) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            database = way(path)
            if not database.is_current():
                raise Unavailable(f"{what}: it is of an older schema, and cannot be changed")
            database.look_for_damage()
            database.look_for_gaps()
        except (OSError, StateError, sqlite3.Error) as error:
            if database is not None:
                database.close()
            last = trouble(what, error)
            if not isinstance(last, Unavailable) or is_busy(error):
                raise last from error
        else:
            return database
    raise last


def _shared(path: str) -> Database:
    """Beside others who read and write."""
    return _settled(Database(path, connect(path, "mode=ro", BUSY_S)))


def _still(path: str) -> Database:
    """Without locks, which a read-only disk may not give: whoever could write would have been met by :func:`_shared`."""
    if any(is_filled(path + end) for end in COMPANIONS[:2]):
        raise FileNotFoundError(errno.ENOENT, "what belongs to the file cannot be read where it is")
    database = _settled(Database(path, connect(path, "mode=ro&immutable=1", BUSY_S)))
    with open(path, "rb") as file:
        # Versions that had a log wrote a 2 here (https://www.sqlite.org/fileformat.html#file_format_version_numbers).
        database.lost_log = file.read(20)[18:] != b"\x01\x01"
    return database


def _copied(path: str) -> Database:
    import shutil
    import tempfile

    copy = tempfile.TemporaryDirectory(prefix="fastgw-")
    try:
        if shutil.disk_usage(copy.name).free < 3 * os.stat(path).st_size:
            raise OSError(errno.ENOSPC, "there is no room for a copy of it")
        target = os.path.join(copy.name, FILE_NAME)
        for end in ("", *COMPANIONS[:2]):
            with suppress(FileNotFoundError):
                shutil.copyfile(path + end, target + end, follow_symlinks=False)
        database = _settled(Database(path, connect(target, "mode=rw", BUSY_S)))
        try:
            database.migrate()
            database.rows("PRAGMA query_only = ON")  # what is written here would be lost
        except BaseException:
            database.close()
            raise
    except BaseException:
        copy.cleanup()
        raise
    database.keep_until_closed(copy.cleanup)
    return database


def _settled(database: Database) -> Database:
    try:
        database.settle()
    except BaseException:
        database.close()
        raise
    return database
