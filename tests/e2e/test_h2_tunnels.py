"""WebSockets over HTTP/2 (RFC 8441), at either end and at both: the same session, whoever speaks which protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from fastgw.sim.websocket import accept_key
from tests.e2e.test_endpoints_realtime import frame
from tests.e2e.test_h2_front import client
from tests.support.client import RawClient, request
from tests.support.gateway import Running, running
from tests.support.h2 import frames as f
from tests.support.h2.peer import OnLoop

pytestmark = pytest.mark.together

PATH = "/v1/realtime?model=sim"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
QUIET = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
CLOSE, CLOSED = frame(8, b"\x03\xe8"), b"\x88\x02\x03\xe8"


def connect(*more: tuple[bytes, bytes], path: str = PATH, **pseudo: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    """An extended CONNECT; ``pseudo`` has others than the usual, None = it is missing."""
    usual: dict[str, bytes | None] = {
        "method": b"CONNECT", "protocol": b"websocket", "scheme": b"http", "path": path.encode(), "authority": b"localhost",
    }  # fmt: skip
    said = {**usual, **pseudo}
    first = [(b":%b" % name.encode(), value) for name, value in said.items() if value is not None]
    return (*first, (b"sec-websocket-version", b"13"), *more)


class H1End:
    """A client of HTTP/1.1 with one session."""

    version = "h1"

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.got = b""
        self.ended = ""

    async def asks(self, *more: tuple[str, str], early: bytes = b"") -> None:
        fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), *more]
        await self.client.send(request("GET", PATH, headers=[*fields, ("Sec-WebSocket-Key", KEY)]) + early)

    async def answered(self) -> tuple[int, Any]:
        """The status, and what finds a field."""
        head = await self.client.read_head()
        return head.status, head.header

    async def says(self, data: bytes) -> None:
        await self.client.send(data)

    async def reads(self, size: int) -> bytes:
        while len(self.got) < size:
            self.got += await self.client.read_some()
        got, self.got = self.got[:size], self.got[size:]
        return got

    async def end(self) -> tuple[bytes, str]:
        """What else comes, and how it ends."""
        rest, how = await self.client.read_until_closed()
        return self.got + rest, how

    async def tears_off(self) -> None:
        self.client.reset()


class H2End:
    """A client of HTTP/2 with one session, on stream 1."""

    version = "h2"

    def __init__(self, line: OnLoop) -> None:
        self.line = line
        self.taken = 0

    async def asks(self, *more: tuple[str, str], early: bytes = b"") -> None:
        fields = [(name.lower().encode(), value.encode()) for name, value in more]
        self.line.says(f.headers(1, connect(*fields)), *self._data(early))

    @staticmethod
    def _data(data: bytes) -> list[bytes]:
        return [f.data(1, data[at : at + 16_000]) for at in range(0, len(data), 16_000)]

    async def answered(self) -> tuple[int, Any]:
        head = await self.line.sees("HEADERS 1")

        def header(name: str) -> str | None:
            value = head.value(name.encode())
            return None if value is None else value.decode()

        status = int(header(":status") or 0)
        return 101 if status == 200 and not head.ends else status, header

    async def says(self, data: bytes) -> None:
        self.line.says(*self._data(data))

    async def reads(self, size: int) -> bytes:
        end = self.taken + size
        await self.line._until(lambda: len(self.line.peer.body(1)) >= end, "more of the session")
        got = self.line.peer.body(1)[self.taken : end]
        self.taken = end
        self.line.says(f.window(1, size), f.window(0, size))
        return got

    async def end(self) -> tuple[bytes, str]:
        def over() -> bool:
            return bool(self.line.peer.count("DATA 1 end") or self.line.peer.count("RST_STREAM 1"))

        await self.line._until(over, "the end of the session")
        how = "fin" if self.line.peer.count("DATA 1 end") else "reset"
        if how == "fin":
            with suppress(OSError):  # (a gateway that stops does not wait for it for long)
                self.line.says(f.data(1, end=True))
        return self.line.peer.body(1)[self.taken :], how

    async def tears_off(self) -> None:
        self.line.says(f.rst(1, "CANCEL"))


End = H1End | H2End
BOTH = ("h1", "h2")
ways = pytest.mark.parametrize(("front", "back"), [(front, back) for front in BOTH for back in BOTH])


@asynccontextmanager
async def session(front: str, gw: Running) -> AsyncIterator[End]:
    if front == "h1":
        async with await gw.client() as raw:
            yield H1End(raw)
    else:
        async with client(gw) as line:
            yield H2End(line)


@asynccontextmanager
async def engine(back: str, **config: Any) -> AsyncIterator[tuple[Simulator, EngineConfig]]:
    """A simulated engine that speaks this, and takes WebSockets in it."""
    async with Simulator(SimConfig(h2=back == "h2", h2_profile="hypercorn", **config)) as sim:
        yield sim, EngineConfig(url=sim.url, protocol=back)  # type: ignore[arg-type]


@asynccontextmanager
async def place(front: str, back: str, **settings: Any) -> AsyncIterator[tuple[Simulator, Running, End]]:
    async with engine(back) as (sim, row), running([row], http2=True, **settings) as gw, session(front, gw) as end:
        yield sim, gw, end


@ways
async def test_frames_pass_both_ways(front: str, back: str) -> None:
    async with place(front, back) as (sim, gw, end):
        early = frame(2, b"early" * 10)
        await end.asks(early=early)
        status, header = await end.answered()
        assert status == 101
        assert header("sec-websocket-accept") == (accept_key(KEY.encode()).decode() if front == "h1" else None)
        assert await end.reads(52) == b"\x82\x32" + b"early" * 10
        for payload in (b"hello", b"x" * 60_000, b"y" * 60_000):
            await end.says(frame(2, payload))
            size = len(payload) + (2 if len(payload) < 126 else 4)
            assert (await end.reads(size)).endswith(payload)
        await end.says(CLOSE)
        assert await end.end() == (CLOSED, "fin")
        await gw.idle()
        if front == "h2":
            end.line.says(f.ping())  # type: ignore[union-attr]
            await end.line.sees("PING ack")  # type: ignore[union-attr]
            assert not end.line.peer.count("RST_STREAM")  # type: ignore[union-attr]
        (asked,) = sim.requests.to("/v1/realtime")
        assert asked.method == ("GET" if back == "h1" else "CONNECT")
        assert len(asked.header("sec-websocket-key") or "") == (24 if back == "h1" else 0)
        assert asked.header("sec-websocket-version") == "13"
    (record,) = gw.records
    assert (record["endpoint"], record["status"], record["outcome"]) == ("/v1/realtime", 101, "ok")
    assert record["bytes_in"] > 120_000 < record["bytes_out"]


@ways
async def test_either_sides_end_is_the_others(front: str, back: str) -> None:
    async with place(front, back) as (sim, gw, end):
        await end.asks()
        assert (await end.answered())[0] == 101
        await end.tears_off()
        await gw.until("the engine has seen it", lambda: not sim.state.running)
        await gw.idle()
    async with place(front, back) as (sim, gw, end):
        await end.asks()
        assert (await end.answered())[0] == 101
        await sim.stop()
        assert (await end.end())[0][2:4] == b"\x03\xf3"  # 1011
        await gw.idle()


@ways
async def test_subprotocols_and_a_browsers_key(front: str, back: str) -> None:
    """One that is a key counts, and goes to nobody; extensions are not offered to engines."""
    settings: dict[str, Any] = {"api_keys": ["sk-tenant"]}
    async with place(front, back, **settings) as (sim, gw, end):
        offered = "openai-insecure-api-key.sk-tenant, realtime"
        await end.asks(("Sec-WebSocket-Protocol", offered), ("Sec-WebSocket-Extensions", "permessage-deflate"))
        status, header = await end.answered()
        assert (status, header("sec-websocket-protocol")) == (101, "realtime")
        (asked,) = sim.requests.to("/v1/realtime")
        assert asked.header("sec-websocket-protocol") == "realtime"
        assert asked.header("sec-websocket-extensions") is None
        assert not any(b"sk-tenant" in value for _, value in asked.headers)
        await end.says(CLOSE)
        await end.end()
        await gw.idle()
    assert gw.records[0]["key_id"]


@ways
async def test_each_answer_counts_and_a_spent_quota_ends_it_with_a_close(front: str, back: str) -> None:
    async with place(front, back, api_keys=["sk-tenant"], daily_token_quota=20) as (_, gw, end):
        await end.asks(("Authorization", "Bearer sk-tenant"))
        assert (await end.answered())[0] == 101
        await end.says(frame(1, b'{"type":"response.create","response":{"max_output_tokens":20}}'))
        rest, how = await end.end()
        done, _, close = rest.partition(b"response.done")
        assert done
        assert b"\x03\xf0The key's tokens for today are spent" in close  # 1008 (RFC 6455 section 7.4.1)
        assert how == "fin"
        await gw.idle()
    (record,) = gw.records
    assert (record["status"], record["outcome"], record["completion_tokens"]) == (101, "quota", 20)


@ways
async def test_pages_of_other_origins_open_none(front: str, back: str) -> None:
    async with place(front, back, cors_origins=["https://app.example"]) as (sim, gw, end):
        await end.asks(("Origin", "https://evil.example"))
        assert (await end.answered())[0] == 403
        assert not sim.requests.to("/v1/realtime")
        await gw.idle()


# --- what a client of HTTP/2 may ask for
@asynccontextmanager
async def before(session_of: Callable[[ScriptedConnection, bytes], Awaitable[None]]) -> AsyncIterator[tuple[Running, OnLoop]]:
    """A client of HTTP/2 before an engine of HTTP/1 whose side of a handshake, with its key, is scripted."""

    async def handler(conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        if asked.target == b"/v1/realtime":
            await session_of(conn, dict(asked.headers).get(b"sec-websocket-key", b""))
        else:
            await conn.send(QUIET)

    async with (
        ScriptedEngine(handler) as scripted, running([scripted.url], http2=True, warm_connections=0) as gw, client(gw) as line,
    ):  # fmt: skip
        yield gw, line


@pytest.mark.parametrize(("asks", "row"), [
    (connect(method=b"GET"), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect(method=b"POST"), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect(scheme=None), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect(scheme=b"ws"), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect(path=""), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect(authority=None), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect((b"host", b"localhost"), authority=None), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect((b"upgrade", b"websocket")), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect((b"connection", b"upgrade")), "RST_STREAM 1 code=PROTOCOL_ERROR"),
    (connect(protocol=b""), "HEADERS 1 :status=501"),
    (connect(protocol=b"connect-udp"), "HEADERS 1 :status=501"),
    (connect((b"content-length", b"0")), "HEADERS 1 :status=400"),
    (connect((b"content-length", b"5")), "HEADERS 1 :status=400"),
    ((*connect()[:1], (b":authority", b"localhost:80")), "HEADERS 1 :status=405"),  # (RFC 9113 section 8.5)
    (connect(path="/v1/models"), "HEADERS 1 :status=405"),
    (connect(path="/v1/chat/completions"), "HEADERS 1 :status=405"),
    (connect(path="/v1/passed"), "HEADERS 1 :status=405"),
    (connect(path="/v1/nothing"), "HEADERS 1 :status=404"),
    (connect(path="/v1/realtime?model=other"), "HEADERS 1 :status=404"),
    (connect(protocol=b"WebSocket"), "HEADERS 1 :status=200 !end"),
    (connect((b"sec-websocket-key", b"mine")), "HEADERS 1 :status=200 !end"),
])  # fmt: skip
async def test_what_is_no_handshake_and_what_is(asks: tuple[tuple[bytes, bytes], ...], row: str) -> None:
    settings: dict[str, Any] = {"passthrough_paths": ["/v1/passed"], "http2": True}
    async with (
        Simulator(SimConfig()) as sim, running([EngineConfig(url=sim.url, models=["sim"])], **settings) as gw,
        client(gw) as line,
    ):  # fmt: skip
        assert line.peer.count("SETTINGS ENABLE_CONNECT_PROTOCOL=1") == 1
        line.says(f.headers(1, asks))
        await line.sees(row)
        line.says(f.request(3, path=b"/v1/models"))
        await line.sees("HEADERS 3 :status=200")
        if "200" in row:
            (asked,) = sim.requests.to("/v1/realtime")
            assert len(asked.header("sec-websocket-key") or "") == 24
        else:
            assert not sim.requests.to("/v1/realtime")


async def test_a_handshake_whose_stream_has_ended_is_none() -> None:
    async with engine("h1") as (sim, one), running([one], http2=True) as gw, client(gw) as line:
        line.says(f.headers(1, connect(), end=True))
        await line.sees("HEADERS 1 :status=400")
        assert not sim.requests.to("/v1/realtime")


@pytest.mark.parametrize("said", [
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n",
], ids=["200", "204", "200 in chunks", "no accept", "another accept"])  # fmt: skip
async def test_an_engine_that_does_not_agree_opens_no_tunnel(said: bytes) -> None:
    """A 2xx would say that bytes pass; and who did not see the key is no server of WebSockets."""

    async def handler(conn: ScriptedConnection, _: bytes) -> None:
        await conn.send(said)

    async with before(handler) as (gw, line):
        line.says(f.headers(1, connect(path="/v1/realtime")))
        await line.sees("HEADERS 1 :status=502", "DATA 1 end", "RST_STREAM 1 code=NO_ERROR")
        await gw.idle()


async def test_what_comes_before_the_answer_is_bounded_by_the_window() -> None:
    """And all of it arrives, with the end behind it."""
    go_on = asyncio.Event()
    got = bytearray()

    async def handler(conn: ScriptedConnection, key: bytes) -> None:
        await go_on.wait()
        await conn.send(SWITCH + b"sec-websocket-accept: " + accept_key(key) + b"\r\n\r\n")
        with suppress(EOFError):
            while True:
                got.extend(await conn.read_some())
        await conn.send(b"\x88\x00")

    async with before(handler) as (gw, line):
        line.says(f.headers(1, connect(path="/v1/realtime")))
        for _ in range(4):
            line.says(f.data(1, b"x" * 16_000))
        await gw.until("it is under way", lambda: gw.stats.exchanges_open == 1)
        await line.quiet()
        assert not line.peer.count("WINDOW_UPDATE 1")
        line.says(f.data(1, b"y" * 1535, end=True))
        go_on.set()
        await line.sees("HEADERS 1 :status=200", "DATA 1 end")
        assert bytes(got) == b"x" * 64_000 + b"y" * 1535
        assert line.peer.body(1) == b"\x88\x00"
        await gw.idle()
        assert not line.peer.count("RST_STREAM")


async def test_one_byte_more_than_its_window_ends_it() -> None:
    async def handler(conn: ScriptedConnection, _: bytes) -> None:
        await conn.wait_closed()

    async with before(handler) as (gw, line):
        line.says(f.headers(1, connect(path="/v1/realtime")), *[f.data(1, b"x" * 16_000)] * 4, f.data(1, b"y" * 1536))
        await line.sees("RST_STREAM 1 code=FLOW_CONTROL_ERROR")
        await gw.idle()
        assert gw.records[-1]["outcome"] == "client_closed"


async def test_a_client_that_does_not_end_its_side_is_let_go() -> None:
    """So long it has, as over HTTP/1 (``LINGER_S``); what it says meanwhile is read for nothing."""
    async with engine("h1") as (sim, one), running([one], http2=True) as gw, client(gw) as line:
        line.says(f.headers(1, connect()))
        await line.sees("HEADERS 1 :status=200")
        await sim.stop()
        await line.sees("DATA 1 end")
        line.says(f.data(1, b"more"))
        await line.sees("RST_STREAM 1 code=NO_ERROR")


async def test_a_stop_ends_it() -> None:
    async with place("h2", "h2", drain_timeout_s=0.1) as (_, gw, end):
        await end.asks()
        assert (await end.answered())[0] == 101
        await gw.gateway.stop()
        data, how = await end.end()
        assert (data[2:4], how) == (b"\x03\xe9", "fin")  # 1001
