"""What a runner notices: that its engine has died, that its network has gone, that its secrets are others now; and what it says
of it. Agents of both kinds, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from fastgw.agent.engine import CannotRead
from tests.e2e.agents import Agent, agent, desk, dialled, there
from tests.e2e.paced import Paced
from tests.e2e.streams import event
from tests.support.client import RawClient
from tests.support.gateway import Running
from tests.support.requests import chat
from tests.support.runners import TOKEN
from tests.support.ways.h1 import H1Engine

pytestmark = pytest.mark.together

ANSWER = b'{"id":"x","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
OTHER = "another-token-of-these-tests"
both_kinds = pytest.mark.parametrize("tunnel", [False, True], ids=["plain", "tunnel"])


async def play(turn: Any) -> None:
    if b'"stream":true' in turn.request.body.replace(b" ", b""):
        await turn.head(b"content-type: text/event-stream")
        await turn.data(event("a"))
        await turn.given_up(60.0)
    else:
        await turn.head(b"content-type: application/json", length=len(ANSWER))
        await turn.data(ANSWER)
        await turn.end()


async def ask(gw: Running, **fields: Any) -> int:
    async with RawClient.connect(gw.url) as client:
        await client.send(chat(**fields))
        return (await client.read_response()).status


async def served(gw: Running, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while await ask(gw) != 200:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)


def said(one: Agent, line: str) -> list[Any]:
    return [about.get("reason") for _, what, about in one.events.lines if what == line]


@pytest.mark.parametrize("size", [10, 300_000], ids=["that passes as it is", "that is read"])
@pytest.mark.parametrize("under_way", [0, 6], ids=["between requests", "amid answers"])
async def test_an_engine_that_dies_behind_a_tunnel_and_is_back_is_asked_at_once(under_way: int, size: int) -> None:
    """Its breaker has half a minute: that its death is over only the runner can tell, who has to have seen it. (It looks but
    once a minute here.)"""
    async with (
        H1Engine(play) as engine,
        dialled(cb_failure_threshold=5, cb_recovery_timeout_s=30.0, health_interval_s=60.0) as gw,
        agent(gw.url, engine.url, tunnel=True, look_s=60.0),
    ):
        await served(gw)
        streams = [await gw.client() for _ in range(under_way)]
        for client in streams:
            await client.send(chat(stream=True, content="x" * size))
            await client.read_until(await client.read_head(), b'"a"')
        await engine.stop_listening()
        for connection in engine.connections:
            connection.reset()
        breaker = gw.gateway.fleet.pools[0].engine.breaker
        while not under_way and not breaker.opened_total:
            await ask(gw, content="x" * size)
        await gw.until("its breaker is open", lambda: breaker.opened_total > 0)
        await gw.until("its runner says so", lambda: gw.gateway.fleet.pools[0].engine.disowned)
        await engine.start()
        await served(gw)
        for client in streams:
            client.close()


class Network:
    """What lies between a runner and its gateway, until it swallows all that those say who are connected."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self.swallows: set[asyncio.StreamWriter] = set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.slow = False
        self.url = ""

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._to.hostname, self._to.port)
        self.writers |= {writer, back}
        with suppress(ConnectionError):
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(32768):
            if writer not in self.swallows:
                writer.write(data)
                await writer.drain()
            if self.slow:
                await asyncio.sleep(0.03)
        if writer not in self.swallows:
            writer.close()


