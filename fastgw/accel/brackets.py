"""The brackets of a JSON text: how deep they nest, eight of them a step, and which of them stand in no string.

Invariant: each step is linear in the bytes, and there is no recursion: what a peer sends costs a small multiple of its size.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from operator import add
from typing import Final

MAX_DEPTH: Final = 512
"""The most levels that can be configured."""

NOT_STRUCTURE: Final = bytes(c for c in range(256) if c not in b'[]{}"')
TO_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
# A byte holds eight brackets, 1 = opens: how much higher it ends than it begins, how high it gets in
# between, and how low.
_TO_BITS: Final = bytes.maketrans(b"[]", b"10")
_CLIMB: Final = bytes((2 * byte.bit_count() - 8) & 255 for byte in range(256))
_PEAK: Final = bytes(max(2 * (byte >> 8 - n).bit_count() - n for n in range(9)) for byte in range(256))
_DIP: Final = bytes(min(2 * (byte >> 8 - n).bit_count() - n for n in range(9)) & 255 for byte in range(256))
_BLOCK: Final = 65536


def too_deep(body: bytes, max_depth: int) -> bool:
    """Whether brackets outside strings nest deeper than ``max_depth``; linear, and without recursion."""
    max_depth = min(max_depth, MAX_DEPTH)
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    # What floods is deep from its beginning.
    return (len(body) > _BLOCK and _nests(body[:4096], max_depth)) or _nests(body, max_depth)


def _nests(body: bytes, max_depth: int) -> bool:
    if b"\\" in body:
        # Pairs first, so that a backslash before a quote is never itself escaped.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Taking out two neighbouring quotes leaves what is inside a string inside, and what is outside outside.
    brackets = body.translate(TO_SQUARE, NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = outside(brackets)
    return len(brackets) > max_depth and deepest(brackets) > max_depth


def outside(brackets: bytes) -> bytes:
    """What of ``brackets`` stands in no string; in pieces, which are many small objects for a moment each."""
    out = []
    inside = 0
    for at in range(0, len(brackets), _BLOCK):
        pieces = brackets[at : at + _BLOCK].split(b'"')
        out.append(b"".join(pieces[inside::2]))
        inside ^= ~len(pieces) & 1
    return b"".join(out)


def deepest(brackets: bytes) -> int:
    """How deep ``brackets`` open, whether or not they close again: eight of them a step."""
    eights = -(-len(brackets) // 8)
    packed = int(brackets.translate(_TO_BITS).ljust(8 * eights, b"0"), 2).to_bytes(eights, "big")
    before = accumulate(array("b", packed.translate(_CLIMB)), initial=0)
    deepest: int = max(map(add, before, packed.translate(_PEAK)))
    return deepest


def heights(brackets: bytes) -> tuple[int, int, int]:
    """How low ``brackets`` get, how high, and where they end, from where they begin."""
    eights = len(brackets) // 8
    packed = int(brackets[: eights * 8].translate(_TO_BITS) or b"0", 2).to_bytes(eights, "big")
    before = list(accumulate(array("b", packed.translate(_CLIMB)), initial=0))
    lowest = min(map(add, before, array("b", packed.translate(_DIP))), default=0)
    highest = max(map(add, before, packed.translate(_PEAK)), default=0)
    level = before[-1]
    for c in brackets[eights * 8 :]:
        level += 1 if c == 91 else -1
        lowest = min(lowest, level)
        highest = max(highest, level)
    return lowest, highest, level
