"""The keys in the store: made, found, changed, rotated and deleted, each in one transaction with its line of audit.

Owns: the key's text (``fgw_`` and 32 random bytes in base64url), of which only the SHA-256 digest is kept; how keys lie in the
file; and the revisions by which a running gateway finds what changed. (What the fields may be stands in ``fields``.) Must
never: let a key's text or digest into the file (the digest's own columns apart), the audit, or a message; take a row of the
file for a key that nobody could have set; or read all keys where a page is asked for.

The functions take a :class:`Database` first and block, so the gateway runs them in the store's thread.
"""

from __future__ import annotations

import json
import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, Final, NamedTuple

import msgspec

from fastgw.digests import digest as digest_of
from fastgw.limits.key import KeyRecord
from fastgw.store.database import Database
from fastgw.store.fields import ID, MAX_TEXT, PREFIX, KeyProblems, read_fields, shown_budget
from fastgw.store.schema import CorruptState

KEY_BYTES: Final = 32
MAX_GRACE_S: Final = 30 * 86_400
MAX_PAGE: Final = 10_000
MAX_PAGE_CHARS: Final = 1 << 20  # of what has no length of its own: models, networks, changes. Some milliseconds as JSON

_COLUMNS: Final = KeyRecord.__struct_fields__
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM keys"  # noqa: S608 (names from the struct, no input)
_FLAGS: Final = {0: False, 1: True}
_MODELS: Final = _COLUMNS.index("models")
_NETWORKS: Final = _COLUMNS.index("networks")
_CERTIFICATES: Final = _COLUMNS.index("certificates")
_LISTS: Final = ("models", "networks", "certificates")
_DIGEST_BYTES: Final = 32
_SHOWN: Final = 5  # of keys that share a name
_LAST: Final = 2**63 - 1
_TURN: Final = 50  # rows: a quarter of a millisecond
_TURN_S: Final = 1e-4
_texts: Final = msgspec.json.Decoder(tuple[str, ...]).decode


class KeyNotFound(Exception):
    """There is no such key, or more than one of that name; the message says which, without repeating what was asked."""


class AuditRow(NamedTuple):
    """One change: its number, when (Unix seconds), by whom, what, to which key, and the fields before and after."""

    number: int
    at: float
    actor: str
    action: str
    key_id: str
    changes: dict[str, Any]


# --- texts
def new_key() -> tuple[str, bytes]:
    """A new key's text and its digest."""
    text = PREFIX + urlsafe_b64encode(os.urandom(KEY_BYTES)).rstrip(b"=").decode()
    return text, digest_of(text.encode())


# --- looking
def page(
    database: Database, *, limit: int, after: str = "", tenant: str | None = None, name: str | None = None
) -> tuple[list[KeyRecord], bool]:
    """Keys that are not deleted, in the order of their ids, from the one behind ``after`` on: ``limit`` at most, or fewer where
    they are long; and whether there are more. Reads its own rows only, however many others there are."""
    sql = f"{_SELECT} WHERE deleted = 0 AND id > :after"
    if tenant is not None:
        sql += " AND tenant = :tenant"
    if name is not None:
        sql += " AND name = :name"
    limit = max(1, min(limit, MAX_PAGE))
    named: dict[str, object] = {"after": after, "tenant": tenant, "name": name, "limit": limit + 1}
    found: list[KeyRecord] = []
    chars = 0
    with closing(database.each(f"{sql} ORDER BY id LIMIT :limit", named)) as rows:
        for row in _in_turns(rows):
            record = sound(row)
            chars += len(row[_MODELS]) + len(row[_NETWORKS]) + len(row[_CERTIFICATES])
            if len(found) == limit or (found and chars > MAX_PAGE_CHARS):
                return found, True
            found.append(record)
    return found, False


def list_keys(database: Database, tenant: str | None = None) -> list[KeyRecord]:
    """All keys that are not deleted (of one tenant, if given), the oldest first. Read in pages: writers get their turn."""
    found: list[KeyRecord] = []
    more = True
    while more:
        some, more = page(database, limit=1000, after=found[-1].id if found else "", tenant=tenant)
        found += some
    found.sort(key=lambda record: (record.created_at, record.id))
    return found


