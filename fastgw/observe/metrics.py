"""The gateway's numbers as Prometheus text: plain integers, read when somebody asks.

Owns: how the counters become series, and the names, help texts and labels of all other series. The hot path adds to integers
and knows nothing of this; no library counts for it. Must never: make a label of anything that a client sends. Label sets are
bounded by the configuration: names of engines, and fixed words. Text format 0.0.4; names as
https://prometheus.io/docs/practices/naming has them.

Engines that share a name (one server under several lists of models) are one series: sums, and the worst state. Of one whose
name is another's by now, what is under way there is all that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from fastgw.config.names import PRIORITIES
from fastgw.counters import COUNTERS
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN

LINES: Final = 100  # of the text that are made before others get their turn
_SEVERITY: Final = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}


class BreakerView(Protocol):
    """What is read of a circuit breaker."""

    @property
    def state(self) -> int: ...
    @property
    def opened_total(self) -> int: ...


class EngineView(Protocol):
    """What is read of an engine. ``healthy`` is None before anything is known; ``slots`` 0 = no limit."""

    @property
    def name(self) -> str: ...
    @property
    def healthy(self) -> bool | None: ...
    @property
    def inflight(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def answered_total(self) -> int: ...
    @property
    def failures_total(self) -> int: ...
    @property
    def truncations_total(self) -> int: ...
    @property
    def weight(self) -> int: ...
    @property
    def ejected_until(self) -> float: ...
    @property
    def ejections_total(self) -> int: ...
    def rests(self) -> bool: ...
    @property
    def breaker(self) -> BreakerView: ...


class StatsView(Protocol):
    """What is read of :class:`fastgw.stats.Stats`."""

    def snapshot(self) -> Mapping[str, int]: ...


class MetricsSource(Protocol):
    """Where the numbers are. All is read in the loop, at scrape time, and must be quick."""

    @property
    def stats(self) -> StatsView: ...
    @property
    def store_failing(self) -> bool: ...
    @property
    def ip_meters(self) -> int:
        """Client addresses that are being metered."""
        ...

    @property
    def loaded_at(self) -> float:
        """When the configuration was last read and found good, in Unix seconds."""
        ...

    @property
    def restart_pending(self) -> bool: ...
    @property
    def runners(self) -> int:
        """Runners that are connected, or waited for."""
        ...
    @property
    def admin_auth_failures(self) -> int: ...
    @property
    def native(self) -> bool: ...
    @property
    def version(self) -> str: ...

    def engines(self) -> Iterable[EngineView]: ...

    def replaced(self) -> Iterable[EngineView]:
        """Engines whose names are others' by now, and at which something is under way."""
        ...

    def queue(self) -> Mapping[str, object]:
        """``waiting`` and ``bytes`` (ints), and ``by_class``: how many wait, by priority."""
        ...


class _Engine:
    """All engines of one name together."""

    __slots__ = (
        "answered", "ejected", "ejections", "failures", "healthy", "inflight", "opened", "resting", "slots", "state",
        "truncations", "weight",
    )  # fmt: skip

    def __init__(self) -> None:
        self.healthy: bool | None = None
        self.inflight = self.slots = self.answered = self.failures = self.truncations = self.opened = 0
        self.weight = self.ejected = self.ejections = self.resting = 0
        self.state = CLOSED

    def add(self, engine: EngineView, first: bool) -> None:
        breaker = engine.breaker
        if engine.healthy is not None:
            self.healthy = engine.healthy and self.healthy is not False
        self.inflight += engine.inflight
        self.slots = 0 if not engine.slots or not (first or self.slots) else self.slots + engine.slots
        self.answered += engine.answered_total
        self.failures += engine.failures_total
        self.truncations += engine.truncations_total
        self.weight += engine.weight
        self.ejected = max(self.ejected, int(engine.ejected_until > 0.0))
        self.ejections += engine.ejections_total
        self.resting = max(self.resting, int(engine.rests()))
        self.opened += breaker.opened_total
        if _SEVERITY.get(breaker.state, 0) > _SEVERITY[self.state]:
            self.state = breaker.state


# name, help, whether it is a counter, and how it is read; None = no sample
_PER_ENGINE: Final[tuple[tuple[str, str, bool, Callable[[_Engine], int | None]], ...]] = (
    (
        "gateway_engine_healthy",
        "1 = well, 0 = not; absent until it has been asked.",
        False,
        lambda engine: None if engine.healthy is None else int(engine.healthy),
    ),
    ("gateway_engine_inflight", "Requests under way at the engine.", False, lambda engine: engine.inflight),
    ("gateway_engine_slots", "Requests that it may have at once; 0 = no limit.", False, lambda engine: engine.slots),
    (
        "gateway_upstream_requests_total",
        "Requests given to the engine that have ended, in whatever way.",
        True,
        lambda engine: engine.answered,
    ),
    ("gateway_upstream_errors_total", "Failures that count against the engine.", True, lambda engine: engine.failures),
    ("gateway_upstream_truncations_total", "Answers that ended before their end.", True, lambda engine: engine.truncations),
    ("gateway_engine_ejected", "1 = it is asked only where no other takes a request.", False, lambda engine: engine.ejected),
    ("gateway_engine_resting", "1 = the same, for it has asked for that itself.", False, lambda engine: engine.resting),
    ("gateway_engine_ejections_total", "How often it was ejected.", True, lambda engine: engine.ejections),
    ("gateway_circuit_breaker_state", "0 = closed, 1 = open, 2 = half-open.", False, lambda engine: engine.state),
    ("gateway_circuit_breaker_opened_total", "How often the breaker has opened.", True, lambda engine: engine.opened),
)


