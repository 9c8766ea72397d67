"""How long each engine has taken of late, to its first token and from text to text: percentiles of the last minute.

Owns: marks of what had been counted at a moment. What came behind the oldest of them is reckoned when somebody asks. Must
never: cost a request anything (the hot path adds to an engine's two histograms, and knows nothing of this), or grow but with
the engines, some two kilobytes for each that is busy.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from fastgw.accel.histograms import Bounds, Histogram

MARK_S: Final = 15.0
MOST_MARKS: Final = 4
"""Percentiles are of what has come since the oldest of these: 45 to 60 seconds."""
QUANTILES: Final = (0.5, 0.95, 0.99)
PIECE: Final = 100  # engines that are marked before the loop gets its turn: a tenth of a millisecond

Spread = tuple[float, ...] | None
"""Percentiles, as :data:`QUANTILES` has them, in seconds; None = there was nothing."""


class Timed(Protocol):
    """What is read of an engine: its times to the first token, and between pieces of text."""

    @property
    def first_tokens(self) -> Histogram: ...
    @property
    def gaps(self) -> Histogram: ...


def spread(bounds: Bounds, counts: Sequence[int]) -> Spread:
    """Below each lies so much of what was counted, taken as spread evenly within a bucket."""
    total = sum(counts)
    if not total:
        return None
    wanted = [total * share for share in QUANTILES]
    found: list[float] = []
    below, low = 0, 0.0
    for high, count in zip(bounds.values, counts, strict=False):
        while len(found) < len(wanted) and below + count >= wanted[len(found)]:
            found.append(round(low + (high - low) * (wanted[len(found)] - below) / count, 6))
        below += count
        low = high
    return tuple(found + [low] * (len(wanted) - len(found)))  # (above all bounds: it is no less than the last)


class Latencies:
    """See the head of this file. ``engines``: those that are there. One that has left, and comes again, begins anew."""

    def __init__(self, engines: Callable[[], Iterable[Timed]]) -> None:
        self._engines = engines
        self._marks: deque[dict[Histogram, array[int]]] = deque(maxlen=MOST_MARKS)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.mark()
            await asyncio.sleep(MARK_S)

    async def mark(self) -> None:
        """Remember what has been counted by now. (What has not changed is the mark before's.)"""
        last = self._marks[-1] if self._marks else {}
        made: dict[Histogram, array[int]] = {}
        for at, engine in enumerate(self._engines(), 1):
            for one in (engine.first_tokens, engine.gaps):
                counts = array("q", one.counts())
                made[one] = last[one] if last.get(one) == counts else counts
            if not at % PIECE:
                await asyncio.sleep(0)
        self._marks.append(made)

    def of(self, engines: Sequence[Timed]) -> tuple[Spread, Spread]:
        """To the first token, and between pieces of text, of these together."""
        return self._since([one.first_tokens for one in engines]), self._since([one.gaps for one in engines])

    def _since(self, histograms: Sequence[Histogram]) -> Spread:
        before = self._marks[0] if self._marks else {}
        counts = [0] * (len(histograms[0].bounds.values) + 1)
        for one in histograms:
            now, then = one.counts(), before.get(one)
            if then is None:
                counts = list(map(int.__add__, counts, now))
            elif now != (was := then.tolist()):
                counts = [so_far + new - old for so_far, new, old in zip(counts, now, was, strict=True)]
        return spread(histograms[0].bounds, counts) if any(counts) else None
