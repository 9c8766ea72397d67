"""Requests that find no place: refused, sent elsewhere, or waiting in nobody's way."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.keyring import Keyring
from tests.e2e.gate import QUIET, Asked, Gate, asking, tagged, waiting
from tests.e2e.served import room_for
from tests.e2e.test_cases_j_queue import judge_refusal
from tests.e2e.test_cases_j_queue_left import account_of
from tests.support.client import request
from tests.support.gateway import running

pytestmark = pytest.mark.together  # next to all of their time is waiting


class TestOnCapacity:
    async def test_S3_13_reject(self) -> None:
        """429 at once; the engine sees nothing; when there is room again it is used."""
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, on_capacity="reject") as gw,
            asking(gw) as ask,
        ):
            first = await ask(tagged("a"))
            await engine.has("a")
            refused = await ask(tagged("b"))
            judge_refusal(await refused.answer(), 429, "at_capacity", "rate_limit_error")
            assert time.monotonic() - refused.sent_at < 0.5
            assert (gw.stats.limited_concurrency, gw.stats.queue_waiting_open) == (1, 0)
            engine.finish()
            assert (await first.answer()).status == 200
            await refused.client.send(tagged("c"))
            await engine.has("c")
            engine.finish()
            assert (await refused.client.read_response()).status == 200
            assert engine.order == ["a", "c"]

    async def test_S5_09_reject_for_a_key(self) -> None:
        settings = {"key_concurrency": 1, "on_capacity": "reject"}
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, **settings, api_keys=["k-1", "k-2"]) as gw,
            asking(gw) as ask,
        ):
            await ask(tagged("a", key="k-1"))
            await engine.has("a")
            judge_refusal(
                await (await ask(tagged("b", key="k-1"))).answer(), 429, "concurrency_exceeded", "rate_limit_error"
            )
            await ask(tagged("c", key="k-2"))
            await engine.has("a", "c")
            engine.finish()
            await gw.idle()
            assert [account_of(gw, key).inflight for key in ("k-1", "k-2")] == [0, 0]

    async def test_S3_13_a_route_overrides(self) -> None:
        """One deployment queues where the rest is refused, and the other way round."""
        for everyone, one in (("reject", "queue"), ("queue", "reject")):
            routes = [RouteConfig(model="a", max_concurrent=1, on_capacity=one), RouteConfig(model="b", max_concurrent=1)]
            async with (
                Gate() as engine,
                running([engine.url], **QUIET, on_capacity=everyone, routes=routes) as gw,
                asking(gw) as ask,
            ):
                for model in "ab":
                    await ask(tagged(model, model))
                await engine.has("a", "b")
                seconds = {model: await ask(tagged(f"{model}2", model)) for model in "ab"}
                queued, refused = ("a", "b") if one == "queue" else ("b", "a")
                assert (await seconds[refused].answer()).status == 429
                await waiting(gw, 1)
                engine.auto_s = 0.0
                engine.finish()
                assert (await seconds[queued].answer()).status == 200

    async def test_S3_13_fallback(self) -> None:
        """The body's model becomes the fallback's, the answer says so; a full fallback means waiting for one's own."""
        async with Gate() as large, Gate() as small:
            engines = [
                EngineConfig(url=large.url, models=["large"], max_concurrent=1),
                EngineConfig(url=small.url, models=["small"], max_concurrent=1),
            ]
            routes = [RouteConfig(model="large", on_capacity="fallback", fallback=["nobody's", "small"])]
            async with running(engines, **QUIET, routes=routes) as gw, asking(gw) as ask:
                first = await ask(tagged("a", "large"))
                await large.has("a")
                second = await ask(tagged("b", "large", temperature=0.5))
                await small.has("b")
                assert b'"model": "small"' in small.held[0].seen.body or b'"model":"small"' in small.held[0].seen.body
                assert b'"temperature": 0.5' in small.held[0].seen.body
                third = await ask(tagged("c", "large"))
                await waiting(gw, 1)
                small.finish()
                answer = await second.answer()
                assert (answer.status, answer.header("x-fallback-model")) == (200, "small")
                await asyncio.sleep(0.05)
                assert small.order == ["b"]  # who waits, waits for the model that it asked for
                large.finish()
                answer = await first.answer()
                assert (answer.status, answer.header("x-fallback-model")) == (200, None)
                await large.has("c")
                large.finish()
                answer = await third.answer()
                assert (answer.status, answer.header("x-fallback-model")) == (200, None)
                assert b"large" in large.engine.requests[-1].body
            assert [(record["model"], record["status"]) for record in gw.records] == [("large", 200)] * 3

    async def test_S3_13_no_fallback_to_what_is_no_better(self) -> None:
        """Not to a model whose engine is down, nor to one that the key may not use."""
        async with Gate() as large, Gate() as small:
            engines = [
                EngineConfig(url=large.url, models=["large"], max_concurrent=1),
                EngineConfig(url=small.url, models=["small"]),
            ]
            routes = [RouteConfig(model="large", on_capacity="fallback", fallback=["small"])]
            async with running(engines, **QUIET, routes=routes, api_keys=["k"]) as gw, asking(gw) as ask:
                account_of(gw, "k").models = frozenset({"large"})
                await ask(tagged("a", "large", key="k"))
                await large.has("a")
                second = await ask(tagged("b", "large", key="k"))
                await waiting(gw, 1)
                account_of(gw, "k").models = None
                core = gw.gateway.core
                assert core is not None
                target = core.table.pools[1].engine
                await gw.until("its first probe is over", lambda: target.probed_at > 0)
                target.healthy = False
                third = await ask(tagged("c", "large", key="k"))
                await waiting(gw, 2)
                large.auto_s = 0.0
                large.finish()
                assert [(await asked.answer()).status for asked in (second, third)] == [200, 200]
                assert not small.order


