"""LiteLLM's proxy: what its entries come to here, a row each, and the providers that its models name.

Read from its documentation ("All settings" of the proxy). What needs a look at several entries is in ``litellm.py``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fastgw.importing.rules import Case, Cases, Differs, Instead, Needless, Rules, Sets, number, whole

STATUSES: Final = ["429", "500", "502", "503", "504"]


class Provider(NamedTuple):
    """``kind``: of the engine. ``base``, ``variable``: where it is, and which variable has its key, where nothing is said."""

    kind: str
    base: str = ""
    variable: str = ""


# What stands before the slash of `model`. Whoever is not here has an API of his own, and fastgw translates none.
PROVIDERS: Final[dict[str, Provider]] = {
    "openai": Provider("openai", "https://api.openai.com", "OPENAI_API_KEY"),
    "text-completion-openai": Provider("openai", "https://api.openai.com", "OPENAI_API_KEY"),
    "custom_openai": Provider("openai"),
    "openai_like": Provider("openai"),
    "litellm_proxy": Provider("openai"),
    "xinference": Provider("openai"),
    "infinity": Provider("openai"),
    "docker_model_runner": Provider("openai"),
    "lemonade": Provider("openai"),
    "hosted_vllm": Provider("vllm"),
    "vllm": Provider("vllm"),
    "sglang": Provider("sglang"),
    "huggingface": Provider("tgi"),
    "llamafile": Provider("llamacpp", "http://127.0.0.1:8080"),
    "lm_studio": Provider("lmstudio", "http://127.0.0.1:1234"),
    "ollama": Provider("ollama", "http://localhost:11434"),
    "ollama_chat": Provider("ollama", "http://localhost:11434"),
}

OWN_PATHS: Final = frozenset({"ollama", "tgi"})
"""Kinds for which, there too, it is not the address that ends with the API's version."""
# Whose a model is that names nobody: LiteLLM looks it up in a list. What is not OpenAI's there is somebody else's, or an error.
OPENAIS: Final = re.compile(
    r"(ft:)?(gpt-|chatgpt-|o[1-9](-|$)|codex-|computer-use-|text-embedding-|text-moderation-|omni-moderation|dall-e-|whisper-1|"
    r"tts-1|sora-|babbage-|davinci-)"
)
NO_PREFIX: Final = (
    "it does not say whose the model is, and its name is none of OpenAI's: write openai/ before it, if this engine has its API"
)
# Variables that LiteLLM takes an address from, where an entry has none.
BASES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("openai", "text-completion-openai"), ("OPENAI_BASE_URL", "OPENAI_API_BASE")),
    **dict.fromkeys(("ollama", "ollama_chat"), ("OLLAMA_API_BASE",)),
    **{
        name: (f"{name.upper()}_API_BASE",) for name in ("hosted_vllm", "lm_studio", "llamafile", "litellm_proxy", "xinference")
    },
}
ELSEWHERE: Final = (
    "its address may be that of another entry (credential_list, litellm_settings, default_litellm_params): write api_base into "
    "its litellm_params, and run this again"
)
SHARELESS: Final = ("least-busy", "latency-based-routing", "cost-based-routing")
NO_SHARE: Final = "no share, for the routing_strategy does not look at it there"
ENFORCED: Final = "enforce_model_rate_limits"

RETRIED: Final = (
    "the next try goes to another engine, before anything of an answer has gone down, and retries are retry_budget_percent "
    "(10) of the requests at the most"
)
FIRST_BYTE: Final = (
    "it bounds the time to the first byte of an answer, which of one that is no stream is all of it; request_timeout_s would "
    "bound streams too"
)
SILENCE: Final = "it bounds each silence in an answer, and in a stream the one before its first event"
_ONE_PROCESS: Final = "limits are counted in one process: leave it out, or divide the limits among the gateways"
_KEYS: Final = "give keys their limits by `fastgw keys create` or `fastgw keys update` (docs/keys.md)"
NO_CALLBACK: Final = "what it needs may be in traces, which go to any OpenTelemetry collector, or in the access log"
_NO_CACHE: Final = (
    'fastgw keeps no answers; engines keep prompts, and policy = "prefix_aware" sends requests to where theirs is'
)
OF_REQUESTS: Final = "fastgw passes parameters on as they are, and adds none: clients say them"
_POLICIES: Final = "a deployment's own share or load decides here: see policy in docs/engines.md"
_DATABASE: Final = "keys and usage are in state_dir here, and there is no other database"
_LOGS: Final = "requests are in the access log and in GET /v1/usage; nothing of what they say is kept"
_PROOF: Final = "clients show a key, or a certificate (docs/tls.md): whoever else decides has to stand in front"
_ADMIN: Final = "the admin API and the live page are at control_listen, for who has an admin key (docs/admin.md)"
_ALERTS: Final = "alerts come from Prometheus (docs/monitoring.md), and of budgets by budget_webhook_url"

