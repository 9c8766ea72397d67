"""What tokens cost, and how much may be spent: prices, tenants, and their settings (a section of the table, ``table.py``).

Owns: :class:`PriceConfig` and :class:`TenantConfig` with a row for each field, their one-line spelling, and what must hold
among several of them. Amounts are texts (``money``): a number of TOML with a point has no exact value.
"""

# (No annotations from the future here: rows stand in them, and are read when the module is loaded.)
# fmt: off

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from fastgw.config import grammar
from fastgw.config.choosing import Choosing
from fastgw.config.entries import type_problems, value_problems
from fastgw.config.money import amount_problems, price_problems
from fastgw.config.names import BUDGET_PERIODS, BudgetPeriod, OnUnknownPrice, any_of
from fastgw.config.problems import ConfigError, ConfigErrors
from fastgw.config.row import Setting, row, rows_of, within

MAX_PRICES: Final = 10_000
MAX_TENANTS: Final = 10_000
MAX_TENANT_CHARS: Final = 128
"""As of a key's tenant."""


class PriceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the tokens of one model cost. Raises :class:`ConfigErrors` when a field is out of its range."""

    model: Annotated[str, row(
        "the model, as clients name it (an alias costs what its model does, and a name that stands for several what the one "
        "that answers does: neither has a price of its own); * = all that have no price of their own, and "
        "requests that name no model",
    )]
    input: Annotated[str, row(
        'of a million tokens of prompts, as text: "0.60"; up to 6 digits behind the point', check=price_problems,
    )]
    output: Annotated[str, row("of a million tokens of answers", check=price_problems)] = "0"
    cached: Annotated[str, row(
        "of a million tokens of prompts that the engine had at hand; empty = as input", check=price_problems,
    )] = ""

    def __post_init__(self) -> None:
        found = _problems(self, PRICE_FIELDS)
        if not found:
            found = [(name, "must be a price") for name in ("input", "output") if not getattr(self, name)]
            found += [] if self.model.strip() else [("model", "must be a name")]
        if found:
            raise ConfigErrors(ConfigError("PriceConfig", name, message) for name, message in found)


class TenantConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for all keys of one tenant together. Raises :class:`ConfigErrors` when a field is out of its range."""

    name: Annotated[str, row("the tenant, as its keys name it")]
    budget: Annotated[str, row(
        'what its keys may spend together in a period, as text: "250.00"; empty = no limit', check=amount_problems,
    )] = ""
    budget_period: Annotated[Literal[BudgetPeriod, ""], row(
        f"{any_of(BUDGET_PERIODS)}; the gateway's budget_period when empty",
    )] = ""
    requests_per_minute: Annotated[int, within(0, 10**9, "of all its keys together; 0 = no limit")] = 0
    burst: Annotated[int, within(0, 10**9, "of those, at once; 0 = as many as in a minute")] = 0
    tokens_per_minute: Annotated[int, within(0, 10**11, "of all its keys together; 0 = no limit")] = 0
    daily_tokens: Annotated[int, within(0, 10**15, "of all its keys together in a UTC day; 0 = no limit")] = 0
    concurrency: Annotated[int, within(0, 10**6, "requests of all its keys under way at most; 0 = no limit")] = 0

    def __post_init__(self) -> None:
        found = _problems(self, TENANT_FIELDS)
        if not found and not (self.name.strip() and self.name.isprintable() and len(self.name) <= MAX_TENANT_CHARS):
            found = [("name", f"must be a name of {MAX_TENANT_CHARS} printable characters at most")]
        if found:
            raise ConfigErrors(ConfigError("TenantConfig", name, message) for name, message in found)


