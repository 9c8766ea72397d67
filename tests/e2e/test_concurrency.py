"""Requests under way: the caps that count them until their last byte, and the order of those that wait for a place.

The engines are asked how many they had at once; the gateway's own counters are looked at for what must return to zero.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.keyring import Keyring
from fastgw.sim import SimConfig, Simulator
from tests.e2e.served import room_for
from tests.e2e.test_cases_j_queue import (
    QUIET,
    Asked,
    Gate,
    account_of,
    asking,
    judge_refusal,
    leave,
    tagged,
    waiting,
)
from tests.support.client import RawClient, chat, request
from tests.support.gateway import Running, running

pytestmark = pytest.mark.together  # next to all of their time is waiting

PROMPT = 21  # tokens that a body of these tests is taken for: it has 80 or 81 bytes
QUANTUM = 512  # tokens of one tenant's turn, as the gateway's documentation says


class Peak:
    """The most requests that a simulated engine had at once, those in its own queue included."""

    def __init__(self, sim: Simulator) -> None:
        self.most = 0
        submit = sim.engine.submit

        def counted(job: Any) -> None:
            self.most = max(self.most, sim.state.running + sim.state.waiting + 1)
            submit(job)

        sim.engine.submit = counted  # type: ignore[method-assign]


async def stream_all(gw: Running, requests: Sequence[bytes]) -> list[int]:
    """Send all at once, each on a connection of its own; the statuses of the whole answers."""

    async def one(data: bytes) -> int:
        async with RawClient.connect("127.0.0.1", gw.port) as client:
            await client.send(data)
            answer = await client.read_response(20.0)
            assert answer.complete
            assert answer.status != 200 or answer.events()[-1] == "[DONE]"
            return answer.status

    return list(await asyncio.gather(*(one(data) for data in requests)))


CAPS: dict[str, tuple[dict[str, Any], int]] = {
    "global": ({"max_concurrent": 3}, 3),
    "key": ({"key_concurrency": 2}, 2),
    "route": ({"routes": [RouteConfig(model="sim", max_concurrent=4)]}, 4),
    "engine": ({"engine_max_concurrent": 5}, 5),
    "all of them": (
        {
            "max_concurrent": 6,
            "key_concurrency": 5,
            "routes": [RouteConfig(model="sim", max_concurrent=4)],
            "engine_max_concurrent": 3,
        },
        3,
    ),
}


class TestCaps:
    @pytest.mark.parametrize("name", list(CAPS))
    async def test_S5_09_a_stream_counts_until_its_last_byte(self, name: str) -> None:
        """Twenty-five streams, never more at the engine than the cap, and the cap is used."""
        settings, most = CAPS[name]
        async with (
            Simulator(SimConfig(itl_ms=2.0, ttft_ms=2.0)) as sim,
            running([sim.url], **QUIET, **settings, api_keys=["k"]) as gw,
        ):
            peak = Peak(sim)
            statuses = await stream_all(gw, [chat("sim", True, max_tokens=6, key="k") for _ in range(25)])
            assert statuses == [200] * 25
            assert peak.most == most
            await gw.idle()
            assert account_of(gw, "k").inflight == 0
        waited = [record["queued_s"] for record in gw.records]
        assert sum(one >= 0 for one in waited) == 25 - most
        assert max(waited) < 10

    async def test_S3_13_each_deployment_has_its_own_cap(self) -> None:
        """Caps of two models on one engine: what one has used up takes nothing from the other."""
        routes = [RouteConfig(model="a", max_concurrent=1), RouteConfig(model="b", max_concurrent=3)]
        async with Gate() as engine, running([engine.url], **QUIET, routes=routes) as gw, asking(gw) as ask:
            for _ in range(4):
                await ask(tagged("a", "a"))
                await ask(tagged("b", "b"))
            await engine.has("a", "b", "b", "b")
            for _ in range(5):
                await ask(tagged("c", "c"))  # without a route: no cap
            await engine.has("a", "b", "b", "b", "c", "c", "c", "c", "c")
            await waiting(gw, 4)
            engine.auto_s = 0.0
            engine.finish()
            await gw.idle()
            assert engine.order.count("a") == engine.order.count("b") == 4

    async def test_S5_09_caps_hold_together(self) -> None:
        """Two keys, two models, two engines: at no moment does the engines' load go beyond any of the four caps."""
        routes = [RouteConfig(model="a", max_concurrent=3)]
        settings = {"max_concurrent": 5, "key_concurrency": 3, "engine_max_concurrent": 4, "routes": routes}
        async with Gate(auto_s=0.004) as one, Gate(auto_s=0.003) as two:
            broken: list[str] = []

            def check() -> None:
                tags = [held.tag for engine in (one, two) for held in engine.held]
                for what, cap in (("", 5), ("k-1", 3), ("k-2", 3), ("model a", 3)):
                    if sum(what in tag for tag in tags) > cap:
                        broken.append(f"{what}: {tags}")

            class Watched(list[str]):
                def append(self, tag: str) -> None:
                    super().append(tag)
                    asyncio.get_running_loop().call_soon(check)

            one.order, two.order = Watched(), Watched()
            async with running([one.url, two.url], **QUIET, **settings, api_keys=["k-1", "k-2"]) as gw:
                await stream_free(gw, [(key, model) for _ in range(30) for key in ("k-1", "k-2") for model in ("a", "b")])
                assert not broken
                assert one.peak <= 4
                assert two.peak <= 4
                assert len(one.order) + len(two.order) == 120

    @pytest.mark.parametrize("kind", ["tunnel", "upload"])
    async def test_S5_09_tunnels_and_uploads_count_too(self, kind: str) -> None:
        async with (
            Simulator(SimConfig(ttft_ms=1.0)) as sim,
            running([sim.url], **QUIET, engine_max_concurrent=1, max_concurrent=2, api_keys=["k"]) as gw,
            asking(gw) as ask,
        ):
            if kind == "tunnel":
                fields = [
                    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
                    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ]  # fmt: skip
                first = await ask(request("GET", "/v1/realtime?model=sim", headers=fields, key="k"))
                assert (await first.client.read_head()).status == 101
            else:
                part = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n--x\r\nContent-Disposition: '
                head = request(
                    "POST",
                    "/v1/audio/transcriptions",
                    headers=[("Content-Type", "multipart/form-data; boundary=x"), ("Content-Length", "5000")],
                    key="k",
                )
                first = await ask(head + part + b'form-data; name="file"; filename="f"\r\n\r\n' + b"x" * 1000)
                await gw.until("at the engine", lambda: gw.stats.upstream_open == 1)
            account = account_of(gw, "k")
            assert account.inflight == 1
            second = await ask(chat("sim", max_tokens=1, key="k"))
            await waiting(gw, 1)
            first.client.close()
            assert (await second.answer()).status == 200
            await gw.idle()
            assert account.inflight == 0


    async def test_S5_09_an_upload_waits_like_all_others(self) -> None:
        """It is held back, not read into memory, and arrives whole when its turn has come; one whose client leaves
        meanwhile gives its place back at once."""
        part = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n--x\r\nContent-Disposition: '
        file = part + b'form-data; name="file"; filename="f"\r\n\r\n' + bytes(range(256)) * 8000 + b"\r\n--x--\r\n"
        fields = [("Content-Type", "multipart/form-data; boundary=x"), ("Content-Length", str(len(file)))]
        head = request("POST", "/v1/audio/transcriptions", headers=[*fields, ("x-tag", "upload")])
        async with Gate() as engine, running([engine.url], **QUIET, engine_max_concurrent=1) as gw, asking(gw) as ask:
            await ask(tagged("a"))
            await engine.has("a")
            gone = await ask(head + file[:1000])
            await waiting(gw, 1)
            gone.client.close()
            await waiting(gw, 0)
            upload = await ask(head)
            sending = asyncio.create_task(upload.client.send(file))
            await waiting(gw, 1)
            await asyncio.sleep(0.1)
            assert gw.gateway.core is not None
            taken = [conn.stream.sink.bytes_in for conn in gw.gateway.core.connections if conn.stream.sink is not None]  # type: ignore[attr-defined]
            assert max(taken) < 1 << 20
            third = await ask(tagged("b"))
            await waiting(gw, 2)
            engine.finish()
            await engine.has("upload")
            engine.finish()
            await sending
            assert (await upload.answer()).status == 200
            assert engine.engine.requests[-1].body == file
            await engine.has("b")
            engine.finish()
            assert (await third.answer()).status == 200
            await gw.idle()
        assert sorted(record["status"] for record in gw.records) == [200, 200, 200, 499]


