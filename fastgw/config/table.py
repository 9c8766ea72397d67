"""The table of settings: for each one its kind, range, variables and help.

Owns: what ``--help``, ``docs/configuration.md`` and the reader of the configuration have in common. Must never: repeat
a default (it stands in ``settings.py``) or read anything from outside.
"""

from __future__ import annotations

from typing import Final

import msgspec

SECTIONS: Final = (
    "Listening",
    "Engines",
    "Access",
    "Limits",
    "Rates and quotas",
    "Capacity",
    "Failures",
    "Timeouts",
    "State and control",
    "Reporting",
    "Reserved",
)


class Setting(msgspec.Struct, frozen=True):
    """One row.

    ``kind`` is one of text, int, auto_int, float, bool, auto_bool, list, choice, keys, engines, routes. ``env`` holds the
    variables that set it beside ``FASTGW_<NAME>``, the one that wins first. ``zero`` says what 0 means where 0 is outside the
    range, ``auto`` what an auto_int is that is not set.
    ``reserved`` says what does *not* happen although the setting is accepted.
    """

    name: str
    kind: str
    help: str
    env: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    zero: str = ""
    auto: str = ""
    secret: bool = False
    reserved: str = ""
    section: str = ""

    @property
    def flag(self) -> str:
        return "--engine" if self.kind == "engines" else "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        return (f"FASTGW_{self.name.upper()}", *self.env)


PROFILES: Final = ("minisgl", "llm-stack", "rakka", "simple-ai", "openai-llm-gateway")
LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_DAY: Final = 86400.0
_GIB: Final = 1 << 30


def _rows(section: str, *rows: Setting) -> tuple[Setting, ...]:
    return tuple(msgspec.structs.replace(row, section=section) for row in rows)


def _seconds(name: str, help_: str, *env: str, zero: str = "", minimum: float = 0.001) -> Setting:
    return Setting(name, "float", help_, env, minimum=minimum, maximum=_DAY, zero=zero)


def _reserved(name: str, kind: str, help_: str, consequence: str, *env: str, secret: bool = False) -> Setting:
    maximum = {"int": 1e12, "float": _DAY}.get(kind)
    return Setting(
        name, kind, help_, env, minimum=None if maximum is None else 0, maximum=maximum, secret=secret, reserved=consequence
    )


