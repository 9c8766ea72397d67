"""When whoever a source names no longer leaves, and for how long its word holds. (Under load: `e2e/test_discovery.py`.)"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastgw import Config, EngineConfig
from fastgw.engines import EngineDesk
from fastgw.observe.latencies import Latencies
from fastgw.stats import NullLog
from fastgw.upstream.absent import ENGINE, RUNNER, Who
from fastgw.upstream.discovery import follower
from fastgw.upstream.discovery.source import Found, LookFailed
from fastgw.upstream.fleet import Fleet
from fastgw.upstream.identity import Origin
from fastgw.upstream.pool import Pool
from tests.upstream.test_fleet import Told, engine, fleet


class Said:
    """A source that says what a test does: engines, or why it says nothing. Time is the test's too."""

    misses = 2
    like: EngineConfig | None = None

    def __init__(self, stale_s: float, key: str = "dns a.example", origin: Origin = "dns") -> None:
        self.key, self.origin = key, origin
        self.stale_s = stale_s
        self.says: list[EngineConfig] | str = []
        self.looks = 0
        self.turns = 0  # of the loop that a look takes
        self.now = 1000.0
        self.forsake: Callable[[], None] = lambda: None  # it is no source any more

    async def look(self) -> Found:
        self.looks += 1
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if isinstance(self.says, str):
            raise LookFailed(self.says)
        return Found([self.says], 0.0)


