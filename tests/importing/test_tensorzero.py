"""Configurations of TensorZero: what each comes to, and that nothing of one is lost, and no secret of it copied."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.importing import reading, tensorzero
from fastgw.importing import tensorzero_table as table
from fastgw.importing.litellm_table import STATUSES
from tests.importing.made import outcomes, taken

ONE = """
[models.m]
routing = ["a"]
[models.m.providers.a]
type = "vllm"
model_name = "m"
api_base = "http://a:1/v1/"
api_key_location = "none"
"""
ENGINE = {"url": "http://a:1", "kind": "vllm", "models": ["m"]}
ROUTE = {"model": "m", "aliases": ["tensorzero::model_name::m"]}
PROVIDER = ("models", "m", "providers", "a")
VARIANT_V = ("functions", "f", "variants", "v")

ROWS: dict[str, tuple[str, dict[str, Any], dict[tuple[Any, ...], str]]] = {
    "a model and its engine": (
        ONE + 'extra_headers = [{name = "x", value = "y"}]\ntimeouts.streaming.ttft_ms = 5\n',
        {"engines": [ENGINE], "routes": [ROUTE]},
        {("models", "m", "routing", 0): "translated", (*PROVIDER, "type"): "translated",
         (*PROVIDER, "api_key_location"): "translated", (*PROVIDER, "extra_headers", 0, "name"): "left",
         (*PROVIDER, "timeouts", "streaming", "ttft_ms"): "left"},
    ),
    "one after the other": (
        """
