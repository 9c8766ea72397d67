"""The fair queue: its order against a naive walk of the ring, its promises one by one, its memory and its cost."""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits.fairqueue import MAX_COST, FairQueue, Waiter
from tests.limits.reference_queue import Entry, NaiveQueue

# Times are eighths of a second: sums of them are exact.
TARGET_S, INTERVAL_S = 0.5, 2.0


def fifo(quantum: int = 100) -> FairQueue:
    return FairQueue(quantum=quantum, adaptive=False, target_s=TARGET_S, interval_s=INTERVAL_S)


def adaptive(quantum: int = 100) -> FairQueue:
    return FairQueue(quantum=quantum, adaptive=True, target_s=TARGET_S, interval_s=INTERVAL_S)


def drain(queue: FairQueue, now: float = 0.0) -> list[Any]:
    return [queue.pop(now) for _ in range(len(queue))]


class Pair:
    """The queue and the reference, told the same."""

    def __init__(self, quantum: int, adaptive: bool) -> None:
        rules: dict[str, Any] = {
            "quantum": quantum, "adaptive": adaptive, "target_s": TARGET_S, "interval_s": INTERVAL_S,
        }  # fmt: skip
        self.queue, self.naive = FairQueue(**rules), NaiveQueue(**rules)
        self.waiters: list[tuple[Waiter, Entry]] = []
        self.now = 1000.0

    def put(self, priority: int, flow: str, cost: int) -> None:
        item = len(self.waiters)
        waiter = self.queue.put(item, priority, flow, cost, self.now)
        self.waiters.append((waiter, self.naive.put(item, priority, flow, cost, self.now)))
        assert waiter.waiting

    def pop(self) -> None:
        wanted = self.naive.pop(self.now)
        first = self.queue.first(self.now)
        assert (None if first is None else first.item) == wanted
        assert self.queue.pop(self.now) == wanted
        assert first is None or not first.waiting

    def remove(self, index: int) -> None:
        if self.waiters:
            waiter, entry = self.waiters[index % len(self.waiters)]
            assert self.queue.remove(waiter) == self.naive.remove(entry)
            assert not waiter.waiting

    def check(self) -> None:
        queue, naive = self.queue, self.naive
        assert (len(queue), queue.flows) == (len(naive), naive.flows())
        assert [queue.waiting(one) for one in range(4)] == [naive.waiting(one) for one in range(4)]
        assert queue.overloaded(self.now) == naive.overloaded(self.now)


PUT = st.tuples(st.just("put"), st.integers(0, 2), st.sampled_from("abcde"), st.integers(1, 4000))
STEPS = st.lists(
    st.one_of(
        PUT, PUT, st.tuples(st.just("pop")), st.tuples(st.just("remove"), st.integers(0, 1000)),
        st.tuples(st.just("wait"), st.sampled_from([0.125, 0.5, 1.0, 2.0, 2.5])),
    ),
    min_size=15, max_size=80,
)  # fmt: skip


@given(quantum=st.sampled_from([10, 256, 4096]), adaptive=st.booleans(), steps=STEPS)
def test_order_is_that_of_the_walked_ring(quantum: int, adaptive: bool, steps: list[tuple[Any, ...]]) -> None:
    pair = Pair(quantum, adaptive)
    for step, *arguments in steps:
        if step == "wait":
            pair.now += arguments[0]
        else:
            getattr(pair, step)(*arguments)
        pair.check()
    while len(pair.queue):
        pair.pop()
    pair.check()


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("seed", "flows", "quantum"), [(1, 3, 256), (2, 12, 256), (3, 60, 1000), (4, 6, 20_000), (5, 2, 5000)])
def test_long_schedules_agree_with_the_walked_ring(seed: int, flows: int, quantum: int, adaptive: bool) -> None:
    """Thousands of steps, costs over five orders of magnitude, backlogs that grow and drain."""
    chance = random.Random(seed)
    pair = Pair(quantum, adaptive)
    for step in range(1500):
        pair.now += chance.choice([0.0, 0.0, 0.125, 0.25])
        growing = step % 500 < 300
        if chance.random() < (0.6 if growing else 0.25):
            pair.put(chance.choice([0, 1, 1, 2]), f"t{chance.randrange(flows)}", int(10 ** chance.uniform(0, 5)))
        elif chance.random() < 0.25:
            pair.remove(chance.randrange(1_000_000))
        else:
            pair.pop()
        if step % 20 == 0:
            pair.check()
            first = pair.queue.first(pair.now)
            assert (None if first is None else first.item) == pair.naive.first(pair.now)
    assert len(pair.waiters) > 300


