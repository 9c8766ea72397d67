"""A client's connection: turns, bodies, limits of time, and the ways in which it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
import struct
from pathlib import Path

import pytest

from fastgw.net.client import MAX_REFUSALS, NO_HEAD, UNTOLD, ClientStream
from fastgw.net.clock import monotonic
from fastgw.net.h1_states import DISCARD_BYTES, LINGER_BYTES, SURPLUS_BYTES, State
from fastgw.net.wire import QUEUED
from tests.net.talk import Front, HeardSink, answered, front, turns, until
from tests.protocol.splits import ways

DATED = answered(b"date: then\r\n")
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello"
CHUNKS = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HALF = POST[:-3]
TICKS_S = 0.35  # so late a deadline may come


def answer(stream: ClientStream) -> None:
    stream.answer(DATED, b"id", b"", b"ok")


def at_once(stream: ClientStream, sink: HeardSink) -> None:
    """Answer each request when its body has come."""
    sink.then["body"] = lambda: sink.heard[-1][2] and answer(stream)


# --- requests
@pytest.mark.parametrize(("request_", "body"), [(GET, b""), (POST, b"hello"), (CHUNKS, b"hello")])
async def test_a_request_however_it_is_split(request_: bytes, body: bytes) -> None:
    async with front() as place:
        for pieces in list(ways(request_, splits=4))[::9]:
            before = len(place.service.sinks)
            place.service.then = at_once
            for piece in pieces:
                place.peer.send(piece)
                await turns(1)
            await until(lambda: len(place.service.sinks) > before)  # noqa: B023
            await until(lambda: place.sink.heard and place.sink.heard[-1][2])
            assert place.sink.body() == body
            assert [told[2] for told in place.sink.heard].count(True) == 1
        assert place.stream.head is place.service.heads[-1]


async def test_what_is_pipelined_waits_for_its_turn_and_is_answered_in_order() -> None:
    async with front() as place:
        place.peer.send(GET + POST + CHUNKS + GET)
        for count in (1, 2, 3, 4):
            await until(lambda: len(place.service.sinks) == count)  # noqa: B023
            await turns()
            assert len(place.service.sinks) == count
            answer(place.stream)
        await until(lambda: not place.conn.surplus)
        assert [sink.body() for sink in place.service.sinks] == [b"", b"hello", b"hello", b""]
        await turns()
        assert place.peer.at_hand().count(b"HTTP/1.1 200 OK") == 4


async def test_what_comes_before_its_turn_is_bounded() -> None:
    async with front() as place:
        await place.ask(GET)
        sent = 0
        place.peer.sock.setblocking(False)
        for _ in range(200):
            try:
                sent += place.peer.sock.send(GET * 1000)
            except BlockingIOError:
                await turns(1)
        assert sent > 2 * SURPLUS_BYTES
        assert SURPLUS_BYTES <= len(place.conn.surplus) < 2 * SURPLUS_BYTES
        place.service.then = at_once
        answer(place.stream)
        await until(lambda: place.peer.at_hand() and len(place.service.sinks) > 500)


async def test_a_body_that_the_service_holds_back() -> None:
    async with front() as place:
        sink = await place.ask(HALF)
        assert sink.heard == [("body", b"he", False)]
        place.stream.hold_back()
        place.stream.resume()
        place.stream.mind_leaving(False)
        place.peer.send(b"llo")
        await turns()
        assert sink.heard == [("body", b"he", False)]
        place.stream.go_on()
        await until(lambda: len(sink.heard) == 2)
        assert sink.heard[1] == ("body", b"llo", True)


# --- where the body is received
def landed(stream: ClientStream, sink: HeardSink) -> None:
    sink.lands = True


@pytest.mark.parametrize("size", [6, 17_000, 70_000, 200_000])
async def test_a_body_is_received_where_the_sink_says_and_what_follows_it_is_the_next_request(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    async with front() as place:
        place.service.then = landed
        for _ in range(3):  # the second is read otherwise: the first was a long one
            begun = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size + body[: size // 2]
            sink = await place.ask(begun)
            await until(lambda: sink.landed is not None and sink.landed.got == size // 2)  # noqa: B023
            assert sink.heard[-1] == ("body", b"", False), "told, without bytes"
            place.peer.send(body[size // 2 :])
            await until(lambda: sink.heard[-1] == ("body", b"", True))  # noqa: B023
            assert sink.body() == body
            place.peer.send(GET)
            await turns()
            assert place.sink is sink, "its turn comes with the answer"
            answer(place.stream)
            await until(lambda: place.sink is not sink)  # noqa: B023
            assert place.sink.body() == b""
            answer(place.stream)
            await turns()
            assert place.peer.at_hand().count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("split", [1, 3, 4])
async def test_a_body_is_received_there_whatever_comes_with_the_head(split: int) -> None:
    async with front() as place:
        place.service.then = landed
        sink = await place.ask(POST[:-split])
        for byte in POST[-split:]:
            place.peer.send(bytes([byte]))
            await turns(1)
        await until(lambda: sink.heard[-1] == ("body", b"", True))
        assert sink.body() == b"hello"


async def test_what_is_answered_before_its_body_has_come_reads_the_rest_for_nothing() -> None:
    async with front() as place:
        place.service.then = landed
        sink = await place.ask(HALF)
        place.stream.refuse(429, b"{}", b"", False)
        assert place.conn.state is State.DISCARD
        place.peer.send(b"llo" + GET)
        await until(lambda: place.sink is not sink)
        assert sink.landed is not None
        assert sink.landed.got == 2, "of the rest nothing was kept"


def mapped() -> int:
    """Bytes of addresses that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


