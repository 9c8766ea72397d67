"""The gateway's numbers as metrics: read when somebody asks, off plain numbers to which the hot path adds.

Owns: how the counters become families of samples, and the names, help texts and labels of all others. The hot path knows
nothing of this; no library counts for it. Must never: make a label of anything that a client sends. Label sets are bounded by
the configuration (names of engines, fixed words) and by ``tallies`` (endpoints, models, statuses, callers). Names as
https://prometheus.io/docs/practices/naming has them.

Engines that share a name (one server under several lists of models) are one series: sums, and the worst state. Of one whose
name is another's by now, what is under way there is all that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from fastgw.accel.histograms import Histogram
from fastgw.config.names import PRIORITIES
from fastgw.counters import COUNTERS
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN
from fastgw.observe import genai, money, process
from fastgw.observe.energy import Energy
from fastgw.observe.exposition import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    LINES,
    Buckets,
    Family,
    Value,
    buckets,
    escaped,
    labels,
    pieces,
)
from fastgw.observe.tallies import Cell, Tallies
from fastgw.protocol.gauges import Gauges

if TYPE_CHECKING:
    from prometheus_client.core import Metric

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
    def first_tokens(self) -> Histogram: ...
    @property
    def gaps(self) -> Histogram: ...
    @property
    def ejected_until(self) -> float: ...
    @property
    def ejections_total(self) -> int: ...
    def rests(self) -> bool: ...
    @property
    def gauges(self) -> Gauges | None:
        """What it says itself, where somebody asks it."""
        ...

    @property
    def breaker(self) -> BreakerView: ...


class PoolView(Protocol):
    """What is read of the connections to an engine."""

    @property
    def engine(self) -> EngineView: ...
    @property
    def idle(self) -> Sequence[object]: ...


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

    @property
    def tallies(self) -> Tallies: ...
    def processes(self) -> Mapping[str, float] | None:
        """What other processes of this gateway have, by the names of the kernel's metrics."""
        ...

    def connections(self, engine: str, idle: bool = False) -> int:
        """How many other processes of this gateway have to an engine, or have ``idle``."""
        ...

    @property
    def lag(self) -> Histogram:
        """How late the loop came to what it was to do, in seconds."""
        ...

    @property
    def energy(self) -> Energy: ...
    @property
    def currency(self) -> str:
        """What prices are in."""
        ...

    def budget(self, caller: str) -> money.Budget | None:
        """That of one of the callers of ``tallies``; None = it has none."""
        ...

    @property
    def genai(self) -> bool:
        """Whether OpenTelemetry's names are shown as well."""
        ...

    def pools(self) -> Sequence[PoolView]: ...

    def replaced(self) -> Iterable[EngineView]:
        """Engines whose names are others' by now, and at which something is under way."""
        ...

    def queue(self) -> Mapping[str, object]:
        """``waiting`` and ``bytes`` (ints), and ``by_class``: how many wait, by priority."""
        ...


class _Engine:
    """All engines of one name together."""

    __slots__ = (
        "answered", "ejected", "ejections", "failures", "healthy", "idle", "inflight", "kv_usage", "opened", "resting",
        "running", "slots", "state", "truncations", "waiting", "weight",
    )  # fmt: skip

    def __init__(self) -> None:
        self.healthy: bool | None = None
        self.inflight = self.slots = self.answered = self.failures = self.truncations = self.opened = 0
        self.weight = self.ejected = self.ejections = self.resting = self.idle = 0
        self.running: int | None = None  # as it says itself
        self.waiting: int | None = None
        self.kv_usage: float | None = None
        self.state = CLOSED

    def add(self, pool: PoolView, first: bool) -> None:
        engine = pool.engine
        breaker = engine.breaker
        self.idle += len(pool.idle)
        gauges = engine.gauges
        if gauges is not None:  # (of one server, however often it stands here)
            self.running, self.waiting = gauges.running, gauges.waiting
            self.kv_usage = gauges.kv_usage if gauges.kv_usage >= 0.0 else None
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


