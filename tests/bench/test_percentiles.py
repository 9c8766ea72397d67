"""Percentiles by their definition: the least value that at least so large a share of all values does not exceed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.bench.percentiles import PERMILLES, enough, nearest_rank, spread

pytestmark = pytest.mark.once

FLOATS = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(FLOATS, min_size=1, max_size=300))
def test_each_is_the_least_value_that_enough_do_not_exceed(values: list[float]) -> None:
    ordered = sorted(values)
    for permille in PERMILLES:
        share = Fraction(permille, 1000)
        model = next(one for one in ordered if Fraction(sum(other <= one for other in ordered), len(ordered)) >= share)
        assert nearest_rank(ordered, permille) == model
        # Enough values: at least one lies beyond it, by rank.
        assert enough(len(ordered), permille) == (len(ordered) - -(-permille * len(ordered) // 1000) >= 1)


@given(st.lists(FLOATS, max_size=50))
def test_a_spread_is_in_order(values: list[float]) -> None:
    found = spread(values)
    assert found.n == len(values)
    assert found.least <= found.p50 <= found.p90 <= found.p95 <= found.p99 <= found.p999 <= found.most
    assert not values or (found.least, found.most) == (min(values), max(values))


@pytest.mark.parametrize(("n", "permille", "is_enough"), [
    (2, 500, True), (1, 500, False), (19, 950, False), (20, 950, True), (99, 990, False), (100, 990, True), (999, 999, False),
])  # fmt: skip
def test_few_values_are_known_as_such(n: int, permille: int, is_enough: bool) -> None:
    assert enough(n, permille) is is_enough


def test_of_a_hundred_values_the_names_say_which() -> None:
    found = spread([float(value) for value in range(100, 0, -1)])
    assert (found.least, found.p50, found.p90, found.p95, found.p99, found.p999, found.most) == (1, 50, 90, 95, 99, 100, 100)
    assert found.mean == 50.5
