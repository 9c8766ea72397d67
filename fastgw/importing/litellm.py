"""A configuration of LiteLLM's proxy, as one of fastgw.

Owns: what needs a look at several of its entries: deployments, shares, fallbacks, times, callbacks. Single ones are rows in
``litellm_table.py``. Must never: take a secret over, or look a variable up for anything but an address or a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from fastgw.config.entries import MAX_ALIASES, MAX_FALLBACKS
from fastgw.config.table import DEFAULTS
from fastgw.importing import litellm_table as table
from fastgw.importing.deployments import NO_ADDRESS, NO_PROVIDER, Deployment, into_engines, key_of, shares
from fastgw.importing.draft import STATE_DIR, STATE_DIR_IS, Draft
from fastgw.importing.report import Path, Report, shown
from fastgw.importing.rules import OTHERWISE, apply, limit, number, put, whole

VARIABLE: Final = "os.environ/"
PORT: Final = 4000
_UNKNOWN: Final = "nothing is known of it here: see docs/configuration.md"
_NO_MODEL: Final = "no engine here has this model"
_ORDERED: Final = 'its place among the engines, under policy = "ordered" of its route: the first takes all'
_FAILURES: Final = "after a failure, or 429; LiteLLM asks after other errors of the client's, too"
Lookup = Callable[[str], str]


def translate(source: Mapping[Any, Any], variable: Lookup) -> tuple[Draft, Report]:
    """``variable`` tells what a variable holds; those that the source sets itself go before it."""
    report, draft = Report(source), Draft("litellm")
    draft.set({"port": PORT}, "LiteLLM's own; it listens on 0.0.0.0, and fastgw on 127.0.0.1 until host says more")
    own = _mapping(source.get("environment_variables"))
    router, library = _mapping(source.get("router_settings")), _mapping(source.get("litellm_settings"))
    reader = _Reader(
        report,
        lambda name: str(own[name]) if isinstance(own.get(name), str | int) else variable(name),
        any(_mapping(one).get("api_base") for one in (library, router.get("default_litellm_params"))),
    )
    found = reader.deployments(source.get("model_list"))
    found = _weights(found, reader, router.get("routing_strategy", "simple-shuffle"))
    into_engines([entry.one for entry in found], draft, report)
    found = [entry for entry in found if entry.one.there]
    _limits(found, router, draft, reader)
    _times(found, source, draft, reader)
    for at, section in (("router_settings", router), ("litellm_settings", library)):
        _retries((at, "num_retries"), section, draft, report)
    apply(table.ROUTER, ("router_settings",), router, draft, report)
    apply(table.LIBRARY, ("litellm_settings",), library, draft, report)
    apply(table.GENERAL, ("general_settings",), source.get("general_settings"), draft, report)
    _keys(source, draft, report)
    _fallbacks(router, library, draft, report)
    _aliases(router, draft, report)
    _mirrors(found, draft, report)
    _callbacks(library, draft, report)
    _prices(found, draft, report)
    for entry in found:
        for name in entry.said:
            report.tell("left", entry.at(name), table.OF_REQUESTS)
        for name in entry.info:
            report.tell("left", (*entry.one.path, "model_info", name), "nothing here asks for it")
    for name in own:
        report.tell("left", ("environment_variables", name), "set it in fastgw's environment, or in config/.env")
    report.tell("left", ("include",), "an included file includes no others")
    report.close(_UNKNOWN)
    return draft, report


def merged(source: dict[Any, Any], included: Mapping[Any, Any]) -> dict[Any, Any]:
    """With a file that it includes, as LiteLLM does it: lists grow, and all else is replaced by what comes later."""
    found = dict(source)
    for name, value in included.items():
        if isinstance(value, list) and isinstance(found.get(name), list):
            found[name] = [*found[name], *value]
        else:
            found[name] = value
    return found


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


class _Entry(NamedTuple):
    """A deployment, its ``litellm_params`` and its ``model_info``."""

    one: Deployment
    said: Mapping[Any, Any]
    info: Mapping[Any, Any]

    def at(self, *names: str) -> Path:
        return (*self.one.path, "litellm_params", *names)


Found = list[_Entry]


class _Reader:
    """Reads deployments, and tells of what none are."""

    def __init__(self, report: Report, variable: Lookup, elsewhere: bool) -> None:
        """``elsewhere``: another entry says where the engines are of which no address is said."""
        self.report = report
        self._variable = variable
        self._elsewhere = elsewhere

    def deployments(self, listed: object) -> Found:
        found = []
        for index, entry in enumerate(listed if isinstance(listed, list) else ()):
            path: Path = ("model_list", index)
            said = _mapping(_mapping(entry).get("litellm_params"))
            try:
                one = self._deployment(path, _mapping(entry).get("model_name"), said)
            except ValueError as error:
                self.report.tell("left", path, str(error))
                continue
            found.append(_Entry(one, said, _mapping(_mapping(entry).get("model_info"))))
            self._more(found[-1])
        return found

    def _deployment(self, path: Path, model: object, said: Mapping[Any, Any]) -> Deployment:
        """Raises ValueError: it is no engine here."""
        of_engine, named = said.get("model"), said.get("custom_llm_provider")
        if not isinstance(model, str) or not isinstance(of_engine, str):
            raise ValueError("it has no model_name, or no model in its litellm_params")
        if "*" in model and model != "*":
            raise ValueError('a pattern is no model here: name its models, or "*" for all that no other engine has')
        prefix, slash, rest = of_engine.partition("/")
        if isinstance(named, str):
            prefix, rest = named, rest if slash and prefix == named else of_engine
        elif not slash:
            prefix, rest = "openai" if table.OPENAIS.match(of_engine) else "", of_engine
        provider = table.PROVIDERS.get(prefix)
        if provider is None:
            raise ValueError(NO_PROVIDER if prefix else table.NO_PREFIX)
        if rest.startswith("responses/"):
            raise ValueError(
                "LiteLLM makes another API's request of it: name the model alone, if its engine has the API that is asked"
            )
        where = "api_base" if "api_base" in said else "base_url"
        url = said.get(where)
        if url is None and (self._elsewhere or "litellm_credential_name" in said):
            raise ValueError(table.ELSEWHERE)
        by = "" if url is not None else next(filter(self._variable, table.BASES.get(prefix, ())), "")
        text = self._variable(by) if by else provider.base if url is None else self.looked_up(url)
        if not isinstance(text, str) or not text:
            raise ValueError(NO_ADDRESS)
        one = Deployment(path, model, text, provider.kind, "" if "*" in rest else rest)
        if provider.variable and url is None and "api_key" not in said:
            one.key_variable = provider.variable
        here: Path = (*path, "litellm_params")
        url_words = "url" if url is text else "url, as the variable has it now"
        keyless = provider.variable and not one.key_variable and "api_key" not in said
        if keyless:
            url_words += (
                f"; {provider.variable} is shown to it there, and no key here: name one in api_key_env, if it wants one"
            )
        one.told += [
            ("translated", (*path, "model_name"), "models"),
            (
                "different" if by else "translated",
                (*here, "model"),
                "served_name, kind" + (f"; url, as {by} has it now" if by else ""),
            ),
            ("translated", (*here, "custom_llm_provider"), "kind"),
            ("translated" if url is text and not keyless else "different", (*here, where), url_words),
        ]
        return one

    def looked_up(self, value: object) -> Any:
        """The value, or what the variable holds that it names. Raises ValueError."""
        if not isinstance(value, str) or not value.startswith(VARIABLE):
            return value
        name = value.removeprefix(VARIABLE)
        if not (text := self._variable(name)):
            raise ValueError("the variable that it names is not set: set it, and run this again")
        return text

    def number(self, value: object) -> float:
        return number(self.looked_up(value))

    def _more(self, entry: _Entry) -> None:
        """What else is said of an engine."""
        one = entry.one
        if "api_key" in entry.said:
            key_of(entry.said["api_key"], entry.at("api_key"), VARIABLE, one)
        one.order = math.inf  # (there it is asked behind all that have one)
        for name in {"order", "max_parallel_requests"} & entry.said.keys():
            try:
                value = self.number(entry.said[name])
                if name == "order":
                    one.order = value
                else:
                    one.max_concurrent = whole(limit(value))
                    one.told.append(("different", entry.at(name), "max_concurrent: one more waits in the queue (on_capacity)"))
            except (ValueError, OverflowError) as error:
                one.told.append(("left", entry.at(name), str(error)))
        if isinstance(entry.info.get("id"), str):
            one.name, one.name_path = entry.info["id"], (*one.path, "model_info", "id")
        one.told += [("left", entry.at(name), words) for name, words in table.PARAMETERS.items()]
        known = "engines tell it, or serve it by their paths"
        one.told += [("translated", (*one.path, "model_info", name), known) for name in table.KNOWN_BY_ENGINES]


def _groups(found: Found) -> dict[str, Found]:
    groups: dict[str, Found] = {}
    for entry in found:
        groups.setdefault(entry.one.model, []).append(entry)
    return groups


def _weights(found: Found, reader: _Reader, strategy: object) -> Found:
    """LiteLLM shares by the first of ``weight``, ``rpm`` and ``tpm`` that a deployment of a model has. Where it draws by them,
    one that has nothing of it gets no requests there, and is no engine here."""
    report, shuffled = reader.report, strategy == "simple-shuffle"
    for entry in found if strategy in table.SHARELESS else ():
        entry.one.told.append(("translated", entry.at("weight"), table.NO_SHARE))
    for group in () if strategy in table.SHARELESS else _groups(found).values():
        by = next((name for name in ("weight", "rpm", "tpm") if any(name in entry.said for entry in group)), "")
        said: list[tuple[_Entry, float]] = []
        for entry in group if by else ():
            try:
                if (value := reader.number(entry.said.get(by, 0 if shuffled else 1))) < 0:
                    raise ValueError("a share is 1 at the least")
                if value:
                    said.append((entry, value))
                else:
                    entry.one.weight = 0
                    report.tell("left", entry.one.path, f"by its {by} it gets no requests, and is no engine here")
            except ValueError as error:
                entry.one.told.append(("left", entry.at(by), str(error)))
        for (entry, value), share in zip(said, shares([value for _, value in said]), strict=True):
            entry.one.weight = share
            if by == "weight" and share == value:
                entry.one.told.append(("translated", entry.at(by), "weight"))
            elif by == "weight":
                words = "weight: the same proportion to the others, in whole numbers"
                entry.one.told.append(("different", entry.at(by), words))
    return [entry for entry in found if entry.one.weight]


_LIMITS: Final = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}


def _limits(found: Found, router: Mapping[Any, Any], draft: Draft, reader: _Reader) -> None:
    """``rpm`` and ``tpm``: limits where LiteLLM routes by usage or is told to enforce them, else shares. And ``order``."""
    report, strategy, checks = reader.report, router.get("routing_strategy"), router.get("optional_pre_call_checks")
    limited = isinstance(strategy, str) and strategy.startswith("usage-based")
    enforced = [index for index, one in enumerate(checks if isinstance(checks, list) else ()) if one == table.ENFORCED]
    for index in enforced:
        limited = True
        report.tell("translated", ("router_settings", "optional_pre_call_checks", index), "limits of routes")
    for model, group in _groups(found).items():
        problem = draft.route(model, {"policy": "ordered"}) if any(entry.one.order < math.inf for entry in group) else ""
        for entry in group:
            report.tell("left" if problem else "different", entry.at("order"), problem or _ORDERED)
        for name, setting in _LIMITS.items():
            said = [entry for entry in group if name in entry.said]
            share = table.NO_SHARE if strategy in table.SHARELESS else "a share (weight), as there"
            problem, words = "", f"{share}; {setting} of its [[routes]] would be a limit"
            if limited and said:
                words = f"{setting} of its route: all its engines together, where LiteLLM has one for each"
                problem = _limit(model, setting, [entry.said.get(name) for entry in group], draft, reader)
            for entry in said:
                report.tell("left" if problem else "different", entry.at(name), problem or words)


def _limit(model: str, setting: str, each: list[Any], draft: Draft, reader: _Reader) -> str:
    if None in each:
        return f"some engines of this model have none: set {setting} of its [[routes]], or max_concurrent of the engine"
    try:
        return draft.route(model, {setting: whole(limit(sum(whole(reader.looked_up(one)) for one in each)))})
    except (ValueError, OverflowError) as error:
        return str(error)


_TIMES: Final = (
    (
        "timeout",
        (("router_settings", "timeout"), ("litellm_settings", "request_timeout")),
        "first_byte_timeout_s",
        table.FIRST_BYTE,
    ),
    ("stream_timeout", (("router_settings", "stream_timeout"),), "between_bytes_timeout_s", table.SILENCE),
)


def _times(found: Found, source: Mapping[Any, Any], draft: Draft, reader: _Reader) -> None:
    """The longest of all times is that of the gateway: no engine has one of its own."""
    for name, usual, setting, differs in _TIMES:
        said: list[tuple[Path, Any]] = [(path, _mapping(source.get(path[0])).get(path[1])) for path in usual]
        one_for_all = any(value is not None for _, value in said)
        said += [(entry.at(name), entry.said.get(name)) for entry in found]
        times: dict[Path, float] = {}
        for path, value in said:
            try:
                if value is not None:
                    times[path] = limit(reader.number(value))
            except ValueError as error:
                reader.report.tell("left", path, str(error))
        if not times:
            continue
        # (For engines of which nothing is said it stays as it is.)
        least = 0.0 if one_for_all or all(name in entry.said for entry in found) else DEFAULTS[setting]
        longest = max(least, *times.values())
        problem = draft.set({setting: longest}, shown(next(iter(times))))
        apart = "; it is one for all engines, and this the longest" if {*times.values(), longest} != {longest} else ""
        for path in times:
            words = problem or f"{setting} = {longest:g}: {differs}{apart}"
            reader.report.tell("left" if problem else "different", path, words)


def _retries(path: Path, section: Mapping[Any, Any], draft: Draft, report: Report) -> None:
    if path[-1] not in section:
        return
    try:
        times = whole(section[path[-1]])
    except (ValueError, OverflowError) as error:
        report.tell("left", path, f"{error} (max_retries)")
        return
    more: dict[str, object] = {"retry_statuses": table.STATUSES, "retry_fresh": True} if times else {}
    put(draft, report, path, {"max_retries": times, **more}, table.RETRIED if times else "")


def _keys(source: Mapping[Any, Any], draft: Draft, report: Report) -> None:
    """Who has a master key has keys, and asks clients for one."""
    path = ("general_settings", "master_key")
    if _mapping(source.get("general_settings")).get("master_key"):
        draft.set({"require_key": True}, shown(path))
        draft.set({"state_dir": STATE_DIR}, STATE_DIR_IS)
        words = (
            f"require_key and state_dir: clients need keys, which `fastgw keys --state-dir {STATE_DIR} create --name NAME` "
            "makes; the admin API has a key of its own, in the variable ADMIN_KEY, at control_listen"
        )
        report.tell("left", path, f"the key itself is not copied. {words}")
    else:
        report.tell("translated", path, "no key")


def _each(section: Mapping[Any, Any], at: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Pairs of a list of mappings: where, of which model, which."""
    listed = section.get(at[-1])
    for index, entry in enumerate(listed if isinstance(listed, list) else ()):
        for model, names in _mapping(entry).items():
            yield (*at, index, model), model, names


