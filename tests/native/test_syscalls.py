"""What a request and a streamed event cost in system calls: one receive and one send for each thing that comes in.

The gateway runs in a process of its own under a library that counts (``syscalls.c``); the engine and the client live here
and say one thing at a time, so that nothing can be merged that a busy day would merge.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served import Served, served
from tests.support.client import RawClient
from tests.support.requests import chat

COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
KINDS = ("receives", "sends", "waits", "looks", "controls", "ioctls")
FDS = 1024
REQUESTS = 200
EVENTS = 200
# A probe of the engine's health, a warm connection: what goes on beside the requests, however many there are.
BESIDE = 12

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the counting library needs a C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("syscalls") / "syscalls.so"
    source = str(Path(__file__).with_name("syscalls.c"))
    subprocess.run([str(COMPILER), "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(made), source, "-ldl"], check=True)
    return made


class Counts:
    """The counters of a running process, since :meth:`begin`."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8 * FDS * len(KINDS)))
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.base: tuple[int, ...] = ()

    def now(self) -> tuple[int, ...]:
        return struct.unpack(f"={FDS * len(KINDS)}Q", self.map[:])

    def begin(self) -> None:
        self.base = self.now()

    def on_sockets(self, pid: int) -> dict[str, int]:
        """Calls on what are sockets now; waits and their set-up on whatever they are made on."""
        since = [new - old for new, old in zip(self.now(), self.base, strict=True)]
        found = {}
        for index, kind in enumerate(KINDS):
            row = since[index * FDS : (index + 1) * FDS]
            found[kind] = sum(count for fd, count in enumerate(row) if count and (index > 1 or is_socket(pid, fd)))
        return found


def is_socket(pid: int, fd: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    except FileNotFoundError:
        return False


@pytest.fixture
def counts(tmp_path: Path) -> Iterator[Counts]:
    counting = Counts(tmp_path / "counts")
    yield counting
    counting.map.close()


class Engine(asyncio.Protocol):
    """Answers a plain request with one write, and a streamed one event by event, each when it is told to."""

    streams: asyncio.Queue[Engine]
    looked_at = 0
    """Requests that were none of a client's: the gateway's first look at its engine is a few of them."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        if not blank or len(body) < length:
            return
        self.received = b""
        Engine.looked_at += head.startswith(b"GET ")
        if b'"stream":true' in body.replace(b" ", b""):
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.streams.put_nowait(self)
        else:
            answer = b'{"object":"list","data":[{"id":"sim","object":"model"}],"choices":[]}'
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
            )

    def say(self, payload: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(payload), payload))


Stand = tuple[Served, RawClient, asyncio.Queue[Engine]]


@asynccontextmanager
async def counted(folder: Path, library: Path, counts: Counts) -> AsyncIterator[Stand]:
    streams: asyncio.Queue[Engine] = asyncio.Queue()
    made: list[Engine] = []
    Engine.looked_at = 0

    def engine() -> Engine:
        made.append(Engine())
        made[-1].streams = streams
        return made[-1]

    server = await asyncio.get_running_loop().create_server(engine, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    env = {"LD_PRELOAD": str(library), "SYSCALLS_FILE": str(folder / "counts")}
    flags = ("--engine", url, "--no-inject-usage", "--health-interval-s", "60")
    try:
        async with served(folder, *flags, env=env) as gw, await gw.client() as client:
            await ask(client)  # what happens once has happened
            await ask(client)
            looked_at = -1
            while not Engine.looked_at or Engine.looked_at != looked_at:
                looked_at = Engine.looked_at
                await asyncio.sleep(0.1)
            yield gw, client, streams
    finally:
        server.close()
        for one in made:
            one.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)


async def ask(client: RawClient) -> None:
    await client.send(chat("sim"))
    response = await client.read_response()
    assert (response.status, response.complete) == (200, True)


async def test_a_plain_request(tmp_path: Path, library: Path, counts: Counts) -> None:
    """Two receives, two sends; before each receive the loop waits once, and looks at most once at what is ready."""
    async with counted(tmp_path, library, counts) as (gw, client, _):
        counts.begin()
        for _ in range(REQUESTS):
            await ask(client)
        spent = counts.on_sockets(gw.process.pid)
    print({kind: count / REQUESTS for kind, count in spent.items()})
    assert 2 * REQUESTS <= spent["receives"] <= 2 * REQUESTS + BESIDE, spent
    assert 2 * REQUESTS <= spent["sends"] <= 2 * REQUESTS + BESIDE, spent
    assert spent["waits"] <= 2 * REQUESTS + BESIDE, spent
    assert spent["looks"] <= 2 * REQUESTS + BESIDE, spent
    assert spent["controls"] <= BESIDE, spent


async def test_a_streamed_event(tmp_path: Path, library: Path, counts: Counts) -> None:
    """One receive, one send; the loop waits once, and looks at most once."""
    async with counted(tmp_path, library, counts) as (gw, client, streams):
        await client.send(chat("sim", True))
        engine = await streams.get()
        engine.say(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n')
        raw = b""
        while not raw.endswith(b"}\n\n\r\n"):
            raw += await client.read_some()
        counts.begin()
        for number in range(EVENTS):
            event = b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number
            engine.say(event)
            came = b""
            while event not in came:
                came += await client.read_some()
        spent = counts.on_sockets(gw.process.pid)
        engine.say(b"data: [DONE]\n\n")
        engine.say(b"")
        while not came.endswith(b"0\r\n\r\n"):
            came += await client.read_some()
    print({kind: count / EVENTS for kind, count in spent.items()})
    assert EVENTS <= spent["receives"] <= EVENTS + BESIDE, spent
    assert EVENTS <= spent["sends"] <= EVENTS + BESIDE, spent
    assert spent["waits"] <= EVENTS + BESIDE, spent
    assert spent["looks"] <= EVENTS + BESIDE, spent
    assert spent["controls"] + spent["ioctls"] <= BESIDE, spent
