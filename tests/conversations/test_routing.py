"""Which engine a request gets, by what it says of itself: the policies that look at requests, within a gateway."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import chat
from tests.support.scripts import ok


def asked_by(talk: Conversation, **chats: Any) -> int:
    """The engine that a request went to."""
    before = talk.asked
    talk.ask(chat(**chats))
    (found,) = [at for at, (was, now) in enumerate(zip(before, talk.asked, strict=True)) if was != now]
    return found


def playing(count: int, **settings: Any) -> Any:
    return conversation(count, *[answering(ok()) for _ in range(count)], **settings)


def test_a_field_chooses_the_policy_where_that_is_allowed_and_only_those_that_are() -> None:
    with playing(3, policy="ordered", policy_header="X-Policy", policy_choices=["round_robin", "session"]) as talk:
        assert [asked_by(talk) for _ in range(3)] == [0, 0, 0]
        assert [asked_by(talk, headers=[("x-policy", "round_robin")]) for _ in range(3)] == [0, 1, 2]
        assert [asked_by(talk, headers=[("x-policy", "random")]) for _ in range(3)] == [0, 0, 0]
        sticky = [("x-policy", "session"), ("X-Session-Id", "a")]
        assert len({asked_by(talk, headers=sticky) for _ in range(5)}) == 1
    with playing(3, policy="ordered", policy_choices=["round_robin"]) as talk:
        assert [asked_by(talk, headers=[("x-policy", "round_robin")]) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    "field", [("X-Claude-Code-Session-Id", "s"), ("session_id", "s"), ("Cookie", "a=b; sid=s"), ("x-opencode-session", "s")]
)
def test_a_session_stays_where_it_is_by_whatever_tells_it(field: tuple[str, str]) -> None:
    with playing(4, policy="session", session_sources=["agents", "cookie:sid"]) as talk:
        assert len({asked_by(talk, headers=[field]) for _ in range(8)}) == 1
        assert len({asked_by(talk) for _ in range(8)}) == 4
        assert b"ookie" not in talk.engines[0].last.start.fields if field[0] == "Cookie" else True


def test_members_of_the_body_tell_a_session_too() -> None:
    with playing(4, policy="session") as talk:
        assert len({asked_by(talk, prompt_cache_key="k") for _ in range(8)}) == 1
        assert len({asked_by(talk, user="u") for _ in range(8)}) == 1


def test_prompts_go_where_they_were() -> None:
    with playing(4, policy="prefix_aware") as talk:
        prompts = ["one " * 1000, "two " * 1000, "three " * 1000]
        first = [asked_by(talk, content=prompt) for prompt in prompts]
        assert len(set(first)) == 3
        for _ in range(3):
            assert [asked_by(talk, content=prompt + "more", temperature=0.5) for prompt in prompts] == first
        assert talk.stats.prefix_hits == 9


def test_a_route_needs_what_it_says() -> None:
    engines = [EngineConfig(url=f"http://127.0.0.1:{9 + at}", features=["vision"] * (at == 2)) for at in range(3)]
    routes = [RouteConfig(model="see", policy="capability", needs=["vision"])]
    with conversation(engines, *[answering(ok()) for _ in engines], routes=routes) as talk:
        assert {asked_by(talk, model="see") for _ in range(4)} == {2}
        assert {asked_by(talk) for _ in range(4)} == {0, 1, 2}
        talk.engines[2].engine.healthy = False
        talk.engines[2].engine.draining = True
        answer = talk.ask(chat(model="see"))
        assert answer.status == 503
        assert talk.engines[0].engine.inflight == 0


@pytest.mark.parametrize(
    ("model", "needs", "says"),
    [
        ("m", "tpu, vision", "No engine for this model has what the request needs: tpu."),
        ("m", "vision,gpu", "No engine for this model has all that the request needs at once: gpu, vision."),
        ("hear", "", "No engine for this model has what the request needs: audio."),
        ("m", "x" * 300, f"No engine for this model has what the request needs: {'x' * 256}...."),
    ],
)
def test_what_no_engine_has_is_not_waited_for_and_its_client_is_told_what_it_is(model: str, needs: str, says: str) -> None:
    engines = [
        EngineConfig(url="http://127.0.0.1:9", features=["vision"], max_concurrent=1),
        EngineConfig(url="http://127.0.0.1:10", machine="gpu"),
    ]
    routes = [RouteConfig(model="hear", needs=["audio"])]
    with conversation(engines, None, answering(ok()), policy="capability", routes=routes) as talk:
        talk.client().says(chat(headers=[("x-fastgw-needs", "vision")]))  # (which is full, and well)
        answer = talk.ask(chat(model=model, headers=[("x-fastgw-needs", needs)]))
        assert (answer.status, answer.error["code"], answer.error["message"]) == (422, "needs_unmet", says)
        assert answer.header("x-should-retry") == "false"
        assert talk.asked == [1, 0]
        talk.engines[0].last.says(ok())
    fall = RouteConfig(model="hear", needs=["audio"], fallback=["m"], fallback_on=["failure"])
    with conversation(engines, answering(ok()), answering(ok()), policy="capability", routes=[fall]) as talk:
        assert talk.ask(chat(model="hear")).header("x-fallback-model") == "m", "what nobody has is no answer"


def test_a_request_waits_for_those_that_have_what_it_needs_and_for_no_others() -> None:
    """(Not in a circle: others than these have room all the time, and are no reason to look again.)"""
    engines = [
        EngineConfig(url="http://127.0.0.1:9", features=["vision"], max_concurrent=1),
        EngineConfig(url="http://127.0.0.1:10", features=["audio"], max_concurrent=1),
        EngineConfig(url="http://127.0.0.1:11", machine="cpu"),
    ]
    see, hear, cpu = ([("x-fastgw-needs", word)] for word in ("vision", "audio", "cpu"))
    with conversation(engines, None, None, answering(ok()), policy="capability") as talk:
        first, second = talk.client().says(chat(headers=see)), talk.client().says(chat(headers=see))
        assert (talk.asked, talk.waiting) == ([1, 0, 0], 1)
        assert talk.ask(chat(headers=cpu)).status == 200, "nobody else waits behind it"
        talk.engines[0].last.says(ok())
        first.sees(200)
        assert (talk.asked[0], talk.waiting) == (2, 0)
        talk.engines[0].last.says(ok())
        second.sees(200)
        third = talk.client().says(chat(headers=see))
        fourth, fifth = talk.client().says(chat(headers=see)), talk.client().says(chat(headers=hear))
        assert (talk.asked[:2], talk.waiting) == ([3, 1], 1)
        talk.engines[0].engine.draining = True
        assert talk.ask(chat(headers=see)).error["code"] == "engines_unavailable", "one that is drained is not waited for"
        talk.engines[0].last.says(ok())
        third.sees(200)
        fourth.sees(503)
        talk.engines[1].last.says(ok())
        fifth.sees(200)


def test_an_engine_that_is_held_back_is_asked_where_the_others_fail() -> None:
    with conversation(2, answering(ok()), answering(ok()), policy="ordered", max_retries=1) as talk:
        held = talk.engines[0].engine
        held.ejected_until, held.held = 1e12, True
        talk.engines[1].dial = "refused"
        assert talk.ask(chat()).status == 200
        assert talk.asked == [1, 0]
        talk.engines[1].dial = "ok"
        assert asked_by(talk) == 1


@pytest.mark.parametrize("policy", ["token_load", "least_loaded", "ewma_latency", "consistent_hash"])
def test_each_policy_serves(policy: str) -> None:
    with playing(3, policy=policy) as talk:
        for _ in range(6):
            assert talk.ask(chat(content="word " * 500)).status == 200