def _imbalance(engines: Sequence[_Engine]) -> float:
    under_way = sum(engine.inflight for engine in engines)
    if not under_way:
        return 0.0
    return max(engine.inflight / engine.weight for engine in engines) * sum(engine.weight for engine in engines) / under_way


def _of_stats(counts: Mapping[str, int]) -> Iterator[Metric]:
    """A metric for each counter, or one for all that share its name and differ by a label."""
    shared: dict[str, CounterMetricFamily] = {}
    for field, row in COUNTERS.items():
        count = counts.get(field, 0)
        if row.label:
            if row.metric not in shared:
                shared[row.metric] = CounterMetricFamily(row.metric, row.help, labels=(row.label,))
            shared[row.metric].add_metric((row.value,), count)
        elif row.metric:
            make = GaugeMetricFamily if field.endswith("_open") else CounterMetricFamily
            yield make(row.metric, row.help, value=count)
    yield from shared.values()


def _labelled(metric: CounterMetricFamily | GaugeMetricFamily, values: Iterable[tuple[str, int]]) -> Metric:
    for label, value in values:
        metric.add_metric((label,), value)
    return metric


class GatewayCollector:
    """All series of one gateway, made anew at each scrape from what its source says then."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric | None]:
        """A metric of many engines comes in several, one after the other. None = this took a while."""
        source = self._source
        yield InfoMetricFamily(
            "fastgw", "What runs.", value={"version": source.version, "native": "yes" if source.native else "no"}
        )
        yield from _of_stats(source.stats.snapshot())
        yield from self._of_queue()
        yield GaugeMetricFamily("gateway_runners", "Runners that have dialled in, and are there.", value=source.runners)
        yield GaugeMetricFamily("gateway_ip_meters", "Client addresses that are being metered.", value=source.ip_meters)
        yield GaugeMetricFamily(
            "gateway_store_up", "1 = usage and keys are kept; 0 = only in memory for now.", value=int(not source.store_failing)
        )
        yield CounterMetricFamily(
            "gateway_admin_auth_failures_total", "Attempts at /admin without its key.", value=source.admin_auth_failures
        )
        yield GaugeMetricFamily(
            "gateway_config_loaded_timestamp_seconds",
            "When the configuration that holds was read, in Unix time.",
            value=source.loaded_at,
        )
        yield GaugeMetricFamily(
            "gateway_restart_pending",
            "1 = settings are written otherwise than they hold, and wait for a restart.",
            value=int(source.restart_pending),
        )
        yield from self._of_engines()

    def _of_queue(self) -> Iterator[Metric]:
        queue = self._source.queue()
        classes = queue.get("by_class")
        held = queue.get("bytes")
        counts = classes if isinstance(classes, Mapping) else {}
        yield _labelled(
            GaugeMetricFamily("gateway_queue_waiting", "Requests that wait for an engine.", labels=("priority",)),
            ((priority, counts.get(priority, 0)) for priority in PRIORITIES),
        )
        yield GaugeMetricFamily(
            "gateway_queue_bytes", "Bytes of the requests that wait.", value=held if isinstance(held, int) else 0
        )

    def _of_engines(self) -> Iterator[Metric | None]:
        named: dict[str, _Engine] = {}
        for count, engine in enumerate(list(self._source.engines()), 1):
            first = engine.name not in named
            named.setdefault(engine.name, _Engine()).add(engine, first)
            if count % LINES == 0:
                yield None
        engines = list(named.items())
        yield GaugeMetricFamily(
            "gateway_engine_load_imbalance",
            "Requests under way at the busiest engine that is well, for its weight, by the mean of all; 0 = there are none.",
            value=_imbalance([engine for engine in named.values() if engine.healthy is not False]),
        )
        for engine in self._source.replaced():
            if engine.name in named:
                named[engine.name].inflight += engine.inflight
        for metric, text, counts, read in _PER_ENGINE:
            make = CounterMetricFamily if counts else GaugeMetricFamily
            for start in range(0, len(engines) or 1, LINES):
                some = engines[start : start + LINES]
                values = ((name, value) for name, engine in some if (value := read(engine)) is not None)
                yield _labelled(make(metric, text, labels=("engine",)), values)


class _Alone(Collector):
    """One metric, as the library wants it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def pieces(collector: GatewayCollector) -> Iterator[bytes]:
    """The Prometheus text (format 0.0.4, UTF-8), some hundred lines at a time: a fraction of a millisecond, after which whoever
    asks from a loop gives it its turn. About 3 µs a line, however it is asked for."""
    last = ""
    text: list[bytes] = []
    lines = 0
    for metric in collector.collect():
        if metric is not None:
            part = generate_latest(_Alone(metric))
            if metric.name == last:
                part = part.split(b"\n", 2)[2]  # (its help and its type have been said)
            last = metric.name
            text.append(part)
            lines += 2 + len(metric.samples)
        if metric is None or lines >= LINES:
            yield b"".join(text)
            text.clear()
            lines = 0
    yield b"".join(text)


def render(collector: GatewayCollector) -> bytes:
    """All of it at once: a third of a millisecond for eight engines."""
    return b"".join(pieces(collector))
