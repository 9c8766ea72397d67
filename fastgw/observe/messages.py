"""A prompt and an answer as spans show them: lists of messages with their parts, in JSON (``gen_ai.input.messages``).

Owns: the reading of each API's shapes, as far as texts go: pictures, recordings and calls of tools are only named. It runs in
the thread that sends traces, and only where contents are asked for (``trace_contents``). What cannot be read is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

Message = dict[str, Any]


def asked_in(body: bytes) -> str:
    """The messages of a request's ``body``; "" = none can be read."""
    found = _object(body)
    messages = [
        _message(str(one.get("role") or "user"), one.get("content"))
        for one in _list(found.get("messages")) or _list(found.get("input"))
        if isinstance(one, dict)
    ]
    if not messages:
        text = found.get("prompt", found.get("input", found.get("inputs")))
        messages = [_message("user", text)] if text else []
    system = found.get("system", found.get("instructions"))
    return _written(([_message("system", system)] if system else []) + messages)


def said_in(body: bytes) -> str:
    """The messages of an answer: one document, events or lines of them; "" = none can be read."""
    texts: dict[int, list[str]] = {}
    for document in _documents(body):
        for at, text in _texts(document):
            texts.setdefault(at, []).append(text)
    return _written([_message("assistant", "".join(texts[at])) for at in sorted(texts)])


def _documents(body: bytes) -> Iterator[Message]:
    whole = _object(body)
    if whole:
        yield whole
        return
    for line in body.splitlines():
        if found := _object(line.removeprefix(b"data:")):
            yield found


def _texts(document: Message) -> Iterator[tuple[int, str]]:
    """The texts of one document, each with the number of the choice that it belongs to."""
    for choice in _list(document.get("choices")):
        if isinstance(choice, dict):
            part = choice.get("delta") or choice.get("message") or choice
            at = choice.get("index")
            if isinstance(part, dict):
                yield at if isinstance(at, int) else 0, _text(part.get("content", part.get("text")))
    message = document.get("message")
    delta = document.get("delta")
    for text in (
        message.get("content") if isinstance(message, dict) else None,  # Ollama
        delta.get("text") if isinstance(delta, dict) else None,  # Anthropic's events
        delta if isinstance(delta, str) and document.get("type") == "response.output_text.delta" else None,
        document.get("content"),
        document.get("generated_text"),
        document.get("response") if isinstance(document.get("response"), str) else None,
        *[one.get("content") for one in _list(document.get("output")) if isinstance(one, dict)],
    ):
        if text:
            yield 0, _text(text)


def _message(role: str, content: object) -> Message:
    return {"role": role, "parts": [{"type": "text", "content": _text(content)}]}


def _text(content: object) -> str:
    """The text of a content: one, or the parts of one."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join([_part(one) for one in content])
    return ""


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    text = part.get("text", part.get("content"))
    return text if isinstance(text, str) else f"<{part.get('type', 'part')}>"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _object(text: bytes) -> Message:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _written(messages: list[Message]) -> str:
    return msgspec.json.encode(messages).decode() if messages else ""
