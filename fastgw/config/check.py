"""What must hold of a configuration, field by field and between fields.

Owns: ranges, the reading of key lists, the rule that an open gateway stays on loopback. Functions return pairs of
setting and sentence, all there are, so that the caller can add where each was written. Must never: raise for a mistake,
or put a secret into a sentence.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from fastgw.config.address import MAX_UNIX_PATH_BYTES, is_loopback, parse_engine_url, parse_host, parse_host_port
from fastgw.config.table import TABLE, Setting

if TYPE_CHECKING:
    from fastgw.config.settings import Config, EngineConfig, RouteConfig

Found = list[tuple[str, str]]

ON_CAPACITY: Final = ("queue", "reject", "fallback")
MAX_FALLBACKS: Final = 8
MIN_ADMIN_KEY: Final = 16  # characters; shorter ones can be guessed at, and this one makes keys
RETRY_STATUSES: Final = ("429", "500", "502", "503", "504")

# A key must be able to travel in an Authorization field; see RFC 6750 section 2.1, taken a little wider.
_KEY: Final = re.compile(r"[\x21-\x7e]{1,1024}\Z")
_PATH: Final = re.compile(r"/v1(?:/[A-Za-z0-9._~-]+)+(?:/\*)?\Z")
_TARGET: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/%?-]*\Z")
_ORIGIN: Final = re.compile(r"(?i:https?)://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?\Z")
_HOST_ENTRY: Final = re.compile(r"(?:\*|(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?)\Z")
_MAX_KEY_FILE_BYTES: Final = 16 << 20


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def default_text(value: object) -> str:
    """A value as documentation shows it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number(value)
    return str(value) if value else ""


def range_text(row: Setting) -> str:
    """``1 to 10, or 0 (no limit)``, or nothing where a setting has no range."""
    if row.minimum is None or row.maximum is None:
        return ""
    text = f"{number(row.minimum)} to {number(row.maximum)}"
    if row.auto:
        text += f", auto ({row.auto})"
    return f"{text}, or 0 ({row.zero})" if row.zero else text


def wanted(row: Setting) -> str:
    """What a number must be as this setting's, with its range."""
    if row.kind == "float":
        return f"a number of seconds from {range_text(row)}"
    size = " of bytes (files, variables and flags take 64MiB too)" if row.name.endswith("_bytes") else ""
    return f"a whole number{size} from {range_text(row)}"


def value_problem(row: Setting, value: object) -> str:
    """What is wrong with ``value`` as this setting's, or nothing."""
    if row.kind in {"int", "auto_int", "float"}:
        if value is None and row.kind == "auto_int":
            return ""
        right = not isinstance(value, bool) and isinstance(value, (int, float) if row.kind == "float" else (int,))
        if not right or not math.isfinite(value) or not _in_range(row, value):  # type: ignore[arg-type]
            return f"must be {wanted(row)}"
    elif row.kind in {"bool", "auto_bool"}:
        if not (isinstance(value, bool) or (row.kind == "auto_bool" and value is None)):
            return "must be true or false" + (" or auto" if row.kind == "auto_bool" else "")
    elif row.kind in {"text", "choice"}:
        if not isinstance(value, str):
            return "must be text"
        if row.kind == "choice" and value not in row.choices:
            return "must be one of " + ", ".join(choice for choice in row.choices if choice)
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
            return "holds a control character"
    elif row.kind in {"list", "keys"} and (isinstance(value, str) or not all(isinstance(item, str) for item in _items(value))):
        return "must be a list of texts"
    return ""


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else (None,)


def _in_range(row: Setting, value: float) -> bool:
    if value == 0 and row.zero:
        return True
    return row.minimum is None or row.maximum is None or row.minimum <= value <= row.maximum


def engine_problems(engine: EngineConfig) -> Found:
    from fastgw.config.settings import ENGINE_KINDS

    found: Found = []
    for name in ("url", "name", "kind", "api_key", "served_name", "health_path"):
        if not isinstance(getattr(engine, name), str):
            found.append((name, "must be text"))
    if isinstance(engine.models, str) or not all(isinstance(model, str) and model.strip() for model in engine.models):
        found.append(("models", "must be a list of names"))
    for name, low, high in (("weight", 1, 1000), ("warm_connections", -1, 1024), ("max_connections", 0, 65535),
                            ("max_concurrent", 0, 1_000_000)):  # fmt: skip
        found += _whole(name, getattr(engine, name), low, high)
    if not isinstance(engine.cancel, bool):
        found.append(("cancel", "must be true or false"))
    if found:
        return found
    try:
        parse_engine_url(engine.url)
    except ValueError as error:
        found.append(("url", str(error)))
    if engine.kind not in ENGINE_KINDS:
        found.append(("kind", "must be one of " + ", ".join(ENGINE_KINDS)))
    if engine.api_key and not _KEY.match(engine.api_key):
        found.append(("api_key", "must be visible ASCII without blanks"))
    if engine.health_path and not _TARGET.match(engine.health_path):
        found.append(("health_path", "must be a path that begins with /"))
    if 0 < engine.max_connections < engine.warm_connections:
        found.append(("warm_connections", "is more than max_connections"))
    found.extend(
        (name, "holds a control character")
        for name in ("name", "served_name")
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in getattr(engine, name))
    )
    return found


