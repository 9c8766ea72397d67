"""Who may use a gateway, as its settings say: the accounts at a start, and when the settings are others.

Owns: what holds for keys that say nothing else, and the order in which keys come and go. In pieces of a millisecond: nobody
waits for ten thousand keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from fastgw.config import Config, RouteConfig
from fastgw.config.money import amount, price
from fastgw.exchange.gateway import GatewayCore
from fastgw.housekeeping import Housekeeping
from fastgw.limits.account import Accounts, Defaults
from fastgw.limits.scope import Limits
from fastgw.limits.scopes import NONE, ModelLimits
from fastgw.limits.spending import OTHERS, Price, at_most
from fastgw.net.clock import micros
from fastgw.stats import EventLog

if TYPE_CHECKING:
    from fastgw.store.folder import Loaded
    from fastgw.store.state import State

PIECE: Final = 1000  # keys taken over at once: a millisecond


def of(config: Config) -> Accounts:
    """The accounts of the configuration's keys."""
    found = Accounts(_defaults(config), config.api_key_digests, required=config.require_key)
    _price(found, config)
    found.share(budgets_of(config))
    found.scopes.follow(tenants_of(config), models_of(config), micros(monotonic()))
    return found


def budgets_of(config: Config) -> dict[str, tuple[int, str]]:
    """What each tenant may spend, and in which period; 0 = no limit."""
    return {one.name: (amount(one.budget or "0"), one.budget_period or config.budget_period) for one in config.tenants}


def tenants_of(config: Config) -> dict[str, Limits]:
    """What holds for all keys of each tenant together."""
    return {
        one.name: Limits(one.requests_per_minute, one.burst, one.tokens_per_minute, one.daily_tokens, one.concurrency)
        for one in config.tenants
    }


def models_of(config: Config) -> list[ModelLimits]:
    """What holds for each model: together, and for each key. (How many may be under way of all is the queue's.)"""
    return [
        ModelLimits(
            (one.model, *one.aliases),
            Limits(one.requests_per_minute, one.burst, one.tokens_per_minute, one.daily_tokens),
            Limits(
                one.key_requests_per_minute, one.key_burst, one.key_tokens_per_minute, one.key_daily_tokens, one.key_concurrency
            ),
        )
        for one in config.routes
        if not one.models
    ]  # fmt: skip


def _scoped(config: Config) -> bool:
    """Whether any model has limits."""
    return any(one.together != NONE or one.each != NONE for one in models_of(config))


def _priced(config: Config) -> tuple[object, ...]:
    """The settings that prices come from."""
    return config.prices, config.routes, config.on_unknown_price


def _price(accounts: Accounts, config: Config) -> None:
    prices = prices_of(config)
    may = {name: models for name, models in answering(config.routes).items() if not models <= prices.keys()}
    accounts.books.follow(prices, dearest_of(prices, config.routes), config.on_unknown_price == "refuse", may)


def answering(routes: Sequence[RouteConfig]) -> dict[str, frozenset[str]]:
    """By each name with a route the models that may answer for it: the model, or those that it stands for, and all that each of
    them falls back to."""
    found: dict[str, frozenset[str]] = {}
    fallbacks = {route.model: route.fallback for route in routes}
    for route in routes:
        models = route.models or [route.model]
        may = frozenset((*models, *route.fallback, *(other for model in models for other in fallbacks.get(model, ()))))
        found |= dict.fromkeys((route.model, *route.aliases), may)
    return found


def dearest_of(prices: dict[str, Price], routes: Sequence[RouteConfig]) -> dict[str, Price]:
    """By each name what the dearest of those costs that may answer for it. A name is left out where the price of one of them is
    not known."""
    found = {model: at_most([one]) for model, one in prices.items()}
    for name, may in answering(routes).items():
        known = [one for model in may if (one := prices.get(model, prices.get(OTHERS))) is not None]
        found.pop(name, None)
        if len(known) == len(may):
            found[name] = at_most(known)
    return found


def prices_of(config: Config) -> dict[str, Price]:
    """What each model costs, by all of its names."""
    found = {one.model: Price(price(one.input), price(one.cached or one.input), price(one.output)) for one in config.prices}
    for route in config.routes:
        if route.model in found:
            found |= dict.fromkeys(route.aliases, found[route.model])
    return found


def restore(accounts: Accounts, loaded: Loaded, log: EventLog) -> None:
    """Add what the store holds."""
    while loaded.keys:
        # Each record goes as its account comes: the memory of both at once would never be given back.
        accounts.apply(loaded.keys[-PIECE:], micros(monotonic()), time())
        del loaded.keys[-PIECE:]
    if loaded.unread and not accounts.required:
        log.warning("what the store held is not known, and may have been keys: requests without one are refused")
    if loaded.closed or loaded.unread:
        accounts.required = True  # there were keys once: the last one that went left the gateway closed


async def follow(
    core: GatewayCore, before: Config, config: Config, state: State | None, keeping: Housekeeping | None
) -> None:
    """From now on let in whom ``config`` does, with its limits. New keys come first, and old ones go last: nobody is refused
    for a moment who is let in before and after it."""
    accounts = core.accounts
    if _priced(config) != _priced(before):
        _price(accounts, config)
    accounts.required = accounts.required or config.require_key
    held, now = set(before.api_key_digests), set(config.api_key_digests)
    gone = [digest for digest in before.api_key_digests if digest not in now]
    others = _told(config) != _told(before)
    if others:
        accounts.share(budgets_of(config))
        accounts.scopes.follow(tenants_of(config), models_of(config), micros(monotonic()))
        accounts.follow(_defaults(config), micros(monotonic()))
    come = [digest for digest in config.api_key_digests if others or digest not in held]
    fresh = False
    for start in range(0, len(come), PIECE):
        fresh |= accounts.admit(come[start : start + PIECE], micros(monotonic()))
        await asyncio.sleep(0)
    for start in range(0, len(gone), PIECE):
        accounts.retire(gone[start : start + PIECE])
        await asyncio.sleep(0)
    core.version += 1
    if state is not None and others:
        state.tell_again()  # its keys too say of some limits nothing
    if keeping is not None and fresh:
        keeping.ask_for(core.today)  # what the store has of a key that is new here


def _told(config: Config) -> tuple[object, ...]:
    """The settings that hold for keys which say nothing else."""
    return (
        config.rate_limit_per_minute, config.key_burst, config.tokens_per_minute, config.daily_token_quota,
        config.key_concurrency, config.on_exhausted, config.key_budget, config.budget_period, config.tenants,
        models_of(config),
    )  # fmt: skip


def _defaults(config: Config) -> Defaults:
    return Defaults(
        requests_per_minute=config.rate_limit_per_minute,
        burst=config.key_burst,
        tokens_per_minute=config.tokens_per_minute,
        daily_tokens=config.daily_token_quota,
        concurrency=config.key_concurrency,
        cut=config.on_exhausted == "cut",
        budget=amount(config.key_budget) if config.key_budget else 0,
        budget_period=config.budget_period,
        scoped=_scoped(config),
    )
