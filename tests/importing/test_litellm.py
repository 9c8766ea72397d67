"""Configurations of LiteLLM's proxy: what each comes to, and that nothing of one is lost, and no secret of it copied."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.config.entries import MAX_ALIASES, MAX_FALLBACKS
from fastgw.importing import litellm, reading
from fastgw.importing import litellm_table as table
from fastgw.importing.deployments import shares
from tests.importing.made import outcomes, taken

VARIABLES = {"VLLM_BASE": "http://10.0.0.7:8000/v1", "RATE": "7"}
ONE = "- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1'}}"
TWO = f"{ONE}\n- {{model_name: n, litellm_params: {{model: hosted_vllm/n, api_base: 'http://b:1'}}}}"
A, B = ({"url": f"http://{host}:1", "kind": "vllm", "models": [name]} for host, name in (("a", "m"), ("b", "n")))
P = ("model_list", 0, "litellm_params")

# What the source says, what the file has (of its engines, routes, prices and settings), and what became of some entries.
ROWS: dict[str, tuple[str, dict[str, Any], dict[tuple[Any, ...], str]]] = {
    "a name is an engine's model": (
        "model_list:\n- {model_name: gpt, litellm_params: {model: hosted_vllm/meta/llama, api_base: 'http://a:1/v1/'}}",
        {"engines": [{"url": "http://a:1", "kind": "vllm", "models": ["gpt"], "served_name": "meta/llama"}]},
        {("model_list", 0, "model_name"): "translated", (*P, "model"): "translated", (*P, "api_base"): "translated"},
    ),
    "names of one engine are one engine": (
        "model_list:\n- {model_name: m, litellm_params: &p {model: openai/x, api_base: 'http://a:1', api_key: none}}\n"
        "- {model_name: n, litellm_params: *p}\n- {model_name: m, litellm_params: *p}",
        {"engines": [{"url": "http://a:1", "kind": "openai", "models": ["m", "n"], "served_name": "x"}]},
        {("model_list", 2, "litellm_params", "model"): "left", (*P, "api_key"): "translated"},
    ),
    "keys come from where they came from": (
        "model_list:\n- {model_name: m, litellm_params: {model: openai/m, api_base: 'http://a:1', api_key: os.environ/KEY_A}}\n"
        "- {model_name: gpt-4o, litellm_params: {model: gpt-4o}}\n"
        "- {model_name: n, litellm_params: {model: openai/n, api_base: 'http://b:1', api_key: sk-live}}",
        {"engines": [
            {"url": "http://a:1", "kind": "openai", "models": ["m"], "api_key_env": "KEY_A"},
            {"url": "https://api.openai.com:443", "kind": "openai", "models": ["gpt-4o"], "api_key_env": "OPENAI_API_KEY"},
            {"url": "http://b:1", "kind": "openai", "models": ["n"]},
        ]},
        {(*P, "api_key"): "translated", ("model_list", 2, "litellm_params", "api_key"): "left"},
    ),
    "an address comes from a variable": (
        "model_list:\n- {model_name: m, litellm_params: {model: ollama/m, api_base: os.environ/VLLM_BASE}}\n"
        "- {model_name: n, litellm_params: {model: ollama_chat/n, api_base: os.environ/OWN}}\n"
        "- {model_name: o, litellm_params: {model: ollama/o, api_base: os.environ/NOT_THERE}}\n"
        "environment_variables: {OWN: 'http://own:1'}",
        {"engines": [{"url": "http://10.0.0.7:8000", "kind": "ollama", "models": ["m"]},
                     {"url": "http://own:1", "kind": "ollama", "models": ["n"]}]},
        {(*P, "api_base"): "different", ("model_list", 2, "litellm_params", "model"): "left",
         ("environment_variables", "OWN"): "left"},
    ),
    "whose a model is that names nobody, and what no engine is asked for": (
        f"model_list:\n{ONE}\n- {{model_name: c, litellm_params: {{model: claude-3-opus, api_key: os.environ/KEY_A}}}}\n"
        "- {model_name: '*', litellm_params: {model: '*'}}\n"
        "- {model_name: o, litellm_params: {model: openai/responses/o1}}\n- {model_name: p, litellm_params: {model: o1}}\n"
        "environment_variables: {OPENAI_API_BASE: 'http://own:1/v1'}",
        {"engines": [A, {"url": "http://own:1", "kind": "openai", "models": ["p"], "served_name": "o1",
                         "api_key_env": "OPENAI_API_KEY"}]},
        {("model_list", number, "litellm_params", "model"): "different" if number == 4 else "left" for number in (1, 2, 3, 4)},
    ),
    "an address that another entry has is not guessed": (
        f"model_list:\n{ONE}\n- {{model_name: c, litellm_params: {{model: gpt-4o, litellm_credential_name: ours}}}}\n"
        "credential_list:\n- {credential_name: ours, credential_values: {api_base: 'http://b:1/v1', api_key: sk-live}}",
        {"engines": [A]}, {("model_list", 1, "litellm_params", "model"): "left"},
    ),
    "an address of all models is not guessed": (
        f"model_list:\n{ONE}\n- {{model_name: c, litellm_params: {{model: gpt-4o}}}}\nlitellm_settings: {{api_base: 'http://b:1/v1'}}",
        {"engines": [A]}, {("model_list", 1, "litellm_params", "model"): "left"},
    ),
    "requests go beneath an address, or to its /v1": (
        "model_list:\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1'}}\n"
        "- {model_name: o, litellm_params: {model: openai/o, api_base: 'https://x/api/v3/', api_key: none}}\n"
        "- {model_name: p, litellm_params: {model: ollama/p, api_base: 'http://x/ours'}}\n"
        "- {model_name: q, litellm_params: {model: openai/q, api_base: 'http://b:1/v1'}}",
        {"engines": [A, {"url": "http://x:80/ours", "kind": "ollama", "models": ["p"]},
                     {"url": "http://b:1", "kind": "openai", "models": ["q"]}]},
        {("model_list", 1, "litellm_params", "api_base"): "left", ("model_list", 2, "litellm_params", "api_base"): "translated",
         ("model_list", 3, "litellm_params", "api_base"): "different"},
    ),
    "shares": (
        "model_list:\n" + "\n".join(
            f"- {{model_name: m, litellm_params: {{model: hosted_vllm/m, api_base: 'http://{host}:1', weight: {weight}}}}}"
            for host, weight in (("a", 0.9), ("b", 0.1), ("c", 0))
        ) + "\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://d:1', rpm: 5}}",
        {"engines": [A | {"weight": 9}, A | {"url": "http://b:1"}]},
        {(*P, "weight"): "different", ("model_list", 2, "litellm_params", "weight"): "left",
         ("model_list", 3, "litellm_params", "model"): "left"},
    ),
    "shares are none where the strategy does not look at them": (
        f"model_list:\n{ONE.replace('}}', ', rpm: 9}}')}\n{TWO.splitlines()[1].replace('}}', ', weight: 9}}')}\n"
        "router_settings: {routing_strategy: least-busy}",
        {"engines": [A, B], "policy": "least_loaded"},
        {(*P, "rpm"): "different", ("model_list", 1, "litellm_params", "weight"): "translated"},
    ),
    "a variable is a rate, and rates are limits where that is said": (
        "model_list:\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1', rpm: os.environ/RATE}}\n"
        "router_settings: {optional_pre_call_checks: [enforce_model_rate_limits, prompt_caching]}",
        {"engines": [A | {"weight": 7}], "routes": [{"model": "m", "requests_per_minute": 7}]},
        {(*P, "rpm"): "different", ("router_settings", "optional_pre_call_checks", 0): "translated",
         ("router_settings", "optional_pre_call_checks", 1): "left"},
    ),
    "rates are shares, or limits where it routes by them": (
        "model_list:\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1', rpm: 60, tpm: 7}}\n"
        "- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://b:1', rpm: 40}}\n"
        "router_settings: {routing_strategy: usage-based-routing-v2}",
        {"engines": [A | {"weight": 60}, A | {"url": "http://b:1", "weight": 40}], "policy": "token_load",
         "routes": [{"model": "m", "requests_per_minute": 100}]},
        {(*P, "rpm"): "different", (*P, "tpm"): "left", ("router_settings", "routing_strategy"): "different"},
    ),
    "the first that answers": (
        "model_list:\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://b:1', order: 2}}\n"
        "- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1', order: 1, max_parallel_requests: 4}}"
        "\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://c:1'}}",
        {"engines": [A | {"max_concurrent": 4}, A | {"url": "http://b:1"}, A | {"url": "http://c:1"}],
         "routes": [{"model": "m", "policy": "ordered"}]},
        {(*P, "order"): "different", ("model_list", 1, "litellm_params", "max_parallel_requests"): "different"},
    ),
    "providers with an API of their own": (
        f"model_list:\n{ONE}\n- {{model_name: c, litellm_params: {{model: anthropic/claude, api_key: os.environ/X}}}}\n"
        "- {model_name: 'x/*', litellm_params: {model: 'openai/*', api_base: 'http://c:1'}}\n"
        "- {model_name: '*', litellm_params: {model: 'openai/*', api_base: 'http://c:1'}}",
        {"engines": [A, {"url": "http://c:1", "kind": "openai", "models": ["*"]}]},
        {("model_list", 1, "litellm_params", "model"): "left", ("model_list", 2, "model_name"): "left",
         ("model_list", 3, "model_name"): "translated"},
    ),
    "retries, breaker, times": (
        f"model_list:\n{ONE}\nrouter_settings: {{num_retries: 3, allowed_fails: 2, cooldown_time: 45, timeout: 90, "
        "stream_timeout: 20, retry_policy: {TimeoutErrorRetries: 3}}\nlitellm_settings: {num_retries: 5, request_timeout: 60}",
        {"engines": [A], "max_retries": 3, "retry_statuses": table.STATUSES, "retry_fresh": True, "cb_failure_threshold": 3,
         "cb_recovery_timeout_s": 45.0, "first_byte_timeout_s": 90.0, "between_bytes_timeout_s": 20.0},
        {("router_settings", "num_retries"): "different", ("litellm_settings", "num_retries"): "different",
         ("router_settings", "retry_policy", "TimeoutErrorRetries"): "left", ("router_settings", "timeout"): "different"},
    ),
    "the longest time is that of all": (
        "model_list:\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1', timeout: 30}}\n"
        "- {model_name: n, litellm_params: {model: hosted_vllm/n, api_base: 'http://b:1', timeout: 700}}",
        {"engines": [A, B], "first_byte_timeout_s": 700.0}, {(*P, "timeout"): "different"},
    ),
    "fallbacks": (
        f"model_list:\n{TWO}\nrouter_settings: {{fallbacks: [{{m: [n, gone]}}], default_fallbacks: [m]}}\n"
        "litellm_settings: {context_window_fallbacks: [{n: [m]}], content_policy_fallbacks: [{m: [n]}]}",
        {"engines": [A, B], "routes": [{"model": "m", "fallback": ["n"], "fallback_on": ["failure"]},
                                       {"model": "n", "fallback": ["m"], "fallback_on": ["context", "failure"]}]},
        {("router_settings", "fallbacks", 0, "m", 0): "different", ("router_settings", "fallbacks", 0, "m", 1): "left",
         ("litellm_settings", "context_window_fallbacks", 0, "n", 0): "translated",
         ("litellm_settings", "content_policy_fallbacks", 0, "m", 0): "left"},
    ),
    "what is said of all models holds for those that have nothing of their own": (
        f"model_list:\n{TWO}\n- {{model_name: o, litellm_params: {{model: hosted_vllm/o, api_base: 'http://c:1'}}}}\n"
        "router_settings: {fallbacks: [{'*': [o]}]}\nlitellm_settings: {fallbacks: [{m: [n]}]}",
        {"engines": [A, B, {"url": "http://c:1", "kind": "vllm", "models": ["o"]}],
         "routes": [{"model": "m", "fallback": ["n"], "fallback_on": ["failure"]},
                    {"model": "n", "fallback": ["o"], "fallback_on": ["failure"]}]},
        {("router_settings", "fallbacks", 0, "*", 0): "different"},
    ),
    "other names, and copies": (
        f"model_list:\n{TWO}\n- {{model_name: n, litellm_params: {{model: hosted_vllm/n, api_base: 'http://c:1', "
        "silent_model: m}}\nrouter_settings: {model_group_alias: {gpt-4o: m, o: {model: m, hidden: true}, n: m, p: gone}}",
        {"engines": [A, B, B | {"url": "http://c:1"}],
         "routes": [{"model": "m", "aliases": ["gpt-4o", "o"]}, {"model": "n", "mirror_to": "m"}]},
        {("router_settings", "model_group_alias", "n"): "left", ("router_settings", "model_group_alias", "p"): "left",
         ("router_settings", "model_group_alias", "o", "hidden"): "left"},
    ),
    "keys, and what is told": (
        f"model_list:\n{ONE}\ngeneral_settings: {{master_key: sk-1234, database_url: 'postgres://u:p@h/d', "
        "max_parallel_requests: 9, global_max_parallel_requests: 90, max_request_size_mb: 2}\n"
        "litellm_settings: {callbacks: [prometheus, otel], success_callback: langfuse, json_logs: true, cache: true}",
        {"engines": [A], "require_key": True, "state_dir": "fastgw-state", "engine_max_concurrent": 9, "max_concurrent": 90,
         "max_body_bytes": 2 << 20, "control_listen": "127.0.0.1:9090", "enable_otlp_tracing": True, "log_format": "json"},
        {("general_settings", "master_key"): "left", ("litellm_settings", "success_callback"): "left"},
    ),
    "a limit of nothing does not become none": (
        "model_list:\n- {model_name: m, litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1', timeout: 0, "
        "max_parallel_requests: 0}}\nrouter_settings: {timeout: 0, stream_timeout: 0, allowed_fails: -1, "
        "default_max_parallel_requests: 0}\ngeneral_settings: {global_max_parallel_requests: 0}",
        {"engines": [A]},
        {(*P, "timeout"): "left", (*P, "max_parallel_requests"): "left", ("router_settings", "timeout"): "left",
         ("router_settings", "allowed_fails"): "left", ("router_settings", "default_max_parallel_requests"): "left",
         ("general_settings", "global_max_parallel_requests"): "left"},
    ),
    "what tokens cost": (
        "model_list:\n- model_name: m\n  litellm_params: {model: hosted_vllm/m, api_base: 'http://a:1', "
        "input_cost_per_token: 0.0000006, temperature: 0.1}\n"
        "  model_info: {output_cost_per_token: 2.4e-06, mode: chat, id: first}",
        {"engines": [A | {"name": "first"}], "prices": [{"model": "m", "input": "0.6", "output": "2.4"}]},
        {(*P, "input_cost_per_token"): "translated", (*P, "temperature"): "left",
         ("model_list", 0, "model_info", "mode"): "translated"},
    ),
    "what is wrong is told, and the rest goes on": (
        f"model_list:\n{ONE}\n- {{model_name: 7, litellm_params: {{model: x}}}}\n- nonsense\n"
        "- {model_name: n, litellm_params: {model: openai/n, api_base: 'http://user:pw@b:1'}}\n"
        "router_settings: {num_retries: 99, cooldown_time: soon, allowed_fails: 0.5, foo: {bar: 1}, routing_strategy: cost}",
        {"engines": [A]},
        {("model_list", 1, "model_name"): "left", ("model_list", 2): "left", ("model_list", 3, "model_name"): "left",
         ("router_settings", "num_retries"): "left", ("router_settings", "cooldown_time"): "left",
         ("router_settings", "allowed_fails"): "left", ("router_settings", "foo", "bar"): "left"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_it_comes_to(name: str, tmp_path: Path) -> None:
    text, wanted, told = ROWS[name]
    source = reading.yaml(text)
    draft, report = litellm.translate(source, lambda variable: VARIABLES.get(variable, ""))
    made = tomllib.loads(draft.text())
    assert made.pop("port") == litellm.PORT
    assert made == wanted
    found = outcomes(source, report)
    assert {path: found[path] for path in told} == told
    assert report.complete == ("left" not in found.values())
    taken(draft, tmp_path)


def test_a_key_that_is_not_copied_has_its_place_beside_its_engine() -> None:
    text, _, _ = ROWS["keys come from where they came from"]
    draft, report = litellm.translate(reading.yaml(text), lambda variable: "")
    assert draft.text().rstrip().splitlines()[-1] == (
        '# api_key_env = "..."  <- its key stands in model_list[2].litellm_params.api_key: put it into a variable, and name '
        "that here"
    )
    assert "sk-live" not in draft.text() + report.text()


def test_a_key_of_one_engine_that_others_would_get_too_is_told() -> None:
    text = ONE.replace("'http://a:1'", "'http://a:1', api_key: os.environ/VLLM_API_KEY")
    _, report = litellm.translate(reading.yaml(f"model_list:\n{text}"), lambda variable: "")
    assert "goes to engines without a key of their own, too" in report.text()


def test_a_route_has_so_many_names_and_the_others_are_told() -> None:
    one = "- {{model_name: m{0}, litellm_params: {{model: openai/x, api_base: 'http://a{0}:1'}}}}\n"
    models = "".join(one.format(number) for number in range(12))
    names = {"fallbacks": [{"m0": [f"m{n}" for n in range(1, 12)]}], "model_group_alias": {f"a{n}": "m1" for n in range(70)}}
    source = reading.yaml(f"model_list:\n{models}") | {"router_settings": names}
    draft, report = litellm.translate(source, lambda variable: "")
    found = outcomes(source, report)
    first, second = tomllib.loads(draft.text())["routes"]
    assert [len(first["fallback"]), len(second["aliases"])] == [MAX_FALLBACKS, MAX_ALIASES]
    assert list(found.values()).count("left") == 11 - MAX_FALLBACKS + 70 - MAX_ALIASES


def test_included_files_are_merged_as_there() -> None:
    """Lists grow, and what else stands in both is the later one's."""
    first = {"model_list": [1], "router_settings": {"a": 1}}
    assert litellm.merged(first, {"model_list": [2], "router_settings": {"b": 1}, "x": 1}) == {
        "model_list": [1, 2], "router_settings": {"b": 1}, "x": 1,
    }  # fmt: skip