# name, help, kind, and how it is read; None = no sample
_PER_ENGINE: Final[tuple[tuple[str, str, str, Callable[[_Engine], Value | None]], ...]] = (
    (
        "gateway_engine_healthy",
        "1 = well, 0 = not; absent until it has been asked.",
        GAUGE,
        lambda engine: None if engine.healthy is None else int(engine.healthy),
    ),
    ("gateway_engine_inflight", "Requests under way at the engine.", GAUGE, lambda engine: engine.inflight),
    ("gateway_engine_slots", "Requests that it may have at once; 0 = no limit.", GAUGE, lambda engine: engine.slots),
    ("gateway_engine_idle_connections", "Connections to it that lie ready.", GAUGE, lambda engine: engine.idle),
    ("gateway_engine_requests_running", "Requests in its batch, as it says itself.", GAUGE, lambda engine: engine.running),
    ("gateway_engine_requests_waiting", "Requests in its queue, as it says itself.", GAUGE, lambda engine: engine.waiting),
    (
        "gateway_engine_kv_cache_usage_ratio",
        "The share of its cache in use, 0 to 1, as it says itself.",
        GAUGE,
        lambda engine: engine.kv_usage,
    ),
    (
        "gateway_upstream_requests_total",
        "Requests given to the engine that have ended, in whatever way.",
        COUNTER,
        lambda engine: engine.answered,
    ),
    ("gateway_upstream_errors_total", "Failures that count against the engine.", COUNTER, lambda engine: engine.failures),
    ("gateway_upstream_truncations_total", "Answers that ended before their end.", COUNTER, lambda engine: engine.truncations),
    ("gateway_engine_ejected", "1 = it is asked only where no other takes a request.", GAUGE, lambda engine: engine.ejected),
    ("gateway_engine_resting", "1 = the same, for it has asked for that itself.", GAUGE, lambda engine: engine.resting),
    ("gateway_engine_ejections_total", "How often it was ejected.", COUNTER, lambda engine: engine.ejections),
    ("gateway_circuit_breaker_state", "0 = closed, 1 = open, 2 = half-open.", GAUGE, lambda engine: engine.state),
    ("gateway_circuit_breaker_opened_total", "How often the breaker has opened.", COUNTER, lambda engine: engine.opened),
)
# name, help, and where it is
_PER_CELL: Final[tuple[tuple[str, str, Callable[[Cell], Histogram]], ...]] = (
    (
        "gateway_request_duration_seconds",
        "Time from a request's first byte to the end of its answer.",
        lambda cell: cell.duration,
    ),
    (
        "gateway_time_to_first_token_seconds",
        "Time from a request's first byte to the first text of its stream.",
        lambda cell: cell.first_token,
    ),
    (
        "gateway_inter_token_latency_seconds",
        "Time between two events with text of a stream; events of one read have none between them.",
        lambda cell: cell.gaps,
    ),
    (
        "gateway_time_per_output_token_seconds",
        "Time from a stream's first text to its end, for each token after the first.",
        lambda cell: cell.per_token,
    ),
    ("gateway_queue_time_seconds", "Time that requests waited for an engine, of those that did.", lambda cell: cell.queued),
    (
        "gateway_overhead_seconds",
        "Time that the gateway took until the request went to an engine, without its coming and the queue.",
        lambda cell: cell.own,
    ),
    ("gateway_request_prompt_tokens", "Tokens of a request's prompt.", lambda cell: cell.prompt),
    ("gateway_request_generated_tokens", "Tokens of a request's answer.", lambda cell: cell.completion),
)


def _imbalance(engines: Sequence[_Engine]) -> float:
    under_way = sum(engine.inflight for engine in engines)
    if not under_way:
        return 0.0
    return max(engine.inflight / engine.weight for engine in engines) * sum(engine.weight for engine in engines) / under_way


def _of_stats(counts: Mapping[str, int]) -> Iterator[Family]:
    """A family for each counter, or one for all that share its name and differ by a label."""
    shared: dict[str, tuple[str, list[tuple[str, Value | Buckets]]]] = {}
    for field, row in COUNTERS.items():
        count = counts.get(field, 0)
        if row.label:
            shared.setdefault(row.metric, (row.help, []))[1].append((labels((row.label, row.value)), count))
        elif row.metric:
            yield Family(row.metric, row.help, GAUGE if field.endswith("_open") else COUNTER, (("", count),))
    for metric, (text, samples) in shared.items():
        yield Family(metric, text, COUNTER, samples)


