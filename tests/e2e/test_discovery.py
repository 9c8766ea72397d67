"""Engines that are found: they come, are drained and go under live streams, and no request is lost by it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw import Config, EngineConfig
from fastgw.config.changes import between
from fastgw.sim import SimConfig, Simulator
from fastgw.upstream.discovery import follower
from fastgw.upstream.fleet import FleetFull
from fastgw.upstream.identity import Listed
from tests.e2e.test_fleet import QUICK, of, stream, whole
from tests.support.client import RawResponse
from tests.support.gateway import Running, running
from tests.support.nameserver import Zone, nameserver

NAME = "workers.example"
SERVICE = "_http._tcp.workers.example"
PACED: dict[str, Any] = {"itl_ms": 3.0, "output_tokens": 20}
DRAINED: dict[str, Any] = {"itl_ms": 10.0, "output_tokens": 60}


@asynccontextmanager
async def crowd(gw: Running, callers: int = 8) -> AsyncIterator[list[RawResponse]]:
    """So many clients stream, one answer after the other; the list is whole when they have stopped."""
    answers: list[RawResponse] = []
    ended = False

    async def caller() -> None:
        while not ended:
            answers.append(await stream(gw))

    tasks = [asyncio.ensure_future(caller()) for _ in range(callers)]
    try:
        yield answers
    finally:
        ended = True
        await asyncio.gather(*tasks)


@asynccontextmanager
async def engines(count: int, sim: dict[str, Any] | None = None) -> AsyncIterator[list[Simulator]]:
    """Engines at 127.0.0.1, .2, ..., all on one port."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(Simulator(SimConfig(**(sim or PACED))))
        found = [first]
        for at in range(2, count + 1):
            config = SimConfig(host=f"127.0.0.{at}", port=first.port, **(sim or PACED))
            found.append(await stack.enter_async_context(Simulator(config)))
        yield found


def there(gw: Running) -> list[str]:
    return sorted(pool.engine.host for pool in gw.gateway.fleet.pools)


def named_there(gw: Running) -> list[str]:
    return [pool.engine.name for pool in gw.gateway.fleet.pools]


def name_of(one: Listed) -> str:
    return one.pool.engine.name


def a(zone: Zone, *hosts: int, ttl: int = 0) -> None:
    zone.records[NAME, "A"] = ttl, [f"127.0.0.{host}" for host in hosts]


def by_name(zone: Zone, port: int, **fields: Any) -> dict[str, Any]:
    engine = EngineConfig(url=f"http://{NAME}:{port}", discover="dns", name="sim", **fields)
    return {"engines": [engine], "discovery_dns": zone.address, "discovery_interval_s": 0.05, **QUICK}


async def test_engines_of_a_name_come_and_go_under_traffic_and_none_is_lost() -> None:
    async with nameserver() as zone, engines(3, DRAINED) as sims:
        a(zone, 1)
        settings = by_name(zone, sims[0].port)
        async with running(settings.pop("engines"), **settings) as gw:
            await gw.until("the first is well", lambda: [p.engine.healthy for p in gw.gateway.fleet.pools] == [True])
            async with crowd(gw) as answers:
                a(zone, 1, 2, 3)
                await gw.until("all are at work", lambda: min(one.state.running for one in sims) > 0)
                assert there(gw) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
                a(zone, 2, 3)
                await gw.until("it drains", lambda: of(gw, f"sim@127.0.0.1:{sims[0].port}").draining)
                assert of(gw, f"sim@127.0.0.1:{sims[0].port}").inflight, "what is under way there goes on"
                await gw.until("it is gone with its last stream", lambda: there(gw) == ["127.0.0.2", "127.0.0.3"])
                zone.broken = True
                asked = len(zone.asked)
                await gw.until("the server fails", lambda: len(zone.asked) > asked)
                await gw.until("which is told", lambda: any("cannot be looked up" in line for _, line, _ in gw.events.lines))
                assert there(gw) == ["127.0.0.2", "127.0.0.3"], "and what is there stays"
            assert len(answers) > 12
            assert all(whole(answer) for answer in answers)
            assert {record["outcome"] for record in gw.records} == {"ok"}
            assert [one.engine.name for one in gw.gateway.fleet.pools] == [
                f"sim@127.0.0.{at}:{sims[0].port}" for at in (2, 3)
            ]
            assert gw.gateway.fleet.origin_of(f"sim@127.0.0.2:{sims[0].port}") == "dns"


