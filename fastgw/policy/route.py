"""Which engines may serve a request: by its model, from the current table."""

from __future__ import annotations

from fastgw.config import Config
from fastgw.errors import GatewayError, Source
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import model_of
from fastgw.upstream.table import Group, UpstreamTable


def serving(table: UpstreamTable, exchange: Exchange) -> Group | None:
    """The engines that would be asked for ``exchange`` by ``table``; None = nobody serves its model. Those that a filter has
    chosen stay."""
    chosen = exchange.group
    if chosen is not None and not chosen.tabled:
        return chosen
    model = exchange.substitute or model_of(exchange)
    # Without a model any engine will do; with one, those that serve it. (A session goes by its own rule: local.tunnel.)
    return table.group(model) if model or exchange.session is not None else table.everyone


class Route(Filter):
    """Sets ``exchange.group``; the strategy (``routing``) then picks from it, attempt by attempt."""

    __slots__ = ()
    name = "route"

    @classmethod
    def from_config(cls, config: Config) -> Route:
        return cls()

    def on_route(self, exchange: Exchange) -> None:
        if exchange.group is not None:
            return
        gateway = exchange.gateway
        group = serving(gateway.table, exchange)
        if group is None:
            if not gateway.table.pools:
                raise GatewayError("no_engines", source=Source.GATEWAY, retry_after_s=gateway.retry_after_s)
            raise GatewayError("model_not_found", param="model")
        exchange.group = group
