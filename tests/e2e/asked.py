"""Requests to each endpoint, and gateways before engines of several kinds."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running, running


@asynccontextmanager
async def before(
    sim: dict[str, Any] | None = None, *, engine: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Running, Simulator]]:
    """A gateway before one simulator."""
    simulator = Simulator(SimConfig(**(sim or {})))
    await simulator.start()
    try:
        async with running([EngineConfig(url=simulator.url, **(engine or {}))], **settings) as gw:
            yield gw, simulator
    finally:
        await simulator.stop()


async def ask(where: str, data: bytes, *, head_only: bool = False, timeout_s: float = 10.0) -> RawResponse:
    """One request on a connection of its own."""
    async with RawClient.connect(where) as client:
        await client.send(data)
        return await client.read_response(timeout_s, head_only)


def post(path: str, body: bytes, content_type: str = "application/json", **more: Any) -> bytes:
    return request("POST", path, headers=[("Content-Type", content_type), *more.pop("headers", ())], body=body, **more)


def audio(size: int) -> bytes:
    """``size`` bytes that are no text and nowhere repeat."""
    return hashlib.shake_128(b"audio").digest(size)
