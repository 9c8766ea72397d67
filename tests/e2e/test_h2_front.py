"""Clients that speak HTTP/2 to the gateway: requests, streams, and all ways in which they end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.peers import parts
from tests.support.gateway import Running, running
from tests.support.h2 import frames as f
from tests.support.h2.peer import Client, OnLoop
from tests.support.requests import chat_body

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
FRAME = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
DONE = b"data: [DONE]\n\n"
END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE)
QUIET: dict[str, Any] = {"health_interval_s": 60.0, "warm_connections": 0, "http2": True}


def asks(stream: int, body: bytes, *more: tuple[bytes, bytes], end: bool = True) -> bytes:
    head = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/v1/chat/completions"), (b":authority", b"localhost"),
        (b"content-type", b"application/json"), *more,
    )  # fmt: skip
    return f.headers(stream, head) + (f.data(stream, body, end=end) if body or end else b"")


@asynccontextmanager
async def client(gw: Running, **settings: int) -> AsyncIterator[OnLoop]:
    sock = socket.create_connection(("127.0.0.1", gw.port))
    sock.setblocking(False)
    with sock:
        line = OnLoop(Client(settings=f.settings(**settings)), sock)
        line.begins()
        await line.sees("SETTINGS !ack", "SETTINGS ack")
        yield line


async def test_a_request_is_answered_whole_in_one_frame() -> None:
    async with Simulator(SimConfig()) as sim, running([sim.url], http2=True) as gw, client(gw) as line:
        for stream in (1, 3, 5):  # (the third head is known by its bytes)
            line.says(asks(stream, chat_body("sim")))
            head = await line.sees(f"HEADERS {stream} :status=200")
            await line.sees(f"DATA {stream} end")
            assert json.loads(line.peer.body(stream))["object"] == "chat.completion"
            assert "transfer-encoding" not in str(head)
        await gw.idle()
        assert [record["status"] for record in gw.records] == [200] * 3


async def test_http1_is_spoken_beside_it_and_http2_only_where_it_is_enabled() -> None:
    async with Simulator(SimConfig()) as sim:
        for enabled in (True, False, None):  # (without TLS nobody has asked for it)
            async with running([sim.url], http2=enabled) as gw:
                reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
                writer.write(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.write(f.PREFACE)  # not where it begins
                assert b"HTTP/1.1 505" in await reader.read()
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", gw.port)
                for at in range(len(f.PREFACE)):
                    writer.write(f.PREFACE[at : at + 1])
                    await asyncio.sleep(0)
                writer.write(f.settings())
                said = await reader.read(9)
                assert (said[3] == 4) is bool(enabled)
                writer.close()


async def test_a_stream_is_passed_on_event_by_event_and_ends_with_the_last() -> None:
    go_on = asyncio.Event()

    async def engine(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(HEAD + FRAME)
        await go_on.wait()
        await conn.send(FRAME + END)

    async with ScriptedEngine(engine) as scripted, running([scripted.url], **QUIET) as gw, client(gw) as line:
        line.says(asks(1, chat_body(stream=True)))
        await line.sees("HEADERS 1 :status=200 content-type=text/event-stream", "DATA 1 !end")
        assert line.peer.body(1) == EVENT
        go_on.set()
        await line.sees("DATA 1 end")
        assert line.peer.body(1) == EVENT * 2 + DONE
        await gw.idle()
        assert gw.records[-1]["outcome"] == "ok"


async def test_a_client_that_resets_cancels_the_engine_and_nobody_else() -> None:
    async def engine(conn: ScriptedConnection) -> None:
        request = await conn.read_request()
        await conn.send(HEAD + FRAME)
        if b"other" in request.body:
            await conn.wait_closed()
        await conn.send(END)

    async with ScriptedEngine(engine) as scripted, running([scripted.url], **QUIET) as gw, client(gw) as line:
        line.says(asks(1, chat_body(stream=True, content="the other")))
        await line.sees("DATA 1 !end")
        line.says(f.rst(1, 8))
        line.says(asks(3, chat_body(stream=True)))
        await line.sees("DATA 3 end")
        await gw.idle()
        assert sorted(record["outcome"] for record in gw.records) == ["client_closed", "ok"]


async def test_a_truncated_stream_says_so_and_is_reset() -> None:
    async def engine(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(HEAD + FRAME)
        conn.reset()

    async with ScriptedEngine(engine) as scripted, running([scripted.url], **QUIET) as gw, client(gw) as line:
        line.says(asks(1, chat_body(stream=True)))
        await line.sees("RST_STREAM 1 code=INTERNAL_ERROR")
        body = line.peer.body(1)
        assert body.startswith(EVENT)
        assert b'"error"' in body[len(EVENT) :]
        assert not line.peer.count("DATA 1 end")


async def test_who_opens_no_window_gets_nothing_more_and_is_given_up() -> None:
    """Zero-window stalls: no more is taken of the engine than one write, and the stream ends in time; others go on."""

    async def engine(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(HEAD)
        for _ in range(2000):
            await conn.send(FRAME * 20)

    settings = {**QUIET, "write_timeout_s": 0.5}
    async with ScriptedEngine(engine) as scripted, running([scripted.url], **settings) as gw:
        async with client(gw, INITIAL_WINDOW_SIZE=100) as line:
            line.says(asks(1, chat_body(stream=True)))
            await line.sees("DATA 1 !end", "RST_STREAM 1 code=CANCEL")
            assert len(line.peer.body(1)) == 100
            line.says(f.ping(b"12345678"))
            await line.sees("PING ack")
        await gw.idle()
        assert gw.records[-1]["outcome"] == "client_stalled"


async def test_bodies_have_the_limits_that_they_have_over_http1() -> None:
    async with Simulator(SimConfig()) as sim, running([sim.url], http2=True, max_body_bytes=2000) as gw, client(gw) as line:
        line.says(asks(1, b"x" * 100, (b"content-length", b"99999999"), end=False))
        await line.sees("HEADERS 1 :status=413", "DATA 1 end", "RST_STREAM 1 code=NO_ERROR")
        line.says(asks(3, b"x" * 2001, end=False))
        await line.sees("HEADERS 3 :status=413", "DATA 3 end", "RST_STREAM 3 code=NO_ERROR")
        line.says(asks(5, chat_body("sim"), (b"x-more", b"y")))
        await line.sees("HEADERS 5 :status=200")
        await gw.idle()


async def test_padding_takes_no_credit_for_good() -> None:
    """A client that hides how long its body is pads each frame: it never comes to an end of its window."""
    body = chat_body("sim", content="x" * 2000)
    async with Simulator(SimConfig()) as sim, running([sim.url], **QUIET) as gw, client(gw) as line:
        line.says(asks(1, b"", end=False))
        room = 65535
        for at in range(0, len(body), 4):
            last = at + 4 >= len(body)
            if room < 261:
                update = await line.sees("WINDOW_UPDATE 1")
                room += int.from_bytes(update.payload, "big")
            line.says(f.data(1, body[at : at + 4], end=last, pad=255))
            room -= 260
        await line.sees("HEADERS 1 :status=200")


async def test_a_body_that_stalls_is_not_waited_for() -> None:
    async with Simulator(SimConfig()) as sim, running([sim.url], http2=True, body_timeout_s=0.3) as gw, client(gw) as line:
        line.says(asks(1, b"{", end=False))
        await line.sees("HEADERS 1 :status=408", "DATA 1 end", "RST_STREAM 1 code=NO_ERROR")


async def test_a_drain_says_goaway_twice_and_lets_what_is_under_way_end() -> None:
    go_on = asyncio.Event()

    async def engine(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(HEAD + FRAME)
        await go_on.wait()
        await conn.send(END)

    settings = {**QUIET, "drain_timeout_s": 5.0}
    async with ScriptedEngine(engine) as scripted, running([scripted.url], **settings) as gw, client(gw) as line:
        line.says(asks(1, chat_body(stream=True)))
        await line.sees("DATA 1 !end")
        stopping = asyncio.create_task(gw.gateway.stop())
        await line.sees("GOAWAY last=2147483647 code=NO_ERROR", "GOAWAY last=1 code=NO_ERROR")
        with socket.create_connection(("127.0.0.1", gw.port)) as sock:  # (who comes now has its answer, and the same)
            sock.setblocking(False)
            late = OnLoop(Client(settings=f.settings()), sock)
            late.begins()
            late.says(asks(1, chat_body(stream=True)))
            await late.sees("GOAWAY last=2147483647 code=NO_ERROR", "HEADERS 1 :status=503", "DATA 1 end")
            await late.sees("GOAWAY last=1 code=NO_ERROR")
            assert await late.ended() == "fin"
        go_on.set()
        await line.sees("DATA 1 end")
        assert await line.ended() == "fin"
        await stopping


@parts.needs("curl", "h2load")
async def test_real_clients() -> None:
    async with Simulator(SimConfig()) as sim, running([sim.url], http2=True) as gw:
        url = f"http://127.0.0.1:{gw.port}/v1/models"
        said = await asyncio.to_thread(parts.curl, url)
        assert b'"sim"' in said.stdout
        assert "2000 succeeded" in await asyncio.to_thread(parts.h2load, url, 2000, clients=4, streams=20)


@pytest.mark.parametrize("h2", [False, True])
async def test_a_refusal_arrives_at_who_sends_all_before_it_reads(h2: bool) -> None:
    """OpenAI's SDK does, by httpx: a body that might have been taken is read for nothing."""
    async with (
        Simulator(SimConfig()) as sim,
        running([sim.url], http2=True, max_body_bytes=1 << 20) as gw,
        httpx.AsyncClient(http1=not h2, http2=h2, timeout=5.0) as asking,
    ):
        for path, status in (("none", 404), ("chat/completions", 413)):
            answer = await asking.post(f"{gw.url}/v1/{path}", content=b"x" * (8 << 20))
            assert answer.status_code == status
