"""The scripted engine sends what it is told, ends as it is told, and sees what the peer does."""

from __future__ import annotations

import asyncio
import time

import pytest

from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.sim.client import connect, read_to_end, request, send
from tests.support import tls_client

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_a_conversation(run):
    async def handler(conn: ScriptedConnection) -> None:
        first = await conn.read_request()
        await conn.send(OK)
        second = await conn.read_request()
        assert (first.method, first.target, first.header(b"X-A"), first.body) == (b"POST", b"/a", b"1", b"body")
        assert (second.target, second.body) == (b"/b", b"hello world")
        await conn.send_slowly(OK, gap_s=0.001, step=10)

    async def main():
        async with ScriptedEngine(handler) as engine:
            reply = await send(
                engine.url,
                request("POST", "/a", b"body", {"x-a": "1"}, close=False)
                + b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: 1\r\n\r\n",
            )
            return reply, engine.requests, engine.connections

    reply, requests, connections = run(main)
    assert (reply.raw, reply.end) == (OK + OK, "fin")
    assert len(requests) == 2
    assert bytes(connections[0].received).startswith(b"POST /a HTTP/1.1\r\n")
    assert connections[0].received_total == len(connections[0].received)


def test_what_was_sent_before_a_reset_arrives(run):
    async def handler(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        await asyncio.sleep(0.05)
        conn.reset()

    async def main():
        async with ScriptedEngine(handler) as engine:
            return await send(engine.url, request("GET", "/"))

    reply = run(main)
    assert reply.raw.endswith(b"half")
    assert reply.end == "rst"


@pytest.mark.quiet
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_the_peers_end_is_seen_with_its_time(run, how):
    seen = []

    async def handler(conn: ScriptedConnection) -> None:
        await conn.read_request()
        seen.append((await conn.wait_closed(), conn.closed_how))

    async def main():
        async with ScriptedEngine(handler) as engine:
            _, writer = await connect(engine.url)
            if how == "rst":
                engine_side = writer.transport.get_extra_info("socket")
                engine_side.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0
            writer.write(request("GET", "/", close=False))
            await asyncio.sleep(0.05)
            left_s = time.monotonic()
            writer.transport.abort()
            await asyncio.sleep(0.05)
            return left_s

    left_s = run(main)
    assert seen[0][1] == how
    assert 0 <= seen[0][0] - left_s < 0.04


def test_a_half_close_still_lets_the_script_read(run):
    async def handler(conn: ScriptedConnection) -> None:
        conn.finish_sending()
        assert (await conn.read_request()).target == b"/late"

    async def main():
        async with ScriptedEngine(handler) as engine:
            reader, writer = await connect(engine.url)
            assert await reader.read() == b""
            writer.write(request("GET", "/late"))
            await asyncio.sleep(0.05)
            writer.close()
            return len(engine.requests)

    assert run(main) == 1


def test_back_pressure_reaches_the_peer_and_the_script(run):
    progress = []

    async def handler(conn: ScriptedConnection) -> None:
        conn.pause_reading()
        await asyncio.sleep(0.1)
        progress.append(conn.received_total)
        conn.resume_reading()
        await conn.read_exactly(20_000_000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await conn.send(b"x" * 50_000_000)
        progress.append("blocked")

    async def main():
        async with ScriptedEngine(handler) as engine:
            _, writer = await connect(engine.url)
            writer.transport.pause_reading()
            writer.write(b"y" * 20_000_000)
            async with asyncio.timeout(5):
                while "blocked" not in progress:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            writer.transport.abort()

    run(main)
    assert progress[0] < 1_000_000


def test_a_failed_assertion_in_a_handler_fails_the_test(run):
    async def handler(conn: ScriptedConnection) -> None:
        assert (await conn.read_request()).target == b"/expected"

    async def main():
        async with ScriptedEngine(handler) as engine:
            await send(engine.url, request("GET", "/other"))

    with pytest.raises(AssertionError, match="/other"):
        run(main)


def test_a_peer_that_leaves_is_no_failure(run):
    async def handler(conn: ScriptedConnection) -> None:
        await conn.read_request()

    async def main():
        async with ScriptedEngine(handler) as engine:
            _, writer = await connect(engine.url)
            writer.write(b"GET / HT")
            writer.close()
            await asyncio.sleep(0.05)
            return engine.connections

    assert repr(run(main)[0]) == "<ScriptedConnection 0 in=8 out=0 closed=fin>"


def test_listening_stops_and_starts_on_the_same_port(run):
    async def handler(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(OK)

    async def main():
        async with ScriptedEngine(handler) as engine:
            url = engine.url
            await engine.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await connect(url)
            await engine.start()
            assert engine.url == url
            return (await send(url, request("GET", "/"))).raw

    assert run(main) == OK


def test_a_unix_socket(run, tmp_path):
    async def handler(conn: ScriptedConnection) -> None:
        await conn.read_until(b"\r\n\r\n")
        await conn.send(OK)

    async def main():
        async with ScriptedEngine(handler, unix=str(tmp_path / "s")) as engine:
            assert engine.url.startswith("unix:/")
            reader, writer = await connect(engine.url)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            reply = await read_to_end(reader)
            writer.close()
            return reply.raw

    assert run(main) == OK


def test_whoever_asks_for_http2_is_told_that_there_is_none_whatever_the_script(run):
    async def handler(conn: ScriptedConnection) -> None:
        await conn.send(b"!" + await conn.read_exactly(1))

    async def main():
        async with ScriptedEngine(handler) as engine:
            asked = await send(engine.url, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            other = await send(engine.url, b"x")
            return asked, other, engine.asked_for_h2, [bytes(conn.received) for conn in engine.connections]

    asked, other, count, received = run(main)
    assert asked.raw.startswith(b"HTTP/1.1 400 ")
    assert (other.raw, count, received) == (b"!x", 1, [b"x"])


def test_through_tls_it_can_send_more_than_once(run):
    async def handler(conn: ScriptedConnection) -> None:
        for byte in (b"a", b"b", b"c"):
            await conn.send(byte)

    async def main():
        certs = tls_client.shared()
        async with ScriptedEngine(handler, ssl_context=certs.server()) as engine:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", engine.port, ssl=certs.trusting(), server_hostname="localhost"
            )
            async with asyncio.timeout(3.0):
                said = await reader.read()
            writer.close()
            return said

    assert run(main) == b"abc"
