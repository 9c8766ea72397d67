"""Any engine, by weight. Many gateways in front of the same engines need know nothing of each other for it to be even."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Final

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.search import those
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

DRAWS: Final = 4  # before all engines are looked through: where half of them are ill, one request in sixteen does so


class Random(Strategy):
    """Drawn by weight; whoever cannot take the request is put back and drawn again, so that those who can keep their shares
    among themselves. The usual case looks at one engine."""

    __slots__ = ("_chance",)

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        upto: list[int] | None = group.notes.get("shares")
        if upto is None:
            upto = group.notes["shares"] = shares(group.pools)
        pools = group.pools
        for _ in range(DRAWS):
            pool = pools[bisect_right(upto, int(self._chance() * upto[-1]))]
            if pool not in tried and pool.engine.usable():
                return pool
        fit = those(pools, tried)
        if not fit:
            return None
        upto = shares(tuple(fit))
        return fit[bisect_right(upto, int(self._chance() * upto[-1]))]

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        return [(1.0 / pool.engine.weight, f"any, as likely as its weight {pool.engine.weight} says") for pool in group.pools]


def shares(pools: tuple[Pool, ...]) -> list[int]:
    """Up to which number of all weights together each engine is drawn."""
    return list(accumulate([pool.engine.weight for pool in pools]))
