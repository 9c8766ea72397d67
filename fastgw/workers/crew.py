"""The control process: what it says to its workers, and what it hears; it has what one process alone can have.

Owns: that what workers have used is in the books once, that keys, engines and settings hold in all of them, and what another
program goes on with in this process (``again``). Must never: serve a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.config import Config
from fastgw.engines import EngineDesk
from fastgw.errors import GatewayError
from fastgw.housekeeping import Housekeeping, UsageStore
from fastgw.limits.account import Accounts
from fastgw.limits.key import KeyRecord
from fastgw.limits.region import Region
from fastgw.limits.spending import SpentRow
from fastgw.net.clock import micros, monotonic
from fastgw.net.given import Given, held
from fastgw.net.listener import BindError, bind_each, url_of
from fastgw.stats import EventLog
from fastgw.workers import again, words
from fastgw.workers.again import Left, LeftWorker
from fastgw.workers.part import Around, NotBegun, go_on, pause
from fastgw.workers.posts import Place, Worker
from fastgw.workers.roster import RETIRED, Roster, Spawn
from fastgw.workers.sums import Sums

if TYPE_CHECKING:
    import socket

BACKLOG: Final = 4096
ANSWER_S: Final = 10.0  # that a worker's answer is waited for
FIGURES_S: Final = 2.0  # that figures of workers are waited for: one that is stopped has told what it had before
PAGE_BYTES: Final = 1 << 20


class Crew(Roster):
    """See the head of this file. ``spawn`` starts a process that inherits these descriptors."""

    operates = True

    def __init__(self, workers: int, *, spawn: Spawn, log: EventLog, left: Left | None = None) -> None:
        super().__init__(workers, spawn=spawn, log=log)
        self._left = left
        self._around: Around | None = None
        self._asked = 0
        self._by = ""  # who has given the sockets
        self.sums: Sums | None = None

    # --- sockets
    async def given(self, config: Config, who: Accounts, given: Given | None) -> Given:
        """(None of the sockets is this process's to accept on.)"""
        left = self._left
        own = Given(left.by if left is not None else given.by if given is not None else "")
        own.client, own.control = [], given.control if given is not None else None
        try:
            if left is None:
                self.region = Region.create(RETIRED * self._count)
            else:
                self.region = Region.attached(left.region, 0)
                own.control = self._goes_on(left, config, who)
            if left is not None and (left.by or left.listen == listens_by(config)):
                groups = [held(fds) for fds in left.places]
            elif given is not None and given.client is not None:
                groups = [[sock.dup() for sock in given.client] for _ in range(self._count)]
            else:
                groups = bind_each(config.host, config.port, config.unix_socket, BACKLOG, self._count)
        except (BindError, OSError, ValueError) as error:
            raise NotBegun(str(error)) from error
        self._places = [Place(at, socks) for at, socks in enumerate(groups)]
        scheme = "https" if config.tls_cert_file else "http"
        self.addresses = [url_of(sock, scheme) for sock in groups[0]]
        who.share_in(self.region)
        self._by = own.by
        return own

    def _goes_on(self, left: Left, config: Config, who: Accounts) -> list[socket.socket] | None:
        """With what the program before this one has left. The sockets of the control listener, where it stays where it was."""
        if config.workers != len(left.places):
            self._log.warning("workers is as it was: another number waits for a restart", workers=len(left.places))
        self._count = len(left.places)
        self._slots = sorted(set(range(1, RETIRED * self._count + 1)) - {one.slot for one in left.workers}, reverse=True)
        who.required = who.required or left.required
        socks = held(left.control)
        if socks and left.control_listen == config.control_listen:
            return socks
        for sock in socks:
            sock.close()
        return None

    def store(self, state: UsageStore | None) -> UsageStore | None:
        return state

    # --- processes
    async def begin(self, around: Around) -> None:
        """Start all, and return when each takes requests."""
        self._around = around
        sums = self.sums = Sums(around)
        sums.energy = around.metrics.vitals.energy
        around.metrics.vitals.others = sums
        around.metrics.before = self.counted
        around.fleet.own.add(self.socks)
        if self._left is not None:
            self._adopt(self._left, around)
        self._start_all()
        await self._all_up()
        if self._left is not None:
            around.metrics.tasks.spawn("upgrade", self.renew())

    def _adopt(self, left: Left, around: Around) -> None:
        """The workers that there are, with what the operator has done with engines."""
        desk = EngineDesk(around.fleet, None)
        for word in left.engines:
            if problem := word.done(desk):
                self._log.warning("an engine is not as it was", problem=problem)
        for one in left.workers:
            place = self._places[one.at] if one.at >= 0 else Place(one.at, [])
            worker = Worker(place, one.slot, again.line_of(one), again.Adopted(one.pid))
            worker.up, worker.retires, worker.counts = one.at >= 0, one.at < 0, False
            worker.ready.set_result(None)
            place.worker = worker if one.at >= 0 else None
            self._all[worker] = None
            worker.say(words.Recount())
            self._listen(worker)
        for slot in self._slots:  # (whoever had it has ended meanwhile)
            for _ in self.region.release(slot):
                pass

    async def pause(self) -> None:
        """Another program is to go on in this process. Raises NotHanded; nothing has changed then."""
        assert self._around is not None
        await pause(self._around)

    def leave(self) -> Left:
        """All of it, for that program; nothing is said or heard until :meth:`go_on`."""
        assert self._around is not None
        config, control = self._around.core.config, self._around.control
        for place in self._places:
            if place.timer is not None:
                place.timer.cancel()
        workers = []
        for worker in self._all:
            if worker.task is not None:
                worker.task.cancel()
            if worker.line.gone:
                continue
            sock, read, unsent = worker.line.leave()
            at = worker.place.at if worker.up and not worker.retires else -1
            workers.append(LeftWorker(worker.slot, at, worker.process.pid, sock.fileno(), read, unsent))
        return Left(
            speaks=words.SPEAKS,
            listen=listens_by(config),
            control_listen=config.control_listen,
            by=self._by,
            region=list(self.region.fds()),
            places=[[sock.fileno() for sock in place.socks] for place in self._places],
            control=[sock.fileno() for sock in control.socks] if control is not None else [],
            workers=workers,
            engines=list(self._greeting()),
            required=self._around.core.accounts.required,
        )

    async def go_on(self) -> None:
        """There is no other program."""
        assert self._around is not None
        await go_on(self._around)
        for worker in self._all:
            worker.line.go_on()
            self._listen(worker)
        for place in self._places:
            if place.worker is None:
                self._start_again(place)

    def _greeting(self) -> Iterator[words.Engine]:
        """What the operator has done with engines, for one who knows nothing of it."""
        assert self._around is not None
        for one in self._around.fleet.listed():
            if one.leaving:
                continue
            if one.origin == "admin":
                fields: dict[str, Any] = msgspec.to_builtins(one.config)
                yield words.Engine("add", one.config.name, fields)
            if one.pool.engine.draining:
                yield words.Engine("drain", one.pool.engine.name)

    # --- who takes the clients of one that is not there
    def _required(self) -> bool:
        assert self._around is not None
        return self._around.core.accounts.required

    def _retires_s(self) -> float:
        assert self._around is not None
        return self._around.core.config.upgrade_timeout_s

    def _gone(self, worker: Worker) -> None:
        if self.sums is not None:
            self.sums.gone(worker)

    def _freed(self) -> None:
        if self._around is not None:
            self._around.core.room()

    # --- what a worker says
    async def _hear(self, worker: Worker, word: words.Word) -> None:
        match word:
            case words.Up():
                self._up(worker)
            case words.Leaves():
                self._leaves(worker)
            case words.Used():
                self._count_rows(word.rows)
                if word.batch:
                    worker.say(words.Noted(word.batch))
            case words.Unknown():
                self._find_out(word)
            case words.Done():
                answer = worker.answers.pop(word.number, None)
                if answer is not None and not answer.done():
                    answer.set_result(word.problems)
            case words.Counted():
                assert self.sums is not None
                if worker.counts:
                    self.sums.told(worker, word)
            case words.Recounted():
                worker.counts = True
            case words.AskPage():
                assert self._around is not None
                self._around.metrics.tasks.spawn("metrics for a worker", self._page(worker, word))
            case _:
                raise msgspec.ValidationError("not for the control process")

    def _count_rows(self, rows: Sequence[SpentRow]) -> None:
        """What requests have used goes into the books, and is to be written down. In limits, and days, it is already."""
        around = self._around
        assert around is not None
        accounts, today = around.core.accounts, around.core.today
        for row in rows:
            key, tenant, model, day = row[:4]
            if accounts.books.kept:
                accounts.books.use(key, tenant, model, day).add(row)
            account = accounts.by_id(key)
            if account is None:
                continue  # (its key has gone: what it has used is in the books)
            if not account.ledger.dirty:
                accounts.touched.append(account)
            purses = [purse for purse in (account.purse, account.shared) if purse is not None]
            with accounts.inside(account, *purses):
                account.ledger.add(day, 0, 0, 0, 0, 0, 0)  # (it is counted there already, and the store is told)
                for purse in purses:
                    if purse.charge(today, 0):
                        accounts.cross(purse)

    def _find_out(self, word: words.Unknown) -> None:
        """Of each key's use of a model for which each has limits nobody knows here before somebody asks."""
        around = self._around
        assert around is not None
        accounts = around.core.accounts
        for kind, name, models in word.asked[: words.ROWS * 4]:
            found = accounts.scopes.models.get(models[0]) if kind == "key" and models else None
            if found is not None and found.each and name:
                accounts.scopes.of_key(name, found, micros(monotonic()), around.core.today)

    # --- what all are told
    def keys_changed(self, take: Callable[[Sequence[KeyRecord]], None]) -> Callable[[Sequence[KeyRecord]], None]:
        def taken(records: Sequence[KeyRecord]) -> None:
            take(records)
            for at in range(0, len(records), words.ROWS):
                self._tell_all(words.Keys(list(records[at : at + words.ROWS])))

        return taken

    def reopen(self) -> None:
        """Log files have been renamed."""
        self._tell_all(words.Reopen())

    def engine(self, what: str, name: str, fields: dict[str, Any] | None = None, why: str = "") -> None:
        self._tell_all(words.Engine(what, name, fields or {}, why))

    async def followed(self) -> list[str]:
        self._tell_all(words.Follow())
        problems = await self.settled()
        for problem in problems:
            self._log.error("a worker has not followed", problem=problem)
        return problems

    async def settled(self) -> list[str]:
        return await self._all_answer(False, ANSWER_S)

    async def counted(self) -> None:
        await self._all_answer(True, FIGURES_S)

    async def _all_answer(self, figures: bool, wait_s: float) -> list[str]:
        """All that was said has been done, or could not be: what of it."""
        self._asked += 1
        answers: list[asyncio.Future[list[str]]] = []
        for worker in self._all:
            if worker.up:
                answer = worker.answers[self._asked] = asyncio.get_running_loop().create_future()
                answers.append(answer)
                worker.say(words.Ask(self._asked, figures))
        if answers:
            await asyncio.wait(answers, timeout=wait_s)
        problems = [] if all(one.done() for one in answers) else ["one has not answered"]
        return list(dict.fromkeys([*problems, *(text for one in answers if one.done() for text in one.result())]))

    async def _page(self, worker: Worker, word: words.AskPage) -> None:
        assert self._around is not None
        try:
            page = await self._around.metrics.page(word.accept, word.accept_encoding)
        except GatewayError:
            worker.say(words.PagePart(word.number, b"", True))
            return
        for at in range(0, len(page.body), PAGE_BYTES):
            worker.say(words.PagePart(word.number, page.body[at : at + PAGE_BYTES]))
        worker.say(words.PagePart(word.number, b"", True, page.media_type, page.fields))

    # --- others in their places
    # --- the end
    async def close(self, keeping: Housekeeping) -> list[SpentRow]:
        for worker in list(self._all):
            worker.line.close()
        for place in self._places:
            for sock in place.socks:
                name = sock.getsockname()
                sock.close()
                if isinstance(name, str) and name and place.at == 0 and not self._by:
                    with contextlib.suppress(OSError):
                        os.unlink(name)
        self.region.close()
        return []


def listens_by(config: Config) -> str:
    """The settings that the workers' sockets are bound by."""
    return f"{config.host} {config.port} {config.unix_socket}"