async def stream_free(gw: Running, requests: Sequence[tuple[str, str]]) -> None:
    """Each (key, model) once, all at the same time; all are answered with 200."""
    data = [tagged(f"{key} model {model}", model, key=key) for key, model in requests]

    async def one(each: bytes) -> None:
        async with RawClient.connect("127.0.0.1", gw.port) as client:
            await client.send(each)
            assert (await client.read_response(20.0)).status == 200

    await asyncio.gather(*(one(each) for each in data))


class TestGivenBack:
    """However a request ends, its places are free at once: the next one that waits is let go in the same moment."""

    @pytest.mark.parametrize("how", ["fin", "rst", "half-close", "engine dies", "engine's error", "the end"])
    async def test_S5_09_the_place_comes_back(self, how: str) -> None:
        settings = {"engine_max_concurrent": 1, "max_concurrent": 1, "key_concurrency": 1}
        fault = {"engine dies": "reset-after=300", "engine's error": "status=500"}.get(how)
        async with (
            Simulator(SimConfig(itl_ms=5.0)) as sim,
            running([sim.url], **QUIET, **settings, queue_size=1, api_keys=["k"]) as gw,
            asking(gw) as ask,
        ):
            account = account_of(gw, "k")
            for turn in range(3):
                headers = [("x-sim-fault", fault)] if fault else []
                tokens = 8 if how == "the end" else 2000
                first = await ask(chat("sim", True, max_tokens=tokens, key="k", headers=headers))
                if how in ("fin", "rst", "half-close"):
                    await first.client.read_until(await first.client.read_head(), b"\n\n")
                second = await ask(chat("sim", True, max_tokens=2, key="k"))
                if how in ("fin", "rst", "half-close"):
                    await waiting(gw, 1)
                    leave(first.client, how)
                else:
                    await first.client.read_response()
                begun = time.monotonic()
                answer = await second.answer()
                assert (answer.status, answer.events()[-1]) == (200, "[DONE]")
                assert time.monotonic() - begun < 1.0
                await gw.idle()
                assert (account.inflight, gw.stats.queue_waiting_open) == (0, 0)
                await gw.until("the engine is idle", lambda: sim.state.running == 0)
                assert len(gw.records) == 2 * (turn + 1)
            core = gw.gateway.core
            assert core is not None
            assert core.table.pools[0].engine.inflight == 0

    async def test_an_engine_that_bears_no_abort_keeps_its_place(self) -> None:
        """`cancel = false`: the client left, the engine works on, and its place is not given to another meanwhile."""
        async with Gate() as engine:
            target = EngineConfig(url=engine.url, cancel=False, max_concurrent=1)
            async with running([target], **QUIET) as gw, asking(gw) as ask:
                first = await ask(tagged("a"))
                await engine.has("a")
                first.client.close()
                await gw.idle()
                second = await ask(tagged("b"))
                await waiting(gw, 1)
                await asyncio.sleep(0.4)
                assert [held.tag for held in engine.held] == ["a"]
                engine.auto_s = 0.0
                conn = engine.held[0].conn
                engine.finish()
                await gw.until("answered", lambda: conn.sent_total > 0)
                conn.close()
                assert (await second.answer()).status == 200
                assert engine.order == ["a", "b"]