def _fallbacks(router: Mapping[Any, Any], library: Mapping[Any, Any], draft: Draft, report: Report) -> None:
    sections = ((router, "router_settings"), (library, "litellm_settings"))
    for name, why in (("fallbacks", "failure"), ("context_window_fallbacks", "context")):
        said = [one for section, at in sections for one in _each(section, (at, name))]
        # (What is said of all holds for those of which nothing is said by name.)
        for path, model, names in sorted(said, key=lambda one: one[1] == "*"):
            rest = [one for one in draft.models if why not in draft.of_route(one, "fallback_on")]
            for one in rest if model == "*" else (model,):
                _fall_back(path, one, names, why, draft, report)
            if model == "*" and draft.models:
                report.tell("translated", path, "each model has its own already")
    for section, at in sections:
        if "default_fallbacks" in section:
            path = (at, "default_fallbacks")
            for model in draft.models:
                if "failure" not in draft.of_route(model, "fallback_on"):
                    _fall_back(path, model, section["default_fallbacks"], "failure", draft, report)
            report.tell("translated", path, "each model has its own already")


def _fall_back(path: Path, model: Any, names: Any, why: str, draft: Draft, report: Report) -> None:
    """The models to which another's requests go. Of those that cannot be, each is told of by itself."""
    if model not in draft.models or not isinstance(names, list):
        report.tell("left", path, OTHERWISE if model in draft.models else _NO_MODEL)
        return
    before = draft.of_route(model, "fallback")
    said = list(before)
    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in draft.models:
            report.tell("left", (*path, index), _NO_MODEL)
        elif name not in (model, *said):
            if len(said) >= MAX_FALLBACKS:
                report.tell("left", (*path, index), f"a route has {MAX_FALLBACKS} of them at the most")
            else:
                said.append(name)
    reasons = list(dict.fromkeys([*draft.of_route(model, "fallback_on"), why]))
    if said and (problem := draft.route(model, {"fallback": said, "fallback_on": reasons})):
        report.tell("left", path, problem)
        return
    differs = [_FAILURES] if why == "failure" else []
    if before and said != before:
        differs.append("one list of its route holds for all reasons")
    words = "; ".join(differs)
    report.tell("different" if words else "translated", path, f"fallback, fallback_on{': ' if words else ''}{words}")