ROUTER: Final[Rules] = {
    "routing_strategy": Cases(
        {
            "simple-shuffle": Case({"policy": "random"}),
            "least-busy": Case({"policy": "least_loaded"}),
            "latency-based-routing": Case(
                {"policy": "ewma_latency"}, "of two engines that are drawn, the one that will be the first to answer"
            ),
            "usage-based-routing": Case({"policy": "token_load"}, "by the tokens under way, not by those of the last minute"),
            "usage-based-routing-v2": Case(
                {"policy": "token_load"}, "by the tokens under way, not by those of the last minute"
            ),
        },
        f"fastgw has no such strategy; {_POLICIES}",
    ),
    "routing_strategy_args": Instead(f"its arguments belong to LiteLLM's strategies; {_POLICIES}"),
    "disable_cooldowns": Cases({True: Case({"cb_failure_threshold": 0}), False: Case({})}),
    "allowed_fails": Sets(
        "cb_failure_threshold",
        lambda value: whole(value) + 1,
        "so many failures in a row, where LiteLLM counts those of a minute",
    ),
    "cooldown_time": Sets(
        "cb_recovery_timeout_s", number, "then one request tries, and a good health probe lets one try before"
    ),
    "default_max_parallel_requests": Sets(
        "engine_max_concurrent", whole, "one more waits in the queue (on_capacity), where LiteLLM refuses it"
    ),
    "retry_policy": Instead("max_retries and retry_statuses hold for all of a gateway's requests"),
    "model_group_retry_policy": Instead("max_retries and retry_statuses hold for all of a gateway's requests"),
    "retry_after": Instead("pauses between tries are up to 25 ms, doubled each time up to a second"),
    "allowed_fails_policy": Instead('what counts as a failure is fixed: docs/limits.md, "When engines fail"'),
    "enable_pre_call_checks": Cases(
        {False: Case({})}, 'policy = "capability" sends a prompt only to engines whose context it fits, as they tell it'
    ),
    "optional_pre_call_checks": Instead("see the policies session and prefix_aware in docs/engines.md"),
    "enable_tag_filtering": Cases(
        {False: Case({})}, 'give engines features, and requests what they need (policy = "capability"), or a tenant its engines'
    ),
    "tag_filtering_match_any": Instead("a request needs all words that it names"),
    "content_policy_fallbacks": Instead("fallback_on knows failures and prompts that are too long"),
    "max_fallbacks": Instead("all models of a route's fallback are asked, each once"),
    "default_litellm_params": Instead(OF_REQUESTS),
    "default_priority": Instead("a key has a priority: fastgw keys update KEY --priority low"),
    "debug_level": Cases({"INFO": Case({"log_level": "info"}), "DEBUG": Case({"log_level": "debug"})}),
    "set_verbose": Cases({True: Case({"log_level": "debug"}), False: Case({})}),
    "cache_responses": Cases({False: Case({})}, _NO_CACHE),
    "caching_groups": Instead(_NO_CACHE),
    "client_ttl": Needless("connections to engines are kept as long as they are needed"),
    "redis_host": Instead(_ONE_PROCESS),
    "redis_port": Instead(_ONE_PROCESS),
    "redis_password": Instead(_ONE_PROCESS),
    "redis_url": Instead(_ONE_PROCESS),
    "redis_db": Instead(_ONE_PROCESS),
    "cache_kwargs": Instead(_ONE_PROCESS),
}

# Where both sections have one, the router's goes before the library's, as there.
_OF_BOTH: Final = ("set_verbose", "allowed_fails", "content_policy_fallbacks")

