"""Long prompts: the engine gets what the client sent, however it came; and they take no more memory than they are long."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.e2e.durability import life
from tests.support.client import RawClient, chat, chat_body
from tests.support.gateway import running

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
KEY = "sk-long-prompts"
MODEL = b'"model": "m"'
BOUND = b'"max_tokens":4096'
USAGE = b'"stream_options":{"include_usage":true}'


class Engine:
    """Takes requests, and answers when it may; the first of them by ``says``."""

    def __init__(self, says: bytes = ANSWER) -> None:
        self.bodies: list[bytes] = []
        self.may = asyncio.Event()
        self.says = says

    async def __call__(self, conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request()
            if seen.method == b"POST":
                self.bodies.append(seen.body)
                await self.may.wait()
                await conn.send(self.says)
                self.says = ANSWER
                continue
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


@pytest.mark.parametrize("first", ["model", "messages"])
@pytest.mark.parametrize("before", [0, 3, 5000], ids=["at once", "after blanks", "after many blanks"])
@pytest.mark.parametrize("size", [15_000, 30_000, 800_000])
async def test_what_is_put_into_one_leaves_the_rest_as_it_was(size: int, before: int, first: str) -> None:
    """Whatever is put there, one beside the other, for each engine anew."""
    engines = [Engine(BUSY), Engine()]
    body = b" " * before + prompt(size, stream=True)
    if first != "model":
        body = body.replace(MODEL + b", ", b"").replace(b'"stream": true', MODEL + b', "stream": true')
    async with ScriptedEngine(engines[0]) as one, ScriptedEngine(engines[1]) as two:
        named = [EngineConfig(url=there.url, models=("m",), served_name=there.url) for there in (one, two)]
        settings = {"policy": "ordered", "retry_statuses": ("503",), "api_keys": (KEY,), "tokens_per_minute": 10**9}
        async with running(named, **settings) as gw, RawClient.connect(gw.url) as client:
            for engine in engines:
                engine.may.set()
            for engine, there in ((engines[1], two), (engines[0], one)):
                assert (await client.ask(chat(body=body, key=KEY))).status == 200
                got = engine.bodies.pop()
                assert len(got) == len(body) + len(USAGE) + len(BOUND) + 2 + len(there.url) - 1
                assert got.replace(USAGE + b",", b"").replace(BOUND + b",", b"").replace(there.url.encode(), b"m") == body
                said = json.loads(got)
                assert (said["stream_options"], said["model"], said["max_tokens"]) == ({"include_usage": True}, there.url, 4096)


def resident(pid: int) -> int:
    """Bytes of memory that a process has in pages of its own."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class Full:
    """An engine that takes no more than heads, until it may."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.asked = 0
        self.may = asyncio.Event()

    async def __call__(self, conn: ScriptedConnection) -> None:
        while True:
            head = await conn.read_until(b"\r\n\r\n")
            if head.startswith(b"POST"):
                conn.pause_reading()
                self.asked += 1
                await self.may.wait()
                conn.resume_reading()
                self.bodies.append(await conn.read_exactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0])))
            await conn.send(ANSWER)


@pytest.mark.both_twins  # of which the compiled one promises it
@pytest.mark.parametrize("puts", [False, True], ids=["as it is", "with what is put into it"])
async def test_in_flight_they_take_their_own_size_of_memory(tmp_path: Path, puts: bool) -> None:
    engine = Full()
    many, size = 6, 8_000_000  # (of which the kernel takes a part)
    body = b'{"model":"sim","messages":[{"role":"user","content":"' + b"x" * size + b'"}]}'
    settings = {"FASTGW_NATIVE": "1"}
    if puts:
        body = body[:-1] + b',"stream":true}'
        settings |= {"FASTGW_API_KEYS": KEY, "FASTGW_TOKENS_PER_MINUTE": "1000000000"}
    async with ScriptedEngine(engine) as there, life(tmp_path, there.url, **settings) as one, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(one.url)) for _ in range(many)]
        before = resident(one.process.pid)
        for client in clients:
            await client.send(chat(body=body, key=KEY))
        await one.until("the engine has their heads", lambda: engine.asked == many)
        assert resident(one.process.pid) - before < 1.1 * many * len(body) + (2 << 20)
        engine.may.set()
        for client in clients:
            assert (await client.read_response()).status == 200
        said = USAGE + b"," + BOUND + b"," if puts else b""
        assert engine.bodies == [body[:1] + said + body[1:]] * many
        assert await one.end() == 0


@pytest.mark.both_twins  # of which the compiled one promises it
async def test_what_a_crowd_took_is_given_back_when_it_has_gone(tmp_path: Path) -> None:
    engine = Full()
    many, size = 70, 700_000
    body = b'{"model":"sim","messages":[{"role":"user","content":"' + b"x" * size + b'"}]}'
    async with ScriptedEngine(engine) as there, life(tmp_path, there.url, FASTGW_NATIVE="1") as one, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(one.url)) for _ in range(many)]
        before = resident(one.process.pid)
        for _ in range(2):
            engine.may.clear()
            engine.asked = 0
            for client in clients:
                await client.send(chat(body=body, key=KEY))
            await one.until("the engine has their heads", lambda: engine.asked == many)
            assert resident(one.process.pid) - before > 32 << 20
            engine.may.set()
            for client in clients:
                assert (await client.read_response()).status == 200
        assert engine.bodies == [body] * (2 * many)
        await one.until("it is given back", lambda: resident(one.process.pid) - before < 24 << 20)
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
