"""The first engine that is well, in configured order; one that is not well only when nothing else is left."""

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.search import search
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class Ordered(Strategy):
    """First come in the configuration, first served."""

    __slots__ = ()

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        pools = group.pools
        at = search(pools, 0, tried)
        return pools[at] if at >= 0 else None

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        return [(float(at), f"number {at + 1} in order") for at in range(len(group.pools))]
