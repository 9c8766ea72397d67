"""What each engine of a group has to do, kept so that the one with least of it is found without a look at all.

A tree over the engines, each node the least of its two: whose load changes is written into it again, ten steps among a thousand
engines, and the least stands at its root. Calls tell whose load has changed (``upstream.watch``: the journal). Nobody tells
when an engine becomes well or ill, is drained, or gets another number of slots: whoever is found is looked at before it is
taken, and what else may have become better is found within :data:`FRESH_S`, when all are looked at once. Where the engines of a
group have no watch, all are looked at each time.

Owns: the order of engines by their load. Invariants: one that is found may be asked at that moment; a load is never compared
with one of another unit. Must never: pick; it says who has least.
"""

from __future__ import annotations

from typing import Final

from fastgw.net.clock import monotonic
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.target import Engine
from fastgw.upstream.watch import RING, Journal, Watch

FRESH_S: Final = 0.05
REQUESTS: Final = 0  # under way there, or waiting in it, for its slots or its weight
TOKENS: Final = 1  # of prompts that are not read yet and answers that are to come, for its weight
NOBODY: Final = float("inf")
_NAMES: Final = ("loads", "tokens")


def loads_of(group: Group, unit: int) -> Loads:
    """Those of ``group``, which are kept with it."""
    found: Loads | None = group.notes.get(_NAMES[unit])
    if found is None:
        found = group.notes[_NAMES[unit]] = Loads(group.pools, unit)
    return found


def scores_of(group: Group, unit: int) -> list[tuple[float, str]]:
    """What each engine of ``group`` would have to do with one request more, for what it can take: for who asks why."""
    engines = [pool.engine for pool in group.pools]
    by_slots = all(engine.slots for engine in engines)
    found = []
    for engine in engines:
        waiting = f", {engine.queued} waiting in it" if engine.queued else ""
        if unit == TOKENS and engine.watch is not None:
            watch = engine.watch
            score = (watch.reading + watch.making + 1) / engine.weight
            why = f"{watch.reading} tokens of prompts to be read and {watch.making} to be made, at weight {engine.weight}"
        else:
            score = (engine.inflight + engine.queued + 1) / (engine.slots if by_slots else engine.weight)
            of = f"for {engine.slots} slots" if by_slots else f"at weight {engine.weight}"
            why = f"{engine.inflight} requests under way{waiting}, {of}"
        found.append((score, why))
    return found


