"""One engine and one route, as configuration files and embedding programs write them.

Owns: :class:`EngineConfig` and :class:`RouteConfig` with a row for each field, and what must hold within one of them.
Invariant: one that exists is valid, and no ``repr`` shows a secret.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec.structs import force_setattr

from fastgw.config.address import EngineAddress, parse_engine_url
from fastgw.config.grammar import engine_key, engine_url, host_name, readable_one, target
from fastgw.config.names import (
    CHOOSE,
    ENGINE_KINDS,
    FALLBACK_ON,
    ON_CAPACITY,
    POLICIES,
    RANKED_KINDS,
    UPSTREAM_PROTOCOLS,
    Choose,
    Discover,
    EngineKind,
    OnCapacity,
    Policy,
    UpstreamProtocol,
    any_of,
)
from fastgw.config.problems import ConfigError, ConfigErrors
from fastgw.config.row import Setting, own_lists, row, rows_of, seconds, shown, text_problem, type_problem, within

MAX_FALLBACKS: Final = 8
MAX_ALIASES: Final = 64
"""Of one route."""
MAX_VERSIONS: Final = 16
MAX_CLASS: Final = 16
"""Models that one name may stand for."""
MAX_RANKS: Final = 64
"""Of one engine: each is probed, and has its series among the metrics."""
MAX_SHARE: Final = 1_000_000
MAX_NAME_BYTES: Final = 200
"""Of an engine's name, and of its models': they stand in paths, in metrics and in each line of the log."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine. Raises :class:`ConfigErrors` when a field is out of its range."""

    url: Annotated[str, row(
        "http://host:port[/base], https://host[:port][/base] or unix:/path; a trailing /v1 is dropped", check=engine_url,
    )]
    name: Annotated[str, row("what logs and metrics call it; from the URL when empty")] = ""
    kind: Annotated[EngineKind, row(
        f"what to expect of it: {any_of(ENGINE_KINDS)} ([engines.md](engines.md))",
    )] = "auto"
    api_key: Annotated[str, row("the key sent to it; vllm_api_key when empty", check=engine_key, secret=True)] = ""
    models: Annotated[Sequence[str], row(
        "the models that clients reach here, * = also whatever no other engine has; asked of the engine when empty",
    )] = ()
    served_name: Annotated[str, row("the model name that this engine knows, where it differs from what clients say")] = ""
    protocol: Annotated[Literal[UpstreamProtocol, ""], row(
        f"{any_of(UPSTREAM_PROTOCOLS)}; the gateway's upstream_protocol when empty",
    )] = ""
    weight: Annotated[int, within(1, 1000, "its share, 1 to 1000; policy says how it counts")] = 1
    health_path: Annotated[str, row("the only path to probe; the kind's own ones when empty", check=target)] = ""
    warm_connections: Annotated[int, within(-1, 1024, "-1 = as the gateway's warm_connections")] = -1
    max_connections: Annotated[int, within(0, 65535, "0 = engine_max_connections")] = 0
    max_concurrent: Annotated[int, within(0, 1_000_000,
        "requests under way at it at most; 0 = engine_max_concurrent",
    )] = 0
    machine: Annotated[str, row("what it runs on, in any word (gpu, cpu, h200): a request can ask for it")] = ""
    features: Annotated[Sequence[str], row(
        "what it has that not all have, in any words (vision, tools): a request can ask for them",
    )] = ()
    cancel: Annotated[bool | None, row(
        "whether closing its connection stops a generation; unset: as with its kind; false for engines that a cancel harms",
    )] = None
    stream_end: Annotated[Literal["strict", "pass", ""], row(
        "what a stream is that ends without its API's last word: strict, as when empty = it broke off; pass = it passes so "
        "([streams.md](streams.md))",
    )] = ""
    ca_file: Annotated[str, row(
        "at https://: the CAs by which it is believed, as a PEM file; engine_ca_file when empty", check=readable_one,
    )] = ""
    server_name: Annotated[str, row(
        "at https://: the name that its certificate must have; the URL's host when empty", check=host_name,
    )] = ""
    cert_file: Annotated[str, row(
        "at https://: the certificate that is shown to it; engine_cert_file when empty", check=readable_one,
    )] = ""
    key_file: Annotated[str, row(
        "its private key; when empty it stands in the same file, or in engine_key_file", check=readable_one,
    )] = ""
    verify: Annotated[bool | None, row(
        "at https://: check its certificate; unset: as engine_verify says",
    )] = None
    discover: Annotated[Literal[Discover, ""], row(
        "the URL's host stands for several engines, which come and go: dns = one at each of its addresses; srv = it is the "
        "name of an SRV record, one at each of its servers ([engines.md](engines.md#discovery)); empty = it is one engine",
    )] = ""
    version: Annotated[str, row("the version of its models that it has, for the `versions` of a route")] = ""
    tenant: Annotated[str, row(
        "the tenant whose keys alone may use it; where there are such engines for a model, that tenant's keys use no others",
    )] = ""
    ranks: Annotated[int, within(1, MAX_RANKS,
        "its data-parallel ranks: each is an engine of its own to whoever chooses, by the header of its kind",
        zero="it has none",
    )] = 0
    gpus: Annotated[Sequence[str], row(
        "the GPUs of this machine that it has, by index or UUID, where `gpu` reads them ([gpu.md](gpu.md#energy)); empty = all "
        "of them for an engine on loopback, none for others",
    )] = ()
    # Nobody's settings: which of its ranks this is (`config.settings` makes one of each), and what its `Host` says where it was
    # found by a name (`upstream.discovery.names`); empty = what its URL says.
    rank: int = -1
    authority: str = ""

    def __post_init__(self) -> None:
        own_lists(self, ENGINE_FIELDS)
        for name in ("cancel", "verify"):
            if getattr(self, name) == "auto":  # as files say it
                force_setattr(self, name, None)
        found = _engine_problems(self)
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
        return shown(self, _SECRETS)

    def __rich_repr__(self) -> Any:
        yield repr(self)


class RouteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for one model. Raises :class:`ConfigErrors` when a field is out of its range."""

    model: Annotated[str, row("the model that clients ask for")]
    max_concurrent: Annotated[int, within(0, 1_000_000,
        "requests for it under way at most; 0 = no limit of its own",
    )] = 0
    on_capacity: Annotated[Literal[OnCapacity, ""], row(
        f"{any_of(ON_CAPACITY)}; the gateway's on_capacity when empty",
    )] = ""
    fallback: Annotated[Sequence[str], row("models to send its requests to, in this order, when it has no room")] = ()
    timeout_s: Annotated[float, seconds("time for a whole exchange; 0 = request_timeout_s", low=0)] = 0.0
    policy: Annotated[Literal[Policy, ""], row(
        f"{any_of(POLICIES)}; the gateway's policy when empty",
    )] = ""
    fallback_on: Annotated[Sequence[str], row(
        "when else its requests go to the fallback models, before anything of an answer has gone down: failure = no engine "
        "answers, or one answers 429 or 5xx; context = one answers that the prompt is too long for it",
    )] = ()
    aliases: Annotated[Sequence[str], row("further names under which clients reach it; its engines are asked for `model`")] = ()
    restore_name: Annotated[bool, row(
        "answers name the model as the client did, whatever the engine calls it",
    )] = False
    versions: Annotated[Mapping[str, int], row(
        "which share of its requests goes to engines of which `version`, say { v1 = 95, v2 = 5 }; a version that is not named "
        "gets none, and while no engine of a version is well, its share goes to the others",
    )] = {}
    sticky: Annotated[bool, row("one key (without keys: one address) always gets the same version")] = False
    mirror_to: Annotated[str, row(
        "send copies of its requests to this model too, and drop the answers; `version:NAME` = to its engines of that version",
    )] = ""
    mirror_percent: Annotated[int, within(0, 100, "of its requests are copied")] = 100
    adapter_of: Annotated[str, row(
        "it is a LoRA adapter of this model: engines that have it are asked, and where none is well those of the model whose "
        "kind can load adapters",
    )] = ""
    models: Annotated[Sequence[str], row(
        "`model` is a virtual model, say class:fast, that stands for these: one that is loaded and has room, the first first",
    )] = ()
    choose: Annotated[Choose, row(f"of `models` that could as well be taken: {any_of(CHOOSE)}")] = "ordered"
    machine: Annotated[str, row("of `models`, those with engines on such a `machine` go before others")] = ""
    needs: Annotated[Sequence[str], row(
        "what an engine must have to get its requests under the policy capability: words of its machine and features",
    )] = ()
    requests_per_minute: Annotated[int, within(0, 10**9, "for it, of all callers together; 0 = no limit")] = 0
    burst: Annotated[int, within(0, 10**9, "of those, at once; 0 = as many as in a minute")] = 0
    tokens_per_minute: Annotated[int, within(0, 10**11, "of it, of all callers together; 0 = no limit")] = 0
    daily_tokens: Annotated[int, within(0, 10**15, "of it, of all callers together in a UTC day; 0 = no limit")] = 0
    key_requests_per_minute: Annotated[int, within(0, 10**9, "for it, with each key; 0 = no limit")] = 0
    key_burst: Annotated[int, within(0, 10**9, "of those, at once; 0 = as many as in a minute")] = 0
    key_tokens_per_minute: Annotated[int, within(0, 10**11, "of it, with each key; 0 = no limit")] = 0
    key_daily_tokens: Annotated[int, within(0, 10**15, "of it, with each key in a UTC day; 0 = no limit")] = 0
    key_concurrency: Annotated[int, within(0, 10**6, "requests for it with each key under way at most; 0 = no limit")] = 0

    def __post_init__(self) -> None:
        own_lists(self, ROUTE_FIELDS)
        if isinstance(self.versions, dict):
            force_setattr(self, "versions", dict(self.versions))
        found = _route_problems(self)
        if found:
            raise ConfigErrors(ConfigError("RouteConfig", name, message) for name, message in found)


ENGINE_FIELDS: Final[tuple[Setting, ...]] = rows_of(EngineConfig)
ROUTE_FIELDS: Final[tuple[Setting, ...]] = rows_of(RouteConfig)
_SECRETS: Final = frozenset(one.name for one in ENGINE_FIELDS if one.secret)
_MOST_NAMES: Final = {
    "fallback": MAX_FALLBACKS, "aliases": MAX_ALIASES, "models": MAX_CLASS, "fallback_on": len(FALLBACK_ON),
}  # fmt: skip
LIMITS: Final = tuple(one.name for one in ROUTE_FIELDS if one.name.endswith(("burst", "_per_minute", "daily_tokens")))
_OF_ONE_MODEL: Final = (
    "max_concurrent", "on_capacity", "timeout_s", "policy", "versions", "sticky", "adapter_of", *LIMITS, "key_concurrency",
)  # fmt: skip


def type_problems(entry: msgspec.Struct, rows: Sequence[Setting]) -> list[tuple[str, str]]:
    """Of fields whose values are of other types than their own, or numbers out of their ranges."""
    found = []
    for one in rows:
        value = getattr(entry, one.name)
        problem = type_problem(one, value)
        if one.kind == "list" and (problem or not all(name.strip() for name in value)):
            problem = "must be a list of names"
        if problem:
            found.append((one.name, problem))
    return found


def value_problems(
    entry: msgspec.Struct, rows: Sequence[Setting], types: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Of fields whose types are right: ``types`` are not."""
    found = []
    wrong = {name for name, _ in types}
    for one in rows:
        value = getattr(entry, one.name)
        if one.name in wrong:
            continue
        if one.check is not None:
            found += [(one.name, problem) for problem in one.check(value)]
        elif isinstance(value, str) and (problem := text_problem(one, value)):
            found.append((one.name, problem))
        elif one.kind == "list" and not all(map(_is_name, value)):
            found.append((one.name, f"holds a name with control characters, or of more than {MAX_NAME_BYTES} bytes"))
    return found


