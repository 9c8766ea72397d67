"""WebSockets on ``/v1/realtime``: frames both ways, byte by byte."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import pytest

from fastgw.sim import ScriptedConnection, ScriptedEngine, Simulator
from fastgw.sim.websocket import accept_key
from tests.e2e.asked import ask, audio, before
from tests.e2e.front import front
from tests.support.client import request
from tests.support.gateway import running


def frame(opcode: int, payload: bytes, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    """A client's WebSocket frame."""
    size = len(payload)
    head = struct.pack(">BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack(">BBH", 0x80 | opcode, 0xFE, size)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


class TestRealtime:
    """A WebSocket handshake on `/v1/realtime` makes a tunnel; the client's key stays on this side of it."""

    KEY = "dGhlIHNhbXBsZSBub25jZQ=="

    def handshake(self, target: str = "/v1/realtime?model=sim", **more: Any) -> bytes:
        fields = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", self.KEY),
        ]
        return request("GET", target, headers=[*fields, *more.pop("headers", ())], **more)

    async def test_frames_pass_both_ways(self) -> None:
        async with before() as (gw, _sim), await gw.client() as client:
            await client.send(self.handshake())
            answer = await client.read_head()
            assert answer.status == 101
            assert answer.header("sec-websocket-accept") == accept_key(self.KEY.encode()).decode()
            assert (answer.header("upgrade"), answer.header("connection")) == ("websocket", "Upgrade")
            for payload in (b"hello", audio(40_000), b""):
                await client.send_slowly(frame(2, payload), 10_000)
                got = b""
                wanted = frame(2, payload, b"\0\0\0\0").replace(b"\0\0\0\0", b"", 1)
                while len(got) < len(wanted):
                    got += await client.read_some()
                assert got[0] == 0x82
                assert got.endswith(payload)
            await client.send(frame(8, b"\x03\xe8"))
            data, how = await client.read_until_closed()
            assert (data, how) == (b"\x88\x02\x03\xe8", "fin")
            await gw.idle()
        (record,) = gw.records
        assert (record["endpoint"], record["status"], record["outcome"]) == ("/v1/realtime", 101, "ok")
        assert record["bytes_in"] > 40_000 < record["bytes_out"]

    async def test_frames_sent_with_the_handshake_are_not_lost(self) -> None:
        async with before() as (gw, _), await gw.client() as client:
            await client.send(self.handshake() + frame(1, b"early"))
            assert (await client.read_head()).status == 101
            assert await client.read_some() == b"\x81\x05early"

    @pytest.mark.parametrize("pieces", [1, 15])
    async def test_nor_is_the_first_message_of_the_responses_api_however_long(self, pieces: int) -> None:
        asked = {"type": "response.create", "model": "sim", "max_output_tokens": 1, "input": "a" * (pieces * 60_000 - 50_000)}
        text = json.dumps(asked).encode()
        size = -(-len(text) // pieces)
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        frames = [frame(at == 0, part) for at, part in enumerate(parts)]
        said = b"".join([bytes((one[0] & 0x7F,)) + one[1:] for one in frames[:-1]]) + frames[-1]
        async with before() as (gw, sim), await gw.client() as client:
            await client.send(self.handshake("/v1/responses") + said)
            assert (await client.read_head()).status == 101
            got = b""
            while b'"response.completed"' not in got:
                more = await client.read_some()
                assert more, got
                got += more
            assert b"%d" % (len(asked["input"]) // 4) in got
            assert sim.requests.to("/v1/responses")
            client.reset()
            await gw.idle()
            assert gw.stats.body_bytes_open == 0

    async def test_much_that_was_sent_before_the_engine_agreed_arrives_whole(self) -> None:
        got = 0

        async def handler(conn: ScriptedConnection) -> None:
            nonlocal got
            request_ = await conn.read_request()
            if request_.target != b"/v1/realtime":
                await conn.send(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
                return
            await asyncio.sleep(0.2)
            await conn.send(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            )
            while data := await conn.read_some():
                got += len(data)

        async with (
            ScriptedEngine(handler) as engine, running([engine.url], warm_connections=0) as gw,
            await gw.client() as client,
        ):
            await client.send(self.handshake("/v1/realtime"))
            await gw.until("the handshake is under way", lambda: gw.stats.exchanges_open == 1)
            await client.send(b"x" * 300_000)
            await gw.until("all of it has arrived", lambda: got == 300_000)

    async def test_leaving_closes_the_engines_side(self) -> None:
        async with before() as (gw, _sim):
            client = await gw.client()
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            client.reset()
            await gw.idle()
        assert gw.records[0]["outcome"] in ("ok", "client_closed")

    @pytest.mark.parametrize(("offered", "seen"), [
        ("realtime, openai-insecure-api-key.sk-tenant", "realtime"),
        ("openai-insecure-api-key.sk-tenant, realtime, openai-beta.realtime-v1", "realtime, openai-beta.realtime-v1"),
        ("openai-insecure-api-key.sk-tenant", None),
    ])  # fmt: skip
    async def test_a_browsers_key_in_the_subprotocol_counts_and_never_leaves(self, offered: str, seen: str | None) -> None:
        async with before({"api_key": "sk-engine"}, api_keys=["sk-tenant"], vllm_api_key="sk-engine") as (gw, sim):
            async with await gw.client() as client:
                await client.send(self.handshake(headers=[("Sec-WebSocket-Protocol", offered)]))
                answer = await client.read_head()
                assert answer.status == 101
                assert answer.header("sec-websocket-protocol") == (None if seen is None else "realtime")
                (request_,) = sim.requests.to("/v1/realtime")
                assert request_.header("sec-websocket-protocol") == seen
                assert request_.header("authorization") == "Bearer sk-engine"
                assert not any(b"sk-tenant" in value for _, value in request_.headers)
            await gw.idle()
        assert gw.records[0]["key_id"]

    @pytest.mark.parametrize("offered", ["realtime", "openai-insecure-api-key.sk-other", "openai-insecure-api-key."])
    async def test_no_key_or_a_wrong_one(self, offered: str) -> None:
        async with before(api_keys=["sk-tenant"]) as (gw, sim), await gw.client() as client:
            await client.send(self.handshake(headers=[("Sec-WebSocket-Protocol", offered)]))
            assert (await client.read_response()).status == 401
            await client.send(self.handshake(key="sk-tenant"))
            assert (await client.read_head()).status == 101
            assert sim.requests.to("/v1/realtime")[0].header("authorization") is None

    async def test_a_subprotocol_is_no_key_elsewhere(self) -> None:
        async with before(api_keys=["sk-tenant"]) as (gw, _):
            field = ("Sec-WebSocket-Protocol", "openai-insecure-api-key.sk-tenant")
            assert (await ask(gw.url, request("GET", "/v1/models", headers=[field]))).status == 401

    async def test_an_engine_that_refuses_the_handshake_is_heard(self) -> None:
        async def refuse(conn: ScriptedConnection, head: bytes) -> None:
            await conn.send(b'HTTP/1.1 403 Forbidden\r\ncontent-length: 10\r\n\r\n{"no":"!"}')

        async with front(refuse) as place, await place.client() as client:
            await client.send(self.handshake())
            answer = await client.read_response()
            assert (answer.status, answer.body) == (403, b'{"no":"!"}')
            await place.probe(client)

    async def test_an_engine_that_cannot_be_reached_is_passed_over(self) -> None:
        async with Simulator() as gone:
            nowhere = gone.url
        async with Simulator() as sim, running([nowhere, sim.url], policy="ordered") as gw, await gw.client() as client:
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            await client.send(frame(1, b"hi"))
            assert await client.read_some() == b"\x81\x02hi"

    async def test_a_stop_closes_it(self) -> None:
        async with before(drain_timeout_s=0.1) as (gw, _), await gw.client() as client:
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            await gw.gateway.stop()
            data, how = await client.read_until_closed()
            assert (data[2:4], how) == (struct.pack(">H", 1001), "fin")

    async def test_an_engine_that_hangs_up_ends_it(self) -> None:
        async with Simulator() as sim, running([sim.url]) as gw, await gw.client() as client:
            await client.send(self.handshake())
            assert (await client.read_head()).status == 101
            await sim.stop()
            data, how = await client.read_until_closed()
            assert (data[2:4], how) == (struct.pack(">H", 1011), "fin")
            await gw.idle()

    async def test_what_is_no_handshake(self) -> None:
        async with before() as (gw, sim), await gw.client() as client:
            await client.send(request("GET", "/v1/realtime?model=sim"))
            assert (await client.read_response()).status == 400
        async with before(engine={"models": ["sim"]}) as (gw, sim):
            async with await gw.client() as client:
                await client.send(self.handshake("/v1/realtime?model=other"))
                assert (await client.read_response()).status == 404
            assert not sim.requests.to("/v1/realtime")
