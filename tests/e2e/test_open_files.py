"""Open files: they are shared out before they run out, and a lack of them is nobody else's failure."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.limits.breaker import CLOSED
from fastgw.sim import SimConfig, Simulator
from tests.e2e.served import served
from tests.support.client import chat, request
from tests.support.gateway import Running, running

FILES = 200
ROOM = 61  # five of eight of them, less 64


@contextlib.asynccontextmanager
async def no_more_files() -> AsyncIterator[None]:
    """This process has all of its files open already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    await asyncio.sleep(0.05)  # what is about to be closed is
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in held:
            os.close(file)


class NoBuffers(socket.socket):
    """What a system without memory for another connection says."""

    def connect_ex(self, address: Any, /) -> int:
        return errno.ENOBUFS


def warnings(gw: Running) -> list[str]:
    return [message for level, message, _ in gw.events.lines if level == "warning"]


async def test_one_address_leaves_room_for_the_engines(tmp_path: Path) -> None:
    """As many clients as find room, each with a request under way; one more is told so, and the engine stays well."""
    async with (
        Simulator(SimConfig(models=("m",), ttft_ms=300, slots=2 * ROOM)) as sim,
        served(tmp_path, "--engine", sim.url, "--control-listen", "127.0.0.1:0", files=FILES) as gw,
    ):
        log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        told = [line for line in log if line["level"] == "warning" and "open_files" in line]
        assert [(line["open_files"], line["max_connections"], line["connections"]) for line in told] == [(FILES, 16384, ROOM)]
        clients = [await gw.client() for _ in range(ROOM)]
        try:
            for client in clients:
                await client.send(chat(stream=True, max_tokens=3))
            async with await gw.client() as late:
                answer = await late.read_response()
                assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
            for client in clients:
                answer = await client.read_response(10.0)
                assert (answer.status, answer.events()[-1]) == (200, "[DONE]")
            assert (await clients[0].ask(request("GET", "/health"))).json()["healthy_engines"] == 1
        finally:
            for client in clients:
                client.close()
    assert "too few open files" not in (tmp_path / "log").read_text()


async def test_a_lack_of_files_is_no_verdict_on_an_engine() -> None:
    async with (
        Simulator(SimConfig(models=("m",))) as sim,
        running([sim.url], warm_connections=0, engine_max_idle=0, cb_failure_threshold=2, max_connections=100) as gw,
    ):
        core: Any = gw.gateway.core
        engine = core.table.pools[0].engine
        await gw.until("the engine is well", lambda: engine.healthy is True)
        async with await gw.client() as client:
            async with no_more_files():
                for _ in range(3):
                    await core.health.round()
                    answer = await client.ask(chat())
                    assert (answer.status, answer.error["code"]) == (503, "engine_busy")
                    assert answer.header("retry-after") == "1"
            assert (engine.healthy, engine.failures, engine.failures_total) == (True, 0, 0)
            assert (engine.breaker.state, engine.breaker.failures) == (CLOSED, 0)
            assert warnings(gw) == ["too few open files"]
            assert (await client.ask(chat())).status == 200


async def test_a_lack_of_memory_for_a_connection_is_no_verdict_on_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Simulator(SimConfig(models=("m",))) as sim,
        running([sim.url], warm_connections=0, engine_max_idle=0, cb_failure_threshold=2) as gw,
    ):
        core: Any = gw.gateway.core
        engine = core.table.pools[0].engine
        await gw.until("the engine is well", lambda: engine.healthy is True)
        async with await gw.client() as client:
            with monkeypatch.context() as patched:
                patched.setattr(socket, "socket", NoBuffers)
                for _ in range(3):
                    answer = await client.ask(chat())
                    assert (answer.status, answer.error["code"]) == (503, "engine_busy")
            assert (engine.healthy, engine.failures, engine.failures_total) == (True, 0, 0)
            assert (engine.breaker.state, engine.breaker.failures) == (CLOSED, 0)
            assert (await client.ask(chat())).status == 200


async def test_an_engine_of_which_nothing_is_known_stays_unjudged() -> None:
    async with (
        Simulator(SimConfig(models=("m",))) as sim,
        running([sim.url], warm_connections=0, health_interval_s=60) as gw,
    ):
        core: Any = gw.gateway.core
        engine = core.table.pools[0].engine
        await gw.until("the engine is well", lambda: engine.healthy is True)
        engine.healthy = None
        async with no_more_files():
            await core.health.round()
            await core.health.round()
        assert (engine.healthy, engine.failures) == (None, 0)
        await core.health.round()
        assert engine.healthy is True