def _is_name(text: str) -> bool:
    return text.isprintable() and len(text.encode("utf-8", "replace")) <= MAX_NAME_BYTES


def _engine_problems(engine: EngineConfig) -> list[tuple[str, str]]:
    """All that is wrong: what holds between fields is looked at where these are right each by itself."""
    types = type_problems(engine, ENGINE_FIELDS)
    found = types + value_problems(engine, ENGINE_FIELDS, types)
    right = _right(found)
    if right("name") and engine.name:
        if not (engine.name.strip() and _is_name(engine.name)):
            found.append(("name", f"must be text of {MAX_NAME_BYTES} bytes at most, without control characters"))
        elif not {".", ".."}.isdisjoint(engine.name.split("/")):
            found.append(("name", "has . or .. where a path has its parts: /admin/engines/NAME could not be asked for"))
    if right("max_connections", "warm_connections") and 0 < engine.max_connections < engine.warm_connections:
        found.append(("warm_connections", "is more than max_connections"))
    if right("ranks", "kind") and engine.ranks and engine.kind not in RANKED_KINDS:
        found.append(("ranks", f"an engine of kind {engine.kind} has none that can be asked for: {any_of(RANKED_KINDS)} have"))
    if right("key_file", "cert_file") and engine.key_file and not engine.cert_file:
        found.append(("key_file", "needs cert_file"))
    if right("discover", "url") and engine.discover and not _is_found_by_name(engine.url):
        found.append(("discover", "needs a URL with a host name"))
    return found


