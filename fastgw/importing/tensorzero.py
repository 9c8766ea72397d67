"""A configuration of TensorZero, as one of fastgw.

Owns: what needs a look at several of its entries: models and their providers, functions, limits. Single ones are rows in
``tensorzero_table.py``. Must never: take a secret over.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from fastgw.config.address import is_loopback, parse_host_port
from fastgw.importing import tensorzero_table as table
from fastgw.importing.deployments import NO_ADDRESS, NO_PROVIDER, Deployment, into_engines, key_of
from fastgw.importing.draft import STATE_DIR, STATE_DIR_IS, Draft
from fastgw.importing.litellm_table import STATUSES, Provider
from fastgw.importing.report import Outcome, Path, Report, shown
from fastgw.importing.rules import apply, limit, milliseconds, number, put, whole

VARIABLE: Final = "env::"
PORT: Final = 3000
MOST_RETRIES: Final = 15
_EACH: Final = "tensorzero::each"
_SECTIONS: Final = {"models": "tensorzero::model_name::", "embedding_models": "tensorzero::embedding_model_name::"}
_UNKNOWN: Final = "nothing is known of it here: see docs/configuration.md"
_TIMES: Final = ("non_streaming", "total_ms"), ("streaming", "total_ms")


def translate(source: Mapping[str, Any]) -> tuple[Draft, Report]:
    report, draft = Report(source), Draft("tensorzero")
    models = [((section, model), entry) for section in _SECTIONS for model, entry in _tables(source, section)]
    into_engines([one for path, entry in models for one in _of_model(path, entry, source, report)], draft, report)
    _listens(_mapping(source.get("gateway")), draft, report)
    tries = 0
    for path, entry in models:
        tries = max(tries, _route(path, entry, _SECTIONS[path[0]], draft, report))
    for name, entry in _tables(source, "functions"):
        tries = max(tries, _function(name, entry, draft, report))
    if tries:
        retries = {"max_retries": min(tries, MOST_RETRIES), "retry_statuses": STATUSES, "retry_fresh": True}
        draft.set(retries, "providers after the first, and retries")
    apply(table.GATEWAY, ("gateway",), source.get("gateway"), draft, report)
    apply(table.SECTIONS, (), source, draft, report)
    _limits(_mapping(source.get("rate_limiting")), draft, report)
    report.close(_UNKNOWN)
    return draft, report


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _tables(source: Mapping[str, Any], section: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, entry) for name, entry in _mapping(source.get(section)).items() if isinstance(entry, Mapping)]


def _listens(gateway: Mapping[str, Any], draft: Draft, report: Report) -> None:
    path: Path = ("gateway", "bind_address")
    keyed = _mapping(gateway.get("auth")).get("enabled")
    if keyed is True:
        draft.set({"require_key": True}, "gateway.auth.enabled")
        draft.set({"state_dir": STATE_DIR}, STATE_DIR_IS)
        words = f"require_key and state_dir: make keys by `fastgw keys --state-dir {STATE_DIR} create --name NAME`"
        report.tell("different", ("gateway", "auth", "enabled"), words)
    elif keyed is False:
        report.tell("translated", ("gateway", "auth", "enabled"), "no key is asked for")
    if "bind_address" in gateway:
        try:
            host, port = parse_host_port(str(gateway["bind_address"]))
        except ValueError as error:
            report.tell("left", path, str(error))
        else:
            draft.set({"port": port}, shown(path))
            if is_loopback(host) or keyed is True:
                put(draft, report, path, {"host": host, "port": port})
            else:
                words = "port, and no host: without keys others are let in only where host and allow_anonymous = true say so"
                report.tell("left", path, words)
    draft.set({"port": PORT}, "TensorZero's own")


def _of_model(path: Path, entry: Mapping[str, Any], source: Mapping[str, Any], report: Report) -> list[Deployment]:
    """Its providers that are engines, in the order of its ``routing``."""
    routing = entry.get("routing")
    found = []
    for name, said in _tables(entry, "providers"):
        here = (*path, "providers", name)
        if not isinstance(routing, list) or name not in routing:
            report.tell("left", here, "its model's routing does not name it: there it gets no requests either")
            continue
        provider = table.PROVIDERS.get(str(said.get("type")))
        url = said.get("api_base", provider.base if provider else "")
        if provider is None:
            report.tell("left", here, NO_PROVIDER)
        elif not isinstance(url, str) or not url:
            report.tell("left", here, NO_ADDRESS)
        else:
            one = Deployment(
                here, str(path[-1]), url, provider.kind, str(said.get("model_name", "")), order=routing.index(name)
            )
            _more(one, said, provider, source)
            found.append(one)
    return found


def _more(one: Deployment, said: Mapping[str, Any], provider: Provider, source: Mapping[str, Any]) -> None:
    one.told += [
        ("translated", (*one.path, name), words)
        for name, words in {"type": "kind", "api_base": "url", "model_name": "served_name"}.items()
    ]
    places: list[tuple[Path, object]] = [((*one.path, "api_key_location"), said.get("api_key_location"))]
    for section in ("model_providers", "provider_types"):
        kind = str(said.get("type"))
        defaults = _mapping(_mapping(_mapping(source.get(section)).get(kind)).get("defaults"))
        places.append(((section, kind, "defaults", "api_key_location"), defaults.get("api_key_location")))
    path, value = next((place for place in places if place[1] is not None), ((), None))
    if value is None:
        one.key_variable = provider.variable
    else:
        _key(one, value, path)
    one.told += [("left", (*one.path, name), words) for name, words in table.OF_A_PROVIDER.items()]
    one.told.append(
        ("left", (*one.path, "timeouts"), "times hold for all engines: first_byte_timeout_s, or timeout_s of a route")
    )


def _key(one: Deployment, value: object, path: Path) -> None:
    """The place of a key: of two the one that is a variable."""
    if isinstance(value, Mapping):
        names = [name for name in ("default", "fallback") if str(value.get(name)).startswith(VARIABLE)]
        if not names:
            one.told.append(("left", path, "name a variable that has its key in api_key_env"))
            return
        key_of(value[names[0]], (*path, names[0]), VARIABLE, one)
        one.told.append(("left", path, "an engine has one key"))
    elif isinstance(value, str) and value.startswith("dynamic::"):
        one.told.append(("left", path, "a client's key goes to no engine: name a variable that has its key in api_key_env"))
    else:
        key_of(value, path, VARIABLE, one)


def _route(path: Path, entry: Mapping[str, Any], prefix: str, draft: Draft, report: Report) -> int:
    """What holds for a model; returns how often a request of it may have to be sent again."""
    model = str(path[-1])
    there = sum(model in fields["models"] for fields, _ in draft.engines)
    routing = entry.get("routing")
    for index, name in enumerate(routing if isinstance(routing, list) else ()):
        if not there or not _is_engine(model, str(name), entry, draft):
            report.tell("left", (*path, "routing", index), "it is no engine here")
    if not there:
        return 0
    fields: dict[str, Any] = {"aliases": [*draft.of_route(model, "aliases"), f"{prefix}{model}"]}
    if there > 1:
        fields["policy"] = "ordered"
    if problem := draft.route(model, fields):
        report.tell("left", path, problem)
        return 0
    words = f'policy = "ordered" of its route: the next one after a failure, {table.RETRIED}'
    report.tell("different" if there > 1 else "translated", (*path, "routing"), words if there > 1 else "its engine")
    for name, words in table.OF_A_MODEL.items():
        report.tell("translated", (*path, name), words)
    _times(path, entry, draft, report)
    _prices(path, entry, draft, report)
    return there - 1


def _is_engine(model: str, name: str, entry: Mapping[str, Any], draft: Draft) -> bool:
    provider = _mapping(_mapping(entry.get("providers")).get(name))
    kind = table.PROVIDERS.get(str(provider.get("type")))
    served = str(provider.get("model_name", model))
    return kind is not None and any(
        model in fields["models"] and fields["kind"] == kind.kind and fields.get("served_name", model) == served
        for fields, _ in draft.engines
    )


def _times(path: Path, entry: Mapping[str, Any], draft: Draft, report: Report) -> None:
    """Where answers that are streams and others both have one, the longer of the two is the route's."""
    timeouts = entry.get("timeouts")
    try:
        times = [limit(milliseconds(_mapping(_mapping(timeouts).get(name)).get(unit))) for name, unit in _TIMES]
    except ValueError:
        words = "timeout_s of a route bounds streams and others alike, and first_byte_timeout_s is that of all models"
        report.tell("left", (*path, "timeouts"), words)
        return
    problem = draft.route(str(path[-1]), {"timeout_s": max(times)})
    for name, unit in _TIMES:
        words = problem or "timeout_s of its route: one for streams and others, the longer of the two"
        report.tell("left" if problem else "different", (*path, "timeouts", name, unit), words)
    report.tell("left", (*path, "timeouts"), "first_byte_timeout_s is that of all models")


