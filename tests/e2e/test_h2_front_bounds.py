"""Clients of HTTP/2 that are honest and look like others who are not; and floods that the rows of ``h2cases`` do not have."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.e2e.front import Handler, front
from tests.e2e.test_h2_front import EVENT, FRAME, HEAD, asks, client
from tests.support.gateway import running
from tests.support.h2 import frames as f
from tests.support.requests import chat_body
from tests.support.scripts import DONE, chunk

NAMES = ((b":scheme", b"http"), (b":authority", b"localhost"))


def post(stream: int, path: bytes = b"/v1/chat/completions") -> bytes:
    return f.headers(stream, ((b":method", b"POST"), *NAMES, (b":path", path)))


def get(stream: int, path: bytes = b"/v1/files") -> bytes:
    return f.headers(stream, ((b":method", b"GET"), *NAMES, (b":path", path)), end=True)


def streaming(go_on: asyncio.Event) -> Handler:
    async def engine(conn: ScriptedConnection, head: bytes) -> None:
        await conn.send(HEAD + FRAME)
        await go_on.wait()
        await conn.send(FRAME + chunk(DONE) + b"0\r\n\r\n")

    return engine


async def test_bodies_that_are_under_way_when_their_requests_are_refused_are_no_abuse() -> None:
    async with front(http2=True) as gate, client(gate.gw) as line:
        streams = range(1, 81, 2)
        for stream in streams:
            line.says(post(stream, b"/unknown"))
            await line.sees(f"RST_STREAM {stream} code=NO_ERROR")
        for stream in streams:
            line.says(*[f.data(stream, b"x" * 16_000, end=last) for last in (False, False, False, True)])
            await line.quiet(1)
        line.says(f.ping(b"12345678"))
        await line.sees("PING ack")


async def test_whoever_asks_may_open_the_window_of_each_answer_at_once() -> None:
    async def engine(conn: ScriptedConnection, head: bytes) -> None:
        await conn.wait_closed()

    async with front(engine, http2=True) as gate, client(gate.gw) as line:
        for stream in range(1, 161, 2):
            line.says(asks(stream, chat_body()), f.window(stream, 1 << 20))
            await line.quiet(1)
        line.says(f.ping(b"12345678"))
        await line.sees("PING ack")


async def test_what_comes_above_a_goaway_is_not_looked_at_and_ends_nothing() -> None:
    """A client that says GOAWAY, and asks all the same, is told that nothing more is taken; what is under way goes on."""
    go_on = asyncio.Event()
    async with front(streaming(go_on), http2=True) as gate, client(gate.gw) as line:
        line.says(asks(1, chat_body(stream=True)))
        await line.sees("DATA 1 !end")
        line.says(f.goaway(0), asks(3, b"{" * 1000, end=False), f.data(3, b"}", end=True), get(5), f.rst(5))
        await line.sees("GOAWAY last=1 code=NO_ERROR")
        go_on.set()
        await line.sees("DATA 1 end")
        assert line.peer.body(1) == EVENT * 2 + DONE
        assert await line.ended() == "fin"
        assert not line.peer.count("GOAWAY code=PROTOCOL_ERROR")
        assert len(gate.work) <= 1


@pytest.mark.parametrize("flood", [
    pytest.param((f.rst(1),) * 300, id="resets of a stream that was reset"),
    pytest.param((f.data(1, b"", end=True),) * 300, id="ends of it"),
    pytest.param((f.headers(1, ((b"x-a", b"b"),), end=True),) * 300, id="trailers of it"),
    pytest.param((f.data(1, b"x" * 16_384),) * 300, id="more for it than its window has room for"),
    pytest.param((f.goaway(0), *[get(stream) for stream in range(5, 1005, 2)]), id="requests above a GOAWAY"),
])  # fmt: skip
async def test_floods(flood: tuple[bytes, ...]) -> None:
    async with front(streaming(asyncio.Event()), http2=True) as gate, client(gate.gw) as line:
        line.says(post(1, b"/unknown"))
        await line.sees("RST_STREAM 1 code=NO_ERROR")
        line.says(asks(3, chat_body(stream=True)))
        await line.sees("DATA 3 !end")
        for piece in flood:
            line.says(piece)
            if (await line.quiet(1)).peer.ended:
                break
        await line.sees("GOAWAY code=ENHANCE_YOUR_CALM")


async def test_padding_is_given_back_as_what_it_took() -> None:
    """Of a window that is used up by padding, hardly anything has been told to whoever takes the body."""
    async with front(http2=True) as gate, client(gate.gw) as line:
        body = chat_body(content="y" * 600)
        line.says(post(1))
        left = f.WINDOW
        for at in range(len(body)):
            if left < 257:
                left += int((await line.sees("WINDOW_UPDATE 1")).facts["increment"])
            line.says(f.data(1, body[at : at + 1], pad=255, end=at == len(body) - 1))
            left -= 257
        await line.sees("HEADERS 1 :status=200")


async def test_a_client_that_does_not_read_what_it_asks_for_is_not_read() -> None:
    """Heads of answers know no window."""

    async def engine(conn: ScriptedConnection) -> None:
        while True:
            await conn.read_request()
            await conn.send(b"HTTP/1.1 204 No Content\r\nx-long: " + b"x" * 20_000 + b"\r\n\r\n")

    settings = {"http2": True, "health_interval_s": 3600.0, "passthrough_paths": ["/v1/files"]}
    async with ScriptedEngine(engine) as scripted, running([scripted.url], **settings) as gw:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", gw.port))
        sock.setblocking(False)
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.send(f.PREFACE + f.settings())
            asked = 0
            while asked < 800 and gw.stats.exchanges_total == asked:
                sock.send(get(2 * asked + 1))
                asked += 1
                for _ in range(100):
                    if gw.stats.exchanges_total == asked and not gw.stats.exchanges_open:
                        break
                    await asyncio.sleep(0.001)
            assert asked < 800
            loop = asyncio.get_running_loop()
            while gw.stats.exchanges_total < asked:
                assert await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 3.0)
        await gw.idle()
