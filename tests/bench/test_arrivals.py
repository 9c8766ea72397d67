"""When requests are due: reproducible, at the rate that was asked for, and as a trace says."""

from __future__ import annotations

import itertools
from statistics import mean, pstdev

import pytest

from fastgw.bench.arrivals import bounded, poisson, traced
from fastgw.bench.trace import Row

pytestmark = pytest.mark.once


def test_a_seed_gives_the_same_arrivals_and_another_others() -> None:
    def first(seed: int) -> list[float]:
        return [one.at_s for one in itertools.islice(poisson(5.0, seed), 50)]

    assert first(1) == first(1) != first(2)


def test_gaps_are_exponential() -> None:
    """Mean and deviation are both 1/rate, and the share above the mean is 1/e: evenly spaced or bunched ones are not so."""
    times = [one.at_s for one in itertools.islice(poisson(20.0, 7), 20_000)]
    gaps = [b - a for a, b in itertools.pairwise([0.0, *times])]
    assert abs(mean(gaps) * 20 - 1) < 0.03
    assert abs(pstdev(gaps) * 20 - 1) < 0.03
    assert abs(sum(gap > 1 / 20 for gap in gaps) / len(gaps) - 0.3679) < 0.02


def test_bounds() -> None:
    assert len(list(bounded(poisson(100.0, 1), 7, 0.0))) == 7
    within = [one.at_s for one in bounded(poisson(100.0, 1), 0, 0.5)]
    assert within
    assert max(within) <= 0.5
    assert len(list(bounded(poisson(100.0, 1), 3, 0.5))) == 3


def test_a_trace_begins_at_0_in_order_and_keeps_sessions_together() -> None:
    rows = [Row(12.0, 5, 1, "a"), Row(10.0, 1, 1), Row(11.0, 2, 1, "a"), Row(10.5, 3, 1), Row(14.0, 4, 1)]
    found = traced(rows, 2.0)
    assert [one.at_s for one in found] == [0.0, 0.25, 0.5, 2.0]
    assert [[turn.prompt_tokens for turn in one.turns] for one in found] == [[1], [3], [2, 5], [4]]
    assert [turn.at_s for turn in found[2].turns] == [0.5, 1.0]
    assert traced([], 1.0) == []
