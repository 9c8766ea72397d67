"""Which engines of a group could get a request now, and what keeps the others from it: for people.

Must never: change anything, or be asked on the way of a request.
"""

from __future__ import annotations

import msgspec

from fastgw.exchange.context import Strategy
from fastgw.exchange.declined import caller_of
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.policy.routing.search import search
from fastgw.upstream.table import Group


class Candidate(msgspec.Struct, frozen=True):
    """One engine. ``fit``: it could get the request now; ``why`` it could, or not. ``score``: the strategy's; of those
    who are fit the least is the best."""

    engine: str
    fit: bool
    why: str
    score: float
    version: str
    inflight: int
    slots: int
    weight: int


def explained(strategy: Strategy, group: Group, exchange: ExchangeState) -> list[Candidate]:
    """The engines of ``group``, the best first."""
    engines = {pool.engine.name: pool.engine for pool in group.pools}
    caller, now = caller_of(exchange), monotonic()
    found = []
    for one in strategy.explain(group, exchange.tries.pools, exchange):
        engine = engines[one.engine]
        told = one.fit and engine.told(caller, now)
        found.append(Candidate(
            engine.name, one.fit and not told, "has told this caller to come again later" if told else one.why,
            round(one.score, 6), engine.version, engine.inflight, engine.slots, engine.weight,
        ))  # fmt: skip
    return sorted(found, key=lambda one: not one.fit)


def picked(candidates: list[Candidate], group: Group, exchange: ExchangeState) -> str:
    """The engine that would be chosen for ``exchange`` now; where dice are thrown, one that might. "" = none."""
    for one in candidates:
        if one.fit:
            return one.engine
    at = search(group.pools, 0, exchange.tries.pools)
    return group.pools[at].engine.name if at >= 0 else ""
