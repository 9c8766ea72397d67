"""The store of a gateway from its start to its end: opened, freed for another process, opened again, or written to once more.

Owns: which store there is. Must never: hold the loop for it once there are requests; or write to it while another process is
the gateway, but for what that has not taken before it went.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from time import time
from typing import TYPE_CHECKING, Final

from fastgw import accounts
from fastgw.config import Config
from fastgw.exchange.gateway import GatewayCore
from fastgw.housekeeping import Housekeeping
from fastgw.limits.account import Accounts
from fastgw.limits.key import Batch, UsageRow
from fastgw.limits.ledger import day_of
from fastgw.limits.spending import SpentRow
from fastgw.stats import EventLog

if TYPE_CHECKING:
    from fastgw.store.state import State

STATE_WAIT_S: Final = 5.0  # for the store to take the last of it


class NotOpened(Exception):
    """There is no store; the text says why in one line."""


class Stored:
    """See the head of this file. ``state`` None = there is none now."""

    def __init__(self, log: EventLog) -> None:
        self.state: State | None = None
        self._ahead: State | None = None
        self._log = log

    def ahead(self, config: Config, who: Accounts) -> None:
        """Read as much as can be while another process has the store; :meth:`open` does the rest."""
        if config.state_dir:
            from fastgw.store.folder import Loaded
            from fastgw.store.schema import StateError

            state = self._made(config)
            try:
                keys = state.ahead()
            except StateError:
                return  # (it is read when it is opened, which says why)
            self._ahead = state
            accounts.restore(who, Loaded(keys, [], 0), self._log)

    def open(self, config: Config, who: Accounts) -> list[UsageRow]:
        """Who may use the gateway beside those of the configuration, into ``who``, and what they have used already. Raises
        :class:`NotOpened`."""
        if not config.state_dir:
            return []
        from fastgw.store.schema import StateError

        state = self._ahead or self._made(config)
        try:
            loaded = state.open(day_of(time()))
        except StateError as error:
            raise NotOpened(str(error)) from error
        self.state = state
        accounts.restore(who, loaded, self._log)
        return loaded.usage

    def read(self, config: Config, who: Accounts) -> list[UsageRow]:
        """The keys, for a process that is not to have the store: another of this gateway has it. Raises :class:`NotOpened`."""
        if config.state_dir:
            from fastgw.store.folder import Loaded
            from fastgw.store.schema import StateError

            try:
                accounts.restore(who, Loaded(self._made(config).ahead(), [], 0), self._log)
            except StateError as error:
                raise NotOpened(str(error)) from error
        return []

    async def close(self) -> None:
        """The folder is anybody's."""
        state, self.state = self.state, None
        if state is not None and not await state.close(STATE_WAIT_S):
            self._log.warning("usage of the last moments was not written down", reason=state.reason or "the disk was slow")

    async def open_again(self, config: Config, core: GatewayCore, keeping: Housekeeping) -> State | None:
        """As it was before it was closed for another process. Who may use the gateway is asked anew."""
        if self.state is None and config.state_dir:
            from fastgw.store.schema import StateError

            state = self._made(config)
            try:
                await asyncio.to_thread(state.open, core.today)
            except StateError as error:
                self._log.error("the state cannot be opened again; traffic goes on, usage is kept in memory", reason=str(error))
                return None
            self.state = state
            state.start(core.reactor.loop, keeping.keys_changed)
            state.tell_again()
        return self.state

    async def add(self, rows: Sequence[SpentRow], config: Config) -> None:
        """What nobody else has taken, to what there is."""
        if not rows:
            return
        from fastgw.store.schema import StateError

        why = "there is no state_dir"
        if config.state_dir:
            state = self._made(config)
            try:
                await asyncio.to_thread(state.open, day_of(time()))
                state.start(asyncio.get_running_loop(), lambda records: None)
                await state.run(lambda database: database.add_usage(Batch(f"{os.urandom(8).hex()}:upgrade", rows)))
            except StateError as error:
                why = str(error)
            else:
                self._log.info("usage was written down here: the process that took over has gone")
                return
            finally:
                await state.close()
        tokens = sum(row[4] + row[5] for row in rows)
        self._log.error(
            "usage was not written down: the process that took over has gone", reason=why,
            requests=sum(row[6] for row in rows), tokens=tokens,
        )  # fmt: skip

    def _made(self, config: Config) -> State:
        from fastgw.store.state import State

        return State(config.state_dir, log=self._log, on_corrupt=config.on_corrupt_state, flush_s=config.flush_interval_s)
