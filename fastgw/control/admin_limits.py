"""``GET /admin/limits``: what all keys of a tenant, and all who ask for a model, may use together, and what they use now.

Owns: the shape of the answer. What there is the backend knows. Must never: show a key, or be shown to one (a client is told of
its own, and of its tenant's: ``GET /v1/usage``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from fastgw.control.call import AdminAnswer, AdminCall, query_of
from fastgw.control.routes import Role, Route
from fastgw.errors import GatewayError

SLICE: Final = 500  # rows made at a time, as there are ten thousand tenants: some milliseconds
Backend = Callable[[], Iterable[Mapping[str, Any]]]
"""Rows as :class:`LimitShown` has them."""
UNSET: Final = msgspec.UNSET


class LimitShown(msgspec.Struct, kw_only=True):
    """``kind``: tenant or model. What is not limited is not there; ``quota``: tokens of the UTC day."""

    kind: str
    name: str
    requests_per_minute: int | msgspec.UnsetType = UNSET
    requests_remaining: int | msgspec.UnsetType = UNSET
    tokens_per_minute: int | msgspec.UnsetType = UNSET
    tokens_remaining: int | msgspec.UnsetType = UNSET
    quota: int | msgspec.UnsetType = UNSET
    quota_used: int | msgspec.UnsetType = UNSET
    quota_remaining: int | msgspec.UnsetType = UNSET
    quota_reserved: int | msgspec.UnsetType = UNSET
    requests_under_way: int | msgspec.UnsetType = UNSET
    concurrency: int | msgspec.UnsetType = UNSET


class LimitList(msgspec.Struct, kw_only=True):
    data: Sequence[LimitShown]
    object: str = "list"


class AdminLimits:
    """Answers the one call. ``limits`` None: nobody has any."""

    __slots__ = ("_limits",)

    def __init__(self, limits: Backend | None) -> None:
        self._limits = limits

    def routes(self) -> list[Route]:
        """What is answered here."""
        summary = "What tenants and models may use, and what they use now"
        return [Route("GET", "/admin/limits", Role.READ, "limits", self.show, summary, {200: LimitList})]

    async def show(self, call: AdminCall) -> AdminAnswer:
        """All of them, in the order of the settings."""
        query_of(call)
        if self._limits is None:
            raise GatewayError("not_found")
        data = []
        for row in self._limits():
            data.append(LimitShown(**row))
            if not len(data) % SLICE:
                await asyncio.sleep(0)
        return AdminAnswer(200, LimitList(data=data))