@given(st.lists(st.floats(1e-6, 1e9) | st.integers(1, 10**9), min_size=1, max_size=20))
def test_shares_stay_in_order_and_in_range(weights: list[float]) -> None:
    found = shares(weights)
    assert all(1 <= share <= 1000 for share in found)
    assert all(found[a] <= found[b] for a in range(len(found)) for b in range(len(found)) if weights[a] <= weights[b])


SECRET = "CANARY"
NAMES = st.sampled_from(["m", "m", "m", "n", "n", "o", "gpt-4o", "*", "x y", "\x7f\n", "é" * 101, ""])
SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 2000) | st.floats() | st.just(SECRET) | st.just("os.environ/KEY_A") | NAMES
)
VALUES = st.recursive(SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES, one, max_size=3), max_leaves=6)
MODELS = st.sampled_from(["m", "hosted_vllm/m", "gpt-4o", *(f"{name}/x" for name in table.PROVIDERS), "azure/m", "*"])
ODD = ("http://localhost:4000", f"http://u:{SECRET}@h", "os.environ/X")
BASES = st.sampled_from([*(f"http://{host}:1/v1" for host in "aabbcd"), *ODD])
PARAMS = ("api_key", "weight", "rpm", "tpm", "order", "max_parallel_requests", "timeout", "stream_timeout", "silent_model",
          "custom_llm_provider", *table.PRICES, *table.PARAMETERS)  # fmt: skip
