"""The simulator over HTTP/2 with prior knowledge: the same answers as over HTTP/1.1, and what it saw of its connections.

The clients are the peer by hand, and curl and nghttp where they are installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
from collections.abc import AsyncIterator

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.sim.client import CHAT, HELLO, chat, connect, read_one, request, send, until
from tests.support.h2 import frames as f
from tests.support.h2.peer import Client, OnLoop

H2 = SimConfig(debug=True, h2=True)


@contextlib.asynccontextmanager
async def talking(sim: Simulator, **settings: int) -> AsyncIterator[OnLoop]:
    """A connection whose prefaces have gone both ways."""
    sock = socket.create_connection(("127.0.0.1", sim.port))
    try:
        peer = OnLoop(Client(settings=f.settings(**settings)), sock).begins()
        await peer.sees("SETTINGS !ack", "SETTINGS ack")
        yield peer
    finally:
        sock.close()


def asks(number: int, fault: str = "", path: bytes = CHAT.encode(), **fields: object) -> bytes:
    """A chat request."""
    body = json.dumps({"messages": HELLO, "max_tokens": 4, **fields}).encode()
    more = [f"x-sim-fault: {fault}"] if fault else []
    return f.request(number, body, "content-type: application/json", *more, path=path)


def answers(peer: OnLoop, stream: int) -> bytes:
    return peer.peer.body(stream)


PATHS = [
    (CHAT, {"stream": True, "stream_options": {"include_usage": True}}),
    (CHAT, {}),
    ("/v1/completions", {"prompt": "hi", "stream": True}),
    ("/v1/responses", {"input": "hi", "stream": True}),
    ("/v1/messages", {"stream": True}),
    ("/v1/embeddings", {"input": ["a"]}),
    (CHAT, {"model": "nobody"}),
    ("/nowhere", {}),
]


@pytest.mark.parametrize(("path", "fields"), PATHS)
def test_both_protocols_answer_with_the_same_bytes(run, path, fields):
    async def main():
        async with Simulator(H2) as sim:
            body = {"messages": HELLO, "max_tokens": 4, **fields}
            plain = await send(sim.url, request("POST", path, body))
            async with talking(sim) as peer:
                peer.says(f.request(1, json.dumps(body).encode(), path=path.encode()))
                head = await peer.sees("HEADERS 1 !end")
                await peer.sees("DATA 1 end")
                return plain, head, answers(peer, 1), sim.state.as_dict(), [r.protocol for r in sim.requests]

    plain, head, body, state, protocols = run(main)
    assert (int(head.value(b":status")), body) == (plain.status, plain.body)
    assert (head.value(b"content-type") or b"").decode() == plain.field("content-type")
    assert protocols == ["HTTP/1.1", "HTTP/2"]
    assert (state["served"], state["running"], state["connections_total"]) == (2, 0, 2)


def test_what_was_seen(run):
    async def main():
        async with Simulator(H2) as sim:
            async with talking(sim, HEADER_TABLE_SIZE=0, INITIAL_WINDOW_SIZE=1000) as peer:
                peer.says(asks(1, "stall-before"), asks(3, "stall-before"))
                await until(lambda: sim.seen.streams_open == 2)
                peer.says(asks(5), f.ping(), f.window(0, 5))
                await peer.sees("DATA 5 end", "PING ack")
                peer.says(f.rst(3), f.rst(1, "NO_ERROR"))
                await until(lambda: sim.state.cancelled == 2)
                record = sim.requests[-1].as_dict()
                listed = (await send(sim.url, request("GET", "/debug/h2"))).json
                state = (await send(sim.url, request("GET", "/debug/state"))).json
            await until(lambda: sim.seen.connections[0].ended == "fin")
            return record, listed, state

    record, listed, state = run(main)
    assert (record["protocol"], record["stream"], record["outcome"]) == ("HTTP/2", 5, "served")
    assert record["pseudo"] == [[":method", "POST"], [":scheme", "http"], [":path", CHAT], [":authority", "peer"]]
    seen = listed[0]
    assert (seen["streams"], seen["most_streams"], seen["pings"], seen["ended"]) == ([1, 3, 5], 3, 1, "open")
    assert seen["resets"] == [[3, "CANCEL"], [1, "NO_ERROR"]]
    assert (seen["settings"]["HEADER_TABLE_SIZE"], seen["settings"]["INITIAL_WINDOW_SIZE"]) == (0, 1000)
    assert state["h2"] == {
        "connections_total": 1, "most_streams": 3, "refused": 0, "resets": {"CANCEL": 1, "NO_ERROR": 1},
        "streams_open": 0, "streams_total": 3,
    }  # fmt: skip


def test_a_request_and_its_reset_in_one_read(run):
    """Rapid reset (CVE-2023-44487): each is seen, and none of them ends the connection."""

    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.says(*[asks(stream) + f.rst(stream) for stream in range(1, 41, 2)], f.window(0, 1), asks(41), f.ping())
            await peer.sees("DATA 41 end")
            return sim.state.cancelled, sim.seen.resets, sim.seen.streams_open, sim.seen.refused

    assert run(main) == (20, {"CANCEL": 20}, 0, 0)


EXTENDED = (
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"http"),
    (b":path", b"/v1/realtime"),
    f.GET[3],
)


def test_a_websocket_on_a_stream(run):
    """RFC 8441: beside other streams, under its window, and closed by END_STREAM."""
    ping, close = b"\x89\x84\0\0\0\0ping", b"\x88\x82\0\0\0\0\x03\xe8"
    ask = b'{"type":"response.create","response":{"max_output_tokens":2}}'
    asked = b"\x81" + bytes((0x80 | len(ask),)) + b"\0\0\0\0" + ask

    async def main():
        async with Simulator(SimConfig(debug=True, h2=True, h2_profile="hypercorn")) as sim, talking(sim) as peer:
            peer.says(
                f.headers(1, (*EXTENDED, (b"sec-websocket-version", b"13"))), f.data(1, ping[:3]), f.data(1, ping[3:] + asked)
            )
            await peer.sees("HEADERS 1 :status=200 !end", "DATA 1 !end")
            peer.says(asks(3))
            await peer.sees("DATA 3 end")
            peer.says(f.data(1, close))
            await peer.sees("DATA 1 end")
            peer.says(f.data(1, b"", end=True), f.ping())
            await peer.sees("PING ack")
            return answers(peer, 1), sim.state.served, peer.peer.count("RST_STREAM")

    body, served, resets = run(main)
    assert body.startswith(b"\x8a\x04ping")
    assert b"response.done" in body
    assert body.endswith(b"\x88\x02\x03\xe8")
    assert (served, resets) == (2, 0)


def test_a_websocket_that_is_not_read_gets_no_credit(run):
    frame = b"\x82\xfe\x3a\x98\0\0\0\0" + b"x" * 15_000

    async def main():
        async with Simulator(SimConfig(h2=True, h2_profile="hypercorn")) as sim, talking(sim, INITIAL_WINDOW_SIZE=9) as peer:
            peer.says(f.headers(1, (*EXTENDED, (b"sec-websocket-version", b"13"))), *[f.data(1, frame)] * 4)
            await peer.quiet(20)
            held = peer.peer.count("WINDOW_UPDATE 1")
            peer.says(f.settings(INITIAL_WINDOW_SIZE=100_000))
            await peer.sees("WINDOW_UPDATE 1")
            return held

    assert run(main) == 0


@pytest.mark.parametrize(
    ("profile", "path", "row"),
    [
        ("plain", b"/v1/realtime", "RST_STREAM 1 code=PROTOCOL_ERROR"),
        ("haproxy", b"/elsewhere", "HEADERS 1 :status=404"),
    ],
)
def test_tunnels_that_are_not_offered(run, profile, path, row):
    async def main():
        async with Simulator(SimConfig(h2=True, h2_profile=profile)) as sim, talking(sim) as peer:
            peer.says(f.headers(1, (*EXTENDED[:3], (b":path", path), f.GET[3])))
            await peer.sees(row)
            peer.says(asks(3))
            await peer.sees("DATA 3 end")

    run(main)


def test_a_refusal_is_said_once_and_what_follows_of_the_request_is_read_for_nothing(run):
    async def main():
        config = SimConfig(h2=True, max_body_bytes=1000)
        async with Simulator(config) as sim, talking(sim, INITIAL_WINDOW_SIZE=10) as peer:
            peer.says(f.headers(1, f.POST), *[f.data(1, b"x" * 900)] * 3, f.data(1, b"", end=True))
            peer.says(f.headers(3, (*f.POST, (b"x-sim-fault", b"no such"))), f.data(3, b"{}", end=True))
            await peer.sees("HEADERS 1 :status=413", "DATA 1 length=10", "HEADERS 3 :status=400", "DATA 3 length=10")
            peer.says(f.settings(INITIAL_WINDOW_SIZE=1000))
            await peer.sees("DATA 1 end", "DATA 3 end")
            return peer.peer.count("HEADERS"), sim.state.running, sim.state.last_malformed

    headers, running, malformed = run(main)
    assert (headers, running) == (2, 0)
    assert "no such" in malformed


def test_the_windows_hold_a_stream_back_and_nothing_else(run):
    async def main():
        async with Simulator(H2) as sim, talking(sim, INITIAL_WINDOW_SIZE=10) as peer:
            peer.says(asks(1, stream=True, max_tokens=20))
            await peer.sees("DATA 1 length=10")
            await until(lambda: sim.state.paused == 1)
            peer.says(f.window(1, 5))
            await peer.sees("DATA 1 length=5")
            peer.says(f.request(3, path=b"/health"))
            await peer.sees("HEADERS 3 :status=200 end")
            peer.says(f.settings(INITIAL_WINDOW_SIZE=60_000))
            await peer.sees("DATA 1 end")
            await until(lambda: (sim.state.paused, sim.state.running) == (0, 0))
            return answers(peer, 1)

    assert run(main).endswith(b"data: [DONE]\n\n")


def test_a_long_body_gets_its_credit_back(run):
    upload = b"u" * 300_000

    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.says(f.headers(1, (*f.POST, (b"content-type", b"audio/x"))))
            sent = room = 0
            stream = 65_535
            room = 65_535
            while sent < len(upload):
                step = min(16_384, len(upload) - sent, room, stream)
                if step:
                    peer.says(f.data(1, upload[sent : sent + step], end=sent + step == len(upload)))
                    sent, room, stream = sent + step, room - step, stream - step
                    continue
                await peer.quiet(1)
                while (frame := peer.peer.found("WINDOW_UPDATE")) is not None:
                    more = int(frame.facts["increment"])
                    room, stream = (room, stream + more) if frame.stream else (room + more, stream)
            await peer.sees("HEADERS 1")
            return sim.requests[0]

    assert run(main).body_length == 300_000


@pytest.mark.parametrize("count", [150])
def test_streams_beyond_the_limit_are_refused_one_by_one(run, count):
    async def main():
        async with Simulator(SimConfig(debug=True, h2=True, h2_max_streams=100)) as sim, talking(sim) as peer:
            peer.says(*[asks(2 * at + 1, "stall-before") for at in range(count)])
            await peer.sees(*[f"RST_STREAM {2 * at + 1} code=REFUSED_STREAM" for at in range(100, count)])
            return sim.seen.most_streams, sim.seen.refused, peer.peer.ended

    assert run(main) == (100, 50, "")


def test_more_requests_than_a_connection_may_have_end_it_gracefully(run):
    async def main():
        async with Simulator(SimConfig(h2=True, max_requests=2)) as sim, talking(sim) as peer:
            peer.says(asks(1), asks(3, "ttft-ms=20"), asks(5))
            await peer.sees("GOAWAY last=3 code=NO_ERROR", "DATA 3 end")
            return await peer.ended(), sim.seen.connections[0].unprocessed, peer.peer.count("HEADERS 5")

    assert run(main) == ("fin", [5], 0)


def test_an_idle_connection_is_closed_with_a_goaway(run):
    async def main():
        async with Simulator(SimConfig(h2=True, keep_alive_s=0.05)) as sim, talking(sim) as peer:
            await peer.sees("GOAWAY last=0 code=NO_ERROR")
            await peer.ended()
            return sim.seen.connections[0].ended

    assert run(main) == "idle"


def test_a_goaway_of_the_client_leaves_its_streams_be(run):
    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.says(asks(1, "ttft-ms=30", stream=True), f.goaway(0))
            await peer.sees("DATA 1 end")
            return await peer.ended(), sim.seen.connections[0].goaway, sim.state.served

    assert run(main) == ("fin", "NO_ERROR 0", 1)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (f.data(1, b"x"), "PROTOCOL_ERROR"),
        (f.headers(1, (*f.GET, (b"X-A", b"b")), end=True), "PROTOCOL_ERROR"),
        (f.headers(1, (*f.GET, (b"connection", b"close")), end=True), "PROTOCOL_ERROR"),
        (f.headers(1, (*f.GET, (b"host", b"other")), end=True), "PROTOCOL_ERROR"),
        (f.headers(1, b"\xff\xff\xff\xff", end=True), "COMPRESSION_ERROR|PROTOCOL_ERROR"),  # the stock machine says the second
        (f.raw(f.DATA, 0, 1, b"x" * 16_385), "FRAME_SIZE_ERROR"),
        (f.window(0, (1 << 31) - 1), "FLOW_CONTROL_ERROR"),
    ],
)
def test_whoever_breaks_the_protocol_is_told_and_counted(run, said, code):
    async def main():
        async with Simulator(H2) as sim, talking(sim) as peer:
            peer.says(said)
            await peer.sees(f"GOAWAY code={code}")
            await peer.ended()
            return sim.state.malformed, sim.seen.connections[0].ended, bool(sim.seen.connections[0].error)

    assert run(main) == (1, "error", True)


FACES = [
    ({"profile": "nginx"}, "SETTINGS MAX_CONCURRENT_STREAMS=128 INITIAL_WINDOW_SIZE=65536 MAX_FRAME_SIZE=16777215"),
    ({"profile": "hypercorn"}, "SETTINGS MAX_HEADER_LIST_SIZE=65536 ENABLE_PUSH=0"),
    ({"profile": "granian"}, "SETTINGS MAX_CONCURRENT_STREAMS=200 INITIAL_WINDOW_SIZE=1048576 !ENABLE_PUSH"),
    ({"max_streams": 0}, "SETTINGS MAX_CONCURRENT_STREAMS=0 !INITIAL_WINDOW_SIZE"),
    ({"window_bytes": 0}, "SETTINGS INITIAL_WINDOW_SIZE=0 MAX_CONCURRENT_STREAMS=100"),
]


@pytest.mark.parametrize(("face", "row"), FACES)
def test_faces(run, face, row):
    async def main():
        async with Simulator(H2) as sim:
            await send(sim.url, request("POST", "/debug/h2", face))
            sock = socket.create_connection(("127.0.0.1", sim.port))
            with sock:
                peer = OnLoop(Client(), sock).begins()
                await peer.sees(row)
                if face.get("profile") == "nginx":
                    await peer.sees("WINDOW_UPDATE 0 increment=2147418112")

    run(main)


@pytest.mark.parametrize(("preface", "told"), [("400", b"HTTP/1.1 400"), ("close", b""), ("reset", b"reset"), ("silent", None)])
def test_prefaces_that_are_not_answered(run, preface, told):
    async def main():
        async with Simulator(H2) as sim:
            await send(sim.url, request("POST", "/debug/h2", {"preface": preface}))
            reader, writer = await connect(sim.url)
            writer.write(Client().begins())
            try:
                got = await asyncio.wait_for(reader.read(), 0.1)
            except TimeoutError:
                got = None
            except ConnectionResetError:
                got = b"reset"
            writer.close()
            plain = await send(sim.url, chat())
            return got, plain.status

    got, status = run(main)
    assert (got if told is None else got[:12]) == told
    assert status == 200


def test_bad_faces_are_refused(run):
    async def main():
        async with Simulator(H2) as sim:
            wrong = [{"profile": "apache"}, {"preface": "?"}, {"max_streams": -2}, []]
            return [(await send(sim.url, request("POST", "/debug/h2", one))).status for one in wrong]

    assert run(main) == [400] * 4


def test_without_h2_the_preface_is_a_bad_request(run):
    async def main():
        async with Simulator(SimConfig(debug=True)) as sim:
            meets = await send(sim.url, request("POST", "/debug/h2", {}))
            return (await send(sim.url, Client().begins())).status, meets.status

    status, meets = run(main)
    assert 400 <= status < 600
    assert meets == 400


@pytest.mark.parametrize("step", [1, 3, 30])
def test_the_first_bytes_tell_however_they_come(run, step):
    async def main():
        async with Simulator(H2) as sim:
            sock = socket.create_connection(("127.0.0.1", sim.port))
            with sock:
                peer = OnLoop(Client(), sock)
                data = peer.peer.begins() + peer.peer.says(asks(1))
                for at in range(0, len(data), step):
                    peer.sends(data[at : at + step])
                    if at < 40:
                        await asyncio.sleep(0.001)
                await peer.sees("DATA 1 end")
            reader, writer = await connect(sim.url)
            for byte in chat(close=False)[:8]:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0.001)
            writer.write(chat(close=False)[8:])
            reply = await read_one(reader)
            writer.close()
            return reply.status

    assert run(main) == 200


@pytest.mark.parametrize(
    "argv",
    [
        ["curl", "-sS", "--http2-prior-knowledge", "-d", "@BODY"],
        ["nghttp", "-d", "BODY"],
    ],
    ids=["curl", "nghttp"],
)
def test_with_real_clients(run, argv, tmp_path):
    program = shutil.which(argv[0])
    if program is None:
        pytest.skip(f"{argv[0]} is not installed")
    body = tmp_path / "body"
    body.write_text(json.dumps({"messages": HELLO, "stream": True, "max_tokens": 3}))

    async def main():
        async with Simulator(H2) as sim:
            child = await asyncio.create_subprocess_exec(
                *(program, *(word.replace("BODY", str(body)) for word in argv[1:]), sim.url + CHAT),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await asyncio.wait_for(child.communicate(), 10)
            return out, child.returncode, sim.requests[0].protocol

    out, code, protocol = run(main)
    assert code == 0
    assert out.count(b"data: ") == 6
    assert out.endswith(b"data: [DONE]\n\n")
    assert protocol == "HTTP/2"
