"""Retries by policy (S2): of which answers, where to, how often, how soon."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.limits.budget import RetryBudget
from fastgw.upstream.target import Engine
from tests.conversations.engine_row import BACK_PRESSURE, BUSY_BODY, SECOND, fine, row, status
from tests.support.answers import RawResponse
from tests.support.byhand.client import HandClient
from tests.support.byhand.engine import HandStream, Play
from tests.support.conversation import Conversation, kills, silent
from tests.support.requests import chat
from tests.support.scripts import ANSWER, ok


def passed_on(answer: RawResponse, number: int, **lines: str) -> None:
    """The engine's own answer, as it said it."""
    assert (answer.status, answer.body) == (number, BUSY_BODY)
    for name, value in lines.items():
        assert answer.header(name.replace("_", "-")) == value


class TestStatuses:
    """``retry_statuses``: another engine is asked instead of passing the answer on."""

    @pytest.mark.parametrize("number", [429, 502, 503])
    @pytest.mark.parametrize("stream", [False, True])
    def test_S2_another_engine_answers_and_the_client_sees_nothing_else(self, number: int, stream: bool) -> None:
        with row(status(number), fine, retry_statuses=BACK_PRESSURE) as talk:
            answer = talk.ask(chat(stream=stream, content="the very same"))
            assert (answer.status, answer.body) == (200, ANSWER)
            assert talk.asked == [1, 1]
            first, second = (engine.last for engine in talk.engines)
            assert first.start is not None
            assert second.start is not None
            assert (first.body, first.start.target) == (second.body, second.start.target)
            assert b"the very same" in second.body
            assert first.request_id == second.request_id
            assert (talk.stats.retries_total, talk.stats.retries_refused) == (1, 0)
            [record] = talk.records
            assert (record["status"], record["engine"]) == (200, talk.engines[1].engine.name)

    @pytest.mark.parametrize("number", [429, 500, 502, 503, 504])
    def test_S2_without_it_every_answer_is_passed_on(self, number: int) -> None:
        with row(status(number, b"retry-after: 9"), fine) as talk:
            passed_on(talk.ask(chat()), number, retry_after="9")
            assert talk.asked == [1, 0]

    @pytest.mark.parametrize("number", [400, 404, 422, 500, 504])
    def test_S2_other_statuses_are_passed_on(self, number: int) -> None:
        with row(status(number), fine, retry_statuses=BACK_PRESSURE) as talk:
            passed_on(talk.ask(chat()), number)
            assert talk.asked == [1, 0]

    def test_S2_never_the_engine_that_just_failed(self) -> None:
        """One engine alone is asked once; of three busy ones each is asked once, and the last one's answer stands."""
        with row(status(503, b"x-from: alone"), retry_statuses=BACK_PRESSURE, max_retries=5) as talk:
            passed_on(talk.ask(chat()), 503, x_from="alone")
            assert talk.asked == [1]
            assert (talk.stats.retries_total, talk.stats.retries_refused) == (0, 0)
        plays = [status(503, b"x-from: %d" % at) for at in range(3)]
        with row(*plays, retry_statuses=BACK_PRESSURE, max_retries=5) as talk:
            passed_on(talk.ask(chat()), 503, x_from="2")
            assert talk.asked == [1, 1, 1]

    def test_S2_an_engine_that_is_spared_is_no_other_engine(self) -> None:
        """With the breaker of the other open there is nobody to ask: the answer that is there goes to the client."""
        settings = {"retry_statuses": BACK_PRESSURE, "cb_failure_threshold": 1, "max_retries": 3}
        with row(status(503, b"x-from: busy"), status(500), **settings) as talk:
            assert talk.ask(chat()).status == 500
            assert talk.asked == [1, 1]
            passed_on(talk.ask(chat()), 503, x_from="busy")
            assert talk.asked == [2, 1]

    @pytest.mark.parametrize(("allowed", "asked"), [(0, [1, 0, 0, 0, 0]), (1, [1, 1, 0, 0, 0]), (3, [1, 1, 1, 1, 0])])
    def test_S2_max_retries_is_kept(self, allowed: int, asked: list[int]) -> None:
        plays = [status(503, b"x-from: %d" % at) for at in range(5)]
        with row(*plays, retry_statuses=BACK_PRESSURE, max_retries=allowed) as talk:
            passed_on(talk.ask(chat()), 503, x_from=str(allowed))
            assert talk.asked == asked

    def test_S2_04_the_verdicts_of_answers_that_were_not_passed_on(self) -> None:
        """502 counts against its engine though no client has seen it; 503 does not."""
        with row(status(502), status(503), fine, retry_statuses=BACK_PRESSURE, max_retries=2) as talk:
            assert talk.ask(chat()).status == 200
            assert [engine.engine.failures_total for engine in talk.engines] == [1, 0, 0]