class TestOrder:
    async def test_S5_09_classes(self) -> None:
        """High before normal before low, whoever came first; within a class the order of arrival of one tenant."""
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, api_keys=["high", "normal", "low"]) as gw,
            asking(gw) as ask,
        ):
            account_of(gw, "high").priority, account_of(gw, "low").priority = 0, 2
            await ask(tagged("first", key="low"))
            await engine.has("first")
            order = ["low 1", "normal 1", "high 1", "low 2", "normal 2", "high 2"]
            for number, tag in enumerate(order):
                await ask(tagged(tag, key=tag.split()[0]))
                await waiting(gw, number + 1)
            engine.auto_s = 0.0
            engine.finish()
            await gw.idle()
            assert engine.order == ["first", "high 1", "high 2", "normal 1", "normal 2", "low 1", "low 2"]

    @pytest.mark.parametrize("flows", ["two keys", "three keys of two tenants"])
    async def test_S5_09_fair_by_tokens(self, flows: str) -> None:
        """While two tenants wait, what they were served differs by no more than a turn and a request; the sizes of their
        requests, how many they sent, and with how many keys, do not matter."""
        costs = {"big": 300, "small": 50, "small-too": 50}
        keys = list(costs)[: 2 if flows == "two keys" else 3]
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, api_keys=keys) as gw,
            asking(gw) as ask,
        ):
            for key in keys:
                account_of(gw, key).flow = "tenant " + key.split("-")[0]
            await ask(tagged("first", key="big"))
            await engine.has("first")
            count = 0
            for key in keys:
                for _ in range(20 if key == "big" else 120 // (len(keys) - 1)):
                    await ask(tagged(key, key=key, max_tokens=costs[key], content="x"))
                    count += 1
            await waiting(gw, count)
            engine.auto_s = 0.0
            engine.finish()
            await gw.idle(20.0)
        served = {"big": 0, "small": 0}
        left = {"big": 20, "small": 120}
        checked = 0
        for tag in engine.order[1:]:
            tenant = tag.split("-")[0]
            served[tenant] += costs[tag] + PROMPT
            left[tenant] -= 1
            if min(left.values()) > 0:
                checked += 1
                assert abs(served["big"] - served["small"]) <= QUANTUM + 300 + PROMPT, (served, checked)
        assert checked > 100

    @pytest.mark.deadline_s(40)
    async def test_S5_09_fifo_and_adaptive(self) -> None:
        """Under an overload that lasts, adaptive serves the newest first, whose client is still there; FIFO never does."""

        async def order(kind: str) -> list[str]:
            settings: dict[str, Any] = {"engine_max_concurrent": 1, "queue_order": kind, "queue_target_s": 0.05}
            async with Gate() as engine, running([engine.url], **QUIET, **settings) as gw, asking(gw) as ask:
                await ask(tagged("first"))
                await engine.has("first")
                for number in range(4):
                    await ask(tagged(str(number)))
                    await waiting(gw, number + 1)
                await asyncio.sleep(5.2)  # the target was missed for five seconds
                for number in (4, 5):
                    await ask(tagged(str(number)))
                    await waiting(gw, number + 1)
                engine.auto_s = 0.0
                engine.finish()
                await gw.idle()
                return engine.order

        fifo, adaptive = await asyncio.gather(order("fifo"), order("adaptive"))
        assert fifo == ["first", "0", "1", "2", "3", "4", "5"]
        assert adaptive == ["first", "5", "4", "3", "2", "1", "0"]

    async def test_adaptive_without_overload_is_fifo(self) -> None:
        settings = {"engine_max_concurrent": 1, "queue_order": "adaptive"}
        async with Gate() as engine, running([engine.url], **QUIET, **settings) as gw, asking(gw) as ask:
            await ask(tagged("first"))
            await engine.has("first")
            for number in range(10):
                await ask(tagged(str(number)))
                await waiting(gw, number + 1)
            engine.auto_s = 0.0
            engine.finish()
            await gw.idle()
            assert engine.order == ["first", *map(str, range(10))]


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
