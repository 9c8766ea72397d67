"""What each endpoint costs, by what its engine says, and where it says nothing: docs/limits.md, "Tokens per day"."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from fastgw import EngineConfig
from fastgw.exchange.endpoints import _JSON_PATHS, _UPLOAD_PATHS, EndpointTable
from tests.e2e.metered import KEY
from tests.e2e.test_endpoints_uploads import form
from tests.support.conversation import Conversation, answering, conversation, silent
from tests.support.requests import request
from tests.support.scripts import LAST_CHUNK, SSE_HEAD, chunk, ok

MODEL = {"model": "sim"}
CHAT = {**MODEL, "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 50}
GENERATED = {"prompt_tokens": 70, "completion_tokens": 20, "total_tokens": 90}
NAMED_OTHERWISE = {"input_tokens": 70, "output_tokens": 20, "total_tokens": 90}
PROMPT_ONLY = {"prompt_tokens": 70, "total_tokens": 70}
SETTINGS: dict[str, Any] = {"passthrough_paths": ("/v1/their/own",), "api_keys": (KEY,), "daily_token_quota": 10**6}


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
    Row("/v1/responses/input_tokens", {**MODEL, "input": "x" * 400}, NAMED_OTHERWISE, (0, 0), silent=False),
    Row("/v1/responses/compact", {**MODEL, "input": "x" * 400}, NAMED_OTHERWISE, (70, 20)),
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


def asking(row: Row, version: str = "HTTP/1.1") -> bytes:
    if row.document is not None:
        body, kind = json.dumps(row.document).encode(), "application/json"
    else:
        body, kind = form(("model", b"sim"), ("prompt", b"x" * 400), ("file", b"RIFF" + bytes(range(256)) * 200))
    return request("POST", row.path, headers=[("Content-Type", kind)], body=body, key=KEY, version=version)


def told(talk: Conversation, name: str) -> list[Any]:
    return [record[name] for record in talk.records]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
def test_what_the_engine_says_is_charged(row: Row) -> None:
    pictures = [{"b64_json": "iVBORw0KGgo" * 3000}] if "images" in row.path else []
    body = json.dumps({"id": "x", "data": pictures, "usage": row.usage}).encode()
    with conversation(1, answering(ok(body)), **SETTINGS) as talk:
        for version in ("HTTP/1.1", "HTTP/1.0"):
            assert talk.ask(asking(row, version)).status == 200
        ledger = talk.account(KEY).ledger
        assert (ledger.prompt, ledger.completion) == (2 * row.charged[0], 2 * row.charged[1])
        assert (ledger.estimated, ledger.reserved) == (0, 0)
        assert ledger.requests == (2 if any(row.charged) else 0)
        assert told(talk, "estimated") == [False, False]
        # What is not counted is not told either.
        assert told(talk, "prompt_tokens") == ([row.charged[0]] * 2 if any(row.charged) else [-1, -1])


@pytest.mark.parametrize("reads", [1, 3])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
def test_where_it_says_nothing_the_prompt_is_estimated(row: Row, reads: int) -> None:
    """However large the answer is: a picture's bytes, or a voice's, are no tokens."""
    generates = row.path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
    data = ok(b"\x89PNG" + b"\x00\x01" * 40_000).replace(b"application/json", b"application/octet-stream")
    size = -(-len(data) // reads)
    with conversation(1, answering(*[data[at : at + size] for at in range(0, len(data), size)]), **SETTINGS) as talk:
        assert talk.ask(asking(row)).status == 200
        ledger = talk.account(KEY).ledger
        if row.silent:
            assert 95 <= ledger.prompt <= 160
            assert ledger.estimated == ledger.prompt + ledger.completion
        else:
            assert ledger.prompt == 0
        assert ledger.completion == (50 if generates else 0), "never more than was asked for"
        assert told(talk, "estimated") == [row.silent]


OLLAMA = {**MODEL, "messages": [{"role": "user", "content": "x" * 400}]}
SGLANG = {"text": "x" * 400, "stream": True}
LINES, EVENTS, JSON = b"application/x-ndjson", b"text/event-stream", b"application/json"
WORD = b'{"message":{"content":"a"},"done":false}\n'
SAID = WORD + b'{"message":{"content":""},"done":true,"prompt_eval_count":70,"eval_count":20}\n'
BROKE = b'{"error":"out of memory"}\n'
ERROR = b'{"error":{"message":"out of memory","type":"server_error","code":500}}'
CUMULATIVE = b"".join(b'data: {"text":"%b","index":0}\n\n' % (b"word " * count) for count in range(1, 41)) + b"data: [DONE]\n\n"
LONG = b'data: {"text":"%b","meta_info":{"prompt_tokens":70,"completion_tokens":20}}\n\n' % (b"word " * 20_000)
LENGTH = {"max_new_tokens": 5}
PARAMS = {"sampling_params": LENGTH}
BATCH = json.dumps([{"text": "a", "meta_info": {"prompt_tokens": 70, "completion_tokens": 5}}] * 4).encode()
LOADED = b'{"model":"sim","response":"","done":true,"done_reason":"load"}'
FAILED = b'{"id":"r","error":{"code":"server_error","message":"no"},"output":[]}'
NO_ERROR = b'{"id":"r","error":null,"output":[],"usage":{"input_tokens":70,"output_tokens":20}}'

OWN: dict[str, tuple[str, dict[str, Any], bytes, bytes, tuple[int, int], str]] = {
    "lines": ("/api/chat", OLLAMA, LINES, SAID, (70, 20), "ok"),
    "a load": ("/api/generate", {**MODEL, "prompt": ""}, JSON, LOADED, (0, 0), "ok"),
    "a load, lines": ("/api/generate", {**MODEL, "prompt": ""}, LINES, LOADED + b"\n", (0, 0), "ok"),
    "text that is all there is": ("/generate", SGLANG, EVENTS, CUMULATIVE, (-1, 50), "ok"),
    "a long event": ("/generate", SGLANG, EVENTS, LONG, (70, 20), "ok"),
    "lines that break": ("/api/chat", OLLAMA, LINES, WORD + BROKE, (-1, 1), "engine_error"),
    "a failed response": ("/v1/responses", {**MODEL, "input": "x"}, JSON, FAILED, (0, 0), "engine_error"),
    **{
        f"a batch, {json.dumps(more)}": ("/generate", {"text": ["x" * 100] * 4, **PARAMS, **more}, JSON, BATCH, (280, 20), "ok")
        for more in ({}, {"n": 4}, {"n_cmpl": 4}, {"best_of": 4}, {"inputs": "x", "parameters": {"best_of": 4, **LENGTH}})
    },
    "a batch of two of each": (
        "/generate", {"text": ["x" * 200] * 2, "n": 4, "sampling_params": {"n": 2, **LENGTH}}, JSON, BATCH, (140, 20), "ok"),
    "no error": ("/v1/responses", {**MODEL, "input": "x"}, JSON, NO_ERROR, (70, 20), "ok"),
    "its own word": ("/v1/their/own", MODEL, JSON, b'{"error":0.5}', (0, 0), "ok"),
}  # fmt: skip


@pytest.mark.parametrize("reads", [1, 4])
@pytest.mark.parametrize("name", OWN)
def test_what_is_said_in_an_engines_own_words_is_charged_and_told(name: str, reads: int) -> None:
    """Whole in one read, or in several; -1 = the prompt is estimated."""
    path, document, kind, said, (prompt, completion), outcome = OWN[name]
    data = ok(said).replace(b"application/json", kind)
    size = -(-len(data) // reads)
    settings = {**SETTINGS, "cb_failure_threshold": 1}
    with conversation(1, answering(*[data[at : at + size] for at in range(0, len(data), size)]), **settings) as talk:
        answer = talk.ask(request("POST", path, body=json.dumps(document).encode(), key=KEY))
        assert (answer.status, answer.body) == (200, said)
        ledger = talk.account(KEY).ledger
        assert ledger.completion == completion
        assert ledger.prompt == prompt if prompt >= 0 else 100 <= ledger.prompt <= 140
        assert (ledger.estimated == 0, ledger.reserved) == (prompt >= 0, 0)
        assert told(talk, "outcome") == [outcome]
        assert talk.engines[0].engine.failures_total == (outcome != "ok"), "its breaker knows"


@pytest.mark.parametrize("reads", [1, 4])
@pytest.mark.parametrize(("path", "document", "said", "status"), [
    ("/api/chat", OLLAMA, BROKE, 502), ("/v1/chat/completions", CHAT, ERROR, 500),
    ("/v1/embeddings", {**MODEL, "input": "x"}, ERROR, 500),
])  # fmt: skip
def test_an_error_in_place_of_an_answer_costs_nothing(
    path: str, document: dict[str, Any], said: bytes, status: int, reads: int
) -> None:
    data = ok(said)
    size = -(-len(data) // reads)
    with conversation(1, answering(*[data[at : at + size] for at in range(0, len(data), size)]), **SETTINGS) as talk:
        answer = talk.ask(request("POST", path, body=json.dumps(document).encode(), key=KEY))
        assert (answer.status, answer.body) == (status, said)
        ledger = talk.account(KEY).ledger
        assert (ledger.prompt, ledger.completion, ledger.reserved) == (0, 0, 0)


@pytest.mark.parametrize("reads", [1, 4])
def test_a_refusal_in_its_own_words_is_no_failure(reads: int) -> None:
    data = ok(BROKE).replace(b"200 OK", b"422 No")
    size = -(-len(data) // reads)
    with conversation(1, answering(*[data[at : at + size] for at in range(0, len(data), size)]), **SETTINGS) as talk:
        asked = request("POST", "/generate", body=b'{"inputs":"x","parameters":{"max_new_tokens":5}}', key=KEY)
        assert talk.ask(asked).status == 422
        assert (told(talk, "outcome"), talk.engines[0].engine.failures_total) == (["ok"], 0)


SEVERAL = {"text": ["x" * 200, "y" * 200], "sampling_params": {"n": 3, "max_new_tokens": 40}}


@pytest.mark.parametrize(("path", "document", "answers"), [
    ("/generate", SEVERAL, 6),
    ("/generate", {"inputs": "x" * 400, "parameters": {"best_of": 4, "max_new_tokens": 40}}, 4),
    ("/api/generate", {**MODEL, "prompt": "x" * 400, "options": {"num_predict": 40}}, 1),
    ("/v1/completions", {**MODEL, "prompt": ["x" * 200] * 2, "n": 3, "max_tokens": 40}, 6),
    ("/v1/completions", {**MODEL, "prompt": "x" * 400, "best_of": 3, "max_tokens": 40}, 3),
])  # fmt: skip
def test_all_answers_that_are_asked_for_are_reserved_and_weighed(path: str, document: dict[str, Any], answers: int) -> None:
    with conversation(1, **SETTINGS) as talk:
        client = talk.client().says(request("POST", path, body=json.dumps(document).encode(), key=KEY))
        reserved = talk.account(KEY).ledger.reserved
        assert 40 * answers + 100 <= reserved <= 40 * answers + 140
        engine = talk.engines[0]
        assert engine.last.json() == document, "it says no more than that itself"
        engine.last.says(ok(b'{"id":1}')[:-1])
        assert engine.engine.watch.making == 40 * answers
        engine.last.says(b"}")
        assert client.seen.complete


def event(**said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def chat_of(index: int, turn: int) -> bytes:
    usage = {"prompt_tokens": 10, "completion_tokens": turn, "total_tokens": 10 + turn}
    return event(choices=[{"index": index, "delta": {"content": "word "}}], usage=usage)


def text_of(index: int, turn: int) -> bytes:
    usage = {"prompt_tokens": 40, "completion_tokens": turn, "total_tokens": 40 + turn}
    return event(choices=[{"index": index, "text": "word "}], usage=usage)


def timed_of(index: int, turn: int) -> bytes:
    """llama.cpp's, whose last text comes without timings."""
    timings = {} if (index, turn) == (7, 5) else {"timings": {"prompt_n": 40, "cache_n": 0, "predicted_n": turn}}
    return event(choices=[{"index": index, "text": "word "}], **timings)


