"""``on_exhausted = "cut"`` over real sockets (J2): who is not cut, streams that share what is left, and what an SDK sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.e2e.metered import (
    CONTENT,
    KEY,
    account_of,
    ask,
    assert_limited,
    estimate,
    metered,
    once,
    posts,
    prompt_tokens,
    say,
    settled,
    usage_of,
)
from tests.e2e.quota_cut import CODE, CUT, documents, record_of, text_of
from tests.support.client import RawClient
from tests.support.frame import prompt_estimate
from tests.support.gateway import running

MESSAGES: Any = [{"role": "user", "content": CONTENT}]


class TestNotCut:
    """Whoever keeps within the quota never notices it."""

    @pytest.mark.parametrize("spare", [0, 1, 7, 1000])
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
    async def test_J2_a_stream_that_ends_in_time_is_the_engines_own(self, path: str, spare: int) -> None:
        quota = estimate(path=path) + 40 + spare
        async with metered({"itl_ms": 0.5}, daily_token_quota=quota, **CUT) as (gw, sim, client):
            data = say(40, path=path, stream=True)
            async with RawClient.connect(sim.url) as direct:
                own = await ask(direct, data)
            answer = await ask(client, data)
            assert answer.complete
            assert answer.body == own.body
            assert gw.stats.quota_cut == 0
            await gw.idle()
            found = await usage_of(gw)
        assert (found["completion_tokens"], found["estimated_tokens"]) == (40, 0)
        assert record_of(gw)["outcome"] == "ok"

    async def test_J2_a_stream_without_a_maximum_is_extended_as_it_goes(self) -> None:
        quota = estimate() + 200
        async with metered({"itl_ms": 0.5, "output_tokens": 64}, daily_token_quota=quota, **CUT) as (gw, sim, client):
            async with RawClient.connect(sim.url) as direct:
                own = await ask(direct, say(64, stream=True))
            # (The engine is told what is left; it ends before that.)
            assert (await ask(client, say(stream=True, fault="tokens=64"))).body == own.body
            await gw.idle()
            found = await usage_of(gw)
        assert (found["prompt_tokens"], found["completion_tokens"]) == (prompt_tokens(), 64)
        assert found["quota_reserved"] == 0

    async def test_J2_without_a_quota_cut_means_nothing(self) -> None:
        async with metered({"itl_ms": 0.2}, **CUT) as (gw, _, client):
            answer = await ask(client, say(stream=True, fault="tokens=300"))
            assert len([one for one in documents(answer)[:-1] if text_of([one])]) == 300
            assert gw.stats.quota_cut == 0

    async def test_J2_a_plain_answer_is_never_cut(self) -> None:
        """It cannot be ended early, so it is admitted whole or not at all."""
        async with metered(daily_token_quota=estimate() + 30, **CUT) as (_, sim, client):
            assert_limited(await ask(client, say(31)), "request_exceeds_limit")
            assert (await ask(client, say(30, fault="tokens=3"))).status == 200
            assert len(posts(sim)) == 1

    async def test_J2_a_stream_that_could_not_say_a_word_is_refused(self) -> None:
        for quota, status in ((estimate(), 429), (estimate() + 1, 200)):
            async with metered({"itl_ms": 1.0}, daily_token_quota=quota, **CUT) as (gw, _, client):
                answer = await ask(client, say(50, stream=True))
                assert answer.status == status
                assert gw.stats.quota_cut == (status == 200)
                if status == 429:
                    assert_limited(answer, "request_exceeds_limit")
                await gw.idle()
                assert account_of(gw).ledger.reserved == 0


class TestTogether:
    async def test_J2_streams_share_what_is_left(self) -> None:
        """Ten streams that would go on for ever: who is told that all may be used has all, and the others none of it."""
        quota = 10 * estimate() + 400
        async with metered({"itl_ms": 1.0}, daily_token_quota=quota, **CUT) as (gw, sim, _):
            answers = await asyncio.gather(*[once(gw, say(stream=True, fault="tokens=3000")) for _ in range(10)])
            assert sorted(answer.status for answer in answers) == [200] + [429] * 9
            for answer in answers:
                if answer.status == 429:
                    assert_limited(answer, "daily_quota_reserved")
                else:
                    assert (answer.complete, documents(answer)[-1]) == (True, "[DONE]")
            await gw.idle()
            found = await usage_of(gw)
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)
        assert gw.stats.quota_cut == 1
        assert found["total_tokens"] == quota
        assert (found["quota_remaining"], found["quota_reserved"]) == (0, 0)

    async def test_J2_streams_that_name_a_maximum_share_what_is_left(self) -> None:
        quota = 10 * (estimate() + 40)
        async with metered({"itl_ms": 1.0}, daily_token_quota=quota, **CUT) as (gw, _, __):
            answers = await asyncio.gather(*[once(gw, say(40, stream=True)) for _ in range(10)])
            assert {answer.status for answer in answers} == {200}
            await gw.idle()
        assert gw.stats.quota_cut == 0

    async def test_J2_what_sixty_engines_are_told_is_reserved(self) -> None:
        """An engine may put all of its tokens into one event: no cut comes in time."""
        asked: list[int] = []

        async def engine(conn: ScriptedConnection) -> None:
            body = (await conn.read_request()).body
            if not body:
                return  # (a look at its health)
            told = json.loads(body)["max_tokens"]
            asked.append(told)
            await asyncio.sleep(0.2)
            words = [b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"word " * told)]
            words += [b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n' % told]
            words += [b"data: [DONE]\n\n"]
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
            with contextlib.suppress(ConnectionError):
                await conn.send(head + b"".join(words))
                conn.close()

        async with ScriptedEngine(engine) as one, running([one.url], api_keys=(KEY,), daily_token_quota=10_000, **CUT) as gw:
            answers = await asyncio.gather(*[once(gw, say(stream=True)) for _ in range(60)])
            assert {answer.status for answer in answers} == {200, 429}
            found = await settled(gw)
        assert 9000 < sum(asked) <= 10_000
        assert found["total_tokens"] <= 10_000

    async def test_J2_a_raised_quota_reaches_a_stream_that_runs(self) -> None:
        async with metered({"itl_ms": 2.0}, daily_token_quota=estimate() + 40, **CUT) as (gw, _, client):
            await client.send(say(stream=True, fault="tokens=120"))
            answer = await client.read_until(await client.read_head(), b"data: ")
            account_of(gw).ledger.limit = 10_000
            await client.read_body(answer)
            assert len([one for one in documents(answer)[:-1] if text_of([one])]) == 120
            assert gw.stats.quota_cut == 0


class TestSdk:
    """What OpenAI's own client makes of a cut: it gives every chunk that came, and then raises, for the error in the last."""

    async def test_J2_the_sdk_yields_what_came_and_then_raises(self) -> None:
        asked = json.dumps({"messages": MESSAGES, "model": "sim", "stream": True}, separators=(",", ":"))
        quota = prompt_estimate(asked.encode()) + 30
        async with metered({"itl_ms": 1.0}, daily_token_quota=quota, **CUT) as (gw, sim, _):
            async with AsyncOpenAI(base_url=gw.url + "/v1", api_key=KEY, max_retries=2, timeout=10.0) as client:
                stream = await client.chat.completions.create(
                    model="sim", messages=MESSAGES, stream=True, extra_headers={"x-sim-fault": "tokens=3000"}
                )
                seen: list[Any] = []
                with pytest.raises(openai.APIError) as caught:
                    await drain(stream, seen)
                assert caught.value.code == CODE
                assert caught.value.type == "rate_limit_error"
                assert not isinstance(caught.value, openai.APIConnectionError), "not an accident of the network"
                assert len([chunk for chunk in seen if chunk.choices[0].delta.content]) == 30
                assert len(posts(sim)) == 1, "nor is it tried again"
                # What comes next is refused in the usual way, and not tried again either.
                with pytest.raises(openai.RateLimitError) as refused:
                    await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1)
                assert refused.value.code == CODE
            await gw.until("the engine has stopped", lambda: sim.state.running == 0)
            assert len(posts(sim)) == 1
            assert gw.stats.quota_refused == 1

    async def test_J2_the_sdk_and_a_completions_stream(self) -> None:
        async with (
            metered({"itl_ms": 1.0}, daily_token_quota=estimate() + 30, **CUT) as (gw, _, _),
            AsyncOpenAI(base_url=gw.url + "/v1", api_key=KEY, max_retries=0, timeout=10.0) as client,
        ):
            stream = await client.completions.create(
                model="sim", prompt=CONTENT, stream=True, extra_headers={"x-sim-fault": "tokens=3000"}
            )
            seen: list[Any] = []
            with pytest.raises(openai.APIError) as caught:
                await drain(stream, seen)
            assert caught.value.code == CODE
            assert len(seen) >= 30


async def drain(stream: openai.AsyncStream[Any], into: list[Any]) -> None:
    """Read a stream to its end; what came before it raises is in ``into`` all the same."""
    async for chunk in stream:
        into.append(chunk)  # noqa: PERF401 - a comprehension would lose them all