async def test_a_body_that_there_is_no_memory_for_ends_and_nothing_is_read_into_the_hole() -> None:
    async with front() as place:
        place.service.then = landed
        await place.ask(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (1 << 40))
        limits = resource.getrlimit(resource.RLIMIT_AS)
        piece = b"x" * 65536
        try:
            resource.setrlimit(resource.RLIMIT_AS, (mapped() + (64 << 20), limits[1]))
            for _ in range(4096):
                with contextlib.suppress(BlockingIOError, ConnectionResetError, BrokenPipeError):
                    place.peer.sock.send(piece)
                await asyncio.sleep(0)
                if place.service.crashes:
                    break
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        assert [type(one) for one in place.service.crashes] == [MemoryError]
        assert place.conn.stream is None
        place.service.crashes.clear()


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("sent", [POST, HALF])
async def test_a_client_that_leaves_is_gone_at_once(sent: bytes, lands: bool, held: bool) -> None:
    async with front() as place:
        place.service.then = landed if lands else None
        sink = await place.ask(sent)
        if held:
            place.stream.hold_back()
        place.peer.sock.close()
        await until(lambda: sink.heard[-1] == ("gone", "fin"))
        await until(lambda: place.conn.stream is None)
        assert place.service.ended == ["192.0.2.1"]


@pytest.mark.parametrize(("more", "later"), [(b"", b""), (b"\r\n", b""), (b"", b"\r\n")])
async def test_who_says_that_nothing_follows_gets_the_end_with_the_answer(more: bytes, later: bytes) -> None:
    last = POST.replace(b"host: a", b"host: a\r\nconnection: close")
    async with front(tcp=True) as place:

        def then(stream: ClientStream, sink: HeardSink) -> None:
            sink.then["body"] = lambda: (later and place.peer.send(later), answer(stream))

        place.service.then = then
        place.peer.send(last + more)
        await until(lambda: bool(place.service.sinks))
        got = await place.peer.rest()
        assert isinstance(got, bytes), "no reset, though something followed"
        assert got.endswith(b"connection: close\r\n\r\nok")
        # Without waiting for the client's own end, where it kept its word.
        assert (place.conn.stream is None) is (not more and not later)


async def test_a_half_close_counts_as_leaving() -> None:
    async with front() as place:
        sink = await place.ask(POST)
        place.peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: sink.heard[-1] == ("gone", "fin"))
        assert await place.peer.rest() == b""


@pytest.mark.parametrize("sent", [POST, HALF])
async def test_a_reset_is_told_as_one(sent: bytes) -> None:
    async with front(tcp=True) as place:
        place.service.then = landed
        sink = await place.ask(sent)
        place.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        place.peer.sock.close()
        await until(lambda: sink.heard[-1] == ("gone", "reset"))


# --- 100-continue
EXPECTS = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "asked"),
    [(EXPECTS, CONTINUE), (EXPECTS + b"he", b""), (EXPECTS + b"hello", b""), (HALF[:-2], b""), (GET, b"")],
    ids=["held back", "begun", "whole", "not expected", "none"],
)
async def test_a_body_that_is_held_back_is_asked_for(sent: bytes, asked: bytes) -> None:
    def open_(stream: ClientStream, sink: HeardSink) -> None:
        stream.go_ahead()

    async with front() as place:
        place.service.then = open_
        await place.ask(sent)
        await turns()
        assert place.peer.at_hand() == asked
        assert place.stream.sent == 0, "it is no part of the answer"


