"""Bodies of ``POST /v1/embeddings``: several requests made one, and the one answer cut again, by bytes.

Owns: what may share a call, the shared body, and the cut. Nothing is written again that an engine or a client wrote: texts,
vectors and all other members keep their bytes, and with them every digit of every number. What is not plainly understood
is not taken (``None``): the request then goes alone, as it came.

Invariant: of one answer each input's item goes to exactly one part, and the parts' counts of tokens add up to the engine's.
Source: https://platform.openai.com/docs/api-reference/embeddings (a text, a list of texts, the tokens of one, or of several).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgspec

MAX_COUNT: Final = 10**12  # of tokens; what is said to be more is no count
MAX_USAGE_DEPTH: Final = 4

_Values = dict[str, msgspec.Raw]

_decode_values: Final = msgspec.json.Decoder(_Values).decode
_decode_items: Final = msgspec.json.Decoder(list[_Values]).decode
_decode_string: Final = msgspec.json.Decoder(str).decode
_decode_strings: Final = msgspec.json.Decoder(list[str]).decode
_decode_tokens: Final = msgspec.json.Decoder(list[int]).decode
_decode_many: Final = msgspec.json.Decoder(list[list[int]]).decode
_BAD: Final = (msgspec.DecodeError, RecursionError, ValueError)

_SPACE: Final = re.compile(rb"[ \t\r\n]*").match
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL).match
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,12}").fullmatch

# How a vector may be written so that the answer is still JSON. An engine's own binary forms are not.
_ENCODINGS: Final = (b'"float"', b'"base64"', b"null")
_FALSE: Final = (b"false", b"null")


class Kind(enum.IntEnum):
    """What a request gives as input; only like goes with like."""

    TEXT = 0
    TOKENS = 1


class Parts(msgspec.Struct, frozen=True, gc=False):
    """One request's share of a call: ``items`` are its ``count`` inputs as they stand in a list, ``rest`` all other members
    in the order of their names. Requests with equal ``kind`` and equal ``rest`` may share a call."""

    kind: Kind
    count: int
    items: bytes
    rest: bytes

    @property
    def size_bytes(self) -> int:
        """The bytes of its inputs, by which the tokens of a shared call are apportioned."""
        return len(self.items)


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int = -1


class _Counted(msgspec.Struct, gc=False):
    usage: _Usage | None = None


_decode_counted: Final = msgspec.json.Decoder(_Counted).decode


# --- the request
def parts(body: bytes) -> Parts | None:
    """What ``body`` asks for; ``None`` = it goes alone.

    Taken is an object whose ``input`` is a text, a list of texts, one text's tokens or a list of such, none of them empty,
    and whose other members are plain values: a list or an object beside the input may belong to it item by item. Not taken
    are streams, encodings that are not JSON, and repeated members.
    """
    try:
        body.decode()
        values = _decode_values(body)
        spans = _spans(body, _SPACE(body).end(), values)  # type: ignore[union-attr]
        if spans is None or "input" not in values:
            return None
        found = _inputs(bytes(values.pop("input")))
    except _BAD:
        return None
    if found is None:
        return None
    kind, count, items = found
    rest = []
    for name in sorted(values):
        value = bytes(values[name])
        if (
            value[:1] in (b"[", b"{")
            or (name == "stream" and value not in _FALSE)
            or (name == "encoding_format" and value not in _ENCODINGS)
        ):
            return None
        rest.append(b"%b:%b" % (msgspec.json.encode(name), value))
    return Parts(kind, count, items, b",".join(rest))


def _inputs(value: bytes) -> tuple[Kind, int, bytes] | None:
    """Kind, number and bytes of what stands in ``input``."""
    if value[:1] == b'"':
        _decode_string(value)
        return Kind.TEXT, 1, value
    if value[:1] != b"[":
        return None
    inner = value[1:-1].strip(b" \t\r\n")
    if inner[:1] == b'"':
        return Kind.TEXT, len(_decode_strings(value)), inner
    if inner[:1] == b"[":
        many = _decode_many(value)
        return (Kind.TOKENS, len(many), inner) if all(many) else None
    if inner:
        _decode_tokens(value)
        return Kind.TOKENS, 1, value
    return None


def merged(several: Sequence[Parts]) -> bytes:
    """One body that asks for all of ``several``, in their order.

    :raises ValueError: when they are not of one kind, or differ in anything else than their inputs.
    """
    first = several[0]
    if any(one.kind is not first.kind or one.rest != first.rest for one in several):
        raise ValueError("requests that differ cannot share a call")
    items = b",".join([one.items for one in several])
    return b'{%b"input":[%b]}' % (first.rest + b"," if first.rest else b"", items)


# --- the answer
def split(answer: bytes, counts: Sequence[int], sizes: Sequence[int]) -> list[bytes] | None:
    """``answer`` cut into one answer for each of the requests that shared the call, in their order.

    ``counts`` says how many inputs each had, ``sizes`` how many bytes they were. Each part has its own items in the order
    of its inputs, ``index`` counted from 0, and its share of each count in ``usage``; all else is the engine's. ``None``
    when the answer is not what was asked for: no JSON, not one item for each input, or a usage that cannot be shared out.
    """
    try:
        values = _decode_values(answer)
        spans = _spans(answer, _SPACE(answer).end(), values)  # type: ignore[union-attr]
        if spans is None or "data" not in values:
            return None
        start, end = spans["data"]
        rows = _decode_items(values["data"])
        shared: list[tuple[int, int, list[int]]] = []
        if "usage" in values and not _share_out(answer, spans["usage"][0], values["usage"], sizes, shared, 0):
            return None
    except _BAD:
        return None
    items = _items(answer, start, rows)
    if items is None or len(items.pieces) != sum(counts):
        return None
    parts = []
    for turn, (stop, count) in enumerate(zip(accumulate(counts), counts, strict=True)):
        own = items.pieces[stop - count : stop]
        data = items.between.join([b"%b%d%b" % (before, at, after) for at, (before, after) in enumerate(own)])
        edits = [(begin, past, b"%d" % share[turn]) for begin, past, share in shared]
        edits.append((start, end, items.opens + data + items.closes))
        parts.append(_edited(answer, edits))
    return parts


def prompt_tokens(answer: bytes) -> int:
    """What an answer says that its inputs came to; -1 = it does not say, or it is no answer."""
    try:
        usage = _decode_counted(answer).usage
    except _BAD:
        return -1
    return usage.prompt_tokens if usage is not None and 0 <= usage.prompt_tokens <= MAX_COUNT else -1


class _Items(msgspec.Struct, gc=False):
    """The items of ``data``, by their index: what stands before and after its number. Beside them what stands around."""

    pieces: list[tuple[bytes, bytes]]
    opens: bytes
    between: bytes
    closes: bytes


def _items(answer: bytes, at: int, rows: list[_Values]) -> _Items | None:
    """The items of the list at ``at``; ``None`` unless they are numbered from 0, each number once, in whatever order."""
    count = len(rows)
    pieces: list[tuple[bytes, bytes] | None] = [None] * count
    opens = between = b""
    end = at + 1  # of the item before; for the first one, of the bracket
    for turn, values in enumerate(rows):
        comma = _SPACE(answer, end).end() if turn else at  # type: ignore[union-attr]
        begin = _SPACE(answer, comma + 1).end()  # type: ignore[union-attr]
        if turn == 0:
            opens = answer[at:begin]
        elif turn == 1:
            between = answer[end:begin]
        spans = _spans(answer, begin, values)
        if spans is None or "index" not in values or "embedding" not in values:
            return None
        end = spans[""][1]
        number = bytes(values["index"])
        if _NUMBER(number) is None:
            return None
        index = int(number)
        if index >= count or pieces[index] is not None:
            return None
        start, stop = spans["index"]
        pieces[index] = (answer[begin:start], answer[stop:end])
    closes = answer[end : _SPACE(answer, end).end() + 1]  # type: ignore[union-attr]
    return _Items([one for one in pieces if one is not None], opens, between, closes) if count else None


def _share_out(
    answer: bytes, at: int, raw: msgspec.Raw, sizes: Sequence[int], out: list[tuple[int, int, list[int]]], depth: int
) -> bool:
    """Add to ``out`` every count in the object at ``at``: where it stands, and each request's share of it. False where
    something is a number but no count: a part of it is nobody's."""
    if bytes(raw) == b"null":
        return True
    values = _decode_values(raw)
    spans = _spans(answer, at, values)
    if spans is None or depth == MAX_USAGE_DEPTH:
        return False
    for name, value in values.items():
        start, end = spans[name]
        lead = answer[start : start + 1]
        if lead == b"{":
            if not _share_out(answer, start, value, sizes, out, depth + 1):
                return False
        elif lead not in b'"[ntf':
            number = answer[start:end]
            if _NUMBER(number) is None or int(number) > MAX_COUNT:
                return False
            out.append((start, end, shares(int(number), sizes)))
    return True