def sglang_of(index: int, turn: int) -> bytes:
    """Of which the first text alone has come."""
    said = {"text": "w " * turn, "index": 0, "meta_info": {"prompt_tokens": 40, "completion_tokens": turn}}
    return event(**said) if not index else b""


PROMPTS = ["word " * 40] * 8
CONTINUOUS = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
OF_ONE: dict[str, tuple[str, str, dict[str, Any], Any, int, int]] = {
    "answers": ("vllm", "/v1/chat/completions", {**CHAT, **CONTINUOUS, "n": 8}, chat_of, 10, 40),
    "answers to one": ("sglang", "/v1/completions", {**MODEL, **CONTINUOUS, "prompt": "x" * 40, "n": 8}, text_of, 40, 40),
    "prompts": ("vllm", "/v1/completions", {**MODEL, **CONTINUOUS, "prompt": PROMPTS, "max_tokens": 50}, text_of, 320, 40),
    "prompts, timed": ("llamacpp", "/v1/completions", {**MODEL, **CONTINUOUS, "prompt": PROMPTS}, timed_of, 320, 40),
    "texts": ("sglang", "/generate", {"text": PROMPTS, "stream": True}, sglang_of, 320, 5),
}


@pytest.mark.parametrize("ends", ["leaves", "dies", "fails", "stops", "counts all"])
@pytest.mark.parametrize("name", OF_ONE)
def test_the_figures_of_one_are_not_those_of_all(name: str, ends: str) -> None:
    """A stream of several answers or prompts says of each what it has used; what all have is charged, however it ends."""
    kind, path, document, say, prompt, completion = OF_ONE[name]
    engine = EngineConfig(url="http://127.0.0.1:9", kind=kind, warm_connections=0)
    with conversation([engine], silent, **SETTINGS) as talk:
        client = talk.client().says(request("POST", path, body=json.dumps(document).encode(), key=KEY))
        asked = talk.engines[0].last.says(SSE_HEAD)
        for turn in range(1, 6):
            asked.says(*[chunk(said) for index in range(8) if (said := say(index, turn))])
        if ends == "leaves":
            client.leaves()
        elif ends == "dies":
            asked.closes("reset")
        elif ends == "fails":
            asked.says(chunk(b"data: " + ERROR + b"\n\n") + LAST_CHUNK)
        elif ends == "counts all" and path != "/generate" and kind != "llamacpp":
            asked.says(chunk(event(choices=[], usage={"prompt_tokens": 70, "completion_tokens": 41})) + LAST_CHUNK)
        else:
            asked.says(LAST_CHUNK)
        ledger = talk.account(KEY).ledger
        if ends == "counts all" and path != "/generate" and kind != "llamacpp":
            assert (ledger.prompt, ledger.completion, ledger.estimated) == (70, 41, 0)
            return
        assert ledger.completion == completion
        assert prompt <= ledger.prompt <= (prompt if prompt < 320 else 500)
        assert ledger.estimated == ledger.prompt + ledger.completion
        assert told(talk, "estimated") == [True]
