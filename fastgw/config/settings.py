"""The settings themselves: what each one is called, its type and its default.

Owns: :class:`Config` and :class:`EngineConfig`, frozen once made. Help, ranges and variable names stand beside, in
``table.py``; a test keeps the two equal. Invariants: a ``Config`` that exists is valid, its keys are digests, and no
``repr`` shows a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec.structs import force_setattr, replace

from fastgw.config.address import EngineAddress, parse_engine_url, parse_host
from fastgw.config.problems import ConfigError, ConfigErrors

ENGINE_KINDS: Final = ("auto", "openai", "vllm", "sglang", "tgi", "llamacpp", "ollama")
_SECRETS: Final = frozenset({"api_key", "api_keys", "api_key_digests", "vllm_api_key", "admin_key", "runner_auth_token"})


def _show(record: msgspec.Struct) -> str:
    """``repr`` with what differs from the defaults, secrets only as the fact that they are set."""
    parts = []
    names = type(record).__struct_fields__
    defaults = type(record).__struct_defaults__
    required = len(names) - len(defaults)
    for index, name in enumerate(names):
        value = getattr(record, name)
        if index >= required and value == defaults[index - required]:
            continue
        if name in _SECRETS:
            parts.append(f"{name}=<{len(value)} set>" if isinstance(value, tuple) else f"{name}=<set>")
        else:
            parts.append(f"{name}={value!r}")
    return f"{type(record).__name__}({', '.join(parts)})"


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine. Raises :class:`ConfigErrors` when a field is out of its range."""

    url: str
    name: str = ""
    kind: str = "auto"
    api_key: str = ""
    models: Sequence[str] = ()
    served_name: str = ""
    weight: int = 1
    health_path: str = ""
    warm_connections: int = -1
    max_connections: int = 0
    max_concurrent: int = 0
    cancel: bool = True

    def __post_init__(self) -> None:
        from fastgw.config.check import engine_problems

        if not isinstance(self.models, str):
            force_setattr(self, "models", tuple(self.models))
        found = engine_problems(self)
        if found:
            raise ConfigErrors(ConfigError("EngineConfig", name, message) for name, message in found)
        address = parse_engine_url(self.url)
        force_setattr(self, "url", address.url)
        if not self.name:
            force_setattr(self, "name", address.label)

    @property
    def address(self) -> EngineAddress:
        return parse_engine_url(self.url)

    def __repr__(self) -> str:
        return _show(self)

    def __rich_repr__(self) -> Any:
        yield _show(self)


class RouteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for one model. Raises :class:`ConfigErrors` when a field is out of its range."""

    model: str
    max_concurrent: int = 0
    on_capacity: str = ""
    fallback: Sequence[str] = ()
    timeout_s: float = 0.0

    def __post_init__(self) -> None:
        from fastgw.config.check import route_problems

        if not isinstance(self.fallback, str):
            force_setattr(self, "fallback", tuple(self.fallback))
        found = route_problems(self)
        if found:
            raise ConfigErrors(ConfigError("RouteConfig", name, message) for name, message in found)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the gateway can be told. Raises :class:`ConfigErrors` when it cannot hold together.

    ``api_keys`` is only an entrance: the keys are hashed into ``api_key_digests`` and dropped. Each engine comes out
    with what it inherits filled in: ``vllm_api_key``, ``warm_connections``, ``engine_max_connections``.
    """

    # where it listens
    compat: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    unix_socket: str = ""
    # engines
    engines: Sequence[EngineConfig] = ()
    policy: str = "round_robin"
    served_model_name: str = ""
    vllm_api_key: str = ""
    warm_connections: int = 1
    engine_max_connections: int = 16384
    engine_max_idle: int = 1024
    health_interval_s: float = 5.0
    health_timeout_s: float = 2.0
    health_unhealthy_after: int = 2
    model_refresh_s: float = 30.0
    retry_fresh: bool | None = None
    replay: bool = True
    inject_usage: bool = True
    # who may use it
    api_keys: Sequence[str] = ()
    api_keys_file: str = ""
    api_key_digests: Sequence[bytes] = ()
    require_key: bool = False
    allow_anonymous: bool = False
    trusted_proxies: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()
    passthrough_paths: Sequence[str] = ()
    # limits
    max_head_bytes: int = 32768
    max_header_count: int = 100
    max_body_bytes: int = 10485760
    max_upload_bytes: int = 268435456
    max_multipart_parts: int = 128
    max_json_depth: int = 64
    max_json_members: int = 256
    max_decompression_ratio: int = 100
    max_connections: int = 16384
    max_connections_per_ip: int | None = None
    memory_budget_bytes: int | None = None
    # rates and quotas
    rate_limit_per_second: int = 1000
    rate_limit_burst: int = 0
    rate_limit_per_minute: int = 0
    key_burst: int = 0
    tokens_per_minute: int = 0
    daily_token_quota: int = 0
    on_exhausted: str = "refuse"
    default_cost_tokens: int = 256
    default_max_tokens: int = 4096
    prompt_bytes_per_token: int = 4
    # capacity
    max_concurrent: int = 0
    key_concurrency: int = 0
    engine_max_concurrent: int = 0
    routes: Sequence[RouteConfig] = ()
    on_capacity: str = "queue"
    queue_size: int = 1000
    queue_bytes: int = 268435456
    queue_timeout_s: float = 30.0
    queue_order: str = "fifo"
    queue_target_s: float = 1.0
    scheduler: str = "off"
    scheduler_interval_s: float = 1.0
    embedding_merge_s: float = 0.0
    embedding_merge_inputs: int = 64
    # failures
    cb_failure_threshold: int = 5
    cb_recovery_timeout_s: float = 30.0
    max_retries: int = 1
    retry_statuses: Sequence[str] = ()
    retry_budget_percent: int = 10
    quarantine_after: int = 2
    # timeouts
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keepalive_timeout_s: float = 75.0
    write_timeout_s: float = 60.0
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 600.0
    between_bytes_timeout_s: float = 300.0
    request_timeout_s: float = 0.0
    max_request_timeout_s: float = 0.0
    drain_timeout_s: float = 30.0
    # state and control
    state_dir: str = ""
    on_corrupt_state: str = "refuse"
    flush_interval_s: float = 1.0
    control_listen: str = ""
    admin_key: str = ""
    # what it tells
    server_timing: bool = False
    log_level: str = "info"
    log_format: str = "auto"
    access_log: bool = True
    log_flood_rate: int = 100
    native: str = "auto"
    # understood, without effect yet
    runner_auth_token: str = ""
    enable_otlp_tracing: bool = False
    otlp_endpoint: str = ""
    gpu_exporter_port: int = 0
    # what the reader of the configuration wants the operator to know
    warnings: Sequence[str] = ()

    def __post_init__(self) -> None:
        from fastgw.config import check

        for name in (
            "engines", "routes", "trusted_proxies", "cors_origins", "allowed_hosts", "passthrough_paths", "retry_statuses",
            "warnings", "api_key_digests",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, str):
                force_setattr(self, name, tuple(value))
        keys, found, notes = check.read_keys(self.api_keys, self.api_keys_file)
        # The raw keys leave before anything below can fail and show them in a traceback.
        force_setattr(self, "api_keys", ())
        digests = dict.fromkeys([*self.api_key_digests, *(sha256(key.encode()).digest() for key in keys)])
        force_setattr(self, "api_key_digests", tuple(digests))
        found += check.problems(self, keys_failed=bool(found))
        if found:
            raise ConfigErrors(ConfigError("Config", name, message) for name, message in found)
        force_setattr(self, "host", parse_host(self.host))
        force_setattr(self, "engines", _inherit(self))
        notes += check.reserved_notes(self)
        force_setattr(self, "warnings", tuple(dict.fromkeys([*self.warnings, *notes])))

    def __repr__(self) -> str:
        return _show(self)

    def __rich_repr__(self) -> Any:
        yield _show(self)


DEFAULTS: Final[dict[str, Any]] = dict(zip(Config.__struct_fields__, Config.__struct_defaults__, strict=True))


def _inherit(config: Config) -> tuple[EngineConfig, ...]:
    """The engines with what they leave open filled in, and names that no two of them share."""
    taken: set[str] = {engine.name for engine in config.engines if engine.name != engine.address.label}
    engines = []
    for engine in config.engines:
        name, number = engine.name, 1
        if name == engine.address.label:
            while name in taken:
                number += 1
                name = f"{engine.name}#{number}"
            taken.add(name)
        engines.append(
            replace(
                engine,
                name=name,
                api_key=engine.api_key or config.vllm_api_key,
                warm_connections=config.warm_connections if engine.warm_connections < 0 else engine.warm_connections,
                max_connections=engine.max_connections or config.engine_max_connections,
                max_concurrent=engine.max_concurrent or config.engine_max_concurrent,
            )
        )
    return tuple(engines)
