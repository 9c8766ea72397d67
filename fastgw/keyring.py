"""The admin API's keys: what the control listener asks for, done by the store in its own thread.

Control and store lie side by side and know nothing of each other; this is where they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastgw.control.admin_keys import AuditEntry, KeyNotFound, KeyProblems, KeysUnavailable
from fastgw.control.admin_usage import TooMuch
from fastgw.limits.key import KeyRecord, UsageRow
from fastgw.store import fields, spending
from fastgw.store import keys as stored
from fastgw.store.schema import StateError
from fastgw.store.state import State


class Keyring:
    """A ``control.admin_keys.KeysBackend``, and a ``control.admin_usage.UsageBackend``, over a :class:`State`.

    ``usage`` looks a key's day up in memory first.
    """

    def __init__(self, state: State, usage: Callable[[str], UsageRow | None]) -> None:
        self._state = state
        self._usage = usage

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await self._state.run(function, *arguments)
        except stored.KeyNotFound as error:
            raise KeyNotFound(*error.args) from None
        except fields.KeyProblems as error:
            raise KeyProblems(error.problems) from None
        except spending.TooManyGroups:
            raise TooMuch from None
        except (StateError, TimeoutError, OSError) as error:
            raise KeysUnavailable(str(error)) from None

    async def create(self, fields: Mapping[str, Any], actor: str) -> tuple[KeyRecord, str]:
        record, text = await self._run(stored.create, fields, actor)
        return record, text

    async def page(
        self, *, limit: int, after: str, tenant: str | None, name: str | None
    ) -> tuple[Sequence[KeyRecord], bool]:
        found, more = await self._run(partial(stored.page, limit=limit, after=after, tenant=tenant, name=name))
        return found, more

    async def show(self, id: str) -> KeyRecord:
        return await self._record(stored.find, id)

    async def update(self, id: str, fields: Mapping[str, Any], actor: str) -> KeyRecord:
        return await self._record(stored.update, id, fields, actor)

    async def rotate(self, id: str, grace_s: float, actor: str) -> tuple[KeyRecord, str]:
        record, text = await self._run(stored.rotate, id, grace_s, actor)
        return record, text

    async def disable(self, id: str, actor: str) -> KeyRecord:
        return await self._record(stored.disable, id, actor)

    async def enable(self, id: str, actor: str) -> KeyRecord:
        return await self._record(stored.enable, id, actor)

    async def delete(self, id: str, actor: str) -> None:
        await self._run(stored.delete, id, actor)

    async def audit(self, limit: int, before: int | None) -> tuple[Sequence[AuditEntry], bool]:
        rows, more = await self._run(stored.audit, limit, before)
        return [AuditEntry(**row._asdict()) for row in rows], more

    async def usage(self, id: str) -> UsageRow | None:
        return self._usage(id)

    async def spent(self, first: int, last: int, by: Sequence[str]) -> Mapping[tuple[str | int, ...], Sequence[int]]:
        # (A day at a time: what is to be written, and whoever else waits for the store, has its turn between them.)
        found: dict[tuple[str | int, ...], list[int]] = {}
        for day in range(first, last + 1):
            await self._run(spending.add_day, day, by, found)
        return found

    async def names(self, ids: Sequence[str]) -> Mapping[str, str]:
        names: Mapping[str, str] = await self._run(spending.names_of, ids)
        return names

    async def _record(self, function: Callable[..., Any], *arguments: Any) -> KeyRecord:
        record: KeyRecord = await self._run(function, *arguments)
        return record
