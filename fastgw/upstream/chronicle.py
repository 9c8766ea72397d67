"""What has happened to the engines, in its order: who came and went, fell ill and was well again.

Owns the last :data:`KEPT` happenings and who waits for the next. Each has a number greater than that of all before it, those of
an earlier process among them, so that a reader who comes again says which he had last. Must never: be told a key or a prompt,
or wait for a reader. Runs in the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import time
from typing import Final, NamedTuple

KEPT: Final = 1024
DETAIL_CHARS: Final = 200


class Happening(NamedTuple):
    """One of them. ``at``: Unix seconds. ``engine``: its name, or a runner's; "" = it is of no single one."""

    number: int
    at: float
    what: str
    engine: str
    detail: str


class Chronicle:
    """See the head of this file."""

    __slots__ = ("_kept", "_waiting", "closed", "last")

    def __init__(self) -> None:
        self._kept: deque[Happening] = deque(maxlen=KEPT)
        self._waiting: set[asyncio.Future[None]] = set()
        self.last = int(time() * 1000.0)  # the number of the latest one
        self.closed = False

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, what: str, engine: str = "", detail: str = "") -> None:
        """It has happened."""
        self.last += 1
        self._kept.append(Happening(self.last, time(), what, engine, detail[:DETAIL_CHARS]))
        self._wake()

    def since(self, number: int) -> tuple[list[Happening], bool]:
        """Those after ``number``, and whether some that came before them are not kept any more. A number that none has yet
        is of another process, whose clock went ahead: its reader has missed all that there is, and would wait for ever."""
        if number == self.last:
            return [], False
        kept = self._kept
        if number > self.last:
            return list(kept), True
        first = kept[0].number if kept else self.last + 1
        return [one for one in kept if one.number > number], number + 1 < first

    async def more(self) -> None:
        """Return when something has happened since the call, or nothing will any more."""
        if self.closed:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def close(self) -> None:
        """The gateway stops: nobody waits any longer."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
