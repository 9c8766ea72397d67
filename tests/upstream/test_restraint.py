"""Engines that are held back: new ones for a while, and those that do worse than their like."""

from __future__ import annotations

from collections.abc import Iterator
from time import process_time
from typing import Any

import pytest

from fastgw import Config
from fastgw.limits.breaker import ALL
from fastgw.net.clock import hold, monotonic
from fastgw.policy.routing import strategy_of
from fastgw.stats import NullLog
from fastgw.upstream.restraint import FEWEST_CALLS, FEWEST_TIMES, MOST_TIMES, WINDOW_S, Restraint
from fastgw.upstream.table import Group
from fastgw.upstream.watched import watches
from tests.conversations.deployed_row import deployed, fine
from tests.conversations.test_believed import POISON, POISONS, poisoned
from tests.conversations.test_whose_fault import CHAT, asking
from tests.policy.routing.test_loads import watched
from tests.policy.routing.test_strategies import REQUEST, place
from tests.support.byhand.engine import Play
from tests.support.conversation import conversation
from tests.support.requests import chat
from tests.support.scripts import ok


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    hold(1000.0)
    yield
    hold(-1.0)


class Held:
    """Some engines, and whoever holds them back, by a clock of one's own."""

    def __init__(self, count: int = 4, **settings: Any) -> None:
        self.pools = [place(at + 1) for at in range(count)]
        self.journal = watched(self.pools)
        self.rooms = 0
        self.now = 1000.0
        self.loop = Loop()
        self.groups: list[Group] | None = None
        self.happened: list[tuple[str, str, str]] = []
        self.restraint = Restraint(
            self.loop, lambda: self.pools, lambda: self.groups or [Group(self.pools)], NullLog(), self._room,  # type: ignore[arg-type]
            lambda *told: self.happened.append(told),
        )  # fmt: skip
        self.restraint.follow(Config(**settings))
        self.restraint.look(self.now)

    def _room(self) -> None:
        self.rooms += 1

    def later(self, seconds: float) -> None:
        self.now += seconds
        hold(self.now)
        self.restraint.look(self.now)

    def watch(self, at: int) -> Any:
        return self.pools[at].engine.watch

    def usable(self) -> list[bool]:
        return [pool.engine.usable() for pool in self.pools]

    def ejected(self) -> set[int]:
        return {at for at, pool in enumerate(self.pools) if pool.engine.ejected_until > self.now}


class Loop:
    """Only remembers what was to come."""

    def __init__(self) -> None:
        self.timers = 0

    def call_later(self, seconds: float, what: Any) -> Any:
        self.timers += 1
        return self

    def cancel(self) -> None:
        self.timers -= 1


# --- slow start
def test_an_engine_that_comes_back_gets_to_its_share_bit_by_bit() -> None:
    held = Held(slow_start_s=100.0)
    for pool in held.pools[1:]:
        pool.engine.inflight = 20
    engine = held.pools[0].engine
    assert not engine.held, "those that were there from the start are not new"
    engine.healthy = False
    held.later(1.0)
    engine.healthy = True
    seen = []
    for _ in range(11):
        held.later(10.0)
        engine.inflight = 0
        while engine.usable() and engine.inflight < 20:
            engine.inflight += 1
        seen.append(engine.inflight)
    assert seen == [2, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]  # a tenth at the least; and then as many as it takes
    assert not engine.held
    assert held.rooms == 9, "who waits is told each time that it may have more"


def test_one_that_joins_is_new_and_weight_counts() -> None:
    held = Held(count=3, slow_start_s=10.0)
    for pool in held.pools:
        pool.engine.inflight, pool.engine.light = 13, 3  # (which take no place)
    new = place(9, weight=2)
    new.engine.watch = held.journal.watch()
    held.pools = [*held.pools, new]
    held.later(1.0)
    held.later(5.0)
    assert new.engine.ramp == 10, "half of twenty"
    new.engine.inflight = 10
    assert not new.engine.usable()
    assert new.engine.permitted()
    assert new.engine.last_resort(), "where no other can, it is asked"


def test_the_only_one_and_those_that_are_all_new_are_not_held_back() -> None:
    held = Held(count=2, slow_start_s=10.0)
    for pool in held.pools:
        pool.engine.healthy = False
    held.later(1.0)
    for pool in held.pools:
        pool.engine.healthy = True
        pool.engine.inflight = 50
    held.later(1.0)
    assert held.usable() == [True, True]


