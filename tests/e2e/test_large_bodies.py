"""Whatever a body of the largest size holds, others are answered while it is read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.hostile import load
from benchmarks.hostile.attacks import MIB, bodies, post
from fastgw.sim import Simulator
from tests.e2e.durability import life

WORST_S = 0.05
TRIES = 4


def worst(port: int, body: bytes) -> float:
    """The longest that another client's ``/liveness`` took while this body was sent, read and answered, in seconds."""

    async def both() -> list[float]:
        probing = asyncio.create_task(asyncio.to_thread(load.probe, port, "/liveness", 0.4, 0.001))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(send, port, body)
        return await probing

    return max(asyncio.run(both()))


def send(port: int, body: bytes) -> None:
    with load.connect(port) as sock:
        load.exchange(sock, post(body), 1)


@pytest.mark.quiet
@pytest.mark.both_twins  # of which the compiled one promises it
@pytest.mark.deadline_s(120)
async def test_while_any_body_is_read_another_client_is_answered_within_50_ms(tmp_path: Path) -> None:
    slow = {}
    async with Simulator() as sim, life(tmp_path, sim.url, FASTGW_NATIVE="1") as one:
        port = urlsplit(one.url).port
        assert port is not None
        for name, body in bodies(10 * MIB - 100):
            took = [1.0]
            # Once is enough: what took longer elsewhere on the machine is not the gateway's.
            while min(took) > WORST_S and len(took) <= TRIES:
                took.append(await asyncio.to_thread(worst, port, body))
            if min(took) > WORST_S:
                slow[name] = [round(one * 1e3) for one in took[1:]]
            print(f"{name}: {min(took) * 1e3:.1f} ms")
        assert await one.end() == 0
    assert not slow
