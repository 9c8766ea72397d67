"""Engines on their way out: their names and addresses are free at once, and what is under way at them goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

import fastgw.upstream.fleet as module
import fastgw.upstream.leaving as leaving_module
from fastgw import Config, EngineConfig
from fastgw.runners import FleetYard
from fastgw.stats import NullLog
from fastgw.upstream.fleet import FleetFull
from fastgw.upstream.identity import EngineExists, Origin, UnknownEngine
from fastgw.upstream.leaving import LOOK_S, Leaving
from tests.upstream.test_fleet import engine, fleet, serving

# What an engine becomes while something is under way there.
OTHERS = [{"url": "http://127.0.0.1:2"}, {"kind": "vllm"}, {"name": "other"}]


@pytest.mark.parametrize("other", OTHERS, ids=["url", "kind", "name"])
@pytest.mark.parametrize("way", ["follow", "added", "instead"])
async def test_who_leaves_is_in_nobodys_way_and_ends_what_it_has(way: str, other: dict[str, Any]) -> None:
    """The new one has all that comes from the same moment on, by whichever way it comes."""
    bound = engine(1, max_concurrent=2)
    async with fleet(*([bound] if way == "follow" else [])) as (made, told):
        if way != "follow":
            made.add(bound, "file")
        old = made.find("e1")
        old.engine.discovered_models, old.engine.inflight = ("m",), 1
        made.publish()
        one = EngineConfig(**{"url": "http://127.0.0.1:1", "name": "e1", "max_concurrent": 2, **other})
        if way == "follow":
            config = Config(engines=[one], warm_connections=0)
            made.follow(config, await made.prepare(config))
        elif way == "added":
            made.remove("e1")
            made.add(one, "file")
        else:
            made.add(one, "file", ["e1"])
            if one.name != "e1":
                made.remove("e1")
        new = made.find(one.name)
        assert new is not old
        assert serving(made, "m") == [one.name], "it is believed to serve the same"
        assert (old.engine.draining, new.engine.draining) == (True, False)
        shown = [(one.pool.engine.name, one.config.url, one.leaving) for one in made.listed()]
        assert sorted(shown) == sorted([(one.name, one.url, False), ("e1", "http://127.0.0.1:1", True)])
        happened = [(one.what, one.engine) for one in made.events.since(0)[0] if one.what in ("engine_added", "engine_removed")]
        if one.name == "e1":
            assert happened[-2:] == [("engine_removed", "e1"), ("engine_added", "e1")], "a name has one engine at a time"
        new.engine.inflight, new.engine.healthy = 1, True
        assert new.engine.usable() is ("url" in other), "a machine has no more under way than one engine may"
        assert new.engine.full() is ("url" not in other)
        old.engine.inflight = 0
        assert new.engine.usable(), "and what one gives up is the other's at once"
        await asyncio.sleep(3 * LOOK_S)
        assert [one.pool for one in made.listed()] == [new]
        assert (old.engine.beside, new.engine.beside) == ((), ())
        assert told.left == ["e1"]


async def test_engines_that_change_places_share_with_who_was_there_and_others_at_an_address_do_not() -> None:
    config = Config(engines=[engine(2, "e1", max_concurrent=2), engine(1, "e2", max_concurrent=2)], warm_connections=0)
    apart = engine(1, "apart", max_concurrent=2, models=("other",))
    for others in ([], [apart]):
        settled = [engine(1, max_concurrent=2, models=("m",) if others else ()), engine(2, max_concurrent=2), *others]
        async with fleet(*settled) as (made, _):
            for pool, count in zip(made.pools, (1, 2, 2), strict=False):
                pool.engine.inflight = count
            if others:
                assert [pool.engine.full() for pool in made.pools] == [False, True, True]
                continue
            made.follow(config, await made.prepare(config))
            assert [(pool.engine.name, pool.engine.under_way()) for pool in made.pools] == [("e1", 2), ("e2", 1)]


async def test_one_that_leaves_and_is_named_again_stays_as_it_is_named_then() -> None:
    async with fleet() as (made, told):
        pool = made.add(engine(1), "file")
        pool.engine.inflight = 1
        made.remove("e1")
        assert made.add(engine(1, weight=7), "admin") is pool
        assert (made.leaves("e1"), pool.engine.draining, pool.engine.weight) == (False, False, 7)
        assert (made.origin_of("e1"), told.left) == ("admin", [])


async def test_a_name_that_others_had_too_ends_for_all_of_them_and_only_who_has_it_takes_requests_again() -> None:
    async with fleet() as (made, _):
        pools = []
        for port in (1, 2, 3):
            pools.append(made.add(engine(port, "e"), "file", ["e"]))
            pools[-1].engine.inflight = 1
        assert [one.config.url[-1] for one in made.listed()] == ["3", "1", "2"]
        made.remove("e")
        made.add(engine(3, "f"))
        with pytest.raises(EngineExists, match="'f' has this address"):
            made.undrain("e")
        assert made.remove("e", at_once="a test")
        assert [pool.gone_at_once for pool in pools] == [True, True, True]
        assert made.remove("e", at_once="there is only what is under way there") is True
        with pytest.raises(UnknownEngine):
            made.undrain("e")


async def test_a_crowd_that_leaves_keeps_no_place_from_those_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENGINES", 2)
    async with fleet() as (made, _):
        for port in (1, 2):
            made.add(engine(port)).engine.inflight = 1
            made.remove(f"e{port}")
        made.add(engine(3))
        made.add(engine(4), "file", ["e3"])
        with pytest.raises(FleetFull, match="remove one first"):
            made.add(engine(5), "file", ["e1"])


async def test_a_runner_that_comes_again_has_its_name_and_what_is_under_way() -> None:
    """At the same address its engine goes on; from another one, or as another kind, the name is the new one's."""
    async with fleet() as (made, _):
        yard = FleetYard(made, NullLog(), lambda: None)
        made.left = yard.forget
        first = yard.take_in(engine(1, "r"))
        for port, again in ((1, True), (2, False)):
            first.inflight = 1
            yard.lose(first, "a test")
            assert yard.free_name("r") == "r"
            found = yard.take_in(engine(port, "r"))
            assert (found is first, yard.holds(found), found.draining) == (again, True, False)
        await asyncio.sleep(0)
        assert yard.holds(found), "what its predecessor left behind does not end it"
        assert (yard.holds(first), len(made)) == (False, 1)


