"""``/admin/keys`` and ``/admin/audit``: the keys of a gateway as JSON over HTTP, without any HTTP in it.

Owns: the paths below ``/admin``, the shape of a key in JSON, and which fields of which type a caller may set. Ranges, and
what is kept, belong to the backend. Must never: put a digest into an answer, or a key into any but the one that made it.
The caller has been found to be the operator before anything here runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec.structs import replace

from fastgw.config.money import written
from fastgw.control.call import (
    AdminAnswer,
    AdminCall,
    FieldProblems,
    Fields,
    document_of,
    fields_of,
    query_of,
    quoted,
    refusal,
    struct_of,
)
from fastgw.control.routes import Handler, Parameter, Role, Route, count
from fastgw.errors import KINDS, ErrorKind, GatewayError
from fastgw.limits.key import KeyRecord, UsageRow

MAX_LISTED: Final = 1000  # keys, or audit entries, in one answer
DEFAULT_LISTED: Final = 100
MAX_NUMBER: Final = 10**15  # of an audit entry
MAX_GRACE_S: Final = 30 * 86_400.0
MAX_PROBLEMS: Final = 20  # told in one answer
SLICE: Final = 256  # records turned into JSON's objects before the loop gets its turn: about a millisecond
BACKEND_S: Final = 30.0  # the store has a deadline of its own; this one is for a store that hangs

KEY_NOT_FOUND: Final = replace(
    KINDS["not_found"], name="key_not_found", code="key_not_found", message="There is no such key.", advice=""
)
STORE_UNAVAILABLE: Final = ErrorKind(
    "store_unavailable", 503, "server_error", "store_unavailable", "The key store does not answer right now."
)

_NUMBER: Final = (int | None, "a whole number, or null for the gateway's default")
_WORD: Final = (str | None, "a string, or null for the gateway's default")
_TEXTS: Final = (list[str], "a list of strings")
FIELDS: Final[Fields] = {
    "name": (str, "a string"),
    "tenant": (str, "a string"),
    "expires_at": (int | float | str | None, "an ISO 8601 time, a duration such as 30d, Unix seconds, or null for never"),
    "requests_per_minute": _NUMBER,
    "burst": _NUMBER,
    "tokens_per_minute": _NUMBER,
    "daily_tokens": _NUMBER,
    "concurrency": _NUMBER,
    "priority": _WORD,
    "on_exhausted": _WORD,
    "budget": (str | None, "an amount as text, such as \"12.50\", or null for the gateway's default"),
    "budget_period": _WORD,
    "models": _TEXTS,
    "networks": _TEXTS,
    "certificates": _TEXTS,
}
_LATEST: Final = "9999-12-31T23:59:59Z"


class KeyNotFound(Exception):
    """There is no key of this id, or it has been deleted."""


KeyProblems = FieldProblems


class KeysUnavailable(Exception):
    """The store cannot do it now (read-only, full, too busy); nothing was changed."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as the store has written it down. ``at``: Unix seconds. Later changes have greater numbers."""

    number: int
    at: float
    actor: str
    action: str
    key_id: str = ""
    changes: Mapping[str, object] = {}


class KeyShown(msgspec.Struct, kw_only=True):
    """A key as the API shows it. Times are ISO 8601 in UTC, or None."""

    id: str
    name: str
    tenant: str
    created_at: str | None
    expires_at: str | None
    disabled: bool
    requests_per_minute: int | None
    burst: int | None
    tokens_per_minute: int | None
    daily_tokens: int | None
    concurrency: int | None
    priority: str | None
    on_exhausted: str | None
    budget: str | None
    budget_period: str | None
    models: Sequence[str]
    networks: Sequence[str]
    certificates: Sequence[str]
    previous_until: str | None


class KeyMade(KeyShown, kw_only=True):
    """With its text, which is shown this once."""

    key: str