def _aliases(router: Mapping[Any, Any], draft: Draft, report: Report) -> None:
    for alias, entry in _mapping(router.get("model_group_alias")).items():
        path = ("router_settings", "model_group_alias", alias)
        model = entry if isinstance(entry, str) else _mapping(entry).get("model")
        if not isinstance(alias, str) or not isinstance(model, str) or model not in draft.models or alias in draft.models:
            report.tell("left", path, "an alias is another name of a model that an engine here has, and no model itself")
            continue
        names = draft.of_route(model, "aliases")
        problem = f"a model has {MAX_ALIASES} of them at the most" if len(names) >= MAX_ALIASES else ""
        problem = problem or draft.route(model, {"aliases": [*names, alias]})
        if problem:
            report.tell("left", path, problem)
            continue
        if isinstance(entry, Mapping):
            if entry.get("hidden"):
                report.tell("left", (*path, "hidden"), "GET /v1/models shows aliases to who may use them")
            report.tell("translated", (*path, "hidden"), "as it is here anyway")
            report.tell("translated", (*path, "model"), "aliases of its route")
        else:
            report.tell("translated", path, "aliases of its route")


def _mirrors(found: Found, draft: Draft, report: Report) -> None:
    for entry in found:
        if "silent_model" in entry.said:
            name = entry.said["silent_model"]
            right = isinstance(name, str) and name in draft.models
            problem = draft.route(entry.one.model, {"mirror_to": name}) if right else _NO_MODEL
            words = problem or "mirror_to of its route: copies of requests for all its engines"
            report.tell("left" if problem else "different", entry.at("silent_model"), words)


