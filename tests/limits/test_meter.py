"""Meters against exact fractions under a hand clock. The table of them is in ``test_meter_table.py``."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.limits.lows import MOST_LOWS
from fastgw.limits.meter import MAX_CAPACITY, MAX_DEBT_PERIODS, MAX_RATE, Meter
from tests.limits.reference import ReferenceBucket, ReferenceMeter

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND

periods = st.sampled_from([1, 7, 1000, SECOND, MINUTE])
rates = st.one_of(st.integers(1, 100), st.integers(1, 10_000_000), st.just(MAX_RATE))


@st.composite
def limits(draw: st.DrawFn) -> tuple[int, int, int]:
    period = draw(periods)
    most = MAX_CAPACITY // period
    burst = draw(st.one_of(st.integers(1, 50), st.integers(1, min(most, 10_000_000)), st.just(min(most, MAX_RATE))))
    return draw(rates), period, burst


costs = st.one_of(st.integers(0, 5), st.integers(0, 10_000_000), st.integers(0, 1 << 61))
# A share of the burst, so that its edge is met often, and plain figures.
shares = st.tuples(st.sampled_from([0, 1, 2, 3]), st.integers(-1, 1))
steps_us = st.one_of(
    st.integers(0, 3), st.integers(0, 2 * MINUTE), st.sampled_from([DAY, 400 * DAY]), st.integers(-5 * SECOND, 0)
)
kinds = st.sampled_from(["take"] * 4 + ["give", "charge", "wait", "look", "change", "change"])
calls = st.lists(st.tuples(kinds, steps_us, st.one_of(shares, costs), limits()), max_size=40)


def cost_of(drawn: int | tuple[int, int], burst: int) -> int:
    if isinstance(drawn, int):
        return drawn
    part, off = drawn
    return max(0, burst * part // 2 + off)


@given(limits(), st.integers(0, 10**15), calls)
@example((10, SECOND, 10), 0, [("take", 0, 10, (1, 1, 1)), ("take", 99_999, 1, (1, 1, 1)), ("take", 1, 1, (1, 1, 1))])
@example((MAX_RATE, MINUTE, MAX_RATE), 0, [("charge", 0, 1 << 61, (1, 1, 1)), ("take", 400 * DAY, 1, (1, 1, 1))])
def test_every_answer_is_that_of_virtual_scheduling(
    limit: tuple[int, int, int], now: int, schedule: list[tuple[str, int, int | tuple[int, int], tuple[int, int, int]]]
) -> None:
    meter, exact = Meter(*limit), ReferenceMeter(*limit)
    for kind, step, drawn, other in schedule:
        now = max(0, now + step)
        cost = cost_of(drawn, exact.burst)
        if kind == "take":
            assert meter.take(now, cost) is exact.take(now, cost)
        elif kind == "give":
            meter.give(now, cost)
            exact.give(now, cost)
        elif kind == "charge":
            meter.charge(now, cost)
            exact.charge(now, cost)
        elif kind == "wait":
            assert meter.wait_us(now, cost) == exact.wait_us(now, cost)
        elif kind == "change":
            burst = min(other[2], MAX_CAPACITY // exact.period_us)
            meter.change(other[0], burst, now)
            exact.change(other[0], burst, now)
        assert meter.left(now) == exact.left(now)
        assert meter.reset_us(now) == exact.reset_us(now)
        assert meter.idle(now) is exact.idle(now)
        assert 0 <= meter.debt < 1 << 63


def twin_of(meter: Meter) -> Meter:
    """A meter in the same state, to ask what would be."""
    other = Meter(meter.rate, meter.period_us, meter.burst)
    other.debt, other.at_us = meter.debt, meter.at_us
    return other


@given(limits(), st.lists(st.tuples(st.integers(0, MINUTE), shares), max_size=12), shares, st.integers(-SECOND, SECOND))
def test_a_wait_is_exact(
    limit: tuple[int, int, int], before: list[tuple[int, tuple[int, int]]], drawn: tuple[int, int], step: int
) -> None:
    meter, now = Meter(*limit), 10 * SECOND
    for late, share in before:
        now += late
        meter.charge(now, cost_of(share, meter.burst))
    now += step
    cost = cost_of(drawn, meter.burst)
    wait = meter.wait_us(now, cost)
    if wait < 0:
        assert cost > meter.burst
        assert not twin_of(meter).take(now + 100_000 * DAY, cost)
        return
    assert twin_of(meter).take(now + wait, cost)
    if wait:
        assert not twin_of(meter).take(now + wait - 1, cost)


def test_the_edge_of_the_burst() -> None:
    meter = Meter(10, SECOND, 5)
    assert [meter.take(7, 1) for _ in range(6)] == [True] * 5 + [False]
    assert meter.wait_us(7, 1) == 100_000
    assert not meter.take(100_006, 1)
    assert meter.take(100_007, 1)
    assert not meter.take(100_007, 1)
    assert meter.wait_us(100_007, 5) == 500_000
    assert meter.wait_us(100_007, 6) == -1


def test_all_or_nothing() -> None:
    meter = Meter(10, SECOND, 5)
    assert meter.take(0, 3)
    assert not meter.take(0, 3)
    assert meter.left(0) == 2
    assert meter.take(0, 2)
    assert meter.left(0) == 0


def test_a_day_idle_gives_one_burst_and_no_more() -> None:
    meter = Meter(60, MINUTE, 10)
    assert meter.take(0, 10)
    assert meter.left(DAY) == 10
    assert meter.idle(DAY)
    assert sum(meter.take(DAY, 1) for _ in range(50)) == 10


def test_the_largest_limits_stay_exact_over_years() -> None:
    meter = Meter(MAX_RATE, MINUTE, MAX_RATE)
    assert meter.take(0, MAX_RATE)
    assert not meter.take(0, 1)
    assert meter.take(MINUTE, MAX_RATE)
    assert not meter.take(MINUTE, 1)
    meter.charge(MINUTE, 1 << 62)
    assert meter.idle(200 * 365 * DAY)
    assert meter.take(200 * 365 * DAY, MAX_RATE)


def test_over_a_long_run_no_more_than_rate_and_burst() -> None:
    meter = Meter(7, SECOND, 3)
    # 142,857.14 µs a unit: a rounded increment would be off by one within a few thousand units.
    admitted = sum(meter.take(now, 1) for now in range(0, 1000 * SECOND, 13_001))
    asked_last = (1000 * SECOND - 1) // 13_001 * 13_001
    assert admitted == 3 + asked_last * 7 // SECOND


def test_a_clock_that_steps_back_neither_pays_nor_loses() -> None:
    meter = Meter(10, SECOND, 5)
    meter.charge(10 * SECOND, 5)
    assert not meter.take(9 * SECOND, 1)
    assert meter.left(0) == 0
    assert meter.wait_us(9 * SECOND, 1) == SECOND + 100_000
    assert not meter.take(10 * SECOND + 99_999, 1)
    assert meter.take(10 * SECOND + 100_000, 1)


def test_what_was_not_used_comes_back() -> None:
    meter = Meter(1000, MINUTE, 1000)
    assert meter.take(0, 900)
    meter.give(0, 850)
    assert meter.left(0) == 950
    meter.give(0, 10_000)
    assert meter.left(0) == 1000
    assert meter.idle(0)


def test_what_was_used_beyond_is_owed_and_bounded() -> None:
    meter = Meter(1000, MINUTE, 1000)
    meter.charge(0, 3000)
    assert meter.left(0) == 0
    assert meter.wait_us(0, 1) == 2 * MINUTE + 60_000
    meter.charge(0, 1 << 60)
    assert meter.wait_us(0, 1) == MAX_DEBT_PERIODS * MINUTE + 60_000


@given(limits(), limits(), st.integers(0, 3), st.integers(-1, 1), st.lists(st.integers(0, MINUTE), max_size=5))
def test_changed_limits_never_admit_more_than_new_ones(
    old: tuple[int, int, int], new: tuple[int, int, int], part: int, off: int, later: list[int]
) -> None:
    meter, now = Meter(*old), 5
    meter.charge(now, cost_of((part, off), meter.burst))
    burst = min(new[2], MAX_CAPACITY // meter.period_us)
    fresh = Meter(new[0], meter.period_us, burst)
    meter.change(new[0], burst, now)
    for step in later:
        now += step
        assert meter.left(now) <= fresh.left(now)
        if meter.take(now, 1):
            assert fresh.take(now, 1)


def test_units_taken_stay_taken_through_a_change() -> None:
    meter = Meter(60, MINUTE, 100)
    meter.take(0, 40)
    meter.change(600, 50, 0)
    assert meter.left(0) == 10
    assert meter.reset_us(0) == 4 * SECOND
    meter.change(1, 10, 0)
    assert meter.left(0) == 0
    assert meter.wait_us(0, 1) == 31 * MINUTE


class Held:
    """A meter and its whole history, side by side: whatever is asked of one is asked of the other."""

    def __init__(self, rate: int, burst: int) -> None:
        self.meter = Meter(rate, MINUTE, burst)
        self.exact = ReferenceBucket(rate, MINUTE, burst)
        self.under_way: list[tuple[int, int, int, int]] = []  # number, since, taken, used in the end
        self.now = 10**12

    def take(self, cost: int, used: int) -> bool:
        taken = self.meter.take(self.now, cost)
        # (Its own words: where the meter has rounded what came back, the history knows better.)
        if not taken:
            return False
        self.exact.taken.append((self.now, cost))
        self.meter.hold()
        self.under_way.append((len(self.exact.taken) - 1, self.now, cost, used))
        return True

    def settle(self, which: int) -> None:
        number, since, taken, used = self.under_way.pop(which % len(self.under_way))
        self.meter.settle(self.now, since, taken, used)
        self.exact.settle(number, used)

    @property
    def debts(self) -> tuple[int, int]:
        self.meter.left(self.now)
        return self.meter.debt, self.exact.debt(self.now)


acts = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "settle"]), st.sampled_from([0, 1, 1000, SECOND, 5 * SECOND, MINUTE]),
        st.integers(0, 1200), st.integers(0, 1200),
    ),
    max_size=60,
)  # fmt: skip


@given(acts, st.integers(1, 5000))
@example([("take", 0, 1000, 0), ("take", MINUTE, 1000, 1000), ("settle", 0, 0, 0)], 1000)
@example([("take", 0, 900, 100), ("take", 5 * SECOND, 90, 0), ("settle", MINUTE, 1, 0), ("settle", 0, 0, 0)], 1000)
def test_what_comes_back_is_what_has_not_decayed_already(acts: list[tuple[str, int, int, int]], rate: int) -> None:
    both = Held(rate, 1000)
    for kind, step, one, other in acts:
        both.now += step
        if kind == "take":
            both.take(one, min(one, other))
        elif both.under_way:
            both.settle(other)
        meter, exact = both.debts
        assert meter == exact if len(both.under_way) < MOST_LOWS else meter >= exact
    while both.under_way:
        both.settle(0)
    assert both.exact.most_in_any_window() <= 1000
    assert both.meter.past is None or not both.meter.past.lows


@pytest.mark.parametrize("seed", range(20))
def test_a_crowd_under_one_key_gets_back_no_more_and_hardly_less(seed: int) -> None:
    """Hundreds under way, far more than the lows that are kept."""
    chance = random.Random(seed)
    both = Held(60_000, 100_000)
    lost = taken = 0
    for _ in range(600):
        both.now += int(chance.expovariate(1 / 20_000))
        if chance.random() < 0.55 or not both.under_way:
            cost = chance.choice([50, 300, 4096])
            taken += both.take(cost, int(cost * chance.random()))
        else:
            both.settle(chance.randrange(len(both.under_way)))
        meter, exact = both.debts
        assert meter >= exact
        lost = max(lost, meter - exact)
        past = both.meter.past
        assert past is None or past.lows is None or len(past.lows) <= MOST_LOWS
    assert taken > 100
    assert both.exact.most_in_any_window() <= 100_000
    assert lost <= 5_000 * MINUTE, "of a hundred thousand"


def test_of_a_crowd_at_once_each_gets_back_its_own() -> None:
    """Far more than the lows that are kept, and each of them matters for one that is under way: a tenth is lost."""
    meter = Meter(1, MINUTE, 10_000)
    for number in range(1000):
        assert meter.take(number, 10)
        meter.hold()
    assert meter.past is not None
    assert meter.past.lows is not None
    assert len(meter.past.lows) <= MOST_LOWS
    for number in range(1000):
        meter.settle(2000, number, 10, 0)
    assert 8_900 <= meter.left(2000) <= 10_000
    assert not meter.past.lows


def test_nothing_is_saved_up_by_what_takes_long() -> None:
    """A whole minute's tokens reserved, a minute later given back unused: the bucket was full again before."""
    meter = Meter(6000, MINUTE, 6000)
    assert meter.take(0, 6000)
    meter.hold()
    assert meter.take(MINUTE, 6000)
    meter.hold()
    meter.settle(MINUTE, 0, 6000, 10)
    assert meter.left(MINUTE) == 0
    meter.settle(MINUTE, MINUTE, 6000, 10)
    assert meter.left(MINUTE) == 5990


