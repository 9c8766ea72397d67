"""Fallback chains across models, on failure before the first event (S3.13)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fastgw import RouteConfig
from fastgw.exchange.plan import MOST_SIBLINGS
from tests.conversations.deployed_row import deployed, fine, key_of, tenant_key
from tests.conversations.engine_row import status
from tests.support.byhand.engine import Play
from tests.support.byhand.h2 import JSON
from tests.support.conversation import answering, silent
from tests.support.requests import chat, request
from tests.support.scripts import DONE, EVENT, LAST_CHUNK, SSE_HEAD, chunk, ok

ENGINES: dict[str, dict[str, Any]] = {"a": {"models": ("m",)}, "b": {"models": ("n",)}, "c": {"models": ("o",)}}
ROUTE = RouteConfig(model="m", fallback=["n", "o"], fallback_on=["failure"])
TOO_LONG = b'{"error":{"message":"This model\'s maximum context length is 4096 tokens.","type":"BadRequestError","code":400}}'
LONG = answering(
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(TOO_LONG), TOO_LONG)
)


def says(number: int, error: object) -> Play:
    """An engine that refuses everything."""
    data = json.dumps({"error": error}).encode()
    head = b"HTTP/1.1 %d No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return answering(head % (number, len(data)) + data)


def dies(asked: Any) -> None:
    asked.closes("reset")


def test_what_goes_round_is_sent_nowhere_else_and_is_no_fault() -> None:
    """An engine that is a gateway too says 508 of the request, which would go round at another model's engine as well."""
    with deployed(ENGINES, ROUTE, plays={"a": status(508)}) as row:
        answer = row.ask(chat())
        assert (answer.status, row.asked) == (508, {"a": 1, "b": 0, "c": 0})
        assert row.talk.engines[0].engine.failures_total == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("play", [dies, status(429), status(500), status(503), status(529)], ids=str)
def test_S3_13_the_next_model_answers(play: Callable[[Any], None], stream: bool) -> None:
    with deployed(ENGINES, ROUTE, plays={"a": play}) as row:
        answer = row.ask(chat(stream=stream, content="the very same"))
        assert (answer.status, row.asked) == (200, {"a": 1, "b": 1, "c": 0})
        assert answer.header("x-fallback-model") == "n"
        assert row.sent("b")["model"] == "n"
        assert row.sent("b")["messages"][0]["content"] == "the very same"
        [record] = row.talk.records
        assert (record["model"], record["served_model"], record["engine"], record["status"]) == ("m", "n", "b", 200)
        assert row.talk.stats.fallbacks_total == 1


@pytest.mark.parametrize("why", ["ill", "drained", "breaker", "gone"])
def test_S3_13_all_engines_of_a_model_down(why: str) -> None:
    engines = ENGINES if why != "gone" else {name: ENGINES[name] for name in "bc"}
    plays = {"a": status(500)} if why == "breaker" else {"a": dies}
    with deployed(engines, ROUTE, plays={} if why == "gone" else plays, cb_failure_threshold=1) as row:
        if why == "breaker":
            row.ask(chat())
        elif why == "drained":
            row.engines["a"].engine.draining = True
        elif why == "ill":
            row.engines["a"].engine.healthy = False
        answer = row.ask(chat())
        assert (answer.status, answer.header("x-fallback-model")) == (200, "n")


def test_it_goes_down_the_chain_and_says_where_it_ended() -> None:
    with deployed(ENGINES, ROUTE, plays={"a": status(503), "b": dies}) as row:
        answer = row.ask(chat())
        assert (answer.status, row.asked) == (200, {"a": 1, "b": 1, "c": 1})
        assert answer.header_all("x-fallback-model") == ["o"]
        assert row.talk.stats.fallbacks_total == 1


@pytest.mark.parametrize("then", [fine, dies], ids=["it answers", "it dies"])
def test_one_that_finds_no_room_counts_as_well(then: Callable[[Any], None]) -> None:
    route = RouteConfig(model="m", fallback=["n", "o"], fallback_on=["failure"], on_capacity="fallback")
    engines = {**ENGINES, "a": {"models": ("m",), "max_concurrent": 1}}
    with deployed(engines, route, plays={"a": silent, "b": then}) as row:
        first = row.talk.client().says(chat())
        assert row.ask(chat()).header("x-fallback-model") == ("n" if then is fine else "o")
        assert row.talk.stats.fallbacks_total == 1
        first.leaves()


