"""Streams as an engine says them, byte for byte, and how they are asked for.

The engine is scripted, so that every byte, split and end is the test's own; the client's parser shares no code with fastgw.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine
from tests.support.client import RawClient, RawResponse, chat
from tests.support.gateway import Running, running

QUIET: dict[str, Any] = {"health_interval_s": 60.0, "warm_connections": 0}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str, finish: str = "null") -> bytes:
    choice = b'{"index":0,"delta":{"content":%b},"finish_reason":%b}' % (msgspec.json.encode(text), finish.encode())
    return b'data: {"id":"c","object":"chat.completion.chunk","choices":[%b]}\n\n' % choice


def usage_event(prompt: int = 11, completion: int = 4) -> bytes:
    usage = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completion, prompt + completion)
    return b'data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":%b}\n\n' % usage


Say = Callable[[ScriptedConnection], Any]


def engine_saying(say: Say) -> ScriptedEngine:
    """Healthy; each POST is answered by ``say``."""

    async def handler(conn: ScriptedConnection) -> None:
        while True:
            request = await conn.read_request()
            if request.method == b"GET":
                body = b'{"object":"list","data":[]}'
                await conn.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                return
            await say(conn)

    return ScriptedEngine(handler)


@asynccontextmanager
async def stream_of(say: Say, **settings: Any) -> AsyncIterator[tuple[RawClient, Running, ScriptedEngine]]:
    async with (
        engine_saying(say) as engine,
        running([engine.url], **QUIET, **settings) as gw,
        RawClient.connect("127.0.0.1", gw.port) as client,
    ):
        yield client, gw, engine


def asked(engine: ScriptedEngine) -> list[RawRequest]:
    return [request for request in engine.requests if request.method == b"POST"]


async def ask(client: RawClient, **fields: Any) -> RawResponse:
    await client.send(chat(stream=True, **fields))
    return await client.read_response()
