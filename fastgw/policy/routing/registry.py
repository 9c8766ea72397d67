"""The list of strategies. ``fastgw/config/names.py`` has their names, and mypy finds a name without a strategy, or the reverse.

A gateway imports the one that it was told to take. ``weighted`` and ``round_robin`` are one: a round robin honours weights,
and where all are equal nobody can tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import assert_never

from fastgw.config import Config
from fastgw.config.names import Policy
from fastgw.exchange.context import Strategy


def strategy_of(name: Policy, chance: Callable[[], float] = random) -> Strategy:
    """A new strategy of that name. ``chance`` gives numbers from 0 up to, but not, 1 to those that throw dice."""
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
        case _:
            assert_never(name)


def strategy_for(config: Config, chance: Callable[[], float] = random) -> Strategy:
    """The one strategy of a gateway: ``policy``, or where routes have their own, one that looks at each request's model."""
    usual = strategy_of(config.policy, chance)
    own = {route.model: strategy_of(route.policy, chance) for route in config.routes if route.policy}
    if not own:
        return usual
    from fastgw.policy.routing.by_route import ByRoute

    return ByRoute(usual, own)
