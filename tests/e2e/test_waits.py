"""Who is refused: told the longest wait of all that refuse, each a time of his own, and charged for nothing.

Over sockets; the rest of it is in ``tests/conversations/test_waits.py``.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.metered import KEY, account_of, ask, assert_limited, estimate, metered, posts, say, usage_of, wait_as_told
from tests.e2e.test_cases_j_limits import answers
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running

pytestmark = pytest.mark.together

FORM = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n--b--\r\n'


def wait_s(answer: RawResponse) -> float:
    return int(answer.header("retry-after-ms") or "") / 1e3


async def books(gw: Running, key: str | None = KEY) -> tuple[int, int, int, int]:
    """What is left of requests and tokens per minute, and taken of the day."""
    found = await usage_of(gw, key)
    return found["requests_remaining"], found["tokens_remaining"], found["quota_reserved"], found["total_tokens"]


class TestTogether:
    """One decision: a refusal by one limit spends nothing on the others."""

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
