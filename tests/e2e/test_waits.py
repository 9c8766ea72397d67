"""Who is refused: told the longest wait of all that refuse, each a time of his own, and charged for nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.e2e.gate import QUIET, Gate, asking, tagged, waiting
from tests.e2e.metered import KEY, account_of, ask, assert_limited, estimate, metered, once, posts, say, usage_of, wait_as_told
from tests.e2e.test_cases_j_limits import answers
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.gateway import Running, running

pytestmark = pytest.mark.together

LIMITS: dict[str, Any] = {"rate_limit_per_minute": 60, "key_burst": 20, "tokens_per_minute": 6000, "daily_token_quota": 50_000}
FORM = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n--b--\r\n'


def wait_s(answer: RawResponse) -> float:
    return int(answer.header("retry-after-ms") or "") / 1e3


async def books(gw: Running, key: str | None = KEY) -> tuple[int, int, int, int]:
    """What is left of requests and tokens per minute, and taken of the day."""
    found = await usage_of(gw, key)
    return found["requests_remaining"], found["tokens_remaining"], found["quota_reserved"], found["total_tokens"]


class TestTogether:
    """One decision: a refusal by one limit spends nothing on the others."""

    async def test_a_refusal_for_tokens_counts_no_request(self) -> None:
        async with metered(rate_limit_per_minute=6, key_burst=3, tokens_per_minute=600) as (gw, sim, client):
            assert (await ask(client, say(500 - estimate()))).status == 200
            account_of(gw).tokens.charge(account_of(gw).tokens.at_us, 450)  # type: ignore[union-attr]
            for _ in range(5):
                refused = await ask(client, say(300))
                assert_limited(refused, "rate_limit_exceeded")
                assert "Too many tokens" in refused.error["message"]
            assert (await books(gw))[0] == 2, "three, and one was admitted"
            assert len(posts(sim)) == 1
            assert (gw.stats.limited_tokens, gw.stats.limited_requests) == (5, 0)

    async def test_a_refusal_for_requests_takes_no_tokens_and_is_told_the_longer_wait(self) -> None:
        async with metered(rate_limit_per_minute=60, key_burst=1, tokens_per_minute=600) as (gw, sim, client):
            assert (await ask(client, say(50))).status == 200
            await gw.idle()
            before = await books(gw)
            few, many = await answers(client, say(5) + say(600 - estimate()), 2)
            assert "Too many requests" in few.error["message"]
            assert wait_s(few) <= 1.0
            assert "Too many tokens" in many.error["message"]
            assert wait_s(many) > 5.0
            after = await books(gw)
            assert 0 <= after[1] - before[1] <= 10, "they come back as time passes, and none was taken"
            assert len(posts(sim)) == 1

    async def test_a_refusal_by_the_days_quota_takes_nothing_of_the_minute(self) -> None:
        async with metered(rate_limit_per_minute=6, tokens_per_minute=6000, daily_token_quota=1000) as (gw, _, client):
            account_of(gw).ledger.settle(gw.gateway.core.today, 0, 900, 0, False)  # type: ignore[union-attr]
            refused = await ask(client, say(200))
            assert_limited(refused, "daily_quota_exceeded")
            assert (await books(gw))[:3] == (6, 6000, 0)

    @pytest.mark.parametrize("limit", [{"rate_limit_per_minute": 120, "key_burst": 1}, {"tokens_per_minute": 12_000}])
    async def test_obeying_once_is_enough(self, limit: dict[str, int]) -> None:
        async with metered(**limit) as (gw, _, client):
            meter = account_of(gw).tokens or account_of(gw).requests
            assert meter is not None
            meter.charge(int(time.monotonic() * 1e6), 60 if meter.rate == 12_000 else 1)
            data = say(12_000 - estimate()) if meter.rate == 12_000 else say(1)
            refused = await ask(client, data)
            assert refused.status == 429
            await wait_as_told(refused)
            assert (await ask(client, data)).status == 200

    async def test_rubbish_counts_as_a_request_with_every_kind_of_limit(self) -> None:
        for more in ({}, {"tokens_per_minute": 6000}, {"daily_token_quota": 6000}):
            async with metered(rate_limit_per_minute=6, key_burst=3, **more) as (gw, _, client):
                seen = await answers(client, chat(body=b"{", key=KEY) * 2 + say(1) * 2, 4)
                assert [answer.status for answer in seen] == [400, 400, 200, 429], more
                assert [answer.header("x-ratelimit-remaining-requests") for answer in seen] == ["2", "1", "0", "0"]
                await gw.idle()
                assert (await books(gw))[0] == 0

    async def test_an_upload_is_counted_when_it_goes_and_refused_before_it_comes(self) -> None:
        async with metered(rate_limit_per_minute=6, key_burst=2, tokens_per_minute=600) as (gw, sim, client):
            lines = [("Content-Type", "multipart/form-data; boundary=b")]
            data = request("POST", "/v1/audio/transcriptions", headers=lines, body=FORM, key=KEY)
            for left in ("1", "0"):
                answer = await ask(client, data)
                assert answer.header("x-ratelimit-remaining-requests") == left
            await gw.idle()
            came = len(posts(sim))
            head = data[: data.index(b"\r\n\r\n") + 4]
            refused = await ask(client, head)  # its body never comes
            assert_limited(refused, "rate_limit_exceeded")
            assert len(posts(sim)) == came


class TestReserved:
    async def test_what_others_hold_is_no_reason_to_wait_for_midnight(self) -> None:
        async with (
            Gate() as engine,
            running([engine.url], api_keys=(KEY,), **QUIET, daily_token_quota=5000) as gw,
            asking(gw) as ask_,
        ):
            first = await ask_(tagged("a", key=KEY, max_tokens=4000))
            await engine.has("a")
            refused = await (await ask_(tagged("b", key=KEY, max_tokens=2000))).answer()
            assert (refused.status, refused.error["code"]) == (429, "daily_quota_reserved")
            assert refused.header("x-should-retry") is None
            assert 1.0 <= wait_s(refused) <= 60.0
            assert gw.stats.quota_refused == 1
            engine.finish()
            assert (await first.answer()).status == 200
            again = await ask_(tagged("b", key=KEY, max_tokens=2000))
            await engine.has("b")
            engine.finish()
            assert (await again.answer()).status == 200


class TestNoRoom:
    """What was taken for a request that found no room comes back: no engine has been asked."""

    @pytest.mark.parametrize("reason", ["at_capacity", "concurrency_exceeded"])
    async def test_rejected(self, reason: str) -> None:
        more = {"engine_max_concurrent": 1} if reason == "at_capacity" else {"key_concurrency": 1}
        async with (
            Gate() as engine,
            running([engine.url], api_keys=(KEY,), on_capacity="reject", **QUIET, **LIMITS, **more) as gw,
            asking(gw) as ask_,
        ):
            first = await ask_(tagged("a", key=KEY, max_tokens=100))
            await engine.has("a")
            before = await books(gw)
            told = []
            for _ in range(10):
                answer = await (await ask_(tagged("b", key=KEY, max_tokens=500))).answer()
                assert (answer.status, answer.error["code"]) == (429, reason)
                told.append(wait_s(answer))
            assert len(set(told[1:])) == len(told[1:]), "each has a time of his own"
            after = await books(gw)
            assert after[0] >= before[0]
            assert after[1] >= before[1]
            assert after[2] == before[2]
            engine.finish()
            assert (await first.answer()).status == 200

    @pytest.mark.parametrize("own", [False, True])
    async def test_waited_in_vain(self, own: bool) -> None:
        timeout_s = 30.0 if own else 0.3
        headers = (("x-request-timeout-ms", "300"),) if own else ()
        async with (
            Gate() as engine,
            running(
                [engine.url], api_keys=(KEY,), engine_max_concurrent=1, queue_timeout_s=timeout_s, **QUIET, **LIMITS
            ) as gw,
            asking(gw) as ask_,
        ):
            first = await ask_(tagged("a", key=KEY, max_tokens=100))
            await engine.has("a")
            before = await books(gw)
            late = [await ask_(tagged("b", key=KEY, max_tokens=500, headers=headers)) for _ in range(6)]
            await waiting(gw, 6)
            held = await books(gw)
            assert held[0] <= before[0] - 5
            seen = [await one.answer() for one in late]
            assert {(one.status, one.error["code"]) for one in seen} == {(503, "queue_timeout")}
            assert len({one.header("retry-after-ms") for one in seen}) >= 5, "each has a time of his own"
            after = await books(gw)
            assert after[0] >= before[0]
            assert after[1] >= before[1]
            assert after[2] == before[2]
            engine.finish()
            assert (await first.answer()).status == 200

    async def test_what_decayed_while_it_waited_does_not_come_back(self) -> None:
        """Or a burst could be saved up in the queue."""
        limits = {"rate_limit_per_minute": 600, "key_burst": 2}
        async with (
            Gate() as engine,
            running([engine.url], api_keys=(KEY,), engine_max_concurrent=1, queue_timeout_s=0.5, **QUIET, **limits) as gw,
            asking(gw) as ask_,
        ):
            first = await ask_(tagged("a", key=KEY))
            await engine.has("a")
            late = await ask_(tagged("b", key=KEY))
            await waiting(gw, 1)
            assert (await late.answer()).status == 503
            engine.auto_s = 0.0
            engine.finish()
            assert (await first.answer()).status == 200
            meter = account_of(gw).requests
            assert meter is not None
            assert meter.left(meter.at_us) <= 2
            await gw.idle()
            seen = [(await once(gw, tagged("c", key=KEY))).status for _ in range(4)]
            assert seen.count(200) <= 3


class TestCrowd:
    @pytest.mark.deadline_s(30)
    async def test_the_clients_of_one_address_are_told_different_times_and_get_in(self) -> None:
        async with metered(rate_limit_per_second=100, rate_limit_burst=50) as (gw, _, _):
            tries: list[int] = []

            async def one() -> None:
                async with RawClient.connect(gw.url) as client:
                    for turn in range(1, 10):
                        answer = await ask(client, request("GET", "/v1/models", key=KEY))
                        if answer.status == 200:
                            tries.append(turn)
                            return
                        await wait_as_told(answer)

            began = time.monotonic()
            await asyncio.gather(*[one() for _ in range(200)])
            took = time.monotonic() - began
            assert len(tries) == 200
            assert max(tries) <= 4, "three, and one for a machine that is busy"
            assert sum(tries) <= 2.6 * 200
            assert took <= 2 * 1.5 + 1.0


async def test_a_limit_lowered_and_raised_again_gives_nothing_back() -> None:
    async with metered(rate_limit_per_minute=60, key_burst=5) as (gw, _, client):
        assert [answer.status for answer in await answers(client, say(1) * 5, 5)] == [200] * 5
        meter = account_of(gw).requests
        assert meter is not None
        meter.change(1, 1, meter.at_us)
        meter.change(60, 5, meter.at_us)
        assert (await ask(client, say(1))).status == 429
