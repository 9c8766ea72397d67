"""What of a request body is looked at: its members, and how deep it nests.

Owns: which members matter, what may be wrong with a body, and the two steps of the Python twin that are one pass of the
compiled one. Shared by both twins of ``bodies`` and by the complete path. Invariant: each step is linear in the bytes, and
makes no object for a token that it passes over: what a peer sends costs a small multiple of its size.
"""

from __future__ import annotations

import enum
import re
from array import array
from itertools import accumulate
from operator import add
from typing import Any, Final

import msgspec

MAX_DEPTH: Final = 512
"""The most levels that can be configured."""
MAX_MODEL_CHARS: Final = 256
MAX_NAME_CHARS: Final = 64
"""The longest name of a member that an answer repeats."""
MOST: Final = 2**62
"""Larger counts are taken for this one: what a compiled twin keeps is a machine's integer."""
MOST_PROMPTS: Final = 4096
"""So many prompts are counted in one request."""

ABSENT: Final = "\0no model"  # told by identity: a decoded string is another object, whatever it says

# Those that say one thing, and those that are a prompt.
SCALARS: Final = ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n")
PROMPTS: Final = ("messages", "prompt", "input")
NAMES: Final = frozenset((*SCALARS, *PROMPTS))
OPTIONS: Final = frozenset(("include_usage",))
_LONGEST: Final = max(map(len, NAMES | OPTIONS))


class Fault(enum.IntEnum):
    """What is wrong with a body, the first that applies: a body that is too deep may be malformed as well."""

    NONE = 0
    DEEP = 1
    NO_TEXT = 2  # not UTF-8
    NO_JSON = 3
    NO_OBJECT = 4
    MANY = 5  # members
    TWICE = 6  # a member is there
    CASE = 7  # a member's name is another one's but for its case


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


class Outline(msgspec.Struct, gc=False, frozen=True):
    """A body as far as its bytes say it.

    Of a good one ``known`` is an object of the :data:`SCALARS` that it has, each value as it stands but for what no reader
    of it needs (:func:`shortened`); ``prompt_bytes`` the size of its prompts, ``prompts`` how many answers it wants one for.
    Of a bad one ``fault`` says what is wrong, ``name`` which member ("" = too long to be repeated, or none), and ``inner``
    whether it is one of ``stream_options``.
    """

    fault: int
    name: str = ""
    inner: bool = False
    known: bytes = b""
    prompt_bytes: int = 0
    prompts: int = 1


# ---- names


class TooMany(Exception):
    """An object has more members than it may have."""


class _Member:
    """Takes the place of a name: no two are equal, so that no member is lost for another of its name."""

    __slots__ = ()


_names: list[str] = []
_most = 0


def _named(_: type, name: Any) -> _Member:
    if len(_names) >= _most:
        raise TooMany
    _names.append(name)
    return _Member()


_decode_members: Final = msgspec.json.Decoder(dict[_Member, msgspec.Raw], dec_hook=_named).decode
_decode_rows: Final = msgspec.json.Decoder(list[dict[_Member, msgspec.Raw]], dec_hook=_named).decode


def members(text: bytes | msgspec.Raw, most: int) -> tuple[list[str], list[msgspec.Raw]]:
    """Names and values of the object ``text``, in order, repeated ones too.

    :raises TooMany: at the first one after ``most``; what follows it has not been read.
    :raises msgspec.ValidationError: it is something else than an object.
    :raises msgspec.DecodeError, RecursionError: it is not JSON.
    """
    global _names, _most
    _most = most
    try:
        values = list(_decode_members(text).values())
        return _names, values
    finally:
        _names = []


def rows(text: bytes | msgspec.Raw, most: int) -> list[tuple[list[str], list[msgspec.Raw]]]:
    """The same of each object in the list ``text``, which have ``most`` members altogether; how many they are is not asked.

    :raises: as :func:`members`, also when one is no object.
    """
    global _names, _most
    _most = most
    try:
        found = []
        at = 0
        for row in _decode_rows(text):
            values = list(row.values())
            found.append((_names[at : at + len(values)], values))
            at += len(values)
        return found
    finally:
        _names = []


def folded(name: str) -> str:
    """``name`` as who folds case compares it, ASCII letters and what Unicode holds to be some (the Kelvin sign, the long s)."""
    return name.lower().replace("\u017f", "s")