def test_who_finds_no_room_elsewhere_has_not_left_in_between() -> None:
    """Or one that is told to come back would be told so too soon: nothing has come free."""
    told: dict[bool, list[int]] = {}
    for falls_back in (False, True):
        route = RouteConfig(model="m", fallback=["n"], fallback_on=["failure"] if falls_back else [])
        engines = {"a": {"models": ("m",), "max_concurrent": 4}, "b": {"models": ("n",), "max_concurrent": 1}}
        told[falls_back] = []
        with deployed(engines, route, plays={"a": silent, "b": silent}, queue_size=8, queue_timeout_s=60) as row:
            talk = row.talk
            clients = [talk.client().says(chat("n"))]
            for _ in range(3):
                while talk.waiting < 8:
                    clients.append(talk.client().says(chat()))
                told[falls_back].append(int(talk.client().says(chat()).sees(429).header("retry-after-ms") or 0))
                talk.passes(1.0)
                for asked in list(row.engines["a"].under_way):
                    status(503)(asked)
            for client in clients:
                if client.sink is not None:
                    client.leaves()
    assert told[True] == pytest.approx(told[False], rel=0.1)  # (chance spreads those who come again)


def test_the_chain_has_an_end_and_the_last_answer_stands() -> None:
    with deployed(ENGINES, ROUTE, plays=dict.fromkeys("abc", status(503, b"x-from: last"))) as row:
        answer = row.ask(chat())
        assert (answer.status, answer.header("x-from"), row.asked) == (503, "last", {"a": 1, "b": 1, "c": 1})


def test_other_engines_of_the_same_model_come_first() -> None:
    engines = {**ENGINES, "a2": {"models": ("m",)}}
    with deployed(engines, ROUTE, plays={"a": status(503)}, retry_statuses=["503"], policy="ordered") as row:
        answer = row.ask(chat())
        assert (answer.status, row.asked) == (200, {"a": 1, "b": 0, "c": 0, "a2": 1})
        assert answer.header("x-fallback-model") is None


@pytest.mark.parametrize(("route", "play"), [
    (RouteConfig(model="m", fallback=["n"]), status(503)),
    (RouteConfig(model="m", fallback=["n"], on_capacity="fallback"), dies),
    (RouteConfig(model="m", fallback=["n"], fallback_on=["context"]), status(503)),
    (ROUTE, status(400)), (ROUTE, status(404)), (ROUTE, status(422)), (ROUTE, LONG),
])  # fmt: skip
def test_nothing_that_was_not_asked_for(route: RouteConfig, play: Callable[[Any], None]) -> None:
    with deployed(ENGINES, route, plays={"a": play}) as row:
        assert row.ask(chat()).status >= 400
        assert row.asked == {"a": 1, "b": 0, "c": 0}


CONTEXT = RouteConfig(model="m", fallback=["n"], fallback_on=["context"])
REFUSED = b"HTTP/1.1 %d No\r\ncontent-type: application/json\r\n"
BY_LENGTH = REFUSED % 400 + b"content-length: %d\r\n\r\n" % len(TOO_LONG)
IN_CHUNKS = REFUSED % 422 + b"transfer-encoding: chunked\r\n\r\n"
TO_THE_END = REFUSED % 413 + b"\r\n"
HALVES = TOO_LONG[:50], TOO_LONG[50:]  # (in the middle of the words that say it)


def closing(*pieces: bytes) -> Callable[[Any], None]:
    return lambda asked: asked.says(*pieces).closes("fin")


@pytest.mark.parametrize("play", [
    LONG, answering(BY_LENGTH, TOO_LONG), answering(BY_LENGTH, *HALVES), answering(BY_LENGTH + HALVES[0], HALVES[1]),
    answering(IN_CHUNKS, *map(chunk, HALVES), LAST_CHUNK), answering(IN_CHUNKS + b"".join(map(chunk, HALVES)) + LAST_CHUNK),
    closing(TO_THE_END, *HALVES), answering(TO_THE_END, TOO_LONG),
], ids=["at once", "apart", "halves", "a half with it", "chunks", "chunks at once", "it closes", "it does not"])  # fmt: skip
def test_a_prompt_that_is_too_long_goes_to_a_model_with_room(play: Callable[[Any], None]) -> None:
    with deployed(ENGINES, CONTEXT, plays={"a": play}) as row:
        answer = row.ask(chat())
        assert (answer.status, answer.header("x-fallback-model"), row.asked) == (200, "n", {"a": 1, "b": 1, "c": 0})
        assert row.engines["a"].engine.failures_total == 0


