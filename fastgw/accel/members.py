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
# Of what is compared, the one side and the other (rerank, score).
ONES: Final = ("query", "queries", "text_1", "data_1")
MANY: Final = ("documents", "text_2", "data_2", "texts", "items")
# What becomes prompt and does not stand in the body, or becomes more than its text.
UNCOUNTED: Final = ("background", "previous_response_id", "conversation", "chat_template")
STORED: Final = 1 << len(UNCOUNTED)
PROMPTS: Final = ("messages", "prompt", "input", "prompt_embeds", *ONES, *MANY, *UNCOUNTED)
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
    it wants answers for, ``uncounted`` which of the :data:`UNCOUNTED` it has, as bits in their order, and then whether its
    prompt is one that is stored elsewhere.
    Of a bad one ``fault`` says what is wrong, ``name`` which member ("" = too long to be repeated, or none), and ``inner``
    whether it is one of ``stream_options``.
    """

    fault: int
    name: str = ""
    inner: bool = False
    known: bytes = b""
    prompt_tokens: int = 0
    prompts: int = 1
    uncounted: int = 0


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


def several_in(value: bytes | msgspec.Raw) -> int:
    """How many things the value ``value`` is at most, each of which is compared with another: by its commas."""
    text = bytes(value)
    if text[:1] not in (b"[", b"{"):
        return 1
    if b'"' not in text:
        return prompts_in(text)
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    commas = _outside(text.translate(None, _NOT_COMMAS).replace(b'""', b"")).count(b",")
    return min(commas + 1, MOST_PROMPTS)


def texts_in(value: bytes | msgspec.Raw) -> int:
    """How many texts the value ``value`` is, a list of nothing else; 1 = it is something else."""
    text = bytes(value)
    if text[:1] != b"[":
        return 1
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    opens = _outside(text.translate(_TO_SQUARE, _NOT_STRUCTURE).replace(b'""', b"")).count(b"[")
    return min(max(1, text.count(b'"') // 2), MOST_PROMPTS) if opens == 1 else 1


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
"""What an image is taken for, however small its file is: engines make hundreds of tokens of a single pixel."""
SOUND_BYTES_PER_TOKEN: Final = 256
"""Of sound, and of video: MP3 of 64 kbit/s in base64 is about forty tokens a second, which is what models make of it."""

_ASCII: Final = bytes(range(128))
_IDS: Final = b"0123456789,[]- \t\r\n"
_FIRST: Final = re.compile(rb"\[[ \t\r\n]*+([^ \t\r\n])").match
FEW_VALUES: Final = 24
VALUE_EACH: Final = 400
"""More values than those few, and one in so many bytes, that may be a picture are so small that what they are made of is of no
weight beside what they count as."""
DEEPEST: Final = 24
"""So deep may that nest in which a picture is told from a text."""
SPECIAL_TOKENS: Final = 2
"""Of each of several inputs, beside its text: a vocabulary's marks of the beginning and the end."""
PAIR_TOKENS: Final = 4
"""The same of each pair that is compared: one stands between the two as well."""

# Where a picture or a recording may stand, and nothing else may: any other object or list is OTHER.
OTHER, MESSAGES, MESSAGE, ITEMS, ITEM, PARTS, PART, IMAGE, SOUND, PROMPT_LIST, PROMPT_OBJECT = range(11)
ROOTS: Final = {
    "messages": MESSAGES,
    "input": ITEMS,
    "prompt": PROMPT_LIST,
    **dict.fromkeys((*ONES, *MANY), PARTS),
}

MOST_SOURCE_MEMBERS: Final = 16
"""A ``source`` has four."""

