"""What is shown of a gateway: a reading of its metrics, and of its admin API where a key is at hand, as plain values.

Owns: which metric becomes which figure, so that the terminal and ``--json`` say the same. None = not known, which is not 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from fastgw.top.samples import Growth, Page

MOST_EVENTS: Final = 5

_REFUSED: Final = ("rate_limited", "quota_exceeded", "budget_exceeded", "auth_failures")
_BROKEN_OFF: Final = ("truncated", "engine_error", "upstream_timeout", "internal")  # behind a status that said 200
_BREAKERS: Final = {1: "breaker open", 2: "breaker half-open"}


class GatewayFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway as a whole; ``..._per_s`` are of the time since the reading before, percentiles too."""

    version: str
    uptime_s: float | None
    requests_per_s: float | None
    errors_per_s: float | None
    broken_off_per_s: float | None
    refused_per_s: float | None
    active: float | None
    waiting: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    itl_p99_s: float | None
    prompt_tokens_per_s: float | None
    completion_tokens_per_s: float | None
    lag_p99_s: float | None
    memory_bytes: float | None
    store_up: bool | None
    restart_pending: bool | None


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds, of the last minute."""

    p50: float
    p95: float
    p99: float


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """``ttft_s`` and ``itl_s`` as the gateway's admin API says, None = it was not asked, or nothing was streamed."""

    name: str
    state: str
    inflight: float
    slots: float
    requests_per_s: float | None
    errors_per_s: float | None
    truncations_total: float
    waiting: float | None
    kv_usage: float | None
    ttft_s: Percentiles | None
    itl_s: Percentiles | None


