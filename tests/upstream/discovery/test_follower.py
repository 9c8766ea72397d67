"""How long what a source has said holds while it cannot be looked at. (Who comes and goes: `e2e/test_discovery.py`.)"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgw import Config, EngineConfig
from fastgw.stats import NullLog
from fastgw.upstream.discovery import follower
from fastgw.upstream.discovery.source import Found, LookFailed
from fastgw.upstream.identity import Origin
from tests.upstream.test_fleet import engine, fleet


class Said:
    """A source that says what a test does: engines, or why it says nothing. Time is the test's too."""

    key = "dns a.example"
    origin: Origin = "dns"
    misses = 2

    def __init__(self, stale_s: float) -> None:
        self.stale_s = stale_s
        self.says: list[EngineConfig] | str = []
        self.looks = 0
        self.now = 1000.0

    async def look(self) -> Found:
        self.looks += 1
        if isinstance(self.says, str):
            raise LookFailed(self.says)
        return Found([self.says], 0.0)


@pytest.mark.parametrize("stale_s", [60.0, 0.0])
async def test_what_a_name_came_to_holds_for_a_time_and_is_there_again_with_its_next_answer(
    stale_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said(stale_s)
    for name in ("AGAIN_S", "ILL_S", "MEET_S"):
        monkeypatch.setattr(follower, name, 0.0)
    monkeypatch.setattr(follower, "monotonic", lambda: said.now)
    monkeypatch.setattr(follower, "sources_of", lambda config: [said])
    tasks: list[asyncio.Task[None]] = []

    def spawn(name: str, work: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    async with fleet() as (made, told):
        followed = follower.Follower(made, NullLog(), spawn)

        async def after(says: list[EngineConfig] | str, seconds: float) -> list[str]:
            said.says = says
            said.now += seconds
            looks = said.looks
            async with asyncio.timeout(5):
                while said.looks < looks + 3:  # noqa: ASYNC110 - what is waited for is a plain field of the source
                    await asyncio.sleep(0)
            return [pool.engine.name for pool in made.pools]

        followed.follow(Config())
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
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
