"""The breaker's rules written a second time, as a history that is read anew for each answer.

Nothing is remembered but what happened; every answer is derived from the whole list of events. Slow, and without any of
the machine's fields.
"""

from __future__ import annotations


class History:
    """The events of one breaker: ("ok" | "bad" | "none", probe) and ("asked",), with their times and chances."""

    def __init__(self, threshold: int, recovery_s: float) -> None:
        self.threshold = threshold
        self.recovery_s = recovery_s
        self.events: list[tuple[str, bool, float, float]] = []

    def told(self, what: str, probe: bool, now: float, chance: float) -> None:
        self.events.append((what, probe, now, chance))

    def openings(self) -> list[tuple[int, float]]:
        """(index of the event, end of the closed time) of each opening."""
        found: list[tuple[int, float]] = []
        row, shut = 0, False
        for index, (what, probe, now, chance) in enumerate(self.events):
            if shut:
                if probe and what == "ok":
                    shut, row = False, 0
                elif probe and what == "bad":
                    found.append((index, now + self.recovery_s * (1 + chance / 5)))
            elif what == "ok":
                row = 0
            elif what == "bad":
                row += 1
                if self.threshold and row == self.threshold:
                    shut = True
                    found.append((index, now + self.recovery_s * (1 + chance / 5)))
        return found

    def closed(self) -> bool:
        opened = self.openings()
        return not opened or any(what == "ok" and probe for what, probe, _, _ in self.events[opened[-1][0] + 1 :])

    def probe_out(self) -> bool:
        asked = sum(what == "asked" and probe for what, probe, _, _ in self.events)
        ended = sum(what != "asked" and probe for what, probe, _, _ in self.events)
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
