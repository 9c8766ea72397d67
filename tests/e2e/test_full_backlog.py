"""An engine that takes no connection, because its backlog is full: the next one answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from tests.e2e.backlog import Crowded, crowded
from tests.e2e.engines import ANSWER, QUIET, fine, pool_engine, posts, scripted
from tests.support.client import chat
from tests.support.gateway import Running, running


@asynccontextmanager
async def before(full: Crowded, **settings: Any) -> AsyncIterator[tuple[Running, Any]]:
    """A gateway in front of ``full`` and of an engine that answers, both of them well."""
    async with scripted(fine) as other:
        engines = [EngineConfig(url=full.url, name="full"), EngineConfig(url=other.url, name="other")]
        async with running(engines, **{**QUIET, **settings}) as gw:
            await gw.until("both are well", lambda: pool_engine(gw, 0).healthy and pool_engine(gw, 1).healthy)
            await full.fill()
            yield gw, other


@pytest.mark.parametrize("policy", ["ordered", "round_robin"])
async def test_a_unix_socket_with_a_full_backlog_is_passed_over(policy: str, tmp_path: Path) -> None:
    async with crowded(tmp_path / "engine") as full, before(full, policy=policy) as (gw, other), await gw.client() as client:
        for _ in range(4):
            answer = await client.ask(chat("m"))
            assert (answer.status, answer.body) == (200, ANSWER)
        assert len(posts(other)) == 4
        await gw.idle()
        assert [record["engine"] for record in gw.records] == ["other"] * 4
        assert pool_engine(gw, 0).breaker.failures > 0, "it was asked, and did not count as having got anything"


async def test_whoever_dials_an_engine_that_is_removed_at_once_is_answered_by_the_next() -> None:
    """Nothing was sent: no engine has died of it, and it may go on without leave to retry."""
    async with (
        crowded() as full,
        before(full, policy="ordered", quarantine_after=1) as (gw, other),
        await gw.client() as client,
    ):
        gone = pool_engine(gw, 0)
        asked = asyncio.ensure_future(client.ask(chat("m")))
        await gw.until("it dials", lambda: gone.inflight == 1)
        await asyncio.sleep(0.02)
        assert not asked.done()
        gw.gateway.fleet.remove("full", at_once="a test")
        answer = await asked
        assert (answer.status, answer.body, len(posts(other))) == (200, ANSWER, 1)
        await gw.idle()
        assert (gw.records[-1]["engine"], gone.inflight, pool_engine(gw, 0).breaker.failures) == ("other", 0, 0)