@pytest.mark.parametrize("words", [
    "You passed 99073 input tokens and requested 32000 output tokens. However, the model's context length is only 131072.",
    "The decoder prompt (length 11466) is longer than the maximum model length of 8192.",
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "request (70494 tokens) exceeds the available context size (67584 tokens), try increasing it",
    "input length and `max_tokens` exceed context limit: 156321 + 48384 > 200000", "prompt is too long: 9 tokens > 8 maximum",
    "prompt too long; exceeded max context length by 12 tokens", "the input length exceeds the context length",
    "Trying to keep the first 5000 tokens. However, the model is loaded with context length of only 4096 tokens",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
])  # fmt: skip
def test_in_the_words_of_each_engine(words: str) -> None:
    with deployed(ENGINES, CONTEXT, plays={"a": says(400, {"message": words, "type": "BadRequestError"})}) as row:
        assert row.ask(chat()).header("x-fallback-model") == "n"


@pytest.mark.parametrize("ends", [{"last": True}, {}], ids=["with it", "never"])
def test_a_prompt_that_is_too_long_for_an_engine_of_http2(ends: dict[str, bool]) -> None:
    engines = {"a": {"models": ("m",), "protocol": "h2"}, "b": {"models": ("n",)}}
    with deployed(engines, CONTEXT, plays={"a": None}) as row:
        client = row.talk.client().says(chat())
        asked = row.engines["a"].last.begins(JSON, 400).says(*HALVES, **ends)
        if not ends:
            asked.resets(8)
        row.talk.passes(0.1)
        assert (client.seen.status, client.seen.header("x-fallback-model")) == (200, "n")


