"""An engine behind a gate, and requests that wait for it.

Owns: :class:`Gate`, an engine that keeps requests until the test lets them go, so that "under way" and "waiting" are facts
and no matter of timing. Must never: count a place of the queue by the gateway's own word alone where the engine can be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.sim.scripted import RawRequest
from tests.support.client import RawClient, RawResponse, chat
from tests.support.gateway import Running

QUIET: dict[str, Any] = {"health_interval_s": 60.0, "warm_connections": 0}
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'


class Held:
    """One request that the engine has."""

    def __init__(self, seen: RawRequest, conn: ScriptedConnection) -> None:
        self.seen = seen
        self.conn = conn
        self.tag = (seen.header(b"x-tag") or b"").decode()
        self.let = asyncio.Event()


class Gate:
    """An engine that answers a request when :meth:`finish` says so, or by itself after ``auto_s``.

    ``order``: the tags (``x-tag``) of all requests as they came; ``held``: those that it has now; ``peak``: the most at once.
    """

    def __init__(self, auto_s: float | None = None, status: int = 200) -> None:
        self.auto_s = auto_s
        self.status = status
        self.order: list[str] = []
        self.held: list[Held] = []
        self.peak = 0
        self.engine = ScriptedEngine(self._serve)

    @property
    def url(self) -> str:
        return self.engine.url

    async def __aenter__(self) -> Gate:
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()

    async def _serve(self, conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request(60.0)
            if seen.method == b"GET":
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                continue
            held = Held(seen, conn)
            self.order.append(held.tag)
            self.held.append(held)
            self.peak = max(self.peak, len(self.held))
            try:
                if self.auto_s is not None:
                    await asyncio.sleep(self.auto_s)
                elif not await self._let(held):
                    return
            finally:
                self.held.remove(held)
            head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await conn.send(head % (self.status, len(ANSWER)) + ANSWER)

    @staticmethod
    async def _let(held: Held) -> bool:
        """Wait for the test's word; False when the gateway has left."""
        let, gone = asyncio.ensure_future(held.let.wait()), asyncio.ensure_future(held.conn.wait_closed(60.0))
        try:
            await asyncio.wait({let, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            let.cancel()
            gone.cancel()
            await asyncio.gather(let, gone, return_exceptions=True)
        return held.let.is_set()

    def finish(self, *tags: str) -> None:
        """Answer these requests; without tags, all that are held."""
        for held in list(self.held):
            if not tags or held.tag in tags:
                held.let.set()

    async def has(self, *tags: str, timeout_s: float = 5.0) -> None:
        """Wait until the engine has just these requests."""
        end = time.monotonic() + timeout_s
        while sorted(held.tag for held in self.held) != sorted(tags):
            assert time.monotonic() < end, f"wanted {tags}, there are {[held.tag for held in self.held]}"
            await asyncio.sleep(0.002)

    async def die(self) -> None:
        """No more connections, and those that are there are reset."""
        await self.engine.stop_listening()
        for conn in self.engine.connections:
            conn.reset()


def tagged(tag: str, model: str = "m", *, headers: tuple[tuple[str, str], ...] = (), **more: Any) -> bytes:
    return chat(model, headers=[("x-tag", tag), *headers], **more)


class Asked:
    """A request on a connection of its own, and its answer when that has come."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.sent_at = time.monotonic()

    async def answer(self, timeout_s: float = 5.0) -> RawResponse:
        return await self.client.read_response(timeout_s)


@contextlib.asynccontextmanager
async def asking(gw: Running) -> AsyncIterator[Any]:
    """``await ask(data)`` sends ``data`` on a new connection; all of them are closed at the end."""
    clients: list[RawClient] = []

    async def ask(data: bytes) -> Asked:
        client = await gw.client()
        clients.append(client)
        asked = Asked(client)
        await client.send(data)
        return asked

    try:
        yield ask
    finally:
        for client in clients:
            client.close()


async def waiting(gw: Running, count: int) -> None:
    await gw.until(f"{count} waiting", lambda: gw.stats.queue_waiting_open == count)
