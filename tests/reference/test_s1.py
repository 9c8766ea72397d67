"""S1, minisgl-cpu-gateway: a front for one Python server, by the ids of docs/compatibility.md."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fastgw.config import load
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.cli.test_cli import ask as ask_unix
from tests.cli.test_cli import environment
from tests.reference.profile import ask, under
from tests.support.client import RawClient, chat, request

PROFILE = {"FASTGW_COMPAT": "minisgl"}


def workers(*sims: Simulator | str, **more: str) -> dict[str, str]:
    urls = [sim if isinstance(sim, str) else sim.url for sim in sims]
    return {**PROFILE, "MINISGL_GATEWAY_WORKERS": ",".join(urls), **more}


async def refused_url() -> str:
    """Where nobody listens."""
    async with Simulator() as sim:
        return sim.url


async def dies(conn: ScriptedConnection) -> None:
    """It is well, and closes when it has a request."""
    if (await conn.read_request()).method == b"GET":
        await conn.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize("environ", [{}, PROFILE])
async def test_S1_01_liveness(environ: dict[str, str]) -> None:
    async with under(environ) as gw:
        answer = await ask(gw.url, request("GET", "/liveness"))
        assert (answer.status, answer.json()) == (200, {"status": "ok"})
        assert answer.header("content-type") == "application/json"


async def test_S1_02_readiness_without_workers() -> None:
    async with under(PROFILE) as gw:
        answer = await ask(gw.url, request("GET", "/readiness"))
        assert answer.status == 503
        assert answer.json() == {
            "ready": False, "healthy_workers": 0, "total_workers": 0, "reason": "no_workers_configured",
        }  # fmt: skip


async def test_S1_02_readiness_counts_the_workers() -> None:
    async with Simulator() as one, Simulator() as two, under(workers(one, two, await refused_url())) as gw:
        two.set_healthy(False)
        answer = await ask(gw.url, request("GET", "/readiness"))
        assert (answer.status, answer.json()) == (200, {"ready": True, "healthy_workers": 1, "total_workers": 3})


async def test_S1_02_readiness_with_no_healthy_worker() -> None:
    async with Simulator() as one, under(workers(one, await refused_url())) as gw:
        one.set_healthy(False)
        answer = await ask(gw.url, request("GET", "/readiness"))
        assert answer.status == 503
        assert {"ready": False, "healthy_workers": 0, "total_workers": 2}.items() <= answer.json().items()


@pytest.mark.parametrize("well", ["/health", "/healthz", "/v1/models"])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
async def test_S1_03_any_2xx_of_the_probe_paths_is_healthy(well: str, status: str) -> None:
    async def engine(conn: ScriptedConnection) -> None:
        seen = await conn.read_request()
        line = status if seen.target.decode() == well else "404 Not Found"
        await conn.send(
            f"HTTP/1.1 {line}\r\nconnection: close\r\n".encode() + (b"\r\n" if "204" in line else b"content-length: 0\r\n\r\n")
        )

    async with ScriptedEngine(engine) as scripted, under(workers(scripted.url), warm_connections="0") as gw:
        answer = await ask(gw.url, request("GET", "/readiness"))
        assert (answer.status, answer.json()["healthy_workers"]) == (200, 1)
        probes = [seen.target.decode() for seen in scripted.requests]
        order = ["/health", "/healthz", "/v1/models"]
        assert probes[: order.index(well) + 1] == order[: order.index(well) + 1]


@pytest.mark.parametrize("environ", [{}, PROFILE])
async def test_S1_04_models(environ: dict[str, str]) -> None:
    async with Simulator(SimConfig(models=["from-the-worker"])) as sim:
        env = {**environ, "MINISGL_GATEWAY_WORKERS": sim.url, "MINISGL_GATEWAY_MODEL_ID": "my-model"}
        async with under(env) as gw:
            listed = (await ask(gw.url, request("GET", "/v1/models"))).json()
    assert listed["object"] == "list"
    assert listed["data"][0]["id"] == "my-model"
    assert {row["object"] for row in listed["data"]} == {"model"}


class TestS105:
    """S1.5: the workers in order, the first success wins, nothing on the way is changed."""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_S1_05_passes_through_unchanged(self, stream: bool) -> None:
        async with Simulator(SimConfig(any_model=True)) as sim, under(workers(sim)) as gw:
            data = chat("whatever", stream=stream, max_tokens=20)
            direct, through = await ask(sim.url, data), await ask(gw.url, data)
            assert (through.status, through.body) == (200, direct.body)
            assert through.header("content-type") == direct.header("content-type")

    async def test_S1_05_the_first_takes_all_while_it_is_well(self) -> None:
        async with Simulator() as one, Simulator() as two, under(workers(one, two)) as gw:
            core = gw.gateway.core
            assert core is not None
            await gw.until("their models", lambda: all(pool.engine.discovered_models for pool in core.table.pools))
            for _ in range(6):
                assert (await ask(gw.url, chat("sim"))).status == 200
            assert (len(one.requests.to("/v1/chat/completions")), len(two.requests.to("/v1/chat/completions"))) == (6, 0)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_S1_05_a_refused_connection_goes_to_the_next(self, stream: bool) -> None:
        async with Simulator() as two, under(workers(await refused_url(), two)) as gw:
            answer = await ask(gw.url, chat("sim", stream=stream))
            assert (answer.status, answer.complete) == (200, True)

    @pytest.mark.parametrize("fault", ["close", "reset"])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_S1_05_death_before_the_first_byte_goes_to_the_next(self, fault: str, stream: bool) -> None:
        async with Simulator(SimConfig(fault=fault)) as one, Simulator() as two, under(workers(one, two)) as gw:
            data = chat("sim", stream=stream)
            answer = await ask(gw.url, data)
            assert (answer.status, answer.body) == (200, (await ask(two.url, data)).body)
            assert len(one.requests.to("/v1/chat/completions")) >= 1

    async def test_S1_05_all_workers_are_tried_before_its_502(self) -> None:
        """Whatever becomes of them, once they have the request too; as often as that comes about."""
        async with AsyncExitStack() as stack:
            dead = [await stack.enter_async_context(ScriptedEngine(dies)) for _ in range(4)]
            good = await stack.enter_async_context(Simulator(SimConfig(any_model=True)))
            urls = [engine.url for engine in dead]
            async with under(workers(*urls, good), warm_connections="0", cb_failure_threshold="0") as gw:
                core = gw.gateway.core
                assert core is not None
                await gw.until("all are well", lambda: all(pool.engine.healthy for pool in core.table.pools))
                assert [(await ask(gw.url, chat("any"))).status for _ in range(6)] == [200] * 6
                assert [len([one for one in engine.requests if one.method == b"POST"]) for engine in dead] == [6] * 4
                assert len(good.requests.to("/v1/chat/completions")) == 6
            async with under(workers(*urls), warm_connections="0") as gw:
                assert (await ask(gw.url, chat("any"))).status == 502

    async def test_S1_05_after_the_first_byte_nothing_is_sent_again(self) -> None:
        async with (
            Simulator(SimConfig(fault="close-after-events=2")) as one,
            Simulator() as two,
            under(workers(one, two)) as gw,
        ):
            answer = await ask(gw.url, chat("sim", stream=True))
            assert not answer.complete
            assert not two.requests.to("/v1/chat/completions")


def test_S1_06_variables() -> None:
    config = load({}, PROFILE, "/nowhere")
    assert (config.host, config.port, config.connect_timeout_s, config.first_byte_timeout_s) == ("127.0.0.1", 3030, 3.0, 3.0)
    config = load(
        {},
        workers(" http://a:1/ ,,\t", "http://b:2/ , ", MINISGL_GATEWAY_ADDR="127.0.0.9:99", MINISGL_GATEWAY_TIMEOUT_MS="1500"),
        "/nowhere",
    )
    assert [engine.url for engine in config.engines] == ["http://a:1", "http://b:2"]
    assert (config.host, config.port, config.connect_timeout_s, config.first_byte_timeout_s) == ("127.0.0.9", 99, 1.5, 1.5)


async def test_S1_06_the_timeout_covers_the_first_byte_and_never_cuts_a_live_stream() -> None:
    async with Simulator(SimConfig(itl_ms=25.0)) as sim, under(workers(sim, MINISGL_GATEWAY_TIMEOUT_MS="400")) as gw:
        answer = await ask(gw.url, chat("sim", stream=True, max_tokens=30))
        assert (answer.complete, answer.events()[-1]) == (True, "[DONE]")
        assert gw.records[0]["duration_s"] > 0.6
        late = await ask(gw.url, chat("sim", headers=[("x-sim-fault", "stall-before")]))
        assert late.status == 502


async def test_S1_07_no_workers() -> None:
    async with under(PROFILE) as gw:
        answer = await ask(gw.url, chat("m"))
        assert (answer.status, answer.error["type"], answer.error["code"]) == (
            503, "unavailable", "minisgl_cpu_gateway_no_workers",
        )  # fmt: skip


async def test_S1_07_all_unreachable() -> None:
    async with under(workers(await refused_url(), await refused_url())) as gw:
        for _ in range(3):  # also when they are known to be down
            answer = await ask(gw.url, chat("m"))
            assert (answer.status, answer.error["type"], answer.error["code"]) == (
                502, "bad_gateway", "minisgl_cpu_gateway_all_workers_unreachable",
            )  # fmt: skip
            assert "127.0.0.1" not in answer.body.decode()


async def test_S1_07_openai_shaped_without_the_profile() -> None:
    async with under({}) as gw:
        answer = await ask(gw.url, chat("m"))
        assert (answer.status, set(answer.error)) == (503, {"message", "type", "param", "code"})
        assert "minisgl" not in answer.body.decode()


@pytest.mark.parametrize(("level", "seen"), [("info", True), ("error", False), ("debug", True)])
def test_S1_09_structured_logs_with_their_level_from_the_environment(tmp_path: Path, level: str, seen: bool) -> None:
    path, log = tmp_path / "gw.sock", tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgw", "serve", "--port", "0", "--unix-socket", str(path)], cwd=tmp_path,
            env=environment(**PROFILE, MINISGL_GATEWAY_WORKERS="http://127.0.0.1:1", RUST_LOG=level), stdout=file, stderr=file,
        )  # fmt: skip
    try:
        assert b" 200 " in ask_unix(path, b"GET /liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all({"timestamp", "level", "message"} <= set(line) for line in lines)
    assert any(line["message"] == "listening" for line in lines) is seen


async def test_S1_12_health_follows_the_workers() -> None:
    async with Simulator() as sim, under(workers(sim), health_interval_s="0.05", health_unhealthy_after="1") as gw:

        async def ready(status: int) -> None:
            for _ in range(300):
                if (await ask(gw.url, request("GET", "/readiness"))).status == status:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(f"/readiness never became {status}")

        await ready(200)
        for _ in range(2):
            sim.set_healthy(False)
            await ready(503)
            sim.set_healthy(True)
            await ready(200)
        sim.refuse(0.3, drop=True)
        await ready(503)
        await ready(200)
        async with RawClient.connect(gw.url) as client:
            await client.send(chat("sim"))
            assert (await client.read_response()).status == 200
