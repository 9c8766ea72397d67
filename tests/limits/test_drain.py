"""The drain rate: what it says of steady streams, of starts, changes and silence."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits.drain import DrainRate

START = 5000.3


def leave(rate: DrainRate, start: float, seconds: float, per_s: float) -> float:
    """So many leave evenly; returns the time of the last."""
    now = start
    for number in range(round(seconds * per_s)):
        now = start + number / per_s
        rate.left(now)
    return now


def test_nothing_seen() -> None:
    rate = DrainRate()
    assert rate.rate(START) == 0.0
    assert rate.retry_after_s(50, START) == 1.0
    assert rate.retry_after_s(50, START, least=3.0) == 3.0


def test_fifty_behind_ten_a_second_is_five_seconds() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 10.0)
    assert rate.rate(now) == pytest.approx(10.0, rel=0.1)
    assert rate.retry_after_s(50, now) == pytest.approx(5.0, rel=0.1)


@settings(max_examples=100, deadline=None)
@given(
    per_s=st.floats(2.0, 200.0), seconds=st.floats(5.0, 30.0), start=st.floats(0.0, 1e6), ahead=st.floats(0.0, 0.1),
    waiting=st.integers(0, 5000),
)  # fmt: skip
def test_steady_rates(per_s: float, seconds: float, start: float, ahead: float, waiting: int) -> None:
    rate = DrainRate()
    now = leave(rate, start, seconds, per_s) + ahead / per_s
    assert rate.rate(now) == pytest.approx(per_s, rel=0.1 + 1.0 / (per_s * 5))
    said = rate.retry_after_s(waiting, now)
    assert 1.0 <= said <= 60.0
    assert said == pytest.approx(min(max(waiting / per_s, 1.0), 60.0), rel=0.1 + 1.0 / (per_s * 5))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_agrees_with_a_count_over_the_window(seed: int) -> None:
    """Uneven traffic: within what one bucket at the window's edge can hold of the exact count."""
    chance = random.Random(seed)
    rate, now, times = DrainRate(), 100.0, []
    for _ in range(300):
        now += chance.expovariate(8.0)
        rate.left(now)
        times.append(now)
    exact = sum(1 for time in times if time > now - 10.0) / 10.0
    nine = sum(1 for time in times if time > now - 9.0) / 10.0
    assert nine <= rate.rate(now) <= exact * 10.0 / 9.0


def test_a_start_is_measured_over_the_time_that_there_was() -> None:
    rate = DrainRate()
    now = leave(rate, START, 3.0, 20.0)
    assert rate.rate(now) == pytest.approx(20.0, rel=0.1)


def test_the_first_few_are_not_taken_for_a_rate() -> None:
    rate = DrainRate()
    for _ in range(3):
        rate.left(START)
    assert rate.rate(START) == 3.0
    assert rate.retry_after_s(30, START) == 10.0


def test_follows_a_change_within_the_window() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 50.0)
    now = leave(rate, now + 0.5, 10.5, 2.0)
    assert rate.rate(now) == pytest.approx(2.0, rel=0.15)


def test_silence_is_forgotten_after_the_window() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 10.0)
    assert rate.rate(now + 5.0) == pytest.approx(5.0, rel=0.2)
    assert rate.rate(now + 11.0) == 0.0
    assert rate.retry_after_s(10, now + 1000.0) == 1.0
    rate.left(now + 2000.0)
    assert rate.rate(now + 2000.5) == 1.0


def test_bounds_of_the_hint() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 10.0)
    assert rate.retry_after_s(0, now) == 1.0
    assert rate.retry_after_s(1_000_000, now) == 60.0
    assert rate.retry_after_s(1_000_000, now, most=30.0) == 30.0
    assert rate.retry_after_s(1, now, least=2.0) == 2.0


def test_another_window() -> None:
    rate = DrainRate(2.0)
    now = leave(rate, START, 5.0, 100.0)
    assert rate.rate(now) == pytest.approx(100.0, rel=0.1)
    assert rate.rate(now + 2.1) == 0.0


def test_a_clock_that_steps_back_stands_still() -> None:
    rate = DrainRate()
    now = leave(rate, START, 20.0, 10.0)
    before = rate.rate(now)
    rate.left(now - 1000.0)
    assert rate.rate(now - 1000.0) == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("window_s", [0.0, -1.0, float("nan")])
def test_refuses_a_window_that_is_none(window_s: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        DrainRate(window_s)