DEPLOYMENTS = st.fixed_dictionaries(
    {"model_name": NAMES, "litellm_params": st.builds(
        lambda fixed, more: {**more, **fixed},
        st.fixed_dictionaries({"model": MODELS, "api_base": BASES}, optional={"input_cost_per_token": st.floats(0, 1e-3)}),
        st.dictionaries(st.sampled_from(PARAMS), VALUES, max_size=4)
        | st.fixed_dictionaries({"api_key": st.sampled_from([SECRET, "os.environ/KEY_A", f"os.environ/{SECRET} of it"])}))},
    optional={"model_info": st.dictionaries(st.sampled_from(["mode", *table.PRICES]), VALUES, max_size=2)
              | st.fixed_dictionaries({"id": NAMES})},
)  # fmt: skip
PAIR = st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=10), min_size=1, max_size=2)
PAIRS = st.lists(PAIR, min_size=1, max_size=3)


def section(rules: Any, **more: Any) -> Any:
    names = st.sampled_from([*rules, "num_retries", "timeout", "request_timeout", "master_key"])
    known = st.dictionaries(names, VALUES, max_size=5)
    return st.builds(lambda a, b: {**a, **b}, known, st.fixed_dictionaries({}, optional=more))


MODEL_LIST = st.lists(DEPLOYMENTS, min_size=2, max_size=6) | st.lists(DEPLOYMENTS | VALUES, max_size=3)
SOURCES = st.fixed_dictionaries({"model_list": MODEL_LIST}, optional={
    "router_settings": section(table.ROUTER, fallbacks=PAIRS, context_window_fallbacks=PAIRS, default_fallbacks=VALUES,
                               model_group_alias=st.dictionaries(NAMES, NAMES | VALUES, max_size=4),
                               routing_strategy=st.sampled_from(["usage-based-routing", "least-busy", "x"])),
    "litellm_settings": section(table.LIBRARY, callbacks=st.lists(st.sampled_from(["prometheus", "otel", "x"])),
                                fallbacks=PAIRS, default_fallbacks=st.lists(NAMES)),
    "general_settings": section(table.GENERAL),
    "environment_variables": VALUES,
    "include": VALUES,
    "guardrails": VALUES,
})  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(source=SOURCES)
def test_nothing_is_lost_no_secret_is_copied_and_the_file_is_taken(source: dict[str, Any], tmp_path: Path) -> None:
    """Whatever a source says: each of its entries is told of, and what is written is a configuration."""
    draft, report = litellm.translate(source, lambda variable: "http://v:1" if variable == "X" else "")
    outcomes(source, report)
    assert SECRET not in draft.text() + report.text()
    if draft.problems():  # an engine where the gateway itself listens
        assert "is where this gateway itself listens" in draft.problems()[0]
    else:
        taken(draft, tmp_path)