def find(database: Database, key: str) -> KeyRecord:
    """The key of that id, or the only one of that name; raises :class:`KeyNotFound`."""
    found = _records(database, "WHERE id = ? AND deleted = 0", key)
    if not found and key:
        found = _records(database, f"WHERE name = ? AND deleted = 0 ORDER BY id LIMIT {_SHOWN + 1}", key)
    if not found:
        raise KeyNotFound("there is no key of that id or name")
    if len(found) > 1:
        ids = ", ".join(record.id for record in found[:_SHOWN])
        many = f"{len(found)}" if len(found) <= _SHOWN else f"more than {_SHOWN}"
        raise KeyNotFound(f"{many} keys have that name; use the id: {ids}{', ...' if len(found) > _SHOWN else ''}")
    return found[0]


def live_keys(database: Database) -> list[KeyRecord]:
    """All keys that are not deleted, for a start: where one cannot be read, none is (:class:`CorruptState`)."""
    with closing(database.each(f"{_SELECT} WHERE deleted = 0")) as rows:
        return [sound(row) for row in rows]


def live_rows(database: Database) -> list[tuple[Any, ...]]:
    """The same as they stand there, quickly: for who holds up others meanwhile. :func:`sound` reads them."""
    return database.rows(f"{_SELECT} WHERE deleted = 0")


def changed_since(database: Database, revision: int) -> tuple[list[KeyRecord], list[str]]:
    """What changed after ``revision``, in order; of a deleted key the trace (``deleted`` is true). And the ids of those that
    cannot be read, which somebody has changed by hand."""
    found: list[KeyRecord] = []
    unreadable: list[str] = []
    with closing(database.each(f"{_SELECT} WHERE revision > ? ORDER BY revision", (revision,))) as rows:
        for row in _in_turns(rows):
            record = _record(row)
            if record is not None:
                found.append(record)
            elif isinstance(row[0], str) and ID.match(row[0]):
                unreadable.append(row[0])
    return found, unreadable


def audit(database: Database, limit: int = 100, before: int | None = None) -> tuple[list[AuditRow], bool]:
    """The last changes (before the one of that number), the newest first: ``limit`` at most, or fewer where they are long; and
    whether there are more."""
    limit = max(1, min(limit, MAX_PAGE))
    sql = "SELECT number, at, actor, action, key_id, changes FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?"
    found: list[AuditRow] = []
    chars = 0
    with closing(database.each(sql, (_LAST if before is None else before, limit + 1))) as rows:
        for row in _in_turns(rows):
            chars += len(str(row[-1]))
            if len(found) == limit or (found and chars > MAX_PAGE_CHARS):
                return found, True
            try:
                found.append(msgspec.convert((*row[:-1], json.loads(row[-1])), AuditRow))
            except (TypeError, ValueError, RecursionError):
                found.append(AuditRow(row[0], 0.0, "", "unreadable", "", {}))  # changed by hand
    return found, False


# --- changing
def create(database: Database, fields: Mapping[str, object], actor: str, now: float | None = None) -> tuple[KeyRecord, str]:
    """Make a key; returns its record and its text, which can be had only now. Raises :class:`KeyProblems`."""
    now = time.time() if now is None else now
    values = read_fields(fields, now)
    text, digest = new_key()
    with database.transaction():
        _see_that_free(database, values)
        record = KeyRecord(
            id="key_" + os.urandom(8).hex(), digest=digest, created_at=now, revision=database.next_revision(), **values
        )
        marks = ", ".join("?" * len(_COLUMNS))
        database.change(f"INSERT INTO keys ({', '.join(_COLUMNS)}) VALUES ({marks})", _row(record))  # noqa: S608
        _note(database, now, actor, "create", record.id, values)
    return record, text


def update(database: Database, key: str, fields: Mapping[str, object], actor: str, now: float | None = None) -> KeyRecord:
    """Set fields of a key; what is not named stays. Raises :class:`KeyProblems` and :class:`KeyNotFound`."""
    now = time.time() if now is None else now
    return _change(database, key, "update", actor, now, read_fields(fields, now))


def disable(database: Database, key: str, actor: str, now: float | None = None) -> KeyRecord:
    """Refuse a key from now on, its earlier text included."""
    return _change(database, key, "disable", actor, now, {"disabled": True})


def enable(database: Database, key: str, actor: str, now: float | None = None) -> KeyRecord:
    """Undo :func:`disable`."""
    return _change(database, key, "enable", actor, now, {"disabled": False})


def rotate(database: Database, key: str, grace_s: float, actor: str, now: float | None = None) -> tuple[KeyRecord, str]:
    """Give a key a new text; the one before stays valid for ``grace_s`` (0 = it ends at once; at most 30 days).

    A text from before an earlier rotation ends now, grace or not: two are valid at most.
    """
    if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= MAX_GRACE_S:
        raise KeyProblems([f"grace_s: must be a number of seconds from 0 to {MAX_GRACE_S}"])
    now = time.time() if now is None else now
    text, digest = new_key()
    with database.transaction():
        old = find(database, key)
        changes = {
            "digest": digest,
            "previous_digest": old.digest if grace_s else b"",
            "previous_until": now + grace_s if grace_s else 0.0,
        }
        record = _store(database, old, changes)
        _note(database, now, actor, "rotate", old.id, {"grace_s": grace_s})
    return record, text


