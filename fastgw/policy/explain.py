"""``x-fastgw-explain: 1``: a request is told in its answer's head which engine it went to, and why; or why it went to none.

Owns: who may ask (``explain_keys``), the words, and how many engines they name. Must never: be there where nobody may; name an
engine to anybody else, or a model that was not asked for by the client or his route; or look at more engines than it names: a
request that is refused costs its client nothing, and may come as often as he likes.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.limits.account import Account, flow_of
from fastgw.policy.deployments import asker_of
from fastgw.upstream.standing import obstacle
from fastgw.upstream.table import Group

FIELD: Final = b"x-fastgw-explain"
TENANT: Final = "tenant:"
MOST_ENGINES: Final = 8
"""Whose standing an error's head tells; it says how many there are."""
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
        if self._asks(exchange):
            call = exchange.call
            assert call is not None
            _tell(exchange, [f"engine={_word(call.pool.engine.name)}", *_way(exchange, call.pool.engine.version)])

    def on_refused(self, exchange: Exchange, error: GatewayError) -> None:
        if self._asks(exchange):
            _tell(exchange, [f"error={error.kind.code}", *_way(exchange, ""), *_engines(exchange)])

    def _asks(self, exchange: Exchange) -> bool:
        own = exchange.head.own
        return own is not None and own.get(FIELD) == b"1" and self._may(exchange.account)


def _tell(exchange: Exchange, parts: list[str]) -> None:
    exchange.extra_head += b"%b: %b\r\n" % (FIELD, "; ".join(parts).encode("ascii", "replace"))


def _way(exchange: Exchange, version: str) -> list[str]:
    """How a request came to where it is answered, as far as it came. ``version``: the engine's."""
    gateway = exchange.gateway
    table = gateway.table
    model = exchange.substitute or exchange.model
    parts = [f"model={_word(model)}"] if model else []
    if exchange.group is not None:
        side = table.deployed.side(model, asker_of(exchange)) if table.deployed is not None else None
        if side is not None and side.parts:
            drawn, _ = side.drawn(asker_of(exchange))
            if drawn:
                parts.append(f"drawn={_word(drawn)}")
        if version:
            parts.append(f"version={_word(version)}")
        parts.append(f"policy={gateway.strategy.chosen(exchange).name}")
    if exchange.tries.models:
        parts.append(f"instead_of={_word(', '.join(exchange.tries.models))}")
    if exchange.tries.pools:
        parts.append(f"tried={_word(', '.join(pool.engine.name for pool in exchange.tries.pools))}")
    if exchange.queued_s >= 0.0:
        parts.append(f"queued_ms={exchange.queued_s * 1e3:.0f}")
    return parts


def _engines(exchange: Exchange) -> list[str]:
    """What keeps engines from it: those that were tried, then others that could have been asked, as many as a head has room
    for, in the order in which they are configured. (``/admin/explain`` ranks all of them.)"""
    group = exchange.group
    if group is None:
        return []
    tried = exchange.tries.pools
    strategy = exchange.gateway.strategy.chosen(exchange)
    able = strategy.able(group, exchange)
    lacking: dict[str, str] = {}
    if not able:  # the strategy itself has something against each: what, of those who are shown
        able = group.pools[:MOST_ENGINES]
        lacking = {one.engine: one.why for one in strategy.explain(Group(able), (), exchange) if not one.fit}
    others = islice((pool for pool in able if pool not in tried), MOST_ENGINES)
    parts = []
    for at, pool in enumerate(islice(chain(tried, others), MOST_ENGINES)):
        why = "was tried" if pool in tried else obstacle(pool.engine) or lacking.get(pool.engine.name, "may be asked")
        parts.append(f"engine_{at}={_word(f'{pool.engine.name}: {why}')}")
    return [*parts, f"engines={len(group.pools)}"]


def _word(text: str) -> str:
    """As a field's value may hold it (RFC 9110 §5.6.4)."""
    plain = "".join(char if " " <= char <= "~" and char not in _QUOTED else "?" for char in text)
    return plain if plain.translate(_BESIDE).isalnum() else f'"{plain}"'
