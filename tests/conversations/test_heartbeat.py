"""``sse_heartbeat_s``: who waits for a stream is told so, and what comes behind that head is a stream, or an error in one."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from msgspec.structs import replace

from fastgw import policy
from fastgw.exchange.filter import Filter, hooks
from tests.conversations.deployed_row import deployed
from tests.conversations.said import (
    BLOCK,
    CHAT,
    COMPLETED,
    DELTA,
    ENGINES,
    MESSAGES,
    RESPONSES,
    ROUTE,
    STOP,
    asking,
    error,
    event,
)
from tests.conversations.test_h2_front_bounds import asks
from tests.support.answers import RawResponse
from tests.support.byhand.client import HandClient
from tests.support.byhand.h2_front import h2_client
from tests.support.conversation import Conversation, conversation, kills
from tests.support.h2 import frames as f
from tests.support.requests import chat, chat_body
from tests.support.scripts import DONE, EVENT, LAST_CHUNK, SSE_HEAD, chunk, ok

EVERY_S: Final = 2.0
COMMENT: Final = b": waiting\n\n"
COMPLETIONS: Final = "/v1/completions"
STREAM: Final = {
    CHAT: EVENT + DONE, COMPLETIONS: event({"choices": [{"index": 0, "text": "a"}]}) + DONE, RESPONSES: DELTA + COMPLETED,
    MESSAGES: BLOCK + STOP, "/generate_stream": event({"token": {"text": "a"}}) + event({"generated_text": "a"}),
}  # fmt: skip


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


SAID: Final = json.dumps(error(400, "BadRequestError"), indent=1).encode()
NONE: Final = b"did not answer with a stream"
PLAIN: Final = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\r\n<br/>"
BROKEN: Final = b"HTTP/1.1 422 No\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n?\r\n"

# What comes in the place of a stream: what the engine says (None = nothing, for too long; "" = it dies), how the exchange ends,
# and what of that stands in the event.
ENDS: Final[dict[str, tuple[Any, str, bytes]]] = {
    "an answer that is none": (ok(), "engine_error", NONE),
    "an error that is none": ((ok(b'{"error":"no","code":429}'),), "engine_error", b"no"),
    "an error": (answer(400, SAID), "engine_error", b'"no"'),
    "an error in pieces": ((answer(400, SAID)[:-30], answer(400, SAID)[-30:]), "engine_error", b'"no"'),
    "an error of its own": (answer(500, b'{"error":{"message":"no","type":"server_error"}}'), "engine_error", b'"no"'),
    "an error that breaks off": (BROKEN, "engine_error", b"The engine answered 422."),
    "no JSON": (PLAIN, "engine_error", b"The engine answered 502."),
    "back-pressure": (answer(503, b'{"error":{"message":"no","type":"unavailable"}}'), "engine_error", b'"no"'),
    "an event that is an error": ((SSE_HEAD, chunk(event(error(503), "error")) + LAST_CHUNK), "engine_error", b'"no"'),
    "a stream in a coding": (SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n", "engine_error", NONE),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", "engine_error", NONE),
    "no HTTP": (b"?\r\n\r\n", "error", b"No engine gave a valid answer."),
    "a stream without an event": ((SSE_HEAD, LAST_CHUNK), "error", b"No engine gave a valid answer."),
    "death": ("", "error", b"No engine gave a valid answer."),
    "silence": (None, "error", b"in time"),
}


def waited(talk: Conversation, path: str = CHAT, times: int = 2, **fields: Any) -> HandClient:
    """A client who has had so many comments."""
    client = talk.client().says(asking(path, stream=True, **fields))
    talk.passes(EVERY_S - 0.1)
    assert client.waits, "too early"
    talk.passes((times - 1) * EVERY_S + 0.6)
    assert (client.seen.status, client.seen.body, client.seen.how_ended) == (200, times * COMMENT, "open")
    return client


def told(seen: RawResponse, path: str) -> dict[str, Any]:
    """The one error behind comments, as an SDK of this API reads it."""
    assert (seen.status, seen.complete) == (200, True), (seen, seen.body)
    last = seen.body.replace(COMMENT, b"")
    assert last.startswith(b"event: error\ndata: " if path == MESSAGES else b"data: ")
    assert last.count(b"\n\n") == 1
    assert last.endswith(b"\n\n")
    said: dict[str, Any] = json.loads(last.partition(b"data: ")[2])
    assert type(said["error"]) is dict
    assert {"type", "message"} <= said["error"].keys()
    assert (said.get("type") == "error") == (path == MESSAGES)
    return said


@pytest.mark.parametrize("path", STREAM)
def test_a_stream_comes_as_it_is(path: str) -> None:
    with conversation(1, sse_heartbeat_s=EVERY_S, cors_origins=["https://a.example"], server_timing=True) as talk:
        data = asking(path, stream=True).replace(b"\r\n", b"\r\nOrigin: https://a.example\r\n", 1)
        client = talk.client().says(data)
        talk.passes(2 * EVERY_S + 0.3)
        talk.engines[0].last.says(SSE_HEAD)
        talk.passes(EVERY_S + 0.1)
        talk.engines[0].last.says(chunk(STREAM[path][:-9]))
        talk.passes(3 * EVERY_S)
        talk.engines[0].last.says(chunk(STREAM[path][-9:]) + LAST_CHUNK)
        seen = client.sees(200)
        assert seen.body == 3 * COMMENT + STREAM[path], "none between its own events"
        assert (seen.header("content-type") or "").startswith("text/event-stream")
        assert seen.header("access-control-allow-origin") == "https://a.example"
        assert seen.header("x-request-id")
        [record] = talk.records
        assert (record["status"], record["outcome"], record["stream"]) == (200, "ok", True)
        assert record["ttft_s"] == pytest.approx(3 * EVERY_S + 0.4, abs=0.01), "the first text, and no comment"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@pytest.mark.parametrize("name", ENDS)
def test_what_is_no_stream_is_its_last_event(name: str, path: str) -> None:
    said, outcome, words = ENDS[name]
    with conversation(1, sse_heartbeat_s=EVERY_S, first_byte_timeout_s=9.0, cb_failure_threshold=0) as talk:
        client = waited(talk, path)
        asked = talk.engines[0].last
        if said is None:
            talk.passes(9.0)
        elif said == "":
            asked.closes("reset")
        else:
            asked.says(*(said if isinstance(said, tuple) else (said,)))
        talk.passes(2.1)  # (an error may still have been waited for)
        said_of = told(client.seen, path)["error"]
        assert words.decode().strip('"') in said_of["message"]
        if words == NONE:
            assert said_of["type"] in ("upstream_error", "api_error"), "nobody's fault but the engine's"
        [record] = talk.records
        assert (record["status"], record["outcome"]) == (200, outcome)
        assert (record["prompt_tokens"], record["completion_tokens"]) == (-1, -1), "nobody is charged"
        blamed = name in ("an error of its own", "no JSON", "no HTTP", "a stream without an event", "death", "silence")
        assert talk.engines[0].engine.failures_total == blamed
        client.says(chat())  # its connection goes on
        talk.engines[0].last.says(ok())
        client.sees(200)


class TestUnseen:
    """Whatever happens to a request behind that head happens as it would without one."""

    def test_a_queue_that_moves_on(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S, engine_max_concurrent=1, queue_timeout_s=9.0) as talk:
            first = talk.client().says(chat())
            served, late = waited(talk), waited(talk)
            assert talk.waiting == 2
            talk.engines[0].last.says(ok())
            first.sees(200)
            talk.engines[0].last.says(SSE_HEAD, chunk(EVENT))
            talk.passes(9.0)
            assert told(late.seen, CHAT)["error"]["code"] == "queue_timeout"
            talk.engines[0].last.says(chunk(DONE) + LAST_CHUNK)
            assert served.sees(200).body.endswith(EVENT + DONE)
            ends = [(record["status"], record["outcome"]) for record in talk.records]
            assert ends == [(200, "ok"), (200, "error"), (200, "ok")]

    @pytest.mark.parametrize("how", ["has died", "dies", "refuses", "says so"])
    def test_another_engine_or_another_model(self, how: str) -> None:
        with deployed(ENGINES, ROUTE, plays={"a": None, "b": None}, sse_heartbeat_s=EVERY_S) as row:  # type: ignore[dict-item]
            talk = row.talk
            first, second = talk.engines
            if how == "has died":
                first.play = kills
            client = waited(talk)
            if how == "dies":
                first.last.closes("reset")
            elif how == "refuses":
                first.last.says(answer(503, b"{}"))
            elif how == "says so":
                first.last.says(SSE_HEAD, chunk(event(error(503), "error")) + LAST_CHUNK)
            talk.passes(3.0)
            second.last.says(SSE_HEAD, chunk(STREAM[CHAT]) + LAST_CHUNK)
            seen = client.sees(200)
            assert seen.body.replace(COMMENT, b"") == STREAM[CHAT]
            assert [record["outcome"] for record in talk.records] == ["ok"]
            assert seen.header("x-fallback-model") is None, "who would answer was not known"

    def test_a_reload_that_turns_them_off_and_on(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S) as talk:
            client = waited(talk)
            core = talk.core
            for every_s in (0.0, 0.0, EVERY_S):  # (off more than once: any setting may have changed)
                if every_s:
                    talk.engines[0].asked[0].says(answer(400, SAID))
                    told(client.seen, CHAT)
                config = replace(core.config, sse_heartbeat_s=every_s)
                filters = core.filters = policy.rebuild(config, core.filters)
                core.follow(config, lambda name, now=filters: hooks(now, name), core.strategy)  # type: ignore[misc]
                if not every_s:
                    later = talk.client().says(chat(stream=True))
                    talk.passes(2 * EVERY_S)
                    assert later.waits
                    later.leaves()
            waited(talk)

    def test_an_engine_that_is_not_reached_yet(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S, connect_timeout_s=9.0) as talk:
            talk.engines[0].dial = "timeout"
            client = waited(talk)
            talk.passes(20.0)
            assert told(client.seen, CHAT)["error"]["type"] == "upstream_error"

    def test_its_client_leaves(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S) as talk:
            waited(talk).leaves()
            assert talk.engines[0].last.cancelled
            assert not len(talk.reactor.wheel), "nobody is told any more"
            [record] = talk.records
            assert (record["status"], record["outcome"]) == (200, "client_closed")

    def test_its_time_is_over_and_the_gateway_stops(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S, request_timeout_s=9.0) as talk:
            client = waited(talk)
            talk.passes(9.0)
            assert told(client.seen, CHAT)["error"]["code"] == "upstream_timeout"
            stays = waited(talk)
            talk.core.begin_drain()
            talk.core.abort_all()
            assert told(stays.seen, CHAT)["error"]["code"] == "shutting_down"

    @pytest.mark.parametrize(("status", "kind"), [(200, b"text/event-stream"), (200, b"text/plain"), (403, b"text/plain")])
    def test_a_filter_answers_in_its_place(self, monkeypatch: pytest.MonkeyPatch, status: int, kind: bytes) -> None:
        class Mine(Filter):
            name = "mine"

            def on_response(self, exchange: Any, head: Any) -> None:
                exchange.answer(status, kind, STREAM[CHAT])

        monkeypatch.setattr(policy, "ORDER", (*policy.ORDER, lambda config: Mine()))
        with conversation(1, sse_heartbeat_s=EVERY_S) as talk:
            client = waited(talk)
            talk.engines[0].last.says(SSE_HEAD, chunk(EVENT))
            if kind == b"text/event-stream":
                assert client.sees(200).body == 2 * COMMENT + STREAM[CHAT]
            else:
                told(client.seen, CHAT)

    def test_a_stream_that_breaks_off_does_so_as_ever(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S) as talk:
            client = waited(talk)
            talk.engines[0].last.says(SSE_HEAD, chunk(EVENT)).closes("reset")
            assert not client.seen.complete
            assert [record["outcome"] for record in talk.records] == ["truncated"]


class TestNever:
    def test_without_the_setting_or_a_stream(self) -> None:
        for every_s, data in [(0.0, chat(stream=True)), (EVERY_S, chat()), (EVERY_S, asking("/api/chat", stream=True))]:
            with conversation(1, sse_heartbeat_s=every_s) as talk:
                client = talk.client().says(data)
                talk.passes(5 * EVERY_S)
                assert client.waits
                talk.engines[0].last.says(answer(503, b"{}"))
                client.sees(503)

    def test_a_refusal_before_it_has_its_status(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S, api_keys=["sk-a"]) as talk:
            assert talk.client().says(chat(stream=True)).sees(401)
            body = chat(stream=True, key="sk-a")
            client = talk.client().says(body[:-1])
            talk.passes(3 * EVERY_S)
            client.says(b"?")
            client.sees(400)

    def test_one_behind_another_that_has_not_been_taken(self) -> None:
        with conversation(1, sse_heartbeat_s=EVERY_S) as talk, h2_client(talk, INITIAL_WINDOW_SIZE=5) as client:
            talk.core.between_bytes_timeout_s = 1.0  # (an engine that has said nothing has more: taking a comment is no answer)
            client.says(asks(1, chat_body(stream=True)))
            client.passes(5 * EVERY_S)
            assert client.peer.body(1) == COMMENT[:5]
            client.says(f.window(1, 1000))
            assert client.peer.body(1) == COMMENT
            client.passes(EVERY_S + 0.3)
            talk.engines[0].last.says(SSE_HEAD, chunk(STREAM[CHAT]) + LAST_CHUNK)
            client.sees("HEADERS 1 :status=200", "DATA 1 end")
            assert client.peer.body(1) == 2 * COMMENT + STREAM[CHAT]
