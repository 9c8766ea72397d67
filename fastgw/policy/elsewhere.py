"""Where a request may go in the place of its model, when no engine of that answers it: the plan of a route, read out.

Owns: the order of the models, and what counts as having been asked. Must never: name a model twice for one request, so that the
ways of a request end. Invariant: who is asked is decided before a byte of an answer has gone down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.errors import KINDS, GatewayError, Source
from fastgw.exchange.declined import routes_for
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.phases import HELD
from fastgw.exchange.plan import CONTEXT, FAILURE
from fastgw.policy.deployments import asker_of, granted, group_for, moves
from fastgw.upstream.table import Group, UpstreamTable

MOST_MOVES: Final = 8
"""Of one request to other models: as many as a route can name."""


def others(exchange: Exchange, why: str) -> list[str]:
    """The models that are left for ``exchange``, in order; none where its route does not want it, for this reason."""
    table = exchange.gateway.table
    asked = exchange.model
    given_up = exchange.tries.models
    if len(given_up) >= MOST_MOVES:
        return []
    deployed = table.deployed
    routes = routes_for(exchange)
    if not routes:
        return []
    route = routes[0]
    now = exchange.substitute or asked
    models: list[str] = []
    if route.models and deployed is not None and why != CONTEXT:
        models = [model for _, model in deployed.ranked(route, asker_of(exchange))]
    for one in routes:
        if why in one.fallback_on:
            models += one.fallback
    return [model for model in dict.fromkeys(models) if model != now and model not in given_up]


def instead(table: UpstreamTable, exchange: Exchange) -> Group:
    """The engines of the first model to which a request may go in place of one that no engine serves now.

    :raises GatewayError: there is none; see :func:`nobody`.
    """
    account = exchange.account
    deployed = table.deployed
    if deployed is not None and deployed.hidden(exchange.model, asker_of(exchange)):
        raise nobody(table, exchange)
    for model in others(exchange, FAILURE):
        group = group_for(table, exchange, model)
        may = account is None or account.models is None or model in account.models or granted(table, exchange, model)
        if group is not None and may:
            moves(exchange, model)
            return group
    raise nobody(table, exchange)


def in_time(exchange: Exchange, goes_to: Callable[[Exchange, Group], None]) -> Group | None:
    """As :func:`instead` by the present table. Before a client is told that there is no such model, engines' lists are read
    again (one may have been loaded a moment ago): None = that is so, and it waits until then; who gets it is told by
    ``goes_to``."""
    gateway = exchange.gateway
    try:
        return instead(gateway.table, exchange)
    except GatewayError as error:
        if error.kind.name != "model_not_found":
            raise
        if gateway.reads_again(lambda: _read_again(exchange, goes_to)):
            return None
        raise unknown(gateway.table, exchange) from None


def _read_again(exchange: Exchange, goes_to: Callable[[Exchange, Group], None]) -> None:
    """The lists have been, if it still waits."""
    if exchange.phase != HELD:
        return
    gateway = exchange.gateway
    table = gateway.table
    try:
        found = gateway.serving(table, exchange)
        goes_to(exchange, instead(table, exchange) if found is None else found)
    except GatewayError as error:
        exchange.fail(unknown(table, exchange) if error.kind.name == "model_not_found" else error)
    except Exception as error:
        gateway.crashed(exchange.client, error)
    else:
        exchange.wake()


def nobody(table: UpstreamTable, exchange: Exchange) -> GatewayError:
    """The refusal of a request for a model that nobody serves: it may be back."""
    retry_after_s = exchange.gateway.retry_after_s
    account = exchange.account
    away = table.away(exchange.model, retry_after_s, account.flow if account is not None else "")
    if away is not None:
        return away
    if not table.pools:
        return GatewayError("no_engines", source=Source.GATEWAY, retry_after_s=retry_after_s)
    return GatewayError("model_not_found", param="model")


def unknown(table: UpstreamTable, exchange: Exchange) -> GatewayError:
    """The same, as a client is told it: there may be some that are called nearly so. (To look for those costs more than all
    else that a refusal does: it is done once, at the end.)"""
    from fastgw.policy.nearest import nearest

    error = nobody(table, exchange)
    account = exchange.account
    if error.kind.name != "model_not_found":
        return error
    close = nearest(table, exchange.model, account.flow if account is not None else "", account.models if account else None)
    # (A profile's users get its own words alone.)
    message = f"{KINDS['model_not_found'].message} Did you mean {' or '.join(close)}?" if close else None
    return GatewayError("model_not_found", message, param="model")
