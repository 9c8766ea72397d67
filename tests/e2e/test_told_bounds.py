"""What an engine is told where its key's tokens are counted: as much as was reserved, whoever asks for how much, and how.

In common to all: the engine is one that makes as much as it may, and counts it; so what it says it has made is a key's whole
use, and never beyond its quota. And where nothing is counted, nothing is touched.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.e2e.metered import CHAT, COMPLETIONS, KEY, MESSAGES, RESPONSES, ask, metered, once, posts, settled
from tests.support.client import request
from tests.support.gateway import running

ENDLESS: dict[str, Any] = {"output_tokens": 120_000, "metrics_kind": "vllm", "slots": 0}
FIELD = {CHAT: "max_tokens", COMPLETIONS: "max_tokens", MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}
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


@pytest.mark.parametrize("path", WORDS, ids=str)
@pytest.mark.parametrize("stream", [False, True])
async def test_sixty_that_name_no_maximum_stay_within_the_day(path: str, stream: bool) -> None:
    fields = {"stream": True} if stream else {}
    async with metered(ENDLESS, daily_token_quota=10_000) as (gw, sim, _):
        answers = await asyncio.gather(*[once(gw, post(body(path, **fields), path)) for _ in range(60)])
        found = await settled(gw)
        assert {answer.status for answer in answers} == {200, 429}
        assert 5000 < found["total_tokens"] <= 10_000
        assert found["total_tokens"] == sim.state.prompt_tokens + sim.state.generation_tokens
        assert len(posts(sim)) == found["requests"] >= 3


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


@pytest.mark.parametrize("part", ["system", "instructions", "tools"])
async def test_two_hundred_kilobytes_are_refused_or_counted(part: str) -> None:
    text: Any = "word " * 40_000
    data = body(**{part: [{"type": "function", "function": {"name": "f", "description": text}}] if part == "tools" else text})
    async with metered(daily_token_quota=40_000) as (_, sim, client):
        assert (await ask(client, post(data))).status == 429
        assert not posts(sim)
    async with metered(daily_token_quota=60_000) as (gw, _, client):
        assert (await ask(client, post(data))).status == 200
        await settled(gw)


@pytest.mark.parametrize("path", WORDS, ids=str)
async def test_bytes_pass_as_they_came_where_nothing_is_counted(path: str) -> None:
    limits = {"max_tokens": 4, "max_output_tokens": 4, "n_predict": -1}
    odd: dict[str, Any] = {**limits, "options": {"num_predict": 9}, "best_of": "x"}
    for fields in ({}, odd):
        data = body(path, **fields).replace(b'", "', b'" ,\n "')
        if path != MESSAGES or fields:
            async with metered({"metrics_kind": "none"}) as (_, sim, client):
                await ask(client, post(data, path))
                assert posts(sim)[0].body == data


@pytest.mark.parametrize("path", WORDS, ids=str)
async def test_what_says_no_more_than_it_may_passes_as_it_came(path: str) -> None:
    async with metered(daily_token_quota=10_000, tokens_per_minute=10_000) as (_, sim, client):
        data = body(path, **{FIELD[path]: 40}).replace(b'", "', b'" ,\n "')
        assert (await ask(client, post(data, path))).status == 200
        assert posts(sim)[0].body == data


@pytest.mark.parametrize("path", WORDS, ids=str)
async def test_what_says_nothing_is_told_the_default_and_nothing_else(path: str) -> None:
    async with metered(tokens_per_minute=100_000, default_max_tokens=77) as (_, sim, client):
        data = body(path)
        await ask(client, post(data, path))
        assert posts(sim)[0].body == b'{"%b":77,' % FIELD[path].encode() + data[1:]


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 100_000}, {"max_tokens": 50}], ids=json.dumps)
async def test_a_stream_that_is_cut_has_its_engine_told_what_is_left(fields: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"on_exhausted": "cut", "default_cost_tokens": 10}
    async with metered(daily_token_quota=400, **settings) as (gw, sim, client):
        data = body(stream=True, stream_options={"include_usage": True}, **fields)
        await ask(client, post(data))
        told = json.loads(posts(sim)[-1].body)["max_tokens"]
        assert told == min(fields.get("max_tokens", 4096), 400 - (len(data) + 3) // 4)
        assert (await settled(gw))["total_tokens"] <= 400


@pytest.mark.parametrize("path", WORDS, ids=str)
@pytest.mark.parametrize(("named", "asked", "status"), [(None, [4096, 256], 200), (900, [900], 400)], ids=["unnamed", "named"])
async def test_an_engine_with_less_room_is_asked_for_a_shorter_answer(
    path: str, named: int | None, asked: list[int], status: int
) -> None:
    """Its context has room for 500: nobody who named no maximum need know what he was given as one."""
    seen: list[int] = []

    async def short(connection: ScriptedConnection) -> None:
        while True:
            body = (await connection.read_request()).body
            code, answer = 200, b'{"usage":{"total_tokens":9}}'
            if body:
                seen.append(json.loads(body)[FIELD[path]])
                if seen[-1] > 500:
                    code, answer = 400, b'{"error":{"message":"maximum context length"}}'
            head = b"HTTP/1.1 %d Said\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await connection.send(head % (code, len(answer)) + answer)

    fields = {} if named is None else {FIELD[path]: named}
    async with (
        ScriptedEngine(short) as engine,
        running([engine.url], api_keys=(KEY,), daily_token_quota=10_000) as gw,
    ):
        answer = await once(gw, post(body(path, **fields), path))
        found = await settled(gw)
    assert (answer.status, seen) == (status, asked)
    assert (found["quota_reserved"], found["requests"]) == (0, 1)


@pytest.mark.parametrize(("fields", "own"), [
    ({}, "max_completion_tokens"), ({"max_tokens": 90}, "max_tokens"), ({"max_completion_tokens": 90}, "max_completion_tokens"),
    ({"max_tokens": None}, "max_completion_tokens"),
], ids=json.dumps)  # fmt: skip
async def test_openais_own_servers_are_told_in_the_word_that_all_their_models_take(fields: dict[str, Any], own: str) -> None:
    async with metered(engine={"kind": "openai"}, tokens_per_minute=100_000, default_max_tokens=77) as (_, sim, client):
        await ask(client, post(body(**fields)))
        said = json.loads(posts(sim)[0].body)
        limits = {name: said[name] for name in said if name.startswith("max_") and said[name] is not None}
        assert limits == {own: fields.get(own, 77)}
        await ask(client, post(body(COMPLETIONS), COMPLETIONS))
        assert json.loads(posts(sim)[1].body)["max_tokens"] == 77


IMAGES = "/v1/images/generations"
SPOKEN = "/v1/audio/transcriptions"


@pytest.mark.parametrize("limit", ["daily_token_quota", "tokens_per_minute"])
@pytest.mark.parametrize(("path", "each"), [(IMAGES, 4096), (IMAGES, 8192), (SPOKEN, 4096)], ids=str)
async def test_answers_whose_length_no_engine_can_be_told_are_reserved(path: str, each: int, limit: str) -> None:
    """Sixty at once: as many are let through as fit, should each take what one that names no maximum may take."""
    used = each // 2
    refused = asyncio.Event()

    async def slow(connection: ScriptedConnection) -> None:
        while True:
            if (await connection.read_request()).method == b"POST":
                await refused.wait()
            usage = {"input_tokens": 10, "output_tokens": used - 10, "total_tokens": used}
            text = json.dumps({"created": 1, "data": [], "usage": usage}).encode()
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await connection.send(head % len(text) + text)

    if path == IMAGES:
        data = post(json.dumps({"model": "sim", "prompt": "a river", "n": each // 4096}).encode(), path)
    else:
        form = (
            b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n'
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nsound\r\n--x--\r\n'
        )
        data = request("POST", path, headers=[("Content-Type", "multipart/form-data; boundary=x")], body=form, key=KEY)
    settings: dict[str, Any] = {limit: 10_000}
    async with ScriptedEngine(slow) as engine, running([engine.url], api_keys=(KEY,), **settings) as gw:
        # (Of a day what is left goes to one more.)
        fit = 10_000 // each + (limit == "daily_token_quota")
        tasks = [asyncio.create_task(once(gw, data)) for _ in range(60)]
        await gw.until("the others are refused", lambda: gw.stats.refused_total >= 60 - fit)
        refused.set()
        answers = await asyncio.gather(*tasks)
        assert sorted(answer.status for answer in answers) == [200] * fit + [429] * (60 - fit)
        assert (await settled(gw))["total_tokens"] == fit * used
        # What they did not use has come back.
        left = 10_000 - fit * used
        assert (await once(gw, data)).status == (200 if left > (each + 100 if limit != "daily_token_quota" else 100) else 429)


@pytest.mark.parametrize("limit", ["daily_token_quota", "tokens_per_minute"])
async def test_a_quota_that_is_less_than_an_untold_answer_is_still_one(limit: str) -> None:
    settings: dict[str, Any] = {limit: 500}
    async with metered(**settings) as (_, __, client):
        data = json.dumps({"model": "sim", "prompt": "a river"}).encode()
        assert (await ask(client, post(data, IMAGES))).status != 429


RERANKED = "/v1/rerank"
UNCOUNTED: list[tuple[str, str, Any]] = [
    (RESPONSES, "background", True), (RESPONSES, "previous_response_id", "resp_1"), (RESPONSES, "conversation", "conv_1"),
    (RESPONSES, "conversation", {"id": "conv_1"}), (RESPONSES, "prompt", {"id": "pmpt_1"}),
    (CHAT, "chat_template", "{{ 'x' * 9 }}"), (RERANKED, "chat_template", "{{ 'x' * 9 }}"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name", "value"), UNCOUNTED, ids=str)
async def test_what_nobody_can_count_before_is_refused_where_tokens_are_limited(path: str, name: str, value: Any) -> None:
    words = {**WORDS, RERANKED: {"query": "x", "documents": ["y"]}}[path]
    data = json.dumps({"model": "sim", **words, name: value}).encode()
    for limit in ("daily_token_quota", "tokens_per_minute"):
        async with metered(**{limit: 10_000}) as (_, sim, client):
            answer = await ask(client, post(data, path))
            assert (answer.status, answer.error["code"], answer.error["param"]) == (400, "invalid_parameter", name)
            assert not posts(sim)
            twice = data.replace(b'"%b"' % name.encode(), b'"%b"' % name.capitalize().encode(), 1)
            assert (await ask(client, post(twice, path))).status == 400
            nothing = json.dumps({"model": "sim", **words, name: False if value is True else None}).encode()
            assert (await ask(client, post(nothing, path))).status != 400 or len(posts(sim)) == 1
    async with metered(rate_limit_per_minute=100) as (_, sim, client):
        await ask(client, post(data, path))
        assert [one.body for one in posts(sim)] == [data]


@pytest.mark.parametrize("fields", [{"query": "word " * 2000, "documents": ["x"] * 100}], ids=["a query"])
async def test_a_query_that_is_read_a_hundred_times_is_refused(fields: dict[str, Any]) -> None:
    async with metered(daily_token_quota=100_000) as (_, sim, client):
        answer = await ask(client, post(json.dumps({"model": "sim", **fields}).encode(), RERANKED))
        assert (answer.status, answer.error["code"]) == (429, "request_exceeds_limit")
        assert not posts(sim)


async def test_an_upload_needs_no_more_than_is_left() -> None:
    """Nobody knows how long its answer will be: it may have what there is, and others wait meanwhile."""
    async with metered({"output_tokens": 14}, daily_token_quota=300) as (gw, _, client):
        form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n'
        form += b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
        headers = [("Content-Type", "multipart/form-data; boundary=x")]
        for _ in range(3):
            answer = await ask(client, request("POST", "/v1/audio/transcriptions", headers=headers, body=form, key=KEY))
            assert answer.status == 200, answer.body
        found = await settled(gw)
        assert found["quota_reserved"] == 0
        assert found["requests"] == 3
