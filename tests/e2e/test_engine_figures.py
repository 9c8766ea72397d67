"""What an engine says it has used is what its key is charged, wherever in the answer it stands: whole answers and streams of
every API's shape, in one read and in many, and what is done where nothing, or nothing readable, is said."""

from __future__ import annotations

import contextlib
import gzip
import json
from typing import Any

import pytest

from fastgw.sim.scripted import ScriptedConnection
from tests.e2e.front import front
from tests.e2e.metered import CONTENT, KEY, estimate, once, say, settled, spent
from tests.support.client import RawResponse, request

pytestmark = pytest.mark.together

CHAT = "/v1/chat/completions"
LONG = [0.0123456789] * 12_000  # 150 kB of JSON


def embedding(**fields: Any) -> bytes:
    body = json.dumps({"model": "sim", "input": CONTENT, **fields}).encode()
    return request("POST", "/v1/embeddings", headers=[("Content-Type", "application/json")], body=body, key=KEY)


def ranking(path: str) -> bytes:
    body = json.dumps({"model": "sim", "query": CONTENT, "documents": [CONTENT]}).encode()
    return request("POST", path, headers=[("Content-Type", "application/json")], body=body, key=KEY)


def transcription() -> bytes:
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n--b\r\nContent-Disposition: form-data; ' \
        b'name="file"; filename="a.wav"\r\n\r\nsound\r\n--b--\r\n'  # fmt: skip
    kind = [("Content-Type", "multipart/form-data; boundary=b")]
    return request("POST", "/v1/audio/transcriptions", headers=kind, body=form, key=KEY)


async def answered(
    data: bytes, body: bytes, *, kind: bytes = b"application/json", step: int = 0, fields: bytes = b"", breaks: bool = False,
    **settings: Any,
) -> tuple[RawResponse, dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """The answer, the key's usage, and the records, where an engine answers with ``body``."""

    async def engine(conn: ScriptedConnection, _: bytes) -> None:
        pieces = [body[at : at + step] for at in range(0, len(body), step)] if step else [body]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nconnection: close\r\n%b" % (kind, fields)
        with contextlib.suppress(ConnectionError):
            if step:
                await conn.send(head + b"transfer-encoding: chunked\r\n\r\n")
                for piece in pieces:
                    await conn.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                if not breaks:
                    await conn.send(b"0\r\n\r\n")
            else:
                await conn.send(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            conn.close()

    async with front(engine, api_keys=(KEY,), daily_token_quota=10**9, **settings) as one:
        answer = await once(one.gw, data)
        return answer, await settled(one.gw), [dict(record) for record in one.gw.records if record["method"] == b"POST"]


# The request, the engine's answer, and (prompt, completion).
ANSWERS: dict[str, tuple[bytes, Any, tuple[int, int]]] = {
    "logprobs behind it": (say(), {"choices": [], "usage": {"prompt_tokens": 77, "completion_tokens": 5},
        "prompt_logprobs": LONG}, (77, 5)),
    "timings alone": (say(), {"timings": {"cache_n": 70, "prompt_n": 7, "predicted_n": 5}, "content": "x"}, (77, 5)),
    "whole floats": (say(), {"usage": {"prompt_tokens": 77.0, "completion_tokens": 5.0}}, (77, 5)),
    "responses": (say(path="/v1/responses"), {"output": [{"usage": {"input_tokens": 1}}], "usage": {"input_tokens": 77,
        "output_tokens": 5}}, (77, 5)),
    "messages": (say(path="/v1/messages"), {"usage": {"input_tokens": 7, "cache_read_input_tokens": 50,
        "cache_creation_input_tokens": 20, "output_tokens": 5}}, (77, 5)),
    "embeddings, before their data": (embedding(), {"usage": {"prompt_tokens": 77, "total_tokens": 77}, "data": LONG}, (77, 0)),
    "embeddings, a total": (embedding(), {"data": LONG, "usage": {"total_tokens": 77}}, (77, 0)),
    "rerank": (ranking("/v1/rerank"), {"usage": {"total_tokens": 77}, "results": LONG}, (77, 0)),
    "score": (ranking("/v1/score"), {"data": LONG, "usage": {"total_tokens": 77}}, (77, 0)),
    "Cohere": (ranking("/v2/rerank"), {"results": [], "meta": {"tokens": {"input_tokens": 77}}}, (77, 0)),
    "transcription": (transcription(), {"text": "x", "usage": {"input_tokens": 77, "output_tokens": 5}}, (77, 5)),
}  # fmt: skip


@pytest.mark.parametrize("step", [0, 1000])
@pytest.mark.parametrize("shape", ANSWERS)
async def test_a_whole_answer_is_charged_as_it_says(shape: str, step: int) -> None:
    data, said, counts = ANSWERS[shape]
    answer, found, _ = await answered(data, json.dumps(said).encode(), step=step)
    assert answer.json() == said
    assert spent(found) == counts
    assert found["estimated_tokens"] == 0


async def test_seconds_of_audio_are_an_estimate() -> None:
    for step in (0, 20):
        body = b'{"text":"x","usage":{"type":"duration","seconds":26.4}}'
        _, found, records = await answered(transcription(), body, step=step)
        assert spent(found) == (270, 0)
        assert found["estimated_tokens"] == 270
        assert records[0]["estimated"] is True


def event(document: Any, end: bytes = b"\n\n") -> bytes:
    data = json.dumps(document, separators=(",", ":")).encode()
    name = b"event: %b\n" % document["type"].encode() if "type" in document else b""
    return name + b"data: " + data + end


def delta(text: str, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}}], **more})


