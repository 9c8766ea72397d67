"""What an engine is told where its key's tokens are counted: as much as was reserved, whoever asks for how much, and how.

In common to all: the engine is one that makes as much as it may, and counts it; so what it says it has made is a key's whole
use, and never beyond its quota. What it is told is in
``tests/conversations/test_bounds.py``; here, whether an engine reads more into it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.metered import CHAT, COMPLETIONS, KEY, MESSAGES, RESPONSES, ask, metered, settled
from tests.support.client import request

ENDLESS: dict[str, Any] = {"output_tokens": 120_000, "metrics_kind": "vllm", "slots": 0}
WORDS: dict[str, Any] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    MESSAGES: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
}

pytestmark = pytest.mark.together


def body(path: str = CHAT, **fields: Any) -> bytes:
    return json.dumps({"model": "sim", **WORDS[path], **fields}).encode()


def post(data: bytes, path: str = CHAT) -> bytes:
    return request("POST", path, headers=[("Content-Type", "application/json")], body=data, key=KEY)


OVERRIDES: list[dict[str, Any]] = [
    {"max_tokens": 1, "n_predict": 100_000},
    {"n_predict": -1},
    {"max_tokens": 5, "n_predict": -1},
    {"n_predict": "100000", "max_tokens": 3},
    {"n_predict": 100_000.0, "max_tokens": 3},
    {"max_tokens": -1},
    {"max_tokens": None},
    {"max_tokens": None, "n_predict": None},
    {"max_completion_tokens": 20},
    {"max_completion_tokens": 20, "max_tokens": 30},
    {"max_completion_tokens": None, "max_tokens": 30},
    {"max_completion_tokens": -5},
    {"max_output_tokens": 7},
    {"max_new_tokens": 7},
    {"options": {"num_predict": 100_000, "n_predict": -1}},
    {"parameters": {"max_new_tokens": 100_000}},
    {"max_tokens": 2, "num_predict": 100_000, "max_length": 100_000},
]


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "tgi"])
@pytest.mark.parametrize("fields", OVERRIDES, ids=json.dumps)
async def test_no_other_name_says_more(kind: str, fields: dict[str, Any]) -> None:
    """The simulator resolves them as an engine of that kind does."""
    sim = {**ENDLESS, "metrics_kind": kind}
    async with metered(sim, engine={"kind": kind}, daily_token_quota=1000) as (gw, engine, client):
        for path in (CHAT, COMPLETIONS):
            answer = await ask(client, post(body(path, **fields), path))
            assert answer.status in (200, 400, 429)  # (some figures are none that the engine takes)
        found = await settled(gw)
        assert found["total_tokens"] == engine.state.prompt_tokens + engine.state.generation_tokens <= 1000
