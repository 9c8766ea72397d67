"""Compiled twin of fastgw/stats.py: C integers, which begin at zero; ``stats.pxd`` lists them."""

from fastgw.counters import COUNTERS
from fastgw.events import EventLog, NullLog

__all__ = ["EventLog", "NullLog", "Stats"]


cdef class Stats:
    """What one gateway has done since it started; live counters end in ``_open``."""

    def live(self):
        """The counters that must be zero when nothing is under way."""
        return {name: getattr(self, name) for name in COUNTERS if name.endswith("_open")}

    def snapshot(self):
        return {name: getattr(self, name) for name in COUNTERS}
