"""Each engine in its turn, by weight; engines that are not well are passed over while another is."""

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class RoundRobin(Strategy):
    """The usual case, a first attempt on a healthy engine, looks at one engine, however many there are."""

    __slots__ = ()

    def pick(self, group: Group, tried: tuple[Pool, ...]) -> Pool | None:
        turns = group.turns
        at = group.cursor
        pool = turns[at]
        if not tried and pool.engine.usable():
            at += 1
            group.cursor = at if at < len(turns) else 0
            return pool
        return self._search(group, tried)

    @staticmethod
    def _search(group: Group, tried: tuple[Pool, ...]) -> Pool | None:
        turns = group.turns
        count = len(turns)
        last_resort = None
        resort_at = 0
        for at in range(group.cursor, group.cursor + count):
            pool = turns[at % count]
            if pool in tried:
                continue
            if pool.engine.usable():
                group.cursor = (at + 1) % count
                return pool
            # One that is not well is better than nobody; one that is full, or is being spared, is not.
            if last_resort is None and pool.engine.last_resort():
                last_resort = pool
                resort_at = at
        if last_resort is not None:
            group.cursor = (resort_at + 1) % count
        return last_resort
