"""A strategy for each model that has its own, and the gateway's for all others.

It is only there where a route names one, so that nobody else's requests look anything up.
"""

from __future__ import annotations

from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.upstream.pool import Pool
from fastgw.upstream.standing import Standing
from fastgw.upstream.table import Group


class ByRoute(Strategy):
    """``own`` by the name of the model that the request goes to: the one that it fell back to, where it did."""

    __slots__ = ("_own", "_usual")

    def __init__(self, usual: Strategy, own: dict[str, Strategy]) -> None:
        self._usual = usual
        self._own = own

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        return self.chosen(exchange).pick(group, tried, exchange)

    def chosen(self, exchange: ExchangeState) -> Strategy:
        strategy = self._own.get(exchange.substitute or exchange.model)
        return (self._usual if strategy is None else strategy).chosen(exchange)

    def explain(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> list[Standing]:
        return self.chosen(exchange).explain(group, tried, exchange)