class KeyUsage(msgspec.Struct, kw_only=True):
    """What a key has used today. ``quota_remaining`` -1 = it has none, None = the gateway's default applies."""

    date: str
    prompt_tokens: int
    completion_tokens: int
    estimated_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    requests: int
    quota: int | None
    quota_remaining: int | None


class KeyInUse(KeyShown, kw_only=True):
    """And what it has used."""

    usage: KeyUsage


class KeyPage(msgspec.Struct, kw_only=True):
    data: Sequence[KeyShown]
    has_more: bool
    last_id: str | None
    object: str = "list"


class ChangeShown(msgspec.Struct, kw_only=True):
    """A change of a key."""

    id: int
    at: str | None
    actor: str
    action: str
    key_id: str | None
    changes: Mapping[str, Any]


class ChangePage(msgspec.Struct, kw_only=True):
    data: Sequence[ChangeShown]
    has_more: bool
    last_id: int | None
    object: str = "list"


class Rotation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``grace_s``: how long the text before it stays good."""

    grace_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_GRACE_S)] = 0.0


NewKey: Final = struct_of("NewKey", FIELDS)
KeyChange: Final = struct_of("KeyChange", FIELDS)


class KeysBackend(Protocol):
    """Where keys are kept. Each change is one transaction with its audit row; ``actor`` is who asked (``admin:<address>``).

    All may raise :class:`KeysUnavailable`; those with an id :class:`KeyNotFound`; those with fields :class:`KeyProblems`.
    ``fields`` has names of :data:`FIELDS` only, with values of their types.
    """

    async def create(self, fields: Mapping[str, Any], actor: str) -> tuple[KeyRecord, str]:
        """A new key and its text, which nobody can show again."""
        ...

    async def page(
        self, *, limit: int, after: str, tenant: str | None, name: str | None
    ) -> tuple[Sequence[KeyRecord], bool]:
        """The keys (none that is deleted) in the order of their ids, from the first one behind ``after`` on: ``limit`` of them,
        or fewer where they are long; and whether there are more."""
        ...

    async def show(self, id: str) -> KeyRecord: ...

    async def update(self, id: str, fields: Mapping[str, Any], actor: str) -> KeyRecord: ...

    async def rotate(self, id: str, grace_s: float, actor: str) -> tuple[KeyRecord, str]:
        """A new text for the key; the old one stays good for ``grace_s`` seconds."""
        ...

    async def disable(self, id: str, actor: str) -> KeyRecord: ...

    async def enable(self, id: str, actor: str) -> KeyRecord: ...

    async def delete(self, id: str, actor: str) -> None: ...

    async def audit(self, limit: int, before: int | None) -> tuple[Sequence[AuditEntry], bool]:
        """The last entries (before the one of that number), the newest first: ``limit`` of them, or fewer where they are long;
        and whether there are more."""
        ...

    async def usage(self, id: str) -> UsageRow | None:
        """What the key of that id (no name) has used today (UTC), or None."""
        ...


def _stamp(at: float) -> str | None:
    if not at:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return _LATEST  # a time that no calendar has


def record_view(record: KeyRecord) -> dict[str, Any]:
    """A key as the API shows it: all but its digests; the fields of :class:`KeyShown`."""
    return {
        "id": record.id,
        "name": record.name,
        "tenant": record.tenant,
        "created_at": _stamp(record.created_at),
        "expires_at": _stamp(record.expires_at),
        "disabled": record.disabled,
        "requests_per_minute": record.requests_per_minute,
        "burst": record.burst,
        "tokens_per_minute": record.tokens_per_minute,
        "daily_tokens": record.daily_tokens,
        "concurrency": record.concurrency,
        "priority": record.priority,
        "on_exhausted": record.on_exhausted,
        "budget": None if record.budget is None else written(record.budget),
        "budget_period": record.budget_period,
        "models": list(record.models),
        "networks": list(record.networks),
        "certificates": list(record.certificates),
        "previous_until": _stamp(record.previous_until),
    }


def _shown(call: AdminCall, record: KeyRecord) -> dict[str, Any]:
    """The record, whose id goes into the log: the backend may take a name in its place."""
    call.key_id = record.id
    return record_view(record)


def usage_view(record: KeyRecord, row: UsageRow | None) -> dict[str, Any]:
    """Today's use of a key. ``quota`` is its own: None = the gateway's default applies, 0 = none."""
    _, day, prompt, completion, requests, estimated, cached, reasoning = row or ("", -1, 0, 0, 0, 0, 0, 0)
    today = date.fromordinal(date(1970, 1, 1).toordinal() + day) if row else datetime.now(UTC).date()
    quota = record.daily_tokens
    return {
        "date": today.isoformat(),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "estimated_tokens": estimated,
        "cached_tokens": cached,
        "reasoning_tokens": reasoning,
        "requests": requests,
        "quota": quota,
        "quota_remaining": None if quota is None else max(0, quota - prompt - completion) if quota else -1,
    }


def _number(query: Mapping[str, str], name: str, default: int, most: int = MAX_LISTED) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= most):
        raise GatewayError("invalid_parameter", f"{name} must be a number from 1 to {most}.", param=name)
    return int(text)


Method = Callable[[AdminCall], Awaitable[AdminAnswer]]
_LIMIT: Final = Parameter("limit", f"how many, {DEFAULT_LISTED} if not said", count(1, MAX_LISTED))


class AdminKeys:
    """Answers the calls about keys. ``keys`` is None where no store is configured."""

    __slots__ = ("_keys",)

    def __init__(self, keys: KeysBackend | None) -> None:
        self._keys = keys

    def routes(self) -> list[Route]:
        """What is answered here."""
        read, write, do = Role.READ, Role.WRITE, self._guarded
        one, page = "/admin/keys/{id}", (Parameter("tenant", "of this tenant alone"), Parameter("name", "of this name alone"))
        after = Parameter("after", "behind this id: the `last_id` of the page before")
        before = Parameter("before", "before the change of this number", count(1, MAX_NUMBER))
        shown: dict[int, Any] = {200: KeyShown}
        return [
            Route("GET", "/admin/keys", read, "list", do(self.list), "The keys, in the order of their ids",
                  {200: KeyPage}, query=(*page, _LIMIT, after)),
            Route("POST", "/admin/keys", write, "create", do(self.create), "Make a key; its text is shown this once",
                  {201: KeyMade}, body=NewKey),
            Route("GET", one, read, "show", do(self.show), "A key, and what it has used today", {200: KeyInUse}),
            Route("PATCH", one, write, "update", do(self.update), "Change what is named of a key", shown, body=KeyChange),
            Route("DELETE", one, write, "delete", do(self.delete), "End a key for ever", {204: None}),
            Route("POST", one + "/rotate", write, "rotate", do(self.rotate), "A new text for a key", {200: KeyMade},
                  body=Rotation, needs_body=False),
            Route("POST", one + "/disable", write, "disable", do(self.disable), "Refuse a key until it is enabled", shown),
            Route("POST", one + "/enable", write, "enable", do(self.enable), "Take a key again", shown),
            Route("GET", "/admin/audit", read, "audit", do(self.audit), "The changes of keys, the newest first",
                  {200: ChangePage}, query=(_LIMIT, before)),
        ]  # fmt: skip

    def _guarded(self, method: Method) -> Handler:
        """``method``, whose errors become the caller's mistake or the store's state; others are faults."""

        async def answer(call: AdminCall) -> AdminAnswer:
            if self._keys is None:
                raise GatewayError("not_found", "There is no key store: set a state directory (FASTGW_STATE_DIR).")
            id = call.names.get("id")
            if id is not None and not (len(id) <= 128 and id.isascii() and id.replace("_", "").replace("-", "").isalnum()):
                raise refusal(KEY_NOT_FOUND)
            call.key_id = id or ""
            try:
                async with asyncio.timeout(BACKEND_S):
                    return await method(call)
            except KeyNotFound as error:
                raise refusal(KEY_NOT_FOUND) from error
            except KeyProblems as error:
                raise GatewayError("invalid_parameter", "; ".join(error.problems[:MAX_PROBLEMS])) from error
            except (KeysUnavailable, TimeoutError) as error:
                unavailable = refusal(STORE_UNAVAILABLE)
                unavailable.retry_after_s = 1.0
                unavailable.detail = type(error).__name__
                raise unavailable from error

        return answer

    @property
    def _store(self) -> KeysBackend:
        assert self._keys is not None  # _guarded refuses without
        return self._keys

    async def create(self, call: AdminCall) -> AdminAnswer:
        fields = fields_of(document_of(await call.read()), FIELDS)
        record, text = await self._store.create(fields, call.actor)
        return AdminAnswer(201, {**_shown(call, record), "key": text}, {"Location": f"/admin/keys/{record.id}"})

    async def list(self, call: AdminCall) -> AdminAnswer:
        """In the order of ids, so that a page starts where the one before it ended, whatever was deleted meanwhile."""
        query = query_of(call, "tenant", "name", "limit", "after")
        limit = _number(query, "limit", DEFAULT_LISTED)
        kept, more = await self._store.page(
            limit=limit, after=query.get("after", ""), tenant=query.get("tenant"), name=query.get("name")
        )
        data = []
        for at, record in enumerate(kept):
            if at % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            data.append(record_view(record))
        return AdminAnswer(200, {"object": "list", "data": data, "has_more": more, "last_id": data[-1]["id"] if data else None})

    async def show(self, call: AdminCall) -> AdminAnswer:
        record = await self._store.show(call.key_id)
        usage = await self._store.usage(record.id)
        return AdminAnswer(200, {**_shown(call, record), "usage": usage_view(record, usage)})

    async def update(self, call: AdminCall) -> AdminAnswer:
        fields = fields_of(document_of(await call.read()), FIELDS)
        if not fields:
            raise KeyProblems(["there is nothing to change"])
        return AdminAnswer(200, _shown(call, await self._store.update(call.key_id, fields, call.actor)))

    async def rotate(self, call: AdminCall) -> AdminAnswer:
        """Without ``grace_s`` the old key ends at once: what is wanted for one that has leaked."""
        body = await call.read()
        document = document_of(body) if body else {}
        problems = [f"there is no field{quoted(name)} of a rotation" for name in document if name != "grace_s"]
        grace_s = document.get("grace_s", 0)
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s <= MAX_GRACE_S:
            problems.append(f"grace_s: must be a number of seconds from 0 to {MAX_GRACE_S:.0f}")
        if problems:
            raise KeyProblems(problems)
        record, text = await self._store.rotate(call.key_id, float(grace_s), call.actor)
        return AdminAnswer(200, {**_shown(call, record), "key": text})

    async def disable(self, call: AdminCall) -> AdminAnswer:
        return AdminAnswer(200, _shown(call, await self._store.disable(call.key_id, call.actor)))

    async def enable(self, call: AdminCall) -> AdminAnswer:
        return AdminAnswer(200, _shown(call, await self._store.enable(call.key_id, call.actor)))

    async def delete(self, call: AdminCall) -> AdminAnswer:
        await self._store.delete(call.key_id, call.actor)
        return AdminAnswer(204)

    async def audit(self, call: AdminCall) -> AdminAnswer:
        query = query_of(call, "limit", "before")
        limit = _number(query, "limit", DEFAULT_LISTED)
        before = _number(query, "before", 0, MAX_NUMBER) if "before" in query else None
        entries, more = await self._store.audit(limit, before)
        data = [
            {
                "id": entry.number,
                "at": _stamp(entry.at),
                "actor": entry.actor,
                "action": entry.action,
                "key_id": entry.key_id or None,
                "changes": dict(entry.changes),
            }
            for entry in entries
        ]
        return AdminAnswer(200, {"object": "list", "data": data, "has_more": more, "last_id": data[-1]["id"] if data else None})