class TestRetryAfter:
    """A client whom an engine tells to come again is sent elsewhere for as long as it says, and a minute at most; one that
    tells two of them so is asked by nobody while there are others."""

    def test_S2_requests_stay_away_from_it_until_then(self) -> None:
        with row(status(503, b"retry-after: 5"), fine, retry_statuses=BACK_PRESSURE) as talk:
            begun = talk.loop.now
            for source in (SECOND, "127.0.0.3"):
                assert talk.ask(chat(), source).status == 200
            assert [talk.ask(chat()).status for _ in range(6)] == [200] * 6
            assert talk.asked == [2, 8]
            assert talk.stats.retries_total == 2
            talk.passes(begun + 4.6 - talk.loop.now)
            assert talk.ask(chat()).status == 200
            assert talk.asked == [2, 9]
            talk.passes(0.5)
            assert talk.ask(chat()).status == 200
            assert talk.asked == [3, 10]

    @pytest.mark.parametrize(
        ("keys", "sources"),
        [((), ("127.0.0.1",)), (("sk-one",), ("127.0.0.1", SECOND))],
        ids=["one address", "one key, from two addresses"],
    )
    def test_S2_what_one_client_may_have_provoked_holds_for_his_request_only(
        self, keys: tuple[str, ...], sources: tuple[str, ...]
    ) -> None:
        """Others are asked rather than the engine, but where they are not there he is not kept from it; nor is anybody else."""
        settings = {"retry_statuses": BACK_PRESSURE, "api_keys": keys, "retry_budget_percent": 100}
        with row(status(429, b"retry-after: 60"), fine, **settings) as talk:
            for source in (*sources, *sources):
                assert talk.ask(chat(key=keys[0] if keys else None), source).status == 200
            assert talk.asked == [1, 2 * len(sources)]
            talk.engines[1].engine.draining = True
            passed_on(talk.ask(chat(key=keys[0] if keys else None)), 429)
            assert not talk.engines[0].engine.rests()
            talk.engines[1].engine.draining = False
            if not keys:
                assert (talk.ask(chat(), SECOND).status, talk.asked[0]) == (200, 3)

    def test_S2_two_keys_of_one_address_are_two(self) -> None:
        keys = ("sk-one", "sk-two")
        with row(status(429, b"retry-after: 60"), fine, retry_statuses=BACK_PRESSURE, api_keys=keys) as talk:
            assert [talk.ask(chat(key=key)).status for key in (*keys, *keys)] == [200] * 4
            assert talk.asked == [2, 4]
            assert talk.engines[0].engine.rests()

    def test_S2_two_words_that_do_not_meet_are_not_several(self) -> None:
        """What the first was told is over when the second is told."""
        with row(status(429, b"retry-after: 1"), fine, retry_statuses=BACK_PRESSURE) as talk:
            assert talk.ask(chat()).status == 200
            talk.passes(1.05)
            assert [talk.ask(chat(), source).status for source in (SECOND, "127.0.0.3")] == [200] * 2
            assert talk.asked == [3, 3]

    def test_S2_no_longer_than_a_minute(self) -> None:
        with row(status(429, b"Retry-After: 86400"), retry_statuses=BACK_PRESSURE) as talk:
            for source in ("127.0.0.1", SECOND):
                passed_on(talk.ask(chat(), source), 429)
            assert 59 < talk.engines[0].engine.rests_until - talk.loop.now <= 60

    def test_S2_when_all_have_asked_for_it_the_client_is_told_by_one_of_them(self) -> None:
        plays = (status(503, b"retry-after: 40"), status(503, b"retry-after: 20", b"x-from: second"))
        with row(*plays, retry_statuses=BACK_PRESSURE, retry_budget_percent=100) as talk:
            for source in ("127.0.0.1", SECOND, "127.0.0.3"):
                passed_on(talk.ask(chat(), source), 503, x_from="second", retry_after="20")
            assert talk.asked == [3, 3]

    @pytest.mark.parametrize(
        ("told", "until"),
        [
            ([("a", 0.0, 60.0)], 0.0),
            ([("a", 0.0, 60.0), ("a", 1.0, 60.0)], 0.0),
            ([("a", 0.0, 60.0), ("b", 1.0, 5.0)], 6.0),
            ([("a", 0.0, 5.0), ("b", 1.0, 60.0)], 5.0),
            ([("a", 0.0, 5.0), ("b", 5.0, 5.0)], 0.0),
            ([("a", 0.0, 9.0), ("b", 1.0, 9.0), ("a", 2.0, 30.0)], 10.0),
            ([("a", 0.0, 9.0), ("b", 1.0, 9.0), ("c", 2.0, 30.0)], 10.0),
            ([(f"k{at}", float(at), 10.0) for at in range(1000)], 1008.0),
        ],
    )
    def test_S2_as_long_as_two_were_told(self, told: list[tuple[str, float, float]], until: float) -> None:
        engine = Engine(EngineConfig(url="http://127.0.0.1:9"))
        for caller, now, seconds in told:
            engine.told_to_wait(caller, now, seconds)
            assert len(engine.words) <= 2
        assert engine.rests_until == until

    @pytest.mark.parametrize("number", [429, 503])
    @pytest.mark.parametrize("policy", ["ordered", "session", "consistent_hash", "prefix_aware", "least_loaded"])
    def test_S2_no_policy_sends_anybody_there_meanwhile(self, policy: str, number: int) -> None:
        """Whether its answer is passed on or not: who comes next is served elsewhere, by affinity or not, until it is over."""
        with row(fine, fine, policy=policy) as talk:
            ask = chat(content="a long common prompt " * 200, headers=[("x-session-id", "s")])
            for _ in range(3):
                assert talk.ask(ask).status == 200
            pinned = talk.records[-1]["engine"]
            [there] = [one for one in talk.engines if one.engine.name == pinned]
            there.play = status(number, b"retry-after: 5")
            while talk.ask(ask).status == 200:
                pass
            begun = talk.loop.now
            before = there.engine.answered_total
            assert [talk.ask(ask).status for _ in range(20)] == [200] * 20
            assert there.engine.answered_total == before
            talk.passes(begun + 5.1 - talk.loop.now)
            assert there.engine.usable()

    def test_S2_where_nobody_else_is_it_is_asked_all_the_same(self) -> None:
        with row(status(503, b"retry-after: 30")) as talk:
            for source in ("127.0.0.1", SECOND, "127.0.0.3"):
                passed_on(talk.ask(chat(), source), 503, retry_after="30")
            assert talk.asked == [3]


