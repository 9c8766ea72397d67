"""How much strangers may make a log say: so many lines of a kind in a second, and then how many more there were.

A request that gets to no engine costs its sender nothing, and a line of it disk and attention. Owns: the count by kind, a
bounded set of words. Must never: lose a number; what is left out is counted, and told in one line for each second.
"""

from __future__ import annotations

from typing import Final

MAX_KINDS: Final = 64


class Flood:
    """``rate`` lines of each kind in a second are let through; 0 = all."""

    __slots__ = ("_counts", "_left_out", "_rate", "_second", "_since")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._second = -1
        self._counts: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._since = -1  # the second in which the first of them was left out

    def change(self, rate: int) -> None:
        """Another rate from now on; what has been counted stays."""
        self._rate = rate

    def admits(self, kind: str, now: float) -> bool:
        """Whether one more of ``kind`` may be written; else it has been counted. ``now`` is a clock in seconds."""
        if not self._rate:
            return True
        second = int(now)
        if second != self._second:
            self._second = second
            self._counts.clear()
        if kind not in self._counts and len(self._counts) >= MAX_KINDS:
            kind = "other"
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count <= self._rate:
            return True
        if not self._left_out:
            self._since = second
        if kind not in self._left_out and len(self._left_out) >= MAX_KINDS:
            kind = "other"
        self._left_out[kind] = self._left_out.get(kind, 0) + 1
        return False

    def due(self, now: float) -> dict[str, int]:
        """What was left out in a second that is over, by kind; told once."""
        if not self._left_out or now < self._since + 1:
            return {}
        told, self._left_out = self._left_out, {}
        return told

    def waits(self) -> bool:
        """Whether something is left to be told."""
        return bool(self._left_out)
