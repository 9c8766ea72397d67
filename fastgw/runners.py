"""Runners that dial in: the registry, the fleet, the WebSockets and the admin API, put together.

They know nothing of each other; this is where they meet. The desk is made when a token is first set, and lives as long as the
gateway; without a token nobody may register, and whoever had is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import time
from typing import Final

from fastgw.config import Config, ConfigErrors, EngineConfig
from fastgw.config.check import engines_clash
from fastgw.control.admin_runners import RunnerBusy, RunnerLost, RunnerNotFound, RunnerRefused, RunnerShown
from fastgw.control.runners_ws import RunnerSockets
from fastgw.net.clock import monotonic
from fastgw.net.unusable import TlsError
from fastgw.protocol.runner_words import Command, CommandResponse, LoadModel, RequestStatus, UnloadModel
from fastgw.protocol.runners import Refused, Terms
from fastgw.stats import EventLog
from fastgw.tunnels import Tunnels
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.identity import FleetError
from fastgw.upstream.pool import Pool
from fastgw.upstream.runner_address import networks
from fastgw.upstream.runners import Registry, Runner
from fastgw.upstream.target import Engine

TICK_S: Final = 0.25
STATUS_S: Final = 10.0
"""For a runner to say how it is."""


class FleetYard:
    """A :class:`fastgw.upstream.runners.Yard` over a fleet."""

    def __init__(self, fleet: Fleet, log: EventLog, room: Callable[[], None]) -> None:
        """``room`` is called when an engine is believed well, or is not any more."""
        self._fleet = fleet
        self._log = log
        self._pools: dict[str, Pool] = {}  # that are runners', by the engine's name
        self._ours: set[str] = set()  # that rest because their runners say so
        self._room = room

    def take_in(self, config: EngineConfig) -> Engine:
        try:
            pool = self._fleet.take_in(config)
        except ConfigErrors as error:
            raise Refused("; ".join(f"{one.name}: {one.message}" for one in error.errors)) from None
        except (FleetError, TlsError) as error:
            raise Refused(str(error)) from None
        pool.engine.fleeting = True
        self._pools[pool.engine.name] = pool
        self._fleet.publish_soon()
        return pool.engine

    def free_name(self, name: str) -> str:
        return self._fleet.free_name(name)

    def holds(self, engine: Engine) -> bool:
        pool = self._pools.get(engine.name)
        return pool is not None and pool.engine is engine

    def makes_room(self, engine: Engine, config: Config) -> bool:
        """Whether the engines of ``config`` leave it none: they come first."""
        if not self.holds(engine):
            return False
        own = self._fleet.config_of(engine.name)
        return any(engines_clash(own, one) for one in config.engines if not one.discover)

    def pool_of(self, engine: Engine) -> Pool | None:
        """Its pool, while it is there."""
        return self._pools[engine.name] if self.holds(engine) else None

    def forget(self, pool: Pool) -> None:
        """It has left the fleet."""
        name = pool.engine.name
        if self._pools.get(name) is pool:
            del self._pools[name]
            self._ours.discard(name)
            # (Settings that were read again may have made another of its name: its runner comes again, and brings its own.)
            asyncio.get_running_loop().call_soon(self._remove, name)

    def _remove(self, name: str) -> None:
        with suppress(FleetError):
            if name not in self._pools and self._fleet.origin_of(name) == "runner":
                self._fleet.remove(name)

    def serves(self, engine: Engine, models: Sequence[str], aliases: dict[str, str]) -> None:
        if self.holds(engine):
            engine.aliases = {alias: name for alias, name in aliases.items() if alias in models}
            self._fleet.serves(engine.name, models)

    def rests(self, engine: Engine, resting: bool) -> None:
        name = engine.name
        if not self.holds(engine):
            return
        if not resting:
            if name in self._ours:
                self._ours.discard(name)
                engine.came_back()
                self._fleet.undrain(name)
        elif not engine.draining:  # (who drained it otherwise has it stay so)
            self._ours.add(name)
            self._fleet.drain(name)

    def vouched(self, engine: Engine, well: bool, away: bool = False) -> None:
        if (engine.healthy, engine.away) != (well, away):
            engine.healthy = well
            engine.away = away
            if well:
                engine.came_back()
            self._room()

    def disowned(self, engine: Engine, ill: bool) -> None:
        engine.disowned = ill
        self.vouched(engine, not ill)

    def lose(self, engine: Engine, why: str) -> None:
        self._ours.discard(engine.name)
        self._fleet.lose(engine.name, why)

    def let_go(self, engine: Engine) -> None:
        self._ours.discard(engine.name)
        self._fleet.remove(engine.name)

    def tell(self, what: str, runner: str, **about: object) -> None:
        self._log.info(what.replace("_", " "), runner=runner, **about)
        self._fleet.events.add(what, runner, ", ".join(f"{name}={said}" for name, said in about.items()))


class RunnerDesk:
    """See the head of this file. It is a ``control.admin_runners.RunnersBackend``."""

    def __init__(self, fleet: Fleet, log: EventLog, config: Config, room: Callable[[], None]) -> None:
        self.yard = FleetYard(fleet, log, room)
        self.terms = Terms("", config.runner_heartbeat_s, config.runner_timeout_s)
        self._absent = fleet.absent
        self.registry = Registry(self.yard, fleet.absent, most=config.max_runners, listed=())
        self.sockets = RunnerSockets(self.registry, self.terms, log)
        self.tunnels = Tunnels(self.registry, self.terms, log, self._pool_of)
        self._command_timeout_s = config.runner_command_timeout_s
        self.follow(config)

    def follow(self, config: Config) -> None:
        """From now on go by ``config``. Who has registered with another token comes again, with this one; without one nobody
        does."""
        self.terms.set(config.runner_auth_token, config.runner_heartbeat_s, config.runner_timeout_s)
        self.registry.most = config.max_runners
        self.registry.listed = networks(config.runner_allowed_networks)
        self._command_timeout_s = config.runner_command_timeout_s
        if not config.runner_auth_token:
            self._absent.end()
            self.registry.close(monotonic())
        else:
            self.registry.judge(monotonic())
            if not self._absent.open:
                self._absent.begin(monotonic())
        for runner in list(self.registry):
            if self.yard.makes_room(runner.engine, config):
                self.registry.dismiss(runner, "The configuration has an engine of this address, or of this name.", monotonic())

    async def run(self) -> None:
        """Time goes by, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            now, unix = monotonic(), time()
            self.registry.tick(now, unix)
            self.sockets.tick(now, unix)
            self.tunnels.tick(now, unix)

    # --- the operator
    def runners(self) -> Sequence[RunnerShown]:
        return [self._shown(runner) for runner in self.registry]

    def show(self, id: str) -> RunnerShown:
        return self._shown(self._find(id))

    def drain(self, id: str, drained: bool) -> RunnerShown:
        runner = self._find(id)
        self.registry.drain(runner, drained)
        return self._shown(runner)

    async def command(self, id: str, what: str, model: str, timeout_s: float) -> RunnerShown:
        runner = self._find(id)
        done: asyncio.Future[CommandResponse | None] = asyncio.get_running_loop().create_future()

        def make(request_id: str) -> Command:
            if what == "status":
                return RequestStatus(request_id=request_id)
            return (LoadModel if what == "load" else UnloadModel)(model_id=model, request_id=request_id)

        def ended(response: CommandResponse | None) -> None:
            if not done.done():
                done.set_result(response)

        request_id = self.registry.command(runner, make, ended, monotonic())
        if not request_id:
            raise RunnerBusy
        try:
            async with asyncio.timeout(timeout_s or (STATUS_S if what == "status" else self._command_timeout_s)):
                response = await done
        finally:
            self.registry.forget(runner, request_id)
        if response is None:
            raise RunnerLost
        if not response.success:
            text = response.error or "it does not say why"
            raise RunnerRefused("".join(char if char.isprintable() else " " for char in text)[:500])
        return self._shown(runner)

    def _pool_of(self, id: str) -> Pool | None:
        runner = self.registry.find(id)
        return self.yard.pool_of(runner.engine) if runner is not None else None

    def _find(self, id: str) -> Runner:
        runner = self.registry.find(id)
        if runner is None:
            raise RunnerNotFound
        return runner

    @staticmethod
    def _shown(runner: Runner) -> RunnerShown:
        status, engine, now = runner.status, runner.engine, monotonic()
        loaded = status.loaded()
        return RunnerShown(
            id=runner.id,
            name=runner.name,
            machine_type=runner.machine,
            engine=engine.name,
            url="" if engine.tunnelled else runner.url,
            health=status.health,
            connected=runner.lost_at < 0,
            takes_requests=not engine.draining and engine.healthy is not False,
            draining=runner.drained,
            inflight=engine.inflight,
            joined_s=round(now - runner.joined_at, 3),
            silent_s=round(now - runner.seen_at, 3),
            loaded_models=sorted(loaded),
            available_models=sorted({name for one in status.engines for name in one.available_models} - loaded),
            model_aliases=status.model_aliases,
            engines=status.engines,
            capabilities=status.capabilities,
            metrics=status.metrics,
        )

    async def stop(self) -> None:
        """All runners are told that the gateway stops."""
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self.sockets.stop(), self.tunnels.stop())
