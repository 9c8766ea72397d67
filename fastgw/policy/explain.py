"""``x-fastgw-explain: 1``: a request is told in its answer's head which engine it went to, and why.

Owns: who may ask (``explain_keys``), and the words. Must never: be there where nobody may; name an engine to anybody else, or a
model that was not asked for by the client or his route.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.config import Config
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.limits.account import Account, flow_of
from fastgw.policy.deployments import asker_of

FIELD: Final = b"x-fastgw-explain"
TENANT: Final = "tenant:"
_QUOTED: Final = "\\\""
_BESIDE: Final = str.maketrans("", "", "-._")


class Explaining(Filter):
    """See the head of this file."""

    __slots__ = ("_flows", "_keys")
    name = "explaining"

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = frozenset(keys)
        self._flows = frozenset(flow_of(key[len(TENANT) :]) for key in keys if key.startswith(TENANT))

    @classmethod
    def from_config(cls, config: Config) -> Explaining | None:
        return cls(tuple(config.explain_keys)) if config.explain_keys else None

    def after(self, before: Filter, config: Config) -> Filter:
        return self

    def _may(self, account: Account | None) -> bool:
        return "*" in self._keys or (account is not None and (account.id in self._keys or account.flow in self._flows))

    def on_response(self, exchange: Exchange, head: ResponseHead) -> None:
        own = exchange.head.own
        if own is not None and own.get(FIELD) == b"1" and self._may(exchange.account):
            exchange.extra_head += b"%b: %b\r\n" % (FIELD, why(exchange).encode("ascii", "replace"))


def why(exchange: Exchange) -> str:
    """The way of a request that is answered, in one line."""
    call = exchange.call
    assert call is not None
    engine = call.pool.engine
    table = exchange.gateway.table
    model = exchange.substitute or exchange.model
    parts = [f"engine={_word(engine.name)}", f"model={_word(model)}"]
    side = table.deployed.side(model, asker_of(exchange)) if table.deployed is not None else None
    if side is not None and side.parts:
        version, _ = side.drawn(asker_of(exchange))
        if version:
            parts.append(f"drawn={_word(version)}")
    if engine.version:
        parts.append(f"version={_word(engine.version)}")
    route = table.routes.get(exchange.model)
    parts.append(f"policy={route.policy if route is not None and route.policy else exchange.gateway.config.policy}")
    if exchange.tries.models:
        parts.append(f"instead_of={_word(', '.join(exchange.tries.models))}")
    if exchange.tries.pools:
        parts.append(f"tried={_word(', '.join(pool.engine.name for pool in exchange.tries.pools))}")
    if exchange.queued_s >= 0.0:
        parts.append(f"queued_ms={exchange.queued_s * 1e3:.0f}")
    return "; ".join(parts)


def _word(text: str) -> str:
    """As a field's value may hold it (RFC 9110 §5.6.4)."""
    plain = "".join(char if " " <= char <= "~" and char not in _QUOTED else "?" for char in text)
    return plain if plain.translate(_BESIDE).isalnum() else f'"{plain}"'
