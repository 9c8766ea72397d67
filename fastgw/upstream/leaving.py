"""Engines on their way out: each gets nothing new, and goes when nothing is under way there.

    yielding ----> leaving ----> empty ----> gone
        |             |                       ^
        +-------------+-- its name is another's: out of the fleet at once --+

Owns who leaves, and the look that finds them empty. One that yields serves still, until others have come. A name belongs to
whoever stays: one that leaves gives its name up as soon as another wants it, and is out of the fleet then; what is under way
there goes on to its end, and until then it is shown beside the one that has its name. What one that is not well has not begun
to answer does not hold it for ever: it goes elsewhere. Invariant: each of those has had a request under way at every look, so
that they are never more than requests are. Must never: know what becomes of a name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from fastgw.config import EngineConfig
from fastgw.stats import EventLog
from fastgw.upstream.identity import Listed, Origin, follows
from fastgw.upstream.target import Engine

if TYPE_CHECKING:
    from fastgw.upstream.pool import Pool

LOOK_S: Final = 0.05
"""How often one that leaves is looked at: the data plane has no event for "the last one ended", and pays for none."""

ILL_S: Final = 15.0
"""So long one that leaves may be not well and still begin to answer what it has: longer than a machine takes to look."""


def joined(engine: Engine, one: EngineConfig, before: Engine, had: EngineConfig) -> None:
    """``engine``, which is as ``one`` says, comes where ``before`` is, as it ``had``: a machine's slots are for both."""
    if follows(one, had):
        engine.joins(before)


class Leaving:
    """See the head of this file. ``empty`` is called with each that has its name still, when nothing is under way there."""

    __slots__ = ("_closed", "_empty", "_ill", "_log", "_loop", "_replaced", "_timer", "named", "yielding")

    def __init__(self, loop: asyncio.AbstractEventLoop, log: EventLog, empty: Callable[[Pool], None]) -> None:
        self._loop = loop
        self._log = log
        self._empty = empty
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.yielding: set[str] = set()  # those that serve until others have come
        self.named: dict[str, Pool] = {}  # those that have their names still
        self._replaced: list[Listed] = []
        self._ill: dict[Pool, float] = {}  # until when those that are not well may begin to answer

    def __len__(self) -> int:
        return len(self.named) + len(self._replaced)

    def going(self) -> set[str]:
        """The names of all that are about to go, and give them up to whoever wants them."""
        return {*self.yielding, *self.named}

    def replaced(self) -> Sequence[Listed]:
        """Those whose names are others', and at which something is under way."""
        return [one for one in self._replaced if one.pool.engine.inflight]

    def begins(self, pool: Pool) -> None:
        """It goes when nothing is under way there."""
        self.yielding.discard(pool.engine.name)
        self.named[pool.engine.name] = pool
        self._look_again()

    def stays(self, name: str) -> bool:
        """It does not go after all; False = it served all the while."""
        self.yielding.discard(name)
        return self.named.pop(name, None) is not None

    def replace(self, pool: Pool, config: EngineConfig, origin: Origin) -> None:
        """Its name is another's."""
        self.stays(pool.engine.name)
        self._replaced.append(Listed(pool, config, origin, True))
        self._look_again()

    def followed(self, engine: Engine, one: EngineConfig) -> None:
        """``engine``, which is as ``one`` says, takes the place of some of those whose names are others' already."""
        for before in self.replaced():
            joined(engine, one, before.pool.engine, before.config)

    def had(self, name: str) -> bool:
        """Whether something is under way at one that had that name before another did."""
        return any(one.pool.engine.name == name for one in self._replaced)

    def break_off(self, name: str) -> None:
        """What is under way at those that had that name ends, as if they had died."""
        for one in self._replaced:
            if one.pool.engine.name == name:
                one.pool.break_off()

    def close(self) -> None:
        """The gateway stops."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.yielding.clear()
        self.named.clear()
        for one in self._replaced:
            one.pool.close(True)
        self._replaced.clear()
        self._ill.clear()

    def _look_again(self) -> None:
        if self._timer is None and len(self) and not self._closed:
            self._timer = self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        for pool in [pool for pool in self.named.values() if not pool.engine.inflight]:
            self._empty(pool)
        for one in self._replaced:
            if not one.pool.engine.inflight:
                one.pool.engine.parts()
                self._log.info("replaced engine is empty", engine=one.pool.engine.name, url=one.config.url)
        self._replaced = list(self.replaced())
        self._end_waits()
        self._look_again()

    def _end_waits(self) -> None:
        now = self._loop.time()
        ill = [pool for pool in (*self.named.values(), *[one.pool for one in self._replaced]) if pool.engine.healthy is False]
        self._ill = {pool: self._ill.get(pool, now + ILL_S) for pool in ill}
        for pool, until in self._ill.items():
            if now >= until:
                self._log.warning("engine leaves, and is not well", engine=pool.engine.name, inflight=pool.engine.inflight)
                self._ill[pool] = now + ILL_S
                pool.break_off_waiting()
