"""Engines behind the endpoints: which one is asked, how it is probed, and Unix sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.e2e.asked import ask, before, post
from tests.support.client import chat, request
from tests.support.gateway import Running, running


@asynccontextmanager
async def two_engines(**settings: Any) -> AsyncIterator[tuple[Running, Simulator, Simulator]]:
    """A gateway before two simulators, both known to be well, and their models known."""
    async with Simulator() as one, Simulator() as two:
        urls = [one.url, two.url]
        async with running(urls, **settings) as gw:
            await known(gw)
            yield gw, one, two


async def known(gw: Running) -> None:
    """Wait until each engine is known to be well, and what models it has."""
    engines = [pool.engine for pool in gw.gateway.core.table.pools]
    await gw.until("engines known", lambda: all(engine.healthy and engine.discovered_models for engine in engines))


class TestUnixSockets:
    """Both sides may be Unix sockets."""

    async def test_both_sides(self, tmp_path: Path) -> None:
        listen, engine = tmp_path / "gateway.sock", tmp_path / "engine.sock"
        async with before({"unix": str(engine)}, unix_socket=str(listen)) as (gw, sim):
            assert gw.gateway.addresses[1] == f"unix:{listen}"
            for where in (str(listen), gw.url):
                plain = await ask(where, chat("sim"))
                stream = await ask(where, chat("sim", stream=True))
                assert (plain.status, stream.status) == (200, 200)
                assert stream.events()[-1] == "[DONE]"
            assert {seen.header("host") for seen in sim.requests.to("/v1/chat/completions")} != {None}
        assert [record["client"] for record in gw.records] == ["unix", "unix", "127.0.0.1", "127.0.0.1"]
        assert not listen.exists()

    async def test_a_socket_file_left_by_a_crash_is_replaced(self, tmp_path: Path) -> None:
        import socket

        listen = tmp_path / "gateway.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(listen))
        async with before(unix_socket=str(listen)):
            assert (await ask(str(listen), request("GET", "/liveness"))).status == 200

    async def test_a_caller_on_the_socket_is_no_forwarded_address(self, tmp_path: Path) -> None:
        listen = tmp_path / "gateway.sock"
        async with before(unix_socket=str(listen)) as (_gw, sim):
            await ask(str(listen), chat("sim", headers=[("X-Forwarded-For", "6.6.6.6")]))
            assert "6.6.6.6" not in (sim.requests.to("/v1/chat/completions")[0].header("x-forwarded-for") or "")


class TestRouting:
    """By model first; then the policy's turn."""

    async def test_models_over_several_engines(self) -> None:
        async with (
            Simulator(SimConfig(models=["a", "b"])) as one, Simulator(SimConfig(models=["b", "c"])) as two,
            Simulator(SimConfig(models=["d"])) as three,
        ):  # fmt: skip
            engines = [EngineConfig(url=one.url), EngineConfig(url=two.url, models=["b", "c"]), EngineConfig(url=three.url)]
            async with running(engines) as gw:
                await gw.until("models learned", lambda: set(gw.gateway.core.table.models) == {"a", "b", "c", "d"})
                for model, where in (("a", {0}), ("b", {0, 1}), ("c", {1}), ("d", {2})):
                    for sim in (one, two, three):
                        sim.requests.clear()
                    for _ in range(4):
                        assert (await ask(gw.url, chat(model))).status == 200
                    reached = {i for i, sim in enumerate((one, two, three)) if sim.requests.to("/v1/chat/completions")}
                    assert reached == where, model
                # A name that nobody lists goes to nobody.
                unknown = await ask(gw.url, chat("nobody's"))
                assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
                seen = [one for sim in (one, two, three) for one in sim.requests.to("/v1/chat/completions")]
                assert not [one for one in seen if b"nobody" in one.body]

    async def test_with_configured_models_only_an_unknown_one_stops_here(self) -> None:
        async with before(engine={"models": ["sim"]}) as (gw, sim):
            refused = await ask(gw.url, chat("nobody's"))
            assert (refused.status, refused.error["code"], refused.error["param"]) == (404, "model_not_found", "model")
            assert not sim.requests.to("/v1/chat/completions")

    async def test_the_engines_own_name_for_a_model(self) -> None:
        """`served_name` is spliced into the body; not a byte around it changes."""
        body = b'{"messages" : [{"role":"user","content":"say \\"model\\": \\"house\\""}], "model":\t"house" ,"n":1}'
        async with before({"models": ["meta/real"]}, engine={"models": ["house"], "served_name": "meta/real"}) as (gw, sim):
            answer = await ask(gw.url, post("/v1/chat/completions", body))
            assert answer.status == 200
            (seen,) = sim.requests.to("/v1/chat/completions")
            assert seen.body == body.replace(b'\t"house"', b'\t"meta/real"')
            stream = await ask(gw.url, chat("house", stream=True))
            assert stream.events()[-1] == "[DONE]"
            assert [row["id"] for row in (await ask(gw.url, request("GET", "/v1/models"))).json()["data"]] == ["house"]
        assert [record["model"] for record in gw.records[:2]] == ["house", "house"]

    @pytest.mark.parametrize(("weights", "turns"), [((1, 1, 1), 9), ((3, 1, 2), 12), ((1, 5, 1), 14)])
    async def test_round_robin_keeps_the_weights_exactly(self, weights: tuple[int, ...], turns: int) -> None:
        async with Simulator() as one, Simulator() as two, Simulator() as three:
            sims = (one, two, three)
            # (They are told what each serves: the turns begin anew while that is still being learned.)
            told = zip(sims, weights, strict=True)
            engines = [EngineConfig(url=sim.url, weight=weight, models=("sim",)) for sim, weight in told]
            async with running(engines) as gw:
                await gw.until("all engines well", lambda: gw.gateway.core.health.counts() == (3, 3))
                async with await gw.client() as client:
                    for _ in range(turns):
                        await client.send(chat("sim"))
                        assert (await client.read_response()).status == 200
            served = [len(sim.requests.to("/v1/chat/completions")) for sim in sims]
        assert served == [turns * weight // sum(weights) for weight in weights]

    async def test_ordered_stays_with_the_first_that_is_well(self) -> None:
        settings = {"policy": "ordered", "health_interval_s": 0.05, "health_unhealthy_after": 1}
        async with two_engines(**settings) as (gw, one, two):

            async def served(count: int) -> tuple[int, int]:
                for sim in (one, two):
                    sim.requests.clear()
                for _ in range(count):
                    assert (await ask(gw.url, chat("sim"))).status == 200
                return len(one.requests.to("/v1/chat/completions")), len(two.requests.to("/v1/chat/completions"))

            assert await served(4) == (4, 0)
            one.set_healthy(False)
            await gw.until("the first left out", lambda: gw.gateway.core.health.counts() == (1, 2))
            assert await served(4) == (0, 4)
            one.set_healthy(True)
            await gw.until("the first back", lambda: gw.gateway.core.health.counts() == (2, 2))
            assert await served(4) == (4, 0)

    async def test_an_engine_that_goes_away_costs_nobody_a_request(self) -> None:
        # (Without its breaker, which would spare it for longer than this test lasts.)
        async with two_engines(health_interval_s=0.1, connect_timeout_s=1.0, cb_failure_threshold=0) as (gw, one, _):
            one.refuse(0.5, drop=True)
            for _ in range(20):
                assert (await ask(gw.url, chat("sim"))).status == 200
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)  # (a busy machine may not have found it unwell: that alone does not say that it is back)
            await gw.until("it is back", lambda: gw.gateway.core.health.counts() == (2, 2))
            one.requests.clear()
            for _ in range(4):
                assert (await ask(gw.url, chat("sim"))).status == 200
            assert len(one.requests.to("/v1/chat/completions")) == 2
        assert gw.stats.failovers_total >= 1


