"""What of a request body is looked at: the members that matter, and how deep it nests.

Shared by both twins of ``bodies`` and by the complete path. Nothing here is quick enough to be asked for every request
but the decoder's target itself.
"""

from __future__ import annotations

from itertools import accumulate
from operator import add
from typing import Final

import msgspec

MAX_MODEL_CHARS: Final = 256
MOST: Final = 2**62
"""Larger counts are taken for this one: what a compiled twin keeps is a machine's integer."""

ABSENT: Final = "\0no model"  # told by identity: a decoded string is another object, whatever it says

_NOT_STRUCTURE: Final = bytes(c for c in range(256) if c not in b'[]{}"')
_TO_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
# A byte holds eight brackets, 1 = opens: how much higher it ends than it begins, and how high it gets in between.
_TO_BITS: Final = bytes.maketrans(b"[]", b"10")
_CLIMB: Final = tuple(2 * byte.bit_count() - 8 for byte in range(256))
_PEAK: Final = tuple(max(2 * (byte >> 8 - n).bit_count() - n for n in range(9)) for byte in range(256))


class Options(msgspec.Struct, gc=False):
    """``stream_options``."""

    include_usage: bool | None = None


class Members(msgspec.Struct, gc=False, eq=False):
    """The decoder's target. What a body leaves out keeps its default; null is None."""

    model: str = ABSENT
    stream: bool | None = False
    stream_options: Options | msgspec.UnsetType | None = msgspec.UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")


def too_deep(body: bytes, max_depth: int) -> bool:
    """Whether brackets outside strings nest deeper than ``max_depth``; linear, and without recursion."""
    if b"\\" in body:
        # Pairs first, so that a backslash before a quote is never itself escaped.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Taking out two neighbouring quotes leaves what is inside a string inside, and what is outside outside.
    brackets = body.translate(_TO_SQUARE, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    for level in range(max_depth):
        if not brackets:
            return False
        # Each turn takes off the innermost pairs, one level of depth: cheap as long as there are many of them.
        shorter = brackets.replace(b"[]", b"")
        if 4 * len(shorter) > 3 * len(brackets):
            allowed = max_depth - level
            # What floods is deep from its beginning.
            return _deepest(brackets[:2048]) > allowed or _deepest(brackets) > allowed
        brackets = shorter
    return bool(brackets)


def _deepest(brackets: bytes) -> int:
    """How deep ``brackets`` open, whether or not they close again: eight of them a step (a step each costs 30 ns a byte)."""
    eights = -(-len(brackets) // 8)
    packed = int(brackets.translate(_TO_BITS).ljust(8 * eights, b"0"), 2).to_bytes(eights, "big")
    before = accumulate(map(_CLIMB.__getitem__, packed), initial=0)
    deepest: int = max(map(add, before, map(_PEAK.__getitem__, packed)))
    return deepest
