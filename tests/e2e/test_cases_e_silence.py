"""CASES, group E: what is not held against an engine. (Its silence and its refusals are in `test_ways_engines.py`.)"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from tests.e2e.engines import (
    QUIET,
    fine,
    pool_engine,
    posts,
    scripted,
)
from tests.support.gateway import running


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
