"""Which engines may serve a request: by its model, from the current table."""

from __future__ import annotations

from fastgw.config import Config
from fastgw.exchange.asking import hear
from fastgw.exchange.declined import is_his
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import model_of
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group, UpstreamTable


def serving(table: UpstreamTable, exchange: Exchange) -> Group | None:
    """The engines that would be asked for ``exchange`` by ``table``; None = nobody serves its model. Those that a filter has
    chosen stay."""
    chosen = exchange.group
    if chosen is not None and not chosen.tabled:
        return chosen
    model = exchange.substitute or model_of(exchange)
    if not model and (exchange.session is None or exchange.endpoint.stored):
        # Without a model any engine will do. (Realtime needs one that judges its name, even where it has none.)
        return table.everyone if table.deployed is None else for_any(table, exchange)
    found = table.group(model)
    return found if found is not None or table.deployed is None else placed(table, exchange, model)


def placed(table: UpstreamTable, exchange: Exchange, model: str) -> Group | None:
    """The same, where it depends on who asks."""
    from fastgw.policy import deployments

    return deployments.placed(table, exchange, model)


def group_for(table: UpstreamTable, exchange: Exchange, model: str) -> Group | None:
    """The engines for ``exchange`` where it goes to ``model`` in place of its own; they have heard him ask."""
    from fastgw.policy import deployments

    return deployments.group_for(table, exchange, model)


def granted(table: UpstreamTable, exchange: Exchange, model: str) -> bool:
    """Whether a key that does not list ``model`` may use it by the name that it asks for, which stands for several."""
    if table.deployed is None:
        return False
    from fastgw.policy import deployments

    return deployments.granted(table, exchange, model)


def for_any(table: UpstreamTable, exchange: Exchange) -> Group | None:
    from fastgw.policy import deployments

    return deployments.for_any(table, exchange)


def regroup(table: UpstreamTable, exchange: Exchange) -> None:
    """A request that has its group gets what it would have by a ``table`` that has just come: where nobody is left, that
    from before if its engines have gone, and where they are there, for others now, another model's.

    :raises GatewayError: there is none to which its route falls back; or who has what it speaks of has gone, and may be back.
    """
    group = serving(table, exchange)
    if group is None:
        group = exchange.group
        assert group is not None
        for pool in group.pools:
            if pool in table.pools:
                from fastgw.policy.elsewhere import instead

                group = instead(table, exchange)
                break
    exchange.group = group
    if exchange.home is not None:
        exchange.home = home(exchange, group)


def home(exchange: Exchange, group: Group) -> Pool | None:
    """Who has the response of which ``exchange`` speaks, where that is known: one of ``group``, or another engine that has the
    model (of whatever share, everybody's or of his tenant), or one to which the model's route falls back:
    ``exchange`` goes to its model then."""
    gateway = exchange.gateway
    if gateway.responses is None:
        from fastgw.exchange.responses import Responses

        gateway.responses = Responses()
    found: Pool | None = gateway.responses.home(exchange, gateway.table.pools)
    if found is None or not is_his(found.engine, exchange):
        return None
    if found in group.pools:
        return found
    model = exchange.substitute or model_of(exchange)
    models = found.engine.configured_models or found.engine.discovered_models
    if not model or model in models or found.engine.judges():
        return found
    route = gateway.table.routes.get(exchange.model)
    for other in route.fallback if route is not None else ():
        if other in models:
            from fastgw.policy.deployments import moves

            moves(exchange, other)
            exchange.group = group_for(gateway.table, exchange, other) or group
            return found
    return None


def goes_to(exchange: Exchange, group: Group) -> None:
    """These are its engines, or one of them that has what it speaks of."""
    exchange.group = group
    if exchange.endpoint.stored:
        exchange.home = home(exchange, group)
    if exchange.gateway.doubted:
        hear(exchange, exchange.group, exchange.substitute or model_of(exchange))


class Route(Filter):
    """Sets ``exchange.group``; the strategy (``routing``) then picks from it, attempt by attempt."""

    __slots__ = ()
    name = "route"

    @classmethod
    def from_config(cls, config: Config) -> Route:
        return cls()

    def on_route(self, exchange: Exchange) -> bool:
        if exchange.group is not None:
            return False
        group = serving(exchange.gateway.table, exchange)
        if group is None:
            from fastgw.policy.elsewhere import in_time

            group = in_time(exchange, goes_to)
            if group is None:
                return True
        goes_to(exchange, group)
        return False
