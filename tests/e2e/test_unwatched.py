"""The kernel has no room to watch one descriptor more: who needed it is told at once, and nobody else is worse off."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest

from fastgw.limits.breaker import CLOSED
from tests.support.client import chat, request
from tests.support.gateway import Running, running
from tests.support.unwatched import Phases, engine, exchanged, phases

AT_ONCE_S = 1.0  # the nearest deadline is many seconds away
ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{"data":[]}'
FORMS = pytest.mark.parametrize("around", [False, True], ids=["within the loop", "around the loop"])
HELLO = request("GET", "/healthz", headers=[("connection", "close")])


class Place:
    """A gateway before one engine, and the phases of its test."""

    def __init__(self, stage: Phases, stack: AsyncExitStack, gw: Running) -> None:
        self.stage, self.stack, self.gw = stage, stack, gw

    @property
    def engine(self) -> Any:
        core: Any = self.gw.gateway.core
        return core.table.pools[0].engine

    async def told(self) -> None:
        """The shortage is counted, and in the log once."""
        assert self.gw.stats.shortages >= 1
        found = [(message, fields["error"]) for _, message, fields in self.gw.events.lines if "what" in fields]
        assert found == [("too many watched descriptors", "No space left on device")]

    async def no_verdict(self) -> None:
        assert (self.engine.healthy, self.engine.failures, self.engine.failures_total) == (True, 0, 0)
        assert (self.engine.breaker.state, self.engine.breaker.failures) == (CLOSED, 0)

    async def served(self) -> None:
        """All is well: a new client, and a new connection to the engine."""
        got = await exchanged(self.gw.port, chat(headers=[("connection", "close")]))
        assert isinstance(got, bytes)
        assert got.startswith(b"HTTP/1.1 200 ")


@contextmanager
def place(around: bool) -> Iterator[Place]:
    async def begin() -> Place:
        stack = AsyncExitStack()
        settings = {"warm_connections": 0, "engine_max_idle": 0, "cb_failure_threshold": 2, "health_interval_s": 60.0}
        gw = await stack.enter_async_context(running([url], around=around, **settings))
        found = Place(stage, stack, gw)
        await gw.until("the engine is well", lambda: found.engine.healthy is True)
        return found

    with phases() as stage, engine(ANSWER) as url:
        found = stage.well(begin())
        try:
            yield found
        finally:
            stage.well(found.stack.aclose())


@FORMS
def test_a_client_that_finds_no_room_is_closed_at_once(around: bool) -> None:
    with place(around) as here:

        async def refused() -> None:
            for _ in range(3):
                begin = time.monotonic()
                assert await exchanged(here.gw.port, HELLO) in (b"", "reset")
                assert time.monotonic() - begin < AT_ONCE_S
            assert here.gw.stats.connections_open == 0
            await here.told()

        here.stage.full(refused())
        here.stage.well(here.served())


@FORMS
def test_a_listener_that_paused_comes_back(around: bool) -> None:
    with place(around) as here:

        async def paused() -> None:
            listener: Any = here.gw.gateway._door.listener
            listener.pause()
            await asyncio.sleep(0.25)  # it tries more than once
            await here.told()

        here.stage.full(paused())
        here.stage.well(here.served())


@FORMS
def test_a_dial_that_finds_no_room_is_answered_at_once(around: bool) -> None:
    with place(around) as here:
        client = socket.create_connection(("127.0.0.1", here.gw.port), timeout=2.0)

        async def accepted() -> None:
            await here.gw.until("the client is in", lambda: here.gw.stats.connections_open == 1)

        async def asked() -> bytes:
            begin = time.monotonic()
            await asyncio.to_thread(client.sendall, chat())
            got = await asyncio.to_thread(client.recv, 65536)
            assert time.monotonic() - begin < AT_ONCE_S
            await here.told()
            await here.no_verdict()
            return got

        with client:
            here.stage.well(accepted())
            got = here.stage.full(asked())
            assert got.startswith(b"HTTP/1.1 503 ")
            assert b"engine_busy" in got
            assert b"retry-after: 1" in got.lower()
            here.stage.well(here.served())


@FORMS
def test_a_probe_that_finds_no_room_is_no_verdict(around: bool) -> None:
    with place(around) as here:

        async def probed() -> None:
            core: Any = here.gw.gateway.core
            for _ in range(3):
                await core.health.round()
            await here.told()
            await here.no_verdict()

        here.stage.full(probed())
        here.stage.well(here.served())
