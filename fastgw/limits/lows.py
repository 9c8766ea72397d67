"""The least debts of a meter since the moments that matter: what may still come back of what was taken.

Owns: a stack of moments and debts, both rising: a debt that grew later hides none that was lower before. At most
:data:`MOST_LOWS` of them: beyond that neighbours become one, at the lower of their debts. Then too little comes back, never too
much. ``meter`` says what for.
"""

from __future__ import annotations

from typing import Final

MOST_LOWS: Final = 64
"""Of a meter under one key: it is about so many requests under way at rising debts until what comes back is rounded down."""

NONE: Final = -1
"""As a debt: there has been no moment since then at which it was about to grow."""

_most: Final = 2 * MOST_LOWS


class Lows:
    """See the head of this file. Times are in whole microseconds and never run back; debts are 0 or more."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[int] = []  # a moment, the least debt between the moment before it and itself, and so on

    def __len__(self) -> int:
        return len(self._held) // 2

    def save(self, words: memoryview[int], at: int, most: int) -> int:
        """Write them there, ``most`` of them at most, for another process. Returns how many."""
        if len(self._held) > 2 * most:
            self._held = _thinned(self._held, 2 * most)
        for word in self._held:
            words[at] = word
            at += 1
        return len(self._held) // 2

    def load(self, words: memoryview[int], at: int, count: int) -> None:
        """These are there now."""
        self._held = [words[one] for one in range(at, at + 2 * count)]

    def clear(self) -> None:
        """Nothing may come back any more."""
        self._held.clear()

    def mark(self, at_us: int, debt: int) -> None:
        """The debt is about to grow: so low it was until ``at_us``."""
        held = self._held
        while held and held[-1] >= debt:
            held.pop()
            held.pop()
        held.append(at_us)
        held.append(debt)
        if len(held) > _most:
            self._held = _thinned(held, _most // 2)

    def least(self, since_us: int) -> int:
        """The least debt since ``since_us``, or :data:`NONE`."""
        at = self._first(since_us)
        return self._held[at + 1] if at < len(self._held) else NONE

    def lower(self, since_us: int, back: int) -> None:
        """``back`` less had been taken since ``since_us``, which is no more than the least debt since then."""
        held = self._held
        at = self._first(since_us)
        if at == len(held):
            return
        for one in range(at + 1, len(held), 2):
            held[one] -= back
        # What was lower before it is not any more.
        low = held[at + 1]
        begin = at
        while begin and held[begin - 1] >= low:
            begin -= 2
        del held[begin:at]

    def _first(self, since_us: int) -> int:
        """Where the moments after ``since_us`` begin."""
        held = self._held
        at = len(held)
        while at and held[at - 2] > since_us:
            at -= 2
        return at


def _thinned(lows: list[int], most: int) -> list[int]:
    """No more than ``most`` numbers: those that differ little, for their height, become one.

    By their height, because what comes back is compared with them: a low that is larger than any one cost needs no
    exactness, and the lowest keep theirs.
    """
    width = 1
    while len(lows) > most:
        kept = [lows[0], lows[1]]
        last = lows[1]
        for at in range(2, len(lows), 2):
            low = lows[at + 1]
            if (low - last) // width > last // 8:
                kept.append(lows[at])
                kept.append(low)
                last = low
            else:
                kept[-2] = lows[at]
        lows = kept
        width *= 2
    return lows
