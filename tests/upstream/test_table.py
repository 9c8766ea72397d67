"""Which engines may serve a model, and whose turn it is."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw import EngineConfig, RouteConfig
from fastgw.policy.routing.round_robin import MOST_MODELS, RoundRobin
from fastgw.stats import NullLog, Stats
from fastgw.upstream.deployments import Asker
from fastgw.upstream.fleet import deploy
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine


def place(port: int, **settings: Any) -> Pool:
    """A pool that never dials, and so needs no reactor."""
    engine = Engine(EngineConfig(url=f"http://127.0.0.1:{port}", **settings))
    return Pool(engine, None, Stats(), NullLog(), 1.0)  # type: ignore[arg-type]


def table(*places: Pool, previous: UpstreamTable | None = None) -> UpstreamTable:
    return UpstreamTable(places, previous)


def asking(model: str) -> Any:
    """What a pick sees of a request for it."""
    return SimpleNamespace(model=model, substitute="")


def turns(of: UpstreamTable, model: str, count: int) -> list[int]:
    group = of.group(model)
    assert group is not None
    picked = [RoundRobin().pick(group, (), asking(model)) for _ in range(count)]
    return [one.engine.port for one in picked if one is not None]


def test_a_model_goes_to_those_that_serve_it_and_others_to_those_that_say_nothing() -> None:
    """Whoever has told what it serves is asked for nothing else, unless it is said to take anything."""
    named, silent, learned = place(1, models=("a",)), place(2), place(3)
    anything, too = place(4, models=("*",)), place(5, models=("a", "*"))
    for one in (learned, anything):
        one.engine.discovered_models = ("b",)
    made = table(named, silent, learned, anything, too)
    assert set(turns(made, "a", 4)) == {1, 5}
    assert set(turns(made, "b", 4)) == {3, 4}
    assert set(turns(made, "c", 6)) == {2, 4, 5}
    assert set(turns(made, "", 6)) == {2, 3, 4}, "a session that names none"
    assert list(made.models) == ["a", "b"], "`*` is no model"
    assert table(learned, place(1, models=("a",))).group("c") is None
    assert table().group("a") is None
    places = learned, place(6, tenant="acme"), place(7, tenant="acme", models=("*",))
    theirs = UpstreamTable(places, None, (), deploy).deployed
    for flow, expected in (("tenant acme", {6, 7}), ("", None)):
        group = theirs.group("c", Asker(flow))
        assert (group and {pool.engine.port for pool in group.pools}) == expected


def test_a_name_means_the_same_with_the_tag_that_its_engine_takes_for_granted() -> None:
    """(Ollama's ``latest``.)"""
    ollama = place(1, kind="ollama", models=("llama3:latest", "org/q", "b:7b"))
    made = table(ollama, place(2, models=("llama3:latest",)))
    found = {name: made.group(name) is not None for name in ("llama3", "org/q:latest", "b", "b:7b:latest", "b:7b")}
    assert found == {"llama3": True, "org/q:latest": True, "b": False, "b:7b:latest": False, "b:7b": True}
    assert turns(made, "llama3", 2) == [1, 1], "an engine of another kind has no such name"
    assert list(made.models) == ["b:7b", "llama3:latest", "org/q"], "these are not listed"


def test_weights_are_kept_and_do_not_bunch_up() -> None:
    made = table(place(1, weight=3), place(2, weight=1))
    assert turns(made, "m", 8) == [1, 1, 2, 1] * 2
    heavy = turns(table(place(1, weight=1000), place(2, weight=1000), place(3, weight=1)), "m", 2001)
    assert Counter(heavy) == {1: 1000, 2: 1000, 3: 1}, "weights far apart are exact too"
    assert all(one != after for one, after in pairwise(heavy[:900]))


def test_a_thousand_engines_of_unequal_weights_that_serve_many_models_are_laid_out_in_a_moment() -> None:
    """What an engine that comes costs the loop, whatever it serves. (Counted in steps: clocks tell of the machine.)"""
    models = [f"m{at}" for at in range(20)]
    places = [place(at + 1, weight=at % 9 + 1, models=tuple(models[at % 7 : at % 7 + 10]), version="v1") for at in range(1000)]
    routes = [RouteConfig(model=model, versions={"v1": 1, "v2": 1}) for model in models[:10]]
    before = UpstreamTable(places, None, routes, deploy)
    calls = 0

    def count(frame: Any, event: str, about: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        made = UpstreamTable(places[1:], before, routes, deploy)
    finally:
        sys.setprofile(None)
    assert calls < 60_000
    assert made.group("m15") is not None


def test_two_models_that_alternate_take_turns_each_for_itself() -> None:
    places = place(1, models=("a",)), place(2, models=("a", "b")), place(3, models=("b",))
    made = table(*places)
    seen = [(turns(made, "a", 1)[0], turns(made, "b", 1)[0]) for _ in range(4)]
    assert seen == [(1, 2), (2, 3), (1, 2), (2, 3)]


@pytest.mark.parametrize("weights", [(1, 1), (1, 1, 1, 1), (2, 1), (3, 2, 1)])
@pytest.mark.parametrize("asked", ["ab", "aab", "abac", "abc"])
def test_models_of_the_same_engines_take_turns_each_for_itself(asked: str, weights: tuple[int, ...]) -> None:
    """In whatever order they are asked for: each is spread by weight, and all together are."""
    made = table(*[place(at + 1, weight=weight) for at, weight in enumerate(weights)])
    rounds = sum(weights)
    got = {model: Counter[int]() for model in asked}
    for _ in range(rounds):
        for model in asked:
            got[model][turns(made, model, 1)[0]] += 1
    for model, spread in got.items():
        assert spread == {at + 1: weight * asked.count(model) for at, weight in enumerate(weights)}


@pytest.mark.parametrize("weights", [(1, 1, 1), (2, 1)])
def test_models_that_are_asked_for_once_do_not_all_begin_at_the_first_engine(weights: tuple[int, ...]) -> None:
    """Whoever makes names up changes nobody's turns for long, and holds no more than so many."""
    made = table(*[place(at + 1, weight=weight) for at, weight in enumerate(weights)])
    spread = Counter(turns(made, f"m{at}", 1)[0] for at in range(30 * sum(weights)))
    assert spread == {at + 1: weight * 30 for at, weight in enumerate(weights)}
    group = made.group("m0")
    assert group is not None
    for at in range(2 * MOST_MODELS):
        turns(made, f"n{at}", 1)
    assert len(group.notes["turns"]) == MOST_MODELS + 1


def test_a_new_snapshot_goes_on_with_the_turns_of_the_last() -> None:
    places = place(1), place(2)
    first = table(*places)
    assert turns(first, "m", 1) == [1]
    third = place(3, models=("x",))
    second = table(*places, third, previous=first)
    assert second.version == 1
    assert turns(second, "m", 3) == [2, 1, 2]
    assert turns(second, "x", 2) == [3, 3]


@pytest.mark.parametrize(("ill", "expected"), [({1}, [2, 3, 2, 3]), ({1, 2}, [3, 3, 3, 3]), ({1, 2, 3}, [1, 2, 3, 1])])
def test_who_is_not_well_is_passed_over_while_another_is(ill: set[int], expected: list[int]) -> None:
    places = place(1), place(2), place(3)
    for one in places:
        one.engine.healthy = one.engine.port not in ill
    assert turns(table(*places), "m", 4) == expected


def test_no_engine_is_tried_twice() -> None:
    places = place(1), place(2), place(3)
    group = table(*places).group("m")
    assert group is not None
    tried: tuple[Any, ...] = ()
    while (pool := RoundRobin().pick(group, tried, asking("m"))) is not None:
        assert pool not in tried
        tried = (*tried, pool)
    assert len(tried) == 3


def test_other_weights_hold_in_the_next_snapshot() -> None:
    places = place(1), place(2)
    first = table(*places)
    assert turns(first, "m", 4) == [1, 2, 1, 2]
    places[0].engine.weight = 3
    assert turns(table(*places, previous=first), "m", 8) == [1, 1, 2, 1] * 2