@asynccontextmanager
async def following(
    said: Said, monkeypatch: pytest.MonkeyPatch, sources: list[Said] | None = None
) -> AsyncIterator[tuple[Fleet, Told]]:
    """A fleet that follows one source, or those, which are looked at again and again."""
    for name in ("AGAIN_S", "ILL_S"):
        monkeypatch.setattr(follower, name, 0.0)
    monkeypatch.setattr(follower, "monotonic", lambda: said.now)
    sources = [said] if sources is None else sources
    monkeypatch.setattr(follower, "sources_of", lambda config: sources)
    tasks: list[asyncio.Task[None]] = []

    def spawn(name: str, work: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    async with fleet() as (made, told):
        follows = told.follower = follower.Follower(made, NullLog(), spawn)
        follows.follow(Config())

        def forsake() -> None:
            sources.clear()
            follows.follow(Config())

        said.forsake = forsake
        yield made, told
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@pytest.mark.parametrize("stale_s", [60.0, 0.0])
async def test_what_a_name_came_to_holds_for_a_time_and_is_there_again_with_its_next_answer(
    stale_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(stale_s)
    async with following(said, monkeypatch) as (made, told):

        async def after(says: list[EngineConfig] | str, seconds: float) -> list[str]:
            said.says = says
            said.now += seconds
            looks = said.looks
            async with asyncio.timeout(5):
                while said.looks < looks + 3:  # noqa: ASYNC110 - what is waited for is a plain field of the source
                    await asyncio.sleep(0)
            return [pool.engine.name for pool in made.pools]

        assert await after([engine(1)], 0) == ["e1"]
        assert await after("no answer", 59) == ["e1"]
        assert await after([engine(1)], 0) == ["e1"], "an answer begins it anew"
        assert await after("no answer", 59) == ["e1"]
        assert await after("does not exist", 2) == ([] if stale_s else ["e1"])
        assert await after([engine(1)], 100) == ["e1"]
        happened = [one.what for one in made.events.since(0)[0] if one.what.startswith("discovery")]
        failed, well = "discovery_failed", "discovery_well"
        assert happened == [failed, well, failed, failed, *(["discovery_stale"] if stale_s else []), well]
        assert told.left == (["e1"] if stale_s else [])


@pytest.mark.parametrize("goes", ["missed", "stale", "drained before", "removed", "another source"])
async def test_what_an_engine_served_is_waited_for_unless_the_operator_has_taken_it_away(
    goes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients' libraries give up at a 404, and come again after a 503."""
    said = Said(60.0)
    said.says = "no answer"
    async with following(said, monkeypatch) as (made, _), asyncio.timeout(5):

        def waited(*names: str) -> list[str]:
            found = [made.absent.refusal([name], said.now, 1.0) for name in names]
            return [error.kind.name if error is not None else "" for error in found]

        async def there(count: int) -> None:
            looks = said.looks + (0 if goes == "another source" and not count else 3)
            while len(made.pools) != count or said.looks < looks:  # noqa: ASYNC110 - plain fields
                await asyncio.sleep(0)

        await there(0)
        assert waited("a", "any") == ["engine_away"] * 2, "nobody knows yet what is there"
        said.says = [engine(1)]
        await there(1)
        assert waited("a", "any") == ["", ""]
        made.find("e1").engine.discovered_models = ("a", "b")
        if goes == "drained before":
            made.drain("e1")
        if goes == "another source":
            made.absent.went(Who(ENGINE, "e9"), ["a", "b"], said.now, source=said.key)  # (which had gone before)
        if goes == "removed":
            made.absent.open = True
            made.absent.went(Who(RUNNER, "r1"), ["b"], said.now)  # (which served the same, and is restarted)
            EngineDesk(made, Latencies(made.engines)).remove("e1", "")
        elif goes == "another source":
            said.forsake()
        else:
            said.now += 61.0 if goes == "stale" else 0.0
            said.says = "no answer" if goes == "stale" else []
        await there(0)
        by_itself = goes in ("missed", "stale")
        others = ["", "runner_away" if goes == "removed" else ""]
        assert waited("a", "b", "any") == (["engine_away"] * 2 if by_itself else others) + [""]
        if by_itself:
            said.says = [engine(1)]
            await there(1)
            assert waited("a", "b") == ["engine_away"] * 2, "it has not been asked yet what it serves"
            made.find("e1").engine.discovered_models = ("a",)
            await there(1)
            assert waited("b") == [""], "it has said itself what it has"


@pytest.mark.parametrize("answers", [True, False])
async def test_others_leave_when_whoever_comes_has_been_asked_or_does_not_answer(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nobody knows what it serves, and a model would have no engine."""
    monkeypatch.setattr(follower, "LOOK_S", 0.001)
    monkeypatch.setattr(follower, "MEET_S", 5.0 if answers else 0.05)
    said = Said(0.0)
    said.misses = 1
    said.says = [engine(1)]
    async with following(said, monkeypatch) as (made, _), asyncio.timeout(5):

        async def there(*names: str) -> None:
            while [pool.engine.name for pool in made.pools] != [*names]:  # noqa: ASYNC110 - a plain field of the fleet
                await asyncio.sleep(0)

        await there("e1")
        said.says = [engine(2)]
        await there("e1", "e2")
        await asyncio.sleep(0.02)
        assert not made.find("e1").engine.draining
        if answers:
            made.find("e2").engine.probed_at = 1.0
        await there("e2")


@pytest.mark.parametrize(
    "after", [{"e1": 2, "e2": 1}, {"e1": 2, "e2": 3}, {"e2": 1, "e3": 2, "e1": 3}], ids=["swap", "shift", "round"]
)
async def test_names_may_change_places_among_addresses_with_one_look(
    after: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(0.0)
    said.misses = 1
    said.says = [engine(port) for port in (1, 2, 3)]
    async with following(said, monkeypatch) as (made, _), asyncio.timeout(5):
        while len(made.pools) < 3:  # noqa: ASYNC110 - a plain field of the fleet
            await asyncio.sleep(0)
        for pool in made.pools:
            pool.engine.probed_at = 1.0
        said.says = [engine(port, name) for name, port in after.items()]
        looks = said.looks
        while said.looks < looks + 2:
            await asyncio.sleep(0)
            for pool in made.pools:
                pool.engine.probed_at = 1.0
        assert {one.config.name: int(one.config.url[-1]) for one in made.listed() if not one.leaving} == after


# Who names an engine: whether the settings do, and which sources there are, of which the last one does where they do not.
PLACES: dict[str, tuple[bool, list[Origin]]] = {
    "settings": (True, []), "file": (False, ["file"]), "name": (False, ["dns"]), "both": (False, ["file", "dns"]),
    "settings and a file": (True, ["file"]),
}  # fmt: skip
BECOMES: dict[str, EngineConfig] = {
    "as it is": engine(1), "another name": engine(1, "e9"), "another address": engine(2, "e1"), "another": engine(2),
    "another kind": engine(1, kind="vllm"),
}  # fmt: skip
WAYS = [
    ["settings", "file"], ["settings", "name"], ["settings", "both"], ["file", "settings"], ["name", "settings"],
    ["file", "name"], ["both", "settings"], ["settings and a file", "file"], ["settings", "file", "settings"],
    ["file", "settings and a file", "file"],
]  # fmt: skip


@pytest.mark.parametrize("becomes", BECOMES)
@pytest.mark.parametrize("way", WAYS, ids=" to ".join)
async def test_whoever_comes_to_name_an_engine_its_model_has_one_all_the_while(
    way: list[str], becomes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the only one that serves it. A file that goes on to name what the settings name has it when those do no more."""
    monkeypatch.setattr(follower, "LOOK_S", 0.0)
    known: dict[Origin, Said] = {"file": Said(0.0, "file a", "file"), "dns": Said(0.0)}
    for said in known.values():
        said.misses, said.turns = 1, 10
    sources: list[Said] = []

    def asked(pools: Sequence[Pool]) -> None:
        for pool in pools:
            pool.engine.healthy, pool.engine.probed_at, pool.engine.discovered_models = True, 1.0, ("m",)

    async with following(known["file"], monkeypatch, sources) as (made, told), asyncio.timeout(5):
        for step, place in enumerate(way, 1):
            one = engine(1) if step < len(way) else BECOMES[becomes]
            written, origins = PLACES[place]
            sources[:] = [known[origin] for origin in origins]
            if not written:
                for source in sources:
                    source.says = [one] if source is sources[-1] else []
            config = Config(engines=[one] if written else [], engines_file="a" if sources else "", warm_connections=0)
            assert not made.clashes(config, told.follower.abandoned(config))
            come = await made.prepare(config)
            asked(come)  # (as a gateway does, before others go)
            made.follow(config, come)
            told.follower.follow(config)
            now = ("config" if written else origins[-1], one.url, one.name, False)
            turns = 0
            while [(it.origin, it.config.url, it.config.name, it.leaving) for it in made.listed()] != [now]:
                group = made.table.group("m")
                engines = [pool.engine for pool in group.pools] if group is not None else []
                served = any(one.usable() or one.last_resort() for one in engines)
                assert served or step == 1, f"nobody serves it, {turns} turns after the step to {place}"
                await asyncio.sleep(0)
                turns += 1
                if turns % 20 == 0:
                    asked(made.pools)
                    made.publish()
            asked(made.pools)
            made.publish()
            for source in sources:
                looks = source.looks
                while source.looks < looks + 2:  # noqa: ASYNC110 - a plain field of the source
                    await asyncio.sleep(0)
