"""What a row is made of: times of answers by hand, and bounds of what is kept."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from fastgw.bench import tally as module
from fastgw.bench.answer import Answer, Wrong
from fastgw.bench.plan import Slo, Stage
from fastgw.bench.tally import MOST_KINDS, MOST_POINTS, Client, Tally, bins, curve
from fastgw.protocol.http1.client import ResponseReader
from tests.bench.measured import planned

pytestmark = pytest.mark.once

READER = ResponseReader()


def answered(**more: Any) -> Answer:
    answer = Answer(READER, stream=True)
    for name, value in {"done": True, "finished": "stop", "texts": 3, "events": 4, **more}.items():
        setattr(answer, name, value)
    return answer


def test_the_moments_that_a_figure_lies_between() -> None:
    tally = Tally(planned(slo=Slo(ttft=0.6, tpot=0.3, e2e=2.0), stall_s=0.4), Stage(True, workers=1), 100.0)
    tally.begun = 3
    quick = answered(first_at=101.5, last_at=102.0, gaps=[0.1, 0.4], completion_tokens=3, prompt_tokens=7)
    tally.answered(quick, 101.0, 102.25, 8)
    tally.answered(answered(first_at=104.0, last_at=105.0, gaps=[0.5, 0.5], done=False), 103.0, 105.5, 8)
    tally.failure(Wrong("status 500", "oops"), 110.0)
    found = tally.result(1, Client())
    assert (found.ttft_s.least, found.ttft_s.most) == (0.5, 1.0)
    assert (found.latency_s.least, found.latency_s.most) == (1.25, 2.5)
    assert (found.tpot_s.least, found.tpot_s.most) == (0.25, 0.5)
    assert (found.stalls, found.stalled, found.within_slo, found.without_done) == (2, 1, 1, 1)
    assert (found.duration_s, found.rps, found.tokens_per_s) == (10.0, 0.2, 0.6)
    assert (found.tokens.answers_told, found.tokens.prompt_told, found.tokens.prompt_estimated) == (1, 7, 16)
    assert found.plots.points == [(1.0, 0.5), (3.0, 1.0)]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_GAPS", 5)
    tally = Tally(planned(), Stage(True, workers=1), 0.0)
    for number in range(4):
        tally.answered(answered(first_at=1.0, last_at=2.0, gaps=[0.1, 0.2]), 0.0, 2.0, 0)
        for kind in range(MOST_KINDS):
            tally.failure(Wrong(f"status {number * MOST_KINDS + kind}"), 1.0)
    found = tally.result(0, Client())
    assert (found.gap_s.n, found.gaps_left_out) == (5, 3)
    assert len(found.failures) == MOST_KINDS + 1
    assert sum(one.count for one in found.failures) == found.failed == 4 * MOST_KINDS


def test_a_curve_is_thinned_out_and_keeps_its_ends() -> None:
    values = array("d", [float(value) for value in range(10_000)])
    drawn = curve(values)
    assert len(drawn) == MOST_POINTS
    assert (drawn[0], drawn[-1]) == ((0.0, 1 / 10_000), (9_999.0, 1.0))
    assert all(share == (value + 1) / 10_000 for value, share in drawn)


@pytest.mark.parametrize("gaps", [[], [0.0], [0.02] * 7, [0.0, 1e-6, 0.005, 0.02, 3.0]])
def test_each_gap_is_in_one_bin(gaps: list[float]) -> None:
    found = bins(array("d", gaps))
    assert sum(count for *_, count in found) == len(gaps)
    for low, high, count in found:
        assert low < high
        assert not count or any(low * 0.999 <= gap <= high * 1.001 or gap < 1e-5 for gap in gaps)
