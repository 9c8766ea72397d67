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

from fastgw.accel.members import TooMany, members, rows
from fastgw.accel.prompts import prompts_in

MAX_COUNT: Final = 10**12  # of tokens; what is said to be more is no count
MAX_USAGE_DEPTH: Final = 4
MOST_MEMBERS: Final = 64
"""More members in an object than any library or engine writes: it is not understood."""
MOST_INPUTS: Final = 1024

_BAD: Final = (TooMany, msgspec.DecodeError, RecursionError, ValueError)

_SPACE: Final = re.compile(rb"[ \t\r\n]*").match
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*").match
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL).match
_NUMBER: Final = re.compile(rb"0|[1-9][0-9]{0,12}").fullmatch
_BLANKS: Final = b" \t\r\n"
_TOKENS: Final = b"0123456789," + _BLANKS

_decode_strings: Final = msgspec.json.Decoder(list[str]).decode

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


# --- the request
def parts(body: bytes, most_inputs: int = MOST_INPUTS) -> Parts | None:
    """What ``body`` asks for; ``None`` = it goes alone.

    Taken is an object whose ``input`` is a text, a list of texts, one text's tokens or a list of such, none of them empty and
    at most ``most_inputs``, and whose other members are plain values: a list or an object beside the input may belong to it
    item by item. Not taken are streams, encodings that are not JSON, and repeated members.
    """
    try:
        if not body.isascii():
            body.decode()
        names, values = members(body, MOST_MEMBERS)
        found = dict(zip(names, values, strict=True))
        if len(found) < len(names) or "" in found or "input" not in found:
            return None
        inputs = _inputs(bytes(found.pop("input")), most_inputs)
    except _BAD:
        return None
    if inputs is None:
        return None
    kind, count, items = inputs
    rest = []
    for name in sorted(found):
        value = bytes(found[name])
        if (
            value[:1] in (b"[", b"{")
            or (name == "stream" and value not in _FALSE)
            or (name == "encoding_format" and value not in _ENCODINGS)
        ):
            return None
        rest.append(b"%b:%b" % (msgspec.json.encode(name), value))
    return Parts(kind, count, items, b",".join(rest))


def _inputs(value: bytes, most: int) -> tuple[Kind, int, bytes] | None:
    """Kind, number and bytes of what stands in ``input``, which is well-formed. (No token is made an object for this.)"""
    if value[:1] == b'"':
        return Kind.TEXT, 1, value
    if value[:1] != b"[":
        return None
    inner = value[1:-1].strip(_BLANKS)
    count = prompts_in(value)
    if not inner or count > most:
        return None
    if inner[:1] == b'"':
        return Kind.TEXT, len(_decode_strings(value)), inner
    brackets = value.translate(None, _TOKENS)
    if inner[:1] == b"[":
        if brackets != b"[%b]" % (b"[]" * count) or b"[]" in value.translate(None, _BLANKS):
            return None
        return Kind.TOKENS, count, inner
    return (Kind.TOKENS, 1, value) if brackets == b"[]" else None


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
    total = sum(counts)
    try:
        names, values = members(answer, MOST_MEMBERS)
        spans = _spans(answer, _SPACE(answer).end(), names, values)  # type: ignore[union-attr]
        # (An item has an object or two in it: whatever has many more is not made objects of to be counted.)
        if spans is None or "data" not in spans or answer.count(b"{", *spans["data"]) > 4 * total + MOST_MEMBERS:
            return None
        start, end = spans["data"]
        found = rows(values[names.index("data")], MOST_MEMBERS * total)
        shared: list[tuple[int, int, list[int]]] = []
        usage = values[names.index("usage")] if "usage" in spans else None
        if usage is not None and _share_out(answer, spans["usage"][0], usage, sizes, shared, 0, MOST_MEMBERS) < 0:
            return None
    except _BAD:
        return None
    items = _items(answer, start, found)
    if items is None or len(items.pieces) != total:
        return None
    parts = []
    for turn, (stop, count) in enumerate(zip(accumulate(counts), counts, strict=True)):
        own = items.pieces[stop - count : stop]
        data = items.between.join([b"%b%d%b" % (before, at, after) for at, (before, after) in enumerate(own)])
        edits = [(begin, past, b"%d" % share[turn]) for begin, past, share in shared]
        edits.append((start, end, items.opens + data + items.closes))
        parts.append(_edited(answer, edits))
    return parts


