"""The daily quota over real sockets (J2): hit exactly, by a crowd, and over midnight.

The simulator's own count of each request is worked out in ``metered``; neither side's book is taken at its word.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from time import time

import pytest

from tests.e2e.metered import (
    CONTENT,
    KEY,
    OTHER_KEY,
    Watch,
    account_of,
    ask,
    assert_exhausted,
    assert_limited,
    estimate,
    metered,
    posts,
    prompt_tokens,
    say,
    settled,
    spent,
    usage_of,
)
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running

DAY_S = 86_400
CODE = "daily_quota_exceeded"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"


class TestJ2Edge:
    """Reserve all or refuse: to the token."""

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(("spare", "status"), [(-1, 429), (0, 200), (1, 200)])
    async def test_J2_the_first_request_fits_exactly_or_not_at_all(self, spare: int, status: int, stream: bool) -> None:
        async with metered(daily_token_quota=estimate() + 20 + spare) as (gw, sim, client):
            answer = await ask(client, say(20, stream=stream))
            assert answer.status == status
            if status == 429:
                # Not even with the whole day before it: waiting for midnight would not help.
                assert_limited(answer, "request_exceeds_limit")
                assert (answer.header("retry-after"), answer.header("x-should-retry")) == (None, "false")
                assert f"{estimate() + 20} tokens" in answer.error["message"]
            assert len(posts(sim)) == (status == 200)
            found = await settled(gw)
            assert spent(found) == ((prompt_tokens(), 20) if status == 200 else (0, 0))

    @pytest.mark.parametrize(("spare", "status"), [(-1, 429), (0, 200), (1, 200)])
    async def test_J2_what_was_used_and_what_is_asked_for_meet_the_limit(self, spare: int, status: int) -> None:
        used = prompt_tokens() + 20
        async with metered(daily_token_quota=used + estimate() + 5 + spare) as (gw, _, client):
            assert (await ask(client, say(20))).status == 200
            assert (await settled(gw))["quota_remaining"] == estimate() + 5 + spare
            assert (await ask(client, say(5))).status == status

    async def test_J2_used_up_to_the_last_token(self) -> None:
        """A quota that was met exactly is spent; its refusals need no body, and cost nothing."""
        async with metered(daily_token_quota=estimate() + 20) as (gw, sim, client):
            more = estimate() + 20 - prompt_tokens()  # the engine gives more than it was asked for
            assert (await ask(client, say(20, fault=f"tokens={more}"))).status == 200
            assert (await settled(gw))["quota_remaining"] == 0
            for data in (say(1), say(1, stream=True), say(1, path="/v1/completions")):
                assert_exhausted(await ask(client, data))
            found = await settled(gw)
            assert (found["requests"], found["total_tokens"]) == (1, estimate() + 20)
            assert len(posts(sim)) == 1
            assert gw.stats.quota_refused == 3
            # What costs no tokens is served, and so is another key.
            assert (await ask(client, request("GET", "/v1/models", key=KEY))).status == 200
            assert (await ask(client, say(1, key=OTHER_KEY))).status == 200

    async def test_J2_an_engine_that_gives_more_than_reserved_is_counted_in_full(self) -> None:
        async with metered(daily_token_quota=300) as (gw, _, client):
            assert (await ask(client, say(10, fault="tokens=500"))).status == 200
            found = await settled(gw)
            assert spent(found) == (prompt_tokens(), 500)
            assert found["quota_remaining"] == 0
            assert_exhausted(await ask(client, say(1)))

    async def test_J2_streams_and_plain_answers_cost_the_same(self) -> None:
        async with metered(daily_token_quota=10_000) as (gw, _, client):
            for stream in (False, True):
                assert (await ask(client, say(33, stream=stream))).status == 200
            found = await settled(gw)
            assert spent(found) == (2 * prompt_tokens(), 66)
            assert found["estimated_tokens"] == 0

    async def test_J2_a_refusal_tells_the_log_why(self) -> None:
        async with metered(daily_token_quota=10) as (gw, _, client):
            await ask(client, say(20))
            await gw.idle()
            (record,) = gw.records
            assert (record["status"], record["outcome"], record["error"]) == (429, "error", "request_exceeds_limit")
            assert (record["prompt_tokens"], record["completion_tokens"]) == (-1, -1)


LONG = 10 * CONTENT  # most of it is prompt, and the gateway's estimate near what the engine counts


async def crowd(gw: Running, requests: list[bytes], connections: int) -> list[RawResponse]:
    """All requests at once, over so many connections, each of which sends its share in one go."""
    turns = [requests[at::connections] for at in range(connections)]

    async def one(data: list[bytes]) -> list[RawResponse]:
        async with RawClient.connect(gw.url) as client:
            await client.send(b"".join(data))
            return [await client.read_response(20.0) for _ in data]

    return [answer for some in await asyncio.gather(*map(one, turns)) for answer in some]


class TestJ2Crowd:
    """A thousand at once: not one token over, where the answers are bounded."""

    @pytest.mark.parametrize("spare", [-1, 0, 1])
    async def test_J2_a_thousand_parallel_requests_never_overshoot(self, spare: int) -> None:
        cost = estimate(LONG) + 8
        quota = 100 * cost + spare
        async with metered({"record": 2000}, daily_token_quota=quota) as (gw, sim, _):
            async with Watch(gw):
                answers = await crowd(gw, [say(8, stream=bool(turn % 2), content=LONG) for turn in range(1000)], 250)
            found = await settled(gw)
        well = [answer for answer in answers if answer.status == 200]
        assert len(posts(sim)) == len(well) == found["requests"]
        assert spent(found) == (prompt_tokens(LONG) * len(well), 8 * len(well))
        assert found["total_tokens"] <= quota
        # What was given back let others in, until not even one more fitted.
        assert quota - found["total_tokens"] < cost
        for answer in answers:
            if answer.status != 200 and answer.error["code"] == "daily_quota_reserved":
                # What others had reserved may come back, and does: nobody is told to wait for midnight.
                assert answer.header("x-should-retry") is None
                assert 1 <= int(answer.header("retry-after") or "") <= 60
            elif answer.status != 200:
                assert_exhausted(answer)

    async def test_J2_where_engines_give_more_the_overshoot_is_what_was_under_way(self) -> None:
        cost = estimate() + 8
        quota = 50 * cost
        async with metered({"record": 2000}, daily_token_quota=quota) as (gw, sim, _):
            answers = await crowd(gw, [say(8, fault="tokens=11") for _ in range(1000)], 250)
            found = await settled(gw)
        admitted = len(posts(sim))
        assert admitted == sum(answer.status == 200 for answer in answers)
        assert spent(found) == (prompt_tokens() * admitted, 11 * admitted)
        assert found["total_tokens"] <= quota + 3 * 50, "each of those that fitted at once gave three more"

    async def test_J2_keys_do_not_share_a_quota(self) -> None:
        cost = estimate(LONG) + 4
        async with metered({"record": 500}, daily_token_quota=20 * cost) as (gw, _, _):
            turns = [say(4, key=(KEY, OTHER_KEY)[turn % 2], content=LONG) for turn in range(120)]
            answers = await crowd(gw, turns, 30)
            totals = [(await settled(gw, key))["total_tokens"] for key in (KEY, OTHER_KEY)]
        assert {answer.status for answer in answers} == {200, 429}
        assert all(20 * cost - cost < total <= 20 * cost for total in totals)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the system's clock says beyond the truth, for those who count days."""
    ahead = [0.0]
    monkeypatch.setattr("fastgw.housekeeping.time", lambda: time() + ahead[0])
    return ahead


