"""A queue of waiting requests: strict between priority classes, fair by tokens between flows (tenants) within a class.

Owns who waits and who is next. Knows nothing of slots, deadlines or sockets; never reads a clock. Any operation costs
O(log flows), whatever the costs and however many wait; only the heap of flows is cleaned lazily, and it never holds more
than twice the flows that are there.

**Between flows: deficit round robin** (Shreedhar & Varghese, "Efficient Fair Queueing using Deficit Round Robin", 1995):

- A class runs in rounds. A round visits each of its flows once, in the ring's order.
- A visit adds ``quantum`` tokens to the flow's deficit, then the flow sends while its next waiter costs no more than the
  deficit, which pays for it. A visit lasts until a later ``pop`` finds that the flow cannot send: a cheaper waiter that
  became its next meanwhile still goes in the same visit.
- A flow that has nothing left, sent or removed, leaves the ring and its deficit is lost. A removal otherwise changes no
  deficit: what a flow saved for a waiter that left serves the next one.
- A flow that joins does so at the ring's tail: behind the last flow of the round that runs, in front of the next round's
  first. That visit counts for the next round, so no flow is visited twice in a round, and newcomers, however many, do not
  keep a round from ending.

The ring is not walked. Each flow knows the round in which its deficit will pay for its next waiter, and a heap keyed by
(round, place in the ring) gives the flow that the walk would come to; visits that send nothing are added up afterwards.

**Within a flow: FIFO, or adaptive LIFO** (Maurer, "Fail at Scale", ACM Queue 2015) by the rule of controlled delay (Nichols
& Jacobson, "Controlling Queue Delay", 2012; RFC 8289). The delay is how long the oldest waiter has waited, which is what a
FIFO's next would have. When it has been above ``target_s`` for ``interval_s`` without a break, the newest goes first, since
it still has a client and most of its deadline; when it is at the target again, the oldest. Each flow is judged by itself:
one tenant's backlog does not turn another's order. A flow settles who is its next when the last one goes, and with each
put while it is overloaded; a change of order alone replaces nobody, so it costs nothing with many flows.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final

MAX_COST: Final = 1 << 30
"""A higher cost counts as this one: sums and products of rounds stay far inside 62 bits."""
MAX_QUANTUM: Final = 1 << 30
MAX_CLASSES: Final = 16
# Below it a heap is not worth cleaning.
FEW: Final = 32
NEVER: Final = float("inf")


class Waiter:
    """One that waits, made by :meth:`FairQueue.put`. Read-only for others; ``waiting`` ends with ``pop`` or ``remove``.

    ``at`` is the time of the put in seconds, ``cost`` in tokens, ``flow`` the tenant's name.
    """

    __slots__ = ("at", "cost", "flow", "home", "item", "newer", "older", "priority", "waiting")

    def __init__(self, item: object, priority: int, flow: str, cost: int, at: float) -> None:
        self.item = item
        self.priority = priority
        self.flow = flow
        self.cost = cost
        self.at = at
        self.waiting = True
        self.home: Flow | None = None
        self.older: Waiter | None = None
        self.newer: Waiter | None = None


class Flow:
    """One tenant's line in one class, from its first waiter to its last.

    ``deficit`` is what it held after round ``seen``; later visits are added when it is looked at. ``generation`` and
    ``place`` order the ring, ``due`` is the round in which ``next`` will be paid for, and ``ticket`` names the one entry of
    the heap that counts (0 = none). ``above_s``: since when its delay is above the target, or will be.
    """

    __slots__ = (
        "above_s", "count", "deficit", "due", "generation", "name", "newest", "next", "oldest", "place", "seen", "ticket",
    )  # fmt: skip

    def __init__(self, name: str, seen: int, place: int, first: Waiter, above_s: float) -> None:
        self.name = name
        self.deficit = 0
        self.seen = seen
        # Who joins later comes earlier in the next round; among those of one round, the first to join.
        self.generation = -seen
        self.place = place
        self.due = 0
        self.ticket = 0
        self.count = 1
        self.oldest: Waiter | None = first
        self.newest: Waiter | None = first
        self.next: Waiter | None = first
        self.above_s = above_s


class Ring:
    """One priority class. ``round``, ``generation`` and ``place`` say whose visit it is, or whose was the last."""

    __slots__ = (
        "adaptive", "flows", "generation", "heap", "interval_s", "joined", "place", "quantum", "round", "target_s", "tickets",
        "waiting",
    )  # fmt: skip

    def __init__(self, quantum: int, adaptive: bool, target_s: float, interval_s: float) -> None:
        self.quantum = quantum
        self.adaptive = adaptive
        self.target_s = target_s
        self.interval_s = interval_s
        self.flows: dict[str, Flow] = {}
        self.heap: list[tuple[int, int, int, int, Flow]] = []
        self.waiting = 0
        self.joined = 0
        self.tickets = 0
        self._rest()

    def _rest(self) -> None:
        """Nobody waits: rounds are counted anew. Whoever joins now is behind the place that stands for "all visited"."""
        self.heap.clear()
        self.round = 0
        self.generation = 1
        self.place = 0

    def put(self, waiter: Waiter) -> None:
        self.waiting += 1
        flow = self.flows.get(waiter.flow)
        if flow is None:
            self.joined += 1
            flow = Flow(waiter.flow, self.round, self.joined, waiter, waiter.at + self.target_s)
            waiter.home = flow
            self.flows[waiter.flow] = flow
            self._schedule(flow)
            return
        waiter.home = flow
        last = flow.newest
        assert last is not None
        waiter.older = last
        last.newer = waiter
        flow.newest = waiter
        flow.count += 1
        if self.adaptive and waiter.at >= flow.above_s + self.interval_s:
            flow.next = waiter
            self._schedule(flow)

    def first(self) -> Waiter | None:
        """The next; None when nobody waits. Changes nothing but what is stale."""
        heap = self.heap
        while heap:
            entry = heap[0]
            flow: Flow = entry[4]
            if flow.ticket == entry[3]:
                return flow.next
            heapq.heappop(heap)
        return None

    def take(self, waiter: Waiter, now: float) -> None:
        """The visit in which :meth:`first`'s ``waiter`` goes has come: it pays and leaves."""
        flow = waiter.home
        assert flow is not None
        flow.deficit += self.quantum * (flow.due - flow.seen) - waiter.cost
        flow.seen = flow.due
        self.round = flow.due
        self.generation = flow.generation
        self.place = flow.place
        self.leave(waiter, now)

    def leave(self, waiter: Waiter, now: float) -> None:
        """Take ``waiter`` out of its flow, and the flow out of the ring with its last."""
        flow = waiter.home
        assert flow is not None
        older, newer = waiter.older, waiter.newer
        waiter.home = waiter.older = waiter.newer = None
        if newer is None:
            flow.newest = older
        else:
            newer.older = older
        if older is not None:
            older.newer = newer
        else:
            flow.oldest = newer
            # Still above the target with the next one: since then. Otherwise from when that one will be.
            if newer is not None and newer.at + self.target_s >= now:
                flow.above_s = newer.at + self.target_s
        flow.count -= 1
        self.waiting -= 1
        if flow.count == 0:
            del self.flows[flow.name]
            flow.next = None
            self._unschedule(flow)
        elif waiter is flow.next:
            late = self.adaptive and now >= flow.above_s + self.interval_s
            flow.next = flow.newest if late else flow.oldest
            self._schedule(flow)

    def _unschedule(self, flow: Flow) -> None:
        heap = self.heap
        if self.waiting == 0:
            self._rest()
        elif heap[0][3] == flow.ticket:
            heapq.heappop(heap)
        flow.ticket = 0
        self._clean()

    def _schedule(self, flow: Flow) -> None:
        """Find the round in which ``flow`` sends its next, and put it there in the heap."""
        # All visits up to now, those that sent nothing too: this round's, if the ring has come past its place.
        before = flow.generation < self.generation or (flow.generation == self.generation and flow.place <= self.place)
        visited = self.round if before else self.round - 1
        if visited > flow.seen:
            flow.deficit += self.quantum * (visited - flow.seen)
            flow.seen = visited
        waiter = flow.next
        assert waiter is not None
        visits = -((flow.deficit - waiter.cost) // self.quantum)
        if visits < 1:
            visits = 0 if flow.place == self.place else 1
        due = flow.seen + visits
        if flow.ticket and flow.due == due:
            return
        stale = flow.ticket
        self.tickets += 1
        flow.ticket = self.tickets
        flow.due = due
        entry = (due, flow.generation, flow.place, flow.ticket, flow)
        heap = self.heap
        if stale and heap[0][3] == stale:
            heapq.heapreplace(heap, entry)
        else:
            heapq.heappush(heap, entry)
            self._clean()

    def _clean(self) -> None:
        """Stale entries go when they outnumber the others: each is paid for by the operation that made it stale."""
        heap = self.heap
        if len(heap) > 2 * len(self.flows) + FEW:
            kept = []
            for entry in heap:  # no comprehension: compiled, its variables would have no types
                flow: Flow = entry[4]
                if flow.ticket == entry[3]:
                    kept.append(entry)
            heapq.heapify(kept)
            self.heap = kept


class FairQueue:
    """The queue: ``quantum`` in tokens, the rules of its order in this file's head.

    ``adaptive`` turns a flow's order by controlled delay: ``target_s`` is the delay that is fine, ``interval_s`` how long it
    may be above. ``now`` is any clock that does not go back, in seconds.

    :raises ValueError: for a quantum that is not in 1 to :data:`MAX_QUANTUM`, or a negative time.
    """

    __slots__ = ("_above_s", "_adaptive", "_interval_s", "_now", "_order", "_quantum", "_rings", "_target_s", "_waiting")

    def __init__(self, *, quantum: int, adaptive: bool, target_s: float, interval_s: float) -> None:
        if not 1 <= quantum <= MAX_QUANTUM:
            raise ValueError(f"a quantum is 1 to {MAX_QUANTUM} tokens, not {quantum}")
        if target_s < 0 or interval_s < 0:
            raise ValueError("target_s and interval_s cannot be negative")
        self._quantum = quantum
        self._adaptive = adaptive
        self._target_s = target_s
        self._interval_s = interval_s
        self._rings: list[Ring] = []
        self._waiting = 0
        self._now = 0.0
        # Who has waited longest in the whole queue; an OrderedDict finds its first at once, whatever left before.
        self._order: OrderedDict[Waiter, None] = OrderedDict()
        self._above_s = NEVER

    def __len__(self) -> int:
        return self._waiting

    def goes_by(self, adaptive: bool, target_s: float) -> bool:
        """Whether these are its rules, which it keeps."""
        return self._adaptive == adaptive and (not adaptive or self._target_s == target_s)

    @property
    def flows(self) -> int:
        """How many flows have somebody waiting; a tenant with waiters in two classes counts twice."""
        count = 0
        for ring in self._rings:
            count += len(ring.flows)
        return count

    def waiting(self, priority: int) -> int:
        """How many wait in this class."""
        if not 0 <= priority < len(self._rings):
            return 0
        ring = self._rings[priority]
        return ring.waiting

    def put(self, item: object, priority: int, flow: str, cost: int, now: float) -> Waiter:
        """Let ``item`` wait, in class ``priority`` (0 goes first) on behalf of ``flow``; it costs ``cost`` tokens.

        :raises ValueError: for a cost below 1, or a class that is not in 0 to 15.
        """
        if cost < 1:
            raise ValueError(f"a cost is at least 1 token, not {cost}")
        if not 0 <= priority < MAX_CLASSES:
            raise ValueError(f"a priority is 0 to {MAX_CLASSES - 1}, not {priority}")
        while len(self._rings) <= priority:
            self._rings.append(Ring(self._quantum, self._adaptive, self._target_s, self._interval_s))
        waiter = Waiter(item, priority, flow, min(cost, MAX_COST), now)
        ring = self._rings[priority]
        ring.put(waiter)
        self._waiting += 1
        self._now = now
        if self._adaptive:
            if self._waiting == 1:
                self._above_s = now + self._target_s
            self._order[waiter] = None
        return waiter

    def remove(self, waiter: Waiter) -> bool:
        """Its client left or its deadline passed: it goes at once. False when it was not waiting.

        Times are judged as of the last ``put`` or ``pop``. ``waiter`` must be one of this queue's.
        """
        if not waiter.waiting:
            return False
        ring = self._rings[waiter.priority]
        ring.leave(waiter, self._now)
        self._left(waiter)
        return True

    def first(self, now: float) -> Waiter | None:
        """What ``pop`` would give; it goes on waiting. ``now`` is not asked for anything yet: see the head of this file."""
        for ring in self._rings:
            if ring.waiting:
                return ring.first()
        return None

    def pop(self, now: float) -> object | None:
        """Take the next; returns its item, None when nobody waits."""
        waiter = self.first(now)
        if waiter is None:
            return None
        self._now = now
        ring = self._rings[waiter.priority]
        ring.take(waiter, now)
        self._left(waiter)
        return waiter.item

    def overloaded(self, now: float) -> bool:
        """Whether the delay of the whole queue has been above the target for an interval (never when not adaptive).

        Each flow's order follows the same rule over its own delay, so no flow is newest first when this is False.
        """
        return self._adaptive and now >= self._above_s + self._interval_s

    def _left(self, waiter: Waiter) -> None:
        waiter.waiting = False
        self._waiting -= 1
        if not self._adaptive:
            return
        order = self._order
        oldest: Waiter = next(iter(order))
        del order[waiter]
        if oldest is not waiter:
            return
        if not order:
            self._above_s = NEVER
            return
        oldest = next(iter(order))
        if oldest.at + self._target_s >= self._now:
            self._above_s = oldest.at + self._target_s
