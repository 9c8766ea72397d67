"""CASES, group J, row J9: the queue that is full, or takes too long, and what those are told who find it so."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastgw import EngineConfig
from tests.e2e.gate import QUIET, Gate, asking, tagged, waiting
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import running


def judge_refusal(answer: RawResponse, status: int, code: str, type_: str) -> None:
    """An error in OpenAI's shape that says when to come back."""
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, type_)
    after, after_ms = answer.header("retry-after"), answer.header("retry-after-ms")
    assert after is not None
    assert after_ms is not None
    assert int(after) >= 1
    assert int(after) == max(1, -(-int(after_ms) // 1000))


class TestFull:
    """Nobody waits beyond the bounds of the queue: 429 at once, and the connection stays usable."""

    async def test_J9_queue_full(self) -> None:
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, queue_size=2) as gw,
            asking(gw) as ask,
        ):
            first = await ask(tagged("a"))
            await engine.has("a")
            second, third = await ask(tagged("b")), None
            await waiting(gw, 1)
            third = await ask(tagged("c"))
            await waiting(gw, 2)
            best = 1.0
            for _ in range(5):
                late = await ask(tagged("late"))
                answer = await late.answer()
                best = min(best, time.monotonic() - late.sent_at)
                judge_refusal(answer, 429, "queue_full", "rate_limit_error")
            assert best < 0.05
            assert gw.stats.limited_queue == 5
            # The connection goes on, and so do those who wait.
            await late.client.send(request("GET", "/healthz"))
            assert (await late.client.read_response()).status == 200
            for asked, tag in ((first, "a"), (second, "b"), (third, "c")):
                await engine.has(tag)
                engine.finish(tag)
                assert (await asked.answer()).status == 200
            # Its place is there again.
            await late.client.send(tagged("again"))
            await engine.has("again")
            engine.finish()
            assert (await late.client.read_response()).status == 200
            assert engine.order == ["a", "b", "c", "again"]
        refused = [record for record in gw.records if record["status"] == 429]
        assert [(record["error"], record["queued_s"]) for record in refused] == [("queue_full", -1.0)] * 5

    async def test_J9_queue_bytes(self) -> None:
        """What may wait is bounded in bytes too; a body that still fits waits."""
        limits = {"engine_max_concurrent": 1, "queue_size": 100, "queue_bytes": 65536}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            await ask(tagged("a"))
            await engine.has("a")
            large = [await ask(tagged(tag, content="x" * 30_000)) for tag in ("b", "c")]
            await waiting(gw, 2)
            judge_refusal(
                await (await ask(tagged("d", content="x" * 30_000))).answer(), 429, "queue_full", "rate_limit_error"
            )
            small = await ask(tagged("e"))
            await waiting(gw, 3)
            # One that leaves takes its bytes along.
            large.pop().client.close()
            await waiting(gw, 2)
            fits = await ask(tagged("f", content="x" * 30_000))
            await waiting(gw, 3)
            engine.auto_s = 0.0
            engine.finish()
            for asked in (*large, small, fits):
                assert (await asked.answer()).status == 200
            assert engine.order == ["a", "b", "e", "f"]

    async def test_J9_refusals_leave_nothing_behind(self) -> None:
        """A thousand refusals, on a connection or the next: no place is lost, and each has its record."""
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, queue_size=1) as gw,
            asking(gw) as ask,
        ):
            first = await ask(tagged("a"))
            await engine.has("a")
            second = await ask(tagged("b"))
            await waiting(gw, 1)
            client = await gw.client()
            for _ in range(1000):
                assert (await client.ask(tagged("late"))).status == 429
            client.close()
            engine.auto_s = 0.0
            engine.finish()
            assert [(await asked.answer()).status for asked in (first, second)] == [200, 200]
            assert engine.order == ["a", "b"]
        assert sum(record["error"] == "queue_full" for record in gw.records) == 1000


