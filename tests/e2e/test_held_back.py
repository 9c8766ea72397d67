"""A client that is held back, because it sends more than can be taken, is seen to leave all the same; and what it sent packed,
or in many parts, takes turns with what others send."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import AsyncExitStack

import pytest

from fastgw.exchange.intake import STEP_BYTES
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.support.client import RawClient, chat, chat_body, request
from tests.support.gateway import running

UPLOADS = "/v1/audio/transcriptions"
KIND = ("Content-Type", "multipart/form-data; boundary=b")
NAMED = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def small_parts(count: int) -> bytes:
    return b"".join(b'--b\r\nContent-Disposition: form-data; name="p%d"\r\n\r\n1\r\n' % at for at in range(count))


async def deaf(conn: ScriptedConnection) -> None:
    """An engine that takes the head of a request, and nothing more."""
    await conn.read_until(b"\r\n\r\n")
    conn.pause_reading()
    await conn.wait_closed(60.0)


async def silent(conn: ScriptedConnection) -> None:
    await conn.read_until(b"\r\n\r\n")
    await conn.wait_closed(60.0)


async def answers(conn: ScriptedConnection) -> None:
    while True:
        await conn.read_request()
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


WHAT = {
    "pipelined": (silent, chat("m"), request("GET", "/liveness") * 100),
    "upload": (
        deaf, request("POST", UPLOADS, headers=[KIND, ("Content-Length", str(64 << 20))]) + NAMED + FILE, bytes(60_000),
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("what", WHAT)
async def test_who_leaves_is_gone_from_the_engine_at_once(what: str, how: str) -> None:
    engine_does, begin, more = WHAT[what]
    async with ScriptedEngine(engine_does) as engine, running([engine.url]) as gw:

        def held_back() -> bool:
            return [conn.wire.reading for conn in gw.gateway.core.connections] == [False]

        async with RawClient.connect(gw.url) as client:
            await client.send(begin)
            await gw.until("the engine has it", lambda: bool(engine.connections))
            for _ in range(1000):
                await asyncio.sleep(0.002)
                if held_back():
                    break
                await client.send(more)
            assert held_back()
            if how == "fin":
                client.shutdown_write()
            else:
                client.reset()
            await gw.until("the engine is free", lambda: gw.stats.exchanges_open == 0, 2.0)


async def test_who_waited_in_the_queue_is_seen_to_leave_too() -> None:
    served = 0

    async def engine_does(conn: ScriptedConnection) -> None:
        nonlocal served
        served += 1
        if served == 1:
            await conn.read_request()
            await asyncio.sleep(0.2)
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        else:
            await deaf(conn)

    _, begin, more = WHAT["upload"]
    quiet = {"warm_connections": 0, "health_interval_s": 60.0}  # (and no connection that asks for HTTP/2: all are counted)
    async with (
        ScriptedEngine(engine_does) as engine,
        running([engine.url], engine_max_concurrent=1, upstream_protocol="h1", **quiet) as gw,
        RawClient.connect(gw.url) as first,
        RawClient.connect(gw.url) as client,
    ):
        await gw.until("the gateway has looked", lambda: served >= 1)
        served = 0
        await first.send(chat("m"))
        await gw.until("the engine is taken", lambda: served == 1)
        await client.send(begin + more)
        await gw.until("it waits", lambda: gw.stats.queue_waiting_open == 1)
        assert (await first.read_response()).status == 200
        await gw.until("it has gone on", lambda: served == 2)
        held = [conn for conn in gw.gateway.core.connections if conn.stream.sink is not None]
        assert len(held) == 1
        for _ in range(1000):
            await asyncio.sleep(0.002)
            if not held[0].wire.reading:
                break
            await client.send(more)
        assert held[0].held_back
        held.clear()
        client.reset()
        await gw.until("the engine is free", lambda: gw.stats.exchanges_open == 0, 2.0)


async def test_an_engine_that_answers_before_it_has_read_takes_nothing_off_the_count() -> None:
    go_on = asyncio.Event()

    async def early(conn: ScriptedConnection) -> None:
        await conn.read_until(b"\r\n\r\n")
        conn.pause_reading()
        await conn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/plain\r\n\r\n1\r\nx\r\n")
        await go_on.wait()
        conn.resume_reading()
        await conn.read_until(b"--b--\r\n")
        await conn.send(b"0\r\n\r\n")

    body = FILE + bytes(12 << 20) + b"\r\n" + NAMED + b"--b--\r\n"
    async with ScriptedEngine(early) as engine, running([engine.url]) as gw, RawClient.connect(gw.url) as client:
        await client.send(request("POST", UPLOADS, headers=[KIND], body=body))
        assert (await client.read_head()).status == 200
        least = held = gw.stats.body_bytes_open
        assert held > 0, "what the engine has not read is held"
        go_on.set()
        while gw.stats.exchanges_open:
            least = min(least, gw.stats.body_bytes_open)
            await asyncio.sleep(0)
        assert least >= 0
        assert gw.stats.body_bytes_open == 0
        assert gw.gateway.core.shares == {}


async def test_what_was_kept_of_an_upload_goes_when_its_answer_begins() -> None:
    """Not when that ends: what is no longer counted is no longer there."""
    over = asyncio.Event()

    async def streams(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/plain\r\n\r\n1\r\nx\r\n")
        await over.wait()
        await conn.send(b"0\r\n\r\n")

    body = FILE + bytes(3 << 20) + b"\r\n" + NAMED + b"--b--\r\n"
    async with ScriptedEngine(streams) as engine, running([engine.url]) as gw, RawClient.connect(gw.url) as client:
        await client.send(request("POST", UPLOADS, headers=[KIND], body=body))
        head = await client.read_head()
        assert head.status == 200
        assert gw.stats.body_bytes_open == 0
        assert [conn.stream.sink.upload._pieces for conn in gw.gateway.core.connections] == [[]]
        over.set()
        assert (await client.read_body(head)).complete


async def test_what_is_held_back_for_a_while_comes_through_whole() -> None:
    """Packed and not, many parts and few, in whatever pieces: what an engine gets is what was sent."""
    form = NAMED + small_parts(120) + FILE + b"sound" * 100_000 + b"\r\n" + b"--b--\r\n"
    behind = small_parts(120) + FILE + bytes(300_000) + b"\r\n" + NAMED + b"--b--\r\n"
    large = chat_body("m", content="word " * 190_000)
    async with (
        Simulator(SimConfig(models=("m",), max_model_len=1 << 22)) as sim,
        running([sim.url], max_decompression_ratio=0) as gw,
    ):
        for path, kind, body in (
            (UPLOADS, KIND[1], form), (UPLOADS, KIND[1], behind), ("/v1/chat/completions", "application/json", large),
        ):  # fmt: skip
            for packed in (False, True):
                headers = [("Content-Type", kind)] + ([("Content-Encoding", "gzip")] if packed else [])
                wire = request("POST", path, headers=headers, body=gzip.compress(body) if packed else body)
                for pieces, before in ((1, 0), (7, 0), (1, 1), (1, 3), (7, 2)):
                    async with RawClient.connect(gw.url) as client:
                        # (Behind others in the same reads it has its turn later, and is held back all the same.)
                        whole = request("GET", "/liveness") * before + wire
                        step = len(whole) // pieces + 1
                        for at in range(0, len(whole), step):
                            await client.send(whole[at : at + step])
                        statuses = [(await client.read_response()).status for _ in range(before + 1)]
                        assert set(statuses) == {200}, (path, packed, pieces, before)
                    (*_, got) = (one.body for one in sim.requests if one.method == "POST")
                    assert got == body, (path, packed, pieces, before)
        await gw.idle()
        assert gw.stats.body_bytes_open == 0
        assert gw.gateway.core.shares == {}


@pytest.mark.parametrize("form", [False, True])
async def test_a_packed_body_takes_a_turn_for_each_step(form: bool) -> None:
    """Between two looks at what others send, so much is unpacked, and not all that one read brought."""
    plain = bytes(8 << 20)
    if form:
        data = gzip.compress(NAMED + FILE + plain + b"\r\n--b--\r\n")
        wire = request("POST", UPLOADS, headers=[KIND, ("Content-Encoding", "gzip")], body=data)
    else:
        data = gzip.compress(b'{"model":"m","messages":[]' + b" " * len(plain) + b"}")
        wire = request("POST", "/v1/chat/completions", headers=[("Content-Encoding", "gzip")], body=data)
    async with (
        ScriptedEngine(answers) as engine,
        running([engine.url], max_decompression_ratio=0) as gw,
        RawClient.connect(gw.url) as client,
        RawClient.connect(gw.url) as other,
    ):
        await client.send(wire)
        done = 0
        while gw.stats.exchanges_open or not done:
            assert (await other.ask(request("GET", "/liveness"))).status == 200
            done += 1
        assert (await client.read_response()).status == 200
        assert done >= len(plain) // STEP_BYTES // 4, "others were answered in between"


async def test_packed_uploads_that_no_engine_takes_stay_within_the_budget() -> None:
    wire = request(
        "POST", UPLOADS, headers=[KIND, ("Content-Encoding", "gzip")],
        body=gzip.compress(NAMED + FILE + bytes(40 << 20) + b"\r\n--b--\r\n"),
    )  # fmt: skip
    async with (
        ScriptedEngine(deaf) as engine,
        running([engine.url], max_decompression_ratio=0, max_upload_bytes=64 << 20) as gw,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(4)]
        for client in clients:
            await client.send(wire)
        await gw.until("all are at the engine", lambda: len(engine.connections) >= 4)
        await asyncio.sleep(0.3)
        queued = [conn.stream.sink.call.stream.queued() for conn in gw.gateway.core.connections]
        assert len(queued) == 4
        assert max(queued) <= STEP_BYTES + 65536 + 1000, "no more is unpacked than the engine takes"
