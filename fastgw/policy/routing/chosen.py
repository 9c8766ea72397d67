"""The strategy that a request asks for by a field of its head, among those that may be asked for; else the usual one.

It is only there where ``policy_header`` names a field.
"""

from __future__ import annotations

from fastgw.accel.lookup import first_in
from fastgw.exchange.context import Strategy
from fastgw.exchange.state import ExchangeState
from fastgw.upstream.pool import Pool
from fastgw.upstream.standing import Standing
from fastgw.upstream.table import Group


class Chosen(Strategy):
    """``choices`` by the value of the field ``header``; any other value is as good as none."""

    __slots__ = ("_choices", "_names", "_usual")

    def __init__(self, usual: Strategy, header: bytes, choices: dict[bytes, Strategy]) -> None:
        self._usual = usual
        self._names = (header,)
        self._choices = choices

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> Pool | None:
        return self.chosen(exchange).pick(group, tried, exchange)

    def chosen(self, exchange: ExchangeState) -> Strategy:
        asked = first_in(exchange.head.forward, self._names)
        strategy = self._choices.get(asked) if asked is not None else None
        return (self._usual if strategy is None else strategy).chosen(exchange)

    def explain(self, group: Group, tried: tuple[Pool, ...], exchange: ExchangeState) -> list[Standing]:
        return self.chosen(exchange).explain(group, tried, exchange)
