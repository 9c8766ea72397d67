"""Group B of the cases: limits, slow clients and exhaustion, over real sockets. B4 and B12 stand in ``test_cases_b_crowds.py``.

Times are scaled down by settings; the rule is the same at any value.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from time import monotonic

import pytest

from fastgw import Config
from fastgw.net.h1_connection import H1Connection
from fastgw.net.h1_states import BODY_PROGRESS_BYTES
from fastgw.net.wire import RECV_BYTES
from fastgw.sim.scripted import ScriptedConnection
from tests.e2e.front import TAIL, Front, front, judge, refusal
from tests.support.client import NoResponse, RawClient, chat, chat_body, request

HEAD_BYTES = 32768
MIB = 1 << 20
LATE_S = 0.6  # the wheel's tick, and a shared machine


def conns(front: Front) -> list[H1Connection]:
    core = front.gw.gateway.core
    assert core is not None
    return list(core.connections)


def sized(total: int, fields: int = 1, target: str = "/healthz") -> bytes:
    """A head of exactly ``total`` bytes, spread over ``fields`` fields."""
    bare = len(request("GET", target, headers=[("X-A", "")] * fields))
    share, rest = divmod(total - bare, fields)
    head = request("GET", target, headers=[("X-A", "a" * (share + (rest if turn == 0 else 0))) for turn in range(fields)])
    assert len(head) == total
    return head


def test_B_the_limits_are_on_without_being_asked_for() -> None:
    """The figures of the table are the defaults."""
    config = Config()
    assert (config.max_head_bytes, config.max_header_count, config.max_body_bytes) == (HEAD_BYTES, 100, 10 * MIB)
    assert (config.head_timeout_s, config.max_connections >= 10_000) == (10.0, True)
    assert 0 < config.body_timeout_s <= 60
    assert 0 < config.write_timeout_s <= 60
    assert 0 < config.keepalive_timeout_s <= 120


class TestB1:
    """A head over the limit, in one field, in many, in the target, or without end: E431 C ∅; at most the limit is held."""

    @pytest.mark.parametrize("fields", [1, 2, 90])
    @pytest.mark.parametrize("limit", [HEAD_BYTES, 4096])
    async def test_B1_one_byte_too_many(self, limit: int, fields: int) -> None:
        async with front(max_head_bytes=limit) as f, await f.client() as client:
            await client.send(sized(limit, min(fields, limit // 64)))
            assert (await client.read_response()).status == 200
            await client.send(sized(limit + 1, min(fields, limit // 64)) + TAIL)
            await refusal(client, 431)
            assert f.touched == []

    @pytest.mark.parametrize("step", [1000, 7000, 65536])
    async def test_B1_in_pieces_and_in_the_target(self, step: int) -> None:
        data = request("GET", "/healthz?" + "q" * HEAD_BYTES) + TAIL
        async with front() as f, await f.client() as client:
            await client.send_slowly(data, step)
            await refusal(client, 431)
            assert f.touched == []

    @pytest.mark.parametrize(
        "piece", [b"a" * 997, b"X-A: b\r\n" * 100, b"X-" + b"n" * 500 + b": v\r\n"], ids=["field", "fields", "names"]
    )
    async def test_B1_never_ending(self, piece: bytes) -> None:
        async with front() as f, await f.client() as other, await f.client() as client:
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-A: ")
            most = sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 4 * HEAD_BYTES:
                    await client.send(piece)
                    await asyncio.sleep(0.0005)  # a turn for the gateway, which shares this loop
                    sent += len(piece)
                    most = max([most, *(conn.reader.held + len(conn.surplus) for conn in conns(f))])
            await f.probe(other)
            await refusal(client, 431)
            assert HEAD_BYTES // 2 < most <= 40 * 1024
            assert f.touched == []

    async def test_B1_what_follows_the_refusal_is_drained_within_bounds(self) -> None:
        """The answer gets through although the client goes on sending; a client that never stops is cut off."""
        async with front() as f, await f.client() as client:
            flooding = asyncio.ensure_future(self.flood(client))
            answer = await client.read_response()
            judge(answer, 431)
            sent = await asyncio.wait_for(flooding, 5.0)
            assert sent < 64 * MIB, "cut off"
            await f.gw.until("the connection is gone", lambda: f.gw.stats.connections_open == 0)

    @staticmethod
    async def flood(client: RawClient) -> int:
        sent = 0
        with contextlib.suppress(ConnectionError):
            await client.send(b"GET /healthz HTTP/1.1\r\n")
            while sent < 64 * MIB:
                await client.send(b"X-A: " + b"a" * 65000)
                sent += 65000
                await asyncio.sleep(0)
        return sent


class TestB3:
    """Over 100 header lines: E431 C, however short they are."""

    @pytest.mark.parametrize("line", [b"a:\r\n", b"X-Field: value\r\n", b"X-Empty:\r\n"])
    async def test_B3_100_and_101_lines(self, line: bytes) -> None:
        async with front() as f, await f.client() as client:
            start = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
            await client.send(start + line * 99 + b"\r\n")
            assert (await client.read_response()).status == 200
            await client.send(start + line * 100 + b"\r\n" + TAIL)
            await refusal(client, 431)
            assert f.touched == []

    @pytest.mark.parametrize(
        ("lines", "settings"), [(10_000, {}), (10_000, {"max_head_bytes": MIB}), (9, {"max_header_count": 8})]
    )
    async def test_B3_other_counts(self, lines: int, settings: dict[str, int]) -> None:
        async with front(**settings) as f, await f.client() as client, await f.client() as other:
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"b:c\r\n" * (lines - 1) + b"\r\n" + TAIL)
            await f.probe(other)
            await refusal(client, 431)
            assert f.touched == []


@pytest.mark.together
class TestB4:
    """A head that trickles in gets E408 at the head limit, on a connection's first request and on later ones."""

    @pytest.mark.parametrize("before", [0, 2])
    async def test_B4_a_head_in_pieces(self, before: int) -> None:
        async with front(head_timeout_s=0.5) as f, await f.client() as client:
            for _ in range(before):
                await client.send(request("GET", "/healthz"))
                assert (await client.read_response()).status == 200
                await asyncio.sleep(0.1)
            begin = monotonic()
            sending = asyncio.ensure_future(
                client.send_slowly(request("GET", "/healthz", headers=[("A", "b" * 60)]), pause=0.01)
            )
            await refusal(client, 408)
            assert 0.35 <= monotonic() - begin <= 0.5 + LATE_S
            await sending
            assert f.gw.records[-1]["status"] == 408
            assert len(f.gw.records) == before + 1