@settings(max_examples=60, deadline=None)
@given(
    quantum=st.integers(1, 5000),
    ours=st.lists(st.integers(1, 20_000), min_size=20, max_size=60),
    theirs=st.lists(st.integers(1, 20_000), min_size=20, max_size=60),
)
def test_two_backlogged_flows_are_served_alike(quantum: int, ours: list[int], theirs: list[int]) -> None:
    queue = fifo(quantum)
    for name, costs in (("ours", ours), ("theirs", theirs)):
        for cost in costs:
            queue.put((name, cost), 1, name, cost, 0.0)
    served = Counter[str]()
    left = {"ours": len(ours), "theirs": len(theirs)}
    bound = quantum + max(ours + theirs)
    while all(left.values()):
        name, cost = queue.pop(0.0)
        served[name] += cost
        left[name] -= 1
        assert abs(served["ours"] - served["theirs"]) <= bound


def test_a_class_waits_until_the_ones_before_it_are_empty() -> None:
    queue = fifo()
    for priority in (2, 0, 1, 0, 2):
        queue.put(priority, priority, "a", 1_000_000 if priority == 0 else 1, 0.0)
    assert [queue.waiting(priority) for priority in (-1, 0, 1, 2, 3)] == [0, 2, 1, 2, 0]
    assert drain(queue) == [0, 0, 1, 2, 2]
    assert queue.pop(0.0) is None
    assert queue.first(0.0) is None


def test_one_tenant_is_first_come_first_served() -> None:
    queue = fifo()
    for number, cost in enumerate((500, 1, 70_000, 3, 100)):
        queue.put(number, 1, "a", cost, float(number))
    assert drain(queue, 10.0) == [0, 1, 2, 3, 4]


def test_a_tenant_with_one_request_does_not_stand_behind_anothers_thousand() -> None:
    queue = fifo()
    for number in range(1000):
        queue.put(("heavy", number), 1, "heavy", 100, 0.0)
    assert queue.pop(0.0) == ("heavy", 0)
    queue.put("light", 1, "light", 100, 0.0)
    assert queue.pop(0.0) == "light"
    assert queue.pop(0.0) == ("heavy", 1)


def test_newcomers_without_end_do_not_starve_who_was_there() -> None:
    queue = fifo()
    for _ in range(20):
        queue.put("old", 1, "old", 100, 0.0)
    served = Counter[Any]()
    for number in range(300):  # as many come as are served, each a tenant never seen before
        queue.put("new", 1, f"new{number}", 100, 0.0)
        served[queue.pop(0.0)] += 1
    assert served == {"old": 20, "new": 280}


def test_who_comes_back_at_once_gets_one_turn_a_round() -> None:
    queue = fifo()
    for _ in range(20):
        queue.put("steady", 1, "a", 100, 0.0)
    queue.put("again", 1, "b", 100, 0.0)
    order = []
    for _ in range(20):
        order.append(queue.pop(0.0))
        if order[-1] == "again":
            queue.put("again", 1, "b", 100, 0.0)
    assert order == ["steady", "again"] + ["again", "steady"] * 9  # at the tail of one round is at the next one's head


def test_a_flow_that_empties_loses_what_it_saved() -> None:
    queue = fifo(quantum=1000)
    queue.put("a1", 1, "a", 1, 0.0)
    assert queue.pop(0.0) == "a1"  # 999 left over, were it not empty
    queue.put("b1", 1, "b", 1000, 0.0)
    queue.put("a2", 1, "a", 1001, 0.0)
    queue.put("b2", 1, "b", 1000, 0.0)
    assert drain(queue) == ["b1", "b2", "a2"]


