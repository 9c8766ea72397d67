"""The admin API's question which engine a request would get, answered by what routes requests.

Control and routing know nothing of each other; this is where they meet. Must never: change anything. What a request does on its
way (counts, turns, places) is not done for one that is only asked about.
"""

from __future__ import annotations

from os import urandom
from typing import Any, Final

from fastgw.errors import GatewayError
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.net.client import NO_HEAD, ClientStream
from fastgw.policy.deployments import asker_of
from fastgw.policy.elsewhere import others, unknown
from fastgw.policy.routing.explain import Candidate, explained, picked
from fastgw.protocol.openai import scan_body, written
from fastgw.upstream.deployments import Side, alive

MOST_CANDIDATES: Final = 100
"""Engines in one answer; ``candidates_total`` says how many there are."""


class ExplainDesk:
    """A ``control.admin_explain.ExplainBackend`` over a gateway's core."""

    def __init__(self, core: GatewayCore) -> None:
        self._core = core

    def explain(self, model: str, key_id: str, request_id: str) -> dict[str, Any]:
        """See ``control.admin_explain``. Raises KeyError where there is no such key."""
        core = self._core
        exchange = self._request(model, key_id, request_id)
        account = exchange.account
        found: dict[str, Any] = {"model": model, "request_id": exchange.request_id.decode("latin-1")}
        if account is not None and account.models is not None and model not in account.models:
            deployed = core.table.deployed
            if deployed is None or not deployed.may_use(model, asker_of(exchange)):
                return {**found, "engine": None, "why": "the key may not use this model"}
        group = core.serving(core.table, exchange)
        served = exchange.substitute or model
        if served != model:
            found["stands_for"] = served
        route = core.table.routes.get(model)
        policy = route.policy if route is not None and route.policy else core.config.policy
        found["policy"] = policy
        if route is not None and (route.fallback or route.models):
            found["fallback_on"] = list(route.fallback_on)
            found["then"] = others(exchange, "failure") or list(route.fallback)
        if group is None:
            return {**found, "engine": None, "why": unknown(core.table, exchange).message}
        deployed = core.table.deployed
        side = deployed.side(served, asker_of(exchange)) if deployed is not None else None
        if side is not None:
            found.update(_side(side, exchange))
        candidates = explained(core.strategy, group, exchange)
        engine = picked(candidates, group, exchange)
        found["engine"] = engine or None
        found["why"] = _why(bool(engine), policy, candidates)
        found["candidates"] = candidates[:MOST_CANDIDATES]
        found["candidates_total"] = len(candidates)
        return found

    def _request(self, model: str, key_id: str, request_id: str) -> Exchange:
        """A request that nobody sends."""
        core = self._core
        endpoint = core.endpoints.get(b"/v1/chat/completions")
        client = ClientStream(core.reactor.wheel, core, "127.0.0.1", False, b"")
        assert endpoint is not None
        exchange = Exchange(core, client, NO_HEAD, endpoint, (request_id or urandom(8).hex()).encode("ascii", "replace"))
        exchange.body = b'{"model":%b}' % written(model)
        try:
            exchange.facts = scan_body(exchange.body, 8, True, 8, 4)
        except GatewayError as error:
            raise GatewayError("invalid_parameter", error.message, param="model") from None
        accounts = core.accounts
        account = accounts.by_id(key_id) if key_id else accounts.anonymous
        if account is None:
            raise KeyError(key_id)
        exchange.account = account
        exchange.key_id = key_id
        return exchange


def _side(side: Side, exchange: Exchange) -> dict[str, Any]:
    """What is drawn of the engines that are there for whoever asks."""
    asker = asker_of(exchange)
    version, group = side.drawn(asker)
    if not side.parts:
        return {}
    before = 0
    versions = []
    for upto, name, part in side.parts:
        versions.append({
            "version": name, "share": round((upto - before) / side.total, 6), "engines": len(part.pools),
            "well": alive(part, ()),
        })  # fmt: skip
        before = upto
    found: dict[str, Any] = {"drawn": version, "versions": versions, "sticky": bool(side.salt)}
    if not alive(group, ()):
        found["instead"] = "no engine of it is well: all others of the model have its share"
    return found


def _why(found: bool, policy: str, candidates: list[Candidate]) -> str:
    fit = sum(1 for one in candidates if one.fit)
    if fit:
        return f"{policy}, among {fit} of {len(candidates)} that take requests"
    if found:
        return "none takes requests: this one is asked all the same, as a last resort"
    return "none takes requests now"