class Paying(Choosing, frozen=True, kw_only=True):
    """What tokens cost, and how much may be spent."""

    prices: Annotated[Sequence[PriceConfig], row(
        "what tokens cost: model|input|output|cached, for a million tokens each, separated by semicolons; in TOML one "
        "[[prices]] table each. New prices hold for requests that end from then on",
        kind="prices",
    )] = ()
    currency: Annotated[str, row(
        "what prices and budgets are counted in: a word that is shown, and nothing else", check=grammar.currency,
    )] = "USD"
    on_unknown_price: Annotated[OnUnknownPrice, row(
        "what becomes of requests with a key that has a budget, for models that have no price: refuse = they are answered 403, "
        "allow = they are served, and spend nothing of it (usage counts their tokens as unpriced)",
    )] = "refuse"
    key_budget: Annotated[str, row(
        "what each key that has no budget of its own may spend in a period; empty = no limit", check=amount_problems,
    )] = ""
    budget_period: Annotated[BudgetPeriod, row(
        "the period of budgets that name none, in UTC: a day, a week from Monday on, or a month from its first day on",
    )] = "month"
    tenants: Annotated[Sequence[TenantConfig], row(
        "what holds for all keys of a tenant together: name|budget|budget_period|requests_per_minute|burst|tokens_per_minute|"
        "daily_tokens|concurrency, of which all but the name may be left out, separated by semicolons; in TOML one [[tenants]] "
        "table each",
        kind="tenants",
    )] = ()
    budget_webhook_url: Annotated[str, row(
        "who is told when 80 and 100 percent of a budget are spent, by a POST of JSON ([limits.md](limits.md#who-is-told)); "
        "empty = the log alone. It is kept as a secret is: some have a key in their path",
        secret=True, check=grammar.webhook_url,
    )] = ""
    budget_webhook_secret: Annotated[str, row(
        "by which those events are signed, 16 characters or more, so that their receiver knows whose they are",
        secret=True, check=grammar.webhook_secret,
    )] = ""


PRICE_FIELDS: Final[tuple[Setting, ...]] = rows_of(PriceConfig)
TENANT_FIELDS: Final[tuple[Setting, ...]] = rows_of(TenantConfig)
TENANT_NAMES: Final = tuple(one.name for one in TENANT_FIELDS)
_NUMBERS: Final = frozenset(one.name for one in TENANT_FIELDS if one.kind == "int")
_digits: Final = re.compile(r"[0-9]{1,18}").fullmatch


def _problems(entry: msgspec.Struct, rows: Sequence[Setting]) -> list[tuple[str, str]]:
    types = type_problems(entry, rows)
    return types + value_problems(entry, rows, types)


def parse_prices(text: str) -> list[PriceConfig]:
    """``model|input|output|cached;...``: the last two may be left out."""
    return _parsed(text, ("model", "input", "output", "cached"), 2, PriceConfig)


def parse_tenants(text: str) -> list[TenantConfig]:
    """``name|budget|period|requests|burst|tokens|daily|concurrency;...``: all but the name may be left out."""
    return _parsed(text, TENANT_NAMES, 1, TenantConfig)


def _parsed(text: str, names: tuple[str, ...], least: int, make: Callable[..., Any]) -> list[Any]:
    made = []
    for number, entry in enumerate((entry for entry in map(str.strip, text.split(";")) if entry), 1):
        parts = [part.strip() for part in entry.split("|")]
        if not least <= len(parts) <= len(names):
            raise ValueError(f"entry {number}: must be {'|'.join(names)}")
        try:
            said = {name: part for name, part in zip(names, parts, strict=False) if part or name in names[:least]}
            numbers = {name: int(part) for name, part in said.items() if name in _NUMBERS and _digits(part)}
            made.append(make(**{**said, **numbers}))
        except ConfigErrors as found:
            raise ValueError(f"entry {number}: {found.errors[0].name}: {found.errors[0].message}") from None
    return made


def clashes(prices: Sequence[PriceConfig], tenants: Sequence[TenantConfig]) -> list[tuple[str, str]]:
    """Entries for the same, and more of them than there may be."""
    found = []
    for setting, names, most in (
        ("prices", [one.model for one in prices], MAX_PRICES), ("tenants", [one.name for one in tenants], MAX_TENANTS),
    ):
        if len(names) > most:
            found.append((setting, f"there are more than {most}"))
            continue
        found += [(setting, f"{name!r} is named twice") for name, times in sorted(Counter(names).items()) if times > 1]
    return found
