"""The engines of one gateway, which come and go while traffic runs.

    add ----> at work ----> draining ----> gone
                 ^            |  (remove: when nothing is under way there, or at once)
                 +-- undrain -+

Owns the pools, in the order in which they came, and the table that requests read: a snapshot, a new one whenever somebody
comes or goes, or serves other models. Everybody who looks after engines asks for ``pools`` each time: probes, the scheduler,
metrics, the admin API. A drained engine stays in the table, as an ill one does: its models are known, and whoever asks for one
that nobody else has is told to come again. It gets no new request (``Engine.permitted``), what is under way there goes on to
its end, and its idle connections close.

Invariants: no two engines have one name; a pool that has left ``pools`` is closed, and nothing of the fleet refers to it. Runs
in the loop's thread, like all that it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from fastgw.config import Config, EngineConfig
from fastgw.config.check import engines_clash
from fastgw.config.machine import open_files
from fastgw.config.settings import inherited
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.stats import EventLog, Stats
from fastgw.upstream.kinds.kind import ANY
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine

MOST_ENGINES: Final = 1024
"""That the admin API may bring it to: each is probed, and has its series among the metrics."""
LOOK_S: Final = 0.05
"""How often one that leaves is looked at: the data plane has no event for "the last one ended", and pays for none."""


class FleetError(Exception):
    """An engine that cannot be added, or is not there; the text says why, and what to do."""


class UnknownEngine(FleetError):
    """There is no engine of that name."""


class EngineExists(FleetError):
    """It has the name of one that is there, or the same models at the same address."""


class FleetFull(FleetError):
    """There are :data:`MOST_ENGINES` already."""


def _quiet(pool: Pool) -> None:
    """Nobody wants to know."""


class Fleet:
    """See the head of this file.

    ``published`` is called when there is a new table, ``room`` when an engine may take requests again, or takes none any more:
    whoever waits is looked at. ``joined`` and ``left`` are told of each engine that comes after the start, and that goes. None
    of them may raise.
    """

    __slots__ = (
        "_closed", "_config", "_configs", "_idle_files", "_leaving", "_log", "_published", "_reactor", "_room", "_shortage",
        "_stats", "_timer", "joined", "left", "pools", "table",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        reactor: Reactor,
        stats: Stats,
        log: EventLog,
        shortage: Shortage,
        *,
        published: Callable[[], None],
        room: Callable[[], None],
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._stats = stats
        self._log = log
        self._shortage = shortage
        self._published = published
        self._room = room
        self.joined: Callable[[Pool], None] = _quiet
        self.left: Callable[[Pool], None] = _quiet
        self._idle_files = open_files() // 8 or ANY
        self._configs: dict[str, EngineConfig] = {one.name: one for one in config.engines}
        self._leaving: dict[str, Pool] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.pools: tuple[Pool, ...] = tuple(self._pool(one) for one in config.engines)
        self.table = UpstreamTable(self.pools)

    def __repr__(self) -> str:
        return f"<Fleet of {len(self.pools)}, {len(self._leaving)} leaving>"

    def __len__(self) -> int:
        return len(self.pools)

    def engines(self) -> Sequence[Engine]:
        """All that are there, drained ones too."""
        return [pool.engine for pool in self.pools]

    def keys(self) -> list[str]:
        """The keys that are sent to engines now: none of them may be shown to anybody."""
        return [one.api_key for one in self._configs.values() if one.api_key]

    def config_of(self, name: str) -> EngineConfig:
        """The engine as it was configured, or added. Raises UnknownEngine."""
        self.find(name)
        return self._configs[name]

    def find(self, name: str) -> Pool:
        """The pool of the engine of that name. Raises UnknownEngine."""
        for pool in self.pools:
            if pool.engine.name == name:
                return pool
        raise UnknownEngine("There is no engine of this name: GET /admin/engines lists those that are there.")

    def leaves(self, name: str) -> bool:
        """Whether it is to be removed when nothing is under way there."""
        return name in self._leaving

    def publish(self) -> None:
        """A new snapshot of who is there and serves what."""
        self.table = UpstreamTable(self.pools, self.table)
        self._published()

    # --- coming and going
    def add(self, config: EngineConfig) -> Pool:
        """An engine more, with what it leaves open filled in from the gateway's settings. It counts as not well until a probe
        has found it so: while others are, no request is risked on it. Raises EngineExists, FleetFull."""
        one = inherited(config, self._config)
        if one.name in self._configs:
            raise EngineExists("There is an engine of this name: give this one another `name`, or remove that one first.")
        for other in self._configs.values():
            if engines_clash(one, other):
                raise EngineExists(
                    f"The engine {other.name!r} has this address: remove it first, or give each of the two `models` of its own."
                )
        if len(self.pools) >= MOST_ENGINES:
            raise FleetFull(f"There are {len(self.pools)} engines, and {MOST_ENGINES} is the most: remove one first.")
        pool = self._pool(one)
        pool.engine.healthy = False
        self._configs[one.name] = one
        self.pools = (*self.pools, pool)
        self._log.info("engine added", engine=one.name)
        self.publish()
        self.joined(pool)
        return pool

    def drain(self, name: str) -> Pool:
        """It gets no new requests; what is under way there goes on. Raises UnknownEngine."""
        pool = self.find(name)
        if not pool.engine.draining:
            pool.engine.draining = True
            pool.close()
            self._log.info("engine drains", engine=name, inflight=pool.engine.inflight)
            self._room()
        return pool

    def undrain(self, name: str) -> Pool:
        """It takes requests again, and is not to be removed any more. Raises UnknownEngine."""
        pool = self.find(name)
        self._leaving.pop(name, None)
        if pool.engine.draining:
            pool.engine.draining = False
            pool.reopen()
            self._log.info("engine takes requests again", engine=name)
            self._room()
        return pool

    def remove(self, name: str, *, at_once: str = "") -> bool:
        """Drain it, and close it when nothing is under way there. ``at_once``, a reason for the log, ends what is as if the
        engine had died: what may be sent again goes to another, streams end with the typed event. True where it is gone when
        this returns. Raises UnknownEngine."""
        pool = self.drain(name)
        self._leaving[name] = pool
        if at_once:
            self._log.warning("engine removed at once", engine=name, reason=at_once, inflight=pool.engine.inflight)
            self._go(pool)
            pool.break_off()
            return True
        if not pool.engine.inflight:
            self._go(pool)
            return True
        self._look_again()
        return False

    def close(self) -> None:
        """The gateway stops: close what is idle; what is busy closes as it comes back."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._leaving.clear()
        for pool in self.pools:
            pool.close(True)

    # --- within
    def _pool(self, one: EngineConfig) -> Pool:
        config = self._config
        engine = Engine(
            one, config.cb_failure_threshold, config.cb_recovery_timeout_s, config.engine_max_idle, self._idle_files
        )
        return Pool(engine, self._reactor, self._stats, self._log, config.connect_timeout_s, self._shortage)

    def _look_again(self) -> None:
        if self._timer is None and self._leaving and not self._closed:
            self._timer = self._reactor.loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        for pool in [pool for pool in self._leaving.values() if not pool.engine.inflight]:
            self._go(pool)
        self._look_again()

    def _go(self, pool: Pool) -> None:
        """It is there no longer, for anybody."""
        name = pool.engine.name
        self._leaving.pop(name, None)
        del self._configs[name]
        self.pools = tuple(one for one in self.pools if one is not pool)
        pool.close()
        self._log.info("engine removed", engine=name)
        self.left(pool)
        self.publish()
