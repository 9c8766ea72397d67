"""Deadlines of whole requests: the client's own (``x-request-timeout-ms``), the route's, the gateway's; wherever they fall."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from fastgw.config import RouteConfig
from fastgw.sim import SimConfig, Simulator
from tests.e2e.gate import QUIET, Gate, asking, tagged, waiting
from tests.e2e.test_cases_j_queue import judge_refusal
from tests.support.client import RawClient, RawResponse, chat, request
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
            # The client asks for less than the gateway or the route would give.
            ({"request_timeout_s": 5.0}, limited(300), 0.3),
            ({"routes": [RouteConfig(model="m", timeout_s=5.0)]}, limited(300), 0.3),
            # It asks for more: capped.
            ({"request_timeout_s": 0.3}, limited(60_000), 0.3),
            ({"max_request_timeout_s": 0.3}, limited(60_000), 0.3),
            ({"request_timeout_s": 0.3, "max_request_timeout_s": 0.7}, limited(60_000), 0.7),
            ({"routes": [RouteConfig(model="m", timeout_s=0.3)]}, limited(60_000), 0.3),
            # A route may give more than the gateway does, and less.
            ({"request_timeout_s": 0.2, "routes": [RouteConfig(model="m", timeout_s=0.6)]}, tagged("x"), 0.6),
            ({"request_timeout_s": 5.0, "routes": [RouteConfig(model="m", timeout_s=0.3)]}, tagged("x"), 0.3),
            ({"request_timeout_s": 0.3, "routes": [RouteConfig(model="other", timeout_s=5.0)]}, tagged("x"), 0.3),
        ],
        ids=[
            "client", "gateway", "route", "client under gateway", "client under route", "capped by gateway",
            "capped by maximum", "maximum over gateway", "capped by route", "route over gateway", "route under gateway",
            "another route",
        ],
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

    async def test_many_deadlines_are_no_reason_to_open_the_breaker(self) -> None:
        """The client's impatience says nothing about the engine."""
        async with Gate() as engine, running([engine.url], **QUIET, cb_failure_threshold=2) as gw, asking(gw) as ask:
            asked = [await ask(limited(50)) for _ in range(6)]
            assert {(await one.answer()).status for one in asked} == {504}
            engine.auto_s = 0.0
            assert (await timed(gw, tagged("well")))[0].status == 200

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


class TestInTheQueue:
    @pytest.mark.parametrize("limit", ["engine_max_concurrent", "key_concurrency", "max_concurrent"])
    async def test_S5_08_the_deadline_falls_while_it_waits(self, limit: str) -> None:
        """503 `queue_timeout`: no engine has worked on it, so it may be sent again."""
        async with Gate() as engine, running([engine.url], **QUIET, **{limit: 1}) as gw, asking(gw) as ask:
            first = await ask(tagged("a"))
            await engine.has("a")
            late = await ask(limited(300, "late"))
            judge_refusal(await late.answer(), 503, "queue_timeout", "upstream_error")
            assert 0.3 <= time.monotonic() - late.sent_at < 0.3 + LATE_S
            assert gw.stats.queue_waiting_open == 0
            engine.finish()
            assert (await first.answer()).status == 200
            assert engine.order == ["a"]
        (record,) = [record for record in gw.records if record["status"] == 503]
        assert 0.3 <= record["queued_s"] < 0.3 + LATE_S

    async def test_what_is_left_after_the_wait_counts(self) -> None:
        """The deadline is the whole request's: a wait in the queue gives no new time."""
        async with Gate() as engine, running([engine.url], **QUIET, engine_max_concurrent=1) as gw, asking(gw) as ask:
            await ask(tagged("a"))
            await engine.has("a")
            second = await ask(limited(600, "b"))
            await waiting(gw, 1)
            await asyncio.sleep(0.3)
            engine.finish("a")
            answer = await second.answer()
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            assert 0.6 <= time.monotonic() - second.sent_at < 0.6 + LATE_S
            assert engine.order == ["a", "b"]

    async def test_a_route_may_wait_longer_than_others(self) -> None:
        """The route's time holds from the request's begin, in the queue as well."""
        routes = [RouteConfig(model="patient", timeout_s=5.0)]
        settings = {"request_timeout_s": 0.3, "engine_max_concurrent": 1, "routes": routes}
        async with Gate() as engine, running([engine.url], **QUIET, **settings) as gw, asking(gw) as ask:
            await ask(tagged("a", "patient"))
            await engine.has("a")
            patient, other = await ask(tagged("b", "patient")), await ask(tagged("c", "other"))
            assert (await other.answer()).status == 503
            await asyncio.sleep(0.2)
            engine.finish()
            await engine.has("b")
            engine.finish()
            assert (await patient.answer()).status == 200


