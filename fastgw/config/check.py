"""What must hold between settings, and the reading of keys.

Owns: the rule that an open gateway stays on loopback, lists of keys, entries that clash. What one value must be stands in its
row. Functions return pairs of setting and sentence, all there are, so that the caller can add where each was written. Must
never: raise for a mistake, or put a secret into a sentence.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from fastgw.config.address import is_loopback, parse_host, reaches
from fastgw.config.entries import EngineConfig, RouteConfig
from fastgw.config.grammar import KEY, admin_keys_in, collector
from fastgw.config.in_vain import in_vain
from fastgw.config.paying import PriceConfig, TenantConfig, clashes
from fastgw.config.row import value_problem
from fastgw.config.table import TABLE, Settings

Found = list[tuple[str, str]]

_MAX_KEY_FILE_BYTES: Final = 16 << 20
_ENTRIES: Final[dict[str, type[msgspec.Struct]]] = {
    "engines": EngineConfig, "routes": RouteConfig, "prices": PriceConfig, "tenants": TenantConfig,
}  # fmt: skip


MAX_ROUTES: Final = 1024


def _routes(routes: Sequence[RouteConfig]) -> Found:
    """A name means one thing: a model with what holds for it, another name of one, or several models."""
    if len(routes) > MAX_ROUTES:
        return [("routes", f"there are more than {MAX_ROUTES}")]
    counts = Counter(route.model for route in routes)
    found = [("routes", f"two routes are for the model {model!r}") for model in sorted(counts) if counts[model] > 1]
    virtual = {route.model for route in routes if route.models}
    aliases = Counter(alias for route in routes for alias in route.aliases)
    found += [("routes", f"the alias {alias!r} is named twice") for alias in sorted(aliases) if aliases[alias] > 1]
    both = sorted(aliases.keys() & counts)
    found += [("routes", f"the alias {alias!r} is a model with a route of its own") for alias in both]
    for route in routes:
        named = {"models": route.models, "fallback": route.fallback}
        named |= {"adapter_of": (route.adapter_of,), "mirror_to": (route.mirror_to,)}
        found += [
            ("routes", f"{name} of {route.model!r} names {model!r}, which is no model but stands for one")
            for name, models in named.items()
            for model in models
            if model in aliases or model in virtual
        ]
    return found


def _prices(settings: Settings) -> Found:
    """A price is a model's: what a request costs is what the one costs that has answered, whatever it was asked for by."""
    aliases = {alias: route.model for route in settings.routes for alias in route.aliases}
    several = {route.model: route.models for route in settings.routes if route.models}
    found: Found = []
    for one in settings.prices:
        if one.model in aliases:
            model = aliases[one.model]
            found.append(("prices", f"{one.model!r} is an alias of {model!r}, and costs what that does: name that"))
        elif one.model in several:
            message = f"{one.model!r} stands for several models, and costs what the one that answers does: name those"
            found.append(("prices", message))
    return found


def duplicate_engines(engines: Sequence[EngineConfig]) -> list[tuple[int, int, str]]:
    """Pairs of entries that clash, and how. One URL may stand twice only with different models in each entry."""
    return [
        (first, second, clash)
        for second, engine in enumerate(engines)
        for first, other in enumerate(engines[:second])
        if (clash := engines_clash(engine, other))
    ]


def engines_clash(engine: EngineConfig, other: EngineConfig) -> str:
    """How the two cannot both be there; empty = they can."""
    if engine.url == other.url and engine.rank == other.rank:
        apart = bool(engine.models and other.models and not set(engine.models) & set(other.models))
        if not apart:
            return f"the engine {engine.url} is named twice"
    if engine.name == other.name and engine.name != engine.address.label:
        return f"two engines have the name {engine.name!r}"
    return ""


def read_keys(keys: Sequence[str], path: str) -> tuple[list[str], Found, list[str]]:
    """The keys of the list and of the file, what is wrong with them, and warnings. Keys are named by position only."""
    found: Found = []
    notes: list[str] = []
    good: list[str] = []
    for index, key in enumerate(keys, 1):
        if KEY.match(key):
            good.append(key)
        else:
            found.append(("api_keys", f"key {index} must be 1 to 1024 visible ASCII characters without blanks"))
    if path:
        lines = _read_key_file(path, found, notes)
        before = len(good)
        for line_number, line in enumerate(lines, 1):
            key = line.strip()
            if not key or key.startswith("#"):
                continue
            if KEY.match(key):
                good.append(key)
            else:
                found.append(("api_keys_file", f"line {line_number} of {path} is not one key of visible ASCII without blanks"))
        if len(good) == before and not any(name == "api_keys_file" for name, _ in found):
            found.append(("api_keys_file", f"{path} holds no key"))
    return good, found, notes


