"""What many requests at once cost in system calls, over one connection of HTTP/2 at each end: as ``strace`` counts them.

What a turn makes for a connection leaves with one write, so that a crowd's requests come in one read, leave in one write, and
their answers likewise: the calls are of turns, not of requests.
"""

from __future__ import annotations

import asyncio
import functools
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.engines import ANSWER, EVENT
from tests.e2e.served import served
from tests.support.h2 import frames as f
from tests.support.requests import chat_body
from tests.support.ways.h2 import H2Call, H2Caller, H2Engine

AT_ONCE = 32
ROUNDS = 10
CALLS = "recvfrom,recvmsg,read,readv,sendto,sendmsg,write,writev"
JSON = f.fields("content-type: application/json")
SSE = f.fields("content-type: text/event-stream")


@functools.cache
def why_not() -> str:
    """Why nothing can be counted here; empty: it can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    with subprocess.Popen(["sleep", "5"]) as other:
        tried = subprocess.Popen([strace, "-p", str(other.pid)], stderr=subprocess.PIPE)
        assert tried.stderr is not None
        said = tried.stderr.readline().decode(errors="replace")
        other.kill()
        tried.wait()
        tried.stderr.close()
    return "" if "attached" in said else f"strace may not look at other processes here: {said.strip()}"


class Counted:
    """What was called, once strace has ended."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    @property
    def sends(self) -> int:
        return sum(self.calls.get(name, 0) for name in ("sendto", "sendmsg", "write", "writev"))

    @property
    def receives(self) -> int:
        return sum(self.calls.get(name, 0) for name in ("recvfrom", "recvmsg", "read", "readv"))


@contextmanager
def counting(pid: int, folder: Path) -> Iterator[Counted]:
    """The calls of the process's first thread, which is the one that has the traffic."""
    counted = Counted()
    report = folder / "strace"
    argv = ["strace", "-c", "-e", f"trace={CALLS}", "-o", str(report), "-p", str(pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        assert b"attached" in strace.stderr.readline()
        try:
            yield counted
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait(10.0)
    for line in report.read_text().splitlines():
        found = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
        if found and found[2] != "total":
            counted.calls[found[2]] = int(found[1])


def asks(client: H2Caller, stream: bool) -> list[H2Call]:
    """So many requests, in one write."""
    body = chat_body("m", stream=stream)
    head = f.fields(":method: POST", ":scheme: http", ":path: /v1/chat/completions", ":authority: localhost", *JSON)
    calls = []
    for _ in range(AT_ONCE):
        call = H2Call(client.line, client._next)
        client.line.streams[call.number] = call
        client._next += 2
        calls.append(call)
    client.line.says(*(f.headers(call.number, head) + f.data(call.number, body, end=True) for call in calls))
    return calls


async def together(engine: H2Engine, before: int) -> list[Any]:
    """The engine's side of them, once all have come."""
    for _ in range(5000):
        if len(engine.turns) == before + AT_ONCE:
            break
        await asyncio.sleep(0.001)
    turns = engine.turns[before:]
    assert len(turns) == AT_ONCE
    assert len({id(turn.line) for turn in turns}) == 1
    return turns


async def nothing(turn: Any) -> None:
    """The test itself says what the engine says, to all at once."""


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_crowd_costs_what_a_turn_costs(stream: bool, tmp_path: Path) -> None:
    quiet = ("--no-inject-usage", "--health-interval-s", "60", "--rate-limit-per-second", "0")
    flags = ("--http2", "--upstream-protocol", "h2", *quiet)
    async with H2Engine(nothing) as engine, served(tmp_path, "--engine", engine.url, *flags) as gw:
        client = await H2Caller(gw.port, False, None).connect()

        async def one_round() -> None:
            before = len(engine.turns)
            calls = asks(client, stream)
            turns = await together(engine, before)
            line = turns[0].line
            if not stream:
                line.says(*(f.answer(turn.number, ANSWER, *JSON) for turn in turns))
            else:
                line.says(*(f.headers(turn.number, f.OK + SSE) + f.data(turn.number, EVENT) for turn in turns))
                for call in calls:
                    await call.until(EVENT)
                line.says(*(f.data(turn.number, b"data: [DONE]\n\n", end=True) for turn in turns))
            for call in calls:
                assert (await call.whole()).complete

        await one_round()  # what happens once has happened
        await one_round()
        with counting(gw.process.pid, tmp_path) as counted:
            for _ in range(ROUNDS):
                await one_round()
        await client.close()
    print(counted.calls, f"of {ROUNDS * AT_ONCE} requests")
    turns = ROUNDS * (3 if stream else 2)  # reads that bring something: requests, answers, and what a stream ends with
    # (Each may have credit or an acknowledgement behind it in a turn of its own, and a crowd may come in two reads.)
    assert turns <= counted.sends <= 4 * turns, counted.calls
    assert turns <= counted.receives <= 4 * turns, counted.calls
