"""Mirrors: a share of a route's requests is sent once more, to other engines, and the answers are read and dropped.

Owns: which requests, where to, and how many at once. Must never: delay, fail or charge a client's request; send a tenant's
prompt to an engine that is not his; or ask an engine that is ill, being spared, or has no place to spare. Invariants: a copy is
made of what the client's request is before its engine has it, and what becomes of either is nothing to the other; no copy has
the last place of an engine, and no request waits for an engine while a copy has a place there.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from fastgw.config import Config, RouteConfig
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.request import request_start, rewritten
from fastgw.exchange.shadow import Shadow
from fastgw.limits.breaker import CLOSED
from fastgw.upstream.deployments import Asker
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine

MOST_MIRRORED: Final = 64
"""Copies under way at once."""
MOST_MIRRORED_BYTES: Final = 32 << 20
"""Of their bodies, together."""
MIRROR_S: Final = 600.0
"""For a copy, from when it is sent until its answer has ended, where nothing says how long a request may take."""
MOST_LOOKED_AT: Final = 64  # engines of a mirror, for each copy
VERSION: Final = "version:"


class Mirroring(Filter):
    """See the head of this file."""

    __slots__ = ("_bytes", "_due", "_open", "_table", "_there")
    name = "mirror"

    def __init__(self) -> None:
        self._bytes = 0  # of bodies that are held
        self._due: deque[Shadow] = deque()
        self._open: dict[Shadow, None] = {}  # the latest last
        self._table: UpstreamTable | None = None
        self._there: dict[tuple[str, str], tuple[Pool, ...]] = {}  # by model and mirror, in that table

    @classmethod
    def from_config(cls, config: Config) -> Mirroring | None:
        return cls() if any(route.mirror_to and route.mirror_percent for route in config.routes) else None

    def after(self, before: Filter, config: Config) -> Filter:
        return before

    def on_crowded(self, exchange: Exchange) -> bool:
        """A copy gives way: the latest has cost least."""
        group = exchange.group
        assert group is not None
        for shadow in reversed(self._open):
            if shadow.pool in group.pools and shadow.pool not in exchange.tries.pools and shadow.pool.engine.full():
                shadow.close()
                exchange.gateway.stats.mirrors_skipped += 1
                return True
        return False

    def on_attempt(self, exchange: Exchange, engine: Engine) -> None:
        facts = exchange.facts
        # (Of the model that is asked for now: one of a class, or the one in its place.)
        route = exchange.gateway.table.routes.get(exchange.substitute or exchange.model)
        if route is None or not route.mirror_to or facts is None or exchange.session is not None:
            return
        if exchange.sent_at or exchange.upload is not None:
            return  # (once for each request)
        if hash((exchange.request_id, b"mirror")) % 100 >= route.mirror_percent:
            return
        core: GatewayCore = exchange.gateway  # type: ignore[assignment]
        stats = core.stats
        body = exchange.body
        pool = self._pool(core.table, route, exchange, engine)
        if pool is None or stats.mirrors_open >= MOST_MIRRORED or self._bytes + len(body) > MOST_MIRRORED_BYTES:
            stats.mirrors_skipped += 1
            return
        body = _copied(core, exchange, pool.engine, "" if route.mirror_to.startswith(VERSION) else route.mirror_to)
        start = request_start(exchange, pool.engine)
        limit_s = route.timeout_s or core.request_timeout_s or MIRROR_S
        stats.mirrors_open += 1
        stats.mirrored_total += 1
        self._bytes += len(body)
        shadow = Shadow(core, pool, start, exchange.request_id, body, limit_s, self._ended)
        self._open[shadow] = None
        self._due.append(shadow)
        core.reactor.poller.soon(self._begin)

    def _begin(self) -> None:
        """Send those that are due: the clients' own requests have gone."""
        while self._due:
            shadow = self._due.popleft()
            if _to_spare(shadow.pool.engine):
                shadow.begin()
            else:
                shadow.close()
                shadow.core.stats.mirrors_skipped += 1

    def _ended(self, shadow: Shadow) -> None:
        self._open.pop(shadow, None)
        self._bytes -= shadow.size
        shadow.core.stats.mirrors_open -= 1

    def _pool(self, table: UpstreamTable, route: RouteConfig, exchange: Exchange, engine: Engine) -> Pool | None:
        """The engine for a copy: the one of the mirror's with least to do, and room; None = there is none."""
        if table is not self._table:
            self._table = table
            self._there = {}
        account = exchange.account
        flow = account.flow if account is not None else ""
        key = (route.model, flow if table.deployed is not None else "")
        there = self._there.get(key)
        if there is None:
            if len(self._there) >= MOST_MIRRORED:
                self._there = {}
            there = self._there[key] = _there(table, route, flow)
        best: Pool | None = None
        for pool in there[:MOST_LOOKED_AT]:
            one = pool.engine
            if one is engine or one.tenant != engine.tenant or one.breaker.state != CLOSED:
                continue
            if not one.usable() or not _to_spare(one):
                continue
            if best is None or one.inflight < best.engine.inflight:
                best = pool
        return best


def _to_spare(engine: Engine) -> bool:
    """Whether it has more than one place that is free: the last is its own clients'."""
    return not engine.slots or engine.under_way() + 1 < engine.slots


def _copied(core: GatewayCore, exchange: Exchange, engine: Engine, model: str) -> bytes:
    """The body of a copy for ``engine``, as that would get it of the request itself: bounded, and with its own name of the
    model. ``model``: the mirror's, "" = the request's own."""
    own = exchange.substitute
    if model:
        exchange.substitute = model
    exchange.apart = False  # (the attempt says anew how its own body goes)
    try:
        body = exchange.body
        for rewrite in core.rewriters:
            body = rewritten(rewrite(exchange, engine, body))
        return body
    finally:
        exchange.substitute = own


def _there(table: UpstreamTable, route: RouteConfig, flow: str) -> tuple[Pool, ...]:
    """All engines of a route's mirror."""
    mirror = route.mirror_to
    if mirror.startswith(VERSION):
        version = mirror[len(VERSION) :]
        return tuple(
            pool
            for pool in table.pools
            if pool.engine.version == version
            and route.model in (pool.engine.configured_models or pool.engine.discovered_models or (route.model,))
        )
    group = table.deployed.known(mirror, Asker(flow)) if table.deployed is not None else table.group(mirror)
    return group.pools if group is not None else ()
