"""The extra chunk at a stream's end that says what was used, and what else it says that belongs to the chunk before it.

An engine that is asked for usage hangs on the extra chunk what it would have hung on its last one: vLLM its fingerprint,
llama.cpp its timings. Whoever takes the extra chunk out gives that to the last one. Both twins of ``sse`` do so by this module:
it is once in a stream. Must never change what the last chunk says itself.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec

from fastgw.accel.events import decode_event, is_usage_chunk, read, says_it_failed

MAX_USAGE_BYTES: Final = 1 << 20
"""An extra chunk up to this size is taken out (some engines repeat the prompt in it), and what may be one is held as long."""

is_another: Final = re.compile(
    rb'"choices"\s{0,8}:\s{0,8}\[\s{0,8}[^\s\]]|"error"\s{0,8}:\s{0,8}(?:[^\snf0"\[{]|"[^"]|[\[{]\s{0,8}[^\s\]}])'
).search
"""Choices that are not empty, or an error: an event in which they stand is not the extra chunk."""
_FRONT: Final = re.compile(rb'"(?:choices|usage)"').search  # of the extra chunk's members, however long another is
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_BARE: Final = frozenset(("usage", "choices"))


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    delta: dict[str, Literal["", "assistant"] | None]
    index: int = 0
    finish_reason: Literal[""] | None = None
    logprobs: None = None


class _Silent(msgspec.Struct):
    usage: dict[str, msgspec.Raw]
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1, max_length=1)]
    error: None = None


_says_nothing: Final = msgspec.json.Decoder(_Silent).decode


def may_be_extra(begins: bytes) -> bool:
    """Whether an event that begins so, and is a long one, can be the extra chunk."""
    return _FRONT(begins) is not None and is_another(begins) is None


def is_extra(event: bytes, front: int) -> bool:
    """Whether ``event``, a long one, is the extra chunk, and looks like it from its ``front``, which has so many bytes; of one
    with more than :data:`MAX_USAGE_BYTES` nobody knows."""
    if len(event) - event.endswith(b"\r\n") > MAX_USAGE_BYTES or not may_be_extra(event[:front]):
        return False
    data, error = read(event)
    try:
        told = decode_event(data or b"")
        return is_usage_chunk(told) and not (error or says_it_failed(told))
    except (msgspec.DecodeError, RecursionError):
        return False


def is_silent(event: bytes) -> bool:
    """Whether ``event``, which stands behind a last chunk, is the extra one of those who put a choice into it, with nothing in
    that (LiteLLM)."""
    if b'"usage"' not in event:
        return False
    data, error = read(event)
    try:
        _says_nothing(data or b"")
    except (msgspec.DecodeError, RecursionError):
        return False
    return not error


def takes_more(event: bytes) -> bool:
    """Whether members can be put behind those of ``event``, whose data is an object: it ends where the last line does."""
    text = event.rstrip(b" \t\r\n")
    return text.endswith(b"}") and text.startswith(b"data:", max(text.rfind(b"\n"), text.rfind(b"\r")) + 1)


def spliced(last: bytes, extra: bytes) -> bytes:
    """The event ``last``, which takes more, with all that the chunk ``extra`` says beside usage and ``last`` does not."""
    try:
        said = _members(read(last)[0] or b"")
        more = {
            name: value for name, value in _members(read(extra)[0] or b"").items() if name not in said and name not in _BARE
        }
    except (msgspec.DecodeError, RecursionError):
        return last
    if not more:
        return last
    end = last.rindex(b"}")
    # (Written in several lines it had line ends between its words; within them is none.)
    return b"".join((last[:end], b",", msgspec.json.encode(more)[1:-1].replace(b"\n", b" "), last[end:]))
