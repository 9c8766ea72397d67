"""CASES, group E: answers that are none, and what a client sees of them (E4 … E11). One class per row."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.sim import RawRequest, ScriptedConnection, SimConfig, Simulator
from tests.e2e.engines import (
    ANSWER,
    EARLY,
    EVENT,
    JSON_CHUNKED,
    QUIET,
    SSE_HEAD,
    _at_once,
    aborted,
    ask,
    chunk,
    ok,
    pool_engine,
    posts,
    refused,
    rss_bytes,
    scripted,
)
from tests.support.client import RawClient
from tests.support.gateway import running

NOT_HTTP = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\xff\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2p1\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"<html>an HTTP/0.9 answer</html>",
    b'{"choices":[]}',
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",
    b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b" HTTP/1.1 200 OK\r\n\r\n",
    b"http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
]
BAD_STATUS = [
    b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/1.1 999 What", b"HTTP/1.1 099 No", b"HTTP/1.1 000 No", b"HTTP/1.1 600 No",
    b"HTTP/1.1 -20 No", b"HTTP/1.1 2e2 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200OK", b"HTTP/1.1",
    b"HTTP/1.1 ",
    b"HTTP/3.0 200 OK", b"HTTP/2 200 OK", b"HTTP/0.9 200 OK", b"HTTP/1.12 200 OK", b"HTTP/1.2 200 OK", b"HTTP/11 200 OK",
]  # fmt: skip


class TestE4:
    """What is not HTTP/1.x: E502, the client's connection stays usable, the engine's is closed."""

    @pytest.mark.parametrize("slowly", [False, True], ids=["whole", "bytewise"])
    @pytest.mark.parametrize("said", NOT_HTTP + [line + b"\r\ncontent-length: 2\r\n\r\n{}" for line in BAD_STATUS])
    async def test_E4_is_no_answer(self, said: bytes, slowly: bool) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            if slowly:
                await conn.send_slowly(said, 0.0005)
            else:
                await conn.send(said)
            await conn.wait_closed(3.0)

        async with (
            scripted(speaks) as engine,
            running([engine.url], first_byte_timeout_s=20, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            refused(await ask(client), 502)  # K
            used = [conn for conn in engine.connections if conn.received.startswith(b"POST")]
            assert len(used) == 2
            for conn in used:
                await conn.wait_closed(1.0)
            assert pool_engine(gw).failures_total == 2


class TestE5:
    """A head without measure: E502, and no more of it is taken in than the limit and the socket's buffers."""

    @pytest.mark.parametrize("fault", ["head=300000", "many-headers=10000", "many-headers=201", "endless-head"])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_E5_a_head_without_measure(self, fault: str, stream: bool) -> None:
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client, model="sim", stream=stream, headers=[("x-sim-fault", fault)]), 502)
            await gw.until("the engine's connection closed", lambda: gw.stats.upstream_open == 0)
            assert (await ask(client, model="sim")).status == 200  # K

    @pytest.mark.parametrize("line", [b"x: " + b"y" * 1000 + b"\r\n", b"a" * 4096, b"x: " + b"y" * 65_000])
    async def test_E5_little_of_an_endless_head_is_held(self, line: bytes) -> None:
        async def endless(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\n")
            for _ in range(20_000):
                await conn.send(line)
            raise AssertionError("20,000 lines were taken")

        async with (
            scripted(endless) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            base = rss_bytes()
            refused(await ask(client), 502)
            assert rss_bytes() - base < 4_000_000
            assert max(conn.sent_total for conn in engine.connections) < 8_000_000

    async def test_E5_a_large_head_within_the_limits_is_fine(self) -> None:
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client, model="sim", headers=[("x-sim-fault", "head=60000,many-headers=100")])
            assert (answer.status, answer.complete, len(answer.header_all("x-sim-padding")) > 3) == (200, True, True)


BAD_CHUNKS = [
    b"0x5\r\nhello\r\n", b"+5\r\nhello\r\n", b"-1\r\n", b"5_0\r\n", b" 5\r\nhello\r\n", b"5 \r\nhello\r\n", b"\r\nhello\r\n",
    b"00000000000000005\r\nhello\r\n", b"ffffffffffffffff\r\n", b"xyz\r\nhello\r\n", b"5\nhello\r\n",
    b"5\r\nhelloX\n", b"5\r\nhelloo\r\n",
    b"5;a=\x00b\r\nhello\r\n", b'5;a="b\r\nhello\r\n', b"data: {}\n\n",
]  # fmt: skip


class TestE7:
    """A chunk that is none: before anything was sent down E502, afterwards the error event and an abort."""

    @pytest.mark.parametrize("head", [SSE_HEAD, JSON_CHUNKED], ids=["sse", "json"])
    @pytest.mark.parametrize("bad", [bad for bad in BAD_CHUNKS if not bad.startswith(b"5\r\n")])
    async def test_E7_with_the_head(self, bad: bytes, head: bytes) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(head + bad)
            await conn.wait_closed(3.0)

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client, stream=True), 502)
            refused(await ask(client, stream=True), 502)  # K

    @pytest.mark.parametrize("gap_s", [0.0, 0.01], ids=["one-segment", "later"])
    @pytest.mark.parametrize("bad", BAD_CHUNKS)
    async def test_E7_after_events(self, bad: bytes, gap_s: float) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            first, rest = SSE_HEAD + chunk(EVENT), chunk(EVENT) + bad
            if gap_s:
                await conn.send(first)
                await asyncio.sleep(gap_s)
                await conn.send(rest)
            else:
                await conn.send(first + rest)
            await conn.wait_closed(3.0)

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client, stream=True)
            aborted(answer)
            # What the engine said before it broke is the client's; the rest is our one event.
            assert answer.body.startswith(EVENT + EVENT)
            events = answer.events()
            assert sum('"error"' in event for event in events) == 1
            assert '"error"' in events[-1]
            assert [record["outcome"] for record in gw.records] == ["truncated"]
            assert (gw.stats.truncations_total, pool_engine(gw).truncations_total) == (1, 1)

    @pytest.mark.parametrize("bad", BAD_CHUNKS)
    async def test_E7_in_a_plain_answer_that_has_begun(self, bad: bytes) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(JSON_CHUNKED + chunk(ANSWER[:20]))
            await asyncio.sleep(0.01)
            await conn.send(bad)
            await conn.wait_closed(3.0)

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client)
            aborted(answer)
            assert answer.body.startswith(ANSWER[:20])
            assert b"error" not in answer.body


