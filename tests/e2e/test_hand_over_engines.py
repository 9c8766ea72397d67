"""One gateway takes another's place: what is known of engines goes over, and what the operator has done with them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import msgspec
import pytest

from fastgw import EngineConfig
from fastgw.limits.breaker import OPEN
from fastgw.net.process_line import ProcessLine
from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.upgrade import giving
from fastgw.upgrade.refusals import NotHanded
from tests.e2e.paced import Paced
from tests.e2e.test_hand_over import ADMIN, config_of, nobody, successor
from tests.support.client import RawClient, chat, request
from tests.support.gateway import Running, running
from tests.support.scripts import ok


def named(engine: ScriptedEngine) -> Counter[str]:
    """By who was asked for: how often this engine has been."""
    found: Counter[str] = Counter()
    for one in engine.requests:
        if one.method == b"POST":
            body = msgspec.json.decode(one.body)
            found[body.get("user") or body.get("previous_response_id") or "first"] += 1
    return found


def keeping(name: str) -> ScriptedEngine:
    """An engine that answers, and keeps responses by ids that say whose they are."""

    async def handle(conn: ScriptedConnection) -> None:
        while True:
            found = await conn.read_request()
            if name == "down":
                await conn.send(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
            elif found.method == b"GET":
                await conn.send(ok(b'{"object":"list","data":[{"id":"sim","object":"model"}]}'))
            else:
                await conn.send(ok(b'{"id":"resp_%b%d","object":"response"}' % (name.encode(), len(engine.requests))))

    engine = ScriptedEngine(handle)
    return engine


async def chats(where: str, user: str) -> None:
    async with RawClient.connect(where) as client:
        await client.send(chat("sim", user=user))
        assert (await client.read_response()).status == 200


async def responds(where: str, **more: str) -> str:
    async with RawClient.connect(where) as client:
        body = msgspec.json.encode({"model": "sim", "input": "hi", **more})
        await client.send(request("POST", "/v1/responses", body=body))
        answer = await client.read_response()
        assert answer.status == 200
        return str(answer.json()["id"])


@asynccontextmanager
async def operating(gw: Running) -> AsyncIterator[RawClient]:
    """The operator, who keeps his connection."""
    async with RawClient.connect(gw.gateway.control_url) as client:
        await client.send(request("GET", "/admin/engines", key=ADMIN))
        assert (await client.read_response()).status == 200
        yield client


OPERATES: dict[str, bytes] = {
    "adds": request("POST", "/admin/engines", body=b'{"name":"new","url":"http://127.0.0.1:10"}', key=ADMIN),
    "removes": request("DELETE", "/admin/engines/kept", key=ADMIN),
}


@pytest.mark.once
@pytest.mark.parametrize(("what", "handed"), [*((what, True) for what in OPERATES), ("adds", False)])
async def test_what_the_operator_asks_for_meanwhile_is_done_where_it_lasts_or_not_at_all(
    what: str, handed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a connection that he keeps, when the new process has been told of all: it would know nothing of it."""
    settings: dict[str, Any] = {"control_listen": "127.0.0.1:0", "admin_key": ADMIN, "keepalive_timeout_s": 0.3}
    async with Paced().engine as engine, running([engine.url], **settings) as gw:
        gw.gateway.fleet.add(EngineConfig(url="http://127.0.0.1:9", name="kept"))
        async with operating(gw) as client:
            hears, answer = giving.Giving.hears, asyncio.ensure_future(client.read_response())

            async def meanwhile(self: Any, kind: Any) -> Any:
                await client.send(OPERATES[what])
                done, _ = await asyncio.wait({answer}, timeout=0.05)
                assert not done
                if handed:
                    return await hears(self, kind)
                raise NotHanded("it has gone")

            monkeypatch.setattr(giving.Giving, "hears", meanwhile)
            if not handed:
                line, there = ProcessLine.pair()
                with there, pytest.raises(NotHanded):
                    await gw.gateway.hand_over(line, nobody)
                assert (await answer).status == 201
                return
            async with successor(gw, config_of(engine.url, **settings)) as new:
                found = await answer
                assert (found.status, found.json()["error"]["code"]) == (503, "shutting_down")
                assert sorted(one.engine.name for one in new.gateway.fleet.pools)[-1] == "kept"


async def test_sessions_responses_and_what_the_operator_said_go_over() -> None:
    settings: dict[str, Any] = {"policy": "session", "session_sources": ["body:user"], "keepalive_timeout_s": 0.3}
    users = [f"user {at}" for at in range(12)]
    async with keeping("a") as one, keeping("b") as other, keeping("c") as third, keeping("down") as down:
        configs = [EngineConfig(url=engine.url, name=name) for engine, name in ((one, "one"), (other, "other"), (down, "down"))]
        async with running(configs, **settings) as gw:
            fleet, core = gw.gateway.fleet, gw.gateway.core
            assert core is not None
            for _ in range(20):
                fleet.find("down").engine.breaker.failed(monotonic(), 0.0, False)
            for user in users:
                await chats(gw.url, user)
            made = [await responds(gw.url) for _ in range(6)]
            fleet.add(EngineConfig(url=third.url, name="third", api_key="sk-of-the-third-0123"))
            fleet.drain("third")
            asked = [named(engine) for engine in (one, other)]
            assert min(len(found) for found in asked) > 1, "both have some"
            config = msgspec.structs.replace(config_of("http://127.0.0.1:9", **settings), engines=tuple(configs))
            async with successor(gw, config) as new:
                fleet = new.gateway.fleet
                assert fleet.find("third").engine.draining
                assert fleet.config_of("third").api_key == "sk-of-the-third-0123"
                assert fleet.find("down").engine.breaker.state == OPEN
                for user in (*users[1::3], *users[::3], *users[2::3]):  # (another order: who is not known goes by turns)
                    await chats(new.url, user)
                for response in (*made[1::2], *made[::2]):
                    await responds(new.url, previous_response_id=response)
                for before, engine, letter in zip(asked, (one, other), "ab", strict=True):
                    found = named(engine)
                    assert {user: found[user] for user in users} == {user: 2 * before[user] for user in users}
                    assert all(response.startswith(f"resp_{letter}") for response in found if response.startswith("resp_"))
                assert named(third) == Counter()
