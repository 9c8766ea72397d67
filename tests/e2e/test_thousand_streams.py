"""1,000 streams at once through one gateway; every byte is checked against the engine's own answer to the same request."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, chat
from tests.support.gateway import running

STREAMS = 1000
TOKENS = 24


def request(number: int) -> bytes:
    """Prompts differ, so every stream has its own text; lengths differ, so they do not end together."""
    return chat("sim", True, content=f"stream {number}", max_tokens=TOKENS + number % 7)


async def answer_of(port: int, number: int, gate: asyncio.Semaphore | asyncio.Barrier) -> bytes:
    async with RawClient.connect("127.0.0.1", port, timeout=20.0) as client, gate:
        await client.send(request(number))
        answer = await client.read_response(60.0)
        assert (answer.status, answer.complete, answer.how_ended) == (200, True, "terminal-chunk")
        return answer.body


@pytest.mark.deadline_s(100)
async def test_a_thousand_concurrent_streams_byte_for_byte() -> None:
    together = asyncio.Barrier(STREAMS)  # nobody asks before all are connected
    settings = {"health_interval_s": 60.0, "engine_max_connections": 2 * STREAMS}
    # A while before the first token: by then all of them are under way.
    paced = SimConfig(slots=2 * STREAMS, ttft_ms=1500.0, itl_ms=20.0, record=0)
    async with Simulator(SimConfig(slots=2 * STREAMS, record=0)) as quick, Simulator(paced) as sim:
        few = asyncio.Semaphore(50)
        own = await asyncio.gather(*(answer_of(quick.port, n, few) for n in range(STREAMS)))
        async with running([sim.url], **settings) as gw:
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, sim.state.running)
                    await asyncio.sleep(0.02)

            watching = asyncio.ensure_future(watch())
            through = await asyncio.gather(*(answer_of(gw.port, n, together) for n in range(STREAMS)))
            watching.cancel()
            assert most == STREAMS, "they did not all run at the same time"
            assert [n for n in range(STREAMS) if through[n] != own[n]] == []
            assert len({hashlib.sha256(body).digest() for body in through}) == STREAMS
            records = gw.records
            assert len(records) == STREAMS
            assert {(one["status"], one["outcome"], one["error"]) for one in records} == {(200, "ok", "")}
            assert sorted(one["completion_tokens"] for one in records) == sorted(TOKENS + n % 7 for n in range(STREAMS))
            assert sim.state.cancelled == 0
