"""What was spent, read back for who pays: sums by key, tenant, model and day, those of deleted keys among them.

Owns: the sums. Must never: hold more groups than :data:`MAX_GROUPS`, or more than one day's rows of the file at a
time: a reader holds up whoever writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from fastgw.limits.purse import KEY, TENANT, Asked, Sums
from fastgw.limits.scope import MODEL
from fastgw.store.database import Database

MAX_GROUPS: Final = 100_000
_TURN: Final = 50  # rows: see `keys`
_TURN_S: Final = 1e-4
_COLUMNS: Final = {"key": "key_id", "tenant": "tenant", "model": "model", "day": "day"}
_SUMS: Final = ("prompt", "completion", "requests", "estimated", "cached", "reasoning", "cost", "unpriced")
_LOW: Final = 31
"""Bits of each count that are added up by themselves: SQLite fails where a sum has more than 63, and one row may have 61."""
_OWNERS: Final = {KEY: "key_id = ?", TENANT: "tenant = ? AND tenant != ''", MODEL: "? = ''"}
_TOLD: Final = "SELECT percent FROM told WHERE kind = ? AND name = ? AND begins = ? AND ends = ? AND amount = ?"


class TooManyGroups(Exception):
    """There are more than :data:`MAX_GROUPS`."""


def _sum(what: str) -> str:
    """The two columns of which :func:`_whole` makes the sum of ``what``."""
    return f"sum(({what}) >> {_LOW}), sum(({what}) & {(1 << _LOW) - 1})"


def _whole(columns: Sequence[int | None]) -> list[int]:
    """(Of no rows there is no sum.)"""
    return [((high or 0) << _LOW) + (low or 0) for high, low in zip(columns[::2], columns[1::2], strict=True)]


def add_day(database: Database, day: int, by: Sequence[str], into: dict[tuple[str | int, ...], list[int]]) -> None:
    """Add what was spent on ``day`` to the sums of ``into``, by ``by``: one or more of key, tenant, model, day. The sums are
    those of prompt and completion tokens, requests, estimated, cached and reasoning tokens, cost, tokens without a price."""
    columns = ", ".join(_COLUMNS[name] for name in by)
    sums = ", ".join(map(_sum, _SUMS))
    sql = f"SELECT {columns}, {sums} FROM spending WHERE day = ? GROUP BY {columns}"  # noqa: S608 (names of ours)
    with closing(database.each(sql, (day,))) as rows:
        for count, row in enumerate(rows, 1):
            known, more = row[: len(by)], _whole(row[len(by) :])
            before = into.get(known)
            if before is None:
                if len(into) >= MAX_GROUPS:
                    raise TooManyGroups
                into[known] = more
            else:
                into[known] = [one + other for one, other in zip(before, more, strict=True)]
            if not count % _TURN:
                time.sleep(_TURN_S)


def sums(database: Database, asked: Sequence[Asked]) -> Sums:
    """What each budget has seen, of money or of tokens, the last batch that is in it, and the last line of it that somebody was
    told of (0 = none)."""
    with database.snapshot():
        last = database.rows("SELECT value FROM meta WHERE name = 'spent'")
        found, told = [], []
        for kind, name, begins, ends, limit, models in asked:
            what = "cost" if models is None else "prompt + completion"
            among = f" AND model IN ({', '.join('?' * len(models))})" if models else ""
            sql = f"SELECT {_sum(what)} FROM spending WHERE {_OWNERS[kind]} AND day >= ? AND day < ?{among}"  # noqa: S608
            found += _whole(database.rows(sql, (name, begins, ends, *(models or ())))[0])
            known = database.rows(_TOLD, (kind, name, begins, ends, limit))
            told.append(int(known[0][0]) if known else 0)
    return str(last[0][0]) if last else "", found, told


def names_of(database: Database, ids: Sequence[str]) -> dict[str, str]:
    """The names of keys, deleted ones included."""
    marks = ", ".join("?" * len(ids))
    return dict(database.rows(f"SELECT id, name FROM keys WHERE id IN ({marks})", list(ids)))  # noqa: S608