async def test_it_can_be_asked_for_later_but_not_when_it_has_begun() -> None:
    async with front() as place:
        sink = await place.ask(EXPECTS)
        place.stream.go_ahead()
        assert await place.peer.receive(len(CONTINUE)) == CONTINUE
        place.peer.send(b"he")
        await until(lambda: sink.heard)
        place.stream.go_ahead()
        await turns()
        assert place.peer.at_hand() == b""


# --- what is refused
@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET / HTTP/1.1\r\n\r\n", b"BREW / HTTP/1.1\r\nhost: a\r\n\r\n"]
)
async def test_a_head_that_cannot_be_read_ends_the_connection(sent: bytes) -> None:
    async with front() as place:
        place.peer.send(sent)
        await until(lambda: place.service.refused)
        assert place.stream.head is NO_HEAD
        got = await place.peer.rest()
        assert got.startswith(b"HTTP/1.1 ")
        assert b"Connection: close\r\n" in got


async def test_a_body_that_cannot_be_read_is_the_clients_error() -> None:
    async with front() as place:
        sink = await place.ask(CHUNKS[: CHUNKS.index(b"3\r\n")])
        place.peer.send(b"zz\r\n")
        await until(lambda: sink.heard)
        assert sink.heard == [("error", "bad_request", "malformed chunk size")]


async def test_the_rest_of_a_refused_body_is_bounded() -> None:
    begun = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    async with front() as place:
        await place.ask(begun)
        place.stream.refuse(429, b"{}", b"", False)
        assert place.conn.state is State.DISCARD
        loop_sent = 0
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        while place.conn.state is State.DISCARD:
            place.peer.sock.setblocking(True)
            place.peer.sock.settimeout(2.0)
            place.peer.sock.sendall(piece)
            loop_sent += len(piece)
            await turns(2)
            assert loop_sent < DISCARD_BYTES + 4 * len(piece)
        assert loop_sent > DISCARD_BYTES
        assert place.conn.state is State.LINGER


@pytest.mark.parametrize("refusals", [0, MAX_REFUSALS])
async def test_after_the_last_answer_so_much_is_read_and_then_only_the_end_is_waited_for(refusals: int) -> None:
    async with front() as place:
        await place.ask(GET)
        place.stream.refusals = refusals
        place.stream.refuse(429, b"{}", b"", True)
        assert place.conn.state is State.LINGER
        sent = 0
        place.peer.sock.setblocking(False)
        for _ in range(3000):
            try:
                sent += place.peer.sock.send(b"x" * 16384)
            except BlockingIOError:
                await turns(1)
                if not place.conn.wire.reading:
                    break
        assert not place.conn.wire.reading
        assert sent < (LINGER_BYTES if refusals else LINGER_BYTES + (1 << 20))
        assert (await place.peer.rest()).endswith(b"{}")
        place.peer.sock.close()
        await until(lambda: place.conn.stream is None)


# --- limits of time
async def tells(place: Front, sink: HeardSink, what: object, at_least_s: float) -> None:
    begun = monotonic()
    await until(lambda: sink.heard and sink.heard[-1] == what)
    assert monotonic() - begun >= at_least_s - 0.02


@pytest.mark.parametrize(
    ("sent", "limits", "refused"),
    [
        (b"", {"idle_s": 0.15}, []),
        (b"\r\n", {"idle_s": 0.15, "head_s": 0.01}, []),
        (b"GET / HT", {"head_s": 0.15}, ["request_timeout"]),
        (b"\r\nGET / HT", {"head_s": 0.15}, ["request_timeout"]),
        (None, {"idle_s": 0.15}, []),
    ],
    ids=["nothing comes", "an empty line", "half a head", "half a head behind one", "idle"],
)
async def test_who_waits_too_long_is_closed(sent: bytes | None, limits: dict[str, float], refused: list[str]) -> None:
    async with front(**limits) as place:
        begun = monotonic()
        if sent is None:
            await place.ask(GET)
            answer(place.stream)
            begun = monotonic()
            await place.peer.receive(len(b"HTTP/1.1 200 OK\r\ndate: then\r\ncontent-length: 2\r\nx-request-id: id\r\n\r\nok"))
        else:
            place.peer.send(sent)
        got = await place.peer.rest()
        assert 0.13 <= monotonic() - begun < 0.15 + TICKS_S
        assert place.service.refused == refused
        assert got.startswith(b"HTTP/1.1 408 ") if refused else got == b""


