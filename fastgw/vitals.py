"""What the metrics read of a gateway, gathered: engines, the queue, the store, counters. And who shows them to clients.

Owns: the pages that both listeners show. They are laid out when the first asks, for that is no part of a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastgw import __version__, twins
from fastgw.accel.fields import value_in
from fastgw.accel.histograms import Histogram
from fastgw.config.names import PRIORITIES
from fastgw.energy import Joined
from fastgw.errors import GatewayError, Source
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.phases import IS_SERVED, LOCAL
from fastgw.limits.meter import Meters
from fastgw.loading import Loading
from fastgw.policy.queue import Queue
from fastgw.stats import Stats
from fastgw.tasks import Tasks
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

if TYPE_CHECKING:
    from fastgw.observe.energy import Energy
    from fastgw.observe.money import Budget
    from fastgw.observe.pages import MetricsPages, Page
    from fastgw.observe.tallies import Tallies
    from fastgw.upstream.runners import Runner

PAGE_S: Final = 10.0
"""A page takes no longer, or who asks is told to come again: Prometheus does not wait longer either."""


class Kept(Protocol):
    """What is read of the store."""

    @property
    def failing(self) -> bool: ...


class Others(Protocol):
    """What is read of the processes that serve clients."""

    @property
    def queue(self) -> Mapping[str, int]: ...
    def process(self) -> Mapping[str, float]: ...
    def connections(self, engine: str, idle: bool = False) -> int: ...


class Vitals:
    """An ``observe.metrics.MetricsSource``. ``queue``, ``meters`` and ``state`` say who is that now."""

    def __init__(
        self,
        core: GatewayCore,
        fleet: Fleet,
        loading: Loading,
        *,
        lag: Histogram,
        queue: Callable[[], Queue | None],
        meters: Callable[[], Meters | None],
        state: Callable[[], Kept | None],
        runners: Callable[[], Sequence[Runner]],
    ) -> None:
        self._core = core
        self._fleet = fleet
        self._loading = loading
        self.lag = lag
        self._queue = queue
        self._meters = meters
        self._state = state
        self._runners = runners
        self.joined = Joined(fleet, lambda: self.tallies, runners)
        self.others: Others | None = None  # that serve clients, where this process does not
        self.auth_failures: Callable[[], int] = int  # at the control listener, where there is one

    def processes(self) -> Mapping[str, float] | None:
        return self.others.process() if self.others is not None else None

    @property
    def stats(self) -> Stats:
        return self._core.stats

    @property
    def tallies(self) -> Tallies:
        counts: Any = self._core.tally
        found: Tallies = counts
        return found

    @property
    def genai(self) -> bool:
        return self._core.config.metrics_genai

    @property
    def store_failing(self) -> bool:
        state = self._state()
        return state is not None and state.failing

    @property
    def ip_meters(self) -> int:
        meters = self._meters()
        return len(meters) if meters is not None else 0

    @property
    def loaded_at(self) -> float:
        return self._loading.at

    @property
    def runners(self) -> int:
        return len(self._runners())

    @property
    def energy(self) -> Energy:
        return self.joined.energy

    @property
    def restart_pending(self) -> bool:
        return bool(self._loading.pending)

    @property
    def admin_auth_failures(self) -> int:
        return self.auth_failures()

    @property
    def native(self) -> bool:
        return twins.native()

    @property
    def version(self) -> str:
        return __version__

    @property
    def currency(self) -> str:
        return self._core.config.currency

    def budget(self, caller: str) -> Budget | None:
        """What a caller of the tallies may spend, and what is left of it; None = there is no limit, or it is not known yet what
        was spent before."""
        from fastgw.observe.money import Budget  # (who asks has it: metrics are no part of a start)

        core = self._core
        purse = core.accounts.budget_of(caller, core.config.metrics_by == "tenant")
        if purse is None:
            return None
        with core.accounts.inside(purse):
            left = purse.left(core.today)  # (which may begin a period)
        return Budget(purse.limit, left, purse.ends) if purse.known else None

    def connections(self, engine: str, idle: bool = False) -> int:
        """How many other processes of this gateway have to an engine, or have ``idle``."""
        return self.others.connections(engine, idle) if self.others is not None else 0

    def pools(self) -> Sequence[Pool]:
        return self._fleet.pools

    def replaced(self) -> Iterable[Engine]:
        return [one.pool.engine for one in self._fleet.leaving.replaced()]

    def queue(self) -> Mapping[str, object]:
        """Requests that wait: how many, the bytes of their bodies, and how many of each class."""
        if self.others is not None:
            there = {name: self.others.queue.get(name, 0) for name in PRIORITIES}
            return {"waiting": sum(there.values()), "bytes": self.others.queue.get("bytes", 0), "by_class": there}
        queue = self._queue()
        if queue is None:
            return {"waiting": 0, "bytes": 0, "by_class": dict.fromkeys(PRIORITIES, 0)}
        counts = queue.by_class()
        return {"waiting": queue.waiting, "bytes": queue.waiting_bytes, "by_class": dict(zip(PRIORITIES, counts, strict=True))}


class MetricsDoor:
    """The metrics, for whoever may ask: a client where ``metrics_public`` says so, and the control listener."""

    def __init__(self, core: GatewayCore, tasks: Tasks, vitals: Vitals) -> None:
        self._core = core
        self.tasks = tasks
        self.vitals = vitals
        self._pages: MetricsPages | None = None
        self.elsewhere: Callable[[str, str], Awaitable[Page | None]] | None = None  # who has the page, where this one has not
        self.before: Callable[[], Awaitable[None]] | None = None  # what is done first for a page that is true
        core.locals["metrics"] = self._answer
        tasks.spawn("energy", vitals.joined.run())

    @property
    def pages(self) -> MetricsPages:
        if self._pages is None:
            from fastgw.observe.metrics import GatewayCollector
            from fastgw.observe.pages import MetricsPages

            core = self._core
            self._pages = MetricsPages(
                GatewayCollector(self.vitals).families, self.tasks.spawn, keep_s=lambda: core.config.metrics_cache_s,
                hurry=core.reactor.poller.hurry,
            )  # fmt: skip
        return self._pages

    async def page(self, accept: str, accept_encoding: str) -> Page:
        """What a scraper gets. Raises GatewayError where there is none now."""
        if self.elsewhere is not None:
            page = await self.elsewhere(accept, accept_encoding)
            if page is None:
                raise _later()
            return page
        if self.before is not None:
            await self.before()
        return await self.pages.page(accept, accept_encoding)

    async def close(self) -> None:
        """Nobody asks any more."""
        await self.pages.close()

    def _answer(self, exchange: Exchange) -> None:
        """The page, when it is made; the client may leave meanwhile."""
        exchange.move(IS_SERVED)
        exchange.local_task = self.tasks.spawn("answer /metrics", self._answered(exchange))
        self._core.reactor.poller.hurry()

    async def _answered(self, exchange: Exchange) -> None:
        fields = exchange.head.forward
        takes = [(value_in(fields, name) or b"").decode("latin-1") for name in (b"accept", b"accept-encoding")]
        try:
            async with asyncio.timeout(PAGE_S):
                page = await self.page(*takes)
        except (TimeoutError, GatewayError) as error:
            exchange.local_task = None
            exchange.fail(error if isinstance(error, GatewayError) else _later())
            return
        exchange.local_task = None
        if exchange.phase == LOCAL:
            lines = b"".join(b"%b: %b\r\n" % (name.lower().encode(), text.encode()) for name, text in page.fields.items())
            exchange.answer(200, page.media_type.encode(), page.body, lines)


def _later() -> GatewayError:
    return GatewayError("overloaded", source=Source.GATEWAY, retry_after_s=1.0)
