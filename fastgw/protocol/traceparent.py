"""Whose trace a request belongs to: the fields ``traceparent`` and ``tracestate`` (W3C Trace Context).

Owns: what is read of them (``accel.lines.trace_lines`` writes them). What is no ``traceparent`` has been dropped with the head
it came in (``accel.fields.valid_trace``), and so have two of them; a later version is read as far as this one goes (§3.2.4).
Must never: roll dice, or pass on more of a ``tracestate`` than its bounds.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.fields import value_in, values_in

SAMPLED: Final = 1
MAX_STATE_BYTES: Final = 512
"""So long a ``tracestate`` has to be passed on at least (§3.3.1.5); more is cut off at its end, member by member."""
MAX_STATE_MEMBERS: Final = 32
"""So many members it may have (§3.3.1.1)."""

_MEMBER: Final = re.compile(
    rb"[a-z0-9][a-z0-9_\-*/]{0,255}(?:@[a-z0-9][a-z0-9_\-*/]{0,255})?=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
).fullmatch
without: Final = re.compile(rb"(?im)^trace(?:parent|state):[^\r\n]*\r\n").sub
"""``without(b"", lines)``: the lines without both fields."""


def parent_of(lines: bytes) -> tuple[bytes, bytes, bool] | None:
    """Trace id, span id (hexadecimal) and whether that span is sampled, as a request's ``lines`` say; None = nothing."""
    value = value_in(lines, b"traceparent")
    if value is None:
        return None
    return value[3:35], value[36:52], bool(int(value[53:55], 16) & SAMPLED)


def state_of(lines: bytes) -> bytes:
    """The ``tracestate`` to pass on, b"" = none. One that cannot be read is nobody's (§3.3.1.2: it may be discarded whole)."""
    kept: list[bytes] = []
    size = 0
    # (Empty members are allowed; so many of anything that it is no list of members any more, are not.)
    for member in b",".join(values_in(lines, b"tracestate")).split(b",", 2 * MAX_STATE_MEMBERS):
        one = member.strip(b" \t")
        if not one:
            continue
        if not _MEMBER(one):
            return b""
        size += len(one) + 1
        if size > MAX_STATE_BYTES + 1 or len(kept) == MAX_STATE_MEMBERS:
            break
        kept.append(one)
    return b",".join(kept)
