"""Streams as real engines write them, asked for usage or not: the same answer by vLLM and by llama.cpp, event for event.

Written from what they were seen to say. Asked for usage, vLLM hangs its fingerprint on the extra chunk, and llama.cpp its
timings; not asked, both stand in the last chunk of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

DONE: Final = b"data: [DONE]\n\n"
USAGE: Final = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
TIMINGS: Final = {"cache_n": 0, "prompt_n": 11, "prompt_ms": 20.1, "predicted_n": 3, "predicted_ms": 31.5, "draft": [1, "}"]}
WORDS: Final = ("Hel", "lo", "!")


def event(said: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


def _choice(path: str, text: str | None, reason: str | None, first: bool = False) -> dict[str, Any]:
    if path.endswith("/chat/completions"):
        delta = {} if text is None else {"role": "assistant", "content": text} if first else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {"index": 0, "text": text or "", "logprobs": None, "finish_reason": reason}


def vllm(path: str, options: dict[str, Any] | None) -> list[bytes]:
    """Its events; ``options``: the request's ``stream_options``."""
    asked = bool((options or {}).get("include_usage"))
    each = asked and bool((options or {}).get("continuous_usage_stats"))
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1764000000, "model": "m"}
    choices = [_choice(path, "", None, True), *(_choice(path, word, None) for word in WORDS[:-1])]
    choices.append({**_choice(path, WORDS[-1], "stop"), "stop_reason": None})
    said: list[dict[str, Any]] = [{**base, "choices": [choice]} for choice in choices]
    if each:
        for at, one in enumerate(said):
            one["usage"] = {"prompt_tokens": 11, "completion_tokens": at, "total_tokens": 11 + at}
    if asked:
        said.append({**base, "choices": [], "usage": USAGE, "system_fingerprint": "vllm-0.32.0-tp1"})
    else:
        said[-1]["system_fingerprint"] = "vllm-0.32.0-tp1"
    return [*map(event, said), DONE]


def llama(path: str, options: dict[str, Any] | None) -> list[bytes]:
    """The same of llama.cpp. (Its completions count in the last chunk in any case.)"""
    chat = path.endswith("/chat/completions")
    object_ = "chat.completion.chunk" if chat else "text_completion"
    base = {"created": 1764000000, "id": "chatcmpl-2", "model": "m", "system_fingerprint": "b6097-9515c613", "object": object_}
    choices = [*(_choice(path, word, None) for word in WORDS), _choice(path, None, "stop")]
    said: list[dict[str, Any]] = [{"choices": [choice], **base} for choice in choices]
    if not chat:
        said[-1]["usage"] = USAGE
    elif (options or {}).get("include_usage"):
        said.append({"choices": [], **base, "usage": USAGE})
    said[-1]["timings"] = TIMINGS
    return [*map(event, said), DONE]


RECORDED: Final[dict[str, Callable[[str, dict[str, Any] | None], list[bytes]]]] = {"vllm": vllm, "llama.cpp": llama}


def told(body: bytes) -> list[Any]:
    """What a reader of these events is told, one after the other."""
    found = []
    for one in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        data = b"\n".join(line[6:] for line in one.split(b"\n") if line.startswith(b"data: "))
        if data:
            found.append(data if data == b"[DONE]" else json.loads(data))
    return found
