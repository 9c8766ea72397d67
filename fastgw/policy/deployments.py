"""What a request gets of the names that are more than plain models (``upstream.deployments``): who asks, read off the exchange.

Must never: be asked where a table has no such names; whoever needs it imports it then.
"""

from __future__ import annotations

from typing import Final

from fastgw.exchange.asking import hear
from fastgw.exchange.exchange import Exchange
from fastgw.limits.account import Account
from fastgw.upstream.deployments import Asker, Deployed
from fastgw.upstream.table import Group, UpstreamTable

FALLBACK: Final = b"x-fallback-model: "
FALLBACK_FIELD: Final = FALLBACK + b"%b\r\n"
MODEL_FIELD: Final = b"x-fastgw-model: %b\r\n"
"""In the answer to a request for a name that stands for several models: the one that it went to."""


def asker_of(exchange: Exchange) -> Asker:
    """Who asks. (A request that brings an id gets the same share again, in this process: nobody outside can tell which.)"""
    account = exchange.account
    return Asker(
        account.flow if account is not None else "",
        hash(exchange.request_id),
        exchange.key_id or exchange.client_ip,
        account.models if account is not None else None,
        exchange.tries.pools,
        lambda group: not exchange.gateway.strategy.chosen(exchange).unmet(group, exchange),
    )


def placed(table: UpstreamTable, exchange: Exchange, model: str) -> Group | None:
    """The engines for ``exchange``, which asks for ``model``; None = nobody serves it, for him. Sets ``exchange.substitute``
    where the name stands for another."""
    deployed: Deployed | None = table.deployed
    if deployed is None:
        return table.group(model)
    asker = asker_of(exchange)
    _heard(exchange, deployed, model, asker)
    if not exchange.substitute:
        other = deployed.stands_for(model, asker)
        if other:
            exchange.substitute = other
            if model in deployed.classes:
                exchange.extra_head += MODEL_FIELD % other.encode("ascii", "replace")
            model = other
        elif model in deployed.classes:
            return None
    return deployed.group(model, asker)


def _heard(exchange: Exchange, deployed: Deployed, name: str, asker: Asker) -> None:
    """All that ``name`` may come to hear that he asks, before one of them is chosen by who may be asked."""
    if exchange.gateway.doubted:
        for model, group in deployed.engines(name, asker):
            hear(exchange, group, model)


def group_for(table: UpstreamTable, exchange: Exchange, model: str) -> Group | None:
    """The engines for ``exchange`` where it goes to ``model`` in place of its own; None = nobody is known to serve that."""
    deployed: Deployed | None = table.deployed
    if deployed is None:
        group = table.group(model)
        if group is not None and exchange.gateway.doubted:
            hear(exchange, group, model)
        return group
    asker = asker_of(exchange)
    asker.tried = ()
    _heard(exchange, deployed, model, asker)
    before = exchange.substitute
    exchange.substitute = model  # (what is needed depends on it)
    found = deployed.group(model, asker)
    exchange.substitute = before
    return found


def for_any(table: UpstreamTable, exchange: Exchange) -> Group | None:
    """The engines for a request that names no model."""
    deployed: Deployed | None = table.deployed
    return table.everyone if deployed is None else deployed.everyone(asker_of(exchange))


def granted(table: UpstreamTable, exchange: Exchange, model: str) -> bool:
    """Whether a key that does not list ``model`` may use it by the name that it asks for, which stands for several."""
    deployed: Deployed | None = table.deployed
    account = exchange.account
    route = deployed.classes.get(exchange.model) if deployed is not None else None
    if route is None or account is None or account.models is None:
        return False
    return route.model in account.models and model in route.models


def may_use(exchange: Exchange, account: Account) -> bool:
    """Whether a key that does not list the name that ``exchange`` asks for may use it by what it stands for."""
    deployed: Deployed | None = exchange.gateway.table.deployed
    return deployed is not None and deployed.may_use(exchange.model, Asker(account.flow, models=account.models))


def moves(exchange: Exchange, model: str) -> None:
    """``exchange`` goes to ``model`` in place of the one that it asked for: it counts once, however often it goes on."""
    if FALLBACK not in exchange.extra_head:
        exchange.gateway.stats.fallbacks_total += 1
    exchange.extra_head = told(exchange.extra_head, exchange.substitute, model)
    exchange.substitute = model


def told(lines: bytes, before: str, model: str) -> bytes:
    """``lines`` of an answer's head, which now say that it comes from ``model`` in place of the one that was asked for."""
    if before:
        said = before.encode("ascii", "replace")
        lines = lines.replace(FALLBACK_FIELD % said, b"")
        if MODEL_FIELD % said in lines:  # (it was asked for by a name that stands for several)
            lines = lines.replace(MODEL_FIELD % said, b"") + MODEL_FIELD % model.encode("ascii", "replace")
    return lines + FALLBACK_FIELD % model.encode("ascii", "replace")
