"""The payload of a stream goes from the receive buffer to the client's socket: it is neither copied nor sliced on its way.

Two witnesses, in a gateway of its own process. The debug counter counts what was put aside because a client did not take
it. And no event may make the memory that Python's allocators have given out grow by as much as its own size: a copy of
it, or a slice, would.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.support.client import RawClient
from tests.support.requests import chat

REPO = Path(__file__).parents[2]
EVENTS = 1000
FIRST = 5  # whose shape the scanner may look at with more care
EVENT_BYTES = 2048
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(number: int) -> bytes:
    """One chunk that holds one event."""
    data = b'data: {"id":"chat-1","choices":[{"index":0,"delta":{"content":"%06d ' % number
    data += b"w" * (EVENT_BYTES - len(data) - 6) + b'"}}]}\n\n'
    return b"%x\r\n%b\r\n" % (len(data), data)


class Counting:
    """The gateway's process."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"begin\n")
        await asyncio.sleep(0.2)

    async def end(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"end\n")
        found: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return found


@asynccontextmanager
async def counting(engine: str) -> AsyncIterator[Counting]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.native.gateway_process", engine,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        assert url, "the gateway did not start"
        yield Counting(process, url)
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 10.0) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Stream:
    """An engine whose stream says what the test tells it to."""

    def __init__(self) -> None:
        self.conn: asyncio.Future[ScriptedConnection] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()

    async def __call__(self, conn: ScriptedConnection) -> None:
        asked = await conn.read_request(50.0)
        if asked.method != b"POST":
            await conn.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        self.conn.set_result(conn)
        await self.over.wait()


@pytest.mark.both_twins
@pytest.mark.deadline_s(60)
async def test_a_client_that_keeps_up_costs_no_copy() -> None:
    stream = Stream()
    async with ScriptedEngine(stream) as engine, counting(engine.url) as gw, RawClient.connect(gw.url) as client:
        await client.send(chat(stream=True))
        said = await stream.conn
        await said.send(HEAD)
        await said.send(event(0))  # (the head goes down with it)
        assert (await client.read_some()).endswith(event(0))

        async def pass_on(numbers: range) -> None:
            for number in numbers:
                wanted = event(number)
                await said.send(wanted)
                came = b""
                while len(came) < len(wanted):
                    came += await client.read_some()
                assert came == wanted, "what the engine said, in the engine's own framing"

        await pass_on(range(FIRST))
        await gw.begin()
        await pass_on(range(EVENTS))
        spent = await gw.end()
        await said.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        assert (await client.read_some()).endswith(b"0\r\n\r\n")
        stream.over.set()
    assert (spent["copies"], spent["copied_bytes"]) == (0, 0)
    assert spent["receives"] == spent["sends"] == EVENTS
    assert spent["peak_bytes"] < EVENT_BYTES, "something as large as an event was allocated"


@pytest.mark.deadline_s(60)
async def test_a_client_that_stalls_costs_a_copy_of_what_waits() -> None:
    """The counter can count: what the client's socket does not take is put aside."""
    stream = Stream()
    async with (
        ScriptedEngine(stream) as engine,
        counting(engine.url) as gw,
        RawClient.connect(gw.url, rcvbuf=4096) as client,
    ):
        await client.send(chat(stream=True))
        said = await stream.conn
        await said.send(HEAD)
        await gw.begin()

        async def pour() -> None:
            for number in range(2500):  # (one by one: the end of a large read would wait where it lies)
                await said.send(event(number))
                await asyncio.sleep(0.001)

        flood = asyncio.ensure_future(pour())
        spent = await gw.end()
        while not spent["copies"]:  # counted on, never anew: who is put aside once is read from no more (ends at the limit)
            await asyncio.sleep(0.05)
            spent = await gw.end()
        flood.cancel()
        client.close()
        stream.over.set()
    assert spent["copies"] > 0
    assert spent["copied_bytes"] > 0