def _prices(path: Path, entry: Mapping[str, Any], draft: Draft, report: Report) -> None:
    for name, provider in _tables(entry, "providers"):
        here = (*path, "providers", name, "cost")
        if "cost" not in provider:
            continue
        fields = _price(provider["cost"])
        problem = draft.price(str(path[-1]), fields) if fields else "[[prices]] are of tokens: input, output and cached"
        report.tell("left" if problem else "translated", here, problem or "[[prices]], of the model")


def _price(cost: object) -> dict[str, str]:
    """A price, where all that is said of it is of tokens."""
    found: dict[str, Decimal] = {}
    for one in cost if isinstance(cost, list) else ():
        pointer, amount = _mapping(one).get("pointer"), _mapping(one).get("cost_per_million")
        if set(_mapping(one)) - {"pointer", "cost_per_million", "required"} or isinstance(amount, bool):
            return {}
        if pointer not in (*table.POINTERS, table.CACHED) or not isinstance(amount, int | float):
            return {}
        found[table.POINTERS.get(pointer, "cached")] = Decimal(str(amount))
    if "input" not in found:
        return {}
    if "cached" in found:
        found["cached"] += found["input"]  # (there it is taken off the price of all of the prompt)
    return {name: f"{amount:f}" for name, amount in found.items()}