class TestBudget:
    """Retries are a share of the live traffic: an outage does not double the load of engines that are in trouble."""

    def test_S2_two_hundred_that_all_fail(self) -> None:
        with row(status(503), status(503), retry_statuses=BACK_PRESSURE) as talk:
            begun = talk.loop.now
            for _ in range(20):
                clients = [talk.client().says(chat()) for _ in range(10)]
                talk.passes(0.05)
                for client in clients:
                    passed_on(client.seen, 503)
            retries = sum(talk.asked) - 200
            assert talk.stats.retries_total == retries
            # A tenth of the traffic, and the floor of one a second over the ten that the budget looks back.
            assert 10 <= retries <= 20 + 10 + (talk.loop.now - begun)
            assert talk.stats.retries_refused == 200 - retries

    def test_S2_a_spent_budget_passes_the_answer_on(self) -> None:
        with row(status(503), fine, retry_statuses=BACK_PRESSURE, retry_budget_percent=0) as talk:
            seen = [talk.ask(chat()) for _ in range(13)]
            assert [answer.status for answer in seen] == [200] * 10 + [503] * 3  # the floor: ten in ten seconds
            for answer in seen[10:]:
                passed_on(answer, 503)
            assert (talk.stats.retries_total, talk.stats.retries_refused) == (10, 3)

    @pytest.mark.parametrize("dial", ["refused", "timeout"])
    def test_S2_connections_that_fail_cost_no_budget(self, dial: Any) -> None:
        """Nothing was sent: the next engine is asked at once, however often."""
        with row(fine, fine, retry_budget_percent=0, max_retries=0, health_unhealthy_after=1000) as talk:
            talk.engines[0].dial = dial
            assert [talk.ask(chat()).status for _ in range(15)] == [200] * 15
            assert talk.asked == [0, 15]
            assert (talk.stats.retries_total, talk.stats.failovers_total) == (0, 15)