@pytest.mark.parametrize("who", ["admin", "file", "dns", "srv"])
@pytest.mark.parametrize(("port", "name"), [(2, "r"), (1, "other")], ids=["its name", "its address"])
async def test_a_runner_keeps_nobody_out_whom_the_operator_names(who: Origin, port: int, name: str) -> None:
    async with fleet() as (made, _):
        yard = FleetYard(made, NullLog(), lambda: None)
        made.left = yard.forget
        runners = yard.take_in(engine(1, "r"))
        made.add(engine(port, name), who)
        await asyncio.sleep(0)
        assert [(one.config.name, one.config.url[-1], one.origin) for one in made.listed()] == [(name, str(port), who)]
        assert not yard.holds(runners)


async def test_an_engine_that_settings_name_as_a_runner_is_theirs() -> None:
    async with fleet() as (made, _):
        yard = FleetYard(made, NullLog(), lambda: None)
        made.left = yard.forget
        yard.take_in(engine(1, "r"))
        config = Config(engines=[engine(2, "r")], warm_connections=0)
        made.follow(config, await made.prepare(config))
        await asyncio.sleep(0)
        assert [(one.config.url[-1], one.origin) for one in made.listed()] == [("2", "config")]


@pytest.mark.parametrize(("who", "fields"), [("runner", {}), ("file", {"tenant": "t"})])
async def test_who_says_itself_what_it_serves_or_is_anothers_is_no_heir(who: Origin, fields: dict[str, Any]) -> None:
    async with fleet() as (made, _):
        made.add(engine(1), "file")
        made.find("e1").engine.discovered_models = ("m",)
        made.remove("e1")
        made.add(EngineConfig(url="http://127.0.0.1:2", name="e1", **fields), who)
        assert made.find("e1").engine.discovered_models == ()


@pytest.mark.parametrize("replaced", [False, True], ids=["its name is its own", "its name is another's"])
async def test_what_waits_for_one_that_leaves_and_is_not_well_goes_elsewhere(
    replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine may have vanished: nobody says so, and a first byte has minutes to come."""
    monkeypatch.setattr(leaving_module, "ILL_S", 4 * LOOK_S)
    broken: list[str] = []
    left = Leaving(asyncio.get_running_loop(), NullLog(), lambda pool: None)

    def leaves(name: str, healthy: bool | None) -> Any:
        about = SimpleNamespace(name=name, inflight=1, healthy=healthy, parts=lambda: None)
        pool: Any = Mock(engine=about)
        pool.break_off_waiting.side_effect = lambda: broken.append(name)
        if replaced:
            left.replace(pool, engine(1, name), "file")
        else:
            left.begins(pool)
        return about

    leaves("well", True)
    leaves("not asked yet", None)
    wavers = leaves("wavers", False)
    leaves("ill", False)
    await asyncio.sleep(2.5 * LOOK_S)
    assert broken == []
    wavers.healthy = True
    await asyncio.sleep(4 * LOOK_S)
    assert broken == ["ill"]
    left.close()