@pytest.mark.together
class TestB5:
    """Connect and send nothing: a silent close at the keep-alive limit, as between requests."""

    @pytest.mark.parametrize("limit_s", [0.3, 0.7])
    async def test_B5_silence(self, limit_s: float) -> None:
        async with front(keepalive_timeout_s=limit_s, head_timeout_s=0.1) as f, await f.client() as client:
            begin = monotonic()
            assert await client.read_until_closed() == (b"", "fin")
            assert limit_s - 0.15 <= monotonic() - begin <= limit_s + LATE_S
            assert f.gw.records == []
            assert f.gw.stats.exchanges_total == 0

    async def test_B5_silence_between_requests(self) -> None:
        async with front(keepalive_timeout_s=0.4, head_timeout_s=5.0) as f, await f.client() as client:
            await client.send(request("GET", "/healthz"))
            assert (await client.read_response()).status == 200
            begin = monotonic()
            assert await client.read_until_closed() == (b"", "fin")
            assert 0.25 <= monotonic() - begin <= 0.4 + LATE_S

    async def test_B5_only_empty_lines(self) -> None:
        """Empty lines before a request are no request: they buy no time and are owed no answer."""
        async with front(keepalive_timeout_s=0.3) as f, await f.client() as client:
            await client.send(b"\r\n")
            begin = monotonic()
            assert await client.read_until_closed() == (b"", "fin")
            assert monotonic() - begin <= 0.3 + LATE_S


