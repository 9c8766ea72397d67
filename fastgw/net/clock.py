"""The clock of every deadline and duration: seconds, monotonic, the one that the event loop goes by."""

from __future__ import annotations

from time import monotonic

__all__ = ["monotonic"]