class TestNobodyWaitsInVain:
    """Who finds room goes at once, whoever else may be waiting for something that he does not need."""

    @pytest.mark.parametrize("on_capacity", ["queue", "reject"])
    async def test_others_wait_for_their_own(self, on_capacity: str) -> None:
        routes = [RouteConfig(model="a", max_concurrent=1, on_capacity="queue")]
        settings = {"max_concurrent": 10, "on_capacity": on_capacity, "routes": routes}
        async with Gate() as engine, running([engine.url], **QUIET, **settings) as gw, asking(gw) as ask:
            await ask(tagged("a", "a"))
            await engine.has("a")
            for number in range(3):
                await ask(tagged("a", "a"))
                await waiting(gw, number + 1)
            engine_saw = []
            for _ in range(5):
                begun = time.monotonic()
                await ask(tagged("b", "b"))
                count = len(engine.held)
                await gw.until("one more is there", lambda count=count: len(engine.held) > count, 1.0)
                engine_saw.append(time.monotonic() - begun)
            assert min(engine_saw) < 0.05, engine_saw
            assert max(engine_saw) < 0.2, engine_saw
            await engine.has("a", "b", "b", "b", "b", "b")
            engine.auto_s = 0.0
            engine.finish()
            await gw.idle()
        assert {record["status"] for record in gw.records} == {200}

    async def test_a_key_at_its_limit_keeps_nobody_else(self) -> None:
        settings = {"max_concurrent": 10, "key_concurrency": 1}
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, **settings, api_keys=["k-1", "k-2", "k-3"]) as gw,
            asking(gw) as ask,
        ):
            for _ in range(3):
                await ask(tagged("k-1", key="k-1"))
            await waiting(gw, 2)
            for key in ("k-2", "k-3"):
                begun = time.monotonic()
                await ask(tagged(key, key=key))
                await gw.until("it is there", lambda key=key: engine.order[-1] == key)
                assert time.monotonic() - begun < 0.2
            engine.auto_s = 0.0
            engine.finish()
            await gw.idle()

    async def test_more_places_at_an_engine(self) -> None:
        """An engine that takes more than before gets more of those who wait, at the scheduler's word."""
        async with Gate() as engine, running([engine.url], **QUIET, engine_max_concurrent=1) as gw, asking(gw) as ask:
            for number in range(6):
                await ask(tagged(str(number)))
            await waiting(gw, 5)
            core = gw.gateway.core
            assert core is not None
            core.table.pools[0].engine.slots = 4
            core.room()
            await engine.has("0", "1", "2", "3", timeout_s=0.5)
            core.table.pools[0].engine.slots = 2  # fewer again: nobody is thrown out, nobody comes in
            engine.finish("0", "1")
            await engine.has("2", "3")
            engine.finish("2", "3")
            await engine.has("4", "5")
            engine.finish()
            await gw.idle()

    async def test_a_raised_cap_of_a_key(self, tmp_path: Path) -> None:
        """`concurrency` of a key in the store is raised: those who wait for it go within a second."""
        settings = {"state_dir": str(tmp_path / "state"), "key_concurrency": 1}
        async with Gate() as engine, running([engine.url], **QUIET, **settings) as gw, asking(gw) as ask:
            state = gw.gateway._state
            assert state is not None
            keys = Keyring(state, lambda _: None)
            record, text = await keys.create({"name": "one"}, "test")
            client = await gw.client()
            for _ in range(200):
                await client.send(request("GET", "/v1/usage", key=text))
                if (await client.read_response()).status == 200:
                    break
                await asyncio.sleep(0.01)
            client.close()
            for number in range(5):
                await ask(tagged(str(number), key=text))
            await waiting(gw, 4)
            await keys.update(record.id, {"concurrency": 3}, "test")
            await engine.has("0", "1", "2", timeout_s=1.0)
            assert gw.stats.queue_waiting_open == 2
            await keys.update(record.id, {"concurrency": 0}, "test")
            await engine.has("0", "1", "2", "3", "4", timeout_s=1.0)
            engine.finish()
            await gw.idle()


