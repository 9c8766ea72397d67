"""Settings that are right by themselves and have no effect as the others are: a warning for each, for whoever believes in it.

Owns: those rules, a row each. What is no setting's fault is passed over: where engines may come that the settings do not name
(a file, runners), or say their models themselves, nobody knows here which models and versions there are. Must never: refuse
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from fastgw.config.entries import RouteConfig
from fastgw.config.profiles import PROFILE_DEFAULTS
from fastgw.config.table import DEFAULTS, Settings

MOST_NOTES: Final = 20
"""That are told: a wrong file may have as many as it has words."""
_VERSION: Final = "version:"
_NOBODY: Final = "which no engine of the configuration has"


def _choices(settings: Settings) -> Iterator[str]:
    header, choices = settings.policy_header, settings.policy_choices
    if header and not choices:
        yield "policy_header is set, but policy_choices is not: no client can choose a policy by it"
    if choices and not header:
        yield "policy_choices is set, but policy_header is not: no client can choose a policy"


def _needs(settings: Settings) -> Iterator[str]:
    if settings.policy_header and "capability" in settings.policy_choices:
        return
    for route in settings.routes:
        policy = route.policy or settings.policy
        if route.needs and not route.models and policy != "capability":
            yield f"needs of {route.model!r} holds under the policy capability alone, and its policy is {policy}"


def _webhook(settings: Settings) -> Iterator[str]:
    if settings.budget_webhook_secret and not settings.budget_webhook_url:
        yield "budget_webhook_secret is set, but budget_webhook_url is not: nobody is sent anything that it signs"


def _tenants(settings: Settings) -> Iterator[str]:
    entries: list[tuple[str, str, object, str]] = [("the tenant ", one.name, one, "") for one in settings.tenants]
    entries += [("", route.model, route, prefix) for route in settings.routes for prefix in ("", "key_")]
    for whose, name, entry, prefix in entries:
        if getattr(entry, f"{prefix}burst") and not getattr(entry, f"{prefix}requests_per_minute"):
            yield f"{prefix}burst of {whose}{name!r} needs {prefix}requests_per_minute"
    if settings.tenants and not settings.state_dir:
        yield "tenants are given budgets or limits, but without state_dir there are no keys that are of a tenant"
    for one in settings.tenants:
        if not any(getattr(one, field) for field in one.__struct_fields__[1:]):
            yield f"the tenant {one.name!r} is given no budget and no limit"


def _shares(settings: Settings) -> Iterator[str]:
    for route in settings.routes:
        if route.sticky and not route.versions and not route.models:
            yield f"sticky of {route.model!r} needs versions"
        if route.mirror_percent != 100 and not route.mirror_to:
            yield f"mirror_percent of {route.model!r} needs mirror_to"


def _versions(settings: Settings) -> Iterator[str]:
    if not settings.engines or _others_come(settings):
        return
    there = {engine.version for engine in settings.engines}
    for route in settings.routes:
        named = [("versions", version) for version in route.versions]
        if route.mirror_to.startswith(_VERSION):
            named.append(("mirror_to", route.mirror_to.removeprefix(_VERSION)))
        for name, version in named:
            if version not in there:
                yield f"{name} of {route.model!r} names the version {version!r}, {_NOBODY}"


def _models(settings: Settings) -> Iterator[str]:
    said = all(engine.models and "*" not in engine.models for engine in settings.engines)
    if not settings.engines or _others_come(settings) or not said:
        return
    there = {model for engine in settings.engines for model in engine.models}
    there |= {route.model for route in settings.routes if route.adapter_of in there or there.intersection(route.models)}
    there.add(settings.served_model_name)
    for route in settings.routes:
        for name, models in _named(route):
            for model in models:
                if model and model not in there:
                    yield f"{name} of {route.model!r} names the model {model!r}, {_NOBODY}"
        if route.model not in there and not route.models and not route.adapter_of:
            yield f"a route is for the model {route.model!r}, {_NOBODY}"


def _named(route: RouteConfig) -> list[tuple[str, Sequence[str]]]:
    mirror = "" if route.mirror_to.startswith(_VERSION) else route.mirror_to
    return [
        ("fallback", route.fallback), ("mirror_to", (mirror,)), ("adapter_of", (route.adapter_of,)), ("models", route.models),
    ]  # fmt: skip


def _others_come(settings: Settings) -> bool:
    return bool(settings.engines_file or settings.runner_auth_token)


def _policies(settings: Settings) -> set[str]:
    return {settings.policy, *settings.policy_choices, *(route.policy for route in settings.routes)}


def _under(policy: str) -> Callable[[Settings], object]:
    return lambda settings: policy in _policies(settings)


def _ejects(settings: Settings) -> object:
    return settings.outlier_errors or settings.outlier_error_percent or settings.outlier_ttft_factor


def _discovers(settings: Settings) -> object:
    """(The admin API may bring such a name too.)"""
    return settings.control_listen or settings.engines_file or any(engine.discover for engine in settings.engines)


def _quotas(settings: Settings) -> object:
    return settings.daily_token_quota or settings.state_dir or settings.tenants or settings.routes


def _budgets(settings: Settings) -> object:
    return settings.key_budget or settings.tenants or settings.state_dir


class _Need(NamedTuple):
    """Settings that mean nothing unless another is ``there``; ``without`` names that one."""

    names: tuple[str, ...]
    without: str
    there: Callable[[Settings], object]


NEEDS: Final = (
    _Need(("queue_target_s",), "queue_order = adaptive", lambda it: it.queue_order == "adaptive"),
    _Need(("scheduler_interval_s",), "scheduler = auto", lambda it: it.scheduler == "auto"),
    _Need(("embedding_merge_inputs",), "embedding_merge_s", lambda it: it.embedding_merge_s),
    _Need(("cb_recovery_timeout_s",), "cb_failure_threshold", lambda it: it.cb_failure_threshold),
    _Need(("retry_statuses",), "max_retries", lambda it: it.max_retries),
    _Need(("session_ttl_s",), "the policy session", _under("session")),
    _Need(("hash_sources", "hash_bound_percent"), "the policy consistent_hash", _under("consistent_hash")),
    _Need(
        ("prefix_table_bytes", "prefix_cache_tokens", "prefix_balance_percent"), "the policy prefix_aware",
        _under("prefix_aware"),
    ),
    _Need(("needs_header",), "the policy capability", _under("capability")),
    _Need(
        ("ewma_decay_s",), "the policy ewma_latency, or ejection",
        lambda it: "ewma_latency" in _policies(it) or _ejects(it),
    ),
    _Need(("outlier_eject_s", "outlier_most_percent"), "outlier_errors, _error_percent or _ttft_factor", _ejects),
    _Need(("discovery_interval_s", "discovery_stale_s", "discovery_dns"), "an engine with discover", _discovers),
    _Need(("rate_limit_burst",), "rate_limit_per_second", lambda it: it.rate_limit_per_second),
    _Need(("key_burst",), "rate_limit_per_minute", lambda it: it.rate_limit_per_minute or it.state_dir),
    _Need(("on_exhausted",), "daily_token_quota", _quotas),
    _Need(("budget_webhook_url", "budget_period", "on_unknown_price"), "a budget", _budgets),
    _Need(("flush_interval_s", "on_corrupt_state"), "state_dir", lambda it: it.state_dir),
    _Need(("tls_min_version",), "tls_cert_file", lambda it: it.tls_cert_file),
    _Need(("tls_client_auth",), "tls_client_ca_file", lambda it: it.tls_client_ca_file),
    _Need(
        ("runner_allowed_networks", "runner_heartbeat_s", "runner_timeout_s", "runner_command_timeout_s", "max_runners"),
        "runner_auth_token", lambda it: it.runner_auth_token,
    ),
    _Need(
        ("metrics_by", "metrics_genai", "metrics_cache_s"), "control_listen or metrics_public",
        lambda it: it.control_listen or it.metrics_public,
    ),
)  # fmt: skip


def _alone(settings: Settings) -> Iterator[str]:
    usual = {**DEFAULTS, **PROFILE_DEFAULTS[settings.compat]}
    for need in NEEDS:
        if not need.there(settings):
            for name in need.names:
                if getattr(settings, name) not in (usual[name], DEFAULTS[name]):
                    yield f"{name} has no effect without {need.without}"


_RULES: Final[tuple[Callable[[Settings], Iterator[str]], ...]] = (
    _choices, _needs, _webhook, _tenants, _shares, _versions, _models, _alone,
)  # fmt: skip


def in_vain(settings: Settings) -> list[str]:
    """A sentence for each setting without any effect, the first :data:`MOST_NOTES` of them."""
    notes = list(islice((note for rule in _RULES for note in rule(settings)), MOST_NOTES + 1))
    return [*notes[:MOST_NOTES], "and there are more such settings"] if len(notes) > MOST_NOTES else notes
