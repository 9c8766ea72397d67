"""What one process of a gateway of several is of it: :class:`~fastgw.workers.crew.Crew` is the control process,
:class:`~fastgw.workers.member.Member` a worker.

Owns: what ``app`` asks of both. A gateway of one process has none of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fastgw.config import Config
from fastgw.exchange.gateway import GatewayCore
from fastgw.housekeeping import Housekeeping, UsageStore
from fastgw.limits.account import Accounts
from fastgw.limits.key import KeyRecord
from fastgw.limits.spending import SpentRow
from fastgw.net.given import Given
from fastgw.net.listener import Listener
from fastgw.stored import STATE_WAIT_S, Stored
from fastgw.upgrade.refusals import NotHanded
from fastgw.upstream.fleet import Fleet
from fastgw.vitals import MetricsDoor

if TYPE_CHECKING:
    from fastgw.control.server import ControlServer
    from fastgw.limits.region import Region


class NotBegun(Exception):
    """This process, or one that it has started, cannot be what it is to be; the text says why in one line."""


class Around(NamedTuple):
    """What a part works with, of the gateway that this process is."""

    core: GatewayCore
    fleet: Fleet
    keeping: Housekeeping
    listener: Listener
    metrics: MetricsDoor
    stored: Stored
    control: ControlServer | None


async def pause(around: Around) -> None:
    """Write down what was used and free the store, for another program that goes on in this process, until :func:`go_on`.
    Raises NotHanded; nothing has changed then."""
    keeping, stored = around.keeping, around.stored
    if stored.state is not None and not (await keeping.known(STATE_WAIT_S) and await keeping.pause(STATE_WAIT_S)):
        keeping.go_on(stored.state)
        raise NotHanded("what was used cannot be written down: nothing is handed over before it can")
    await stored.close()


async def go_on(around: Around) -> None:
    """There is no other program."""
    core = around.core
    around.keeping.go_on(await around.stored.open_again(core.config, core, around.keeping))


class Signals(Protocol):
    """What is done in this process when the control process says so."""

    def drain(self, at_once: bool) -> None: ...
    def reopen(self) -> None: ...
    def retire(self, seconds: float) -> None: ...

    async def follow(self) -> list[str]:
        """Read the settings again; what was wrong with them."""
        ...


class Part:
    """See the head of this file. ``operates``: it has the control listener, and the store. ``region``: what limits have seen,
    which all processes share. ``addresses``: where clients come, where
    this process does not know it by its own sockets."""

    operates = False
    region: Region

    def __init__(self) -> None:
        self.addresses: list[str] = []

    async def given(self, config: Config, who: Accounts, given: Given | None) -> Given:
        """The sockets that it listens on, where ``given`` are those of a service manager; from now on the limits of ``who`` are
        those of all together. Raises :class:`NotBegun`."""
        raise NotImplementedError

    def store(self, state: UsageStore | None) -> UsageStore | None:
        """Where what was used goes, where ``state`` is this process's own store."""
        raise NotImplementedError

    def keys_changed(self, take: Callable[[Sequence[KeyRecord]], None]) -> Callable[[Sequence[KeyRecord]], None]:
        """Who is told of keys that are new or others, in the place of ``take``."""
        return take

    async def begin(self, around: Around) -> None:
        """The gateway of this process is there. Raises :class:`NotBegun`."""
        raise NotImplementedError

    async def followed(self) -> list[str]:
        """Other settings hold here: what was wrong with them elsewhere."""
        return []

    async def counted(self) -> None:
        """Returns when what the others have counted is in the figures here, or they do not say it."""

    async def settled(self) -> list[str]:
        """Returns when all that was said has been done; what of it could not be."""
        return []

    def engine(self, what: str, name: str, fields: dict[str, Any] | None = None, why: str = "") -> None:
        """The operator has done this with an engine here."""

    def heed(self, signals: Signals) -> None:
        """Whoever does in this process what the control process says."""

    def reopen(self) -> None:
        """Log files have been renamed."""

    def leaves(self) -> None:
        """This process alone was asked to end, and does."""

    async def end(self, seconds: float) -> None:
        """The gateway ends: so long for what is under way elsewhere."""

    async def close(self, keeping: Housekeeping) -> list[SpentRow]:
        """Nothing more is said or heard. Returns what was used here that nobody has taken."""
        return []


async def none_left(tasks: Sequence[asyncio.Task[Any]], seconds: float) -> bool:
    """Wait for them to end. False = some have not."""
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=seconds)
        return not left
    return True