def _of_cells(cells: Sequence[Cell]) -> Iterator[Family]:
    where = [labels(("endpoint", cell.endpoint), ("model", cell.model)) for cell in cells]
    yield Family(
        "gateway_requests_total", "Requests that have ended, whatever became of them.", COUNTER,
        (
            (f'method="{method}",{own},status_code="{status}"', count)
            for own, cell in zip(where, cells, strict=True)
            for method, status, count in cell.by_status()
        ),
    )  # fmt: skip
    for metric, text, of in _PER_CELL:
        yield Family(
            metric, text, HISTOGRAM,
            ((own, found) for own, cell in zip(where, cells, strict=True) if any((found := buckets(of(cell))).counts)),
        )  # fmt: skip
    yield Family(
        "gateway_model_tokens_total",
        "Tokens used, by what they are: of a prompt (cached: of those, at hand) or an answer (reasoning: of those, unseen); "
        "estimated: of both, those that no engine counted.",
        COUNTER,
        (
            (f'{own},type="{word}"', count)
            for own, cell in zip(where, cells, strict=True)
            for word, count in (
                ("prompt", int(cell.prompt.total)), ("completion", int(cell.completion.total)), ("cached", cell.cached),
                ("reasoning", cell.reasoning), ("estimated", cell.estimated),
            )
            if count
        ),
    )  # fmt: skip


def _of_energy(energy: Energy) -> Iterator[Family]:
    gpus = energy.gpus
    if not (gpus or energy.models or energy.idle or energy.unshared):
        return
    yield Family("gateway_energy_gpus", "GPUs of which it is known which engines have them.", GAUGE, (("", gpus),))
    rest = (("idle", energy.idle), ("unshared", energy.unshared))
    yield Family(
        "gateway_energy_joules_total",
        "What GPUs of engines have drawn, by the model that it was for; idle: while nothing was under way; unshared: for "
        "requests that came to no tokens.",
        COUNTER,
        [(labels(("model", name), ("state", "active")), drawn / 1000) for name, drawn in energy.models.items()]
        + [(labels(("model", ""), ("state", state)), drawn / 1000) for state, drawn in rest],
    )
    yield Family(
        "gateway_energy_held_joules", "What they have drawn for requests that have not ended yet.", GAUGE,
        (("", energy.held / 1000),),
    )  # fmt: skip
    yield Family(
        "gateway_caller_energy_joules_total", "What they have drawn for a key, or a tenant, by its id.", COUNTER,
        [(labels(("caller", name)), drawn / 1000) for name, drawn in energy.callers.items() if name],
    )  # fmt: skip


def _of_words(metric: str, text: str, label: str, counts: Mapping[str, int]) -> Family:
    return Family(metric, text, COUNTER, [(labels((label, word)), count) for word, count in counts.items()])


