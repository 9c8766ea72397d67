"""What bodies may hold of memory together: beyond it new ones come again later, and what lives goes on."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from fastgw import Config
from fastgw.housekeeping import Housekeeping
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, chat, chat_body, request
from tests.support.gateway import Running, running

BUDGET = 1 << 20
MOST = BUDGET * 7 // 8  # of one alone
BODY = 226_000
LARGE = chat_body("m", content="x" * (BODY - 70))
UPLOADS = "/v1/audio/transcriptions"


class Gate:
    """An engine that answers when it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.seen = 0

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[Running]:
        async def handler(conn: ScriptedConnection) -> None:
            while True:
                seen = await conn.read_request()
                if seen.method == b"POST":
                    self.seen += 1
                    await self.open.wait()
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

        settings = {"memory_budget_bytes": BUDGET, "max_body_bytes": MOST, **settings}
        async with ScriptedEngine(handler) as engine, running([engine.url], **settings) as gw:
            yield gw
            self.open.set()


def overloaded(answer: RawResponse) -> None:
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert (answer.header("retry-after"), answer.complete) == ("1", True)


async def test_bodies_at_engines_count_until_they_are_answered() -> None:
    gate = Gate()
    async with gate.running() as gw, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(4)]
        for client in clients:
            await client.send(chat(body=LARGE))
        await gw.until("the engine has four", lambda: gate.seen == 4)
        assert 4 * BODY - 1000 < gw.stats.body_bytes_open <= BUDGET
        async with RawClient.connect(gw.url) as late:
            overloaded(await late.ask(chat(body=LARGE)))
            assert (await late.ask(request("GET", "/healthz"))).status == 200, "what needs no memory goes on"
            gate.open.set()
            for client in clients:
                assert (await client.read_response()).status == 200
            assert (await late.ask(chat(body=LARGE))).status == 200
        assert gw.stats.body_bytes_open == 0
        assert gw.stats.limited_memory == 1


