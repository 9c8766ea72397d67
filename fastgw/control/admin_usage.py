"""``/admin/usage``: what was used, and what it cost, for who pays: as JSON in pages, or whole as CSV.

Owns: the question's words, the shape of the answer, and what a cell of CSV may be. The sums belong to the backend. Must never:
leave out rows of a CSV without a word, or let a name become a formula in whatever opens it.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from heapq import merge
from typing import Any, Final, Protocol

import msgspec

from fastgw.config.money import written
from fastgw.control.admin_keys import STORE_UNAVAILABLE, KeysUnavailable
from fastgw.control.call import AdminAnswer, AdminCall, query_of, refusal
from fastgw.control.routes import Parameter, Role, Route, count
from fastgw.errors import GatewayError

BY: Final = ("key", "tenant", "model", "day")
ORDERS: Final = {"cost": ("cost",), "tokens": ("prompt_tokens", "completion_tokens"), "requests": ("requests",)}
"""By which sums rows may be put in order, the most first."""
MAX_SPAN_DAYS: Final = 400
MAX_PAGE: Final = 10_000
DEFAULT_PAGE: Final = 1000
MAX_OFFSET: Final = 1_000_000
SLICE: Final = 500  # rows made at a time: about a millisecond
BACKEND_S: Final = 30.0
_EPOCH: Final = date(1970, 1, 1)
_COUNTS: Final = (
    "prompt_tokens", "completion_tokens", "requests", "estimated_tokens", "cached_tokens", "reasoning_tokens", "cost",
    "unpriced_tokens",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a formula of a cell, where it stands first (OWASP, "CSV Injection"); the last four are wide."""


class TooMuch(Exception):
    """There are more groups than one answer may be made of."""


class UsageBackend(Protocol):
    """Where usage is kept. Both may raise :class:`KeysUnavailable`."""

    async def spent(self, first: int, last: int, by: Sequence[str]) -> Mapping[tuple[str | int, ...], Sequence[int]]:
        """The sums of some days (counted from 1970-01-01), in the order of the counts here. Raises :class:`TooMuch`."""
        ...

    async def names(self, ids: Sequence[str]) -> Mapping[str, str]:
        """The names of keys, deleted ones included."""
        ...


class Spent(msgspec.Struct, kw_only=True):
    """``cost``: with all its digits, of what has a price; ``unpriced_tokens``: nobody knows what those cost."""

    prompt_tokens: int
    completion_tokens: int
    requests: int
    estimated_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: str
    unpriced_tokens: int


class SpentBy(Spent, kw_only=True):
    """Those of ``by`` that were asked for; ``name`` is the key's. A model without a name: of before models were counted, or one
    that no engine lists."""

    key: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    tenant: str | msgspec.UnsetType = msgspec.UNSET
    model: str | msgspec.UnsetType = msgspec.UNSET
    day: str | msgspec.UnsetType = msgspec.UNSET


class SpentPage(msgspec.Struct, kw_only=True):
    """``from`` and ``to`` are days in UTC, both included; ``total`` is of all pages."""

    first: str = msgspec.field(name="from")
    to: str
    by: Sequence[str]
    currency: str
    data: Sequence[SpentBy]
    has_more: bool
    total: Spent
    object: str = "list"


def _counts(sums: Sequence[int]) -> dict[str, Any]:
    return {name: written(one) if name == "cost" else one for name, one in zip(_COUNTS, sums, strict=True)}


def _day(query: Mapping[str, str], name: str, default: date) -> date:
    text = query.get(name)
    if text is None:
        return default
    try:
        found = date.fromisoformat(text)
        if found.isoformat() != text:
            raise ValueError  # a week's day, or without its lines
        return found
    except ValueError:
        raise GatewayError("invalid_parameter", f"{name} must be a day such as 2030-01-31 (UTC).", param=name) from None


def _by(query: Mapping[str, str]) -> list[str]:
    names = [one for one in query.get("by", "key").split(",") if one]
    if not names or len(set(names)) != len(names) or not set(names) <= set(BY):
        raise GatewayError("invalid_parameter", f"by must be some of {', '.join(BY)}, with commas between.", param="by")
    return names


