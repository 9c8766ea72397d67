"""How many connections there are to an engine, and when: as a capture of the loopback has it, and as the engine counts them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from tests.e2e.streams import DONE, event
from tests.e2e.test_ways_engines import fine, is_fine
from tests.support.capture import RST, capture
from tests.support.requests import request
from tests.support.ways.h2 import H2Engine
from tests.support.ways.way import Way, say

SSE = b"content-type: text/event-stream"


@pytest.mark.parametrize("shipped", [False, True], ids=["told", "shipped default"])
@pytest.mark.parametrize("way", [Way("h1", False, p, tls) for p in ("h1", "h2") for tls in (False, True)], ids=str)
async def test_the_first_request_after_the_start_meets_a_warm_connection(way: Way, shipped: bool) -> None:
    """By capture: from the client's first byte on nobody dials, and what it asked for goes over a connection from before."""
    async with way.engine(fine) as engine:
        if isinstance(engine, H2Engine):
            engine.probed = shipped
        with capture(engine.port) as passed:
            target = msgspec.structs.replace(way.target(engine.url), warm_connections=1)
            if shipped:
                target = msgspec.structs.replace(target, protocol="auto")
            async with way.gateway(engines=[target]) as gw, way.client(gw) as client:
                for _ in range(500):
                    if (await client.asks(request("GET", "/ready"))).status == 200:
                        break
                    await asyncio.sleep(0.01)
                before = len(passed.look())
                is_fine(await client.asks(say()))
                began, went = passed.packets[:before], passed.look()[before:]
                assert [one for one in went if one.dials] == []
                [asked] = {one.other for one in went if one.to_port and one.payload}
                assert asked in {one.other for one in began if one.dials}
                assert asked not in {one.other for one in began if one.flags & RST}
                if not way.engine_tls:
                    assert any(b"messages" in one.payload for one in went if one.other == asked)


@pytest.mark.deadline_s(60)
@pytest.mark.parametrize("limit", [100, 250])
async def test_a_thousand_streams_take_as_many_connections_as_the_engine_asks_for_and_one(limit: int) -> None:
    way = Way("h2", False, "h2", False)
    count = 1000
    go_on = asyncio.Event()

    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(event("a"))
        await go_on.wait()
        await turn.data(DONE)
        await turn.end()

    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(way.engine(play, MAX_CONCURRENT_STREAMS=limit))
        gw = await stack.enter_async_context(way.gateway(engine.url))
        clients = [await stack.enter_async_context(way.client(gw)) for _ in range(10)]
        calls = [await client.says(say(stream=True)) for client in clients for _ in range(count // 10)]
        await gw.until("all are under way", lambda: len(engine.turns) == count, 20.0)
        by_line: dict[int, int] = {}
        for turn in engine.turns:
            by_line[turn.connection] = by_line.get(turn.connection, 0) + 1
        assert len(by_line) <= -(-count // limit) + 1
        assert max(by_line.values()) <= limit
        go_on.set()
        for call in calls:
            answer = await call.whole(20.0)
            assert (answer.complete, answer.body) == (True, event("a") + DONE)
