"""Who counts what exchanges come to, for the metrics: told of each as it ends, and of attempts that fail.

Declared here, below the exchanges, and made in ``observe``: a call through a base class compiles to a call.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.accel.histograms import Histogram

ERROR: Final = "error"
MALFORMED: Final = "malformed"
TRUNCATED: Final = "truncated"
"""How an engine failed that was there: it answered so itself, or by no HTTP, or not to the end. (How one failed that did not
answer at all stands in ``plan.Failure``.)"""


class Tally:
    """Counts nothing: what is told is over. (One that counts is :class:`fastgw.observe.tallies.Tallies`.)"""

    __slots__ = ()

    def ended(self, exchange: Any, outcome: str, now: float) -> None:
        """``exchange`` has ended at ``now``; everything of it is still there."""

    def used(self, exchange: Any) -> None:
        """What it has used is known only now: its engine was let finish."""

    def spent(self, exchange: Any, cost: int) -> None:
        """What it has used has cost so much, in billionths of the currency. Of a session this is told as it goes on."""

    def gaps(self, exchange: Any) -> Histogram | None:
        """Where the times between the events of its answer belong; None = nobody wants to know."""
        return None

    def failed(self, how: str) -> None:
        """An attempt has failed, ``how`` being a word of the gateway's own."""


UNCOUNTED: Final = Tally()