class Loads:
    """Of the engines of ``pools``, by ``unit``.

    ``total``: requests under way at, and waiting in, those engines that are at work; ``rooms``: what those can take together,
    in the same unit that ``room`` of one has. """

    __slots__ = (
        "_by_slots", "_fresh_at", "_half", "_journal", "_keys", "_loads", "_places", "_rooms", "_seen", "_unit", "pools",
        "rooms", "total",
    )  # fmt: skip

    def __init__(self, pools: tuple[Pool, ...], unit: int) -> None:
        self.pools = pools
        self._unit = unit
        half = 1
        while half < len(pools):
            half *= 2
        self._half = half  # leaves begin there: that of pool 0 is `_keys[half]`
        self._keys = [NOBODY] * (2 * half)
        self._loads = [0] * len(pools)
        self._rooms = [0] * len(pools)
        self._places: dict[int, int] = {}  # of a watch's number
        self._journal: Journal | None = None
        self._seen = 0
        self._fresh_at = -NOBODY
        self._by_slots = False
        self.total = 0
        self.rooms = 0

    # --- who has least
    def least(self, start: int) -> int:
        """The place in ``pools`` of the engine that has least to do and may be asked; of equals the first from ``start`` on and
        around. -1 = none may."""
        self.sync()
        keys = self._keys
        while True:
            least = keys[1]
            if least == NOBODY:
                return -1
            at = self._find(start, least)
            if at < 0:
                at = self._find(0, least)
            self._weigh(at)
            if keys[self._half + at] == least:
                return at

    def least_but(self, start: int, tried: tuple[Pool, ...]) -> int:
        """As :meth:`least`, of those that were not ``tried``; all are looked at."""
        self.sync()
        best = -1
        least = NOBODY
        count = len(self.pools)
        for step in range(count):
            at = start + step
            if at >= count:
                at -= count
            key = self._keys[self._half + at]
            if key < least and self.pools[at] not in tried and self.pools[at].engine.usable():
                best = at
                least = key
        return best

    def _find(self, start: int, most: float) -> int:
        """The first leaf from ``start`` on whose key is not above ``most``."""
        keys, half = self._keys, self._half
        if start >= half:
            return -1
        node = start + half
        while keys[node] > most:
            while node & 1:
                node >>= 1
            if not node:
                return -1
            node += 1
        while node < half:
            node *= 2
            if keys[node] > most:
                node += 1
        return node - half

    # --- one engine's
    def place(self, pool: Pool) -> int:
        """The place of ``pool``, -1 = it is not among them."""
        watch = pool.engine.watch
        if self._journal is None or watch is None:
            return self.pools.index(pool) if pool in self.pools else -1
        at = self._places.get(watch.number, -1)
        return at if at >= 0 and self.pools[at] is pool else -1

    def load(self, at: int) -> int:
        """Requests under way at the engine at that place, and waiting in it; as it was at the last :meth:`sync`."""
        return self._loads[at]

    def room(self, at: int) -> int:
        """What it can take; 0 = it is not at work."""
        return self._rooms[at]

    def key(self, at: int) -> float:
        """What it would have to do with one request more, for what it can take, in this order's unit; infinite = it may not be
        asked."""
        return self._keys[self._half + at]

    def bound(self, at: int, percent: int, above: int = 0) -> int:
        """How many requests the engine at that place may have at the most, of all that there are with one more, where no engine
        is to have above ``percent`` of its share, and ``above`` more than its share in any case."""
        rooms = self.rooms
        if rooms <= 0:
            return 1
        share = (self.total + 1) * self._rooms[at]
        most = -(-share * percent // (100 * rooms))
        least = -(-share // rooms) + above
        return most if above == 0 or most >= least else least

    # --- keeping it
    def sync(self) -> None:
        """Take up what has changed."""
        journal = self._journal
        if journal is None or journal.count - self._seen > RING or monotonic() >= self._fresh_at + FRESH_S:
            self._refresh()
            return
        seen = self._seen
        count = journal.count
        if seen == count:
            return
        changes = journal.changes
        while seen < count:
            watch = changes[seen % RING]
            assert watch is not None
            seen += 1
            at = self._places.get(watch.number, -1)
            if at >= 0:
                self._weigh(at)
        self._seen = count

    def _refresh(self) -> None:
        """Look at all."""
        pools = self.pools
        journal: Journal | None = None
        watch: Watch | None = None
        watched = True
        by_slots = True
        for pool in pools:
            engine = pool.engine
            watch = engine.watch
            if watch is None or (journal is not None and watch.journal is not journal):
                watched = False
            else:
                journal = watch.journal
            if not engine.slots:
                by_slots = False
        if not watched:
            journal = None
        if journal is not self._journal or (journal is not None and not self._placed()):
            self._journal = journal
            self._places = {pool.engine.watch.number: at for at, pool in enumerate(pools)} if journal is not None else {}  # type: ignore[union-attr]
        self._by_slots = by_slots
        self._seen = journal.count if journal is not None else 0
        self._fresh_at = monotonic()
        half = self._half
        keys = self._keys
        self.total = self.rooms = 0
        for at, pool in enumerate(pools):
            keys[half + at] = self._figure(at, pool.engine)
            self.total += self._loads[at]
            self.rooms += self._rooms[at]
        for node in range(half - 1, 0, -1):
            left, right = keys[2 * node], keys[2 * node + 1]
            keys[node] = left if left <= right else right

    def _placed(self) -> bool:
        """Whether all engines still have the numbers by which they are found."""
        places = self._places
        for at, pool in enumerate(self.pools):
            watch = pool.engine.watch
            if watch is None or places.get(watch.number, -1) != at:
                return False
        return True

    def _figure(self, at: int, engine: Engine) -> float:
        """Note down what the engine at that place has, and can take; returns its key."""
        usable = engine.usable()
        if not usable and not engine.full():
            self._loads[at] = self._rooms[at] = 0
            return NOBODY
        load = engine.inflight + engine.queued
        room = engine.slots if self._by_slots and engine.slots else engine.weight
        self._loads[at] = load
        self._rooms[at] = room
        if not usable:
            return NOBODY
        watch = engine.watch
        if self._unit == TOKENS and watch is not None:
            return (watch.reading + watch.making + 1) / engine.weight
        return (load + 1) / room

    def _weigh(self, at: int) -> None:
        """Look at the engine at that place again."""
        keys = self._keys
        self.total -= self._loads[at]
        self.rooms -= self._rooms[at]
        key = self._figure(at, self.pools[at].engine)
        self.total += self._loads[at]
        self.rooms += self._rooms[at]
        node = self._half + at
        if keys[node] == key:
            return
        keys[node] = key
        node >>= 1
        while node:
            left, right = keys[2 * node], keys[2 * node + 1]
            least = left if left <= right else right
            if keys[node] == least:
                return
            keys[node] = least
            node >>= 1
