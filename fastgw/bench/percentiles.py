"""Percentiles, exactly: the nearest rank of all values, so that each is a value that was measured.

The p-th percentile of n values is the one at rank ceil(p n / 100) when they stand in order (Hyndman and Fan's first
definition). Fewer than 100 / (100 - p) values have none of their own: what stands there is their greatest, and is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

PERMILLES: Final = (500, 900, 950, 990, 999)


class Spread(msgspec.Struct, frozen=True):
    """What is told of many values, in their own unit; all 0 where there are none."""

    n: int = 0
    mean: float = 0.0
    least: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    most: float = 0.0


def nearest_rank(ordered: Sequence[float], permille: int) -> float:
    """Of values in order, at least one."""
    return ordered[max(0, -(-permille * len(ordered) // 1000) - 1)]


def enough(n: int, permille: int) -> bool:
    """Whether so many values have such a percentile that is not simply their greatest."""
    return n * (1000 - permille) >= 1000


def spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread()
    ordered = sorted(values)
    p50, p90, p95, p99, p999 = (nearest_rank(ordered, permille) for permille in PERMILLES)
    return Spread(
        n=len(ordered), mean=sum(ordered) / len(ordered), least=ordered[0], most=ordered[-1],
        p50=p50, p90=p90, p95=p95, p99=p99, p999=p999,
    )  # fmt: skip
