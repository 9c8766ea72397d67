"""Streams over HTTP/2 through a real peer: nghttpx before the simulator, and the gateway before that."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.e2e.engines import QUIET, pool_engine
from tests.support.client import RawClient, chat
from tests.support.gateway import Running, running
from tests.support.ports import closed_port

NGHTTPX = shutil.which("nghttpx")
STREAMS = 100
LIMIT = 40

pytestmark = pytest.mark.skipif(NGHTTPX is None, reason="nghttpx is not installed")


@contextmanager
def nghttpx(port: int) -> Iterator[str]:
    """A face of HTTP/2 on the engine at ``port``."""
    mine = closed_port()
    assert NGHTTPX is not None
    options = ["--single-process", "--workers=1", "-k", f"--frontend-http2-max-concurrent-streams={LIMIT}"]
    argv = [NGHTTPX, "-f", f"127.0.0.1,{mine};no-tls", "-b", f"127.0.0.1,{port}", *options, "--errorlog-file=/dev/null"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            yield f"http://127.0.0.1:{mine}"
        finally:
            child.terminate()


async def _ready(gw: Running) -> None:
    await gw.until("it is well", lambda: pool_engine(gw).healthy is True)


async def _answer(port: int, number: int) -> bytes:
    async with RawClient.connect("127.0.0.1", port, timeout=20.0) as client:
        await client.send(chat("sim", True, content=f"stream {number}", max_tokens=8 + number % 7))
        answer = await client.read_response(30.0)
        assert (answer.status, answer.complete, answer.how_ended) == (200, True, "terminal-chunk")
        return answer.body


async def test_F1_many_at_once_byte_for_byte() -> None:
    async with Simulator(SimConfig(slots=2 * STREAMS, ttft_ms=100.0, itl_ms=5.0, record=0)) as sim:
        own = [await _answer(sim.port, number) for number in range(7)]
        with nghttpx(sim.port) as url:
            async with running([url], upstream_protocol="h2", **{**QUIET, "health_interval_s": 0.1}) as gw:
                await _ready(gw)
                through = await asyncio.gather(*(_answer(gw.port, number % 7) for number in range(STREAMS)))
                assert [at for at in range(STREAMS) if through[at] != own[at % 7]] == []
                assert gw.stats.dials_total <= -(-STREAMS // LIMIT) + 1
                assert {record["outcome"] for record in gw.records} == {"ok"}


async def test_I1_a_client_that_leaves_frees_the_engine() -> None:
    async with Simulator(SimConfig(slots=10, ttft_ms=1.0, itl_ms=50.0, record=0)) as sim:
        with nghttpx(sim.port) as url:
            async with running([url], upstream_protocol="h2", **{**QUIET, "health_interval_s": 0.1}) as gw:
                await _ready(gw)
                stays = asyncio.ensure_future(_answer(gw.port, 6))
                async with RawClient.connect("127.0.0.1", gw.port, timeout=20.0) as client:
                    await client.send(chat("sim", True, max_tokens=1000))
                    await gw.until("both run", lambda: sim.state.running == 2)
                await gw.until("one is cancelled", lambda: sim.state.cancelled == 1, 2.0)
                assert await stays
