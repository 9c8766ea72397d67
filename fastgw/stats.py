"""Plain-integer statistics: one integer for each counter of ``counters.py``.

Owns: the object that the hot path adds to (an attribute add costs 20 ns; a metrics library's counter ten times that). Must
never: know who reads it. Counters of live things (``*_open``) return to zero when a gateway has stopped.
"""

from __future__ import annotations

from fastgw.counters import COUNTERS, Counters
from fastgw.events import EventLog, NullLog

__all__ = ["EventLog", "NullLog", "Stats"]


class Stats(Counters):
    """What one gateway has done since it started; live counters end in ``_open``."""

    __slots__ = tuple(COUNTERS)

    def __init__(self) -> None:
        for name in COUNTERS:
            setattr(self, name, 0)

    def live(self) -> dict[str, int]:
        """The counters that must be zero when nothing is under way."""
        return {name: getattr(self, name) for name in COUNTERS if name.endswith("_open")}

    def snapshot(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in COUNTERS}
