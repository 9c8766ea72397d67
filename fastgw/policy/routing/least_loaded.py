"""The engine that has least to do, for what it can take.

What an engine would have under way with this request, and what waits in it as it says itself, for each of its slots where all
of the group have a number of them (as configured, or found by the scheduler), else for its weight. Who is equal has its turn
one after another. The least of a thousand is found in ten steps (``loads``). """

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.loads import REQUESTS, loads_of, scores_of
from fastgw.policy.routing.search import search
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class LeastLoaded(Strategy):
    """Fewest requests under way relative to slots, or weight."""

    __slots__ = ("_unit",)

    def __init__(self) -> None:
        self._unit = REQUESTS

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        return by_load(group, tried, self._unit)

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        return scores_of(group, self._unit)


def by_load(group: Group, tried: tuple[Pool, ...], unit: int) -> Pool | None:
    """The engine of ``group`` with least to do; what other strategies do with a request that they have no opinion of."""
    pools = group.pools
    count = len(pools)
    start = group.cursor
    loads = loads_of(group, unit)
    best = loads.least_but(start, tried) if tried else loads.least(start)
    if best < 0:
        best = search(pools, start, tried)
        if best < 0:
            return None
    at = best + 1
    group.cursor = at if at < count else 0
    return pools[best]
