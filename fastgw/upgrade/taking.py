"""The new process takes over from the one that has started it.

    ready      the configuration is read, certificates are loaded, engines were asked: all that may fail has not
    listening  sockets have come, and rows of limits; the other one serves what it has, and lets nobody in
    taken      the store is open, the rows are in their places; who comes waits in the backlog still
    go         the other one has let go: from now on this is the gateway
    beside     what the other one's requests use and give back counts here, until it has gone (``beside``)

Owns that order. Invariant: nothing is written to the store, and nobody is let in, before ``go``: until then the other process
may take everything back.
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw import __version__
from fastgw.config import Config, ConfigErrors, EngineConfig
from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.meter import Meters
from fastgw.net.clock import micros
from fastgw.net.given import CONTROL, Given
from fastgw.net.process_line import LineGone, ProcessLine
from fastgw.net.unusable import TlsError
from fastgw.stats import EventLog
from fastgw.upgrade import places, standing, words
from fastgw.upgrade.beside import Beside
from fastgw.upgrade.refusals import NotTaken
from fastgw.upgrade.words import Word
from fastgw.upstream.identity import FleetError
from fastgw.upstream.seats import Seats

if TYPE_CHECKING:
    import socket

    from fastgw.upstream.fleet import Fleet

HAND_OVER_S: Final = 60.0  # for the old process to say all that it has to, and then to let go


class Taking:
    """What stands for the old process in the new one. ``fd``: the end of the line that was inherited."""

    def __init__(self, fd: int, log: EventLog) -> None:
        try:
            self._line = ProcessLine.inherited(fd)
        except OSError as error:
            raise NotTaken(f"there is no process to take over from: {error.strerror}") from error
        self._log = log
        self._scopes: list[words.ScopeRow] = []
        self._addresses: list[tuple[str, words.MeterRow]] = []
        self._engines = words.Engines([])
        self._booked: list[words.Booked] = []
        self._held: list[words.HeldRow] = []
        self._befores: list[tuple[socket.socket, words.Before]] = []
        self._besides: list[Beside] = []
        self._taken: Given | None = None
        self.required = False

    async def sockets(self, core: GatewayCore, sessions: Seats | None) -> Given:
        """Say that all is ready, and take what comes: ``sessions`` at once. Raises :class:`NotTaken`."""
        self._send(words.Ready(__version__, os.getpid()))
        given: Given | None = None
        try:
            async with asyncio.timeout(HAND_OVER_S):
                while True:
                    word = words.read(await self._line.receive())
                    if isinstance(word, words.Sockets):
                        given = self._given(word, core.config)
                    elif isinstance(word, words.Over):
                        self.required = word.required
                        break
                    elif isinstance(word, words.Seats):
                        places.known(core, sessions, word)
                    else:
                        self._keep(word)
        except (LineGone, TimeoutError, msgspec.MsgspecError) as error:
            raise NotTaken("the process that runs has not handed over; its log says why") from error
        if given is None:
            raise NotTaken("the process that runs has handed no sockets over")
        self._taken = given
        return given

    def _keep(self, word: Word) -> None:
        if isinstance(word, words.Scopes):
            self._scopes += word.rows
        elif isinstance(word, words.Addresses):
            self._addresses += word.rows
        elif isinstance(word, words.Booked):
            self._booked.append(word)
        elif isinstance(word, words.Held):
            self._held += word.rows
        elif isinstance(word, words.Engines):
            self._engines = word
        elif isinstance(word, words.Befores):
            self._befores = list(zip(self._line.take_sockets(len(word.rows)), word.rows, strict=True))

    def _given(self, word: words.Sockets, config: Config) -> Given:
        """What is listened on by the same settings as before goes on; what a service manager has given does in any case."""
        given = Given(by=word.by)
        listen = listens_by(config)
        for role, sock in zip(word.roles, self._line.take_sockets(len(word.roles)), strict=True):
            kind = CONTROL if role == CONTROL else "unix" if role == "unix" else "client"
            if not word.by and listen[kind] != word.listen.get(kind):
                given.others.append(sock)
            elif role == CONTROL:
                given.control = [*(given.control or ()), sock]
            else:
                given.client = [*(given.client or ()), sock]
        return given

    # --- what was said, in its place
    def book(self, core: GatewayCore) -> None:
        """What the store does not have yet, before anybody asks what budgets have seen."""
        for word in self._booked:
            for row in word.rows:
                standing.book(core.accounts, row)

    def put(self, core: GatewayCore, fleet: Fleet, meters: Meters | None) -> None:
        """Limits as far as they are used, and what the other process holds of them; its engines, as they stand."""
        now_us = micros(monotonic())
        for row in self._scopes:
            standing.put(core, row, now_us)
        for name, address in self._addresses:
            standing.put_address(meters, name, address, now_us)
        core.accounts.required = core.accounts.required or self.required
        self._add(core, fleet)
        self._besides = [Beside(self._line, self._held, core, self._log)]
        for sock, before in self._befores:
            line = ProcessLine.going_on(sock, before.read, before.unsent)
            self._besides.append(Beside(line, before.held, core, self._log))
        self._scopes, self._addresses, self._booked, self._held, self._befores = [], [], [], [], []

    def _add(self, core: GatewayCore, fleet: Fleet) -> None:
        """Engines that the operator has added, and what was known of them and of the others."""
        for fields in self._engines.added:
            try:
                fleet.add(msgspec.convert(fields, EngineConfig))
            except (FleetError, ConfigErrors, TlsError, msgspec.ValidationError) as error:
                self._log.warning("an engine that was added is not there any more", engine=fields.get("name"), error=str(error))
        for row in self._engines.rows:
            pool = next((one for one in fleet.pools if one.engine.name == row.engine), None)
            if pool is None or fleet.config_of(row.engine).url != row.url:
                continue
            if row.open:
                pool.engine.breaker.restore(row.failures, row.until, row.dials, row.whose)
                core.breaker_moved(pool)
            if row.draining:
                fleet.drain(row.engine)

    # --- and from then on
    async def go(self, addresses: list[str]) -> None:
        """Say that this could begin; it may when this returns. Raises :class:`NotTaken`: the other process is the gateway."""
        self._send(words.Taken(addresses))
        try:
            async with asyncio.timeout(HAND_OVER_S):
                word = words.read(await self._line.receive())
        except (LineGone, TimeoutError, msgspec.MsgspecError) as error:
            raise NotTaken("the process that runs has taken everything back; its log says why") from error
        if not isinstance(word, words.Go):
            raise NotTaken("the process that runs has said something else than it was to")

    def besides(self) -> list[Beside]:
        """The other process, and those that it had taken over from and that have something under way still. From now on what
        they say counts here."""
        for one in self._besides:
            one.listen()
        if self._taken is not None:
            self._taken.drop()
        return self._besides

    def _send(self, word: Word) -> None:
        self._line.send(words.write(word))


def listens_by(config: Config) -> dict[str, str]:
    """The settings that listening sockets are bound by."""
    return {
        "client": f"{config.host} {config.port}", "unix": config.unix_socket or "", "control": config.control_listen or "",
    }  # fmt: skip
