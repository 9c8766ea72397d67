"""CASES, group E: an engine that cannot be reached, dies or closes (E1 … E3), and what its client sees. One class per row.

``E nnn`` is an OpenAI-shaped refusal without internals; ``K`` is proved by a second request on the same connection; an
abort is an answer that its own framing never completes. Each gateway's leftovers and access records are checked when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.e2e.engines import ANSWER, QUIET, _at_once, ask, fine, ok, pool_engine, posts, refused, rss_bytes, scripted
from tests.support.client import RawClient, chat
from tests.support.gateway import Running, running
from tests.support.ports import closed_port


async def probed(gw: Running) -> None:
    """Wait until the first round of probes is over."""
    core = gw.gateway.core
    assert core is not None
    await gw.until("engines probed", lambda: all(pool.engine.probed_at for pool in core.table.pools))


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose backlog is full: its kernel drops every further SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        time.sleep(0.01)
        yield listener.getsockname()[1]


class TestE1:
    """Cannot be reached (refuses; unknown name; SYN black hole, full backlog): the next engine within the connect timeout,
    else E502 or E504; one failure on its account."""

    async def test_E1_an_engine_that_stops_listening_fails_over_and_costs_it_one_failure_each(self) -> None:
        async with (
            scripted(fine) as first,
            scripted(fine) as second,
            running([first.url, second.url], policy="ordered", health_unhealthy_after=1000, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await probed(gw)
            await first.stop_listening()
            for number in range(1, 6):
                assert (await ask(client)).status == 200
                assert pool_engine(gw).failures_total == number
            assert (len(posts(first)), len(posts(second))) == (0, 5)
            assert pool_engine(gw, 1).failures_total == 0
            assert gw.stats.failovers_total == 5

    @pytest.mark.parametrize("count", [1, 2, 5])
    async def test_E1_all_refuse(self, count: int) -> None:
        urls = [f"http://127.0.0.1:{closed_port()}" for _ in range(count)]
        async with running(urls, **QUIET) as gw, RawClient.connect("127.0.0.1", gw.port) as client:
            for _ in range(3):
                refused(await ask(client), 502)
            assert all(pool_engine(gw, at).failures_total == 3 for at in range(count))

    async def test_E1_a_unix_socket_that_nobody_has_opened(self, tmp_path: Path) -> None:
        async with (
            scripted(fine) as engine,
            running([f"unix:{tmp_path}/none.sock", engine.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
            assert len(posts(engine)) == 1

    async def test_E1_an_unknown_name(self) -> None:
        nowhere = "http://no-such-engine.invalid:8000"
        async with (
            scripted(fine) as engine,
            running([nowhere, engine.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
        async with running([nowhere], **QUIET) as gw, RawClient.connect("127.0.0.1", gw.port) as client:
            refused(await ask(client), 502, "no-such-engine")
            refused(await ask(client), 502, "no-such-engine")


class TestE2:
    """Dies without a response byte: replayed where nothing can have been acted on (a reused connection; by policy also a
    fresh one, once), else E502. Never after a response byte."""

    async def test_E2_closes_before_reading(self) -> None:
        async def shut(conn: ScriptedConnection) -> None:
            conn.close()

        async with (
            ScriptedEngine(shut) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            refused(await ask(client), 502)

    @pytest.mark.parametrize("how", ["fin", "rst"])
    async def test_E2_the_retry_policy_sends_it_on_exactly_once(self, how: str) -> None:
        async def dies(conn: ScriptedConnection, _: RawRequest) -> None:
            await _at_once(conn, how)

        async with (
            scripted(dies) as first,
            scripted(dies) as second,
            scripted(fine) as third,
            running([first.url, second.url, third.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            assert [len(posts(one)) for one in (first, second, third)] == [1, 1, 0]
        async with (
            scripted(dies) as first,
            scripted(fine) as second,
            running([first.url, second.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            body = chat(content="ü" * 40_000).split(b"\r\n\r\n", 1)[1]
            answer = await ask(client, body=body)
            assert (answer.status, answer.body) == (200, ANSWER)
            assert posts(first)[0].body == posts(second)[0].body == body

    async def test_E2_the_replay_itself_is_not_replayed(self) -> None:
        async def only_the_first(conn: ScriptedConnection, _: RawRequest) -> None:
            if len(posts(engine)) > 1:
                conn.reset()
            else:
                await conn.send(ok())

        async with (
            scripted(only_the_first) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
            refused(await ask(client), 502)
            assert len(posts(engine)) == 3

    @pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
    @pytest.mark.parametrize("policy", ["round_robin", "ordered"])
    async def test_E2_nothing_is_repeated_after_a_response_byte(self, said: bytes, policy: str) -> None:
        async def second_time_unlucky(conn: ScriptedConnection, _: RawRequest) -> None:
            if len(posts(engine)) == 1:
                await conn.send(ok())
                return
            await conn.send(said)
            await asyncio.sleep(0.005)
            conn.close()

        async with (
            scripted(second_time_unlucky) as engine,
            scripted(fine) as other,
            running([engine.url, other.url], policy=policy, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answers = [await ask(client) for _ in range(3 if policy == "round_robin" else 2)]
            refused(answers[-1], 502)
            assert len(posts(engine)) == 2

    @pytest.mark.deadline_s(60)
    async def test_E2_a_thousand_deaths_leave_no_memory_behind(self) -> None:
        async def dies(conn: ScriptedConnection, _: RawRequest) -> None:
            await _at_once(conn, random.choice(["fin", "rst"]))

        async with (
            scripted(dies) as engine,
            running([engine.url], cb_failure_threshold=0, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for turn in range(1200):
                refused(await ask(client), 502)
                engine.requests.clear()
                engine.connections[:] = engine.connections[-2:]
                if turn == 200:
                    base = rss_bytes()
            assert rss_bytes() - base < 5_000_000
            assert gw.stats.exchanges_total == 1200


class TestE3:
    """Closes an idle connection exactly when it is used again, 1,000 tries: no client ever sees it, and no generation is
    made twice."""

    @pytest.mark.deadline_s(60)
    async def test_E3_a_thousand_tries_at_the_very_moment(self) -> None:
        """The engine closes after 20 idle ms; clients come back after 20 ms, give or take one."""
        generated: list[bytes] = []

        async def handler(conn: ScriptedConnection) -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    request = await conn.read_request(0.02)
                    if request.method == b"POST":
                        generated.append(request.body)
                    await conn.send(ok())
                    continue
                return

        async def one(gw: Running, name: int, tries: int) -> None:
            dice = random.Random(name)
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                for turn in range(tries):
                    answer = await ask(client, content=f"{name}/{turn}")
                    assert (answer.status, answer.body) == (200, ANSWER)
                    await asyncio.sleep(dice.uniform(0.019, 0.0215))

        async with ScriptedEngine(handler) as engine, running([engine.url], **QUIET) as gw:
            await asyncio.gather(*(one(gw, name, 100) for name in range(10)))
            assert len(generated) == len(set(generated)) == 1000
            assert [record["status"] for record in gw.records] == [200] * 1000
            reconnected = len(engine.connections)
            assert reconnected > 50, "the engine hardly ever closed: this tried nothing"

    @pytest.mark.deadline_s(60)
    async def test_E3_a_thousand_requests_on_connections_that_just_died(self) -> None:
        """The FIN crosses the request: the engine has the bytes in its buffer and closes without reading them."""
        generated: list[bytes] = []

        async def handler(conn: ScriptedConnection) -> None:
            request = await conn.read_request()
            if request.method == b"POST":
                generated.append(request.body)
            await conn.send(ok())
            if request.method == b"POST":
                await conn.read_until(b"POST ")  # the next request has begun to arrive: close, as an engine's timer would
                conn.reset() if len(generated) % 2 else conn.close()

        async with (
            ScriptedEngine(handler) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for turn in range(1000):
                answer = await ask(client, content=str(turn))
                assert (answer.status, answer.body) == (200, ANSWER)
            assert len(generated) == len(set(generated)) == 1000
            assert gw.stats.replays_total == 999

    async def test_E3_the_idle_limit_is_learned_so_that_replays_become_rare(self) -> None:
        async with (
            Simulator(SimConfig(keep_alive_s=0.7)) as sim,
            running([sim.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client, model="sim")).status == 200
            await asyncio.sleep(0.8)  # the engine's close is seen while idle
            before = gw.stats.replays_total
            for _ in range(2):
                assert (await ask(client, model="sim")).status == 200
                await asyncio.sleep(0.66)  # too close to the engine's limit: the gateway has given the connection back
            assert gw.stats.replays_total == before
            assert sim.state.served - sum(r.method == "GET" for r in sim.requests) == 3