LIBRARY: Final[Rules] = {
    **{name: ROUTER[name] for name in _OF_BOTH},
    "drop_params": Cases(
        {False: Case({})},
        "parameters are passed on as they are: an engine's answer to one that it does not know goes to the client",
    ),
    "modify_params": Cases({False: Case({})}, OF_REQUESTS),
    "additional_drop_params": Instead(OF_REQUESTS),
    "cache": Cases({False: Case({})}, _NO_CACHE),
    "cache_params": Instead(_NO_CACHE),
    "enable_json_schema_validation": Cases({False: Case({})}, "engines hold answers to a schema, and fastgw passes them on"),
    "turn_off_message_logging": Cases(
        {True: Case({})}, "nothing of what requests say is logged; trace_contents puts it into traces"
    ),
    "redact_messages_in_exceptions": Needless("nothing of what requests say is logged"),
    "redact_user_api_key_info": Needless("logs show the id of a key, never the key"),
    "json_logs": Cases({True: Case({"log_format": "json"}), False: Case({"log_format": "text"})}),
    "ssl_verify": Cases(
        {True: Case({}), False: Case({"engine_verify": False})}, "name the file of CAs in engine_ca_file, where it can be read"
    ),
    "ssl_certificate": Instead("name its file in engine_cert_file, and its key's in engine_key_file"),
    "force_ipv4": Cases({False: Case({})}, "write the engine's address in the place of its name"),
    "max_budget": Instead("there are budgets of keys and tenants: key_budget, [[tenants]]"),
    "budget_duration": Instead("budget_period is day, week or month"),
    "default_internal_user_params": Instead(_KEYS),
    "default_team_params": Instead(_KEYS),
    "default_team_settings": Instead(_KEYS),
    "default_key_generate_params": Instead(_KEYS),
    "upperbound_key_generate_params": Instead(_KEYS),
    "key_generation_settings": Instead(_KEYS),
    "enable_key_alias_format_validation": Needless("names of keys have at most 128 characters"),
    "max_internal_user_budget": Instead(_KEYS),
    "internal_user_budget_duration": Instead(_KEYS),
    "max_user_budget": Instead(_KEYS),
    "langfuse_default_tags": Instead(NO_CALLBACK),
    "guardrails": Instead("fastgw looks at no prompt and no answer: put what does in front of it"),
    "mcp_aliases": Instead("fastgw has no MCP"),
    "disable_end_user_cost_tracking": Needless("no cost of end users is counted, but of keys, tenants and models"),
    "disable_end_user_cost_tracking_prometheus_only": Needless(
        "metrics_by says whether keys or tenants have series; by itself none"
    ),
    "telemetry": Needless("fastgw sends none"),
    "public_model_groups": Instead("GET /v1/models shows a key the models that it may use"),
}