@pytest.mark.together
class TestB6:
    """A body that crawls or stops for ever, by length or by chunks: E408 C at the stall limit, and no engine connection is held
    meanwhile for a body that is read whole; one that is passed on while it arrives closes its engine's connection then."""

    @pytest.mark.parametrize("sent", [0, 1, 20])
    @pytest.mark.parametrize("chunked", [None, [5]])
    async def test_B6_stops_for_ever(self, chunked: list[int] | None, sent: int) -> None:
        head, _, body = chat("m", chunked=chunked).partition(b"\r\n\r\n")
        async with front(body_timeout_s=0.4) as f, await f.client() as other, await f.client() as client:
            await client.send(head + b"\r\n\r\n" + body[:sent])
            begin = monotonic()
            await asyncio.sleep(0.2)
            assert f.touched == []
            await f.probe(other)
            await refusal(client, 408)
            assert 0.25 <= monotonic() - begin <= 0.4 + LATE_S
            assert f.touched == []
            record = f.gw.records[-1]
            assert (record["status"], record["outcome"], record["error"]) == (408, "error", "request_timeout")

    @pytest.mark.parametrize("chunked", [None, [1]])
    async def test_B6_crawls(self, chunked: list[int] | None) -> None:
        """A byte now and then is no progress."""
        wire = chat("m", chunked=chunked, content="x" * 1000)
        start = wire.index(b"\r\n\r\n") + 4
        async with front(body_timeout_s=0.4) as f, await f.client() as client:
            await client.send(wire[:start])
            begin = monotonic()
            crawling = asyncio.ensure_future(client.send_slowly(wire[start : start + 60], pause=0.02))
            await refusal(client, 408)
            assert monotonic() - begin <= 0.4 + LATE_S
            await crawling
            assert f.touched == []

    async def test_B6_slow_but_moving_is_served(self) -> None:
        """A slow link that keeps bringing bytes is not cut off, although it takes longer than the stall limit."""
        wire = chat("m", content="x" * 6 * BODY_PROGRESS_BYTES)
        async with front(body_timeout_s=0.4) as f, await f.client() as client:
            begin = monotonic()
            await client.send_slowly(wire, BODY_PROGRESS_BYTES + 10, pause=0.15)
            assert (await client.read_response()).status == 200
            assert monotonic() - begin > 0.8
            assert len(f.work) == 1

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_B6_an_upload_stops(self, chunked: bool) -> None:
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "100000")
        part = b"u" * 1000
        async with front(swallow, body_timeout_s=1.0) as f, await f.client() as client:
            await client.send(request("POST", "/v1/files", headers=[framing]) + (b"3e8\r\n%b\r\n" % part if chunked else part))
            begin = monotonic()
            await f.gw.until("the engine has what came", lambda: f.touched and part in f.touched[0].received)
            await refusal(client, 408)
            assert monotonic() - begin <= 1.0 + LATE_S
            await f.touched[0].wait_closed(1.0)
            assert not f.touched[0].received.endswith(b"0\r\n\r\n"), "no engine takes it for whole"

    async def test_B6_a_refused_body_that_stops(self) -> None:
        """The rest of a refused request's body is waited for no longer than that."""
        async with front(body_timeout_s=0.4, api_key_digests=[hashlib.sha256(b"k").digest()]) as f, await f.client() as client:
            await client.send(request("POST", "/v1/chat/completions", headers=[("Content-Length", "5000")]) + b"{")
            judge(await client.read_response(), 401, type="authentication_error")
            begin = monotonic()
            assert (await client.read_until_closed())[0] == b""
            assert monotonic() - begin <= 0.4 + LATE_S


async def swallow(conn: ScriptedConnection, head: bytes) -> None:
    while True:
        await conn.read_some()


EVENT = b"data: " + b"e" * 1000 + b"\n\n"
GENTLE = 20