DONE = b"data: [DONE]\n\n"
STOP = event({"type": "message_stop"})
RESPONSE = [
    event({"type": "response.created", "response": {"output": [], "usage": None}}),
    event({"type": "response.in_progress", "response": {"usage": {"input_tokens": 0, "output_tokens": 0}}}),
    event({"type": "response.output_item.added", "item": {"type": "message", "content": []}}),
    event({"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}}),
    *[event({"type": "response.output_text.delta", "delta": word}) for word in ("Hel", "lo", "!")],
    event({"type": "response.output_text.done", "text": "Hello!"}),
    event({"type": "response.content_part.done", "part": {"type": "output_text", "text": "Hello!"}}),
    event({"type": "response.output_item.done", "item": {"content": [{"type": "output_text", "text": "Hello!"}]}}),
]
MESSAGE = [
    event({"type": "message_start", "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 70,
        "output_tokens": 1}}}),
    event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "so"}}),
    *[event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}})
        for word in ("Hel", "lo", "!")],
    event({"type": "content_block_stop", "index": 0}),
]  # fmt: skip
COMPLETED = {"input_tokens": 77, "output_tokens": 100, "output_tokens_details": {"reasoning_tokens": 97}}
TEXTS = [delta("Hel"), delta("lo"), delta("!")]

# The request, the engine's events, (prompt, completion), and whether that is an estimate.
STREAMS: dict[str, tuple[bytes, list[bytes], tuple[int, int], bool]] = {
    "usage at the end": (say(stream=True), [*TEXTS, event({"choices": [], "usage": {"prompt_tokens": 77,
        "completion_tokens": 100}}), DONE], (77, 100), False),
    "usage in each event": (say(stream=True), [delta(word, usage={"prompt_tokens": 77, "completion_tokens": at + 98})
        for at, word in enumerate(("Hel", "lo", "!"))] + [DONE], (77, 100), False),
    "timings in each event": (say(stream=True), [delta(word, timings={"cache_n": 70, "prompt_n": 7, "predicted_n": at + 98})
        for at, word in enumerate(("Hel", "lo", "!"))] + [DONE], (77, 100), False),
    "usage, then timings": (say(stream=True), [*TEXTS, event({"choices": [], "usage": {"prompt_tokens": 77,
        "completion_tokens": 100}, "timings": {"prompt_n": 1, "predicted_n": 1}}), DONE], (77, 100), False),
    "an early word": (say(stream=True), [delta("", usage={"prompt_tokens": 77, "completion_tokens": 0}), *TEXTS, DONE],
        (77, 3), True),
    "responses": (say(stream=True, path="/v1/responses"), [*RESPONSE, event({"type": "response.completed",
        "response": {"output": ["Hello!"], "usage": COMPLETED}})], (77, 100), False),
    "responses, a long end": (say(stream=True, path="/v1/responses"), [*RESPONSE, event({"type": "response.completed",
        "response": {"output": ["Hello! " * 20_000], "usage": COMPLETED}})], (77, 100), False),
    "responses, a long end before it": (say(stream=True, path="/v1/responses"), [*RESPONSE, event({"response": {
        "usage": COMPLETED, "output": ["Hello! " * 20_000]}, "type": "response.completed"}, b"\r\n\r\n")], (77, 100), False),
    "responses without an end": (say(stream=True, path="/v1/responses"), RESPONSE, (estimate(path="/v1/responses"), 3), True),
    "messages": (say(stream=True, path="/v1/messages"), [*MESSAGE, event({"type": "message_delta", "delta": {},
        "usage": {"output_tokens": 100}}), STOP], (77, 100), False),
    "messages without an end": (say(stream=True, path="/v1/messages"), MESSAGE, (77, 3), True),
    "messages with a prompt of nothing": (say(stream=True, path="/v1/messages"), [event({"type": "message_start", "message": {
        "usage": {"input_tokens": 0, "output_tokens": 0}}}), *MESSAGE[1:], event({"type": "message_delta", "delta": {},
        "usage": {"output_tokens": 62}}), STOP], (estimate(path="/v1/messages"), 62), True),
    "zeros": (say(stream=True), [*TEXTS, event({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}), DONE],
        (estimate(), 3), True),
    "messages that end with less of the prompt": (say(stream=True, path="/v1/messages"), [*MESSAGE, event({
        "type": "message_delta", "delta": {}, "usage": {"input_tokens": 7, "output_tokens": 100}}), STOP], (77, 100), False),
    "many tokens in an event": (say(stream=True), [delta("word " * 50)] * 4 + [DONE], (estimate(), 4 * 63), True),
    "usage elsewhere": (say(stream=True), [*TEXTS, event({"choices": [{"usage": {"prompt_tokens": 1, "completion_tokens": 1}}],
        "x": {"response": {"usage": {"input_tokens": 1}}}}), DONE], (estimate(), 3), True),
}  # fmt: skip


