"""The models that are called nearly as a name that nobody serves: what its client may have meant.

Owns: what "nearly" is. Must never: name a model that its key may not use or its tenant not see, or take long: anybody may ask
for names that are none. So few names are compared at all, and most of these are told apart by their letters alone.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from fastgw.upstream.table import UpstreamTable

MOST_NAMES: Final = 500
"""That are looked at."""
MOST_COMPARED: Final = 8
"""Of them, letter by letter."""
MOST_SLIPS: Final = 3
MOST_CHARS: Final = 100
"""Of a name that is compared so."""
MOST_SHOWN: Final = 3
LEAST_PART: Final = 4  # letters that a part has by which a whole name is found


def nearest(table: UpstreamTable, asked: str, flow: str, allowed: frozenset[str] | None) -> list[str]:
    """The names most like ``asked`` among those that one of this ``flow`` sees and may use (``allowed``; None = all), the
    likest first: other cases, the same without its publisher, a slip of the pen, a part of it. None where nothing is like
    it."""
    name = asked.casefold()
    if not name or len(name) > MOST_CHARS:
        return []
    short = name.rpartition("/")[2]
    letters = frozenset(name)
    slips = _slips(name)
    found: list[tuple[int, int, str]] = []
    close: list[str] = []
    listed = dict(islice(table.models.items(), MOST_NAMES))
    if table.deployed is not None:
        listed = table.deployed.owners(listed, flow)
    for model in islice(listed, MOST_NAMES):
        if allowed is not None and model not in allowed:
            continue
        other = model.casefold()
        if other == name:
            found.append((0, 0, model))
        elif other.rpartition("/")[2] == short:
            found.append((1, 0, model))
        elif len(other) > MOST_CHARS:
            continue
        elif abs(len(other) - len(name)) <= slips and len(letters ^ frozenset(other)) <= 2 * slips:
            close.append(model)
        elif (len(short) >= LEAST_PART and short in other) or (len(other) >= LEAST_PART and other in name):
            found.append((3, abs(len(other) - len(name)), model))
    for model in close[:MOST_COMPARED]:
        slipped = distance(name, model.casefold(), slips)
        if slipped <= slips:
            found.append((2, slipped, model))
    return [model for _, _, model in sorted(found)[:MOST_SHOWN]]


def _slips(name: str) -> int:
    """So many letters may be others, more or fewer."""
    return min(MOST_SLIPS, 1 + len(name) // 8) if len(name) > 2 else 0


def distance(one: str, other: str, most: int) -> int:
    """How many letters must be changed, put in, left out or exchanged with their neighbour to make ``other`` of ``one`` (the
    restricted Damerau-Levenshtein distance); some number above ``most`` where it is more."""
    # (What both begin or end with changes nothing, and is most of what names nearly alike have.)
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    one, other = one[start:], other[start:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        # (Beyond this band it is more than `most` in any case.)
        low, high = max(1, row - most), min(len(other), row + most)
        now = [row] + [most + 1] * len(other)
        for at in range(low, high + 1):
            there = other[at - 1]
            best = min(last[at] + 1, now[at - 1] + 1, last[at - 1] + (letter != there))
            if row > 1 and at > 1 and letter == other[at - 2] and one[row - 2] == there:
                best = min(best, before[at - 2] + 1)
            now[at] = best
        if min(now) > most:
            return most + 1
        before, last = last, now
    return last[-1]
