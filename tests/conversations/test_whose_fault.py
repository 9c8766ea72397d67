"""Errors that come with status 200: whose fault they are, in what words every API says so, and where an answer begins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.exchange.endpoints import HEARING
from tests.conversations.deployed_row import deployed
from tests.conversations.said import (
    BLOCK,
    CHAT,
    DELTA,
    ENGINES,
    MESSAGES,
    RESPONSES,
    ROUTE,
    asking,
    error,
    event,
)  # fmt: skip
from tests.support.byhand.engine import Play
from tests.support.byhand.h2 import JSON
from tests.support.conversation import KEY, answering, conversation
from tests.support.requests import request
from tests.support.scripts import ANSWER, DONE, EVENT, JSON_CHUNKED, LAST_CHUNK, SSE_HEAD, chunk, ok

JSON_NONE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"
KEYED = {"a": {"models": ("m",), "api_key": "of-the-gateway"}}
NDJSON_HEAD = SSE_HEAD.replace(b"text/event-stream", b"application/x-ndjson")
LINE = b'{"message":{"content":"a"},"done":false}\n'
TOKEN = event({"token": {"id": 1, "text": "a"}, "generated_text": None})
FAILED = {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error", "message": "no"}}}
INVALID = {"type": "response.failed", "response": {"status": "failed", "error": {"code": "invalid_prompt", "message": "no"}}}

# Where it is said, behind which beginning, in which words, and whether it was the engine.
BEHIND: list[tuple[str, bytes, bytes, bool]] = [
    (CHAT, EVENT, event(error(400, "BadRequestError")), False), (CHAT, EVENT, event(error("400")), False),
    (CHAT, EVENT, event(error(422)), False), (CHAT, EVENT, event(error(404)), False), (CHAT, EVENT, event(error(429)), False),
    (CHAT, EVENT, event(error(503)), False), (CHAT, EVENT, event(error(401)), False),
    (CHAT, EVENT, event(error(500, "InternalServerError")), True), (CHAT, EVENT, event(error()), True),
    (CHAT, EVENT, event({"error": "no"}), True), (CHAT, EVENT, b"event: error\ndata: no\n\n", True),
    (CHAT, EVENT, b"event: error\n\n", True),
    (CHAT, EVENT, event(error(400)) + event(error(500)), False), (CHAT, EVENT, event(error(500)) + event(error(400)), True),
    (CHAT, EVENT, event(error(400)).replace(b'"error"', b'"\\u0065rror"'), False),
    (CHAT, EVENT, event({"a": [[] for _ in range(3)], **error(400)}).replace(b"[]", b"[" * 400 + b"]" * 400), False),
    (CHAT, EVENT, event(error(400)).replace(b'{"error":', b'{\ndata: "error":'), False),
    ("/v1/completions", EVENT, event(error(400)), False),
    (RESPONSES, DELTA, event(INVALID, "response.failed"), False), (RESPONSES, DELTA, event(FAILED, "response.failed"), True),
    (RESPONSES, DELTA, event(FAILED), True), (RESPONSES, DELTA, event({"type": "error"}), True),
    (RESPONSES, DELTA, event({"type": "error", "code": "rate_limit_exceeded", "message": "no"}), False),
    (MESSAGES, BLOCK, event({"type": "error", **error(kind="invalid_request_error")}, "error"), False),
    (MESSAGES, BLOCK, event({"type": "error", **error(kind="overloaded_error")}, "error"), True),
    ("/generate_stream", TOKEN, b'data:{"error":"no","error_type":"validation"}\n\n', False),
    ("/generate_stream", TOKEN, b'data:{"error":"no","error_type":"generation"}\n\n', True),
    ("/generate_stream", TOKEN, b'data:{"error":"no","error_type":"template_error"}\n\n', False),
    (CHAT, EVENT, event({"error": {"message": "no", "http_status_code": 422}}), False),
    (CHAT, EVENT, b'error: {"code":400,"message":"no","type":"invalid_request_error"}\n\n', False),
    (CHAT, EVENT, b'error: {"code":500,"message":"no"}\r\n\r\n', True),
    (CHAT, EVENT, event({"choices": [{"delta": {"content": ""}, "finish_reason": "error"}], **error("server_error")}), True),
    (CHAT, EVENT, event(error(501, "not_supported_error")), False),
    (CHAT, EVENT, event({"error": {"code": 500, "message": "image input is not supported"}}), False),
    ("/generate_stream", TOKEN, b'data:{"error":"no","error_type":"incomplete_generation"}\n\n', True),
    ("/generate", event({"text": "a", "index": 0}), event(error(400)), False),
    ("/api/chat", LINE, b'{"error":"no"}\n', True), ("/api/chat", LINE, b'{"error":"no","code":400}\n', False),
]  # fmt: skip


@pytest.mark.parametrize("reads", [1, 0])
@pytest.mark.parametrize(("path", "begins", "said", "blamed"), BEHIND)
def test_an_error_behind_the_beginning_is_whose_its_words_say(
    path: str, begins: bytes, said: bytes, blamed: bool, reads: int
) -> None:
    """It passes as it is; and whoever is not to blame is asked again, however little his breaker bears."""
    head = NDJSON_HEAD if path == "/api/chat" else SSE_HEAD
    wire = chunk(begins) + chunk(said) + LAST_CHUNK
    pieces = [wire] if reads else [wire[at : at + 7] for at in range(0, len(wire), 7)]
    with deployed({"a": ENGINES["a"]}, plays={"a": answering(head, *pieces)}, cb_failure_threshold=1) as row:
        answer = row.ask(asking(path, stream=True))
        assert (answer.status, answer.body) == (200, begins + said)
        assert row.talk.records[0]["outcome"] == "engine_error"
        assert row.engines["a"].engine.failures_total == blamed
        assert row.ask(asking(path, stream=True)).status == (503 if blamed else 200)


LONG = "x" * 70_000
RESPONSE = {"id": "r", "object": "response", "status": "failed"}
SAYS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "a failed response": (RESPONSES, {**RESPONSE, "output": [], "error": {"code": "invalid_prompt", "message": "no"}}, False),
    "of its engine": (RESPONSES, {**RESPONSE, "error": {"code": "server_error", "message": "no"}, "output": []}, True),
    "behind a long answer": (RESPONSES, {**RESPONSE, "output": [{"text": LONG}], **error("rate_limit_exceeded")}, False),
    "choices": (CHAT, {"choices": [{"error": {"code": 500}}], **error(400)}, False),
    "choices of its engine": (CHAT, {"choices": [{"error": {"code": 400}}], **error(500)}, True),
    "long words": (CHAT, {"choices": [], "error": {"message": LONG + "é\\\"", "detail": [{"code": 1}], "code": 400}}, False),
    "too many": (CHAT, {"choices": [], "error": {**{f"n{at}": 1 for at in range(200)}, "code": 400}}, True),
    "a text": (CHAT, {"choices": [], "error": LONG}, True),
    "a type": (CHAT, {"choices": [], "error": LONG, "error_type": "validation"}, False),
    "before it": (CHAT, {"error_type": "overloaded", "choices": [], "error": "no"}, False),
    "a number": (CHAT, {"choices": [], "error": 400, "code": 1}, True),
}
SAID_LONG: dict[str, tuple[str, bytes, dict[str, Any], bool]] = {
    "a client's": (CHAT, EVENT, {"error": {"message": LONG, "type": "BadRequestError", "code": 400}}, False),
    "an engine's": (CHAT, EVENT, {"error": {"message": LONG, "type": "InternalServerError", "code": 500}}, True),
    "a typed one": (CHAT, EVENT, {"error": LONG, "error_type": "validation"}, False),
    "a failed response": (RESPONSES, DELTA, {
        "type": "response.failed", "response": {**RESPONSE, "output": [{"text": LONG}], **error("invalid_prompt")}}, False),
    "of its engine": (RESPONSES, DELTA, {
        "type": "response.failed", "response": {**RESPONSE, "output": [{"text": LONG}], **error("server_error")}}, True),
    "a whole one": (RESPONSES, DELTA, {
        "type": "response.completed", "response": {"id": "r", "output": [{"text": LONG, "error": "x"}], "error": None}}, False),
}  # fmt: skip


@pytest.mark.parametrize("reads", [1, 3, 0])
@pytest.mark.parametrize("name", SAYS)
def test_an_answer_that_says_beside_what_there_is_that_it_failed(name: str, reads: int) -> None:
    """It passes as it is, and whose fault it is its words say, however it comes."""
    path, said, blamed = SAYS[name]
    body = json.dumps(said, ensure_ascii=False).encode()
    wire = ok(body)
    size = -(-len(wire) // reads) if reads else max(7, len(wire) // 900)
    plays = {"a": answering(*[wire[at : at + size] for at in range(0, len(wire), size)])}
    with deployed({"a": ENGINES["a"]}, plays=plays, cb_failure_threshold=1) as row:
        answer = row.ask(asking(path))
        assert (answer.status, answer.body) == (200, body)
        assert row.talk.records[0]["outcome"] == "engine_error"
        assert row.engines["a"].engine.failures_total == blamed


@pytest.mark.parametrize("size", [10**6, 997])
@pytest.mark.parametrize("name", SAID_LONG)
def test_an_error_event_of_any_length(name: str, size: int) -> None:
    path, begins, said, blamed = SAID_LONG[name]
    wire = chunk(begins) + chunk(event(said)) + LAST_CHUNK
    plays = {"a": answering(SSE_HEAD, *[wire[at : at + size] for at in range(0, len(wire), size)])}
    with deployed({"a": ENGINES["a"]}, plays=plays, cb_failure_threshold=1) as row:
        assert row.ask(asking(path, stream=True)).body == begins + event(said)
        assert row.talk.records[0]["outcome"] == ("ok" if name == "a whole one" else "engine_error")
        assert row.engines["a"].engine.failures_total == blamed


@pytest.mark.parametrize("size", [10**6, 997])
@pytest.mark.parametrize(("line", "failed"), [
    ("event: error", True), ("event:  error ", True), ("event:error", True), ("error: {}", True), ("error:", True),
    ("event: errors", False), ("errors: {}", False), ("event: err or", False), ("events: error", False),
])  # fmt: skip
def test_an_event_of_any_length_that_is_called_an_error_is_one(line: str, failed: bool, size: int) -> None:
    """Whatever its data is, and whether its name comes before that or behind."""
    data = b'data: {"padding":"%b","code":"server_error"}\n' % LONG.encode()
    for said in (line.encode() + b"\n" + data, data + line.encode() + b"\n", line.encode() + b"\r" + data[:-2] + b"\r\n"):
        wire = chunk(EVENT) + chunk(said + b"\n") + LAST_CHUNK
        plays = {"a": answering(SSE_HEAD, *[wire[at : at + size] for at in range(0, len(wire), size)])}
        with deployed({"a": ENGINES["a"]}, plays=plays, cb_failure_threshold=1) as row:
            assert row.ask(asking(CHAT, stream=True)).body == EVENT + said + b"\n"
            assert row.talk.records[0]["outcome"] == ("engine_error" if failed else "ok")
            assert row.engines["a"].engine.failures_total == failed


def test_but_a_key_of_the_gateways_own_is_not_the_clients() -> None:
    with deployed(KEYED, plays={"a": answering(SSE_HEAD, chunk(EVENT + event(error(401))) + LAST_CHUNK)}) as row:
        row.ask(asking(CHAT, stream=True))
        assert row.engines["a"].engine.failures_total == 1


OLD = {"object": "error", "message": "no", "type": "BadRequestError", "param": None, "code": 400}
ANTHROPIC = {"type": "error", "error": {"type": "overloaded_error", "message": "no"}}
# What is all there is of a plain answer, with which status it goes down, and as what.
INSTEAD: list[tuple[str, dict[str, Any], int, Any]] = [
    (CHAT, error(400, "BadRequestError"), 400, ...), (CHAT, error(500), 500, ...), (CHAT, error(429), 429, ...),
    (CHAT, error(), 502, ...), (CHAT, error("context_length_exceeded"), 400, ...), (CHAT, error(503, user_id="u"), 503, ...),
    (CHAT, {"error": "no"}, 502, {"error": {"message": "no", "type": "upstream_error", "param": None, "code": None}}),
    (CHAT, {"error": {"message": "no", "http_status_code": 422}}, 422, ...),
    (CHAT, {**error(429), "choices": None, "text": ""}, 429, ...),
    (CHAT, OLD, 400, {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}),
    ("/v1/completions", error(404), 404, ...), (RESPONSES, error("server_error"), 500, ...),
    (MESSAGES, ANTHROPIC, 529, ...),
    (MESSAGES, error(400, "BadRequestError"), 400, {"type": "error", "error": {"type": "BadRequestError", "message": "no"}}),
    ("/v1/embeddings", error(422), 422, ...), ("/v1/embeddings", OLD, 400, {"error": {**OLD, "object": ...}}),
    ("/v1/rerank", error(500), 500, ...), ("/api/chat", {"error": "no"}, 502, ...),
    ("/generate", {"error": "no", "error_type": "overloaded"}, 429, ...), ("/generate", error(400), 400, ...),
    ("/generate", {"error": "no", "error_type": "generation"}, 424, ...), (CHAT, error(kind="not_supported_error"), 501, ...),
]  # fmt: skip


def ways(body: bytes) -> dict[str, Play]:
    """How an engine may say the same."""
    head, said = ok(body)[: -len(body)], b" \n" + body
    to_its_end = head.replace(b"content-length: %d" % len(body), b"connection: close")

    def closes(asked: Any) -> None:
        asked.says(to_its_end, said[:5], said[5:]).closes("fin")

    return {
        "at once": answering(head + body), "apart": answering(head, body), "closes": closes,
        "by and by": answering(head, *[body[at : at + 1] for at in range(len(body))]),
        "in chunks": answering(JSON_CHUNKED + chunk(said[:4]), chunk(said[4:]), LAST_CHUNK),
        "in a chunk": answering(JSON_CHUNKED + chunk(said) + LAST_CHUNK),
    }  # fmt: skip


@pytest.mark.parametrize("way", ways(b"{}"))
@pytest.mark.parametrize(("path", "said", "status", "body"), INSTEAD)
def test_an_error_in_place_of_a_plain_answer_has_its_own_status(
    path: str, said: dict[str, Any], status: int, body: Any, way: str
) -> None:
    """However it comes; and where that says so, another answers."""
    data = json.dumps(said, separators=(",", ":") if way == "in chunks" else None).encode()
    with deployed(ENGINES, plays={"a": ways(data)[way]}, cb_failure_threshold=1) as row:
        answer = row.ask(asking(path))
        assert (answer.status, answer.header("content-type"), answer.complete) == (status, "application/json", True)
        if body is ...:
            assert answer.body.strip() == data
        else:
            body["error"].pop("object", None)
            assert answer.json() == body
        assert row.talk.records[0]["status"] == status
        assert row.talk.records[0]["prompt_tokens"] == -1, "it costs nothing"
        assert row.engines["a"].engine.failures_total == (status == 424 or (status >= 500 and status not in (501, 503)))
    if status in (424, 429) or status >= 500:
        with deployed(ENGINES, ROUTE, plays={"a": ways(data)[way]}) as row:
            assert (row.ask(asking(path)).status, row.asked["b"]) == (200, 1)


LLAMA_500 = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("message", "blamed"), [
    ("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", False),
    ("audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj", False),
    ('Failed to parse tools: Unsupported tool type: {"type":"x"}', False),
    ('out of memory at "message": "image input is not supported"', True), ("image", True),
])  # fmt: skip
def test_a_500_is_whose_its_words_say(message: str, blamed: bool, apart: bool) -> None:
    """llama.cpp refuses with it what its model cannot read; whoever only quotes that has failed."""
    data = json.dumps({"error": {"code": 500, "message": message, "type": "server_error"}}).encode()
    head = LLAMA_500 % len(data)
    play = answering(head, *[data[at : at + 9] for at in range(0, len(data), 9)]) if apart else answering(head + data)
    with deployed(ENGINES, plays={"a": play}, retry_statuses=("500",)) as row:
        answer = row.ask(asking(CHAT))
        assert (answer.status, answer.body, answer.complete) == (500, data, True)
        assert row.engines["a"].engine.failures_total == blamed
    with deployed(ENGINES, ROUTE, plays={"a": play}) as row:
        assert (row.ask(asking(CHAT)).status, row.asked["b"], row.engines["a"].engine.failures_total) == (200, 1, blamed)


def test_a_500_that_never_says_why_goes_down_as_it_is() -> None:
    with deployed(ENGINES, plays={"a": answering(LLAMA_500 % 9)}) as row:
        client = row.talk.client().says(asking(CHAT))
        row.talk.passes(1.9)
        assert client.waits
        row.talk.passes(0.2)
        assert client.seen.status == 500
        client.leaves()


def test_a_generation_that_failed_is_asked_for_again_as_a_bad_gateway() -> None:
    two = {"a": {"models": ("m",)}, "b": {"models": ("m",)}}
    failed = LLAMA_500.replace(b"500 Internal Server Error", b"424 Failed Dependency") % 2 + b"{}"
    settings: dict[str, Any] = {"policy": "ordered", "max_retries": 1}
    for statuses, status in (("502",), 200), (("500",), 424):
        with deployed(two, plays={"a": answering(failed)}, retry_statuses=statuses, **settings) as row:
            assert (row.ask(asking("/generate")).status, row.engines["a"].engine.failures_total) == (status, 1)


@pytest.mark.parametrize("path", ["/v1/audio/speech", CHAT])
@pytest.mark.parametrize("kind", [b"audio/mpeg", b"text/plain", b"text/event-stream\r\ncontent-encoding: gzip"])
def test_what_is_broken_right_behind_its_head_costs_nothing(path: str, kind: bytes) -> None:
    data = request(
        "POST", path, headers=[("content-type", "application/json")], body=b'{"model":"m","input":"%b"}' % (b"x" * 400), key=KEY
    )
    broken = SSE_HEAD.replace(b"text/event-stream", kind) + b"zz\r\nthis is no chunk"
    with conversation(1, answering(broken), api_keys=(KEY,), daily_token_quota=10_000) as talk:
        assert talk.ask(data).status == 502
        assert talk.settled()["total_tokens"] == 0


@pytest.mark.parametrize("ends", ["with it", "apart", "behind its length"])
def test_so_it_has_in_http2(ends: str) -> None:
    data = json.dumps(error(400)).encode()
    with deployed({"a": {"models": ("m",), "protocol": "h2"}}, plays={"a": None}) as row:
        client = row.talk.client().says(asking(CHAT))
        length = [(b"content-length", b"%d" % len(data))] if ends == "behind its length" else []
        asked = row.engines["a"].last.begins([*JSON, *length]).says(data[:9], data[9:], last=ends == "with it")
        if ends != "with it":
            asked.says(b"", last=True)
        assert client.sees(400).body == data
        assert row.engines["a"].engine.failures_total == 0


NOTHING: dict[str, Play] = {
    "no length": answering(JSON_NONE), "no type": answering(JSON_NONE.replace(b"content-type: application/json\r\n", b"")),
    "of events": answering(JSON_NONE.replace(b"application/json", b"text/event-stream")),
    "no chunks": answering(JSON_CHUNKED + LAST_CHUNK), "apart": answering(JSON_CHUNKED, LAST_CHUNK),
    "closes": lambda asked: asked.says(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").closes("fin"),
}  # fmt: skip


@pytest.mark.parametrize("way", NOTHING)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, "/api/chat", "/generate", "/v1/embeddings"])
def test_a_head_with_nothing_behind_it_is_no_answer(path: str, way: str) -> None:
    """Its status says 200, and no client could read it: another engine answers, or the client is told; it costs nothing."""
    for routes in ((), (ROUTE,)):
        with deployed(ENGINES, *routes, plays={"a": NOTHING[way]}) as row:
            assert row.ask(asking(path)).status == (200 if routes else 502)
            assert row.engines["a"].engine.failures_total == 1
            assert row.asked.get("b", 0) == len(routes)
            if not routes:
                assert row.talk.records[0]["prompt_tokens"] == -1


def test_so_it_is_in_http2() -> None:
    for head, ends in ((JSON, True), (JSON, False), ([*JSON, (b"content-length", b"0")], True)):
        with deployed({"a": {"models": ("m",), "protocol": "h2"}}, plays={"a": None}) as row:
            client = row.talk.client().says(asking(CHAT))
            asked = row.engines["a"].last.begins(head, last=ends)
            if not ends:
                asked.says(b"", last=True)
            assert client.sees(502).complete
            assert row.engines["a"].engine.failures_total == 1


@pytest.mark.parametrize("path", HEARING)
@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-subrip", b"text/event-stream", b"application/json"])
def test_who_has_heard_nothing_says_so_by_nothing(path: str, kind: bytes) -> None:
    """In a recording of silence, asked for text or for a stream of what is said; but JSON is more than that."""
    form = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    asks = request("POST", path, headers=[("Content-Type", "multipart/form-data; boundary=b")], body=form)
    head, none = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind, kind == b"application/json"
    plays: list[Play] = [
        answering(head + b"content-length: 0\r\n\r\n"), answering(head + b"transfer-encoding: chunked\r\n\r\n", LAST_CHUNK),
        lambda asked: asked.says(head + b"\r\n").closes("fin"),
    ]  # fmt: skip
    for play in plays:
        with deployed({"a": ENGINES["a"]}, plays={"a": play}) as row:
            answer, engine = row.ask(asks), row.engines["a"].engine
            assert (answer.status, answer.complete, engine.failures_total) == (502 if none else 200, True, none)


NO_ERRORS: dict[str, tuple[str, bytes]] = {
    "an answer": (CHAT, ANSWER), "null": (CHAT, b'{"error":null,"choices":[]}'),
    "an answer that failed": (CHAT, b'{"error":{"message":"no","code":400},"choices":[{"message":{"content":"a"}}]}'),
    "a response that failed": (RESPONSES, b'{"id":"r","object":"response","error":{"code":"server_error"},"output":[]}'),
    "a list": ("/v1/embeddings", b'{"object":"list","data":[]}'), "a message": (MESSAGES, b'{"type":"message","content":[]}'),
    "a part of one": (CHAT, b'{"error":{"message":"no"'), "none at all": (CHAT, b'{"error"}'),
    "no object": (CHAT, b'["error"]'),
    "blanks": (CHAT, b" \n "), "an empty text": ("/api/chat", b'{"error":"","message":{"content":"a"},"done":true}'),
    "an empty object": ("/generate", b'{"error":{},"generated_text":"a"}'),
    "an empty word": (CHAT, b'{"id":"c","error":false}'),
    "an empty one behind more": ("/api/chat", json.dumps({"error": "", "message": {"content": LONG}}).encode()),
    "a message that failed": ("/api/chat", b'{"error":"no","message":{"content":"a"}}'),
    "a text that failed": ("/generate", b'{"error":"no","generated_text":"a"}'),
    "a list that failed": ("/v1/embeddings", b'{"data":[{"embedding":[1]}],"error":{"code":400}}'),
}  # fmt: skip


@pytest.mark.parametrize("way", ways(b"{}"))
@pytest.mark.parametrize("name", NO_ERRORS)
def test_what_is_no_error_passes_as_it_is(name: str, way: str) -> None:
    path, body = NO_ERRORS[name]
    with deployed(ENGINES, ROUTE, plays={"a": ways(body)[way]}) as row:
        answer = row.ask(asking(path))
        assert (answer.status, answer.body.strip(), answer.complete) == (200, body.strip(), True)
        assert row.asked["b"] == 0
        told = row.talk.records[0]
        if "empty" in name:
            assert (told["outcome"], row.engines["a"].engine.failures_total) == ("ok", 0)
        if "failed" in name:
            made = name != "a response that failed"
            assert (told["outcome"], told["prompt_tokens"] > 0, told["estimated"]) == ("engine_error", made, made)


@pytest.mark.parametrize("empty", [None, "", 0, False, {}, []])
def test_an_empty_error_in_each_event_is_none(empty: Any) -> None:
    """Nor is one in the last event, which the client has not asked for."""
    told = {"error": empty, "choices": [{"index": 0, "delta": {"content": "a"}}]}
    line = json.dumps({"error": empty, "message": {"content": "a"}, "done": False}).encode() + b"\n"
    extra = event({"error": empty, "choices": [], "usage": {"prompt_tokens": 3}})
    for path, head, said, more, last in (
        (CHAT, SSE_HEAD, event(told), extra, DONE), ("/api/chat", NDJSON_HEAD, line, b"", b"")
    ):
        for size in (7, 10**6):
            wire = chunk(said) + chunk(said + more + last) + LAST_CHUNK
            pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
            with deployed({"a": ENGINES["a"]}, plays={"a": answering(head, *pieces)}) as row:
                assert row.ask(asking(path, stream=True)).body == said * 2 + last
                assert row.talk.records[0]["outcome"] == "ok"
                assert row.engines["a"].engine.failures_total == 0


def test_an_answer_that_is_seen_to_be_one_does_not_wait() -> None:
    """Nor one that may be an error for ever: what is long, or comes after a while, goes down."""
    with deployed(ENGINES, plays={"a": None}) as row:
        client = row.talk.client().says(asking(CHAT))
        asked = row.engines["a"].last.says(ok(ANSWER)[: -len(ANSWER)], ANSWER[:4])
        assert client.seen.body == ANSWER[:4]
        asked.says(ANSWER[4:])
        assert client.sees(200).body == ANSWER
        client = row.talk.client().says(asking(CHAT))
        asked = row.engines["a"].last.says(JSON_CHUNKED, chunk(b'{"error":"'), *[chunk(b"x" * 8000)] * 8)
        assert client.waits
        asked.says(chunk(b"x" * 8000))
        assert (client.seen.status, len(client.seen.body)) == (200, 10 + 9 * 8000)
        asked.says(LAST_CHUNK)
        waits = row.talk.client().says(asking(CHAT))
        asked = row.engines["a"].last.says(JSON_CHUNKED, chunk(b" "))
        row.talk.passes(14.0)
        asked.says(chunk(b" "))
        assert waits.waits
        row.talk.passes(1.5)
        asked.says(chunk(b" "))
        assert waits.seen.body == b"   "
        waits.leaves()

