"""Every fault that the simulated engine can play, through the gateway: one row each, named by the fault.

A row says what the client gets. ``whole``: the engine's answer as it is. ``refused``: E502 (or what the row says) and a
connection that stays usable. ``event``: a stream that ends in one typed error event and an abort. ``abort``: an answer that its
own framing never completes. The table must have a row for every fault: a new fault without one fails the last test.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastgw.sim import SimConfig, Simulator
from fastgw.sim.faults import TABLE
from tests.support.client import RawClient, RawResponse, chat
from tests.support.gateway import Running, running

LIMITS: dict[str, Any] = {
    "health_interval_s": 60.0, "warm_connections": 0, "first_byte_timeout_s": 0.5, "between_bytes_timeout_s": 0.5,
}  # fmt: skip
RAW = base64.b64encode(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").decode().replace("=", "%3D")

# Of streams. fault text: what the client gets, with its status where that is not obvious.
STREAMS: dict[str, tuple[str, int]] = {
    "close": ("refused", 502),
    "reset": ("refused", 502),
    "stall-before": ("refused", 504),
    "garbage": ("refused", 502),
    "raw=" + RAW: ("other", 200),
    "unsolicited-101": ("refused", 502),
    "close-on-reuse": ("whole", 200),
    "no-read": ("refused", 504),
    "status=418": ("other", 418),
    "status=503,retry-after=7": ("other", 503),
    "redirect=http://10.0.0.1/admin": ("other", 307),
    "stall-head": ("refused", 504),
    "slow-head=1": ("whole", 200),
    "close-in-head=30": ("refused", 502),
    "head=300000": ("refused", 502),
    "endless-head": ("refused", 502),
    "many-headers=10000": ("refused", 502),
    "status-line=HTTP/1.1%20999%20What": ("refused", 502),
    "header=x-a:b%0Dx-b:c": ("refused", 502),
    "1xx=3": ("whole", 200),
    "1xx=100": ("refused", 502),
    "http10": ("whole", 200),
    "sse-content-length": ("whole", 200),
    "wrong-length=50": ("whole", 200),  # (all has been said)
    "short-length=10": ("event", 200),
    "reset-after=700": ("event", 200),
    "close-after=700": ("event", 200),
    "stall-after=700": ("event", 200),
    "reset-after-events=3": ("event", 200),
    "close-after-events=3": ("event", 200),
    "stall-after-events=3": ("event", 200),
    "end-after-events=3": ("event", 200),
    "truncate-chunk,after-events=2": ("event", 200),
    "half-chunk,after-events=2": ("event", 200),
    "half-event,after-events=2": ("event", 200),
    "half-event,after-events=2,clean-end": ("event", 200),
    "bad-chunk,after-events=2": ("event", 200),
    "no-terminator": ("whole", 200),
    "error-event,after-events=2": ("engine-event", 200),
    "one-byte-chunks": ("whole", 200),
    "split=7": ("whole", 200),
    "gather=65536": ("whole", 200),
    "burst=5000": ("larger", 200),
    "close-after-answer": ("whole", 200),
    "ttft-ms=100": ("whole", 200),
    "itl-ms=20": ("whole", 200),
    "tokens=30": ("larger", 200),
    "early,status=400": ("other", 400),
    "close,times=1,key=a": ("whole", 200),  # a reused connection that dies is replayed, unseen
    "close,on-reuse": ("whole", 200),
}
# Of plain answers, where that differs.
PLAIN: dict[str, tuple[str, int]] = {
    "stall-head": ("abort", 200),
    "wrong-length=50": ("abort", 200),
    "short-length=10": ("short", 200),
    "reset-after=100": ("abort", 200),
    "close-after=100": ("abort", 200),
    "stall-after=100": ("abort", 200),
    "truncate-chunk": ("abort", 200),
    "half-chunk": ("abort", 200),
    "bad-chunk": ("refused", 502),
    "no-terminator": ("abort", 200),
    "one-byte-chunks": ("whole", 200),
    "split=7": ("whole", 200),
    "http10": ("whole", 200),
    "close": ("refused", 502),
    "reset": ("refused", 502),
    "stall-before": ("refused", 504),
    "garbage": ("refused", 502),
    "slow-head=1": ("whole", 200),
    "status=500": ("other", 500),
    "close-after-answer": ("whole", 200),
    "close-on-reuse": ("whole", 200),
}
MAX_TOKENS = 12


def rows(faults: Iterable[str]) -> list[Any]:
    """Those that stall wait side by side."""
    return [pytest.param(fault, marks=pytest.mark.together) if "stall" in fault else fault for fault in faults]


@asynccontextmanager
async def through() -> AsyncIterator[tuple[Simulator, Running, RawClient]]:
    async with (
        Simulator(SimConfig()) as sim,
        running([sim.url], **LIMITS) as gw,
        RawClient.connect("127.0.0.1", gw.port) as client,
    ):
        yield sim, gw, client


async def ask(client: RawClient, fault: str, stream: bool) -> RawResponse:
    await client.send(chat("sim", stream, max_tokens=MAX_TOKENS, headers=[("x-sim-fault", fault)]))
    return await client.read_response(8.0)


async def judge(fault: str, expected: str, status: int, stream: bool) -> None:
    async with through() as (sim, gw, client):
        whole = (await ask(client, "none", stream)).body
        begun = time.monotonic()
        answer = await ask(client, fault, stream)
        assert time.monotonic() - begun < 3.0
        assert answer.status == status
        if expected in ("event", "abort"):
            assert not answer.complete
            assert answer.how_ended in ("eof", "reset")
            assert not answer.raw_body.endswith(b"\r\n0\r\n\r\n")
            assert gw.stats.truncations_total == 1
            assert gw.records[-1]["outcome"] in ("truncated", "upstream_timeout")
            if expected == "abort":
                assert whole.startswith(answer.body)
                assert b"error" not in answer.body
            else:
                said, _, told = answer.body.rpartition(b"data: ")
                assert told.startswith(b'{"error":{"message":"')
                assert whole.startswith(said.rstrip(b"\n"))
                assert said.count(b"data: ") >= 1
        else:
            assert answer.complete
            if expected == "refused":
                assert answer.header("content-type") == "application/json"
                assert set(answer.error) == {"message", "type", "param", "code"}
                assert answer.error["type"] == "upstream_error"
            elif expected == "whole":
                assert answer.body == whole
            elif expected == "short":
                assert len(answer.body) < len(whole)
                assert whole.startswith(answer.body)
            elif expected == "larger":
                assert len(answer.body) > len(whole)
                assert answer.body.endswith(b"data: [DONE]\n\n")
            elif expected == "engine-event":
                assert answer.body.count(b'"error"') == 1
                assert b"EngineCore encountered an issue." in answer.body
                assert gw.records[-1]["outcome"] == "engine_error"
            if "retry-after" in fault:
                assert answer.header("retry-after") == "7"
            if "redirect" in fault:
                assert answer.header("location") == "http://10.0.0.1/admin"
            # K: the same connection serves the next request, whatever its engine's does.
            again = await ask(client, "none", stream)
            assert (again.status, again.body) == (200, whole)
        # No generation goes on for nobody, and none is left open.
        await gw.until("the engine is idle", lambda: sim.state.running + sim.state.waiting == 0, 2.0)
        async with RawClient.connect("127.0.0.1", gw.port) as other:
            assert (await ask(other, "none", stream)).body == whole
        assert len(gw.records) == gw.stats.exchanges_total


@pytest.mark.parametrize("fault", rows(STREAMS))
async def test_in_a_stream(fault: str) -> None:
    await judge(fault, *STREAMS[fault], stream=True)


@pytest.mark.parametrize("fault", rows(PLAIN))
async def test_in_a_plain_answer(fault: str) -> None:
    await judge(fault, *PLAIN[fault], stream=False)


def test_every_fault_has_its_row() -> None:
    named = {item.partition("=")[0] for text in [*STREAMS, *PLAIN] for item in text.split(",")}
    # (What an engine does over HTTP/2 alone has its rows in tests/h2cases.)
    wanted = {name for name, row in TABLE.items() if row.group != "HTTP/2"}
    assert wanted <= named, f"no row for {sorted(wanted - named)}"