def _callbacks(library: Mapping[Any, Any], draft: Draft, report: Report) -> None:
    for name in ("callbacks", "success_callback", "failure_callback", "service_callback", "service_callbacks"):
        listed = library.get(name)
        for index, one in enumerate(listed if isinstance(listed, list) else [listed] if isinstance(listed, str) else ()):
            path: Path = ("litellm_settings", name, index) if isinstance(listed, list) else ("litellm_settings", name)
            if one == "prometheus":
                words = "/metrics is there, and not at the port for clients (metrics_public); its names are in docs/metrics.md"
                put(draft, report, path, {"control_listen": f"127.0.0.1:{_free(draft)}"}, words)
            elif one in ("otel", "opentelemetry"):
                words = "needs the extra `otel`, and OTEL_EXPORTER_OTLP_ENDPOINT for where (docs/traces.md)"
                put(draft, report, path, {"enable_otlp_tracing": True}, words)
            else:
                report.tell("left", path, table.NO_CALLBACK)


def _free(draft: Draft) -> int:
    """A port for the control listener at which no engine is."""
    urls = " ".join(str(fields["url"]) for fields, _ in draft.engines)
    return next(port for port in range(9090, 65536) if f":{port}" not in urls)


def _prices(found: Found, draft: Draft, report: Report) -> None:
    """Dollars for a token become dollars for a million of them."""
    for entry in found:
        fields: dict[str, str] = {}
        paths: list[Path] = []
        for section, at in ((entry.said, "litellm_params"), (entry.info, "model_info")):
            for name, price in table.PRICES.items():
                path = (*entry.one.path, at, name)
                try:
                    if name in section:
                        fields.setdefault(price, f"{(Decimal(str(section[name])) * 1_000_000).normalize():f}")
                        paths.append(path)
                except ArithmeticError:
                    report.tell("left", path, "it is no price")
        if paths:
            problem = draft.price(entry.one.model, {"input": "0", **fields})
            for path in paths:
                report.tell("left" if problem else "translated", path, problem or "[[prices]], for a million tokens")
