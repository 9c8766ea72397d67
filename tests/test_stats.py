"""The counters: one integer for each row, in both twins."""

from __future__ import annotations

import re

import pytest

from fastgw.counters import COUNTERS, UNTOLD
from fastgw.stats import Stats


def test_each_row_is_one_counter_that_begins_at_zero() -> None:
    stats = Stats()
    assert stats.snapshot() == dict.fromkeys(COUNTERS, 0)
    for number, name in enumerate(COUNTERS, 1):
        setattr(stats, name, getattr(stats, name) + number)
    assert stats.snapshot() == {name: number for number, name in enumerate(COUNTERS, 1)}
    assert stats.live() == {name: count for name, count in stats.snapshot().items() if name.endswith("_open")}
    assert len(stats.live()) == 6


def test_there_is_no_other() -> None:
    with pytest.raises(AttributeError):
        Stats().exchange_total = 1  # type: ignore[attr-defined]


def test_metrics_are_named_as_prometheus_wants_them() -> None:
    told: dict[tuple[str, str], str] = {}
    for name, row in COUNTERS.items():
        if row is UNTOLD:
            continue
        assert re.fullmatch(r"gateway_[a-z_]+", row.metric), name
        assert row.metric.endswith("_total") != name.endswith("_open"), name
        assert row.help.endswith("."), name
        assert bool(row.label) == bool(row.value), name
        other = told.setdefault((row.metric, row.value), name)
        assert other == name, f"{name} and {other} are one series"