def shares(total: int, sizes: Sequence[int]) -> list[int]:
    """``total`` in whole parts in proportion to ``sizes`` (at least one of them positive), by largest remainder (Hamilton's
    method); of equal remainders the earlier goes first. The parts add up to ``total`` exactly."""
    whole = sum(sizes)
    out = [total * size // whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda at: -(total * sizes[at] % whole))
    for at in order[: total - sum(out)]:
        out[at] += 1
    return out


# --- JSON by its bytes
def _spans(text: bytes, at: int, values: _Values) -> dict[str, tuple[int, int]] | None:
    """Where the values of the object that opens at ``at`` stand, by name, and under "" the object itself; ``values`` is the
    same object as the decoder has it. ``None`` when a member is repeated, or has no name."""
    spans: dict[str, tuple[int, int]] = {}
    begin = at
    at = _SPACE(text, at + 1).end()  # type: ignore[union-attr]
    while text[at] != 125:
        key = _STRING(text, at)
        assert key is not None, "the decoder has read it"
        name: str = _decode_string(key[0])
        start = _SPACE(text, _SPACE(text, key.end()).end() + 1).end()  # type: ignore[union-attr]
        value = bytes(values[name])
        end = start + len(value)
        # The decoder keeps the later of two: where the earlier one stands, another value does, or the name comes again.
        if not name or name in spans or not text.startswith(value, start):
            return None
        spans[name] = (start, end)
        at = _SPACE(text, end).end()  # type: ignore[union-attr]
        if text[at] == 44:
            at = _SPACE(text, at + 1).end()  # type: ignore[union-attr]
        elif text[at] != 125:
            return None
    spans[""] = (begin, at + 1)
    return spans


def _edited(text: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """``text`` with other bytes in some places, which do not overlap."""
    out: list[bytes] = []
    at = 0
    for start, end, new in sorted(edits):
        out += (text[at:start], new)
        at = end
    out.append(text[at:])
    return b"".join(out)
