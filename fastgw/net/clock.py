"""The one clock of the data plane, of every deadline and duration: seconds, monotonic, the one that the event loop goes by.

A test can hold it by hand (:func:`hold`) in either twin: nobody binds the system's own clock instead. That costs whoever asks
for the time a comparison, 3 instructions in the compiled twin.
"""

from __future__ import annotations

import time

__all__ = ["hold", "micros", "monotonic"]

_held = -1.0  # what a test has set it to; below 0 = it runs


def monotonic() -> float:
    """Seconds on the monotonic clock."""
    return time.monotonic() if _held < 0.0 else _held


def hold(seconds: float) -> None:
    """From now on it is ``seconds``, for everybody in this process; below 0 it runs again. For tests."""
    global _held
    _held = seconds


def micros(seconds: float) -> int:
    """A time of that clock in whole microseconds, as meters count."""
    return int(seconds * 1e6)
