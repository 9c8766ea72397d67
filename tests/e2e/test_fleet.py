"""Engines added, drained and removed under live streams, at real simulators: none breaks, none goes where it must not."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.sim import SimConfig, Simulator
from tests.conftest import open_fds
from tests.e2e.metered import say
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running, running

ADMIN = "sk-admin-of-these-tests"
PACED: dict[str, Any] = {"itl_ms": 3.0, "output_tokens": 40}
CONTROLLED: dict[str, Any] = {"control_listen": "127.0.0.1:0", "admin_key": ADMIN}
QUICK: dict[str, Any] = {"health_interval_s": 0.05, "warm_connections": 1}


@asynccontextmanager
async def fleet(
    sims: int, sim: dict[str, Any] | None = None, at_first: int = 1, **settings: Any
) -> AsyncIterator[tuple[Running, list[Simulator]]]:
    """A gateway in front of the first ``at_first`` of so many simulators; the others wait to be added."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(Simulator(SimConfig(**(sim or {})))) for _ in range(sims)]
        configured = [EngineConfig(url=one.url, name=f"e{at}") for at, one in enumerate(engines[:at_first])]
        async with running(configured, **{**QUICK, **settings}) as gw:
            await gw.until("they are known", lambda: all(pool.engine.discovered_models for pool in gw.gateway.fleet.pools))
            yield gw, engines
            await gw.idle()


async def stream(gw: Running, **fields: Any) -> RawResponse:
    async with RawClient.connect(gw.url) as client:
        await client.send(say(stream=True, key=None, **fields))
        return await client.read_response()


def whole(answer: RawResponse) -> bool:
    return answer.status == 200 and answer.complete and answer.body.endswith(b"data: [DONE]\n\n")


def of(gw: Running, name: str) -> Any:
    return gw.gateway.fleet.find(name).engine