def all_admin_keys(entries: Sequence[str], path: str) -> tuple[str, ...]:
    """Those of the list and of the file, where that can be read: its row says what is wrong with it."""
    try:
        return tuple(dict.fromkeys([*entries, *admin_keys_in(path)]))
    except (OSError, ValueError):
        return tuple(entries)


def _read_key_file(path: str, found: Found, notes: list[str]) -> list[str]:
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_KEY_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        found.append(("api_keys_file", f"cannot read {path}: {error.strerror}"))
        return []
    except UnicodeDecodeError:
        found.append(("api_keys_file", f"{path} is not UTF-8 text"))
        return []
    if len(data) > _MAX_KEY_FILE_BYTES:
        found.append(("api_keys_file", f"{path} is longer than {_MAX_KEY_FILE_BYTES} bytes"))
        return []
    if mode & 0o077:
        notes.append(f"api_keys_file: {path} can be read by other users (mode {mode:04o}); run chmod 600 on it")
    return text.splitlines()


def types(settings: Settings) -> Found:
    """Each setting whose value is of another type than its own, is out of its range, or is none of its words."""
    found: Found = []
    for row in TABLE:
        value = getattr(settings, row.name)
        entry = _ENTRIES.get(row.kind)
        if entry is None:
            problem = value_problem(row, value)
        else:
            listed = isinstance(value, tuple) and all(isinstance(one, entry) for one in value)
            problem = "" if listed else f"must be a list of {entry.__name__}"
        if problem:
            found.append((row.name, problem))
    return found


def problems(settings: Settings, *, keyed: bool) -> Found:
    """Everything else that is wrong with the finished settings. ``keyed``: clients' keys were given, readable or not."""
    found: Found = []
    for row in TABLE:
        if row.check is not None:
            found += [(row.name, problem) for problem in row.check(getattr(settings, row.name))]
    if not any(name == "host" for name, _ in found):
        found += _open_to_others(settings, keyed)
    found.extend(("engines", message) for _, _, message in duplicate_engines(settings.engines))
    if settings.warm_connections > settings.engine_max_connections:
        found.append(("warm_connections", "is more than engine_max_connections"))
    here = [one.url for one in settings.engines if _own(one, settings)]
    found.extend(("engines", f"{url} is where this gateway itself listens: name the engine's own address") for url in here)
    found.extend(_routes(settings.routes))
    found.extend(clashes(settings.prices, settings.tenants))
    found.extend(_prices(settings))
    found.extend(_tls(settings))
    found.extend(_discovery(settings))
    found.extend(_traces(settings))
    if settings.runner_timeout_s <= settings.runner_heartbeat_s:
        found.append(("runner_timeout_s", "must be more than runner_heartbeat_s: who is asked must have time to answer"))
    if settings.workers > 1 and settings.runner_auth_token:
        message = "must be 1 where runners dial in (runner_auth_token): a runner's connection ends in one process"
        found.append(("workers", message))
    if settings.gpu and not settings.control_listen:
        found.append(("gpu", "needs control_listen: the GPUs are among the metrics there; or run `fastgw gpu-exporter`"))
    if (settings.max_connections_per_ip or 0) > settings.max_connections:
        found.append(("max_connections_per_ip", "is more than max_connections"))
    if 0 < (settings.memory_budget_bytes or 0) * 7 // 8 < settings.max_body_bytes:
        found.append(("memory_budget_bytes", "must be 8/7 of max_body_bytes or more: a body of that size could never be taken"))
    return found


def _traces(settings: Settings) -> Found:
    if not settings.enable_otlp_tracing or settings.otel_sdk_disabled:
        return []  # who sends none may have what is another program's in the environment
    found: Found = []
    for name in ("otlp_endpoint", "otlp_traces_endpoint"):
        url = getattr(settings, name)
        if url:
            found.extend((name, problem) for problem in collector(url))
    return found


def _own(engine: EngineConfig, settings: Settings) -> bool:
    """Whether an engine is a listener of ours, as far as the settings show: the rest is found when it listens."""
    address = engine.address
    if address.unix_path:
        return address.unix_path == settings.unix_socket
    control = settings.control_listen.rpartition(":")
    for host, port in ((settings.host, str(settings.port)), (control[0], control[2])):
        if port == str(address.port) and port != "0":
            bound = parse_host(host)
            if reaches(address.host, ("127.0.0.1", "::1") if bound == "localhost" else (bound,)):
                return True
    return False


