"""The shape of the state file, its versions, and which files are refused.

Owns: the tables, the migrations and the errors of this package. ``PRAGMA user_version`` holds the version,
``application_id`` marks the file as ours. Invariants: a file that is there holds a whole store or is damaged, there is no
"still empty" (``place`` builds one complete before it lies at its path); a migration is one transaction, so a file is at one
version or at the next, never between. Must never: touch a file that is not ours, or that a newer fastgw has written.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from functools import cache
from typing import Final

APPLICATION_ID: Final = 0x66677477  # "fgtw"; https://www.sqlite.org/pragma.html#pragma_application_id

_FIRST: Final = (
    """
    CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        name TEXT NOT NULL,
        tenant TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        disabled INTEGER NOT NULL,
        requests_per_minute INTEGER,
        burst INTEGER,
        tokens_per_minute INTEGER,
        daily_tokens INTEGER,
        concurrency INTEGER,
        priority TEXT,
        on_exhausted TEXT,
        models TEXT NOT NULL,
        networks TEXT NOT NULL,
        previous_digest BLOB NOT NULL,
        previous_until REAL NOT NULL,
        revision INTEGER NOT NULL,
        deleted INTEGER NOT NULL
    )
    """,
    "CREATE INDEX keys_by_revision ON keys (revision)",
    "CREATE INDEX keys_by_name ON keys (name)",
    # By day first: a start reads two days, pruning drops whole days, and a key's history is a few look-ups.
    """
    CREATE TABLE usage (
        key_id TEXT NOT NULL,
        day INTEGER NOT NULL,
        prompt INTEGER NOT NULL,
        completion INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        PRIMARY KEY (day, key_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        key_id TEXT NOT NULL,
        changes TEXT NOT NULL
    )
    """,
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta VALUES ('revision', 0)",
)

# A page of keys reads its own rows and no others: not those of other tenants, and not the traces of deleted keys.
_PAGES: Final = (
    "DROP INDEX keys_by_name",
    "CREATE INDEX live_keys ON keys (id) WHERE deleted = 0",
    "CREATE INDEX live_keys_by_name ON keys (name, id) WHERE deleted = 0",
    "CREATE INDEX live_keys_by_tenant ON keys (tenant, id) WHERE deleted = 0",
    "CREATE INDEX live_keys_by_tenant_and_name ON keys (tenant, name, id) WHERE deleted = 0",
)

# Parts of the tokens: what an engine had at hand of prompts, and what of answers nobody sees.
_PARTS: Final = (
    "ALTER TABLE usage ADD COLUMN cached INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE usage ADD COLUMN reasoning INTEGER NOT NULL DEFAULT 0",
)

# Client certificates that are a key; whoever sets one looks whether another key has it.
_CERTIFICATES: Final = (
    "ALTER TABLE keys ADD COLUMN certificates TEXT NOT NULL DEFAULT '[]'",
    "CREATE INDEX live_keys_with_certificates ON keys (id) WHERE deleted = 0 AND certificates != '[]'",
)

# What was spent, on what: by day first, as usage; what a budget has seen is found by its owner. What was used before prices
# were known is there too, of a model without a name.
_SPENDING: Final = (
    """
    CREATE TABLE spending (
        day INTEGER NOT NULL,
        key_id TEXT NOT NULL,
        tenant TEXT NOT NULL,
        model TEXT NOT NULL,
        prompt INTEGER NOT NULL,
        completion INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        cached INTEGER NOT NULL,
        reasoning INTEGER NOT NULL,
        cost INTEGER NOT NULL,
        unpriced INTEGER NOT NULL,
        PRIMARY KEY (day, key_id, tenant, model)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX spending_by_key ON spending (key_id, day)",
    "CREATE INDEX spending_by_tenant ON spending (tenant, day) WHERE tenant != ''",
    "INSERT INTO spending SELECT day, key_id, coalesce((SELECT tenant FROM keys WHERE id = key_id), ''), '', prompt, "
    "completion, requests, estimated, cached, reasoning, 0, prompt + completion FROM usage",
    "ALTER TABLE keys ADD COLUMN budget INTEGER",
    "ALTER TABLE keys ADD COLUMN budget_period TEXT",
)

# Which lines of budgets somebody was told of, and of which limit: it is told once in a period.
_TOLD: Final = (
    """
    CREATE TABLE told (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        begins INTEGER NOT NULL,
        ends INTEGER NOT NULL,
        amount INTEGER NOT NULL,
        percent INTEGER NOT NULL,
        PRIMARY KEY (kind, name, begins, ends, amount)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX told_by_end ON told (ends)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _PAGES, _PARTS, _CERTIFICATES, _SPENDING, _TOLD)
"""Row n takes a file from version n to n + 1. Rows that were released are never edited: a change is a new row."""

# What may pass by itself: the disk is full, read-only or sick, or another process holds the file.
_MAY_PASS: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_PROTOCOL,
}
_DISK_ERRNOS: Final = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOENT,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
}


class StateError(Exception):
    """The state cannot be used; the message is one line for the operator."""


class Unavailable(StateError):
    """Something that may pass by itself: a full, read-only or failing disk, or a file that another process holds."""


class CorruptState(StateError):
    """The file is damaged, or is not an SQLite file."""


def trouble(what: str, error: Exception) -> StateError:
    """The error of this package for what SQLite or the system said while doing ``what``."""
    if isinstance(error, StateError):
        return error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text = f"{what}: {error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
        # TOOBIG: a row that is larger than any that is ever written.
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG}:
            return CorruptState(text)
        if str(error).startswith("Could not decode"):  # Python's words, and the text after them
            return CorruptState(f"{what}: it holds text that is not UTF-8")
        return Unavailable(text) if code in _MAY_PASS else StateError(text)
    if isinstance(error, OSError):
        text = f"{what}: {error.strerror or type(error).__name__}"
        return Unavailable(text) if error.errno in _DISK_ERRNOS else StateError(text)
    return StateError(f"{what}: {type(error).__name__}")


def is_busy(error: Exception) -> bool:
    """Another process had the file for longer than was waited."""
    first = error.__cause__ if isinstance(error, StateError) else error
    return getattr(first, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_full_or_busy(error: Exception) -> bool:
    """Only space or time was lacking: the connection itself is sound."""
    return is_busy(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def judge(connection: sqlite3.Connection, path: str) -> int:
    """The version of a file that holds a store.

    Raises :class:`CorruptState` for one that holds none, or not all of one, and :class:`StateError` for another program's
    file and for one of a newer fastgw.
    """
    if not connection.in_transaction:
        # All that follows is of one moment: another process may be migrating the file.
        connection.execute("BEGIN")
        try:
            return judge(connection, path)
        finally:
            if connection.in_transaction:  # an error may have ended it
                connection.execute("ROLLBACK")
    ours = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if ours != APPLICATION_ID:
        if ours or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StateError(f"{path} is another program's SQLite file; name another state folder")
        raise CorruptState(f"{path} is damaged: it is an SQLite file that holds nothing")
    if version > len(MIGRATIONS):
        raise StateError(
            f"{path} was written by a newer fastgw (schema {version}, this one knows {len(MIGRATIONS)}); "
            "run that version, or name another state folder"
        )
    if version < 1:
        raise CorruptState(f"{path} is damaged: it does not say which version of the schema it has")
    for missing in sorted(_shape(MIGRATIONS[:version]) - _found(connection)):
        raise CorruptState(f"{path} is damaged: it has no {' '.join(missing)}")
    return version


def _found(connection: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """The tables, their columns (as ``table.column``) and the indexes of a file."""
    return frozenset(
        connection.execute(
            "SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL UNION ALL SELECT 'column', one.name || '.' || its.name "
            "FROM sqlite_master AS one, pragma_table_info(one.name) AS its WHERE one.type = 'table'"
        )
    )


@cache
def _shape(migrations: tuple[tuple[str, ...], ...]) -> frozenset[tuple[str, str]]:
    connection = sqlite3.connect(":memory:")
    try:
        for statements in migrations:
            for statement in statements:
                connection.execute(statement)
        return _found(connection)
    finally:
        connection.close()


def is_current(connection: sqlite3.Connection, path: str) -> bool:
    """Of the newest schema; raises as :func:`judge`."""
    return judge(connection, path) == len(MIGRATIONS)


def build(connection: sqlite3.Connection, *, closed: bool) -> None:
    """Fill an empty database: a whole store of the newest schema, without a key.

    ``closed``: it stands in the place of one that may have had keys, so no gateway may be open because of it.
    """
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS:
        for statement in statements:
            connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('store', ?)", (os.urandom(8).hex(),))
    if closed:
        connection.execute("INSERT INTO meta VALUES ('closed', 1)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def migrate(connection: sqlite3.Connection, path: str) -> int:
    """Bring the file to the newest version, a transaction for each step; returns how many steps were taken."""
    taken = 0
    while judge(connection, path) < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read again under the lock: another process may have been quicker.
            version = judge(connection, path)
            if version < len(MIGRATIONS):
                for statement in MIGRATIONS[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
                taken += 1
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return taken
