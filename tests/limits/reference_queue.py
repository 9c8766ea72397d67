"""The fair queue as slow and plain as its rules: lists, every visit of every round walked, every delay written down.

For tests only; it shares nothing with what it judges.
"""

from __future__ import annotations

import copy
from typing import Any


class Entry:
    def __init__(self, item: Any, priority: int, flow: str, cost: int, at: float) -> None:
        self.item, self.priority, self.flow, self.cost, self.at = item, priority, flow, cost, at


class Delay:
    """Who was the oldest since when. Overloaded: no moment of the last interval had a delay within the target."""

    def __init__(self, target_s: float, interval_s: float) -> None:
        self.target_s, self.interval_s = target_s, interval_s
        self.history: list[tuple[float, float]] = []  # (from then on, the oldest was put at)

    def oldest(self, entries: list[Entry], now: float) -> None:
        if not entries:
            self.history = []
        elif not self.history or self.history[-1][1] != entries[0].at:
            self.history.append((now, entries[0].at))

    def overloaded(self, now: float) -> bool:
        if not self.history:
            return False
        fine: list[float] = []
        ends = [begin for begin, _ in self.history[1:]] + [now]
        for (begin, at), end in zip(self.history, ends, strict=True):
            if begin <= at + self.target_s:
                fine.append(min(end, at + self.target_s))
        return now >= max(fine) + self.interval_s


class Line:
    def __init__(self, name: str, delay: Delay) -> None:
        self.name, self.delay = name, delay
        self.entries: list[Entry] = []
        self.choice: Entry | None = None
        self.deficit = 0


class Class:
    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.ring: list[Line] = []  # this round's, in order
        self.joining: list[Line] = []  # the next round's newcomers
        self.at = 0  # whose visit it is
        self.entered = False  # whether that visit has brought its quantum

    def lines(self) -> list[Line]:
        return self.ring + self.joining

    def walk(self) -> Line:
        """Go round until somebody can send."""
        while True:
            if self.at >= len(self.ring):
                self.ring, self.joining = self.joining + self.ring, []
                self.at, self.entered = 0, False
            line = self.ring[self.at]
            if not self.entered:
                line.deficit += self.quantum
                self.entered = True
            assert line.choice is not None
            if line.choice.cost <= line.deficit:
                return line
            self.at += 1
            self.entered = False

    def drop(self, line: Line) -> None:
        if line in self.joining:
            self.joining.remove(line)
            return
        index = self.ring.index(line)
        if index < self.at:
            self.at -= 1
        elif index == self.at:
            self.entered = False
        self.ring.remove(line)


class NaiveQueue:
    def __init__(self, *, quantum: int, adaptive: bool, target_s: float, interval_s: float) -> None:
        self.quantum, self.adaptive, self.times = quantum, adaptive, (target_s, interval_s)
        self.classes: dict[int, Class] = {}
        self.everybody: list[Entry] = []
        self.delay = Delay(*self.times)
        self.now = 0.0

    def __len__(self) -> int:
        return len(self.everybody)

    def flows(self) -> int:
        return sum(len(one.lines()) for one in self.classes.values())

    def waiting(self, priority: int) -> int:
        return sum(1 for entry in self.everybody if entry.priority == priority)

    def _line(self, entry: Entry) -> Line | None:
        lines = self.classes[entry.priority].lines()
        return next((line for line in lines if line.name == entry.flow), None)

    def put(self, item: Any, priority: int, flow: str, cost: int, now: float) -> Entry:
        self.now = now
        entry = Entry(item, priority, flow, cost, now)
        one = self.classes.setdefault(priority, Class(self.quantum))
        line = self._line(entry)
        if line is None:
            line = Line(flow, Delay(*self.times))
            one.joining.append(line)
        line.entries.append(entry)
        line.delay.oldest(line.entries, now)
        if line.choice is None or (self.adaptive and line.delay.overloaded(now)):
            line.choice = entry
        self.everybody.append(entry)
        self.delay.oldest(self.everybody, now)
        return entry

    def remove(self, entry: Entry) -> bool:
        if entry not in self.everybody:
            return False
        line = self._line(entry)
        assert line is not None
        line.entries.remove(entry)
        line.delay.oldest(line.entries, self.now)
        self.everybody.remove(entry)
        self.delay.oldest(self.everybody, self.now)
        if not line.entries:
            self.classes[entry.priority].drop(line)
        elif line.choice is entry:
            late = self.adaptive and line.delay.overloaded(self.now)
            line.choice = line.entries[-1 if late else 0]
        return True

    def pop(self, now: float) -> Any:
        if not self.everybody:
            return None
        self.now = now
        line = self.classes[min(entry.priority for entry in self.everybody)].walk()
        entry = line.choice
        assert entry is not None
        line.deficit -= entry.cost
        self.remove(entry)
        return entry.item

    def first(self, now: float) -> Any:
        """The item that ``pop`` would give."""
        return copy.deepcopy(self).pop(now)

    def overloaded(self, now: float) -> bool:
        return self.adaptive and self.delay.overloaded(now)
