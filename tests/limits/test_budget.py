"""Retries are a share of what passes; waits between them are spread; requests that kill engines are kept from the rest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits.budget import SLOTS, RetryBudget, backoff_s


def granted(budget: RetryBudget, now: float, asked: int = 10_000) -> int:
    return sum(budget.withdraw(now) for _ in range(asked))


def test_a_tenth_of_the_traffic_may_be_tried_again() -> None:
    budget = RetryBudget(0.1, floor_per_s=0.0)
    for i in range(1000):
        budget.request(50.0 + i * 0.005)
    assert granted(budget, 55.0) == 100
    assert (budget.retries_total, budget.refused_total) == (100, 9_900)


def test_the_tenth_of_ten_is_one() -> None:
    for share in (0.1, 0.2, 0.3, 0.7):
        budget = RetryBudget(share, floor_per_s=0.0)
        for _ in range(10):
            budget.request(1.0)
        assert granted(budget, 1.0) == round(share * 10)


def test_without_traffic_the_floor_allows_a_few_and_they_come_back_with_time() -> None:
    budget = RetryBudget(0.1, floor_per_s=1.0, window_s=10.0)
    assert granted(budget, 100.0) == 10
    assert granted(budget, 109.9) == 0
    assert granted(budget, 111.1) == 10


def test_nothing_of_nothing_is_none() -> None:
    budget = RetryBudget(0.0, floor_per_s=0.0)
    for _ in range(1000):
        budget.request(1.0)
    assert granted(budget, 1.0) == 0


def test_traffic_of_long_ago_pays_for_nothing() -> None:
    budget = RetryBudget(0.5, floor_per_s=0.0, window_s=10.0)
    for _ in range(1000):
        budget.request(1000.0)
    assert granted(budget, 1012.0) == 0
    budget.request(1e9)
    budget.request(1e9)
    assert granted(budget, 1e9) == 1


def test_a_clock_that_steps_back_neither_fails_nor_forgets() -> None:
    budget = RetryBudget(0.1, floor_per_s=0.0)
    for now in (100.0, 99.0, 98.0, 100.5, 100.2) * 2:
        budget.request(now)
    assert granted(budget, 99.5) == 1


@pytest.mark.parametrize(("share", "floor", "window"), [(-0.1, 1, 10), (11, 1, 10), (0.1, -1, 10), (0.1, 1, 0), (0.1, 1, 1e9)])
def test_budgets_that_make_no_sense_are_refused(share: float, floor: float, window: float) -> None:
    with pytest.raises(ValueError, match="retry budget"):
        RetryBudget(share, floor, window)


@settings(max_examples=150, deadline=None)
@given(
    share=st.sampled_from((0.0, 0.1, 0.25, 1.0)),
    floor=st.sampled_from((0.0, 0.3, 1.0)),
    steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(0, 9)), max_size=60),
)
def test_no_stretch_of_time_sees_more_retries_than_its_share(
    share: float, floor: float, steps: list[tuple[int, int, int]]
) -> None:
    """Whatever the order of requests and failures; and what the window surely has left is never refused."""
    window = 10.0
    slot = window / SLOTS
    budget = RetryBudget(share, floor, window)
    now = 500.0
    requests: list[float] = []
    retries: list[float] = []
    for tenths, tries, seen in steps:
        now += tenths / 10
        for _ in range(seen):
            budget.request(now)
            requests.append(now)
        for _ in range(tries):
            allowed = budget.withdraw(now)
            near = share * sum(at > now - window + 1e-6 for at in requests) + floor * window
            spent = sum(at >= now - window - slot - 1e-6 for at in retries)
            assert allowed or spent + 1 > near - 1e-6
            if allowed:
                retries.append(now)
                far = share * sum(at >= now - window - slot - 1e-6 for at in requests) + floor * window
                assert sum(at > now - window + 1e-6 for at in retries) <= far + 1e-6


def test_waits_double_up_to_the_cap_and_chance_takes_all_of_them() -> None:
    spans = [backoff_s(attempt, 0.999_999_999) for attempt in range(1, 9)]
    assert spans == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert backoff_s(3, 0.0) == 0.0
    assert backoff_s(3, 0.5) == pytest.approx(0.05)
    assert backoff_s(10**9, 0.5, 0.1, 20.0) == 10.0
    assert backoff_s(0, 0.5) == backoff_s(1, 0.5)
