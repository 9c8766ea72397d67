"""Ollama's and TGI's own APIs through the gateway: the engine's bytes, what was used on every ending, limits, routing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.e2e.metered import KEY, ask, metered
from tests.e2e.test_told_bounds import settled
from tests.support.client import RawClient, request
from tests.support.gateway import running

pytestmark = pytest.mark.together

N = 6
CONTENT = "Tell me about rivers, and about the sea that they run into."
CHAT = {"model": "sim", "messages": [{"role": "user", "content": CONTENT}], "options": {"num_predict": N}}
GENERATE = {"model": "sim", "prompt": CONTENT, "options": {"num_predict": N}}
TGI = {"inputs": CONTENT, "parameters": {"max_new_tokens": N}}
DETAILED = {"inputs": CONTENT, "parameters": {"max_new_tokens": N, "details": True}}

CALLS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "chat": ("/api/chat", CHAT, True),
    "chat, no stream": ("/api/chat", CHAT | {"stream": False}, False),
    "generate": ("/api/generate", GENERATE, True),
    "generate, no stream": ("/api/generate", GENERATE | {"stream": False}, False),
    "tgi": ("/generate", TGI, False),
    "tgi, details": ("/generate", DETAILED, False),
    "tgi stream": ("/generate_stream", TGI, True),
}
STREAMS = [name for name, (_, _, stream) in CALLS.items() if stream]


def call(name: str, key: str | None = None, **headers: str) -> bytes:
    path, document, _ = CALLS[name]
    fields = [(field.replace("_", "-"), value) for field, value in headers.items()]
    return request("POST", path, key=key, body=json.dumps(document).encode(), headers=fields)


async def once(url: str, data: bytes) -> Any:
    async with RawClient.connect(url) as client:
        await client.send(data)
        return await client.read_response()


@pytest.mark.parametrize("name", CALLS)
async def test_an_answer_is_the_engines_own_and_its_words_are_counted(name: str) -> None:
    async with Simulator() as sim, running([sim.url]) as gw:
        through, straight = await once(gw.url, call(name)), await once(sim.url, call(name))
        assert (through.status, through.body) == (200, straight.body)
        assert through.header("content-type") == straight.header("content-type")
        await gw.idle()
        (record,) = gw.records
        assert (record["prompt_tokens"], record["completion_tokens"], record["estimated"]) == (
            sim.state.prompt_tokens // 2, N, False,
        )  # fmt: skip
        assert (record["endpoint"], record["outcome"], record["stream"]) == (CALLS[name][0], "ok", CALLS[name][2])


@pytest.mark.parametrize("name", STREAMS)
async def test_each_piece_goes_down_when_it_comes(name: str) -> None:
    async with Simulator(SimConfig(itl_ms=60.0)) as sim, running([sim.url]) as gw, RawClient.connect(gw.url) as client:
        await client.send(call(name))
        text = b""
        while text.count(b"\n") < 9 and b"{" not in text.partition(b"\r\n\r\n")[2]:
            text += await client.read_some()
        assert sim.state.generation_tokens < N, "the first is there before the last is made"
        client.close()


@pytest.mark.parametrize("name", STREAMS)
async def test_a_client_that_leaves_is_charged_for_what_has_passed(name: str) -> None:
    async with Simulator(SimConfig(itl_ms=40.0)) as sim, running([sim.url]) as gw:
        async with RawClient.connect(gw.url) as client:
            await client.send(call(name))
            text = b""
            while text.count(b'"token"') + text.count(b'"done"') < 3:
                text += await client.read_some()
        await gw.idle()
        (record,) = gw.records
        assert record["outcome"] == "client_closed"
        assert record["estimated"]
        assert 3 <= record["completion_tokens"] < N
        assert record["prompt_tokens"] > 0
        await gw.until("its work has ended", lambda: sim.state.running == 0)


@pytest.mark.parametrize("name", STREAMS)
async def test_one_that_breaks_off_is_no_clean_end(name: str) -> None:
    async with Simulator() as sim, running([sim.url]) as gw:
        async with RawClient.connect(gw.url) as client:
            await client.send(call(name, x_sim_fault="close-after-events=3"))
            text, how = await client.read_until_closed()
        assert how != "timeout"
        assert b"0\r\n\r\n" not in text[-7:]
        await gw.idle()
        (record,) = gw.records
        assert (record["outcome"], record["estimated"], record["completion_tokens"]) == ("truncated", True, 3)


async def test_an_engine_that_says_that_it_failed_has() -> None:
    async def play(conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        if not asked.target.startswith(b"/api/chat"):
            await conn.send(b'HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}')
            return
        lines = b'{"message":{"content":"a"},"done":false}\n{"error":"out of memory"}\n'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        await conn.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(lines), lines))

    async with ScriptedEngine(play) as engine, running([engine.url], warm_connections=0) as gw:
        answer = await once(gw.url, call("chat"))
        assert answer.body.endswith(b'{"error":"out of memory"}\n')
        await gw.idle()
        assert [(one["outcome"], one["completion_tokens"]) for one in gw.records] == [("engine_error", 1)]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", CALLS)
async def test_a_quota_is_told_to_the_engine_and_holds(name: str, named: bool) -> None:
    """The engine would make ten thousand tokens of each answer."""
    path, document, _ = CALLS[name]
    outer = "parameters" if "inputs" in document else "options"
    inner = "max_new_tokens" if "inputs" in document else "num_predict"
    asked = {**document, outer: {inner: 9999}} if named else {key: value for key, value in document.items() if key != outer}
    sim = {"output_tokens": 10_000, "slots": 0}
    async with metered(sim, daily_token_quota=400) as (gw, engine, client):
        statuses = []
        for _ in range(6):
            data = request("POST", path, key=KEY, body=json.dumps(asked).encode())
            statuses.append((await ask(client, data)).status)
        found = await settled(gw)
        used = engine.state.prompt_tokens + engine.state.generation_tokens
        assert found["total_tokens"] == used <= 400
        assert statuses[-1] == 429
        assert 200 in statuses or named


async def test_requests_go_by_their_model_and_a_list_of_models_holds() -> None:
    async with (
        Simulator(SimConfig(models=("a",))) as one,
        Simulator(SimConfig(models=("b",))) as two,
        running([EngineConfig(url=one.url, models=["a"]), EngineConfig(url=two.url, models=["b"])]) as gw,
    ):
        for model, sim in (("a", one), ("b", two)):
            before = sim.state.served
            answer = await once(gw.url, request("POST", "/api/chat", body=json.dumps(CHAT | {"model": model}).encode()))
            assert answer.status == 200
            assert sim.state.served > before
        assert (await once(gw.url, request("POST", "/api/chat", body=json.dumps(CHAT | {"model": "c"}).encode()))).status == 404
        nameless = {key: value for key, value in CHAT.items() if key != "model"}
        assert (await once(gw.url, request("POST", "/api/chat", body=json.dumps(nameless).encode()))).status == 400
        assert (await once(gw.url, request("GET", "/api/chat"))).status == 405


async def test_a_key_is_needed_and_a_crowd_of_both_is_counted_to_the_token() -> None:
    async with metered({"itl_ms": 1.0}, daily_token_quota=10**6) as (gw, engine, client):
        assert (await ask(client, call("chat"))).status == 401

        async def caller(name: str) -> None:
            for _ in range(3):
                assert (await once(gw.url, call(name, key=KEY))).status == 200

        await asyncio.gather(*map(caller, CALLS))
        found = await settled(gw)
        assert found["total_tokens"] == engine.state.prompt_tokens + engine.state.generation_tokens
        assert found["estimated_tokens"] == 0

