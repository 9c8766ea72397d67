"""A gateway configured as a user of one of the five would do it: by variables, nothing else.

Owns: the way from an environment to a running gateway, with the free port that a test needs. Must never: set what the
variables under test could set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastgw import Gateway
from fastgw.config import load
from fastgw.exchange.record import AccessRecord
from tests.support.client import RawClient, RawResponse
from tests.support.gateway import Events, Running


@asynccontextmanager
async def under(environ: Mapping[str, str], **flags: str) -> AsyncIterator[Running]:
    """The gateway that these variables describe, on a free port of loopback."""
    config = load({"host": "127.0.0.1", "port": "0", "drain_timeout_s": "0.5", **flags}, environ, "/nowhere")
    events = Events()
    records: list[AccessRecord] = []
    gateway = Gateway(config, log=events, access=records)
    async with gateway:
        yield Running(gateway, events, records)
    assert not any(gateway.stats.live().values())
    assert not events.errors()
    assert len(records) == gateway.stats.exchanges_total


async def ask(url: str, data: bytes, *, timeout_s: float = 10.0) -> RawResponse:
    """One request on a connection of its own."""
    async with RawClient.connect(url) as client:
        await client.send(data)
        return await client.read_response(timeout_s)
