"""The ways in which the same bytes can arrive: whole, byte by byte, cut once anywhere, cut at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

RANDOM_SPLITS = 64


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """``data`` cut at the given offsets; no piece is empty."""
    edges = [0, *sorted({i for i in at if 0 < i < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def ways(data: bytes, splits: int = RANDOM_SPLITS) -> Iterator[list[bytes]]:
    """Every way; the same ones each time for the same bytes."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    if len(data) <= 400:
        for i in range(1, len(data)):
            yield [data[:i], data[i:]]
    chance = random.Random(data)
    for _ in range(splits):
        yield cut(data, [chance.randrange(len(data)) for _ in range(chance.randrange(1, 9))])
