"""CASES, group E: what an HTTP/1.1 engine can do wrong, and what its client then sees. One class per row.

``E nnn`` is an OpenAI-shaped refusal without internals; ``K`` is proved by a second request on the same connection; an
abort is an answer that its own framing never completes. Each gateway's leftovers and access records are checked when it stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.sim import RawRequest, ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.support.client import RawClient, RawResponse, chat
from tests.support.gateway import Running, running
from tests.support.ports import closed_port

Play = Callable[[ScriptedConnection, RawRequest], Awaitable[None]]

ANSWER = b'{"id":"a","object":"chat.completion","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}'
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON_CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
# Set apart from what is under test: probes stay out of the way, and nothing is warm unless a test wants it.
QUIET: dict[str, Any] = {"health_interval_s": 60.0, "warm_connections": 0}


def ok(body: bytes = ANSWER, *lines: bytes) -> bytes:
    extra = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (len(body), extra, body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def scripted(play: Play, **options: Any) -> ScriptedEngine:
    """An engine whose health is good and whose every POST is ``play``'s business."""

    async def handler(conn: ScriptedConnection) -> None:
        while True:
            request = await conn.read_request()
            if request.method == b"GET":
                await conn.send(ok(b'{"object":"list","data":[]}', b"connection: close"))
                return
            await play(conn, request)

    return ScriptedEngine(handler, **options)


async def fine(conn: ScriptedConnection, _: RawRequest) -> None:
    await conn.send(ok())


def posts(engine: ScriptedEngine) -> list[RawRequest]:
    return [request for request in engine.requests if request.method == b"POST"]


def pool_engine(gw: Running, at: int = 0) -> Any:
    """The gateway's own account of its engine number ``at``."""
    core = gw.gateway.core
    assert core is not None
    return core.table.pools[at].engine


async def probed(gw: Running) -> None:
    """Wait until the first round of probes is over."""
    core = gw.gateway.core
    assert core is not None
    await gw.until("engines probed", lambda: all(pool.engine.probed_at for pool in core.table.pools))


def refused(answer: RawResponse, status: int, *secrets: str) -> None:
    """``E status upe``: one JSON error of the table, nothing of the inside in it."""
    assert (answer.status, answer.complete) == (status, True)
    assert answer.header("content-type") == "application/json"
    error = answer.error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "upstream_error"
    text = answer.body.decode() + answer.raw_head.decode("latin-1")
    for secret in ("127.0.0.1", "Traceback", "fastgw/", "Errno", *secrets):
        assert secret not in text


async def ask(client: RawClient, timeout: float = 5.0, **fields: Any) -> RawResponse:  # noqa: ASYNC109
    await client.send(chat(**fields))
    return await client.read_response(timeout)


def aborted(answer: RawResponse) -> None:
    assert not answer.complete
    assert answer.how_ended in ("eof", "reset")
    assert b"[DONE]" not in answer.body
    assert not answer.raw_body.endswith(b"\r\n0\r\n\r\n")


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose backlog is full: its kernel drops every further SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        time.sleep(0.01)
        yield listener.getsockname()[1]


