"""The first engine that is well, in configured order; one that is not well only when nothing else is left."""

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class Ordered(Strategy):
    """First come in the configuration, first served."""

    __slots__ = ()

    def pick(self, group: Group, tried: tuple[Pool, ...]) -> Pool | None:
        last_resort = None
        for pool in group.pools:
            if pool in tried:
                continue
            if pool.engine.usable():
                return pool
            # One that is not well is better than nobody; one that is full, or is being spared, is not.
            if last_resort is None and pool.engine.last_resort():
                last_resort = pool
        return last_resort