class _Items(msgspec.Struct, gc=False):
    """The items of ``data``, by their index: what stands before and after its number. Beside them what stands around."""

    pieces: list[tuple[bytes, bytes]]
    opens: bytes
    between: bytes
    closes: bytes


def _items(answer: bytes, at: int, found: list[tuple[list[str], list[msgspec.Raw]]]) -> _Items | None:
    """The items of the list at ``at``; ``None`` unless they are numbered from 0, each number once, in whatever order."""
    count = len(found)
    pieces: list[tuple[bytes, bytes] | None] = [None] * count
    opens = between = b""
    end = at + 1  # of the item before; for the first one, of the bracket
    for turn, (names, values) in enumerate(found):
        comma = _SPACE(answer, end).end() if turn else at  # type: ignore[union-attr]
        begin = _SPACE(answer, comma + 1).end()  # type: ignore[union-attr]
        if turn == 0:
            opens = answer[at:begin]
        elif turn == 1:
            between = answer[end:begin]
        spans = _spans(answer, begin, names, values)
        if spans is None or "index" not in spans or "embedding" not in spans:
            return None
        end = spans[""][1]
        start, stop = spans["index"]
        number = answer[start:stop] if stop - start <= 13 else b""
        if _NUMBER(number) is None:
            return None
        index = int(number)
        if index >= count or pieces[index] is not None:
            return None
        pieces[index] = (answer[begin:start], answer[stop:end])
    closes = answer[end : _SPACE(answer, end).end() + 1]  # type: ignore[union-attr]
    return _Items([one for one in pieces if one is not None], opens, between, closes) if count else None


def _share_out(
    answer: bytes, at: int, raw: msgspec.Raw, sizes: Sequence[int], out: list[tuple[int, int, list[int]]], depth: int, most: int
) -> int:
    """Add to ``out`` every count in the object at ``at``: where it stands, and each request's share of it. How many of ``most``
    members may still follow; -1 where something is a number but no count (a part of it is nobody's), or they are too many."""
    if answer.startswith(b"null", at):
        return most
    names, values = members(raw, most)
    spans = _spans(answer, at, names, values)
    if spans is None or depth == MAX_USAGE_DEPTH:
        return -1
    most -= len(names)
    for name, value in zip(names, values, strict=True):
        start, end = spans[name]
        lead = answer[start : start + 1]
        if lead == b"{":
            most = _share_out(answer, start, value, sizes, out, depth + 1, most)
            if most < 0:
                return -1
        elif lead not in b'"[ntf':
            number = answer[start:end] if end - start <= 13 else b""
            if _NUMBER(number) is None or int(number) > MAX_COUNT:
                return -1
            out.append((start, end, shares(int(number), sizes)))
    return most


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
def _spans(text: bytes, at: int, names: list[str], values: list[msgspec.Raw]) -> dict[str, tuple[int, int]] | None:
    """Where the values of the object that opens at ``at`` stand, by name, and under "" the object itself; ``names`` and
    ``values`` are its members as the decoder has them. ``None`` when a member is repeated, or has no name."""
    spans: dict[str, tuple[int, int]] = {}
    begin = at
    at += 1
    for name, value in zip(names, values, strict=True):
        at = _SPACE(text, at).end()  # type: ignore[union-attr]
        start = _COLON(text, _STRING(text, at).end()).end()  # type: ignore[union-attr]
        if not name or name in spans:
            return None
        end = start + len(value)
        spans[name] = (start, end)
        at = _SPACE(text, end).end() + 1  # type: ignore[union-attr]
    if not names:
        at = _SPACE(text, at).end() + 1  # type: ignore[union-attr]
    spans[""] = (begin, at)
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
