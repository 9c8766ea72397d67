"""A plain-socket client for the simulator's tests: it shows the bytes as they came, and how the connection ended."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Say hello to the harbour."}]


@dataclass
class Reply:
    """Everything a connection brought until it ended: ``end`` is fin, rst or timeout."""

    raw: bytes
    end: str

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1])

    @property
    def head(self) -> bytes:
        return self.raw.split(b"\r\n\r\n", 1)[0]

    @property
    def wire_body(self) -> bytes:
        return self.raw.split(b"\r\n\r\n", 1)[1]

    def field(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name:
                return value.decode().strip()
        return None

    @property
    def complete(self) -> bool:
        """True when the framing says that the message is whole."""
        if self.field("transfer-encoding") == "chunked":
            return dechunk(self.wire_body)[1]
        if (length := self.field("content-length")) is not None:
            return len(self.wire_body) == int(length)
        return self.end == "fin"

    @property
    def body(self) -> bytes:
        return dechunk(self.wire_body)[0] if self.field("transfer-encoding") == "chunked" else self.wire_body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> list[str]:
        """The data of each whole SSE event."""
        text = self.body.replace(b"\r\n", b"\n").decode("utf-8", "replace")
        return [line[6:] for event in text.split("\n\n")[:-1] for line in event.split("\n") if line.startswith("data: ")]

    @property
    def words(self) -> str:
        """The content of a chat stream, joined."""
        return "".join(
            choice["delta"].get("content") or ""
            for item in self.data
            if item != "[DONE]"
            for choice in json.loads(item).get("choices", [])
        )


def dechunk(wire: bytes) -> tuple[bytes, bool]:
    """The body so far, and whether the last chunk was there."""
    body = b""
    while True:
        line, found, rest = wire.partition(b"\r\n")
        if not found:
            return body, False
        try:
            size = int(line, 16)
        except ValueError:
            return body, False
        if size == 0:
            return body, rest == b"\r\n"
        body += rest[:size]
        if len(rest) < size + 2:
            return body, False
        wire = rest[size + 2 :]


def request(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, close: bool = True) -> bytes:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: engine", *[f"{k}: {v}" for k, v in (headers or {}).items()]]
    if data or method == "POST":
        lines.append(f"Content-Length: {len(data)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + data


def chat(fault: str = "", close: bool = True, **fields: Any) -> bytes:
    headers = {"x-sim-fault": fault} if fault else {}
    return request("POST", CHAT, {"messages": HELLO, "max_tokens": 4, **fields}, headers, close)


async def read_to_end(reader: asyncio.StreamReader, timeout_s: float = 5.0) -> Reply:
    raw = b""
    try:
        async with asyncio.timeout(timeout_s):
            while data := await reader.read(65536):
                raw += data
        return Reply(raw, "fin")
    except TimeoutError:
        return Reply(raw, "timeout")
    except ConnectionResetError:
        return Reply(raw, "rst")


async def send(url: str, data: bytes, timeout_s: float = 5.0) -> Reply:
    """One connection: send ``data``, read until it ends."""
    reader, writer = await connect(url)
    try:
        writer.write(data)
        return await read_to_end(reader, timeout_s)
    finally:
        writer.close()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if url.startswith("unix:"):
        return await asyncio.open_unix_connection(url[5:])
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def read_one(reader: asyncio.StreamReader) -> Reply:
    """One whole message with a Content-Length or chunks, off a connection that stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    reply = Reply(head, "open")
    if reply.field("transfer-encoding") == "chunked":
        while not reply.complete:
            reply.raw += await reader.readuntil(b"\r\n")
        return reply
    reply.raw += await reader.readexactly(int(reply.field("content-length") or 0))
    return reply


async def until(condition: Any, timeout_s: float = 3.0) -> None:
    """Wait for ``condition()`` to become true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is another object's plain counter
            await asyncio.sleep(0.002)
