"""Whoever looks after the engines of a gateway: their probes, and what learns how much they take.

Owns: that each engine is asked how it is, at first and again and again, and that those who ask go by the settings of now. Must
never: hold a start or a reload for longer than engines are worth waiting for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fastgw.certified import Certificates
from fastgw.config import Config
from fastgw.exchange.gateway import GatewayCore
from fastgw.tasks import Tasks
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.health import AT_ONCE, Health
from fastgw.upstream.pool import Pool

if TYPE_CHECKING:
    from fastgw.upstream.scheduler import Scheduler

OF_SCHEDULING: Final = ("scheduler", "scheduler_interval_s", "health_timeout_s")
ASKED_S: Final = 3.0  # that a reload, or a start that takes over, waits for the word of engines


class EngineCare:
    """See the head of this file. Nobody is asked before :meth:`start`."""

    def __init__(self, core: GatewayCore, fleet: Fleet, health: Health, tasks: Tasks) -> None:
        self.health = health
        self.scheduler: Scheduler | None = None
        self.certificates: Certificates | None = None
        self._core = core
        self._fleet = fleet
        self._tasks = tasks
        self._probes: asyncio.Task[None] | None = None
        self._looks: asyncio.Task[None] | None = None

    def start(self, config: Config) -> None:
        """Connections to those that are there, and whoever asks all of them from now on how they are, and what they take."""
        fleet, health = self._fleet, self.health
        for pool in fleet.pools:
            pool.keep_warm()
        self._probes = self._tasks.spawn("health", health.run())
        fleet.joined = self._joined
        fleet.left = lambda pool: health.forget(pool.engine)
        fleet.changed = self._changed
        self._schedule(config)

    async def ask(self, pools: Sequence[Pool]) -> None:
        """They are asked how they are and what they serve, before requests meet them."""
        waiting = iter(pools)

        async def some() -> None:
            for pool in waiting:
                await self.health.probe(pool)

        if pools:
            with suppress(TimeoutError):
                async with asyncio.timeout(ASKED_S):
                    await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    async def follow(self, before: Config, config: Config) -> None:
        """Probe as often as is said now. (A round that is under way is everybody's: it ends first.)"""
        if before.health_interval_s == config.health_interval_s:
            return
        if self._probes is not None:
            self._probes.cancel()
            await asyncio.wait({self._probes})
        if not self._core.draining:
            self._probes = self._tasks.spawn("health", self.health.run())

    def follow_at_once(self, before: Config, config: Config) -> None:
        """What needs no wait of it."""
        self.health.follow(config)
        if self.certificates is not None:
            self.certificates.look_after()
        if any(getattr(config, name) != getattr(before, name) for name in OF_SCHEDULING):
            self._schedule(config)

    def _schedule(self, config: Config) -> None:
        """Whoever learns what engines take, from now on; where nobody does, they take what is configured."""
        fleet = self._fleet
        if self._looks is not None:
            self._looks.cancel()
            self._looks = self.scheduler = None
        if config.scheduler != "auto":
            for engine in fleet.engines():
                engine.unscheduled()
            return
        from fastgw.upstream.scheduler import Scheduler

        every_s, wait_s = config.scheduler_interval_s, config.health_timeout_s
        self.scheduler = Scheduler(
            lambda: fleet.pools, interval_s=every_s, timeout_s=wait_s, log=self._core.log, changed=self._core.room
        )  # fmt: skip
        self._looks = self._tasks.spawn("scheduler", self.scheduler.run())

    def _joined(self, pool: Pool) -> None:
        """It is asked at once how it is."""
        if self.certificates is not None:
            self.certificates.look_after()
        self._tasks.spawn(f"first probe of {pool.engine.name}", self.health.first_probe(pool))

    def _changed(self, pool: Pool) -> None:
        """An engine's settings are others: what was found out by those before is found out again."""
        self.health.forget(pool.engine)
        if self.scheduler is not None:
            self.scheduler.forget(pool.engine)
