"""Lanes: who competes for the same engines, and whether one of them has room.

Owns how many of a model's requests are under way, and those of a lane that wait; the queue alone moves either. Must never wait
or choose: the strategy does, among the engines that this finds room at.
"""

from __future__ import annotations

from fastgw.exchange.exchange import Exchange
from fastgw.limits.fairqueue import FairQueue
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class Terms:
    """What holds for all requests for one model, and how many of them are under way; ``limit`` 0 = none of its own. Where one
    finds no room, it is refused if that ``rejects``, or sent to another model of ``fallback``, and else it waits.
    ``timeout_s``: for a whole exchange, 0 = what holds for all."""

    __slots__ = ("fallback", "inflight", "limit", "rejects", "timeout_s")

    def __init__(self, limit: int, rejects: bool, fallback: tuple[str, ...] = (), timeout_s: float = 0.0) -> None:
        self.limit = limit
        self.rejects = rejects
        self.fallback = fallback
        self.timeout_s = timeout_s
        self.inflight = 0


class Lane:
    """The requests that compete for the same engines, under the same ``terms``. (A model whose engines are not the same for
    everybody has several lanes, which have their terms in common.)"""

    __slots__ = ("group", "queue", "served_at", "terms")

    def __init__(self, terms: Terms) -> None:
        self.group: Group | None = None
        self.terms = terms
        self.queue: FairQueue | None = None  # made when the first one waits
        self.served_at = 0

    def room(self, tried: tuple[Pool, ...]) -> bool:
        """Whether one more of its requests, which has been at the engines ``tried``, may go to an engine now.

        True as well where no engine is fit: it is told so at once, and does not wait for nothing.
        """
        terms = self.terms
        if terms.limit and terms.inflight >= terms.limit:
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


def makes_room(exchange: Exchange) -> bool:
    """Whether something that was under way at its engines has been given up for a request."""
    for hook in exchange.gateway.on_crowded:  # noqa: SIM110 - a function that is compiled has no room for a generator
        if hook(exchange):
            return True
    return False
