"""What calls tell of an engine while they are under way: tokens, times to the first token, verdicts.

Only where somebody wants to know: an engine without a :class:`Watch` costs its calls a comparison each. Strategies read what
stands here, and so does whoever holds engines back (``restraint``). Which engines' loads have changed is written into a
journal, a ring, so that whoever keeps figures of a thousand engines looks only at those that moved.

Invariants: what a call has added is taken back when it ends, once; the journal never refers to an engine.
"""

from __future__ import annotations

from typing import Final

from fastgw.limits.breaker import ALL, together

RING: Final = 1024
"""Changes that are remembered; who has missed more looks at all."""
_MASK: Final = RING - 1
MOST_TOKENS: Final = 1 << 40  # that one call counts for
_MOST_TOKENS: Final = MOST_TOKENS  # (the compiled twin has it as a C number)
DECAY_S: Final = 10.0
NEVER_LATE: Final = 1e300


class Journal:
    """Whose load has changed, in order. ``count`` of them were there; the last :data:`RING` stand in ``changes``."""

    __slots__ = ("_free", "_next", "changes", "count", "decay_s")

    def __init__(self, decay_s: float = DECAY_S) -> None:
        self.changes: list[Watch | None] = [None] * RING
        self.count = 0
        self.decay_s = decay_s  # in which a time to the first token loses half of its weight
        self._free: list[int] = []
        self._next = 0

    def watch(self) -> Watch:
        """A watch for one engine more, with a number that no other has."""
        if self._free:
            return Watch(self, self._free.pop())
        self._next += 1
        return Watch(self, self._next - 1)

    def release(self, watch: Watch) -> None:
        """The engine has gone: its number is another's next."""
        if not watch.gone:
            watch.gone = True
            self._free.append(watch.number)

    def note(self, watch: Watch) -> None:
        """Its load is another now."""
        self.changes[self.count & _MASK] = watch
        self.count += 1


class Watch:
    """Of one engine: see the head of this file. ``number`` tells it from all others of its journal, and is small."""

    __slots__ = (
        "answers", "faults", "faults_by", "gone", "in_time", "journal", "known", "late", "late_by", "late_s", "making",
        "number", "reading", "row", "row_by", "samples", "since", "ttft_at", "ttft_s",
    )  # fmt: skip

    def __init__(self, journal: Journal, number: int) -> None:
        self.journal = journal
        self.number = number
        self.gone = False
        self.reading = 0  # tokens of prompts whose first token has not come
        self.making = 0  # tokens that answers are expected to have which have begun
        self.known = 0  # tokens of the next prompt that it is expected to have at hand: the strategy that picked it says so
        self.ttft_s = 0.0  # the average, by peaks
        self.ttft_at = 0.0  # when that was so
        self.samples = 0  # 0 = nobody has had a first token from it
        self.late_s = NEVER_LATE  # a first token that takes longer is late, as whoever holds engines back says
        self.late = self.in_time = 0  # of those in his window
        self.late_by = ALL  # who got the late ones
        self.answers = 0  # calls that ended well
        self.faults = 0  # and that failed
        self.since = 0  # of those the ones in the window of whoever holds engines back, who begins it anew
        self.faults_by = ALL  # whose those are
        self.row = 0  # the last ones, without one between that ended well
        self.row_by = ALL  # whose those are

    def opened(self, tokens: int) -> int:
        """A call has a place, with a prompt of so many tokens. Returns how many of them count, until :meth:`began`."""
        tokens -= self.known
        self.known = 0
        if tokens < 0:
            tokens = 0
        elif tokens > _MOST_TOKENS:
            tokens = _MOST_TOKENS
        self.reading += tokens
        self.journal.note(self)
        return tokens

    def began(self, read: int, makes: int) -> None:
        """Its first token has come: the prompt (which counted for ``read``) is read, and ``makes`` tokens are to come."""
        self.reading -= read
        self.making += makes
        self.journal.note(self)

    def ended(self, read: int, made: int) -> None:
        """The call is over; what it counted for is taken back."""
        self.reading -= read
        self.making -= made
        self.journal.note(self)

    def answered(self) -> None:
        """A call ended well."""
        self.answers += 1
        self.row = 0

    def failed(self, whose: tuple[str, str] = ALL) -> None:
        """A call failed, by the engine's fault. ``whose`` alone that may be: as a breaker is told."""
        self.faults_by = together(self.faults_by, whose) if self.since else whose
        self.row_by = together(self.row_by, whose) if self.row else whose
        self.faults += 1
        self.since += 1
        self.row += 1

    def took(self, seconds: float, now: float) -> None:
        """A first token came after so long. A longer time than the average counts at once, a shorter one bit by bit: an engine
        that has become slow is left in a moment, and comes back as it proves that it is quick (the peak-sensitive moving
        average of Finagle's and linkerd's load balancers)."""
        if seconds >= self.ttft_s or not self.samples:
            self.ttft_s = seconds
        else:
            weight = self.weight(now)
            self.ttft_s = self.ttft_s * weight + seconds * (1.0 - weight)
        self.ttft_at = now
        self.samples += 1
        self.in_time += 1

    def was_late(self, whose: tuple[str, str]) -> None:
        """That was longer than :attr:`late_s`, for whom."""
        self.late_by = together(self.late_by, whose) if self.late else whose
        self.late += 1
        self.in_time -= 1

    def begins_anew(self) -> None:
        """Whoever holds engines back begins a window: of first tokens, and of calls that failed."""
        self.since = self.late = self.in_time = 0

    def late_for(self) -> tuple[str, str] | None:
        """Whose word it is that it is late; None = nobody's who is to be believed: what one caller alone waits for may be his
        own doing (a long prompt is slow everywhere), and is where another, or he himself, was served in time."""
        if not self.late or (self.in_time and self.late_by != ALL):
            return None
        return self.late_by

    def latency_s(self, now: float) -> float:
        """The time to the first token that is to be reckoned with, less the longer nobody has asked."""
        return self.ttft_s * self.weight(now)

    def weight(self, now: float) -> float:
        """What the average weighs still, after the time that has passed: a half after ``decay_s``, a third after twice that.
        (By a quotient: an exponential tells no more here, and would be a call into another library.)"""
        decay_s = self.journal.decay_s
        return decay_s / (decay_s + (now - self.ttft_at)) if now > self.ttft_at else 1.0
