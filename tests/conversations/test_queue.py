"""CASES, group J, row J9 (and I1's "queued"): the queue that is full, or takes too long; that clients leave, whose engine dies,
or whose gateway stops; and what those are told who find it so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastgw import EngineConfig
from tests.e2e.gate import ANSWER, tagged
from tests.support.answers import RawResponse
from tests.support.byhand.client import HandClient
from tests.support.byhand.engine import HandPool, HandStream
from tests.support.conversation import KEY, OTHER_KEY, Conversation, answering, conversation
from tests.support.requests import request
from tests.support.scripts import ok

ONE: dict[str, Any] = {"engine_max_concurrent": 1}
answered = answering(ok(ANSWER))


def judge_refusal(answer: RawResponse, status: int, code: str, type_: str) -> None:
    """An error in OpenAI's shape that says when to come back."""
    assert (answer.status, answer.complete) == (status, True), answer.body
    assert (answer.error["code"], answer.error["type"]) == (code, type_)
    after, after_ms = answer.header("retry-after"), answer.header("retry-after-ms")
    assert after is not None
    assert after_ms is not None
    assert int(after) >= 1
    assert int(after) == max(1, -(-int(after_ms) // 1000))


def tag(asked: HandStream) -> str:
    return (asked.field(b"x-tag") or b"").decode()


def order(engine: HandPool) -> list[str]:
    """The tags of all requests as they came."""
    return [tag(asked) for asked in engine.asked]


def held(engine: HandPool) -> list[str]:
    """Of those that it has now."""
    return [tag(asked) for asked in engine.under_way]


def finish(engine: HandPool, *tags: str) -> None:
    """Answer these requests; without tags, all that it has now."""
    for asked in list(engine.under_way):
        if not tags or tag(asked) in tags:
            answered(asked)


def begun(talk: Conversation, *tags: str, waiting: int, **fields: Any) -> list[HandClient]:
    """Requests on connections of their own, after which so many wait."""
    clients = [talk.client().says(tagged(one, **fields)) for one in tags]
    assert talk.waiting == waiting
    return clients


class TestFull:
    """Nobody waits beyond the bounds of the queue: 429 at once, and the connection stays usable."""

    def test_J9_queue_full(self) -> None:
        with conversation(1, **ONE, queue_size=2) as talk:
            [engine] = talk.engines
            clients = begun(talk, "a", "b", "c", waiting=2)
            late = talk.client()
            before = talk.loop.now
            for _ in range(5):
                judge_refusal(late.says(tagged("late")).seen, 429, "queue_full", "rate_limit_error")
            assert talk.loop.now == before, "at once"
            assert talk.stats.limited_queue == 5
            # The connection goes on, and so do those who wait.
            late.says(request("GET", "/healthz")).sees(200)
            for client, name in zip(clients, "abc", strict=True):
                assert held(engine) == [name]
                finish(engine, name)
                client.sees(200)
            # Its place is there again.
            late.says(tagged("again"))
            finish(engine)
            late.sees(200)
            assert order(engine) == ["a", "b", "c", "again"]
            refused = [record for record in talk.records if record["status"] == 429]
            assert [(record["error"], record["queued_s"]) for record in refused] == [("queue_full", -1.0)] * 5

    def test_J9_queue_bytes(self) -> None:
        """What may wait is bounded in bytes too; a body that still fits waits."""
        with conversation(1, **ONE, queue_size=100, queue_bytes=65536) as talk:
            [engine] = talk.engines
            begun(talk, "a", waiting=0)
            large = begun(talk, "b", "c", waiting=2, content="x" * 30_000)
            refused = talk.client().says(tagged("d", content="x" * 30_000)).seen
            judge_refusal(refused, 429, "queue_full", "rate_limit_error")
            small = begun(talk, "e", waiting=3)
            # One that leaves takes its bytes along.
            large.pop().leaves()
            assert talk.waiting == 2
            fits = begun(talk, "f", waiting=3, content="x" * 30_000)
            engine.play = answered
            finish(engine)
            for client in (*large, *small, *fits):
                client.sees(200)
            assert order(engine) == ["a", "b", "e", "f"]

    def test_J9_refusals_leave_nothing_behind(self) -> None:
        """A thousand refusals on one connection: no place is lost, and each has its record."""
        with conversation(1, **ONE, queue_size=1) as talk:
            [engine] = talk.engines
            clients = begun(talk, "a", "b", waiting=1)
            late = talk.client()
            for _ in range(1000):
                if late.closed:
                    late = talk.client()
                assert late.says(tagged("late")).seen.status == 429
            engine.play = answered
            finish(engine)
            for client in clients:
                client.sees(200)
            assert order(engine) == ["a", "b"]
            assert sum(record["error"] == "queue_full" for record in talk.records) == 1000

    def test_J9_one_tenant_does_not_keep_another_out(self) -> None:
        """The queue is full of one tenant's requests: the newest of them gives way, and nothing of the other's is refused."""
        with conversation(1, **ONE, api_keys=(KEY, OTHER_KEY), queue_size=4) as talk:
            [engine] = talk.engines
            many = begun(talk, *[f"many{number}" for number in range(5)], waiting=4, key=KEY)
            few = begun(talk, "few", waiting=4, key=OTHER_KEY)
            newest = many[-1].sees(429)
            judge_refusal(newest, 429, "queue_full", "rate_limit_error")
            assert "tenant" in newest.error["message"]
            late = talk.client().says(tagged("late", key=KEY))
            judge_refusal(late.seen, 429, "queue_full", "rate_limit_error")
            assert talk.waiting == 4
            for _ in range(5):
                assert len(held(engine)) == 1
                finish(engine)
            for client in (*many[:-1], *few):
                client.sees(200)
            assert "few" in order(engine)
            assert not {"many4", "late"} & set(order(engine))


class TestTooLong:
    def test_J9_queue_timeout(self) -> None:
        """503 when its time in the queue is over, by a tick of the clock at most later; the engine never hears of it."""
        with conversation(1, **ONE, queue_timeout_s=0.3) as talk:
            [engine] = talk.engines
            first, late = begun(talk, "a", "late", waiting=1)
            talk.passes(0.29)
            assert late.waits
            talk.passes(0.21)
            judge_refusal(late.seen, 503, "queue_timeout", "upstream_error")
            assert (talk.waiting, talk.stats.queue_timeouts) == (0, 1)
            late.says(tagged("next"))  # the connection stays usable, and it may wait again
            assert talk.waiting == 1
            finish(engine, "a")
            first.sees(200)
            finish(engine, "next")
            late.sees(200)
            assert order(engine) == ["a", "next"]
            (record,) = [record for record in talk.records if record["status"] == 503]
            assert (record["error"], record["outcome"]) == ("queue_timeout", "error")
            assert 0.3 <= record["queued_s"] <= 0.5

    def test_J9_each_has_its_own_time(self) -> None:
        """The time runs from when it began to wait, for the key's own limit as for an engine."""
        with conversation(1, key_concurrency=1, queue_timeout_s=0.6) as talk:
            [engine] = talk.engines
            _, early = begun(talk, "a", "b", waiting=1)
            talk.passes(0.4)
            [late] = begun(talk, "c", waiting=2)
            talk.passes(0.4)
            judge_refusal(early.seen, 503, "queue_timeout", "upstream_error")
            assert talk.waiting == 1
            finish(engine)
            assert held(engine) == ["c"]
            finish(engine)
            late.sees(200)
            assert order(engine) == ["a", "c"]

    def test_J9_the_time_ends_with_the_wait(self) -> None:
        """Once let go, a request is an engine's: what was left of its time in the queue means nothing any more."""
        with conversation(1, **ONE, key_concurrency=2, queue_timeout_s=0.3) as talk:
            [engine] = talk.engines
            first, second = begun(talk, "a", "b", waiting=1)
            finish(engine)
            first.sees(200)
            assert held(engine) == ["b"]
            talk.passes(60.0)
            finish(engine)
            second.sees(200)
            assert talk.stats.queue_timeouts == 0


class TestRetryAfter:
    def test_J9_retry_after_is_the_measured_rate(self) -> None:
        """Twenty a second leave, forty wait: two seconds; and whoever is told comes behind those who were told before."""

        def slowly(asked: HandStream) -> None:
            asked.pool.loop.call_later(0.05, answered, asked)

        with conversation(1, slowly, **ONE, queue_size=40) as talk:
            [engine] = talk.engines
            clients = [talk.client().says(tagged("steady")) for _ in range(41)]
            assert talk.waiting == 40
            for _ in range(50):
                talk.passes(0.05)
                for client in clients:
                    if client.sink is None:
                        client.says(tagged("steady"))
            assert talk.waiting == 40
            assert 49 <= len(engine.asked) <= 52, "twenty a second"
            told = [int(talk.client().says(tagged("late")).sees(429).header("retry-after-ms") or 0) / 1e3 for _ in range(50)]
            assert all(0.75 * 2 <= wait_s <= 1.35 * 2 for wait_s in told[:3]), told
            assert 0.75 * 49 / 20 <= told[-1] - told[0] <= 1.35 * 49 / 20, told
            assert len(set(told)) > 40, "each has a time of his own"


class TestLeaving:
    """A client that leaves the queue: its place is free at once, what it had reserved is back, the engine never sees it."""

    @pytest.mark.parametrize("how", ["fin", "reset"])
    @pytest.mark.parametrize("limit", ["engine_max_concurrent", "key_concurrency", "max_concurrent"])
    def test_J9_I1_queued_client_leaves(self, how: Any, limit: str) -> None:
        limits: dict[str, Any] = {limit: 1, "queue_size": 1, "daily_token_quota": 10_000, "tokens_per_minute": 10_000}
        with conversation(1, **limits, api_keys=(KEY,)) as talk:
            [engine] = talk.engines
            account = talk.account()
            first = begun(talk, "a", waiting=0, key=KEY, max_tokens=100)
            reserved = account.ledger.reserved
            assert reserved > 100
            for turn in range(5):
                [gone] = begun(talk, "gone", waiting=1, key=KEY, max_tokens=1000)
                assert account.ledger.reserved > reserved + 1000
                gone.leaves(how)
                assert talk.waiting == 0
                assert len(talk.raw_records) == turn + 1
                assert (account.inflight, account.ledger.reserved) == (1, reserved)
            # Another takes the only place that there is to wait in.
            second = begun(talk, "b", waiting=1, key=KEY, max_tokens=100)
            finish(engine)
            finish(engine, "b")
            for client in (*first, *second):
                client.sees(200)
            assert order(engine) == ["a", "b"]
            assert (account.inflight, account.ledger.reserved) == (0, 0)
            assert account.ledger.prompt + account.ledger.completion == 10  # the two that were served
            target = engine.engine
            assert (target.inflight, target.failures_total, target.breaker.failures) == (0, 0, 0)
            left = [record for record in talk.records if record["status"] == 499]
            assert len(left) == 5
            assert {(record["outcome"], record["error"]) for record in left} == {("client_closed", "client_closed")}

    def test_J9_three_hundred_leave_at_once(self) -> None:
        """All places are free, and nobody behind them waits for theirs."""
        with conversation(1, **ONE, queue_size=301) as talk:
            [engine] = talk.engines
            first = begun(talk, "a", waiting=0)
            crowd = begun(talk, *["gone"] * 300, waiting=300)
            last = begun(talk, "last", waiting=301)
            for client in crowd:
                client.leaves("reset")
            assert talk.waiting == 1
            finish(engine)
            assert held(engine) == ["last"]
            finish(engine)
            for client in (*first, *last):
                client.sees(200)
            assert order(engine) == ["a", "last"]

    @pytest.mark.parametrize("how", ["fin", "reset"])
    def test_J9_I1_an_upload_that_waits_leaves(self, how: Any) -> None:
        """It is held back while it waits; that it leaves is minded all the same."""
        with conversation(1, **ONE) as talk:
            [engine] = talk.engines
            [first] = begun(talk, "a", waiting=0)
            head = (
                "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: g\r\ncontent-type: multipart/form-data; boundary=b\r\n"
                'content-length: 5000000\r\n\r\n--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\n'
                'content-disposition: form-data; name="file"; filename="a"\r\n\r\n'
            )
            second = talk.client().says(head.encode() + b"x" * 30_000)
            assert (talk.waiting, second.held_back, second.minds) == (1, True, True)
            second.leaves(how)
            assert talk.waiting == 0
            assert talk.records[-1]["status"] == 499
            finish(engine)
            first.sees(200)
            assert order(engine) == ["a"], "the engine has never heard of it"


def dies(engine: HandPool) -> None:
    """No more connections, and those that are there are reset."""
    engine.dial = "refused"
    engine.close_idle()
    for asked in list(engine.under_way):
        asked.closes("reset")


class TestEngineDies:
    """Whoever waits for an engine that dies goes to another one, or is told at once; usual breaker settings."""

    @pytest.mark.parametrize("policy", ["round_robin", "ordered"])
    def test_J9_rerouted(self, policy: str) -> None:
        with conversation(2, engine_max_concurrent=2, policy=policy, retry_fresh=False) as talk:
            dying, other = talk.engines
            under_way = begun(talk, *["under way"] * 4, waiting=0)
            assert [len(engine.under_way) for engine in talk.engines] == [2, 2]
            crowd = begun(talk, *map(str, range(40)), waiting=40)
            other.play = answered
            dies(dying)
            finish(other)
            talk.passes(1.0)
            for client in crowd:
                client.sees(200)
            # An engine may have worked on those that it had.
            assert sorted(client.seen.status for client in under_way) == [200, 200, 502, 502]

    def test_J9_nobody_is_left(self) -> None:
        with conversation(1, engine_max_concurrent=2) as talk:
            [engine] = talk.engines
            under_way = begun(talk, *["under way"] * 2, waiting=0)
            crowd = begun(talk, *map(str, range(100)), waiting=100)
            dies(engine)
            talk.passes(1.0)
            answers = [client.seen for client in crowd]
            assert {answer.status for answer in answers} <= {502, 503}
            assert {answer.error["code"] for answer in answers} <= {"bad_gateway", "engines_unavailable", "circuit_open"}
            # After a few nobody tries in vain any more, and all of those are told when to come back.
            told = [answer for answer in answers if answer.status == 503]
            assert len(told) >= 90
            assert all(1 <= int(answer.header("retry-after") or 0) <= 60 for answer in told)
            assert [client.seen.status for client in under_way] == [502, 502]
            assert talk.waiting == 0

    def test_J9_it_comes_back(self) -> None:
        """Whoever comes to wait while the only engine is full, and its process is started again, is served."""
        with conversation(1, **ONE, cb_failure_threshold=100) as talk:
            [engine] = talk.engines
            first, second = begun(talk, "a", "b", waiting=1)
            engine.play = answered
            engine.last.closes("reset")
            first.sees(502)
            second.sees(200)

    def test_J9_a_dead_engine_is_not_waited_for(self) -> None:
        """Where no engine is fit there is nothing to wait for: it is said at once."""
        engines = [
            EngineConfig(url=f"http://127.0.0.{at}:9", models=[name], warm_connections=0) for at, name in ((1, "a"), (2, "b"))
        ]
        with conversation(engines, **ONE) as talk:
            dead, other = talk.engines
            dies(dead)
            statuses = {talk.client().says(tagged("x", "a")).seen.status for _ in range(8)}
            assert statuses <= {502, 503}
            well = talk.client().says(tagged("y", "b"))
            finish(other)
            well.sees(200)


@contextmanager
def draining(waiting: int) -> Iterator[tuple[Conversation, list[HandClient]]]:
    """One is under way, so many wait, and the gateway stops."""
    with conversation(1, **ONE) as talk:
        clients = begun(talk, "a", *["waits"] * waiting, waiting=waiting)
        talk.core.begin_drain()
        yield talk, clients
        assert all(client.closed for client in clients)


class TestDrain:
    """The gateway stops while requests wait: they have the drain's time like all others."""

    def test_J9_drain_lets_the_queue_go(self) -> None:
        with draining(2) as (talk, clients):
            [engine] = talk.engines
            engine.play = answered
            finish(engine)
            for client in clients:
                client.sees(200)
            assert order(engine) == ["a", "waits", "waits"]

    def test_J9_drain_time_over(self) -> None:
        with draining(3) as (talk, clients):
            talk.core.abort_all()
            talk.loop.settle()
            for client in clients:
                client.sees(503, "shutting_down")
            assert order(talk.engines[0]) == ["a"], "giving up one did not send the next"

    def test_who_comes_meanwhile_is_told_so(self) -> None:
        with draining(0) as (talk, clients):
            talk.client().says(tagged("late")).sees(503, "shutting_down")
            finish(talk.engines[0])
            clients[0].sees(200)
