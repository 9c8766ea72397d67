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
MOST_PROMPTS: Final = 10**7
"""So many prompts are counted in one request: more than a body has room for."""

ABSENT: Final = "\0no model"  # told by identity: a decoded string is another object, whatever it says

# The three in which an API says how long an answer may be, and `n` of the answers.
LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# What some engine takes for the first instead, or for the second; of any kind, since others do not know them.
OTHER_LIMITS: Final = ("n_predict", "num_predict", "max_new_tokens", "max_length")
OTHER_WIDTHS: Final = ("best_of", "n_cmpl", "beam_width", "num_beams", "num_return_sequences")
# Objects that some engine looks for these in.
INSIDE: Final = ("options", "parameters")
WIDTHS: Final = ("n", *OTHER_WIDTHS)
BOUNDS: Final = frozenset((*LIMITS, *OTHER_LIMITS, *WIDTHS, *INSIDE))

# Those that say one thing, and those that are a prompt.
SCALARS: Final = ("model", "stream", "stream_options", *LIMITS, "n", *OTHER_LIMITS, *OTHER_WIDTHS, *INSIDE)
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
    max_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    max_completion_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    max_output_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    n: int | None = None
    # Of any kind, for most engines do not know them.
    n_predict: Any = None
    num_predict: Any = None
    max_new_tokens: Any = None
    max_length: Any = None
    best_of: Any = None
    n_cmpl: Any = None
    beam_width: Any = None
    num_beams: Any = None
    num_return_sequences: Any = None
    options: Any = None
    parameters: Any = None


class Outline(msgspec.Struct, gc=False, frozen=True):
    """A body as far as its bytes say it.

    Of a good one ``known`` is an object of the :data:`SCALARS` that it has, each value as it stands but for what no reader
    of it needs (:func:`shortened`); ``prompt_tokens`` is the estimate of all that becomes prompt, ``prompts`` how many prompts
    it wants answers for.
    Of a bad one ``fault`` says what is wrong, ``name`` which member ("" = too long to be repeated, or none), and ``inner``
    whether it is one of ``stream_options``.
    """

    fault: int
    name: str = ""
    inner: bool = False
    known: bytes = b""
    prompt_tokens: int = 0
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
    # Some serialisers write all numbers with a point, and engines take a whole one for what it is.
    return b"%d" % int(float(value)) if float(value).is_integer() else value