@pytest.mark.alone
class TestFailover:
    async def test_S3_13_the_other_engine_is_full(self) -> None:
        """The engine of a request cannot be reached, the other is full: it waits for that one, and costs nothing meanwhile."""
        async with Gate() as dead, Gate() as other:
            await dead.die()
            settings: dict[str, Any] = {"engine_max_concurrent": 1, "policy": "ordered", "health_unhealthy_after": 1000}
            settings |= {"cb_failure_threshold": 1000, "max_retries": 3}
            async with running([dead.url, other.url], **QUIET, **settings) as gw, asking(gw) as ask:
                core = gw.gateway.core
                assert core is not None
                target = core.table.pools[0].engine
                await ask(tagged("a"))
                await other.has("a")
                await gw.until("its first probe is over", lambda: target.probed_at > 0)
                target.healthy = None  # worth trying again
                asked = [await ask(tagged("b"))]
                await waiting(gw, 1)
                failed = target.failures_total
                gc.collect()
                busy = time.process_time()
                await asyncio.sleep(0.5)
                assert time.process_time() - busy < 0.1
                assert target.failures_total == failed  # not tried again and again
                assert gw.stats.queue_waiting_open == 1
                other.finish()
                await other.has("b")
                other.finish()
                answer = await asked[0].answer()
                assert answer.status == 200
            (record,) = [record for record in gw.records if record["queued_s"] > 0]
            assert (record["engine"], record["status"]) == (core.table.pools[1].engine.name, 200)
            assert record["queued_s"] >= 0.499  # a timer of uvloop's may be a millisecond early


@pytest.mark.alone
class TestMany:
    @pytest.mark.deadline_s(60)
    async def test_S5_09_two_thousand_wait(self) -> None:
        """They cost nothing while they wait, all are served in time, in their order, and nothing is left of them."""
        assert room_for(6000) >= 6000
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=40, queue_size=2000, queue_timeout_s=60.0) as gw,
            asking(gw) as ask,
        ):
            asked: list[Asked] = [await ask(tagged(f"first {number}")) for number in range(40)]
            await gw.until("full", lambda: len(engine.held) == 40)
            asked += [await ask(tagged(str(number))) for number in range(2000)]
            await waiting(gw, 2000)
            judge_refusal(await (await ask(tagged("late"))).answer(), 429, "queue_full", "rate_limit_error")
            gc.collect()
            busy = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - busy < 0.1
            begun = time.monotonic()
            engine.auto_s = 0.0
            engine.finish()
            for one in asked:
                assert (await one.answer(20.0)).status == 200
            took = time.monotonic() - begun
            assert took < 10.0, took  # engine, clients and gateway share one loop here, and one core with others
            assert engine.peak <= 40
            # In the order of arrival, but for those that the engine had at the same time.
            places = {tag: place for place, tag in enumerate(engine.order)}
            assert max(abs(places[str(number)] - 40 - number) for number in range(2000)) <= 80
            await gw.idle()
            assert gw.stats.queue_waiting_open == 0