def today(gw: Running) -> int:
    core = gw.gateway.core
    assert core is not None
    return int(core.today)


class TestJ2Midnight:
    """At midnight UTC a quota is whole again, whichever way the clock gets there."""

    async def test_J2_midnight_gives_a_new_quota(self, clock: list[float]) -> None:
        async with metered(daily_token_quota=estimate() + 20) as (gw, _, client):
            assert (await ask(client, say(20))).status == 200
            assert_exhausted(await ask(client, say(20)))
            before = (await usage_of(gw))["date"]
            clock[0] = DAY_S
            day = today(gw)
            await gw.until("midnight", lambda: today(gw) == day + 1)
            found = await usage_of(gw)
            assert datetime.fromisoformat(found["date"]) > datetime.fromisoformat(before)
            assert (spent(found), found["requests"]) == ((0, 0), 0)
            assert found["quota_remaining"] == found["quota"]
            assert (await ask(client, say(20))).status == 200
            assert_exhausted(await ask(client, say(20)))

    async def test_J2_a_clock_that_steps_back_finds_its_day_again(self, clock: list[float]) -> None:
        async with metered(daily_token_quota=estimate() + 20) as (gw, _, client):
            day = today(gw)
            assert (await ask(client, say(20))).status == 200
            first = await settled(gw)
            clock[0] = 400 * DAY_S
            await gw.until("another year", lambda: today(gw) == day + 400)
            assert (await ask(client, say(20))).status == 200
            clock[0] = 0.0
            await gw.until("back again", lambda: today(gw) == day)
            assert_exhausted(await ask(client, say(20)))
            assert await settled(gw) == first

    async def test_J2_a_stream_over_midnight_is_charged_once_to_the_day_of_its_end(self, clock: list[float]) -> None:
        async with metered({"itl_ms": 1.0}, daily_token_quota=estimate() + 2000) as (gw, _, client):
            day = today(gw)
            await client.send(say(2000, stream=True, fault="tokens=400"))
            answer = await client.read_until(await client.read_head(), b"data: ")
            clock[0] = DAY_S
            await gw.until("midnight", lambda: today(gw) == day + 1)
            found = await usage_of(gw)
            assert (found["total_tokens"], found["quota_reserved"]) == (0, estimate() + 2000)
            assert (await client.read_body(answer)).complete
            assert spent(await settled(gw)) == (prompt_tokens(), 400)
            clock[0] = 0.0
            await gw.until("the day before", lambda: today(gw) == day)
            assert spent(await settled(gw)) == (0, 0)

    async def test_J2_retry_after_is_the_time_to_midnight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for of_day, told in ((0.0, 86_401), (86_340.0, 61), (86_399.25, 1), (43_200.5, 43_200)):
            monkeypatch.setattr("fastgw.policy.quota.time", lambda of_day=of_day: 20_000.0 * DAY_S + of_day)
            async with metered(daily_token_quota=100) as (gw, _, client):
                account_of(gw).ledger.settle(today(gw), 0, 90, 0, False)
                answer = await ask(client, say(20))
                assert_limited(answer, CODE)
                assert int(answer.header("retry-after") or "") == told