async def admin(gw: Running, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    body = json.dumps(document).encode() if document is not None else None
    async with RawClient.connect(gw.gateway.control_url) as client:
        await client.send(request(method, f"/admin/engines{path}", body=body, key=ADMIN))
        answer = await client.read_response()
    return answer.status, answer.json() if answer.body else None


async def test_streams_run_while_an_engine_is_added_another_drained_and_removed() -> None:
    async with fleet(3, PACED, at_first=2) as (gw, sims):
        live = gw.gateway.fleet
        ended = False

        async def caller() -> list[RawResponse]:
            seen = []
            while not ended:
                seen.append(await stream(gw))
            return seen

        callers = [asyncio.ensure_future(caller()) for _ in range(12)]
        await gw.until("both are at work", lambda: of(gw, "e0").inflight > 3 and of(gw, "e1").inflight > 3)
        live.add(EngineConfig(url=sims[2].url, name="e2"))
        await gw.until("the new one is at work", lambda: of(gw, "e2").inflight > 1)

        drained = live.drain("e0").engine
        under_way = drained.inflight
        seen = under_way + drained.answered_total
        assert under_way
        assert live.remove("e0") is False
        await gw.until("it is gone with its last stream", lambda: len(live) == 2)
        assert drained.answered_total == seen, "what was under way went on, and nothing came"
        await asyncio.sleep(0.1)
        ended = True
        answers = [answer for answers in await asyncio.gather(*callers) for answer in answers]
        assert len(answers) > 24
        assert all(whole(answer) for answer in answers)
        assert {record["outcome"] for record in gw.records} == {"ok"}
        assert drained.answered_total == seen
        assert sims[0].state.running == 0


async def test_removal_at_once_ends_its_streams_with_the_typed_event_and_the_rest_goes_elsewhere() -> None:
    async with fleet(2, {"itl_ms": 20.0, "output_tokens": 200}, policy="ordered") as (gw, sims):
        streams = [asyncio.ensure_future(stream(gw)) for _ in range(3)]
        await gw.until("they stream", lambda: of(gw, "e0").inflight == 3 and sims[0].state.running == 3)
        await asyncio.sleep(0.1)
        gw.gateway.fleet.add(EngineConfig(url=sims[1].url, name="e1"))
        await gw.until("the other is well", lambda: of(gw, "e1").healthy)
        assert gw.gateway.fleet.remove("e0", at_once="a test")
        for answer in await asyncio.gather(*streams):
            assert not whole(answer)
            assert b'"error"' in answer.body
            assert b"[DONE]" not in answer.body
        assert [pool.engine.name for pool in gw.gateway.fleet.pools] == ["e1"]
        assert whole(await stream(gw, max_tokens=2))
        assert gw.records[-1]["engine"] == "e1"
        await gw.until("its connections are closed", lambda: sims[0].state.running == 0)


async def test_a_request_that_nobody_has_begun_to_answer_goes_on_elsewhere_when_its_engine_is_removed_at_once() -> None:
    async with fleet(2, {"ttft_ms": 300.0, "output_tokens": 2}, at_first=2, policy="ordered", retry_fresh=True) as (gw, _):
        waiting = asyncio.ensure_future(stream(gw))
        await gw.until("it is at the first", lambda: of(gw, "e0").inflight == 1)
        await asyncio.sleep(0.05)
        gw.gateway.fleet.remove("e0", at_once="a test")
        assert whole(await waiting)
        assert gw.records[-1]["engine"] == "e1"


async def test_a_request_at_an_engine_that_is_removed_at_once_goes_to_one_that_was_added_after_it_came() -> None:
    async with fleet(2, {"ttft_ms": 300.0, "output_tokens": 2}, policy="ordered", retry_fresh=True) as (gw, sims):
        waiting = asyncio.ensure_future(stream(gw))
        await gw.until("it is at the first", lambda: of(gw, "e0").inflight == 1 and sims[0].state.running == 1)
        gw.gateway.fleet.add(EngineConfig(url=sims[1].url, name="e1"))
        await gw.until("the other is well", lambda: of(gw, "e1").healthy and of(gw, "e1").discovered_models)
        gw.gateway.fleet.remove("e0", at_once="a test")
        assert whole(await waiting)
        assert gw.records[-1]["engine"] == "e1"


async def test_whoever_waits_for_a_full_engine_goes_to_one_that_is_added() -> None:
    sim = {"itl_ms": 30.0, "output_tokens": 100}
    async with fleet(2, sim, engine_max_concurrent=1) as (gw, sims):
        first = asyncio.ensure_future(stream(gw))
        await gw.until("the engine is full", lambda: of(gw, "e0").inflight == 1)
        second = asyncio.ensure_future(stream(gw, max_tokens=2))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        gw.gateway.fleet.add(EngineConfig(url=sims[1].url, name="e1"))
        assert whole(await second)
        assert gw.records[-1]["engine"] == "e1"
        assert not first.done()
        gw.gateway.fleet.remove("e0", at_once="a test")
        await first


async def test_whoever_waits_while_the_engine_is_replaced_is_answered_by_its_successor() -> None:
    """Also where the queue is only there because of an engine that came later."""
    async with fleet(2, {"itl_ms": 5.0, "output_tokens": 60}, at_first=0) as (gw, sims):
        gw.gateway.fleet.add(EngineConfig(url=sims[0].url, name="e0", max_concurrent=1))
        await gw.until("it is well", lambda: of(gw, "e0").healthy)
        streams = [asyncio.ensure_future(stream(gw)) for _ in range(4)]
        await gw.until("three wait", lambda: gw.stats.queue_waiting_open == 3)
        gw.gateway.fleet.add(EngineConfig(url=sims[1].url, name="e1", max_concurrent=2))
        await gw.until("its models are known, and two go there", lambda: of(gw, "e1").inflight == 2)
        assert gw.stats.queue_waiting_open == 1
        before = gw.gateway.fleet.table.group("sim")
        assert before is not None
        assert before.lane is not None
        gw.gateway.fleet.remove("e0")
        assert all(whole(answer) for answer in await asyncio.gather(*streams))
        assert sorted(record["engine"] for record in gw.records) == ["e0", "e1", "e1", "e1"]
        await gw.until("the first is gone", lambda: len(gw.gateway.fleet) == 1)
        assert before.lane is None  # the two would keep each other, and the engine's pool


async def test_who_waits_for_an_engine_that_drains_and_is_the_only_one_is_told_so_at_once() -> None:
    async with fleet(1, {"itl_ms": 5.0, "output_tokens": 60}, engine_max_concurrent=1) as (gw, _):
        first = asyncio.ensure_future(stream(gw))
        await gw.until("the engine is full", lambda: of(gw, "e0").inflight == 1)
        second = asyncio.ensure_future(stream(gw))
        await gw.until("one waits", lambda: gw.stats.queue_waiting_open == 1)
        gw.gateway.fleet.drain("e0")
        refused = await second
        assert (refused.status, refused.json()["error"]["code"]) == (503, "engines_unavailable")
        assert not first.done()
        assert whole(await first)
        async with RawClient.connect(gw.url) as client:
            await client.send(request("GET", "/readiness"))
            assert (await client.read_response()).status == 503
        gw.gateway.fleet.undrain("e0")
        assert whole(await stream(gw, max_tokens=2))


async def test_idle_connections_close_with_the_drain_and_are_warm_again_after_it() -> None:
    async with fleet(1, warm_connections=2) as (gw, _):
        pool = gw.gateway.fleet.find("e0")
        await gw.until("they are warm", lambda: len(pool.idle) == 2)
        gw.gateway.fleet.drain("e0")
        assert (len(pool.idle), pool.connections) == (0, 0)
        await asyncio.sleep(0.15)  # probes go on, and warm nothing
        assert pool.connections == 0
        gw.gateway.fleet.undrain("e0")
        await gw.until("they are warm", lambda: len(pool.idle) == 2)


@pytest.mark.deadline_s(60)
async def test_a_hundred_engines_come_and_go_and_leave_nothing() -> None:
    """Descriptors, tasks, series, keys to hide, the models of those that were there."""
    async with fleet(2, **CONTROLLED, scheduler="auto", scheduler_interval_s=0.05) as (gw, sims):
        live = gw.gateway.fleet

        def held() -> tuple[int, int, int]:
            gc.collect()
            pools = sum(type(one) is type(live.pools[0]) for one in gc.get_objects())
            return len(open_fds()), len(asyncio.all_tasks()), pools

        async def one(at: int) -> None:
            live.add(
                EngineConfig(
                    url=sims[1].url, name=f"n{at}", models=(f"m{at}",), served_name="sim", api_key=f"sk-of-engine-{at}",
                    warm_connections=1,
                )
            )  # fmt: skip
            await gw.until("it is well", lambda: of(gw, f"n{at}").healthy)
            assert whole(await stream(gw, model=f"m{at}", max_tokens=1))
            live.remove(f"n{at}")
            await gw.until("it is gone", lambda: len(live) == 1)

        await one(1000)
        looks = []
        for _ in range(10):
            await asyncio.sleep(0.02)
            looks.append(held())
        before = min(looks)  # (a probe may be under way)
        for at in range(100):
            await one(at)
        await gw.until("all is as before", lambda: held() <= before)
        async with RawClient.connect(gw.gateway.control_url) as client:
            await client.send(request("GET", "/metrics"))
            page = (await client.read_response()).body
        assert b'engine="e0"' in page
        assert b'engine="n' not in page
        core = gw.gateway.core
        assert core is not None
        assert list(core.table.models) == ["sim"]
        assert live.keys() == []


async def test_the_operator_sees_adds_drains_and_removes_engines() -> None:
    async with fleet(2, **CONTROLLED) as (gw, sims):
        status, page = await admin(gw, "GET", "")
        assert (status, [one["name"] for one in page["data"]]) == (200, ["e0"])
        assert [page["data"][0][name] for name in ("health", "url", "breaker")] == ["well", sims[0].url, "closed"]

        given = {"url": sims[1].url, "name": "a/b", "api_key": "sk-secret-of-engine", "weight": 3}
        status, added = await admin(gw, "POST", "", given)
        assert (status, added["weight"], added["api_key_set"], added["health"]) == (201, 3, True, "not_well")
        at = "/" + quote("a/b", safe="")
        await gw.until("its models are known", lambda: of(gw, "a/b").discovered_models)
        status, shown = await admin(gw, "GET", at)
        assert (status, shown["health"], shown["models"], shown["kind"]) == (200, "well", ["sim"], "auto")
        assert "sk-secret-of-engine" not in json.dumps([added, shown])

        assert (await admin(gw, "POST", f"{at}/drain"))[1]["draining"] is True
        assert whole(await stream(gw, max_tokens=1))
        assert of(gw, "a/b").answered_total == 0
        assert (await admin(gw, "POST", f"{at}/undrain"))[1]["draining"] is False
        assert await admin(gw, "DELETE", at) == (204, None)
        assert (await admin(gw, "GET", at))[1]["error"]["code"] == "engine_not_found"

        told = [fields for _, message, fields in gw.events.lines if message == "admin"]
        assert [(line["action"], line.get("engine", ""), line["status"]) for line in told] == [
            ("list_engine", "", 200), ("add_engine", "a/b", 201), ("show_engine", "a/b", 200), ("drain_engine", "a/b", 200),
            ("undrain_engine", "a/b", 200), ("remove_engine", "a/b", 204), ("show_engine", "", 404),
        ]  # fmt: skip


async def test_an_added_engines_key_is_in_no_log() -> None:
    async with fleet(2) as (gw, sims):
        gw.gateway.fleet.add(EngineConfig(url=sims[1].url, name="e1", api_key="which-has-no-form-of-keys-4711"))
        async with RawClient.connect(gw.url) as client:
            await client.send(request("GET", "/v1/which-has-no-form-of-keys-4711"))
            assert (await client.read_response()).status == 404
        await gw.idle()
        assert "form-of-keys" not in repr(gw.raw_records[-1])


async def test_the_keys_of_engines_that_have_left_are_in_no_log_either() -> None:
    """The last 64 of them."""
    keys = [f"which-has-no-form-of-keys-{at}" for at in range(4700, 4764)]
    async with fleet(1) as (gw, _):
        for at, key in enumerate(keys):
            gw.gateway.fleet.add(EngineConfig(url="http://127.0.0.1:1", name=f"n{at}", api_key=key))
            gw.gateway.fleet.remove(f"n{at}")
        assert len(gw.gateway.fleet) == 1
        async with RawClient.connect(gw.url) as client:
            for key in keys:
                await client.send(request("GET", f"/v1/{key}"))
                assert (await client.read_response()).status == 404
        await gw.idle()
        assert not [key for key in keys if key in repr(gw.raw_records)]


async def test_an_added_engine_that_is_not_well_says_why_and_once() -> None:
    async with fleet(1) as (gw, _):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        gw.gateway.fleet.add(EngineConfig(url=url, name="e1"))
        await gw.until("it was probed again and again", lambda: of(gw, "e1").failures >= 3)
        told = [fields for _, message, fields in gw.events.lines if message == "engine is not well"]
        assert [line["engine"] for line in told] == ["e1"]
        assert "Errno 111" in told[0]["reason"]


async def test_least_loaded_gives_engines_what_they_can_take_where_turns_do_not() -> None:
    """One engine is five times as slow as the others: by turns it has a third of the streams, and all wait for it; by load it
    has as many under way as each of the others, and so a fraction of what they answer."""
    shares: dict[str, float] = {}
    for policy in ("round_robin", "least_loaded", "power_of_two"):
        async with AsyncExitStack() as stack:
            paces = (1.0, 1.0, 5.0)
            sims = [
                await stack.enter_async_context(Simulator(SimConfig(ttft_ms=4 * pace, itl_ms=pace, output_tokens=12)))
                for pace in paces
            ]
            configured = [EngineConfig(url=one.url, name=f"e{at}") for at, one in enumerate(sims)]
            async with running(configured, **QUICK, policy=policy) as gw:
                pools = gw.gateway.fleet.pools
                await gw.until("they are known", lambda pools=pools: all(pool.engine.discovered_models for pool in pools))
                left = iter(range(240))

                async def caller(gw: Running = gw, left: Any = left) -> bool:
                    good = True
                    for _ in left:
                        good = good and whole(await stream(gw))
                    return good

                assert all(await asyncio.gather(*(caller() for _ in range(12))))
                await gw.idle()
                shares[policy] = of(gw, "e2").answered_total / 240
    # (Of what they can answer in the same time, the slow one's is an eleventh.)
    assert 0.30 < shares["round_robin"] < 0.36
    assert shares["least_loaded"] < 0.2
    assert shares["power_of_two"] < 0.25


async def test_a_routes_own_policy_holds_for_its_model_alone() -> None:
    routes = [RouteConfig(model="sim", policy="ordered")]
    async with fleet(2, {"models": ("sim", "other")}, at_first=2, routes=routes) as (gw, _):
        for model in ("sim", "other"):
            for _ in range(4):
                assert whole(await stream(gw, model=model, max_tokens=1))
        went = [(record["model"], record["engine"]) for record in gw.records]
        assert went[:4] == [("sim", "e0")] * 4
        assert {engine for _, engine in went[4:]} == {"e0", "e1"}


async def test_its_weight_and_its_room_change_while_it_works() -> None:
    async with fleet(2, at_first=2, **CONTROLLED) as (gw, _):
        status, shown = await admin(gw, "PATCH", "/e0", {"weight": 3, "max_concurrent": 7})
        assert (status, shown["weight"], shown["slots"]) == (200, 3, 7)
        for _ in range(8):
            assert whole(await stream(gw, max_tokens=1))
        assert (of(gw, "e0").answered_total, of(gw, "e1").answered_total) == (6, 2)
        for document, says in (
            ({"weight": 0}, "weight: must be a whole number from 1 to 1000"), ({"url": "http://x"}, "no field 'url'"),
            ({}, "there is nothing to change"), ({"weight": "2"}, "weight: must be a whole number"),
        ):  # fmt: skip
            status, refused = await admin(gw, "PATCH", "/e0", document)
            assert status == 400
            assert says in refused["error"]["message"]
        assert (await admin(gw, "PATCH", "/e9", {"weight": 1}))[0] == 404


async def test_what_happens_to_engines_can_be_read_in_its_order() -> None:
    async with fleet(2, **CONTROLLED) as (gw, sims), RawClient.connect(gw.gateway.control_url) as client:
        await admin(gw, "POST", "", {"url": sims[1].url, "name": "e1"})
        await gw.until("it is well", lambda: of(gw, "e1").healthy)
        await admin(gw, "POST", "/e1/drain")
        await admin(gw, "DELETE", "/e1")
        await client.send(request("GET", "/admin/events?follow=false", key=ADMIN))
        text = (await client.read_response()).body
        told = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: ")]
        assert [(one["what"], one["detail"]) for one in told if one["engine"] == "e1"] == [
            ("engine_added", "admin"), ("engine_well", ""), ("engine_drains", ""), ("engine_removed", ""),
        ]  # fmt: skip
        assert told[0]["what"] == "engine_well"
