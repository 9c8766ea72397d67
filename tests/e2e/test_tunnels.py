"""``fastgw runner --tunnel``: an engine without a port for others, asked over the connection that its runner has dialled.

Its way of carrying requests is held to the cases of any other engine where those are run on all ways (``TUNNELS``); here is
what only a tunnel has: who may open one, what becomes of requests when it ends, and when another takes its place.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from fastgw.agent.tunnel import NoTunnel, dialled
from fastgw.protocol import runner_words as words
from fastgw.sim import Simulator
from fastgw.tunnels import MOST_NEW, Tunnel
from tests.e2e.agents import desk
from tests.e2e.streams import DONE, event
from tests.support import tls_client
from tests.support.answers import RawResponse
from tests.support.client import RawClient
from tests.support.gateway import Running, running
from tests.support.ports import closed_port
from tests.support.requests import chat
from tests.support.tunnels import TOKEN, InTunnel, tunnelled
from tests.support.ways.h1 import H1Engine, How
from tests.support.ws import handshake

JSON = b"content-type: application/json"
SSE = b"content-type: text/event-stream"
ANSWER = b'{"id":"x","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'


async def fine(turn: Any) -> None:
    await turn.head(JSON, length=len(ANSWER))
    await turn.data(ANSWER)
    await turn.end()


def wants_stream(turn: Any) -> bool:
    return bool(json.loads(turn.request.body).get("stream"))


async def starts(turn: Any) -> None:
    await turn.head(SSE)
    await turn.data(event("a"))
    await turn.given_up(60.0)


@asynccontextmanager
async def gateway(*engines: str, **settings: Any) -> AsyncIterator[Running]:
    async with running(engines, **{"runner_auth_token": TOKEN, "health_interval_s": 60.0, **settings}) as gw:
        yield gw


async def ask(gw: Running, **fields: Any) -> tuple[int, bytes]:
    client = await gw.client()
    try:
        answer = await client.ask(chat(**fields))
        return answer.status, answer.body
    finally:
        client.close()


def pools(gw: Running) -> tuple[Any, ...]:
    return gw.gateway.fleet.pools


async def streaming(gw: Running, **fields: Any) -> tuple[RawClient, RawResponse]:
    """A stream whose first event has come."""
    client = await gw.client()
    await client.send(chat(stream=True, **fields))
    answer = await client.read_head()
    return client, await client.read_until(answer, b'"a"')


@asynccontextmanager
async def program(gw: Running, engine: H1Engine, *words_: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, in a process of its own, once its tunnel is there."""
    command = [sys.executable, "-m", "fastgw", "runner", "--gateway", gw.url, "--engine", engine.url, "--tunnel", "--id", "den"]
    runner = await asyncio.create_subprocess_exec(
        *command, *words_, env={**os.environ, "RUNNER_AUTH_TOKEN": TOKEN}, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await gw.until("its tunnel is there", lambda: takes_requests(gw), 20.0)
        yield runner
    finally:
        if runner.returncode is None:
            runner.kill()
        await runner.wait()


def tunnel(gw: Running) -> Tunnel | None:
    """The oldest that lives."""
    door = gw.gateway._door
    assert door is not None
    desk = door.runners.desk
    return next(iter(desk.tunnels._live), None) if desk is not None else None


def takes_requests(gw: Running) -> bool:
    one = tunnel(gw)
    return one is not None and one.conn is not None and one.conn.spare() > 0


async def test_S4_14_a_tunnel_of_the_command_serves_drains_and_leaves() -> None:
    go_on = asyncio.Event()

    async def play(turn: Any) -> None:
        if wants_stream(turn):
            await turn.head(SSE)
            await turn.data(event("a"))
            await go_on.wait()
            await turn.data(DONE)
        else:
            await fine(turn)
            return
        await turn.end()

    async with H1Engine(play) as engine, gateway() as gw, program(gw, engine, "--look", "0.1") as runner:
        assert await ask(gw) == (200, ANSWER)
        client, answer = await streaming(gw)
        runner.send_signal(signal.SIGTERM)
        await gw.until("it drains", lambda: all(pool.engine.draining for pool in pools(gw)))
        assert runner.returncode is None
        go_on.set()
        assert (await client.read_body(answer)).body == event("a") + DONE
        client.close()
        assert await asyncio.wait_for(runner.wait(), 10.0) == 0
        await gw.until("it is gone", lambda: not pools(gw))


async def test_a_tunnel_that_breaks_is_a_lost_engine() -> None:
    """What has not begun to be answered goes elsewhere; what has ends in the error event, and its engine stops working."""

    async def silent(turn: Any) -> None:
        if wants_stream(turn):
            await starts(turn)
        await turn.given_up(60.0)

    async with (
        H1Engine(silent) as first,
        H1Engine(fine) as other,
        gateway(policy="ordered") as gw,
        tunnelled(gw, first.url, other.url) as (runner, _),
    ):
        client, begun = await streaming(gw)
        unanswered = asyncio.ensure_future(ask(gw))
        await gw.until("both are there", lambda: len(first.turns) == 2)
        assert runner.socket is not None
        runner.socket.end.cut()
        assert await unanswered == (200, ANSWER)
        assert b'"upstream_error"' in (await client.read_body(begun)).body
        assert not begun.complete
        client.close()
        for turn in first.turns:
            await turn.given_up(2.0)
        assert await ask(gw) == (200, ANSWER)  # and new ones go there at once


async def test_who_asks_for_the_only_tunnel_in_the_moment_in_which_it_is_dialled_again_waits_for_it() -> None:
    async with H1Engine(fine) as engine, gateway() as gw, tunnelled(gw, engine.url) as (runner,):
        assert runner.socket is not None
        runner.socket.end.cut()
        await gw.until("it is away", lambda: pools(gw)[0].engine.away)
        waits = [asyncio.ensure_future(ask(gw)) for _ in range(3)]
        await gw.until("all wait", lambda: gw.gateway.stats.queue_waiting_open == 3)
        await runner.dial(gw)
        assert await asyncio.gather(*waits) == [(200, ANSWER)] * 3


async def test_the_newer_connection_wins_and_the_older_lives_for_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def play(turn: Any) -> None:
        if not wants_stream(turn):
            await fine(turn)
            return
        await turn.head(SSE)
        await turn.data(event("a"))
        await go_on.wait()
        await turn.data(DONE)
        await turn.end()

    async with H1Engine(play) as engine, gateway() as gw, tunnelled(gw, engine.url) as (old,):
        client, answer = await streaming(gw)
        pool = gw.gateway.fleet.pools[0]
        new = InTunnel(old.id, engine.url)
        try:
            await new.dial(gw)
            assert gw.gateway.fleet.pools == (pool,)  # the same engine goes on
            assert await ask(gw) == (200, ANSWER)
            assert (new.behind.stats.exchanges_total, old.behind.stats.exchanges_total) == (1, 1)
            # (Where there are too many, those go that never registered, and no other.)
            monkeypatch.setattr("fastgw.tunnels.MOST_LIVE", 2)
            url = gw.url.replace("http", "ws") + "/ws/runners"
            stranger = await dialled(new.behind.reactor, url)
            async with asyncio.timeout(2):
                assert (await stranger.receive()).type is aiohttp.WSMsgType.CLOSED
            assert old.socket is not None
            assert old.socket.close_code is None
            go_on.set()
            assert (await client.read_body(answer)).body == event("a") + DONE
            client.close()
            await gw.until("the older has closed", lambda: old.socket.close_code is not None)
            assert old.socket.close_code == 1008
            assert await ask(gw) == (200, ANSWER)
            await gw.gateway.stop()
            assert new.socket is not None
            assert new.socket.close_code == 1001
        finally:
            await new.stop()


async def test_a_request_that_its_engine_has_not_seen_goes_to_another() -> None:
    async with (
        H1Engine(fine) as other,
        gateway(policy="ordered") as gw,
        tunnelled(gw, f"http://127.0.0.1:{closed_port()}", other.url),
    ):
        assert await ask(gw) == (200, ANSWER)
    async with gateway(policy="ordered") as gw, tunnelled(gw, f"http://127.0.0.1:{closed_port()}"):
        assert (await ask(gw))[0] == 502


@pytest.mark.parametrize("size", [10, 300_000], ids=["that passes as it is", "that is read"])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_request_whose_engine_dies_behind_a_tunnel_that_lives_goes_to_another(size: int, how: How) -> None:
    """It had it, and nobody does the work any more: as a runner without a tunnel that is gone."""

    async def dies(turn: Any) -> None:
        await turn.breaks(how)

    content = "x" * size
    async with H1Engine(dies) as first, H1Engine(fine) as other, gateway(policy="ordered") as gw:
        async with tunnelled(gw, first.url, other.url):
            assert await ask(gw, content=content) == (200, ANSWER)
            assert (len(first.turns), len(other.turns)) == (1, 1)
        await gw.until("nobody waits for these", lambda: not pools(gw))
        async with tunnelled(gw, first.url):
            assert (await ask(gw, content=content))[0] == 502


async def test_more_requests_at_once_than_a_client_may_have() -> None:
    waiting = asyncio.Event()

    async def waits(turn: Any) -> None:
        await waiting.wait()
        await fine(turn)

    async with H1Engine(waits) as engine, gateway() as gw, tunnelled(gw, engine.url):
        asks = [asyncio.ensure_future(ask(gw)) for _ in range(300)]
        await gw.until("all are under way", lambda: len(engine.turns) == 300)
        waiting.set()
        assert set(await asyncio.gather(*asks)) == {(200, ANSWER)}


async def test_websockets_pass_and_forms() -> None:
    async with Simulator() as sim, gateway() as gw, tunnelled(gw, sim.url), aiohttp.ClientSession() as http:
        async with http.ws_connect(gw.url + "/v1/realtime?model=sim") as ws:
            for payload in (b"one", bytes(100_000)):
                await ws.send_bytes(payload)
                assert (await ws.receive_bytes(timeout=5)) == payload
        async with http.ws_connect(gw.url + "/v1/responses") as ws:
            for _ in range(2):
                await ws.send_json({"type": "response.create", "model": "sim", "input": "a" * 100_000, "max_output_tokens": 2})
                while (await ws.receive_json(timeout=5))["type"] != "response.completed":
                    pass
        form = aiohttp.FormData({"model": "sim"})
        form.add_field("file", bytes(600_000), filename="a.wav", content_type="audio/wav")
        async with http.post(gw.url + "/v1/audio/transcriptions", data=form) as answer:
            assert answer.status == 200
            assert "text" in await answer.json()
        async with http.post(gw.url + "/v1/embeddings", json={"model": "sim", "input": ["a"]}) as answer:
            assert answer.status == 200
        async with http.get(gw.url + "/v1/nothing") as answer:
            assert answer.status == 404
        await gw.idle()


async def test_a_runner_that_is_killed_is_gone_in_two_seconds() -> None:
    async with (
        H1Engine(starts) as first,
        H1Engine(fine) as other,
        gateway(other.url, policy="ordered") as gw,
        program(gw, first) as runner,
    ):
        name = pools(gw)[0].engine.name
        gw.gateway.fleet.drain(name)  # so that the next goes to the runner's
        client, answer = await streaming(gw)
        gw.gateway.fleet.undrain(name)
        runner.kill()
        begun = monotonic()
        assert b'"upstream_error"' in (await client.read_body(answer)).body
        client.close()
        await first.turns[0].given_up(2.0)  # the kernel has closed its connection
        await gw.until("it is gone", lambda: len(pools(gw)) == 1)
        assert monotonic() - begun < 2.5
        assert await ask(gw) == (200, ANSWER)


@pytest.mark.soak
@pytest.mark.deadline_s(60)
async def test_a_runner_that_freezes_is_found_out_by_a_ping() -> None:
    """It has ``PING_S`` (10 s) to say something by itself, and as long to answer, from the next look on."""
    async with (
        H1Engine(starts) as first,
        H1Engine(fine) as other,
        gateway(other.url, policy="ordered") as gw,
        program(gw, first) as runner,
    ):
        name = pools(gw)[0].engine.name
        gw.gateway.fleet.drain(name)
        runner.send_signal(signal.SIGSTOP)
        client = await gw.client()
        begun = monotonic()
        await client.send(chat())
        await asyncio.sleep(0.2)
        gw.gateway.fleet.undrain(name)
        answer = await client.read_response(timeout=40.0)
        assert (answer.status, answer.body) == (200, ANSWER)
        assert 9.0 < monotonic() - begun < 40.0
        client.close()


async def test_a_large_body_and_a_large_answer_pass() -> None:
    async def echoes(turn: Any) -> None:
        body = turn.request.body
        await turn.head(JSON, length=len(body))
        await turn.data(body)
        await turn.end()

    async with H1Engine(echoes) as engine, gateway() as gw, tunnelled(gw, engine.url):
        text = "ab" * 2_000_000
        status, body = await ask(gw, messages=[{"role": "user", "content": text}])
        assert (status, body.count(b"ab")) == (200, 2_000_000)
        for times in (10, 500_000, 10):  # (the same head, one way and the other)
            status, body = await ask(gw, messages=[{"role": "user", "content": "ab" * times}])
            assert (status, body.count(b"ab")) == (200, times)


async def test_through_tls() -> None:
    async with H1Engine(fine) as engine, running([], runner_auth_token=TOKEN, **tls_client.settings()) as gw:
        one = InTunnel("r", engine.url)
        try:
            trusting = tls_client.shared()
            await one.dial(gw, ca=trusting.ca)
            await gw.until("it is there", lambda: bool(gw.gateway.fleet.pools and gw.gateway.fleet.pools[0].connections))
            assert await ask(gw) == (200, ANSWER)
        finally:
            await one.stop()


# --- who may
async def test_a_wrong_token_opens_nothing() -> None:
    async with gateway() as gw:
        one = InTunnel("r", "http://127.0.0.1:1")
        try:
            with pytest.raises(AssertionError, match="AUTH_FAILED"):
                await one.dial(gw, token="wrong-0123456789abcdef")
            assert gw.gateway.fleet.pools == ()
            await gw.until("it is told", lambda: any(line == "runner refused" for _, line, _ in gw.events.lines))
            (told,) = [about for _, line, about in gw.events.lines if line == "runner refused"]
            assert told["runner"] == "r"
            assert told["reason"].startswith("AUTH_FAILED: This is not the token")
        finally:
            await one.stop()


async def test_bytes_before_register_close_it() -> None:
    async with gateway() as gw:
        one = InTunnel("r", "http://127.0.0.1:1")
        try:
            made = await dialled(one.behind.reactor, gw.url.replace("http", "ws") + "/ws/runners")
            assert made.end.wire is not None
            made.end.wire.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            async with asyncio.timeout(2):
                assert (await made.receive()).type is aiohttp.WSMsgType.CLOSED
            assert made.close_code == 1003
        finally:
            await one.stop()


async def test_of_too_many_that_do_not_register_the_oldest_goes() -> None:
    async with gateway() as gw:
        one = InTunnel("r", "http://127.0.0.1:1")
        url = gw.url.replace("http", "ws") + "/ws/runners"
        made = []
        try:
            made = [await dialled(one.behind.reactor, url) for _ in range(MOST_NEW + 1)]
            async with asyncio.timeout(2):
                assert (await made[0].receive()).type is aiohttp.WSMsgType.CLOSED
            assert [one.close_code for one in made] == [1013] + [None] * MOST_NEW
        finally:
            for socket in made:
                socket.end.cut()
            await one.stop()


async def test_those_who_never_register_are_so_many_at_most_though_they_answer_no_close() -> None:
    async with gateway() as gw:
        asked = handshake(lines=b"Sec-WebSocket-Protocol: fastgw.tunnel.1\r\n")
        parts = urlsplit(gw.url)
        made = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(2 * MOST_NEW + 40)]
        try:
            for reader, writer in made:
                writer.write(asked + b"\x01\xfe\xff\xff" + bytes(4) + b"x" * 1000)  # (half a text)
                await reader.readuntil(b"\r\n\r\n")
            assert len(desk(gw).tunnels) <= 2 * MOST_NEW
        finally:
            for _, writer in made:
                writer.close()


