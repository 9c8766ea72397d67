"""The filters of a gateway, and the core that runs requests through them: put together from its settings."""

from __future__ import annotations

import os
from typing import Any

from fastgw.config import Config
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.record import AccessSink
from fastgw.limits.account import Accounts
from fastgw.net.poller import Reactor
from fastgw.observe.tallies import Tallies, sampled
from fastgw.policy import build
from fastgw.policy.route import serving
from fastgw.policy.routing import strategy_for
from fastgw.stats import EventLog, Stats
from fastgw.upstream.health import Health
from fastgw.upstream.table import UpstreamTable


def core_of(
    config: Config,
    *,
    reactor: Reactor,
    stats: Stats,
    log: EventLog,
    access: AccessSink | None,
    health: Health,
    accounts: Accounts,
    table: UpstreamTable,
    remembered: dict[str, Any],
) -> GatewayCore:
    """``remembered``: by strategies, of requests."""
    core = GatewayCore(
        config, reactor=reactor, stats=stats, log=log, access=access, filters=build(config),
        strategy=strategy_for(config, stats=stats, remembered=remembered), health=health, table=table, accounts=accounts,
        tally=Tallies(config.metrics_by, sampled), instance=os.urandom(4).hex().encode(),
    )  # fmt: skip
    core.serving = serving
    return core
