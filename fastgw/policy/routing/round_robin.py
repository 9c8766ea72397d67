"""Each engine in its turn, by weight; engines that are not well are passed over while another is.

Each model has turns of its own among the engines that serve it: with turns in common, two models that are asked for by turns
would each meet every second engine alone. A model's turns begin where the one's before it did, and one engine on, so that many
models that are rarely asked for do not all begin at the first engine. They are kept of the :data:`MOST_MODELS` latest of a
group.

Where all weights are equal, engines follow each other. Else the next turn is that of the engine whose time is up first: a turn
takes one of weight 3 a third of the time that it takes one of weight 1, and those of one weight begin apart, so that turns are
exact and do not bunch up. (Earliest deadline first, as Envoy's. Who is next is found in ten steps among a thousand engines, and
nothing is laid out but a heap, when the first request comes. Where the first :data:`PASSED` in turn take no request, most of a
large fleet does not: then the next who does has this turn, and nobody's own comes later for it.) """

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import Final

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.search import search
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

ROUND: Final = 1 << 32  # the time that an engine of weight 1 takes for a turn
PASSED: Final = 16  # engines in turn that are passed over, one by one; groups of as many keep to weights whoever is well
MOST_MODELS: Final = 64
"""Models of a group whose turns are kept; the one that came first begins anew when there is one more (clients name models)."""
_BITS: Final = 32  # of a number in the heap that say whose turn it is; those above say when (tuples take four times as long)
_WHOSE: Final = (1 << _BITS) - 1


class Turns:
    """Those of ``pools``. ``even``: all weights are equal; then ``at`` is whose turn it is, and nothing else is kept here."""

    __slots__ = ("_due", "_steps", "at", "even", "pools")

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        self.pools = pools
        weights = [pool.engine.weight for pool in pools]
        self.even = min(weights) == max(weights)
        self._steps = [] if self.even else [ROUND // weight << _BITS for weight in weights]
        self._due: list[int] = []
        self.at = 0  # with unequal weights: where the next turn out of turn is looked for
        alike = Counter(weights)
        begun = dict.fromkeys(alike, 1)
        for at in range(len(self._steps)):
            weight = weights[at]
            self._due.append((ROUND * begun[weight] // (2 * alike[weight] * weight) << _BITS) + at)
            begun[weight] += 2
        heapify(self._due)

    def apart(self) -> Turns:
        """Others, that begin as these are now; and these go on by one turn."""
        made = Turns.__new__(Turns)
        made.pools, made.even, made._steps, made._due, made.at = self.pools, self.even, self._steps, self._due.copy(), self.at
        if self.even:
            self.at = self.at + 1 if self.at + 1 < len(self.pools) else 0
        else:
            first = self._due[0]
            heapreplace(self._due, first + self._steps[first & _WHOSE])
        return made

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
        place = search(pools, 0 if everyone else self.at, tried)
        for number, one in enumerate(passed):  # (where nobody has a turn, they still have theirs)
            had = number == place if everyone else place >= 0
            heappush(due, one + self._steps[one & _WHOSE] if had else one)
        if place < 0:
            return None
        if not everyone:
            self.at = place + 1 if place + 1 < len(pools) else 0
        return pools[place]

    def order(self) -> list[int]:
        """Places in ``pools``, in the order in which their turns come."""
        return [one & _WHOSE for one in sorted(self._due)]


class RoundRobin(Strategy):
    """The usual case, a first attempt on a healthy engine, looks at one engine, however many there are."""

    __slots__ = ()

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        turns = turns_of(group, exchange.substitute or exchange.model)
        if not turns.even:
            return turns.next(tried)
        pools = turns.pools
        at = turns.at
        pool = pools[at]
        if tried or not pool.engine.usable():
            at = search(pools, at, tried)
            if at < 0:
                return None
            pool = pools[at]
        at += 1
        turns.at = at if at < len(pools) else 0
        return pool

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        known: dict[str, Turns] = group.notes.get("turns") or {}
        turns = known.get(exchange.substitute or exchange.model) or known.get("") or Turns(group.pools)
        count = len(group.pools)
        order = [(turns.at + step) % count for step in range(count)] if turns.even else turns.order()
        places = {at: place for place, at in enumerate(order)}
        return [
            (float(places[at]), f"{places[at]} engines have a turn before it, and its weight is {pool.engine.weight}")
            for at, pool in enumerate(group.pools)
        ]


def turns_of(group: Group, model: str) -> Turns:
    """Those of ``model``, "" = of requests that name none, among the engines of ``group``."""
    known: dict[str, Turns] | None = group.notes.get("turns")
    if known is None:
        known = group.notes["turns"] = {"": Turns(group.pools)}
    found = known.get(model)
    if found is None:
        if len(known) > MOST_MODELS:
            del known[next(islice(known, 1, 2))]
        found = known[model] = known[""].apart()
    return found
