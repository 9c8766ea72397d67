"""Which engines have which GPUs, and when these are asked what they have drawn.

A runner's engine has the GPUs of the runner's machine. Where this gateway reads those of its own machine (``gpu``), engines on
loopback have all of them, or those that their ``gpus`` names; an engine at another address has those alone. Owns: that join.
The arithmetic is ``observe.energy``'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from fastgw.config.address import is_loopback
from fastgw.net.clock import monotonic
from fastgw.observe.energy import Energy

if TYPE_CHECKING:
    from fastgw.observe.tallies import Tallies
    from fastgw.upstream.fleet import Fleet
    from fastgw.upstream.runners import Runner

READ_S: Final = 5.0
"""Between two reports. (The counter itself goes on ten times a second or more.)"""
HERE: Final = ""
"""This machine, among runners by their ids."""


class Meter(Protocol):
    """What GPUs have drawn: joules by their UUIDs, and the UUIDs by their indexes."""

    @property
    def joules(self) -> dict[str, float]: ...
    @property
    def indexes(self) -> dict[int, str]: ...


class Gpus(Protocol):
    """Those of this machine."""

    @property
    def meter(self) -> Meter: ...
    async def look(self) -> bool:
        """Have them read; False = they were not, in time."""
        ...


class Joined:
    """See the head of this file. ``runners`` are those that are there; ``gpus`` those of this machine, None = nobody reads
    them."""

    def __init__(self, fleet: Fleet, tallies: Callable[[], Tallies], runners: Callable[[], Iterable[Runner]]) -> None:
        self._fleet = fleet
        self._tallies = tallies
        self._runners = runners
        self.gpus: Gpus | None = None
        self.energy = Energy()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(READ_S)
            await self.look()

    async def look(self) -> None:
        """Have all of them report."""
        reports: list[tuple[str, Mapping[str, float], dict[str, Collection[str] | None]]] = []
        if self.gpus is not None and await self.gpus.look():
            reports.append((HERE, self.gpus.meter.joules, self._here(self.gpus.meter)))
        for runner in self._runners():
            metrics = runner.status.metrics
            if metrics is not None and metrics.gpu_joules:
                reports.append((runner.id, metrics.gpu_joules, {runner.engine.name: None}))
        now = monotonic()
        if reports:
            self._tallies().energy = self.energy
            busy = {engine.name for engine in self._fleet.engines() if engine.inflight}
            for machine, joules, engines in reports:
                self.energy.told(machine, {uuid: round(1000 * drawn) for uuid, drawn in joules.items()}, engines, busy, now)
        self.energy.forget(now)

    def _here(self, meter: Meter) -> dict[str, Collection[str] | None]:
        """The engines of this machine, and the UUIDs of their GPUs (None = all)."""
        found: dict[str, Collection[str] | None] = {}
        for engine in self._fleet.engines():
            if engine.gpus:
                uuids = {meter.indexes.get(int(one), "") if one.isdecimal() else one for one in engine.gpus}
                found[engine.name] = uuids - {""}
            elif not engine.tunnelled and (engine.unix_path or is_loopback(engine.host)):
                found[engine.name] = None
        return found
