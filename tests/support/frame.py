"""How much of a body is prompt, worked out apart from the gateway."""

from __future__ import annotations

import json
from typing import Any

FRAME = ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n")
"""What a body says that is prompt to no engine."""


def frame_bytes(document: dict[str, Any], compact: bool = False) -> int:
    """What it takes: names with their quotes, a colon and a comma, and values. (Blanks are taken for prompt.)"""
    separators = (",", ":") if compact else None
    said = {name: json.dumps(document[name], separators=separators, ensure_ascii=False) for name in FRAME if name in document}
    return sum(len(name) + 4 + len(value.encode()) for name, value in said.items())


def prompt_bytes(body: bytes) -> int:
    """What is left of a body, as JSON is written here: with a blank behind each colon, or none."""
    return len(body) - frame_bytes(json.loads(body), b'": ' not in body)


def prompt_estimate(body: bytes) -> int:
    """The tokens that the prompt of a body is taken for that has no lists in it, no pictures, and no letters but ASCII's."""
    return -(-prompt_bytes(body) // 4)