@pytest.mark.parametrize(("pieces", "body", "whole"), [
    ((BY_LENGTH, TOO_LONG.replace(b"context", b"temper ")), TOO_LONG.replace(b"context", b"temper "), True),
    ((IN_CHUNKS, chunk(b"no: "), chunk(b"bad words"), LAST_CHUNK), b"no: bad words", True),
    ((IN_CHUNKS, chunk(b"no: "), b"!" + LAST_CHUNK), b"no: ", False),
    ((REFUSED % 400 + b"content-length: 20000\r\n\r\n", b"x" * 9000, TOO_LONG, b"x" * (11000 - len(TOO_LONG))),
     b"x" * 9000 + TOO_LONG + b"x" * (11000 - len(TOO_LONG)), True),
    ((REFUSED % 400 + b"content-length: 0\r\n\r\n",), b"", True),
], ids=["other words", "chunks", "broken", "too far in", "no words"])  # fmt: skip
def test_any_other_refusal_goes_down_as_it_came(pieces: tuple[bytes, ...], body: bytes, whole: bool) -> None:
    with deployed(ENGINES, CONTEXT, plays={"a": answering(*pieces)}) as row:
        answer = row.ask(chat())
        assert (answer.status // 100, answer.body, answer.complete, row.asked) == (4, body, whole, {"a": 1, "b": 0, "c": 0})


def test_a_refusal_that_does_not_say_why_is_not_waited_for_long() -> None:
    with deployed(ENGINES, CONTEXT, plays={"a": answering(BY_LENGTH, HALVES[0])}) as row:
        client = row.talk.client().says(chat())
        row.talk.passes(1.5)
        assert (client.answers, row.engines["a"].engine.inflight) == ([], 1)
        row.talk.passes(1.0)
        assert (client.seen.status, client.seen.body) == (400, HALVES[0])
        row.engines["a"].last.says(HALVES[1])
        assert client.seen.body == TOO_LONG
        leaves = row.talk.client().says(chat())
        leaves.leaves()
        assert row.engines["a"].engine.inflight == 0
        assert row.talk.records[-1]["outcome"] == "client_closed"


def test_nothing_after_the_first_byte_of_an_answer() -> None:
    begins = answering(SSE_HEAD + chunk(EVENT))
    with deployed(ENGINES, ROUTE, plays={"a": begins}) as row:
        client = row.talk.client().says(chat(stream=True))
        row.engines["a"].last.closes("reset")
        assert row.asked == {"a": 1, "b": 0, "c": 0}
        assert b"error" in client.seen.body


def test_a_key_is_sent_to_no_model_that_it_may_not_use() -> None:
    keys = (tenant_key("t", "m", "o"),)
    with deployed(ENGINES, ROUTE, plays={"a": status(503)}, keys=keys) as row:
        answer = row.ask(chat(key=key_of("t")))
        assert (answer.header("x-fallback-model"), row.asked) == ("o", {"a": 1, "b": 0, "c": 1})


def test_what_each_engine_dies_of_is_not_sent_on() -> None:
    """Quarantine: a request that kills two engines meets no third, of whatever model."""
    with deployed(ENGINES, ROUTE, plays=dict.fromkeys("abc", dies), quarantine_after=2) as row:
        answer = row.ask(chat())
        assert (answer.status, row.asked) == (502, {"a": 1, "b": 1, "c": 0})
        assert answer.header("x-fallback-model") is None, "nobody has answered"


def test_who_waits_for_its_place_has_it_when_it_goes_on() -> None:
    chain = RouteConfig(model="m", max_concurrent=1, fallback=["n"], fallback_on=["failure"])
    with deployed(ENGINES, chain, plays={"a": lambda asked: None, "b": lambda asked: None}) as row:
        first, second = (row.talk.client().says(chat()) for _ in range(2))
        assert (row.asked, row.talk.waiting) == ({"a": 1, "b": 0, "c": 0}, 1)
        row.engines["a"].last.closes("reset")
        row.talk.passes(0.01)
        assert (row.asked, row.talk.waiting) == ({"a": 2, "b": 1, "c": 0}, 0)
        for name in "ab":
            row.engines[name].last.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")
        assert (first.seen.status, second.seen.status) == (200, 200)


def test_its_place_moves_with_it() -> None:
    """A route's limit counts who is there: a request that has gone on leaves its place to others."""
    chain = RouteConfig(model="m", max_concurrent=1, fallback=["n"], fallback_on=["failure"])
    with deployed(ENGINES, chain, RouteConfig(model="n", max_concurrent=1), plays={"a": dies, "b": lambda asked: None}) as row:
        held = row.talk.client().says(chat())
        row.talk.passes(0.1)
        assert row.asked == {"a": 1, "b": 1, "c": 0}
        row.engines["a"].play = fine
        assert row.ask(chat()).status == 200
        waits = row.talk.client().says(chat("n"))
        assert row.talk.waiting == 1
        row.engines["b"].last.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")
        row.talk.passes(0.1)
        assert held.seen.status == 200
        row.engines["b"].last.says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}")
        assert waits.seen.status == 200


FAILS = b'data: {"error":{"message":"out of memory","type":"server_error","code":%d}}\n\n'
NDJSON_HEAD = SSE_HEAD.replace(b"text/event-stream", b"application/x-ndjson")
SENT = [("content-type", "application/json")]
PING = b": ping\n\n"
TO_ITS_END = SSE_HEAD.replace(b"transfer-encoding: chunked", b"connection: close")
FAILED = b'data: {"type":"response.failed","response":{"error":{"code":"server_error","message":"out of memory"}}}\n\n'
NAMELESS = b'data: {"type":"error","code":"rate_limit_exceeded","message":"no","param":null}\n\n'


def says_then(what: str, *said: bytes) -> Callable[[Any], None]:
    """An engine that begins to answer, and then closes (``fin``, ``reset``) or is silent (``""``)."""

    def play(asked: Any) -> None:
        asked.says(*said)
        if what:
            asked.closes(what)

    return play


def with_a_length(events: bytes) -> bytes:
    return ok(events).replace(b"application/json", b"text/event-stream")


