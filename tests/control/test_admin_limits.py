"""``/admin/limits``: each limit that tenants and models have together, and what is used of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fastgw.control.admin_limits import SLICE, AdminLimits, LimitList
from fastgw.control.call import AdminAnswer, AdminCall
from fastgw.errors import GatewayError
from fastgw.operating import limits_now
from tests.conversations.test_scopes import ANSWER, OTHER_KEY, USED, say, talked
from tests.support.conversation import answering

LIMITS = {"requests_per_minute": 600, "burst": 5, "tokens_per_minute": 100_000, "daily_tokens": 10_000}


async def ask(limits: Any, *query: tuple[str, str]) -> AdminAnswer:
    async def read() -> bytes:
        return b""

    return await AdminLimits(limits).show(AdminCall("GET", "/admin/limits", list(query), "admin", read))


@pytest.mark.parametrize(("kind", "name"), [("tenant", "lab"), ("model", "sim")])
async def test_what_is_used_of_what_there_is(kind: str, name: str) -> None:
    with talked(kind, LIMITS, answering(ANSWER)) as talk:
        for key in (None, OTHER_KEY):
            assert talk.ask(say(10, **({} if key is None else {"key": key}))).status == 200
        told = msgspec.json.decode(msgspec.json.encode((await ask(lambda: limits_now(talk.core))).document))
    assert told["object"] == "list"
    [row] = told["data"]
    assert row.pop("requests_remaining") in (3, 4, 5)
    assert 100_000 - row.pop("tokens_remaining") <= 2 * USED
    assert row == {
        "kind": kind, "name": name, "requests_per_minute": 600, "tokens_per_minute": 100_000, "quota": 10_000,
        "quota_used": 2 * USED, "quota_remaining": 10_000 - 2 * USED, "quota_reserved": 0,
    }  # fmt: skip


async def test_many_of_them_and_none() -> None:
    rows = [{"kind": "tenant", "name": str(at), "concurrency": 1, "requests_under_way": 0} for at in range(2 * SLICE + 1)]
    answer = await ask(lambda: rows)
    assert isinstance(answer.document, LimitList)
    assert [one.name for one in answer.document.data] == [row["name"] for row in rows]
    with pytest.raises(GatewayError, match="page"):
        await ask(lambda: rows, ("page", "2"))
    with pytest.raises(GatewayError):
        await ask(None)
