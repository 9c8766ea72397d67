"""Who is refused: told the longest wait of all that refuse, each a time of his own, and charged for nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.net.clock import micros
from tests.conversations.test_queue import answered, begun, finish
from tests.e2e.gate import tagged
from tests.e2e.metered import KEY, assert_limited, estimate, prompt_tokens, say
from tests.support.answers import RawResponse
from tests.support.byhand.engine import HandStream
from tests.support.conversation import Conversation, conversation
from tests.support.requests import chat, request
from tests.support.scripts import ok

LIMITS: dict[str, Any] = {"rate_limit_per_minute": 60, "key_burst": 20, "tokens_per_minute": 6000, "daily_token_quota": 50_000}
KEYED: dict[str, Any] = {"api_keys": (KEY,)}
FORM = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n--b--\r\n'


def counting(asked: HandStream) -> None:
    """An engine that makes fifty tokens, or as many as it may, and says so."""
    made = min(asked.json().get("max_tokens", 50), 50) if asked.body.startswith(b"{") else 1
    usage = {"prompt_tokens": prompt_tokens(), "completion_tokens": made}
    asked.says(ok(json.dumps({"usage": usage}).encode()))


def wait_s(answer: RawResponse) -> float:
    return int(answer.header("retry-after-ms") or "") / 1e3


def books(talk: Conversation) -> tuple[int, int, int, int]:
    """What is left of requests and tokens per minute, and taken of the day."""
    found = talk.usage(KEY)
    return found["requests_remaining"], found["tokens_remaining"], found["quota_reserved"], found["total_tokens"]


class TestTogether:
    """One decision: a refusal by one limit spends nothing on the others."""

    def test_a_refusal_for_tokens_counts_no_request(self) -> None:
        with conversation(1, counting, **KEYED, rate_limit_per_minute=6, key_burst=3, tokens_per_minute=600) as talk:
            assert talk.ask(say(500 - estimate())).status == 200
            meter = talk.account().tokens
            assert meter is not None
            meter.charge(micros(talk.loop.now), 450)
            for _ in range(5):
                refused = talk.ask(say(300))
                assert_limited(refused, "rate_limit_exceeded")
                assert "Too many tokens" in refused.error["message"]
            assert books(talk)[0] == 2, "three, and one was admitted"
            assert talk.asked == [1]
            assert (talk.stats.limited_tokens, talk.stats.limited_requests) == (5, 0)

    def test_a_refusal_for_requests_takes_no_tokens_and_is_told_the_longer_wait(self) -> None:
        with conversation(1, counting, **KEYED, rate_limit_per_minute=60, key_burst=1, tokens_per_minute=600) as talk:
            assert talk.ask(say(50)).status == 200
            before = books(talk)
            few, many = talk.ask(say(5)), talk.ask(say(600 - estimate()))
            assert "Too many requests" in few.error["message"]
            assert wait_s(few) == 1.0
            assert "Too many tokens" in many.error["message"]
            assert wait_s(many) > 5.0
            assert books(talk) == before, "no time has passed, and nothing was taken"
            assert talk.asked == [1]

    def test_a_refusal_by_the_days_quota_takes_nothing_of_the_minute(self) -> None:
        limits = {"rate_limit_per_minute": 6, "tokens_per_minute": 6000, "daily_token_quota": 1000}
        with conversation(1, counting, **KEYED, **limits) as talk:
            talk.account().ledger.settle(talk.core.today, 0, 900, 0, False)
            assert_limited(talk.ask(say(200)), "daily_quota_exceeded")
            assert books(talk)[:3] == (6, 6000, 0)

    @pytest.mark.parametrize("limit", [{"rate_limit_per_minute": 120, "key_burst": 1}, {"tokens_per_minute": 12_000}])
    def test_obeying_once_is_enough_and_a_moment_less_is_not(self, limit: dict[str, int]) -> None:
        with conversation(1, counting, **KEYED, **limit) as talk:
            meter = talk.account().tokens or talk.account().requests
            assert meter is not None
            meter.charge(micros(talk.loop.now), 60 if meter.rate == 12_000 else 1)
            data = say(12_000 - estimate()) if meter.rate == 12_000 else say(1)
            refused = talk.ask(data)
            assert refused.status == 429
            talk.passes(wait_s(refused) - 0.01)
            assert talk.ask(data).status == 429
            talk.passes(0.01)
            assert talk.ask(data).status == 200

    @pytest.mark.parametrize("more", [{}, {"tokens_per_minute": 6000}, {"daily_token_quota": 6000}], ids=str)
    def test_rubbish_counts_as_a_request_with_every_kind_of_limit(self, more: dict[str, Any]) -> None:
        with conversation(1, counting, **KEYED, rate_limit_per_minute=6, key_burst=3, **more) as talk:
            client = talk.client()
            for data in [chat(body=b"{", key=KEY)] * 2 + [say(1)] * 2:
                client.says(data)
            assert [answer.status for answer in client.answers] == [400, 400, 200, 429]
            assert [answer.header("x-ratelimit-remaining-requests") for answer in client.answers] == ["2", "1", "0", "0"]
            assert books(talk)[0] == 0

    def test_an_upload_is_counted_when_it_goes_and_refused_before_it_comes(self) -> None:
        with conversation(1, counting, **KEYED, rate_limit_per_minute=6, key_burst=2, tokens_per_minute=60_000) as talk:
            lines = [("Content-Type", "multipart/form-data; boundary=b")]
            data = request("POST", "/v1/audio/transcriptions", headers=lines, body=FORM, key=KEY)
            for left in ("1", "0"):
                answer = talk.ask(data)
                assert (answer.status, answer.header("x-ratelimit-remaining-requests")) == (200, left)
            refused = talk.client().says(data[: data.index(b"\r\n\r\n") + 4]).seen  # its body never comes
            assert_limited(refused, "rate_limit_exceeded")
            assert "Too many requests" in refused.error["message"]
            assert talk.asked == [2]


class TestReserved:
    def test_what_others_hold_is_no_reason_to_wait_for_midnight(self) -> None:
        with conversation(1, **KEYED, daily_token_quota=5000) as talk:
            [engine] = talk.engines
            [first] = begun(talk, "a", waiting=0, key=KEY, max_tokens=4000)
            refused = talk.ask(tagged("b", key=KEY, max_tokens=2000))
            assert (refused.status, refused.error["code"]) == (429, "daily_quota_reserved")
            assert refused.header("x-should-retry") is None
            assert 1.0 <= wait_s(refused) <= 60.0
            assert talk.stats.quota_refused == 1
            finish(engine)
            first.sees(200)
            engine.play = answered
            assert talk.ask(tagged("b", key=KEY, max_tokens=2000)).status == 200


class TestNoRoom:
    """What was taken for a request that found no room comes back: no engine has been asked."""

    @pytest.mark.parametrize("reason", ["at_capacity", "concurrency_exceeded"])
    def test_rejected(self, reason: str) -> None:
        more = {"engine_max_concurrent": 1} if reason == "at_capacity" else {"key_concurrency": 1}
        with conversation(1, **KEYED, on_capacity="reject", **LIMITS, **more) as talk:
            [first] = begun(talk, "a", waiting=0, key=KEY, max_tokens=100)
            before = books(talk)
            told = []
            for _ in range(10):
                answer = talk.ask(tagged("b", key=KEY, max_tokens=500))
                assert (answer.status, answer.error["code"]) == (429, reason)
                told.append(wait_s(answer))
            assert len(set(told[1:])) >= len(told[1:]) - 3, "each has a time of his own, but for chance, in milliseconds"
            assert books(talk) == before
            finish(talk.engines[0])
            first.sees(200)

    @pytest.mark.parametrize("own", [False, True])
    def test_waited_in_vain(self, own: bool) -> None:
        headers = (("x-request-timeout-ms", "300"),) if own else ()
        settings = {**KEYED, **LIMITS, "engine_max_concurrent": 1, "queue_timeout_s": 30.0 if own else 0.3}
        with conversation(1, **settings) as talk:
            [first] = begun(talk, "a", waiting=0, key=KEY, max_tokens=100)
            before = books(talk)
            late = begun(talk, *"bcdefg", waiting=6, key=KEY, max_tokens=500, headers=headers)
            assert books(talk)[0] == before[0] - 6
            talk.passes(0.51)
            seen = [client.sees(503, "queue_timeout") for client in late]
            assert len({one.header("retry-after-ms") for one in seen}) >= 4, "each has a time of his own, but for chance"
            after = books(talk)
            assert after[0] >= before[0]
            assert after[1] >= before[1]
            assert after[2] == before[2]
            finish(talk.engines[0])
            first.sees(200)

    def test_what_decayed_while_it_waited_does_not_come_back(self) -> None:
        """Or a burst could be saved up in the queue."""
        settings = {**KEYED, "rate_limit_per_minute": 600, "key_burst": 2, "engine_max_concurrent": 1, "queue_timeout_s": 0.5}
        with conversation(1, **settings) as talk:
            [engine] = talk.engines
            first, late = begun(talk, "a", "b", waiting=1, key=KEY)
            talk.passes(0.7)
            late.sees(503)
            engine.play = answered
            finish(engine)
            first.sees(200)
            meter = talk.account().requests
            assert meter is not None
            assert meter.left(micros(talk.loop.now)) <= 2
            seen = [talk.ask(tagged("c", key=KEY)).status for _ in range(4)]
            assert seen.count(200) == 2


class TestCrowd:
    def test_the_clients_of_one_address_are_told_different_times_and_get_in(self) -> None:
        with conversation(1, counting, **KEYED, rate_limit_per_second=100, rate_limit_burst=50) as talk:
            tries: list[int] = []
            data = say(1)

            def one(turn: int) -> None:
                answer = talk.client().says(data).seen
                if answer.status == 200:
                    tries.append(turn)
                else:
                    talk.loop.call_later(wait_s(answer), one, turn + 1)

            for _ in range(200):
                one(1)
            talk.passes(3.0)
            assert len(tries) == 200
            assert max(tries) <= 3
            assert sum(tries) <= 2.6 * 200


def test_a_limit_lowered_and_raised_again_gives_nothing_back() -> None:
    with conversation(1, counting, **KEYED, rate_limit_per_minute=60, key_burst=5) as talk:
        assert [talk.ask(say(1)).status for _ in range(5)] == [200] * 5
        meter = talk.account().requests
        assert meter is not None
        meter.change(1, 1, meter.at_us)
        meter.change(60, 5, meter.at_us)
        assert talk.ask(say(1)).status == 429
