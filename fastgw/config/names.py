"""The words that settings, stored keys and the code agree on, each written once.

Owns: a ``Literal`` for each choice, which mypy holds the code's own words against, and the tuple of its words. Must never:
have a second list of the same words beside it; ``choices`` of a setting come from its type.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Profile = Literal["", "minisgl", "llm-stack", "rakka", "simple-ai", "openai-llm-gateway"]
EngineKind = Literal["auto", "openai", "vllm", "sglang", "tgi", "llamacpp", "ollama", "lmstudio"]
UpstreamProtocol = Literal["auto", "h1", "h2"]
Policy = Literal[
    "round_robin", "weighted", "ordered", "least_loaded", "random", "power_of_two", "ewma_latency", "capability",
    "consistent_hash", "session", "token_load", "prefix_aware",
]  # fmt: skip
OnExhausted = Literal["refuse", "cut"]
BudgetPeriod = Literal["day", "week", "month"]
OnUnknownPrice = Literal["refuse", "allow"]
OnCapacity = Literal["queue", "reject", "fallback"]
FallbackOn = Literal["failure", "context"]
Choose = Literal["ordered", "least_loaded"]
QueueOrder = Literal["fifo", "adaptive"]
SchedulerMode = Literal["off", "auto"]
OnCorruptState = Literal["refuse", "set_aside"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]
LogFormat = Literal["auto", "json", "text"]
TlsVersion = Literal["1.2", "1.3"]
ClientAuth = Literal["required", "optional"]
MetricsBy = Literal["", "key", "tenant"]
GpuNames = Literal["seed", "dcgm", "nvidia_smi"]
TraceSampler = Literal[
    "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
]  # fmt: skip
OtlpProtocol = Literal["", "http/protobuf", "grpc"]
OtlpCompression = Literal["none", "gzip", "deflate"]
Priority = Literal["high", "normal", "low"]  # the first served first

PROFILES: Final[tuple[Profile, ...]] = tuple(name for name in get_args(Profile) if name)
Discover = Literal["dns", "srv"]
ENGINE_KINDS: Final[tuple[EngineKind, ...]] = get_args(EngineKind)
RANKED_KINDS: Final[tuple[EngineKind, ...]] = ("auto", "vllm", "sglang")
"""Kinds whose data-parallel ranks can be asked for one by one."""
UPSTREAM_PROTOCOLS: Final[tuple[UpstreamProtocol, ...]] = get_args(UpstreamProtocol)
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)
ON_EXHAUSTED: Final[tuple[OnExhausted, ...]] = get_args(OnExhausted)
BUDGET_PERIODS: Final[tuple[BudgetPeriod, ...]] = get_args(BudgetPeriod)
ON_CAPACITY: Final[tuple[OnCapacity, ...]] = get_args(OnCapacity)
FALLBACK_ON: Final[tuple[FallbackOn, ...]] = get_args(FallbackOn)
CHOOSE: Final[tuple[Choose, ...]] = get_args(Choose)
LOG_LEVELS: Final[tuple[LogLevel, ...]] = get_args(LogLevel)
GPU_NAMES: Final[tuple[GpuNames, ...]] = get_args(GpuNames)
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)


def any_of(names: tuple[str, ...]) -> str:
    """``a, b or c``."""
    return f"{', '.join(names[:-1])} or {names[-1]}"
