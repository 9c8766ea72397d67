"""What each endpoint costs, by what its engine says, and where it says nothing: docs/limits.md, "Tokens per day"."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastgw import EngineConfig
from fastgw.exchange.endpoints import _JSON_PATHS, _UPLOAD_PATHS, EndpointTable
from fastgw.observe.logs import AccessJson
from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from fastgw.store import keys
from fastgw.store.reading import read
from tests.e2e.metered import KEY, account_of, once, usage_of
from tests.e2e.test_endpoints_uploads import form
from tests.support.client import RawClient, request
from tests.support.gateway import Running, running

pytestmark = [pytest.mark.together]

MODEL = {"model": "sim"}
CHAT = {**MODEL, "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 50}
GENERATED = {"prompt_tokens": 70, "completion_tokens": 20, "total_tokens": 90}
NAMED_OTHERWISE = {"input_tokens": 70, "output_tokens": 20, "total_tokens": 90}
PROMPT_ONLY = {"prompt_tokens": 70, "total_tokens": 70}


class Row(NamedTuple):
    """``document`` is the request (None = a form). ``usage`` is what the engine says and ``charged`` what that costs;
    ``silent`` is whether an answer without usage costs an estimate of the prompt."""

    path: str
    document: dict[str, Any] | None
    usage: dict[str, Any]
    charged: tuple[int, int]
    silent: bool = True


ROWS = [
    Row("/v1/chat/completions", CHAT, GENERATED, (70, 20)),
    Row("/v1/completions", {**MODEL, "prompt": "x" * 400, "max_tokens": 50}, GENERATED, (70, 20)),
    Row("/v1/responses", {**MODEL, "input": "x" * 400, "max_output_tokens": 50}, NAMED_OTHERWISE, (70, 20)),
    Row("/v1/messages", CHAT, NAMED_OTHERWISE, (70, 20)),
    Row("/v1/embeddings", {**MODEL, "input": "x" * 400}, PROMPT_ONLY, (70, 0)),
    Row("/v1/rerank", {**MODEL, "query": "x", "documents": ["x" * 400]}, PROMPT_ONLY, (70, 0)),
    Row("/v2/rerank", {**MODEL, "query": "x", "documents": ["x" * 400]}, PROMPT_ONLY, (70, 0)),
    Row("/rerank", {**MODEL, "query": "x", "documents": ["x" * 400]}, PROMPT_ONLY, (70, 0)),
    Row("/v1/score", {**MODEL, "text_1": "x", "text_2": "x" * 400}, PROMPT_ONLY, (70, 0)),
    Row("/score", {**MODEL, "text_1": "x", "text_2": "x" * 400}, PROMPT_ONLY, (70, 0)),
    Row("/v1/images/generations", {**MODEL, "prompt": "x" * 400}, NAMED_OTHERWISE, (70, 20)),
    Row("/v1/images/edits", None, NAMED_OTHERWISE, (70, 20), silent=False),
    Row("/v1/images/variations", None, NAMED_OTHERWISE, (70, 20), silent=False),
    Row("/v1/audio/transcriptions", None, NAMED_OTHERWISE, (70, 20), silent=False),
    Row("/v1/audio/translations", None, NAMED_OTHERWISE, (70, 20), silent=False),
    Row("/v1/audio/speech", {**MODEL, "input": "x" * 400, "voice": "a"}, NAMED_OTHERWISE, (70, 20)),
    *[
        Row(path, {**MODEL, "prompt": "x" * 400}, GENERATED, (0, 0), silent=False)
        for path in ("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize")
    ],
    Row("/v1/messages/count_tokens", CHAT, NAMED_OTHERWISE, (0, 0), silent=False),
    Row("/v1/their/own", {**MODEL, "prompt": "x" * 400}, GENERATED, (0, 0), silent=False),
]


def test_every_endpoint_that_goes_to_an_engine_has_a_row() -> None:
    paths = {"/v1/chat/completions", "/v1/completions", *_JSON_PATHS, *_UPLOAD_PATHS}
    assert {row.path for row in ROWS} == {*paths, "/v1/their/own"}
    table = EndpointTable(("/v1/their/own",))
    for row in ROWS:
        endpoint = table.find(row.path.encode())
        assert endpoint is not None
        assert endpoint.metered is any(row.charged)


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


def asking(row: Row, version: str = "HTTP/1.1") -> bytes:
    if row.document is not None:
        body, kind = json.dumps(row.document).encode(), "application/json"
    else:
        body, kind = form(("model", b"sim"), ("prompt", b"x" * 400), ("file", b"RIFF" + bytes(range(256)) * 200))
    return request("POST", row.path, headers=[("Content-Type", kind)], body=body, key=KEY, version=version)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
async def test_what_the_engine_says_is_charged(row: Row) -> None:
    pictures = [{"b64_json": "iVBORw0KGgo" * 3000}] if "images" in row.path else []
    async with answering(json.dumps({"id": "x", "data": pictures, "usage": row.usage}).encode()) as gw:
        for version in ("HTTP/1.1", "HTTP/1.0"):
            assert (await once(gw, asking(row, version))).status == 200
        await gw.idle()
        ledger = account_of(gw).ledger
        assert (ledger.prompt, ledger.completion) == (2 * row.charged[0], 2 * row.charged[1])
        assert (ledger.estimated, ledger.reserved) == (0, 0)
        assert ledger.requests == (2 if any(row.charged) else 0)
        assert [one["estimated"] for one in gw.records] == [False, False]
        # What is not counted is not told either.
        told = [one["prompt_tokens"] for one in gw.records]
        assert told == ([row.charged[0]] * 2 if any(row.charged) else [-1, -1])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
async def test_where_it_says_nothing_the_prompt_is_estimated(row: Row) -> None:
    """However large the answer is: a picture's bytes, or a voice's, are no tokens."""
    generates = row.path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    async with answering(b"\x89PNG" + b"\x00\x01" * 40_000, b"application/octet-stream") as gw:
        assert (await once(gw, asking(row))).status == 200
        await gw.idle()
        ledger = account_of(gw).ledger
        if row.silent:
            assert 95 <= ledger.prompt <= 160
            assert ledger.estimated == ledger.prompt + ledger.completion
        else:
            assert ledger.prompt == 0
        assert ledger.completion == (50 if generates else 0), "never more than was asked for"
        assert [one["estimated"] for one in gw.records] == [row.silent]


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
            assert f"gateway_tokens_{name}_total {float(count)}\n" in metrics
        logged = json.loads(AccessJson()(gw.raw_records[0]))
        parts = [logged.get("cached_tokens"), logged.get("reasoning_tokens")]
        assert parts == ([999_999_999_999] * 2 if "lies" in said else [cached or None, reasoning or None]), "what it said"
    async with answering(body, kind, **settings) as gw:
        found = await usage_of(gw, text)
        assert {name: found[name] for name in figures} == figures
    database = read(str(tmp_path / "fastgw.db"))
    assert [row[2:] for row in database.usage_of(record.id, 2)] == [(140, 40, 2, 0, 2 * cached, 2 * reasoning)]
    database.close()
