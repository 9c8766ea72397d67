"""What a whole document says of its usage, where it is plain JSON with plain counts: a decoder reads it at a tenth of the cost.

For the Python twin of ``usage`` alone. Invariant: it says what the scanner would. It takes the last member of a name, as that
does; what it refuses (a count that is none, half an answer) the scanner reads.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.figures import (
    CACHE_READ,
    COUNTS,
    DIGITS,
    INPUT,
    MAX_DEPTH,
    MOST_NAMES,
    NUMBER_BYTES,
    OUTPUT,
    TOTAL,
    meaning,
)

_NOTHING: Final = (-1,) * COUNTS
_MOST: Final = 10**DIGITS
_ODD: Final = re.compile(rb"[0-9][eE]|-|[0-9.]{%d}" % (NUMBER_BYTES + 1)).search  # perhaps no whole number, written as one
_Parts = msgspec.defstruct("_Parts", [("cached_tokens", int, -1), ("reasoning_tokens", int, -1)], gc=False)


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | float = -1
    completion_tokens: int | float = -1
    input_tokens: int | float = -1
    output_tokens: int | float = -1
    total_tokens: int = -1
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    seconds: int = -1
    prompt_tokens_details: _Parts | None = None  # type: ignore[valid-type]
    input_tokens_details: _Parts | None = None  # type: ignore[valid-type]
    input_token_details: _Parts | None = None  # type: ignore[valid-type]
    output_token_details: _Parts | None = None  # type: ignore[valid-type]
    completion_tokens_details: _Parts | None = None  # type: ignore[valid-type]
    output_tokens_details: _Parts | None = None  # type: ignore[valid-type]
    reasoning_tokens: int | None = None

    def figures(self, document: bytes) -> tuple[int, int, int, int] | None:
        """(prompt, completion, cached, reasoning) tokens, None = not all is said plainly."""
        if (
            type(self.prompt_tokens) is type(self.completion_tokens) is int
            and 0 <= self.prompt_tokens < _MOST
            and 0 <= self.completion_tokens < _MOST
            and self.prompt_tokens_details is None
            and self.completion_tokens_details is None
            and self.input_token_details is self.output_token_details is None
            and self.input_tokens < 0
            and self.output_tokens < 0
            and self.reasoning_tokens is None
            and self.cache_read_input_tokens is None
            and self.input_tokens_details is self.output_tokens_details is None
        ):
            # As most say it.
            return self.prompt_tokens, self.completion_tokens, -1, -1
        counts: list[int | float] = [
            self.prompt_tokens, self.completion_tokens, self.input_tokens, self.output_tokens, self.total_tokens,
            -1 if self.cache_read_input_tokens is None else self.cache_read_input_tokens,
            -1 if self.cache_creation_input_tokens is None else self.cache_creation_input_tokens,
            self.seconds,
            _part(self.prompt_tokens_details, "cached_tokens"),
            _part(self.input_tokens_details or self.input_token_details, "cached_tokens"),
            _part(self.completion_tokens_details, "reasoning_tokens"),
            _part(self.output_tokens_details or self.output_token_details, "reasoning_tokens"),
            -1 if self.reasoning_tokens is None else self.reasoning_tokens,
        ]  # fmt: skip
        for at in range(TOTAL):
            count = counts[at]
            if type(count) is float:
                if _ODD(document) is not None:
                    return None
                counts[at] = int(count) if count.is_integer() else -1
        if max(counts) >= _MOST or min(counts) < -1:
            return None
        return meaning(counts)  # type: ignore[arg-type]


def _part(parts: object, name: str) -> int:
    return -1 if parts is None else getattr(parts, name)


class _Answer(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _Timings(msgspec.Struct, gc=False):
    prompt_n: int = -1
    cache_n: int = -1
    predicted_n: int = -1


class _Event(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    response: _Answer | None = None
    message: _Answer | None = None
    timings: _Timings | None = None


_decode: Final = msgspec.json.Decoder(_Answer).decode
_decode_event: Final = msgspec.json.Decoder(_Event).decode


def plainly(document: bytes) -> tuple[int, int, int, int] | None:
    """The figures of the document's own usage, where it is JSON and that says it plainly; None = the scanner knows."""
    if document.count(b":") > MOST_NAMES or document.count(b"[") + document.count(b"{") > MAX_DEPTH:
        return None  # perhaps more than the scanner follows
    try:
        usage = _decode(document).usage
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    found = None if usage is None else usage.figures(document)
    return None if found is None or max(found[:2]) < 0 else found


def of_event(data: bytes) -> tuple[int, int, int, int, bool] | None:
    """As ``usage.event_usage``, where the event says it plainly; None = the scanner knows."""
    if data.count(b":") > MOST_NAMES or data.count(b"[") + data.count(b"{") > MAX_DEPTH or b'"meta"' in data:
        return None
    try:
        event = _decode_event(data)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    timed = -1, -1, -1, -1
    if event.timings is not None:
        counts = list(_NOTHING)
        counts[INPUT], counts[CACHE_READ], counts[OUTPUT] = (
            event.timings.prompt_n, event.timings.cache_n, event.timings.predicted_n
        )  # fmt: skip
        if max(counts) >= _MOST or min(counts) < -1:
            return None
        timed = meaning(counts)
    wrapped = [event.usage, *(one.usage for one in (event.response, event.message) if one is not None)]
    for usage in wrapped:
        if usage is not None:
            found = usage.figures(data)
            if found is None:
                return None
            prompt, completion, cached, reasoning = found
            if prompt >= 0 or completion >= 0:
                return prompt, completion, cached if cached >= 0 else timed[2], reasoning, False
    return (*timed, max(timed[:2]) >= 0)
