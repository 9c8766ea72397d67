"""Which workers there are: who is started when, who takes whose clients meanwhile, and how all of them end.

    start ----> Up ----> serves ----> its process ends ----> what it held is free ----> started again: at once, then later
                            |                                    another takes its clients meanwhile (StandIn)
                            +----> Retire (a new one has its place) ----> ends what it has

Owns: the sockets that listen, so that nobody who comes meets none, and the workers' processes and lines. What is said on these
is :class:`~fastgw.workers.crew.Crew`'s. Must never: end because a worker has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.net.clock import monotonic
from fastgw.net.process_line import LineGone, ProcessLine
from fastgw.stats import EventLog
from fastgw.workers import words
from fastgw.workers.part import NotBegun, Part, none_left
from fastgw.workers.posts import Place, Process, Worker, how, waits_s

if TYPE_CHECKING:
    import socket

START_S: Final = 120.0  # for a worker to read its settings, and to listen
ENDS_S: Final = 5.0  # for one that has said its last to end, before it is killed
STEADY_S: Final = 10.0  # whoever has lived so long is started again at once
HURRY_S: Final = 2.0  # for workers to end that are to end at once
RETIRED: Final = 2  # of one place, at once: who has it, and who had it

Spawn = Callable[[Sequence[int]], Process]
"""Starts a process that inherits these descriptors."""


class Roster(Part):
    """See the head of this file."""

    def __init__(self, workers: int, *, spawn: Spawn, log: EventLog) -> None:
        super().__init__()
        self._count = workers
        self._spawn = spawn
        self._log = log
        self._places: list[Place] = []
        self._all: dict[Worker, None] = {}  # those whose process has not ended
        self._slots = list(range(RETIRED * workers, 0, -1))  # that nobody has
        self._begun = self._renewing = self._closing = False
        self.restarts = 0

    @property
    def socks(self) -> list[socket.socket]:
        """All that is listened on."""
        return [sock for place in self._places for sock in place.socks]

    # --- what the crew knows
    async def _hear(self, worker: Worker, word: words.Word) -> None:
        """It has said this. Raises ``msgspec.ValidationError`` where that is not for the control process."""
        raise NotImplementedError

    def _greeting(self) -> Iterator[words.Word]:
        """What one is told who knows nothing yet."""
        raise NotImplementedError

    def _required(self) -> bool:
        """Whether a client needs a key."""
        raise NotImplementedError

    def _retires_s(self) -> float:
        """How long those have who are to retire."""
        raise NotImplementedError

    def _gone(self, worker: Worker) -> None:
        """Its process has ended."""

    def _freed(self) -> None:
        """What one held has come free."""

    # --- one after another
    def _start_all(self) -> None:
        for place in self._places:
            if place.worker is None:
                self._start(place)

    async def _all_up(self) -> None:
        """Return when each takes requests. Raises :class:`NotBegun`; all have ended then."""
        started = [place.worker for place in self._places if place.worker is not None]
        try:
            async with asyncio.timeout(START_S):
                await asyncio.gather(*(one.ready for one in started))
        except (TimeoutError, NotBegun) as error:
            await self.end(0.0)
            raise NotBegun(str(error) or f"the workers were not ready within {START_S:g} s") from error
        self._begun = True
        self._stand_in()

    def _start(self, place: Place) -> None:
        """Somebody for that place."""
        place.timer = None
        line, there = ProcessLine.pair()
        fds = self.region.fds()
        try:
            with there:
                process = self._spawn([there.fileno(), *(sock.fileno() for sock in place.socks), *fds])
        except OSError:
            line.close()
            raise
        slot = self._slots.pop()
        worker = place.worker = Worker(place, slot, line, process)
        self._all[worker] = None
        worker.say(
            words.Begin(
                speaks=words.SPEAKS,
                worker=slot,
                at=place.at,
                workers=self._count,
                required=self._required(),
                shared=len(fds),
                sockets=len(place.socks),
            )
        )
        for word in self._greeting():
            worker.say(word)
        self._listen(worker)

    def _listen(self, worker: Worker) -> None:
        worker.task = asyncio.get_running_loop().create_task(self._live(worker), name=f"worker {worker.place.at}")

    async def _live(self, worker: Worker) -> None:
        """Hear it until it has ended; then see to its place."""
        why = ""
        try:
            while True:
                await self._hear(worker, words.read(await worker.line.receive()))
        except LineGone:
            pass
        except msgspec.MsgspecError:
            why = "it said what this version does not know"
            worker.process.kill()
        worker.up = False
        worker.line.close()
        self._stand_in()
        status = await self._reaped(worker)
        await self._release(worker)
        self._ended(worker, status, why)

    async def _reaped(self, worker: Worker) -> int:
        """Its exit status, when it has one."""
        process = worker.process
        for wait_s in (ENDS_S, ENDS_S):
            end = monotonic() + wait_s
            while (status := process.poll()) is None and monotonic() < end:  # noqa: ASYNC110 - as in `draining`
                await asyncio.sleep(0.01)
            if status is not None:
                return status
            process.kill()
        return await asyncio.to_thread(process.wait)

    async def _release(self, worker: Worker) -> None:
        """What it held is held no more."""
        for _ in self.region.release(worker.slot):
            await asyncio.sleep(0)
        self._slots.append(worker.slot)
        self._freed()

    def _ended(self, worker: Worker, status: int, why: str) -> None:
        place = worker.place
        del self._all[worker]
        for answer in worker.answers.values():
            if not answer.done():
                answer.set_result([])
        self._gone(worker)
        never = not worker.ready.done()
        if never:
            worker.ready.set_exception(NotBegun("a worker has ended before it was ready; the log has what it said"))
            worker.ready.exception()  # (it need not be of interest to anybody)
        if place.worker is not worker:
            return  # (another has its place)
        place.worker = None
        if self._closing or (never and not self._begun):
            return
        lived = monotonic() - worker.started_at
        place.failures = 0 if lived >= STEADY_S else place.failures + 1
        wait_s = waits_s(place.failures)
        self.restarts += 1
        told = {"worker": place.at + 1, "pid": worker.process.pid, **how(status), "restart_s": round(wait_s, 3)}
        if status == 0 and not why:
            self._log.info("a worker was asked to end, and has", **told)
        else:
            told |= {"reason": why} if why else {}
            self._log.error("a worker has ended: its connections with it, and nobody else's", **told)
        place.timer = asyncio.get_running_loop().call_later(wait_s, self._start_again, place)

    def _start_again(self, place: Place) -> None:
        place.timer = None
        if self._closing:
            return
        try:
            self._start(place)
        except OSError as error:
            place.failures += 1
            wait_s = waits_s(place.failures)
            self._log.error("a worker cannot be started", worker=place.at + 1, reason=error.strerror or "", restart_s=wait_s)
            place.timer = asyncio.get_running_loop().call_later(wait_s, self._start_again, place)

    def _up(self, worker: Worker) -> None:
        worker.up = True
        self._stand_in()
        if not worker.ready.done():
            worker.ready.set_result(None)

    # --- who takes the clients of one that is not there
    def _stand_in(self) -> None:
        """At each place one that serves takes clients, its own or another's, if there is any."""
        if not self._begun or self._closing:
            return
        others = [one for one in self._all if one.up and not one.retires]
        for place in self._places:
            there, covers = place.worker, place.covers
            if there in others:
                place.covers = None
                if covers is not None and covers.up:
                    covers.say(words.StandBack(place.at))
            elif covers not in others:
                place.covers = other = next(iter(others), None)
                if other is not None:
                    other.line.send(words.write(words.StandIn(place.at, len(place.socks))), place.socks)

    def _leaves(self, worker: Worker) -> None:
        """It was asked to end by somebody else."""
        worker.retires = True
        self._stand_in()

    # --- all of them
    def _tell_all(self, word: words.Word) -> None:
        for worker in self._all:
            worker.say(word)

    def may_renew(self) -> bool:
        """There is room for as many more."""
        there = all(place.worker is not None and place.worker.up for place in self._places)
        return there and self._begun and not self._renewing and not self._closing and len(self._slots) >= self._count

    async def renew(self) -> bool:
        """New workers take the places of those that are there, one after the other; these end what they have. False = one could
        not, and why is in the log."""
        self._renewing = True
        try:
            for place in self._places:
                if not await self._replace(place):
                    return False
        finally:
            self._renewing = False
        return True

    async def _replace(self, place: Place) -> bool:
        old = place.worker
        if old is None:
            return True  # (it is started anew by and by)
        try:
            self._start(place)
        except OSError as error:
            self._log.error("upgrade: no new worker, the old ones go on", worker=place.at + 1, reason=error.strerror or "")
            return False
        new = place.worker
        assert new is not None
        place.worker = old  # (the place is its own until the other can take it)
        try:
            async with asyncio.timeout(START_S):
                await new.ready
        except (TimeoutError, NotBegun):
            self._log.error("upgrade: no new worker, the old ones go on", worker=place.at + 1)
            if new.process.poll() is None:
                new.process.kill()
            return False
        place.worker, before = new, place.worker  # (another than then, where that one has ended meanwhile)
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        if before is not None:
            before.retires = True
        self._stand_in()
        if before is not None:
            before.say(words.Retire(self._retires_s()))
        self._log.info("upgrade: a new worker has the place", worker=place.at + 1, pid=new.process.pid)
        return True

    async def end(self, seconds: float) -> None:
        """All drain, for so long at the most; 0 = at once."""
        self._closing = True
        for place in self._places:
            if place.timer is not None:
                place.timer.cancel()
                place.timer = None
        self._tell_all(words.Drain(at_once=seconds <= 0.0))
        tasks = [one.task for one in self._all if one.task is not None]
        if await none_left(tasks, seconds + HURRY_S):
            return
        self._tell_all(words.Drain(at_once=True))
        if await none_left(tasks, HURRY_S):
            return
        for worker in list(self._all):
            self._log.warning("a worker did not end: it is killed", worker=worker.place.at + 1, pid=worker.process.pid)
            worker.process.kill()
        await none_left(tasks, 2 * ENDS_S)
