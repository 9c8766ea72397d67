"""Which engine a strategy picks: what all of them must do, and what each of them promises."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import Config, EngineConfig
from fastgw.config import RouteConfig
from fastgw.config.names import POLICIES, Policy
from fastgw.exchange.context import Strategy
from fastgw.net.clock import monotonic
from fastgw.policy.routing import strategy_for, strategy_of
from fastgw.protocol.openai import scan_body
from fastgw.stats import NullLog, Stats
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.target import Engine

WELL, ILL, FULL, FULL_AND_ILL, SPARED, DRAINED = range(6)
Standing = tuple[int, int, int, bool]  # its state, weight and requests under way, and whether it was tried


def place(port: int, state: int = WELL, inflight: int = 0, slots: int = 0, **settings: Any) -> Pool:
    """A pool that never dials, and so needs no reactor."""
    engine = Engine(EngineConfig(url=f"http://127.0.0.1:{port}", **settings))
    engine.healthy = state not in (ILL, FULL_AND_ILL)
    engine.slots = slots
    engine.inflight = inflight
    if state in (FULL, FULL_AND_ILL):
        engine.slots = engine.inflight = max(1, inflight)
    if state == SPARED:
        engine.breaker.change(1, 2.0**40)
        engine.breaker.failed(monotonic(), 0.0, False)
    engine.draining = state == DRAINED
    return Pool(engine, None, Stats(), NullLog(), 1.0)  # type: ignore[arg-type]


class Head(NamedTuple):
    """What of its head."""

    forward: bytes
    own: Any


class Asked:
    """What a strategy may see of a request."""

    def __init__(self, model: str = "m", substitute: str = "", fields: bytes = b"", body: bytes = b"", own: Any = None) -> None:
        self.model = model
        self.key_id = ""
        self.client_ip = "127.0.0.1"
        self.substitute = substitute
        self.head = Head(fields, own)
        self.body = body
        self.facts = scan_body(body) if body else None


REQUEST: Any = Asked()


def picks(strategy: Strategy, group: Group, count: int, hold: bool = False) -> list[int]:
    """The ports that are picked; with ``hold`` each request stays under way."""
    found = []
    for _ in range(count):
        pool = strategy.pick(group, (), REQUEST)
        assert pool is not None
        pool.engine.inflight += hold
        found.append(pool.engine.port)
    return found


STATES = st.lists(
    st.tuples(st.integers(WELL, DRAINED), st.integers(1, 4), st.integers(0, 3), st.booleans()), min_size=1, max_size=7,
)  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
@given(states=STATES, seed=st.integers(0, 2**32), rounds=st.integers(1, 8))
def test_whoever_is_picked_may_be_picked(name: Policy, states: list[Standing], seed: int, rounds: int) -> None:
    """Never one that was tried, is full, spared or drained; one that is not well only when no other can be; and somebody
    whenever somebody can be."""
    pools = [place(at + 1, state, inflight, weight=weight) for at, (state, weight, inflight, _) in enumerate(states)]
    tried = tuple(pool for pool, (_, _, _, was) in zip(pools, states, strict=True) if was)
    well = [pool for pool, (state, _, _, was) in zip(pools, states, strict=True) if state == WELL and not was]
    ill = [pool for pool, (state, _, _, was) in zip(pools, states, strict=True) if state == ILL and not was]
    group = Group(pools)
    strategy = strategy_of(name, random.Random(seed).random)
    for _ in range(rounds):
        pool = strategy.pick(group, tried, REQUEST)
        if well or ill:
            assert pool in (well or ill)
        else:
            assert pool is None
        assert 0 <= group.cursor < len(pools)


@pytest.mark.parametrize("name", POLICIES)
@given(weights=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_each_engine_is_tried_once_and_then_there_is_nobody(name: Policy, weights: list[int], seed: int) -> None:
    group = Group([place(at + 1, weight=weight) for at, weight in enumerate(weights)])
    strategy = strategy_of(name, random.Random(seed).random)
    tried: tuple[Pool, ...] = ()
    while (pool := strategy.pick(group, tried, REQUEST)) is not None:
        assert pool not in tried
        tried = (*tried, pool)
    assert len(tried) == len(weights)


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_dice_pick_the_same_engines(name: Policy) -> None:
    first, second = (
        picks(strategy_of(name, random.Random(7).random), Group([place(1), place(2), place(3, weight=2)]), 50, hold=True)
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("name", ["round_robin", "weighted"])
def test_turns_keep_to_weights_exactly_and_do_not_bunch_up(name: Policy) -> None:
    group = Group([place(1, weight=5), place(2, weight=1), place(3, weight=1)])
    assert picks(strategy_of(name), group, 14) == [1, 2, 1, 1, 1, 3, 1] * 2


@pytest.mark.parametrize(
    ("ill", "shares"), [(set(), {1: 0.5, 2: 0.25, 3: 0.25}), ({1}, {2: 0.5, 3: 0.5}), ({2}, {1: 2 / 3, 3: 1 / 3})]
)
def test_random_keeps_to_weights_also_among_those_that_are_left(ill: set[int], shares: dict[int, float]) -> None:
    pools = [place(port, ILL if port in ill else WELL, weight=weight) for port, weight in ((1, 2), (2, 1), (3, 1))]
    count = 6000
    seen = Counter(picks(strategy_of("random", random.Random(11).random), Group(pools), count))
    assert set(seen) == set(shares)
    for port, share in shares.items():
        assert abs(seen[port] / count - share) < 0.03, seen  # five times the deviation that is to be expected


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=8), st.integers(0, 7))
def test_least_loaded_picks_nobody_who_would_have_more_to_do_than_another(loads: list[tuple[int, int]], cursor: int) -> None:
    pools = [place(at + 1, inflight=inflight, weight=weight) for at, (inflight, weight) in enumerate(loads)]
    group = Group(pools)
    group.cursor = cursor % len(pools)
    pool = strategy_of("least_loaded").pick(group, (), REQUEST)
    assert pool is not None
    engine = pool.engine
    assert all(
        (engine.inflight + 1) * other.engine.weight <= (other.engine.inflight + 1) * engine.weight for other in pools
    )


def test_least_loaded_goes_by_slots_where_all_have_them_and_by_weight_where_one_has_not() -> None:
    large, small = place(1, slots=30, inflight=5), place(2, slots=10, inflight=3)
    assert picks(strategy_of("least_loaded"), Group([small, large]), 3) == [1, 1, 1]
    small.engine.slots = 0
    assert picks(strategy_of("least_loaded"), Group([small, large]), 3) == [2, 2, 2]


def test_least_loaded_gives_equals_their_turns_and_evens_out() -> None:
    group = Group([place(1), place(2), place(3)])
    strategy = strategy_of("least_loaded")
    assert picks(strategy, group, 6) == [1, 2, 3, 1, 2, 3]  # each was over before the next came
    group = Group([place(1, inflight=4), place(2), place(3, weight=2)])
    assert Counter(picks(strategy, group, 12, hold=True)) == {2: 4, 3: 8}  # 4, 4 and 8 under way: by weight


def test_the_better_of_two_evens_out_where_one_of_all_does_not() -> None:
    """The longest queue of 100 engines with 1,000 requests under way: by the theory log log n above the mean, not log n."""
    longest = {}
    for name in ("random", "power_of_two"):
        group = Group([place(at + 1) for at in range(100)])
        seen = Counter(picks(strategy_of(name, random.Random(3).random), group, 1000, hold=True))
        longest[name] = max(seen.values())
    assert longest["power_of_two"] <= 13
    assert longest["random"] >= 17


def test_the_better_of_two_keeps_to_weights() -> None:
    group = Group([place(1, weight=3), place(2, weight=1)])
    seen = Counter(picks(strategy_of("power_of_two", random.Random(5).random), group, 400, hold=True))
    assert abs(seen[1] - 300) <= 2  # there are only two: it is exact


def test_a_route_has_its_own_strategy_and_others_have_the_gateways() -> None:
    config = Config(
        engines=[EngineConfig(url="http://a:1")],
        routes=[RouteConfig(model="first", policy="ordered"), RouteConfig(model="plain", max_concurrent=3)],
    )
    strategy = strategy_for(config)
    group = Group([place(1), place(2)])

    def seen(asked: Any) -> list[int]:
        picked = [strategy.pick(group, (), asked) for _ in range(4)]
        return [pool.engine.port for pool in picked if pool is not None]

    assert seen(Asked("first")) == [1, 1, 1, 1]
    assert (seen(Asked("plain")), seen(Asked("other"))) == ([1, 2, 1, 2], [2, 1, 2, 1])
    assert seen(Asked("other", substitute="first")) == [1, 1, 1, 1]  # it fell back to that model
    assert seen(Asked("first", substitute="other")) == [2, 1, 2, 1]


def test_where_no_route_has_one_nothing_is_looked_up() -> None:
    config = Config(engines=[EngineConfig(url="http://a:1")], routes=[RouteConfig(model="m", max_concurrent=3)])
    assert type(strategy_for(config)) is type(strategy_of("round_robin"))


@pytest.mark.parametrize("name", POLICIES)
def test_each_name_that_may_be_configured_is_a_strategy(name: Policy) -> None:
    config = Config(policy=name, routes=[RouteConfig(model="m", policy=name)])
    assert isinstance(strategy_for(config), Strategy)


@pytest.mark.parametrize("name", POLICIES)
@given(states=STATES, seed=st.integers(0, 2**32))
def test_an_operator_is_told_how_each_stands_and_nothing_changes(name: Policy, states: list[Standing], seed: int) -> None:
    pools = [place(at + 1, state, inflight, weight=weight) for at, (state, weight, inflight, _) in enumerate(states)]
    tried = tuple(pool for pool, (_, _, _, was) in zip(pools, states, strict=True) if was)
    group = Group(pools)
    group.cursor = seed % len(pools)
    strategy = strategy_of(name, random.Random(seed).random)
    before = (group.cursor, dict(group.notes))
    told = strategy.explain(group, tried, REQUEST)
    assert (group.cursor, group.notes) == before
    assert sorted(one.engine for one in told) == sorted(pool.engine.name for pool in pools)
    by_name = {pool.engine.name: pool for pool in pools}
    for one in told:
        pool = by_name[one.engine]
        assert one.fit is (pool not in tried and pool.engine.usable())
        assert one.why
    fit = [one for one in told if one.fit]
    assert told[: len(fit)] == fit, "who may be asked stands first"
    assert [one.score for one in fit] == sorted(one.score for one in fit)
    if fit and not tried and name in {"round_robin", "weighted", "ordered"}:
        picked = strategy.pick(group, tried, REQUEST)
        assert picked is not None
        assert picked.engine.name == fit[0].engine


def test_why_an_engine_is_not_asked_is_said() -> None:
    pools = [place(at + 1, state) for at, state in enumerate((WELL, ILL, FULL, SPARED, DRAINED, WELL, WELL, WELL, WELL))]
    resting, ejected, new, counts = (pool.engine for pool in pools[5:])
    resting.crowded = True
    resting.told_to_wait("somebody", monotonic(), 60.0)
    ejected.ejected_until, ejected.held = monotonic() + 100.0, True
    new.ramp, new.held, new.inflight = 2, True, 2
    counts.ramp, counts.held, counts.inflight, counts.light = 2, True, 2, 1
    told = {one.engine[-1]: one.why for one in strategy_of("least_loaded").explain(Group(pools), (), REQUEST)}
    assert told == {
        "1": "0 requests under way, at weight 1",
        "2": "is not well",
        "3": "is full: 1 requests under way, and 1 is what it takes",
        "4": "has an open breaker",
        "5": "is being drained",
        "6": told["6"],
        "7": told["7"],
        "8": "is new, and has the 2 requests that it may have yet",
        "9": "2 requests under way, at weight 1",
    }
    assert told["6"].startswith("rests until ")
    assert told["7"].startswith("is ejected for ")
    assert strategy_of("ordered").explain(Group(pools[:1]), (pools[0],), REQUEST)[0].why == "was tried"


def test_strategies_of_one_name_are_one() -> None:
    """What a policy remembers is of its groups, whoever names it."""
    config = Config(
        policy="session", policy_header="x-policy", policy_choices=["session", "random"],
        routes=[RouteConfig(model="a", policy="session")],
    )  # fmt: skip
    assert type(strategy_for(config)).__name__ == "Chosen"
