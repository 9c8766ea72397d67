"""S5, openai-llm-gateway: the front for Ollama, by the ids of docs/compatibility.md."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import load
from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.gateway import running

PROFILE: dict[str, Any] = {"compat": "openai-llm-gateway", "allow_anonymous": True}
SMOKE = Path(__file__).parents[2] / "scripts/test/smoke.sh"


async def ask(url: str, data: bytes) -> RawResponse:
    async with RawClient.connect(url) as client:
        await client.send(data)
        return await client.read_response()


def test_S5_01_where_it_listens_and_what_it_fronts() -> None:
    config = load({}, {"FASTGW_COMPAT": "openai-llm-gateway"}, "/nowhere")
    assert (config.host, config.port) == ("0.0.0.0", 8080)
    assert [(engine.url, engine.kind) for engine in config.engines] == [("http://localhost:11434", "ollama")]
    config = load({}, {"FASTGW_COMPAT": "openai-llm-gateway", "OLLAMA_BASE": "http://box:1234/"}, "/nowhere")
    assert [(engine.url, engine.kind) for engine in config.engines] == [("http://box:1234", "ollama")]


def test_S5_01_the_variable_works_without_the_profile() -> None:
    config = load({}, {"OLLAMA_BASE": "http://box:1234"}, "/nowhere")
    assert (config.host, config.port, config.engines[0].kind) == ("127.0.0.1", 8080, "ollama")


async def test_S5_02_healthz_under_the_profile() -> None:
    async with Simulator() as sim, running([sim.url], **PROFILE) as gw:
        answer = await ask(gw.url, request("GET", "/healthz"))
        assert (answer.status, answer.body) == (200, b"OK")
        assert [message for _, message, _ in gw.events.lines if message == "health check"] == ["health check"]


async def test_S5_02_healthz_without_the_profile() -> None:
    async with Simulator() as sim, running([sim.url]) as gw:
        assert (await ask(gw.url, request("GET", "/healthz"))).body == b"ok"
        assert not [message for _, message, _ in gw.events.lines if message == "health check"]


# What the engines do differently: line ends, the first chunk, whether [DONE] comes, when the connection ends, comments.
ENGINES: dict[str, dict[str, Any]] = {
    "vllm": {},
    "sglang": {"first_chunk": "vllm", "sep": "lf"},
    "tgi": {"first_chunk": "none"},
    "llamacpp": {"first_chunk": "llamacpp", "close_after_stream": True, "max_requests": 100},
    "ollama": {"first_chunk": "none", "done": True},
    "openai": {"sep": "crlf", "done": False, "ping_s": 0.02, "itl_ms": 3.0},
}


@pytest.mark.parametrize("kind", list(ENGINES))
async def test_S5_03_chat_completions_of_every_engine(kind: str) -> None:
    async with Simulator(SimConfig(**ENGINES[kind])) as sim, running([EngineConfig(url=sim.url, kind=kind)], **PROFILE) as gw:
        for _ in range(3):
            for stream in (False, True):
                data = chat("sim", stream=stream, max_tokens=12)
                direct, through = await ask(sim.url, data), await ask(gw.url, data)
                assert (through.status, through.complete) == (200, True)
                if ENGINES[kind].get("ping_s"):
                    assert through.events() == direct.events()
                else:
                    assert through.body == direct.body


async def test_S5_06_time_to_first_token_is_in_the_record() -> None:
    async with Simulator(SimConfig(ttft_ms=80.0, itl_ms=10.0)) as sim, running([sim.url], **PROFILE) as gw:
        await ask(gw.url, chat("sim", stream=True, max_tokens=10))
        await ask(gw.url, chat("sim", max_tokens=10))
        await ask(gw.url, request("GET", "/healthz"))
        await gw.idle()
    stream, plain, health = gw.records
    assert 0.075 <= stream["ttft_s"] <= 0.150 < stream["duration_s"]
    assert plain["ttft_s"] >= 0.145
    assert health["ttft_s"] < 0


async def test_S5_08_keys_timeouts_and_routing_by_model() -> None:
    """Of the row, what works so far; the rest is "not yet" in docs/compatibility.md."""
    async with Simulator(SimConfig(models=["a"])) as one, Simulator(SimConfig(models=["b"])) as two:
        engines = [EngineConfig(url=one.url, models=["a"]), EngineConfig(url=two.url, models=["b"])]
        async with running(engines, compat="openai-llm-gateway", api_keys=["sk-1"], first_byte_timeout_s=0.3) as gw:
            assert (await ask(gw.url, chat("b"))).status == 401
            assert (await ask(gw.url, chat("b", key="sk-1"))).status == 200
            assert not one.requests.to("/v1/chat/completions")
            late = await ask(gw.url, chat("a", key="sk-1", headers=[("x-sim-fault", "stall-before")]))
            assert late.status == 504


async def smoke(path: str | None = None, **env: str) -> tuple[int, list[str]]:
    """Exit code and output of the script."""
    environ = {"PATH": path or os.environ["PATH"], **env}
    process = await asyncio.create_subprocess_exec(
        shutil.which("bash") or "bash", str(SMOKE), env=environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 25)
    return process.returncode or 0, output.decode().splitlines()


CHECKS = ["the engine answers at", "healthz", "models", "an answer", "a stream", "an unknown path is refused"]


@pytest.mark.parametrize("profile", [True, False])
async def test_S5_10_smoke(profile: bool) -> None:
    async with Simulator(SimConfig(models=["qwen"])) as sim, running([sim.url], **(PROFILE if profile else {})) as gw:
        code, lines = await smoke(BASE_URL=gw.url + "/", OLLAMA_BASE=sim.url, MODEL="qwen")
    assert code == 0, lines
    for line, check in zip(lines, CHECKS, strict=False):
        assert line.startswith(f"ok    {check}")
    assert lines[-1].startswith("all well at http://127.0.0.1:")


async def test_S5_10_smoke_with_a_key() -> None:
    async with (
        Simulator(SimConfig(any_model=True)) as sim,
        running([EngineConfig(url=sim.url, models=["*"])], api_keys=["sk-smoke"]) as gw,
    ):
        code, lines = await smoke(BASE_URL=gw.url, OLLAMA_BASE="", MODEL='a "b" \\c', API_KEY="sk-smoke")
        assert (code, len(lines)) == (0, 6), lines
        assert b'"model":"a \\"b\\" \\\\c"' in sim.requests.to("/v1/chat/completions")[0].body
        code, lines = await smoke(BASE_URL=gw.url, OLLAMA_BASE="", MODEL="m")
        assert code == 1
        assert [line[:4] for line in lines[:-1]] == ["ok  ", "FAIL", "FAIL", "FAIL", "ok  "]
        assert "status 401" in lines[1]


async def test_S5_10_smoke_without_curl(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    async with Simulator(SimConfig(models=["qwen"])) as sim, running([sim.url]) as gw:
        code, lines = await smoke(str(tmp_path), BASE_URL=gw.url, OLLAMA_BASE=sim.url, MODEL="qwen")
        assert code == 0, lines
        code, lines = await smoke(str(tmp_path), BASE_URL=gw.url, OLLAMA_BASE="", MODEL="other")
        assert code == 1
        assert "status 404" in lines[2]


async def test_S5_10_smoke_tells_a_dead_engine_from_a_dead_gateway() -> None:
    async with Simulator(SimConfig(models=["qwen"])) as sim, running([sim.url]) as gw:
        await gw.until("models learned", lambda: "qwen" in gw.gateway.core.table.models)
        sim.refuse(30.0, drop=True)
        code, lines = await smoke(BASE_URL=gw.url, OLLAMA_BASE=sim.url, MODEL="qwen")
        assert code == 1
        assert [line[:4] for line in lines[:3]] == ["FAIL", "ok  ", "ok  "]
        assert lines[0].startswith("FAIL  the engine at")
        nowhere = gw.url
    code, lines = await smoke(BASE_URL=nowhere, OLLAMA_BASE="", MODEL="qwen")
    assert code == 1
    assert all(line.startswith("FAIL") for line in lines[:-1])
    assert lines[-1].startswith("not all well")


@pytest.mark.parametrize(("script", "columns", "rows"), [
    ("no_stream_bench.sh", "Workers | RPS", {"DURATION_S": "0.2"}),
    ("stream_bench.sh", "Workers | Total Reqs | Avg TTFT | P50 TTFT | P99 TTFT | Stability", {"PER_WORKER": "1"}),
])  # fmt: skip
async def test_S5_11_the_scripts_of_the_two_tables(script: str, columns: str, rows: dict[str, str]) -> None:
    """Through the gateway under its profile, with a key that shows in no argument."""
    settings: dict[str, Any] = {**PROFILE, "allow_anonymous": False, "api_keys": ["sk-bench"]}
    async with Simulator(SimConfig(models=["qwen"])) as sim, running([sim.url], **settings) as gw:
        environ = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "BASE_URL": gw.url, "MODEL": "qwen", "API_KEY": "sk-bench",
                   "FASTGW": str(Path(sys.executable).parent / "fastgw"), "WORKERS": "1 4", **rows}  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            shutil.which("bash") or "bash", str(SMOKE.parents[1] / "bench" / script), "--plain", env=environ,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 25)
        asked = sim.requests.to("/v1/chat/completions")
    lines = out.decode().splitlines()
    assert process.returncode == 0, err.decode()
    [head] = [number for number, line in enumerate(lines) if line.startswith(columns)]
    assert [line.split()[0] for line in lines[head + 2 : head + 4]] == ["1", "4"]
    assert all(line.endswith("✅ OK") for line in lines[head + 2 : head + 4])
    assert all(b'"content":"hi"' in one.body and b'"max_tokens":32' in one.body for one in asked)
