"""One coarse timer wheel for every deadline of the data plane.

A request touches four or five deadlines, and almost none of them ever fires. So a deadline is a float on the object
(``deadline``), moved later by plain assignment; the wheel holds each object at most once, in the bucket of a time that
is not later than its deadline, and looks at the float again when that bucket comes up. Only an *earlier* deadline, or
the first one, costs a call. Accuracy is one tick (0.1 s), always late, never early.

Nobody is judged before the sockets have been read. A process that stood still (SIGSTOP, a suspended machine, a loop that
something held) wakes up behind its deadlines, with what came in time lying in its sockets; and a loop may well call its timers
first. So the loop has a moment before it looks at a bucket's deadlines, the longer the later it comes to that.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Final

from fastgw.net.clock import monotonic

TICK_S: Final = 0.1
_tick_s: Final = TICK_S  # (the compiled twin has it at hand)
TURN_S: Final = 0.0005  # ten thousand may be due in one tick: so long they hold the loop, and go on in its next turn
MOMENT_S: Final = 0.002  # in which the loop asks for what is ready, once at least
CATCH_UP_S: Final = 0.5  # so long at most is read for who was late: thousands of streams are, in less
LOT: Final = 8  # looked at between two looks at the clock
NEVER: Final = float("inf")


class Timed:
    """What the wheel holds: an object with a deadline on :mod:`fastgw.net.clock`. Base of connections and streams."""

    __slots__ = ("deadline", "wheel_slot")

    def __init__(self) -> None:
        self.deadline = NEVER
        self.wheel_slot = 0

    def expired(self, now: float) -> None:
        """The deadline has passed; called once, with the time of the look."""
        raise NotImplementedError


class TimerWheel:
    """Deadlines in buckets of one tick; sleeps while nothing is armed."""

    __slots__ = ("_buckets", "_handle", "_loop", "_next", "_order")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buckets: dict[int, set[Timed]] = {}
        self._order: list[int] = []
        self._handle: asyncio.TimerHandle | None = None
        self._next = 0

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def arm(self, entry: Timed, deadline: float) -> None:
        """Set ``entry.deadline``; afterwards the entry may move it later by assignment alone."""
        entry.deadline = deadline
        if deadline == NEVER:
            return
        slot = int(deadline / _tick_s) + 1
        held = entry.wheel_slot
        if held:
            if held <= slot:
                return
            self._buckets[held].discard(entry)
        self._insert(entry, slot)

    def disarm(self, entry: Timed) -> None:
        """Forget ``entry`` (it is being closed)."""
        entry.deadline = NEVER
        if entry.wheel_slot:
            bucket = self._buckets.get(entry.wheel_slot)
            if bucket is not None:
                bucket.discard(entry)
            entry.wheel_slot = 0

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._buckets.clear()
        self._order.clear()

    def _insert(self, entry: Timed, slot: int) -> None:
        entry.wheel_slot = slot
        bucket = self._buckets.get(slot)
        if bucket is not None:
            bucket.add(entry)
            return
        self._buckets[slot] = {entry}
        heapq.heappush(self._order, slot)
        if self._handle is None or slot < self._next:
            self._sleep()

    def _sleep(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._order:
            self._next = self._order[0]
            self._handle = self._loop.call_later(max(0.0, self._next * _tick_s - MOMENT_S - monotonic()), self._tick)

    def _tick(self) -> None:
        """The time of a bucket has all but come, or has passed."""
        off = abs(self._next * _tick_s - monotonic())
        self._handle = self._loop.call_later(min(max(off, MOMENT_S), CATCH_UP_S), self._judge)

    def _judge(self) -> None:
        self._handle = None
        now = monotonic()
        current = int(now / _tick_s)
        order = self._order
        count, lot = 0, LOT
        while order and order[0] <= current:
            slot = heapq.heappop(order)
            bucket = self._buckets.pop(slot)
            # Popped one by one: an expiry may disarm its neighbours (a client's closes its upstream).
            while bucket:
                entry = bucket.pop()
                entry.wheel_slot = 0
                if entry.deadline <= now:
                    entry.expired(now)
                elif entry.deadline != NEVER:
                    # Never into a bucket that this very loop would pop again.
                    self._insert(entry, max(int(entry.deadline / _tick_s) + 1, current + 1))
                count += 1
                if not count % lot and monotonic() - now > TURN_S:
                    self._put_back(bucket, slot)
                    return
        if self._handle is None:
            self._sleep()

    def _put_back(self, bucket: set[Timed], slot: int) -> None:
        """What is left of a bucket has the loop's next turn."""
        if slot in self._buckets:
            self._buckets[slot] |= bucket
        elif bucket:
            self._buckets[slot] = bucket
            heapq.heappush(self._order, slot)
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(0.0, self._judge)