def repeatable(name: str) -> str:
    """``name`` where an answer may repeat it; else ""."""
    return name if len(name) <= MAX_NAME_CHARS and name.isprintable() else ""


def misnamed(names: list[str], known: frozenset[str]) -> tuple[Fault, str] | None:
    """What is wrong with the names of an object in which those of ``known`` are read; None = nothing.

    Engines differ in which of two equal names counts, and those in Go take a name in any case.
    """
    together = "".join(names)
    if len(set(names)) == len(names) and together.isascii() and together.islower():
        return None
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return Fault.TWICE, repeatable(name)
        seen.add(name)
        if name not in known and len(name) <= _LONGEST and (one := folded(name)) in known:
            return Fault.CASE, one
    return None


# ---- values

# The longest model that is no longer than it may be: each character as two escapes.
_MODEL_BYTES: Final = 12 * MAX_MODEL_CHARS + 2
_TOO_LONG: Final = b'"' + b"m" * (MAX_MODEL_CHARS + 1) + b'"'
_DIGITS: Final = 25
_NUMBER_CHARS: Final = 40
VALUE_BYTES: Final = _MODEL_BYTES
"""So much of a value is all that :func:`shortened` needs."""


def shortened(name: str, value: bytes, size: int) -> bytes:
    """A value of ``size`` bytes, of which ``value`` are the first, or one of the same kind that says the same of ``name``."""
    lead = value[:1]
    if lead == b"[":
        return b"[]"
    if lead == b"{":
        return b"{}"
    if lead == b'"':
        if name != "model":
            return b'""'
        return value if size <= _MODEL_BYTES else _TOO_LONG
    if lead in b"tfn":
        return value
    if value.lstrip(b"-").isdigit() and (size <= len(value) or size > _NUMBER_CHARS):
        return value[:_DIGITS]  # any that is longer counts as much as another
    if size > _NUMBER_CHARS or abs(float(value)) > MOST:
        return b"0.5"  # it is a number, but no count
    return value


_LIST: Final = re.compile(rb'\[[ \t\r\n]*(["\[])').match  # of texts, or of lists of numbers


def prompts_in(prompt: bytes | msgspec.Raw) -> int:
    """How many prompts the value ``prompt`` is: each of a list gets answers of its own. A list of numbers is one, in tokens."""
    opens = _LIST(prompt)
    if opens is None:
        return 1
    text = bytes(prompt)
    if opens[1] == b"[":
        return min(max(1, text.count(b"[") - 1), MOST_PROMPTS)
    # By its quotes: a list of a million texts is not made for this. (Pairs first: a backslash may be an escaped one.)
    plain = text.replace(b"\\\\", b"") if b"\\" in text else text
    return min((plain.count(b'"') - plain.count(b'\\"')) // 2, MOST_PROMPTS)


# ---- depth

_NOT_STRUCTURE: Final = bytes(c for c in range(256) if c not in b'[]{}"')
_TO_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
# A byte holds eight brackets, 1 = opens: how much higher it ends than it begins, and how high it gets in between.
_TO_BITS: Final = bytes.maketrans(b"[]", b"10")
_CLIMB: Final = bytes((2 * byte.bit_count() - 8) & 255 for byte in range(256))
_PEAK: Final = bytes(max(2 * (byte >> 8 - n).bit_count() - n for n in range(9)) for byte in range(256))
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
    brackets = body.translate(_TO_SQUARE, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _outside(brackets)
    return len(brackets) > max_depth and _deepest(brackets) > max_depth


def _outside(brackets: bytes) -> bytes:
    """What of ``brackets`` stands in no string; in pieces, which are many small objects for a moment each."""
    out = []
    inside = 0
    for at in range(0, len(brackets), _BLOCK):
        pieces = brackets[at : at + _BLOCK].split(b'"')
        out.append(b"".join(pieces[inside::2]))
        inside ^= ~len(pieces) & 1
    return b"".join(out)


def _deepest(brackets: bytes) -> int:
    """How deep ``brackets`` open, whether or not they close again: eight of them a step."""
    eights = -(-len(brackets) // 8)
    packed = int(brackets.translate(_TO_BITS).ljust(8 * eights, b"0"), 2).to_bytes(eights, "big")
    before = accumulate(array("b", packed.translate(_CLIMB)), initial=0)
    deepest: int = max(map(add, before, packed.translate(_PEAK)))
    return deepest