# In a text without blanks, in which no quote is escaped: values that may be one, by their keys.
IMAGE_URL, URL, PICTURE, DATA, SOURCE, MEDIA, ESCAPED = range(1, 8)
_HOLDS: Final = re.compile(rb'_url"|"source"|"input_audio"|"image"|"multimodal_data"|\\u').search
_MAY_BE: Final = re.compile(
    rb'"(?:image_url":"([^"]*+)"|url":"([^"]*+)"|image":"([^"]*+)"|data":"([^"]*+)"'
    rb'|source":\{((?:"[^"]*+":(?:"[^"]*+"|[^"\[\]{},]*+),?+)*+)\}|multimodal_data":\[((?:"[^"]*+",?+)*+)\]|((?:[^"\\]++|\\[^u"])*+\\u[^"]*+)":)'
).finditer
_MAY_HOLD: Final = re.compile(rb'_url":|"source":\{|"image":"|"(?:[^"\\]++|\\[^u"])*+\\u[^"]*+":')
_MARK: Final = b"\2"
_OPENINGS: Final = (
    (b'"content":[', b"\3"),
    (b'"output":[', b"\3"),
    (b'"output":{', b"\4"),
    (b'"image_url":{', b"\5"),
    (b'"input_audio":{', b"\6"),
    (b'"audio_url":{', b"\6"),
    (b'"video_url":{', b"\6"),
)
_INNER: Final = {
    (MESSAGES, 123): MESSAGE,
    (ITEMS, 123): ITEM,
    (PARTS, 123): PART,
    (PROMPT_LIST, 123): PROMPT_OBJECT,
    (MESSAGE, 3): PARTS,
    (ITEM, 3): PARTS,
    (ITEM, 4): PART,
    (PART, 3): PARTS,
    (PART, 5): IMAGE,
    (PART, 6): SOUND,
}
_SOURCE_MEMBER: Final = re.compile(rb'"([^"]*+)":(?:"([^"]*+)"|[^",]*+)').finditer
_NOT_MARKS: Final = bytes(c for c in range(256) if c not in b'[]{}"\2\3\4\5\6')
_CLOSED: Final = bytes.maketrans(b"}", b"]")
_TO_OPEN: Final = bytes.maketrans(b"{\3\4\5\6", b"[[[[[")


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


def inputs_in(value: bytes | msgspec.Raw) -> int:
    """How many inputs the value ``value`` is: a list of texts, or of lists of numbers of tokens. (Objects are messages.)"""
    text = bytes(value)
    first = _FIRST(text)
    return prompts_in(text) if first is not None and first[1] in b'"[' else 1


def attached_in(value: bytes | msgspec.Raw, state: int) -> tuple[int, int]:
    """Bytes of the value ``value`` that are pictures and recordings, and how many tokens those are. ``state``: one of
    :data:`ROOTS`, what it is. (Blanks are no part of a picture, nor of a name.)

    One counts as such only where no engine takes a text: ``url`` of ``image_url`` and its like, ``data`` of ``input_audio``, or
    of a ``source`` that says of itself to be an image in base64, each in a part of a message's content. Where so many values
    may be one that their bytes are of no weight, all is text, and each picture that may be there is one as well; and what nests
    deeper than anything that has a picture in it is all text.
    """
    text = bytes(value)
    if text[:1] not in (b"[", b"{"):
        return 0, 0
    most = FEW_VALUES + len(text) // VALUE_EACH
    text = text.translate(None, b" \t\r\n")
    if not _HOLDS(text):
        return 0, 0
    if b"\\" in text:
        text = text.replace(b"\\\\", b"\1\1").replace(b'\\"', b"\1\1")
    # What may matter is cut out, and a mark left there; of the rest only the brackets are kept, those that matter as others.
    found: list[tuple[int, int, bytes]] = []
    between: list[bytes] = []
    done = 0
    for match in _MAY_BE(text):
        if len(found) == most:
            return 0, _roughly(text)
        kind = match.lastindex or 0
        start, end = match.span(kind)
        found.append((kind, end - start, text[start : min(end, start + 11)] if kind < SOURCE else text[start:end]))
        between.append(text[done : match.start()])
        done = match.end()
    between.append(text[done:])
    text = _MARK.join(between)
    for opening, mark in _OPENINGS:
        text = text.replace(opening, mark)
    marks = _outside(text.translate(_CLOSED, _NOT_MARKS).replace(b'""', b""))
    if _deepest(marks.translate(_TO_OPEN, _MARK)) > DEEPEST:
        return 0, _roughly(text)
    size = 0
    while size != len(marks):
        size = len(marks)
        marks = marks.replace(b"[]", b"").replace(b"{]", b"")
        if len(marks) == size:
            for _, mark in _OPENINGS:
                marks = marks.replace(mark + b"]", b"")
    return _counted(marks, found, state)


