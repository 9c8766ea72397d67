"""How long engines have taken of late: percentiles to the bucket, of the last minute, each engine's its own."""

from __future__ import annotations

import random

from fastgw.observe.latencies import MOST_MARKS, QUANTILES, Latencies, spread
from fastgw.upstream.times import FIRST_TOKEN, PER_TOKEN
from tests.observe.test_metrics import Server


def test_a_percentile_lies_in_the_bucket_in_which_it_was() -> None:
    drawn = random.Random(7)
    values = sorted(drawn.lognormvariate(-2, 1) for _ in range(1000))
    one = Server("a").first_tokens
    for value in values:
        one.observe(value)
    told = spread(FIRST_TOKEN, one.counts())
    assert told is not None
    for share, found in zip(QUANTILES, told, strict=True):
        exact = values[int(share * len(values))]
        bounds = (0.0, *FIRST_TOKEN.values)
        at = next(number for number, bound in enumerate(bounds) if bound >= exact)
        assert bounds[max(0, at - 2)] <= found <= bounds[min(len(bounds) - 1, at + 1)]
    assert spread(FIRST_TOKEN, [0] * 18 + [4]) == (FIRST_TOKEN.values[-1],) * 3
    assert spread(FIRST_TOKEN, [0] * 19) is None


async def test_percentiles_are_of_the_last_minute_and_of_each_engine_alone() -> None:
    quick, slow = Server("quick"), Server("slow")
    engines = [quick, slow]
    latencies = Latencies(lambda: engines)
    assert latencies.of([quick]) == (None, None)
    for _ in range(100):
        quick.first_tokens.observe(0.015)
        quick.gaps.observe(0.002)
        slow.gaps.observe(8.0)
    await latencies.mark()
    assert latencies.of([quick, slow]) == (None, None), "that was before"
    quick.first_tokens.observe(0.015)
    slow.first_tokens.observe(50.0)
    slow.gaps.observe(99.0)
    for _ in range(MOST_MARKS - 1):
        await latencies.mark()
        (first, gaps), (of_slow, gaps_of_slow) = latencies.of([quick]), latencies.of([slow])
        assert first is not None
        assert of_slow is not None
        assert gaps is None
        assert 0.01 < first[0] <= first[2] <= 0.02
        assert 30.0 < of_slow[0] <= of_slow[2] <= 60.0
        assert gaps_of_slow == (PER_TOKEN.values[-1],) * 3, "above all bounds: no less than the last"
        both, _ = latencies.of([quick, slow])
        assert both is not None
        assert (both[0] <= 0.02, both[2] > 30.0) == (True, True)
    await latencies.mark()
    assert latencies.of([slow]) == (None, None)


async def test_an_engine_that_comes_again_begins_anew_and_one_that_left_is_forgotten() -> None:
    engines = [Server("a")]
    latencies = Latencies(lambda: engines)
    engines[0].first_tokens.observe(5.0)
    await latencies.mark()
    engines[0] = Server("a")
    engines[0].first_tokens.observe(0.015)
    (first, _) = latencies.of(engines)
    assert first is not None
    assert first[2] <= 0.02
    for _ in range(MOST_MARKS):
        await latencies.mark()
    assert {len(mark) for mark in latencies._marks} == {2}