async def test_one_that_is_named_again_while_it_drains_stays() -> None:
    async with nameserver() as zone, engines(2, DRAINED) as sims:
        a(zone, 1, 2)
        settings = by_name(zone, sims[0].port)
        async with running(settings.pop("engines"), **settings) as gw:
            await gw.until("both are well", lambda: [p.engine.healthy for p in gw.gateway.fleet.pools] == [True, True])
            name = f"sim@127.0.0.2:{sims[0].port}"
            async with crowd(gw, 4) as answers:
                await gw.until("it is at work", lambda: of(gw, name).inflight > 0)
                engine = of(gw, name)
                a(zone, 1)
                await gw.until("it drains", lambda: engine.draining)
                a(zone, 1, 2)
                await gw.until("it takes requests again", lambda: not engine.draining)
                assert of(gw, name) is engine
            assert all(whole(answer) for answer in answers)


async def test_the_operators_word_holds_as_long_as_the_name_says_the_same() -> None:
    async with nameserver() as zone, engines(2) as sims:
        a(zone, 1, 2)
        settings = by_name(zone, sims[0].port)
        async with running(settings.pop("engines"), **settings) as gw:
            await gw.until("both are there", lambda: len(there(gw)) == 2)
            fleet, one, two = gw.gateway.fleet, *(f"sim@127.0.0.{at}:{sims[0].port}" for at in (1, 2))
            fleet.change(one, {"weight": 5})
            fleet.remove(two)
            asked = len(zone.asked)
            await gw.until("it is looked up again", lambda: len(zone.asked) > asked + 8)
            assert there(gw) == ["127.0.0.1"]
            assert of(gw, one).weight == 5
            a(zone, 1)
            asked = len(zone.asked)
            await gw.until("the name forgets it", lambda: len(zone.asked) > asked + 8)
            a(zone, 1, 2)
            await gw.until("it has come again", lambda: len(there(gw)) == 2)


async def test_servers_of_the_next_priority_come_where_none_of_the_first_is_well() -> None:
    async with nameserver() as zone, engines(2) as sims:
        zone.records["one.example", "A"] = 0, ["127.0.0.1"]
        zone.records["two.example", "A"] = 0, ["127.0.0.2"]
        port = sims[0].port
        zone.records[SERVICE, "SRV"] = 0, [f"0 5 {port} one.example.", f"1 5 {port} two.example."]
        settings = {"discovery_dns": zone.address, "discovery_interval_s": 0.05, **QUICK, "health_unhealthy_after": 1}
        async with running([EngineConfig(url=f"http://{SERVICE}", discover="srv", name="sim")], **settings) as gw:
            await gw.until("the first is well", lambda: [p.engine.healthy for p in gw.gateway.fleet.pools] == [True])
            assert there(gw) == ["127.0.0.1"]
            assert gw.gateway.fleet.pools[0].engine.weight == 5
            await sims[0].stop()
            await gw.until("the other has come", lambda: there(gw) == ["127.0.0.1", "127.0.0.2"])
            await gw.until("and is known", lambda: of(gw, f"sim@127.0.0.2:{port}").discovered_models)
            assert whole(await stream(gw))


async def test_where_nobody_is_well_is_looked_again_at_once_and_what_was_said_holds_while_the_server_fails(
    monkeypatch: Any,
) -> None:
    """However long the answer was to hold."""
    monkeypatch.setattr(follower, "ILL_S", 0.05)
    monkeypatch.setattr(follower, "AGAIN_S", 0.05)
    async with nameserver() as zone, engines(3) as sims:
        port = sims[0].port
        a(zone, 1, ttl=3600)
        zone.records["one.example", "A"] = 3600, ["127.0.0.2"]
        zone.records["two.example", "A"] = 3600, ["127.0.0.3"]
        zone.records[SERVICE, "SRV"] = 3600, [f"0 5 {port} one.example.", f"1 5 {port} two.example."]
        named = EngineConfig(url=f"http://{NAME}:{port}/", discover="dns", name="a", models=["m"])
        service = EngineConfig(url=f"http://{SERVICE}", discover="srv", name="s", models=["n"])
        settings = {**QUICK, "discovery_dns": zone.address, "health_unhealthy_after": 1}
        async with running([named, service], **settings) as gw:
            await gw.until("both are well", lambda: [p.engine.healthy for p in gw.gateway.fleet.pools] == [True, True])
            a(zone, 3, ttl=3600)
            await sims[0].stop()
            await gw.until("who took its place has come", lambda: f"a@127.0.0.3:{port}" in named_there(gw))
            await gw.until("and is well", lambda: of(gw, f"a@127.0.0.3:{port}").healthy)
            zone.broken = True
            await sims[1].stop()
            await gw.until("the spare one has come", lambda: f"s@127.0.0.3:{port}" in named_there(gw))
            await gw.until("and is well", lambda: of(gw, f"s@127.0.0.3:{port}").healthy)