@pytest.mark.together
class TestTooLong:
    async def test_J9_queue_timeout(self) -> None:
        """503 when its time in the queue is over, by a tick of the clock at most later; the engine never hears of it."""
        limits = {"engine_max_concurrent": 1, "queue_timeout_s": 0.3}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            first = await ask(tagged("a"))
            await engine.has("a")
            late = await ask(tagged("late"))
            judge_refusal(await late.answer(), 503, "queue_timeout", "upstream_error")
            assert 0.3 <= time.monotonic() - late.sent_at < 0.8
            assert gw.stats.queue_waiting_open == 0
            assert gw.stats.queue_timeouts == 1
            await late.client.send(tagged("next"))  # the connection stays usable, and it may wait again
            await waiting(gw, 1)
            engine.finish("a")
            assert (await first.answer()).status == 200
            await engine.has("next")
            engine.finish()
            assert (await late.client.read_response()).status == 200
            assert engine.order == ["a", "next"]
        (record,) = [record for record in gw.records if record["status"] == 503]
        assert (record["error"], record["outcome"]) == ("queue_timeout", "error")
        assert 0.3 <= record["queued_s"] < 0.8

    async def test_J9_each_has_its_own_time(self) -> None:
        """The time runs from when it began to wait, for the key's own limit as for an engine."""
        limits = {"key_concurrency": 1, "queue_timeout_s": 0.4}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            await ask(tagged("a"))
            await engine.has("a")
            early = await ask(tagged("b"))
            await waiting(gw, 1)
            await asyncio.sleep(0.25)
            late = await ask(tagged("c"))
            judge_refusal(await early.answer(), 503, "queue_timeout", "upstream_error")
            assert gw.stats.queue_waiting_open == 1
            engine.finish()
            await engine.has("c")
            engine.finish()
            assert (await late.answer()).status == 200
            assert engine.order == ["a", "c"]


    async def test_J9_the_time_ends_with_the_wait(self) -> None:
        """Once let go, a request is an engine's: what was left of its time in the queue means nothing any more."""
        limits = {"engine_max_concurrent": 1, "key_concurrency": 2, "queue_timeout_s": 0.3}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            first = await ask(tagged("a"))
            await engine.has("a")
            second = await ask(tagged("b"))
            await waiting(gw, 1)
            engine.finish()
            assert (await first.answer()).status == 200
            await engine.has("b")
            await asyncio.sleep(0.6)
            engine.finish()
            assert (await second.answer()).status == 200
            assert gw.stats.queue_timeouts == 0


class TestRetryAfter:
    @pytest.mark.deadline_s(60)
    async def test_J9_retry_after_is_the_measured_rate(self) -> None:
        """Twenty a second leave, forty wait: two seconds."""
        limits = {"engine_max_concurrent": 1, "queue_size": 40}
        async with Gate(auto_s=0.05) as engine, running([engine.url], **QUIET, **limits) as gw:
            async def steady(client: RawClient) -> None:
                while True:
                    await client.send(tagged("steady"))
                    if (await client.read_response(10.0)).status != 200:
                        await asyncio.sleep(0.01)  # one of the late ones had its place

            clients = [await gw.client() for _ in range(43)]  # (some are refused: it is full at all times)
            tasks = [asyncio.create_task(steady(client)) for client in clients]
            try:
                await waiting(gw, 40)
                before = len(engine.order)
                begun = time.monotonic()
                await asyncio.sleep(2.5)
                rate = (len(engine.order) - before) / (time.monotonic() - begun)
                async with asking(gw) as ask:
                    told = []
                    for _ in range(20):
                        await waiting(gw, 40)
                        answer = await (await ask(tagged("late"))).answer(10.0)
                        if answer.status == 429:
                            told.append(int(answer.header("retry-after-ms") or 0) / 1e3)
                        if len(told) == 3:
                            break
                assert told
                assert 10 < rate < 21
                for wait_s in told:
                    assert 0.75 * 40 / rate <= wait_s <= 1.35 * 40 / rate, (told, rate)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for client in clients:
                    client.close()


async def test_J9_one_tenant_does_not_keep_another_out() -> None:
    """The queue is full of one tenant's requests: the newest of them gives way, and nothing of the other's is refused."""
    keys = ("sk-many", "sk-few")
    async with Gate() as gate, running([EngineConfig(url=gate.url, max_concurrent=1)], api_keys=keys, queue_size=4) as gw:
        async with asking(gw) as ask:
            many = [await ask(tagged(f"many{number}", key="sk-many")) for number in range(5)]
            await waiting(gw, 4)
            few = await ask(tagged("few", key="sk-few"))
            newest = await many[-1].answer()
            judge_refusal(newest, 429, "queue_full", "rate_limit_error")
            assert "tenant" in newest.error["message"]
            await waiting(gw, 4)
            late = await ask(tagged("late", key="sk-many"))
            judge_refusal(await late.answer(), 429, "queue_full", "rate_limit_error")
            for _ in range(5):
                await gw.until("one is at the engine", lambda: len(gate.held) == 1)
                gate.finish()
                await gw.until("it has gone", lambda: not gate.held or gate.held[0].let.is_set() is False)
            assert [(await one.answer()).status for one in (*many[:-1], few)] == [200] * 5
        assert "few" in gate.order
        assert not {"many4", "late"} & set(gate.order)