@asynccontextmanager
async def network(url: str) -> AsyncIterator[Network]:
    made = Network(url)
    server = await asyncio.start_server(made.pass_on, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.close()
        await asyncio.sleep(0.05)


@both_kinds
async def test_a_runner_whose_network_swallows_all_dials_again(tunnel: bool) -> None:
    """The gateway takes its word at ``runner_timeout_s``; the kernel would try for a quarter of an hour."""
    async with (
        H1Engine(play) as engine,
        dialled(runner_timeout_s=60.0) as gw,
        network(gw.url) as between,
        agent(between.url, engine.url, tunnel=tunnel, ping_s=0.1, heartbeat_s=60.0) as one,
    ):
        await served(gw)
        await asyncio.sleep(0.5)
        assert said(one, "not connected to the gateway") == [], "who says nothing by itself, and answers, lives"
        between.swallows = set(between.writers)
        await gw.until("it has come again", lambda: len(said(one, "registered")) == 2)
        assert "nothing was heard" in said(one, "not connected to the gateway")[0]
        await served(gw)


async def test_a_network_that_is_slow_and_full_has_not_gone() -> None:
    """A pong comes behind all that was sent before it."""
    async with (
        H1Engine(play) as engine,
        dialled() as gw,
        network(gw.url) as between,
        agent(between.url, engine.url, tunnel=True, ping_s=0.05, heartbeat_s=60.0) as one,
    ):
        await served(gw)
        between.slow = True
        assert await ask(gw, content="x" * 1_500_000) == 200
        assert said(one, "not connected to the gateway") == []


@both_kinds
async def test_a_token_is_read_at_each_dial_and_a_file_that_is_gone_is_told_of(tunnel: bool) -> None:
    token = [TOKEN]

    def read() -> str:
        if not token:
            raise CannotRead("--token-file: No such file or directory")
        return token[0]

    async with H1Engine(play) as engine, dialled() as gw, agent(gw.url, engine.url, tunnel=tunnel, token=read) as one:
        await served(gw)
        desk(gw).terms.set(OTHER, 30.0, 60.0)
        token.clear()
        next(iter(desk(gw).registry)).session.close(1001, "again", 0.0)
        await gw.until("it has no token", lambda: len(said(one, "not connected to the gateway")) > 1)
        token.append(OTHER)
        await gw.until("it has come again", lambda: len(said(one, "registered")) == 2)
        assert said(one, "not connected to the gateway")[:2] == [
            "the gateway has closed (1001): again", "--token-file: No such file or directory",
        ]  # fmt: skip


async def test_an_engines_key_that_is_another_is_used_by_looks_and_by_requests() -> None:
    key = ["first-key"]
    async with (
        H1Engine(play) as engine,
        dialled() as gw,
        agent(gw.url, engine.url, tunnel=True, key=lambda: key[0]),
    ):
        await served(gw)
        key[0] = "second-key"

        def carried(method: bytes) -> bool:
            given = [one.header(b"authorization") for one in engine.requests if one.method == method]
            return b"Bearer second-key" in given

        async with asyncio.timeout(5):
            while not carried(b"POST"):
                assert await ask(gw) == 200
        assert carried(b"GET")


@both_kinds
async def test_two_runners_of_one_id_are_told_what_is_wrong(tunnel: bool) -> None:
    async with (
        H1Engine(play) as engine,
        H1Engine(play) as other,
        dialled() as gw,
        agent(gw.url, engine.url, tunnel=tunnel) as one,
    ):
        await gw.until("it is there", lambda: there(gw) == ["r1"])
        async with agent(gw.url, other.url, tunnel=tunnel):
            await gw.until("it has been told", lambda: bool(said(one, "not connected to the gateway")))
        why = said(one, "not connected to the gateway")[0]
        assert why == "the gateway has closed (1008): another runner of this id has come: give each its own --id"


@both_kinds
async def test_a_drain_sends_it_on_to_another_gateway_before_that_is_over(tunnel: bool) -> None:
    """It dials whoever is at its gateway's address: here another one, while the first has a stream under way."""
    paced = Paced()
    async with (
        paced.engine as engine,
        dialled() as gw,
        dialled() as other,
        agent(gw.url, engine.url, tunnel=tunnel) as one,
    ):
        await gw.until("it is there", lambda: there(gw) == ["r1"])
        client, there_too = await gw.client(), await other.client()
        await client.send(chat("sim", stream=True))
        head = await client.read_until(await client.read_head(), b"one")
        one.link._asked = msgspec.structs.replace(one.link._asked, gateway=f"ws{other.url[4:]}/ws/runners")
        stopping = asyncio.ensure_future(gw.gateway.stop(10.0))
        table = lambda: other.gateway.core.table.pools if other.gateway.core is not None else ()  # noqa: E731
        await other.until("it has dialled on", lambda: len(table()) == 1)
        assert (await there_too.ask(chat("sim"))).status == 200
        paced.go.set()
        await client.read_body(head)
        assert (head.complete, head.events()[-1]) == (True, "[DONE]")
        client.close()
        there_too.close()
        await stopping
