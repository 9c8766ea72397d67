"""The clock of every deadline and duration: seconds, monotonic, the one that the event loop goes by."""

from __future__ import annotations

from time import monotonic

__all__ = ["micros", "monotonic"]


def micros(seconds: float) -> int:
    """A time of that clock in whole microseconds, as meters count."""
    return int(seconds * 1e6)
