"""What the metrics read of a gateway, gathered: engines, the queue, the store, counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastgw import __version__, twins
from fastgw.config.names import PRIORITIES
from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.meter import Meters
from fastgw.loading import Loading
from fastgw.policy.queue import Queue
from fastgw.stats import Stats
from fastgw.upstream.target import Engine


class Vitals:
    """An ``observe.metrics.MetricsSource``."""

    def __init__(
        self,
        core: GatewayCore,
        *,
        engines: Callable[[], Iterable[Engine]],
        replaced: Callable[[], Iterable[Engine]],
        queue: Queue | None,
        meters: Callable[[], Meters | None],
        store_failing: Callable[[], bool],
        admin_auth_failures: Callable[[], int],
        loading: Loading,
        runners: Callable[[], int],
    ) -> None:
        self._core = core
        self._engines = engines
        self._replaced = replaced
        self._queue = queue
        self._meters = meters
        self._store_failing = store_failing
        self._admin_auth_failures = admin_auth_failures
        self._loading = loading
        self._runners = runners

    @property
    def stats(self) -> Stats:
        return self._core.stats

    @property
    def store_failing(self) -> bool:
        return self._store_failing()

    @property
    def ip_meters(self) -> int:
        meters = self._meters()
        return len(meters) if meters is not None else 0

    @property
    def loaded_at(self) -> float:
        return self._loading.at

    @property
    def runners(self) -> int:
        return self._runners()

    @property
    def restart_pending(self) -> bool:
        return bool(self._loading.pending)

    @property
    def admin_auth_failures(self) -> int:
        return self._admin_auth_failures()

    @property
    def native(self) -> bool:
        return twins.native()

    @property
    def version(self) -> str:
        return __version__

    def engines(self) -> Iterable[Engine]:
        return self._engines()

    def replaced(self) -> Iterable[Engine]:
        return self._replaced()

    def queue(self) -> Mapping[str, object]:
        """Requests that wait: how many, the bytes of their bodies, and how many of each class."""
        queue = self._queue
        if queue is None:
            return {"waiting": 0, "bytes": 0, "by_class": dict.fromkeys(PRIORITIES, 0)}
        counts = queue.by_class()
        return {"waiting": queue.waiting, "bytes": queue.waiting_bytes, "by_class": dict(zip(PRIORITIES, counts, strict=True))}
