"""One row's load: who asks when, until it is enough.

Closed: so many workers, each of which asks again when it has its answer. Open: a task for each arrival, at its time, however
many are under way (up to the plan's ``in_flight``; who has to wait for that is counted, and waits on the clock of its own
latency). A session's turns follow one another, over both. When the time is up nothing new is begun, and what is under way is
waited for: a load that dropped it would measure short answers alone.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections.abc import Coroutine, Sequence
from typing import Final

from fastgw.accel.tokens import estimate
from fastgw.bench.answer import Answer, Wrong
from fastgw.bench.arrivals import bounded, poisson
from fastgw.bench.bodies import MAX_HISTORY_BYTES, Bodies
from fastgw.bench.connection import Connections, now
from fastgw.bench.percentiles import spread
from fastgw.bench.plan import MAX_REQUESTS, Plan, Stage
from fastgw.bench.tally import Client, Result, Tally
from fastgw.bench.trace import Row

MOST_FAILURES: Final = 10_000
"""A row with so many ends: a server that refuses everything is not hammered for minutes."""
PAUSE_S: Final = 0.05
"""A worker whose request has failed waits so long."""
LOOK_S: Final = 0.01
_MOST_LOOKS: Final = 1_000_000


class Load:
    """Runs one stage, once."""

    def __init__(self, plan: Plan, stage: Stage, bodies: Bodies, connections: Connections) -> None:
        self._plan = plan
        self._stage = stage
        self._bodies = bodies
        self._connections = connections
        self._tasks: set[asyncio.Task[None]] = set()
        self._begin = now()
        self._pump: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        self.stopped = False
        self.tally = Tally(plan, stage, self._begin)

    def done(self) -> float:
        """How much of the row is over, 0 to 1, by what bounds it."""
        stage, tally = self._stage, self.tally
        of_requests = (tally.good + tally.failed) / stage.requests if stage.requests else 0.0
        of_time = (now() - self._begin) / stage.duration_s if stage.duration_s else 0.0
        return min(1.0, max(of_requests, of_time))

    def stop(self) -> None:
        """End now; what is under way is left."""
        self.stopped = True
        for task in (*self._tasks, *([self._pump] if self._pump is not None else [])):
            task.cancel()

    async def run(self) -> Result:
        late = array("d")
        watching = asyncio.create_task(_watch(late), name="bench lateness")
        made, cpu, self._begin = self._connections.made, time.process_time(), now()
        self.tally = Tally(self._plan, self._stage, self._begin)
        try:
            self._pump = asyncio.create_task(self._closed() if self._stage.workers else self._open(), name="bench load")
            await self._rest()
        finally:
            self.stop()
            watching.cancel()
        used, wall = time.process_time() - cpu, max(now() - self._begin, 1e-9)
        client = Client(cpu_s=used, cpu_share=used / wall, late_p99_s=spread(late).p99)
        return self.tally.result(self._connections.made - made, client)

    def _more(self) -> bool:
        stage, tally = self._stage, self.tally
        return not (
            self.stopped
            or (stage.requests and tally.begun >= stage.requests)
            or (stage.duration_s and now() - self._begin >= stage.duration_s)
            or tally.failed >= MOST_FAILURES
            or tally.begun >= MAX_REQUESTS
        )

    async def _closed(self) -> None:
        for number in range(self._stage.workers):
            self._start(self._worker(), f"bench worker {number}")

    async def _worker(self) -> None:
        while self._more():
            if not await self._session(0.0, ()):
                await asyncio.sleep(PAUSE_S)

    async def _open(self) -> None:
        stage = self._stage
        arrivals = iter(stage.trace) if stage.trace else poisson(stage.rate, self._plan.seed)
        for number, arrival in enumerate(bounded(arrivals, stage.requests or MAX_REQUESTS, stage.duration_s)):
            due = self._begin + arrival.at_s
            await _until(due)
            if len(self._tasks) >= self._plan.in_flight:
                self.tally.delayed += 1
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.tally.failed >= MOST_FAILURES:
                break
            self._start(self._arrived(due, arrival.turns), f"bench arrival {number}")

    async def _arrived(self, due: float, turns: Sequence[Row]) -> None:
        await self._session(due, turns)

    def _start(self, what: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(what, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._pump is not None:
            self._broken = self._broken or task.exception()
            self.stop()

    async def _rest(self) -> None:
        """Wait for what is under way."""
        while under_way := {*self._tasks, *([self._pump] if self._pump is not None and not self._pump.done() else [])}:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_EXCEPTION)
        if self._pump is not None and not self._pump.cancelled():
            self._pump.result()
        if self._broken is not None:
            raise self._broken

    async def _session(self, due: float, rows: Sequence[Row]) -> bool:
        """All turns of a session, or its only one; ``due`` 0 = now. Whether its last answer was one."""
        stream, plan = self._stage.stream, self._plan
        alike = self._bodies.alike(stream) if not rows else None
        if alike is not None:
            return await self._one(due or now(), alike, plan.max_tokens, 0) is not None
        history: list[tuple[str, str]] = []
        size = 0
        turns = len(rows) or plan.turns
        for turn in range(turns):
            if turn:
                due = await self._pause(rows[turn] if rows else None)
                if not self._more():
                    return True
            tokens = rows[turn].prompt_tokens - estimate(size) if rows else plan.tokens_of(turn)
            text = self._bodies.prompt(max(tokens, 1) if rows else tokens)
            history.append(("user", text))
            size += len(text)
            most = rows[turn].max_tokens if rows else plan.max_tokens
            request = self._bodies.request(history, most, stream)
            answer = await self._one(due or now(), request, most, estimate(size), turn + 1 < turns)
            if answer is None or size > MAX_HISTORY_BYTES:
                return answer is not None
            said = answer.text
            history.append(("assistant", said))
            size += len(said)
        return True

    async def _pause(self, row: Row | None) -> float:
        """Wait for a session's next turn; when it is due."""
        if row is None:
            await asyncio.sleep(self._plan.think_s)
            return now()
        due = max(self._begin + row.at_s, now())
        await _until(due)
        return due

    async def _one(self, due: float, request: bytes, max_tokens: int, tokens: int, keep: bool = False) -> Answer | None:
        """Ask once; the answer, where it is one."""
        tally, plan = self.tally, self._plan
        tally.begun += 1
        connection = self._connections.take()
        while True:
            kept = connection is not None
            if connection is None:
                before = now()
                try:
                    connection = await self._connections.dial()
                except Wrong as wrong:
                    tally.failure(wrong, now())
                    return None
                tally.connected(now() - before)
            most = 0 if plan.lengthened else max_tokens
            answer = Answer(connection.reader, stream=self._stage.stream, max_tokens=most, keep_text=keep)
            failed = await connection.ask(request, answer, plan.timeout_s)
            if failed is None or not kept or answer.begun or failed.kind != "no answer":
                break
            # The server closed a connection that was kept, as it may: every client asks such a request again.
            tally.redialled += 1
            connection = None
        self._connections.give(connection)
        if failed is not None:
            tally.failure(failed, connection.ended_at)
            return None
        tally.answered(answer, due, connection.ended_at, tokens)
        return answer


async def _until(due: float) -> None:
    # (The loop's timers are of a millisecond, and may be early by a half.)
    while (left := due - now()) > 0:  # noqa: ASYNC110 - time is what it waits for
        await asyncio.sleep(left)


async def _watch(late: array[float]) -> None:
    """By how much this process's own timers are late: what it measures may be too long by as much."""
    for _ in itertools.repeat(None, _MOST_LOOKS):
        due = now() + LOOK_S
        await asyncio.sleep(LOOK_S)
        late.append(max(0.0, now() - due))
