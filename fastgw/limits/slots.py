"""How many requests an engine should have at once: enough to fill its batch, few enough that nobody waits inside it.

What waits in an engine's own queue waits first come, first served: no priority, no fairness, no deadline reaches it
there. So the gateway keeps requests back until the engine has a place for them. The size of a batch is nowhere to be
read (it depends on lengths, on memory, on the engine's version), so it is found and followed:

- :class:`GaugeLimit` where the engine tells how many requests run and wait. Nothing waits although the gateway is at its
  limit: raise it, doubling at first, then by a little. More waits than a batch needs to have at hand: back to what runs.
- :class:`GradientLimit` where it tells nothing, from the time to the first token alone: that grows as soon as requests
  wait. The form is that of Gradient2 in Netflix's concurrency-limits (limit x gradient + room), the baseline that of its
  minimum latency, measured anew at half the limit from time to time, as Envoy's adaptive concurrency filter does: an
  average as baseline drifts up with the very queue that it should reveal.

Invariant: ``1 <= limit <= most``. Must never: read a clock.
"""

from __future__ import annotations

import math
from typing import Final

MOST: Final = 65_536
START: Final = 8
"""The limit of an engine of which nothing is known."""

STALE_S: Final = 30.0
"""Observations further apart than this say nothing about each other."""
KV_HOLD: Final = 0.95
KV_CUT: Final = 0.98
GROWTH_STEP: Final = 0.01
GROWTH_MOST: Final = 0.12

TOLERANCE: Final = 1.5
"""Times to the first token up to so many times the baseline are no queue: prompts differ."""
NOISE_S: Final = 0.01
"""Nor is anything that takes no longer than this."""
GENTLEST: Final = 0.7
"""One window takes no more than this away: a burst of long prompts looks like a queue."""
PROBE_FIRST: Final = 8
PROBE_LAST: Final = 128
"""Windows between two measurements of the baseline; it is doubled while they agree."""
AGREES: Final = 1.2
DOUBT: Final = 6
"""After so many cuts in a row the baseline is in doubt: it may be the prompts that have changed, not the queue."""


class GaugeLimit:
    """The limit by the engine's own gauges. See the head of this file."""

    __slots__ = ("_at", "_fast", "_over", "_streak", "limit", "most")

    def __init__(self, most: int = 0, start: int = START) -> None:
        """``most`` 0 = no bound but :data:`MOST`; ``start`` is the limit before the first observation."""
        self.most = min(most, MOST) if most > 0 else MOST
        self.limit = max(1, min(start, self.most))
        self._at = -math.inf
        self._fast = True  # doubling: nothing has ever waited
        self._over = False  # the last observation saw too many waiting
        self._streak = 0  # observations in a row that raised the limit

    def __repr__(self) -> str:
        return f"<GaugeLimit {self.limit}{' fast' if self._fast else ''}>"

    def observe(self, running: int, waiting: int, kv: float, inflight: int, now: float) -> int:
        """One look at the engine; returns the new limit.

        ``running`` and ``waiting``: requests in its batch and in its queue, of all its clients. ``kv``: share of its cache
        in use, negative = unknown. ``inflight``: what this gateway has there at the same moment.
        """
        if now - self._at > STALE_S:
            self._over, self._streak = False, 0
        self._at = now
        here = running + waiting
        # Other clients' requests run there too: only our share of the batch is ours to fill.
        share = min(1.0, inflight / here) if here else 1.0
        if waiting > at_hand(running):
            self._crowded(running * share)
        elif kv > KV_CUT:
            # Next it would preempt what runs. As requests end the limit follows them down, until there is room again.
            self._fast, self._over, self._streak = False, False, 0
            self._set(min(self.limit, running * share * 0.875))
        else:
            self._over = False
            if kv <= KV_HOLD and not waiting and inflight >= self.limit * 0.9:
                self._raise()
            else:
                self._streak = 0
        return self.limit

    def _crowded(self, ours: float) -> None:
        """More wait than the batch needs at hand. The first such look may have caught a burst on its way into the batch;
        the second may not. One more than what runs is left, so that a place that comes free is taken at once."""
        self._fast, self._streak = False, 0
        if self._over:
            self._set(min(self.limit, round(ours) + 1))
        self._over = True

    def _raise(self) -> None:
        self._streak += 1
        if self._fast:
            self._set(self.limit * 2)
        else:
            self._set(self.limit + max(1.0, self.limit * min(GROWTH_STEP * self._streak, GROWTH_MOST)))

    def _set(self, value: float) -> None:
        self.limit = max(1, min(int(value), self.most))


