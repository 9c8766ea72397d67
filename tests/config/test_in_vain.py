"""Settings without any effect are warned of, and what has one, or may have, is not."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import Config, EngineConfig, RouteConfig
from fastgw.config.in_vain import MOST_NOTES
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


def test_no_more_is_said_than_can_be_read() -> None:
    warnings = Config(routes=[RouteConfig(model=f"m{at}", sticky=True) for at in range(1024)]).warnings
    assert (len(warnings), warnings[-1]) == (MOST_NOTES + 1, "and there are more such settings")