class TestHealth:
    """Probes ask what each kind of engine answers, and the verdict shows everywhere at once."""

    async def seen_by(self, well: bytes, **engine: Any) -> list[bytes]:
        """The probes' targets, of an engine that answers 200 only at ``well``."""

        async def serve(conn: ScriptedConnection) -> None:
            seen = await conn.read_request()
            status = b"200 OK" if seen.target == well else b"404 Not Found"
            await conn.send(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\n{}")

        async with ScriptedEngine(serve) as scripted:
            target = EngineConfig(url=scripted.url, warm_connections=0, **engine)
            async with running([target], health_interval_s=60.0) as gw:
                await gw.until("a verdict", lambda: gw.gateway.core.health.counts() == (1, 1))
                return [seen.target for seen in scripted.requests]

    @pytest.mark.parametrize(("kind", "well", "order"), [
        ("auto", b"/health", [b"/health"]),
        ("auto", b"/healthz", [b"/health", b"/healthz"]),
        ("vllm", b"/v1/models", [b"/health", b"/healthz", b"/v1/models"]),
        ("auto", b"/api/tags", [b"/health", b"/healthz", b"/v1/models", b"/api/tags"]),
        ("ollama", b"/api/tags", [b"/api/tags"]),
    ])  # fmt: skip
    async def test_the_order_of_probes(self, kind: str, well: bytes, order: list[bytes]) -> None:
        assert (await self.seen_by(well, kind=kind))[: len(order)] == order

    async def test_a_path_of_its_own(self) -> None:
        assert (await self.seen_by(b"/up?deep=1", health_path="/up?deep=1"))[0] == b"/up?deep=1"

    @pytest.mark.parametrize("healthy", [True, False])
    async def test_bodies(self, healthy: bool) -> None:
        async with before() as (gw, sim):
            sim.set_healthy(healthy)
            well, status = (1, 200) if healthy else (0, 503)
            live = await ask(gw.url, request("GET", "/liveness"))
            assert (live.status, live.body) == (200, b'{"status":"ok"}')
            ready = await ask(gw.url, request("GET", "/readiness"))
            assert ready.status == status
            assert {"ready": healthy, "healthy_workers": well, "total_workers": 1}.items() <= ready.json().items()
            assert ("reason" in ready.json()) is (not healthy)
            ready = await ask(gw.url, request("GET", "/ready"))
            assert (ready.status, ready.json()["healthy_engines"], ready.json()["total_engines"]) == (status, well, 1)
            health = await ask(gw.url, request("GET", "/health"))
            assert (health.status, health.json()["status"]) == (200, "ok")
            healthz = await ask(gw.url, request("GET", "/healthz"))
            assert (healthz.status, healthz.body) == (200, b"ok")

    async def test_without_engines(self) -> None:
        async with running([]) as gw:
            ready = await ask(gw.url, request("GET", "/readiness"))
            assert (ready.status, ready.json()) == (
                503, {"ready": False, "healthy_workers": 0, "total_workers": 0, "reason": "no_workers_configured"},
            )  # fmt: skip
            assert (await ask(gw.url, request("GET", "/ready"))).status == 503
            assert (await ask(gw.url, request("GET", "/liveness"))).status == 200
            refused = await ask(gw.url, chat("m"))
            assert (refused.status, refused.error["code"]) == (503, "no_engines")
            assert refused.header("retry-after") is not None

    @pytest.mark.parametrize("engines", [[], ["http://127.0.0.1:9"]], ids=["runners alone", "an engine that is not there"])
    async def test_where_only_runners_bring_engines_it_is_ready_for_the_first(self, engines: list[str]) -> None:
        """They dial in through what asks this, and would never come."""
        async with running(engines, runner_auth_token="sk-runners-of-these-tests") as gw:
            ready = await ask(gw.url, request("GET", "/ready"))
            assert (ready.status, ready.json().get("waits_for")) == ((503, None) if engines else (200, "runners"))

    async def test_none_needs_a_key(self) -> None:
        async with before(api_keys=["sk-a"]) as (gw, _), await gw.client() as client:
            for path in ("/liveness", "/readiness", "/health", "/healthz", "/ready"):
                await client.send(request("GET", path))
                assert (await client.read_response()).status == 200, path

    async def test_readiness_asks_the_engine_and_does_not_remember_long(self) -> None:
        async with before(health_interval_s=3600.0) as (gw, sim):
            assert (await ask(gw.url, request("GET", "/readiness"))).status == 200
            sim.set_healthy(False)
            await asyncio.sleep(1.05)
            answer = await ask(gw.url, request("GET", "/readiness"))
            # One failed probe is not yet an unhealthy engine; the next question settles it.
            await asyncio.sleep(1.05)
            answer = await ask(gw.url, request("GET", "/readiness"))
            assert (answer.status, answer.json()["ready"]) == (503, False)
