"""A worker: it serves clients, and has its limits, its keys and its books from the control process.

    a request ends ----> the books ----> Used ----> Noted      (in a hundredth of a second; of limits it is used at once)
    the control process: Keys, Engine, Follow, Ask, ...  ----> done here, in that order

Owns: the line, and that what was used is told once. It stands where the store stands (``housekeeping.UsageStore``), so nothing
on the way of a request knows of it. Must never: go on as a gateway without a control process: then it ends what it has.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from fastgw.config import Config
from fastgw.engines import EngineDesk
from fastgw.housekeeping import Housekeeping, UsageStore
from fastgw.limits.account import Accounts
from fastgw.limits.key import Batch, UsageRow
from fastgw.limits.purse import Asked, Sums
from fastgw.limits.region import Region
from fastgw.limits.spending import SpentRow
from fastgw.net.given import Given, inherited
from fastgw.net.process_line import LineGone, ProcessLine
from fastgw.observe import process
from fastgw.observe.logs import LogWriter
from fastgw.observe.pages import Page
from fastgw.workers import words
from fastgw.workers.figures import Figures
from fastgw.workers.part import Around, NotBegun, Part, Signals

BEGIN_S: Final = 30.0  # that a worker waits to be told what it is
FLUSH_S: Final = 0.01  # what was used is told so soon
TELL_S: Final = 0.5  # and what was counted so often


class Member(Part):
    """See the head of this file. ``fds``: what the control process has given: its line, then the sockets that listen, then the
    region. ``at``: which of so many ``workers`` it is."""

    def __init__(self, fds: Sequence[int], log: LogWriter) -> None:
        super().__init__()
        self._fds = list(fds)
        self._log = log
        self._line: ProcessLine | None = None
        self._around: Around | None = None
        self._signals: Signals | None = None
        self._task: asyncio.Task[None] | None = None
        self._done: Callable[[bool], None] | None = None  # whoever waits for the answer to a batch
        self._batch = ""
        self._answering: asyncio.Task[None] | None = None  # the last answer that waits for something
        self._problems: list[str] = []
        self._figures: Figures | None = None
        self._counts: asyncio.Task[None] | None = None
        self._asked = 0
        self._pages: dict[int, tuple[bytearray, asyncio.Future[Page | None]]] = {}  # that are on their way
        self._timer: asyncio.TimerHandle | None = None
        self.at = 0
        self.workers = 0
        self.alone = False  # the control process has gone

    def heed(self, signals: Signals) -> None:
        self._signals = signals

    def leaves(self) -> None:
        self._send(words.Leaves())

    async def given(self, config: Config, who: Accounts, given: Given | None) -> Given:
        try:
            line = self._line = ProcessLine.inherited(self._fds[0])
            async with asyncio.timeout(BEGIN_S):
                word = words.read(await line.receive())
        except (OSError, LineGone, TimeoutError, msgspec.MsgspecError) as error:
            raise NotBegun("a worker is started by its control process alone") from error
        if not isinstance(word, words.Begin) or word.speaks != words.SPEAKS:
            raise NotBegun("the control process is of a version that speaks otherwise: restart it")
        self.at, self.workers = word.at, word.workers
        who.required = who.required or word.required
        self.region = Region.attached(self._fds[1 + word.sockets :], word.worker)
        who.share_in(self.region)
        self._log.share(word.at + 1, self.region.fd)
        return inherited(self._fds[1 : 1 + word.sockets])

    def store(self, state: UsageStore | None) -> UsageStore | None:
        return self

    async def begin(self, around: Around) -> None:
        self._around = around
        self._figures = Figures(around, around.metrics.vitals.queue, process.figures)
        around.metrics.elsewhere = self._page
        around.core.accounts.books.opened = self._soon
        around.keeping.leave_days()
        around.core.reactor.loop.add_reader(self.region.wake_fd(self.region.worker), self._room)
        self._send(words.Up(os.getpid()))
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._listens(), name="control process")
        self._counts = loop.create_task(self._counting(), name="figures")

    def _room(self) -> None:
        """Another process has given something back for which somebody waits here."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.region.wake_fd(self.region.worker))
        assert self._around is not None
        self._around.core.room()

    def _send(self, word: words.Word) -> None:
        if self._line is not None:
            self._line.send(words.write(word))

    # --- what is said here
    async def _listens(self) -> None:
        line, signals = self._line, self._signals
        assert line is not None
        assert signals is not None
        try:
            while True:
                self._hear(words.read(await line.receive()), line, signals)
        except LineGone:
            self._log.warning("the control process has gone: what is under way goes on, nobody else is taken")
        except msgspec.MsgspecError:
            self._log.error("the control process has said what this version does not know")
        self.alone = True
        self.noted("")
        for _, answer in self._pages.values():
            if not answer.done():
                answer.set_result(None)
        signals.retire(around.core.config.drain_timeout_s if (around := self._around) is not None else 0.0)

    def _hear(self, word: words.Word, line: ProcessLine, signals: Signals) -> None:
        around = self._around
        assert around is not None
        match word:
            case words.Noted():
                self.noted(word.batch)
            case words.Keys():
                around.keeping.keys_changed(word.records)
            case words.Engine():
                self._engine(word)
            case words.Ask() | words.Follow():
                self._answering = asyncio.get_running_loop().create_task(self._answer(word, self._answering))
            case words.PagePart():
                self._part_of_page(word)
            case words.Recount():
                self._recount()
            case words.Reopen():
                signals.reopen()
            case words.StandIn():
                around.listener.also(word.at, line.take_sockets(word.sockets))
            case words.StandBack():
                around.listener.no_more_also(word.at)
            case words.Retire():
                signals.retire(word.seconds)
            case words.Drain():
                signals.drain(word.at_once)
            case _:
                self._log.error("the control process has said what is not for a worker")

    async def _answer(self, word: words.Ask | words.Follow, before: asyncio.Task[None] | None) -> None:
        """What takes a while, one after the other."""
        assert self._signals is not None
        if before is not None:
            await asyncio.wait({before})
        if isinstance(word, words.Follow):
            self._problems += await self._signals.follow()
            return
        if word.figures:
            await self._tell()
        problems, self._problems = self._problems, []
        self._send(words.Done(word.number, problems))

    async def _tell(self) -> None:
        """Everything that has been counted since it was told last."""
        figures = self._figures
        assert figures is not None
        async for counted in figures.told():
            if figures is not self._figures:
                return  # (all of it is told anew)
            self._send(counted)

    async def _counting(self) -> None:
        """Who is killed takes no more than the last of it along."""
        while not self.alone:
            await asyncio.sleep(TELL_S)
            await self._tell()

    async def _page(self, accept: str, accept_encoding: str) -> Page | None:
        """The metrics of all workers, as the control process has them."""
        self._asked += 1
        answer: asyncio.Future[Page | None] = asyncio.get_running_loop().create_future()
        self._pages[self._asked] = bytearray(), answer
        self._send(words.AskPage(self._asked, accept, accept_encoding))
        return await answer

    def _part_of_page(self, word: words.PagePart) -> None:
        body, answer = self._pages[word.number]
        body += word.body
        if word.last:
            del self._pages[word.number]
            if not answer.done():
                answer.set_result(Page(bytes(body), word.media_type, word.fields) if word.media_type else None)

    def _engine(self, word: words.Engine) -> None:
        assert self._around is not None
        if problem := word.done(EngineDesk(self._around.fleet, None)):
            self._problems.append(problem)

    def _recount(self) -> None:
        around = self._around
        assert around is not None
        self._figures = Figures(around, around.metrics.vitals.queue, process.figures)
        self._send(words.Recounted())

    # --- as the store
    def _soon(self) -> None:
        """Something was used that nobody has been told of."""
        if self._timer is None and self._around is not None:
            self._timer = self._around.core.reactor.loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._around is not None:
            self._around.keeping.flush()

    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None = None) -> bool:
        """(``rows`` are in the region, and the control process's to write.)"""
        around, line = self._around, self._line
        if self._done is not None or line is None or line.gone or around is None:
            return False
        if spent is None:
            around.core.reactor.loop.call_soon(done, True)
            return True
        self._batch, self._done = spent.id, done
        for at in range(0, max(len(spent.rows), 1), words.ROWS):
            last = at + words.ROWS >= len(spent.rows)
            self._send(words.Used(spent.id if last else "", list(spent.rows[at : at + words.ROWS])))
        return True

    def noted(self, batch: str) -> None:
        """It has this batch; "" = whatever it has, it will not say so."""
        done, self._done = self._done, None
        if done is not None:
            done(bool(batch) and batch == self._batch)
            if self._around is not None and len(self._around.core.accounts.books):
                self._soon()

    def load(self, day: int, done: Callable[[list[UsageRow] | None], None]) -> bool:
        """(What the store has of a day is in the region, where the control process puts it.)"""
        assert self._around is not None
        self._around.core.reactor.loop.call_soon(done, [])
        return True

    def sums(self, asked: Sequence[Asked], done: Callable[[Sums | None], None]) -> bool:
        """(Likewise of what budgets have seen: of those that nobody else may have here it is told that there are such.)"""
        assert self._around is not None
        self._send(words.Unknown([(kind, name, models) for kind, name, _, _, _, models in asked]))
        accounts = self._around.core.accounts
        del accounts.unread[: len(asked)]
        return False

    # --- the end
    async def close(self, keeping: Housekeeping) -> list[SpentRow]:
        if self._timer is not None:
            self._timer.cancel()
        if not self.alone and self._figures is not None:
            await self._tell()
        if self._around is not None:
            self._around.core.reactor.loop.remove_reader(self.region.wake_fd(self.region.worker))
        for task in (self._task, self._counts):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        rows: list[SpentRow] = keeping.waiting()
        if self._line is not None:
            self._line.close()
        return rows
