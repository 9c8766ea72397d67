"""Each engine in its turn, by weight; engines that are not well are passed over while another is."""

from __future__ import annotations

from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class RoundRobin:
    """The usual case, a first attempt on a healthy engine, looks at one engine, however many there are."""

    def pick(self, group: Group, tried: tuple[Pool, ...]) -> Pool | None:
        """The engine for the next attempt; None when all have been tried."""
        turns = group.turns
        count = len(turns)
        cursor = group.cursor
        last_resort = None
        for step in range(count):
            at = cursor + step
            pool = turns[at % count]
            if pool in tried:
                continue
            if pool.engine.healthy is not False:
                group.cursor = (at + 1) % count
                return pool
            if last_resort is None:
                last_resort = pool
                resort_at = at
        if last_resort is not None:
            group.cursor = (resort_at + 1) % count
        return last_resort
