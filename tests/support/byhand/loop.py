"""The loop and the clock of a conversation: no time passes but the test's own."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from fastgw.net import clock

BEGIN_S: Final = 1000.0
MOST_TURNS: Final = 100_000
SOONEST_S: Final = 1e-6
"""No timer is so early that the clock has not moved: whoever looks again when it is time would do so for ever."""


class HandTimer:
    """What ``call_later`` returns."""

    __slots__ = ("_call", "args")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._call: Callable[..., object] | None = call
        self.args = args

    def cancel(self) -> None:
        self._call = None

    def run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(*self.args)


class HandLoop:
    """What of an event loop the data plane asks for. While there is one (:meth:`close`), the clock of the data plane is its
    own: it stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, HandTimer]] = []
        self._serial = itertools.count()
        clock.hold(self.now)

    def close(self) -> None:
        clock.hold(-1.0)
        self._soon.clear()
        self._timers.clear()

    def time(self) -> float:
        return self.now

    def add_reader(self, fd: int, call: Callable[..., object]) -> None:
        """Nothing is ever ready."""

    def remove_reader(self, fd: int) -> None: ...

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        self._soon.append((call, args))

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> HandTimer:
        timer = HandTimer(call, args)
        heapq.heappush(self._timers, (self.now + max(seconds, SOONEST_S), next(self._serial), timer))
        return timer

    def settle(self) -> None:
        """Go on until nothing is left to be done now."""
        for _ in range(MOST_TURNS):
            if not self._soon:
                return
            call, args = self._soon.popleft()
            call(*args)
        raise AssertionError("it never comes to rest")

    def passes(self, seconds: float) -> None:
        """So much time goes by: what falls due is done when it does."""
        end = self.now + seconds
        self.settle()
        while self._timers and self._timers[0][0] <= end:
            at, _, timer = heapq.heappop(self._timers)
            self._set(max(at, self.now))
            timer.run()
            self.settle()
        self._set(end)

    def stands_still(self, seconds: float) -> None:
        """So much time goes by, and nothing is done meanwhile: whoever stopped the process lets it go on."""
        self.settle()
        self._set(self.now + seconds)

    def _set(self, now: float) -> None:
        self.now = now
        clock.hold(now)
