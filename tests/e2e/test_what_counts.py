"""What is told of tokens that were cached, or that only reasoning took, wherever usage is; and that it outlives the process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.observe.logs import AccessJson
from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from fastgw.store import keys
from fastgw.store.reading import read
from tests.e2e.metered import KEY, once, usage_of
from tests.support.client import RawClient, request
from tests.support.gateway import Running, running

pytestmark = [pytest.mark.together]

MODEL = {"model": "sim"}
CHAT = {**MODEL, "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 50}
GENERATED = {"prompt_tokens": 70, "completion_tokens": 20, "total_tokens": 90}


def core_of(gw: Running) -> Any:
    return gw.gateway.core


@asynccontextmanager
async def answering(body: bytes, kind: bytes = b"application/json", **settings: Any) -> AsyncIterator[Running]:
    async def handler(conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request()
            data = b'{"data":[]}' if seen.method == b"GET" else body
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(data), data))

    async with ScriptedEngine(handler) as engine:
        more = {"passthrough_paths": ("/v1/their/own",), "api_keys": (KEY,), "daily_token_quota": 10**6, **settings}
        async with running([EngineConfig(url=engine.url, warm_connections=0)], health_interval_s=3600.0, **more) as gw:
            yield gw
            await gw.idle()


PARTS = {
    "as OpenAI says it": {
        "prompt_tokens": 70, "completion_tokens": 20, "total_tokens": 90, "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 12},
    },
    "as its Responses do": {
        "input_tokens": 70, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 64},
        "output_tokens_details": {"reasoning_tokens": 12},
    },
    "by half": {"prompt_tokens": 70, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 64}},
    "as an engine that lies": {
        "prompt_tokens": 70, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 999_999_999_999},
        "completion_tokens_details": {"reasoning_tokens": 999_999_999_999},
    },
    "nowhere": GENERATED,
}  # fmt: skip
TOLD = {"by half": (64, 0), "as an engine that lies": (70, 20), "nowhere": (0, 0)}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", PARTS)
async def test_cached_and_reasoning_tokens_are_told_wherever_usage_is(said: str, stream: bool, tmp_path: Path) -> None:
    """They are parts of the prompt's and the answer's, cost nothing more, and outlive the process."""
    usage = json.dumps(PARTS[said])
    cached, reasoning = TOLD.get(said, (64, 12))
    body, kind = f'{{"choices":[],"usage":{usage}}}'.encode(), b"application/json"
    if stream:
        body, kind = b"data: " + body + b"\n\ndata: [DONE]\n\n", b"text/event-stream"
    settings: dict[str, Any] = {"state_dir": str(tmp_path), "control_listen": "127.0.0.1:0", "admin_key": "sk-admin-of-these"}
    async with answering(body, kind, **settings) as gw:
        state = gw.gateway._state
        assert state is not None
        record, text = await state.run(keys.create, {"name": "ann"}, "test")
        await gw.until("the key is known", lambda: core_of(gw).accounts.by_id(record.id) is not None)
        for _ in range(2):
            data = json.dumps({**CHAT, "stream": stream}).encode()
            line = [("Content-Type", "application/json")]
            assert (await once(gw, request("POST", "/v1/chat/completions", headers=line, body=data, key=text))).status == 200
        await gw.idle()
        figures = {"prompt_tokens": 140, "completion_tokens": 40, "cached_tokens": 2 * cached}
        figures["reasoning_tokens"] = 2 * reasoning
        found = await usage_of(gw, text)
        assert {name: found[name] for name in figures} == figures
        assert found["total_tokens"] == 180
        async with RawClient.connect(gw.gateway.control_url) as operator:
            shown = await operator.ask(request("GET", f"/admin/keys/{record.id}", key="sk-admin-of-these"))
            assert {name: shown.json()["usage"][name] for name in figures} == figures
            metrics = (await operator.ask(request("GET", "/metrics", key="sk-admin-of-these"))).body.decode()
        for name, count in (("cached", 2 * cached), ("reasoning", 2 * reasoning), ("prompted", 140), ("generated", 40)):
            assert f"gateway_tokens_{name}_total {count}\n" in metrics
        logged = json.loads(AccessJson()(gw.raw_records[0]))
        parts = [logged.get("cached_tokens"), logged.get("reasoning_tokens")]
        assert parts == [cached or None, reasoning or None]
    async with answering(body, kind, **settings) as gw:
        found = await usage_of(gw, text)
        assert {name: found[name] for name in figures} == figures
    database = read(str(tmp_path / "fastgw.db"))
    assert [row[2:] for row in database.usage_of(record.id, 2)] == [(140, 40, 2, 0, 2 * cached, 2 * reasoning)]
    database.close()
