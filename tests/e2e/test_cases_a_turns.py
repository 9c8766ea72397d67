"""Group A of the cases, rows A23 (pipelining) and A24 (``Expect``): what follows what, over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from time import monotonic

import pytest

from fastgw.net.h1_states import SURPLUS_BYTES
from fastgw.net.wire import RECV_BYTES
from fastgw.sim.scripted import RawRequest, ScriptedConnection
from tests.e2e import cases_a as a
from tests.e2e.front import TAIL, answer_to, front, judge, refusal
from tests.support.client import RawClient, chat, chat_body, request

KEY = {"api_key_digests": [hashlib.sha256(b"sk-right").digest()]}


def tagged(tag: object, **options: object) -> bytes:
    return chat("m", headers=[("X-Tag", str(tag))], **options)  # type: ignore[arg-type]


class TestA23:
    """Pipelined valid requests are answered in order; garbage after a valid one gets its own E400 C after the valid one's 200;
    what follows ``Connection: close`` is ignored, and no engine sees it (RFC 9112 §9.3.2, §9.6)."""

    async def test_A23_valid_and_valid(self) -> None:
        async with front() as f, await f.client() as client:
            await client.send(tagged(1) + tagged(2))
            assert [(await client.read_response()).json()["tag"] for _ in range(2)] == ["1", "2"]
            assert [seen.header(b"x-tag") for seen in f.work] == [b"1", b"2"]
            await client.send(tagged(3))
            assert (await client.read_response()).json()["tag"] == "3"
            assert len(f.touched) == 1, "each answer gave its engine connection back before the next request took one"

    @pytest.mark.parametrize("step", [1 << 20, 4096, 501])
    async def test_A23_many_of_all_kinds(self, step: int) -> None:
        """Lengths, chunks, no bodies, local and refused answers, one after another, however they are cut."""
        wire = b""
        expected: list[object] = []
        for turn in range(24):
            kind = turn % 6
            if kind == 0:
                wire += tagged(turn)
            elif kind == 1:
                wire += tagged(turn, chunked=[7, 1, 30])
            elif kind == 2:
                wire += request("GET", "/healthz")
            elif kind == 3:
                wire += request("POST", "/v1/nothing", body=b"{}")
            elif kind == 4:
                wire += tagged(turn, body=b"{broken")
            else:
                wire += b"\r\n" + request("HEAD", "/healthz")
            expected.append({2: 200, 3: 404, 4: 400, 5: 200}.get(kind, str(turn)))
        async with front() as f, await f.client() as client:
            for at in range(0, len(wire), step):
                await client.send(wire[at : at + step])
            found: list[object] = []
            for turn in range(24):
                answer = await client.read_response(head_only=turn % 6 == 5)
                found.append(answer.json()["tag"] if answer.status == 200 and turn % 6 < 2 else answer.status)
            assert found == expected
            assert client.buffered == b""
            assert [seen.header(b"x-tag") for seen in f.work] == [b"%d" % turn for turn in range(24) if turn % 6 < 2]
            await f.gw.idle()
            assert len(f.gw.records) == 24

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x00\x01\x02",
            b"GARBAGE\n\n",
            b"hello world this is no request\r\n\r\n",
            a.A1[0].data,
            a.A2[0].data,
            a.A5[0].data,
            a.A13[1].data,
            a.A20[0].data,
            chat("m")[:40] + b"\x00",
        ],
        ids=["controls", "LF", "words", "A1", "A2", "A5", "A13", "A20", "broken in the middle"],
    )
    @pytest.mark.parametrize("valid", [1, 3])
    async def test_A23_valid_and_garbage(self, valid: int, garbage: bytes) -> None:
        async with front() as f, await f.client() as client:
            await client.send(b"".join(tagged(turn) for turn in range(valid)) + garbage + TAIL)
            for turn in range(valid):
                assert (await client.read_response()).json()["tag"] == str(turn)
            await refusal(client, 400, 501)
            assert len(f.work) == valid
            assert [record["outcome"] for record in f.gw.records] == ["ok"] * valid + ["error"]

    @pytest.mark.parametrize("tail", [TAIL, b"garbage", b"\x00" * 1000, TAIL * 50], ids=["request", "garbage", "zeros", "many"])
    @pytest.mark.parametrize(
        "last",
        [
            tagged("last", close=True),
            chat("m", headers=[("X-Tag", "last"), ("Connection", "x-a, CLOSE")]),
            tagged("last", version="HTTP/1.0"),
            tagged("last", chunked=[9], close=True),
        ],
        ids=["close", "close among others", "1.0", "chunked"],
    )
    async def test_A23_what_follows_close_is_ignored(self, last: bytes, tail: bytes) -> None:
        async with front() as f, await f.client() as client:
            await client.send(tagged("first") + last + tail)
            assert (await client.read_response()).json()["tag"] == "first"
            answer = await client.read_response()
            assert answer.json()["tag"] == "last"
            assert answer.header("connection") == "close"
            assert await client.read_until_closed() == (b"", "fin")
            assert [seen.header(b"x-tag") for seen in f.work] == [b"first", b"last"]
            assert len(f.gw.records) == 2

    async def test_A23_the_second_waits_for_the_first_answer(self) -> None:
        """Nothing of a pipelined request reaches an engine before the answers to all earlier ones have left."""
        go = asyncio.Event()

        async def slow(conn: ScriptedConnection, head: bytes) -> None:
            while True:
                await conn.read_exactly(int(RawRequest(head, b"").header(b"content-length") or b"0"))
                await go.wait()
                await conn.send(answer_to(RawRequest(head, b"")))
                head = await conn.read_until(b"\r\n\r\n")

        async with front(slow) as f, await f.client() as client:
            await client.send(tagged(1) + tagged(2))
            await f.gw.until("the engine has the first", lambda: f.touched and b"X-Tag: 1" in f.touched[0].received)
            await asyncio.sleep(0.05)
            assert len(f.touched) == 1
            assert b"X-Tag: 2" not in f.touched[0].received
            go.set()
            assert [(await client.read_response()).json()["tag"] for _ in range(2)] == ["1", "2"]

    async def test_A23_later_bytes_do_not_overtake_earlier_ones(self) -> None:
        """Half a request waits; in the very moment of the answer before it, its other half comes."""
        second = tagged(2)
        for cut in (10, len(second) // 2, len(second) - 1):
            arrived, go = asyncio.Event(), asyncio.Event()

            async def slow(
                conn: ScriptedConnection, head: bytes, arrived: asyncio.Event = arrived, go: asyncio.Event = go
            ) -> None:
                await conn.read_exactly(int(RawRequest(head, b"").header(b"content-length") or b"0"))
                arrived.set()
                await go.wait()
                while True:
                    seen = await conn.read_request()
                    await conn.send(answer_to(seen))

            async with front(slow) as f, await f.client() as client:
                await client.send(tagged(1) + second[:cut])
                await arrived.wait()
                # Past the transport, so that both sockets become readable in one turn of the loop, the engine's first.
                engine = f.touched[0]._transport.get_extra_info("socket")  # type: ignore[union-attr]
                os.write(engine.fileno(), answer_to(RawRequest(tagged(1), b"")))
                client.put(second[cut:])
                go.set()
                assert [(await client.read_response()).json()["tag"] for _ in range(2)] == ["1", "2"]

    async def test_A23_a_flood_of_pipelined_requests_is_held_back(self) -> None:
        """While one answer is outstanding, a bounded number of bytes is held; then all requests are answered, in order."""
        go = asyncio.Event()

        async def slow(conn: ScriptedConnection, head: bytes) -> None:
            while True:
                await conn.read_exactly(int(RawRequest(head, b"").header(b"content-length") or b"0"))
                await go.wait()
                await conn.send(answer_to(RawRequest(head, b"")))
                head = await conn.read_until(b"\r\n\r\n")

        count = 300
        wire = b"".join(tagged(turn, content="x" * 8000) for turn in range(count))
        async with front(slow) as f, await f.client() as client:
            sending = asyncio.ensure_future(client.send(wire))
            await f.gw.until("the engine has the first", lambda: f.touched)
            most = 0
            for _ in range(20):
                (conn,) = f.gw.gateway.core.connections  # type: ignore[union-attr]
                most = max(most, len(conn.surplus))
                await asyncio.sleep(0.005)
            assert 0 < most < SURPLUS_BYTES + RECV_BYTES
            go.set()
            for turn in range(count):
                assert (await client.read_response()).json()["tag"] == str(turn)
            await sending


class TestA24:
    """``Expect: 100-continue``: 100, then the final answer, when it is accepted; the final answer alone when it is refused,
    then a
    close or the body drained; ignored from HTTP/1.0; another expectation gets 417 (RFC 9110 §10.1.1)."""

    BODY = chat_body("m")

    def head(self, expect: str = "100-continue", *, version: str = "HTTP/1.1", more: tuple[tuple[str, str], ...] = ()) -> bytes:
        framing = () if any(name == "Transfer-Encoding" for name, _ in more) else (("Content-Length", str(len(self.BODY))),)
        headers = [("Content-Type", "application/json"), ("Expect", expect), *framing, *more]
        return request("POST", "/v1/chat/completions", headers=headers, version=version)

    @staticmethod
    async def hundred(client: RawClient) -> None:
        assert await client.read_some() == b"HTTP/1.1 100 Continue\r\n\r\n"

    @pytest.mark.parametrize("expect", ["100-continue", "100-Continue", " 100-continue "])
    async def test_A24_accepted(self, expect: str) -> None:
        async with front() as f, await f.client() as client:
            for _ in range(2):
                await client.send(self.head(expect))
                await self.hundred(client)
                await client.send(self.BODY)
                answer = await client.read_response()
                assert (answer.status, answer.json()["got"]) == (200, len(self.BODY))
            # The expectation was ours to meet: the engine must not meet it again.
            assert [seen.header(b"expect") for seen in f.work] == [None, None]

    async def test_A24_accepted_chunked(self) -> None:
        async with front() as f, await f.client() as client:
            await client.send(self.head(more=(("Transfer-Encoding", "chunked"),)))
            await self.hundred(client)
            await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.BODY), self.BODY))
            assert (await client.read_response()).json()["got"] == len(self.BODY)

    async def test_A24_accepted_upload(self) -> None:
        async with front() as f, await f.client() as client:
            await client.send(request("POST", "/v1/files", headers=[("Expect", "100-continue"), ("Content-Length", "100000")]))
            await self.hundred(client)
            await client.send(b"u" * 100_000)
            assert (await client.read_response()).json()["got"] == 100_000

    async def test_A24_the_body_did_not_wait(self) -> None:
        """A client that sends its body at once may get the final answer alone; never a 100 after it."""
        async with front() as f, await f.client() as client:
            for _ in range(2):
                await client.send(self.head() + self.BODY)
                assert (await client.read_response()).status == 200
            assert client.buffered == b""
            assert [seen.body for seen in f.work] == [self.BODY, self.BODY]

    @pytest.mark.parametrize("sends_anyway", [False, True])
    @pytest.mark.parametrize("key", [None, "sk-wrong"])
    async def test_A24_refused_by_401(self, key: str | None, sends_anyway: bool) -> None:
        more = (("Authorization", f"Bearer {key}"),) if key else ()
        async with front(**KEY) as f, await f.client() as client:
            await client.send(self.head(more=more))
            answer = await client.read_response()
            assert answer.interim == []
            judge(answer, 401, type="authentication_error")
            if sends_anyway:
                await client.send(self.BODY + TAIL)
            if answer.header("connection") == "close":
                assert await client.read_until_closed() == (b"", "fin")
            else:
                await client.send(b"" if sends_anyway else self.BODY)
                await client.send(chat("m", key="sk-right"))
                assert (await client.read_response()).status in (200, 401)
            assert f.work == []

    @pytest.mark.parametrize("length", [10 * 1024 * 1024 + 1, 2**40, 2**62])
    async def test_A24_refused_by_413(self, length: int) -> None:
        async with front() as f, await f.client() as client:
            headers = [("Expect", "100-continue"), ("Content-Length", str(length))]
            await client.send(request("POST", "/v1/chat/completions", headers=headers))
            assert (await refusal(client, 413)).interim == []
            assert f.touched == []

    async def test_A24_refused_by_404_and_405(self) -> None:
        for method, path, status in (("POST", "/v1/nothing", 404), ("PUT", "/v1/chat/completions", 405)):
            async with front() as f, await f.client() as client:
                await client.send(request(method, path, headers=[("Expect", "100-continue"), ("Content-Length", "5")]))
                answer = await client.read_response()
                assert (answer.status, answer.interim) == (status, [])
                if answer.header("connection") == "close":
                    assert await client.read_until_closed() == (b"", "fin")
                else:
                    await client.send(b"hello" + tagged(1))
                    assert (await client.read_response()).json()["tag"] == "1"

    @pytest.mark.parametrize("expect", ["100-continue", "something-else"])
    async def test_A24_ignored_from_http_1_0(self, expect: str) -> None:
        async with front() as f, await f.client() as client:
            await client.send(self.head(expect, version="HTTP/1.0"))
            with pytest.raises(TimeoutError):
                await client.read_some(timeout=0.1)
            await client.send(self.BODY)
            answer = await client.read_response()
            assert (answer.status, answer.interim) == (200, [])

    @pytest.mark.parametrize("expect", ["200-ok", "100-continue, x", "100", "continue", "100-continue;q=1", "x=100-continue"])
    async def test_A24_another_expectation(self, expect: str) -> None:
        async with front() as f, await f.client() as client:
            await client.send(self.head(expect) + self.BODY + TAIL)
            assert (await refusal(client, 417)).interim == []
            assert f.touched == []

    async def test_A24_two_expectations(self) -> None:
        async with front() as f, await f.client() as client:
            await client.send(self.head(more=(("Expect", "200-ok"),)) + self.BODY)
            await refusal(client, 417)
            assert f.touched == []

    async def test_A24_no_100_where_there_is_no_body(self) -> None:
        async with front() as f, await f.client() as client:
            await client.send(request("GET", "/healthz", headers=[("Expect", "100-continue")]))
            assert (await client.read_response()).interim == []
            await client.send(request("POST", "/v1/chat/completions", headers=[("Expect", "100-continue")], body=b""))
            answer = await client.read_response()
            assert (answer.status, answer.interim) == (400, [])
            assert f.touched == []
            assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"


def numbered(number: int) -> bytes:
    return request("GET", "/healthz", headers=[("X-Request-Id", f"n-{number:07d}")])


class TestSlowReader:
    """A client that sends requests and does not read answers: each is served once, in order, and little is kept for it."""

    @pytest.mark.parametrize("at_once", [1, 400])
    async def test_answers_that_wait_hold_the_next_requests_back(self, at_once: int) -> None:
        async with front() as f, await RawClient.connect("127.0.0.1", f.gw.port, rcvbuf=4096) as client:
            core = f.gw.gateway.core
            assert core is not None
            sock = client.sock
            sent = peak = 0
            pending = b""
            # Until both directions are full: far more answers than the sockets between the two can hold.
            quiet = 0
            end = monotonic() + 20.0
            while quiet < 300 or not any(conn.wire.queued_bytes for conn in core.connections):
                assert monotonic() < end, "the client is not slow enough for this test"
                if not pending:
                    pending = b"".join(numbered(sent + turn) for turn in range(at_once))
                    sent += at_once
                try:
                    pending = pending[sock.send(pending) :]
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                await asyncio.sleep(0)
                peak = max([peak, *(conn.wire.queued_bytes + len(conn.surplus) for conn in core.connections)])
            assert peak <= 2 * SURPLUS_BYTES + RECV_BYTES
            held = len(f.gw.raw_records)
            while len(f.gw.raw_records) < held + 3000:
                await client.read_some()
            numbers = [int(record["request_id"].rpartition(b"-")[2]) for record in f.gw.records]
            assert numbers == list(range(len(numbers))), "no request is lost, and none overtakes another"
            assert {record["status"] for record in f.gw.records} == {200}
