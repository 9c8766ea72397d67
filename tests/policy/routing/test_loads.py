"""Who has least to do, without a look at all: held against a look at all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.net.clock import hold
from fastgw.policy.routing.loads import FRESH_S, NOBODY, REQUESTS, TOKENS, Loads, loads_of, scores_of
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from fastgw.upstream.watch import RING, Journal
from tests.policy.routing.test_strategies import ILL, place


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    hold(1000.0)
    yield
    hold(-1.0)


def watched(pools: list[Pool]) -> Journal:
    journal = Journal()
    for pool in pools:
        pool.engine.watch = journal.watch()
    return journal


def ask(pool: Pool, tokens: int = 0) -> None:
    """A request goes there, as a call would tell it."""
    pool.engine.inflight += 1
    assert pool.engine.watch is not None
    pool.engine.watch.opened(tokens)


def end(pool: Pool, tokens: int = 0) -> None:
    pool.engine.inflight -= 1
    assert pool.engine.watch is not None
    pool.engine.watch.ended(tokens, 0)


def least(pools: tuple[Pool, ...], start: int) -> int:
    """By a look at all."""
    engines = [pool.engine for pool in pools]
    by_slots = all(engine.slots for engine in engines)
    best = -1
    found = Fraction(0)
    for step in range(len(pools)):
        at = (start + step) % len(pools)
        engine = engines[at]
        key = Fraction(engine.inflight + engine.queued + 1, engine.slots if by_slots else engine.weight)
        if engine.usable() and (best < 0 or key < found):
            best, found = at, key
    return best


STEPS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8), st.integers(0, 9)), max_size=40)


@given(
    weights=st.lists(st.integers(1, 4), min_size=1, max_size=9), slots=st.booleans(), steps=STEPS, after=st.integers(0, 60),
)  # fmt: skip
def test_it_is_the_one_that_a_look_at_all_finds(
    weights: list[int], slots: bool, steps: list[tuple[int, int, int]], after: int
) -> None:
    """Whatever requests did, at once; whatever else changed, after a moment."""
    hold(1000.0)
    pools = [place(at + 1, weight=weight, slots=(3 + weight) * slots) for at, weight in enumerate(weights)]
    watched(pools)
    loads = Loads(tuple(pools), REQUESTS)
    now = 1000.0
    for what, which, start in steps:
        pool = pools[which % len(pools)]
        engine = pool.engine
        changes = False
        if what <= 2 and engine.usable():
            ask(pool)
        elif what == 3 and engine.inflight:
            end(pool)
        elif what == 4:
            engine.healthy = not engine.healthy
            changes = True
        elif what == 5:
            engine.slots = start if slots else 0
            changes = True
        elif what == 6:
            engine.queued = start
            changes = True
        if changes:
            now += FRESH_S * 1.01
            hold(now)
        assert loads.least(start % len(pools)) == least(loads.pools, start % len(pools))
        working = [pool.engine for pool in pools if pool.engine.usable() or pool.engine.full()]
        assert loads.total == sum(engine.inflight + engine.queued for engine in working)
    hold(-1.0)


def test_one_that_became_ill_or_full_is_not_found_although_nobody_told() -> None:
    pools = [place(at + 1) for at in range(4)]
    watched(pools)
    loads = Loads(tuple(pools), REQUESTS)
    assert loads.least(0) == 0
    pools[0].engine.healthy = False
    pools[1].engine.draining = True
    pools[2].engine.slots = pools[2].engine.inflight = 1
    assert loads.least(0) == 3
    pools[0].engine.healthy = True
    assert loads.least(0) == 3, "what has become better is found within a moment"
    hold(1000.0 + FRESH_S)
    assert loads.least(0) == 0


def test_nobody_is_looked_at_twice_for_one_change_and_who_missed_many_looks_at_all() -> None:
    pools = [place(at + 1) for at in range(3)]
    watched(pools)
    loads = Loads(tuple(pools), REQUESTS)
    assert loads.least(0) == 0
    for _ in range(RING + 1):
        ask(pools[0])
        end(pools[0])
    ask(pools[0])
    ask(pools[1])
    assert loads.least(0) == 2
    assert [loads.load(at) for at in range(3)] == [1, 1, 0]


def test_by_tokens_who_reads_a_long_prompt_has_more_to_do_than_who_makes_ten_answers() -> None:
    pools = [place(at + 1) for at in range(2)]
    watched(pools)
    group = Group(pools)
    ask(pools[0], 100_000)
    for _ in range(10):
        ask(pools[1], 50)
    assert loads_of(group, TOKENS).least(0) == 1
    assert loads_of(group, REQUESTS).least(0) == 0
    watch = pools[0].engine.watch
    assert watch is not None
    watch.began(100_000, 20)  # it has read it
    assert loads_of(group, TOKENS).least(0) == 0
    assert loads_of(group, TOKENS) is loads_of(group, TOKENS)
    assert [round(score) for score, _ in scores_of(group, TOKENS)] == [21, 501]


def test_numbers_that_were_given_back_are_others() -> None:
    pools = [place(at + 1) for at in range(3)]
    journal = watched(pools)
    loads = Loads(tuple(pools[:2]), REQUESTS)
    assert loads.least(0) == 0
    gone = pools[0].engine.watch
    assert gone is not None
    journal.release(gone)
    journal.release(gone)
    pools[0].engine.watch = None
    new = journal.watch()
    pools[2].engine.watch, other = new, journal.watch()
    assert new.number == gone.number
    assert other.number not in {new.number, 1}
    ask(pools[2])
    assert loads.least(1) == 1
    assert loads.place(pools[2]) == -1
    assert loads.place(pools[1]) == 1


def test_the_bound_is_a_share_of_all_requests_and_one_more() -> None:
    pools = [place(1, weight=3), place(2, weight=1), place(3, ILL)]
    watched(pools)
    loads = Loads(tuple(pools), REQUESTS)
    for _ in range(7):
        ask(pools[0])
    loads.sync()
    assert (loads.total, loads.rooms) == (7, 4)
    assert [loads.bound(at, 125) for at in range(3)] == [8, 3, 0]  # of 8: 6 and 2, and a quarter more
    assert loads.key(2) == NOBODY
    assert loads.room(2) == 0
    with pytest.raises(IndexError):
        loads.load(3)


def test_who_was_tried_is_not_found() -> None:
    pools = [place(at + 1, inflight=at) for at in range(4)]
    watched(pools)
    loads = Loads(tuple(pools), REQUESTS)
    assert loads.least_but(0, (pools[0], pools[2])) == 1
    assert loads.least_but(0, tuple(pools)) == -1


def test_a_thousand_engines_stay_even() -> None:
    dice = random.Random(1)
    pools = [place(at + 1) for at in range(1000)]
    watched(pools)
    loads = Loads(tuple(pools), REQUESTS)
    under_way: list[Pool] = []
    start = 0
    for _ in range(6000):
        at = loads.least(start)
        start = (at + 1) % 1000
        ask(pools[at])
        under_way.append(pools[at])
        if len(under_way) == 4000:
            end(under_way.pop(dice.randrange(len(under_way))))
    assert max(pool.engine.inflight for pool in pools) == 4
