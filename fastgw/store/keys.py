"""The keys in the store: made, found, changed, rotated and deleted, each in one transaction with its line of audit.

Owns: the key's text (``fgw_`` and 32 random bytes in base64url), of which only the SHA-256 digest is kept; what the fields
of a key may be; and the revisions by which a running gateway finds what changed. Must never: let a key's text or digest
into the file (the digest's own columns apart), the audit, or a message.

The functions take a :class:`Database` first and block, so the gateway runs them in the store's thread.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from fastgw.config.sources import suggest
from fastgw.limits.key import ON_EXHAUSTED, PRIORITIES, KeyRecord
from fastgw.store.database import Database

PREFIX: Final = "fgw_"
KEY_BYTES: Final = 32
MAX_TEXT: Final = 128
MAX_MODELS: Final = 1000
MAX_MODEL_CHARS: Final = 256
MAX_NETWORKS: Final = 256
MAX_GRACE_S: Final = 30 * 86_400
MAX_AUDIT: Final = 10_000

NUMBERS: Final = {
    "requests_per_minute": 10**9,
    "burst": 10**9,
    "tokens_per_minute": 10**11,
    "daily_tokens": 10**15,
    "concurrency": 10**6,
}
"""The limits of a key and the largest value of each: None = the gateway's default, 0 = no limit."""

CHOICES: Final = {"priority": PRIORITIES, "on_exhausted": ON_EXHAUSTED}

_LATEST: Final = 253_402_300_799  # the end of the year 9999, the last that ISO 8601 writes in four digits
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_COLUMNS: Final = KeyRecord.__struct_fields__
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM keys"  # noqa: S608 (names from the struct, no input)
_ID: Final = re.compile(r"key_[0-9a-f]{16}\Z")


class KeyNotFound(Exception):
    """There is no such key, or more than one of that name; the message says which, without repeating what was asked."""


class KeyProblems(Exception):
    """Fields that a key cannot have: ``problems`` holds a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class AuditRow(NamedTuple):
    """One change: when (Unix seconds), by whom, what, to which key, and the fields before and after."""

    at: float
    actor: str
    action: str
    key_id: str
    changes: dict[str, Any]


# --- texts
def new_key() -> tuple[str, bytes]:
    """A new key's text and its digest."""
    text = PREFIX + urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).rstrip(b"=").decode()
    return text, hashlib.sha256(text.encode()).digest()