async def test_the_token_in_the_url_is_refused() -> None:
    async with gateway() as gw:
        one = InTunnel("r", "http://127.0.0.1:1")
        try:
            made = await dialled(one.behind.reactor, gw.url.replace("http", "ws") + f"/ws/runners?token={TOKEN}")
            async with asyncio.timeout(2):
                answer = words.from_gateway((await made.receive()).data)
            assert isinstance(answer, words.Error)
            assert answer.code == words.AUTH_FAILED
        finally:
            await one.stop()


async def test_the_control_listener_takes_none() -> None:
    async with gateway(control_listen="127.0.0.1:0") as gw:
        one = InTunnel("r", "http://127.0.0.1:1")
        try:
            with pytest.raises(NoTunnel, match="port for clients"):
                await dialled(one.behind.reactor, gw.gateway.control_url.replace("http", "ws") + "/ws/runners")
        finally:
            await one.stop()


async def test_an_idle_tunnel_stays_and_one_that_speaks_no_http2_ends() -> None:
    async with gateway() as gw:
        one = InTunnel("r", "http://127.0.0.1:1")
        try:
            made = await one.dial(gw)
            await gw.until("it is there", lambda: bool(gw.gateway.fleet.pools and gw.gateway.fleet.pools[0].connections))
            await gw.until("it takes requests", lambda: takes_requests(gw))
            live = tunnel(gw)
            assert live is not None
            conn = live.conn
            assert conn is not None
            for _ in range(3):
                conn.expired(monotonic())  # as if so long had passed that others close
                await asyncio.sleep(0.01)
            assert made.close_code is None
            engine = pools(gw)[0].engine
            engine.healthy = False  # as requests may find it that wait for too long
            assert gw.gateway._care is not None
            await gw.gateway._care.health.round()
            assert engine.healthy
            assert made.end.wire is not None
            made.end.wire.write(b"no frame of HTTP/2" * 100)
            async with asyncio.timeout(2):
                while (await made.receive()).type is not aiohttp.WSMsgType.CLOSED:
                    pass
            await gw.until("it is lost", lambda: engine.healthy is False)
        finally:
            await one.stop()
