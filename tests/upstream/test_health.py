"""What probes and traffic say of an engine together: its verdict, its breaker, where its name leads.

(How engines fall ill and come back over sockets: ``tests/e2e/test_cases_j_breaker.py``.)
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from fastgw import Config
from fastgw.limits.breaker import CLOSED, HALF_OPEN, OPEN, PROBE
from fastgw.net.clock import monotonic
from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.upstream import health as healths
from fastgw.upstream.health import Health
from tests.support.client import RawClient, chat
from tests.support.gateway import Events, Running, running
from tests.support.requests import request
from tests.support.scripts import ok
from tests.upstream.test_fleet import engine, fleet


async def status(gw: Running, data: bytes) -> int:
    async with RawClient.connect(gw.url) as client:
        return (await client.ask(data)).status


@pytest.mark.parametrize(("dials", "then"), [([True] * 3, CLOSED), ([True, False, True], HALF_OPEN), ([False] * 3, HALF_OPEN)])
async def test_a_good_probe_moves_an_open_breaker_without_traffic(
    dials: list[bool], then: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is closed where all that failed was to connect, which the probe has just done, however long that was so; and else a
    request may try."""

    async def answers(*_: Any) -> tuple[int, bytes]:
        return 200, b"{}"

    monkeypatch.setattr("fastgw.upstream.health.get", answers)
    monkeypatch.setattr("fastgw.upstream.lists.get", answers)
    async with fleet(engine(1), cb_failure_threshold=3) as (made, _):
        events = Events()
        looked: list[int] = []
        pool = made.find("e1")
        breaker = pool.engine.breaker
        health = Health(
            lambda: made.pools, Config(cb_failure_threshold=3), events, made.publish, lambda: looked.append(breaker.state)
        )
        await health.probe(pool)
        for dial in dials:
            breaker.failed(monotonic(), 0.0, False, dial=dial)
        health.breaker_moved(pool.engine)
        assert breaker.state == OPEN
        await health.probe(pool)
        assert breaker.state == then
        assert looked[-1] == then, "whoever waits is looked at"
        assert ("circuit breaker closed" in [line for _, line, _ in events.lines]) == (then == CLOSED)
        if all(dials):
            for _ in range(4):
                breaker.failed(monotonic(), 0.0, False, dial=True)
            assert breaker.admit(breaker.until) == PROBE
            breaker.failed(breaker.until, 0.0, True, dial=True)
            await health.probe(pool)
            assert breaker.state == CLOSED


@pytest.mark.parametrize("by", ["traffic", "a probe"])
async def test_a_name_that_leads_nowhere_is_looked_up_at_once(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more often than once in so long."""

    async def play(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(ok(b"{}", b"connection: close"))

    where = ["127.0.0.9"]  # nobody is there
    looked = 0

    async def looks_up(self: Any, host: str, port: int, **about: Any) -> Any:
        nonlocal looked
        if host != "moved.example":
            return await real(self, host, port, **about)
        looked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (where[0], port))]

    loop = type(asyncio.get_running_loop())
    real = loop.getaddrinfo
    monkeypatch.setattr(loop, "getaddrinfo", looks_up)
    often = by == "a probe"
    settings: dict[str, Any] = {"warm_connections": 0, "health_interval_s": 0.05 if often else 60.0, "cb_failure_threshold": 3}
    async with ScriptedEngine(play) as there, running([f"http://moved.example:{there.port}"], **settings) as gw:
        monkeypatch.setattr(healths, "LOOK_UP_S", 0.3)
        (pool,) = gw.gateway.fleet.pools
        await gw.until("it was asked", lambda: pool.engine.healthy is False)
        where[0] = "127.0.0.1"
        began, before = monotonic(), looked
        while by == "traffic" and await status(gw, chat("m")) != 200:
            assert monotonic() - began < 10.0
        await gw.until("it is well", lambda: pool.engine.healthy)
        assert await status(gw, chat("m")) == 200
        assert pool.engine.breaker.state == CLOSED
        assert looked - before <= 2 + (monotonic() - began) / 0.25, "(a loop's timers may be a bit early)"


async def test_who_answers_traffic_is_well_however_slow_its_probe_path_is() -> None:
    """What readiness says and where requests go is the same; until nobody can connect, or it says itself that it is ill."""
    slow = [True]
    said = [b"200 OK"]

    async def play(conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        if asked.method == b"GET":
            if slow[0]:
                await asyncio.sleep(0.3)
            await conn.send(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % said[0])
            return
        await conn.send(ok(b"{}", b"connection: close"))

    settings: dict[str, Any] = {"warm_connections": 0, "health_interval_s": 0.05, "health_timeout_s": 0.1}
    async with ScriptedEngine(play) as there, running([there.url], **settings) as gw:
        (pool,) = gw.gateway.fleet.pools
        await gw.until("it seems ill", lambda: pool.engine.healthy is False)
        assert await status(gw, chat("m")) == 200
        await gw.until("it is well", lambda: pool.engine.healthy)
        assert await status(gw, request("GET", "/ready")) == 200
        await gw.until("nobody asks it for long", lambda: pool.engine.healthy is False)
        slow[0], said[0] = False, b"503 Busy"
        assert await status(gw, chat("m")) == 200
        probed = pool.engine.probed_at
        await gw.until("it was asked", lambda: pool.engine.probed_at > probed)
        assert pool.engine.healthy is False, "it says so itself"
