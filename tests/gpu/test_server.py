"""The exporter over sockets: what is answered, and what a caller may hold."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from fastgw.gpu import server
from fastgw.gpu.server import Exporter
from fastgw.gpu.watch import Health
from tests.support.client import RawClient, request
from tests.support.gateway import Events

PAGE = b"# TYPE gpu_up gauge\n" + b"".join(b'gpu_up{gpu="%d"} 1\n' % number for number in range(1000))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.005)


class Watch:
    """Has no GPUs; its page may be of any size."""

    def __init__(self, page: bytes = PAGE) -> None:
        self._page = page
        self.closed = False

    def begin(self) -> None: ...

    async def page(self) -> bytes:
        return self._page

    def health(self) -> Health:
        return Health("degraded", "driver_not_loaded", "load it", 0, 0, 0.5)

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def exporting(page: bytes = PAGE) -> AsyncIterator[Exporter]:
    watch: Any = Watch(page)
    exporter = Exporter(watch, Events(), host="127.0.0.1", port=0)
    await exporter.start()
    try:
        yield exporter
    finally:
        await exporter.stop()
    assert watch.closed


async def test_S2_23_metrics_and_health() -> None:
    async with exporting() as exporter, aiohttp.ClientSession(auto_decompress=False) as http:
        async with http.get(f"{exporter.url}/metrics", headers={"Accept-Encoding": "identity"}) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, server.METRICS)
            assert "Server" not in answer.headers
            assert await answer.read() == PAGE
        async with http.get(f"{exporter.url}/metrics", headers={"Accept-Encoding": "deflate, gzip;q=0.5"}) as answer:
            packed = await answer.read()
            assert (answer.headers["Content-Encoding"], gzip.decompress(packed)) == ("gzip", PAGE)
            assert len(packed) < len(PAGE) / 5
        async with http.get(f"{exporter.url}/health") as answer:
            # Whatever the driver does, the exporter lives.
            assert answer.status == 200
            assert json.loads(await answer.read()) == {
                "status": "degraded", "driver": "driver_not_loaded", "detail": "load it", "gpus": 0, "gpus_up": 0, "age_s": 0.5,
            }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "fields", "status"),
    [
        (b"GET /metrics HTTP/1.0", b"", 200),
        (b"HEAD /metrics HTTP/1.1", b"Host: localhost\r\n", 200),
        (b"GET /metrics?x=1 HTTP/1.1", b"Host: [::1]:9101\r\nAccept-Encoding: gzip;q=0\r\n", 200),
        (b"GET /admin HTTP/1.1", b"Host: localhost\r\n", 404),
        (b"POST /metrics HTTP/1.1", b"Host: localhost\r\n", 405),
        (b"GET /metrics HTTP/1.1", b"Host: localhost\r\nContent-Length: 1\r\n\r\nx", 400),
        (b"GET /metrics HTTP/1.1", b"", 400),
        (b"GET /metrics HTTP/1.1", b"Host: a\r\nHost: localhost\r\n", 400),
        (b"GET /metrics HTTP/1.1", b"Host: rebound.example\r\n", 421),
        (b"GET /metrics HTTP/1.1", b"Host: localhost\r\nX: " + b"x" * 9000 + b"\r\n", 400),
        (b"GET /metrics HTTP/1.1", b"Host: localhost\r\n" + b"X: y\r\n" * 100, 400),
        (b"\x16\x03\x01", b"", 400),
    ],
)
async def test_what_is_answered(line: bytes, fields: bytes, status: int) -> None:
    async with exporting() as exporter, RawClient.connect(exporter.url) as client:
        await client.send(line + b"\r\n" + fields + b"\r\n")
        answer = await client.read_response(head_only=line.startswith(b"HEAD"))
        assert answer.status == status
        assert (b"gpu_up" in answer.body) == (status == 200 and not line.startswith(b"HEAD"))
        assert answer.header("content-encoding") is None


async def test_M3_fifty_scrapers_at_once_and_one_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WRITE_S", 0.3)
    large = PAGE * 1000  # more than any buffer between holds
    async with exporting(large) as exporter, RawClient.connect(exporter.url, rcvbuf=4096) as slow:
        await slow.send(request("GET", "/metrics"))
        async with aiohttp.ClientSession() as http:

            async def scrape() -> int:
                async with http.get(f"{exporter.url}/health") as answer:
                    return answer.status

            assert await asyncio.gather(*(scrape() for _ in range(50))) == [200] * 50
        await until(lambda: exporter.open == 0)  # (the slow one is cut)
        received, how = await slow.read_until_closed()
        assert how != "timeout"
        assert len(received) < len(large)


async def test_there_are_so_many_connections_at_most_and_whoever_comes_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    async with exporting() as exporter, AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(RawClient.connect(exporter.url)) for _ in range(20)]
        async with RawClient.connect(exporter.url) as client:
            await client.send(request("GET", "/health"))
            assert (await client.read_response()).status == 200
            assert exporter.open == 8
        assert (await idle[0].read_until_closed())[0] == b""  # those that had waited for longest


async def test_readers_that_do_not_read_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 3)
    async with exporting(PAGE * 1000) as exporter, AsyncExitStack() as stack:
        held = [await stack.enter_async_context(RawClient.connect(exporter.url, rcvbuf=4096)) for _ in range(3)]
        for one in held:
            await one.send(request("GET", "/metrics"))
        await until(lambda: sum(one.busy for one in exporter._connections) == 3)
        async with RawClient.connect(exporter.url) as client:
            await client.send(request("GET", "/health"))
            assert (await client.read_response()).status == 200
        assert (await held[0].read_until_closed())[1] != "timeout"


@pytest.mark.parametrize("begun", [b"", b"GET /metr", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_a_connection_that_says_nothing_more_is_closed(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.1)
    async with exporting() as exporter, RawClient.connect(exporter.url) as client:
        await client.send(begun)
        assert (await client.read_until_closed())[1] == "fin"