def test_what_a_flow_saved_for_one_that_left_serves_its_next() -> None:
    queue = fifo(quantum=100)
    big = queue.put("big", 1, "a", 1000, 0.0)
    for number in range(8):
        queue.put(f"a{number}", 1, "a", 100, 0.0)
        queue.put(f"b{number}", 1, "b", 100, 0.0)
    assert [queue.pop(0.0) for _ in range(5)] == ["b0", "b1", "b2", "b3", "b4"]
    assert queue.remove(big)
    # Five visits that sent nothing have paid for five; the sixth visit is next.
    assert [queue.pop(0.0) for _ in range(6)] == [f"a{number}" for number in range(6)]
    assert queue.pop(0.0) == "b5"


def test_removed_is_gone_at_once_and_only_once() -> None:
    queue = fifo()
    waiters = [queue.put(number, 1, "a", 100, 0.0) for number in range(5)]
    assert queue.remove(waiters[0])
    assert queue.remove(waiters[2])
    assert not queue.remove(waiters[2])
    assert (len(queue), queue.waiting(1), queue.flows) == (3, 3, 1)
    assert drain(queue) == [1, 3, 4]
    assert not queue.remove(waiters[4])
    assert (len(queue), queue.flows) == (0, 0)


def test_a_waiter_says_what_it_is() -> None:
    queue = fifo()
    waiter = queue.put("x", 2, "tenant", 12, 3.5)
    assert (waiter.item, waiter.priority, waiter.flow, waiter.cost, waiter.at) == ("x", 2, "tenant", 12, 3.5)
    assert queue.first(4.0) is waiter
    assert waiter.waiting
    assert queue.put("y", 2, "tenant", 1 << 80, 3.5).cost == MAX_COST


def test_costs_beyond_all_bounds_are_served_in_turn() -> None:
    queue = fifo(quantum=1)
    for number in range(50):
        queue.put(number, 1, f"t{number % 2}", MAX_COST, 0.0)
    assert drain(queue) == list(range(50))  # a walk would take 5 * 10**10 visits


def test_newest_first_once_the_delay_stood_for_an_interval() -> None:
    queue = adaptive()
    for number in range(6):
        queue.put(number, 1, "a", 1, 0.0)
    assert not queue.overloaded(TARGET_S + INTERVAL_S - 0.125)
    assert queue.overloaded(TARGET_S + INTERVAL_S)
    assert queue.pop(2.0) == 0
    assert queue.pop(2.5) == 1  # who was next when the last one went stays next
    queue.put(6, 1, "a", 1, 2.5)
    queue.put(7, 1, "a", 1, 2.5)
    assert [queue.pop(2.625) for _ in range(4)] == [7, 6, 5, 4]
    assert queue.overloaded(2.625)  # 2 and 3 still stand
    assert drain(queue, 2.625) == [3, 2]
    assert not queue.overloaded(2.625)


def test_oldest_first_again_when_the_delay_is_at_the_target() -> None:
    queue = adaptive()
    old = [queue.put(f"old{number}", 1, "a", 1, 0.0) for number in range(2)]
    for number in range(4):
        queue.put(number, 1, "a", 1, 3.0)
    assert queue.overloaded(3.0)
    assert queue.pop(3.0) == 3
    for waiter in old:  # their deadlines
        queue.remove(waiter)
    assert not queue.overloaded(3.0)
    assert queue.pop(3.125) == 2  # was settled before
    assert [queue.pop(3.25) for _ in range(2)] == [0, 1]


def test_a_delay_that_comes_down_now_and_then_is_no_overload() -> None:
    queue = adaptive()
    now = 0.0
    waiter = queue.put(0, 1, "a", 1, now)
    for number in range(1, 40):
        now += 0.75  # each waits longer than the target, then the next one is young
        after = queue.put(number, 1, "a", 1, now)
        assert not queue.overloaded(now)
        assert queue.pop(now) == waiter.item
        waiter = after


