"""The places that each engine has for us: read from its own gauges, or felt by the time to the first token.

One task asks every engine's ``/metrics`` each ``interval_s`` and sets ``engine.slots``, which admission and routing read;
the queue in front of them is where priority and fairness act. How a limit is found is told in ``limits/slots.py``. An
engine that shows no gauges in three rounds gets a gradient, which the exchanges feed (``engine.gradient.sample``); its
limit is copied each round, and the engine is asked again every thirty rounds: it may have been started without metrics.

Invariants: ``slots`` never exceeds the configured ``max_concurrent``; an engine that does not answer at all keeps the limit
it had, and is health's to judge. Must never: wait for one engine before the others are asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from fastgw.errors import described
from fastgw.limits.slots import START, GaugeLimit, GradientLimit
from fastgw.net.clock import monotonic
from fastgw.net.fetch import FetchError
from fastgw.protocol.gauges import Gauges, read
from fastgw.stats import EventLog
from fastgw.upstream.asked import Asked, get
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.kinds.registry import GAUGES

MAX_PAGE_BYTES: Final = 256 * 1024
AT_ONCE: Final = 8
SILENT_ROUNDS: Final = 3
"""So many pages without gauges, and the gradient takes over."""
ASK_AGAIN_ROUNDS: Final = 30


class Scheduled(Asked, Protocol):
    """What is read of an engine, and the fields that are written: ``slots``, ``gauges`` and ``gradient``; what it says is told
    to it."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def healthy(self) -> bool | None: ...
    @property
    def inflight(self) -> int: ...
    @property
    def light(self) -> int: ...
    @property
    def max_concurrent(self) -> int: ...

    slots: int
    gauges: Gauges | None
    gradient: GradientLimit | None

    def tells(self, running: int, waiting: int) -> None: ...


class Place(Protocol):
    """A pool, of which only the engine matters here."""

    @property
    def engine(self) -> Scheduled: ...


class _Watch:
    """What one engine has shown so far."""

    __slots__ = ("asked", "gauge", "silent")

    def __init__(self) -> None:
        self.gauge: GaugeLimit | None = None
        self.silent = 0  # answers in a row without gauges
        self.asked = 0  # rounds since its gauges were asked for, while the gradient serves


class Scheduler:
    """The limits of all engines of one gateway."""

    __slots__ = ("_changed", "_interval_s", "_log", "_pools", "_timeout_s", "_watched")

    def __init__(
        self,
        pools: Callable[[], Sequence[Place]],
        *,
        interval_s: float,
        timeout_s: float,
        log: EventLog,
        changed: Callable[[], None],
    ) -> None:
        """``pools`` is asked anew in each round: engines come and go. ``changed`` is called when an engine's limit has grown:
        somebody who waits may go. It must not raise."""
        self._pools = pools
        self._watched: dict[Scheduled, _Watch] = {}
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._log = log
        self._changed = changed

    def forget(self, engine: Scheduled) -> None:
        """Its limits are others now: what it may have at once is found anew."""
        self._watched.pop(engine, None)

    async def run(self) -> None:
        """A round every ``interval_s``, for ever."""
        while True:
            await self.round()
            await asyncio.sleep(self._interval_s)

    async def round(self) -> None:
        """Look at each engine once, :data:`AT_ONCE` at a time; it lasts as long as the slowest of them, so ``timeout_s``."""
        # (Whoever has gone is forgotten with it.)
        before = self._watched
        self._watched = {pool.engine: before.get(pool.engine) or _Watch() for pool in self._pools()}
        waiting = iter(list(self._watched.items()))

        async def some() -> None:
            for engine, watch in waiting:
                try:
                    await self._look(engine, watch)
                except Exception as error:
                    # A bug met by one engine must not end the looks at all.
                    self._log.error("scheduling failed inside fastgw", engine=engine.name, error=described(error))

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))

    async def _look(self, engine: Scheduled, watch: _Watch) -> None:
        if engine.gradient is not None:
            watch.asked += 1
            if watch.asked < ASK_AGAIN_ROUNDS:
                self._set(engine, engine.gradient.limit)
                return
            watch.asked = 0
        if engine.addresses:
            try:
                gauges, answered = await self._ask(engine)
            except FetchError:
                return  # for a reason of ours: health says which
            if gauges is not None:
                self._observed(engine, watch, gauges)
                return
            engine.tells(0, 0)  # (what it said last holds no longer)
            engine.gauges = None
            # Silence of an engine that is down says nothing about what it shows when it is up.
            watch.silent += answered or engine.healthy is True
        if watch.silent >= SILENT_ROUNDS and engine.gradient is None:
            self._log.info("engine shows no gauges: its limit goes by the time to the first token", engine=engine.name)
            engine.gradient = GradientLimit(engine.max_concurrent, self._start(engine, watch))
            watch.gauge = None
        if engine.gradient is not None:
            self._set(engine, engine.gradient.limit)

    async def _ask(self, engine: Scheduled) -> tuple[Gauges | None, bool]:
        """(the gauges on its page if any, whether it answered). Raises FetchError where that was not the engine's doing."""
        try:
            status, body = await get(engine, b"/metrics", b"Accept: text/plain\r\n", self._timeout_s, MAX_PAGE_BYTES)
        except FetchError as error:
            if error.lacking:
                raise
            return None, False
        return (read(engine.kind.gauges, body, GAUGES) if status == 200 else None), True

    def _observed(self, engine: Scheduled, watch: _Watch, gauges: Gauges) -> None:
        if watch.gauge is None:
            self._log.info("engine shows gauges: its limit goes by them", engine=engine.name)
            watch.gauge = GaugeLimit(engine.max_concurrent, self._start(engine, watch))
        watch.silent = watch.asked = 0
        engine.gradient = None
        engine.gauges = gauges
        # (What is not under way from here others have brought, or it ended a moment ago.)
        engine.tells(gauges.running, gauges.waiting)
        places = engine.inflight - engine.light
        limit = watch.gauge.observe(gauges.running, gauges.waiting, gauges.kv_usage, places, monotonic())
        self._set(engine, limit)

    @staticmethod
    def _start(engine: Scheduled, watch: _Watch) -> int:
        """What is known already, or configured; no less than what it has, since that much went there without a limit."""
        if watch.gauge is not None:
            return watch.gauge.limit
        if engine.gradient is not None:
            return engine.gradient.limit
        return engine.max_concurrent or max(START, engine.inflight - engine.light)

    def _set(self, engine: Scheduled, limit: int) -> None:
        if engine.max_concurrent and limit > engine.max_concurrent:
            limit = engine.max_concurrent
        held = engine.slots
        if limit == held:
            return
        engine.slots = limit
        self._log.debug("engine slots", engine=engine.name, slots=limit, before=held)
        if 0 < held < limit:
            self._changed()