def test_where_the_others_have_little_to_do_a_new_one_has_one_request() -> None:
    held = Held(slow_start_s=10.0)
    engine = held.pools[0].engine
    engine.draining = True
    held.later(1.0)
    engine.draining = False
    held.later(1.0)
    assert engine.usable()
    engine.inflight = 1
    assert not engine.usable()


# --- ejection
def test_failures_in_a_row_eject_and_one_that_went_well_between_does_not() -> None:
    held = Held(outlier_errors=3, outlier_eject_s=30.0)
    for _ in range(2):
        held.watch(1).failed()
    held.watch(1).answered()
    held.watch(1).failed()
    held.watch(2).failed()
    held.later(0.25)
    assert held.ejected() == set()
    held.watch(1).failed()
    held.watch(1).failed()
    held.later(0.25)
    assert held.ejected() == {1}
    assert held.usable() == [True, False, True, True]
    strategy = strategy_of("round_robin")
    group = Group(held.pools)
    picked = [strategy.pick(group, (), REQUEST) for _ in range(8)]
    assert {pool.engine.port for pool in picked if pool is not None} == {1, 3, 4}
    for at in (0, 2, 3):
        held.pools[at].engine.healthy = False
    last = strategy.pick(group, (), REQUEST)
    assert last is held.pools[1], "it is well, and nobody else is"
    held.later(30.0)
    assert held.pools[1].engine.usable()
    assert not held.pools[1].engine.held
    assert held.rooms == 1


def test_an_engine_is_ejected_where_others_answer_and_asked_where_it_is_alone() -> None:
    held = Held(count=3, outlier_errors=1, outlier_eject_s=10.0)
    many, pair, alone = Group(held.pools), Group(held.pools[:2]), Group(held.pools[:1])
    held.groups = [many, pair, alone]
    held.watch(0).failed()
    held.later(0.25)
    assert held.ejected() == {0}
    strategy = strategy_of("round_robin")
    for group, ports in ((many, {2, 3}), (pair, {2}), (alone, {1})):
        picked = [strategy.pick(group, (), REQUEST) for _ in range(6)]
        assert {pool.engine.port for pool in picked if pool is not None} == ports
    held.watch(1).failed()
    held.later(0.25)
    assert held.ejected() == {0}, "a half of three is one"
    held.groups = [pair, alone]
    held.pools[0].engine.healthy = False
    held.later(10.0)
    assert held.ejected() == set(), "nobody is left to answer in its place"
    assert [what for what, _, _ in held.happened] == ["engine_ejected", "engine_readmitted"]
    assert held.happened[0] == ("engine_ejected", "127.0.0.1:1", "1 failures in a row; for 10 s")
    assert held.pools[0].engine.ejections_total == 1


def test_the_second_time_is_longer_and_calm_is_forgiven() -> None:
    held = Held(outlier_errors=1, outlier_eject_s=10.0)
    engine = held.pools[0].engine

    def fails() -> float:
        held.watch(0).failed()
        held.later(0.1)
        return round(engine.ejected_until - held.now, 3)

    for time in range(1, MOST_TIMES + 4):
        seconds = fails()
        assert seconds == 10.0 * min(time, MOST_TIMES)
        held.later(seconds)
    for _ in range(MOST_TIMES + 1):
        held.later(10.0)
    assert fails() == 10.0