def at_hand(running: int) -> int:
    """How many may wait in the engine without being too many: a batch takes them between two looks."""
    return 1 + running // 32


class GradientLimit:
    """The limit by the time to the first token. See the head of this file.

    ``limit`` is public and moves with :meth:`sample`; during the measurement of a baseline it is half of what it was.
    """

    __slots__ = (
        "_base_s",
        "_cuts",
        "_fast",
        "_gap",
        "_left",
        "_peak",
        "_probing",
        "_skipped",
        "_times",
        "_value",
        "limit",
        "most",
    )

    def __init__(self, most: int = 0, start: int = START) -> None:
        """``most`` 0 = no bound but :data:`MOST`."""
        self.most = min(most, MOST) if most > 0 else MOST
        self._value = float(max(1, min(start, self.most)))
        self.limit = int(self._value)
        self._base_s = 0.0  # 0 = not measured yet
        self._cuts = 0  # windows in a row that lowered the limit
        self._fast = True
        self._probing = False
        self._gap = PROBE_FIRST  # windows between two probes
        self._left = PROBE_FIRST  # until the next
        self._times: list[float] = []
        self._peak = 0
        self._skipped = -1  # samples not counted since the limit was cut; -1 = counting

    def __repr__(self) -> str:
        return f"<GradientLimit {self.limit} base={self._base_s:.4f}s{' probing' if self._probing else ''}>"

    def sample(self, ttft_s: float, inflight: int) -> None:
        """A request got its first token after ``ttft_s``; ``inflight`` requests were at the engine then, it included.

        A time that is not a positive finite number counts for nothing.
        """
        if not 0.0 < ttft_s < math.inf:
            return
        if self._skipped >= 0 and self._draining(inflight):
            return
        self._times.append(ttft_s)
        if inflight > self._peak:
            self._peak = inflight
        if len(self._times) >= self._window():
            self._judge()

    def _window(self) -> int:
        """Samples that make a window: enough for a median, and about half a batch."""
        return max(8, min(self.limit // 2, 256))

    def _draining(self, inflight: int) -> bool:
        """After a cut: these waited in the queue that the old limit allowed. When nobody keeps to the limit, go on."""
        self._skipped += 1
        if inflight > self.limit and self._skipped <= 4 * self.limit + 64:
            return True
        self._skipped = -1
        return False

    def _judge(self) -> None:
        """A window is full. Its median counts: one long prompt must not."""
        self._times.sort()
        typical_s = self._times[len(self._times) // 2]
        busy = self._peak * 2 >= self.limit
        self._times.clear()
        self._peak = 0
        if self._probing:
            self._measured(typical_s)
            return
        if not self._base_s or typical_s < self._base_s:
            self._base_s = typical_s
        if not busy:
            return  # nobody has tried the limit: nothing to learn about it
        self._left -= 1
        if self._left <= 0 or self._cuts >= DOUBT:
            self._probing = True
            self._cuts = 0
            self._publish(self._value * 0.5)
            return
        gradient = (self._base_s * TOLERANCE + NOISE_S) / typical_s
        if gradient >= 1.0:
            room = self._value if self._fast else max(0.5, 0.25 * math.sqrt(self._value))
            self._value = min(self._value + room, float(self.most))
            self._cuts = 0
        else:
            self._fast = False
            self._cuts += 1
            # Half way to where the gradient points: the next window sees whether that was enough.
            self._value = max(1.0, self._value * (1.0 + max(gradient, GENTLEST)) * 0.5)
        self._publish(self._value)

    def _measured(self, typical_s: float) -> None:
        """The baseline at half the limit; engines, models and prompts change, so up as well as down."""
        agrees = self._base_s / AGREES <= typical_s <= self._base_s * AGREES
        self._gap = min(self._gap * 2, PROBE_LAST) if agrees else PROBE_FIRST
        self._left = self._gap
        self._base_s = typical_s
        self._probing = False
        self._publish(self._value)

    def _publish(self, value: float) -> None:
        limit = max(1, min(int(value), self.most))
        if limit < self.limit:
            self._skipped = 0
        self.limit = limit
