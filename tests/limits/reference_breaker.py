"""The breaker's rules written a second time, as a history that is read anew for each answer.

Nothing is remembered but what happened; every answer is derived from the whole list of events. Slow, and without any of
the machine's fields.
"""

from __future__ import annotations


class History:
    """The events of one breaker: ("ok" | "bad" | "none", probe), ("asked",) and ("heard",), with their times and chances, and
    of "bad" and "heard" whose they are."""

    def __init__(self, threshold: int, recovery_s: float) -> None:
        self.threshold = threshold
        self.recovery_s = recovery_s
        self.events: list[tuple[str, bool, float, float]] = []
        self.whose: list[tuple[str, str]] = []

    def told(self, what: str, probe: bool, now: float, chance: float, whose: tuple[str, str] = ("", "")) -> None:
        self.events.append((what, probe, now, chance))
        self.whose.append(whose)

    def heard(self, *whose: str) -> bool:
        """Whether it closes because ``whose`` request is there (his, and for which model): the failures in a row were all
        another's, or for another."""
        if self.closed():
            return False
        callers, models = {one for one, _ in self.row()}, {model for _, model in self.row()}
        return any(len(each) == 1 and each not in ({""}, {one}) for each, one in zip((callers, models), whose, strict=True))

    def row(self) -> set[tuple[str, str]]:
        """Who got the failures in a row, and for which models, since one was answered well where that counted."""
        callers: set[tuple[str, str]] = set()
        for index, (what, probe, _, _) in enumerate(self.events):
            shut = self.shut_at(index)
            if what == "ok" and (probe or not shut):
                callers = set()
            elif what == "bad" and (probe or not shut):
                callers.add(self.whose[index])
        return callers

    def shut_at(self, index: int) -> bool:
        """Whether it was shut when that happened."""
        then = History(self.threshold, self.recovery_s)
        then.events, then.whose = self.events[:index], self.whose[:index]
        return not then.closed()

    def openings(self) -> list[tuple[int, float]]:
        """(index of the event, end of the closed time) of each opening."""
        found: list[tuple[int, float]] = []
        row, shut = 0, False
        for index, (what, probe, now, chance) in enumerate(self.events):
            if shut:
                if what == "heard":
                    shut, row = False, max(1, self.threshold - 1)
                elif probe and what == "ok":
                    shut, row = False, 0
                elif probe and what == "bad":
                    found.append((index, now + self.recovery_s * (1 + chance / 5)))
            elif what == "ok":
                row = 0
            elif what == "bad":
                row += 1
                if self.threshold and row >= self.threshold:
                    shut = True
                    found.append((index, now + self.recovery_s * (1 + chance / 5)))
        return found

    def closed(self) -> bool:
        opened = self.openings()
        return not opened or any(
            (what == "ok" and probe) or what == "heard" for what, probe, _, _ in self.events[opened[-1][0] + 1 :]
        )

    def probe_out(self) -> bool:
        since = max([at for at, (what, *_) in enumerate(self.events) if what == "heard"], default=0)
        asked = sum(what == "asked" and probe for what, probe, _, _ in self.events[since:])
        ended = sum(what != "asked" and probe for what, probe, _, _ in self.events[since:])
        return asked > ended

    def half_open(self) -> bool:
        """A probe has been sent since the last opening, whatever became of it."""
        opened = self.openings()
        return not self.closed() and any(
            what == "asked" and probe for what, probe, _, _ in self.events[opened[-1][0] + 1 :]
        )

    def may(self, now: float) -> int:
        """0 no, 1 yes, 2 as a probe."""
        if self.closed():
            return 1
        if self.probe_out():
            return 0
        return 2 if self.half_open() or now >= self.openings()[-1][1] else 0
