"""Whole requests as bytes: what a client would send, or nearly so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any


def request(
    method: str = "GET",
    target: str = "/",
    *,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    host: str | None = "localhost",
    key: str | None = None,
    chunked: Sequence[int] | None = None,
    close: bool = False,
    version: str = "HTTP/1.1",
) -> bytes:
    """One whole request. ``chunked`` frames the body in chunks of these sizes (the last one repeats)."""
    lines = [f"{method} {target} {version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    lines += [f"{name}: {value}" for name, value in headers]
    payload = body or b""
    if chunked is not None:
        lines.append("Transfer-Encoding: chunked")
        payload = chunk(payload, chunked)
    elif body is not None:
        lines.append(f"Content-Length: {len(body)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + payload


def chunk(data: bytes, sizes: Sequence[int] = (65536,)) -> bytes:
    """``data`` in chunked framing, with its last chunk."""
    out = bytearray()
    at = turn = 0
    while at < len(data):
        piece = data[at : at + max(1, sizes[min(turn, len(sizes) - 1)])]
        out += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += len(piece)
        turn += 1
    return bytes(out) + b"0\r\n\r\n"


def chat_body(model: str = "m", *, stream: bool = False, content: str = "Say something.", **fields: Any) -> bytes:
    """A chat completion's JSON; ``fields`` are added to it, or replace what is there."""
    document: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
    if stream:
        document["stream"] = True
    return json.dumps(document).encode()


def chat(
    model: str = "m",
    stream: bool = False,
    *,
    path: str = "/v1/chat/completions",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    host: str | None = "localhost",
    key: str | None = None,
    chunked: Sequence[int] | None = None,
    close: bool = False,
    version: str = "HTTP/1.1",
    **fields: Any,
) -> bytes:
    """A whole chat request; ``fields`` go into its JSON, ``body`` replaces the JSON altogether."""
    return request(
        "POST",
        path,
        headers=[("Content-Type", "application/json"), *headers],
        body=chat_body(model, stream=stream, **fields) if body is None else body,
        host=host,
        key=key,
        chunked=chunked,
        close=close,
        version=version,
    )
