"""The clock of the data plane: the system's monotonic one, or what it was set to."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fastgw.net import clock


@pytest.fixture(autouse=True)
def _goes_on() -> Iterator[None]:
    yield
    clock.hold(-1.0)


def test_it_is_the_systems() -> None:
    before = time.monotonic()
    now = clock.monotonic()
    assert before <= now <= time.monotonic()


def test_held_it_stands_until_it_is_set_anew_and_then_goes_on() -> None:
    for seconds in (0.0, 5.0, 1e9):
        clock.hold(seconds)
        assert [clock.monotonic() for _ in range(3)] == [seconds] * 3
    clock.hold(-1.0)
    assert abs(clock.monotonic() - time.monotonic()) < 1.0


@pytest.mark.parametrize(("seconds", "micros"), [(0.0, 0), (1.5, 1_500_000), (1e9, 10**15)])
def test_micros(seconds: float, micros: int) -> None:
    assert clock.micros(seconds) == micros
