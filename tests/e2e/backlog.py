"""An engine whose listener takes no connection any more, once a test says so: its backlog is full."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.e2e.engines import ok

MOST = 16
"""Connections that fill a backlog of none: Linux takes one or two."""


class Crowded:
    """It answers probes until ``fill``: from then on a Unix socket refuses a dial at once, and TCP lets it hang."""

    def __init__(self, listener: socket.socket, url: str) -> None:
        self.url = url
        self._listener = listener
        self._waiting: list[socket.socket] = []
        self._probed = asyncio.ensure_future(self._answer())

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        some = asyncio.Event()
        loop.add_reader(self._listener, some.set)
        try:
            while True:
                await some.wait()
                some.clear()
                # (Not by `sock_accept`: whoever it has accepted when it is cancelled is nobody's.)
                with suppress(BlockingIOError):
                    conn, _ = self._listener.accept()
                    conn.setblocking(False)
                    with conn:
                        await loop.sock_recv(conn, 65536)
                        await loop.sock_sendall(conn, ok(b'{"object":"list","data":[]}', b"connection: close"))
        finally:
            loop.remove_reader(self._listener)

    async def fill(self) -> None:
        self._probed.cancel()
        with suppress(asyncio.CancelledError):
            await self._probed
        fill(self._listener, self._waiting)

    def close(self) -> None:
        self._probed.cancel()
        for one in (self._listener, *self._waiting):
            one.close()


def fill(listener: socket.socket, waiting: list[socket.socket]) -> None:
    """Nobody else gets into its backlog; ``waiting`` are those who are in it."""
    for _ in range(MOST):
        one = socket.socket(listener.family)
        one.setblocking(False)
        waiting.append(one)
        if one.connect_ex(listener.getsockname()) == 11:
            return  # a Unix socket's; TCP says nothing of it


@asynccontextmanager
async def crowded(path: Path | None = None) -> AsyncIterator[Crowded]:
    """At a Unix socket where ``path`` is given, else at a port of TCP."""
    listener = socket.socket(socket.AF_UNIX if path is not None else socket.AF_INET)
    listener.setblocking(False)
    listener.bind(str(path) if path is not None else ("127.0.0.1", 0))
    listener.listen(0)
    engine = Crowded(listener, f"unix:{path}" if path is not None else f"http://127.0.0.1:{listener.getsockname()[1]}")
    try:
        yield engine
    finally:
        engine.close()