async def fire_hose(conn: ScriptedConnection, head: bytes) -> None:
    """A stream as fast as it is taken; one that asks for it is slow and small."""
    await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    if b"x-gentle" in head.lower():
        for _ in range(GENTLE):
            await conn.send(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            await asyncio.sleep(0.01)
        await conn.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        return
    burst = (b"%x\r\n%b\r\n" % (len(EVENT), EVENT)) * 64
    for _ in range((1 << 30) // len(burst)):
        await conn.send(burst)
        await asyncio.sleep(0)


class TestB7:
    """A client that does not read a fast stream: its engine's reading is paused, at most one read's worth is queued, after the
    write-stall limit it is aborted (``client_stalled``), and its neighbours notice nothing."""

    @pytest.mark.parametrize("rcvbuf", [4096, 65536])
    async def test_B7_reads_nothing(self, rcvbuf: int) -> None:
        async with front(fire_hose, write_timeout_s=0.8) as f, await f.client() as other:
            async with await f.client(rcvbuf=rcvbuf) as client:
                await client.send(chat("m", stream=True))
                await f.gw.until("it is stuck", lambda: any(conn.wire.queued_bytes for conn in conns(f)))
                stuck = monotonic()
                (conn,) = [conn for conn in conns(f) if conn.wire.queued_bytes]
                await asyncio.sleep(0.2)
                sent = f.touched[0].sent_total
                assert 0 < conn.wire.queued_bytes <= RECV_BYTES + 4096
                await self.neighbour(other)
                assert f.touched[0].sent_total == sent, "the engine is held back"
                assert sent < 64 * MIB, "only what the sockets' own buffers take"
                await f.touched[0].wait_closed(3.0)
                assert 0.6 <= monotonic() - stuck <= 0.8 + LATE_S + 0.5
                raw, how = await client.read_until_closed()
                assert how == "reset", "no clean end"
                assert not raw.endswith(b"0\r\n\r\n")
            outcomes = [record["outcome"] for record in f.gw.records]
            assert outcomes == ["ok", "client_stalled"]
            assert f.gw.stats.stalled == 1

    @staticmethod
    async def neighbour(client: RawClient) -> None:
        begin = monotonic()
        await client.send(chat("m", stream=True, headers=[("X-Gentle", "1")]))
        answer = await client.read_response()
        assert answer.complete
        assert answer.body == EVENT * GENTLE + b"data: [DONE]\n\n"
        assert monotonic() - begin < GENTLE * 0.01 + 0.5

    async def test_B7_a_slow_reader_gets_every_byte(self) -> None:
        """As long as it reads something within the limit, the stream goes on, and not a byte is lost or turned."""
        total = 3 * MIB

        async def counted(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n" % total)
            await conn.send(self.pattern(total))

        async with front(counted, write_timeout_s=0.5) as f, await f.client(rcvbuf=8192) as client:
            await client.send(chat("m"))
            answer = await client.read_head()
            assert answer.status == 200
            for _ in range(8):
                await asyncio.sleep(0.1)
                answer = await client.read_until(answer, self.pattern(16), timeout=0.02)
                assert all(conn.wire.queued_bytes <= RECV_BYTES + 4096 for conn in conns(f))
            answer = await client.read_body(answer, 10.0)
            assert answer.complete
            assert answer.body == self.pattern(total)
            await f.gw.idle()
            assert [record["outcome"] for record in f.gw.records] == ["ok"]

    @staticmethod
    def pattern(total: int) -> bytes:
        unit = b"".join(b"%07d\n" % n for n in range(8192))
        return (unit * (total // len(unit) + 1))[:total]


class TestB8:
    """A body over its limit: E413, by length before a 100 and without reading, by chunks at the crossing byte; C ∅."""

    LIMIT = 10 * MIB

    @pytest.mark.parametrize("length", [LIMIT + 1, 2**40, 2**62, 2**63 - 1])
    @pytest.mark.parametrize("expect", [False, True])
    async def test_B8_by_length(self, length: int, expect: bool) -> None:
        headers = [("Content-Length", str(length)), *([("Expect", "100-continue")] if expect else [])]
        async with front() as f, await f.client() as client:
            await client.send(request("POST", "/v1/chat/completions", headers=headers))
            assert (await refusal(client, 413)).interim == []
            assert f.touched == []
            assert f.gw.records[0]["bytes_in"] == 0

    async def test_B8_the_limit_itself_is_accepted(self) -> None:
        body = chat_body("m", content="x" * (self.LIMIT - len(chat_body("m", content=""))))
        assert len(body) == self.LIMIT
        async with front() as f, await f.client() as client:
            await client.send(chat("m", body=body))
            assert (await client.read_response(10.0)).json()["got"] == self.LIMIT
            await client.send(chat("m", body=body, chunked=[60_000]))
            assert (await client.read_response(10.0)).json()["got"] == self.LIMIT
            assert [seen.body == body for seen in f.work] == [True, True]

    @pytest.mark.parametrize(("limit", "size"), [(LIMIT, 60_000), (100_000, 1000), (5000, 7), (1024, 10_000)])
    async def test_B8_by_chunks(self, limit: int, size: int) -> None:
        """Nothing is said up to the limit; the byte that crosses it is answered at once, though the body goes on."""
        async with front(max_body_bytes=limit) as f, await f.client() as client:
            await client.send(request("POST", "/v1/chat/completions", headers=[("Transfer-Encoding", "chunked")]))
            piece = b"%x\r\n%b\r\n" % (size, b"x" * size)
            whole, rest = divmod(limit, size)
            await client.send(piece * whole + (b"%x\r\n%b\r\n" % (rest, b"x" * rest) if rest else b""))
            with pytest.raises(TimeoutError):
                await client.read_some(0.1)
            await client.send(b"5\r\nx")
            await refusal(client, 413)
            assert f.touched == []

    @pytest.mark.parametrize("over", [1, 2000])
    async def test_B8_by_chunks_in_one_read(self, over: int) -> None:
        async with front(max_body_bytes=1024) as f, await f.client() as client:
            await client.send(chat("m", body=chat_body("m", content="x" * 4000)[: 1024 + over], chunked=[100]) + TAIL)
            await refusal(client, 413)
            assert f.touched == []

    @pytest.mark.parametrize("chunked", [None, [5000]])
    async def test_B8_uploads_have_their_own_limit(self, chunked: list[int] | None) -> None:
        async with front(swallow, max_upload_bytes=50_000, max_body_bytes=1024) as f, await f.client() as client:
            await client.send(request("POST", "/v1/files", body=b"u" * 50_001, chunked=chunked))
            await refusal(client, 413)
            for conn in f.touched:
                await conn.wait_closed(1.0)
                assert not conn.received.endswith(b"0\r\n\r\n")
                assert chunked, "by length nothing is sent on"


class TestB10:
    """Connection caps, total and per address: the excess is refused quickly, established connections are untouched, and a place
    that comes free can be taken."""

    async def test_B10_total(self) -> None:
        async with front(max_connections=5) as f:
            inside = [await f.client() for _ in range(5)]
            for client in inside:
                await f.probe(client)
            for _ in range(3):
                await self.over(f)
            for client in inside:
                await f.probe(client)
            inside.pop().close()
            await f.gw.until("a place is free", lambda: f.gw.stats.connections_open == 4)
            async with await f.client() as late:
                await f.probe(late)
                await self.over(f)
            for client in inside:
                client.close()
            assert f.gw.stats.connections_refused == 4
            assert [record["error"] for record in f.gw.records if record["status"] == 503] == ["too_many_connections"] * 4

    async def test_B10_per_address(self) -> None:
        async with front(max_connections_per_ip=3) as f:
            inside = [await f.client() for _ in range(3)]
            others = [await f.client(source="127.0.0.2") for _ in range(3)]
            for client in (*inside, *others):
                await f.probe(client)
            await self.over(f)
            await self.over(f, source="127.0.0.2")
            async with await f.client(source="127.0.0.3") as third:
                await f.probe(third)
            for client in (*inside, *others):
                await f.probe(client)
                client.close()
            await f.gw.until("all are gone", lambda: f.gw.stats.connections_open == 0)
            for _ in range(5):
                async with await f.client() as client:
                    await f.probe(client)
                await f.gw.until("it is gone", lambda: f.gw.stats.connections_open == 0)

    async def test_B10_a_crowd_over_the_cap(self) -> None:
        """200 more at once: all refused, quickly, while an established stream of requests goes on."""
        async with front(max_connections=10) as f:
            inside = [await f.client() for _ in range(10)]
            for client in inside:
                await f.probe(client)
            begin = monotonic()
            await asyncio.gather(*(self.over(f) for _ in range(200)), *(f.probe(client) for client in inside[:1]))
            assert monotonic() - begin < 2.0
            for client in inside:
                await client.send(chat("m"))
                assert (await client.read_response()).status == 200
                client.close()
            assert f.gw.stats.connections_refused == 200

    @staticmethod
    async def over(f: Front, **options: str) -> None:
        """One connection too many: told so at once, whether or not it has sent its request by then."""
        begin = monotonic()
        async with await f.client(**options) as client:
            with contextlib.suppress(ConnectionError):
                await client.send(request("GET", "/healthz"))
            with contextlib.suppress(NoResponse):
                answer = await client.read_response(1.0)
                judge(answer, 503, type="upstream_error")
                assert answer.header("retry-after") == "1"
            _, how = await client.read_until_closed(1.0)
            assert how in ("fin", "reset")
            assert monotonic() - begin < 1.0