def duration_s(text: str) -> float | None:
    """Seconds of ``90s``, ``30m``, ``12h``, ``30d`` or ``2w``; None when it is no such text."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    return float(int(found[1]) * _UNITS[found[2]]) if found else None


# --- what the fields may be: each reader gives the value to keep, or raises ValueError with the end of a sentence
def _text(value: object, now: float) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable() or value != value.strip():
        raise ValueError(f"must be text of at most {MAX_TEXT} printable characters, with no space at either end")
    if value.startswith(PREFIX) or _ID.match(value):
        raise ValueError("must not look like a key or a key's id")
    return value


def _time(value: object, now: float) -> float:
    """Unix seconds of what was given; 0 = never."""
    if value is None or value in ("", "never") or (type(value) is int and value == 0):
        return 0.0
    at = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        at = float(value) if abs(value) <= _LATEST else math.inf
    elif isinstance(value, str) and len(value) <= 64:
        after_s = duration_s(value)
        if after_s is not None:
            at = now + after_s
        elif re.fullmatch(r"[0-9]{1,12}", value):
            at = float(value)
        else:
            try:
                read = datetime.fromisoformat(value)
                at = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                pass
    if math.isnan(at):
        raise ValueError('must be Unix seconds, an ISO 8601 date or time, "30d" or the like, or "never"')
    if not now < at <= _LATEST:
        raise ValueError("must lie in the future, and before the year 10000")
    return at


def _number(most: int, value: object, now: float) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"must be a whole number from 0 to {most} (0 = no limit), or null for the gateway's default")
    return value


def _choice(choices: tuple[str, ...], value: object, now: float) -> str | None:
    if value is not None and value not in choices:
        raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}, or null for the gateway's default")
    return None if value is None else str(value)


def _models(value: object, now: float) -> tuple[str, ...]:
    good = isinstance(value, list | tuple) and len(value) <= MAX_MODELS
    if not isinstance(value, list | tuple) or not good or not all(_is_model(one) for one in value):
        raise ValueError(f"must be a list of at most {MAX_MODELS} names of 1 to {MAX_MODEL_CHARS} printable characters")
    return tuple(dict.fromkeys(value))


def _is_model(one: object) -> bool:
    return isinstance(one, str) and 0 < len(one) <= MAX_MODEL_CHARS and one.isprintable()


def _networks(value: object, now: float) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_NETWORKS:
        raise ValueError(f"must be a list of at most {MAX_NETWORKS} networks, such as 10.0.0.0/8 or 2001:db8::/32")
    return tuple(dict.fromkeys(_network(one, place) for place, one in enumerate(value, 1)))


def _network(one: object, place: int) -> str:
    if isinstance(one, str) and len(one) <= 64 and "%" not in one:
        try:
            network = ipaddress.ip_network(one, strict=False)
        except ValueError:
            pass
        else:
            if "/" in one and ipaddress.ip_address(one.partition("/")[0]) != network.network_address:
                raise ValueError(f"entry {place} has bits set beyond its prefix; did you mean {network}?")
            return str(network)
    raise ValueError(f"entry {place} must be an address or a network, such as 10.0.0.0/8 or 2001:db8::/32")


def _flag(value: object, now: float) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


_READERS: Final[dict[str, Callable[[object, float], object]]] = {
    "name": _text,
    "tenant": _text,
    "expires_at": _time,
    "disabled": _flag,
    **{name: partial(_number, most) for name, most in NUMBERS.items()},
    **{name: partial(_choice, choices) for name, choices in CHOICES.items()},
    "models": _models,
    "networks": _networks,
}

FIELDS: Final = tuple(_READERS)
"""What can be set."""


def read_fields(fields: Mapping[str, object], now: float) -> dict[str, Any]:
    """The values to keep, or :class:`KeyProblems` with all that is wrong."""
    found: dict[str, Any] = {}
    problems = []
    for name, value in fields.items():
        reader = _READERS.get(name)
        if reader is None:
            shown = name if name.isascii() and name.isidentifier() and len(name) <= 32 else "of that name"
            problems.append(f"there is no field {shown}{suggest(name[:32], FIELDS)}")
            continue
        try:
            found[name] = reader(value, now)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise KeyProblems(problems)
    return found


# --- looking
def list_keys(database: Database) -> list[KeyRecord]:
    """All keys that are not deleted, the oldest first."""
    return _records(database, "WHERE deleted = 0 ORDER BY created_at, id")


def find(database: Database, key: str) -> KeyRecord:
    """The key of that id, or the only one of that name; raises :class:`KeyNotFound`."""
    found = _records(database, "WHERE id = ? AND deleted = 0", key)
    if not found and key:
        found = _records(database, "WHERE name = ? AND deleted = 0 ORDER BY created_at, id", key)
    if not found:
        raise KeyNotFound("there is no key of that id or name")
    if len(found) > 1:
        ids = ", ".join(record.id for record in found[:5]) + (", ..." if len(found) > 5 else "")
        raise KeyNotFound(f"{len(found)} keys have that name; use the id: {ids}")
    return found[0]


def changed_since(database: Database, revision: int) -> list[KeyRecord]:
    """What changed after ``revision``, in order; of a deleted key the trace (``deleted`` is true)."""
    return _records(database, "WHERE revision > ? ORDER BY revision", revision)


def audit(database: Database, limit: int = 100) -> list[AuditRow]:
    """The last changes, the newest first."""
    limit = max(0, min(limit, MAX_AUDIT))
    rows = database.rows("SELECT at, actor, action, key_id, changes FROM audit ORDER BY number DESC LIMIT ?", (limit,))
    return [AuditRow(at, actor, action, key_id, json.loads(changes)) for at, actor, action, key_id, changes in rows]


# --- changing
def create(database: Database, fields: Mapping[str, object], actor: str, now: float | None = None) -> tuple[KeyRecord, str]:
    """Make a key; returns its record and its text, which can be had only now. Raises :class:`KeyProblems`."""
    now = time.time() if now is None else now
    values = read_fields(fields, now)
    text, digest = new_key()
    with database.transaction():
        record = KeyRecord(
            id="key_" + secrets.token_hex(8), digest=digest, created_at=now, revision=database.next_revision(), **values
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
        record = _store(database, old, changed)
        told = {name: [getattr(old, name), value] for name, value in changed.items() if name != "deleted"}
        _note(database, time.time() if now is None else now, actor, action, old.id, told)
    return record


def _store(database: Database, old: KeyRecord, values: dict[str, Any]) -> KeyRecord:
    record = msgspec.structs.replace(old, revision=database.next_revision(), **values)
    columns = ", ".join(f"{name} = ?" for name in _COLUMNS)
    database.change(f"UPDATE keys SET {columns} WHERE id = ?", (*_row(record), record.id))  # noqa: S608
    return record


def _note(database: Database, at: float, actor: str, action: str, key_id: str, changes: dict[str, Any]) -> None:
    named = "".join(one if one.isprintable() else "?" for one in actor[:MAX_TEXT])
    database.note(at, named, action, key_id, json.dumps(changes, ensure_ascii=False))


def _records(database: Database, where: str, *arguments: object) -> list[KeyRecord]:
    return [_record(row) for row in database.rows(f"{_SELECT} {where}", arguments)]


def _record(row: tuple[Any, ...]) -> KeyRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in ("models", "networks"):
        text = values[name]
        values[name] = () if text == "[]" else tuple(json.loads(text))  # most have none, and a start reads all
    for name in ("disabled", "deleted"):
        values[name] = bool(values[name])
    return KeyRecord(**values)


def _row(record: KeyRecord) -> tuple[object, ...]:
    values = [getattr(record, name) for name in _COLUMNS]
    return tuple(json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value for value in values)
