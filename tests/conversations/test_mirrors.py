"""Mirrors: copies of a share of requests, whose answers nobody sees."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw import RouteConfig
from fastgw.policy import mirror
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.conversations.engine_row import status
from tests.support.conversation import KEY
from tests.support.requests import chat
from tests.support.scripts import EVENT, LAST_CHUNK, SSE_HEAD, chunk

ENGINES: dict[str, dict[str, Any]] = {
    "live": {"models": ("m",), "version": "v1"},
    "shadow": {"models": ("m",), "version": "v2", "served_name": "m-next"},
    "other": {"models": ("n",)},
}
ROUTE = RouteConfig(model="m", versions={"v1": 1}, mirror_to="version:v2")


def never(asked: Any) -> None:
    """No answer, ever."""


@pytest.mark.parametrize("stream", [False, True])
def test_a_copy_goes_to_the_mirror_and_its_answer_nowhere(stream: bool) -> None:
    with deployed(ENGINES, ROUTE, plays={"shadow": status(500)}) as row:
        answer = row.ask(chat(stream=stream, content="the very same"))
        row.talk.passes(0.1)
        assert (answer.status, row.asked) == (200, {"live": 1, "shadow": 1, "other": 0})
        assert row.sent("shadow")["model"] == "m-next"
        assert row.sent("shadow")["messages"] == row.sent("live")["messages"]
        assert row.talk.stats.mirrored_total == 1
        assert len(row.talk.records) == 1


def test_to_another_model() -> None:
    with deployed(ENGINES, RouteConfig(model="m", versions={"v1": 1}, mirror_to="n")) as row:
        row.ask(chat())
        row.talk.passes(0.1)
        assert row.sent("other")["model"] == "n"


def test_it_is_what_its_engine_would_get_of_the_request_itself() -> None:
    """Told how long an answer may be, and of the model by its own name, whichever way that came about."""
    engines = {**ENGINES, "shadow": {"models": ("m",), "version": "v2"}}
    for route, name in ((ROUTE, "shadow"), (RouteConfig(model="m", versions={"v1": 1}, mirror_to="n"), "other")):
        with deployed(engines, route, api_keys=(KEY,), daily_token_quota=1000, default_max_tokens=77) as row:
            row.engines[name].engine.aliases = {"m": "m-there", "n": "m-there"}
            assert row.ask(chat(key=KEY, stream=True)).status == 200
            row.talk.passes(0.1)
            assert row.sent(name)["max_tokens"] == row.sent("live")["max_tokens"] == 77
            assert (row.sent(name)["model"], row.sent("live")["model"]) == ("m-there", "m")


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize(("settings", "limit_s"), [({"request_timeout_s": 40.0}, 40.0), ({}, mirror.MIRROR_S)])
def test_its_time_ends_though_its_answer_does_not(settings: dict[str, float], limit_s: float, cancel: bool) -> None:
    engines = {**ENGINES, "shadow": {**ENGINES["shadow"], "cancel": cancel}}
    with deployed(engines, ROUTE, plays={"shadow": never}, **settings) as row:
        row.ask(chat())
        row.talk.passes(0.1)
        shadow = row.engines["shadow"].last.says(SSE_HEAD)
        for _ in range(8):
            row.talk.passes(limit_s / 8 - 0.5)
            shadow.says(chunk(EVENT))
        assert row.talk.stats.mirrors_open == 1
        row.talk.passes(5.0)
        assert (row.talk.stats.mirrors_open, shadow.cancelled) == (0, cancel)
        there = row.engines["shadow"].engine
        assert there.inflight == (not cancel)
        if not cancel:
            shadow.says(LAST_CHUNK)
            assert there.inflight == 0


def test_the_share_is_kept() -> None:
    route = RouteConfig(model="m", versions={"v1": 1}, mirror_to="version:v2", mirror_percent=25)
    with deployed(ENGINES, route) as row:
        for _ in range(200):
            row.ask(chat())
        row.talk.passes(0.1)
        assert 20 <= row.asked["shadow"] <= 85
        assert row.asked["live"] == 200


@pytest.mark.parametrize("play", [
    lambda asked: asked.closes("reset"), status(503), never,
    lambda asked: asked.says(b"no answer at all\r\n\r\n"), lambda asked: asked.says(SSE_HEAD + b"zz\r\n"),
], ids=["dies", "refuses", "is silent", "lies", "breaks off"])  # fmt: skip
def test_whatever_becomes_of_it_the_client_sees_nothing_and_pays_nothing(play: Any) -> None:
    with deployed(ENGINES, ROUTE, plays={"shadow": play}, api_keys=(KEY,), daily_token_quota=1000) as row:
        answer = row.ask(chat(key=KEY))
        assert answer.status == 200
        row.talk.passes(0.1)
        assert row.asked["shadow"] == 1
        usage = row.talk.settled()
        assert (usage["total_tokens"], usage["requests"]) == (8, 1)
        assert row.engines["shadow"].engine.failures_total == 0


def test_a_stream_is_read_to_its_end_after_its_client_has_gone() -> None:
    with deployed(ENGINES, ROUTE, plays={"shadow": never}) as row:
        row.ask(chat())
        row.talk.passes(0.1)
        shadow = row.engines["shadow"].last
        shadow.says(SSE_HEAD + chunk(EVENT))
        assert row.talk.stats.mirrors_open == 1
        shadow.says(chunk(EVENT) + LAST_CHUNK)
        assert (row.talk.stats.mirrors_open, row.engines["shadow"].engine.inflight) == (0, 0)


def test_they_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_MIRRORED", 3)
    with deployed(ENGINES, ROUTE, plays={"shadow": never}) as row:
        for _ in range(5):
            assert row.ask(chat()).status == 200
        row.talk.passes(0.1)
        assert row.asked == {"live": 5, "shadow": 3, "other": 0}
        assert (row.talk.stats.mirrors_open, row.talk.stats.mirrors_skipped) == (3, 2)


def test_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_MIRRORED_BYTES", 2500)
    with deployed(ENGINES, ROUTE, plays={"shadow": never}) as row:
        for _ in range(4):
            assert row.ask(chat(content="x" * 1000)).status == 200
        row.talk.passes(0.1)
        assert (row.talk.stats.mirrored_total, row.talk.stats.mirrors_skipped) == (2, 2)


def test_no_engine_that_is_full_ill_or_drained() -> None:
    with deployed(ENGINES, ROUTE) as row:
        engine = row.engines["shadow"].engine
        for name, value in (("healthy", False), ("draining", True), ("slots", 1)):
            before = getattr(engine, name)
            setattr(engine, name, value)
            engine.inflight = 1
            assert row.ask(chat()).status == 200
            engine.inflight = 0
            setattr(engine, name, before)
        row.talk.passes(0.1)
        assert row.asked["shadow"] == 0


def test_a_tenant_s_prompt_goes_to_nobody_else_s_engine() -> None:
    engines = {**ENGINES, "theirs": {"models": ("m",), "tenant": "acme", "version": "v1"}}
    with deployed(engines, ROUTE, keys=(tenant_key("acme"),)) as row:
        assert row.ask(chat(key=key_of("acme"))).status == 200
        row.talk.passes(0.1)
        assert row.asked == {"live": 0, "shadow": 0, "other": 0, "theirs": 1}


def test_once_for_a_request_however_often_it_is_sent() -> None:
    engines = {**ENGINES, "live2": {"models": ("m",), "version": "v1"}}
    with deployed(engines, ROUTE, plays={"live": status(503)}, policy="ordered", retry_statuses=["503"]) as row:
        assert row.ask(chat()).status == 200
        row.talk.passes(0.1)
        assert row.asked == {"live": 1, "live2": 1, "shadow": 1, "other": 0}


SMALL: dict[str, dict[str, Any]] = {"live": {"models": ("m",)}, "other": {"models": ("n",), "max_concurrent": 3}}


def test_no_copy_has_the_last_place_of_an_engine_and_each_gives_way() -> None:
    with deployed(SMALL, RouteConfig(model="m", mirror_to="n"), plays={"other": never}) as row:
        for _ in range(4):
            row.ask(chat())
        row.talk.passes(0.1)
        assert (row.asked["other"], row.talk.stats.mirrors_open, row.talk.stats.mirrors_skipped) == (2, 2, 2)
        for there in (2, 1, 0):
            row.talk.client().says(chat("n"))
            assert (row.talk.stats.mirrors_open, row.talk.waiting) == (there, 0)
        row.talk.client().says(chat("n"))
        assert row.talk.waiting == 1
        row.ask(chat())
        row.talk.passes(0.1)
        assert (row.asked["other"], row.engines["other"].engine.inflight) == (5, 3)


def test_one_that_comes_from_another_engine_waits_for_no_copy() -> None:
    engines = {"live": {"models": ("m",)}, "first": {"models": ("n",)}, "other": {"models": ("n",), "max_concurrent": 2}}
    with deployed(engines, RouteConfig(model="m", mirror_to="n"), plays={"other": never, "first": status(503)},
                  policy="ordered", retry_statuses=["503"]) as row:  # fmt: skip
        row.engines["first"].engine.healthy = False
        row.ask(chat())
        row.talk.passes(0.1)
        assert row.asked["other"] == 1
        row.talk.client().says(chat("n"))
        row.engines["first"].engine.healthy = None
        row.talk.client().says(chat("n"))
        row.talk.passes(0.1)
        assert (row.asked["first"], row.asked["other"], row.talk.stats.mirrors_open, row.talk.waiting) == (1, 3, 0, 0)


@pytest.mark.parametrize(("asked", "got"), [("m", ["m"]), ("of-m", ["m"]), ("class:c", ["m"]), ("drained", [])])
def test_by_each_of_its_names_and_of_no_other_model(asked: str, got: list[str]) -> None:
    engines = {name: {**fields, "served_name": ""} for name, fields in ENGINES.items()}
    routes = (
        RouteConfig(
            model="m", aliases=["of-m", "drained"], versions={"v1": 1}, mirror_to="version:v2", fallback=["n"],
            fallback_on=["failure"],
        ),
        RouteConfig(model="class:c", models=["m"]),
    )  # fmt: skip
    with deployed(engines, *routes) as row:
        row.engines["live"].engine.draining = asked == "drained"
        assert row.ask(chat(asked)).status == 200
        row.talk.passes(0.1)
        assert row.asked["shadow"] == len(got)
        if got:
            assert row.sent("shadow")["model"] == "m"