TABLE: Final[tuple[Setting, ...]] = (
    *_rows(
        "Listening",
        Setting(
            "compat",
            "choice",
            "take the defaults, and the errors in which they differ, of another gateway",
            choices=("", *PROFILES),
        ),
        Setting(
            "host",
            "text",
            "the address to listen on; anything but loopback needs API keys or allow_anonymous",
            ("GATEWAY_HOST", "MINISGL_GATEWAY_ADDR"),
        ),
        Setting(
            "port",
            "int",
            "the port to listen on; 0 lets the system choose a free one",
            ("GATEWAY_PORT", "MINISGL_GATEWAY_ADDR"),
            minimum=0,
            maximum=65535,
        ),
        Setting("unix_socket", "text", "listen on a Unix socket at this path as well"),
    ),
    *_rows(
        "Engines",
        Setting(
            "engines",
            "engines",
            "the engines, as URLs (http://host:port[/base] or unix:/path); a source that names "
            "engines replaces those of the sources before it",
            ("VLLM_URL", "BACKENDS", "MINISGL_GATEWAY_WORKERS", "OLLAMA_BASE"),
        ),
        Setting(
            "policy",
            "choice",
            "which engine gets a request: each in turn, or the first in the list that answers",
            choices=("round_robin", "ordered"),
        ),
        Setting(
            "served_model_name",
            "text",
            "the model name that GET /v1/models shows and that clients use",
            ("SERVED_MODEL_NAME", "MINISGL_GATEWAY_MODEL_ID"),
        ),
        Setting("vllm_api_key", "text", "the key sent to each engine that has none of its own", ("VLLM_API_KEY",), secret=True),
        Setting("warm_connections", "int", "connections kept open to each engine before anyone asks", minimum=0, maximum=1024),
        Setting("engine_max_connections", "int", "connections to one engine at most", minimum=1, maximum=65535),
        Setting(
            "engine_max_idle",
            "int",
            "idle connections to one engine that are kept; an eighth of the open files at most",
            minimum=0,
            maximum=65535,
        ),
        _seconds("health_interval_s", "time between two health probes of an engine", minimum=0.05),
        _seconds("health_timeout_s", "time an engine has to answer a probe", minimum=0.01),
        Setting(
            "health_unhealthy_after", "int", "failed probes in a row that make an engine unhealthy", minimum=1, maximum=1000
        ),
        _seconds("model_refresh_s", "time between two readings of an engine's list of models", minimum=0.05),
        Setting(
            "retry_fresh",
            "auto_bool",
            "send a request again when a new connection died before the first byte of the "
            "answer, although the engine may have begun to work; auto = only under the policy `ordered`",
        ),
        Setting(
            "replay", "bool", "send a request again when an idle connection turns out to be dead, before any byte of the answer"
        ),
        Setting("inject_usage", "bool", "ask engines for token usage of streams, and take the extra chunk out again"),
    ),
    *_rows(
        "Access",
        Setting(
            "api_keys",
            "keys",
            "the keys that clients may use; only SHA-256 digests are kept (flags show in the process "
            "list: prefer api_keys_file)",
            ("GATEWAY_API_KEYS",),
            secret=True,
        ),
        Setting("api_keys_file", "text", "a file with one key a line, # for comments; its keys join those of api_keys"),
        Setting(
            "require_key",
            "bool",
            "refuse requests without a key although none is configured: keys come from the store (`fastgw keys`). Once the "
            "store holds a key, one is required in any case",
        ),
        Setting("allow_anonymous", "bool", "without any key, listen on an address that others can reach"),
        Setting("trusted_proxies", "list", "networks (CIDR) whose x-forwarded-for and x-forwarded-proto are believed"),
        Setting(
            "cors_origins",
            "list",
            "origins that browsers may call from, or *; empty = no CORS headers. Where no key is asked for, a page that sends "
            "forms or opens WebSockets needs its origin here, one from the gateway's own host too",
        ),
        Setting(
            "allowed_hosts",
            "list",
            "host names, beside localhost, addresses, the machine's own name and *.local, *.internal, under which the control "
            "listener may be asked, and a gateway without keys: one on loopback always, any other once a name stands here; "
            "*.name for all below a name, * for any",
        ),
        Setting("passthrough_paths", "list", "further paths to forward: /v1/name, or /v1/name/* for all below"),
    ),
    *_rows(
        "Limits",
        Setting("max_head_bytes", "int", "the longest request head; more is answered 431", minimum=1024, maximum=1 << 20),
        Setting("max_header_count", "int", "header fields in a request; more is answered 431", minimum=8, maximum=10000),
        Setting("max_body_bytes", "int", "the longest JSON body; more is answered 413", minimum=1024, maximum=_GIB),
        Setting(
            "max_upload_bytes",
            "int",
            "the longest upload (audio, images); more is answered 413",
            minimum=1024,
            maximum=1024 * _GIB,
        ),
        Setting("max_multipart_parts", "int", "parts of an uploaded form; more are answered 400", minimum=1, maximum=1000),
        Setting("max_json_depth", "int", "nesting of a JSON body; more is answered 400", minimum=4, maximum=512),
        Setting(
            "max_decompression_ratio",
            "int",
            "times its size that a compressed body may unpack to (64 KiB are free); more is answered 413",
            minimum=1,
            maximum=1_000_000,
            zero="no limit but that of the body",
        ),
        Setting(
            "max_json_members",
            "int",
            "members of a JSON body, and of its `stream_options`; more are answered 400",
            minimum=16,
            maximum=10000,
        ),
        Setting(
            "max_connections",
            "int",
            "client connections in all; one more is answered 503. Where the limit of open files has no room for them beside "
            "connections to engines, there are fewer, and a warning at start says how many",
            minimum=1,
            maximum=1000000,
        ),
        Setting(
            "max_connections_per_ip",
            "auto_int",
            "client connections from one address (IPv6: from one /64); one more is answered 503. trusted_proxies are free, "
            "and so is loopback under auto",
            minimum=1,
            maximum=1000000,
            zero="no limit",
            auto="an eighth of max_connections, 64 at least, half of them at most",
        ),
        Setting(
            "memory_budget_bytes",
            "auto_int",
            "bytes of request bodies that may be held in all: still arriving, waiting, or at an engine that has not answered; "
            "beyond it new bodies are answered 503",
            minimum=1 << 20,
            maximum=1024 * _GIB,
            zero="no limit",
            auto="a quarter of what the machine or the container has",
        ),
    ),
    *_rows(
        "Rates and quotas",
        Setting(
            "rate_limit_per_second",
            "int",
            "requests per second from one address (IPv6: from one /64); more are answered 429",
            ("RATE_LIMIT_PER_SECOND",),
            minimum=1,
            maximum=1_000_000,
            zero="no limit",
        ),
        Setting(
            "rate_limit_burst",
            "int",
            "requests from one address that may come at once",
            minimum=1,
            maximum=1_000_000,
            zero="as many as in one second",
        ),
        Setting(
            "rate_limit_per_minute",
            "int",
            "requests per minute with one key",
            ("RATE_LIMIT_PER_MINUTE",),
            minimum=1,
            maximum=1_000_000_000,
            zero="no limit",
        ),
        Setting(
            "key_burst",
            "int",
            "requests with one key that may come at once",
            minimum=1,
            maximum=1_000_000_000,
            zero="as many as in one minute",
        ),
        Setting("tokens_per_minute", "int", "tokens per minute with one key", minimum=1, maximum=10**11, zero="no limit"),
        Setting(
            "daily_token_quota",
            "int",
            "tokens per UTC day with one key",
            ("DAILY_TOKEN_QUOTA",),
            minimum=1,
            maximum=10**15,
            zero="no limit",
        ),
        Setting(
            "on_exhausted",
            "choice",
            "what a spent daily quota means: refuse = requests are answered 429; cut = live streams are ended there as well",
            choices=("refuse", "cut"),
        ),
        Setting(
            "default_cost_tokens",
            "int",
            "tokens that an answer is expected to take where the request sets no maximum",
            minimum=1,
            maximum=1_000_000,
        ),
        Setting(
            "default_max_tokens",
            "int",
            "tokens that an answer may have where the request sets no maximum and its key has a limit of tokens",
            minimum=1,
            maximum=1_000_000,
        ),
        Setting(
            "prompt_bytes_per_token",
            "int",
            "bytes of a prompt that are taken for one token; 1 is never too few where the vocabulary is one of bytes",
            minimum=1,
            maximum=8,
        ),
    ),
    *_rows(
        "Capacity",
        Setting(
            "max_concurrent", "int", "requests under way at the engines in all", minimum=1, maximum=1_000_000, zero="no limit"
        ),
        Setting("key_concurrency", "int", "requests under way with one key", minimum=1, maximum=1_000_000, zero="no limit"),
        Setting(
            "engine_max_concurrent", "int", "requests under way at one engine", minimum=1, maximum=1_000_000, zero="no limit"
        ),
        Setting(
            "routes",
            "routes",
            "what holds for single models: model|max_concurrent|on_capacity|fallback,fallback|timeout_s, separated by "
            "semicolons; in TOML one [[routes]] table each",
        ),
        Setting(
            "on_capacity",
            "choice",
            "what happens to a request that finds no room: reject = 429 at once, queue = it waits, fallback = it goes to the "
            "fallback models of its route, and waits if they have no room either",
            choices=("queue", "reject", "fallback"),
        ),
        Setting("queue_size", "int", "requests that may wait; one more is answered 429", minimum=1, maximum=1_000_000),
        Setting("queue_bytes", "int", "bytes of request bodies that may wait", minimum=1 << 16, maximum=64 * _GIB),
        _seconds("queue_timeout_s", "time a request may wait; then it is answered 503"),
        Setting(
            "queue_order",
            "choice",
            "who of one tenant goes first: fifo, or adaptive = the newest first while waiting takes longer than queue_target_s",
            choices=("fifo", "adaptive"),
        ),
        _seconds("queue_target_s", "time that waiting may take before the queue counts as overloaded"),
        Setting(
            "scheduler",
            "choice",
            "auto = learn from each engine's metrics, or from its time to first token, how many requests it takes at once",
            choices=("off", "auto"),
        ),
        _seconds("scheduler_interval_s", "time between two looks at the engines' metrics", minimum=0.05),
        Setting(
            "embedding_merge_s",
            "float",
            "time that embedding requests wait for others to share one call to an engine",
            minimum=0.0005,
            maximum=1.0,
            zero="they do not wait",
        ),
        Setting("embedding_merge_inputs", "int", "inputs in one shared call at most", minimum=2, maximum=10_000),
    ),
    *_rows(
        "Failures",
        Setting(
            "cb_failure_threshold",
            "int",
            "failures in a row that open an engine's circuit breaker",
            ("CB_FAILURE_THRESHOLD",),
            minimum=1,
            maximum=1_000_000,
            zero="never opens",
        ),
        _seconds("cb_recovery_timeout_s", "time until an open breaker lets one request try", "CB_RECOVERY_TIMEOUT"),
        Setting(
            "max_retries",
            "int",
            "times that a request is sent again where retrying is allowed (retry_fresh, retry_statuses)",
            minimum=0,
            maximum=10,
        ),
        Setting(
            "retry_statuses",
            "list",
            "answers of an engine after which another engine is asked (429, 500, 502, 503, 504); empty = they are passed on",
        ),
        Setting("retry_budget_percent", "int", "retries as a share of the requests of the last 10 s", minimum=0, maximum=100),
        Setting(
            "quarantine_after",
            "int",
            "engine connections that one request may break before it is answered 422 instead of being sent to another engine",
            minimum=1,
            maximum=100,
            zero="never",
        ),
    ),
    *_rows(
        "Timeouts",
        _seconds("head_timeout_s", "time from the first byte of a request to the end of its head"),
        _seconds("body_timeout_s", "silence allowed within a request body"),
        _seconds("keepalive_timeout_s", "idle time after which a client's connection is closed"),
        _seconds("write_timeout_s", "time a client may take no byte of an answer that waits for it"),
        _seconds("connect_timeout_s", "time to connect to an engine", "CONNECT_TIMEOUT_SECONDS", "MINISGL_GATEWAY_TIMEOUT_MS"),
        _seconds(
            "first_byte_timeout_s",
            "time an engine has until the first byte of its answer",
            "MINISGL_GATEWAY_TIMEOUT_MS",
            zero="no limit",
        ),
        _seconds("between_bytes_timeout_s", "silence allowed within an engine's answer", zero="no limit"),
        _seconds(
            "request_timeout_s",
            "time for a whole exchange, streams included, WebSocket sessions not",
            "REQUEST_TIMEOUT_SECONDS",
            zero="no limit",
        ),
        _seconds(
            "max_request_timeout_s",
            "the most that a client may ask for in x-request-timeout-ms",
            zero="as request_timeout_s, or a day",
        ),
        _seconds("drain_timeout_s", "time that running exchanges have to end after SIGTERM", zero="none: abort at once"),
    ),
    *_rows(
        "State and control",
        Setting("state_dir", "text", "the folder of the key store and of daily usage; empty = both end with the process"),
        Setting(
            "on_corrupt_state",
            "choice",
            "what to do when the store is damaged: refuse to start, or set it aside and begin anew",
            choices=("refuse", "set_aside"),
        ),
        _seconds("flush_interval_s", "time between two writings of what was used", minimum=0.05),
        Setting("control_listen", "text", "host:port of the control listener (admin API, /metrics); empty = none"),
        Setting(
            "admin_key",
            "text",
            "the key of the admin API under control_listen, 16 characters or more",
            ("ADMIN_KEY",),
            secret=True,
        ),
    ),
    *_rows(
        "Reporting",
        Setting("server_timing", "bool", "add a Server-Timing field that says where a request's time went"),
        Setting(
            "log_level",
            "choice",
            "what to log; of RUST_LOG, the first directive counts",
            ("LOG_LEVEL", "RUST_LOG"),
            choices=LOG_LEVELS,
        ),
        Setting(
            "log_format", "choice", "lines of JSON or of text; auto = text on a terminal", choices=("auto", "json", "text")
        ),
        Setting("access_log", "bool", "one log record for each exchange"),
        Setting(
            "log_flood_rate",
            "int",
            "log lines in a second of one kind of what gets to no engine (refusals, health, OPTIONS, requests that the client "
            "ended before), or of one event; the rest is counted, and told in one line",
            minimum=1,
            maximum=1_000_000,
            zero="all are written",
        ),
        Setting(
            "native",
            "choice",
            "use the compiled twins: 1 = or refuse to start, 0 = never, auto = if they are there",
            choices=("auto", "0", "1"),
        ),
    ),
    *_rows(
        "Reserved",
        _reserved(
            "runner_auth_token",
            "text",
            "the token with which runners register",
            "runners cannot dial in",
            "RUNNER_AUTH_TOKEN",
            secret=True,
        ),
        _reserved("enable_otlp_tracing", "bool", "send traces to otlp_endpoint", "no traces are sent", "ENABLE_OTLP_TRACING"),
        _reserved("otlp_endpoint", "text", "the collector for traces", "no traces are sent", "OTLP_ENDPOINT"),
        _reserved("gpu_exporter_port", "int", "the port of the GPU exporter", "there is no GPU exporter", "GPU_EXPORTER_PORT"),
    ),
)