IN_VAIN = {
    "dies behind the head": (says_then("reset", SSE_HEAD), 502),
    "closes behind comments": (says_then("fin", SSE_HEAD, chunk(PING), chunk(PING)), 502),
    "dies within its first event": (says_then("reset", SSE_HEAD + chunk(EVENT[:-1])), 502),
    "falls silent behind the head": (says_then("", SSE_HEAD, chunk(PING)), 504),
    "begins with an error": (answering(SSE_HEAD, chunk(PING), chunk(FAILS % 503)), 503),
    "its head brings an error": (answering(SSE_HEAD + chunk(PING + FAILS % 500 + EVENT)), 500),
    "ends behind a comment": (answering(SSE_HEAD, chunk(PING) + LAST_CHUNK), 502),
    "ends with its head": (answering(SSE_HEAD + LAST_CHUNK), 502),
    "ends within its first event": (answering(SSE_HEAD, chunk(EVENT[:-1]) + LAST_CHUNK), 502),
    "brings an error by its length": (answering(with_a_length(FAILS % 503)), 503),
    "has no event in its length": (answering(with_a_length(PING)), 502),
    "has no length": (answering(SSE_HEAD.replace(b"transfer-encoding: chunked", b"content-length: 0")), 502),
    "closes behind the head": (says_then("fin", TO_ITS_END), 502),
    "closes within its first event": (says_then("fin", TO_ITS_END + PING, EVENT[:20]), 502),
    "begins with a failure": (answering(SSE_HEAD, chunk(FAILED)), 500),
    "begins with an error without a name": (answering(SSE_HEAD, chunk(NAMELESS)), 429),
    "ends with an error": (answering(SSE_HEAD, chunk(FAILS[:-1] % 500) + LAST_CHUNK), 500),
}


@pytest.mark.parametrize("name", IN_VAIN)
@pytest.mark.parametrize("way", ["fallback", "retry", "alone"])
def test_a_stream_begins_with_its_first_event(name: str, way: str) -> None:
    """Until then nothing has gone down: another model, or another engine, answers, or the client is told with a status."""
    play, says = IN_VAIN[name]
    settings: dict[str, Any] = {"between_bytes_timeout_s": 2.0, "policy": "ordered"}
    if way == "retry":
        settings |= {"retry_statuses": ["429", "500", "503"], "retry_fresh": True}
    engines = {"a": {"models": ("m",)}, "b": {"models": ("n",) if way == "fallback" else ("m",)}}
    route = RouteConfig(model="m", fallback=["n"], fallback_on=["failure"] if way == "fallback" else ["context"])
    other = answering(SSE_HEAD, chunk(EVENT + DONE) + LAST_CHUNK)
    with deployed(engines, route, plays={"a": play, "b": other}, **settings) as row:
        answer = row.ask(chat(stream=True, content="the very same"))
        [record] = row.talk.records
        assert record["status"] == answer.status
        assert row.engines["a"].engine.truncations_total == 0
        if way == "alone":
            assert row.asked == {"a": 1, "b": 0}
            assert (answer.status, answer.header("content-type"), answer.complete) == (says, "application/json", True)
            assert set(answer.json()) == {"error"}
            assert row.engines["a"].engine.failures_total == (says not in (429, 503))
            return
        assert (answer.status, answer.body, row.asked) == (200, EVENT + DONE, {"a": 1, "b": 1})
        assert row.sent("b")["messages"][0]["content"] == "the very same"
        assert (record["engine"], record["outcome"]) == ("b", "ok")


def test_a_first_error_that_the_request_is_to_blame_for_goes_down() -> None:
    """Nor is it held against its engine; and one behind an event stays what it was: a stream with an error."""
    with deployed(ENGINES, ROUTE, plays={"a": answering(SSE_HEAD, chunk(FAILS % 400))}, retry_statuses=["500"]) as row:
        answer = row.ask(chat(stream=True))
        assert (answer.status, answer.json()["error"]["message"]) == (400, "out of memory")
        assert (row.asked["b"], row.engines["a"].engine.failures_total) == (0, 0)
    with deployed(ENGINES, ROUTE, plays={"a": answering(SSE_HEAD, chunk(EVENT + FAILS % 500) + LAST_CHUNK)}) as row:
        answer = row.ask(chat(stream=True))
        assert (answer.status, answer.body, row.asked["b"]) == (200, EVENT + FAILS % 500, 0)
        assert row.talk.records[0]["outcome"] == "engine_error"


