"""What of a request body is looked at: its members.

Owns: which members matter, their names and values, and what may be wrong with a body. Shared by both twins of ``bodies`` and
by the complete path. How deep a body nests is told in ``brackets``, how much prompt it is in ``prompts`` and ``attached``.
Invariant: each step is linear in the bytes, and makes no object for a token that it passes over: what a peer sends costs a
small multiple of its size.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec

MAX_MODEL_CHARS: Final = 256
MAX_NAME_CHARS: Final = 64
"""The longest name of a member that an answer repeats."""
MOST: Final = 2**62
"""Larger counts are taken for this one: what a compiled twin keeps is a machine's integer."""

ABSENT: Final = "\0no model"  # told by identity: a decoded string is another object, whatever it says

# The three in which an API says how long an answer may be, and `n` of the answers.
LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# What some engine takes for the first instead, or for the second; of any kind, since others do not know them.
OTHER_LIMITS: Final = ("n_predict", "num_predict", "max_new_tokens", "max_length")
OTHER_WIDTHS: Final = ("best_of", "n_cmpl", "beam_width", "num_beams", "num_return_sequences")
# Objects that some engine looks for these in, or lists of such.
INSIDE: Final = ("options", "parameters", "sampling_params")
WIDTHS: Final = ("n", *OTHER_WIDTHS)
BOUNDS: Final = frozenset((*LIMITS, *OTHER_LIMITS, *WIDTHS, *INSIDE))

# Those that say one thing, and those that are a prompt.
SCALARS: Final = ("model", "stream", "stream_options", *LIMITS, "n", *OTHER_LIMITS, *OTHER_WIDTHS, *INSIDE)
# Those of them that are no prompt to any engine, and that nearly every body has.
FRAME: Final = SCALARS[:7]
# Of what is compared, the one side and the other (rerank, score).
ONES: Final = ("query", "queries", "text_1", "data_1")
MANY: Final = ("documents", "text_2", "data_2", "texts", "items")
# What becomes prompt and does not stand in the body, or becomes more than its text.
UNCOUNTED: Final = ("background", "previous_response_id", "conversation", "chat_template")
STORED: Final = 1 << len(UNCOUNTED)
# What tells an engine, vLLM or SGLang, where a peer is that it takes a prompt's cache from, or sends it to.
PEERS: Final = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room")
PEERED: Final = STORED << 1
PROMPTS: Final = ("messages", "prompt", "input", "prompt_embeds", *ONES, *MANY, *UNCOUNTED, *PEERS)
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
    sampling_params: Any = None


class Outline(msgspec.Struct, gc=False, frozen=True):
    """A body as far as its bytes say it.

    Of a good one ``known`` is an object of the :data:`SCALARS` that it has, each value as it stands but for what no reader
    of it needs (:func:`shortened`); ``prompt_tokens`` is the estimate of all that becomes prompt, ``prompts`` how many prompts
    it wants answers for, ``uncounted`` which of the :data:`UNCOUNTED` it has, as bits in their order, then whether its
    prompt is one that is stored elsewhere, and whether it has one of the :data:`PEERS`.
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


def whole(value: Any) -> int:
    """The number that ``value`` is, 1 at least; -1 = it is no such number (a bool is none, nor is a text)."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return min(value, MOST) if type(value) is int and value > 0 else -1
