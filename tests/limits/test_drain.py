"""The drain rate: what it says of full places and of half empty ones, of starts, changes and silence."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.limits.drain import ROUGH, SLACK, UNKNOWN_S, UNKNOWN_SPREAD, DrainRate
from fastgw.limits.promises import APART

START = 5000.3


def leave(rate: DrainRate, start: float, seconds: float, per_s: float, places: int = 4) -> float:
    """All places are held, so many leave evenly, and others come at once; returns the time of the last."""
    now = start
    if not rate.rate(start):
        for _ in range(places):
            rate.began(start)
    for number in range(1, round(seconds * per_s) + 1):
        now = start + number / per_s
        rate.left(now)
        rate.began(now)
    return now


def test_nothing_seen() -> None:
    rate = DrainRate()
    assert rate.rate(START) == 0.0
    assert rate.retry_after_s(50, START, 0.0) == UNKNOWN_S
    told = [rate.retry_after_s(50, START, chance / 10) for chance in range(11)]
    assert told == pytest.approx([UNKNOWN_S * (1.0 + UNKNOWN_SPREAD * chance / 10) for chance in range(11)])
    # What was told in ignorance puts nobody off who is told what was measured.
    now = leave(rate, START, 1.0, 50.0)
    assert rate.retry_after_s(50, now, 0.0) == pytest.approx(SLACK, rel=0.1)
    # The first of the next is told the same again.
    assert rate.retry_after_s(50, now + 1000.0, 0.9) == UNKNOWN_S


def test_those_that_are_there_for_long_are_expected_to_stay() -> None:
    rate = DrainRate()
    for _ in range(4):
        rate.began(START)
    assert rate.retry_after_s(50, START + 3.0, 0.5) == UNKNOWN_S
    assert rate.retry_after_s(50, START + 3.0, 0.0) == pytest.approx(3.0)
    assert rate.retry_after_s(50, START + 3.0, 0.5) == pytest.approx(3.0 * (1.0 + UNKNOWN_SPREAD / 2))
    assert rate.retry_after_s(50, START + 3000.0, 0.0) == UNKNOWN_S
    assert rate.retry_after_s(50, START + 3000.0, 1.0) <= 10.0 * (1.0 + UNKNOWN_SPREAD)


def test_it_says_what_the_places_could_do_and_not_how_many_came() -> None:
    """Two a second, each for 0.2 s; then a crowd holds all twenty places."""
    rate = DrainRate()
    now = START
    for _ in range(40):
        now += 0.5
        rate.began(now)
        rate.left(now + 0.2)
    now += 0.5
    for _ in range(20):
        rate.began(now)
    assert rate.rate(now) == pytest.approx(100.0, rel=0.2)
    # And what they have held their places for counts, though they have not left.
    assert rate.rate(now + 5.0) < 10.0


def test_the_first_to_leave_are_not_taken_for_all() -> None:
    rate = DrainRate()
    for _ in range(20):
        rate.began(START)
    for number in range(9):
        rate.left(START + 0.1)
        rate.began(START + 0.1)
        assert rate.rate(START + 0.1) == 0.0, number
    rate.left(START + 0.2)
    assert rate.rate(START + 0.2) == pytest.approx((10 + ROUGH * 10**0.5) / 0.2)


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
    waiting=st.integers(0, 5000), places=st.integers(1, 18),
)  # fmt: skip
def test_steady_rates(per_s: float, seconds: float, start: float, ahead: float, waiting: int, places: int) -> None:
    rate = DrainRate()
    now = leave(rate, start, seconds, per_s, places) + ahead / per_s
    within = 0.1 + 1.0 / (per_s * 5) + ROUGH / (per_s * 5) ** 0.5
    assert rate.rate(now) == pytest.approx(per_s, rel=within)
    said = rate.retry_after_s(waiting, now, 0.5)
    assert said == pytest.approx(min(waiting * SLACK / per_s, 60.0), rel=within)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 30), slow=st.floats(0.01, 10.0))
def test_agrees_with_a_count_over_the_window(seed: int, slow: float) -> None:
    """Uneven traffic: the exact figures over nine or over ten buckets, whichever the window's edge makes it."""
    chance = random.Random(seed)
    begun = [100.0 + chance.expovariate(8.0 / slow) for _ in range(300)]
    ended = [time + chance.expovariate(1.0 / slow) for time in begun]
    now = chance.uniform(max(begun) / 2 + 50.0, max(begun) + 3.0)
    rate = DrainRate()
    way = most = 0
    edge = int(now) - 9.0
    for time, step in sorted([(time, 1) for time in begun] + [(time, -1) for time in ended]):
        if time > now:
            break
        if time >= edge:
            most = max(most, way)
        if step > 0:
            rate.began(time)
        else:
            rate.left(time)
        way += step
    most = max(most, way)
    left = sum(1 for time in ended if edge <= time <= now)
    held_s = sum(max(0.0, min(now, end) - max(edge, begin)) for begin, end in zip(begun, ended, strict=True) if begin < now)
    known = left > 0 and 2 * left >= most
    assert rate.rate(now) == (pytest.approx((left + ROUGH * left**0.5) * most / max(held_s, 0.001), rel=1e-6) if known else 0.0)


def test_a_start_is_measured_over_the_time_that_there_was() -> None:
    rate = DrainRate()
    now = leave(rate, START, 3.0, 20.0)
    assert rate.rate(now) == pytest.approx(20.0, rel=0.1)


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
    # (Four have held a place all the time.)
    rate.left(now + 2000.0)
    assert rate.rate(now + 2000.0) == 0.0
    rate.left(now + 2000.0)
    assert rate.rate(now + 2000.0) == pytest.approx((2 + ROUGH * 2**0.5) / 10.0, rel=0.1)


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
    rate.began(now - 1000.0)
    assert rate.rate(now - 1000.0) == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("window_s", [0.0, -1.0, float("nan")])
def test_refuses_a_window_that_is_none(window_s: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        DrainRate(window_s)
