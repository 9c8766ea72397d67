"""An agent's engine, as its gateways are told of it: looked at again and again, by itself and where requests say that it fails.

Owns: the status of a runner, and when it is another. Must never: wait for a GPU, or for whoever tells it to a gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from fastgw.agent.asked import Asked, Front, GpuUse
from fastgw.agent.engine import LocalEngine
from fastgw.protocol import runner_words as words
from fastgw.protocol.runner_words import EngineStatus, Health, RunnerMetrics, RunnerStatus
from fastgw.stats import EventLog

AGAIN_S: Final = 0.5
"""From a look that the engine has not answered to the next: nobody asks it while it is not known to be back."""
DOUBT_S: Final = 0.1
"""Between two looks, however often requests find that it does not answer."""


class Looks:
    """See the head of this file. ``serial`` counts how often it was another; ``leaving``: so is told."""

    def __init__(
        self, engine: LocalEngine, asked: Asked, log: EventLog, front: Front | None, gpus: Callable[[], GpuUse | None]
    ) -> None:
        self._engine = engine
        self._asked = asked
        self._log = log
        self._front = front
        self._gpus = gpus
        self._doubted = asyncio.Event()  # requests have found that it does not answer
        if front is not None:
            front.doubts(self._doubted.set)
        self._answered = False  # it has been well once
        self._left_out: tuple[str, ...] = ()  # names that nobody can ask for, as was said last
        self._stirred = asyncio.Event()
        self.serial = 0
        self.leaving = False

    def stir(self) -> None:
        """It is another: whoever waits for that is told."""
        self.serial += 1
        self._stirred.set()

    async def another(self, serial: int, limit_s: float) -> None:
        """Returns when it is another than it was by ``serial``, or so much later."""
        if self.serial != serial:
            return
        self._stirred.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._stirred.wait()

    async def begin(self) -> None:
        """Look, for the first time."""
        await self._engine.look()
        self._warn()

    async def run(self) -> None:
        """Look at it every ``look_s``, sooner where it does not answer, and have it told when it is another. (A death that is
        never told of is one that the gateway's circuit breaker does not know to be over.)"""
        said, key = self.status(), self._engine.key
        answers = True
        while True:
            pause_s = self._asked.look_s if answers else min(self._asked.look_s, AGAIN_S)
            await asyncio.sleep(min(DOUBT_S, pause_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s - DOUBT_S):
                    await self._doubted.wait()
            doubted = self._doubted.is_set()
            self._doubted.clear()
            answers = await self._engine.look(doubted)
            if self._front is not None and self._engine.key != key:
                key = self._engine.key
                self._front.follow(key)
            self._warn()
            now = self.status()
            if now != said:
                said = now
                self.stir()

    def _warn(self) -> None:
        """Say once which of its models cannot be asked for."""
        left_out = self._engine.left_out
        if left_out != self._left_out:
            self._left_out = left_out
            if left_out:
                reason = "a name of a model is printable, and has 200 bytes at the most: give it another one at the engine"
                self._log.warning("models left out", models=[name[:80] for name in left_out[:10]], reason=reason)

    def status(self) -> RunnerStatus:
        engine, gauges = self._engine.status, self._engine.gauges
        self._answered = self._answered or engine.is_healthy
        health: Health = "healthy" if engine.is_healthy else "unhealthy" if self._answered else "starting"
        if self.leaving:
            health = "shutting_down"
        use = self._gpus()
        metrics = RunnerMetrics() if gauges is not None or use is not None else None
        if metrics is not None and gauges is not None:
            metrics.requests_running, metrics.requests_waiting = gauges.running, gauges.waiting
            if gauges.kv_usage >= 0:
                metrics.kv_cache_usage = gauges.kv_usage
        if metrics is not None and use is not None:
            metrics.gpu_memory_used, metrics.gpu_memory_total = use.used_bytes, use.total_bytes
            metrics.gpu_utilization_percent = use.utilization_percent
            metrics.gpu_joules = dict(use.joules)
        have: list[EngineStatus] = [engine] if engine.is_healthy or engine.error else []
        return RunnerStatus(health=health, engines=have, metrics=metrics, model_aliases=self._aliases(engine))

    def _aliases(self, engine: EngineStatus) -> dict[str, str]:
        """Those that were asked for, then the engine's own; as many as a status may have names."""
        names = {*engine.loaded_models, *engine.available_models}
        found: dict[str, str] = {}
        for alias, name in [*self._asked.aliases.items(), *self._engine.aliases.items()]:
            names |= {alias, name}
            if len(names) > words.MAX_NAMES:
                break
            found.setdefault(alias, name)
        return found

    def heartbeat(self) -> words.Heartbeat:
        return words.Heartbeat(**_members(self.status()))

    def update(self) -> words.StatusUpdate:
        return words.StatusUpdate(**_members(self.status()))


def _members(status: RunnerStatus) -> dict[str, Any]:
    return {name: getattr(status, name) for name in RunnerStatus.__struct_fields__}