def _whole(name: str, value: object, low: int, high: int) -> Found:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        return [(name, f"must be a whole number from {low} to {high}")]
    return []


def route_problems(route: RouteConfig) -> Found:
    found = _whole("max_concurrent", route.max_concurrent, 0, 1_000_000)
    if not isinstance(route.model, str) or not route.model.strip():
        found.append(("model", "must be a name"))
    if route.on_capacity not in ("", *ON_CAPACITY):
        found.append(("on_capacity", "must be one of " + ", ".join(ON_CAPACITY)))
    fallback = route.fallback
    if isinstance(fallback, str) or not all(isinstance(model, str) and model.strip() for model in fallback):
        found.append(("fallback", "must be a list of names"))
    elif len(fallback) > MAX_FALLBACKS:
        found.append(("fallback", f"holds more than {MAX_FALLBACKS} models"))
    elif route.model in fallback:
        found.append(("fallback", "names the route's own model"))
    elif route.on_capacity == "fallback" and not fallback:
        found.append(("fallback", "must name a model, since on_capacity is fallback"))
    timeout_s = route.timeout_s
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 <= timeout_s <= 86400:
        found.append(("timeout_s", "must be a number of seconds from 0 to 86400"))
    return found


def _routes(routes: Sequence[RouteConfig]) -> Found:
    from fastgw.config.settings import RouteConfig

    if not all(isinstance(route, RouteConfig) for route in routes):
        return [("routes", "must be a list of RouteConfig")]
    models = [route.model for route in routes]
    twice = sorted({model for model in models if models.count(model) > 1})
    return [("routes", f"two routes are for the model {model!r}") for model in twice]


def duplicate_engines(engines: Sequence[EngineConfig]) -> list[tuple[int, int, str]]:
    """Pairs of entries that clash, and how. One URL may stand twice only with different models in each entry."""
    clashes = []
    for second, engine in enumerate(engines):
        for first, other in enumerate(engines[:second]):
            if engine.url == other.url and not (engine.models and other.models and not set(engine.models) & set(other.models)):
                clashes.append((first, second, f"the engine {engine.url} is named twice"))
            elif engine.name == other.name and engine.name != engine.address.label:
                clashes.append((first, second, f"two engines have the name {engine.name!r}"))
    return clashes


def read_keys(keys: Sequence[str], path: str) -> tuple[list[str], Found, list[str]]:
    """The keys of the list and of the file, what is wrong with them, and warnings. Keys are named by position only."""
    if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
        return [], [("api_keys", "must be a list of texts")], []
    found: Found = []
    notes: list[str] = []
    good: list[str] = []
    for index, key in enumerate(keys, 1):
        if _KEY.match(key):
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
            if _KEY.match(key):
                good.append(key)
            else:
                found.append(("api_keys_file", f"line {line_number} of {path} is not one key of visible ASCII without blanks"))
        if len(good) == before and not any(name == "api_keys_file" for name, _ in found):
            found.append(("api_keys_file", f"{path} holds no key"))
    return good, found, notes


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


