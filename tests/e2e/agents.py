"""Agents in this process, beside simulators, which dial in at a gateway of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from fastgw import EngineConfig
from fastgw.agent.asked import Asked
from fastgw.agent.engine import LocalEngine
from fastgw.agent.link import Link
from fastgw.behind import Behind, config_for
from fastgw.runners import RunnerDesk
from tests.support.gateway import Events, Running, running
from tests.support.runners import TOKEN

ADMIN = "sk-admin-of-these-tests"


@asynccontextmanager
async def dialled(**settings: Any) -> AsyncIterator[Running]:
    """A gateway without engines of its own, where runners on loopback may dial in."""
    settings = {
        "runner_auth_token": TOKEN, "runner_allowed_networks": ["127.0.0.0/8"], "control_listen": "127.0.0.1:0",
        "admin_key": ADMIN, "warm_connections": 0, **settings,
    }  # fmt: skip
    async with running([], **settings) as gw:
        yield gw


def desk(gw: Running) -> RunnerDesk:
    door = gw.gateway._door
    assert door is not None
    assert door.runners.desk is not None
    return door.runners.desk


def there(gw: Running) -> list[str]:
    """The runners that a gateway knows."""
    return [runner.id for runner in desk(gw).registry]


class Agent:
    """One that runs, until it is told to leave or its task is cancelled."""

    def __init__(self, link: Link, events: Events, task: asyncio.Task[None]) -> None:
        self.link = link
        self.events = events
        self.task = task

    async def leave(self) -> None:
        self.link.leave()
        async with asyncio.timeout(10):
            await self.task


@asynccontextmanager
async def agent(
    gateway: str,
    engine: str,
    id: str = "r1",
    *,
    token: Callable[[], str] = lambda: TOKEN,
    key: Callable[[], str] = str,
    tunnel: bool = False,
    kind: Any = "auto",
    adapters: Mapping[str, str] | None = None,
    pull: bool = True,
    dice: float = 0.0,
    gpus: Callable[[], Any] = lambda: None,
    **asked: Any,
) -> AsyncIterator[Agent]:
    """Who stands beside ``engine`` and dials in at ``gateway`` (URLs). ``token``, ``key`` (the engine's): what reads them."""
    parts = urlsplit(gateway)
    what = Asked(**{
        "gateway": f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}/ws/runners", "runner_id": id, "token": token,
        "http_port": urlsplit(engine).port or 80, "look_s": 0.05, "heartbeat_s": 0.5, "drain_s": 5.0, **asked,
    })  # fmt: skip
    events = Events()
    async with aiohttp.ClientSession() as http:
        local = LocalEngine(http, engine, kind, key, adapters or {}, pull)
        one = EngineConfig(url=engine, name="engine", api_key=local.key, warm_connections=0)
        front = Behind(config_for(one), events) if tunnel else None
        link = Link(http, local, what, events, lambda: dice, front, gpus)
        task = asyncio.create_task(link.run())
        try:
            yield Agent(link, events, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if front is not None:
                await front.stop()
