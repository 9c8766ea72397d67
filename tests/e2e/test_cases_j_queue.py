"""CASES, group J, row J9: the queue that is full, over sockets; the rest of it: ``tests/conversations/test_queue.py``."""

from __future__ import annotations

import time

from tests.e2e.gate import QUIET, Gate, asking, tagged, waiting
from tests.support.client import RawResponse, request
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
