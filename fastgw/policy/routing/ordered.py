"""The first engine that is well, in configured order; one that is not well only when nothing else is left."""

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class Ordered(Strategy):
    """First come in the configuration, first served."""

    def pick(self, group: Group, tried: tuple[Pool, ...]) -> Pool | None:
        last_resort = None
        for pool in group.pools:
            if pool in tried:
                continue
            if pool.engine.healthy is not False:
                return pool
            if last_resort is None:
                last_resort = pool
        return last_resort
