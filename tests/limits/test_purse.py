"""Budgets: periods by the calendar, never more than there is, and each crossing told once."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.limits.account import Accounts, Defaults, pursed
from fastgw.limits.purse import KEY, MOST_HEARD, MOST_SPENT, Hold, Purse, span
from fastgw.limits.spending import Price

EPOCH = date(1970, 1, 1).toordinal()


def purse(limit: int = 1000, period: str = "month") -> Purse:
    made = pursed(None, KEY, "key", limit, period)
    assert made is not None
    return made


@given(st.integers(0, 100_000))
def test_periods_are_those_of_the_calendar(day: int) -> None:
    at = date.fromordinal(day + EPOCH)
    begins, ends = (date.fromordinal(one + EPOCH) for one in span(day, "week"))
    assert (begins.weekday(), (ends - begins).days) == (0, 7)
    assert begins <= at < ends
    begins, ends = (date.fromordinal(one + EPOCH) for one in span(day, "month"))
    assert (begins.day, ends.day) == (1, 1)
    assert (begins.year, begins.month) == (at.year, at.month)
    assert (ends.year * 12 + ends.month) - (at.year * 12 + at.month) == 1
    assert span(day, "day") == (day, day + 1)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 500)), max_size=40))
def test_no_more_is_admitted_than_there_is(requests: list[tuple[int, int]]) -> None:
    one = purse()
    held: list[int] = []
    spent = 0
    for reserved, cost in requests:
        admitted = one.reserve(20_000, reserved)
        assert admitted == (spent + sum(held) + reserved <= 1000)
        if admitted:
            held.append(reserved)
        if len(held) > 2:
            most = held.pop(0)
            one.release(most)
            one.charge(20_000, min(cost, most))
            spent += min(cost, most)
        assert (one.spent, one.reserved) == (spent, sum(held))
        assert spent + sum(held) <= 1000


def test_each_line_is_crossed_once_in_a_period() -> None:
    one = purse()
    one.roll(20_000)
    one.restore(one.begins, 0)
    told = []
    for cost in (799, 1, 50, 100, 50, 500):
        if one.charge(20_000, cost):
            one.tell(one.percent())
            told.append((one.spent, one.told))
    assert told == [(800, 80), (1000, 100)]
    begins = one.ends
    assert not one.charge(begins, 850), "it is not known yet what was told before"
    one.restore(begins, 850, 80)
    assert not one.charge(begins, 1)
    begins = one.ends
    one.roll(begins)
    one.restore(begins, 0)
    assert not one.charge(begins, 799)
    assert one.charge(begins, 1), "another month is another budget"
    one.change(2000, "month", b"")
    assert (one.percent(), one.charge(begins, 900), one.percent()) == (0, True, 80)


STEPS = st.tuples(st.sampled_from((500, 1000, 2000)), st.sampled_from((20_000, 20_001)), st.integers(0, 600))


@given(st.lists(STEPS, max_size=30))
def test_each_line_is_told_once_of_a_limit_and_a_period(steps: list[tuple[int, int, int]]) -> None:
    """However often a limit is raised and set back, or the clock put forward and back."""
    accounts = Accounts(Defaults(), [], required=False)
    lines: list[tuple[int, int, int]] = []

    def tell() -> None:
        lines.extend((one.begins, one.limit, one.told) for one in dict.fromkeys(accounts.crossed))
        accounts.crossed.clear()

    for limit, day, cost in steps:
        accounts.share({"lab": (limit, "day")})
        tell()
        (one,) = accounts.purses()
        one.roll(day)
        one.known = True  # (there is no store: what is counted here is all that there is)
        one.charge(day, cost)
        accounts.cross(one)
        tell()
        assert one.told >= one.percent()
    assert len(lines) == len(set(lines))


def test_what_was_told_is_remembered_of_so_many_limits() -> None:
    one = purse()
    one.roll(20_000)
    for limit in range(1000, 1000 + MOST_HEARD + 1):
        one.change(limit, "month", b"")
        one.tell(80)
    told = []
    for limit in (1000, 1001, 1000 + MOST_HEARD):
        one.change(limit, "month", b"")
        told.append(one.told)
    assert told == [0, 80, 80]


def test_the_clock_that_steps_over_an_edge_and_back_finds_what_was_spent() -> None:
    one = purse(period="day")
    one.charge(20_000, 600)
    assert one.left(20_001) == 1000
    one.charge(20_001, 10)
    assert (one.left(20_000), one.left(20_001)) == (400, 990)


def test_what_is_restored_is_all_there_is_and_of_that_period_alone() -> None:
    one = purse()
    one.roll(20_000)
    one.restore(one.begins - 1, 900)
    assert (one.spent, one.known) == (0, False)
    one.restore(one.begins, 900, 80)
    assert (one.spent, one.known, one.told) == (900, True, 80), "what was told before is not told again"
    one.restore(one.begins, 1 << 62)
    assert one.spent == MOST_SPENT


@pytest.mark.parametrize(("own", "shared", "granted"), [(1000, None, 5), (None, 400, 4), (250, 400, 2), (99, 400, 0)])
def test_a_stream_goes_on_for_as_long_as_both_can_pay(own: int | None, shared: int | None, granted: int) -> None:
    purses = [None if limit is None else purse(limit) for limit in (own, shared)]
    hold = Hold(purses[0], purses[1], Price(0, 0, 100_000), 0, 0)
    assert hold.extend(20_000, 5) == granted
    assert hold.broke == (granted < 5)
    assert (hold.extend(20_000, 0), hold.broke) == (0, False), "who is asked for nothing is not the one that has nothing"
    assert {one.reserved for one in purses if one is not None} == {granted * 100}
    hold.release()
    assert {one.reserved for one in purses if one is not None} == {0}
