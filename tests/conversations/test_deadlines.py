"""Deadlines of whole requests: the client's own (``x-request-timeout-ms``), the route's, the gateway's; wherever they fall.

A deadline may fall a tick (0.1 s) late, and never early: ``LATE_S`` is a little more.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import RouteConfig
from tests.conversations.test_queue import begun, finish, judge_refusal, order
from tests.e2e.gate import tagged
from tests.support.byhand.client import HandClient
from tests.support.conversation import Conversation, conversation
from tests.support.requests import chat, request
from tests.support.scripts import EVENT, SSE_HEAD, chunk, ok

LATE_S = 0.21


def limited(ms: int | str, tag: str = "x", model: str = "m", **more: Any) -> bytes:
    return tagged(tag, model, headers=(("x-request-timeout-ms", str(ms)),), **more)


def falls_due(talk: Conversation, client: HandClient, seconds: float) -> None:
    """Nothing is said before its time, and all is soon after it."""
    talk.passes(seconds - 0.01)
    assert client.sink is not None, "too early"
    talk.passes(0.01 + LATE_S)
    assert client.sink is None, "too late"


ROWS: dict[str, tuple[dict[str, Any], bytes, float]] = {
    "client": ({}, limited(300), 0.3),
    "gateway": ({"request_timeout_s": 0.3}, tagged("x"), 0.3),
    "route": ({"routes": [RouteConfig(model="m", timeout_s=0.3)]}, tagged("x"), 0.3),
    # The client asks for less than the gateway or the route would give.
    "client under gateway": ({"request_timeout_s": 5.0}, limited(300), 0.3),
    "client under route": ({"routes": [RouteConfig(model="m", timeout_s=5.0)]}, limited(300), 0.3),
    # It asks for more: capped.
    "capped by gateway": ({"request_timeout_s": 0.3}, limited(60_000), 0.3),
    "capped by maximum": ({"max_request_timeout_s": 0.3}, limited(60_000), 0.3),
    "maximum over gateway": ({"request_timeout_s": 0.3, "max_request_timeout_s": 0.7}, limited(60_000), 0.7),
    "capped by route": ({"routes": [RouteConfig(model="m", timeout_s=0.3)]}, limited(60_000), 0.3),
    # A route may give more than the gateway does, and less.
    "route over gateway": ({"request_timeout_s": 0.2, "routes": [RouteConfig(model="m", timeout_s=0.6)]}, tagged("x"), 0.6),
    "route under gateway": ({"request_timeout_s": 5.0, "routes": [RouteConfig(model="m", timeout_s=0.3)]}, tagged("x"), 0.3),
    "another route": ({"request_timeout_s": 0.3, "routes": [RouteConfig(model="other", timeout_s=5.0)]}, tagged("x"), 0.3),
    "minutes": ({"request_timeout_s": 900.0}, tagged("x"), 900.0),
}


class TestBeforeTheFirstByte:
    @pytest.mark.parametrize(("settings", "data", "seconds"), ROWS.values(), ids=ROWS)
    def test_S3_13_504_in_time(self, settings: dict[str, Any], data: bytes, seconds: float) -> None:
        """504, not before its time and not much later; the engine is told at once, and not blamed."""
        with conversation(1, first_byte_timeout_s=3600.0, **settings) as talk:
            client = talk.client().says(data)
            [engine] = talk.engines
            falls_due(talk, client, seconds)
            answer = client.sees(504, "upstream_timeout")
            assert answer.error["type"] == "upstream_error"
            assert engine.last.cancelled
            target = engine.engine
            assert (target.inflight, target.breaker.failures, talk.stats.upstream_open) == (0, 0, 0)
            (record,) = talk.records
            assert (record["status"], record["error"]) == (504, "upstream_timeout")

    def test_many_deadlines_are_no_reason_to_open_the_breaker(self) -> None:
        """The client's impatience says nothing about the engine."""
        with conversation(1, cb_failure_threshold=2) as talk:
            [engine] = talk.engines
            clients = [talk.client().says(limited(50)) for _ in range(6)]
            talk.passes(0.3)
            for client in clients:
                client.sees(504)
            engine.play = lambda asked: asked.says(ok())
            talk.client().says(tagged("well")).sees(200)

    def test_an_answer_in_time_is_untouched(self) -> None:
        with conversation(1) as talk:
            client = talk.client()
            for _ in range(3):
                client.says(limited(5000))
                talk.passes(4.9)
                finish(talk.engines[0])
                client.sees(200)
            # It is an affair of the gateway's: the engine need not know.
            assert {asked.field(b"x-request-timeout-ms") for asked in talk.engines[0].asked} == {None}