def _counted(marks: bytes, found: list[tuple[int, int, bytes]], state: int) -> tuple[int, int]:
    """What ``found`` counts as, by where it stands among the brackets."""
    attached = tokens = 0
    stack = [OTHER]
    values = iter(found)
    for mark in marks:
        if mark == 93:
            stack.pop()
            continue
        state_now = stack[-1]
        if mark != 2:
            stack.append(_inner(state_now, mark) if len(stack) > 1 else _root(state, mark))
            continue
        key, size, lead = next(values)
        if key == ESCAPED:
            if state_now != OTHER:
                tokens += IMAGE_TOKENS  # spelt by nobody who is not hiding one
        elif key == MEDIA:
            if state_now == PROMPT_OBJECT:
                for one in lead.split(b'"')[1::2]:
                    attached += len(one)
                    tokens += max(IMAGE_TOKENS, len(one) // SOUND_BYTES_PER_TOKEN)
        elif (
            (key == URL and state_now == IMAGE)
            or (key == IMAGE_URL and state_now == PART)
            or (key == PICTURE and state_now in (PART, ITEM))
        ):
            tokens += IMAGE_TOKENS
            if lead.startswith(b"data:image"):
                attached += size
        elif state_now == SOUND:
            if key == URL and not lead.startswith(b"data:"):
                tokens += IMAGE_TOKENS
            elif (key == URL and lead.startswith((b"data:audio", b"data:video"))) or key == DATA:
                attached += size
                tokens += size // SOUND_BYTES_PER_TOKEN + 1
        elif key == SOURCE and state_now == PART:
            some, more = _source(lead)
            attached += some
            tokens += more
    return attached, tokens


def _source(text: bytes) -> tuple[int, int]:
    """The same of what the members ``text`` of a ``source`` say."""
    tokens = data = kind = 0
    for at, match in enumerate(_SOURCE_MEMBER(text)):
        if at == MOST_SOURCE_MEMBERS:
            return 0, IMAGE_TOKENS * at
        key, value = match[1], match[2] or b""
        if b"\\u" in key:
            tokens += IMAGE_TOKENS
            kind = -1
        elif key == b"data":
            data += len(value)
        elif key == b"url":
            tokens += IMAGE_TOKENS
        elif key == b"type":
            kind = kind | 1 if kind >= 0 and value == b"base64" else -1
        elif key == b"media_type":
            kind = kind | 2 if kind >= 0 and value.startswith(b"image") else -1
    if not data or kind < 1 or kind == 2:
        return 0, tokens
    return data if kind == 3 else 0, tokens + IMAGE_TOKENS  # (there are engines to which one in base64 is an image anyway)


def _roughly(text: bytes) -> int:
    """Tokens of so many pictures as may be there at most."""
    pictures = len(_MAY_HOLD.findall(text))
    if b'"multimodal_data"' in text:
        pictures += text.count(b'"') // 2
    return IMAGE_TOKENS * pictures


def _root(state: int, mark: int) -> int:
    if mark == 91:
        return state
    return {PARTS: PART, PROMPT_LIST: PROMPT_OBJECT}.get(state, OTHER) if mark == 123 else OTHER


def _inner(state: int, mark: int) -> int:
    """What a list or an object is that opens in a ``state``."""
    return _INNER.get((state, mark), OTHER)


# ---- depth

_NOT_STRUCTURE: Final = bytes(c for c in range(256) if c not in b'[]{}"')
_NOT_COMMAS: Final = bytes(c for c in range(256) if c not in b',"')
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