async def test_a_crowd_is_known_however_short_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives memory back looks four times a second: one that came and went between two looks has left as much behind."""
    looks: list[int] = []
    monkeypatch.setattr(Housekeeping, "_watch_bodies", lambda self, most: looks.append(most))
    gate = Gate()
    async with gate.running() as gw, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(4)]
        for client in clients:
            await client.send(chat(body=LARGE))
        await gw.until("the engine has four", lambda: gate.seen == 4)
        gate.open.set()
        for client in clients:
            assert (await client.read_response()).status == 200
        assert gw.stats.body_bytes_open == 0
        many = len(looks)
        await gw.until("it has been looked at", lambda: len(looks) > many + 1)
        assert max(looks) > 4 * BODY - 1000
        assert looks[-1] == 0


async def test_bodies_that_are_arriving_count_as_they_come() -> None:
    """Not by what they announce: nobody takes room by a word. And those that have begun have the last of it."""
    gate = Gate()
    async with gate.running() as gw, AsyncExitStack() as stack:
        wire = chat(body=LARGE)
        idle = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(10)]
        for client in idle:
            await client.send(wire[:300])
        await gw.until("ten have begun", lambda: gw.stats.exchanges_open == 10)
        assert gw.stats.body_bytes_open < 3000
        for client in idle[:4]:
            await client.send(wire[300:-1])
        await gw.until("four are nearly whole", lambda: gw.stats.body_bytes_open > 4 * BODY - 2000)
        async with RawClient.connect(gw.url) as late:
            overloaded(await late.ask(chat(body=LARGE)))
        await idle[4].send(wire[300:50_000])
        await gw.until("one that had begun goes on", lambda: gw.stats.body_bytes_open > 4 * BODY + 40_000)
        gate.open.set()
        for client in idle[:4]:
            await client.send(wire[-1:])
            assert (await client.read_response()).status == 200


@pytest.mark.parametrize("packed", [False, True])
async def test_one_key_does_not_keep_the_others_out(packed: bool) -> None:
    """By bodies that never end; packed they need not even be sent."""
    body = gzip.compress(b'{"model":"m","messages":[' + b" " * 400_000)[:-8] if packed else LARGE[:-10]
    headers = [("Content-Encoding", "gzip")] if packed else []
    settings = {"api_keys": ["sk-hog", "sk-other"], "max_decompression_ratio": 0}
    gate = Gate()
    gate.open.set()
    async with gate.running(**settings) as gw, AsyncExitStack() as stack:
        for _ in range(12):
            hog = await stack.enter_async_context(RawClient.connect(gw.url))
            await hog.send(chat(body=body + b" ", headers=[*headers], key="sk-hog")[:-1])
        await gw.until("they are refused", lambda: gw.stats.limited_memory >= 1)
        await asyncio.sleep(0.05)
        assert BUDGET // 2 < gw.stats.body_bytes_open <= MOST + 16384 * 4
        async with RawClient.connect(gw.url) as other:
            for content in ("x", "x" * 40_000):
                answer = await other.ask(chat(body=chat_body("m", content=content), key="sk-other"), 1.0)
                assert answer.status == 200


@pytest.mark.parametrize("coding", [None, "chunked"])
async def test_the_one_that_does_not_fit_gives_all_of_it_back(coding: str | None) -> None:
    gate = Gate()
    async with gate.running() as gw, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(12)]
        wire = chat(body=LARGE, chunked=(5000,) if coding else None)
        for client in clients:
            await client.send(wire[:-1])
        await gw.until("some were refused", lambda: gw.stats.limited_memory > 0)
        assert gw.stats.body_bytes_open <= BUDGET
        gate.open.set()
        statuses = []
        for client in clients:
            await client.send(wire[-1:])
            statuses.append((await client.read_response()).status)
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 4
        await gw.idle()
        assert gw.stats.body_bytes_open == 0


async def test_live_streams_hold_nothing_and_go_on() -> None:
    async with (
        Simulator(SimConfig(models=("m",), itl_ms=20, max_model_len=1 << 20)) as sim,
        running([sim.url], memory_budget_bytes=BUDGET, max_body_bytes=MOST) as gw,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(8)]
        for client in clients:  # together far beyond the budget, one after another well within it
            await client.send(chat(body=chat_body("m", stream=True, content="x" * (BODY - 100), max_tokens=30)))
            head = await client.read_head()
            assert head.status == 200
        assert gw.stats.body_bytes_open == 0, "an answer that has begun is not asked for again"
        for client in clients:
            data, how = b"", ""
            while b"[DONE]" not in data:
                data += await client.read_some()
            assert how == ""


async def test_waiting_in_the_queue_counts() -> None:
    gate = Gate()
    async with gate.running(engine_max_concurrent=1) as gw, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(4)]
        for client in clients:
            await client.send(chat(body=LARGE))
        await gw.until("three wait", lambda: gw.stats.queue_waiting_open == 3)
        async with RawClient.connect(gw.url) as late:
            overloaded(await late.ask(chat(body=LARGE)))
        clients[-1].reset()
        await gw.until("one has left", lambda: gw.stats.queue_waiting_open == 2)
        assert gw.stats.body_bytes_open < 3 * BODY + 1000
        gate.open.set()
        for client in clients[:3]:
            assert (await client.read_response()).status == 200


async def test_what_an_upload_keeps_counts_and_what_it_passes_on_does_not() -> None:
    sound = bytes(900_000)
    before = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + sound + b"\r\n"
    named = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    kind = [("Content-Type", "multipart/form-data; boundary=b")]
    gate = Gate()
    gate.open.set()
    async with gate.running(max_upload_bytes=8 << 20) as gw, RawClient.connect(gw.url) as client:
        first = await client.ask(request("POST", UPLOADS, headers=kind, body=named + before * 6 + b"--b--\r\n"))
        assert first.status == 200, "five megabytes pass through one"
        assert gw.stats.body_bytes_open == 0


async def test_what_could_not_be_held_if_it_were_alone_is_not_told_to_come_again() -> None:
    sound = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(BUDGET + 1000) + b"\r\n"
    named = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    kind = [("Content-Type", "multipart/form-data; boundary=b")]
    gate = Gate()
    gate.open.set()
    async with gate.running(max_upload_bytes=8 << 20) as gw:
        for body, status in ((sound + named, 413), (named + sound, 200)):
            async with RawClient.connect(gw.url) as client:
                answer = await client.ask(request("POST", UPLOADS, headers=kind, body=body + b"--b--\r\n"))
                assert answer.status == status
                if status == 413:
                    assert "send the field `model` before the file" in answer.error["message"]
        await gw.idle()
        assert gw.stats.body_bytes_open == 0


async def test_what_has_gone_on_is_given_back_while_the_rest_still_comes() -> None:
    sound = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(BODY)
    named = b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    rest = b'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\nen\r\n--b--\r\n'
    kind = [("Content-Type", "multipart/form-data; boundary=b")]
    gate = Gate()
    gate.open.set()
    async with gate.running(max_upload_bytes=8 << 20) as gw, RawClient.connect(gw.url) as client:
        wire = request("POST", UPLOADS, headers=kind, body=sound + named + rest)
        await client.send(wire[: -len(rest)])
        await gw.until("what was held has gone on", lambda: gw.stats.body_bytes_open < (1 << 16))
        await client.send(wire[-len(rest) :])
        assert (await client.read_response()).status == 200
        assert gw.stats.body_bytes_open == 0


@pytest.mark.parametrize(
    ("setting", "wrong"),
    [(1000, "whole number"), (2 << 20, "must be 8/7 of max_body_bytes"), (-1, "whole number"), (True, "whole number")],
)
def test_a_budget_that_cannot_be(setting: Any, wrong: str) -> None:
    from fastgw.config import ConfigErrors

    with pytest.raises(ConfigErrors, match=wrong):
        Config(memory_budget_bytes=setting)


async def test_the_default_is_a_share_of_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgw.exchange import context

    for known, budget in ((8 << 30, 2 << 30), (1 << 24, 20 << 20), (0, 2**62)):
        monkeypatch.setattr(context, "memory_bytes", lambda known=known: known)
        async with running() as gw:
            assert gw.gateway.core is not None
            assert gw.gateway.core.memory_budget == budget
