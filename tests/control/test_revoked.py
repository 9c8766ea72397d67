"""What an admin key has opened ends with the key, on every path that is told without an end, and in the middle of a body."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from fastgw import Config
from fastgw.app import Gateway
from fastgw.control import admin_live
from tests.support.client import RawClient, request

GONE, RENAMED, LESS = "gone-5d0c2f-secret", "named-5d0c2f-secret", "less-5d0c2f-secret"
BEFORE = (f"gone:write:{GONE}", f"one:read:{RENAMED}", f"less:write:{LESS}")
AFTER = (f"other:write:{RENAMED}", f"less:read:{LESS}")
ENGINE = json.dumps({"url": "http://127.0.0.1:9", "name": "late"}).encode()


def settings(keys: tuple[str, ...]) -> Config:
    return Config(port=0, control_listen="127.0.0.1:0", admin_keys=keys, drain_timeout_s=0.0)


@contextlib.asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway(settings(BEFORE)) as there:
        yield there


async def opened(stack: contextlib.AsyncExitStack, there: Gateway, path: str, key: str) -> RawClient:
    client = await stack.enter_async_context(RawClient.connect(there.control_url))
    await client.send(request("GET", path, key=key))
    return client


async def test_what_is_told_without_an_end_ends_with_the_key_that_opened_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others hear on, and so does a key that is called otherwise now."""
    monkeypatch.setattr(admin_live, "EVERY_S", 0.02)
    async with gateway() as there, contextlib.AsyncExitStack() as stack:
        assert there._control is not None
        endless = [row.path for row in there._control.routes if "text/event-stream" in row.answers.values()]
        assert {"/admin/live", "/admin/events"} <= set(endless)
        ending = [await opened(stack, there, path, GONE) for path in endless]
        lasting = [await opened(stack, there, path, RENAMED) for path in endless]
        for client in (*ending, *lasting):
            assert (await client.read_head()).status == 200
        await there.follow(settings(AFTER))
        for path, client in zip(endless, ending, strict=True):
            assert (await client.read_until_closed())[1] != "timeout", path
            assert (await (await opened(stack, there, path, GONE)).read_head()).status == 401
        for path, client in zip(endless, lasting, strict=True):
            while client.buffered:
                await client.read_some()
            there.fleet.events.add("engine_added", "new", "")
            assert await client.read_some(), path
        assert there._control.open == len(endless) * 2


@pytest.mark.parametrize("key", [GONE, LESS])
async def test_a_key_is_one_still_when_the_body_has_come(key: str) -> None:
    async with gateway() as there, RawClient.connect(there.control_url) as client:
        head, _, _ = request(
            "POST", "/admin/engines", key=key, body=ENGINE, headers=[("Expect", "100-continue")]
        ).partition(ENGINE)
        await client.send(head)
        assert await client.read_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await there.follow(settings(AFTER))
        await client.send(ENGINE)
        assert (await client.read_response()).status == 401
        assert there.fleet.pools == ()