def _whole(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise GatewayError("invalid_parameter", f"{name} must be a number from {low} to {high}.", param=name)
    return int(text)


def cell(value: object) -> str:
    """A cell of CSV: what would be a formula is text there, by the sign that spreadsheets take for that."""
    text = str(value)
    return "'" + text if text.startswith(_FORMULA) else text


class AdminUsage:
    """Answers the one call. ``usage`` is None where no store is configured."""

    __slots__ = ("_currency", "_usage")

    def __init__(self, usage: UsageBackend | None, currency: Callable[[], str]) -> None:
        self._usage = usage
        self._currency = currency

    def routes(self) -> list[Route]:
        """What is answered here."""
        query = (
            Parameter("from", "the first day, such as 2030-01-01 (UTC); the first of the month of `to` if not said"),
            Parameter("to", "the last day; today if not said"),
            Parameter("by", f"what is told apart, with commas between: {', '.join(BY)}; `key` if not said"),
            Parameter(
                "order", "the rows with the most of this first; in the order of `by` if not said",
                {"type": "string", "enum": list(ORDERS)},
            ),
            Parameter("format", "`csv` = all rows as CSV", {"type": "string", "enum": ["json", "csv"]}),
            Parameter("limit", f"rows of JSON at most, {DEFAULT_PAGE} if not said", count(1, MAX_PAGE)),
            Parameter("offset", "leave out so many rows", count(0, MAX_OFFSET)),
        )
        summary = "What was used on some days, and what it cost, deleted keys included"
        return [Route("GET", "/admin/usage", Role.READ, "usage", self.show, summary, {200: SpentPage}, query=query)]

    async def show(self, call: AdminCall) -> AdminAnswer:
        """The days' sums, in the order of what they are told apart by, or the most first."""
        usage = self._usage
        if usage is None:
            raise GatewayError("not_found", "There is no key store: set a state directory (FASTGW_STATE_DIR).")
        query = query_of(call, "from", "to", "by", "order", "format", "limit", "offset")
        to = _day(query, "to", datetime.now(UTC).date())
        first = _day(query, "from", to.replace(day=1))
        if not 0 <= (to - first).days < MAX_SPAN_DAYS:
            message = f"from must not be behind to, nor more than {MAX_SPAN_DAYS} days before it."
            raise GatewayError("invalid_parameter", message, param="from")
        by, format_ = _by(query), query.get("format", "json")
        limit, offset = _whole(query, "limit", DEFAULT_PAGE, 1, MAX_PAGE), _whole(query, "offset", 0, 0, MAX_OFFSET)
        if format_ not in ("json", "csv"):
            raise GatewayError("invalid_parameter", "format must be json or csv.", param="format")
        order = query.get("order")
        if order is not None and order not in ORDERS:
            raise GatewayError("invalid_parameter", f"order must be one of {', '.join(ORDERS)}.", param="order")
        try:
            async with asyncio.timeout(BACKEND_S):
                found = await usage.spent((first - _EPOCH).days, (to - _EPOCH).days, by)
                keys, total = await _added_up(found, order)
                shown = keys if format_ == "csv" else keys[offset : offset + limit]
                names = await self._names(usage, by, shown)
        except (TooMuch, TimeoutError) as error:  # (a store that does not answer says so before)
            raise GatewayError("invalid_parameter", "That is too much: ask for fewer days, or for less in by.") from error
        except KeysUnavailable as error:
            unavailable = refusal(STORE_UNAVAILABLE)
            unavailable.retry_after_s = 1.0
            raise unavailable from error
        rows = ((_told(by, key, names), found[key]) for key in shown)
        if format_ == "csv":
            return AdminAnswer(200, pieces=_csv(by, rows), media_type="text/csv")
        data = []
        for told, sums in rows:
            data.append({**told, **_counts(sums)})
            if not len(data) % SLICE:
                await asyncio.sleep(0)
        page = {"object": "list", "from": first.isoformat(), "to": to.isoformat(), "by": by, "currency": self._currency()}
        more = offset + limit < len(keys)
        return AdminAnswer(200, {**page, "data": data, "has_more": more, "total": _counts(total)})

    @staticmethod
    async def _names(usage: UsageBackend, by: Sequence[str], shown: Sequence[tuple[str | int, ...]]) -> dict[str, str]:
        if "key" not in by:
            return {}
        at = by.index("key")
        names: dict[str, str] = {}
        for start in range(0, len(shown), SLICE):
            ids = {str(key[at]) for key in shown[start : start + SLICE]} - names.keys()
            names |= await usage.names(sorted(ids)) if ids else {}
        return names


async def _added_up(
    found: Mapping[tuple[str | int, ...], Sequence[int]], order: str | None
) -> tuple[list[tuple[str | int, ...]], list[int]]:
    """The groups in their order (of equals, and where none is asked for, by what they are told apart by), and the sums of all.
    In slices, as rows are made: a hundred thousand at once take half a second, in which no stream would go on."""
    most = [_COUNTS.index(name) for name in ORDERS[order]] if order is not None else ()

    def place(key: tuple[str | int, ...]) -> tuple[int, tuple[str | int, ...]]:
        return -sum(found[key][at] for at in most), key

    keys, total = list(found), [0] * len(_COUNTS)
    runs = []
    for start in range(0, len(keys), SLICE):
        runs.append(sorted(keys[start : start + SLICE], key=place))
        total = [sum(column) for column in zip(total, *(found[key] for key in runs[-1]), strict=True)]
        await asyncio.sleep(0)
    for number, key in enumerate(merge(*runs, key=place)):
        keys[number] = key
        if not number % SLICE:
            await asyncio.sleep(0)
    return keys, total


def _told(by: Sequence[str], key: tuple[str | int, ...], names: Mapping[str, str]) -> dict[str, str]:
    told: dict[str, str] = {}
    for name, one in zip(by, key, strict=True):
        told[name] = (_EPOCH + timedelta(days=int(one))).isoformat() if name == "day" else str(one)
        if name == "key":
            told["name"] = names.get(str(one), "")
    return told


async def _csv(by: Sequence[str], rows: Iterable[tuple[dict[str, str], Sequence[int]]]) -> AsyncGenerator[bytes, None]:
    """As RFC 4180 has it, with a line of names."""
    text = io.StringIO()
    out = csv.writer(text)
    out.writerow([*(part for name in by for part in ((name, "name") if name == "key" else (name,))), *_COUNTS])
    for number, (told, sums) in enumerate(rows, 1):
        out.writerow([*map(cell, told.values()), *_counts(sums).values()])
        if not number % SLICE:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
            await asyncio.sleep(0)
    yield text.getvalue().encode()