def _discovery(settings: Settings) -> Found:
    by_srv = any(one.discover == "srv" for one in settings.engines)
    by_server = settings.discovery_dns and any(one.discover for one in settings.engines)
    if not (by_srv or by_server):
        return []
    from importlib.util import find_spec  # (only who discovers so pays for it)

    if find_spec("dns") is not None:
        return []
    named, words = ("discovery_dns", "") if by_server else ("engines", "discover = srv: ")
    return [(named, f"{words}needs dnspython: pip install 'fastgw[dns]'")]


def _tls(settings: Settings) -> Found:
    found: Found = []
    certificates, keys = len(settings.tls_cert_file), len(settings.tls_key_file)
    if keys and keys != certificates:
        found.append(("tls_key_file", f"names {keys} files for {certificates} certificates: each certificate has its key"))
    if not certificates:
        found += [
            (name, "needs tls_cert_file")
            for name in ("tls_client_ca_file", "control_tls")
            if getattr(settings, name)
        ]  # fmt: skip
    if settings.tls_client_keys and not settings.tls_client_ca_file:
        found.append(("tls_client_keys", "needs tls_client_ca_file: clients are asked for no certificate"))
    if settings.engine_key_file and not settings.engine_cert_file:
        found.append(("engine_key_file", "needs engine_cert_file"))
    return found


def _tls_notes(settings: Settings) -> list[str]:
    notes = [
        f"{path} can be read by every user of this machine, and holds a private key: run chmod o-rwx on it"
        for path in dict.fromkeys(
            [*(settings.tls_key_file or settings.tls_cert_file), settings.engine_key_file or settings.engine_cert_file]
        )
        if path and _open_to_all(path) and _holds_key(path)
    ]
    return notes + [
        f"engine {engine.name}: its certificate is not checked, so whoever is between can read and change everything"
        for engine in settings.engines
        if engine.verify is False and engine.address.secure
    ]


def _open_to_all(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o007)
    except OSError:
        return False


def _open_to_others_of(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o077)
    except OSError:
        return False


def _holds_key(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"PRIVATE KEY-----" in file.read(1 << 20)
    except OSError:
        return False


def _open_to_others(settings: Settings, keyed: bool) -> Found:
    closed = keyed or settings.require_key
    if closed or settings.allow_anonymous or is_loopback(parse_host(settings.host)):
        return []
    return [(
        "allow_anonymous",
        f"no API key is set and others can reach {settings.host}, so anyone there could use the engines: set GATEWAY_API_KEYS "
        "or api_keys_file, or require_key and make keys with `fastgw keys`, or listen on 127.0.0.1, or set "
        "allow_anonymous = true if that is what you want",
    )]  # fmt: skip


def notes_on(settings: Settings, *, keyed: bool) -> list[str]:
    """A warning for each setting that does less, or shows more, than whoever set it may think."""
    notes: list[str] = []
    if (settings.admin_key or settings.admin_keys) and not settings.control_listen:
        notes.append("admin_key is set, but control_listen is not: there is no admin API")
    if settings.admin_keys_file and _open_to_others_of(settings.admin_keys_file):
        notes.append(f"admin_keys_file: {settings.admin_keys_file} can be read by other users; run chmod 600 on it")
    if settings.control_listen and not is_loopback(parse_host(settings.control_listen.rpartition(":")[0])):
        notes.append("control_listen can be reached by others: /metrics there asks for no key")
    if settings.metrics_public and not is_loopback(parse_host(settings.host)):
        notes.append("metrics_public: whoever reaches the port sees the names of engines and models, and what they have to do")
    if settings.show_runners and not (settings.admin_key or settings.admin_keys):
        notes.append("show_runners is set, but admin_key is not: nobody can ask for /runners")
    if "*" in settings.cors_origins and not (keyed or settings.require_key):
        notes.append("cors_origins is *: where no key is asked for, every web page may use the gateway")
    if settings.control_listen and not settings.state_dir and settings.admin_key:
        notes.append("the admin API can make no keys: state_dir is not set")
    if settings.enable_otlp_tracing and settings.otel_sdk_disabled:
        notes.append("enable_otlp_tracing is set, and so is otel_sdk_disabled: no traces are sent")
    elif settings.trace_contents and settings.enable_otlp_tracing:
        notes.append("trace_contents is set: prompts and answers go to the collector")
    return [*notes, *_tls_notes(settings), *in_vain(settings)]
