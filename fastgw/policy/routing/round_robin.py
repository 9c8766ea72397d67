"""Each engine in its turn, by weight; engines that are not well are passed over while another is.

Where all weights are equal, engines follow each other. Else the next turn is that of the engine whose time is up first: a turn
takes one of weight 3 a third of the time that it takes one of weight 1, and those of one weight begin apart, so that turns are
exact and do not bunch up. (Earliest deadline first, as Envoy's. Who is next is found in ten steps among a thousand engines, and
nothing is laid out but a heap, when the first request comes. Where the first :data:`PASSED` in turn take no request, most of a
large fleet does not: then the next who does has this turn, and nobody's own comes later for it.) """

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.search import search
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

ROUND: Final = 1 << 32  # the time that an engine of weight 1 takes for a turn
PASSED: Final = 16  # engines in turn that are passed over, one by one; groups of as many keep to weights whoever is well
_BITS: Final = 32  # of a number in the heap that say whose turn it is; those above say when (tuples take four times as long)
_WHOSE: Final = (1 << _BITS) - 1


class Turns:
    """Those of ``pools``. ``even``: all weights are equal, and nothing is kept here."""

    __slots__ = ("_at", "_due", "_steps", "even", "pools")

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        self.pools = pools
        weights = [pool.engine.weight for pool in pools]
        self.even = min(weights) == max(weights)
        self._steps = [] if self.even else [ROUND // weight << _BITS for weight in weights]
        self._due: list[int] = []
        self._at = 0  # where the next turn out of turn is looked for
        alike = Counter(weights)
        begun = dict.fromkeys(alike, 1)
        for at in range(len(self._steps)):
            weight = weights[at]
            self._due.append((ROUND * begun[weight] // (2 * alike[weight] * weight) << _BITS) + at)
            begun[weight] += 2
        heapify(self._due)

    def next(self, tried: tuple[Pool, ...]) -> Pool | None:
        """The engine whose turn it is, of those that take a request; else the first that is a last resort, if any."""
        due = self._due
        passed: list[int] = []
        while due and len(passed) < PASSED:
            first = due[0]
            at = first & _WHOSE
            pool = self.pools[at]
            if pool not in tried and pool.engine.usable():
                heapreplace(due, first + self._steps[at])
                for one in passed:  # they have had their turn
                    heappush(due, one + self._steps[one & _WHOSE])
                return pool
            passed.append(heappop(due))
        everyone = not due
        pools = tuple([self.pools[one & _WHOSE] for one in passed]) if everyone else self.pools
        place = search(pools, 0 if everyone else self._at, tried)
        for number, one in enumerate(passed):  # (where nobody has a turn, they still have theirs)
            had = number == place if everyone else place >= 0
            heappush(due, one + self._steps[one & _WHOSE] if had else one)
        if place < 0:
            return None
        if not everyone:
            self._at = place + 1 if place + 1 < len(pools) else 0
        return pools[place]

    def order(self) -> list[int]:
        """Places in ``pools``, in the order in which their turns come."""
        return [one & _WHOSE for one in sorted(self._due)]


class RoundRobin(Strategy):
    """The usual case, a first attempt on a healthy engine, looks at one engine, however many there are."""

    __slots__ = ()

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        turns: Turns | None = group.notes.get("turns")
        if turns is None:
            turns = group.notes["turns"] = Turns(group.pools)
        if not turns.even:
            return turns.next(tried)
        pools = group.pools
        at = group.cursor
        pool = pools[at]
        if tried or not pool.engine.usable():
            at = search(pools, at, tried)
            if at < 0:
                return None
            pool = pools[at]
        at += 1
        group.cursor = at if at < len(pools) else 0
        return pool

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        turns: Turns = group.notes.get("turns") or Turns(group.pools)
        count = len(group.pools)
        order = [(group.cursor + step) % count for step in range(count)] if turns.even else turns.order()
        places = {at: place for place, at in enumerate(order)}
        return [
            (float(places[at]), f"{places[at]} engines have a turn before it, and its weight is {pool.engine.weight}")
            for at, pool in enumerate(group.pools)
        ]
