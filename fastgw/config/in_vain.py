"""Settings that are right by themselves and have no effect as the others are: a warning for each, for whoever believes in it.

Owns: those rules, a row each. What is no setting's fault is passed over: where engines may come that the settings do not name
(a file, runners), or say their models themselves, nobody knows here which models and versions there are. Must never: refuse
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from fastgw.config.entries import RouteConfig
from fastgw.config.table import Settings

MOST_NOTES: Final = 20
"""That are told: a wrong file may have as many as it has words."""
_VERSION: Final = "version:"
_NOBODY: Final = "which no engine of the configuration has"


def _choices(settings: Settings) -> Iterator[str]:
    header, choices = settings.policy_header, settings.policy_choices
    if header and not choices:
        yield "policy_header is set, but policy_choices is not: no client can choose a policy by it"
    if choices and not header:
        yield "policy_choices is set, but policy_header is not: no client can choose a policy"


def _needs(settings: Settings) -> Iterator[str]:
    if settings.policy_header and "capability" in settings.policy_choices:
        return
    for route in settings.routes:
        policy = route.policy or settings.policy
        if route.needs and not route.models and policy != "capability":
            yield f"needs of {route.model!r} holds under the policy capability alone, and its policy is {policy}"


def _webhook(settings: Settings) -> Iterator[str]:
    if settings.budget_webhook_secret and not settings.budget_webhook_url:
        yield "budget_webhook_secret is set, but budget_webhook_url is not: nobody is sent anything that it signs"


def _tenants(settings: Settings) -> Iterator[str]:
    entries: list[tuple[str, str, object, str]] = [("the tenant ", one.name, one, "") for one in settings.tenants]
    entries += [("", route.model, route, prefix) for route in settings.routes for prefix in ("", "key_")]
    for whose, name, entry, prefix in entries:
        if getattr(entry, f"{prefix}burst") and not getattr(entry, f"{prefix}requests_per_minute"):
            yield f"{prefix}burst of {whose}{name!r} needs {prefix}requests_per_minute"
    if settings.tenants and not settings.state_dir:
        yield "tenants are given budgets or limits, but without state_dir there are no keys that are of a tenant"
    for one in settings.tenants:
        if not any(getattr(one, field) for field in one.__struct_fields__[1:]):
            yield f"the tenant {one.name!r} is given no budget and no limit"


def _shares(settings: Settings) -> Iterator[str]:
    for route in settings.routes:
        if route.sticky and not route.versions and not route.models:
            yield f"sticky of {route.model!r} needs versions"
        if route.mirror_percent != 100 and not route.mirror_to:
            yield f"mirror_percent of {route.model!r} needs mirror_to"


def _versions(settings: Settings) -> Iterator[str]:
    if not settings.engines or _others_come(settings):
        return
    there = {engine.version for engine in settings.engines}
    for route in settings.routes:
        named = [("versions", version) for version in route.versions]
        if route.mirror_to.startswith(_VERSION):
            named.append(("mirror_to", route.mirror_to.removeprefix(_VERSION)))
        for name, version in named:
            if version not in there:
                yield f"{name} of {route.model!r} names the version {version!r}, {_NOBODY}"


def _models(settings: Settings) -> Iterator[str]:
    if not settings.engines or _others_come(settings) or not all(engine.models for engine in settings.engines):
        return
    there = {model for engine in settings.engines for model in engine.models}
    there |= {route.model for route in settings.routes if route.adapter_of in there or there.intersection(route.models)}
    there.add(settings.served_model_name)
    for route in settings.routes:
        for name, models in _named(route):
            for model in models:
                if model and model not in there:
                    yield f"{name} of {route.model!r} names the model {model!r}, {_NOBODY}"
        if route.model not in there and not route.models and not route.adapter_of:
            yield f"a route is for the model {route.model!r}, {_NOBODY}"


def _named(route: RouteConfig) -> list[tuple[str, Sequence[str]]]:
    mirror = "" if route.mirror_to.startswith(_VERSION) else route.mirror_to
    return [
        ("fallback", route.fallback), ("mirror_to", (mirror,)), ("adapter_of", (route.adapter_of,)), ("models", route.models),
    ]  # fmt: skip


def _others_come(settings: Settings) -> bool:
    return bool(settings.engines_file or settings.runner_auth_token)


_RULES: Final[tuple[Callable[[Settings], Iterator[str]], ...]] = (
    _choices, _needs, _webhook, _tenants, _shares, _versions, _models,
)  # fmt: skip


def in_vain(settings: Settings) -> list[str]:
    """A sentence for each setting without any effect, the first :data:`MOST_NOTES` of them."""
    notes = list(islice((note for rule in _RULES for note in rule(settings)), MOST_NOTES + 1))
    return [*notes[:MOST_NOTES], "and there are more such settings"] if len(notes) > MOST_NOTES else notes
