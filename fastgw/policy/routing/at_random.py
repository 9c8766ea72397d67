"""Any engine, by weight. Many gateways in front of the same engines need know nothing of each other for it to be even."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.policy.routing.search import draw
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

DRAWS: Final = 4  # before all engines are looked through: where half of them are ill, one request in sixteen does so


class Random(Strategy):
    """Drawn from the group's turns, where an engine stands as often as its weight; whoever cannot take the request is put back
    and drawn again, so that those who can keep their shares among themselves. The usual case looks at one engine."""

    __slots__ = ("_chance",)

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        turns = group.turns
        chance = self._chance
        for _ in range(DRAWS):
            pool = turns[int(chance() * len(turns))]
            if pool not in tried and pool.engine.usable():
                return pool
        return draw(turns, tried, chance)

    def scores(self, group: Group, exchange: ExchangeState) -> list[tuple[float, str]]:
        return [(1.0 / pool.engine.weight, f"any, as likely as its weight {pool.engine.weight} says") for pool in group.pools]
