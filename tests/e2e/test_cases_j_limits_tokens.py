"""Tokens per minute over real sockets: what a request is expected to cost (S3.6), and the budget that it counts against
(S3.13), reserved when it is admitted and settled when it has ended.
"""

from __future__ import annotations

from time import monotonic

import pytest

from tests.e2e.metered import (
    KEY,
    ask,
    assert_limited,
    estimate,
    left,
    metered,
    posts,
    prompt_tokens,
    say,
    usage_of,
)  # fmt: skip
from tests.support.client import RawClient
from tests.support.gateway import running


class TestTokensPerMinute:
    """Tokens are reserved when a request is admitted and settled when it has ended."""

    async def test_S3_06_a_cost_is_estimated_256_tokens_where_nothing_better_is_known(self) -> None:
        for least, settings in ((256, {}), (100, {"default_cost_tokens": 100})):
            for spare, status in ((-1, 429), (0, 200), (9, 200)):
                async with metered(tokens_per_minute=estimate() + least + spare, **settings) as (_, _, client):
                    answer = await ask(client, say())
                    assert answer.status == status
                    # It is given all that there is.
                    assert left(answer, "tokens") == (0 if status == 200 else estimate() + least - 1)
        async with metered(tokens_per_minute=10_000) as (_, _, client):
            assert left(await ask(client, say()), "tokens") == 10_000 - estimate() - 4096
        async with metered(tokens_per_minute=10_000, default_max_tokens=100) as (_, _, client):
            assert left(await ask(client, say()), "tokens") == 10_000 - estimate() - 100
        async with metered(tokens_per_minute=10_000) as (_, _, client):
            known = await ask(client, say(40))
            assert left(known, "tokens") == 10_000 - estimate() - 40

    async def test_S3_06_every_answer_that_is_asked_for_is_expected(self) -> None:
        async with metered(tokens_per_minute=10_000) as (_, _, client):
            several = await ask(client, say(40, n=3))
            assert left(several, "tokens") == 10_000 - estimate() - 120

    @pytest.mark.parametrize("stream", [False, True])
    async def test_S3_13_a_short_answer_gives_back_what_it_did_not_use(self, stream: bool) -> None:
        async with metered(tokens_per_minute=1000) as (_, _, client):
            began = monotonic()
            first = await ask(client, say(600, stream=stream, fault="tokens=10"))
            second = await ask(client, say(600, stream=stream, fault="tokens=10"))
            regained = (monotonic() - began) * 1000 / 60
            assert (first.status, second.status) == (200, 200)
            assert left(first, "tokens") == 1000 - estimate() - 600
            used = prompt_tokens() + 10
            exact = 1000 - used - estimate() - 600
            assert exact <= left(second, "tokens") <= exact + regained + 1

    async def test_S3_13_what_is_reserved_is_not_admitted_twice(self) -> None:
        async with metered({"itl_ms": 2.0}, tokens_per_minute=1000) as (gw, sim, client):
            async with RawClient.connect(gw.url) as holder:
                await holder.send(say(600, stream=True))
                head = await holder.read_head()
                await holder.read_until(head, b"data: ")
                refused = await ask(client, say(600))
                assert_limited(refused, "rate_limit_exceeded")
                assert int(refused.header("retry-after") or "") > 5
                assert left(refused, "tokens") < 400
                assert gw.stats.limited_tokens == 1
            # The holder has left: what it had reserved and not used is there again.
            await gw.idle()
            assert (await ask(client, say(600, fault="tokens=2"))).status == 200
            assert len(posts(sim)) == 2

    async def test_S3_13_what_can_never_fit_is_told_so(self) -> None:
        async with metered(tokens_per_minute=500) as (_, sim, client):
            refused = await ask(client, say(600))
            assert_limited(refused, "request_exceeds_limit")
            assert refused.header("x-should-retry") == "false"
            assert refused.header("retry-after") is None
            assert (await ask(client, say(500 - estimate()))).status == 200, "exactly as much as there is"
            assert len(posts(sim)) == 1

    async def test_S3_13_more_than_was_expected_is_owed(self) -> None:
        """The engine gave more than was reserved: the next request waits for it."""
        async with metered(tokens_per_minute=1000, default_cost_tokens=10) as (_, _, client):
            assert (await ask(client, say(fault="tokens=1500"))).status == 200
            refused = await ask(client, say(1))
            assert_limited(refused, "rate_limit_exceeded")
            debt = 1500 + prompt_tokens() + estimate() + 1 - 1000
            assert debt * 0.06 - 3 < int(refused.header("retry-after") or "") <= debt * 0.06 + 1

    async def test_S3_13_what_no_engine_has_seen_costs_nothing(self) -> None:
        async with running([], tokens_per_minute=1000, api_keys=(KEY,)) as gw, RawClient.connect(gw.url) as client:
            for _ in range(5):
                assert (await ask(client, say(900))).status == 503
            found = await usage_of(gw)
            assert (found["tokens_per_minute"], found["tokens_remaining"]) == (1000, 1000)
        async with metered({"models": ("sim",)}, tokens_per_minute=1000) as (gw, _, client):
            for _ in range(5):
                assert (await ask(client, say(900, model="nobody"))).status == 404
            assert (await usage_of(gw))["tokens_remaining"] == 1000

    async def test_S3_13_limits_of_requests_and_tokens_are_told_side_by_side(self) -> None:
        async with metered(rate_limit_per_minute=60, tokens_per_minute=6000) as (gw, _, client):
            answer = await ask(client, say(4))
            names = [name for name, _ in answer.headers if name.startswith("x-ratelimit")]
            assert sorted(names) == [f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset")
                                     for unit in ("requests", "tokens")]  # fmt: skip
            found = await usage_of(gw)
            assert found["requests_remaining"] in (59, 60)
            assert found["tokens_remaining"] >= 6000 - prompt_tokens() - 4
