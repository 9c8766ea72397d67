"""One engine for each key by hashing alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fastgw import Config
from fastgw.policy.routing import strategy_of
from fastgw.policy.routing.consistent_hash import ENTRIES, SIZES, laid_out
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from tests.policy.routing.test_strategies import Asked, place


def asked(key: int) -> Any:
    return Asked(fields=b"x-session-id: %d\r\n" % key)


def engines(group: Group, count: int, config: Config | None = None) -> dict[int, int]:
    strategy = strategy_of("consistent_hash", config=config)
    found = {}
    for key in range(count):
        pool = strategy.pick(group, (), asked(key))
        assert pool is not None
        found[key] = pool.engine.port
    return found


def made(*ports: int, **settings: Any) -> list[Pool]:
    return [place(port, name=f"engine-{port}", **settings) for port in ports]


def test_gateways_agree_whatever_the_order_in_which_they_name_their_engines() -> None:
    pools = made(1, 2, 3, 4, 5)
    assert engines(Group(pools), 300) == engines(Group(pools[::-1]), 300)
    assert engines(Group(pools), 4) == {0: 2, 1: 3, 2: 3, 3: 5}, "and in each version: this is what all of them do"


def test_an_engine_that_leaves_takes_its_own_keys_with_it_and_hardly_another() -> None:
    pools = made(*range(1, 11))
    before, after = engines(Group(pools), 3000), engines(Group(pools[1:]), 3000)
    moved = {key for key in before if before[key] != after[key]}
    assert {key for key in before if before[key] == 1} <= moved
    assert sum(before[key] != 1 for key in moved) < 3000 * 0.04
    assert all(200 < count < 400 for count in Counter(before.values()).values())


def test_shares_are_by_weight() -> None:
    pools = [place(1, name="one", weight=3), place(2, name="two")]
    assert 0.70 < Counter(engines(Group(pools), 4000).values())[1] / 4000 < 0.80


def test_a_key_that_everybody_uses_is_served_by_as_many_as_it_takes() -> None:
    """Nobody has more than 125 % of its share of all that is under way, or two more than it where they are few."""
    strategy = strategy_of("consistent_hash")
    group = Group(made(*range(1, 9)))
    order: list[int] = []
    for count in range(400):
        pool = strategy.pick(group, (), asked(7))
        assert pool is not None
        pool.engine.inflight += 1
        assert pool.engine.inflight <= max(-(-(count + 1) * 125 // 800), -(-(count + 1) // 8) + 2)
        assert count > 2 or len(order) < 2, "of a few requests none is sent away from what is cached of it"
        if pool.engine.port not in order:
            order.append(pool.engine.port)
    assert len(order) >= 7
    for pool in group.pools:
        pool.engine.inflight = 0
    first = strategy.pick(group, (), asked(7))
    assert first is not None
    assert first.engine.port == order[0], "and when there is less to do again, by the first of them"
    second = strategy.pick(group, (first,), asked(7))
    assert second is not None
    assert second.engine.port == order[1]


def test_the_bound_is_as_set() -> None:
    group = Group(made(1, 2))
    strategy = strategy_of("consistent_hash", config=Config(hash_bound_percent=200))
    for _ in range(20):
        pool = strategy.pick(group, (), asked(7))
        assert pool is not None
        pool.engine.inflight += 1
    assert sorted(pool.engine.inflight for pool in group.pools) == [0, 20]


@pytest.mark.parametrize("count", [1, 2, 25, 26, 500])
def test_a_table_has_enough_entries_for_each_engine_and_all_have_some(count: int) -> None:
    found = laid_out(tuple(made(*range(1, count + 1))))
    assert len(found) in SIZES
    assert len(found) >= min(ENTRIES * count, SIZES[-1])
    assert set(found) == set(range(count))


def test_the_operator_is_told_the_order_of_a_key() -> None:
    group = Group(made(1, 2, 3))
    strategy = strategy_of("consistent_hash")
    for key in range(20):
        picked = strategy.pick(group, (), asked(key))
        told = strategy.explain(group, (), asked(key))
        assert picked is not None
        assert told[0].engine == picked.engine.name
        assert told[0].why.startswith("number 1 for this key; 0 requests under way")
