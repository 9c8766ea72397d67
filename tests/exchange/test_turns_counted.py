"""What the turns of a session on /v1/responses use: each is counted, limited, and estimated where it is cut off."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.config import RouteConfig
from fastgw.exchange.turns import MOST_UNDER_WAY
from tests.exchange.test_turns import ENGINES, create, done, ends, frames, opened, says, server
from tests.support.conversation import KEY, conversation
from tests.support.ws import CLOSE, TEXT, frame


def test_turns_follow_one_another_and_each_is_counted() -> None:
    with conversation(ENGINES, api_keys=(KEY,)) as talk:
        client, asked = opened(talk, key=KEY)
        for turn in (1, 2, 3):
            asked.says(done(10, turn))
            client.says(says(type="response.processed", response_id="resp_1"))
            client.says(create(previous_response_id="resp_1"))
        assert [json.loads(text)["type"] for _, text in frames(bytes(asked.body))] == [
            "response.create", *["response.processed", "response.create"] * 3,
        ]  # fmt: skip
        sent = bytes(asked.body)
        client.says(frame(CLOSE, b"\x03\xe8") + create()).says(create())
        assert frames(bytes(asked.body)[len(sent) :]) == [(CLOSE, b"\x03\xe8")]
        asked.says(server(CLOSE, b"\x03\xe8")).closes("fin")
        found = talk.settled(KEY)
        assert (found["prompt_tokens"] - found["estimated_tokens"], found["completion_tokens"]) == (30, 6)
        assert found["requests"] == 4, "the last has been asked for, though nobody waits for it"
        assert (talk.records[0]["model"], talk.records[0]["outcome"]) == ("m", "ok")


@pytest.mark.parametrize("how", ["the client leaves", "the engine dies", "the gateway stops"])
def test_a_turn_that_is_cut_off_is_estimated(how: str) -> None:
    with conversation(ENGINES, api_keys=(KEY,)) as talk:
        client, asked = opened(talk, key=KEY)
        asked.says(server(TEXT, b'{"type":"response.output_text.delta","delta":"a"}'), done(10, 1))
        client.says(create())
        asked.says(server(TEXT, b'{"type":"error","error":{"message":"no"}}'))
        asked.says(done(0, 0))  # (that nobody has asked for)
        client.says(frame(TEXT, b'{"type":"response.create","model":"m","input":"%b"}' % (400 * b"a"))).says(create())
        asked.says(server(TEXT, b'{"type":"response.created","response":{"tools":[{"type":"error"},{"x":{"type":"error"}}]}}'))
        for _ in range(5):
            asked.says(server(TEXT, b'{"type":"response.output_text.delta","delta":".delta\\""}'))
        if how == "the client leaves":
            client.leaves()
        elif how == "the engine dies":
            asked.closes("reset")
        else:
            talk.core.abort_all()
        found = talk.settled(KEY)
        assert 110 <= found["prompt_tokens"] < 250, "what it was asked last, and that is no round figure"
        assert (found["completion_tokens"], found["requests"]) == (6, 3)
        assert found["estimated_tokens"] == found["total_tokens"] - 11
        assert (talk.records[0]["estimated"], talk.records[0]["completion_tokens"]) == (True, 6)
    with conversation(ENGINES, api_keys=(KEY,)) as talk:
        opened(talk, key=KEY)[1].closes("reset")
        found = talk.settled(KEY)
        assert (found["total_tokens"], found["requests"]) == (0, 1), "nobody pays for an engine that says nothing"
    with conversation(ENGINES, api_keys=(KEY,)) as talk:
        client, asked = opened(talk, key=KEY)
        for _ in range(2):
            client.says(MOST_UNDER_WAY * create())
        asked.says(*[done(1, 0)] * MOST_UNDER_WAY)
        client.leaves()
        assert talk.settled(KEY)["total_tokens"] == MOST_UNDER_WAY, "who asks for more at once has them unestimated, not kept"


LIMITS: dict[str, tuple[dict[str, Any], int]] = {
    "requests of the minute": ({"rate_limit_per_minute": 2}, 1),
    "tokens of the minute": ({"tokens_per_minute": 100}, 150),
    "requests of the model": ({"routes": [RouteConfig(model="m", requests_per_minute=2)]}, 1),
    "requests of an address": ({"rate_limit_per_second": 2}, 1),
}


@pytest.mark.parametrize("case", LIMITS)
def test_each_turn_is_a_request_to_limits(case: str) -> None:
    settings, tokens = LIMITS[case]
    with conversation(ENGINES, api_keys=(KEY,), **settings) as talk:
        client, asked = opened(talk, key=KEY)
        asked.says(done(tokens, 0))
        if tokens == 1:
            client.says(create())
            assert len(frames(bytes(asked.body))) == 2
        client.says(says(type="response.processed")).says(create())
        assert ends(client) == ("rate_limit_exceeded", 1013)
        assert json.loads(frames(bytes(asked.body))[-1][1])["type"] == "response.processed"
