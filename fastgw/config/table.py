"""The table of settings: each is written once, here, as one annotated field.

Owns: type, default and row (help, range, variables, check) of every setting, by section; flags, ``--help``,
``docs/configuration.md``, the reader of files and variables and the checks of values all come from it. Must never: say what
must hold between two settings (``check.py`` does), or read anything from outside.

Each section adds its fields to those before it: a struct has one base. Sections that fill a file of their own (``choosing``,
``paying``, ``tracing``, ``timeouts``, ``reporting``) are bases of those here; ``settings.Config`` is the last of them.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from fastgw.config import grammar
from fastgw.config.choosing import Choosing
from fastgw.config.entries import EngineConfig, RouteConfig
from fastgw.config.names import (
    ClientAuth,
    OnCapacity,
    OnCorruptState,
    OnExhausted,
    Policy,
    Profile,
    QueueOrder,
    SchedulerMode,
    TlsVersion,
    UpstreamProtocol,
)
from fastgw.config.paying import Paying
from fastgw.config.reporting import Gpus, Metrics, Reporting
from fastgw.config.row import CONNECTIONS, RESTART, Setting, row, rows_of, seconds, within
from fastgw.config.timeouts import Failures, Timeouts
from fastgw.config.tracing import Tracing

GIB: Final = 1 << 30


class Listening(Gpus, frozen=True, kw_only=True):
    """Where it listens."""

    compat: Annotated[Profile, row(
        "take the defaults, and the errors in which they differ, of another gateway", reload=RESTART,
    )] = ""
    host: Annotated[str, row(
        "the address to listen on; anything but loopback needs API keys or allow_anonymous",
        "GATEWAY_HOST", "MINISGL_GATEWAY_ADDR", check=grammar.address, reload=RESTART,
    )] = "127.0.0.1"
    port: Annotated[int, within(0, 65535,
        "the port to listen on; 0 lets the system choose a free one",
        "GATEWAY_PORT", "MINISGL_GATEWAY_ADDR", reload=RESTART,
    )] = 8080
    unix_socket: Annotated[str, row(
        "listen on a Unix socket at this path as well", check=grammar.socket_path, reload=RESTART,
    )] = ""
    workers: Annotated[int, within(1, 64,
        "so many processes serve clients, under one control process: as many as the gateway may have cores. Limits, quotas and "
        "budgets hold for all of them together (docs/workers.md); other bounds, as max_connections, hold for each",
        "GATEWAY_WORKERS", reload=RESTART,
    )] = 1
    tls_cert_file: Annotated[Sequence[str], row(
        "speak TLS at host and port by the certificate, with its chain, in this PEM file; several, each with its key at the "
        "same place of tls_key_file, are chosen by the name that a client asks for. Read again when they change, and with the "
        "settings. The Unix socket stays without",
        "TLS_CERT_FILE", check=grammar.readable, reload=RESTART,
    )] = ()
    tls_key_file: Annotated[Sequence[str], row(
        "its private key, without a passphrase; empty = it stands in the same file",
        "TLS_KEY_FILE", check=grammar.readable, reload=RESTART,
    )] = ()
    tls_min_version: Annotated[TlsVersion, row("the oldest version of TLS that is spoken", reload=RESTART)] = "1.2"
    tls_client_ca_file: Annotated[str, row(
        "ask clients for a certificate that comes from the CAs in this PEM file; empty = they are asked for none",
        check=grammar.readable_one, reload=RESTART,
    )] = ""
    tls_client_auth: Annotated[ClientAuth, row(
        "what becomes of a client that has no such certificate: required = it is refused, optional = it needs a key",
        reload=RESTART,
    )] = "required"
    tls_client_keys: Annotated[Sequence[str], row(
        "client certificates that count as keys, by their SHA-256 fingerprints (`openssl x509 -fingerprint -sha256`): who "
        "shows one needs no other key, and a request that brings a key is judged by that",
        check=grammar.fingerprints,
    )] = ()
    http2: Annotated[bool | None, row(
        "take clients that speak HTTP/2, beside those that speak HTTP/1.1: over TLS those that choose it, without those that "
        "speak it from their first byte (prior knowledge, h2c); auto = over TLS alone",
        "HTTP2", reload=RESTART,
    )] = None


class Engines(Listening, frozen=True, kw_only=True):
    """Who answers."""

    engines: Annotated[Sequence[EngineConfig], row(
        "the engines, as URLs (http://host:port[/base], https:// or unix:/path); a source that names engines replaces those of "
        "the sources before it",
        "VLLM_URL", "BACKENDS", "MINISGL_GATEWAY_WORKERS", "OLLAMA_BASE", kind="engines",
    )] = ()
    policy: Annotated[Policy, row(
        "which engine gets a request ([engines.md](engines.md)): each in its turn by weight (round_robin, also called "
        "weighted), the first in the list that answers, the one with least to do (of requests, or of tokens), any by weight, "
        "the better of any two (by what they have to do, or by the time to the first token of late), one that has what the "
        "request needs, the same for each key or session, or the one that has most of the prompt at hand",
    )] = "round_robin"
    served_model_name: Annotated[str, row(
        "the model name that GET /v1/models shows and that clients use",
        "SERVED_MODEL_NAME", "MINISGL_GATEWAY_MODEL_ID",
    )] = ""
    models_healthy_only: Annotated[bool, row("leave models out of GET /v1/models while none of their engines is well")] = False
    vllm_api_key: Annotated[str, row(
        "the key sent to each engine that has none of its own",
        "VLLM_API_KEY", check=grammar.engine_key, secret=True,
    )] = ""
    upstream_protocol: Annotated[UpstreamProtocol, row(
        "how engines are asked: h1 = HTTP/1.1, h2 = HTTP/2 without asking for it first (prior knowledge; at https:// it must "
        "agree on it by ALPN), auto = HTTP/1.1 until the engine has shown HTTP/2",
        "UPSTREAM_PROTOCOL",
    )] = "auto"
    engine_ca_file: Annotated[str, row(
        "the CAs by which engines at https:// are believed, as a PEM file; empty = those of the system",
        check=grammar.readable_one,
    )] = ""
    engine_cert_file: Annotated[str, row(
        "the certificate that is shown to engines at https:// that ask for one", check=grammar.readable_one,
    )] = ""
    engine_key_file: Annotated[str, row(
        "its private key, without a passphrase; empty = it stands in the same file", check=grammar.readable_one,
    )] = ""
    engine_verify: Annotated[bool, row(
        "check the certificates of engines at https://; without that, whoever is between can read and change everything",
    )] = True
    warm_connections: Annotated[int, within(0, 1024, "connections kept open to each engine before anyone asks")] = 1
    engine_max_connections: Annotated[int, within(1, 65535, "connections to one engine at most")] = 16384
    engine_max_idle: Annotated[int | None, within(0, 65535,
        "idle connections to one engine that are kept at the most, and no more than an eighth of the open files; one that was "
        "not needed for ten seconds goes in any case, but for the warm ones",
        auto="as many as were needed at once; 4 to llama.cpp",
    )] = None
    health_interval_s: Annotated[float, seconds("time between two health probes of an engine", low=0.05)] = 5.0
    health_timeout_s: Annotated[float, seconds("time an engine has to answer a probe", low=0.01)] = 2.0
    health_unhealthy_after: Annotated[int, within(1, 1000, "failed probes in a row that make an engine unhealthy")] = 2
    model_refresh_s: Annotated[float, seconds("time between two readings of an engine's list of models", low=0.05)] = 30.0
    retry_fresh: Annotated[bool | None, row(
        "send a request again when a new connection died before the first byte of the answer, although the engine may have "
        "begun to work; auto = only under the policy `ordered`",
    )] = None
    replay: Annotated[bool, row(
        "send a request again when an idle connection turns out to be dead, before any byte of the answer",
    )] = True
    inject_usage: Annotated[bool, row("ask engines for token usage of streams, and take the extra chunk out again")] = True
    engines_file: Annotated[str, row(
        "a file with further engines, TOML or JSON, that is read again when it changes ([engines.md](engines.md#discovery))",
    )] = ""
    discovery_interval_s: Annotated[float, seconds(
        "time between two look-ups of a name that stands for several engines, where its TTL is no shorter", low=0.05,
    )] = 30.0
    discovery_stale_s: Annotated[float, seconds(
        "time that engines of such a name stay when it is no name any more, or no server answers; 0 = as long as that lasts",
        low=0,
    )] = 3600.0
    discovery_dns: Annotated[str, row(
        "host:port of the DNS server that is asked for such names; empty = as the system does", check=grammar.name_server,
    )] = ""


class Access(Engines, frozen=True, kw_only=True):
    """Who may use it."""

    api_keys: Annotated[Sequence[str], row(
        "the keys that clients may use; only SHA-256 digests are kept (flags show in the process list: prefer api_keys_file)",
        "GATEWAY_API_KEYS", kind="keys", secret=True,
    )] = ()
    api_keys_file: Annotated[str, row("a file with one key a line, # for comments; its keys join those of api_keys")] = ""
    require_key: Annotated[bool, row(
        "refuse requests without a key although none is configured: keys come from the store (`fastgw keys`). Once the store "
        "holds a key, one is required in any case",
    )] = False
    allow_anonymous: Annotated[bool, row("without any key, listen on an address that others can reach")] = False
    trusted_proxies: Annotated[Sequence[str], row(
        "networks (CIDR) whose x-forwarded-for and x-forwarded-proto are believed",
        check=grammar.networks, reload=CONNECTIONS,
    )] = ()
    cors_origins: Annotated[Sequence[str], row(
        "origins that browsers may call from, or *; empty = no CORS headers. Where no key is asked for, a page that sends "
        "forms or opens WebSockets needs its origin here, one from the gateway's own host too",
        check=grammar.origins,
    )] = ()
    allowed_hosts: Annotated[Sequence[str], row(
        "host names, beside localhost, addresses, the machine's own name and *.local, *.internal, under which the control "
        "listener may be asked, and a gateway without keys: one on loopback always, any other once a name stands here; *.name "
        "for all below a name, * for any",
        check=grammar.hosts,
    )] = ()
    passthrough_paths: Annotated[Sequence[str], row(
        "further paths to forward, such as /v1/name or /api/name, or /v1/name/* for all below",
        check=grammar.paths,
    )] = ()
    explain_keys: Annotated[Sequence[str], row(
        "whose requests are told by `x-fastgw-explain` which engine answered and why, where they ask for it by "
        "`x-fastgw-explain: 1`: ids of keys, tenant:NAME, or * for all; empty = nobody's",
    )] = ()


class Limits(Access, frozen=True, kw_only=True):
    """How large things may be, and how many."""

    max_head_bytes: Annotated[int, within(1024, 1 << 20,
        "the longest request head; more is answered 431", reload=CONNECTIONS,
    )] = 32768
    max_header_count: Annotated[int, within(8, 10000,
        "header fields in a request; more is answered 431", reload=CONNECTIONS,
    )] = 100
    max_body_bytes: Annotated[int, within(1024, GIB, "the longest JSON body; more is answered 413")] = 10485760
    max_upload_bytes: Annotated[int, within(1024, 1024 * GIB,
        "the longest upload (audio, images); more is answered 413",
    )] = 268435456
    max_multipart_parts: Annotated[int, within(1, 1000, "parts of an uploaded form; more are answered 400")] = 128
    max_json_depth: Annotated[int, within(4, 512, "nesting of a JSON body; more is answered 400")] = 64
    max_decompression_ratio: Annotated[int, within(1, 1_000_000,
        "times its size that a compressed body may unpack to (64 KiB are free); more is answered 413",
        zero="no limit but that of the body",
    )] = 100
    max_json_members: Annotated[int, within(16, 10000,
        "members of a JSON body, and of its `stream_options`; more are answered 400",
    )] = 256
    allow_kv_transfer: Annotated[bool, row(
        "pass on what a request tells an engine of the peers that it is to fetch a prompt's cache from or send it to "
        "(kv_transfer_params, bootstrap_host, bootstrap_port, bootstrap_room); it is answered 400 otherwise",
    )] = False
    max_connections: Annotated[int, within(1, 1_000_000,
        "client connections in all; one more is answered 503. Where the limit of open files has no room for them beside "
        "connections to engines, there are fewer, and a warning at start says how many",
    )] = 16384
    max_connections_per_ip: Annotated[int | None, within(1, 1_000_000,
        "client connections from one address (IPv6: from one /64); one more is answered 503. trusted_proxies are free, and so "
        "is loopback under auto",
        zero="no limit", auto="an eighth of max_connections, 64 at least, half of them at most",
    )] = None
    memory_budget_bytes: Annotated[int | None, within(1 << 20, 1024 * GIB,
        "bytes of request bodies that may be held in all: still arriving, waiting, or at an engine that has not answered; "
        "beyond it new bodies are answered 503",
        zero="no limit", auto="a quarter of what the machine or the container has",
    )] = None


class Rates(Limits, frozen=True, kw_only=True):
    """How much, and how fast."""

    rate_limit_per_second: Annotated[int, within(1, 1_000_000,
        "requests per second from one address (IPv6: from one /64); more are answered 429",
        "RATE_LIMIT_PER_SECOND", zero="no limit",
    )] = 1000
    rate_limit_burst: Annotated[int, within(1, 1_000_000,
        "requests from one address that may come at once",
        zero="as many as in one second",
    )] = 0
    rate_limit_per_minute: Annotated[int, within(1, 1_000_000_000,
        "requests per minute with one key",
        "RATE_LIMIT_PER_MINUTE", zero="no limit",
    )] = 0
    key_burst: Annotated[int, within(1, 1_000_000_000,
        "requests with one key that may come at once",
        zero="as many as in one minute",
    )] = 0
    tokens_per_minute: Annotated[int, within(1, 10**11, "tokens per minute with one key", zero="no limit")] = 0
    daily_token_quota: Annotated[int, within(1, 10**15,
        "tokens per UTC day with one key",
        "DAILY_TOKEN_QUOTA", zero="no limit",
    )] = 0
    on_exhausted: Annotated[OnExhausted, row(
        "what a spent daily quota means: refuse = requests are answered 429; cut = live streams are ended there as well",
    )] = "refuse"
    default_cost_tokens: Annotated[int, within(1, 1_000_000,
        "tokens that an answer is expected to take where the request sets no maximum",
    )] = 256
    default_max_tokens: Annotated[int, within(1, 1_000_000,
        "tokens that an answer may have where the request sets no maximum and its key has a limit of tokens",
    )] = 4096
    prompt_bytes_per_token: Annotated[int, within(1, 8,
        "bytes of a prompt that are taken for one token; 1 is never too few where the vocabulary is one of bytes",
    )] = 4


class Capacity(Rates, frozen=True, kw_only=True):
    """How many requests at once, and what happens to the others."""

    max_concurrent: Annotated[int, within(1, 1_000_000, "requests under way at the engines in all", zero="no limit")] = 0
    key_concurrency: Annotated[int, within(1, 1_000_000, "requests under way with one key", zero="no limit")] = 0
    engine_max_concurrent: Annotated[int, within(1, 1_000_000, "requests under way at one engine", zero="no limit")] = 0
    routes: Annotated[Sequence[RouteConfig], row(
        "what holds for single models: model|max_concurrent|on_capacity|fallback,fallback|timeout_s|policy|need,need, and "
        "what else there is by its name, as aliases=a,b; separated by semicolons; in TOML one [[routes]] table each",
        kind="routes",
    )] = ()
    on_capacity: Annotated[OnCapacity, row(
        "what happens to a request that finds no room: reject = 429 at once, queue = it waits, fallback = it goes to the "
        "fallback models of its route, and waits if they have no room either",
    )] = "queue"
    queue_size: Annotated[int, within(1, 1_000_000, "requests that may wait; one more is answered 429")] = 1000
    queue_bytes: Annotated[int, within(1 << 16, 64 * GIB, "bytes of request bodies that may wait")] = 268435456
    queue_timeout_s: Annotated[float, seconds("time a request may wait; then it is answered 503")] = 30.0
    queue_order: Annotated[QueueOrder, row(
        "who of one tenant goes first: fifo, or adaptive = the newest first while waiting takes longer than queue_target_s",
    )] = "fifo"
    queue_target_s: Annotated[float, seconds("time that waiting may take before the queue counts as overloaded")] = 1.0
    scheduler: Annotated[SchedulerMode, row(
        "auto = learn from each engine's metrics, or from its time to first token, how many requests it takes at once",
    )] = "off"
    scheduler_interval_s: Annotated[float, seconds("time between two looks at the engines' metrics", low=0.05)] = 1.0
    embedding_merge_s: Annotated[float, within(0.0005, 1.0,
        "time that embedding requests wait for others to share one call to an engine",
        zero="they do not wait",
    )] = 0.0
    embedding_merge_inputs: Annotated[int, within(2, 10000, "inputs in one shared call at most")] = 64


class State(Capacity, frozen=True, kw_only=True):
    """What outlives the process, and who may change it."""

    state_dir: Annotated[str, row(
        "the folder of the key store and of daily usage; empty = both end with the process", reload=RESTART,
    )] = ""
    on_corrupt_state: Annotated[OnCorruptState, row(
        "what to do when the store is damaged: refuse to start, or set it aside and begin anew", reload=RESTART,
    )] = "refuse"
    flush_interval_s: Annotated[float, seconds("time between two writings of what was used", low=0.05)] = 1.0
    control_listen: Annotated[str, row(
        "host:port of the control listener (admin API, /metrics); empty = none",
        check=grammar.host_port, reload=RESTART,
    )] = ""
    control_tls: Annotated[bool, row(
        "speak TLS at control_listen too, by the certificates of tls_cert_file", reload=RESTART,
    )] = False
    admin_key: Annotated[str, row(
        "the key of the admin API under control_listen, 16 characters or more",
        "ADMIN_KEY", check=grammar.admin_key, secret=True,
    )] = ""
    admin_keys: Annotated[Sequence[str], row(
        "further keys of the admin API, each as name:role:key; the role is read (it may look) or write (it may change things "
        "too), the name is what logs and the audit call it",
        check=grammar.admin_keys, secret=True,
    )] = ()
    admin_keys_file: Annotated[str, row(
        "a file with one name:role:key a line, # for comments; they join those of admin_keys", check=grammar.admin_keys_file,
    )] = ""


class Runners(State, frozen=True, kw_only=True):
    """Who may dial in."""

    runner_auth_token: Annotated[str, row(
        "the token with which runners register at /ws/runners ([runners.md](runners.md)), 16 characters or more; empty = none "
        "can",
        "RUNNER_AUTH_TOKEN", check=grammar.runner_token, secret=True,
    )] = ""
    runner_allowed_networks: Annotated[Sequence[str], row(
        "networks (CIDR) in which the engines of runners may be; empty = each at the address that its runner comes from, and "
        "none on loopback",
        "RUNNER_ALLOWED_NETWORKS", check=grammar.networks,
    )] = ()
    runner_heartbeat_s: Annotated[float, seconds("silence of a runner after which it is asked how it is", low=0.1)] = 30.0
    runner_timeout_s: Annotated[float, seconds("silence of a runner after which it is gone", low=0.2)] = 90.0
    runner_command_timeout_s: Annotated[float, seconds("time that a runner has to load or unload a model")] = 300.0
    max_runners: Annotated[int, within(1, 1024, "runners at once; one more is told to come again later")] = 1000
    show_runners: Annotated[bool, row(
        "answer GET /runners on the port for clients as well, to who has the admin key",
    )] = False


_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "Listening": Listening, "Engines": Engines, "Choosing engines": Choosing, "Access": Access,
    "Limits": Limits, "Rates and quotas": Rates, "Money": Paying,
    "Capacity": Capacity, "Failures": Failures, "Timeouts": Timeouts, "State and control": State,
    "Runners": Runners, "Reporting": Reporting, "Metrics": Metrics, "GPUs": Gpus, "Traces": Tracing,
}
SECTIONS: Final = tuple(_SECTIONS)
TABLE: Final[tuple[Setting, ...]] = tuple(one for title, fields in _SECTIONS.items() for one in rows_of(fields, title))
BY_NAME: Final[dict[str, Setting]] = {one.name: one for one in TABLE}
Settings = Runners
"""All of them."""

DEFAULTS: Final[dict[str, Any]] = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
