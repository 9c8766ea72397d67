"""What stands between a tunnel and its engine, on the runner's side: the data plane without a port and without policies.

It serves HTTP/2 on wires that are given to it (:meth:`Behind.serve`), by the same endpoints and limits of heads as a gateway's
port, and asks one engine. Whoever sends the requests has admitted and counted them: here nobody is asked for a key, nothing
waits for room, is retried or is taken out, and no limit of time is shorter than a gateway's may be.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

from msgspec.structs import replace

from fastgw import accounts
from fastgw.config import Config, EngineConfig
from fastgw.errors import GatewayError
from fastgw.exchange.context import Asking
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.handshake import begin_session
from fastgw.exchange.local import LocalEndpoints
from fastgw.exchange.passage import Passages
from fastgw.exchange.tally import Tally
from fastgw.net.client import H2, ClientStream, ConnLimits
from fastgw.net.h2_client import H2ClientStream
from fastgw.net.h2_connection import H2Connection
from fastgw.net.poller import Reactor
from fastgw.net.shortage import Shortage
from fastgw.net.wire import Wire
from fastgw.policy import build
from fastgw.policy.route import serving
from fastgw.policy.routing import strategy_for
from fastgw.protocol.h2.frames import CONNECT_ERROR, REFUSED_STREAM
from fastgw.stats import EventLog, Stats
from fastgw.tasks import Tasks
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.health import Health

DAY_S: Final = 86400.0
GIB: Final = 1 << 30
MOST_AT_ONCE: Final = 1024
"""Requests under way on one tunnel."""
PEER: Final = "127.0.0.1"
"""For whom requests are taken that come over a tunnel: their client's address is what the gateway says."""


def config_for(engine: EngineConfig, paths: tuple[str, ...] = ()) -> Config:
    """Settings under which nothing is decided here. ``paths``: passed on beside the endpoints."""
    return Config(
        engines=(replace(engine, stream_end="pass"),),
        passthrough_paths=paths,
        allow_anonymous=True,
        allowed_hosts=("*",),  # (no browser comes by a tunnel)
        trusted_proxies=(PEER,),
        max_body_bytes=GIB,
        max_upload_bytes=1024 * GIB,
        max_retries=0,
        retry_statuses=(),
        cb_failure_threshold=0,
        rate_limit_per_second=0,
        scheduler="off",
        inject_usage=False,
        first_byte_timeout_s=0.0,
        between_bytes_timeout_s=0.0,
        body_timeout_s=DAY_S,
        write_timeout_s=DAY_S,
        keepalive_timeout_s=DAY_S,
        health_interval_s=30.0,
    )


def _nobody() -> None:
    """Until somebody is told."""


class _Doubt(Tally):
    """Told of each request that the engine has not answered, or not to the end, and tells so."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told: Callable[[], None] = _nobody

    def failed(self, how: str) -> None:
        self.told()


def _reset(client: ClientStream, code: int) -> None:
    client.sink = None
    if isinstance(client, H2ClientStream):
        client.link.over(client, code)


class _Core(Passages):
    """What serves requests here."""

    __slots__ = ()

    def refuse_with(self, error: GatewayError, exchange: Asking, extra: bytes) -> int:
        """As any gateway; but of a request that no engine has seen, or whose engine died before it answered, the sender is told
        just that, and asks elsewhere where it may."""
        client = exchange.client
        if isinstance(exchange, Exchange) and exchange.tries.kills and error.kind.name == "bad_gateway":
            _reset(client, CONNECT_ERROR)
            return error.kind.status
        unseen = not getattr(exchange, "sent_at", 1.0) and error.kind.status in (502, 503, 504)
        if unseen:
            _reset(client, REFUSED_STREAM)
            return error.kind.status
        return super().refuse_with(error, exchange, extra)


class Behind:
    """See the head of this file. Made in the loop that it runs in; ``alone``: hardly anything else runs there."""

    def __init__(self, config: Config, log: EventLog, alone: bool = False) -> None:
        self.stats = stats = Stats()
        shortage = Shortage(log, stats)
        loop = asyncio.get_running_loop()
        reactor = self.reactor = Reactor(loop, alone, shortage)
        self._tasks = tasks = Tasks(log)
        fleet = self._fleet = Fleet(config, reactor, stats, log, shortage, published=self._publish, room=self._room)
        health = self._health = Health(lambda: fleet.pools, config, log, fleet.publish, self._room, shortage, None, tasks.spawn)
        doubt = self._doubt = _Doubt()
        core = self._core = _Core(
            config,
            reactor=reactor,
            stats=stats,
            log=log,
            access=None,
            filters=build(config),
            strategy=strategy_for(config),
            health=health,
            table=fleet.table,
            accounts=accounts.of(config),
            tally=doubt,
            instance=os.urandom(4).hex().encode(),
        )
        core.serving = serving
        core.pool = fleet.pools[0]
        core.reset = _reset
        LocalEndpoints(core, tasks.spawn)
        core.locals["tunnel"] = partial(begin_session, core, None)  # (who sends it has read it)
        self._limits = ConnLimits(
            head_bytes=config.max_head_bytes, header_count=config.max_header_count, head_s=config.head_timeout_s,
            idle_s=config.keepalive_timeout_s, body_s=config.body_timeout_s, write_s=config.write_timeout_s,
        )  # fmt: skip
        tasks.spawn("health", health.run())

    def _publish(self) -> None:
        self._core.take_table(self._fleet.table, self._fleet.keys())

    def _room(self) -> None:
        self._core.room()

    def serve(self, wire: Wire) -> None:
        """Serve what comes over ``wire``, until it ends."""
        core, stats = self._core, self.stats
        taken = H2Connection(core.reactor, wire, core, self._limits, stats, PEER, True, b"", H2, MOST_AT_ONCE)
        stats.connections_open += 1
        stats.connections_total += 1
        core.connections.add(taken)
        taken.begin(b"", 0)

    def doubts(self, told: Callable[[], None]) -> None:
        """Have ``told`` called at each request that the engine has not answered, or not to the end: it may be no more."""
        self._doubt.told = told

    def follow(self, api_key: str) -> None:
        """From now on ask the engine with this key, "" = without one."""
        self._fleet.change("engine", {"api_key": api_key})

    async def stop(self) -> None:
        """End all that is left."""
        self._core.begin_drain()
        self._core.abort_all()
        end = monotonic() + 0.5
        while self._core.connections and monotonic() < end:  # noqa: ASYNC110 - as in ``app.Gateway.stop``
            await asyncio.sleep(0.01)
        self._core.close_all()
        self._fleet.close()
        await self._tasks.close()
        self.reactor.close()
