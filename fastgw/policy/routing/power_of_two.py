"""Two engines drawn at random, and of these the one with less to do.

That is nearly as even as looking at all of them (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001),
at the cost of two; and gateways that do not know of each other do not all run to the one engine that is emptiest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.loads import REQUESTS, scores_of
from fastgw.policy.routing.search import draw, lighter
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

DRAWS: Final = 4  # of pairs, before all engines are looked through


class PowerOfTwo(Strategy):
    """Drawn from the engines, each as likely as the others: weights and slots count in what "less to do" is."""

    __slots__ = ("_chance",)

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        pools = group.pools
        chance = self._chance
        count = len(pools)
        if count > 1:
            for _ in range(DRAWS):
                at = int(chance() * count)
                beside = at + 1 + int(chance() * (count - 1))
                one = pools[at]
                other = pools[beside if beside < count else beside - count]
                other_fit = other not in tried and other.engine.usable()
                if one not in tried and one.engine.usable():
                    return other if other_fit and lighter(other, one) else one
                if other_fit:
                    return other
        return draw(pools, tried, chance)

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        return [(score, why + " (the better of two drawn)") for score, why in scores_of(group, REQUESTS)]