async def test_each_entry_of_one_name_is_an_engine_of_its_own() -> None:
    async with nameserver() as zone, engines(1) as sims:
        a(zone, 1)
        port = sims[0].port
        zone.records[SERVICE, "SRV"] = 0, [f"0 5 {port} {NAME}."]
        url, service = f"http://{NAME}:{port}", f"http://{SERVICE}/base"
        entries = [EngineConfig(url=url, discover="dns", models=[model]) for model in "ab"]
        entries += [EngineConfig(url=service, discover="srv", models=[model]) for model in "cd"]
        entries.append(EngineConfig(url=f"{url}/ranked", discover="dns", kind="vllm", ranks=2, name="r"))
        async with running(entries, discovery_dns=zone.address, **QUICK) as gw:
            fleet = gw.gateway.fleet
            await gw.until("all have come", lambda: len(fleet.pools) == 6)
            found = [fleet.config_of(name) for name in named_there(gw)]
        assert sorted(one.models[0] for one in found if one.models) == ["a", "b", "c", "d"]
        assert sorted(one.rank for one in found) == [-1, -1, -1, -1, 0, 1]


async def test_a_file_is_followed_and_a_broken_one_changes_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    from fastgw.upstream.discovery import file

    monkeypatch.setattr(file, "EVERY_S", 0.02)
    monkeypatch.setattr(follower, "AGAIN_S", 0.02)
    path = tmp_path / "engines.json"

    def write(text: str) -> None:
        other = tmp_path / "new"
        other.write_text(text)
        os.replace(other, path)

    async with engines(3) as sims:
        urls = [one.url for one in sims]
        write(json.dumps([{"url": urls[0], "name": "one"}]))
        async with running([], engines_file=str(path), **QUICK) as gw:
            await gw.until("it is well", lambda: [p.engine.healthy for p in gw.gateway.fleet.pools] == [True])
            async with crowd(gw) as answers:
                write(json.dumps([{"targets": urls[1:]}, {"url": urls[0], "name": "one", "weight": 3}]))
                await gw.until("all are at work", lambda: min(one.state.running for one in sims) > 0)
                assert of(gw, "one").weight == 3
                write('[{"url":')
                await gw.until("it is broken", lambda: any("cannot be looked up" in line for _, line, _ in gw.events.lines))
                assert len(there(gw)) == 3
                write('[{"url": "http://a:1", "x": 1}]')
                await gw.until("the next mistake is told too", lambda: any("'x'" in str(line) for line in gw.events.lines))
                write(json.dumps([{"targets": urls[1:]}]))
                await gw.until("the first is gone", lambda: there(gw) == ["127.0.0.2", "127.0.0.3"])
            assert all(whole(answer) for answer in answers)
            told = [one.what for one in gw.gateway.fleet.events.since(0)[0]]
            assert told.count("discovery_failed") == 2
            assert "discovery_well" in told


def under_way_at(gw: Running, host: str) -> list[tuple[str, bool]]:
    """Who has something under way at an address, and whether it leaves."""
    listed = gw.gateway.fleet.listed()
    return [(one.pool.engine.name, one.leaving) for one in listed if one.pool.engine.host == host and one.pool.engine.inflight]