def test_one_tenants_backlog_does_not_turn_anothers_order() -> None:
    queue = adaptive(quantum=1)
    for number in range(10):
        queue.put(("a", number), 1, "a", 1, 0.0)
    for number in range(2):
        queue.put(("b", number), 1, "b", 1, 5.0)
    queue.put(("a", 10), 1, "a", 1, 5.0)
    order = [queue.pop(5.0) for _ in range(4)]
    assert order == [("a", 10), ("b", 0), ("a", 9), ("b", 1)]


def test_never_newest_first_unless_adaptive() -> None:
    queue = fifo()
    for number in range(5):
        queue.put(number, 1, "a", 1, float(number))
    assert not queue.overloaded(100.0)
    assert drain(queue, 100.0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("cost", "priority"), [(0, 1), (-5, 1), (1, -1), (1, 16)])
def test_refuses_what_has_no_meaning(cost: int, priority: int) -> None:
    queue = fifo()
    with pytest.raises(ValueError, match="not"):
        queue.put("x", priority, "a", cost, 0.0)
    assert len(queue) == 0


@pytest.mark.parametrize("wrong", [{"quantum": 0}, {"quantum": 1 << 40}, {"target_s": -1.0}, {"interval_s": -0.1}])
def test_refuses_rules_that_cannot_be(wrong: dict[str, Any]) -> None:
    rules: dict[str, Any] = {"quantum": 1, "adaptive": True, "target_s": 0.1, "interval_s": 1.0}
    with pytest.raises(ValueError, match=r"quantum|negative"):
        FairQueue(**rules | wrong)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_million_puts_and_removals_leave_nothing(adaptive: bool) -> None:
    """Clients that come and go while others stand: memory is that of those who stand."""
    queue = FairQueue(quantum=256, adaptive=adaptive, target_s=1.0, interval_s=2.0)
    names = [f"tenant{number}" for number in range(1000)]
    standing = [queue.put(None, 1, names[number], 10_000, 0.0) for number in range(100)]
    most = 0
    before = sys.getallocatedblocks()
    for number in range(0, 500_000, 5):
        waiters = [queue.put(None, 1, names[(number + step) * 7 % 1000], step * 999 + 1, number * 1e-4) for step in range(5)]
        for waiter in waiters:
            queue.remove(waiter)
        if number % 10_000 == 0:
            most = max(most, sys.getallocatedblocks() - before)
    del waiters
    assert most < 3000  # each stale entry is a tuple and three numbers; 100 flows stand
    assert len(queue) == len(standing)
    assert len(drain(queue, 100.0)) == len(standing)


def test_a_queue_let_go_with_many_waiting_is_collected() -> None:
    queue = fifo()
    before = sys.getallocatedblocks()
    for number in range(100_000):
        queue.put(number, 1, f"t{number % 3}", 1, 0.0)
    assert sys.getallocatedblocks() > before + 100_000
    queue = fifo()
    gc.collect()
    assert sys.getallocatedblocks() < before + 5000


def _cost_s(waiting: int, flows: int) -> float:
    """Seconds of this thread for a put, a pop, a put and a removal with so many waiting: the median of some runs."""
    chance = random.Random(7)
    queue = FairQueue(quantum=256, adaptive=True, target_s=0.1, interval_s=1.0)
    waiters = [queue.put(None, 1, f"t{number % flows}", chance.randint(1, 5000), 0.0) for number in range(waiting)]
    puts = [(f"t{chance.randrange(flows)}", chance.randint(1, 5000)) for _ in range(1000)]
    runs = []
    for _ in range(9):
        begun = time.thread_time()
        for flow, cost in puts:
            queue.put(None, 1, flow, cost, 0.0)
            queue.pop(0.0)
            queue.remove(queue.put(None, 1, flow, cost, 0.0))
        runs.append((time.thread_time() - begun) / len(puts))
    assert len(queue) == waiting == len(waiters)
    return statistics.median(runs)


@pytest.mark.quiet
def test_a_hundred_thousand_waiting_cost_little_more_than_a_thousand() -> None:
    assert _cost_s(100_000, 1000) < 4 * _cost_s(1000, 1000)
