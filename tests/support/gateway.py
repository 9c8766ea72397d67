"""A gateway under test: in this process, on a free port, with its records and events at hand.

Owns: the invariants that hold for every case, checked when the gateway has stopped: nothing live is left (connections,
exchanges, engine connections), no internal error was logged, and each exchange left exactly one access record.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from msgspec.structs import asdict

from fastgw import Config, EngineConfig, Gateway
from fastgw.exchange.record import AccessRecord
from tests.support import tls_client
from tests.support.client import RawClient

TURNS_S = 0.003
"""What takes a few turns of the loop is not looked for every few milliseconds: thousands of tests begin and end with it."""


class Events:
    """An event log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def _keep(self, level: str, message: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, message, fields))

    def debug(self, message: str, **fields: Any) -> None:
        self._keep("debug", message, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._keep("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._keep("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._keep("error", message, fields)

    def errors(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [line for line in self.lines if line[0] == "error"]


@dataclass
class Running:
    """A running gateway and what it has reported."""

    gateway: Gateway
    events: Events
    raw_records: list[AccessRecord] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def port(self) -> int:
        return self.gateway.port

    @property
    def stats(self) -> Any:
        return self.gateway.stats

    @property
    def records(self) -> list[dict[str, Any]]:
        """Access records by name, in the order in which exchanges ended."""
        return [asdict(record) for record in self.raw_records]

    async def client(self) -> RawClient:
        return await RawClient.connect("127.0.0.1", self.port)

    async def until(self, what: str, condition: Any, timeout_s: float = 15.0) -> None:
        """Wait until ``condition()`` is true; fails by name."""
        begin = monotonic()
        while not condition():
            past_s = monotonic() - begin
            assert past_s < timeout_s, f"not within {timeout_s:g} s: {what}; {self.stats.snapshot()}"
            await asyncio.sleep(0.005 if past_s > TURNS_S else 0)

    async def idle(self, timeout_s: float = 15.0) -> None:
        """Wait until no exchange is under way."""
        await self.until("no exchange under way", lambda: self.stats.exchanges_open == 0, timeout_s)


@asynccontextmanager
async def running(
    engines: Sequence[str | EngineConfig] = (), *, expect_internal_errors: bool = False, around: bool = False, **settings: Any
) -> AsyncIterator[Running]:
    """``async with running([sim.url], max_body_bytes=1000) as gw:``; settings are those of ``fastgw.Config``.

    ``around``: it has the loop to itself, so that the compiled poller goes around it.
    """
    settings.setdefault("drain_timeout_s", 0.5)
    settings.setdefault("rate_limit_per_second", 0)  # all tests share one address
    settings.setdefault("metrics_cache_s", 0.0)  # what has just happened is seen
    settings.setdefault("allowed_hosts", ["*"])  # what is sent by hand names all kinds of hosts
    if tls_client.ALL and "tls_cert_file" not in settings:
        settings.update(tls_client.settings())
    config = Config(engines=[EngineConfig(url=one) if isinstance(one, str) else one for one in engines], port=0, **settings)
    events = Events()
    records: list[AccessRecord] = []
    gateway = Gateway(config, log=events, access=records, alone=around)
    await gateway.start()
    try:
        with tls_client.spoken_at(gateway.port) if config.tls_cert_file else nullcontext():
            yield Running(gateway, events, records)
    finally:
        await _left(gateway)
        await gateway.stop()
    live = {name: count for name, count in gateway.stats.live().items() if count}
    assert not live, f"left alive: {live}"
    if not expect_internal_errors:
        assert not events.errors(), f"internal errors: {events.errors()}"
    refused = gateway.stats.connections_refused
    assert len(records) == gateway.stats.exchanges_total + refused, "each exchange leaves exactly one access record"


async def _left(gateway: Gateway) -> None:
    """Clients that the test has just closed are seen to leave in the next turns; stopping would look again later."""
    end = monotonic() + TURNS_S
    while gateway.core is not None and gateway.core.connections and monotonic() < end:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
