"""The simulator as an object: what it records, how it refuses, where it listens, what it leaves behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import struct

import pytest

from fastgw.sim import SimConfig, Simulator
from fastgw.sim.websocket import accept_key
from tests.sim.client import CHAT, chat, connect, read_one, read_to_end, request, send, until

DEBUG = SimConfig(debug=True)


def test_what_the_engine_received_is_shown_as_it_was_sent(run):
    sent = (
        b"POST /debug/echo?a=%20b HTTP/1.1\r\nhOsT: e\r\nX-B: 2\r\nx-a:  1 \r\nX-B: 3\r\n"
        b"Content-Length: 4\r\nConnection: close\r\n\r\n\x00\xff\r\n"
    )

    async def main():
        async with Simulator(DEBUG) as sim:
            return (await send(sim.url, sent)).json

    seen = run(main)
    assert (seen["method"], seen["target"], seen["version"]) == ("POST", "/debug/echo?a=%20b", "1.1")
    assert seen["headers"][:4] == [["hOsT", "e"], ["X-B", "2"], ["x-a", "1"], ["X-B", "3"]]
    assert base64.b64decode(seen["body_base64"]) == b"\x00\xff\r\n"
    assert seen["body_sha256"] == hashlib.sha256(b"\x00\xff\r\n").hexdigest()


def test_requests_are_recorded_in_order_listed_and_cleared(run):
    async def main():
        async with Simulator(SimConfig(debug=True, record=3)) as sim:
            for count in range(1, 6):
                await send(sim.url, chat(max_tokens=count))
            listed = (await send(sim.url, request("GET", "/debug/requests"))).json
            state = (await send(sim.url, request("GET", "/debug/state"))).json
            inside = [record.outcome for record in sim.requests.to(CHAT)]
            await send(sim.url, request("DELETE", "/debug/requests"))
            return listed, state, inside, len(sim.requests)

    listed, state, inside, left = run(main)
    assert [json.loads(base64.b64decode(record["body_base64"]))["max_tokens"] for record in listed] == [3, 4, 5]
    assert [record["outcome"] for record in listed] == inside == ["served"] * 3
    assert (state["served"], state["running"], state["connections_total"]) == (6, 0, 7)
    assert left == 0


def test_big_bodies_are_hashed_not_kept(run):
    body = b'{"messages":[{"role":"user","content":"' + b"x" * 400_000 + b'"}]}'
    upload = os.urandom(3_000_000)

    async def main():
        async with Simulator(SimConfig(max_model_len=2_000_000)) as sim:
            replies = [
                await send(sim.url, request("POST", CHAT, body)),
                await send(sim.url, request("POST", "/v1/x", upload, {"Content-Type": "application/octet-stream"})),
                await send(sim.url, request("POST", CHAT, body.replace(b"x" * 400_000, b"x" * 4_000_000))),
            ]
            return [reply.status for reply in replies], list(sim.requests)

    statuses, records = run(main)
    assert statuses == [200, 404, 200]
    assert records[0].body == body
    assert records[1].sha256 == hashlib.sha256(upload).hexdigest()
    assert (records[1].body_length, records[2].body_length) == (len(upload), len(body) + 3_600_000)
    assert all(len(record.body) < 1 << 20 for record in records)
    assert records[1].as_dict()["body_base64"] is None


def test_refusing_closes_the_port_and_opens_it_again(run):
    async def main():
        async with Simulator(DEBUG) as sim:
            port = sim.port
            reader, writer = await connect(sim.url)
            writer.write(request("POST", "/debug/refuse", {"seconds": 0.2}, close=False))
            assert (await read_one(reader)).status == 200
            with pytest.raises(ConnectionRefusedError):
                await connect(sim.url)
            writer.write(chat(close=False))
            assert (await read_one(reader)).status == 200  # connections that are there live on
            writer.close()
            await asyncio.sleep(0.3)
            assert (await send(sim.url, chat())).status == 200
            assert sim.port == port
            reader, writer = await connect(sim.url)
            writer.write(chat(close=False))
            await read_one(reader)
            sim.refuse(0.05, drop=True)
            assert (await read_to_end(reader)).end == "rst"
            writer.close()

    run(main)


def test_refusing_from_the_start(run):
    async def main():
        async with Simulator(SimConfig(refuse_s=0.15)) as sim:
            with pytest.raises(ConnectionRefusedError):
                await connect(sim.url)
            await asyncio.sleep(0.25)
            return (await send(sim.url, chat())).status

    assert run(main) == 200


def test_health_can_fail(run):
    async def main():
        async with Simulator(DEBUG) as sim:
            sick = await send(sim.url, request("POST", "/debug/health", {"healthy": False}))
            seen = await send(sim.url, request("GET", "/health"))
            sim.set_healthy(True)
            return sick.status, seen.status, (await send(sim.url, request("GET", "/health"))).status

    assert run(main) == (200, 503, 200)


def test_a_unix_socket(run, tmp_path):
    path = str(tmp_path / "engine.sock")

    async def main():
        async with Simulator(SimConfig(unix=path)) as sim:
            assert sim.url == f"unix:{path}"
            return await send(sim.url, chat(stream=True))

    assert run(main).complete
    assert not os.path.exists(path)


def test_stopping_drops_everything(run):
    async def main():
        sim = Simulator(SimConfig(ttft_ms=60_000))
        await sim.start()
        pairs = [await connect(sim.url) for _ in range(5)]
        for _, writer in pairs:
            writer.write(chat())
        await until(lambda: sim.state.running == 5)
        await sim.stop()
        assert (sim.state.running, sim.state.connections_open) == (0, 0)
        with pytest.raises(ConnectionRefusedError):
            await connect(sim.url)
        for reader, writer in pairs:
            assert (await read_to_end(reader)).raw == b""
            writer.close()

    run(main)


def test_several_in_one_process(run):
    async def main():
        async with Simulator(SimConfig(seed=1)) as one, Simulator(SimConfig(seed=2)) as two:
            return (await send(one.url, chat(stream=True))).words, (await send(two.url, chat(stream=True))).words

    one, two = run(main)
    assert one != two


def frame(opcode: int, payload: bytes, fin: bool = True, mask: bytes = b"\x11\x22\x33\x44") -> bytes:
    size = len(payload)
    first = (0x80 if fin else 0) | opcode
    head = bytes((first, 0x80 | size)) if size < 126 else struct.pack(">BBH", first, 0x80 | 126, size)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


UPGRADE = (
    b"GET /v1/realtime?model=sim HTTP/1.1\r\nHost: e\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def test_the_websocket_echoes(run):
    async def main():
        async with Simulator(SimConfig(keep_alive_s=0.1)) as sim:
            reader, writer = await connect(sim.url)
            writer.write(UPGRADE + frame(1, b"first"))  # a frame may follow the handshake in the same segment
            head = await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(7) == b"\x81\x05first"
            await asyncio.sleep(0.2)  # the keep-alive time is no limit here
            for byte in frame(2, b"a" * 300):
                writer.write(bytes((byte,)))
            assert await reader.readexactly(304) == struct.pack(">BBH", 0x82, 126, 300) + b"a" * 300
            writer.write(frame(1, b"part", fin=False) + frame(9, b"ping") + frame(0, b"done"))
            assert await reader.readexactly(6 + 6 + 6) == b"\x01\x04part" + b"\x8a\x04ping" + b"\x80\x04done"
            writer.write(frame(8, struct.pack(">H", 1000)))
            end = await reader.read()
            writer.close()
            return head, end

    head, end = run(main)
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head  # RFC 6455 section 1.3
    assert end == b"\x88\x02\x03\xe8"
    assert accept_key(b"x") != accept_key(b"y")


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"\x81\x01a", 1002),  # not masked
        (frame(3, b""), 1002),  # no such opcode
        (b"\xc1\x80\0\0\0\0", 1002),  # an extension nobody agreed on
        (frame(9, b"p" * 126), 1002),  # a control frame that is too long
        (struct.pack(">BBQ", 0x82, 0xFF, 1 << 40), 1009),
    ],
)
def test_the_websocket_refuses_what_the_protocol_forbids(run, bad, code):
    async def main():
        async with Simulator(SimConfig()) as sim:
            return await send(sim.url, UPGRADE + bad)

    assert run(main).wire_body == struct.pack(">BBH", 0x88, 2, code)


def test_an_upgrade_that_is_no_handshake_is_400(run):
    async def main():
        async with Simulator(SimConfig()) as sim:
            return await send(sim.url, UPGRADE.replace(b"Version: 13", b"Version: 12"))

    assert run(main).status == 400


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"models": ()}, "models: at least one"),
        ({"fault_rate": 2}, "fault_rate: 0 to 1"),
        ({"sep": "cr"}, "sep: lf or crlf"),
        ({"ttft_ms": -1}, "times: not negative"),
        ({"port": 70_000}, "port: 0 to 65535"),
        ({"first_chunk": "x"}, "first_chunk: vllm"),
        ({"slots": -1}, "counts: not negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        SimConfig(**bad)
