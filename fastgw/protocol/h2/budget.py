"""How much a peer may do that costs us something and brings nothing: each kind of it has a budget, which fills again with time.

The figures are nghttp2's and Envoy's where they have some. Whoever spends one is told ENHANCE_YOUR_CALM, and its connection
ends.
"""

from __future__ import annotations

from typing import Final

from fastgw.protocol.h2.frames import ENHANCE_YOUR_CALM, H2Error

GLITCHES: Final = 100
"""Frames that are within the protocol and of no use, in a burst: for streams that have ended, of unknown kinds, priorities."""
GLITCH_RATE: Final = 10.0
PINGS: Final = 100
"""PINGs and SETTINGS: each has to be acknowledged."""
PING_RATE: Final = 10.0
MOST_EMPTY: Final = 32
"""Empty DATA frames in a row, over all streams, that end nothing."""
UPDATES: Final = 64
"""WINDOW_UPDATEs that a peer may send for nothing; further ones it earns with what it is sent (Envoy: ten for a DATA frame)."""
UPDATES_PER_FRAME: Final = 10
_per_frame: Final = UPDATES_PER_FRAME  # (the compiled twin has it at hand)


class Budget:
    """So many at once, and so many a second."""

    __slots__ = ("_at", "_burst", "_left", "_per_s", "_what")

    def __init__(self, what: str, burst: int, per_s: float) -> None:
        self._what = what
        self._burst = float(burst)
        self._per_s = per_s
        self._left = float(burst)
        self._at = 0.0

    def spend(self, now: float) -> None:
        """One more. Raises H2Error where there is none left."""
        if not self.has(now):
            raise H2Error(ENHANCE_YOUR_CALM, f"too many {self._what}")

    def has(self, now: float) -> bool:
        """Take one, if there is one."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_s) if self._at else self._burst
            self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Budgets:
    """All that one peer has on one connection."""

    __slots__ = ("_empty", "_updates", "glitches", "pings")

    def __init__(self) -> None:
        self.glitches = Budget("frames of no use", GLITCHES, GLITCH_RATE)
        self.pings = Budget("PING and SETTINGS frames", PINGS, PING_RATE)
        self._empty = 0
        self._updates = UPDATES

    def payload(self) -> None:
        """A DATA frame brought something."""
        self._empty = 0

    def empty(self) -> None:
        """A DATA frame brought nothing, not even an end. Raises H2Error."""
        self._empty += 1
        if self._empty > MOST_EMPTY:
            raise H2Error(ENHANCE_YOUR_CALM, "too many empty DATA frames")

    def sent(self, frames: int) -> None:
        """So many DATA frames went out, or requests: the peer may speak of windows for that."""
        self._updates += frames * _per_frame

    def update(self) -> None:
        """A WINDOW_UPDATE came. Raises H2Error."""
        self._updates -= 1
        if self._updates < 0:
            raise H2Error(ENHANCE_YOUR_CALM, "too many WINDOW_UPDATE frames")
