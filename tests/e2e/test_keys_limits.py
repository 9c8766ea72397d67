"""S2.19: limits of keys that change while traffic runs."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

from tests.e2e.key_place import COST, TOKENS, becomes, place
from tests.e2e.metered import ask, estimate, prompt_tokens, say
from tests.support.client import RawClient


class TestLimits:
    """Limits that change while their key is in use: what was used stays used."""

    async def test_S2_19_daily_tokens(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key(daily_tokens=10_000)
            for _ in range(3):
                assert (await ask(client, say(TOKENS, key=text))).status == 200
            await here.change(id, daily_tokens=3 * COST)
            usage = await here.usage(text)
            assert (usage["total_tokens"], usage["quota"], usage["quota_remaining"]) == (3 * COST, 3 * COST, 0)
            refused = await ask(client, say(TOKENS, key=text))
            assert (refused.status, refused.error["code"]) == (429, "daily_quota_exceeded")
            await here.change(id, daily_tokens=3 * COST + 1000)
            assert (await ask(client, say(TOKENS, key=text))).status == 200
            usage = await here.usage(text)
            assert (usage["total_tokens"], usage["quota_remaining"]) == (4 * COST, 1000 - COST)
            await here.change(id, daily_tokens=0)
            usage = await here.usage(text)
            assert (usage["total_tokens"], usage["quota"], usage["quota_remaining"]) == (4 * COST, -1, -1)

    async def test_S2_19_requests_per_minute(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key(requests_per_minute=1, burst=5)
            data = say(TOKENS, key=text)
            left = [(await ask(client, data)).header("x-ratelimit-remaining-requests") for _ in range(3)]
            assert left == ["4", "3", "2"]
            await here.change(id, burst=3)  # three were used: none is left
            refused = await ask(client, data)
            assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
            await here.change(id, burst=4)
            assert [(await ask(client, data)).status for _ in range(2)] == [200, 429]
            await here.change(id, requests_per_minute=6000, burst=5)
            answer = await becomes(client, data, 200)
            assert answer.header("x-ratelimit-limit-requests") == "6000"
            await here.change(id, requests_per_minute=0)
            assert (await ask(client, data)).header("x-ratelimit-limit-requests") is None

    async def test_S2_19_tokens_per_minute(self, tmp_path: Path) -> None:
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key(tokens_per_minute=1000)
            assert (await ask(client, say(500, key=text))).status == 200
            assert 450 <= (await here.usage(text))["tokens_remaining"] <= 500
            await here.change(id, tokens_per_minute=600)
            assert (await here.usage(text))["tokens_remaining"] < 110, "of 600, more than 500 are used"
            refused = await ask(client, say(200, key=text))
            assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
            assert refused.header("x-ratelimit-limit-tokens") == "600"
            await here.change(id, tokens_per_minute=2000)
            assert (await ask(client, say(200, key=text))).status == 200
            usage = await here.usage(text)
            assert (usage["tokens_per_minute"], usage["completion_tokens"]) == (2000, 700)

    async def test_S2_19_concurrency(self, tmp_path: Path) -> None:
        """More room lets in who waits; less room counts those that are under way."""
        async with place(tmp_path, {"itl_ms": 40}) as here, AsyncExitStack() as stack:
            id, text = await here.key(concurrency=1)
            clients = [await stack.enter_async_context(RawClient.connect(here.gw.url)) for _ in range(3)]
            held = []
            for client in clients[:2]:
                await client.send(say(60, stream=True, key=text))
            held.append(await clients[0].read_head())
            await here.gw.until("the second one waits", lambda: here.gw.stats.queue_waiting_open == 1)
            assert (await here.usage(text))["requests_under_way"] == 1
            await here.change(id, concurrency=2)
            held.append(await clients[1].read_head(1.0))
            await here.change(id, concurrency=1)
            usage = await here.usage(text)
            assert (usage["requests_under_way"], usage["concurrency"]) == (2, 1)
            await clients[2].send(say(1, key=text))
            await here.gw.until("the third one waits", lambda: here.gw.stats.queue_waiting_open == 1)
            for client, head in zip(clients, held, strict=False):
                assert (await client.read_body(head, 10.0)).events()[-1] == "[DONE]"
            assert (await clients[2].read_response()).status == 200
            assert (await here.usage(text))["requests_under_way"] == 0

    async def test_S2_19_a_limit_taken_off_and_set_again_gives_nothing_of_others_back(self, tmp_path: Path) -> None:
        """Who ends then has taken nothing from the new one, and is charged there for what was used."""
        async with place(tmp_path, {"itl_ms": 2}) as here, AsyncExitStack() as stack:
            id, text = await here.key(tokens_per_minute=10_000)
            clients = [await stack.enter_async_context(RawClient.connect(here.gw.url)) for _ in range(2)]
            await clients[0].send(say(9000, stream=True, key=text, fault="tokens=60"))
            first = await clients[0].read_head()
            await here.change(id, tokens_per_minute=0)
            await here.change(id, tokens_per_minute=10_000)
            await clients[1].send(say(9000, stream=True, key=text, fault="tokens=400"))
            second = await clients[1].read_head()
            await clients[0].read_body(first, 10.0)
            await here.gw.until("the first one's end", lambda: here.gw.stats.exchanges_open == 1)
            assert (await here.usage(text))["tokens_remaining"] < 1000
            await clients[1].read_body(second, 10.0)
            await here.gw.until("the second one's end", lambda: here.gw.stats.exchanges_open == 0)
            used = 2 * prompt_tokens() + 460
            assert 10_000 - used <= (await here.usage(text))["tokens_remaining"] <= 10_000 - used + 1000

    async def test_S2_19_priority(self, tmp_path: Path) -> None:
        """The one that was raised goes first, although it came last."""
        async with place(tmp_path, {"itl_ms": 20}, max_concurrent=1) as here, AsyncExitStack() as stack:
            keys = [await here.key() for _ in range(3)]
            clients = [await stack.enter_async_context(RawClient.connect(here.gw.url)) for _ in range(3)]
            await clients[0].send(say(40, stream=True, key=keys[0][1]))
            head = await clients[0].read_head()
            await here.change(keys[2][0], priority="high")
            for waiting in (1, 2):
                await clients[waiting].send(say(1, key=keys[waiting][1]))
                await here.gw.until("it waits", lambda count=waiting: here.gw.stats.queue_waiting_open == count)
            await clients[0].read_body(head, 10.0)
            for client in clients[1:]:
                assert (await client.read_response(10.0)).status == 200
            await here.gw.until("their records", lambda: here.gw.stats.exchanges_open == 0)
            ended = [one["key_id"] for one in here.gw.records]
            assert ended == [keys[0][0], keys[2][0], keys[1][0]]

    async def test_S2_19_what_a_spent_quota_means(self, tmp_path: Path) -> None:
        """refuse until the operator says cut: then the stream begins, and is ended where the quota ends."""
        async with place(tmp_path) as here, RawClient.connect(here.gw.url) as client:
            id, text = await here.key(daily_tokens=COST + 200)
            data = say(1000, stream=True, key=text)
            assert (await ask(client, data)).error["code"] == "request_exceeds_limit"
            await here.change(id, on_exhausted="cut")
            answer = await ask(client, data)
            assert answer.status == 200
            last = json.loads(answer.events()[-2])
            assert last["choices"][0]["finish_reason"] == "length"
            assert last["error"]["code"] == "daily_quota_exceeded"
            assert answer.events()[-1] == "[DONE]"
            # (What the prompt was thought to be more than it is.)
            assert (await here.usage(text))["quota_remaining"] == estimate() - prompt_tokens()
