"""The circuit breaker of one engine: after some failures in a row it is left alone, then tried by one request at a time.

    CLOSED     traffic passes; ``threshold`` failures in a row open it
    OPEN       nothing passes until ``until``: ``recovery_s``, and up to a fifth more by chance
    HALF_OPEN  one request at a time passes as the probe; its verdict closes the breaker or opens it again

Nygard's pattern ("Release It!", 2007, "Circuit Breaker"). The extra fifth keeps several gateways, which saw the engine
die in the same moment, from probing it in the same moment. What counts as a failure is the caller's to say; a request
that ends without a verdict (its client left, the engine was only busy, nothing was sent) is told as ``released``.

A failure may be one caller's own doing, an answer that nobody else got; or of one model alone, which the engine lacks. Where
all that opened it were such, of one caller or of one model, it is open to those alone: as soon as another asks, or for another
(:meth:`hears`), it is closed, and one failure of anybody's opens it again, which nobody doubts any more where it is neither the
first caller's nor that model's.

A probe of its health that succeeds (:meth:`answered`) shows that it can be reached. Where that is all that had failed, the
breaker is closed; otherwise a request may try at once.

Invariants: at most one request is out as the probe; but for that, only its verdict moves a breaker that is not closed, so the
late failures of requests from before the opening neither prolong it nor end it (and a new ``threshold`` of 0, which closes it).
Must never: read a clock.
"""

from __future__ import annotations

from typing import Final

CLOSED: Final = 0
OPEN: Final = 1
HALF_OPEN: Final = 2

NO: Final = 0
YES: Final = 1
PROBE: Final = 2

JITTER: Final = 0.2
"""Share of the recovery time that chance may add to it."""
PROBE_WAIT_S: Final = 1.0
"""What a refused client is told to wait while the probe is out: its verdict is near, nobody knows how near."""

NAMES: Final = ("closed", "open", "half-open")

ALL: Final = ("", "")
"""Whose a failure is: of which caller and of which model alone, "" = not of one."""

# C integers in the compiled twin.
_CLOSED, _OPEN, _HALF_OPEN = CLOSED, OPEN, HALF_OPEN
_NO, _YES, _PROBE = NO, YES, PROBE


def together(one: tuple[str, str], other: tuple[str, str]) -> tuple[str, str]:
    """Whose two failures are."""
    return (one[0] if one[0] == other[0] else "", one[1] if one[1] == other[1] else "")


def spares(whose: tuple[str, str], caller: str, model: str) -> bool:
    """Whether what failed so says nothing of ``caller``, or of ``model``."""
    return bool((whose[0] and whose[0] != caller) or (whose[1] and whose[1] != model))


