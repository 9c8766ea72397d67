"""Where members of a JSON object stand, several found in one pass: those that say how much is to be made, or any by name.

Invariant: an object that is looked at here was found good (``bodies``); what is found is told by its place, and not decoded.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.members import BOUNDS, MOST, folded, members

_BAD: Final = (msgspec.DecodeError, RecursionError, ValueError)
_SPACE: Final = re.compile(rb"[ \t\r\n]*").match
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*").match
_COMMA: Final = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*").match
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL).match


def bounds_in(text: bytes, most: int) -> list[tuple[str, int, int]]:
    """(name, start, end) of the values in the object ``text`` (that was found good) that say how much is to be made, in order.

    Their names are told in lower case.

    :raises TooMany: it has more than ``most`` members.
    """
    names, values = members(text, most)
    at = _SPACE(text, text.index(b"{") + 1).end()  # type: ignore[union-attr]
    found = []
    for one, raw in zip(names, values, strict=True):
        start = _COLON(text, _STRING(text, at).end()).end()  # type: ignore[union-attr]
        end = start + len(raw)
        if folded(one) in BOUNDS:
            found.append((folded(one), start, end))
        comma = _COMMA(text, end)
        at = end if comma is None else comma.end()
    return found


def spans_of(text: bytes, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Where the values of those of ``names`` stand that the object ``text`` has, which was found good: one pass for all."""
    try:
        there, values = members(text, MOST)
    except _BAD:  # (a name that is no text)
        return {}
    at = _SPACE(text, text.index(b"{") + 1).end()  # type: ignore[union-attr]
    found = {}
    for one, raw in zip(there, values, strict=True):
        start = _COLON(text, _STRING(text, at).end()).end()  # type: ignore[union-attr]
        end = start + len(raw)
        if one in names:
            found[one] = start, end
        comma = _COMMA(text, end)
        at = end if comma is None else comma.end()
    return found
