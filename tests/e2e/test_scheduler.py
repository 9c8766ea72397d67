"""The scheduler end to end (S5.9): engines' batches stay full, next to nobody waits inside them, and who goes next is
decided at the gateway.

The engine is the simulator with a few places in its batch; the clients are more than it has places for, and each asks
again as soon as it has its answer. Times are short, so looks at the engine are too.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from fastgw.store import keys
from fastgw.store.database import Database
from tests.e2e.engines import pool_engine
from tests.support.client import RawClient, chat
from tests.support.gateway import Running, running

PLACES = 12
CROWD = 40
TOKENS = 12
SIM: dict[str, Any] = {"slots": PLACES, "ttft_ms": 30.0, "itl_ms": 30.0, "kv_tokens": 1 << 30}
SETTINGS: dict[str, Any] = {
    "scheduler": "auto",
    "scheduler_interval_s": 0.1,
    "health_interval_s": 60.0,
    "warm_connections": 0,
    "queue_timeout_s": 60.0,
}


class Crowd:
    """Clients that each ask for a stream, read it to its end and ask again."""

    def __init__(self, gw: Running, tokens: int) -> None:
        self._gw = gw
        self._tokens = tokens  # of an answer, in the mean
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self._asked = 0
        self.served = 0

    def add(self, count: int, **fields: Any) -> None:
        for _ in range(count):
            self._tasks.add(asyncio.get_running_loop().create_task(self._ask_on(fields)))

    async def _ask_on(self, fields: dict[str, Any]) -> None:
        async with RawClient.connect("127.0.0.1", self._gw.port) as client:
            while not self._ending:
                # Of many lengths: places come free one by one, and not in waves.
                self._asked += 1
                length = self._tokens // 2 + self._asked * 5 % (self._tokens + 1)
                await client.send(chat("sim", stream=True, max_tokens=length, **fields))
                answer = await client.read_response(60.0)
                assert (answer.status, answer.complete) == (200, True), answer.body
                self.served += 1

    async def end(self) -> None:
        """Everybody leaves in the middle of what they do; a failure of one of them is raised."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        found = await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in found:
            if isinstance(one, Exception):
                raise one


@asynccontextmanager
async def crowd(gw: Running, count: int = CROWD, tokens: int = TOKENS, **fields: Any) -> AsyncIterator[Crowd]:
    made = Crowd(gw, tokens)
    made.add(count, **fields)
    try:
        yield made
    finally:
        await made.end()
        await gw.idle()


class Looks:
    """What was seen of an engine and its gateway, every hundredth of a second."""

    def __init__(self) -> None:
        self.running: list[int] = []
        self.inside: list[int] = []
        self.waiting: list[int] = []
        self.slots: list[int] = []

    async def watch(self, gw: Running, sim: Simulator, seconds: float) -> Looks:
        for _ in range(int(seconds / 0.01)):
            await asyncio.sleep(0.01)
            self.running.append(sim.state.running)
            self.inside.append(sim.state.waiting)
            self.waiting.append(gw.stats.queue_waiting_open)
            self.slots.append(pool_engine(gw).slots)
        return self


async def known(gw: Running) -> None:
    """Wait until each engine has been looked at: its places are limited from then on."""
    core = gw.gateway.core
    assert core is not None
    await gw.until("engines looked at", lambda: all(pool.engine.slots for pool in core.table.pools))


def mean(values: list[int]) -> float:
    return statistics.fmean(values)


