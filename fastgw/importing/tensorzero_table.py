"""TensorZero: what its entries come to here, a row each, and the types of its providers.

Read from its "Configuration Reference". What needs a look at several entries is in ``tensorzero.py``.
"""

from __future__ import annotations

from typing import Final

from fastgw.importing.litellm_table import Provider
from fastgw.importing.rules import Case, Cases, Instead, Needless, Rules, Sets, milliseconds

PROVIDERS: Final[dict[str, Provider]] = {
    "openai": Provider("openai", "https://api.openai.com", "OPENAI_API_KEY"),
    "vllm": Provider("vllm", variable="VLLM_API_KEY"),
    "sglang": Provider("sglang", variable="SGLANG_API_KEY"),
    "tgi": Provider("tgi", variable="TGI_API_KEY"),
}

RETRIED: Final = (
    "before anything of an answer has gone down, and retries are retry_budget_percent (10) of the requests at the most"
)
_NOTHING_KEPT: Final = "fastgw keeps nothing of what requests say: there are the access log, usage, and traces (docs/traces.md)"
_NO_DATABASE: Final = "fastgw has no database beside state_dir"
_TEMPLATES: Final = "prompts are the client's here"
_SAID_BY_CLIENTS: Final = "fastgw passes parameters on as they are, and adds none: clients say them"

GATEWAY: Final[Rules] = {
    "auth.cache": Needless("keys are in memory, and follow each change within a second"),
    "debug": Cases({True: Case({"log_level": "debug"}, "it shows nothing of what requests say"), False: Case({})}),
    "base_path": Cases({"/": Case({})}, "paths begin with /v1: a proxy before it can take a prefix away"),
    "disable_pseudonymous_usage_analytics": Needless("fastgw sends none"),
    "export.otlp.traces.enabled": Cases(
        {
            True: Case(
                {"enable_otlp_tracing": True}, "needs the extra `otel`, and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT as there"
            ),
            False: Case({}),
        }
    ),
    "export.otlp.traces.format": Cases(
        {"opentelemetry": Case({})}, "spans have OpenTelemetry's names for generative AI (docs/traces.md)"
    ),
    "export.otlp.traces.extra_headers": Instead("put them into the variable OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
    "fetch_and_encode_input_files_before_inference": Cases(
        {False: Case({})}, "what requests name is fetched by engines, or nobody"
    ),
    "global_outbound_http_timeout_ms": Sets(
        "request_timeout_s", milliseconds, "of a whole exchange: the wait for an engine and all tries are in it"
    ),
    "metrics": Instead("buckets are fixed; gateway_added_seconds and others are in docs/metrics.md"),
    "observability.enabled": Cases({False: Case({})}, _NOTHING_KEPT),
    "observability": Instead(_NOTHING_KEPT),
    "template_filesystem_access": Instead(_TEMPLATES),
    "cache": Instead(
        'fastgw keeps no answers; engines keep prompts, and policy = "prefix_aware" sends requests to where theirs is'
    ),
    "relay": Instead('write the other gateway as an [[engines]] with its url and kind = "openai"'),
}

SECTIONS: Final[Rules] = {
    "clickhouse": Instead(_NOTHING_KEPT),
    "postgres": Instead(_NO_DATABASE),
    "object_storage": Instead(_NOTHING_KEPT),
    "metrics": Instead("fastgw takes no feedback"),
    "evaluations": Instead("fastgw evaluates nothing; `fastgw bench` measures how answers come"),
    "tools": Instead("tools are the client's here"),
    "optimizers": Instead("fastgw trains nothing"),
    "autopilot": Instead("fastgw trains nothing"),
    "rate_limiting.default_cost": Instead('the price of the longest answer is reserved (docs/limits.md, "Money")'),
}

# Of a model, and of a provider.
OF_A_MODEL: Final[dict[str, str]] = {"skip_relay": "there is no relay"}
OF_A_PROVIDER: Final[dict[str, str]] = {
    "batch_cost": "fastgw has no batch inference",
    "extra_body": _SAID_BY_CLIENTS,
    "extra_headers": "fastgw adds no fields to requests: a proxy before the engine can",
    "discard_unknown_chunks": "events go on as they are",
    "api_type": "the request's own path says which API it is for",
    "include_encrypted_reasoning": _SAID_BY_CLIENTS,
    "provider_tools": "tools are the client's here",
}
# Of a variant: what there is beside a model makes a prompt, and nothing here does that.
PLAIN_VARIANT: Final = frozenset({"type", "model", "weight", "active", "retries", "timeouts"})
PLAIN_FUNCTION: Final = frozenset({"type", "variants", "description"})

POINTERS: Final = {"/usage/prompt_tokens": "input", "/usage/completion_tokens": "output"}
CACHED: Final = "/usage/prompt_tokens_details/cached_tokens"

# A limit of each key: the setting, and how many minutes (or which period) it is of.
LIMITS: Final[dict[str, tuple[str, int | str]]] = {
    "model_inferences_per_second": ("rate_limit_per_minute", 60),
    "model_inferences_per_minute": ("rate_limit_per_minute", 1),
    "tokens_per_minute": ("tokens_per_minute", 1),
    "tokens_per_day": ("daily_token_quota", 1),
    "cost_per_day": ("key_budget", "day"),
    "cost_per_week": ("key_budget", "week"),
    "cost_per_month": ("key_budget", "month"),
}
NO_LIMIT: Final = "limits of each key are of a minute, tokens of a day too, and money of a day, a week or a month"
NO_SCOPE: Final = (
    'limits hold for each key (a rule whose scope is api_key_public_id = "tensorzero::each"), for the keys of a tenant '
    "([[tenants]]) and for a model ([[routes]])"
)