class GatewayCollector:
    """All metrics of one gateway, made anew at each scrape from what its source says then.

    :meth:`collect` is what a registry of ``prometheus_client`` asks of a collector, for programs that embed a gateway.
    """

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def families(self) -> Iterator[Family | None]:
        """Some come in several, one after the other. None = this took a while."""
        source = self._source
        tallies = source.tallies
        cells = tallies.cells()
        native = "yes" if source.native else "no"
        yield Family("fastgw", "What runs.", INFO, ((labels(("version", source.version), ("native", native)), 1),))
        yield from _of_cells(cells)
        yield _of_words(
            "gateway_requests_unfinished_total", "Requests that did not end well, by what ended them.", "outcome",
            tallies.outcomes,
        )  # fmt: skip
        yield _of_words(
            "gateway_errors_total", "Requests that were refused, failed or broke off, by what was wrong.", "error",
            tallies.recent.kinds,
        )  # fmt: skip
        yield _of_words(
            "gateway_upstream_failures_total", "Attempts that count against an engine, by how they failed.", "kind",
            tallies.failures,
        )  # fmt: skip
        yield from self._of_callers()
        yield from money.families(tallies, source.currency, source.budget)
        yield from _of_energy(source.energy)
        yield from _of_stats(source.stats.snapshot())
        yield from self._of_queue()
        yield Family("gateway_runners", "Runners that have dialled in, and are there.", GAUGE, (("", source.runners),))
        yield Family("gateway_ip_meters", "Client addresses that are being metered.", GAUGE, (("", source.ip_meters),))
        yield Family(
            "gateway_store_up", "1 = usage and keys are kept; 0 = only in memory for now.", GAUGE,
            (("", int(not source.store_failing)),),
        )  # fmt: skip
        yield Family(
            "gateway_admin_auth_failures_total", "Attempts at /admin without its key.", COUNTER,
            (("", source.admin_auth_failures),),
        )  # fmt: skip
        yield Family(
            "gateway_config_loaded_timestamp_seconds", "When the configuration that holds was read, in Unix time.", GAUGE,
            (("", source.loaded_at),),
        )  # fmt: skip
        yield Family(
            "gateway_restart_pending", "1 = settings are written otherwise than they hold, and wait for a restart.", GAUGE,
            (("", int(source.restart_pending)),),
        )  # fmt: skip
        yield Family(
            "gateway_loop_lag_seconds", "How late the loop came to what it had to do four times a second.", HISTOGRAM,
            (("", buckets(source.lag)),),
        )  # fmt: skip
        yield from process.families(source.processes())
        yield from self._of_engines()
        if source.genai:
            yield from genai.families(cells)

    def collect(self) -> Iterator[Metric]:
        """The same as metrics of ``prometheus_client``."""
        from prometheus_client.parser import text_string_to_metric_families

        yield from text_string_to_metric_families(b"".join(pieces(self.families())).decode())

    def _of_callers(self) -> Iterator[Family]:
        callers = list(self._source.tallies.callers.items())
        if not callers:
            return
        where = [(labels(("caller", name)), caller) for name, caller in callers]
        yield Family(
            "gateway_caller_requests_total", "Requests of a key, or a tenant, by its id.", COUNTER,
            ((own, caller.requests) for own, caller in where),
        )  # fmt: skip
        yield Family(
            "gateway_caller_tokens_total", "Tokens that it has used.", COUNTER,
            (
                (f'{own},type="{word}"', count)
                for own, caller in where
                for word, count in (("prompt", caller.prompt), ("completion", caller.completion))
            ),
        )  # fmt: skip

    def _of_queue(self) -> Iterator[Family]:
        queue = self._source.queue()
        classes = queue.get("by_class")
        held = queue.get("bytes")
        counts = classes if isinstance(classes, Mapping) else {}
        yield Family(
            "gateway_queue_waiting", "Requests that wait for an engine.", GAUGE,
            [(labels(("priority", priority)), counts.get(priority, 0)) for priority in PRIORITIES],
        )  # fmt: skip
        yield Family(
            "gateway_queue_bytes", "Bytes of the requests that wait.", GAUGE, (("", held if isinstance(held, int) else 0),)
        )

    def _of_engines(self) -> Iterator[Family | None]:
        named: dict[str, _Engine] = {}
        for count, pool in enumerate(list(self._source.pools()), 1):
            name = pool.engine.name
            first = name not in named
            named.setdefault(name, _Engine()).add(pool, first)
            if count % LINES == 0:
                yield None
        yield Family(
            "gateway_engine_load_imbalance",
            "Requests under way at the busiest engine that is well, for its weight, by the mean of all; 0 = there are none.",
            GAUGE,
            (("", _imbalance([engine for engine in named.values() if engine.healthy is not False])),),
        )
        for name, one in named.items():
            one.idle += self._source.connections(name, idle=True)
        for engine in self._source.replaced():
            if engine.name in named:
                named[engine.name].inflight += engine.inflight
        yield None
        engines = [(f'engine="{escaped(name)}"', one) for name, one in named.items()]
        yield None
        for metric, text, kind, read in _PER_ENGINE:
            yield Family(metric, text, kind, ((own, value) for own, one in engines if (value := read(one)) is not None))


def render(collector: GatewayCollector, openmetrics: bool = False) -> bytes:
    """All of it at once."""
    return b"".join(pieces(collector.families(), openmetrics))