def test_a_meter_that_holds_nothing_gets_nothing_back() -> None:
    """The limit was taken away and set again while the request was under way: it was taken from another meter."""
    meter = Meter(600, MINUTE, 600)
    assert meter.take(0, 500)
    meter.settle(0, 0, 400, 0)
    assert meter.left(0) == 100
    meter.settle(0, 0, 40, 60)
    assert meter.left(0) == 80


def test_a_limit_lowered_and_raised_again_gives_nothing_back() -> None:
    meter = Meter(6000, MINUTE, 6000)
    assert meter.take(0, 6000)
    meter.change(1, 1, 0)
    assert meter.wait_us(0, 1) == MAX_DEBT_PERIODS * MINUTE + MINUTE
    meter.change(6000, 6000, 0)
    assert meter.left(0) == 0
    # What decayed meanwhile decayed at the lower rate, first of what locks out.
    meter.change(1, 1, 0)
    later = (MAX_DEBT_PERIODS + 1) * MINUTE
    assert meter.take(later, 1)
    meter.change(6000, 6000, later)
    assert meter.left(later) == MAX_DEBT_PERIODS
    assert meter.idle(later + MINUTE)


def test_what_was_held_when_a_limit_was_lowered_comes_back_from_what_was_set_aside() -> None:
    meter = Meter(6000, MINUTE, 6000)
    assert meter.take(0, 5000)
    meter.hold()
    meter.change(10, 10, 1)
    wait = meter.wait_us(1, 1)
    meter.settle(2, 0, 5000, 1000)
    assert meter.wait_us(1, 1) == wait, "1,000 are owed still, more than an hour's"
    meter.change(6000, 6000, 2)
    assert meter.left(2) == 5000


