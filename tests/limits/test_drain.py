"""The drain rate: what it says of steady streams, of starts, changes and silence."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits.drain import SLACK, UNKNOWN_RATE, UNKNOWN_S, DrainRate
from fastgw.limits.promises import APART

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
    assert rate.retry_after_s(50, START, 0.0) == UNKNOWN_S
    told = [rate.retry_after_s(50, START, 0.0) for _ in range(100)]
    assert told[-1] == pytest.approx(UNKNOWN_S + 99 * APART / UNKNOWN_RATE)
    # What was told in ignorance puts nobody off who is told what was measured.
    now = leave(rate, START, 1.0, 50.0)
    assert rate.retry_after_s(50, now, 0.0) == pytest.approx(SLACK, rel=0.1)


def test_fifty_behind_ten_a_second_is_five_seconds() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 10.0)
    assert rate.rate(now) == pytest.approx(10.0, rel=0.1)
    assert rate.retry_after_s(50, now, 0.5) == pytest.approx(5.0 * SLACK, rel=0.1)


def test_nobody_waits_longer_than_those_who_wait_may() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 10.0)
    assert rate.retry_after_s(500, now, 0.5, 20.0) == 20.0
    assert 20.0 <= rate.retry_after_s(500, now, 0.5, 20.0) < 20.3


def test_each_is_told_a_time_of_his_own() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 10.0)
    told = sorted(rate.retry_after_s(1, now, 0.5) for _ in range(200))
    gaps = [after - before for before, after in itertools.pairwise(told[2:])]
    assert min(gaps) == pytest.approx(max(gaps))
    assert told[-1] == pytest.approx(200 * SLACK * APART / 10, rel=0.1)


@settings(max_examples=100, deadline=None)
@given(
    per_s=st.floats(2.0, 200.0), seconds=st.floats(5.0, 30.0), start=st.floats(0.0, 1e6), ahead=st.floats(0.0, 0.1),
    waiting=st.integers(0, 5000),
)  # fmt: skip
def test_steady_rates(per_s: float, seconds: float, start: float, ahead: float, waiting: int) -> None:
    rate = DrainRate()
    now = leave(rate, start, seconds, per_s) + ahead / per_s
    assert rate.rate(now) == pytest.approx(per_s, rel=0.1 + 1.0 / (per_s * 5))
    said = rate.retry_after_s(waiting, now, 0.5)
    assert said == pytest.approx(min(waiting * SLACK / per_s, 60.0), rel=0.1 + 1.0 / (per_s * 5))


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
    assert rate.retry_after_s(30, START, 0.0) == 10.0 * SLACK


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
    assert rate.retry_after_s(10, now + 1000.0, 0.0) == UNKNOWN_S
    rate.left(now + 2000.0)
    assert rate.rate(now + 2000.5) == 1.0


def test_the_hint_is_bounded() -> None:
    rate = DrainRate()
    now = leave(rate, START, 30.0, 10.0)
    assert rate.retry_after_s(0, now, 0.0) == 0.0
    assert rate.retry_after_s(1_000_000, now, 0.0) == 60.0
    assert all(45.0 <= rate.retry_after_s(1_000_000, now, chance / 10) <= 60.0 for chance in range(10))


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
