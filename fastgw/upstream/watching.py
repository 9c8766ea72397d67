"""Who looks after what calls tell of engines: the journal, and the restraint by which engines are held back.

Each is there where the configuration has somebody who wants it (``watched``). Invariant: an engine has a watch while there is a
journal, and no longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from fastgw.config import Config
from fastgw.stats import EventLog
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.target import Engine
from fastgw.upstream.watch import Journal
from fastgw.upstream.watched import watches

if TYPE_CHECKING:
    from fastgw.upstream.restraint import Restraint


class Watching:
    """See the head of this file. ``room`` is called when engines that were held back may take requests, ``happened`` when one
    is ejected, or is so no longer."""

    __slots__ = ("_groups", "_happened", "_log", "_loop", "_pools", "_room", "journal", "restraint")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pools: Callable[[], Sequence[Pool]],
        groups: Callable[[], Iterable[Group]],
        log: EventLog,
        room: Callable[[], None],
        happened: Callable[[str, str, str], None],
    ) -> None:
        self._loop = loop
        self._pools = pools
        self._groups = groups
        self._log = log
        self._room = room
        self._happened = happened
        self.journal: Journal | None = None
        self.restraint: Restraint | None = None

    def begins(self, engine: Engine) -> None:
        """It is there from now on."""
        if self.journal is not None:
            engine.watch = self.journal.watch()

    def ends(self, engine: Engine) -> None:
        """It has gone."""
        if self.journal is not None and engine.watch is not None:
            self.journal.release(engine.watch)

    def follow(self, config: Config) -> None:
        """Have calls tell of all engines, and hold some back, where ``config`` asks for that."""
        wanted = watches(config)
        if not wanted and self.journal is None:
            return
        from fastgw.upstream.restraint import Restraint  # (no part of a usual start)

        if not wanted:
            self.journal = None
            for pool in self._pools():
                pool.engine.watch = None
        else:
            journal = self.journal = self.journal or Journal()
            journal.decay_s = config.ewma_decay_s
            for pool in self._pools():
                if pool.engine.watch is None:
                    pool.engine.watch = journal.watch()
        if self.restraint is None:
            self.restraint = Restraint(
                self._loop, self._pools, self._groups, self._log, self._room, self._happened
            )
        self.restraint.follow(config)

    def close(self) -> None:
        """The gateway stops."""
        if self.restraint is not None:
            self.restraint.close()
