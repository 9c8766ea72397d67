"""Retries by policy (S2): of which answers, where to, how often, how soon; what is never sent twice, what is once more, and
what is carried no further."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from fastgw import EngineConfig
from fastgw.limits.budget import RetryBudget
from fastgw.upstream.target import Engine
from tests.support.answers import RawResponse
from tests.support.byhand.client import HandClient
from tests.support.byhand.engine import HandStream, Play
from tests.support.conversation import Conversation, answering, conversation, kills, silent
from tests.support.requests import chat, request
from tests.support.scripts import ANSWER, EVENT, SSE_HEAD, chunk, ok

BACK_PRESSURE = ["429", "502", "503"]
BUSY_BODY = b'{"error":{"message":"later","type":"engine","param":null,"code":"busy"}}'
SECOND = "127.0.0.2"  # another client's address

fine = answering(ok())


def status(number: int, *lines: bytes) -> Play:
    """An engine that answers every request with this."""
    extra = b"".join(line + b"\r\n" for line in lines)
    head = b"HTTP/1.1 %d Busy\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
    return answering(head % (number, len(BUSY_BODY), extra) + BUSY_BODY)


@contextmanager
def row(*plays: Play, **settings: Any) -> Iterator[Conversation]:
    """Engines in a list, asked in its order; ``retry_fresh`` is on only where a test turns it on."""
    settings = {"policy": "ordered", "retry_fresh": False, "cb_failure_threshold": 0, **settings}
    with conversation(len(plays), *plays, **settings) as talk:
        yield talk


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
    """An engine that asks several to leave it alone is left alone by all, for as long as it says and a minute at most."""

    def test_S2_requests_stay_away_from_it_until_then(self) -> None:
        with row(status(503, b"retry-after: 5"), fine, retry_statuses=BACK_PRESSURE) as talk:
            assert talk.ask(chat(), SECOND).status == 200
            begun = talk.loop.now
            assert [talk.ask(chat()).status for _ in range(6)] == [200] * 6
            assert talk.asked == [2, 7]
            assert talk.stats.retries_total == 2
            talk.passes(begun + 4.6 - talk.loop.now)
            assert talk.ask(chat()).status == 200
            assert talk.asked == [2, 8]
            talk.passes(0.5)
            assert talk.ask(chat()).status == 200
            assert talk.asked == [3, 9]

    @pytest.mark.parametrize(
        ("keys", "sources"),
        [((), ("127.0.0.1",)), (("sk-one",), ("127.0.0.1", SECOND))],
        ids=["one address", "one key, from two addresses"],
    )
    def test_S2_what_one_client_may_have_provoked_holds_for_his_request_only(
        self, keys: tuple[str, ...], sources: tuple[str, ...]
    ) -> None:
        """He is served elsewhere each time, and nobody else is kept from the engine."""
        settings = {"retry_statuses": BACK_PRESSURE, "api_keys": keys, "retry_budget_percent": 100}
        with row(status(429, b"retry-after: 60"), fine, **settings) as talk:
            for source in (*sources, *sources):
                assert talk.ask(chat(key=keys[0] if keys else None), source).status == 200
            assert talk.asked == [2 * len(sources)] * 2
            assert talk.engines[0].engine.not_before == 0.0

    def test_S2_two_keys_of_one_address_are_two(self) -> None:
        keys = ("sk-one", "sk-two")
        with row(status(429, b"retry-after: 60"), fine, retry_statuses=BACK_PRESSURE, api_keys=keys) as talk:
            for key in (*keys, *keys):
                assert talk.ask(chat(key=key)).status == 200
            assert talk.asked == [2, 4]

    def test_S2_two_words_that_do_not_meet_are_not_several(self) -> None:
        """What the first was told is over when the second is told."""
        with row(status(429, b"retry-after: 1"), fine, retry_statuses=BACK_PRESSURE) as talk:
            assert talk.ask(chat()).status == 200
            talk.passes(1.05)
            assert talk.ask(chat(), SECOND).status == 200
            assert talk.ask(chat(), SECOND).status == 200
            assert talk.asked == [3, 3]

    def test_S2_no_longer_than_a_minute(self) -> None:
        with row(status(429, b"Retry-After: 86400"), fine, retry_statuses=BACK_PRESSURE) as talk:
            for source in ("127.0.0.1", SECOND):
                assert talk.ask(chat(), source).status == 200
            assert 59 < talk.engines[0].engine.not_before - talk.loop.now <= 60

    def test_S2_when_all_have_asked_for_it_the_client_is_told_when_the_first_is_back(self) -> None:
        plays = (status(503, b"retry-after: 40"), status(503, b"retry-after: 20", b"x-from: second"))
        with row(*plays, retry_statuses=BACK_PRESSURE, retry_budget_percent=100) as talk:
            for source in ("127.0.0.1", SECOND):
                passed_on(talk.ask(chat(), source), 503, x_from="second", retry_after="20")
            answer = talk.ask(chat())
            assert (answer.status, answer.error["type"]) == (503, "upstream_error")
            assert 19 <= int(answer.header("retry-after") or 0) <= 20
            assert talk.asked == [2, 2]

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
        assert engine.not_before == until

    def test_S2_it_holds_for_retry_statuses_only(self) -> None:
        with row(status(503, b"retry-after: 30"), fine) as talk:
            for _ in range(3):
                passed_on(talk.ask(chat()), 503, retry_after="30")
            assert talk.asked == [3, 0]


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


class TestNeverTwice:
    """What may have reached a client, or has gone out of our hands, is not repeated, whatever is configured."""

    SETTINGS: ClassVar[dict[str, Any]] = {
        "retry_statuses": BACK_PRESSURE,
        "retry_fresh": True,
        "max_retries": 5,
        "quarantine_after": 0,
    }

    @pytest.mark.parametrize("how", ["fin", "reset"])
    def test_S2_nothing_after_the_first_byte_of_a_stream(self, how: Any) -> None:
        with row(lambda asked: asked.says(SSE_HEAD + chunk(EVENT)).closes(how), fine, **self.SETTINGS) as talk:
            answer = talk.ask(chat(stream=True))
            assert answer.status == 200
            assert not answer.complete
            assert b"[DONE]" not in answer.body
            assert talk.asked == [1, 0]

    def test_S2_nothing_after_half_a_head(self) -> None:
        with row(lambda asked: asked.says(b"HTTP/1.1 200 OK\r\ncontent-ty").closes(), fine, **self.SETTINGS) as talk:
            answer = talk.ask(chat())
            assert (answer.status, answer.error["code"]) == (502, "bad_gateway")
            assert talk.asked == [1, 0]

    @pytest.mark.parametrize(("failure", "seen"), [(status(503), 503), (kills, 502)], ids=["503", "dies"])
    def test_S2_no_upload_that_has_begun(self, failure: Play, seen: int) -> None:
        head, part, _ = upload()
        with row(silent, fine, **self.SETTINGS) as talk:
            client = talk.client().says(head + part)
            assert not talk.engines[0].last.whole
            failure(talk.engines[0].last)
            client.sees(seen)
            assert (talk.asked, talk.stats.retries_total) == ([1, 0], 0)

    def test_S2_an_upload_that_is_all_here_goes_again_as_it_came(self) -> None:
        head, part, rest = upload()
        with row(status(503), fine, **self.SETTINGS) as talk:
            assert talk.ask(head + part + rest).status == 200
            assert talk.asked == [1, 1]
            assert talk.engines[0].last.body == talk.engines[1].last.body == part + rest


def upload() -> tuple[bytes, bytes, bytes]:
    """(head, the first part with the model, the file) of a transcription."""
    part = b'--xx\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--xx\r\n'
    rest = (
        b'content-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n'
        + bytes(range(256)) * 8
        + b"\r\n--xx--\r\n"
    )
    kind = [("Content-Type", "multipart/form-data; boundary=xx")]
    whole = request("POST", "/v1/audio/transcriptions", headers=kind, body=part + rest)
    return whole[: -len(part + rest)], part, rest


class TestFresh:
    """``retry_fresh``: a connection that died, or stayed silent, under the whole request."""

    @pytest.mark.parametrize(("play", "failures"), [(kills, 1), (silent, 1)], ids=["dies", "silent"])
    def test_S2_it_goes_to_the_next_engine(self, play: Play, failures: int) -> None:
        with row(play, fine, retry_fresh=True, first_byte_timeout_s=3.0) as talk:
            assert talk.ask(chat()).status == 200
            assert talk.asked == [1, 1]
            assert talk.engines[0].engine.failures_total == failures

    @pytest.mark.parametrize(("policy", "asked"), [("ordered", 2), ("round_robin", 1)])
    def test_S2_by_itself_only_in_an_ordered_list(self, policy: str, asked: int) -> None:
        with row(kills, kills, policy=policy, retry_fresh=None, quarantine_after=0) as talk:
            assert talk.ask(chat()).status == 502
            assert sum(talk.asked) == asked


class TestQuarantine:
    """A request that kills the engine that serves it is not carried from one to the next."""

    SETTINGS: ClassVar[dict[str, Any]] = {"retry_fresh": True, "max_retries": 5}

    def test_S2_after_two_engines_it_is_told_why_and_the_third_never_sees_it(self) -> None:
        with row(kills, kills, fine, **self.SETTINGS) as talk:
            answer = talk.ask(chat())
            assert (answer.status, answer.error["type"]) == (422, "invalid_request_error")
            assert answer.error["code"] == "request_quarantined"
            assert "lost its connection" in answer.error["message"]
            assert answer.header("x-should-retry") == "false"
            assert talk.asked == [1, 1, 0]
            assert talk.stats.quarantined == 1
            [record] = talk.records
            assert (record["status"], record["error"]) == (422, "quarantined")
            assert talk.engines[1].engine.name in record["detail"]

    def test_S2_other_requests_go_on_meanwhile(self) -> None:
        def picky(asked: HandStream) -> None:
            (kills if b"poison" in asked.body else fine)(asked)

        with row(picky, picky, picky, **self.SETTINGS) as talk:
            contents = ["poison" if at % 5 == 0 else "bread" for at in range(25)]
            clients = [talk.client().says(chat(content=content)) for content in contents]
            talk.passes(1.0)
            assert [one.seen.status for one in clients] == [422 if content == "poison" else 200 for content in contents]
            assert talk.asked[2] == 0
            assert talk.stats.quarantined == 5

    @pytest.mark.parametrize(
        ("after", "wanted", "asked"), [(1, 422, [1, 0, 0, 0]), (3, 422, [1, 1, 1, 0]), (0, 200, [1, 1, 1, 1])]
    )
    def test_S2_as_many_kills_as_are_configured(self, after: int, wanted: int, asked: list[int]) -> None:
        with row(kills, kills, kills, fine, quarantine_after=after, **self.SETTINGS) as talk:
            assert talk.ask(chat()).status == wanted
            assert talk.asked == asked

    def test_S2_silence_and_refusals_are_no_kills(self) -> None:
        with row(silent, silent, fine, fine, first_byte_timeout_s=0.5, **self.SETTINGS) as talk:
            talk.engines[2].dial = "refused"
            assert talk.ask(chat()).status == 200
            assert talk.asked == [1, 1, 0, 1]

    def test_S2_an_idle_connection_that_was_dead_already_is_no_kill(self) -> None:
        """The engine tidies up between two requests: the second is replayed, and no verdict falls."""

        def once(asked: HandStream) -> None:
            """One answer for each connection."""
            (kills if asked.kept_before else fine)(asked)

        with row(once, quarantine_after=1, retry_fresh=True) as talk:
            client = talk.client()
            for _ in range(4):
                client.says(chat()).sees(200)
            assert talk.stats.replays_total == 3
            assert (talk.stats.quarantined, talk.engines[0].engine.failures_total) == (0, 0)

    def test_a_repeated_request_takes_only_new_connections(self) -> None:
        """Two engines restart at once: what met a dead connection at the first does not meet another at the second."""
        with row(fine, fine, policy="round_robin") as talk:
            client = talk.client()
            for _ in range(2):  # an idle connection to each
                client.says(chat()).sees(200)
            first, second = talk.engines
            assert (first.parked, second.parked) == (1, 1)
            first.play, first.dial = kills, "refused"
            second.play = lambda asked: kills(asked) if asked.kept_before else fine(asked)
            client.says(chat()).sees(200)
            assert (talk.stats.replays_total, talk.stats.failovers_total) == (1, 1)
