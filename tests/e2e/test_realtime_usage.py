"""WebSocket sessions are counted: their requests and their tokens, as their engine says them, at once; and end with the quota.

A real client (aiohttp's) speaks to the simulator, and by hand to engines that send what an honest one sends at its worst.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from fastgw.sim import ScriptedConnection, ScriptedEngine
from tests.e2e.metered import KEY, OTHER_KEY, account_of, metered, spent, usage_of
from tests.support.client import RawClient, request
from tests.support.gateway import Running, running

PATH = "/v1/realtime?model=sim"
TEXT = "Tell me about rivers."
PROMPT = (len(TEXT) + 3) // 4  # as the simulator counts
BEARER = {"Authorization": f"Bearer {KEY}"}
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
QUIET = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
HANDSHAKE = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip

Talk = Callable[[ScriptedConnection], Awaitable[None]]


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    first, size = (0x80 if fin else 0) | opcode, len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    return struct.pack(">BBH", first, 126, size) + payload if size < 65536 else struct.pack(">BBQ", first, 127, size) + payload


def done(prompt: int, completion: int, **beside: Any) -> bytes:
    usage = {"total_tokens": prompt + completion, "input_tokens": prompt, "output_tokens": completion, **beside}
    return frame(1, json.dumps({"type": "response.done", "event_id": "e", "response": {"id": "r", "usage": usage}}).encode())


@asynccontextmanager
async def talking(talk: Talk, **settings: Any) -> AsyncIterator[Running]:
    """A gateway before an engine whose side of each session is scripted."""

    async def handler(conn: ScriptedConnection) -> None:
        asked = await conn.read_request()
        if not asked.target.startswith((b"/v1/realtime", b"/v1/responses")):
            await conn.send(QUIET)
            return
        await talk(conn)

    settings.setdefault("api_keys", (KEY, OTHER_KEY))
    async with ScriptedEngine(handler) as engine, running([engine.url], warm_connections=0, **settings) as gw:
        yield gw


async def opened(client: RawClient) -> None:
    await client.send(request("GET", PATH, headers=HANDSHAKE, key=KEY))
    assert (await client.read_head()).status == 101


async def answered(ws: aiohttp.ClientWebSocketResponse, tokens: int) -> dict[str, Any]:
    """Ask for an answer, and read it to its end."""
    await ws.send_json({"type": "response.create", "response": {"max_output_tokens": tokens}})
    while (event := await ws.receive_json(timeout=5.0))["type"] != "response.done":
        pass
    usage: dict[str, Any] = event["response"]["usage"]
    return usage


async def said(ws: aiohttp.ClientWebSocketResponse) -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]}
    await ws.send_json({"type": "conversation.item.create", "item": item})
    assert (await ws.receive_json(timeout=5.0))["type"] == "conversation.item.created"


class TestCounts:
    @pytest.mark.parametrize("compress", [0, 15])
    async def test_each_answer_is_a_request_and_its_tokens_count_at_once(self, compress: int) -> None:
        """Also for a client that would have its frames compressed: it is told that they are not."""
        async with metered() as (gw, sim, _), aiohttp.ClientSession(headers=BEARER) as session:
            async with session.ws_connect(gw.url + PATH, compress=compress) as ws:
                assert not ws.compress
                await said(ws)
                assert (await usage_of(gw))["requests"] == 0
                total = 0
                for number, tokens in enumerate((3, 40, 1), 1):
                    usage = await answered(ws, tokens)
                    total += usage["input_tokens"]
                    found = await usage_of(gw)
                    assert (spent(found), found["requests"]) == ((total, (3, 43, 44)[number - 1]), number)
                before = await usage_of(gw)
            await gw.idle()
            assert await usage_of(gw) == {**before, "requests_under_way": 0}
            assert (gw.stats.tokens_prompted, gw.stats.tokens_generated) == spent(before)
            record = next(one for one in gw.records if one["endpoint"] == "/v1/realtime")
            assert (record["status"], record["outcome"], record["model"]) == (101, "ok", "sim")
            assert (record["prompt_tokens"], record["completion_tokens"]) == spent(before)
            assert not record["estimated"]
            (asked,) = sim.requests.to("/v1/realtime")
            assert asked.header("sec-websocket-extensions") is None
            assert spent(await usage_of(gw, OTHER_KEY)) == (0, 0)

    async def test_a_session_without_any_answer_is_one_request(self) -> None:
        async with metered() as (gw, _, __), aiohttp.ClientSession(headers=BEARER) as session:
            async with session.ws_connect(gw.url + PATH) as ws:
                await ws.send_bytes(b"audio")
                assert (await ws.receive_bytes(timeout=5.0)) == b"audio"
            await gw.idle()
            found = await usage_of(gw)
            assert (spent(found), found["requests"]) == ((0, 0), 1)

    async def test_one_that_the_engine_refused_is_none(self) -> None:
        async def refuse(conn: ScriptedConnection) -> None:
            await conn.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

        async with talking(refuse) as gw, await gw.client() as client:
            await client.send(request("GET", PATH, headers=HANDSHAKE, key=KEY))
            assert (await client.read_response()).status == 403
            assert (await usage_of(gw))["requests"] == 0

    @pytest.mark.parametrize("how", ["client leaves", "client resets", "engine leaves", "engine resets"])
    async def test_what_was_counted_stands_however_it_ends(self, how: str) -> None:
        async def talk(conn: ScriptedConnection) -> None:
            await conn.send(SWITCH + done(100, 20) + done(30, 4)[:-10])
            if how.startswith("engine"):
                await conn.read_some()
                if how.endswith("resets"):
                    conn.reset()
                return
            with suppress(EOFError, ConnectionError):
                while True:
                    await conn.read_some()

        async with talking(talk) as gw:
            client = await gw.client()
            await opened(client)
            await gw.until("it is counted", lambda: account_of(gw).ledger.requests == 1)
            if how == "client resets":
                client.reset()
            else:
                if how.startswith("engine"):
                    await client.send(b"x")
                    await client.read_until_closed()
                client.close()
            await gw.idle()
            found = await usage_of(gw)
            assert (spent(found), found["requests"]) == ((100, 20), 1)

    async def test_sessions_count_for_the_minute(self) -> None:
        """Nothing of it was reserved: it is owed, and who owes begins no other."""

        async def talk(conn: ScriptedConnection) -> None:
            await conn.send(SWITCH + done(700, 500) + frame(8, b"\x03\xe8"))

        async with talking(talk, tokens_per_minute=1000) as gw:
            for status in (101, 429):
                async with await gw.client() as client:
                    await client.send(request("GET", PATH, headers=HANDSHAKE, key=KEY))
                    assert (await client.read_head()).status == status
                    if status == 101:
                        await client.read_until_closed()
                await gw.idle()
            assert (await usage_of(gw))["tokens_remaining"] == 0

    @pytest.mark.parametrize(("usage", "tokens"), [({"type": "duration", "seconds": 8.5}, 90), (None, 0)])
    async def test_what_is_told_in_seconds_or_not_at_all_is_an_estimate(self, usage: Any, tokens: int) -> None:
        kind = "conversation.item.input_audio_transcription.completed" if usage else "response.done"
        message = json.dumps({"type": kind, "transcript": "a", **({"usage": usage} if usage else {"response": {}})})

        async def talk(conn: ScriptedConnection) -> None:
            await conn.send(SWITCH + frame(1, message.encode()) + frame(8, b"\x03\xe8"))
            conn.close()

        async with talking(talk) as gw, await gw.client() as client:
            await opened(client)
            await client.read_until_closed()
            await gw.idle()
            record = next(one for one in gw.records if one["endpoint"] == "/v1/realtime")
            found = await usage_of(gw)
            assert record["estimated"]
            assert (spent(found), found["estimated_tokens"], found["requests"]) == ((tokens, 0), tokens, 1)
            assert gw.stats.tokens_estimated == tokens

    async def test_an_engine_that_compresses_all_the_same_is_passed_on_unread(self) -> None:
        async def talk(conn: ScriptedConnection) -> None:
            await conn.send(SWITCH + b"\xc1\x05hello" + done(1, 1))
            conn.close()

        async with talking(talk) as gw, await gw.client() as client:
            await opened(client)
            assert await client.read_until_closed() == (b"\xc1\x05hello" + done(1, 1), "fin")
            await gw.idle()
            record = next(one for one in gw.records if one["endpoint"] == "/v1/realtime")
            assert (record["estimated"], record["detail"]) == (True, "frames that could not be read")
            found = await usage_of(gw)
            assert (spent(found), found["requests"]) == ((0, 0), 1)


class TestTurns:
    """The Responses API over a WebSocket: each response is a request, under whatever name its engine has for the model."""

    async def test_turns_go_on_from_one_another_and_are_counted(self) -> None:
        engine = {"models": ("nice",), "served_name": "sim"}
        async with metered(engine=engine) as (gw, sim, _), aiohttp.ClientSession(headers=BEARER) as session:
            async with session.ws_connect(gw.url + "/v1/responses", compress=15) as ws:
                assert not ws.compress
                before, used = None, 0
                for turn in (1, 2, 3):
                    asked = {"type": "response.create", "model": "nice", "input": TEXT, "max_output_tokens": 4}
                    await ws.send_json({**asked, "previous_response_id": before} if before else asked)
                    while (event := await ws.receive_json(timeout=5.0))["type"] != "response.completed":
                        assert event["type"] != "error", event
                    before, usage = event["response"]["id"], event["response"]["usage"]
                    assert (event["response"]["model"], usage["output_tokens"]) == ("sim", 4)
                    assert usage["input_tokens"] > used - 4 * turn
                    used += usage["input_tokens"]
                    found = await usage_of(gw)
                    assert (spent(found), found["requests"]) == ((used, 4 * turn), turn)
                await ws.send_json({"type": "response.create", "model": "sim", "input": TEXT})
                told, close = await ws.receive_json(timeout=5.0), await ws.receive(timeout=5.0)
                assert (told["type"], told["status"], told["error"]["param"]) == ("error", 400, "model")
                assert (close.type, close.data) == (aiohttp.WSMsgType.CLOSE, 1008)
            await gw.idle()
            (asked_of,) = sim.requests.to("/v1/responses")
            assert asked_of.header("authorization") is None

    async def test_before_an_engine_that_has_no_such_session_the_second_who_tries_is_sent_to_http(self) -> None:
        async def refuse(conn: ScriptedConnection) -> None:
            await conn.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

        async with talking(refuse) as gw, aiohttp.ClientSession(headers=BEARER) as session:
            async with session.ws_connect(gw.url + "/v1/responses") as ws:
                await ws.send_json({"type": "response.create", "model": "m", "input": TEXT})
                assert (await ws.receive_json(timeout=5.0))["error"]["code"] == "http_only"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(gw.url + "/v1/responses")
            assert refused.value.status == 426


class TestSpent:
    """The session ends with the answer that spends the day: behind its last byte, with a close that says why."""

    async def test_a_client_is_told_by_a_close(self) -> None:
        async with metered(daily_token_quota=PROMPT + 20) as (gw, _, __), aiohttp.ClientSession(headers=BEARER) as session:
            async with session.ws_connect(gw.url + PATH) as ws:
                await said(ws)
                await answered(ws, 10)  # ten are left
                await answered(ws, 10)
                last = await ws.receive(timeout=5.0)
                assert last.type is aiohttp.WSMsgType.CLOSE
                assert last.data == 1008
                assert str(last.extra).startswith("The key's tokens for today are spent")
            await gw.idle()
            record = next(one for one in gw.records if one["endpoint"] == "/v1/realtime")
            assert (record["outcome"], record["error"]) == ("quota", "daily_quota_exceeded")
            assert gw.stats.quota_cut == 1
            await gw.until("its engine is rid of it", lambda: gw.stats.upstream_open <= 2)
            found = await usage_of(gw)
            assert found["requests"] == 2
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(gw.url + PATH)
            assert refused.value.status == 429

    @pytest.mark.parametrize("split", [1, 7, 100_000], ids=["byte by byte", "in pieces", "at once"])
    @pytest.mark.parametrize("with_head", [False, True])
    async def test_nothing_passes_behind_that_message(self, split: int, with_head: bool) -> None:
        before = frame(1, b'{"type":"response.output_text.delta","delta":"x"}') + done(10, 89) + frame(2, b"\0" * 300)
        last, more = done(1, 0), frame(1, b"more") * 20 + done(5, 5)
        over = asyncio.Event()

        async def talk(conn: ScriptedConnection) -> None:
            data = before + last + more
            if with_head:
                await conn.send(SWITCH + data)
            else:
                await conn.send(SWITCH)
                with suppress(OSError):
                    for at in range(0, len(data), split):
                        await conn.send(data[at : at + split])
                        await asyncio.sleep(0)
            try:
                await conn.read_some()
            except (EOFError, ConnectionError):
                over.set()

        async with talking(talk, daily_token_quota=100) as gw, await gw.client() as client:
            await opened(client)
            data, how = await client.read_until_closed()
            assert data.startswith(before + last)
            close = data[len(before + last) :]
            assert close[:4] == bytes((0x88, len(close) - 2)) + struct.pack(">H", 1008)
            assert how == "fin"
            await asyncio.wait_for(over.wait(), 5.0)
            await gw.idle()
            found = await usage_of(gw)
            assert (spent(found), found["requests"]) == ((11, 89), 2)

    async def test_a_client_that_is_slow_gets_all_of_it(self) -> None:
        audio = frame(2, random.Random(1).randbytes(3 << 20))

        async def talk(conn: ScriptedConnection) -> None:
            await conn.send(SWITCH + audio + done(60, 60))
            with suppress(EOFError, ConnectionError):
                await conn.read_some()

        async with talking(talk, daily_token_quota=100) as gw, await gw.client() as client:
            await opened(client)
            await asyncio.sleep(0.3)
            data, how = await client.read_until_closed()
            assert data.startswith(audio + done(60, 60) + b"\x88")
            assert how == "fin"

    async def test_what_another_has_only_reserved_ends_none(self) -> None:
        async def talk(conn: ScriptedConnection) -> None:
            await conn.send(SWITCH)
            for _ in range(2):
                await conn.read_some()
                await conn.send(done(10, 10))

        async with talking(talk, daily_token_quota=100) as gw, await gw.client() as client:
            await opened(client)
            assert account_of(gw).ledger.reserve(account_of(gw).ledger.day, 80)
            for _ in range(2):
                await client.send(b"x")
                assert (await client.read_some()).startswith(done(10, 10))
            account_of(gw).ledger.release(80)


async def test_every_byte_passes_as_it_came() -> None:
    """Frames of all kinds and sizes in odd pieces, both ways."""
    chance = random.Random(7)
    frames = []
    for _ in range(300):
        size = chance.choice((0, 1, 5, 125, 126, 2000, 65535, 70_000))
        kind = chance.randrange(4)
        frames.append(
            [frame(2, chance.randbytes(size)), frame(1, b'{"type":"response.audio.delta","delta":"' + b"A" * size + b'"}'),
             done(1, 1), frame(9, b"ping")][kind]
        )  # fmt: skip
    data = b"".join(frames)
    answers = sum(one == done(1, 1) for one in frames)

    async def talk(conn: ScriptedConnection) -> None:
        await conn.send(SWITCH)
        at = 0
        while at < len(data):
            step = chance.choice((1, 3, 100, 5000, 100_000))
            await conn.send(data[at : at + step])
            at += step
        conn.close()

    async with talking(talk) as gw, await gw.client() as client:
        await opened(client)
        got, how = await client.read_until_closed()
        assert (hashlib.sha256(got[: len(data)]).digest(), how) == (hashlib.sha256(data).digest(), "fin")
        assert got[len(data) : len(data) + 1] == b"\x88"
        await gw.idle()
        found = await usage_of(gw)
        assert (spent(found), found["requests"]) == ((answers, answers), answers)