async def test_an_engine_that_becomes_another_serves_on_whatever_it_becomes(tmp_path: Path, monkeypatch: Any) -> None:
    """Another address, kind or name, all others at once, and another file: its streams end well, and none is refused."""
    from fastgw.upstream.discovery import file

    monkeypatch.setattr(file, "EVERY_S", 0.02)
    path, moved = tmp_path / "engines.json", tmp_path / "moved.json"

    def write(*engines: dict[str, Any], to: Path = path) -> None:
        (tmp_path / "new").write_text(json.dumps(engines))
        os.replace(tmp_path / "new", to)

    async with engines(3, DRAINED) as sims:
        first, second, third = (one.url for one in sims)
        write({"url": first, "name": "one"})
        async with running([], engines_file=str(path), **QUICK) as gw:
            await gw.until("it is well", lambda: [p.engine.healthy for p in gw.gateway.fleet.pools] == [True])
            async with crowd(gw) as answers:
                becomes: list[tuple[list[dict[str, Any]], str, list[str]]] = [
                    ([{"url": second, "name": "one"}], "127.0.0.1", ["one"]),
                    ([{"url": second, "name": "one", "kind": "openai"}], "127.0.0.2", ["one"]),
                    ([{"url": second, "name": "two"}], "127.0.0.2", ["two"]),
                    ([{"url": third}], "127.0.0.2", [third.removeprefix("http://")]),
                ]
                for wanted, before, names in becomes:
                    await gw.until("it is at work", lambda before=before: under_way_at(gw, before))
                    write(*wanted)
                    await gw.until(
                        "the new one is there, and the other ends what it has",
                        lambda before=before, names=names: set(names) <= set(named_there(gw))
                        and any(leaves for _, leaves in under_way_at(gw, before)),
                    )
                    await gw.until("it is gone", lambda names=names: [*map(name_of, gw.gateway.fleet.listed())] == names)
                write({"url": third}, to=moved)
                pool = gw.gateway.fleet.pools[0]
                written, named = EngineConfig(url=third), EngineConfig(url=third, name="own")
                for entries, source, same in (
                    ([], moved, True), ([written], "", True), ([], path, True), ([named], "", False), ([], moved, False),
                ):  # fmt: skip
                    write({"url": third}, to=path)
                    was = gw.gateway.config
                    after = replace(was, engines_file=str(source), engines=tuple(entries))
                    await gw.gateway.follow(between(was, after))
                    moved_at = len(answers)
                    await gw.until("all have been answered since", lambda at=moved_at: len(answers) > at + 16)
                    names = [one.name for one in entries] or [third.removeprefix("http://")]
                    await gw.until("it is the only one", lambda names=names: named_there(gw) == names)
                    assert (gw.gateway.fleet.pools == (pool,)) is same, "whoever else says the same of it changes nothing"
            assert all(whole(answer) for answer in answers), [answer for answer in answers if not whole(answer)][:1]
            assert {record["outcome"] for record in gw.records} == {"ok"}


async def test_a_source_that_the_settings_name_no_more_takes_its_engines_along(tmp_path: Path) -> None:
    path = tmp_path / "engines.json"
    async with engines(2) as sims:
        path.write_text(json.dumps([{"url": sims[0].url}]))
        async with running([], engines_file=str(path), **QUICK) as gw:
            await gw.until("it is there", lambda: len(there(gw)) == 1)
            gw.gateway.fleet.add(EngineConfig(url=sims[1].url, name="by hand"))
            before = gw.gateway.config
            after = Config(**{name: getattr(before, name) for name in ("port", "warm_connections", "health_interval_s")})
            await gw.gateway.follow(between(before, after))
            await gw.until("it is gone", lambda: [p.engine.name for p in gw.gateway.fleet.pools] == ["by hand"])


async def test_an_engine_that_is_there_already_is_told_once_and_left_alone(tmp_path: Path, monkeypatch: Any) -> None:
    from fastgw.upstream.discovery import file

    monkeypatch.setattr(file, "EVERY_S", 0.01)
    path = tmp_path / "engines.json"
    async with engines(1) as sims:
        path.write_text(json.dumps([{"url": sims[0].url, "name": "twin"}]))
        async with running([EngineConfig(url=sims[0].url, name="mine")], engines_file=str(path), **QUICK) as gw:
            await gw.until("it is told", lambda: any("not taken" in line for _, line, _ in gw.events.lines))
            await asyncio.sleep(0.1)
            assert [line for _, line, _ in gw.events.lines].count("engine found, but not taken") == 1
            assert [p.engine.name for p in gw.gateway.fleet.pools] == ["mine"]


async def test_nobody_comes_to_a_gateway_that_has_stopped(tmp_path: Path) -> None:
    async with engines(1) as sims:
        async with running([], **QUICK) as gw:
            fleet = gw.gateway.fleet
        with pytest.raises(FleetFull, match="stops"):
            fleet.add(EngineConfig(url=sims[0].url))
