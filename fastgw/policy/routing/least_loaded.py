"""The engine that has least to do, for what it can take.

What an engine would have under way with this request, for each of its slots where all of the group have a number of
them (as configured, or found by the scheduler), else for its weight. Who is equal has its turn one after another.

It looks at each engine of the group, at each attempt: that is what it costs (docs/engines.md has figures).
"""

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.search import search
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class LeastLoaded(Strategy):
    """Fewest requests under way relative to slots, or weight."""

    __slots__ = ()

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        pools = group.pools
        count = len(pools)
        start = group.cursor if group.cursor < count else 0  # (turns by weight are more than engines)
        by_slots = True
        for pool in pools:
            if not pool.engine.slots:
                by_slots = False
                break
        best = -1
        best_load = best_room = 1
        for step in range(count):
            at = start + step
            if at >= count:
                at -= count
            pool = pools[at]
            engine = pool.engine
            load = engine.inflight + 1
            room = engine.slots if by_slots else engine.weight
            # (Whether it can take the request is asked only of one that would be it.)
            if (best < 0 or load * best_room < best_load * room) and pool not in tried and engine.usable():
                best = at
                best_load = load
                best_room = room
        if best < 0:
            best = search(pools, start, tried)
            if best < 0:
                return None
        at = best + 1
        group.cursor = at if at < count else 0
        return pools[best]