def _function(name: str, entry: Mapping[str, Any], draft: Draft, report: Report) -> int:
    """A function that is no more than a name for models is one here; returns how often it has a request sent again."""
    path: Path = ("functions", name)
    # (The first goes before all others here: it is the one that most requests go to there.)
    variants = dict(sorted(_tables(entry, "variants"), key=lambda each: -_or_0(each[1].get("weight"))))
    models = list(dict.fromkeys(str(one.get("model")).removeprefix("tensorzero::model_name::") for one in variants.values()))
    plain = entry.get("type") == "chat" and set(entry) <= table.PLAIN_FUNCTION and bool(variants)
    plain = plain and all(set(one) <= table.PLAIN_VARIANT and one.get("type") == "chat_completion" for one in variants.values())
    if not plain or not set(models) <= draft.models.keys():
        words = (
            "a function is a name here, models or aliases of a route: prompts, tools, schemas and parameters are the client's"
        )
        report.tell("left", path, words if not plain else "no engine here has the model of one of its variants")
        return 0
    alias = f"tensorzero::function_name::{name}"
    if len(models) == 1:
        problem = draft.route(models[0], {"aliases": [*draft.of_route(models[0], "aliases"), alias]})
        words = f"aliases of the route of {models[0]!r}"
    else:
        problem = draft.route(alias, {"models": models})
        words = f"the route {alias!r}: the first of its models that has room, where TensorZero draws one by its weight"
    tries = [_tries(("functions", name, "variants", variant), one, report) for variant, one in variants.items()]
    outcome: Outcome = "left" if problem else "different" if len(models) > 1 else "translated"
    for variant in variants:
        report.tell(
            "left", (*path, "variants", variant, "timeouts"), "timeout_s of the model's route bounds the whole exchange"
        )
    report.tell(outcome, path, problem or words)
    return 0 if problem else max(tries)


def _or_0(value: object) -> float:
    try:
        return number(value)
    except ValueError:
        return 0.0


def _tries(path: Path, variant: Mapping[str, Any], report: Report) -> int:
    retries = _mapping(variant.get("retries"))
    try:
        times = whole(retries["num_retries"]) if "num_retries" in retries else 0
    except (ValueError, OverflowError) as error:
        report.tell("left", (*path, "retries", "num_retries"), str(error))
        return 0
    report.tell(
        "different", (*path, "retries", "num_retries"), f"max_retries, the most of all: at another engine, {table.RETRIED}"
    )
    report.tell("left", (*path, "retries"), "pauses between tries are up to 25 ms, doubled each time up to a second")
    return max(0, times)


def _limits(section: Mapping[str, Any], draft: Draft, report: Report) -> None:
    rules = section.get("rules")
    if section.get("enabled") is False:
        report.tell("translated", ("rate_limiting",), "it is off")
        return
    report.tell("translated", ("rate_limiting", "enabled"), "limits hold where they are set")
    # (Of those of one scope the one with the highest priority holds there, and what is set first stays here.)
    ranked = sorted(
        enumerate(rules if isinstance(rules, list) else ()), key=lambda rule: -_or_0(_mapping(rule[1]).get("priority"))
    )
    for index, rule in ranked:
        path: Path = ("rate_limiting", "rules", index)
        if _mapping(rule).get("scope") != [{"api_key_public_id": _EACH}]:
            report.tell("left", path, table.NO_SCOPE)
            continue
        for name, value in rule.items():
            if "_per_" in name:
                _limit((*path, name), value, draft, report)
        report.tell("translated", (*path, "scope"), "each key has the gateway's limits, or its own")
        report.tell("different", path, "a key's own limits go before those of the gateway, and all rules hold")


def _limit(path: Path, value: object, draft: Draft, report: Report) -> None:
    setting, of = table.LIMITS.get(str(path[-1]), ("", 0))
    if not setting:
        report.tell("left", path, table.NO_LIMIT)
        return
    bucket = _mapping(value)
    try:
        rate = limit(number(bucket.get("refill_rate") if bucket else value))
        burst = number(bucket.get("capacity")) if bucket else rate
        if burst != rate and setting != "rate_limit_per_minute":
            raise ValueError("of tokens and money there may be no more at once than comes back")
        if isinstance(of, str):
            sets: dict[str, object] = {setting: f"{Decimal(str(rate)):f}", "budget_period": of}
        else:
            sets = {setting: whole(rate) * of}
            if setting == "rate_limit_per_minute" and (bucket or of > 1):
                sets["key_burst"] = whole(burst)
    except (ValueError, OverflowError) as error:
        report.tell("left", path, f"{error} ({setting})")
        return
    differs = (
        "" if setting == "rate_limit_per_minute" else "it begins anew with each period, and is reserved before an answer comes"
    )
    put(draft, report, path, sets, differs)
