"""CASES, group E: silence (E13), refusals of the engine's own (E15), and what is not held against it. One class per row."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.e2e.engines import (
    EVENT,
    QUIET,
    SSE_HEAD,
    aborted,
    ask,
    chunk,
    fine,
    pool_engine,
    posts,
    refused,
    scripted,
)
from tests.support.client import RawClient
from tests.support.gateway import Running, running


@contextlib.asynccontextmanager
async def silence(said: list[bytes], **settings: Any) -> AsyncIterator[tuple[ScriptedEngine, Running, RawClient]]:
    """An engine that says these pieces, 50 ms apart, and then nothing."""

    async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
        for piece in said:
            await conn.send(piece)
            await asyncio.sleep(0.05)
        await conn.wait_closed(10.0)

    async with (
        scripted(speaks) as engine,
        running([engine.url], **QUIET, **settings) as gw,
        RawClient.connect("127.0.0.1", gw.port) as client,
    ):
        yield engine, gw, client


@pytest.mark.together
class TestE13:
    """Silence: E504 while nothing has gone down, else the event `upstream_timeout` and an abort, at its limit; keep-alive
    comments are no sign of life."""

    @pytest.mark.parametrize("said", [[], [b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"]])
    async def test_E13_no_answer(self, said: list[bytes]) -> None:
        async with silence(said, first_byte_timeout_s=0.4) as (engine, gw, client):
            begun = time.monotonic()
            refused(await ask(client), 504)
            assert 0.35 <= time.monotonic() - begun < 0.4 + 0.5
            # The engine is told to stop.
            await engine.connections[-1].wait_closed(0.5)
            assert gw.records[0]["error"] == "upstream_timeout"
            assert pool_engine(gw).failures_total == 1
            refused(await ask(client), 504)  # K

    @pytest.mark.parametrize(
        "said",
        [[SSE_HEAD, chunk(EVENT) * 2, chunk(EVENT[:30])]],
    )
    async def test_E13_mid_stream(self, said: list[bytes]) -> None:
        async with silence(said, between_bytes_timeout_s=0.4) as (engine, gw, client):
            begun = time.monotonic()
            answer = await ask(client, stream=True)
            assert 0.35 <= time.monotonic() - begun < 0.4 + 0.15 + 0.5
            aborted(answer)
            assert answer.status == 200
            assert '"code":"upstream_timeout"' in answer.events()[-1]
            assert answer.body.count(b'"error"') == 1
            await engine.connections[-1].wait_closed(0.5)
            assert [record["outcome"] for record in gw.records] == ["upstream_timeout"]


class TestE15:
    """The engine's own refusals pass unchanged, once; only 5xx that are not back-pressure count against it."""

    @pytest.mark.parametrize("policy", ["round_robin"])
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("status", "counts"),
        [(408, 0), (429, 0), (500, 1)],
    )
    async def test_E15_passes_unchanged_but_our_fields(self, status: int, counts: int, stream: bool, policy: str) -> None:
        body = b'{"object":"error", "message": "caf\xc3\xa9",  "type":"NotEnough","param":null,"code":%d}\n' % status
        head = b"HTTP/1.1 %d Whatever It Says\r\nretry-after: 17\r\nretry-after-ms: 16500\r\nx-should-retry: false\r\n" % status

        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(head + b"Content-Type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

        async with (
            scripted(speaks) as engine,
            scripted(speaks) as other,
            running([engine.url, other.url], policy=policy, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client, stream=stream)
            assert (answer.status, answer.body, answer.complete) == (status, body, True)
            assert answer.header("retry-after") == "17"
            assert (answer.header("retry-after-ms"), answer.header("x-should-retry")) == (None, None), "the gateway's own words"
            assert answer.header("content-type") == "application/json"
            assert len(posts(engine)) + len(posts(other)) == 1
            assert pool_engine(gw, 0).failures_total + pool_engine(gw, 1).failures_total == counts
            assert pool_engine(gw, 0).healthy is not False
            assert (await ask(client, stream=stream)).status == status  # K


@pytest.mark.together
class TestHonestAccounts:
    """What the gateway or the client did is not held against an engine, and one odd engine does not blind the probes."""

    async def test_a_name_that_cannot_be_looked_up_does_not_end_the_probes(self) -> None:
        async with scripted(fine) as engine:
            names = [f"http://{'a' * 70}.example:80", engine.url]
            async with running(names, health_interval_s=0.1, warm_connections=0) as gw:
                await gw.until("the good engine is well", lambda: pool_engine(gw, 1).healthy is True)
                seen = len(engine.requests)
                await gw.until("probes go on", lambda: len(engine.requests) >= seen + 2)

    async def test_an_engine_that_restarts_teaches_no_idle_limit(self) -> None:
        async with scripted(fine) as engine, running([engine.url], health_interval_s=60.0, warm_connections=1) as gw:
            core = gw.gateway.core
            assert core is not None
            (pool,) = core.table.pools
            await gw.until("warm", lambda: len(pool.idle) == 1)
            await asyncio.sleep(0.7)
            before = pool.idle_limit_s
            await engine.stop()
            await gw.until("gone", lambda: pool.connections == 0)
            assert pool.idle_limit_s == before

    async def test_a_warm_dial_that_hangs_is_not_left_behind(self) -> None:
        """``running`` itself asserts that no engine connection is left."""
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    waiting.connect(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            async with running([url], health_interval_s=60.0, health_timeout_s=0.1, warm_connections=1) as gw:
                await gw.until("dialling", lambda: gw.stats.upstream_open == 1)

    async def test_the_total_limit_holds_while_a_body_trickles_in(self) -> None:
        async with (
            scripted(fine) as engine,
            running([engine.url], **QUIET, request_timeout_s=0.4) as gw, await gw.client() as client,
        ):
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
            start = time.monotonic()
            while not gw.records and time.monotonic() - start < 3:
                await client.send(b"x" * 300)
                await asyncio.sleep(0.02)
            assert (await client.read_response()).status == 408
            assert gw.records[0]["detail"] == "request_timeout_s reached within the body"
            assert posts(engine) == []

    async def test_a_connection_over_the_cap_is_recorded_with_its_time(self) -> None:
        async with running([], max_connections=1) as gw, await gw.client(), await gw.client() as refused:
            assert (await refused.read_response()).status == 503
            # Records are stamped by the monotonic clock; the log turns that into a date.
            assert abs(gw.records[0]["at"] - time.monotonic()) < 5
