"""The list of strategies. ``fastgw/config/names.py`` has their names, and mypy finds a name without a strategy, or the reverse.

A gateway imports the one that it was told to take. ``weighted`` and ``round_robin`` are one: a round robin honours weights,
and where all are equal nobody can tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any, assert_never

from fastgw.config import Config
from fastgw.config.names import Policy
from fastgw.exchange.context import Strategy
from fastgw.stats import Stats


def strategy_of(
    name: Policy,
    chance: Callable[[], float] = random,
    config: Config | None = None,
    stats: Stats | None = None,
    remembered: dict[str, Any] | None = None,
) -> Strategy:
    """A new strategy of that name. ``chance`` gives numbers from 0 up to, but not, 1 to those that throw dice; ``config`` has
    what is set for it (None: the defaults), ``stats`` are where it counts. ``remembered``: what strategies know of requests,
    each under its name; the next one, by other settings, goes on with it."""
    found = _made(name, chance, config or Config(), stats, remembered if remembered is not None else {})
    found.name = name
    return found


def _made(
    name: Policy, chance: Callable[[], float], config: Config, stats: Stats | None, remembered: dict[str, Any]
) -> Strategy:
    match name:
        case "round_robin" | "weighted":
            from fastgw.policy.routing.round_robin import RoundRobin

            return RoundRobin()
        case "ordered":
            from fastgw.policy.routing.ordered import Ordered

            return Ordered()
        case "least_loaded":
            from fastgw.policy.routing.least_loaded import LeastLoaded

            return LeastLoaded()
        case "random":
            from fastgw.policy.routing.at_random import Random

            return Random(chance)
        case "power_of_two":
            from fastgw.policy.routing.power_of_two import PowerOfTwo

            return PowerOfTwo(chance)
        case "ewma_latency":
            from fastgw.policy.routing.ewma_latency import EwmaLatency

            return EwmaLatency(chance)
        case "capability":
            from fastgw.policy.routing.capability import Capability

            needs = {route.model: frozenset(route.needs) for route in config.routes if route.needs}
            return Capability(config.needs_header.lower().encode(), needs)
        case "consistent_hash":
            from fastgw.policy.routing.consistent_hash import ConsistentHash
            from fastgw.policy.routing.keys import Keys

            return ConsistentHash(Keys(tuple(config.hash_sources)), config.hash_bound_percent)
        case "session":
            from fastgw.policy.routing.keys import Keys
            from fastgw.policy.routing.session import Session

            return Session(Keys(tuple(config.session_sources)), config.session_ttl_s, config.session_table, remembered)
        case "token_load":
            from fastgw.policy.routing.token_load import TokenLoad

            return TokenLoad()
        case "prefix_aware":
            return _prefix_aware(config, stats or Stats(), remembered)
        case _:
            assert_never(name)


def _prefix_aware(config: Config, stats: Stats, remembered: dict[str, Any]) -> Strategy:
    from os import urandom

    from fastgw.accel.prefixes import SECRET_BYTES
    from fastgw.policy.routing.prefix_aware import PrefixAware

    cache_bytes = config.prefix_cache_tokens * config.prompt_bytes_per_token
    return PrefixAware(
        urandom(SECRET_BYTES), config.prefix_table_bytes, cache_bytes, config.prefix_balance_percent, stats, remembered
    )


def strategy_for(
    config: Config,
    chance: Callable[[], float] = random,
    stats: Stats | None = None,
    remembered: dict[str, Any] | None = None,
) -> Strategy:
    """The one strategy of a gateway: ``policy``, or where routes have their own, one that looks at each request's model; and
    where clients may choose one, one that looks at its head."""
    made: dict[str, Strategy] = {}
    kept = {} if remembered is None else remembered

    def of(name: Policy) -> Strategy:
        # (One for all that say so: what it works out of engines it has by groups.)
        if name not in made:
            made[name] = strategy_of(name, chance, config, stats, kept)
        return made[name]

    found = of(config.policy)
    own = {route.model: of(route.policy) for route in config.routes if route.policy}
    if own:
        from fastgw.policy.routing.by_route import ByRoute

        found = ByRoute(found, own)
    if config.policy_header and config.policy_choices:
        from fastgw.policy.routing.chosen import Chosen

        choices = {name.encode(): of(name) for name in config.policy_choices}  # type: ignore[arg-type]
        found = Chosen(found, config.policy_header.lower().encode(), choices)
    return found
