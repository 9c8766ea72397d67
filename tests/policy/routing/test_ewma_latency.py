"""The better of two by the time to the first token of late."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from fastgw.net.clock import hold
from fastgw.policy.routing import strategy_of
from fastgw.upstream.table import Group
from tests.policy.routing.test_loads import watched
from tests.policy.routing.test_strategies import REQUEST, place


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    hold(1000.0)
    yield
    hold(-1.0)


def shares(group: Group, count: int = 300) -> Counter[int]:
    strategy = strategy_of("ewma_latency", random.Random(5).random)
    found = [strategy.pick(group, (), REQUEST) for _ in range(count)]
    return Counter(pool.engine.port for pool in found if pool is not None)


def test_a_slow_answer_counts_at_once_and_a_quick_one_bit_by_bit_and_all_is_forgotten() -> None:
    group = Group([place(1), place(2)])
    watched(list(group.pools))
    one, two = (pool.engine.watch for pool in group.pools)
    assert one is not None
    assert two is not None
    for watch in (one, two):
        watch.took(0.1, 1000.0)
    one.took(3.0, 1000.0)
    assert one.ttft_s == 3.0
    assert shares(group) == {2: 300}
    hold(1001.0)
    one.took(0.1, 1001.0)
    assert 2.0 < one.ttft_s < 3.0
    for step in range(1, 60):
        one.took(0.1, 1001.0 + step)
    assert one.ttft_s < 0.3
    assert one.latency_s(1060.0) == one.ttft_s
    assert one.latency_s(1070.0) == pytest.approx(one.ttft_s / 2)


def test_what_is_under_way_counts_and_weight_does() -> None:
    group = Group([place(1, weight=2), place(2)])
    watched(list(group.pools))
    for pool in group.pools:
        assert pool.engine.watch is not None
        pool.engine.watch.took(0.5, 1000.0)
    assert shares(group) == {1: 300}
    group.pools[0].engine.inflight = 2
    assert shares(group) == {2: 300}


def test_one_of_which_nothing_is_known_gets_one_request_at_a_time() -> None:
    group = Group([place(1), place(2)])
    watched(list(group.pools))
    assert group.pools[1].engine.watch is not None
    group.pools[1].engine.watch.took(0.5, 1000.0)
    assert shares(group) == {1: 300}
    group.pools[0].engine.inflight = 1
    assert shares(group) == {2: 300}
    told = strategy_of("ewma_latency").explain(group, (), REQUEST)
    assert [one.engine for one in told] == ["127.0.0.1:2", "127.0.0.1:1"]
    assert told[1].why.startswith("nothing is known of it, 1 requests under way")


def test_without_a_watch_it_goes_by_what_is_under_way() -> None:
    group = Group([place(1, inflight=3), place(2)])
    assert shares(group) == {2: 300}
