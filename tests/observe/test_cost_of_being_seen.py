"""What it costs a request to be seen, compiled: measured in turns, so that noise meets both.

Metrics, their exemplars and the access log together take less than a microsecond, and a trace that is not sampled half of one.
"""

from __future__ import annotations

import statistics

import pytest

from benchmarks.micro.observed import compared


@pytest.mark.quiet
@pytest.mark.both_twins
@pytest.mark.parametrize(("row", "most_us"), [("log", 1.0), ("exemplars", 1.0), ("trace", 0.5)])
async def test_being_seen_costs_next_to_nothing(row: str, most_us: float) -> None:
    found = []
    for _ in range(3):
        _, added = await compared(150, 40, row)
        found.append(statistics.median(added))
        if found[-1] <= most_us:
            return
    assert min(found) <= most_us, found