class Breaker:
    """See the head of this file. Times are seconds on one clock that does not step back.

    ``failures`` counts those in a row; ``opened_total`` only grows, so it also tells whether the breaker has opened since
    a request was admitted. ``whose`` the latest ``failures`` are (:data:`ALL`); ``dials``: nobody could connect, each time.
    """

    __slots__ = ("_recovery_s", "_threshold", "dials", "failures", "opened_total", "probing", "state", "until", "whose")

    def __init__(self, threshold: int, recovery_s: float) -> None:
        """``threshold`` failures in a row open it, 0 = never; ValueError for a negative value."""
        if threshold < 0 or not recovery_s >= 0.0:
            raise ValueError("a breaker's threshold and recovery time are not negative")
        self._threshold = threshold
        self._recovery_s = recovery_s
        self.state = _CLOSED
        self.failures = 0
        self.whose = ALL
        self.dials = False
        self.opened_total = 0
        self.probing = False
        self.until = 0.0

    def __repr__(self) -> str:
        probing = " probing" if self.probing else ""
        return f"<Breaker {NAMES[self.state]}{probing} failures={self.failures}>"

    def change(self, threshold: int, recovery_s: float) -> None:
        """New limits from the next failure on: one that is open stays so for as long as it was told, unless none is to open."""
        self._threshold = threshold
        self._recovery_s = recovery_s
        if not threshold and self.state != _CLOSED:
            self.probing = False
            self.failures = 0
            self._set_state(_CLOSED)

    def admit(self, now: float) -> int:
        """NO, YES or PROBE; with PROBE the caller has taken the probe's place and owes a verdict, or ``released``."""
        if self.state == _CLOSED:
            return _YES
        answer = self.may(now)
        if answer == _PROBE:
            if self.state == _OPEN:
                self._set_state(_HALF_OPEN)
            self.probing = True
        return answer

    def may(self, now: float) -> int:
        """What :meth:`admit` would answer; takes nothing."""
        if self.state == _CLOSED:
            return _YES
        if self.probing or (self.state == _OPEN and now < self.until):
            return _NO
        return _PROBE

    def succeeded(self, probe: bool) -> None:
        """The engine did its part. ``probe``: the request was admitted as one."""
        if self.state == _CLOSED:
            self.failures = 0
        elif probe and self.probing:
            self.probing = False
            self.failures = 0
            self._set_state(_CLOSED)

    def failed(self, now: float, chance: float, probe: bool, whose: tuple[str, str] = ALL, dial: bool = False) -> None:
        """The engine failed. ``chance`` in [0, 1) spreads the next probe. ``whose`` alone it may be. ``dial``: it could not be
        connected to."""
        if self.state == _CLOSED:
            self._count(whose, dial)
            if self._threshold and self.failures >= self._threshold:
                self._open(now, chance)
        elif probe and self.probing:
            self.probing = False
            self._count(whose, dial)
            self._open(now, chance)

    def answered(self) -> bool:
        """Somebody else than a request has found that it is well. Whether that has moved the breaker."""
        if self.state == _CLOSED or self.probing:
            return False
        if self.dials:
            self.failures = 0
            self._set_state(_CLOSED)
            return True
        if self.state == _HALF_OPEN:
            return False
        self._set_state(_HALF_OPEN)
        return True

    def restore(self, failures: int, until: float, dials: bool, whose: tuple[str, str]) -> None:
        """It was open elsewhere, and is here, as one that is new."""
        self.failures = failures
        self.until = until
        self.dials = dials
        self.whose = whose
        self._set_state(_OPEN)

    def hears(self, caller: str, model: str = "") -> bool:
        """``caller`` asks for ``model``. Whether that closes it: it was open to one other alone, or for one other. (A probe
        that is out is none any more.)"""
        if self.state == _CLOSED or not spares(self.whose, caller, model):
            return False
        self.probing = False
        self.failures = max(1, self._threshold - 1)
        self._set_state(_CLOSED)
        return True

    def released(self, probe: bool) -> None:
        """The request ended and says nothing of the engine; a probe's place is free for the next."""
        if probe and self.state == _HALF_OPEN:
            self.probing = False

    def wait_s(self, now: float) -> float:
        """Seconds until the next request may go; 0.0 when one may now."""
        if self.state == _OPEN:
            return max(0.0, self.until - now)
        return PROBE_WAIT_S if self.probing else 0.0

    def _count(self, whose: tuple[str, str], dial: bool) -> None:
        self.whose = together(self.whose, whose) if self.failures else whose
        self.dials = dial and (self.dials or not self.failures)
        self.failures += 1

    def _open(self, now: float, chance: float) -> None:
        self.until = now + self._recovery_s * (1.0 + JITTER * chance)
        self.opened_total += 1
        self._set_state(_OPEN)

    def _set_state(self, state: int) -> None:
        """The one place where the state changes; RuntimeError for a step that the head of this file does not know."""
        held = self.state
        if not (
            (state == _OPEN and held != _OPEN)
            or (state == _HALF_OPEN and held == _OPEN)
            or (state == _CLOSED and held != _CLOSED)
        ):
            raise RuntimeError(f"a breaker does not go from {NAMES[held]} to {NAMES[state]}")
        self.state = state
