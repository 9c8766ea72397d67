"""A connected socket that is spoken over by awaiting, one thing after the other: for probes, not for traffic."""

from __future__ import annotations

import asyncio
import socket


class Channel:
    """See the head of this file."""

    __slots__ = ("_loop", "_sock")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock

    def protocol(self) -> str:
        """What was agreed on by ALPN, "" = nothing."""
        return ""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> bytes:
        """Some bytes, b"" at the end. Raises OSError where that was none."""
        return await self._loop.sock_recv(self._sock, 65536)