@pytest.mark.parametrize("step", [97, 10_000, 10**6])
@pytest.mark.parametrize("shape", STREAMS)
async def test_a_stream_is_charged_as_its_last_word_says(shape: str, step: int) -> None:
    data, events, counts, estimated = STREAMS[shape]
    body = b"".join(events)
    answer, found, records = await answered(data, body, kind=b"text/event-stream", step=step, inject_usage=False)
    whole = not shape.endswith("without an end")
    assert answer.body == body if whole else answer.body.startswith(body)
    assert records[0]["outcome"] == ("ok" if whole else "truncated")
    assert spent(found) == counts
    assert records[0]["estimated"] is estimated


async def test_a_prompt_of_nothing_is_no_figure_in_a_plain_answer_either() -> None:
    body = json.dumps({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 5}}).encode()
    _, found, records = await answered(say(), body)
    assert spent(found) == (estimate(), 5)
    assert records[0]["estimated"]
    said = {"choices": [{"message": {"content": "word " * 80}}], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    text = json.dumps(said)
    _, found, records = await answered(say(), text.encode())
    assert spent(found) == (estimate(), -(-(len(text) - 200) // 4)), "nor is an answer of nothing, to nothing"
    assert records[0]["estimated"]
    body = json.dumps({"data": [], "usage": {"prompt_tokens": 0, "total_tokens": 0}}).encode()
    _, found, records = await answered(embedding(), body)
    assert spent(found) == (0, 0)
    assert not records[0]["estimated"]


@pytest.mark.parametrize("shape", ["responses", "messages", "usage in each event", "timings in each event", "zeros"])
async def test_a_stream_that_breaks_is_charged_by_what_passed(shape: str) -> None:
    """What was said early is not believed where more has passed; nor a prompt of nothing."""
    data, events, _, _ = STREAMS[shape]
    body = b"".join(events[: {"responses": -1, "messages": -2, "zeros": -1}.get(shape, 2)])
    _, found, _ = await answered(data, body, kind=b"text/event-stream", step=10**6, breaks=True, inject_usage=False)
    prompt = {"responses": estimate(path="/v1/responses"), "zeros": estimate()}.get(shape, 77)
    assert spent(found) == (prompt, 3 if "each" not in shape else 99)


@pytest.mark.parametrize("data", [say(), say(stream=True), embedding(), ranking("/v1/rerank"), transcription(),
    say(path="/v1/messages"), say(path="/v1/responses")], ids=range(7))  # fmt: skip
async def test_an_answer_that_is_read_is_not_asked_for_compressed(data: bytes) -> None:
    asked: list[bytes] = []

    async def engine(conn: ScriptedConnection, head: bytes) -> None:
        asked.append(head)
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    async with front(engine, api_keys=(KEY,)) as one:
        await once(one.gw, data.replace(b"\r\n", b"\r\nAccept-Encoding: gzip, br\r\n", 1))
    assert asked
    assert b"accept-encoding" not in asked[0].lower()


@pytest.mark.parametrize("step", [0, 50])
async def test_what_comes_compressed_all_the_same_is_an_estimate(step: int) -> None:
    body = gzip.compress(json.dumps({"choices": [], "usage": {"prompt_tokens": 4000, "completion_tokens": 7}}).encode())
    answer, found, records = await answered(say(20), body, fields=b"content-encoding: gzip\r\n", step=step)
    assert answer.body == body
    assert found["prompt_tokens"] == estimate()
    assert found["estimated_tokens"] == found["total_tokens"]
    assert records[0]["estimated"] is True
