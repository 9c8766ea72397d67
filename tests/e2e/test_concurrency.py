"""Requests under way: the caps that count them until their last byte, and the order of those that wait for a place.

The engines are asked how many they had at once; the gateway's own counters are looked at for what must return to zero.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.sim import SimConfig, Simulator
from tests.e2e.gate import QUIET, Gate, asking, tagged, waiting
from tests.e2e.test_cases_j_queue_left import account_of, leave
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
