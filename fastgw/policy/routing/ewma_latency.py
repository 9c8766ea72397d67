"""Two engines drawn at random, and of these the one that will be the first to answer, by what it did of late.

What a request costs at an engine is its time to the first token, averaged by peaks (``upstream.watch``), times what it would
have under way with this one, for its weight: the peak EWMA of Finagle and linkerd. An engine that has become slow is left with
its first slow answer, and asked again as that lies further back. One of which nothing is known gets one request at a time. (Of
an answer that comes whole, the time to the first token is the time of all of it.) """

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.net.clock import monotonic
from fastgw.policy.routing.search import draw
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.target import Engine

DRAWS: Final = 4  # of pairs, before all engines are looked through
UNKNOWN_S: Final = 3600.0  # that is to be reckoned with of an engine which is asked for the first time


class EwmaLatency(Strategy):
    """See the head of this file."""

    __slots__ = ("_chance",)

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        pools = group.pools
        chance = self._chance
        count = len(pools)
        if count > 1:
            now = monotonic()
            for _ in range(DRAWS):
                at = int(chance() * count)
                beside = at + 1 + int(chance() * (count - 1))
                one = pools[at]
                other = pools[beside if beside < count else beside - count]
                other_fit = other not in tried and other.engine.usable()
                if one not in tried and one.engine.usable():
                    return other if other_fit and cost(other.engine, now) < cost(one.engine, now) else one
                if other_fit:
                    return other
        return draw(pools, tried, chance)

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        now = monotonic()
        found = []
        for pool in group.pools:
            engine = pool.engine
            watch = engine.watch
            known = watch is not None and watch.samples
            took = f"{watch.latency_s(now):.3f} s to the first token of late" if known else "nothing is known of it"  # type: ignore[union-attr]
            found.append((cost(engine, now), f"{took}, {engine.inflight} requests under way (the better of two drawn)"))
        return found


def cost(engine: Engine, now: float) -> float:
    """Seconds that a request more is to be reckoned with, for a weight of 1."""
    ahead = engine.inflight + engine.queued
    watch = engine.watch
    if watch is None:
        return (ahead + 1) / engine.weight
    if not watch.samples:
        return UNKNOWN_S * ahead / engine.weight
    return watch.latency_s(now) * (ahead + 1) / engine.weight