@pytest.mark.parametrize(
    ("rate", "period", "burst"),
    [(0, MINUTE, 1), (-1, MINUTE, 1), (1, 0, 1), (1, MINUTE, 0), (MAX_RATE + 1, MINUTE, 1), (1, MINUTE, MAX_RATE + 1)],
)
def test_limits_out_of_range_are_refused(rate: int, period: int, burst: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Meter(rate, period, burst)


def test_a_refused_change_changes_nothing() -> None:
    meter = Meter(1, SECOND, 5)
    with pytest.raises(ValueError, match="a burst must be 1 to"):
        meter.change(7, 0, 0)
    assert (meter.rate, meter.burst) == (1, 5)


def test_a_negative_cost_is_a_mistake_of_the_caller() -> None:
    meter = Meter(1, SECOND, 1)
    for method in (meter.take, meter.wait_us, meter.give, meter.charge):
        with pytest.raises(ValueError, match="negative"):
            method(0, -1)
    assert meter.idle(0)


def test_who_is_refused_after_a_change_is_told_by_the_new_limits() -> None:
    meter = Meter(1, 60_000_000, 1)
    assert meter.take(0, 1)
    for _ in range(30):
        meter.told_s(0, 1, 0.5)
    meter.change(6000, 1, 0)
    assert meter.take(20_000_000, 1)
    assert meter.told_s(20_000_000, 1, 0.5) == meter.wait_us(20_000_000, 1) / 1e6 == 0.01
