"""What may be tried again, and when: the retry budget, the backoff.

A retry helps one request and costs the engines one more; when all of them are in trouble, retries are what keeps them
there. So retries are a share of live traffic, as in Finagle (https://finagle.github.io/blog/2016/02/08/retry-budgets)
and Envoy (``RetryBudget`` of ``config.cluster.v3.CircuitBreakers``): with the default of a tenth, an outage adds a tenth
to the load, and no more. The floor lets a gateway with little traffic retry at all.

Must never: read a clock or throw dice; times (seconds on a monotonic clock) and chance are arguments.
"""

from __future__ import annotations

from typing import Final

SLOTS: Final = 10
"""The window's resolution: it is counted in so many whole slots, and the one that is running."""

_SLOTS = SLOTS
# Shares are whole millionths: retries are compared with integers, and the tenth of ten is one.
_UNIT = 1_000_000


class RetryBudget:
    """How many retries a window of live traffic allows.

    In any ``window_s`` seconds at most ``share`` of the requests seen in these and the ``window_s / SLOTS`` before them,
    plus ``floor_per_s * window_s``. ``retries_total`` and ``refused_total`` count the answers.
    """

    __slots__ = (
        "_at",
        "_floor",
        "_now_requests",
        "_now_retries",
        "_past_requests",
        "_past_retries",
        "_requests",
        "_retries",
        "_share",
        "_slot_end",
        "_slot_s",
        "refused_total",
        "retries_total",
    )

    def __init__(self, share: float, floor_per_s: float = 1.0, window_s: float = 10.0) -> None:
        """``share`` 0 to 10 (0.1 = one retry for ten requests); both 0 = no retries. ValueError beyond the bounds."""
        if not (0.0 <= share <= 10.0 and 0.0 <= floor_per_s <= 1e6 and 0.0 < window_s <= 3600.0):
            raise ValueError("a retry budget: share 0 to 10, floor 0 to 1e6 per second, window up to 3600 seconds")
        self._share = round(share * _UNIT)
        self._floor = round(floor_per_s * window_s * _UNIT)
        self._slot_s = window_s / _SLOTS
        self._slot_end = 0.0
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS
        self._at = 0
        self._past_requests = 0
        self._past_retries = 0
        self._now_requests = 0
        self._now_retries = 0
        self.retries_total = 0
        self.refused_total = 0

    def change(self, share: float) -> None:
        """Another share, of what has been seen as well; bounds as the constructor's."""
        if not 0.0 <= share <= 10.0:
            raise ValueError("a retry budget: share 0 to 10")
        self._share = round(share * _UNIT)

    def request(self, now: float) -> None:
        """A request of a client goes to an engine for the first time."""
        if now >= self._slot_end:
            self._roll(now)
        self._now_requests += 1

    def withdraw(self, now: float) -> bool:
        """Whether one more attempt is allowed; it then counts."""
        if now >= self._slot_end:
            self._roll(now)
        allowed = (self._past_requests + self._now_requests) * self._share + self._floor
        if (self._past_retries + self._now_retries + 1) * _UNIT > allowed:
            self.refused_total += 1
            return False
        self._now_retries += 1
        self.retries_total += 1
        return True

    def _roll(self, now: float) -> None:
        """End the running slot, and as many after it as have passed unused."""
        late = now - self._slot_end
        if late >= self._slot_s * _SLOTS:
            for i in range(_SLOTS):
                self._requests[i] = self._retries[i] = 0
            self._past_requests = self._past_retries = 0
            self._now_requests = self._now_retries = 0
            self._slot_end = now + self._slot_s
            return
        steps = int(late / self._slot_s) + 1
        for _ in range(steps):
            at = self._at
            self._past_requests += self._now_requests - self._requests[at]
            self._past_retries += self._now_retries - self._retries[at]
            self._requests[at] = self._now_requests
            self._retries[at] = self._now_retries
            self._now_requests = self._now_retries = 0
            self._at = (at + 1) % _SLOTS
        self._slot_end += steps * self._slot_s


def backoff_s(attempt: int, chance: float, base_s: float = 0.025, cap_s: float = 1.0) -> float:
    """Seconds to wait before retry number ``attempt`` (from 1): ``chance`` (in [0, 1)) of a span that doubles up to ``cap_s``.

    "Full jitter" of AWS's "Exponential Backoff And Jitter" (architecture blog, 2015): of the schemes compared there the
    one with the least work for the server.
    """
    span = base_s * (1 << min(max(attempt - 1, 0), 30))
    return min(span, cap_s) * chance