class TestE9:
    """Closes early under Content-Length: E502 while the head has not gone down, else an abort; never padded, never ended."""

    @pytest.mark.parametrize("how", ["fin", "rst"])
    @pytest.mark.parametrize("version", ["HTTP/1.0"])
    @pytest.mark.parametrize("cut", [1, 20, 50, -1])
    async def test_E9_in_the_body(self, cut: int, version: str, how: str) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            whole = ok()
            head = whole.index(b"\r\n\r\n") + 4
            await conn.send(whole[: head + cut] if cut > 0 else whole[:cut])
            await asyncio.sleep(0.01)
            await _at_once(conn, how)

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client, version=version)
            aborted(answer)
            assert answer.header("content-length") == str(len(ANSWER))
            assert ANSWER.startswith(answer.body)
            assert [record["outcome"] for record in gw.records] == ["truncated"]
            assert pool_engine(gw).truncations_total == 1

    @pytest.mark.parametrize("how", ["fin", "rst"])
    @pytest.mark.parametrize("left", [1, 2, 30])
    async def test_E9_in_the_head(self, left: int, how: str) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            whole = ok(b"")
            await conn.send(whole[:-left])
            await asyncio.sleep(0.01)
            await _at_once(conn, how)

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            refused(await ask(client), 502)  # K


class TestE10:
    """Interim answers are passed over, a bounded number of them; an unasked 101 is E502; death after one is E502."""

    @pytest.mark.parametrize("slowly", [False, True], ids=["whole", "bytewise"])
    @pytest.mark.parametrize(
        "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", EARLY, EARLY * 7, b"HTTP/1.1 102 Processing\r\n\r\n" + EARLY, EARLY * 16]
    )
    async def test_E10_are_passed_over(self, interim: bytes, slowly: bool) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            if slowly:
                await conn.send_slowly(interim + ok(), 0.0003, 3)
            else:
                await conn.send(interim + ok())

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for _ in range(2):
                answer = await ask(client)
                assert (answer.status, answer.body, answer.interim) == (200, ANSWER, [])
            assert len([conn for conn in engine.connections if conn.received.startswith(b"POST")]) == 1

    @pytest.mark.parametrize("count", [10_000])
    async def test_E10_not_without_end(self, count: int) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(EARLY * count + ok())
            await conn.wait_closed(3.0)

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            refused(await ask(client), 502)  # K

    @pytest.mark.parametrize("before", [b"", EARLY])
    async def test_E10_a_101_that_nobody_asked_for(self, before: bytes) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(before + b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: Upgrade\r\n\r\nbytes")
            await conn.wait_closed(3.0)

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client)
            refused(answer, 502)
            assert answer.interim == []
            refused(await ask(client), 502)  # K

    @pytest.mark.parametrize(
        "said", [EARLY, EARLY * 3, b"HTTP/1.1 100 Continue\r\n\r\n", EARLY[:-2], EARLY + b"HTTP/1.1 200 OK\r\n"]
    )
    async def test_E10_then_death(self, said: bytes) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(said)
            await asyncio.sleep(0.005)
            conn.close()

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            refused(await ask(client), 502)
            assert len(posts(engine)) == 2


class TestE11:
    """What could split an answer: E502, or the field repaired; never a line that the engine did not mean."""

    @pytest.mark.parametrize(
        "line",
        [
            b"x-a: b\rset-cookie: evil=1", b"x-a: b\nset-cookie: evil=1", b"x-a: b\r\rset-cookie: evil=1",
            b"x-a: b\x00c", b"x-a: b\x01",
            b"x-a: b\x7f", b"x-a: one\r\n two", b"x-a: one\r\n\ttwo", b" x-a: leading", b"x-a : b", b"x-a\t: b",
            b"x a: b", b": empty",
            b"no colon", b"x-\xe9: b", b"x(a): b", b"x-a: b\r\n\n", b"content-length: 5", b"content-length : 2",
            b"transfer-encoding: chunked",
            b"transfer_encoding: chunked", b"content_length: 9",
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("stream", [False, True])
    async def test_E11_no_field_splits_the_answer(self, line: bytes, stream: bool) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            if stream:
                await conn.send(SSE_HEAD[:-2] + line + b"\r\n\r\n" + chunk(EVENT) + b"0\r\n\r\n")
            else:
                await conn.send(ok(ANSWER, line))
            await conn.wait_closed(3.0)

        async with (
            scripted(speaks) as engine,
            running([engine.url], first_byte_timeout_s=2.0, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for _ in range(2):
                answer = await ask(client, stream=stream)  # the client itself refuses heads that are not well formed
                assert answer.header("set-cookie") is None
                if answer.status == 200:
                    assert answer.complete
                    assert answer.body == (EVENT if stream else ANSWER)
                    assert not [name for name, _ in answer.headers if "_" in name]
                else:
                    refused(answer, 502)
