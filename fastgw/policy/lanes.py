"""Lanes: who competes for the same engines, and whether one of them has room.

Owns how many of a lane's requests are under way, and those of them that wait; the queue alone moves either. Must never wait or
choose: the strategy does, among the engines that this finds room at.
"""

from __future__ import annotations

from fastgw.limits.fairqueue import FairQueue
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class Lane:
    """The requests that compete for the same engines; ``limit`` 0 = none of its own. Where it finds no room, a request is
    refused if the lane ``rejects``, or sent to another model of ``fallback``, and else it waits. ``timeout_s``: for a whole
    exchange, 0 = what holds for all."""

    __slots__ = ("fallback", "group", "inflight", "limit", "queue", "rejects", "served_at", "timeout_s")

    def __init__(self, limit: int, rejects: bool, fallback: tuple[str, ...] = (), timeout_s: float = 0.0) -> None:
        self.group: Group | None = None
        self.limit = limit
        self.rejects = rejects
        self.fallback = fallback
        self.timeout_s = timeout_s
        self.inflight = 0
        self.queue: FairQueue | None = None  # made when the first one waits
        self.served_at = 0

    def room(self, tried: tuple[Pool, ...]) -> bool:
        """Whether one more of its requests, which has been at the engines ``tried``, may go to an engine now.

        True as well where no engine is fit: it is told so at once, and does not wait for nothing.
        """
        if self.limit and self.inflight >= self.limit:
            return False
        full = False
        group = self.group
        assert group is not None
        for pool in group.pools:
            if tried and pool in tried:
                continue
            engine = pool.engine
            if engine.usable():
                return True
            if engine.full():
                full = True
        return not full


def fit(group: Group) -> bool:
    """Whether an engine would take a request now."""
    for pool in group.pools:
        engine = pool.engine
        if engine.usable():
            return True
    return False
