"""How engines stand for one request, in words: what an operator is told who asks why.

Owns: the words for who may be asked and who may not, and the order. Must never: change anything; it is asked beside the
traffic. """

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastgw.limits.breaker import CLOSED
from fastgw.net.clock import monotonic
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine


class Standing(NamedTuple):
    """One engine. ``fit``: it may be asked now; ``why`` (or why not), in a phrase; ``score``: of those who are fit the least is
    picked, or, where chance or turns decide, the likeliest."""

    engine: str
    fit: bool
    why: str
    score: float


def obstacle(engine: Engine) -> str:
    """Why it is not asked now; "" = it is."""
    now = monotonic()
    if engine.draining:
        return "is being drained"
    if engine.away:
        return "is behind a connection that has broken, and waited for"
    if engine.healthy is False:
        return "is not well"
    if engine.slots and engine.under_way() >= engine.slots:
        return f"is full: {engine.under_way()} requests under way, and {engine.slots} is what it takes"
    if engine.breaker.state != CLOSED and engine.breaker.wait_s(now) > 0.0:
        return "has an open breaker"
    if engine.rests_until > now:
        return f"rests until {engine.rests_until - now:.1f} s from now, as it has asked"
    if engine.ejected_until > now:
        return f"is ejected for {engine.ejected_until - now:.1f} s more"
    if engine.ramp and engine.inflight - engine.light >= engine.ramp:
        return f"is new, and has the {engine.ramp} requests that it may have yet"
    return ""


def ranked(
    pools: Sequence[Pool], tried: Sequence[Pool], scores: Sequence[tuple[float, str]], unfit: Sequence[str] = (), start: int = 0
) -> list[Standing]:
    """All of ``pools`` with their ``scores``, the best first, behind them those that are not asked. ``unfit``: of each what the
    strategy itself has against it. ``start``: of those that are equal, the first from that place on and around goes first."""
    found = []
    for at, (pool, (score, why)) in enumerate(zip(pools, scores, strict=True)):
        against = "was tried" if pool in tried else obstacle(pool.engine) or (unfit[at] if unfit else "")
        found.append(Standing(pool.engine.name, not against, against or why or "may be asked", score))
    return sorted(found[start:] + found[:start], key=lambda one: (not one.fit, one.score))