def problems(config: Config, *, keys_failed: bool) -> Found:
    """Everything that is wrong with the finished settings (keys excepted, which were read before)."""
    found: Found = []
    for row in TABLE:
        if row.kind not in {"keys", "engines", "routes"}:
            problem = value_problem(row, getattr(config, row.name))
            if problem:
                found.append((row.name, problem))
    if found:
        return found
    try:
        parse_host(config.host)
    except ValueError as error:
        found.append(("host", str(error)))
    else:
        found.extend(_open_to_others(config, keys_failed))
    if len(os.fsencode(config.unix_socket)) > MAX_UNIX_PATH_BYTES:
        found.append(("unix_socket", f"the path is longer than {MAX_UNIX_PATH_BYTES} bytes"))
    if config.vllm_api_key and not _KEY.match(config.vllm_api_key):
        found.append(("vllm_api_key", "must be visible ASCII without blanks"))
    found.extend(("engines", message) for _, _, message in duplicate_engines(config.engines))
    if config.warm_connections > config.engine_max_connections:
        found.append(("warm_connections", "is more than engine_max_connections"))
    found.extend(_routes(config.routes))
    found.extend(
        ("retry_statuses", f"{status!r} must be one of {', '.join(RETRY_STATUSES)}")
        for status in config.retry_statuses
        if status not in RETRY_STATUSES
    )
    if config.control_listen:
        found.extend(_control(config.control_listen))
    if config.admin_key and not _KEY.match(config.admin_key):
        found.append(("admin_key", "must be visible ASCII without blanks"))
    elif 0 < len(config.admin_key) < MIN_ADMIN_KEY:
        found.append(("admin_key", f"must have {MIN_ADMIN_KEY} characters or more: whoever guesses it makes keys"))
    if (config.max_connections_per_ip or 0) > config.max_connections:
        found.append(("max_connections_per_ip", "is more than max_connections"))
    if 0 < (config.memory_budget_bytes or 0) * 7 // 8 < config.max_body_bytes:
        found.append(("memory_budget_bytes", "must be 8/7 of max_body_bytes or more: a body of that size could never be taken"))
    found.extend(
        ("passthrough_paths", f"{path!r} must be /v1/name, or /v1/name/* for all below")
        for path in config.passthrough_paths
        if not _PATH.match(path) or "/../" in path + "/" or "/./" in path + "/"
    )
    for origin in config.cors_origins:
        if origin != "*" and not _ORIGIN.match(origin):
            found.append(("cors_origins", f"{origin!r} must be * or scheme://host[:port]"))
        elif (sent := _as_browsers_send(origin)) != origin:
            found.append(("cors_origins", f"{origin!r} is never sent by a browser, which writes {sent!r}"))
    found.extend(
        ("allowed_hosts", f"{host!r} must be a host name without a port, *.name, or *" + _as_hosts_are_sent(host))
        for host in config.allowed_hosts
        if not _HOST_ENTRY.match(host)
    )
    if config.trusted_proxies:
        found.extend(_networks(config.trusted_proxies))
    return found


def _as_browsers_send(origin: str) -> str:
    """In lower case, and without the port that the scheme has in any case (RFC 6454 §6.2)."""
    lower = origin.lower()
    return lower.removesuffix(":80" if lower.startswith("http:") else ":443")


def _as_hosts_are_sent(host: str) -> str:
    return "" if host.isascii() else "; write it in punycode (xn--...), as it is sent"


def _control(text: str) -> Found:
    try:
        parse_host_port(text.removesuffix(":0") + ":1" if text.endswith(":0") else text)  # 0 = a free port
    except ValueError as error:
        return [("control_listen", str(error))]
    return []


def _open_to_others(config: Config, keys_failed: bool) -> Found:
    closed = config.api_key_digests or config.require_key or keys_failed
    if closed or config.allow_anonymous or is_loopback(parse_host(config.host)):
        return []
    return [(
        "allow_anonymous",
        f"no API key is set and others can reach {config.host}, so anyone there could use the engines: set GATEWAY_API_KEYS "
        "or api_keys_file, or require_key and make keys with `fastgw keys`, or listen on 127.0.0.1, or set "
        "allow_anonymous = true if that is what you want",
    )]  # fmt: skip


def _networks(texts: Sequence[str]) -> Found:
    import ipaddress  # 3 ms that only those with proxies pay

    found: Found = []
    for text in texts:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            found.append(("trusted_proxies", f"{text!r} is not an address or network such as 10.0.0.0/8"))
    return found


def reserved_notes(config: Config) -> list[str]:
    """A warning for each setting that is accepted without an effect: nobody must rely on a limit that does not hold."""
    from fastgw.config.settings import DEFAULTS

    notes = [
        f"{row.name} is set, but this version does not act on it: {row.reserved}"
        for row in TABLE
        if row.reserved and getattr(config, row.name) != DEFAULTS[row.name]
    ]
    if config.admin_key and not config.control_listen:
        notes.append("admin_key is set, but control_listen is not: there is no admin API")
    if config.control_listen and not is_loopback(parse_host(config.control_listen.rpartition(":")[0])):
        notes.append("control_listen can be reached by others: /metrics there asks for no key")
    if "*" in config.cors_origins and not (config.api_key_digests or config.require_key):
        notes.append("cors_origins is *: where no key is asked for, every web page may use the gateway")
    if config.control_listen and not config.state_dir and config.admin_key:
        notes.append("the admin API can make no keys: state_dir is not set")
    return notes
