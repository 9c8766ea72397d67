"""Trailers: an engine's reach clients of HTTP/2, whatever it speaks; a client's are judged alike at both fronts."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.e2e.test_h2_front import asks, client
from tests.support.client import request
from tests.support.gateway import running
from tests.support.h2 import frames as f
from tests.support.requests import chat_body

pytestmark = pytest.mark.together

EVENT = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
WORSE = (
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\nset-cookie: a=b\r\nx-request-id: x\r\ncontent_length: 5\r\n"
    b"location: /\r\nx-ratelimit-remaining: 9\r\naccess-control-allow-origin: *\r\ncontent-type: a/b\r\nkeep-alive: 5\r\n"
)
QUIET: dict[str, Any] = {"health_interval_s": 60.0, "warm_connections": 0, "http2": True}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


@pytest.mark.parametrize(("kind", "body"), [(b"text/event-stream", EVENT), (b"application/json", b"{}"), (b"a/b", b"")])
async def test_an_engine_of_http1s(kind: bytes, body: bytes) -> None:
    """Those that a trailer may be (RFC 9110 section 6.5.1), to clients of HTTP/2: those of HTTP/1 are told none, as ever."""

    async def engine(conn: ScriptedConnection) -> None:
        while True:
            await conn.read_request()
            await conn.send(HEAD % kind + chunk(body) + b"0\r\nX-Digest: abc\r\n" + WORSE + b"Server-Ms: 1 2 \r\n\r\n")

    async with ScriptedEngine(engine) as scripted, running([scripted.url], **QUIET) as gw, client(gw) as line:
        line.says(asks(1, chat_body()))
        await line.sees("HEADERS 1 :status=200 !end")
        last = await line.sees("HEADERS 1 end")
        assert last.fields == ((b"x-digest", b"abc"), (b"server-ms", b"1 2"))
        assert line.peer.body(1) == body
        assert not line.peer.count("DATA 1 end")
        async with await gw.client() as raw:
            await raw.send(request("POST", "/v1/chat/completions", body=chat_body()))
            answer = await raw.read_response()
            assert (answer.status, answer.body, answer.trailers) == (200, body, [])
        await gw.idle()


async def test_an_engine_of_http2s() -> None:
    async with (
        Simulator(SimConfig(h2=True)) as sim, running([EngineConfig(url=sim.url, protocol="h2")], **QUIET) as gw,
        client(gw) as line,
    ):  # fmt: skip
        fault = (b"x-sim-fault", b"trailer=x-digest:abc, trailer=set-cookie:a=b")
        line.says(asks(1, chat_body("sim", stream=True), fault))
        await line.sees("HEADERS 1 :status=200 !end")
        last = await line.sees("HEADERS 1 end")
        assert last.fields == ((b"x-digest", b"abc"),)
        async with await gw.client() as raw:
            lines = [("x-sim-fault", fault[1].decode())]
            await raw.send(request("POST", "/v1/chat/completions", headers=lines, body=chat_body("sim", stream=True)))
            answer = await raw.read_response()
            assert (answer.status, answer.trailers) == (200, [])
        await gw.idle()


@pytest.mark.parametrize(("name", "status"), [
    (b"x-digest", 200), (b"authorization", 400), (b"content_length", 400), (b"x-forwarded-for", 400), (b"host", 400),
])  # fmt: skip
async def test_a_clients_at_both_fronts(name: bytes, status: int) -> None:
    """They go no further; one that could change whose a request is, or where it ends, is refused."""
    async with Simulator(SimConfig()) as sim, running([sim.url], http2=True) as gw, client(gw) as line:
        line.says(asks(1, chat_body("sim"), end=False), f.headers(1, ((name, b"5"),), end=True))
        await line.sees(f"HEADERS 1 :status={status}")
        async with await gw.client() as raw:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            body = chunk(chat_body("sim")) + b"0\r\n" + name + b": 5\r\n\r\n"
            await raw.send(head + b"transfer-encoding: chunked\r\n\r\n" + body)
            assert (await raw.read_response()).status == status
        await gw.idle()
        assert all(not one.trailers for one in sim.requests.to("/v1/chat/completions"))


async def test_a_tunnel_has_none() -> None:
    """RFC 9113 section 8.5: nothing but DATA comes on it."""
    async with Simulator(SimConfig()) as sim, running([sim.url], http2=True) as gw, client(gw) as line:
        pseudo = ((b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/v1/realtime"))
        line.says(f.headers(1, (*pseudo, (b":authority", b"a"), (b"sec-websocket-version", b"13"))))
        await line.sees("HEADERS 1 :status=200")
        line.says(f.headers(1, ((b"x-digest", b"abc"),), end=True))
        await line.sees("RST_STREAM 1 code=PROTOCOL_ERROR")
        await gw.idle()