class TestS5_09:
    """A full batch, an empty queue inside the engine, and the rest waits where priority and fairness reach it."""

    @pytest.mark.together
    @pytest.mark.parametrize("kind", ["vllm", "sglang", "tgi", "llamacpp"])
    async def test_S5_09_the_batch_is_full_and_the_queue_is_at_the_gateway(self, kind: str) -> None:
        async with (
            Simulator(SimConfig(metrics_kind=kind, **SIM)) as sim,
            running([EngineConfig(url=sim.url, kind="auto" if kind == "tgi" else kind)], **SETTINGS) as gw,
        ):
            await known(gw)
            async with crowd(gw) as clients:
                await asyncio.sleep(0.8)
                looks = await Looks().watch(gw, sim, 0.8)
                assert pool_engine(gw).gradient is None
                assert clients.served > PLACES
        assert mean(looks.running) >= 0.9 * PLACES
        assert mean(looks.inside) <= 2.0
        assert mean(looks.waiting) >= CROWD - PLACES - 4
        assert max(record["queued_s"] for record in gw.records) > 0.1

    async def test_S5_09_without_it_the_engine_holds_the_queue(self) -> None:
        """What the scheduler changes: the same crowd, and none of it waits at the gateway."""
        async with (
            Simulator(SimConfig(**SIM)) as sim,
            running([sim.url], **{**SETTINGS, "scheduler": "off"}) as gw,
            crowd(gw),
        ):
            looks = await Looks().watch(gw, sim, 0.5)
        assert mean(looks.inside) >= CROWD - PLACES - 6
        assert max(looks.waiting) == 0

    @pytest.mark.deadline_s(45)
    async def test_S5_09_without_gauges_the_time_to_the_first_token_tells(self) -> None:
        """It has to learn what the engine bears from its answers alone: within seconds, and less exactly."""
        quick = {**SIM, "ttft_ms": 10.0, "itl_ms": 8.0}
        async with (
            Simulator(SimConfig(metrics_kind="none", **quick)) as sim,
            running([sim.url], **{**SETTINGS, "scheduler_interval_s": 0.05}) as gw,
        ):
            await gw.until("a gradient serves", lambda: pool_engine(gw).gradient is not None)
            async with crowd(gw, tokens=8):
                for _ in range(40):
                    if mean((await Looks().watch(gw, sim, 0.3)).inside) <= 6.0:
                        break
                looks = await Looks().watch(gw, sim, 1.2)
        assert mean(looks.inside) <= 8.0  # of 28 that it would hold by itself
        assert mean(looks.running) >= 0.7 * PLACES
        assert mean(looks.waiting) >= 16

    @pytest.mark.parametrize("kind", ["vllm", "none"])
    async def test_S5_09_what_is_configured_is_never_exceeded(self, kind: str) -> None:
        most = 5
        async with (
            Simulator(SimConfig(metrics_kind=kind, **{**SIM, "ttft_ms": 5.0, "itl_ms": 5.0})) as sim,
            running([EngineConfig(url=sim.url, max_concurrent=most)], **{**SETTINGS, "scheduler_interval_s": 0.05}) as gw,
        ):
            peak = 0
            submit = sim.engine.submit

            def counted(job: Any) -> None:
                nonlocal peak
                submit(job)
                peak = max(peak, sim.state.running + sim.state.waiting)

            sim.engine.submit = counted  # type: ignore[method-assign]
            async with crowd(gw, 20) as clients:
                looks = await Looks().watch(gw, sim, 0.7)
                assert clients.served > 4 * most
        assert peak == most
        assert max(looks.slots) <= most

    async def test_S5_09_two_engines_each_get_what_they_can_take(self) -> None:
        small, large = 4, 12
        async with (
            Simulator(SimConfig(**{**SIM, "slots": small})) as one,
            Simulator(SimConfig(**{**SIM, "slots": large})) as two,
            running([one.url, two.url], **SETTINGS) as gw,
        ):
            await known(gw)
            first, second = Looks(), Looks()
            async with crowd(gw):
                await asyncio.sleep(0.9)
                await asyncio.gather(first.watch(gw, one, 0.8), second.watch(gw, two, 0.8))
        assert mean(first.running) >= 0.85 * small
        assert mean(second.running) >= 0.85 * large
        assert mean(first.inside) <= 2.0
        assert mean(second.inside) <= 2.0

    async def test_S5_09_priority_acts_at_the_gateway(self, tmp_path: Path) -> None:
        """An urgent request passes all that wait; in the engine's own queue it would have waited its turn."""
        database = Database.open(str(tmp_path / "fastgw.db"))
        record, urgent = keys.create(database, {"name": "urgent", "priority": "high"}, "test")
        _, patient = keys.create(database, {"name": "patient", "priority": "low"}, "test")
        database.close()
        async with (
            Simulator(SimConfig(**SIM)) as sim,
            running([sim.url], state_dir=str(tmp_path), **SETTINGS) as gw,
        ):
            await known(gw)
            async with crowd(gw, key=patient), RawClient.connect("127.0.0.1", gw.port) as client:
                await asyncio.sleep(1.0)
                begun = len(gw.records)
                for _ in range(3):
                    await client.send(chat("sim", stream=True, max_tokens=3, key=urgent))
                    assert (await client.read_response(60.0)).complete
            ended = gw.records[begun:]
        quick = [one["queued_s"] for one in ended if one["key_id"] == record.id]
        slow = [one["queued_s"] for one in ended if one["key_id"] != record.id and one["outcome"] == "ok"]
        assert len(quick) == 3
        assert max(quick) < statistics.median(slow) / 3
