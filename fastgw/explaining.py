"""The admin API's question which engine a request would get, answered by what routes requests.

Control and routing know nothing of each other; this is where they meet. Must never: change anything. What a request does on its
way (counts, turns, places) is not done for one that is only asked about.
"""

from __future__ import annotations

from os import urandom
from typing import Any, Final

import msgspec

from fastgw.accel.heads import RequestHead
from fastgw.config import Config
from fastgw.control.admin_explain import Asked
from fastgw.errors import GatewayError
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.account import Account, flow_of
from fastgw.net.client import ClientStream
from fastgw.policy.deployments import asker_of
from fastgw.policy.elsewhere import others, unknown
from fastgw.policy.routing.explain import Candidate, explained, picked
from fastgw.protocol.openai import scan_body
from fastgw.upstream.deployments import Side, alive
from fastgw.upstream.table import Group

MOST_CANDIDATES: Final = 100
"""Engines in one answer; ``candidates_total`` says how many there are."""


class ExplainDesk:
    """A ``control.admin_explain.ExplainBackend`` over a gateway's core."""

    def __init__(self, core: GatewayCore) -> None:
        self._core = core

    def explain(self, asked: Asked) -> dict[str, Any]:
        """See ``control.admin_explain``. Raises KeyError where there is no such key, GatewayError where none says that."""
        core = self._core
        model = asked.model
        exchange = self._request(asked)
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
        strategy = core.strategy.chosen(exchange)
        found["policy"] = strategy.name
        route = core.table.routes.get(model)
        if route is not None and (route.fallback or route.models):
            found["fallback_on"] = list(route.fallback_on)
            found["then"] = others(exchange, "failure") or list(route.fallback)
        if group is None:
            error = unknown(core.table, exchange)
            return {**found, "engine": None, "why": error.message or error.kind.message}
        deployed = core.table.deployed
        side = deployed.side(served, asker_of(exchange)) if deployed is not None else None
        if side is not None:
            found.update(_side(side, exchange))
        candidates = explained(strategy, group, exchange)
        unmet = strategy.unmet(group, exchange)
        engine = "" if unmet else picked(candidates, group, exchange)
        found["engine"] = engine or None
        if "stands_for" not in found and (other := _runners_alias(group, engine, served)):
            found["stands_for"] = other
        found["why"] = unmet or _why(bool(engine), strategy.name, candidates)
        found["candidates"] = candidates[:MOST_CANDIDATES]
        found["candidates_total"] = len(candidates)
        return found

    def _request(self, asked: Asked) -> Exchange:
        """A request that nobody sends."""
        core = self._core
        endpoint = core.endpoints.get(b"/v1/chat/completions")
        client = ClientStream(core.reactor.wheel, core, "127.0.0.1", False, b"")
        assert endpoint is not None
        said = _Said(core.config)
        said.says(asked)
        request_id = (asked.request_id or urandom(8).hex()).encode("ascii", "replace")
        exchange = Exchange(core, client, said.head(), endpoint, request_id)
        exchange.body = said.body()
        try:
            exchange.facts = scan_body(exchange.body, core.max_json_depth, core.max_json_members, core.bytes_per_token)
        except GatewayError as error:
            raise GatewayError("invalid_parameter", error.message, param="model") from None
        accounts = core.accounts
        account = accounts.by_id(asked.key_id) if asked.key_id else accounts.anonymous
        if account is None:
            raise KeyError(asked.key_id)
        if asked.tenant:
            account = Account("")
            account.flow = flow_of(asked.tenant)
        exchange.account = account
        exchange.key_id = asked.key_id
        exchange.client_ip = asked.address or "127.0.0.1"
        return exchange


class _Said:
    """A request's head and body, in which stands what strategies of ``config`` look for there."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._fields: dict[str, str] = {}
        self._cookies: dict[str, str] = {}
        self._members: dict[str, object] = {}

    def head(self) -> RequestHead:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self._fields.items())
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        own = {b"cookie": cookies.encode()} if cookies else None
        return RequestHead(b"", b"", b"", b"", 1, b"", lines.encode(), -1, False, False, 0, None, None, own)

    def body(self) -> bytes:
        return msgspec.json.encode(self._members)

    def says(self, asked: Asked) -> None:
        """All that ``asked`` says. Raises GatewayError for what no request could say here."""
        config = self._config
        self._members = {"model": asked.model, "messages": [{"role": "user", "content": asked.prompt}]}
        if asked.max_tokens:
            self._members["max_tokens"] = asked.max_tokens
        if asked.policy:
            if not config.policy_header or asked.policy not in config.policy_choices:
                may = ", ".join(config.policy_choices) if config.policy_header else ""
                raise _cannot("policy", f"clients may choose {may or 'none'}: policy_header and policy_choices say so")
            self._fields[config.policy_header] = asked.policy
        if asked.needs:
            if not config.needs_header:
                raise _cannot("needs", "no needs_header is set, so that no request can tell any")
            self._fields[config.needs_header] = asked.needs
        if asked.session:
            looked = [self._tells(source, asked.session) for source in (*config.session_sources, *config.hash_sources)]
            if not any(looked):
                raise _cannot("session", "session_sources and hash_sources look for no text: say key_id, or address")

    def _tells(self, source: str, session: str) -> bool:
        """Whether ``source`` is a place for a text, where ``session`` stands now."""
        kind, _, name = source.partition(":")
        if kind == "agents":
            self._fields["x-session-id"] = session
        elif kind == "header":
            self._fields[name] = session
        elif kind == "cookie":
            self._cookies[name] = session
        elif kind == "body":
            self._members.setdefault(name, session)
        return kind in ("agents", "header", "cookie", "body")


def _cannot(param: str, why: str) -> GatewayError:
    return GatewayError("invalid_parameter", f"{param} cannot be said: {why}.", param=param)


def _side(side: Side, exchange: Exchange) -> dict[str, Any]:
    """What is drawn of the engines that are there for whoever asks."""
    asker = asker_of(exchange)
    version, group = side.drawn(asker)
    if not side.parts:
        return {}
    total = sum(share for share, _, _ in side.parts)
    versions = [
        {
            "version": name, "share": round(share / total, 6), "engines": len(part.pools) if part is not None else 0,
            "well": part is not None and alive(part, ()),
        }
        for share, name, part in side.parts
    ]  # fmt: skip
    found: dict[str, Any] = {"drawn": version, "versions": versions, "sticky": bool(side.salt)}
    if all(part is not group for _, name, part in side.parts if name == version):
        found["instead"] = "no engine of it is well and has what is needed: the others of the model have its share"
    return found


def _runners_alias(group: Group, engine: str, model: str) -> str:
    """The model for which ``model`` stands at the engine that is picked, where its runner says so; where none is, at the first
    that does. "" = it is that very one."""
    pools = [pool for pool in group.pools if pool.engine.name == engine] or group.pools
    return next((pool.engine.aliases[model] for pool in pools if model in pool.engine.aliases), "")


def _why(found: bool, policy: str, candidates: list[Candidate]) -> str:
    fit = sum(1 for one in candidates if one.fit)
    if fit:
        return f"{policy}, among {fit} of {len(candidates)} that take requests"
    if found:
        return "none takes requests: this one is asked all the same, as a last resort"
    return "none takes requests now"
