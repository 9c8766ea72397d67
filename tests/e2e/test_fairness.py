"""Connections take turns: what one of them sends costs others no more than a share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from fastgw.net.client import MAX_REFUSALS
from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, chat, chat_body, request
from tests.support.gateway import Running, running

KEY = "sk-tenant"
FLOODS = {
    "answered here": request("GET", "/healthz", headers=[("X-Request-Id", "flood")]),
    "without a key": chat("m", headers=[("X-Request-Id", "flood")]),
    "unknown paths": request("GET", "/nowhere", headers=[("X-Request-Id", "flood")]),
    "not json": chat(body=b"{", headers=[("X-Request-Id", "flood")], key=KEY),
}


@asynccontextmanager
async def flooded(gw: Running, data: bytes, connections: int) -> AsyncIterator[None]:
    """Connections that have as much of ``data`` under way as the sockets take, all the time."""

    async def flood() -> None:
        while True:
            async with RawClient.connect(gw.url) as client:
                try:
                    for _ in range(50):
                        sending = asyncio.ensure_future(client.send(data * (60_000 // len(data))))
                        while not sending.done():
                            if not await client.read_some(5.0):
                                break
                        await sending
                except (ConnectionError, TimeoutError, AssertionError):
                    pass

    floods = [asyncio.ensure_future(flood()) for _ in range(connections)]
    try:
        yield
    finally:
        for one in floods:
            one.cancel()
        await asyncio.gather(*floods, return_exceptions=True)


@pytest.mark.parametrize("what", FLOODS)
@pytest.mark.parametrize("connections", [1, 8])
async def test_one_request_of_each_connection_in_its_turn(what: str, connections: int) -> None:
    """Between a request's arrival and its answer each flooding connection has a few requests served, not its thousand."""
    async with running(api_keys=[KEY]) as gw, RawClient.connect(gw.url) as probe:
        async with flooded(gw, FLOODS[what], connections):
            await gw.until("the flood has come", lambda: len(gw.raw_records) > 50 * connections)
            between: list[int] = []
            for turn in range(30):
                await asyncio.sleep(0.002)
                before = len(gw.raw_records)
                await probe.send(request("GET", "/liveness", headers=[("X-Request-Id", f"probe-{turn}")]))
                assert (await probe.read_response()).status == 200
                ids = [record.request_id for record in gw.raw_records[before:]]
                at = before + ids.index(b"probe-%d" % turn)
                between.append(at - before)
        counted = Counter(record.request_id for record in gw.raw_records)
        assert counted[b"flood"] > 60 * connections, "it was no flood"
    between.sort()
    # (The loop that floods is the one that serves: what was on its way when the probe was sent goes before it.)
    assert between[len(between) // 2] <= 6 * connections, between
    assert between[-1] <= 20 * connections, between


async def test_pipelined_requests_are_all_served_in_order() -> None:
    async with Simulator(SimConfig(models=("m",))) as sim, running([sim.url]) as gw, RawClient.connect(gw.url) as client:
        data = [request("GET", "/healthz"), chat("m"), request("GET", "/v1/models"), chat(body=b"no")] * 100
        sending = asyncio.ensure_future(client.send(b"".join(data)))
        statuses = [(await client.read_response()).status for _ in data]
        await sending
        assert statuses == [200, 200, 200, 400] * 100


@pytest.mark.parametrize(
    ("data", "status", "settings"),
    [
        (chat("m", key="sk-wrong"), 401, {"api_keys": [KEY]}),
        (chat("m"), 401, {"api_keys": [KEY]}),
        (chat("m", key=KEY), 429, {"api_keys": [KEY], "rate_limit_per_minute": 1}),
        (chat("m", host="page.example"), 421, {"allowed_hosts": []}),
        (request("POST", "/v1/chat/completions", headers=[("Origin", "https://page.example")], body=b"{}"), 403, {}),
    ],
)
async def test_who_is_refused_time_and_again_is_sent_away(data: bytes, status: int, settings: dict[str, Any]) -> None:
    async with (
        Simulator(SimConfig(models=("m",))) as sim,
        running([sim.url], **settings) as gw,
        RawClient.connect(gw.url) as client,
    ):
        if status == 429:
            assert (await client.ask(data)).status == 200
        for turn in range(MAX_REFUSALS):
            await client.send(data)
            answer = await client.read_response()
            assert (answer.status, answer.complete) == (status, True)
            assert (answer.header("connection") == "close") == (turn == MAX_REFUSALS - 1)
        assert await client.read_until_closed() == (b"", "fin")


@pytest.mark.parametrize(
    ("between", "status"),
    [
        (request("GET", "/liveness"), 200),
        (request("GET", "/healthz"), 200),
        (request("OPTIONS", "/v1/chat/completions"), 204),
        (request("GET", "/nowhere"), 404),
    ],
)  # fmt: skip
async def test_what_anybody_is_answered_is_no_good_request(between: bytes, status: int) -> None:
    async with running(api_keys=[KEY]) as gw, RawClient.connect(gw.url) as client:
        for turn in range(MAX_REFUSALS):
            if turn:
                assert (await client.ask(between)).status == status
            await client.send(chat("m", key="sk-wrong"))
            answer = await client.read_response()
            assert answer.status == 401
            assert (answer.header("connection") == "close") == (turn == MAX_REFUSALS - 1)
        assert await client.read_until_closed() == (b"", "fin")


async def test_one_good_request_in_between_and_the_count_begins_anew() -> None:
    async with (
        Simulator(SimConfig(models=("m",))) as sim,
        running([sim.url], api_keys=[KEY]) as gw,
        RawClient.connect(gw.url) as client,
    ):
        for _ in range(5):
            for _ in range(MAX_REFUSALS - 1):
                await client.send(chat("m", key="sk-wrong"))
                assert (await client.read_response()).header("connection") is None
            assert (await client.ask(chat("m", key=KEY))).status == 200


async def test_large_bodies_come_one_by_one_and_others_in_between() -> None:
    """Reading a large body takes milliseconds: between two of them everybody else has a turn."""
    large = chat(body=chat_body("m", content="x" * 400_000), headers=[("X-Request-Id", "large")])
    async with (
        Simulator(SimConfig(models=("m",), max_model_len=1 << 20)) as sim,
        running([sim.url]) as gw,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(20)]
        probe = await stack.enter_async_context(RawClient.connect(gw.url))
        core = gw.gateway.core
        assert core is not None
        turns: list[int] = []
        for client in clients:
            await client.send(large[:-1])
        await gw.until("all but the ends have come", lambda: gw.stats.body_bytes_open >= 20 * 400_000)
        for client in clients:
            client.sock.send(large[-1:])
        await probe.send(request("GET", "/liveness"))
        assert (await probe.read_response()).status == 200
        turns.append(sum(1 for one in core.connections if getattr(one.stream.sink, "facts", None) is not None))
        assert turns[0] < len(clients), "the probe waited for all of them"
        for client in clients:
            assert (await client.read_response(20.0)).status in (200, 400)