class TestMidStream:
    @pytest.mark.parametrize("by", ["client", "route", "gateway"])
    async def test_S3_13_a_stream_is_cut(self, by: str) -> None:
        """The events so far, one typed error event, and an abort: no `[DONE]`, no clean end. The engine stops working."""
        settings: dict[str, Any] = {
            "client": {},
            "route": {"routes": [RouteConfig(model="sim", timeout_s=0.4)]},
            "gateway": {"request_timeout_s": 0.4},
        }[by]
        headers = [("x-request-timeout-ms", "400")] if by == "client" else []
        async with Simulator(SimConfig(itl_ms=10.0)) as sim, running([sim.url], **QUIET, **settings) as gw:
            answer, took = await timed(gw, chat("sim", True, max_tokens=2000, headers=headers))
            assert (answer.status, answer.complete) == (200, False)
            assert 0.4 <= took < 0.4 + LATE_S
            events = answer.events()
            assert len(events) > 10
            assert '"upstream_timeout"' in events[-1]
            assert not any('"error"' in event or event == "[DONE]" for event in events[:-1])
            await gw.until("the engine stops", lambda: sim.state.running == 0)
            assert sim.state.cancelled == 1
            core = gw.gateway.core
            assert core is not None
            assert core.table.pools[0].engine.breaker.failures == 0
        (record,) = gw.records
        assert (record["status"], record["outcome"]) == (200, "upstream_timeout")

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
    async def test_each_request_has_its_own_deadline(self) -> None:
        """On a connection that is kept, a request's deadline is its own: neither the last one's nor none."""
        async with (
            Gate() as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for ms in (300, 0, 800, 300, 0):
                begun = time.monotonic()
                await client.send(limited(ms, "x") if ms else tagged("x"))
                if ms:
                    answer = await client.read_response()
                    assert answer.status == 504
                    assert ms / 1e3 <= time.monotonic() - begun < ms / 1e3 + LATE_S
                else:
                    await engine.has("x")
                    await asyncio.sleep(0.6)  # longer than the one before had
                    assert len(engine.held) == 1
                    engine.finish()
                    assert (await client.read_response()).status == 200

    async def test_the_same_head_again(self) -> None:
        """The second request with the same head is not judged anew, and has its deadline all the same."""
        async with Gate() as engine, running([engine.url], **QUIET) as gw:
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                for _ in range(3):
                    begun = time.monotonic()
                    await client.send(limited(250))
                    assert (await client.read_response()).status == 504
                    assert 0.25 <= time.monotonic() - begun < 0.25 + LATE_S
                # An idle connection has no deadline of a request's.
                await asyncio.sleep(0.5)
                await client.send(request("GET", "/healthz"))
                assert (await client.read_response()).status == 200
            assert len(engine.order) == 3

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


class TestWithRetries:
    async def test_the_deadline_holds_over_engines(self) -> None:
        """A first engine that is silent, a second one too: one deadline for both."""
        settings = {"first_byte_timeout_s": 0.3, "retry_fresh": True, "max_retries": 5, "retry_budget_percent": 100}
        async with Gate() as one, Gate() as two, running([one.url, two.url], **QUIET, **settings) as gw:
            answer, took = await timed(gw, limited(500))
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            assert 0.5 <= took < 0.5 + LATE_S
            await gw.until("nobody works", lambda: not one.held and not two.held)