GENERAL: Final[Rules] = {
    "database_url": Instead(f"{_DATABASE}. LiteLLM's keys stay there: make new ones by `fastgw keys create`"),
    "database_connection_pool_limit": Needless(_DATABASE),
    "database_connection_timeout": Needless(_DATABASE),
    "allow_requests_on_db_unavailable": Cases(
        {False: Case({})}, "keys are in memory, so that a store that fails refuses nobody it knew"
    ),
    "disable_prisma_schema_update": Needless(_DATABASE),
    "store_model_in_db": Cases(
        {False: Case({})}, "engines that come by the admin API are there until a restart: engines_file keeps them"
    ),
    "max_parallel_requests": Sets(
        "engine_max_concurrent", whole, "one more waits in the queue (on_capacity), where LiteLLM refuses it"
    ),
    "global_max_parallel_requests": Sets(
        "max_concurrent", whole, "one more waits in the queue (on_capacity), where LiteLLM refuses it"
    ),
    "max_request_size_mb": Sets("max_body_bytes", lambda value: int(number(value) * (1 << 20))),
    "max_response_size_mb": Instead("an answer may be as long as its engine makes it; max_tokens of the request bounds it"),
    "background_health_checks": Differs(
        "engines are always probed: their health path, every health_interval_s, which makes no tokens"
    ),
    "health_check_interval": Differs("engines are probed every health_interval_s (5), which makes no tokens"),
    "health_check_details": Needless("health tells how engines are, and nothing else"),
    "alerting": Instead(_ALERTS),
    "alerting_threshold": Instead(_ALERTS),
    "alerting_args": Instead(_ALERTS),
    "alert_types": Instead(_ALERTS),
    "alert_to_webhook_url": Instead(_ALERTS),
    "spend_report_frequency": Instead("GET /admin/usage tells who used what (docs/keys.md)"),
    "disable_spend_logs": Cases({True: Case({})}, _LOGS),
    "disable_spend_updates": Instead(_LOGS),
    "store_prompts_in_spend_logs": Cases({False: Case({})}, _LOGS),
    "maximum_spend_logs_retention_period": Instead(_LOGS),
    "maximum_spend_logs_retention_interval": Instead(_LOGS),
    "proxy_batch_write_at": Differs("usage is written every flush_interval_s (1)"),
    "use_x_forwarded_for": Cases(
        {False: Case({})}, "name the networks of your proxies in trusted_proxies: only these are believed"
    ),
    "allowed_ips": Instead("give keys their networks: fastgw keys update KEY --networks 10.0.0.0/8"),
    "allowed_routes": Instead("give keys their models; which paths there are is fixed, but for passthrough_paths"),
    "public_routes": Instead("health needs no key, all else does"),
    "admin_only_routes": Instead(_ADMIN),
    "pass_through_endpoints": Instead("passthrough_paths names further paths of engines that are passed on"),
    "custom_auth": Instead(_PROOF),
    "custom_sso": Instead(_PROOF),
    "enable_jwt_auth": Cases({False: Case({})}, _PROOF),
    "litellm_jwtauth": Instead(_PROOF),
    "enable_oauth2_auth": Cases({False: Case({})}, _PROOF),
    "enable_oauth2_proxy_auth": Cases({False: Case({})}, _PROOF),
    "oauth2_config_mappings": Instead(_PROOF),
    "custom_key_generate": Instead(_KEYS),
    "key_management_system": Instead("variables hold keys of engines: have your system set them"),
    "key_management_settings": Instead("variables hold keys of engines: have your system set them"),
    "litellm_key_header_name": Instead("clients show keys as `Authorization: Bearer`, or as those of Anthropic do"),
    "forward_client_headers_to_llm_api": Instead("what of a request goes on is fixed (docs/behaviour.md)"),
    "completion_model": Instead("a request names its model, or there is one only"),
    "embedding_model": Instead("a request names its model, or there is one only"),
    "image_generation_model": Instead("a request names its model, or there is one only"),
    "enforce_user_param": Cases({False: Case({})}, "the key tells who asks"),
    "ui_access_mode": Instead(_ADMIN),
    "disable_master_key_return": Needless("no key is ever shown again"),
    "infer_model_from_keys": Cases({False: Case({})}, "engines are named, each with its models"),
    "user_api_key_cache_ttl": Needless("keys are in memory, and follow each change within a second"),
}

# Of a deployment: what stands in its `litellm_params` or `model_info` and is looked at by nothing else.
PARAMETERS: Final[dict[str, str]] = {
    "max_retries": "max_retries holds for all engines",
    "num_retries": "max_retries holds for all engines",
    "cooldown_time": "cb_recovery_timeout_s holds for all engines",
    "api_version": "it is Azure's",
    "organization": "fastgw adds no fields to requests: a client may send OpenAI-Organization",
    "extra_headers": "fastgw adds no fields to requests: a proxy before the engine can",
    "headers": "fastgw adds no fields to requests: a proxy before the engine can",
    "tags": 'give the engine features, and requests what they need (policy = "capability")',
    "max_budget": "budgets are of keys and tenants: key_budget, [[tenants]]",
    "budget_duration": "budgets are of keys and tenants: key_budget, [[tenants]]",
    "mock_response": "`fastgw sim` is an engine that answers without a model",
    "litellm_credential_name": "name the variable of its key in api_key_env",
    "ssl_verify": "set verify or ca_file of this engine",
    "use_in_pass_through": "see passthrough_paths",
}
# Of `model_info`: what nobody has to be told.
KNOWN_BY_ENGINES: Final = frozenset({
    "mode", "base_model", "max_tokens", "max_input_tokens", "max_output_tokens", "supports_vision", "supports_function_calling",
    "supports_parallel_function_calling", "supports_response_schema", "supports_system_messages", "supports_tool_choice",
    "supports_prompt_caching", "supports_audio_input", "supports_audio_output", "db_model", "health_check_model",
    "litellm_provider",
})  # fmt: skip
PRICES: Final = {
    "input_cost_per_token": "input", "output_cost_per_token": "output", "cache_read_input_token_cost": "cached",
}  # fmt: skip
