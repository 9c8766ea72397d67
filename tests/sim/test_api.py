"""Every endpoint answers in its API's shape, deterministically, and refuses what a real engine refuses."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from fastgw.sim import SimConfig, Simulator
from fastgw.sim.text import VOCABULARY, count_tokens, detokenize, tokenize
from tests.sim.client import CHAT, HELLO, chat, request, send


def ask(run, *requests: bytes, **settings):
    """One reply per request, each on its own connection to one simulator."""

    async def main():
        async with Simulator(SimConfig(**settings)) as sim:
            return [await send(sim.url, data) for data in requests]

    replies = run(main)
    return replies[0] if len(replies) == 1 else replies


def post(path: str, body, headers=None) -> bytes:
    return request("POST", path, body, headers)


def test_chat_stream_and_plain_say_the_same(run):
    plain, stream = ask(run, chat(max_tokens=20), chat(max_tokens=20, stream=True))
    choice = plain.json["choices"][0]
    assert stream.words == choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    assert plain.json["usage"]["completion_tokens"] == 20
    first, last = json.loads(stream.data[0]), json.loads(stream.data[-2])
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert stream.data[-1] == "[DONE]"
    assert len(stream.data) == 1 + 20 + 1 + 1


def test_the_same_request_gets_the_same_bytes_and_another_seed_other_words(run):
    once, twice = ask(run, chat(stream=True), chat(stream=True))
    assert once.body == twice.body
    assert ask(run, chat(stream=True), seed=1).words != once.words


def test_without_max_tokens_the_answer_stops_by_itself(run):
    reply = ask(run, post(CHAT, {"messages": HELLO}), output_tokens=11)
    assert reply.json["choices"][0]["finish_reason"] == "stop"
    assert reply.json["usage"]["completion_tokens"] == 11


def test_max_completion_tokens_wins_and_stop_strings_cut(run):
    limited = ask(run, chat(max_completion_tokens=2))
    assert limited.json["usage"]["completion_tokens"] == 2
    words = ask(run, chat(max_tokens=30)).json["choices"][0]["message"]["content"].split(" ")
    cut = ask(run, chat(max_tokens=30, stop=" " + words[5]))
    assert cut.json["choices"][0]["finish_reason"] == "stop"
    assert cut.json["choices"][0]["message"]["content"].split(" ") == words[:5][: words.index(words[5])]


def test_usage_chunks(run):
    asked, all_along = ask(
        run,
        chat(stream=True, stream_options={"include_usage": True}),
        chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}),
    )
    last = json.loads(asked.data[-2])
    assert last["choices"] == []
    prompt = count_tokens("user: " + HELLO[0]["content"])
    assert last["usage"] == {"prompt_tokens": prompt, "total_tokens": prompt + 4, "completion_tokens": 4}
    assert all("usage" not in json.loads(item) for item in asked.data[:-2])
    counts = [json.loads(item)["usage"]["completion_tokens"] for item in all_along.data[:-1]]
    assert counts == [0, 1, 2, 3, 4, 4, 4]


def test_stream_styles(run):
    crlf = ask(run, chat(stream=True), sep="crlf", done=False, first_chunk="llamacpp")
    assert b"\r\n\r\n" in crlf.body
    assert b"\n\n" not in crlf.body.replace(b"\r\n\r\n", b"")
    assert json.loads(crlf.data[0])["choices"][0]["delta"]["content"] is None
    assert crlf.data[-1] != "[DONE]"
    assert len(ask(run, chat(stream=True), first_chunk="none").data) == 4 + 1 + 1


def test_completions(run):
    plain, stream = ask(
        run, *(post("/v1/completions", {"prompt": "Once", "max_tokens": 3, "stream": flag}) for flag in (False, True))
    )
    assert plain.json["object"] == "text_completion"
    pieces = [json.loads(item)["choices"][0]["text"] for item in stream.data[:-1]]
    assert "".join(pieces) == plain.json["choices"][0]["text"]


def test_responses(run):
    plain, stream = ask(
        run, *(post("/v1/responses", {"input": "Once", "max_output_tokens": 3, "stream": flag}) for flag in (False, True))
    )
    events = [json.loads(item) for item in stream.data]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.incomplete")
    assert events[-1]["response"] == plain.json
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert said == plain.json["output"][0]["content"][0]["text"]
    assert b"event: response.created\ndata: " in stream.body


def test_messages(run):
    body = {"messages": HELLO, "system": "Be brief.", "max_tokens": 3}
    plain, stream, refused = ask(
        run,
        post("/v1/messages", body),
        post("/v1/messages", {**body, "stream": True}),
        post("/v1/messages", {"messages": HELLO}),
    )
    assert plain.json["type"] == "message"
    assert plain.json["stop_reason"] == "max_tokens"
    events = [json.loads(item) for item in stream.data]
    assert [event["type"] for event in events][:2] == ["message_start", "content_block_start"]
    assert events[-1]["type"] == "message_stop"
    said = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert said == plain.json["content"][0]["text"]
    assert refused.status == 400


def test_embeddings(run):
    floats, packed, single = ask(
        run,
        post("/v1/embeddings", {"input": ["a", "b"], "dimensions": 4}),
        post("/v1/embeddings", {"input": ["a", "b"], "dimensions": 4, "encoding_format": "base64"}),
        post("/v1/embeddings", {"input": "a"}),
    )
    vectors = [row["embedding"] for row in floats.json["data"]]
    assert vectors[0] != vectors[1]
    assert [list(struct.unpack("<4f", base64.b64decode(row["embedding"]))) for row in packed.json["data"]] == vectors
    assert len(single.json["data"][0]["embedding"]) == 16


def test_rerank_and_score(run):
    ranked, top, scored = ask(
        run,
        post("/v1/rerank", {"query": "sea", "documents": ["ship", {"text": "tree"}, "harbour"]}),
        post("/v1/rerank", {"query": "sea", "documents": ["ship", "tree", "harbour"], "top_n": 1}),
        post("/v1/score", {"text_1": "sea", "text_2": ["ship", "tree"]}),
    )
    scores = [row["relevance_score"] for row in ranked.json["results"]]
    assert scores == sorted(scores, reverse=True)
    assert top.json["results"] == ranked.json["results"][:1]
    by_text = {row["document"]["text"]: row["relevance_score"] for row in ranked.json["results"]}
    assert [row["score"] for row in scored.json["data"]] == [by_text["ship"], by_text["tree"]]


def test_tokenize_round_trip_and_count(run):
    text = "naïve 東京 🙂!"
    there = ask(run, post("/tokenize", {"prompt": text}))
    back, bad = ask(run, post("/detokenize", {"tokens": there.json["tokens"]}), post("/detokenize", {"tokens": [3]}))
    assert back.json == {"prompt": text}
    assert bad.status == 400
    usage = ask(run, post("/v1/completions", {"prompt": text})).json["usage"]
    assert usage["prompt_tokens"] == there.json["count"]


@pytest.mark.parametrize("text", ["", "a", "\x00\x01", "abcd" * 9, "\ud800", "é" * 7])
def test_every_text_survives_its_tokens(text):
    assert detokenize(tokenize(text)) == text


def test_the_vocabulary_needs_no_escaping():
    for word in VOCABULARY:
        assert json.loads(b'"' + word + b'"') == word.decode()


def multipart(model: str, size: int) -> tuple[bytes, dict[str, str]]:
    field = f'--frontier\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
    file = '--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = field.encode() + file.encode() + b"w" * size + b"\r\n--frontier--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=frontier"}


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_transcriptions_count_the_upload(run, size):
    body, headers = multipart("sim", size)
    good = ask(run, post("/v1/audio/transcriptions", body, headers))
    assert good.json["bytes"] == len(body)
    assert good.json["text"]
    body, headers = multipart("other", size)
    unknown, wrong_kind = ask(run, post("/v1/audio/transcriptions", body, headers), post("/v1/audio/transcriptions", {}))
    assert (unknown.status, wrong_kind.status) == (404, 415)


def test_speech_is_binary_in_pieces(run):
    once, again = ask(run, *[post("/v1/audio/speech", {"input": "hello harbour", "response_format": "wav"})] * 2)
    assert once.field("content-type") == "audio/wav"
    assert len(once.body) == 1024 * count_tokens("hello harbour")
    assert once.body == again.body


def test_images(run):
    reply = ask(run, post("/v1/images/generations", {"prompt": "a ship", "n": 2}))
    assert [base64.b64decode(row["b64_json"])[:4] for row in reply.json["data"]] == [b"\x89PNG"] * 2


def test_models_health_version_tags(run):
    models, health, healthz, version, tags, head = ask(
        run,
        *(request("GET", path) for path in ("/v1/models", "/health", "/healthz", "/version", "/api/tags")),
        request("HEAD", "/metrics"),
        models=("llama", "qwen"),
    )
    assert [row["id"] for row in models.json["data"]] == ["llama", "qwen"]
    assert [row["name"] for row in tags.json["models"]] == ["llama", "qwen"]
    assert (health.status, healthz.status) == (200, 200)
    assert version.json["version"].startswith("fastgw-sim ")
    assert head.status == 200
    assert head.wire_body == b""


def test_unknown_model_has_vllms_shape(run):
    reply = ask(run, chat(model="nope"))
    assert reply.status == 404
    error = reply.json["error"]
    assert (error["type"], error["code"]) == ("NotFoundError", 404)
    assert "nope" in error["message"]
    assert ask(run, chat(model="nope"), any_model=True).json["model"] == "nope"


def test_the_key(run):
    good, bad, none, health = ask(
        run,
        request("POST", CHAT, {"messages": HELLO}, {"Authorization": "Bearer k"}),
        request("POST", CHAT, {"messages": HELLO}, {"Authorization": "Bearer K"}),
        chat(),
        request("GET", "/health"),
        api_key="k",
    )
    assert [reply.status for reply in (good, bad, none, health)] == [200, 401, 401, 200]
    assert bad.field("www-authenticate") == "Bearer"


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b"\xff", b"[" * 100_000, b'{"messages":[]}', b'{"messages":3}'),
        b'{"messages":[{"content":"x"}],"n":2}',
        b'{"messages":[{"content":"x"}],"max_tokens":0}',
        b'{"messages":[{"content":"x"}],"max_tokens":999999}',
    ],
)
def test_bad_bodies_are_400(run, body):
    reply = ask(run, post(CHAT, body))
    assert reply.status == 400
    assert reply.json["error"]["type"] == "BadRequestError"


def test_unknown_paths_and_methods(run):
    nowhere, method, debug = ask(run, request("GET", "/nowhere"), request("GET", CHAT), request("GET", "/debug/state"))
    assert (nowhere.status, method.status, method.field("allow"), debug.status) == (404, 405, "POST", 404)
