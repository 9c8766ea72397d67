"""An ASGI application for hypercorn and granian: as little of an engine as a test of a connection needs.

``/hello``: five bytes. ``/echo``: the request's body, as it comes. ``/events?n=5&ms=10``: so many SSE events, so far apart.
``/silent``: a head and nothing more. ``/v1/chat/completions``: ``max_tokens`` words, as a stream where it is asked for;
``/v1/models``, ``/health``. It imports nothing of fastgw: it runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await _session(receive, send)
    if scope["type"] == "http":
        await _ANSWERS.get(scope["path"], _nothing)(scope, receive, send)


async def _session(receive: Receive, send: Send) -> None:
    """What is said comes back, until it says ``bye``."""
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.disconnect":
            return
        elif message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 1000})
            return
        else:
            await send({"type": "websocket.send", "text": message.get("text")})


async def _begin(send: Send, status: int, content_type: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})


async def _whole(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def _hello(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await _whole(receive)
    await _begin(send, 200, b"text/plain")
    await send({"type": "http.response.body", "body": b"hello"})


async def _echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await _begin(send, 200, b"application/octet-stream")
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


async def _events(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await _whole(receive)
    asked = parse_qs(scope["query_string"].decode())
    await _begin(send, 200, b"text/event-stream")
    for number in range(int(asked.get("n", ["5"])[0])):
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await asyncio.sleep(int(asked.get("ms", ["0"])[0]) / 1e3)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _silent(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await _begin(send, 200, b"text/event-stream")
    await send({"type": "http.response.body", "body": b": \n\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chat(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked = json.loads(body)
    count = asked.get("max_tokens") or 4
    usage = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": count + 3}
    if not asked.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "word " * count}, "finish_reason": "stop"}
        await _begin(send, 200, b"application/json")
        whole = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage, "read": len(body)}
        await send({"type": "http.response.body", "body": json.dumps(whole).encode()})
        return
    await _begin(send, 200, b"text/event-stream")
    events: list[dict[str, Any]] = [{"id": "c", "choices": [{"index": 0, "delta": {"content": "word "}}]}] * count
    if (asked.get("stream_options") or {}).get("include_usage"):
        events.append({"id": "c", "choices": [], "usage": usage})
    for one in events:
        await send({"type": "http.response.body", "body": b"data: %b\n\n" % json.dumps(one).encode(), "more_body": True})
        await asyncio.sleep(0.001)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _models(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await _whole(receive)
    await _begin(send, 200, b"application/json")
    await send({"type": "http.response.body", "body": b'{"object":"list","data":[{"id":"sim","object":"model"}]}'})


async def _nothing(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await _whole(receive)
    await _begin(send, 404, b"text/plain")
    await send({"type": "http.response.body", "body": b"nothing"})


_ENGINE = {"/v1/chat/completions": _chat, "/v1/models": _models, "/health": _models}
_ANSWERS = {"/hello": _hello, "/echo": _echo, "/events": _events, "/silent": _silent, **_ENGINE}