BY_NAME: Final[dict[str, Setting]] = {row.name: row for row in TABLE}

# Field, kind and help of one [[engines]] entry; `url` is the only one that must be there.
ENGINE_FIELDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("url", "text", "http://host:port[/base] or unix:/path; a trailing /v1 is dropped"),
    ("name", "text", "what logs and metrics call it; from the URL when empty"),
    ("kind", "choice", "auto, openai, vllm, sglang, tgi, llamacpp or ollama: which health paths and quirks to expect"),
    ("api_key", "text", "the key sent to it; vllm_api_key when empty"),
    ("models", "list", "the models that clients reach here; asked of the engine when empty"),
    ("served_name", "text", "the model name that this engine knows, where it differs from what clients say"),
    ("weight", "int", "its share under round_robin, 1 to 1000"),
    ("health_path", "text", "the only path to probe; the kind's own ones when empty"),
    ("warm_connections", "int", "-1 = as the gateway's warm_connections"),
    ("max_connections", "int", "0 = engine_max_connections"),
    ("max_concurrent", "int", "requests under way at it at most; 0 = engine_max_concurrent"),
    ("cancel", "bool", "whether closing its connection stops a generation; turn off for engines that a cancel harms"),
)

# The same of one [[routes]] entry; `model` must be there.
ROUTE_FIELDS: Final[tuple[tuple[str, str, str], ...]] = (
    ("model", "text", "the model that clients ask for"),
    ("max_concurrent", "int", "requests for it under way at most; 0 = no limit of its own"),
    ("on_capacity", "choice", "queue, reject or fallback; the gateway's on_capacity when empty"),
    ("fallback", "list", "models to send its requests to, in this order, when it has no room"),
    ("timeout_s", "float", "time for a whole exchange; 0 = request_timeout_s"),
)

# What each profile's users find set, unless they set it otherwise.
PROFILE_DEFAULTS: Final[dict[str, dict[str, object]]] = {
    "": {},
    "minisgl": {
        "host": "127.0.0.1", "port": 3030, "policy": "ordered", "connect_timeout_s": 3.0, "first_byte_timeout_s": 3.0,
        "allow_anonymous": True,
    },
    "llm-stack": {"host": "127.0.0.1", "port": 8080},
    "rakka": {"host": "127.0.0.1", "port": 8080, "allow_anonymous": True},
    "simple-ai": {"host": "127.0.0.1", "port": 8080},
    "openai-llm-gateway": {"host": "0.0.0.0", "port": 8080, "allow_anonymous": True},  # noqa: S104 - its page promises it
}  # fmt: skip
PROFILE_ENGINES: Final[dict[str, tuple[dict[str, str], ...]]] = {
    "openai-llm-gateway": ({"url": "http://localhost:11434", "kind": "ollama"},),
}
