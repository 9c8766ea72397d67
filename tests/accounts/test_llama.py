"""llama.cpp's own server is billed as its ``/metrics`` and its answers say: cached prompts, limits that override, rankings.

Its vocabulary here has about a token for each byte, so the gateway is told that (``prompt_bytes_per_token``).
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from fastgw import EngineConfig
from tests.e2e.metered import CHAT, COMPLETIONS, KEY, MESSAGES, RESPONSES, usage_of
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running, running
from tests.support.llama import LlamaServer

MODEL = "tiny-random"
WORDS = "the rivers run into the sea " * 12
QUOTA = 4000
COUNTERS = ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total", "requests_processing")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(tmp_path_factory.mktemp("llama"), slot_tokens=2048, cache=True) as server:
        yield server


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(tmp_path_factory.mktemp("llama-rank"), pooling="rank", slot_tokens=2048) as server:
        yield server


@dataclass(frozen=True, slots=True)
class Counted:
    """What an engine, or the gateway, has counted."""

    prompt: int
    completion: int
    cached: int

    def __sub__(self, other: Counted) -> Counted:
        return Counted(self.prompt - other.prompt, self.completion - other.completion, self.cached - other.cached)


def _metrics(engine: LlamaServer) -> dict[str, int]:
    with urllib.request.urlopen(engine.url + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = dict(line.removeprefix("llamacpp:").split(" ") for line in lines if not line.startswith("#"))
    return {name: int(float(found[name])) for name in COUNTERS}


async def counted_by(engine: LlamaServer) -> Counted:
    """The engine's own counts, once it is at rest."""
    end = time.monotonic() + 8.0
    while (found := await asyncio.to_thread(_metrics, engine))["requests_processing"]:
        assert time.monotonic() < end, "llama.cpp is still at work"
        await asyncio.sleep(0.01)
    cached = found["prompt_tokens_cached_total"]
    return Counted(found["prompt_tokens_total"] + cached, found["tokens_predicted_total"], cached)


async def charged_by(gw: Running) -> Counted:
    await gw.idle()
    found = await usage_of(gw)
    assert (found["quota_reserved"], found["requests_under_way"]) == (0, 0)
    return Counted(found["prompt_tokens"], found["completion_tokens"], found.get("cached_tokens", 0))


@asynccontextmanager
async def before(engine: LlamaServer, quota: int = 0, **settings: Any) -> AsyncIterator[Running]:
    target = EngineConfig(url=engine.url, kind="llamacpp")
    async with running([target], api_keys=(KEY,), daily_token_quota=quota, prompt_bytes_per_token=1, **settings) as gw:
        yield gw


def post(path: str, *, text: str = WORDS, **fields: Any) -> bytes:
    body: dict[str, Any] = {"model": MODEL, **fields}
    if path in (CHAT, MESSAGES):
        body["messages"] = [{"role": "user", "content": text}]
    elif path in (COMPLETIONS, RESPONSES):
        body.setdefault("prompt" if path == COMPLETIONS else "input", text)
    return request("POST", path, headers=[("Content-Type", "application/json")], body=json.dumps(body).encode(), key=KEY)


async def ask(gw: Running, data: bytes) -> RawResponse:
    async with RawClient.connect(gw.url) as client:
        return await client.ask(data, 10.0)


def limit_of(path: str, tokens: int) -> dict[str, Any]:
    return {"max_output_tokens" if path == RESPONSES else "max_tokens": tokens}


# --- whole answers


