"""The two ways to an engine: straight to it, or through a gateway in this process. A test that takes both keeps itself honest.

Must never: change what the data plane does; the gateway's own invariants are judged by ``tests/support/gateway.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest

from fastgw import EngineConfig
from tests.support.gateway import running

Way = Literal["direct", "gateway"]
WAYS: tuple[Way, ...] = ("direct", "gateway")

both_ways = pytest.mark.parametrize("way", WAYS)


@contextlib.asynccontextmanager
async def to_engine(way: Way, engine_url: str, *, engine: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[str]:
    """The base URL to send requests to. ``settings`` are the gateway's, ``engine`` those of its only engine."""
    if way == "direct":
        yield engine_url
        return
    async with gateway(engine_url, engine=engine, **settings) as url:
        yield url


@contextlib.asynccontextmanager
async def gateway(engine_url: str, *, engine: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[str]:
    """A gateway in front of one engine; its URL."""
    async with running([EngineConfig(url=engine_url, **(engine or {}))], **settings) as gw:
        yield gw.url
