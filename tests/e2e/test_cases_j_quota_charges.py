"""What a request is charged that did not end as it should (J7), over real sockets, and the property that binds all of it:
what is charged is what the engine says it used, for any mix of ends, and nothing stays reserved.

The simulator's own count of each request is worked out in ``metered``; neither side's book is taken at its word.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from fastgw.sim.scripted import ScriptedConnection
from tests.e2e.front import front
from tests.e2e.metered import (
    KEY,
    OTHER_KEY,
    Watch,
    account_of,
    ask,
    assert_exhausted,
    estimate,
    metered,
    once,
    prompt_tokens,
    say,
    settled,
    spent,
    usage_of,
)
from tests.support.client import RawClient, RawResponse
from tests.support.gateway import Running, running

DAY_S = 86_400
CODE = "daily_quota_exceeded"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"


async def begun(client: RawClient, data: bytes, events: int) -> RawResponse:
    """A stream of which so many events have come."""
    await client.send(data)
    answer = await client.read_head()
    while len(answer.events()) < events:
        answer = await client.read_until(answer, b"\n\n" if not answer.body else None, 0.01)
        assert answer.how_ended in ("open", "timeout"), answer.body
    return answer


class TestJ7:
    """Charged once for what was produced, whatever became of it; what was reserved is there again."""

    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
    async def test_J7_a_client_that_leaves_a_stream_pays_for_what_was_produced(self, path: str, reset: bool) -> None:
        async with metered({"itl_ms": 3.0}, daily_token_quota=10_000) as (gw, sim, _):
            client = await RawClient.connect(gw.url)
            await begun(client, say(3000, stream=True, path=path), 12)
            assert (await usage_of(gw))["quota_reserved"] > 3000
            if reset:
                client.reset()
            else:
                client.close()
            found = await settled(gw)
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)
            (record,) = [one for one in gw.records if one["path"] == path.encode()]
            produced = sim.state.generation_tokens
        assert record["outcome"] == "client_closed"
        assert 8 <= found["completion_tokens"] <= produced < 1000
        assert found["completion_tokens"] >= produced - 64, "but for what was on its way when the client left"
        told = path == "/v1/messages"  # its first event tells of the prompt
        assert found["prompt_tokens"] == (prompt_tokens(path=path) if told else estimate(path=path))
        assert found["requests"] == 1
        assert found["estimated_tokens"] == found["total_tokens"]
        assert (record["completion_tokens"], record["estimated"]) == (found["completion_tokens"], True)
        assert found["quota_remaining"] == 10_000 - found["total_tokens"]

    @pytest.mark.parametrize("fault", [
        "reset-after-events=9", "close-after-events=9", "half-event,after-events=9", "bad-chunk,after-events=9",
        "truncate-chunk,after-events=9", "end-after-events=9",
    ])  # fmt: skip
    async def test_J7_an_engine_that_dies_in_a_stream(self, fault: str) -> None:
        async with metered(daily_token_quota=10_000) as (gw, _, _):
            answer = await once(gw, say(100, stream=True, fault=fault))
            assert answer.status == 200
            found = await settled(gw)
        assert spent(found)[0] == estimate()
        assert 7 <= spent(found)[1] <= 9, "the first event names the role"
        assert found["estimated_tokens"] == found["total_tokens"]
        assert found["requests"] == 1

    async def test_J7_an_engine_that_fails_in_a_stream_with_an_event(self) -> None:
        async with metered(daily_token_quota=10_000) as (gw, _, _):
            assert b"error" in (await once(gw, say(100, stream=True, fault="error-event,after-events=9"))).body
            found = await settled(gw)
        assert (spent(found)[0], found["requests"]) == (estimate(), 1)
        assert 7 <= spent(found)[1] <= 10

    @pytest.mark.parametrize("fault", [
        "status=500", "status=503", "status=429", "status=400", "close", "reset", "garbage", "close-in-head", "stall-before",
        "stall-head",
    ])  # fmt: skip
    @pytest.mark.parametrize("stream", [False, True])
    async def test_J7_who_got_no_answer_pays_nothing(self, fault: str, stream: bool) -> None:
        async with metered(daily_token_quota=10_000, first_byte_timeout_s=0.2, between_bytes_timeout_s=0.2) as (gw, _, _):
            answer = await once(gw, say(100, stream=stream, fault=fault))
            found = await settled(gw)
        if fault != "stall-head":
            assert answer.status >= 400
            assert spent(found) == (0, 0)
        assert found["completion_tokens"] == 0 or not stream
        assert found["requests"] == 1

    async def test_J7_a_client_that_leaves_before_the_first_byte_pays_its_prompt(self) -> None:
        async with metered({"ttft_ms": 5000.0}, daily_token_quota=10_000) as (gw, sim, _):
            for stream in (False, True):
                client = await RawClient.connect(gw.url)
                await client.send(say(100, stream=stream))
                await gw.until("the engine works", lambda: sim.state.running == 1)
                assert (await usage_of(gw))["quota_reserved"] == estimate() + 100
                client.close()
                await gw.until("the engine has stopped", lambda: sim.state.running == 0)
            found = await settled(gw)
        assert spent(found) == (2 * estimate(), 0)
        assert found["estimated_tokens"] == 2 * estimate()
        assert found["quota_remaining"] == 10_000 - 2 * estimate()

    async def test_J7_what_no_engine_was_asked_is_no_request(self) -> None:
        async with running([EngineConfig(url="http://127.0.0.1:1")], api_keys=(KEY,), daily_token_quota=10_000) as gw:
            assert (await once(gw, say(100))).status == 502
            found = await settled(gw)
        assert (spent(found), found["requests"], found["quota_remaining"]) == ((0, 0), 0, 10_000)

    async def test_J7_a_stream_without_usage_is_counted_as_it_passes(self) -> None:
        async with metered(daily_token_quota=10_000, inject_usage=False) as (gw, _, client):
            assert (await ask(client, say(37, stream=True))).complete
            found = await settled(gw)
            assert spent(found) == (estimate(), 37)
            assert found["estimated_tokens"] == found["total_tokens"]
            assert gw.records[0]["estimated"] is True
            # The same with usage is no estimate.
            await ask(client, say(37, stream=True, stream_options={"include_usage": True}))
            again = await settled(gw)
        assert spent(again) == (estimate() + prompt_tokens(), 74)
        assert again["estimated_tokens"] == found["estimated_tokens"]

    @pytest.mark.parametrize("usage", [b"", b',"usage":null', b',"usage":{}', b',"usage":{"prompt_tokens":-5}'])
    async def test_J7_a_plain_answer_without_usage_is_charged_by_its_size(self, usage: bytes) -> None:
        text = b"word " * 200

        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            body = b'{"choices":[{"message":{"content":"%b"}}]%b}' % (text, usage)
            await conn.send(ANSWER % (len(body), body))
            conn.close()

        async with front(engine, api_keys=(KEY,), daily_token_quota=10_000) as one:
            assert (await once(one.gw, say(1000))).status == 200
            found = await settled(one.gw)
        assert found["prompt_tokens"] == estimate()
        assert 200 <= found["completion_tokens"] <= 400, "about a token for each word, or for four bytes"
        assert found["estimated_tokens"] == found["total_tokens"]

    async def test_J7_usage_that_lies_does_not_break_the_book(self) -> None:
        async def engine(conn: ScriptedConnection, head: bytes) -> None:
            body = b'{"choices":[],"usage":{"prompt_tokens":999999999999,"completion_tokens":999999999999}}'
            await conn.send(ANSWER % (len(body), body))
            conn.close()

        async with front(engine, api_keys=(KEY, OTHER_KEY), daily_token_quota=10_000) as one:
            assert (await once(one.gw, say(10))).status == 200
            found = await settled(one.gw)
            assert found["quota_remaining"] == 0
            assert found["total_tokens"] >= 10_000
            assert_exhausted(await once(one.gw, say(10)))
            assert (await once(one.gw, say(10, key=OTHER_KEY))).status == 200

    async def test_J7_a_retried_request_is_charged_once(self) -> None:
        async with Simulator() as one, Simulator() as two:
            both = [one.url, two.url]
            async with running(both, api_keys=(KEY,), daily_token_quota=10_000, retry_statuses=("503",)) as gw:
                for turn in range(6):
                    answer = await once(gw, say(10, fault=f"status=503,times=1,key={turn}" if turn % 2 else ""))
                    assert answer.status in (200, 503)
                found = await settled(gw)
                well = sum(record["status"] == 200 for record in gw.records if record["method"] == b"POST")
        assert spent(found) == (prompt_tokens() * well, 10 * well)
        assert found["requests"] == 6
        assert found["estimated_tokens"] == 0


KINDS = ("plain", "stream", "usage", "abort", "early", "status=500", "status=503", "reset", "reset-after-events=4",
         "close-after-events=6", "error-event,after-events=3", "no-terminator")  # fmt: skip


async def one_of_many(gw: Running, kind: str, number: int, tokens: int) -> None:
    """One request of a kind; ``abort`` and ``early`` leave it."""
    fault = kind if kind not in KINDS[:5] else ""
    streams = kind not in ("plain", "status=503")
    fields = {"stream_options": {"include_usage": True}} if kind == "usage" else {}
    data = say(tokens, stream=streams, fault=fault, headers=[("x-request-id", f"many-{number}")], **fields)
    async with RawClient.connect(gw.url) as client:
        await client.send(data)
        if kind == "early":
            await asyncio.sleep(number % 7 * 0.001)
            client.reset()
            return
        answer = await client.read_head(20.0)
        if kind == "abort" and answer.status == 200:
            await client.read_until(answer, b"data: ", 20.0)
            if number % 2:
                client.reset()
            return
        await client.read_body(answer, 20.0)


@asynccontextmanager
async def two_engines(**options: Any) -> AsyncIterator[Running]:
    """Engines that may fail for each other, and a breaker that stays out of the way."""
    sim: dict[str, Any] = {"slots": 64, "itl_ms": 0.2, "ttft_ms": 1.0}
    async with Simulator(SimConfig(**sim)) as one, Simulator(SimConfig(**sim)) as two:
        settings = {"retry_statuses": ("503",), "cb_failure_threshold": 1000, "quarantine_after": 0, **options}
        async with running([one.url, two.url], api_keys=(KEY,), **settings) as gw:
            yield gw


def audit(gw: Running, tokens: dict[int, int], found: dict[str, Any]) -> None:
    """The book against the records, and each record against what the engine must have reported."""
    records = [record for record in gw.records if record["method"] == b"POST"]
    assert len(records) == len(tokens)
    charged = estimated = 0
    for record in records:
        number = int(record["request_id"].removeprefix(b"many-"))
        prompt, completion = max(0, record["prompt_tokens"]), max(0, record["completion_tokens"])
        if record["status"] == 499 and record["estimated"]:
            assert (prompt, completion) == (estimate(), 0), record
            estimated += prompt
        elif record["status"] != 200:
            assert (prompt, completion) == (0, 0), record
        elif record["estimated"]:
            assert (prompt, completion <= tokens[number]) == (estimate(), True), record
            estimated += prompt + completion
        else:
            assert (prompt, completion) == (prompt_tokens(), tokens[number]), record
        charged += prompt + completion
        assert record["outcome"] != "ok" or record["status"] != 200 or not record["estimated"]
    assert found["total_tokens"] == charged
    assert found["estimated_tokens"] == estimated


class TestProperty:
    """What is charged is what the engine reports, for any mix of ends; and nothing stays reserved."""

    @pytest.mark.deadline_s(60)
    async def test_J7_two_thousand_requests_of_every_kind_at_once(self) -> None:
        source = random.Random(7)
        tokens = {number: source.randint(1, 12) for number in range(2000)}
        async with two_engines(daily_token_quota=10**9, tokens_per_minute=10**9) as gw:
            at_once = asyncio.Semaphore(1500)

            async def one(number: int) -> None:
                async with at_once:
                    await one_of_many(gw, KINDS[source.randrange(len(KINDS))], number, tokens[number])

            async with Watch(gw):
                await asyncio.gather(*map(one, tokens))
            found = await settled(gw)
            audit(gw, tokens, found)
            assert found["requests"] <= 2000
            assert account_of(gw).ledger.reserved == 0
            assert gw.stats.retries_total > 0

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 20)), min_size=1, max_size=80),
        st.integers(1, 2500),
        st.booleans(),
    )
    async def test_J7_any_mix_under_any_quota(self, mix: list[tuple[str, int]], quota: int, cut: bool) -> None:
        mode = "cut" if cut else "refuse"
        async with two_engines(daily_token_quota=quota, on_exhausted=mode) as gw:
            turns = [one_of_many(gw, kind, number, tokens) for number, (kind, tokens) in enumerate(mix)]
            await asyncio.gather(*turns)
            found = await settled(gw)
            assert found["total_tokens"] <= quota or not cut or found["estimated_tokens"]
            if not cut:
                audit(gw, {number: tokens for number, (_, tokens) in enumerate(mix)}, found)
                assert found["total_tokens"] <= quota
            used = sum(max(0, one["prompt_tokens"]) + max(0, one["completion_tokens"]) for one in gw.records)
            assert found["total_tokens"] == used