def test_a_share_of_failures_ejects_where_there_are_enough_calls() -> None:
    held = Held(outlier_error_percent=50)
    for _ in range(FEWEST_CALLS // 2 - 1):
        held.watch(0).failed()
        held.watch(0).answered()
    held.later(0.25)
    assert held.ejected() == set(), "too few to say anything"
    held.later(WINDOW_S)
    for _ in range(FEWEST_CALLS):
        held.watch(0).answered()
        held.watch(1).failed()
    held.later(0.25)
    assert held.ejected() == {1}


def test_one_that_is_much_slower_than_the_median_is_ejected_and_begins_anew() -> None:
    held = Held(count=5, outlier_ttft_factor=3.0, outlier_eject_s=20.0)
    for _ in range(FEWEST_TIMES):
        for at in range(5):
            held.watch(at).took(2.0 if at == 3 else 0.5, held.now)
    held.watch(3).was_late(ALL)
    held.later(0.25)
    assert held.ejected() == {3}
    held.later(20.0)
    assert held.ejected() == set()
    assert held.watch(3).samples == 0


def test_what_is_slow_by_little_or_by_few_answers_or_beside_one_other_stays() -> None:
    held = Held(count=5, outlier_ttft_factor=3.0)
    for at in range(5):
        for _ in range(FEWEST_TIMES):
            held.watch(at).took(0.08 if at == 3 else 0.01, held.now)  # eight times as slow, and nobody notices
    held.later(0.25)
    assert held.ejected() == set()
    held = Held(count=5, outlier_ttft_factor=3.0)
    for at in range(5):
        for _ in range(FEWEST_TIMES - (at == 3)):
            held.watch(at).took(5.0 if at == 3 else 0.5, held.now)
    held.later(0.25)
    assert held.ejected() == set()
    held = Held(count=2, outlier_ttft_factor=3.0)
    for at in range(2):
        for _ in range(FEWEST_TIMES):
            held.watch(at).took(5.0 * at + 0.1, held.now)
    held.later(0.25)
    assert held.ejected() == set()


@pytest.mark.parametrize(("count", "percent", "most"), [(10, 30, 3), (10, 5, 1), (2, 100, 1), (1, 100, 0)])
def test_what_ails_all_ejects_only_as_many_as_may_be(count: int, percent: int, most: int) -> None:
    held = Held(count=count, outlier_errors=1, outlier_most_percent=percent)
    for _ in range(4):
        for at in range(count):
            held.watch(at).failed()
        held.later(0.25)
    assert len(held.ejected()) == most


def test_one_that_is_new_after_an_ejection_starts_slowly() -> None:
    held = Held(outlier_errors=1, outlier_eject_s=10.0, slow_start_s=100.0)
    for pool in held.pools[1:]:
        pool.engine.inflight = 40
    held.watch(0).failed()
    held.later(0.25)
    held.later(10.0)
    engine = held.pools[0].engine
    assert engine.ejected_until == 0.0
    assert engine.ramp == 4
    assert engine.usable()


def test_when_the_setting_is_gone_nobody_is_held_back_or_looked_at() -> None:
    held = Held(outlier_errors=1)
    assert held.loop.timers == 1
    held.watch(0).failed()
    held.later(0.25)
    assert held.ejected() == {0}
    held.restraint.follow(Config())
    assert held.loop.timers == 0
    assert held.usable() == [True] * 4
    held.restraint.close()


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, False), ({"policy": "power_of_two"}, False), ({"policy": "prefix_aware"}, True), ({"slow_start_s": 1.0}, True),
        ({"policy_header": "x-p", "policy_choices": ["session"]}, True), ({"policy_choices": ["session"]}, False),
    ],
)  # fmt: skip
def test_calls_tell_only_where_somebody_wants_to_know(settings: dict[str, Any], wanted: bool) -> None:
    assert watches(Config(**settings)) is wanted




@pytest.mark.parametrize("settings", [{"slow_start_s": 60.0}, {"outlier_errors": 1}], ids=lambda settings: next(iter(settings)))
def test_a_look_costs_as_its_groups_have_places_and_no_more(settings: dict[str, Any]) -> None:
    """All of a thousand engines that are new, or fail, in twenty groups: it was 0.85 s, and 0.45 s."""
    held = Held(count=1000, **settings)
    groups = [Group(held.pools[at:]) for at in range(20)]
    held.groups = groups
    held.restraint.look(held.now)
    for pool in held.pools:
        pool.engine.healthy = False
    held.restraint.look(held.now + 0.25)
    for at, pool in enumerate(held.pools):
        pool.engine.healthy = True
        held.watch(at).failed()
    begun = process_time()
    held.restraint.look(held.now + 0.5)
    assert process_time() - begun < 0.2