@pytest.mark.parametrize(("said", "goes_on"), [
    ([chunk(b'{"error":"out of memory"}\n')], 1), ([LAST_CHUNK], 1), ([chunk(b'{"message":{"con'), LAST_CHUNK], 1),
    ([chunk(b'{"message":{"content":"a"},"done":true}'), LAST_CHUNK], 0),
])  # fmt: skip
def test_lines_of_json_are_events_too(said: list[bytes], goes_on: int) -> None:
    ask = request("POST", "/api/chat", headers=SENT, body=b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    with deployed(ENGINES, ROUTE, plays={"a": answering(NDJSON_HEAD, *said)}) as row:
        assert (row.ask(ask).status, row.asked["b"]) == (200, goes_on)


def test_a_model_with_room_is_told_all_that_was_admitted() -> None:
    """Although the first was asked once more, for less."""
    with deployed(ENGINES, CONTEXT, plays={"a": LONG}, daily_token_quota=10**6, default_max_tokens=4096) as row:
        assert row.ask(chat()).status == 200
        assert (row.asked, row.sent("a")["max_tokens"], row.sent("b")["max_tokens"]) == ({"a": 2, "b": 1, "c": 0}, 256, 4096)


def test_a_fallback_for_a_prompt_that_a_stream_says_is_too_long() -> None:
    route = RouteConfig(model="m", fallback=["n"], fallback_on=["context"])
    with deployed(ENGINES, route, plays={"a": answering(SSE_HEAD, chunk(b"data: " + TOO_LONG + b"\n\n"))}) as row:
        assert (row.ask(chat(stream=True)).status, row.asked["b"]) == (200, 1)


@pytest.mark.parametrize("said", [chunk(PING) * 9000, chunk(b": " + bytes(70_000))])
def test_what_is_held_for_the_first_event_is_bounded(said: bytes) -> None:
    with deployed(ENGINES, ROUTE, plays={"a": answering(SSE_HEAD)}) as row:
        client = row.talk.client().says(chat(stream=True))
        asked = row.engines["a"].last.says(chunk(PING))
        assert client.waits
        asked.says(*(said[at : at + 1000] for at in range(0, len(said), 1000)))
        assert client.seen.status == 200
        asked.closes("reset")
        assert (row.asked["b"], b'"error"' in client.seen.body) == (0, True)


TWO = {"a": {"models": ("m",)}, "a2": {"models": ("m",)}, "b": {"models": ("n",)}}
TURNED_AWAY = {
    "refuses the key": says(401, "Unauthorized"),
    "forbids the key": says(403, {"message": "no"}),
    "lacks the model, says vLLM": says(404, {"message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}),
    "lacks the model, says Ollama": says(404, "model 'm' not found"),
    "lacks the model, says OpenAI": says(404, {"message": "No.", "code": "model_not_found"}),
    "lacks the model, says llama.cpp": says(400, {"code": 400, "message": "model not found", "type": "invalid_request_error"}),
    "lacks the model, says its router": says(400, {"code": 400, "message": "model 'm' not found"}),
    "lacks the model, says LiteLLM": says(400, {"message": "{'error': '/chat/completions: Invalid model name passed in m."}),
}
FAILS_ALONE = {
    **{number: status(int(number)) for number in ("429", "500", "503", "529")},
    **{name: play for name, (play, _) in IN_VAIN.items()}, "dies": dies, **TURNED_AWAY,
}  # fmt: skip
CLASS = (RouteConfig(model="class:c", models=["m", "n"]), RouteConfig(model="m"))


@pytest.mark.parametrize("asked", ["m", "class:c"])
@pytest.mark.parametrize("name", FAILS_ALONE)
def test_an_engine_of_the_same_model_comes_before_another_model(name: str, asked: str) -> None:
    """Without any rule of retries."""
    routes = (RouteConfig(model="m", fallback=["n"], fallback_on=["failure"]),) if asked == "m" else CLASS
    settings = {"policy": "ordered", "between_bytes_timeout_s": 2.0}
    engines = {**TWO, "a": {"models": ("m",), "api_key": "of-the-gateway"}}
    with deployed(engines, *routes, plays={"a": FAILS_ALONE[name]}, **settings) as row:
        for turn in range(8):
            answer = row.ask(chat(asked, stream=name in IN_VAIN))
            assert (answer.status, answer.header("x-fallback-model")) == (200, None)
            assert row.asked == {"a": turn + 1, "a2": turn + 1, "b": 0}


def test_but_not_each_of_many() -> None:
    engines = {**{f"a{at}": {"models": ("m",)} for at in range(6)}, "b": {"models": ("n",)}}
    plays = {f"a{at}": status(503) for at in range(6)}
    with deployed(engines, ROUTE, plays=plays, policy="ordered") as row:
        assert row.ask(chat()).header("x-fallback-model") == "n"
        assert sum(row.asked.values()) == 1 + MOST_SIBLINGS + 1


@pytest.mark.parametrize("how", ["429", "503", "dies"])
def test_nor_any_where_the_budget_of_retries_is_spent(how: str) -> None:
    """Whoever is overloaded is not sent several times what there is: once to each model, and a few once more."""
    names = [f"{model}{at}" for model in "mn" for at in range(4)]
    engines = {name: {"models": (name[0],)} for name in names}
    settings = {"retry_budget_percent": 0, "cb_failure_threshold": 0, "quarantine_after": 0}
    with deployed(engines, ROUTE, plays=dict.fromkeys(names, FAILS_ALONE[how]), **settings) as row:
        for _ in range(20):
            assert row.ask(chat()).status in (429, 502, 503)
        assert 40 < sum(row.asked.values()) <= 40 + 10
        assert row.talk.stats.retries_refused > 0


@pytest.mark.parametrize("name", TURNED_AWAY)
def test_an_engine_that_is_not_set_up_for_it_has_failed(name: str) -> None:
    """Whose fault is it? Not the client's: he gets no word of it, another engine answers, and this one is spared."""
    engines = {"a": {"models": ("m",), "api_key": "of-the-gateway"}, "a2": {"models": ("m",)}}
    with deployed(engines, plays={"a": TURNED_AWAY[name]}, policy="ordered", cb_failure_threshold=3) as row:
        assert [row.ask(chat()).status for _ in range(5)] == [200] * 5
        assert row.asked == {"a": 3, "a2": 5}
        assert row.engines["a"].engine.failures_total == 3
        told = [fields for _, line, fields in row.talk.events.lines if line == "engine is not set up for what it is asked"]
        assert [(one["engine"], one.get("model")) for one in told] == [("a", None if "key" in name else "m")], "once"
    with deployed({"a": engines["a"]}, plays={"a": TURNED_AWAY[name]}) as row:
        answer = row.ask(chat())
        assert (answer.status, answer.json()["error"]["code"]) == (502, "bad_gateway")
        assert row.talk.records[0]["detail"].startswith("a: refuses" if "key" in name else "a: does not have the model")


@pytest.mark.parametrize(("fields", "play"), [
    ({"models": ("m",)}, TURNED_AWAY["refuses the key"]),
    ({"models": ("m",)}, TURNED_AWAY["forbids the key"]),
    ({}, TURNED_AWAY["lacks the model, says vLLM"]),
    ({"models": ("m",)}, says(404, {"message": "Response with id 'the model m does not exist' not found."})),
    ({"models": ("m",)}, says(404, 'no "error": "model m not found"')),
    ({"models": ("m",)}, says(400, {"message": "Model output schema: $defs/a not found"})),
    ({"models": ("m",)}, says(400, {"message": 'input: "message": "model m not found"'})),
], ids=[
    "the client's key", "the client's key, 403", "nobody said so", "another thing", "the client's words", "another thing, 400",
    "the client's words, 400",
])  # fmt: skip
def test_what_the_client_is_told_himself(fields: dict[str, Any], play: Play) -> None:
    with deployed({"a": fields, "a2": fields}, plays={"a": play}, policy="ordered") as row:
        assert row.ask(chat()).status in (400, 401, 403, 404)
        assert (row.asked, row.engines["a"].engine.failures_total) == ({"a": 1, "a2": 0}, 0)


@pytest.mark.parametrize(("why", "play"), [("failure", status(503)), ("context", LONG)])
def test_what_is_said_of_a_model_holds_by_its_class_too(why: str, play: Play) -> None:
    routes = RouteConfig(model="m", fallback=["n"], fallback_on=[why]), RouteConfig(model="class:c", models=["m"])
    with deployed(ENGINES, *routes, plays={"a": play}) as row:
        answer = row.ask(chat("class:c"))
        assert (answer.status, answer.header("x-fallback-model"), row.asked["b"]) == (200, "n", 1)
