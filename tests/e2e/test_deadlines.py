"""Deadlines of whole requests: the client's own (``x-request-timeout-ms``), the route's, the gateway's; wherever they fall.

Here over sockets, in real time; what all of them come to, and where, is in ``tests/conversations/test_deadlines.py``.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from fastgw.config import RouteConfig
from fastgw.sim import SimConfig, Simulator
from tests.e2e.gate import QUIET, Gate, tagged
from tests.support.client import RawClient, RawResponse, chat
from tests.support.gateway import Running, running

pytestmark = pytest.mark.together  # next to all of their time is waiting

LATE_S = 0.5  # how late a deadline may fall: a tick of the clock (0.1 s), and what else runs on this machine


def limited(ms: int | str, tag: str = "x", model: str = "m", **more: Any) -> bytes:
    return tagged(tag, model, headers=(("x-request-timeout-ms", str(ms)),), **more)


async def timed(gw: Running, data: bytes) -> tuple[RawResponse, float]:
    """The answer, and how long it took."""
    async with RawClient.connect("127.0.0.1", gw.port) as client:
        begun = time.monotonic()
        await client.send(data)
        answer = await client.read_response(10.0)
        return answer, time.monotonic() - begun


class TestBeforeTheFirstByte:
    @pytest.mark.parametrize(
        ("settings", "data", "seconds"),
        [
            ({}, limited(300), 0.3),
            ({"request_timeout_s": 0.3}, tagged("x"), 0.3),
            ({"routes": [RouteConfig(model="m", timeout_s=0.3)]}, tagged("x"), 0.3),
        ],
        ids=["client", "gateway", "route"],
    )
    async def test_S3_13_504_in_time(self, settings: dict[str, Any], data: bytes, seconds: float) -> None:
        """504, not before its time and not much later; the engine is told at once, and not blamed."""
        async with Gate() as engine, running([engine.url], **QUIET, **settings) as gw:
            answer, took = await timed(gw, data)
            assert (answer.status, answer.error["code"], answer.error["type"]) == (504, "upstream_timeout", "upstream_error")
            assert seconds <= took < seconds + LATE_S
            await gw.until("the engine is told", lambda: not engine.held)
            core = gw.gateway.core
            assert core is not None
            target = core.table.pools[0].engine
            assert (target.inflight, target.breaker.failures, gw.stats.upstream_open) == (0, 0, 0)
        (record,) = gw.records
        assert (record["status"], record["error"]) == (504, "upstream_timeout")

    async def test_an_answer_in_time_is_untouched(self) -> None:
        async with Gate(auto_s=0.05) as engine, running([engine.url], **QUIET) as gw:
            for _ in range(3):
                answer, _ = await timed(gw, limited(5000))
                assert answer.status == 200
            # It is an affair of the gateway's: the engine need not know.
            assert {one.header(b"x-request-timeout-ms") for one in engine.engine.requests} == {None}


class TestBadValues:
    @pytest.mark.parametrize(
        "value", ["", "0", "-1", "+5", "1.5", "1e3", "0x10", "abc", "10 20", "5,5", "10s", "9" * 13, "\xb2", "NaN", "000"]
    )
    async def test_400_and_nothing_reaches_the_engine(self, value: str) -> None:
        async with Gate(auto_s=0.0) as engine, running([engine.url], **QUIET) as gw:
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                await client.send(limited(value))
                answer = await client.read_response()
                assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
                assert "x-request-timeout-ms" in answer.error["message"]
                await client.send(tagged("well"))  # the connection goes on
                assert (await client.read_response()).status == 200
            assert engine.order == ["well"]

    @pytest.mark.parametrize("value", ["1000", "0001000", "9" * 12])
    async def test_good_values(self, value: str) -> None:
        async with Gate(auto_s=0.0) as engine, running([engine.url], **QUIET) as gw:
            assert (await timed(gw, limited(value)))[0].status == 200


class TestMidStream:

    async def test_a_client_that_does_not_read_has_no_more_time(self) -> None:
        """The deadline holds while the gateway waits for the client, too."""
        async with Simulator(SimConfig()) as sim, running([sim.url], **QUIET) as gw:
            client = await RawClient.connect("127.0.0.1", gw.port, rcvbuf=4096)
            data = chat("sim", True, max_tokens=100_000, headers=[("x-request-timeout-ms", "500")])
            begun = time.monotonic()
            await client.send(data)
            await gw.until("at work", lambda: sim.state.running == 1)
            await gw.until("given up", lambda: sim.state.running == 0, 10.0)
            assert 0.5 <= time.monotonic() - begun < 0.5 + 2 * LATE_S
            client.close()
            await gw.idle()


class TestOneConnection:

    async def test_a_body_that_does_not_come(self) -> None:
        """The deadline falls while the body is awaited: 408, and the engine never hears of it."""
        async with Gate() as engine, running([engine.url], **QUIET) as gw:
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                data = limited(300)
                begun = time.monotonic()
                await client.send(data[:-10])
                answer = await client.read_response()
                assert (answer.status, answer.error["type"]) == (408, "invalid_request_error")
                assert 0.3 <= time.monotonic() - begun < 0.3 + LATE_S
            assert not engine.order
