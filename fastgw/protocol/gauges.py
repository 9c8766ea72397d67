"""What an engine's Prometheus page says of its load: requests running, requests waiting, share of the cache in use.

The page is not parsed: each name is looked for at the beginnings of lines, so a
page of 256 KiB, nearly all of it histograms, costs a few passes of ``bytes.find``. Must never: raise for a page,
whatever it holds; what is no finite number that is not negative counts as not said.

Which engine calls them what is told in ``upstream/kinds``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_ROWS: Final = 128
"""Rows of one name that are read: engines have one, or one for each data-parallel rank."""
MAX_COUNT: Final = 1 << 20
MAX_NUMBER_CHARS: Final = 64
MAX_BRACES: Final = 64
"""Closing braces within a row's labels; one that is in a label's value is rare."""


class Gauges(NamedTuple):
    """One engine's load: requests in its batch, in its queue, and the used share of its cache (0 to 1, -1 = not said)."""

    running: int
    waiting: int
    kv_usage: float


class Names(NamedTuple):
    """What an engine calls them; all of its rows begin with ``prefix``. Of the names for the cache's share, any counts."""

    prefix: bytes
    running: bytes
    waiting: bytes
    kv_usage: tuple[bytes, ...]


def read(names: Names | None, body: bytes, among: Sequence[Names] = ()) -> Gauges | None:
    """The load that the page ``body`` tells under these names; None when it tells none.

    ``names`` None = not known: the page tells, which of ``among`` its rows begin like. Counts are summed over models and ranks,
    of the cache's shares the largest is taken. Of running and waiting one suffices: some engines show a gauge only
    after its first use.
    """
    if names is None:
        # By what its rows begin with: each name that is not there would cost a pass over the page.
        names = next((one for one in among if body.startswith(one.prefix) or b"\n" + one.prefix in body), None)
        if names is None:
            return None
    running, waiting = _rows(body, names.running), _rows(body, names.waiting)
    if not (running or waiting):
        return None
    used = [value for name in names.kv_usage for value in _rows(body, name)]
    return Gauges(_count(running), _count(waiting), min(max(used), 1.0) if used else -1.0)


def _count(values: list[float]) -> int:
    return int(min(sum(values), MAX_COUNT))


def _rows(body: bytes, name: bytes) -> list[float]:
    """The values of all rows of one name, in the page's order."""
    found: list[float] = []
    at = body.find(name)
    for _ in range(MAX_ROWS):
        if at < 0:
            break
        end = body.find(b"\n", at)
        end = end if end >= 0 else len(body)
        if at == 0 or body[at - 1] == 10:
            value = _value(body[at + len(name) : end])
            if value >= 0.0:
                found.append(value)
        at = body.find(name, end)
    return found


def _labels_end(rest: bytes) -> int:
    """Behind the labels that ``rest`` begins with; -1 = they do not end. (Braces and escaped quotes may stand in a value.)"""
    at = 0
    quoted = 0
    for _ in range(MAX_BRACES):
        end = rest.find(b"}", at)
        if end < 0:
            break
        piece = rest[at:end]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        quoted ^= piece.count(b'"') & 1
        at = end + 1
        if not quoted:
            return at
    return -1


def _is_part(rest: bytes, end: int) -> bool:
    """Whether a row with these labels is one priority's: SGLang's scheduler may break its counts down, beside the whole under
    an empty one."""
    at = rest.find(b'priority="', 0, end)
    if at < 0 or rest[:at].rstrip()[-1:] not in (b"{", b","):
        return False
    return rest[at + 10 : at + 11] != b'"'


def _value(rest: bytes) -> float:
    """The number after a row's name; -1.0 when it is another name, a part of the whole, or no usable number."""
    if rest.startswith(b"{"):
        end = _labels_end(rest)
        if end < 0 or _is_part(rest, end):
            return -1.0
        rest = rest[end:]
    elif not rest[:1].isspace():
        return -1.0
    words = rest[: MAX_NUMBER_CHARS + 2].split(None, 1)  # a time stamp or an exemplar may follow
    try:
        value = float(words[0]) if len(words[0]) <= MAX_NUMBER_CHARS else -1.0
    except (ValueError, IndexError):
        return -1.0
    return value if 0.0 <= value < math.inf else -1.0