class ModelFigures(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    requests_per_s: float | None
    tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None


class CallerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A key or a tenant, by its id, where ``metrics_by`` counts them."""

    caller: str
    requests_per_s: float
    tokens_per_s: float | None


class ErrorFigures(msgspec.Struct, frozen=True):
    """Why requests are refused, fail or break off, by the name of the error."""

    error: str
    per_s: float


class GpuFigures(msgspec.Struct, frozen=True, kw_only=True):
    """``uuid`` is what a GPU keeps: where one has fallen off the bus, others get its number."""

    gpu: str
    uuid: str
    up: bool
    utilization: float | None
    memory_used_gb: float | None
    memory_total_gb: float | None
    temperature_c: float | None
    power_w: float | None


class EventTold(msgspec.Struct, frozen=True):
    """As ``/admin/events`` has it."""

    at: float
    what: str
    engine: str
    detail: str = ""


class EngineTold(msgspec.Struct, frozen=True):
    """Of ``/admin/engines``: what no metric says."""

    name: str
    draining: bool = False
    leaving: bool = False
    away: bool = False
    ttft_s: Percentiles | None = None
    itl_s: Percentiles | None = None


class _EngineList(msgspec.Struct, frozen=True):
    data: Sequence[EngineTold]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look. ``at``: Unix seconds; ``seconds``: the time that rates are of, 0 = it is the first. Of engines and models the
    first are here, and how many there are."""

    at: float
    seconds: float
    gateway: GatewayFigures
    engines: Sequence[EngineFigures]
    engines_total: int
    models: Sequence[ModelFigures]
    models_total: int
    errors: Sequence[ErrorFigures]
    errors_total: int
    callers: Sequence[CallerFigures]
    callers_total: int
    gpus: Sequence[GpuFigures]
    gpus_total: int
    gpu_driver: str | None
    """None = nobody reads GPUs; else ``ok``, or a word for what is wrong."""
    events: Sequence[EventTold]


def reading(
    before: Page | None, page: Page, at: float, most: int,
    told: Sequence[EngineTold] = (), events: Sequence[EventTold] = (),
) -> Reading:  # fmt: skip
    """Of two pages one after the other, with ``most`` engines, models and GPUs: those that are not well, then the busiest."""
    grown = Growth(before, page)
    engines, asked = _engines(page, grown, told), grown.rates("model", "gateway_requests_total")
    models, gpus = sorted((model for model in asked if model), key=lambda model: (-asked[model], model)), _gpus(page)
    callers, errors = _callers(grown), _errors(grown)
    return Reading(
        at=at, seconds=grown.seconds, gateway=_gateway(page, grown, at), engines=engines[:most], engines_total=len(engines),
        models=_models(grown, models[:most], asked), models_total=len(models), errors=errors[:most],
        errors_total=len(errors), callers=callers[:most],
        callers_total=len(callers), gpus=gpus[:most],
        gpus_total=len(gpus), gpu_driver=_gpu_driver(page), events=events[-MOST_EVENTS:],
    )  # fmt: skip


def _gateway(page: Page, grown: Growth, at: float) -> GatewayFigures:
    info = next((labels for labels, _ in page.rows("fastgw_info")), {})
    started = page.total("process_start_time_seconds")
    refused = [grown.rate(f"gateway_{name}_total") for name in _REFUSED]
    ended = grown.rates("outcome", "gateway_requests_unfinished_total")
    store, restart = page.total("gateway_store_up"), page.total("gateway_restart_pending")
    return GatewayFigures(
        version=info.get("version", ""),
        uptime_s=None if started is None else max(0.0, at - started),
        requests_per_s=_asked(page, grown.rate("gateway_requests_total"), grown),
        errors_per_s=_asked(page, grown.rate("gateway_requests_total", status_code="5*"), grown),
        broken_off_per_s=_asked(page, sum(ended.get(one, 0.0) for one in _BROKEN_OFF) if ended else None, grown),
        refused_per_s=sum(one for one in refused if one is not None) if any(one is not None for one in refused) else None,
        active=page.total("gateway_active_requests"),
        waiting=page.total("gateway_queue_waiting"),
        ttft_p50_s=grown.percentile(0.5, "gateway_time_to_first_token_seconds"),
        ttft_p99_s=grown.percentile(0.99, "gateway_time_to_first_token_seconds"),
        itl_p99_s=grown.percentile(0.99, "gateway_inter_token_latency_seconds"),
        prompt_tokens_per_s=grown.rate("gateway_tokens_prompted_total"),
        completion_tokens_per_s=grown.rate("gateway_tokens_generated_total"),
        lag_p99_s=grown.percentile(0.99, "gateway_loop_lag_seconds"),
        memory_bytes=page.total("process_resident_memory_bytes"),
        store_up=None if store is None else store == 1,
        restart_pending=None if restart is None else restart == 1,
    )


def _asked(page: Page, rate: float | None, grown: Growth) -> float | None:
    """A counter with labels has no series before the first request: that is none, and not unknown."""
    known = grown.seconds > 0.0 and page.total("gateway_active_requests") is not None
    return 0.0 if rate is None and known else rate


def _engines(page: Page, grown: Growth, told: Sequence[EngineTold]) -> list[EngineFigures]:
    by: dict[str, Mapping[str, float]] = {
        word: page.by("engine", f"gateway_{word}")
        for word in (
            "engine_healthy", "engine_inflight", "engine_slots", "engine_ejected", "engine_resting", "circuit_breaker_state",
            "upstream_truncations_total", "engine_requests_waiting", "engine_kv_cache_usage_ratio",
        )
    }  # fmt: skip
    asked = grown.rates("engine", "gateway_upstream_requests_total")
    failed = grown.rates("engine", "gateway_upstream_errors_total")
    known = {one.name: one for one in told}
    found = [
        EngineFigures(
            name=name, state=_state(name, by, known.get(name)), inflight=inflight, slots=by["engine_slots"].get(name, 0.0),
            requests_per_s=asked.get(name), errors_per_s=failed.get(name),
            truncations_total=by["upstream_truncations_total"].get(name, 0.0),
            waiting=by["engine_requests_waiting"].get(name), kv_usage=by["engine_kv_cache_usage_ratio"].get(name),
            ttft_s=known[name].ttft_s if name in known else None, itl_s=known[name].itl_s if name in known else None,
        )
        for name, inflight in by["engine_inflight"].items()
    ]  # fmt: skip
    return sorted(found, key=lambda one: (one.state in ("well", "unknown"), -one.inflight, -(one.requests_per_s or 0.0)))


def _state(name: str, by: Mapping[str, Mapping[str, float]], told: EngineTold | None) -> str:
    """The gravest of what holds for an engine, in a word or two."""
    if told is not None and told.away:
        return "away"
    if by["engine_healthy"].get(name) == 0:
        return "not well"
    breaker = _BREAKERS.get(int(by["circuit_breaker_state"].get(name, 0)))
    if breaker:
        return breaker
    if told is not None and (told.leaving or told.draining):
        return "leaving" if told.leaving else "draining"
    if by["engine_ejected"].get(name):
        return "ejected"
    if by["engine_resting"].get(name):
        return "resting"
    return "well" if name in by["engine_healthy"] else "unknown"


def _models(grown: Growth, models: Sequence[str], asked: Mapping[str, float]) -> list[ModelFigures]:
    made = grown.rates("model", "gateway_model_tokens_total", type="completion")
    ttft = "gateway_time_to_first_token_seconds"
    return [
        ModelFigures(
            model=model, requests_per_s=asked[model], tokens_per_s=made.get(model),
            ttft_p50_s=grown.percentile(0.5, ttft, model=model), ttft_p99_s=grown.percentile(0.99, ttft, model=model),
        )
        for model in models
    ]  # fmt: skip


def _errors(grown: Growth) -> list[ErrorFigures]:
    rates = grown.rates("error", "gateway_errors_total").items()
    return [ErrorFigures(error, rate) for error, rate in sorted(rates, key=lambda one: (-one[1], one[0])) if rate]


def _callers(grown: Growth) -> list[CallerFigures]:
    """Those that use something now, who uses most first."""
    used = grown.rates("caller", "gateway_caller_tokens_total")
    found = [
        CallerFigures(caller=caller, requests_per_s=rate, tokens_per_s=used.get(caller))
        for caller, rate in grown.rates("caller", "gateway_caller_requests_total").items()
        if rate or used.get(caller)
    ]
    return sorted(found, key=lambda one: (-(one.tokens_per_s or 0.0), -one.requests_per_s, one.caller))


def _gpus(page: Page) -> list[GpuFigures]:
    """Those that are lost first, then as they are numbered."""
    by = {
        word: page.by("uuid", f"gpu_{word}")
        for word in (
            "utilization_percent", "memory_used_gb", "memory_total_gb", "temperature_celsius", "power_watts",
        )
    }  # fmt: skip
    found = [
        GpuFigures(
            gpu=gpu, uuid=uuid, up=up > 0, utilization=by["utilization_percent"].get(uuid),
            memory_used_gb=by["memory_used_gb"].get(uuid), memory_total_gb=by["memory_total_gb"].get(uuid),
            temperature_c=by["temperature_celsius"].get(uuid), power_w=by["power_watts"].get(uuid),
        )
        for gpu, uuid, up in ((labels.get("gpu", ""), labels.get("uuid", ""), up) for labels, up in page.rows("gpu_up"))
    ]  # fmt: skip
    return sorted(found, key=lambda one: (one.up, len(one.gpu), one.gpu))


def _gpu_driver(page: Page) -> str | None:
    up = page.total("gpu_exporter_up")
    if up is None:
        return None
    state = next((labels.get("state", "") for labels, _ in page.rows("gpu_exporter_info")), "")
    return "ok" if up else "does not answer" if state in ("", "ok") else state


def engines_told(body: bytes) -> Sequence[EngineTold]:
    """Of what ``/admin/engines`` answers. Raises ValueError where it is nothing of that kind."""
    try:
        return msgspec.json.decode(body, type=_EngineList).data
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("no list of engines") from error


def events_told(body: bytes) -> Sequence[EventTold]:
    """Of what ``/admin/events`` answers, which are server-sent events; one that is not well-formed is passed over."""
    found = []
    for line in body.split(b"\n"):
        if line.startswith(b"data:"):
            with suppress(msgspec.DecodeError, RecursionError):
                found.append(msgspec.json.decode(line[5:], type=EventTold))
    return found
