"""Who waits, by flow (a tenant), for the moment when no more can wait.

A queue that is fair only among those in it is full of whoever came first. So a newcomer that finds it full takes the place
of the newest of the flow that has the most in it, where that flow has more than the newcomer's own would have: a flow alone
may fill the queue, and no flow keeps another out. (Longest-queue drop: Suter, Lakshman, Stiliadis and Choudhury, "Buffer
Management Schemes for Supporting TCP in Gigabit Routers with Per-Flow Queueing", 1999.)

All operations take constant time.
"""

from __future__ import annotations


class Crowd:
    """The items that wait, by flow; an item is in it once."""

    __slots__ = ("_by_count", "_flows", "_most")

    def __init__(self) -> None:
        self._flows: dict[str, dict[object, None]] = {}  # each flow's items, the newest last
        self._by_count: dict[int, dict[str, None]] = {}  # the flows that have so many
        self._most = 0

    def __len__(self) -> int:
        """How many flows there are."""
        return len(self._flows)

    def items(self) -> list[object]:
        """All that wait: by flow, and in each in the order in which they came."""
        return [item for items in self._flows.values() for item in items]

    def add(self, flow: str, item: object) -> None:
        items = self._flows.get(flow)
        if items is None:
            items = self._flows[flow] = {}
        items[item] = None
        count = len(items)
        self._move(flow, count - 1, count)
        if count > self._most:
            self._most = count

    def remove(self, flow: str, item: object) -> None:
        items = self._flows[flow]
        del items[item]
        count = len(items)
        self._move(flow, count + 1, count)
        if not count:
            del self._flows[flow]
        if count + 1 == self._most and count + 1 not in self._by_count:
            # This flow had the most alone, and has one less now: so many are the most.
            self._most = count

    def victim(self, flow: str) -> object | None:
        """The item whose place one more of ``flow`` may take; None = it would take it from its equals."""
        items = self._flows.get(flow)
        own = len(items) if items is not None else 0
        if own + 1 >= self._most:
            return None
        longest = next(iter(self._by_count[self._most]))
        return next(reversed(self._flows[longest]))

    def _move(self, flow: str, before: int, after: int) -> None:
        if before:
            flows = self._by_count[before]
            del flows[flow]
            if not flows:
                del self._by_count[before]
        if after:
            flows = self._by_count.get(after) or {}
            flows[flow] = None
            self._by_count[after] = flows