class TestE1:
    """Cannot be reached (refuses; unknown name; SYN black hole, full backlog): the next engine within the connect timeout,
    else E502 or E504; one failure on its account."""

    @pytest.mark.parametrize("policy", ["round_robin", "ordered"])
    async def test_E1_refused_goes_to_the_next_engine(self, policy: str) -> None:
        dead = closed_port()
        async with (
            scripted(fine) as engine,
            running([f"http://127.0.0.1:{dead}", engine.url], policy=policy, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for _ in range(4):
                answer = await ask(client)
                assert (answer.status, answer.body) == (200, ANSWER)
            assert len(posts(engine)) == 4
            assert [record["status"] for record in gw.records] == [200] * 4

    async def test_E1_an_engine_that_stops_listening_fails_over_and_costs_it_one_failure_each(self) -> None:
        async with (
            scripted(fine) as first,
            scripted(fine) as second,
            running([first.url, second.url], policy="ordered", health_unhealthy_after=1000, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            await probed(gw)
            await first.stop_listening()
            for number in range(1, 6):
                assert (await ask(client)).status == 200
                assert pool_engine(gw).failures_total == number
            assert (len(posts(first)), len(posts(second))) == (0, 5)
            assert pool_engine(gw, 1).failures_total == 0
            assert gw.stats.failovers_total == 5

    @pytest.mark.parametrize("count", [1, 2, 5])
    async def test_E1_all_refuse(self, count: int) -> None:
        urls = [f"http://127.0.0.1:{closed_port()}" for _ in range(count)]
        async with running(urls, **QUIET) as gw, RawClient.connect("127.0.0.1", gw.port) as client:
            for _ in range(3):
                refused(await ask(client), 502)
            assert all(pool_engine(gw, at).failures_total == 3 for at in range(count))

    async def test_E1_a_unix_socket_that_nobody_has_opened(self, tmp_path: Path) -> None:
        async with (
            scripted(fine) as engine,
            running([f"unix:{tmp_path}/none.sock", engine.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
            assert len(posts(engine)) == 1

    async def test_E1_an_unknown_name(self) -> None:
        nowhere = "http://no-such-engine.invalid:8000"
        async with (
            scripted(fine) as engine,
            running([nowhere, engine.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
        async with running([nowhere], **QUIET) as gw, RawClient.connect("127.0.0.1", gw.port) as client:
            refused(await ask(client), 502, "no-such-engine")
            refused(await ask(client), 502, "no-such-engine")

    async def test_E1_a_full_backlog_costs_the_connect_timeout_and_no_more(self) -> None:
        with black_hole() as port:
            async with (
                scripted(fine) as engine,
                running(
                    [f"http://127.0.0.1:{port}", engine.url],
                    policy="ordered",
                    connect_timeout_s=0.3,
                    health_timeout_s=0.2,
                    **QUIET,
                ) as gw,
                RawClient.connect("127.0.0.1", gw.port) as client,
            ):
                core = gw.gateway.core
                assert core is not None
                pool_engine(gw).healthy = True  # as it was a moment ago
                begun = time.monotonic()
                answer = await ask(client)
                assert answer.status == 200
                assert time.monotonic() - begun < 0.3 + 0.4
            async with (
                running([f"http://127.0.0.1:{port}"], connect_timeout_s=0.3, health_timeout_s=0.2, **QUIET) as gw,
                RawClient.connect("127.0.0.1", gw.port) as client,
            ):
                begun = time.monotonic()
                refused(await ask(client), 504)
                assert 0.29 <= time.monotonic() - begun < 0.3 + 0.4
                assert pool_engine(gw).failures_total == 1


async def _at_once(conn: ScriptedConnection, how: str) -> None:
    if how == "rst":
        conn.reset()
    else:
        conn.close()


class TestE2:
    """Dies without a response byte: replayed where nothing can have been acted on (a reused connection; by policy also a
    fresh one, once), else E502. Never after a response byte."""

    @pytest.mark.parametrize("how", ["fin", "rst"])
    async def test_E2_a_fresh_connection_that_dies_is_not_replayed_by_default(self, how: str) -> None:
        async def dies(conn: ScriptedConnection, _: RawRequest) -> None:
            await _at_once(conn, how)

        async with (
            scripted(dies) as first,
            scripted(dies) as second,
            running([first.url, second.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            assert len(posts(first)) + len(posts(second)) == 1
            refused(await ask(client), 502)  # K

    async def test_E2_closes_before_reading(self) -> None:
        async def shut(conn: ScriptedConnection) -> None:
            conn.close()

        async with (
            ScriptedEngine(shut) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            refused(await ask(client), 502)

    @pytest.mark.parametrize("how", ["fin", "rst"])
    async def test_E2_the_retry_policy_sends_it_on_exactly_once(self, how: str) -> None:
        async def dies(conn: ScriptedConnection, _: RawRequest) -> None:
            await _at_once(conn, how)

        async with (
            scripted(dies) as first,
            scripted(dies) as second,
            scripted(fine) as third,
            running([first.url, second.url, third.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            refused(await ask(client), 502)
            assert [len(posts(one)) for one in (first, second, third)] == [1, 1, 0]
        async with (
            scripted(dies) as first,
            scripted(fine) as second,
            running([first.url, second.url], policy="ordered", **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            body = chat(content="ü" * 40_000).split(b"\r\n\r\n", 1)[1]
            answer = await ask(client, body=body)
            assert (answer.status, answer.body) == (200, ANSWER)
            assert posts(first)[0].body == posts(second)[0].body == body

    @pytest.mark.parametrize("how", ["fin", "rst"])
    async def test_E2_a_reused_connection_that_dies_is_replayed_unseen(self, how: str) -> None:
        async def second_time_unlucky(conn: ScriptedConnection, _: RawRequest) -> None:
            if len(posts(engine)) == 2:
                await _at_once(conn, how)
            else:
                await conn.send(ok())

        async with (
            scripted(second_time_unlucky) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for _ in range(3):
                answer = await ask(client)
                assert (answer.status, answer.body) == (200, ANSWER)
            assert gw.stats.replays_total == 1
            assert len(posts(engine)) == 4
            assert posts(engine)[1].body == posts(engine)[2].body
            assert pool_engine(gw).failures_total == 0

    async def test_E2_the_replay_itself_is_not_replayed(self) -> None:
        async def only_the_first(conn: ScriptedConnection, _: RawRequest) -> None:
            if len(posts(engine)) > 1:
                conn.reset()
            else:
                await conn.send(ok())

        async with (
            scripted(only_the_first) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
            refused(await ask(client), 502)
            assert len(posts(engine)) == 3

    async def test_E2_replay_can_be_turned_off(self) -> None:
        async def only_the_first(conn: ScriptedConnection, _: RawRequest) -> None:
            if len(posts(engine)) == 2:
                conn.close()
            else:
                await conn.send(ok())

        async with (
            scripted(only_the_first) as engine,
            running([engine.url], replay=False, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client)).status == 200
            refused(await ask(client), 502)
            assert len(posts(engine)) == 2
            assert (await ask(client)).status == 200

    @pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
    @pytest.mark.parametrize("policy", ["round_robin", "ordered"])
    async def test_E2_nothing_is_repeated_after_a_response_byte(self, said: bytes, policy: str) -> None:
        async def second_time_unlucky(conn: ScriptedConnection, _: RawRequest) -> None:
            if len(posts(engine)) == 1:
                await conn.send(ok())
                return
            await conn.send(said)
            await asyncio.sleep(0.005)
            conn.close()

        async with (
            scripted(second_time_unlucky) as engine,
            scripted(fine) as other,
            running([engine.url, other.url], policy=policy, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answers = [await ask(client) for _ in range(3 if policy == "round_robin" else 2)]
            refused(answers[-1], 502)
            assert len(posts(engine)) == 2

    @pytest.mark.deadline_s(60)
    async def test_E2_a_thousand_deaths_leave_no_memory_behind(self) -> None:
        async def dies(conn: ScriptedConnection, _: RawRequest) -> None:
            await _at_once(conn, random.choice(["fin", "rst"]))

        async with (
            scripted(dies) as engine,
            running([engine.url], cb_failure_threshold=0, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for turn in range(1200):
                refused(await ask(client), 502)
                engine.requests.clear()
                engine.connections[:] = engine.connections[-2:]
                if turn == 200:
                    base = rss_bytes()
            assert rss_bytes() - base < 5_000_000
            assert gw.stats.exchanges_total == 1200


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestE3:
    """Closes an idle connection exactly when it is used again, 1,000 tries: no client ever sees it, and no generation is
    made twice."""

    @pytest.mark.deadline_s(60)
    async def test_E3_a_thousand_tries_at_the_very_moment(self) -> None:
        """The engine closes after 20 idle ms; clients come back after 20 ms, give or take one."""
        generated: list[bytes] = []

        async def handler(conn: ScriptedConnection) -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    request = await conn.read_request(0.02)
                    if request.method == b"POST":
                        generated.append(request.body)
                    await conn.send(ok())
                    continue
                return

        async def one(gw: Running, name: int, tries: int) -> None:
            dice = random.Random(name)
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                for turn in range(tries):
                    answer = await ask(client, content=f"{name}/{turn}")
                    assert (answer.status, answer.body) == (200, ANSWER)
                    await asyncio.sleep(dice.uniform(0.019, 0.0215))

        async with ScriptedEngine(handler) as engine, running([engine.url], **QUIET) as gw:
            await asyncio.gather(*(one(gw, name, 100) for name in range(10)))
            assert len(generated) == len(set(generated)) == 1000
            assert [record["status"] for record in gw.records] == [200] * 1000
            reconnected = len(engine.connections)
            assert reconnected > 50, "the engine hardly ever closed: this tried nothing"

    @pytest.mark.deadline_s(60)
    async def test_E3_a_thousand_requests_on_connections_that_just_died(self) -> None:
        """The FIN crosses the request: the engine has the bytes in its buffer and closes without reading them."""
        generated: list[bytes] = []

        async def handler(conn: ScriptedConnection) -> None:
            request = await conn.read_request()
            if request.method == b"POST":
                generated.append(request.body)
            await conn.send(ok())
            if request.method == b"POST":
                await conn.read_until(b"POST ")  # the next request has begun to arrive: close, as an engine's timer would
                conn.reset() if len(generated) % 2 else conn.close()

        async with (
            ScriptedEngine(handler) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            for turn in range(1000):
                answer = await ask(client, content=str(turn))
                assert (answer.status, answer.body) == (200, ANSWER)
            assert len(generated) == len(set(generated)) == 1000
            assert gw.stats.replays_total == 999

    async def test_E3_the_idle_limit_is_learned_so_that_replays_become_rare(self) -> None:
        async with (
            Simulator(SimConfig(keep_alive_s=0.7)) as sim,
            running([sim.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            assert (await ask(client, model="sim")).status == 200
            await asyncio.sleep(0.8)  # the engine's close is seen while idle
            before = gw.stats.replays_total
            for _ in range(2):
                assert (await ask(client, model="sim")).status == 200
                await asyncio.sleep(0.66)  # too close to the engine's limit: the gateway has given the connection back
            assert gw.stats.replays_total == before
            assert sim.state.served - sum(r.method == "GET" for r in sim.requests) == 3


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
    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
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

    EARLY = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"

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

    @pytest.mark.parametrize("count", [17, 10_000])
    async def test_E10_not_without_end(self, count: int) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(self.EARLY * count + ok())
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

    async def test_E11_honest_bytes_pass_untouched(self) -> None:
        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(ok(ANSWER, b"x-obs: caf\xe9 \xff", b"x-tab: a\tb", b"x-empty:", b"X-Twice: 1", b"x-twice: 2"))

        async with (
            scripted(speaks) as engine,
            running([engine.url], **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client)
            assert (answer.status, answer.body) == (200, ANSWER)
            assert answer.header("x-obs") == "caf\xe9 \xff"
            assert answer.header("x-tab") == "a\tb"
            assert answer.header("x-empty") == ""
            assert answer.header_all("x-twice") == ["1", "2"]


@contextlib.asynccontextmanager
async def silence(said: list[bytes], **settings: Any) -> AsyncIterator[tuple[ScriptedEngine, Running, RawClient]]:
    """An engine that says these pieces, 50 ms apart, and then nothing."""

    async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
        for piece in said:
            await conn.send(piece)
            await asyncio.sleep(0.05)
        await conn.wait_closed(10.0)

    async with (
        scripted(speaks) as engine,
        running([engine.url], **QUIET, **settings) as gw,
        RawClient.connect("127.0.0.1", gw.port) as client,
    ):
        yield engine, gw, client


@pytest.mark.together
class TestE13:
    """Silence: E504 while nothing has gone down, else the event `upstream_timeout` and an abort, at its limit; keep-alive
    comments are no sign of life."""

    @pytest.mark.parametrize("said", [[], [b"HTTP/1.1 2"], [b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"], [TestE10.EARLY]])
    async def test_E13_no_answer(self, said: list[bytes]) -> None:
        async with silence(said, first_byte_timeout_s=0.4) as (engine, gw, client):
            begun = time.monotonic()
            refused(await ask(client), 504)
            assert 0.35 <= time.monotonic() - begun < 0.4 + 0.5
            # The engine is told to stop.
            await engine.connections[-1].wait_closed(0.5)
            assert gw.records[0]["error"] == "upstream_timeout"
            assert pool_engine(gw).failures_total == 1
            refused(await ask(client), 504)  # K

    @pytest.mark.parametrize(
        "said",
        [[SSE_HEAD], [SSE_HEAD + chunk(EVENT)], [SSE_HEAD, chunk(EVENT) * 2, chunk(EVENT[:30])], [SSE_HEAD + b"fff\r\ndata:"]],
    )
    async def test_E13_mid_stream(self, said: list[bytes]) -> None:
        async with silence(said, between_bytes_timeout_s=0.4) as (engine, gw, client):
            begun = time.monotonic()
            answer = await ask(client, stream=True)
            assert 0.35 <= time.monotonic() - begun < 0.4 + 0.15 + 0.5
            aborted(answer)
            assert answer.status == 200
            assert '"code":"upstream_timeout"' in answer.events()[-1]
            assert answer.body.count(b'"error"') == 1
            await engine.connections[-1].wait_closed(0.5)
            assert [record["outcome"] for record in gw.records] == ["upstream_timeout"]

    async def test_E13_mid_answer(self) -> None:
        async with silence([ok()[:-20]], between_bytes_timeout_s=0.4) as (engine, _, client):
            answer = await ask(client)
            aborted(answer)
            assert ANSWER.startswith(answer.body)
            await engine.connections[-1].wait_closed(0.5)

    async def test_E13_comments_are_no_sign_of_life(self) -> None:
        said = [SSE_HEAD + chunk(EVENT)] + [chunk(b": ping\n\n")] * 100
        async with silence(said, between_bytes_timeout_s=0.4) as (_, _, client):
            begun = time.monotonic()
            answer = await ask(client, stream=True)
            assert time.monotonic() - begun < 0.4 + 0.5
            aborted(answer)
            assert '"code":"upstream_timeout"' in answer.events()[-1]
            assert answer.body.count(b": ping\n\n") >= 4  # passed on, all the same

    async def test_E13_a_slow_engine_is_not_a_silent_one(self) -> None:
        said = [SSE_HEAD] + [chunk(EVENT)] * 20 + [b"0\r\n\r\n"]  # a second, in all
        async with silence(said, between_bytes_timeout_s=0.4, first_byte_timeout_s=0.4) as (_, _, client):
            answer = await ask(client, stream=True)
            assert (answer.complete, answer.body) == (True, EVENT * 20)

    async def test_E13_zero_is_no_limit(self) -> None:
        said = [b"", b"", b"", b"", SSE_HEAD, b"", b"", b"", chunk(EVENT), b"0\r\n\r\n"]
        async with silence(said, between_bytes_timeout_s=0, first_byte_timeout_s=0) as (_, _, client):
            answer = await ask(client, stream=True)
            assert (answer.complete, answer.body) == (True, EVENT)

    async def test_E13_the_limit_of_the_whole_exchange(self) -> None:
        async with silence([SSE_HEAD] + [chunk(EVENT)] * 100, request_timeout_s=0.4) as (engine, _, client):
            begun = time.monotonic()
            answer = await ask(client, stream=True)
            assert 0.35 <= time.monotonic() - begun < 0.4 + 0.5
            aborted(answer)
            assert '"code":"upstream_timeout"' in answer.events()[-1]
            await engine.connections[-1].wait_closed(0.5)


class TestE15:
    """The engine's own refusals pass unchanged, once; only 5xx that are not back-pressure count against it."""

    @pytest.mark.parametrize("policy", ["round_robin", "ordered"])
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize(
        ("status", "counts"),
        [(400, 0), (404, 0), (408, 0), (422, 0), (429, 0), (500, 1), (501, 1), (502, 1), (503, 0), (504, 1), (529, 1)],
    )
    async def test_E15_passes_unchanged_but_our_fields(self, status: int, counts: int, stream: bool, policy: str) -> None:
        body = b'{"object":"error", "message": "caf\xc3\xa9",  "type":"NotEnough","param":null,"code":%d}\n' % status
        head = b"HTTP/1.1 %d Whatever It Says\r\nretry-after: 17\r\nretry-after-ms: 16500\r\nx-should-retry: false\r\n" % status

        async def speaks(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(head + b"Content-Type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

        async with (
            scripted(speaks) as engine,
            scripted(speaks) as other,
            running([engine.url, other.url], policy=policy, **QUIET) as gw,
            RawClient.connect("127.0.0.1", gw.port) as client,
        ):
            answer = await ask(client, stream=stream)
            assert (answer.status, answer.body, answer.complete) == (status, body, True)
            assert answer.header("retry-after") == "17"
            assert (answer.header("retry-after-ms"), answer.header("x-should-retry")) == (None, None), "the gateway's own words"
            assert answer.header("content-type") == "application/json"
            assert len(posts(engine)) + len(posts(other)) == 1
            assert pool_engine(gw, 0).failures_total + pool_engine(gw, 1).failures_total == counts
            assert pool_engine(gw, 0).healthy is not False
            assert (await ask(client, stream=stream)).status == status  # K


@pytest.mark.together
class TestHonestAccounts:
    """What the gateway or the client did is not held against an engine, and one odd engine does not blind the probes."""

    async def test_an_upload_that_pauses_is_the_clients_affair(self) -> None:
        async with (
            scripted(fine) as engine,
            running([engine.url], **QUIET, first_byte_timeout_s=0.3, passthrough_paths=["/v1/up"]) as gw,
        ):
            async with await gw.client() as client:
                await client.send(b"POST /v1/up HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b"x" * 1000)
                await asyncio.sleep(0.8)
                await client.send(b"x" * 1000)
                assert (await client.read_response()).status == 200
            assert pool_engine(gw).failures_total == 0

    async def test_the_limit_runs_from_the_end_of_an_upload(self) -> None:
        async def mute(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.wait_closed(10.0)

        async with (
            scripted(mute) as engine,
            running([engine.url], **QUIET, first_byte_timeout_s=0.3, passthrough_paths=["/v1/up"]) as gw,
            await gw.client() as client,
        ):
            await client.send(b"POST /v1/up HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b"x" * 1000)
            await asyncio.sleep(0.2)
            await client.send(b"x" * 1000)
            assert (await client.read_response(timeout=3.0)).status == 504

    async def test_a_drain_that_cuts_a_stream_is_no_truncation_of_the_engine(self) -> None:
        async def play(conn: ScriptedConnection, _: RawRequest) -> None:
            await conn.send(SSE_HEAD + chunk(EVENT))
            await conn.wait_closed(10.0)

        async with scripted(play) as engine, running([engine.url], **QUIET, drain_timeout_s=0.1) as gw:
            async with await gw.client() as client:
                await client.send(chat("m", stream=True))
                await client.read_head()
                account = pool_engine(gw)
                await gw.gateway.stop()
            assert [record["outcome"] for record in gw.records] == ["draining"]
            assert (account.truncations_total, account.failures_total, gw.stats.truncations_total) == (0, 0, 0)

    async def test_a_name_that_cannot_be_looked_up_does_not_end_the_probes(self) -> None:
        async with scripted(fine) as engine:
            names = [f"http://{'a' * 70}.example:80", engine.url]
            async with running(names, health_interval_s=0.1, warm_connections=0) as gw:
                await gw.until("the good engine is well", lambda: pool_engine(gw, 1).healthy is True)
                seen = len(engine.requests)
                await gw.until("probes go on", lambda: len(engine.requests) >= seen + 2)

    async def test_an_engine_that_restarts_teaches_no_idle_limit(self) -> None:
        async with scripted(fine) as engine, running([engine.url], health_interval_s=60.0, warm_connections=1) as gw:
            core = gw.gateway.core
            assert core is not None
            (pool,) = core.table.pools
            await gw.until("warm", lambda: len(pool.idle) == 1)
            await asyncio.sleep(0.7)
            before = pool.idle_limit_s
            await engine.stop()
            await gw.until("gone", lambda: pool.connections == 0)
            assert pool.idle_limit_s == before

    async def test_a_warm_dial_that_hangs_is_not_left_behind(self) -> None:
        """``running`` itself asserts that no engine connection is left."""
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    waiting.connect(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            async with running([url], health_interval_s=60.0, health_timeout_s=0.1, warm_connections=1) as gw:
                await gw.until("dialling", lambda: gw.stats.upstream_open == 1)

    async def test_the_total_limit_holds_while_a_body_trickles_in(self) -> None:
        async with (
            scripted(fine) as engine,
            running([engine.url], **QUIET, request_timeout_s=0.4) as gw, await gw.client() as client,
        ):
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n")
            start = time.monotonic()
            while not gw.records and time.monotonic() - start < 3:
                await client.send(b"x" * 300)
                await asyncio.sleep(0.02)
            assert (await client.read_response()).status == 408
            assert gw.records[0]["detail"] == "request_timeout_s reached within the body"
            assert posts(engine) == []

    async def test_a_connection_over_the_cap_is_recorded_with_its_time(self) -> None:
        async with running([], max_connections=1) as gw, await gw.client(), await gw.client() as refused:
            assert (await refused.read_response()).status == 503
            # Records are stamped by the monotonic clock; the log turns that into a date.
            assert abs(gw.records[0]["at"] - time.monotonic()) < 5
