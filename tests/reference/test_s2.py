"""S2, LLM-Inference-Stack: the gateway in front of vLLM, by the ids of docs/compatibility.md."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import errors
from fastgw.config import Config, ConfigErrors, load
from fastgw.sim import SimConfig, Simulator
from tests.cli.test_cli import ask as ask_unix
from tests.cli.test_cli import environment
from tests.reference.profile import ask, under
from tests.support.client import RawClient, chat, parse_head, request

PROFILE = {"FASTGW_COMPAT": "llm-stack"}
KEYED = {**PROFILE, "GATEWAY_API_KEYS": "sk-one, sk-two", "VLLM_API_KEY": "sk-engine"}
GET_LIVE = b"GET /liveness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@contextmanager
def process(tmp_path: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """``fastgw serve`` with these variables: the process, its Unix socket, its log."""
    path, log = tmp_path / "gw.sock", tmp_path / "log"
    argv = [sys.executable, "-m", "fastgw", "serve", "--port", "0", "--unix-socket", str(path)]
    with log.open("wb") as file:
        started = subprocess.Popen(argv, cwd=tmp_path, env=environment(**environ), stdout=file, stderr=file)
    try:
        yield started, path, log
    finally:
        started.kill()
        started.wait()


class TestS201:
    """S2.1: bearer keys, only their digests kept, 401 that says how to do better."""

    @pytest.mark.parametrize("fields", [
        [("Authorization", "Bearer sk-one")], [("authorization", "bearer sk-two")], [("X-Api-Key", "sk-two")],
    ])  # fmt: skip
    async def test_S2_01_a_known_key(self, fields: list[tuple[str, str]]) -> None:
        async with Simulator(SimConfig(api_key="sk-engine")) as sim, under({**KEYED, "VLLM_URL": sim.url}) as gw:
            assert (await ask(gw.url, chat("sim", headers=fields))).status == 200
            seen = sim.requests.to("/v1/chat/completions")[0]
            assert seen.header("authorization") == "Bearer sk-engine"
            assert seen.header("x-api-key") is None
        digest = hashlib.sha256(fields[0][1].split()[-1].encode()).hexdigest()
        assert digest.startswith(gw.records[0]["key_id"])
        assert gw.records[0]["key_id"]

    @pytest.mark.parametrize("fields", [
        [], [("Authorization", "Bearer sk-three")], [("Authorization", "Basic c2stb25l")], [("X-Api-Key", "")],
        [("Authorization", "Bearer sk-one ,")],
    ])  # fmt: skip
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
    async def test_S2_01_no_or_another_key(self, fields: list[tuple[str, str]], path: str) -> None:
        async with Simulator() as sim, under({**KEYED, "VLLM_URL": sim.url}) as gw:
            answer = await ask(gw.url, chat("sim", headers=fields, path=path))
            assert (answer.status, answer.error["type"]) == (401, "authentication_error")
            assert answer.header("www-authenticate") == "Bearer"
            assert not sim.requests.to(path)

    def test_S2_01_only_digests_are_kept(self) -> None:
        config = load({}, KEYED, "/nowhere")
        assert set(config.api_key_digests) == {hashlib.sha256(key).digest() for key in (b"sk-one", b"sk-two")}
        assert not config.api_keys
        assert "sk-" not in repr(config)


async def test_S2_05_connections_are_warm_before_traffic_and_reused() -> None:
    flags = {"warm_connections": "2", "health_interval_s": "60"}
    async with Simulator(SimConfig(keep_alive_s=30.0)) as sim:
        environ = {**PROFILE, "VLLM_URL": sim.url}
        async with under(environ, **flags) as gw:
            await gw.until("a warm pool", lambda: gw.stats.upstream_open == 2)
            for _ in range(30):
                assert (await ask(gw.url, chat("sim"))).status == 200
            assert gw.stats.dials_total == 2, "a request dialled although a connection was idle"
            used = {seen.connection for seen in sim.requests.to("/v1/chat/completions")}
            assert len(used) <= 2


async def test_S2_05_over_http2_many_requests_share_a_warm_connection() -> None:
    flags = {"warm_connections": "1", "health_interval_s": "60", "upstream_protocol": "h2"}
    async with Simulator(SimConfig(h2=True, ttft_ms=20.0)) as sim, under({**PROFILE, "VLLM_URL": sim.url}, **flags) as gw:
        engine = gw.gateway.fleet.engines()[0]
        await gw.until("a warm connection of HTTP/2", lambda: engine.h2 and gw.stats.upstream_open == 1)
        dialled = gw.stats.dials_total
        answers = await asyncio.gather(*(ask(gw.url, chat("sim")) for _ in range(30)))
        assert [answer.status for answer in answers] == [200] * 30
        assert gw.stats.dials_total == dialled, "a request dialled although there was room on a connection"
        assert len({seen.connection for seen in sim.requests.to("/v1/chat/completions")}) == 1


class TestS206:
    """S2.6: streams with accounting that nobody sees, and never a clean-looking end after a failure."""

    async def test_S2_06_usage_is_asked_for_and_taken_out_again(self) -> None:
        async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
            data = chat("sim", stream=True, max_tokens=10)
            direct, through = await ask(sim.url, data), await ask(gw.url, data)
            assert through.body == direct.body
            assert through.header("x-accel-buffering") == "no"
            mine = json.loads(sim.requests.to("/v1/chat/completions")[1].body)
            assert mine["stream_options"] == {"include_usage": True}
        assert gw.records[0]["completion_tokens"] == 10
        assert gw.records[0]["prompt_tokens"] > 0

    async def test_S2_06_usage_that_was_asked_for_stays(self) -> None:
        async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
            answer = await ask(gw.url, chat("sim", stream=True, max_tokens=10, stream_options={"include_usage": True}))
            *_, usage, done = answer.events()
            assert json.loads(usage)["choices"] == []
            assert json.loads(usage)["usage"]["completion_tokens"] == 10
            assert done == "[DONE]"

    @pytest.mark.parametrize(
        "fault", ["reset-after-events=4", "close-after-events=4", "half-event,after-events=4", "truncate-chunk,after-events=4"]
    )
    async def test_S2_06_a_failure_in_mid_stream_is_a_typed_event_and_an_abort(self, fault: str) -> None:
        async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
            answer = await ask(gw.url, chat("sim", stream=True, headers=[("x-sim-fault", fault)]))
            assert not answer.complete
            assert b"[DONE]" not in answer.body
            error = json.loads(answer.events()[-1])["error"]
            assert set(error) == {"message", "type", "param", "code"}


async def test_S2_07_which_paths_need_a_key() -> None:
    async with Simulator(SimConfig(api_key="sk-engine")) as sim, under({**KEYED, "VLLM_URL": sim.url}) as gw:
        for method, path in (("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models")):
            data = request(method, path, body=b'{"model":"sim","prompt":"x","messages":[{}]}' if method == "POST" else None)
            assert (await ask(gw.url, data)).status == 401, path
            keyed = data.replace(b"\r\n", b"\r\nAuthorization: Bearer sk-one\r\n", 1)
            assert (await ask(gw.url, keyed)).status == 200, path
        for path in ("/health", "/ready"):
            assert (await ask(gw.url, request("GET", path))).status == 200, path


async def test_S2_07_ready_polls_the_engine() -> None:
    async with (
        Simulator() as sim,
        under({**PROFILE, "VLLM_URL": sim.url}, health_interval_s="60", health_unhealthy_after="1") as gw,
    ):
        assert (await ask(gw.url, request("GET", "/ready"))).status == 200
        sim.set_healthy(False)
        await asyncio.sleep(1.05)
        probes = len(sim.requests.to("/health"))
        assert (await ask(gw.url, request("GET", "/ready"))).status == 503
        assert len(sim.requests.to("/health")) == probes + 1
        assert (await ask(gw.url, request("GET", "/health"))).status == 200


def test_S2_09_variables_and_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/.env").write_text(
        "VLLM_URL=http://vllm:8000\nGATEWAY_PORT=9000\nGATEWAY_HOST=127.0.0.2\nGATEWAY_API_KEYS=key1,key2\n"
        "VLLM_API_KEY=internal\nSERVED_MODEL_NAME=Qwen/Qwen3\nENABLE_OTLP_TRACING=false\nLOG_LEVEL=warning\n"
    )
    config = load({}, {"GATEWAY_PORT": "9001"}, tmp_path)
    assert (config.host, config.port, config.served_model_name, config.log_level) == (
        "127.0.0.2",
        9001,
        "Qwen/Qwen3",
        "warning",
    )
    assert (config.engines[0].url, config.engines[0].kind, config.engines[0].api_key) == (
        "http://vllm:8000",
        "vllm",
        "internal",
    )
    assert len(config.api_key_digests) == 2
    defaults = load({}, PROFILE, "/nowhere")
    assert (defaults.host, defaults.port) == ("127.0.0.1", 8080)


async def test_S2_10_a_backend_for_whatever_no_other_has() -> None:
    """`*` among its models, whatever it lists itself."""
    async with Simulator(SimConfig(models=["a"])) as named, Simulator(SimConfig(any_model=True)) as rest:
        async with under({**PROFILE, "BACKENDS": f"{named.url}||a;{rest.url}||*"}) as gw:
            assert [(await ask(gw.url, chat(model))).status for model in ("a", "b", "c", "a", "sim")] == [200] * 5
        assert [len(sim.requests.to("/v1/chat/completions")) for sim in (named, rest)] == [2, 3]


async def test_S2_10_backends_timeouts_and_served_names() -> None:
    async with Simulator(SimConfig(models=["real"], api_key="sk-e")) as sim:
        environ = {
            **PROFILE,
            "BACKENDS": f"{sim.url}|sk-e|house|2|real",
            "REQUEST_TIMEOUT_SECONDS": "0.4",
            "CONNECT_TIMEOUT_SECONDS": "2",
        }
        async with under(environ) as gw:
            assert (await ask(gw.url, chat("house"))).status == 200
            assert json.loads(sim.requests.to("/v1/chat/completions")[0].body)["model"] == "real"
            late = await ask(gw.url, chat("house", headers=[("x-sim-fault", "stall-before")]))
            assert late.status == 504


@pytest.mark.parametrize(
    ("name", "text", "setting", "value"),
    [
        ("RATE_LIMIT_PER_SECOND", "7", "rate_limit_per_second", 7),
        ("RATE_LIMIT_PER_MINUTE", "60", "rate_limit_per_minute", 60),
        ("DAILY_TOKEN_QUOTA", "5000", "daily_token_quota", 5000),
        ("CB_FAILURE_THRESHOLD", "3", "cb_failure_threshold", 3),
        ("CB_RECOVERY_TIMEOUT", "12.5", "cb_recovery_timeout_s", 12.5),
        ("ADMIN_KEY", "a-long-admin-key", "admin_key", "a-long-admin-key"),
    ],
)
def test_S2_10_limits_breaker_and_admin_key(name: str, text: str, setting: str, value: object) -> None:
    config = load({}, {name: text}, "/nowhere")
    assert getattr(config, setting) == value
    assert not any("does not act on it" in note for note in config.warnings)


async def test_S2_12_one_json_line_for_each_request(tmp_path: Path) -> None:
    async with Simulator() as sim:
        with process(tmp_path, **KEYED, VLLM_URL=sim.url) as (gateway, path, log):
            await asyncio.to_thread(ask_unix, path, GET_LIVE)
            for stream in (False, True):
                async with RawClient.connect(str(path)) as client:
                    await client.send(chat("sim", stream=stream, key="sk-one", content="canary-prompt", max_tokens=7))
                    assert (await client.read_response()).status == 200
            gateway.terminate()
            assert await asyncio.to_thread(gateway.wait, 10) == 0
            text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"timestamp", "level", "message"} <= set(line) for line in lines)
    _, plain, stream_ = [line for line in lines if line["message"] == "request"]
    assert (plain["status"], plain["model"], plain["endpoint"], plain["outcome"]) == (200, "sim", "/v1/chat/completions", "ok")
    for line in (plain, stream_):
        assert line["completion_tokens"] == 7
        assert 0 < line["ttft_ms"] <= line["duration_ms"]
        assert line["key_id"]
        assert line["request_id"]
    assert stream_["stream"] is True
    for secret in ("canary-prompt", "sk-one", "sk-engine"):
        assert secret not in text


async def test_S2_13_sigterm_lets_live_streams_finish(tmp_path: Path) -> None:
    assert Config().drain_timeout_s == 30.0
    async with Simulator(SimConfig(itl_ms=30.0)) as sim:
        with process(tmp_path, **PROFILE, VLLM_URL=sim.url) as (gateway, path, _):
            await asyncio.to_thread(ask_unix, path, GET_LIVE)
            async with RawClient.connect(str(path)) as client, RawClient.connect(str(path)) as late:
                await client.send(chat("sim", stream=True, max_tokens=20))
                answer = await client.read_until(await client.read_head(), b"data: ")
                data = chat("sim")
                await late.send(data[:40])
                await asyncio.sleep(0.05)
                gateway.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.1)
                await late.send(data[40:])
                assert (await late.read_response()).status == 503
                await client.read_body(answer)
                assert (answer.complete, answer.events()[-1]) == (True, "[DONE]")
            assert await asyncio.to_thread(gateway.wait, 10) == 0


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_S2_14_it_is_small_and_starts_at_once(tmp_path: Path) -> None:
    """The figures themselves are measured by the benchmarks; here only an accident would be noticed."""
    took = []
    for turn in range(3):
        folder = tmp_path / str(turn)
        folder.mkdir()
        begin = time.monotonic()
        with process(folder, **PROFILE, VLLM_URL="http://127.0.0.1:1") as (gateway, path, _):
            assert b" 200 " in ask_unix(path, GET_LIVE)
            took.append(time.monotonic() - begin)
            assert resident_bytes(gateway.pid) < 50 << 20
    assert min(took) < 1.0, took


class TestS215:
    """S2.15: one shape for all errors, the right status, nothing of the inside."""

    CASES: tuple[tuple[bytes, int, str], ...] = (
        (chat("sim", body=b"{"), 400, "invalid_request_error"), (chat("sim", key="sk-bad"), 401, "authentication_error"),
        (request("GET", "/v1/nothing", key="sk-one"), 404, "invalid_request_error"),
        (request("GET", "/v1/completions", key="sk-one"), 405, "invalid_request_error"),
        (request("POST", "/v1/completions", key="sk-one"), 411, "invalid_request_error"),
        (chat("sim", content="x" * 5000), 413, "invalid_request_error"),
        (chat("sim", path="/v1/embeddings").replace(b"application/json", b"text/plain"), 415, "invalid_request_error"),
        (request("GET", "/v1/models", headers=[("X-Long", "x" * 9000)]), 431, "invalid_request_error"),
        (chat("sim", headers=[("x-sim-fault", "garbage")]), 502, "upstream_error"),
        (chat("sim", headers=[("x-sim-fault", "stall-before")]), 504, "upstream_error"),
        (chat("sim", key="sk-one")[:-5], 408, "invalid_request_error"),
    )  # fmt: skip

    @pytest.mark.parametrize(("data", "status", "type_"), CASES, ids=[str(case[1]) for case in CASES])
    async def test_S2_15_every_status_in_the_one_shape(self, data: bytes, status: int, type_: str) -> None:
        flags = {"max_body_bytes": "4096", "max_head_bytes": "8192", "first_byte_timeout_s": "0.3", "body_timeout_s": "0.3"}
        if status != 401 and b"Authorization" not in data:
            data = data.replace(b"\r\n", b"\r\nAuthorization: Bearer sk-one\r\n", 1)
        async with Simulator(SimConfig(api_key="sk-engine")) as sim, under({**KEYED, "VLLM_URL": sim.url}, **flags) as gw:
            answer = await ask(gw.url, data)
            assert answer.status == status
            assert answer.header("content-type") == "application/json"
            assert answer.json().keys() == {"error"}
            assert answer.error.keys() == {"message", "type", "param", "code"}
            assert answer.error["type"] == type_
            for inside in (b"Traceback", b".py", b"127.0.0.1", str(sim.port).encode(), b"sk-", b"garbage"):
                assert inside not in answer.body
            await gw.idle()
        assert [record["status"] for record in gw.records] == [status]

    async def test_S2_15_503_and_the_log_only_499(self) -> None:
        async with under(PROFILE) as gw:
            assert (await ask(gw.url, chat("m"))).status == 503
        async with Simulator(SimConfig(ttft_ms=2000.0)) as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
            client = await RawClient.connect(gw.url)
            await client.send(chat("sim"))
            await gw.until("the engine works", lambda: sim.state.running == 1)
            client.close()
            await gw.idle()
        assert [record["status"] for record in gw.records] == [499]

    def test_S2_15_the_table_has_every_status(self) -> None:
        known = {kind.status for kind in errors.KINDS.values()}
        assert known >= {400, 401, 403, 404, 405, 408, 411, 413, 415, 429, 431, 499, 500, 502, 503, 504}
        for kind in errors.KINDS.values():
            assert json.loads(errors.body(kind))["error"].keys() == {"message", "type", "param", "code"}


async def test_S2_17_the_request_id_goes_everywhere() -> None:
    async with Simulator() as sim, under({**PROFILE, "VLLM_URL": sim.url}) as gw:
        given = await ask(gw.url, chat("sim", headers=[("x-request-id", "my-id-1")]))
        made = await ask(gw.url, chat("sim", stream=True))
        assert given.header("x-request-id") == "my-id-1"
        ids = ["my-id-1", made.header("x-request-id")]
        assert [seen.header("x-request-id") for seen in sim.requests.to("/v1/chat/completions")] == ids
    assert [record["request_id"].decode() for record in gw.records] == ids


@pytest.mark.parametrize(("path", "fields"), [
    ("/v1/embeddings", {"input": "x"}), ("/tokenize", {"prompt": "x"}), ("/v1/responses", {"input": "x"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
    ("/v1/score", {"text_1": "x", "text_2": "y"}), ("/v1/rerank", {"query": "x", "documents": ["y"]}),
    ("/v1/audio/speech", {"input": "x"}), ("/v1/images/generations", {"prompt": "x"}),
])  # fmt: skip
async def test_S2_18_other_endpoints_are_routed_by_model_too(path: str, fields: dict[str, Any]) -> None:
    async with Simulator(SimConfig(models=["a"])) as one, Simulator(SimConfig(models=["b"])) as two:
        environ = {**PROFILE, "BACKENDS": f"{one.url}||a;{two.url}||b"}
        data = chat(path=path, body=json.dumps({"model": "b", **fields}).encode())
        async with under(environ) as gw:
            direct, through = await ask(two.url, data), await ask(gw.url, data)
            assert (through.status, through.body) == (200, direct.body)
            assert not one.requests.to(path)


def test_S2_22_by_default_nothing_is_exposed() -> None:
    assert Config().host == "127.0.0.1"
    with pytest.raises(ConfigErrors, match="allow_anonymous"):
        load({}, {**PROFILE, "GATEWAY_HOST": "0.0.0.0"}, "/nowhere")
    assert load({}, {**PROFILE, "GATEWAY_HOST": "0.0.0.0", "GATEWAY_API_KEYS": "sk-1"}, "/nowhere").host == "0.0.0.0"


def test_S2_15_an_error_answer_is_well_formed_on_the_wire() -> None:
    from fastgw.protocol.http1.writer import simple_response

    raw = simple_response(429, body=errors.body(errors.KINDS["rate_limited"]), extra=b"retry-after: 1\r\n")
    head, blank, body = raw.partition(b"\r\n\r\n")
    answer = parse_head(head + blank)
    assert answer.feed(bytearray(body))
    assert (answer.status, answer.error["type"], answer.header("retry-after")) == (429, "rate_limit_error", "1")
