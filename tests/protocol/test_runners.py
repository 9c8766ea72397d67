"""Conversations with runners, without sockets: CASES L, row by row. What each of the two sees, to the tick."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.protocol import runners
from fastgw.protocol.runners import BURST, MOST_QUEUED, RATE, REGISTER_S, State
from tests.support.runners import TOKEN, Talk, heartbeat, register

BAD: dict[str, tuple[list[Any], str, int]] = {
    "a wrong token": ([register(auth_token="a-token-of-these-tesT")], "AUTH_FAILED", 1008),
    "no token": ([register(auth_token="")], "AUTH_FAILED", 1008),
    "a token that begins right": ([register(auth_token=TOKEN[:-1])], "AUTH_FAILED", 1008),
    "a token with half a character": ([json.dumps(register()).replace(TOKEN, "\\ud800")], "PARSE_ERROR", 1007),
    "protocol_version 2": ([register(protocol_version=2)], "PROTOCOL_ERROR", 1008),
    "protocol_version 0": ([register(protocol_version=0)], "PROTOCOL_ERROR", 1008),
    "two registers": ([register(), register()], "PROTOCOL_ERROR", 1008),
    "an unknown type first": ([{"type": "hello"}], "PROTOCOL_ERROR", 1008),
    "an unknown type later": ([register(), {"type": "hello"}], "PROTOCOL_ERROR", 1008),
    "a heartbeat first": ([heartbeat()], "PROTOCOL_ERROR", 1008),
    "an answer first": ([{"type": "command_response", "request_id": "1", "success": True}], "PROTOCOL_ERROR", 1008),
    "no JSON": (["{"], "PARSE_ERROR", 1007),
    "no JSON later": ([register(), "nonsense"], "PARSE_ERROR", 1007),
    "a member of another type": ([register(http_port="8000")], "PARSE_ERROR", 1007),
    "a name with a line end": ([register("a\nb")], "PROTOCOL_ERROR", 1008),
    "a name with a line end later": ([register(), heartbeat("a\x1b[31mb")], "PROTOCOL_ERROR", 1008),
    "an alias for a name with a line end": ([register(), heartbeat(model_aliases={"a": "b\nc"})], "PROTOCOL_ERROR", 1008),
}


@pytest.mark.parametrize("name", BAD)
def test_S4_07_L1_what_must_not_be_said_is_told_by_its_code_and_closes(name: str) -> None:
    messages, code, close = BAD[name]
    talk = Talk()
    session = talk.connect()
    said: list[dict[str, Any]] = []
    for message in messages:
        said += talk.say(session, message)
    assert said[-1]["type"] == "error"
    assert said[-1]["code"] == code
    assert TOKEN not in json.dumps(said)
    assert session.closing is not None
    assert session.closing[0] == close
    assert session.state is State.CLOSED
    # Nothing that comes behind it is taken.
    assert talk.say(session, register(id="r2")) == []
    talk.wait(3.0)
    assert len(talk.registry) == 0


def test_S4_07_L1_who_does_not_register_in_time_is_told_and_closed() -> None:
    talk = Talk()
    session = talk.connect()
    talk.wait(REGISTER_S - 0.25)
    assert session.closing is None
    talk.wait(0.25)
    assert [one["code"] for one in talk.heard(session)] == ["TIMEOUT"]
    assert session.closing == (1008, "TIMEOUT")


def test_without_a_token_nobody_registers() -> None:
    talk = Talk(token="")
    session = talk.connect()
    assert talk.say(session, register(auth_token=""))[-1]["code"] == "AUTH_FAILED"


def test_a_binary_frame_closes_with_1003() -> None:
    talk = Talk()
    session = talk.joined()
    session.on_binary(talk.now)
    assert [one["code"] for one in talk.heard(session)] == ["PROTOCOL_ERROR"]
    assert session.closing is not None
    assert session.closing[0] == 1003


@pytest.mark.parametrize("page", [False, True])
def test_a_runner_is_answered_in_the_names_that_it_speaks(page: bool) -> None:
    talk = Talk()
    session = talk.connect()
    said = talk.say(session, register(type="Registration" if page else "register"))
    assert said == [{"type": "Welcome" if page else "register_ack", "runner_id": "r1"}]
    runner = talk.registry.find("r1")
    assert runner is not None
    talk.registry.command(runner, lambda id: runners.words.LoadModel(model_id="m", request_id=id), lambda _: None, talk.now)
    assert talk.heard(session)[0]["type"] == ("LoadModel" if page else "load_model")


def test_S4_08_L5_who_is_silent_is_pinged_once_and_gone_after_the_time() -> None:
    talk = Talk()
    session = talk.joined()
    talk.wait(29.75)
    assert talk.heard(session) == []
    talk.wait(30.25)
    assert [one["type"] for one in talk.heard(session)] == ["ping"]
    talk.say(session, heartbeat())
    talk.wait(60.0)
    assert [one["type"] for one in talk.heard(session)] == ["ping"]
    talk.wait(29.75)
    assert talk.registry.find("r1") is not None
    talk.wait(0.25)
    assert [one["code"] for one in talk.heard(session)] == ["TIMEOUT"]
    assert talk.registry.find("r1") is None
    assert talk.yard.done[-1] == ("lost", "r1")


def test_who_does_not_read_is_closed_and_no_more_is_kept_for_it() -> None:
    talk = Talk()
    session = talk.joined()
    for at in range(MOST_QUEUED):
        assert session.say(runners.words.Ping(timestamp=at), talk.now)
    assert session.closing is None
    assert not session.say(runners.words.Ping(timestamp=0), talk.now)
    assert session.closing is not None
    assert len(session.out) == 0
    assert not session.say(runners.words.Ping(timestamp=0), talk.now)


@pytest.mark.parametrize("kind", ["text", "control", "long"])
def test_L3_a_flood_of_messages_closes(kind: str) -> None:
    talk = Talk()
    session = talk.joined()
    weigh = heartbeat(*(f"a-model-with-a-rather-long-name-{at:04}" * 3 for at in range(300)))
    sent = 0
    while session.closing is None:
        sent += 1
        if kind == "control":
            session.on_control(talk.now)
        else:
            talk.say(session, weigh if kind == "long" else heartbeat())
    assert session.why == "PROTOCOL_ERROR"
    assert sent < (BURST / 5 if kind == "long" else BURST + 2)


def test_as_many_as_may_be_said_for_ever_are_taken() -> None:
    talk = Talk()
    session = talk.joined()
    for _ in range(400):
        talk.now += 1.1 / RATE
        talk.say(session, heartbeat())
    assert session.closing is None