@pytest.mark.parametrize("dial", ["refused", "timeout", "ok"])
def test_the_first_of_an_outage_are_told_when_to_come_again_too(dial: Any) -> None:
    """As those are that come when the breaker is open. (`ok`: it takes the request, and dies.)"""
    with row(kills, cb_failure_threshold=3, health_interval_s=7.0) as talk:
        talk.engines[0].dial = dial
        seen = [talk.ask(chat()) for _ in range(4)]
        assert [answer.status for answer in seen] == [504 if dial == "timeout" else 502] * 3 + [503]
        assert [answer.header("retry-after") for answer in seen[:3]] == ["7"] * 3
        assert seen[3].header("retry-after")
        assert talk.engines[0].engine.breaker.dials == (dial != "ok"), "what a probe may find to be over"


class TestFull:
    """The engine that is left has no room: the request waits for it, and not for the one that has refused it."""

    @staticmethod
    @contextmanager
    def busy(**settings: Any) -> Iterator[tuple[Conversation, HandClient]]:
        """The first engine refuses; the second has one place, taken by the client that is given."""
        settings = {"retry_statuses": BACK_PRESSURE, "engine_max_concurrent": 1, "retry_budget_percent": 100, **settings}
        with row(status(503), silent, **settings) as talk:
            first = talk.client().says(chat())
            talk.passes(0.05)
            assert talk.asked == [1, 1]
            yield talk, first

    def test_S2_a_retry_waits_for_room(self) -> None:
        with self.busy() as (talk, first):
            second = talk.client().says(chat())
            talk.passes(0.05)
            assert (talk.waiting, talk.asked) == (1, [2, 1])
            talk.engines[1].play = fine
            talk.engines[1].last.says(ok())
            for client in (first, second):
                client.sees(200)
            assert talk.asked == [2, 2]
            assert [record["queued_s"] >= 0 for record in talk.records] == [False, True]

    def test_S2_the_place_that_a_retry_leaves_goes_to_whoever_waits(self) -> None:
        """At once, though the one who leaves it has not come to its end: it waits for the other engine now."""
        settings = {"retry_statuses": BACK_PRESSURE, "engine_max_concurrent": 1, "retry_budget_percent": 100}
        with row(silent, silent, **settings) as talk:
            one, two = talk.engines
            first, second = (talk.client().says(chat()) for _ in range(2))
            third = talk.client().says(chat())
            assert (talk.waiting, talk.asked) == (1, [1, 1])
            status(503)(one.last)
            assert (talk.waiting, talk.asked) == (0, [2, 1])
            talk.passes(0.05)
            assert talk.waiting == 1
            two.last.says(ok())
            second.sees(200)
            assert talk.asked == [2, 2]
            for engine, client in ((one, third), (two, first)):
                engine.last.says(ok())
                client.sees(200)

    def test_S2_a_client_that_leaves_there_is_forgotten(self) -> None:
        with self.busy() as (talk, first):
            second = talk.client().says(chat())
            talk.passes(0.05)
            assert talk.waiting == 1
            second.leaves()
            assert talk.waiting == 0
            talk.engines[1].last.says(ok())
            first.sees(200)
            assert talk.asked == [2, 1]

    def test_S2_its_time_there_ends_like_any_other(self) -> None:
        with self.busy(queue_timeout_s=0.15) as (talk, first):
            answer = talk.ask(chat())
            assert (answer.status, answer.error["code"]) == (503, "queue_timeout")
            assert int(answer.header("retry-after") or 0) >= 1
            talk.engines[1].last.says(ok())
            first.sees(200)

    def test_S2_nobody_waits_where_nobody_shall(self) -> None:
        with self.busy(on_capacity="reject") as (talk, first):
            answer = talk.ask(chat())
            assert (answer.status, answer.error["code"]) == (429, "at_capacity")
            assert talk.asked == [2, 1]
            talk.engines[1].last.says(ok())
            first.sees(200)


