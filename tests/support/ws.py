"""A WebSocket by hand: any frames, and what comes back."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import struct
from typing import Any
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """One frame as a client sends it (RFC 6455 §5.2)."""
    size = len(payload)
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += bytes([bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    mask = b"\x11\x22\x33\x44"
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def said(message: dict[str, Any]) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


def handshake(path: str = "/ws/runners", lines: bytes = b"", host: str = "127.0.0.1") -> bytes:
    key = base64.b64encode(os.urandom(16))
    return (
        b"GET %b HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: %b\r\n%b\r\n" % (path.encode(), host.encode(), key, lines)
    )


class Socket:
    """A connection, and what of it has been read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, url: str, context: ssl.SSLContext | None = None) -> Socket:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, ssl=context))

    @classmethod
    async def opened(cls, url: str, path: str = "/ws/runners", behind: bytes = b"", context: Any = None) -> Socket:
        """One whose handshake was taken; ``behind`` goes out with it."""
        made = await cls.dial(url, context)
        await made.send(handshake(path) + behind)
        head = await made.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        return made

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say(self, message: dict[str, Any]) -> None:
        await self.send(said(message))

    async def head(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def frame(self) -> tuple[int, bytes]:
        """(opcode, payload) of what comes next; raises IncompleteReadError or ConnectionError at the end."""
        async with asyncio.timeout(5):
            first, second = await self.reader.readexactly(2)
            size = second & 127
            if size == 126:
                size = struct.unpack("!H", await self.reader.readexactly(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", await self.reader.readexactly(8))[0]
            return first & 15, await self.reader.readexactly(size)

    async def message(self) -> dict[str, Any]:
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        found: dict[str, Any] = json.loads(payload)
        return found

    async def ends(self) -> tuple[list[dict[str, Any]], int]:
        """What is still said, and the code of the close (-1 = there was none)."""
        heard = []
        code = -1
        try:
            while True:
                opcode, payload = await self.frame()
                if opcode == TEXT:
                    heard.append(json.loads(payload))
                elif opcode == CLOSE:
                    code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                    await self.send(frame(CLOSE, payload))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close()
            return heard, code

    def close(self, reset: bool = False) -> None:
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()