def _right(found: Sequence[tuple[str, str]]) -> Callable[..., bool]:
    """Whether nothing was found wrong with these fields."""
    wrong = {name for name, _ in found}
    return lambda *names: wrong.isdisjoint(names)


def _is_found_by_name(url: str) -> bool:
    host = parse_engine_url(url).host
    return bool(host) and ":" not in host and bool(host.strip("0123456789."))


def _route_problems(route: RouteConfig) -> list[tuple[str, str]]:
    """As :func:`_engine_problems`."""
    types = type_problems(route, ROUTE_FIELDS)
    found = types + value_problems(route, ROUTE_FIELDS, types)
    right = _right(found)
    if right("model") and not route.model.strip():
        found.append(("model", "must be a name"))
    for name, most in _MOST_NAMES.items():
        if right(name):
            found += _names_problem(name, getattr(route, name), most)
    right = _right(found)
    return [*found, *_fallback_problems(route, right), *_share_problems(route, right), *_class_problems(route, right)]


def _names_problem(name: str, names: Sequence[str], most: int) -> list[tuple[str, str]]:
    if len(names) > most:
        return [(name, f"holds more than {most} names" if name == "fallback_on" else f"holds more than {most} models")]
    return [(name, f"names {model!r} twice") for model in sorted({one for one in names if list(names).count(one) > 1})]


def _fallback_problems(route: RouteConfig, right: Callable[..., bool]) -> list[tuple[str, str]]:
    found = []
    if right("fallback", "model") and route.model in route.fallback:
        found.append(("fallback", "names the route's own model"))
    if right("fallback", "on_capacity") and route.on_capacity == "fallback" and not route.fallback:
        found.append(("fallback", "must name a model, since on_capacity is fallback"))
    if right("fallback_on") and (wrong := [why for why in route.fallback_on if why not in FALLBACK_ON]):
        found.append(("fallback_on", f"{wrong[0]!r} is none of {', '.join(FALLBACK_ON)}"))
    if right("fallback", "fallback_on") and route.fallback_on and not route.fallback:
        found.append(("fallback", "must name a model, since there is fallback_on"))
    same = [name for name in ("adapter_of", "mirror_to") if right(name, "model") and getattr(route, name) == route.model]
    found += [(name, "must be another model") for name in same]
    if right("aliases", "model") and route.model in route.aliases:
        found.append(("aliases", "names the route's own model"))
    return found


def _share_problems(route: RouteConfig, right: Callable[..., bool]) -> list[tuple[str, str]]:
    versions = route.versions
    if not right("versions"):
        return []
    if not isinstance(versions, dict) or not all(
        isinstance(name, str) and name.strip() and type(share) is int and 0 <= share <= MAX_SHARE
        for name, share in versions.items()
    ):
        return [("versions", f"must say for each version a whole number from 0 to {MAX_SHARE}")]
    if len(versions) > MAX_VERSIONS:
        return [("versions", f"holds more than {MAX_VERSIONS} versions")]
    found = []
    if versions and not any(versions.values()):
        found.append(("versions", "gives no version a share"))
    if versions and right("adapter_of") and route.adapter_of:
        found.append(("versions", "cannot be beside adapter_of"))
    return found


def _class_problems(route: RouteConfig, right: Callable[..., bool]) -> list[tuple[str, str]]:
    if not right("models"):
        return []
    if not route.models:
        return [(name, "needs models") for name in ("machine",) if right(name) and getattr(route, name)]
    found = [("models", "names the route's own model")] if right("model") and route.model in route.models else []
    return found + [
        (name, "belongs to the route of each of its models")
        for name in _OF_ONE_MODEL
        if right(name) and getattr(route, name)
    ]
