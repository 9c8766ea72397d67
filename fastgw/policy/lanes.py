"""Lanes: who competes for the same engines, and whether one of them has room.

Owns how many of a model's requests are under way, and those of a lane that wait; the queue alone moves either. Must never wait
or choose: the strategy does, among the engines that this finds room at.
"""

from __future__ import annotations

from typing import Final

from fastgw.exchange.exchange import Exchange
from fastgw.limits.fairqueue import FairQueue
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

MOST_BESIDE: Final = 32
"""Lanes beside one, each for those that may go to the same ones of its engines; all others wait in one more."""


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
    everybody has several lanes, which have their terms in common.)

    Who needs what not all engines have, or has been at some, waits in a lane ``beside`` it, whose ``home`` it is, with those
    for whom the same engines are left: so nobody waits behind one that is for others. It is there while somebody waits in it.
    """

    __slots__ = ("beside", "group", "home", "left", "queue", "served_at", "terms")

    def __init__(self, terms: Terms, home: Lane | None = None, left: tuple[Pool, ...] = ()) -> None:
        self.group: Group | None = None
        self.terms = terms
        self.queue: FairQueue | None = None  # made when the first one waits
        self.served_at = 0
        self.beside: dict[tuple[Pool, ...], Lane] = {}
        self.home = home
        self.left = left

    def line(self, left: tuple[Pool, ...], turn: int) -> Lane:
        """The lane beside it of those for whom these engines are ``left``, for one that is to wait there. A new one has had its
        ``turn``."""
        found = self.beside.get(left)
        if found is None and len(self.beside) >= MOST_BESIDE:
            left = ()
            found = self.beside.get(left)
        if found is None:
            found = self.beside[left] = Lane(self.terms, self, left)
            found.served_at = turn
        return found

    def emptied(self) -> None:
        """Nobody waits in it any more."""
        home = self.home
        if home is not None and home.beside.get(self.left) is self:
            del home.beside[self.left]

    def room(self, pools: tuple[Pool, ...], tried: tuple[Pool, ...]) -> bool:
        """Whether one more of its requests, which may go to ``pools`` and has been at those ``tried``, may go to an engine now.

        True as well where no engine is fit: it is told so at once, and does not wait for nothing.
        """
        terms = self.terms
        if terms.limit and terms.inflight >= terms.limit:
            return False
        full = False
        for pool in pools:
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
