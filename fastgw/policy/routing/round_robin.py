"""Each engine in its turn, by weight; engines that are not well are passed over while another is."""

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.search import search
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class RoundRobin(Strategy):
    """The usual case, a first attempt on a healthy engine, looks at one engine, however many there are."""

    __slots__ = ()

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        turns = group.turns
        at = group.cursor
        pool = turns[at]
        if tried or not pool.engine.usable():
            at = search(turns, at, tried)
            if at < 0:
                return None
            pool = turns[at]
        at += 1
        group.cursor = at if at < len(turns) else 0
        return pool

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        turns = group.turns
        found = []
        for pool in group.pools:
            ahead = (turns.index(pool, group.cursor) if pool in turns[group.cursor :] else turns.index(pool) + len(turns))
            ahead -= group.cursor
            found.append((float(ahead), f"{ahead} turns before it, and its weight is {pool.engine.weight}"))
        return found
