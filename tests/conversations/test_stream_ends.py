"""How a stream ends: the rows of docs/streams.md, each in every API and every framing, over HTTP/1.1 and HTTP/2.

``ENDS`` is the page's table in code: what an engine sends, and whether its message ends. A row that is on one side alone fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from fastgw import EngineConfig
from tests.conversations.h2_row import h2
from tests.conversations.said import BLOCK, CHAT, COMPLETED, DELTA, MESSAGES, RESPONSES, STOP, asking, error, event
from tests.support.answers import RawResponse
from tests.support.byhand.h2 import SSE
from tests.support.conversation import Conversation, conversation
from tests.support.requests import request
from tests.support.scripts import DONE, EVENT, LAST_CHUNK, SSE_HEAD, chunk

PAGE: Final = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
COMPLETIONS: Final = "/v1/completions"
COLUMNS: Final = {CHAT: 1, COMPLETIONS: 1, RESPONSES: 2, MESSAGES: 3}
TEXT: Final = {
    CHAT: EVENT, COMPLETIONS: event({"choices": [{"index": 0, "text": "a", "finish_reason": None}]}), RESPONSES: DELTA,
    MESSAGES: BLOCK,
}  # fmt: skip
REASON: Final = {
    CHAT: event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    COMPLETIONS: event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}),
    RESPONSES: event({"type": "response.output_text.done", "text": "aa"}, "response.output_text.done"),
    MESSAGES: event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, "message_delta"),
}
LAST: Final = {CHAT: DONE, COMPLETIONS: DONE, RESPONSES: COMPLETED, MESSAGES: STOP}
USAGE: Final = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
LONG: Final = event({"response": {"text": "x" * 70_000}})

ENDS: Final[dict[str, Any]] = {
    "behind its last word": lambda path: (TEXT[path] + REASON[path] + LAST[path], True),
    "behind `data: [DONE]`, or the same and a blank": lambda path: (TEXT[path] + DONE[:-2] + b" \n\n", True),
    "having said why, without it": lambda path: (TEXT[path] + REASON[path], True),
    "between two events, having said neither": lambda path: (TEXT[path] * 2, True),
    "within an event": lambda path: (TEXT[path] + TEXT[path][:-9], True),
    "within an event, having said why": lambda path: (TEXT[path] + REASON[path] + USAGE[:-9], True),
    "within an event that says why": lambda path: (TEXT[path] + REASON[path][:-2], True),
    "behind an event that is an error": lambda path: (TEXT[path] + event(error("server_error"), "error"), True),
    "before any event": lambda path: (b": soon\n\n", True),
    "with its connection, in the middle": lambda path: (TEXT[path], False),
    "with its connection, having said why": lambda path: (TEXT[path] + REASON[path], False),
    "with its connection, behind its last word": lambda path: (TEXT[path] + REASON[path] + LAST[path], False),
    "with its connection, within what comes behind that": lambda path: (TEXT[path] + LAST[path] + b": by", False),
    "with a last event of more than 64 KiB": lambda path: (TEXT[path] + LONG, True),
    "within a last event of more than 64 KiB": lambda path: (TEXT[path] + LONG[:-9], True),
}
FRAMINGS: Final = ("chunks", "length", "close", "h2")
OUTCOME: Final = {"whole": "ok", "broken off": "truncated", "failed": "engine_error", "refused": "error"}


def table() -> dict[str, list[str]]:
    lines = PAGE.partition("| the stream ends |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row for row in rows}


def test_the_page_and_these_rows_are_the_same() -> None:
    assert list(table()) == list(ENDS)


class Stage:
    """A gateway before an engine that speaks in one framing."""

    def __init__(self, talk: Conversation, framing: str, said: Any) -> None:
        self.talk, self.framing, self._said = talk, framing, said

    def streams(self, path: str, data: bytes, *, size: int, ends: bool, **more: Any) -> RawResponse:
        client = self.talk.client().says(asking(path, stream=True, **more))
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        if self.framing == "h2":
            asked = self._said.last.begins(SSE)
            for at, piece in enumerate(pieces, 1):
                asked.says(piece, last=ends and at == len(pieces))
            if not ends:
                self._said.peer.closes("reset")
            return client.seen
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        if self.framing == "chunks":
            head += b"transfer-encoding: chunked\r\n"
            pieces = [*map(chunk, pieces), *([LAST_CHUNK] if ends else [])]
        elif self.framing == "length":
            head += b"content-length: %d\r\n" % (len(data) + (not ends))
        engine = self.talk.engines[0].last.says(head + b"\r\n", *pieces)
        if not ends or self.framing == "close":
            engine.closes("fin" if ends else "reset")
        return client.seen


@contextmanager
def stage(framing: str, **settings: Any) -> Iterator[Stage]:
    settings = {"cb_failure_threshold": 0, **settings}
    if framing == "h2":
        with h2(**settings) as say:
            yield Stage(say.talk, framing, say)
    else:
        with conversation(1, **settings) as talk:
            yield Stage(talk, framing, None)


@pytest.mark.parametrize("size", [10**6, 11], ids=["one read", "pieces"])
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("path", COLUMNS)
@pytest.mark.parametrize("name", ENDS)
def test_a_stream_ends_as_the_page_says(name: str, path: str, framing: str, size: int) -> None:
    data, ends = ENDS[name](path)
    word = table()[name][COLUMNS[path]]
    bounded = framing == "length" and path in (RESPONSES, MESSAGES)  # (from the others something may be taken out)
    if bounded and not ends:
        word = "broken off"
    with stage(framing) as play:
        answer = play.streams(path, data, size=max(size, len(data) // 400), ends=ends)
        [record] = play.talk.records
        engine = play.talk.engines[0].engine
        assert record["outcome"] == OUTCOME[word]
        assert engine.failures_total == (word != "whole")
        assert engine.truncations_total == (word == "broken off")
        if word == "refused":
            assert (answer.status, answer.complete) == (502, True)
            return
        assert answer.body[: len(data)] == data
        told = answer.body[len(data) :].strip()
        if word == "broken off":
            # (The very bytes that were announced may have come; more than that there is no room for.)
            assert not answer.complete or (bounded and ends)
            assert (b'"error"' in told) != bounded
            # What broke off within an event is no part of the one that says so.
            assert bounded or told == answer.body.rstrip().rpartition(b"\n\n")[2]
        else:
            assert (told, answer.complete) == (b"", True)


def test_a_response_may_be_incomplete_or_cancelled_or_have_failed() -> None:
    kinds = {"response.incomplete": "ok", "response.cancelled": "ok", "response.failed": "engine_error"}
    for kind, outcome in kinds.items():
        with stage("chunks") as play:
            last = event({"type": kind, "response": {"id": "r", "error": None}}, kind)
            assert play.streams(RESPONSES, DELTA + last, size=10**6, ends=True).complete
            assert play.talk.records[0]["outcome"] == outcome


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_reason_may_be_that_it_failed(path: str) -> None:
    with stage("chunks") as play:
        data = TEXT[path] + event({"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}) + DONE
        answer = play.streams(path, data, size=10**6, ends=True)
        assert (answer.complete, answer.body) == (True, data)
        assert play.talk.records[0]["outcome"] == "engine_error"
        assert play.talk.engines[0].engine.failures_total == 1


@pytest.mark.parametrize(("path", "more"), [(CHAT, {"n": 2}), (COMPLETIONS, {"prompt": ["a", "b"]})])
def test_of_several_answers_a_reason_ends_one(path: str, more: dict[str, Any]) -> None:
    for behind, outcome in ((b"", "truncated"), (LAST[path], "ok")):
        with stage("chunks") as play:
            said = TEXT[path] + REASON[path] + TEXT[path] + behind
            assert play.streams(path, said, size=10**6, ends=True, **more).complete == (outcome == "ok")
            assert play.talk.records[0]["outcome"] == outcome


def test_a_stored_response_that_is_read_as_a_stream_has_its_last_word_too() -> None:
    for data, outcome in ((DELTA + COMPLETED, "ok"), (DELTA, "truncated")):
        with conversation(1, cb_failure_threshold=0) as talk:
            client = talk.client().says(request("GET", "/v1/responses/resp_1?stream=true"))
            talk.engines[0].last.says(SSE_HEAD, chunk(data), LAST_CHUNK)
            assert (client.seen.body.startswith(data), client.seen.complete) == (True, outcome == "ok")
            assert talk.records[0]["outcome"] == outcome


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Internal Server Error"])
def test_an_error_that_is_called_a_stream_has_no_last_word(status: str) -> None:
    """Some say so of whatever they answer who asked for a stream."""
    told = json.dumps(error(400)).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\ncontent-length: {len(told)}\r\n\r\n"
    for path in COLUMNS:
        with conversation(1, cb_failure_threshold=0) as talk:
            client = talk.client().says(asking(path, stream=True))
            talk.engines[0].last.says(head.encode(), told)
            assert (client.sees(int(status[:3])).body, client.seen.complete) == (told, True)
            engine = talk.engines[0].engine
            assert (engine.truncations_total, engine.failures_total) == (0, status.startswith("500"))


def test_an_engine_of_which_that_is_known_may_end_as_it_likes() -> None:
    rows = [EngineConfig(url="http://127.0.0.1:9", warm_connections=0, stream_end="pass")]
    for path in COLUMNS:
        with conversation(rows) as talk:
            answer = Stage(talk, "chunks", None).streams(path, TEXT[path], size=10**6, ends=True)
            assert (answer.complete, answer.body, talk.records[0]["outcome"]) == (True, TEXT[path], "ok")


@pytest.mark.parametrize("path", COLUMNS)
def test_an_engine_that_keeps_its_stream_open_behind_its_last_word_has_said_all(path: str) -> None:
    for said, whole in ((LAST[path], True), (REASON[path], False)):
        with stage("chunks", between_bytes_timeout_s=5.0) as play:
            data = TEXT[path] + said
            client = play.talk.client().says(asking(path, stream=True))
            play.talk.engines[0].last.says(SSE_HEAD, chunk(data))
            play.talk.passes(6.0)
            assert (client.seen.body == data, client.seen.complete) == (whole, whole)
            assert play.talk.records[0]["outcome"] == ("ok" if whole else "upstream_timeout")