def prompts_in(prompt: bytes | msgspec.Raw) -> int:
    """How many prompts the value ``prompt`` is: each of a list gets answers of its own. A list of numbers is one, in tokens.

    By its quotes and brackets: a list of a million texts is not made for this. (What is of several kinds is never less.)
    """
    text = bytes(prompt)
    if text[:1] != b"[":
        return 1
    if b"\\" in text:
        # Pairs first: a backslash may be an escaped one.
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    opens = _outside(text.translate(_TO_SQUARE, _NOT_STRUCTURE).replace(b'""', b"")).count(b"[")
    return min(max(1, text.count(b'"') // 2 + opens - 1), MOST_PROMPTS)


def whole(value: Any) -> int:
    """The number that ``value`` is, 1 at least; -1 = it is no such number (a bool is none, nor is a text)."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return min(value, MOST) if type(value) is int and value > 0 else -1


# ---- the prompt's size

BYTES_PER_TOKEN: Final = 4
"""Of text, unless it is set. English in the usual vocabularies has about four; JSON's punctuation makes it err upwards."""
WIDE_BYTES_PER_TOKEN: Final = 2
"""Of text that is not ASCII, at most: a Chinese character has three bytes, and is about one token."""
IMAGE_TOKENS: Final = 1000
"""What an image is taken for, at most: of a small file no more than its bytes would be."""
SOUND_BYTES_PER_TOKEN: Final = 256
"""Of sound, and of video: MP3 of 64 kbit/s in base64 is about forty tokens a second, which is what models make of it."""

_ASCII: Final = bytes(range(128))
_IDS: Final = b"0123456789,[]- \t\r\n"
LONGEST_ESCAPED: Final = 66
"""The longest of the names that matter there, where each of its characters is written as an escape."""
_FIRST: Final = re.compile(rb"\[[ \t\r\n]*+([^ \t\r\n])").match
FEW_TOKENS: Final = 96
TOKEN_EACH: Final = 128
_HOLDS: Final = re.compile(rb'_url"|"source"|"input_audio"|\\u').search
_URL_KEY: Final = re.compile(rb'_url"[ \t\r\n]*+:').search
_TOKEN: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"([ \t\r\n]*+:)?|[][{}]', re.DOTALL).finditer

# Where a picture or a recording may stand, and nothing else may: any other object or list is OTHER.
OTHER, MESSAGES, MESSAGE, PARTS, PART, IMAGE, SOUND, SOURCE = range(8)


def estimate(size: int, wide: int, attached: int, tokens: int, bytes_per_token: int) -> int:
    """Tokens of a body of ``size`` bytes: ``wide`` of them are not ASCII, and ``attached`` of them are something else than
    text, that counts as ``tokens``."""
    text = max(0, size - wide - attached)
    per_wide = min(WIDE_BYTES_PER_TOKEN, bytes_per_token)
    return -(-text // bytes_per_token) - (-wide // per_wide) + tokens


def wide_bytes(body: bytes) -> int:
    """How many bytes are not ASCII."""
    return 0 if body.isascii() else len(body.translate(None, _ASCII))


def ids_in(value: bytes | msgspec.Raw) -> tuple[int, int]:
    """Bytes of the value ``value`` that are numbers of tokens, and how many of those there are: in a list, or a list of lists.

    In a list of numbers and texts each comma is taken for half a token beside its bytes.
    """
    text = bytes(value)
    first = _FIRST(text)
    if first is None or first[1] in b"{]":
        return 0, 0
    commas = text.count(b",")
    if text.translate(None, _IDS):
        return 0, commas // 2
    return len(text), commas + 1


def attached_in(value: bytes | msgspec.Raw, bytes_per_token: int) -> tuple[int, int]:
    """Bytes of the messages ``value`` that are pictures and recordings, and how many tokens those are.

    One counts as such only where no engine takes a text: ``url`` of ``image_url`` and its like, ``data`` of ``input_audio``, or
    of a ``source`` that says of itself to be an image in base64, each in a part of a message's content. Not looked for in
    what consists of many small things: there it is all text, and each URL an image as well.
    """
    text = bytes(value)
    if text[:1] != b"[" or not _HOLDS(text):
        return 0, 0
    if text.count(b'"') + text.count(b"[") + text.count(b"{") > FEW_TOKENS + len(text) // TOKEN_EACH:
        values = text.count(b'_url",') + text.count(b'_url"}') + text.count(b'_url"]')
        return 0, IMAGE_TOKENS * (text.count(b'_url"') - values) if _URL_KEY(text) else 0
    attached = tokens = 0
    stack: list[int] = []
    state = OTHER
    key = b""
    kind = data = 0
    image_bytes = IMAGE_TOKENS * bytes_per_token
    for match in _TOKEN(text):
        start, end = match.span(1)
        if start < 0:
            if match[0] in b"]}":
                if state == SOURCE and kind == 3 and data > image_bytes:
                    attached += data
                    tokens += IMAGE_TOKENS
                state = stack.pop()
            else:
                stack.append(state)
                state = _inner(state, key, match[0] == b"{", len(stack) == 1)
                if state == SOURCE:
                    kind = data = 0
            key = b""
            continue
        if match[2] is not None:
            key = text[start:end] if state != OTHER and end - start <= LONGEST_ESCAPED else b""
            if b"\\u" in key and state != OTHER:
                tokens += IMAGE_TOKENS  # spelt by nobody who is not hiding one
                kind = -1
            continue
        size = end - start
        lead = text[start : min(end, start + 11)]
        url = (state == IMAGE and key == b"url") or (state == PART and key == b"image_url")
        if url or (state == SOUND and key == b"url"):
            if not lead.startswith(b"data:"):
                tokens += IMAGE_TOKENS
            elif url and lead.startswith(b"data:image") and size > image_bytes:
                attached += size
                tokens += IMAGE_TOKENS
            elif not url and lead.startswith((b"data:audio", b"data:video")):
                attached += size
                tokens += size // SOUND_BYTES_PER_TOKEN + 1
        elif state == SOUND and key == b"data":
            attached += size
            tokens += size // SOUND_BYTES_PER_TOKEN + 1
        elif state == SOURCE:
            if key == b"data":
                data += size
            elif key == b"url":
                tokens += IMAGE_TOKENS
            elif key == b"type":
                kind = kind | 1 if kind >= 0 and text[start:end] == b"base64" else -1
            elif key == b"media_type":
                kind = kind | 2 if kind >= 0 and lead.startswith(b"image") else -1
        key = b""
    return attached, tokens


_PLACES: Final = {
    b"image_url": IMAGE,
    b"input_audio": SOUND,
    b"audio_url": SOUND,
    b"video_url": SOUND,
    b"source": SOURCE,
}


def _inner(state: int, key: bytes, is_object: bool, first: bool) -> int:
    """What a list or an object is that opens in a ``state``, as the value of ``key``."""
    if first:
        return OTHER if is_object else MESSAGES
    if not is_object:
        return PARTS if state in (MESSAGE, PART) and key in (b"content", b"output") else OTHER
    if state == MESSAGES:
        return MESSAGE
    if state == PARTS:
        return PART
    return _PLACES.get(key, OTHER) if state == PART else OTHER


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
