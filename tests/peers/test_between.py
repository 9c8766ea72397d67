"""The gateway between real programs: before engines that speak HTTP/2 with somebody else's code, behind proxies, under clients.

Each engine's row asks what a gateway is for: plain answers and streams, byte for byte and many at once, a long request at the
engine's pace, a client that leaves. What is not installed is skipped, with its name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Literal

import pytest

from fastgw import EngineConfig
from tests.e2e.test_endpoints_realtime import frame
from tests.e2e.test_h2_tunnels import CLOSE, CLOSED, session
from tests.peers import parts
from tests.support import tls_client
from tests.support.gateway import Running, running
from tests.support.requests import chat
from tests.support.ways.h1 import H1Caller
from tests.support.ways.h2 import H2Caller

pytestmark = pytest.mark.peers

CHAT = "/v1/chat/completions"
ASKED = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 4})
DONE = b"data: [DONE]\n\n"
POSTED = ("-d", ASKED, "-H", "content-type: application/json")  # in curl's words
MANY = 60


@pytest.fixture(scope="module")
def tls() -> Iterator[parts.Certificate]:
    with parts.certificate("localhost") as made:
        yield made


def engine(stack: ExitStack, name: str, tls: parts.Certificate | None) -> parts.Running:
    """One that answers chats over HTTP/2: an ASGI server, or the simulator behind a proxy."""
    if name in ("hypercorn", "granian"):
        return stack.enter_context({"hypercorn": parts.hypercorn, "granian": parts.granian}[name](tls=tls))
    sim = stack.enter_context(parts.sim("--ttft-ms", "5", "--itl-ms", "1", "--slots", "200", "--max-model-len", "1000000"))
    proxy = {"nghttpx": parts.nghttpx, "nginx": parts.nginx, "haproxy": parts.haproxy}[name]
    return stack.enter_context(proxy(sim.port, tls=tls))


@asynccontextmanager
async def before(peer: parts.Running, tls: parts.Certificate | None, protocol: Any, **settings: Any) -> AsyncIterator[Running]:
    target = EngineConfig(url=peer.url, protocol=protocol, ca_file=str(tls.cert) if tls else "")
    async with running([target], http2=True, health_interval_s=0.2, **settings) as gw:
        await gw.until("it is well", lambda: gw.gateway.fleet.pools[0].engine.healthy is True, 10.0)
        yield gw


@asynccontextmanager
async def clients(gw: Running, count: int) -> AsyncIterator[list[Any]]:
    """Of either protocol, in turns."""
    made = [await (H2Caller(gw.port, False, None) if at % 2 else H1Caller(gw.port, False)).connect() for at in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


@pytest.mark.parametrize("secure", [False, True], ids=["h2c", "tls"])
@pytest.mark.parametrize("protocol", ["h2", "auto"])
@pytest.mark.parametrize("name", parts.each("hypercorn", "granian", "nghttpx", "nginx", "haproxy"))
async def test_an_engine(name: str, protocol: Literal["h2", "auto"], secure: bool, tls: parts.Certificate) -> None:
    with ExitStack() as stack:
        peer = engine(stack, name, tls if secure else None)
        async with before(peer, tls if secure else None, protocol) as gw, clients(gw, MANY) as many:
            own = gw.gateway.fleet.pools[0].engine
            assert own.h2, peer.said()

            async def one(client: Any, number: int) -> None:
                answer = await client.asks(chat("sim", True, content=f"number {number}", max_tokens=5 + number % 5), 20.0)
                assert (answer.status, answer.complete) == (200, True), (number, answer)
                assert answer.body.endswith(DONE)
                assert len(answer.events()) >= 6
                answer = await client.asks(chat("sim", content="x" * 5000, max_tokens=3), 20.0)
                assert (answer.status, answer.complete) == (200, True), (number, answer)
                assert answer.json()["usage"]["completion_tokens"] == 3

            await asyncio.gather(*(one(client, number) for number, client in enumerate(many)))
            for client in many[:2]:  # a long request, at the pace of the engine's credit
                answer = await client.asks(chat("sim", content="y" * 900_000, max_tokens=3), 20.0)
                assert (answer.status, answer.complete) == (200, True), answer
            calls = [await client.says(chat("sim", True, max_tokens=4000)) for client in many[:4]]
            for call in calls:
                await call.until(b"\n\n")
                call.leaves("fin")
            await gw.idle()
            outcomes = [record["outcome"] for record in gw.records]
            assert outcomes.count("client_closed") == 4
            assert outcomes.count("ok") == 2 * MANY + 2
            for client in many[4:6]:  # and who comes afterwards finds it well
                assert (await client.asks(chat("sim", max_tokens=3), 20.0)).status == 200
            assert (own.failures_total, own.truncations_total) == (0, 0)


@pytest.mark.parametrize("name", parts.each("nginx"))
async def test_connections_that_take_three_requests(name: str, tls: parts.Certificate) -> None:
    """nginx says GOAWAY when it has taken ``keepalive_requests``, and looks at no more that are on their way."""
    with parts.nginx(0, "keepalive_requests 3;") as peer:
        async with before(peer, None, "h2") as gw, clients(gw, MANY) as many:

            async def one(client: Any) -> None:
                for _ in range(5):
                    answer = await client.asks(chat("sim"), 20.0)
                    assert (answer.status, answer.complete) == (200, True), (answer, gw.records[-1])

            await asyncio.gather(*(one(client) for client in many))
            assert gw.gateway.stats.replays_total > MANY
            assert gw.gateway.fleet.pools[0].engine.failures_total == 0


@pytest.mark.parametrize("front", ["h1", "h2"])
@pytest.mark.parametrize("protocol", ["h1", "h2"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("name", parts.each("hypercorn"))
async def test_a_session(name: str, secure: bool, protocol: str, front: str, tls: parts.Certificate) -> None:
    """Over HTTP/2 it is an extended CONNECT to it (RFC 8441), and it ends its side when ours has ended."""
    with ExitStack() as stack:
        peer = engine(stack, name, tls if secure else None)
        async with before(peer, tls if secure else None, protocol) as gw, session(front, gw) as client:
            await client.asks()
            assert (await client.answered())[0] == 101
            for text in (b"hello", b"x" * 60_000, "wörld".encode()):
                said = b"\x81" + (bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")) + text
                await client.says(frame(1, text))
                assert await client.reads(len(said)) == said
            await client.says(frame(1, b"bye"))
            assert await client.reads(4) == CLOSED
            await client.says(CLOSE)
            assert await client.end() == (b"", "fin")
            await gw.idle()
            [record] = [record for record in gw.records if record["path"].startswith(b"/v1/realtime")]
            assert (record["status"], record["outcome"]) == (101, "ok")


@parts.needs("nghttpd")
@pytest.mark.parametrize("secure", [False, True], ids=["h2c", "tls"])
async def test_nghttpd_echoes_what_it_is_asked(secure: bool, tls: parts.Certificate) -> None:
    with parts.nghttpd(echo=True, tls=tls if secure else None) as peer:
        target = EngineConfig(
            url=peer.url, protocol="h2", models=["sim"], ca_file=str(tls.cert) if secure else ""
        )
        async with running([target], http2=True, health_interval_s=0.2, inject_usage=False) as gw, clients(gw, 8) as many:
            await gw.until("it is well", lambda: gw.gateway.fleet.pools[0].engine.healthy is True, 10.0)
            for size in (10, 5_000, 400_000):
                data = chat("sim", content="z" * size)
                for answer in await asyncio.gather(*(client.asks(data, 20.0) for client in many)):
                    assert (answer.status, answer.complete) == (200, True)
                    assert answer.body == data.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("name", "speaks_h2"), [
    pytest.param(name, h2, marks=parts.needs(name, "curl", "h2load"))
    for name, h2 in (("nghttpx", True), ("nghttpx", False), ("haproxy", True), ("haproxy", False), ("nginx", False))
])  # fmt: skip
async def test_behind_a_proxy(name: str, speaks_h2: bool, secure: bool, tls: parts.Certificate) -> None:
    with parts.sim("--ttft-ms", "5", "--itl-ms", "1", "--slots", "200") as sim, ExitStack() as stack:
        async with running([EngineConfig(url=sim.url)], http2=True, max_connections_per_ip=0) as gw:
            mine = tls if secure else None
            if name == "nginx":
                proxy = await asyncio.to_thread(stack.enter_context, parts.nginx(gw.port, tls=mine))
            else:
                made = parts.nghttpx if name == "nghttpx" else parts.haproxy
                proxy = await asyncio.to_thread(stack.enter_context, made(gw.port, engine_h2=speaks_h2, tls=mine))
            told = await asyncio.to_thread(parts.curl, proxy.url + CHAT, *POSTED, "-w", "%{http_code}", ca=mine)
            assert told.stdout.endswith(DONE + b"200"), (told, proxy.said())
            url = f"{proxy.url}/v1/models"
            report = await asyncio.to_thread(parts.h2load, url, 1000, clients=4, streams=20)
            assert "1000 succeeded" in report
            await gw.idle()
            assert {record["outcome"] for record in gw.records} == {"ok"}
            await asyncio.to_thread(stack.close)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("engine_h2", [False, True], ids=["h1", "h2"])
async def test_clients(secure: bool, engine_h2: bool) -> None:
    """All of those that are installed: what is missing is named by the skip of a row of its own below."""
    settings = tls_client.settings() if secure else {}
    with parts.sim("--ttft-ms", "5", "--itl-ms", "1", "--slots", "200") as sim:
        target = EngineConfig(url=sim.url, protocol="h2" if engine_h2 else "h1")
        async with running([target], http2=True, max_connections_per_ip=0, **settings) as gw:
            url = f"{'https' if secure else 'http'}://localhost:{gw.port}"
            trusted = ["--cacert", tls_client.shared().ca] if secure else []
            if not parts.missing("curl"):
                for h2 in (True, False):
                    words = (*POSTED, "-w", "%{http_version}", *trusted)
                    told = await asyncio.to_thread(parts.curl, url + CHAT, *words, h2=h2)
                    assert told.stdout.endswith(DONE + (b"2" if h2 else b"1.1")), told
            if not parts.missing("nghttp"):
                told = await asyncio.to_thread(parts.run, "nghttp", "--no-verify-peer", url + "/v1/models")
                assert json.loads(told.stdout)["object"] == "list"
            if not parts.missing("h2load"):
                await asyncio.to_thread(parts.h2load, url + "/v1/models", 2000, clients=8, streams=20)
                with_body = await asyncio.to_thread(_loaded, url)
                assert "400 succeeded" in with_body
            if secure and not parts.missing("openssl"):
                told = await asyncio.to_thread(_shaken, gw.port)
                assert b"ALPN protocol: h2" in told
                assert b"Verify return code: 0 (ok)" in told
            await gw.idle()
            assert {record["outcome"] for record in gw.records} == {"ok"}


def _loaded(url: str) -> str:
    """400 chats, 10 at a time over each of four connections."""
    import tempfile

    with tempfile.NamedTemporaryFile() as body:
        body.write(ASKED.encode())
        body.flush()
        return parts.h2load(url + CHAT, 400, "-d", body.name, "-H", "content-type: application/json", clients=4)


def _shaken(port: int) -> bytes:
    done = parts.run(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-alpn", "h2,http/1.1", "-servername", "localhost"),
        *("-CAfile", tls_client.shared().ca, "-verify_return_error"),
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("name", parts.each("curl", "nghttp", "h2load", "openssl"))
def test_the_clients_of_test_clients_are_here(name: str) -> None:
    assert parts.find(name)