def delete(database: Database, key: str, actor: str, now: float | None = None) -> KeyRecord:
    """End a key for good; its usage and its trace stay. Returns the trace."""
    return _change(database, key, "delete", actor, now, {"deleted": True})


def _change(database: Database, key: str, action: str, actor: str, now: float | None, values: dict[str, Any]) -> KeyRecord:
    with database.transaction():
        old = find(database, key)
        changed = {name: value for name, value in values.items() if getattr(old, name) != value}
        if not changed:
            return old
        _see_that_free(database, changed, old.id)
        record = _store(database, old, changed)
        told = {name: [getattr(old, name), value] for name, value in changed.items() if name != "deleted"}
        _note(database, time.time() if now is None else now, actor, action, old.id, told)
    return record


def _see_that_free(database: Database, values: Mapping[str, Any], own: str = "") -> None:
    """Raises :class:`KeyProblems` where a certificate is another key already: nobody could say who shows it."""
    for place, certificate in enumerate(values.get("certificates", ()), 1):
        found = database.rows(
            "SELECT id FROM keys WHERE deleted = 0 AND certificates != '[]' AND id != ? AND instr(certificates, ?) LIMIT 1",
            (own, certificate),
        )
        if found:
            raise KeyProblems([f"certificates: entry {place} is a certificate of the key {found[0][0]}"])


def _store(database: Database, old: KeyRecord, values: dict[str, Any]) -> KeyRecord:
    record = msgspec.structs.replace(old, revision=database.next_revision(), **values)
    columns = ", ".join(f"{name} = ?" for name in _COLUMNS)
    database.change(f"UPDATE keys SET {columns} WHERE id = ?", (*_row(record), record.id))  # noqa: S608
    return record


def _note(database: Database, at: float, actor: str, action: str, key_id: str, changes: dict[str, Any]) -> None:
    named = "".join(one if one.isprintable() else "?" for one in actor[:MAX_TEXT])
    if "budget" in changes:
        # (As it is given and shown: who reads the audit would take billionths for money.)
        told = changes["budget"]
        shown = [shown_budget(one) for one in told] if isinstance(told, list) else shown_budget(told)
        changes = {**changes, "budget": shown}
    database.note(at, named, action, key_id, json.dumps(changes, ensure_ascii=False))


def _in_turns(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Rows, with the interpreter left to others now and then: who waits for it (the loop) else does so for 5 ms each time."""
    for count, row in enumerate(rows, 1):
        yield row
        if not count % _TURN:
            time.sleep(_TURN_S)


def _records(database: Database, where: str, *arguments: object) -> list[KeyRecord]:
    return [sound(row) for row in database.rows(f"{_SELECT} {where}", arguments)]


def sound(row: tuple[Any, ...]) -> KeyRecord:
    record = _record(row)
    if record is None:
        named = f"the key {row[0]}" if isinstance(row[0], str) and ID.match(row[0]) else "a key"
        raise CorruptState(f"{named} cannot be read: it holds what no key can have")
    return record


def _record(row: tuple[Any, ...]) -> KeyRecord | None:
    """None for a row that could never have been set so: an account could not take it, or would take it for more."""
    values = dict(zip(_COLUMNS, row, strict=True))
    try:
        for name in _LISTS:
            text = values[name]
            values[name] = () if text == "[]" else _texts(text)  # most have none, and a start reads all
        for name in ("disabled", "deleted"):
            values[name] = _FLAGS[values[name]]
        if values["networks"]:
            from ipaddress import ip_network  # (as `_copied` of `reading`: where nothing needs it, a start does without)

            for network in values["networks"]:
                ip_network(network, strict=False)
        record = msgspec.convert(values, KeyRecord)
    except (KeyError, TypeError, ValueError):  # those of ipaddress and msgspec among them
        return None
    digests = (len(record.digest), len(record.previous_digest))
    return record if ID.match(record.id) and digests in ((_DIGEST_BYTES, 0), (_DIGEST_BYTES, _DIGEST_BYTES)) else None


def _row(record: KeyRecord) -> tuple[object, ...]:
    values = [getattr(record, name) for name in _COLUMNS]
    return tuple(json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value for value in values)