class TestInTheQueue:
    @pytest.mark.parametrize("limit", ["engine_max_concurrent", "key_concurrency", "max_concurrent"])
    def test_S5_08_the_deadline_falls_while_it_waits(self, limit: str) -> None:
        """503 `queue_timeout`: no engine has worked on it, so it may be sent again."""
        settings: dict[str, Any] = {limit: 1}
        with conversation(1, **settings) as talk:
            [first] = begun(talk, "a", waiting=0)
            late = talk.client().says(limited(300, "late"))
            assert talk.waiting == 1
            falls_due(talk, late, 0.3)
            judge_refusal(late.seen, 503, "queue_timeout", "upstream_error")
            assert talk.waiting == 0
            finish(talk.engines[0])
            first.sees(200)
            assert order(talk.engines[0]) == ["a"]
            (record,) = [record for record in talk.records if record["status"] == 503]
            assert 0.3 <= record["queued_s"] <= 0.3 + LATE_S

    def test_what_is_left_after_the_wait_counts(self) -> None:
        """The deadline is the whole request's: a wait in the queue gives no new time."""
        with conversation(1, engine_max_concurrent=1) as talk:
            begun(talk, "a", waiting=0)
            second = talk.client().says(limited(600, "b"))
            talk.passes(0.4)
            finish(talk.engines[0], "a")
            falls_due(talk, second, 0.2)
            second.sees(504, "upstream_timeout")
            assert order(talk.engines[0]) == ["a", "b"]

    def test_a_route_may_wait_longer_than_others(self) -> None:
        """The route's time holds from the request's begin, in the queue as well."""
        routes = [RouteConfig(model="patient", timeout_s=5.0)]
        with conversation(1, request_timeout_s=0.3, engine_max_concurrent=1, routes=routes) as talk:
            [engine] = talk.engines
            patient = [talk.client().says(tagged(name, "patient")) for name in "ab"]
            other = talk.client().says(tagged("c", "other"))
            falls_due(talk, other, 0.3)
            other.sees(503, "queue_timeout")
            talk.passes(3.0)
            finish(engine, "a")
            finish(engine, "b")
            for client in patient:
                client.sees(200)


class TestMidStream:
    @pytest.mark.parametrize("by", ["client", "route", "gateway"])
    def test_S3_13_a_stream_is_cut(self, by: str) -> None:
        """The events so far, one typed error event, and an abort: no `[DONE]`, no clean end. The engine stops working."""
        settings: dict[str, Any] = {
            "client": {},
            "route": {"routes": [RouteConfig(model="m", timeout_s=0.4)]},
            "gateway": {"request_timeout_s": 0.4},
        }[by]
        with conversation(1, **settings) as talk:
            [engine] = talk.engines
            headers = [("x-request-timeout-ms", "400")] if by == "client" else []
            client = talk.client().says(chat(stream=True, headers=headers))
            engine.last.says(SSE_HEAD, *[chunk(EVENT)] * 12)
            falls_due(talk, client, 0.4)
            answer = client.seen
            assert (answer.status, answer.complete) == (200, False)
            events = answer.events()
            assert len(events) == 13
            assert '"upstream_timeout"' in events[-1]
            assert not any('"error"' in event or event == "[DONE]" for event in events[:-1])
            assert engine.last.cancelled
            assert engine.engine.breaker.failures == 0
            (record,) = talk.records
            assert (record["status"], record["outcome"]) == (200, "upstream_timeout")


class TestOneConnection:
    def test_each_request_has_its_own_deadline(self) -> None:
        """On a connection that is kept, a request's deadline is its own: neither the last one's nor none."""
        with conversation(1) as talk:
            client = talk.client()
            for ms in (300, 0, 800, 300, 0):
                client.says(limited(ms) if ms else tagged("x"))
                if ms:
                    falls_due(talk, client, ms / 1e3)
                    client.sees(504)
                else:
                    talk.passes(10.0)  # longer than the one before had
                    assert len(talk.engines[0].under_way) == 1
                    finish(talk.engines[0])
                    client.sees(200)

    def test_the_same_head_again(self) -> None:
        """The second request with the same head is not judged anew, and has its deadline all the same."""
        with conversation(1) as talk:
            client = talk.client()
            for _ in range(3):
                client.says(limited(250))
                falls_due(talk, client, 0.25)
                client.sees(504)
            # An idle connection has no deadline of a request's.
            talk.passes(10.0)
            client.says(request("GET", "/healthz")).sees(200)
            assert len(talk.engines[0].asked) == 3


class TestWithRetries:
    def test_the_deadline_holds_over_engines(self) -> None:
        """A first engine that is silent, a second one too: one deadline for both."""
        settings = {"first_byte_timeout_s": 0.3, "retry_fresh": True, "max_retries": 5, "retry_budget_percent": 100}
        with conversation(2, **settings) as talk:
            client = talk.client().says(limited(500))
            talk.passes(0.45)
            assert talk.asked == [1, 1]
            falls_due(talk, client, 0.05)
            client.sees(504, "upstream_timeout")
            assert not any(engine.under_way for engine in talk.engines)
