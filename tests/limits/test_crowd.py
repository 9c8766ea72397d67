"""Who gives way when no more can wait: against a crowd that is counted anew each time."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import twins
from fastgw.limits.crowd import Crowd
from tests.support.twins import native_twin, python_twin

steps = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), max_size=200)


def test_a_flow_alone_may_fill_it_and_keeps_nobody_out() -> None:
    crowd = Crowd()
    for item in range(10):
        assert crowd.victim("a") is None
        crowd.add("a", item)
    for item in range(5):
        assert crowd.victim("b") == 9 - item, "the newest of the longest"
        crowd.remove("a", 9 - item)
        crowd.add("b", f"b{item}")
    assert crowd.victim("b") is None
    assert crowd.victim("a") is None
    assert crowd.victim("c") in (4, "b4")


@settings(max_examples=150, deadline=None)
@given(steps)
def test_it_is_as_if_all_were_counted(schedule: list[tuple[str, int]]) -> None:
    crowds = [Crowd()]
    if twins.native():
        crowds = [module.Crowd() for module in (native_twin("fastgw.limits.crowd"), python_twin("fastgw.limits.crowd"))]
    waiting: list[tuple[str, int]] = []
    for number, (flow, what) in enumerate(schedule):
        mine = [item for item in waiting if item[0] == flow]
        if what and mine:
            item = mine[what % len(mine)] if what < 3 else mine[-1]
            waiting.remove(item)
            for crowd in crowds:
                crowd.remove(flow, item)
        else:
            waiting.append((flow, number))
            for crowd in crowds:
                crowd.add(flow, (flow, number))
        counts = Counter(name for name, _ in waiting)
        for crowd in crowds:
            assert len(crowd) == len(counts)
            for asker in "abcde":
                victim = crowd.victim(asker)
                most = max(counts.values(), default=0)
                if counts[asker] + 1 >= most:
                    assert victim is None
                else:
                    assert counts[victim[0]] == most
                    assert victim == [item for item in waiting if item[0] == victim[0]][-1]


@pytest.mark.parametrize("flows", [1, 1000])
def test_what_has_left_is_forgotten(flows: int) -> None:
    crowd = Crowd()
    for item in range(5000):
        crowd.add(str(item % flows), item)
    for item in range(5000):
        crowd.remove(str(item % flows), item)
    assert len(crowd) == 0
    assert crowd.victim("x") is None
    with pytest.raises(KeyError):
        crowd.remove("0", 1)
