"""Long prompts: the engine gets what the client sent, however it came; and they take no more memory than they are long."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.e2e.durability import life
from tests.support.client import RawClient, chat, chat_body
from tests.support.gateway import running

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
USAGE = b'"stream_options":{"include_usage":true}'


class Engine:
    """Takes requests, and answers when it may."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.may = asyncio.Event()

    async def __call__(self, conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request()
            if seen.method == b"POST":
                self.bodies.append(seen.body)
                await self.may.wait()
            await conn.send(ANSWER)


def prompt(size: int, stream: bool = False) -> bytes:
    """A body of about ``size`` bytes, of words, escapes and what is not ASCII."""
    chance = random.Random(size)
    words = ["one", 'a "quoted" one', "line\n", "tab\t", "back\\slash", "\u00e9t\u00e9", "\u4f60\u597d", "\U0001f600", "x" * 9]
    text = " ".join(chance.choices(words, k=size // 12))
    return chat_body("m", content=text[:size], stream=stream)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("size", [15_000, 66_000, 200_000, 800_000])
async def test_what_comes_in_pieces_of_any_size_is_forwarded_byte_for_byte(size: int, framing: str) -> None:
    engine = Engine()
    engine.may.set()
    chance = random.Random(size)
    async with ScriptedEngine(engine) as there, running([there.url]) as gw, RawClient.connect(gw.url) as client:
        for most in (size * 2, 70_000, 9_000, 0):
            # One after the other over one connection, and the next one's first bytes with the last ones of this.
            body = prompt(size)
            wire = chat(body=body, chunked=(5000, 1, 70_000) if framing == "chunks" else None)
            at = 0
            while at < len(wire):
                step = most or chance.choice((1, 100, 3000, 40_000))
                await client.send(wire[at : at + step])
                at += step
            answer = await client.read_response()
            assert (answer.status, answer.body) == (200, b"{}")
            assert engine.bodies.pop() == body


@pytest.mark.parametrize("size", [15_000, 800_000])
async def test_what_is_put_into_one_leaves_the_rest_as_it_was(size: int) -> None:
    engine = Engine()
    engine.may.set()
    async with ScriptedEngine(engine) as there, running([there.url]) as gw, RawClient.connect(gw.url) as client:
        body = prompt(size, stream=True)
        assert (await client.ask(chat(body=body))).status == 200
        got = engine.bodies.pop()
        assert got.replace(USAGE + b",", b"") == body
        assert json.loads(got)["stream_options"] == {"include_usage": True}


def resident(pid: int) -> int:
    """Bytes of memory that a process has in pages of its own."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.both_twins  # of which the compiled one promises it
async def test_in_flight_they_take_their_own_size_of_memory(tmp_path: Path) -> None:
    engine = Engine()
    many, size = 40, 800_000
    body = b'{"model":"sim","messages":[{"role":"user","content":"' + b"x" * size + b'"}]}'
    async with ScriptedEngine(engine) as there, life(tmp_path, there.url, FASTGW_NATIVE="1") as one, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(one.url)) for _ in range(many)]
        before = resident(one.process.pid)
        for client in clients:
            await client.send(chat(body=body))
        await one.until("the engine has them", lambda: len(engine.bodies) == many)
        assert resident(one.process.pid) - before < 1.1 * many * len(body) + (2 << 20)
        engine.may.set()
        for client in clients:
            assert (await client.read_response()).status == 200
        assert await one.end() == 0


@pytest.mark.both_twins
async def test_who_announces_much_and_sends_little_costs_little(tmp_path: Path) -> None:
    engine = Engine()
    async with ScriptedEngine(engine) as there, life(tmp_path, there.url, FASTGW_NATIVE="1") as one, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(one.url)) for _ in range(50)]
        before = resident(one.process.pid)
        wire = chat(body=b'{"model":"sim","x":"' + b"x" * (9 << 20) + b'"}')[:1000]
        for client in clients:
            await client.send(wire)
        await asyncio.sleep(0.2)
        assert resident(one.process.pid) - before < 8 << 20, "450 MiB were announced"
        for client in clients:
            client.reset()
        assert await one.end() == 0