class TestBackoff:
    def test_S2_waits_double_and_differ(self) -> None:
        """Full jitter: a retry waits a chance share of 25 ms, 50 ms, 100 ms, 200 ms. Measured at the engines."""
        crowd = 40
        came: list[dict[bytes, float]] = [{} for _ in range(5)]

        def noted(at: int, play: Play) -> Play:
            def playing(asked: HandStream) -> None:
                came[at][asked.request_id] = talk.loop.now
                play(asked)

            return playing

        plays = [noted(at, play) for at, play in enumerate([status(503)] * 4 + [fine])]
        with row(*plays, retry_statuses=BACK_PRESSURE, max_retries=4) as talk:
            talk.core.budget = RetryBudget(1.0, 1000.0)  # what is measured here is not the share
            clients = [talk.client().says(chat()) for _ in range(crowd)]
            talk.passes(1.0)
            for client in clients:
                client.sees(200)
            assert talk.asked == [crowd] * 5
        gaps = [[came[at + 1][name] - came[at][name] for name in came[0]] for at in range(4)]
        for at, span in enumerate((0.025, 0.05, 0.1, 0.2)):
            assert min(gaps[at]) >= 0.0
            assert max(gaps[at]) <= span
            assert statistics.stdev(gaps[at]) > span * 0.1
        means = [statistics.fmean(row) for row in gaps]
        assert means[3] > means[2] > means[0]
        assert means[3] > 2.5 * means[0]

    def test_S2_a_client_that_leaves_meanwhile_is_the_end_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fastgw.exchange.asking.backoff_s", lambda attempt, chance: 0.15)
        with row(status(503), fine, retry_statuses=BACK_PRESSURE) as talk:
            leaver = talk.client().says(chat())
            assert talk.stats.retries_total == 1
            leaver.leaves("reset")
            talk.passes(0.25)
            assert talk.asked == [1, 0]
            assert [(record["status"], record["outcome"]) for record in talk.records] == [(499, "client_closed")]

    def test_S2_its_own_deadline_holds_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fastgw.exchange.asking.backoff_s", lambda attempt, chance: 5.0)
        with row(status(503), fine, retry_statuses=BACK_PRESSURE) as talk:
            begun = talk.loop.now
            answer = talk.ask(chat(headers=[("x-request-timeout-ms", "150")]))
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            assert 0.15 <= talk.loop.now - begun <= 0.35
            assert talk.asked == [1, 0]
