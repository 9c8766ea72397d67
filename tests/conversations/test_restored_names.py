"""``restore_name``: answers name the model as the client did."""

from __future__ import annotations

import json

import pytest

from fastgw import RouteConfig
from tests.conversations.deployed_row import deployed
from tests.support.conversation import answering
from tests.support.requests import chat, request
from tests.support.scripts import DONE, JSON_CHUNKED, LAST_CHUNK, SSE_HEAD, chunk, ok

ENGINES = {"one": {"models": ("llama",)}}
ROUTE = RouteConfig(model="llama", aliases=["gpt-4o"], restore_name=True)
SAID = (
    b'{"id":"a","model":"/weights/llama","choices":[{"message":{"content":"\\"model\\":\\"x\\""}}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":5}}'
)
RESTORED = SAID.replace(b"/weights/llama", b"gpt-4o")
EVENT = b'data: {"id":"c","model":"/weights/llama","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'


def test_a_whole_answer() -> None:
    with deployed(ENGINES, ROUTE, plays={"one": answering(ok(SAID))}) as row:
        answer = row.ask(chat("gpt-4o"))
        assert answer.body == RESTORED
        assert answer.header("content-length") == str(len(RESTORED))
        [record] = row.talk.records
        assert (record["prompt_tokens"], record["completion_tokens"]) == (3, 5)


def test_one_in_pieces() -> None:
    pieces = [chunk(SAID[at : at + 7]) for at in range(0, len(SAID), 7)]
    with deployed(ENGINES, ROUTE, plays={"one": answering(JSON_CHUNKED, *pieces, LAST_CHUNK)}) as row:
        assert row.ask(chat("gpt-4o")).body == RESTORED
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(SAID)
    with deployed(ENGINES, ROUTE, plays={"one": answering(head + SAID[:20], SAID[20:])}) as row:
        assert row.ask(chat("gpt-4o")).body == RESTORED


@pytest.mark.parametrize("size", [1, 11, 4096])
def test_a_stream_event_by_event(size: int) -> None:
    events = EVENT * 3 + DONE
    pieces = [chunk(events[at : at + size]) for at in range(0, len(events), size)]
    with deployed(ENGINES, ROUTE, plays={"one": answering(SSE_HEAD, *pieces, LAST_CHUNK)}) as row:
        answer = row.ask(chat("gpt-4o", stream=True))
        assert answer.body == events.replace(b"/weights/llama", b"gpt-4o")
        assert answer.complete


def by_events(*documents: bytes) -> bytes:
    return b"".join(b"event: x\ndata: %b\n\n" % document for document in documents)


NAMED = b'"model":"/weights/llama"'
LINE = b'{%b,"message":{"role":"user","content":"\\"model\\":\\"x\\"","tool_calls":[{"model":"y"}]},"done":false}\n' % NAMED
WORD = b'{%b,"response":"a","done":false}\n' % NAMED
SHAPES: dict[str, tuple[str, bytes, bytes]] = {
    "/api/chat, lines": ("/api/chat", b"application/x-ndjson", LINE * 3),
    "/api/chat": ("/api/chat", b"application/json; charset=utf-8", LINE.replace(b"false", b"true")),
    "/api/generate, lines": ("/api/generate", b"application/x-ndjson; charset=utf-8", WORD * 2),
    "/api/generate": ("/api/generate", b"application/json", WORD),
    "responses": ("/v1/responses", b"application/json", b'{"id":"r","object":"x",%b,"output":[{"model":"y"}]}' % NAMED),
    "responses, events": (
        "/v1/responses", b"text/event-stream", by_events(
            b'{"type":"response.created","response":{"id":"r",%b}}' % NAMED, b'{"type":"response.output_text.delta"}',
            b'{"type":"response.completed","response":{"id":"r"}}')),
    "messages": ("/v1/messages", b"application/json", b'{"type":"message","content":[{"text":"a"}],%b}' % NAMED),
    "messages, events": (
        "/v1/messages", b"text/event-stream", by_events(
            b'{"type":"message_start","message":{"id":"m",%b}}' % NAMED, b'{"type":"message_stop"}')),
    "embeddings": ("/v1/embeddings", b"application/json", b'{"object":"list","data":[{"embedding":[1]}],%b}' % NAMED),
}  # fmt: skip


@pytest.mark.parametrize("size", [0, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_every_shape_of_an_answer_and_however_it_comes(shape: str, size: int) -> None:
    path, content_type, said = SHAPES[shape]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % content_type
    if size:
        pieces = [head + b"transfer-encoding: chunked\r\n\r\n"]
        pieces += [chunk(said[at : at + size]) for at in range(0, len(said), size)] + [LAST_CHUNK]
    else:
        pieces = [head + b"content-length: %d\r\n\r\n%b" % (len(said), said)]
    with deployed(ENGINES, ROUTE, plays={"one": answering(*pieces)}) as row:
        answer = row.ask(request("POST", path, body=b'{"model":"gpt-4o","input":"x","prompt":"x"}'))
        assert (answer.status, answer.body, answer.complete) == (200, said.replace(NAMED, b'"model":"gpt-4o"'), True)


def test_only_where_it_is_wanted_and_what_is_no_json_passes() -> None:
    for route in (RouteConfig(model="llama", aliases=["gpt-4o"]),):
        with deployed(ENGINES, route, plays={"one": answering(ok(SAID))}) as row:
            assert row.ask(chat("gpt-4o")).body == SAID
    plain = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 20\r\n\r\n" + b'{"model":"untouched"}'[:20]
    coded = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"
    for data, body in ((plain, b'{"model":"untouched"}'[:20]), (coded, b"{}")):
        with deployed(ENGINES, ROUTE, plays={"one": answering(data)}) as row:
            assert row.ask(chat("gpt-4o")).body == body
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: identity\r\ncontent-length: %d\r\n\r\n"
    with deployed(ENGINES, ROUTE, plays={"one": answering(head % len(SAID) + SAID)}) as row:
        assert row.ask(chat("gpt-4o")).json()["model"] == "gpt-4o"
    with deployed(ENGINES, ROUTE, plays={"one": answering(ok(SAID))}) as row:
        assert json.loads(row.ask(request("GET", "/v1/models")).body)["data"][0]["id"] == "llama"


def test_a_fallback_answers_under_the_name_that_was_asked_for() -> None:
    engines = {"one": {"models": ("llama",)}, "two": {"models": ("qwen",)}}
    route = RouteConfig(model="llama", restore_name=True, fallback=["qwen"], fallback_on=["failure"])
    plays = {"one": lambda asked: asked.closes("reset"), "two": answering(ok(SAID))}
    with deployed(engines, route, plays=plays) as row:  # type: ignore[arg-type]
        answer = row.ask(chat("llama"))
        assert (answer.json()["model"], answer.header("x-fallback-model")) == ("llama", "qwen")
