"""A row of engines, and the gateway before them.

The engines stand in a list and are asked in its order, so that a test can say which of them a request meets. ``retry_fresh``
is on only where a test turns it on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.e2e.engines import QUIET, Play, ask, posts, scripted
from tests.e2e.test_cases_e_upstream import probed
from tests.support.client import RawClient, RawResponse
from tests.support.gateway import Running, running

BACK_PRESSURE = ["429", "502", "503"]
BUSY_BODY = b'{"error":{"message":"later","type":"engine","param":null,"code":"busy"}}'


def status(number: int, *lines: bytes, body: bytes = BUSY_BODY) -> Play:
    """An engine that answers every request with this."""
    extra = b"".join(line + b"\r\n" for line in lines)
    head = b"HTTP/1.1 %d Busy\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n" % (number, len(body), extra)

    async def play(conn: ScriptedConnection, _: RawRequest) -> None:
        await conn.send(head + body)

    return play


class Fleet:
    """Engines in a list, and the gateway before them."""

    def __init__(self, gw: Running, engines: list[ScriptedEngine]) -> None:
        self.gw = gw
        self.engines = engines

    @property
    def asked(self) -> list[int]:
        """How many requests each engine has got."""
        return [len(posts(engine)) for engine in self.engines]

    async def ask(self, *, source: str | None = None, **fields: Any) -> RawResponse:
        """One request on a connection of its own, from the address ``source``."""
        async with RawClient.connect("127.0.0.1", self.gw.port, source=source) as client:
            return await ask(client, **fields)


@asynccontextmanager
async def fleet(*plays: Play, **settings: Any) -> AsyncIterator[Fleet]:
    settings = {"policy": "ordered", "retry_fresh": False, "cb_failure_threshold": 0, **QUIET, **settings}
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(scripted(play)) for play in plays]
        gw = await stack.enter_async_context(running([engine.url for engine in engines], **settings))
        await probed(gw)
        yield Fleet(gw, engines)
