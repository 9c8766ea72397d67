"""CASES, group J, row J2: where a quota ends a stream, and what its engine says behind the last token that may pass."""

from __future__ import annotations

import json

import pytest

from tests.conversations.said import BLOCK, MESSAGES, STOP, event
from tests.e2e.metered import KEY, estimate, say
from tests.support.conversation import conversation
from tests.support.requests import request
from tests.support.scripts import LAST_CHUNK, chunk

SLACK_S = 0.11
CLOSING_S = 2.0  # for an engine to end by itself

TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 5
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'


def head(framing: str) -> bytes:
    mark = b"connection: close" if framing == "close" else b"transfer-encoding: chunked"
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%b\r\n\r\n" % mark


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("reads", ["together", "apart"])
@pytest.mark.parametrize(
    ("behind", "whole", "said"),
    [
        (b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n%bdata: [DONE]\n\n', False, True),
        (b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n%bdata: [DONE]\n\n', True, True),
        (b'data: {"choices":[{"delta":{"content":"more"}}]}\n\n%bdata: [DONE]\n\n', False, False),
        (b'data: {"error":{"message":"out of memory"}}\n\n%bdata: [DONE]\n\n', True, True),
        (b": nothing but comments\n\n", False, False),
    ],
    ids=["for-length", "at-its-end", "goes-on", "fails", "silent"],
)
def test_J2_what_an_engine_says_behind_the_last_token(
    framing: str, reads: str, behind: bytes, whole: bool, said: bool
) -> None:
    """Its figures count where it ended as it was told; its end passes where it is no cut; one more token is one too many."""
    silent = b"%b" not in behind
    ends = behind if silent else behind % USAGE
    parts = [TEXT + ends] if reads == "together" else [TEXT, ends]
    limit = estimate() + 5
    with conversation(1, api_keys=(KEY,), daily_token_quota=limit, on_exhausted="cut") as talk:
        client = talk.client().says(say(stream=True))
        asked = talk.engines[0].last.says(head(framing))
        for part in parts:
            asked.says(chunk(part) if framing == "chunked" else part)
            talk.passes(0.02)
        if silent:
            talk.passes(CLOSING_S - 0.1)
            assert client.sink is not None, "its own end may still come"
            talk.passes(0.1 + SLACK_S)
        elif framing == "chunked":
            asked.says(LAST_CHUNK)
        asked.closes()
        answer = client.sees(200)
        assert answer.body.startswith(TEXT)
        assert answer.events()[-1] == "[DONE]"
        own = b"stop" in answer.body or b"out of memory" in answer.body
        assert (b"daily_quota_exceeded" in answer.body, own) == (not whole, whole)
        (record,) = talk.records
        assert record["outcome"] == ("engine_error" if b"memory" in behind else "ok" if whole else "quota")
        found = talk.settled(KEY)
        assert (found["total_tokens"], found["estimated_tokens"]) == ((7, 0) if said else (limit, limit))


@pytest.mark.parametrize("last", [b"", STOP], ids=["broken", "whole"])
def test_J2_an_end_without_its_last_word_is_none(last: bytes) -> None:
    """What its engine says there passes where it has said all."""
    reason = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, "message_delta")
    limit = estimate(path=MESSAGES) + 5
    with conversation(1, api_keys=(KEY,), daily_token_quota=limit, on_exhausted="cut") as talk:
        client = talk.client().says(say(stream=True, path=MESSAGES))
        talk.engines[0].last.says(head("chunked"), chunk(BLOCK * 5 + reason + last), LAST_CHUNK)
        assert (b"end_turn" in client.sees(200).body, b"max_tokens" in client.seen.body) == (bool(last), not last)
        assert client.seen.body.count(b"event: message_stop") == 1
        assert talk.records[0]["outcome"] == ("ok" if last else "quota")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("framing", ["chunked", "one chunk each", "close"])
@pytest.mark.parametrize("step", [1, 37, 10_000])
@pytest.mark.parametrize("reads", [1, 100, 1 << 20])
def test_J2_cut_in_the_middle_of_a_read(end: bytes, framing: str, step: int, reads: int) -> None:
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"word %d "}}]}%b' % (at, end) for at in range(60)]
    sent = events if framing == "one chunk each" else pieces(b": hello" + end + b"".join(events), step)
    if framing != "close":
        sent = [*map(chunk, sent), LAST_CHUNK]
    limit = estimate() + 25
    with conversation(1, api_keys=(KEY,), daily_token_quota=limit, on_exhausted="cut") as talk:
        client = talk.client().says(say(stream=True))
        talk.engines[0].last.says(*pieces(head(framing) + b"".join(sent), reads)).closes()
        answer = client.sees(200)
        assert [turn for turn in range(60) if b'"word %d "' % turn in answer.body] == list(range(25))
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert talk.settled(KEY)["total_tokens"] == limit


def test_J2_what_one_of_several_prompts_has_is_no_word_on_all() -> None:
    """Nor on how much of the answer the day has left."""
    document = {"model": "sim", "prompt": ["word " * 40] * 8, "stream": True}
    said = {"choices": [{"index": 0, "text": "word "}], "usage": {"prompt_tokens": 40, "completion_tokens": 1}}
    with conversation(1, api_keys=(KEY,), daily_token_quota=600, on_exhausted="cut", default_cost_tokens=1) as talk:
        client = talk.client().says(request("POST", "/v1/completions", body=json.dumps(document).encode(), key=KEY))
        talk.engines[0].last.says(head("chunked"), *[chunk(b"data: " + json.dumps(said).encode() + b"\n\n")] * 600)
        assert b"daily_quota_exceeded" in client.sees(200).body
        assert talk.settled(KEY)["total_tokens"] == 600
