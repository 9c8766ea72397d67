"""Both twins count into the same buckets, as Prometheus has them: a bucket's bound is in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel import histograms
from fastgw.accel.histograms import Bounds, Histogram
from tests.support.twins import python_twin

SECONDS = (0.001, 0.01, 0.5, 1.0, 60.0)
TWINS: tuple[Any, ...] = (histograms, python_twin("fastgw.accel.histograms"))
MOST_BOUNDS = TWINS[1].MOST_BOUNDS  # (the compiled twin has it as a C number)


@given(st.lists(st.floats(-1.0, 100.0) | st.sampled_from((*SECONDS, float("inf")))))
def test_a_value_is_in_the_first_bucket_whose_bound_is_no_less(values: list[float]) -> None:
    for twin in TWINS:
        histogram = twin.Histogram(twin.Bounds(SECONDS))
        buckets = [histogram.observe(value) for value in values]
        expected = [next((at for at, bound in enumerate(SECONDS) if value <= bound), len(SECONDS)) for value in values]
        assert buckets == expected
        assert histogram.counts() == [expected.count(at) for at in range(len(SECONDS) + 1)]
        assert histogram.total == pytest.approx(sum(max(value, 0.0) for value in values))


def test_events_of_one_read_have_waited_once() -> None:
    for twin in TWINS:
        histogram, also = (twin.Histogram(twin.Bounds(SECONDS)) for _ in range(2))
        histogram.came(0.2, 4, also)
        histogram.came(0.2, 1, also)
        for one in (histogram, also):
            assert (one.counts(), one.total) == ([3, 0, 2, 0, 0, 0], pytest.approx(0.4))


def test_what_one_has_counted_is_added_to_another() -> None:
    for twin in TWINS:
        bounds = twin.Bounds(SECONDS)
        one, other = twin.Histogram(bounds), twin.Histogram(bounds)
        for histogram, values in ((one, (0.2, 100.0)), (other, (0.2, 0.005))):
            for value in values:
                histogram.observe(value)
        one.add(other)
        assert (one.counts(), one.total) == ([0, 1, 2, 0, 0, 1], pytest.approx(100.405))
        assert other.counts() == [0, 1, 1, 0, 0, 0]


def test_the_last_of_each_bucket_can_be_looked_up() -> None:
    histogram = Histogram(Bounds(SECONDS))
    assert histogram.exemplars is None
    for value, trace in ((0.2, "one"), (0.3, "two"), (7.0, "three")):
        histogram.exemplify(histogram.observe(value), value, 1.5e9, trace)
    assert histogram.exemplars == {2: (0.3, 1.5e9, "two"), 4: (7.0, 1.5e9, "three")}


@pytest.mark.parametrize("wrong", [(), (1.0, 1.0), (2.0, 1.0), tuple(range(MOST_BOUNDS + 1))])
def test_bounds_rise_and_are_not_too_many(wrong: tuple[float, ...]) -> None:
    for twin in TWINS:
        with pytest.raises(ValueError, match="bounds"):
            twin.Bounds(wrong)
