"""How much prompt a request is: how many prompts a value holds, and how many tokens its bytes are about.

The Python twin of ``bodies`` counts with these; the compiled one does so in its own pass, with the constants that stand here.
Invariant: what is counted is never less than what an engine may make of it, within what is said beside each number.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.brackets import NOT_STRUCTURE, TO_SQUARE, outside

MOST_PROMPTS: Final = 10**7
"""So many prompts are counted in one request: more than a body has room for."""
BYTES_PER_TOKEN: Final = 4
"""Of text, unless it is set. English in the usual vocabularies has about four; JSON's punctuation makes it err upwards."""
WIDE_BYTES_PER_TOKEN: Final = 2
"""Of text that is not ASCII, at most: a Chinese character has three bytes, and is about one token."""
SPECIAL_TOKENS: Final = 2
"""Of each of several inputs, beside its text: a vocabulary's marks of the beginning and the end."""
PAIR_TOKENS: Final = 4
"""The same of each pair that is compared: one stands between the two as well."""

_ASCII: Final = bytes(range(128))
_IDS: Final = b"0123456789,[]- \t\r\n"
_FIRST: Final = re.compile(rb"\[[ \t\r\n]*+([^ \t\r\n])").match
_NOT_COMMAS: Final = bytes(c for c in range(256) if c not in b',"')


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
    opens = outside(text.translate(TO_SQUARE, NOT_STRUCTURE).replace(b'""', b"")).count(b"[")
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
    commas = outside(text.translate(None, _NOT_COMMAS).replace(b'""', b"")).count(b",")
    return min(commas + 1, MOST_PROMPTS)


def texts_in(value: bytes | msgspec.Raw) -> int:
    """How many texts the value ``value`` is, a list of nothing else; 1 = it is something else."""
    text = bytes(value)
    if text[:1] != b"[":
        return 1
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    opens = outside(text.translate(TO_SQUARE, NOT_STRUCTURE).replace(b'""', b"")).count(b"[")
    return min(max(1, text.count(b'"') // 2), MOST_PROMPTS) if opens == 1 else 1


def inputs_in(value: bytes | msgspec.Raw) -> int:
    """How many inputs the value ``value`` is: a list of texts, or of lists of numbers of tokens. (Objects are messages.)"""
    text = bytes(value)
    first = _FIRST(text)
    return prompts_in(text) if first is not None and first[1] in b'"[' else 1


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


def wide_bytes(body: bytes) -> int:
    """How many bytes are not ASCII."""
    return 0 if body.isascii() else len(body.translate(None, _ASCII))


def estimate(size: int, wide: int, attached: int, tokens: int, bytes_per_token: int) -> int:
    """Tokens of a body of ``size`` bytes: ``wide`` of them are not ASCII, and ``attached`` of them are something else than
    text, that counts as ``tokens``."""
    text = max(0, size - wide - attached)
    per_wide = min(WIDE_BYTES_PER_TOKEN, bytes_per_token)
    return -(-text // bytes_per_token) - (-wide // per_wide) + tokens
