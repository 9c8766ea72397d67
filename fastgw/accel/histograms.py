"""Histograms of the hot path: so many seconds, or tokens, fell between these bounds.

Owns: the counts, their sum, and for each bucket the last value that somebody can look up (its exemplar). Bounds are shared by
all histograms of a kind. A value is at most the bound of its bucket, as in Prometheus; one above all bounds is in the last. The
compiled twin keeps arrays of C numbers. Must never: know names, labels or a clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

MOST_BOUNDS: Final = 24

Exemplar = tuple[float, float, str]
"""A value, when it was seen (Unix seconds), and the trace in which."""


class Bounds:
    """What buckets go up to, rising. Raises ValueError where these are too many, or do not rise."""

    __slots__ = ("values",)

    def __init__(self, values: tuple[float, ...]) -> None:
        if not 0 < len(values) <= MOST_BOUNDS or list(values) != sorted(set(values)):
            raise ValueError(f"bounds are 1 to {MOST_BOUNDS} that rise")
        self.values = values


class Histogram:
    """See the head of this file."""

    __slots__ = ("_counts", "bounds", "exemplars", "total")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.total = 0.0  # the sum of all values
        self.exemplars: dict[int, Exemplar] | None = None  # by bucket
        self._counts = [0] * (len(bounds.values) + 1)

    def observe(self, value: float) -> int:
        """Count ``value``, a negative one (which is none) as 0; returns its bucket."""
        if value < 0.0:
            value = 0.0
        at = bisect_left(self.bounds.values, value)
        self._counts[at] += 1
        self.total += value
        return at

    def came(self, value: float, events: int, also: Histogram | None) -> None:
        """``events`` came at once, after ``value``: the first has waited for so long, and the others not at all. It counts in
        ``also``, of the same bounds, as well."""
        at = self.observe(value)
        more = max(events - 1, 0)
        self._counts[0] += more
        if also is not None:
            also._counts[at] += 1
            also._counts[0] += more
            also.total += max(value, 0.0)

    def exemplify(self, at: int, value: float, when: float, trace: str) -> None:
        """``value`` of the bucket ``at`` was seen in a trace that somebody keeps."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[at] = (value, when, trace)

    def add(self, other: Histogram) -> None:
        """What ``other``, of the same bounds, has counted counts here. (Its exemplars do not come along.)"""
        self._counts = [one + more for one, more in zip(self._counts, other._counts, strict=True)]
        self.total += other.total

    def put(self, counts: Sequence[int], total: float) -> None:
        """So many in each bucket more, of whatever process. Raises ValueError where there are not as many buckets."""
        self._counts = [one + more for one, more in zip(self._counts, counts, strict=True)]
        self.total += total

    def counts(self) -> list[int]:
        """How many are in each bucket, the last being that above all bounds."""
        return list(self._counts)