@pytest.mark.parametrize("settings", [{"outlier_errors": 10}, {"outlier_error_percent": 50}])
def test_an_engine_is_ejected_for_others_on_the_word_of_two_callers(settings: dict[str, Any]) -> None:
    """For one alone it is on his own, so where nobody else is there too; of a connection that breaks nobody is the cause."""
    hold(-1.0)  # (the conversation's)
    one, other, third = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    two = {name: {"models": ("m",)} for name in "ab"}
    with deployed(two, plays={"a": poisoned(POISONS["500"])}, policy="ordered", retry_statuses=()) as row:
        core, pools = row.talk.core, row.talk.engines
        watched(pools)
        restraint = Restraint(
            Loop(), lambda: pools, core.table.named, NullLog(), core.room, lambda *told: None  # type: ignore[arg-type]
        )
        restraint.follow(Config(**settings))

        def fails(*callers: str, play: Play | None = None) -> None:
            row.engines["a"].play = play or poisoned(POISONS["500"])
            restraint.look(monotonic())
            for at in range(10):
                assert row.ask(POISON, callers[at % len(callers)]).status >= 500
            restraint.look(monotonic())
            row.engines["a"].play = fine

        for _ in range(3):
            fails(one)
            assert [row.goes_to(asking(CHAT), ip) for ip in (one, other, one, third)] == ["b", "a", "a", "a"]
        fails(one, other)
        assert [row.goes_to(asking(CHAT), ip) for ip in (one, other, third)] == ["b", "b", "b"]
        row.talk.passes(31.0)
        fails(one, play=lambda asked: asked.closes("reset"))
        assert [row.goes_to(asking(CHAT), ip) for ip in (one, other)] == ["b", "b"]
        restraint.close()


@pytest.mark.parametrize(("slow_for", "in_time_for", "goes"), [
    ("1", "2", "aa"),  # (whose prompts are long)
    ("1", "1", "aa"),  # (some of whose prompts are)
    ("12", "", "bb"),
    ("12", "3", "bb"),
    ("1", "", "ba"),
])  # fmt: skip
def test_a_slow_engine_is_ejected_for_others_on_the_word_of_two_callers(slow_for: str, in_time_for: str, goes: str) -> None:
    """Where one alone is there, he is believed for himself."""
    hold(-1.0)  # (the conversation's)
    with conversation(3, policy="ordered") as talk:
        pools = talk.engines
        restraint = Restraint(
            Loop(), lambda: pools, talk.core.table.named, NullLog(), talk.core.room, lambda *told: None  # type: ignore[arg-type]
        )
        restraint.follow(Config(outlier_ttft_factor=3.0))

        def served(at: int, seconds: float, caller: str) -> None:
            for pool in pools:
                pool.engine.draining = pool is not pools[at]
            client = talk.client(f"127.0.0.{caller}").says(chat())
            talk.passes(seconds)
            pools[at].last.says(ok())
            client.sees(200)
            for pool in pools:
                pool.engine.draining = False

        for _ in range(FEWEST_TIMES):
            for at in range(3):
                served(at, 0.25, "4")
        restraint.look(monotonic() + WINDOW_S)
        for caller in in_time_for:
            served(0, 0.25, caller)
        for caller in slow_for:
            served(0, 2.0, caller)
        restraint.look(monotonic())

        def goes_to(caller: str) -> str:
            before = talk.asked
            client = talk.client(f"127.0.0.{caller}").says(chat())
            [at] = [at for at, asked in enumerate(talk.asked) if asked > before[at]]
            pools[at].last.says(ok())
            client.sees(200)
            return "abc"[at]

        assert goes_to("1") + goes_to("5") == goes
        restraint.close()


def test_what_it_is_refused_for_is_of_that_model_alone() -> None:
    """An engine that lacks a model is spared by all who ask for that, and by nobody who asks for another."""
    hold(-1.0)  # (the conversation's)
    two = {name: {"models": ("m", "n")} for name in "ab"}
    with deployed(two, plays={"a": poisoned(POISONS["a model's 404"])}, policy="ordered", retry_statuses=()) as row:
        core, pools = row.talk.core, row.talk.engines
        watched(pools)
        restraint = Restraint(
            Loop(), lambda: pools, core.table.named, NullLog(), core.room, lambda *told: None  # type: ignore[arg-type]
        )
        restraint.follow(Config(outlier_errors=5))
        restraint.look(monotonic())
        for at in range(10):
            row.ask(POISON, f"127.0.0.{1 + at % 2}")
        restraint.look(monotonic())
        assert [row.goes_to(asking(CHAT, model=model)) for model in "mnm"] == ["b", "a", "a"]
        restraint.close()