async def test_a_body_that_stalls_or_trickles_is_late_and_one_that_is_held_back_is_not() -> None:
    async with front(body_s=0.2) as place:
        sink = await place.ask(HALF)
        place.stream.hold_back()
        await turns(400)
        assert sink.heard == [("body", b"he", False)]
        place.stream.go_on()
        await until(lambda: sink.heard[-1] == ("error", "request_timeout", "body stalled"))
        place.stream.refuse(408, b"{}", b"", True)
        assert (await place.peer.rest()).startswith(b"HTTP/1.1 408 ")
    long = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\n"
    async with front(body_s=0.3) as place:
        sink = await place.ask(long)
        begun = monotonic()
        while sink.heard[-1:] != [("error", "request_timeout", "body stalled")]:
            place.peer.send(b"x")
            await turns(5)
            assert monotonic() - begun < 0.3 + 2 * TICKS_S, "a trickle bought time"


@pytest.mark.parametrize(
    ("sent", "held", "what"),
    [
        (HALF, False, ("error", "request_timeout", "request_timeout_s reached within the body")),
        (HALF, True, "total timeout"),
        (POST, False, "total timeout"),
    ],
    ids=["in the body", "held back", "waiting"],
)
async def test_the_limit_of_the_whole_exchange(sent: bytes, held: bool, what: object) -> None:
    async with front() as place:
        sink = await place.ask(sent)
        if held:
            place.stream.hold_back()
        place.stream.due(monotonic() + 0.15)
        await tells(place, sink, what, 0.15)
        place.stream.refuse(408, b"{}", b"", True)
        await turns(200)
        assert sink.heard[-1] == what, "once"


async def test_the_limit_of_one_exchange_is_not_the_next_ones() -> None:
    async with front() as place:
        await place.ask(GET)
        place.stream.due(monotonic() + 0.1)
        answer(place.stream)
        sink = await place.ask(GET)
        await turns(250)
        assert sink.heard == [("body", b"", True)]


async def test_a_client_that_reads_nothing_is_stalled_and_one_that_reads_slowly_is_not() -> None:
    async with front(tcp=True, write_s=0.3) as place:
        sink = await place.ask(GET)
        place.stream.begin(DATED, UNTOLD, b"id", b"")
        assert place.stream.write(b"x" * (16 << 20)) == QUEUED
        for _ in range(8):
            assert len(await place.peer.receive(65536)) == 65536
            await turns(70)
        assert sink.heard == [("body", b"", True)], "it reads all the same"
        await until(lambda: sink.heard[-1] == "stalled")
        assert place.stats.stalled == 1
        assert place.conn.stream is None


async def test_a_tunnel_and_a_slow_engine_have_no_limit_of_the_connections() -> None:
    async with front(head_s=0.1, idle_s=0.1, body_s=0.1, write_s=0.1) as place:
        sink = await place.ask(POST)
        await turns(350)
        assert sink.heard == [("body", b"hello", True)]


# --- the end
@pytest.mark.parametrize(
    ("sent", "closes"), [(None, True), (b"GET / HT", False), (POST, False)], ids=["idle", "in a head", "busy"]
)
async def test_the_drain_closes_what_is_idle(sent: bytes | None, closes: bool) -> None:
    async with front() as place:
        if sent is not None:
            place.peer.send(sent)
            await turns()
        assert place.conn.streams() == ([place.stream] if sent == POST else [])
        assert place.conn.close_idle() is closes
        assert (place.conn.stream is None) is closes
        if closes:
            assert await place.peer.rest() == b""


@pytest.mark.parametrize("call", ["body", "gone", "total timeout"])
async def test_a_bug_above_is_told_and_the_rest_lives_on(call: str) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    async with front() as place:
        place.service.then = lambda stream, sink: sink.then.update({call: fail})
        await place.ask(POST)
        if call == "gone":
            place.peer.sock.close()
        elif call == "total timeout":
            place.stream.due(monotonic())
        await until(lambda: place.service.crashes)
        assert [str(one) for one in place.service.crashes] == ["a bug"]
        await until(lambda: place.conn.stream is None)
        place.service.crashes.clear()


async def test_a_closed_connection_and_its_parts_need_no_collector() -> None:
    classes = {"H1Connection", "H1ClientStream", "PlainWire"}

    def alive() -> int:
        return sum(type(one).__name__ in classes for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        async with front() as place:
            await place.ask(GET)
            answer(place.stream)
            assert alive() == before + 3
            place.service.sinks.clear()
        del place
        await turns()
        assert alive() == before
    finally:
        gc.enable()
