"""What a client gets: each kind of answer, by its HTTP version, its wish to keep the connection, and the drain; to the byte."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable

import pytest

from fastgw.accel.heads import ResponseHead
from fastgw.net.client import NO_BODY, UNTOLD, ClientStream
from fastgw.net.h1_states import DISCARD_BYTES, SURPLUS_BYTES
from fastgw.net.wire import DEAD, QUEUED, SENT
from fastgw.protocol.body import CHUNKS, PLAIN
from tests.net.talk import Front, answered, front, turns, until

ID = b"id-1"
DATE = re.compile(rb"[A-Z][a-z]{2}, [^\r]+ GMT")
OK = b"HTTP/1.1 200 OK\r\n"
DATED = answered(b"content-type: application/json\r\ndate: then\r\nx-engine: 1\r\n")
UNDATED = answered(b"content-type: application/json\r\n")
STREAM = answered(b"content-type: text/event-stream\r\ndate: then\r\n")
FIELDS = {id(DATED): DATED.forward, id(UNDATED): UNDATED.forward, id(STREAM): STREAM.forward}

# by version and wish: the request, and the line that a kept connection's answer has, None = it ends with the answer
ASKED = {
    "1.1": (b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", b""),
    "1.1 close": (b"POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", None),
    "1.0": (b"POST /v1/x HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi", None),
    "1.0 keep-alive": (
        b"POST /v1/x HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", b"connection: keep-alive\r\n",
    ),
}  # fmt: skip
every_way = pytest.mark.parametrize("asked", ASKED)
draining_or_not = pytest.mark.parametrize("draining", [False, True], ids=["", "draining"])


async def exchanged(place: Front, asked: str, draining: bool, answer: Callable[[ClientStream], object]) -> tuple[bytes, bool]:
    """What a client got, its date made one; and whether its connection was kept."""
    place.service.draining = draining
    await place.ask(ASKED[asked][0])
    stream = place.stream
    answer(stream)
    await turns()
    assert stream.sink is None, "nobody is told any more"
    got = place.peer.at_hand()
    assert stream.sent == len(got)
    place.service.draining = False
    kept = place.conn.stream is stream and not ended(place)
    return DATE.sub(b"now", got), kept


def ended(place: Front) -> bool:
    """Whether the client has been told of the end."""
    try:
        return place.peer.sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def last_line(asked: str, draining: bool, lasts: bool = True) -> tuple[bytes, bool]:
    """The line on the connection, and whether it is kept."""
    keep = ASKED[asked][1]
    if keep is None or draining or not lasts:
        return b"connection: close\r\n", False
    return keep, True


@every_way
@draining_or_not
@pytest.mark.parametrize("head", [DATED, UNDATED, STREAM], ids=["dated", "undated", "sse"])
@pytest.mark.parametrize("extra", [b"", b"x-mine: 1\r\n"], ids=["", "extra"])
async def test_a_whole_answer(asked: str, draining: bool, head: ResponseHead, extra: bytes) -> None:
    async with front() as place:
        got, kept = await exchanged(place, asked, draining, lambda stream: stream.answer(head, ID, extra, b"{}"))
    line, keep = last_line(asked, draining)
    mine = b"x-request-id: id-1\r\n"
    if head is STREAM:
        mine += b"x-accel-buffering: no\r\n"
    if head is UNDATED:
        mine += b"date: now\r\n"
    assert got == OK + FIELDS[id(head)] + b"content-length: 2\r\n" + mine + extra + line + b"\r\n{}"
    assert kept is keep


@every_way
@draining_or_not
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_answer_of_the_gateways_own(asked: str, draining: bool, method: bytes) -> None:
    async with front() as place:
        await place.ask(ASKED[asked][0].replace(b"POST", method).replace(b"content-length: 2\r\n", b"")[:-2])
        place.service.draining = draining
        place.stream.local(200, b"text/plain", b"ok", b"x-mine: 1\r\n")
        await turns()
        got = DATE.sub(b"now", place.peer.at_hand())
        line, keep = last_line(asked, draining)
        line = b"Connection: close\r\n" if not keep else line
        body = b"" if method == b"HEAD" else b"ok"
        own = b"Date: now\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nx-mine: 1\r\n"
        assert got == OK + own + line + b"\r\n" + body
        assert ended(place) is not keep


@pytest.mark.parametrize(
    ("request_head", "body", "close", "kept"),
    [
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", b"", False, True),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", b"", True, False),
        (b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", b"", False, False),
        (b"POST / HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", b"", False, True),
        # what is still to come is read and thrown away, where that is not too much
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n", b"x" * 20, False, True),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n0\r\n\r\n", False, True),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % DISCARD_BYTES, b"", False, True),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (DISCARD_BYTES + 1), b"", False, False),
        # who waits to be asked for the body may never send it
        (b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 20\r\n\r\n", b"", False, False),
    ],
)
async def test_an_error(request_head: bytes, body: bytes, close: bool, kept: bool) -> None:
    async with front() as place:
        await place.ask(request_head)
        place.stream.refuse(429, b"{}", b"x-mine: 1\r\n", close)
        await turns()
        got = place.peer.at_hand()
        assert got.startswith(b"HTTP/1.1 429 Too Many Requests\r\nDate: ")
        tail = b"x-mine: 1\r\n"
        if not kept:
            tail += b"Connection: close\r\n"
        elif b"HTTP/1.0" in request_head:
            tail += b"connection: keep-alive\r\n"
        assert got.endswith(b"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n" + tail + b"\r\n{}")
        assert ended(place) is not kept
        if body:
            place.peer.send(body)
            sink = await place.ask(ASKED["1.1"][0])
            assert sink.heard == [("body", b"hi", True)], "the next request is read from where it begins"


PIECES = [b"one", b"", b"two"]


@every_way
@draining_or_not
@pytest.mark.parametrize("length", [6, UNTOLD], ids=["length", "untold"])
@pytest.mark.parametrize("head", [STREAM, UNDATED], ids=["sse", "undated"])
async def test_an_answer_in_pieces(asked: str, draining: bool, length: int, head: ResponseHead) -> None:
    def answer(stream: ClientStream) -> None:
        stream.begin(head, length, ID, b"x-mine: 1\r\n")
        assert stream.frames == (CHUNKS if chunked else PLAIN)
        assert stream.bounded is (length >= 0)
        for piece in PIECES:
            assert stream.write(piece) == SENT
        assert stream.end(b"") == SENT
        stream.finish()

    http11 = asked.startswith("1.1")
    chunked = http11 and length == UNTOLD
    async with front() as place:
        got, kept = await exchanged(place, asked, draining, answer)
    framing = b"transfer-encoding: chunked\r\n" if chunked else b"content-length: 6\r\n" if length >= 0 else b""
    line, keep = last_line(asked, draining, lasts=bool(framing))
    mine = b"x-accel-buffering: no\r\n" if head is STREAM else b"date: now\r\n"
    body = b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" if chunked else b"onetwo"
    assert got == OK + FIELDS[id(head)] + framing + b"x-request-id: id-1\r\n" + mine + b"x-mine: 1\r\n" + line + b"\r\n" + body
    assert kept is keep


@pytest.mark.parametrize(
    ("last", "framed", "body"),
    [(b"x", False, b"1\r\nx\r\n0\r\n\r\n"), (b"", False, b"0\r\n\r\n"), (b"1\r\ny\r\n0\r\n\r\n", True, b"1\r\ny\r\n0\r\n\r\n")],
)
async def test_the_end_in_one_write(last: bytes, framed: bool, body: bytes) -> None:
    async with front() as place:
        await place.ask(ASKED["1.1"][0])
        place.stream.begin(DATED, UNTOLD, ID, b"")
        assert (place.stream.write_wire if framed else place.stream.end)(last) == SENT
        place.stream.finish()
        await turns()
        assert place.peer.at_hand().endswith(b"\r\nx-request-id: id-1\r\n\r\n" + body)


async def test_the_head_goes_out_with_the_first_of_the_body_and_not_before() -> None:
    async with front() as place:
        await place.ask(ASKED["1.1"][0])
        stream = place.stream
        stream.begin(DATED, UNTOLD, ID, b"")
        assert stream.write(b"") == SENT
        await turns()
        assert (place.peer.at_hand(), stream.sent) == (b"", 0)
        stream.refuse(502, b"{}", b"", False)
        await turns()
        got = place.peer.at_hand()
        assert got.startswith(b"HTTP/1.1 502 "), "another answer was still possible"
        assert got.count(b"HTTP/1.1") == 1
        await place.ask(ASKED["1.1"][0])
        stream.begin(DATED, UNTOLD, ID, b"")
        assert stream.flush() == SENT
        assert stream.flush() == SENT
        await turns()
        assert place.peer.at_hand().endswith(b"transfer-encoding: chunked\r\nx-request-id: id-1\r\n\r\n")


@pytest.mark.parametrize(
    ("status", "told", "line"),
    [
        (b"200 OK", b"content-length: 9\r\n", b"content-length: 9\r\n"),  # an answer to HEAD
        (b"304 Not Modified", b"content-length: 9\r\n", b"content-length: 9\r\n"),
        (b"304 Not Modified", b"", b""),
        (b"204 No Content", b"content-length: 0\r\n", b""),
        (b"200 OK", b"transfer-encoding: chunked\r\n", b""),
    ],
)
@every_way
async def test_an_answer_without_a_body(asked: str, status: bytes, told: bytes, line: bytes) -> None:
    head = answered(told + b"date: then\r\n", status)

    def answer(stream: ClientStream) -> None:
        stream.begin(head, NO_BODY, ID, b"")
        stream.flush()
        stream.finish()

    async with front() as place:
        got, kept = await exchanged(place, asked, False, answer)
    last, keep = last_line(asked, False)
    assert got == b"HTTP/1.1 " + status + b"\r\ndate: then\r\n" + line + b"x-request-id: id-1\r\n" + last + b"\r\n"
    assert kept is keep


@pytest.mark.parametrize("asked", ["1.1", "1.0"])
@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("length", [100, UNTOLD])
async def test_a_broken_answer_ends_in_a_fin_only_where_its_reader_can_tell(asked: str, told: bool, length: int) -> None:
    async with front(tcp=True) as place:
        await place.ask(ASKED[asked][0])
        place.stream.begin(DATED, length, ID, b"")
        place.stream.write(b"half")
        await turns()
        assert place.peer.at_hand().endswith(b"half" if length >= 0 or asked == "1.0" else b"4\r\nhalf\r\n")
        sink = place.sink
        place.stream.break_off(told)
        fin = told and asked == "1.1" and length == UNTOLD
        assert await place.peer.rest() == (b"" if fin else "reset")
        assert sink.heard == [("body", b"hi", True)], "it is not told what it did itself"


async def test_a_client_that_does_not_take_its_answer_queues_it_and_drains() -> None:
    async with front() as place:
        sink = await place.ask(ASKED["1.1"][0])
        stream = place.stream
        stream.begin(DATED, 8 << 20, ID, b"")
        half = b"x" * (4 << 20)
        assert stream.write(half) == QUEUED
        assert stream.write(b"") == QUEUED
        assert stream.flush() == QUEUED
        head = stream.sent - len(half)
        await place.peer.receive(stream.sent)
        await until(lambda: sink.heard[-1] == "drained")
        assert stream.end(half) == QUEUED
        stream.finish()
        place.peer.send(ASKED["1.1"][0])
        await turns()
        assert len(place.service.sinks) == 1, "no further request before this answer has left"
        assert await place.peer.receive(len(half)) == half
        await until(lambda: len(place.service.sinks) == 2)
        assert head > 0
        assert sink.heard == [("body", b"hi", True), "drained"]


async def test_what_meets_a_dead_socket_says_so_and_a_whole_answer_is_simply_over() -> None:
    async with front() as place:
        await place.ask(ASKED["1.1"][0])
        place.conn.wire.pause()
        place.peer.sock.close()
        stream = place.stream
        stream.begin(DATED, UNTOLD, ID, b"")
        assert stream.write(b"x") == DEAD
        stream.answer(DATED, ID, b"", b"{}")
        assert (stream.sink, place.conn.stream) == (None, None)
        assert place.service.ended == ["192.0.2.1"]
        # All of it is over: nothing of this does anything any more.
        stream.finish()
        stream.break_off(True)
        stream.hang_up()
        stream.hold_back()
        stream.go_on()
        stream.resume()
        stream.go_ahead()
        stream.close()
        assert stream.early() == b""
        assert place.service.ended == ["192.0.2.1"]


async def test_an_upgrade_passes_bytes_both_ways_and_without_a_limit_of_time() -> None:
    head = answered(b"upgrade: websocket\r\nconnection: upgrade\r\nx-engine: 1\r\n", b"101 Switching Protocols")
    async with front(idle_s=0.1, body_s=0.1, head_s=0.1) as place:
        sink = await place.ask(b"GET /x HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nearly")
        stream = place.stream
        stream.due(0.0)
        assert stream.upgrade(head, ID, b"down") == SENT
        assert stream.early() == b"early"
        assert stream.early() == b""
        lines = b"connection: Upgrade\r\nupgrade: websocket\r\nx-request-id: id-1\r\n\r\n"
        data = head.status_line + b"x-engine: 1\r\n" + lines + b"down"
        assert await place.peer.receive(len(data)) == data
        place.peer.send(b"up")
        await until(lambda: sink.heard[-1] == ("tunnel", b"up"))
        stream.pause()
        place.peer.send(b"more")
        await turns()
        assert sink.heard[-1] == ("tunnel", b"up")
        stream.resume()
        await until(lambda: sink.heard[-1] == ("tunnel", b"more"))
        assert stream.pass_on(b"bye") == SENT
        assert stream.sent == len(data) + 3
        await turns(300)
        assert sink.heard == [("body", b"", True), ("tunnel", b"up"), ("tunnel", b"more")]
        stream.hang_up()
        assert await place.peer.rest() == b"bye"


# --- a client that is not read
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def too_early(place: Front) -> None:
    place.peer.send(GET * (2 * SURPLUS_BYTES // len(GET)))


def held_back(place: Front) -> None:
    place.stream.hold_back()


def tunnelled(place: Front) -> None:
    place.stream.take_over()
    place.stream.early()
    place.stream.pause()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("sent", "pauses"), [(GET, too_early), (ASKED["1.1"][0][:-1], held_back), (GET, tunnelled)])
async def test_whoever_is_paused_is_seen_to_leave(sent: bytes, pauses: Callable[[Front], None], reset: bool) -> None:
    """Whatever for, and behind bytes that nobody has read."""
    async with front(tcp=True) as place:
        sink = await place.ask(sent)
        pauses(place)
        await until(lambda: not place.conn.wire.reading)
        place.peer.send(b"unread")
        await turns()
        assert all(name != "gone" for name, *_ in sink.heard)
        if reset:
            place.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        place.peer.sock.close()
        await until(lambda: sink.heard[-1][0] == "gone")
