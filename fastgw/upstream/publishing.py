"""When a fleet's next table is made: at once while that is cheap, and otherwise as often as the loop has time for.

A table of a thousand engines takes milliseconds, and each engine that comes, goes or changes wants one. Owns: the share of the
loop that goes into tables, and the one timer for the next. Must never: know what a table is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import thread_time
from typing import Final

from fastgw.net.clock import monotonic

PUBLISH_SHARE: Final = 0.02
"""Of the loop's time, for tables that may wait."""
AT_ONCE_S: Final = 0.002
"""That a table takes at the most of which nobody waits for the next one."""


class Publishing:
    """Calls ``publish``, in ``loop``."""

    __slots__ = ("_closed", "_loop", "_not_before", "_publish", "_timer", "_took_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, publish: Callable[[], None]) -> None:
        self._loop = loop
        self._publish = publish
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        self._took_s = 0.0  # the last one
        self._closed = False

    def soon(self) -> None:
        """In the next turn of the loop; where many come, go or change, once for some of them."""
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(max(0.0, self._not_before - monotonic()), self._now)

    def in_turn(self) -> None:
        """Now, or where the last table was a large one and is new, :meth:`soon`."""
        if self._timer is None and (self._took_s < AT_ONCE_S or monotonic() >= self._not_before):
            self._now()
        else:
            self.soon()

    def _now(self) -> None:
        self._timer = None
        begun = thread_time()
        self._publish()
        self._took_s = thread_time() - begun
        self._not_before = monotonic() + self._took_s / PUBLISH_SHARE

    def close(self) -> None:
        """Whatever waits is not made any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