@pytest.mark.parametrize("quota", [0, QUOTA], ids=["no-limit", "quota"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
async def test_a_cached_prompt_is_a_prompt_and_told_apart(engine: LlamaServer, path: str, stream: bool, quota: int) -> None:
    begun = await counted_by(engine)
    async with before(engine, quota) as gw:
        text = f"{path} {stream} {quota} {WORDS}"
        for turn in range(2):
            answer = await ask(gw, post(path, text=text, stream=stream, **limit_of(path, 9)))
            assert (answer.status, answer.complete) == (200, True), answer.body
            charged, counted = await charged_by(gw), await counted_by(engine) - begun
            assert charged == counted, f"turn {turn}"
        assert counted.cached > len(text) // 2, "the second prompt comes from the cache"
        assert (await usage_of(gw))["estimated_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"max_tokens": 1, "n_predict": 9000}),
        (CHAT, {"max_completion_tokens": 2, "n_predict": -1}),
        (CHAT, {}),
        (CHAT, {"max_tokens": -1}),
        (COMPLETIONS, {"max_tokens": 1, "n_predict": 9000}),
        (COMPLETIONS, {"n_predict": 9000}),
        (COMPLETIONS, {"max_tokens": None}),
        (RESPONSES, {}),
        (RESPONSES, {"max_output_tokens": 3, "n_predict": 9000}),
        (RESPONSES, {"max_output_tokens": 3, "max_completion_tokens": 9000}),
        (COMPLETIONS, {"max_tokens": 3, "max_completion_tokens": 9000}),
        (MESSAGES, {"max_tokens": 3, "n_predict": 9000}),
        (MESSAGES, {"max_tokens": -1}),
        (CHAT, {"max_tokens": 4294967295}),  # -1 where it is read into 32 bits
    ],
)
async def test_no_way_to_write_a_limit_gets_more_than_the_quota(
    engine: LlamaServer, path: str, fields: dict[str, Any], stream: bool
) -> None:
    begun = await counted_by(engine)
    async with before(engine, 1000) as gw:
        for _ in range(2):
            await ask(gw, post(path, stream=stream, **fields))
        charged, counted = await charged_by(gw), await counted_by(engine) - begun
    assert charged.prompt + charged.completion <= 1000
    assert counted.prompt + counted.completion <= 1000
    assert charged == counted


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"max_tokens": 300, "n": 4}),
        (CHAT, {"max_tokens": 300, "n_cmpl": 4}),
        (COMPLETIONS, {"max_tokens": 300, "n_cmpl": 4}),
        (COMPLETIONS, {"max_tokens": 300, "prompt": [WORDS, WORDS]}),
        (RESPONSES, {"max_output_tokens": 300, "n": 4}),
    ],
)
async def test_many_answers_are_counted_before_they_are_made(engine: LlamaServer, path: str, fields: dict[str, Any]) -> None:
    """One call may need more than there is; and where there is enough, llama.cpp's usage tells of one of them alone."""
    begun = await counted_by(engine)
    async with before(engine, 1000) as gw:
        await ask(gw, post(path, **fields))
        counted = await counted_by(engine) - begun
    assert counted.prompt + counted.completion <= 1000
    async with before(engine, 100_000) as gw:
        answer = await ask(gw, post(path, **{**fields, **limit_of(path, 6)}))
        charged, counted = await charged_by(gw), await counted_by(engine) - begun - counted
        assert answer.status == 200
        assert (await usage_of(gw))["estimated_tokens"] == charged.prompt + charged.completion
    assert charged.completion >= counted.completion


async def test_a_crowd_gets_no_more_than_the_quota(engine: LlamaServer) -> None:
    begun = await counted_by(engine)
    async with before(engine, QUOTA) as gw:
        answers = await asyncio.gather(*(ask(gw, post(CHAT, text=f"{at} {WORDS}", stream=at % 2 == 0)) for at in range(12)))
        charged, counted = await charged_by(gw), await counted_by(engine) - begun
    assert {answer.status for answer in answers} <= {200, 429}
    assert counted.prompt + counted.completion <= QUOTA
    assert charged == counted


# --- broken off


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES])
async def test_a_client_that_leaves_pays_for_what_it_got(engine: LlamaServer, path: str) -> None:
    begun = await counted_by(engine)
    async with before(engine) as gw:
        async with RawClient.connect(gw.url) as client:
            await client.send(post(path, stream=True, **limit_of(path, 8000)))
            response = await client.read_head()
            await client.read_size(response, 20_000, 10.0)
            got = sum('"content":"' in one or '"text":"' in one for one in response.events())
        charged, counted = await charged_by(gw), await counted_by(engine) - begun
        found = await usage_of(gw)
    assert got > 20
    assert got - 2 <= charged.completion <= counted.completion
    assert charged.prompt >= len(WORDS) // 4
    assert found["estimated_tokens"] == found["total_tokens"]


# --- embeddings and rankings


RANKED = [
    ("/v1/embeddings", {"input": "the sea"}),
    ("/v1/embeddings", {"input": [f"{at} the sea" for at in range(40)]}),
    ("/v1/rerank", {"query": "rivers", "documents": ["the sea", "a boat"]}),
    ("/v1/rerank", {"query": "rivers", "documents": [f"{at} the sea" for at in range(200)]}),
]


@pytest.mark.parametrize("quota", [0, 1_000_000], ids=["no-limit", "quota"])
@pytest.mark.parametrize(("path", "fields"), RANKED, ids=["one", "many", "two", "two-hundred"])
async def test_what_is_embedded_or_ranked(ranker: LlamaServer, path: str, fields: dict[str, Any], quota: int) -> None:
    begun = await counted_by(ranker)
    async with before(ranker, quota) as gw:
        answer = await ask(gw, post(path, **fields))
        assert (answer.status, answer.complete) == (200, True), answer.body
        charged, counted = await charged_by(gw), await counted_by(ranker) - begun
        assert charged == counted
        assert (await usage_of(gw))["estimated_tokens"] == 0


async def test_merged_embeddings_add_up(ranker: LlamaServer) -> None:
    begun = await counted_by(ranker)
    async with before(ranker, 1_000_000, embedding_merge_s=0.02) as gw:
        answers = await asyncio.gather(*(ask(gw, post("/v1/embeddings", input="sea " * (at + 1))) for at in range(12)))
        assert {answer.status for answer in answers} == {200}
        charged, counted = await charged_by(gw), await counted_by(ranker) - begun
        assert gw.stats.snapshot()["merged_requests"] > 1
    assert charged == counted
