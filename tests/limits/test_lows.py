"""The least debts since the moments that matter, against all debts that there have been."""

import random

import pytest

from fastgw.limits.lows import MOST_LOWS, NONE, Lows
from tests.support.twins import native_twin, python_twin


def test_what_was_lower_later_hides_what_was_higher_before() -> None:
    lows = Lows()
    assert lows.least(0) == NONE
    for at_us, debt in ((10, 5), (20, 9), (30, 7)):
        lows.mark(at_us, debt)
    assert len(lows) == 2
    assert [lows.least(since_us) for since_us in (0, 9, 10, 29, 30)] == [5, 5, 7, 7, NONE]


def test_what_comes_back_lowers_all_that_came_after() -> None:
    lows = Lows()
    for at_us, debt in ((10, 5), (20, 9), (30, 12)):
        lows.mark(at_us, debt)
    lows.lower(15, 4)
    assert [lows.least(since_us) for since_us in (0, 15, 25)] == [5, 5, 8]
    lows.lower(99, 4)
    assert lows.least(25) == 8
    lows.clear()
    assert not lows
    assert lows.least(0) == NONE


@pytest.mark.parametrize("seed", range(10))
def test_against_all_debts_that_there_have_been(seed: int) -> None:
    chance = random.Random(seed)
    lows = Lows()
    debts: list[list[int]] = []  # a moment, and the debt before it grew
    now = 0
    for _ in range(3000):
        now += chance.randrange(3)
        if chance.random() < 0.6:
            debt = chance.randrange(10 ** chance.randrange(1, 6))
            lows.mark(now, debt)
            debts.append([now, debt])
        else:
            since_us = chance.randrange(max(now, 1))
            least = min((debt for at_us, debt in debts if at_us > since_us), default=NONE)
            found = lows.least(since_us)
            assert found == least or (len(debts) > MOST_LOWS and found <= least)
            if found > 0:
                back = chance.randrange(found)
                lows.lower(since_us, back)
                for one in debts:
                    if one[0] > since_us:
                        one[1] -= back
        assert len(lows) <= MOST_LOWS


@pytest.mark.both_twins
def test_both_twins_keep_the_same() -> None:
    chance = random.Random(7)
    for spread in (10, 10**6, 10**18):
        two = [side.Lows() for side in (native_twin("fastgw.limits.lows"), python_twin("fastgw.limits.lows"))]
        now = debt = 0
        for turn in range(20_000):
            now += chance.randrange(50)
            since_us = now - chance.randrange(2000)
            if turn % 4000 == 3999:
                for one in two:
                    one.clear()
            debt = min(debt + chance.randrange(spread), 9 * 10**18) if chance.random() < 0.9 else chance.randrange(spread)
            for one in two:
                one.mark(now, debt)
            found = [one.least(since_us) for one in two]
            assert found[0] == found[1]
            assert len(two[0]) == len(two[1])
            if found[0] > 0:
                back = chance.randrange(found[0])
                for one in two:
                    one.lower(since_us, back)
