"""Limits that find the size of an engine's batch: against a small engine with a batch, a queue and a hand clock."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits.slots import MOST, GaugeLimit, GradientLimit


class Loop:
    """An engine with ``slots`` places and a FIFO queue, a gateway in front of it with more to do than it may send.

    Events of a heap of times; ``limit()`` is asked before each request that the gateway would send.
    """

    def __init__(self, slots: int, service_s: float, first_s: float = 0.05, seed: int = 1, demand: int = 10**9) -> None:
        self.slots, self.service_s, self.first_s, self.demand = slots, service_s, first_s, demand
        self.chance = random.Random(seed)
        self.now = 0.0
        self.running = 0
        self.queue: deque[tuple[float, bool]] = deque()  # (sent at, ours)
        self.events: list[tuple[float, int, str, float, bool]] = []
        self.count = 0
        self.crowding = 0.0  # how much longer the first token takes in a full batch, nobody waiting
        self.inflight = 0
        self.served = 0
        self.gauge: GaugeLimit | None = None
        self.gradient: GradientLimit | None = None
        self.waited: list[int] = []
        self.full: list[float] = []

    def _at(self, when: float, what: str, sent: float, ours: bool) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, sent, ours))

    def _fill(self) -> None:
        limit = self.gauge.limit if self.gauge is not None else self.gradient.limit if self.gradient is not None else 0
        while self.inflight < min(limit, self.demand):
            self.inflight += 1
            self.queue.append((self.now, True))
        while self.queue and self.running < self.slots:
            sent, ours = self.queue.popleft()
            self.running += 1
            # Chat answers: some short, some long.
            crowded = 1.0 + self.crowding * self.running / self.slots
            first = self.now + self.first_s * crowded * self.chance.uniform(0.8, 1.25)
            self._at(first, "first", sent, ours)
            self._at(first + self.service_s * self.chance.uniform(0.3, 1.7), "end", sent, ours)

    def stranger(self) -> None:
        """A request of somebody else, who keeps one more there for ever."""
        self.queue.append((self.now, False))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        look = math.floor(self.now) + 1.0
        self.waited, self.full = [], []
        self._fill()
        while True:
            when = self.events[0][0] if self.events else end
            if look <= min(when, end):
                self.now = look
                look += 1.0
                self.waited.append(len(self.queue))
                self.full.append(self.running / self.slots)
                if self.gauge is not None:
                    self.gauge.observe(self.running, len(self.queue), -1.0, self.inflight, self.now)
                    self._fill()
                continue
            if when >= end:
                self.now = end
                return
            self.now, _, what, sent, ours = heapq.heappop(self.events)
            if what == "first":
                if ours and self.gradient is not None:
                    self.gradient.sample(self.now - sent, self.inflight)
            else:
                self.running -= 1
                if ours:
                    self.inflight -= 1
                    self.served += 1
                else:
                    self.queue.append((self.now, False))
            self._fill()

    def mean_waiting(self) -> float:
        return sum(self.waited) / len(self.waited)

    def mean_full(self) -> float:
        return sum(self.full) / len(self.full)


# --- by gauges


@pytest.mark.parametrize("slots", [2, 4, 8, 32, 100, 256])
@pytest.mark.parametrize("service_s", [0.5, 4.0])
def test_gauges_lead_to_a_full_batch_with_next_to_nothing_behind_it(slots: int, service_s: float) -> None:
    loop = Loop(slots, service_s)
    loop.gauge = GaugeLimit()
    loop.run(60.0)
    loop.run(60.0)
    assert slots * 0.9 <= loop.gauge.limit <= max(slots * 1.25, slots + 2)
    assert loop.mean_waiting() <= 1 + slots / 16
    assert loop.mean_full() >= 0.9


def test_a_batch_of_one() -> None:
    loop = Loop(1, 2.0)
    loop.gauge = GaugeLimit()
    loop.run(60.0)
    assert loop.gauge.limit in (1, 2)


@pytest.mark.parametrize(("before", "after"), [(64, 16), (16, 64), (128, 8), (8, 128)])
def test_gauges_follow_an_engine_that_changes(before: int, after: int) -> None:
    loop = Loop(before, 2.0)
    loop.gauge = GaugeLimit()
    loop.run(60.0)
    loop.slots = after
    loop.run(60.0)
    loop.run(30.0)
    assert after * 0.9 <= loop.gauge.limit <= max(after * 1.25, after + 2)
    assert loop.mean_waiting() <= 1 + after / 16
    assert loop.mean_full() >= 0.9


def test_the_first_rounds_double() -> None:
    limit = GaugeLimit(start=8)
    seen = [limit.observe(limit.limit, 0, 0.1, limit.limit, float(i)) for i in range(5)]
    assert seen == [16, 32, 64, 128, 256]


def test_nothing_is_learned_while_the_gateway_has_little_to_send() -> None:
    loop = Loop(64, 1.0, demand=5)
    loop.gauge = GaugeLimit(start=8)
    loop.run(120.0)
    assert loop.gauge.limit == 8


def test_one_look_at_a_burst_on_its_way_into_the_batch_cuts_nothing() -> None:
    limit = GaugeLimit(start=64)
    assert limit.observe(0, 64, 0.1, 64, 0.0) == 64
    assert limit.observe(64, 0, 0.1, 64, 1.0) == 65


def test_a_look_after_a_long_time_does_not_count_with_the_one_before() -> None:
    limit = GaugeLimit(start=64)
    assert limit.observe(10, 54, 0.1, 64, 0.0) == 64
    assert limit.observe(10, 54, 0.1, 64, 100.0) == 64
    assert limit.observe(10, 54, 0.1, 64, 101.0) == 11


def test_a_full_cache_holds_the_limit_and_a_fuller_one_lowers_it() -> None:
    limit = GaugeLimit(start=32)
    assert [limit.observe(32, 0, 0.96, 32, float(i)) for i in range(5)] == [32] * 5
    assert limit.observe(32, 0, 0.99, 32, 5.0) == 28
    # What runs ends one by one, and the limit does not run ahead of it.
    assert [limit.observe(32, 0, 0.99, 32, 6.0 + i) for i in range(20)] == [28] * 20
    assert limit.observe(28, 0, 0.5, 28, 30.0) == 29


def test_two_gateways_share_one_engine() -> None:
    """The other keeps as many there as its own limit says; ours takes its share, and the queue stays short."""
    loop = Loop(32, 1.0)
    loop.gauge = GaugeLimit()
    for _ in range(16):
        loop.stranger()
    loop.run(120.0)
    loop.run(60.0)
    assert 10 <= loop.gauge.limit <= 20
    assert loop.mean_waiting() <= 3.0


@given(
    most=st.integers(0, 50),
    start=st.integers(-5, 10**6),
    looks=st.lists(
        st.tuples(
            st.integers(0, 2000), st.integers(0, 2000), st.floats(-1.0, 1.0), st.integers(0, 3000), st.integers(0, 60)
        ),
        max_size=40,
    ),
)
def test_the_limit_stays_within_its_bounds(
    most: int, start: int, looks: list[tuple[int, int, float, int, int]]
) -> None:
    limit = GaugeLimit(most, start)
    now = 0.0
    for running, waiting, kv, inflight, later in looks:
        now += later
        before = limit.limit
        after = limit.observe(running, waiting, kv, inflight, now)
        assert after == limit.limit
        assert 1 <= after <= (most or MOST)
        if after > before:
            assert waiting == 0
            assert inflight >= before * 0.9
            assert after <= max(before * 2, 2)


# --- by the time to the first token


@pytest.mark.parametrize("slots", [4, 8, 16, 32, 64])
@pytest.mark.parametrize(("service_s", "first_s"), [(1.0, 0.05), (4.0, 0.2)])
def test_times_to_the_first_token_lead_there_too(slots: int, service_s: float, first_s: float) -> None:
    loop = Loop(slots, service_s, first_s, seed=slots)
    loop.gradient = GradientLimit()
    loop.run(300.0 * service_s)
    limits = []
    for _ in range(20):
        loop.run(10.0 * service_s)
        limits.append(loop.gradient.limit)
    limits.sort()
    # Half is a measurement of the baseline under way.
    assert slots * 0.75 <= limits[len(limits) // 2] <= max(slots * 1.25, slots + 2)
    assert loop.mean_full() >= 0.7
    assert loop.mean_waiting() <= 1 + slots / 8


@pytest.mark.parametrize(("before", "after"), [(32, 8), (8, 32)])
def test_times_to_the_first_token_follow_an_engine_that_changes(before: int, after: int) -> None:
    loop = Loop(before, 1.0)
    loop.gradient = GradientLimit()
    loop.run(300.0)
    loop.slots = after
    loop.run(600.0)
    limits = []
    for _ in range(20):
        loop.run(10.0)
        limits.append(loop.gradient.limit)
    limits.sort()
    assert after * 0.7 <= limits[len(limits) // 2] <= after * 1.3


def test_a_batch_that_is_slower_when_full_is_filled_all_the_same() -> None:
    """Measured against a nearly idle engine it would look like a queue; measured at half the limit it does not."""
    loop = Loop(128, 10.0, first_s=0.3)
    loop.crowding = 2.0
    loop.gradient = GradientLimit()
    loop.run(3000.0)
    limits = []
    for _ in range(40):
        loop.run(25.0)
        limits.append(loop.gradient.limit)
    limits.sort()
    assert 115 <= limits[len(limits) // 2] <= 145


def test_prompts_that_become_longer_are_not_taken_for_a_queue_for_ever() -> None:
    loop = Loop(32, 2.0, first_s=0.05)
    loop.gradient = GradientLimit()
    loop.run(300.0)
    loop.first_s = 0.5
    loop.run(900.0)
    limits = []
    for _ in range(20):
        loop.run(10.0)
        limits.append(loop.gradient.limit)
    limits.sort()
    assert 24 <= limits[len(limits) // 2] <= 42


def test_a_gateway_with_little_to_send_raises_nothing() -> None:
    loop = Loop(64, 1.0, demand=3)
    loop.gradient = GradientLimit(start=8)
    loop.run(200.0)
    assert loop.gradient.limit == 8


def test_times_that_are_none_count_for_nothing() -> None:
    limit = GradientLimit(start=8)
    for ttft_s in (0.0, -1.0, math.nan, math.inf, -math.inf) * 100:
        limit.sample(ttft_s, 8)
    assert limit.limit == 8


@settings(max_examples=100, deadline=None)
@given(
    most=st.integers(0, 40),
    start=st.integers(-5, 10**6),
    samples=st.lists(st.tuples(st.floats(allow_nan=True), st.integers(0, 200), st.integers(1, 40)), max_size=30),
)
def test_the_gradient_stays_within_its_bounds(
    most: int, start: int, samples: list[tuple[float, int, int]]
) -> None:
    limit = GradientLimit(most, start)
    for ttft_s, inflight, times in samples:
        for _ in range(times):
            limit.sample(ttft_s, inflight)
            assert 1 <= limit.limit <= (most or MOST)


def test_a_caller_that_keeps_to_no_limit_does_not_stop_it() -> None:
    limit = GradientLimit(start=8)
    for _ in range(100):
        limit.sample(0.05, 1000)
    seen = []
    for _ in range(2000):
        limit.sample(5.0, 1000)
        seen.append(limit.limit)
    peak = max(seen)
    assert min(seen[seen.index(peak) :]) < 0.75 * peak
