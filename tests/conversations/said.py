"""What engines say in each API, of which conversations about errors are made, and who is asked."""

from __future__ import annotations

import json
from typing import Any

from fastgw import RouteConfig
from tests.support.requests import request

ENGINES: dict[str, dict[str, Any]] = {"a": {"models": ("m",)}, "b": {"models": ("n",)}}
ROUTE = RouteConfig(model="m", fallback=["n"], fallback_on=["failure"])
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
BODIES = {
    CHAT: {"model": "m", "messages": []}, RESPONSES: {"model": "m", "input": "x"}, MESSAGES: {"model": "m", "messages": []},
    "/v1/completions": {"model": "m", "prompt": "x"}, "/v1/embeddings": {"model": "m", "input": "x"},
    "/v1/rerank": {"model": "m", "query": "x", "documents": ["y"]}, "/api/chat": {"model": "m", "messages": []},
    "/generate": {"model": "m", "inputs": "x"}, "/generate_stream": {"model": "m", "inputs": "x"},
}  # fmt: skip


def asking(path: str, **more: Any) -> bytes:
    body = json.dumps({**BODIES[path], **more}).encode()
    return request("POST", path, headers=[("content-type", "application/json")], body=body)


def event(said: Any, name: str = "") -> bytes:
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: " + json.dumps(said).encode() + b"\n\n"


def error(code: Any = None, kind: str = "engine", **more: Any) -> dict[str, Any]:
    return {"error": {"message": "no", "type": kind, "param": None, "code": code}, **more}


DELTA = event({"type": "response.output_text.delta", "delta": "a"}, "response.output_text.delta")
BLOCK = event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}, "content_block_delta")
COMPLETED = event({"type": "response.completed", "response": {"id": "r"}}, "response.completed")
STOP = event({"type": "message_stop"}, "message_stop")