[models.m]
routing = ["b", "a", "cloud"]
timeouts = { non_streaming.total_ms = 15000, streaming.total_ms = 60000, streaming.ttft_ms = 3000 }
[models.m.providers.a]
type = "sglang"
model_name = "meta/m"
api_base = "http://a:1/v1"
api_key_location = { default = "dynamic::key", fallback = "env::KEY_A" }
[models.m.providers.b]
type = "tgi"
api_base = "http://b:1/v1"
[models.m.providers.cloud]
type = "anthropic"
model_name = "claude"
[models.m.providers.unused]
type = "vllm"
api_base = "http://c:1"
model_name = "m"
""",
        {"engines": [{"url": "http://b:1", "kind": "tgi", "models": ["m"], "api_key_env": "TGI_API_KEY"},
                     {"url": "http://a:1", "kind": "sglang", "models": ["m"], "served_name": "meta/m", "api_key_env": "KEY_A"}],
         "routes": [ROUTE | {"policy": "ordered", "timeout_s": 60.0}],
         "max_retries": 1, "retry_statuses": STATUSES, "retry_fresh": True},
        {("models", "m", "routing", 0): "different", ("models", "m", "routing", 2): "left",
         (*PROVIDER, "api_key_location", "fallback"): "translated", (*PROVIDER, "api_key_location", "default"): "left",
         ("models", "m", "providers", "unused", "api_base"): "left",
         ("models", "m", "timeouts", "streaming", "total_ms"): "different",
         ("models", "m", "timeouts", "streaming", "ttft_ms"): "left"},
    ),
    "keys of a kind": (
        '[model_providers.openai.defaults]\napi_key_location = "env::MINE"\n[embedding_models.e]\nrouting = ["o"]\n'
        '[embedding_models.e.providers.o]\ntype = "openai"\nmodel_name = "text-embedding-3-small"\n',
        {"engines": [{"url": "https://api.openai.com:443", "kind": "openai", "models": ["e"],
                      "served_name": "text-embedding-3-small", "api_key_env": "MINE"}],
         "routes": [{"model": "e", "aliases": ["tensorzero::embedding_model_name::e"]}]},
        {("model_providers", "openai", "defaults", "api_key_location"): "translated"},
    ),
    "who may come in from where: with keys": (
        '[gateway]\nbind_address = "0.0.0.0:9999"\nauth.enabled = true\nauth.cache.ttl_ms = 5\ndebug = true\nbase_path = "/x"\n'
        "export.otlp.traces.enabled = true\nglobal_outbound_http_timeout_ms = 60_000\nobservability.enabled = true\n" + ONE,
        {"engines": [ENGINE], "routes": [ROUTE], "host": "0.0.0.0", "port": 9999, "require_key": True,
         "state_dir": "fastgw-state", "log_level": "debug", "enable_otlp_tracing": True, "request_timeout_s": 60.0},
        {("gateway", "bind_address"): "translated", ("gateway", "auth", "enabled"): "different",
         ("gateway", "auth", "cache", "ttl_ms"): "translated", ("gateway", "observability", "enabled"): "left",
         ("gateway", "base_path"): "left"},
    ),
    "who may come in from where: without keys": (
        '[gateway]\nbind_address = "0.0.0.0:9999"\n' + ONE,
        {"engines": [ENGINE], "routes": [ROUTE], "port": 9999}, {("gateway", "bind_address"): "left"},
    ),
    "functions that are names": (
        ONE + '[functions.f]\ntype = "chat"\n[functions.f.variants.v]\ntype = "chat_completion"\nmodel = "m"\nweight = 1.0\n'
        'retries = { num_retries = 4, max_delay_s = 10 }\n[functions.g]\ntype = "chat"\n[functions.g.variants.v]\n'
        'type = "chat_completion"\nmodel = "m"\ntemplates.system.path = "s.minijinja"\n',
        {"engines": [ENGINE], "routes": [ROUTE | {"aliases": [*ROUTE["aliases"], "tensorzero::function_name::f"]}],
         "max_retries": 4, "retry_statuses": STATUSES, "retry_fresh": True},
        {(*VARIANT_V, "model"): "translated", (*VARIANT_V, "retries", "max_delay_s"): "left",
         (*VARIANT_V, "retries", "num_retries"): "different", ("functions", "g", "type"): "left"},
    ),
    "the variant that is drawn most is the first": (
        ONE + '[models.n]\nrouting = ["p"]\n[models.n.providers.p]\ntype = "vllm"\nmodel_name = "n"\n'
        'api_base = "http://b:1/v1/"\napi_key_location = "none"\n[functions.f]\ntype = "chat"\n' + "".join(
            f'[functions.f.variants.{name}]\ntype = "chat_completion"\nmodel = "{name}"\n{weight}\n'
            for name, weight in (("m", ""), ("n", "weight = 0.9"))
        ),
        {"engines": [ENGINE, {"url": "http://b:1", "kind": "vllm", "models": ["n"]}],
         "routes": [ROUTE, {"model": "n", "aliases": ["tensorzero::model_name::n"]},
                    {"model": "tensorzero::function_name::f", "models": ["n", "m"]}]},
        {("functions", "f", "type"): "different"},
    ),
    "a limit of nothing does not become none": (
        ONE.replace('["a"]', '["a"]\ntimeouts = { non_streaming.total_ms = 0, streaming.total_ms = 0 }')
        + "[gateway]\nglobal_outbound_http_timeout_ms = 0\n[[rate_limiting.rules]]\ntokens_per_minute = 0\ntokens_per_day = 0\n"
        'model_inferences_per_minute = { capacity = 0, refill_rate = 0 }\ncost_per_day = 0\n'
        'scope = [{ api_key_public_id = "tensorzero::each" }]\n',
        {"engines": [ENGINE], "routes": [ROUTE]},
        {("models", "m", "timeouts", "streaming", "total_ms"): "left", ("gateway", "global_outbound_http_timeout_ms"): "left",
         **{("rate_limiting", "rules", 0, name): "left" for name in ("tokens_per_minute", "tokens_per_day", "cost_per_day")}},
    ),
    "what comes back slowly, and which of two rules holds": (
        ONE + "".join(
            f"[[rate_limiting.rules]]\npriority = {priority}\nmodel_inferences_per_minute = {limit}\n{more}\n"
            'scope = [{ api_key_public_id = "tensorzero::each" }]\n'
            for priority, limit, more in ((0, 9, ""), (1, 50, "tokens_per_minute = { capacity = 1000, refill_rate = 10 }"))
        ),
        {"engines": [ENGINE], "routes": [ROUTE], "rate_limit_per_minute": 50},
        {("rate_limiting", "rules", 0, "model_inferences_per_minute"): "different",
         ("rate_limiting", "rules", 1, "model_inferences_per_minute"): "translated",
         ("rate_limiting", "rules", 1, "tokens_per_minute", "capacity"): "left"},
    ),
    "limits of keys, prices, budgets": (
        ONE + 'cost = [{ pointer = "/usage/prompt_tokens", cost_per_million = 2.5, required = true }, '
        '{ pointer = "/usage/completion_tokens", cost_per_million = 10.0 }, '
        '{ pointer = "/usage/prompt_tokens_details/cached_tokens", cost_per_million = -1.25 }]\n'
        "[[rate_limiting.rules]]\npriority = 0\nmodel_inferences_per_second = 2\ntokens_per_minute = 1000\n"
        "tokens_per_hour = 9\n"
        'cost_per_month = 12.5\nscope = [{ api_key_public_id = "tensorzero::each" }]\n[[rate_limiting.rules]]\nalways = true\n'
        "tokens_per_day = 5\n",
        {"engines": [ENGINE], "routes": [ROUTE],
         "prices": [{"model": "m", "input": "2.5", "output": "10.0", "cached": "1.25"}],
         "rate_limit_per_minute": 120, "key_burst": 2, "tokens_per_minute": 1000, "key_budget": "12.5",
         "budget_period": "month"},
        {(*PROVIDER, "cost", 0, "pointer"): "translated",
         ("rate_limiting", "rules", 0, "model_inferences_per_second"): "translated",
         ("rate_limiting", "rules", 0, "tokens_per_hour"): "left", ("rate_limiting", "rules", 1, "tokens_per_day"): "left"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_it_comes_to(name: str, tmp_path: Path) -> None:
    text, wanted, told = ROWS[name]
    source = reading.toml(text)
    draft, report = tensorzero.translate(source)
    assert tomllib.loads(draft.text()) == {"port": tensorzero.PORT, **wanted}
    found = outcomes(source, report)
    assert {path: found[path] for path in told} == told
    assert report.complete == ("left" not in found.values())
    taken(draft, tmp_path)


SECRET = "CANARY"
NAMES = st.sampled_from(["m", "m", "n", "a", "b", "x y", "\x7f\n", ""])
SCALARS = st.booleans() | st.integers(-3, 10**6) | st.floats() | st.sampled_from([SECRET, "env::KEY_A", "none"]) | NAMES
VALUES = st.recursive(SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES, one, max_size=3), max_leaves=6)
PROVIDERS = st.fixed_dictionaries(
    {
        "type": st.sampled_from([*table.PROVIDERS, "anthropic"]),
        "api_base": st.sampled_from([f"http://{host}:1/v1" for host in "abc"]),
    },
    optional={
        "model_name": NAMES,
        "api_key_location": VALUES | st.sampled_from([SECRET, f"env::{SECRET} of it"]),
        "cost": VALUES,
        **dict.fromkeys(table.OF_A_PROVIDER, VALUES),
    },
)
ROUTING = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True)
MODEL = st.fixed_dictionaries(
    {"routing": ROUTING, "providers": st.fixed_dictionaries({"a": PROVIDERS}, optional={"b": PROVIDERS, "c": VALUES})},
    optional={"timeouts": VALUES, "skip_relay": VALUES, "x": VALUES},
)
MODELS = st.dictionaries(NAMES, MODEL | VALUES, min_size=1, max_size=3)
PLAIN = {"type": st.just("chat_completion"), "model": NAMES}
VARIANT = st.fixed_dictionaries(PLAIN, optional={"retries": VALUES, "weight": VALUES})
FUNCTION = st.fixed_dictionaries(
    {"type": st.sampled_from(["chat", "chat", "json"]), "variants": st.dictionaries(NAMES, VARIANT, min_size=1, max_size=3)},
    optional={"x": VALUES},
)
RULE = st.dictionaries(st.sampled_from([*table.LIMITS, "tokens_per_hour", "priority"]), VALUES, min_size=1, max_size=4)
SCOPED = st.builds(lambda rule: {**rule, "scope": [{"api_key_public_id": "tensorzero::each"}]}, RULE)


def nested(rules: Any) -> Any:
    """The names of a table, which have dots, as tables in tables."""
    return st.dictionaries(st.sampled_from([name.partition(".")[0] for name in rules]), VALUES, max_size=4)


SOURCES = st.fixed_dictionaries({"models": MODELS}, optional={
    "embedding_models": MODELS,
    "gateway": nested([*table.GATEWAY, "bind_address", "auth"]),
    "functions": st.dictionaries(NAMES, FUNCTION | VALUES, max_size=3),
    "rate_limiting": st.fixed_dictionaries({}, optional={"enabled": VALUES, "rules": st.lists(RULE | SCOPED, max_size=3)}),
    "model_providers": st.dictionaries(st.sampled_from([*table.PROVIDERS]), VALUES, max_size=2),
    **dict.fromkeys(("metrics", "tools", "postgres", "x"), VALUES),
})  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(source=SOURCES)
def test_nothing_is_lost_no_secret_is_copied_and_the_file_is_taken(source: dict[str, Any], tmp_path: Path) -> None:
    """Whatever a source says: each of its entries is told of, and what is written is a configuration."""
    draft, report = tensorzero.translate(source)
    outcomes(source, report)
    assert SECRET not in draft.text() + report.text()
    taken(draft, tmp_path)
