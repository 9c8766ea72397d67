"""Settings read again while the gateway runs: SIGHUP, and ``POST /admin/reload``.

    asked ----> read, in a thread ----> followed (``app.Gateway.follow``) ----> told: log, metrics, manager, whoever asked
                     |                       |
                     +---- a mistake --------+----> told; everything is as it was

Owns the order: one reading at a time, and whoever asks meanwhile gets one that begins after that, so that the last state of the
files wins. All of it is read and checked before anything changes. Must never: hold the loop for a file, or take a request from
the environment: a process has the one that it was given.

Certificates, which are files beside the settings, are read again when those hold. What cannot be used of them is told to the
log, and what there was goes on: the settings are as they say all the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from fastgw.app import Gateway
from fastgw.config import Config, ConfigError, ConfigErrors
from fastgw.config.changes import Change, between
from fastgw.errors import described
from fastgw.stats import EventLog

REFUSED = 422
DRAINS = 503
READ_S: Final = 10.0  # that files are waited for: one may be a pipe that nobody writes to, or on a disk that does not answer
NOT_NOW: Final = {"error": "the gateway drains, or has not started yet"}
MOST_TOLD: Final = 50  # mistakes that are named: a wrong file may hold as many as it has words


class Manager(Protocol):
    """Who is told when it begins, and how it ended."""

    def reloading(self) -> None: ...
    def reloaded(self, status: str) -> None: ...


class Reloader:
    """``read`` gives the settings as they are written now, or raises ConfigErrors; it runs in a thread. ``first`` is called
    before that each time, ``followed`` with what holds from then on; neither may raise. Before :meth:`ready` it is remembered
    that somebody has asked, after :meth:`close` nothing more is done."""

    def __init__(
        self,
        gateway: Gateway,
        read: Callable[[], Config],
        *,
        log: EventLog,
        manager: Manager,
        first: Callable[[], None],
        followed: Callable[[Config], None],
    ) -> None:
        self._gateway = gateway
        self._reads = read
        self._log = log
        self._manager = manager
        self._first = first
        self._followed = followed
        self._ready = self._closed = self._asked = False
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._reads_still = False  # what was given up after a while
        gateway.loading.again = self.again

    def ask(self) -> None:
        """SIGHUP has come. Several while one reading is under way are one."""
        if self._closed:
            self._drains()
            return
        self._asked = True
        if self._ready and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._while_asked(), name="reload")

    def ready(self) -> None:
        """The gateway takes requests."""
        self._ready = True
        if self._asked:
            self.ask()

    def close(self) -> None:
        """It drains."""
        self._closed = True

    async def again(self) -> tuple[int, Any]:
        """Read them now; the status and the document that say what came of it."""
        if self._closed or not self._ready:
            return DRAINS, NOT_NOW
        # (Whoever asked may leave: it is done all the same.)
        return await asyncio.shield(asyncio.ensure_future(self._once()))

    async def _while_asked(self) -> None:
        try:
            while self._asked and not self._closed:
                self._asked = False
                await self._once()
        finally:
            self._task = None

    async def _once(self) -> tuple[int, Any]:
        async with self._turn:
            if self._closed:
                return self._drains()
            self._first()
            self._manager.reloading()
            problems: Sequence[str] = ()
            change: Change | None = None
            try:
                change = await self._gateway.follow(await self._read())
            except ConfigErrors as found:
                problems = [str(error) for error in found.errors[:MOST_TOLD]]
                if (more := len(found.errors) - MOST_TOLD) > 0:
                    problems.append(f"and {more} more")
            except Exception as error:
                problems = [described(error)]
            if change is None:
                return self._drains() if self._closed else self._failed(problems)
            return self._done(change)

    def _drains(self) -> tuple[int, Any]:
        """(Its manager has been told that it stops, and hears no more of it.)"""
        self._log.info("the configuration is not read again: the gateway drains")
        return DRAINS, NOT_NOW

    def _failed(self, problems: Sequence[str]) -> tuple[int, Any]:
        count = len(problems)
        self._gateway.stats.reloads_failed += 1
        self._log.error(
            "the configuration was not taken over, all is as it was",
            mistakes=count,
            problems="; ".join(problems),
            hint="mend it, look with `fastgw check`, and send SIGHUP again",
        )
        self._manager.reloaded(f"the configuration was not taken over: {count} mistake{'s' if count > 1 else ''}")
        return REFUSED, {"error": "The configuration was not taken over, all is as it was.", "problems": list(problems)}

    def _done(self, change: Change) -> tuple[int, Any]:
        self._gateway.stats.reloads_ok += 1
        self._gateway.renew_certificates()
        self._followed(change.config)
        self._log.info("the configuration was read again", changed=", ".join(change.changed) or "nothing")
        if change.pending:
            self._log.warning("some settings wait for a restart, and are as they were", settings=", ".join(change.pending))
        waits = f", a restart is due for {', '.join(change.pending)}" if change.pending else ""
        if not self._closed:
            self._manager.reloaded(f"listening on {' '.join(self._gateway.addresses)}{waits}")
        return 200, {"changed": list(change.changed), "restart": list(change.pending)}

    async def _read(self) -> Change:
        """All that is in files, read and checked. Raises what reading raises, and ConfigErrors where that does not end:
        until it has, nothing else is read."""
        if self._reads_still:
            raise _late("are still being read, since an earlier reload")
        before = self._gateway.config
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Change] = loop.create_future()

        def work() -> None:
            change: Change | None = None
            problem: Exception | None = None
            try:
                change = between(before, self._reads())
            except Exception as error:
                problem = error
            try:
                loop.call_soon_threadsafe(self._answer, answer, change, problem)
            except RuntimeError:
                return  # the loop is closed: nobody waits

        threading.Thread(target=work, name="fastgw-reload", daemon=True).start()
        self._reads_still = True
        try:
            async with asyncio.timeout(READ_S):
                return await answer
        except TimeoutError:
            raise _late(f"could not be read within {READ_S:g} s") from None

    def _answer(self, answer: asyncio.Future[Change], change: Change | None, problem: Exception | None) -> None:
        self._reads_still = False
        if answer.done():
            return
        if change is not None:
            answer.set_result(change)
        else:
            answer.set_exception(problem or RuntimeError("nothing was read"))


def _late(what: str) -> ConfigErrors:
    message = f"the files {what}: one may be a pipe, or on a disk that does not answer"
    return ConfigErrors([ConfigError("configuration", "", message)])
