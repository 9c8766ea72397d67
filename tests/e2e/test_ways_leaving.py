"""CASES, group I, on all ways: a client leaves, and its engine stops working at once, whatever the two speak.

A client of HTTP/2 leaves by a reset of the one request, or by the end of its connection; an engine of HTTP/2 sees a reset with
CANCEL, and keeps its connection, one of HTTP/1.1 sees its connection close.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from tests.e2e.engines import pool_engine
from tests.e2e.streams import DONE, event
from tests.e2e.test_cases_e_upstream import black_hole
from tests.support.ways.way import Way, all_ways, and_tunnels, plain_ways, say

SSE = b"content-type: text/event-stream"
JSON = b"content-type: application/json"
SOON_S = 0.020

STAGES = (
    "before the head of a stream",
    "before the head of a plain answer",
    "before an event, behind the head",
    "within an event",
    "mid-stream",
    "within a plain answer",
)


async def waits_at(stage: str, turn: Any) -> None:
    if stage in STAGES[2:5]:
        await turn.head(SSE)
        await turn.data({"within an event": event("a") + event("b")[:20], "mid-stream": event("a") * 3}.get(stage, b""))
    elif stage == "within a plain answer":
        await turn.head(JSON, length=900)
        await turn.data(b'{"id"')
    await turn.given_up(60.0)


@and_tunnels
async def test_I1_the_engine_is_told_at_once_and_not_blamed(way: Way) -> None:
    now = STAGES[0]

    async def play(turn: Any) -> None:
        await waits_at(now, turn)

    async with way.engine(play) as engine, way.gateway(engine.url) as gw:
        for stage, how in [(stage, how) for stage in STAGES for how in way.leavings]:
            now = stage
            best = 1.0
            for _ in range(5):  # the machine may be busy with others: the best of some tries counts
                before = len(engine.turns)
                async with way.client(gw) as client:
                    call = await client.says(say(stream="plain" not in stage))
                    await gw.until("the engine waits", lambda before=before: len(engine.turns) > before)
                    if "before" not in stage:
                        await call.head()
                    await asyncio.sleep(0.001)
                    left = call.leaves(how)
                    best = min(best, await engine.turns[-1].given_up(2.0) - left)
                    await gw.idle(1.0)
                record = gw.records[-1]
                assert (record["outcome"], record["error"]) == ("client_closed", "client_closed"), (stage, how)
                assert record["status"] == (499 if "before" in stage else 200), (stage, how)
                if best < SOON_S:
                    break
            assert best < SOON_S, (stage, how, best)
        own = pool_engine(gw)
        assert (own.inflight, own.failures_total, own.failures) == (0, 0, 0)
        assert gw.stats.cancelled == len(engine.turns)
        if way.engine_protocol == "h2":
            assert {turn.reset for turn in engine.turns} == {"CANCEL"}
            assert len(engine.connections) <= 3, "one of the probe's, and one for all of them"
        else:
            assert gw.stats.upstream_open == way.kept


@all_ways
async def test_I1_what_was_produced_is_charged(way: Way) -> None:
    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(event("a") * 3)
        await turn.given_up(60.0)

    async with way.engine(play) as engine, way.gateway(engine.url) as gw:
        async with way.client(gw) as client:
            call = await client.says(say(stream=True))
            await call.until(event("a") * 3)
            call.leaves(way.leavings[0])
            await gw.idle()
        record = gw.records[0]
        assert (record["completion_tokens"], record["estimated"]) == (3, True)
        assert record["bytes_out"] > 3 * len(event("a"))
        assert record["ttft_s"] > 0


@all_ways
async def test_I1_while_its_request_is_still_arriving_no_engine_hears_of_it(way: Way) -> None:
    async def play(turn: Any) -> None:
        raise AssertionError("it was asked")

    async with way.engine(play) as engine, way.gateway(engine.url) as gw:
        for at, how in enumerate(way.leavings, 1):
            async with way.client(gw) as client:
                call = await client.says(say(stream=True)[:-10])
                await gw.until("the exchange is open", lambda: gw.stats.exchanges_open == 1)
                call.leaves(how)
                await gw.idle(1.0)
            assert len(gw.records) == at
            assert gw.records[-1]["status"] == 499
        assert engine.turns == []


@plain_ways
async def test_I1_while_it_waits_in_the_queue_or_for_a_connection(way: Way) -> None:
    async def play(turn: Any) -> None:
        await turn.given_up(60.0)

    limits = {"engine_max_concurrent": 1, "queue_timeout_s": 20.0}
    async with way.engine(play) as engine, way.gateway(engine.url, **limits) as gw, way.client(gw) as first:
        call = await first.says(say())
        await gw.until("the engine works", lambda: len(engine.turns) == 1)
        for how in way.leavings:
            async with way.client(gw) as client:
                waiting = await client.says(say())
                await gw.until("it waits", lambda: gw.stats.queue_waiting_open == 1)
                waiting.leaves(how)
                await gw.until("its place is free", lambda: gw.stats.queue_waiting_open == 0, 1.0)
        assert len(engine.turns) == 1
        call.leaves(way.leavings[0])
        await gw.idle()
    with black_hole() as port:
        async with way.gateway(f"http://127.0.0.1:{port}", connect_timeout_s=20.0, health_timeout_s=0.1) as gw:
            for how in way.leavings:
                async with way.client(gw) as client:
                    waiting = await client.says(say())
                    await gw.until("it dials", lambda: gw.stats.exchanges_open == 1 and gw.stats.upstream_open >= 1)
                    waiting.leaves(how)
                    await gw.idle(1.0)
            assert {(record["status"], record["outcome"]) for record in gw.records} == {(499, "client_closed")}


@and_tunnels
async def test_H11_of_many_streams_one_is_given_up_and_the_others_go_on(way: Way) -> None:
    count, gone = 25, 17
    go_on = asyncio.Event()

    async def play(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(event("a"))
        await go_on.wait()
        await turn.data(event("b") + DONE)
        await turn.end()

    async with way.engine(play) as engine, way.gateway(engine.url) as gw, AsyncExitStack() as stack:
        many = count if way.client_protocol == "h1" else 1
        clients = [await stack.enter_async_context(way.client(gw)) for _ in range(many)]
        calls = [await clients[at % many].says(say(stream=True, content=f"number {at}")) for at in range(count)]
        for call in calls:
            await call.until(event("a"))
        [turn] = [turn for turn in engine.turns if f"number {gone}\"".encode() in turn.request.body]
        left = calls[gone].leaves(way.leavings[0])
        assert await turn.given_up() - left < SOON_S * 5
        go_on.set()
        for call in calls[:gone] + calls[gone + 1 :]:
            answer = await call.whole()
            assert (answer.complete, answer.body) == (True, event("a") + event("b") + DONE)
        await gw.idle()
        assert sorted(record["outcome"] for record in gw.records) == ["client_closed"] + ["ok"] * (count - 1)
