"""Settings without any effect are warned of, and what has one, or may have, is not."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import Config, EngineConfig, RouteConfig
from fastgw.config.in_vain import MOST_NOTES, NEEDS
from fastgw.config.paying import TenantConfig

MODELS = [EngineConfig(url="http://a:1", models=["m"], version="v1"), EngineConfig(url="http://b:1", models=["n"])]
ANY = [EngineConfig(url="http://a:1", version="v1")]
FILE = {"engines_file": "/e.json"}


def route(model: str = "m", **fields: Any) -> dict[str, Any]:
    return {"routes": [RouteConfig(model=model, **fields)]}


STORED = {"state_dir": "/var/lib/fastgw"}
CAPABLE = {"policy_header": "x-policy", "policy_choices": ["capability"]}
# What is set, and what is said of it: "" = nothing.
ROWS: list[tuple[dict[str, Any], str]] = [
    ({"policy_header": "x-policy"}, "policy_header is set, but policy_choices is not"),
    ({"budget_webhook_secret": "sk-signs-these-events"}, "budget_webhook_secret is set, but budget_webhook_url is not"),
    ({"policy_choices": ["ordered"]}, "policy_choices is set, but policy_header is not"),
    ({"policy_header": "x-policy", "policy_choices": ["ordered"]}, ""),
    (route(needs=["gpu"]), "needs of 'm' holds under the policy capability alone, and its policy is round_robin"),
    ({**route(needs=["gpu"], policy="ordered"), "policy": "capability"}, "needs of 'm' holds under"),
    (route(needs=["gpu"], policy="capability"), ""),
    ({**route(needs=["gpu"]), "policy": "capability"}, ""),
    ({**route(needs=["gpu"]), **CAPABLE}, ""),
    ({"tenants": [TenantConfig(name="lab", budget="5")]}, "tenants are given budgets or limits, but without state_dir"),
    ({**STORED, "tenants": [TenantConfig(name="lab", burst=5)]}, "burst of the tenant 'lab' needs requests_per_minute"),
    ({**STORED, "tenants": [TenantConfig(name="lab")]}, "the tenant 'lab' is given no budget and no limit"),
    ({**STORED, "tenants": [TenantConfig(name="lab", burst=5, requests_per_minute=60)]}, ""),
    (route(burst=5), "burst of 'm' needs requests_per_minute"),
    (route(key_burst=5, requests_per_minute=60), "key_burst of 'm' needs key_requests_per_minute"),
    (route(key_burst=5, key_requests_per_minute=60), ""),
    (route(sticky=True), "sticky of 'm' needs versions"),
    (route(mirror_percent=5), "mirror_percent of 'm' needs mirror_to"),
    ({"engines": ANY, **route(versions={"v1": 1})}, ""),
    ({"engines": ANY, **route(versions={"v1": 1, "v2": 0}, sticky=True)}, "versions of 'm' names the version 'v2', which no"),
    ({"engines": ANY, **route(mirror_to="version:v2")}, "mirror_to of 'm' names the version 'v2', which no engine"),
    ({"engines": ANY, **FILE, **route(versions={"v2": 1})}, ""),
    ({"engines": ANY, **route(fallback=["x"], on_capacity="fallback")}, ""),
    ({"engines": MODELS, **route(fallback=["n"], on_capacity="fallback")}, ""),
    ({"engines": MODELS, **route(fallback=["x"], on_capacity="fallback")}, "fallback of 'm' names the model 'x', which no"),
    ({"engines": MODELS, **route(mirror_to="x")}, "mirror_to of 'm' names the model 'x'"),
    ({"engines": MODELS, **route("a", adapter_of="m")}, ""),
    ({"engines": MODELS, **route("a", adapter_of="x")}, "adapter_of of 'a' names the model 'x'"),
    ({"engines": MODELS, **route("class:c", models=["m", "x"])}, "models of 'class:c' names the model 'x'"),
    ({"engines": MODELS, **route("x", max_concurrent=1)}, "a route is for the model 'x', which no engine"),
    ({"engines": MODELS, "runner_auth_token": "sk-runners-of-these", **route("x", max_concurrent=1)}, ""),
    ({**route("x", max_concurrent=1)}, ""),
]


@pytest.mark.parametrize(("settings", "said"), ROWS)
def test_what_has_no_effect_is_said(settings: dict[str, Any], said: str) -> None:
    warnings = Config(**settings).warnings
    assert len(warnings) == bool(said), warnings
    assert all(warning.startswith(said) for warning in warnings)


RUNNERS = {"runner_auth_token": "sk-runners-of-these"}
SHOWN = {"control_listen": "127.0.0.1:1"}
EJECTS = {"outlier_errors": 5}
# What is set, and with what it has an effect.
NEED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"queue_target_s": 2.0}, {"queue_order": "adaptive"}),
    ({"scheduler_interval_s": 2.0}, {"scheduler": "auto"}),
    ({"embedding_merge_inputs": 9}, {"embedding_merge_s": 0.01}),
    ({"session_ttl_s": 9.0}, {"policy": "session"}),
    ({"session_ttl_s": 9.0}, route(policy="session")),
    ({"hash_sources": ["key"]}, {"policy": "consistent_hash"}),
    ({"hash_bound_percent": 150}, {"policy_header": "x-policy", "policy_choices": ["consistent_hash"]}),
    ({"prefix_table_bytes": 1 << 20}, {"policy": "prefix_aware"}),
    ({"prefix_cache_tokens": 5000}, {"policy": "prefix_aware"}),
    ({"prefix_balance_percent": 200}, {"policy": "prefix_aware"}),
    ({"needs_header": "x-needs"}, {"policy": "capability"}),
    ({"ewma_decay_s": 5.0}, {"policy": "ewma_latency"}),
    ({"ewma_decay_s": 5.0}, EJECTS),
    ({"outlier_eject_s": 5.0}, EJECTS),
    ({"outlier_most_percent": 50}, {"outlier_ttft_factor": 3.0}),
    ({"discovery_interval_s": 5.0}, {"engines": [EngineConfig(url="http://a.example:1", discover="dns", name="a")]}),
    ({"discovery_stale_s": 5.0}, FILE),
    ({"on_exhausted": "cut"}, {"daily_token_quota": 9}),
    ({"key_burst": 5}, {"rate_limit_per_minute": 9}),
    ({"budget_webhook_url": "http://127.0.0.1:9/budgets"}, {"key_budget": "5"}),
    ({"budget_period": "day"}, STORED),
    ({"on_unknown_price": "allow"}, {"key_budget": "5"}),
    ({"flush_interval_s": 5.0}, STORED),
    ({"on_corrupt_state": "set_aside"}, STORED),
    ({"runner_allowed_networks": ["10.0.0.0/8"]}, RUNNERS),
    ({"runner_heartbeat_s": 5.0}, RUNNERS),
    ({"runner_timeout_s": 95.0}, RUNNERS),
    ({"runner_command_timeout_s": 5.0}, RUNNERS),
    ({"max_runners": 5}, RUNNERS),
    ({"metrics_by": "key"}, SHOWN),
    ({"metrics_genai": True}, {"metrics_public": True}),
    ({"metrics_cache_s": 5.0}, SHOWN),
]
TURNED_OFF = {  # by what is on if nobody says otherwise
    "cb_recovery_timeout_s": (5.0, "cb_failure_threshold"), "retry_statuses": (["503"], "max_retries"),
    "rate_limit_burst": (5, "rate_limit_per_second"),
}  # fmt: skip
FILES_OF_TLS = {"tls_min_version": ("1.3", "tls_cert_file"), "tls_client_auth": ("optional", "tls_client_ca_file")}


@pytest.mark.parametrize(("settings", "there"), NEED)
def test_what_means_nothing_by_itself_is_said(settings: dict[str, Any], there: dict[str, Any]) -> None:
    (name,) = settings
    (warning,) = Config(**settings).warnings
    assert warning.startswith(f"{name} has no effect without ")
    assert Config(**settings, **there).warnings == ()


def test_what_another_turns_off_is_said() -> None:
    for name, (value, switch) in TURNED_OFF.items():
        assert Config(**{name: value}).warnings == ()
        assert Config(**{name: value, switch: 0}).warnings == (f"{name} has no effect without {switch}",)
    for name, (value, file) in FILES_OF_TLS.items():
        assert Config(**{name: value}).warnings == (f"{name} has no effect without {file}",)


def test_every_setting_that_needs_another_is_tried_here() -> None:
    tried = {name for settings, _ in NEED for name in settings} | TURNED_OFF.keys() | FILES_OF_TLS.keys()
    assert {name for need in NEEDS for name in need.names} - {"discovery_dns"} == tried  # (that one wants dnspython)


def test_no_more_is_said_than_can_be_read() -> None:
    warnings = Config(routes=[RouteConfig(model=f"m{at}", sticky=True) for at in range(1024)]).warnings
    assert (len(warnings), warnings[-1]) == (MOST_NOTES + 1, "and there are more such settings")
