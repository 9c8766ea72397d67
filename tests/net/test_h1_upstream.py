"""A request at an engine: what is written, which answers are understood, and what its carrier is told of each end."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from fastgw.net.clock import monotonic
from fastgw.net.h1_upstream import MAX_INTERIM, H1UpstreamConn, H1UpstreamStream, Home, UpstreamState
from fastgw.net.poller import Reactor
from fastgw.net.timers import NEVER
from fastgw.net.wire import QUEUED, SENT, PlainWire
from fastgw.protocol.body import ChunkedSource, CloseSource, LengthSource, NoSource
from fastgw.protocol.start import RequestStart
from fastgw.stats import Stats
from tests.net.talk import HeardCarrier, Peer, reacting, tcp_pair, turns, until
from tests.protocol.splits import ways

FIELDS = b"a: 1\r\nx-request-id: "
OWN = b"Host: engine\r\n"
JOIN_BYTES = 65536  # as the module has it: bodies up to this go out in one send with their head


class Pool(Home):
    """A pool that only remembers."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.keeps_until = 0.0

    def unneeded(self, conn: H1UpstreamConn, now: float) -> float:
        self.heard.append("unneeded")
        until, self.keeps_until = self.keeps_until, 0.0
        return until

    def idle_closed(self, conn: H1UpstreamConn, by_engine: bool) -> None:
        self.heard.append(("idle closed", by_engine))

    def gone(self, conn: H1UpstreamConn) -> None:
        self.heard.append("gone")

    def warmed(self, conn: H1UpstreamConn) -> None:
        self.heard.append("warmed")

    def warm_failed(self, detail: str) -> None:
        self.heard.append(("warm failed", detail))

    def crashed(self, error: BaseException) -> None:
        self.heard.append(("crashed", str(error)))


class Back:
    """A connection that was idle, taken by ``carrier``; ``peer`` is the engine."""

    def __init__(self, reactor: Reactor, tcp: bool) -> None:
        ours, theirs = tcp_pair() if tcp else socket.socketpair()
        ours.setblocking(False)
        self.peer = Peer(theirs)
        self.pool = Pool()
        self.stats = Stats()
        self.carrier = HeardCarrier()
        self.conn = H1UpstreamConn(reactor, PlainWire(reactor, ours.detach()), self.pool, OWN, None, self.stats)
        self.conn.park(monotonic(), 10.0, 10.0)
        self.stream = self.conn.take(self.carrier)

    def send(self, method: bytes = b"POST", length: int = 2, body: bytes = b"hi", upgrade: bool = False) -> RequestStart:
        start = RequestStart(method, b"/v1/x", FIELDS, upgrade)
        self.stream.send(start, b"", b"id-1", length, b"", body, 0, monotonic() + 10.0)
        return start


@contextlib.asynccontextmanager
async def back(tcp: bool = False) -> AsyncIterator[Back]:
    async with reacting() as reactor:
        place = Back(reactor, tcp)
        try:
            yield place
        finally:
            place.stream.cancel()
            place.peer.sock.close()
            assert place.stats.upstream_open == 0


# --- what is written
HEAD = b" /v1/x HTTP/1.1\r\nHost: engine\r\na: 1\r\nx-request-id: id-1\r\n"


@pytest.mark.parametrize(
    ("method", "length", "body", "upgrade", "written"),
    [
        (b"POST", 2, b"hi", False, b"POST" + HEAD + b"content-length: 2\r\n\r\nhi"),
        (b"POST", 0, b"", False, b"POST" + HEAD + b"content-length: 0\r\n\r\n"),
        (b"GET", 0, b"", False, b"GET" + HEAD + b"\r\n"),
        (b"POST", 9, b"hi", False, b"POST" + HEAD + b"content-length: 9\r\n\r\nhi"),
        (b"POST", -1, b"", False, b"POST" + HEAD + b"transfer-encoding: chunked\r\n\r\n"),
        (b"POST", -1, b"hi", False, b"POST" + HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"),
        (b"GET", 0, b"", True, b"GET" + HEAD + b"connection: Upgrade\r\nupgrade: websocket\r\n\r\n"),
    ],
)
async def test_a_request(method: bytes, length: int, body: bytes, upgrade: bool, written: bytes) -> None:
    async with back() as place:
        start = place.send(method, length, body, upgrade)
        assert start.line == method + b" /v1/x HTTP/1.1\r\n"
        assert place.stream.waiting
        assert await place.peer.receive(len(written)) == written
        await turns()
        assert place.peer.at_hand() == b""


@pytest.mark.parametrize("size", [JOIN_BYTES, JOIN_BYTES + 1, 8 << 20])
async def test_a_large_body_goes_out_whole(size: int) -> None:
    async with back() as place:
        place.send(b"POST", size, b"x" * size)
        head = b"POST" + HEAD + b"content-length: %d\r\n\r\n" % size
        assert await place.peer.receive(len(head) + size) == head + b"x" * size
        if size > 1 << 20:
            await until(lambda: place.carrier.heard == ["drained"])
            assert place.stream.queued() == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_comes_in_pieces(chunked: bool) -> None:
    async with back() as place:
        place.send(b"POST", -1 if chunked else 6, b"")
        assert place.stream.write(b"one") == SENT
        assert place.stream.write(b"two") == SENT
        place.stream.end()
        place.stream.end()
        await turns()
        got = place.peer.at_hand()
        assert got.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" if chunked else b"content-length: 6\r\n\r\nonetwo")


async def test_an_engine_that_does_not_take_it_drains() -> None:
    async with back() as place:
        place.send(b"POST", 8 << 20, b"")
        await place.peer.receive(len(b"POST" + HEAD) + 27)
        assert place.stream.write(b"x" * (8 << 20)) == QUEUED
        assert place.stream.queued() > 0
        await place.peer.receive(8 << 20)
        await until(lambda: place.carrier.heard == ["drained"])


# --- what comes back
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
CLOSE = OK + b"\r\nhello"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"


@pytest.mark.parametrize(("answer", "kind"), [(LENGTH, LengthSource), (CHUNKED, ChunkedSource), (CLOSE, CloseSource)])
@pytest.mark.parametrize("interim", [b"", INTERIM], ids=["", "1xx"])
async def test_an_answer_however_it_is_split(answer: bytes, kind: type, interim: bytes) -> None:
    async with back() as place:
        for pieces in list(ways(interim + answer, splits=6))[:: 23 if interim else 11]:
            place.carrier = HeardCarrier()
            place.stream.carrier = place.carrier
            place.send()
            assert not place.stream.begun()
            for piece in pieces:
                place.peer.send(piece)
                await turns(1)
            await until(lambda: place.carrier.payload == b"hello")
            assert place.stream.begun()
            assert not place.stream.waiting
            source = place.carrier.source
            assert type(source) is kind
            assert source.done is (kind is not CloseSource)
            assert source.spoiled is (kind is CloseSource)
            place.conn.park(monotonic(), 10.0, 10.0)
            place.conn.take(place.carrier)


async def test_an_interim_answer_is_a_sign_of_life() -> None:
    async with back() as place:
        place.send()
        place.peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await turns()
        assert (place.stream.begun(), place.stream.waiting, place.carrier.heard) == (True, True, [])


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_which_answers_have_a_body_depends_on_the_method(method: bytes) -> None:
    async with back() as place:
        place.send(method, 0, b"")
        place.peer.send(OK + b"content-length: 5\r\n\r\n")
        await until(lambda: place.carrier.heard == [("head", 200)])
        assert type(place.carrier.source) is (NoSource if method == b"HEAD" else LengthSource)


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"SMTP ready\r\n", "the engine does not speak HTTP/1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "malformed content-length"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1), "too many interim responses"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", "101 without an upgrade"),
    ],
)
async def test_what_is_no_answer_closes_the_connection(sent: bytes, detail: str) -> None:
    async with back() as place:
        place.send()
        place.peer.send(sent)
        await until(lambda: place.carrier.heard)
        assert place.carrier.heard == [("error", "bad_gateway", detail)]
        assert place.stream.closed
        assert place.pool.heard == ["gone"]


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", LENGTH[:-2]], ids=["nothing", "half a head", "half a body"])
async def test_an_engine_that_leaves(sent: bytes, how: str) -> None:
    async with back(tcp=True) as place:
        place.send()
        await turns()
        place.peer.at_hand()
        if sent:
            place.peer.send(sent)
            await turns()
        if how == "reset":
            place.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        place.peer.sock.close()
        await until(lambda: place.carrier.heard[-1:] == [("end", how)])
        assert place.stream.begun() is bool(sent)
        assert not place.stream.closed, "it is the carrier's to end"
        await turns()
        assert place.carrier.heard.count(("end", how)) == 1


async def test_a_slow_reader_holds_it_and_nothing_is_due_meanwhile() -> None:
    async with back() as place:
        place.send()
        place.peer.send(OK + b"content-length: 6\r\n\r\none")
        await until(lambda: place.carrier.heard)
        place.stream.due(monotonic() + 0.1)
        place.stream.hold()
        place.peer.send(b"two")
        await turns(250)
        assert place.carrier.heard == [("head", 200)]
        place.stream.resume()
        await until(lambda: place.carrier.heard == [("head", 200), "data"])
        assert place.carrier.payload == b"onetwo"


async def test_silence_is_told_when_it_is_due_and_not_before() -> None:
    async with back() as place:
        place.send()
        begun = monotonic()
        place.stream.due(begun + 5.0)
        place.stream.due(begun + 0.15)
        await until(lambda: place.carrier.heard == ["silent"])
        assert monotonic() - begun >= 0.15
        place.stream.due(NEVER)
        await turns(150)
        assert place.carrier.heard == ["silent"]


async def test_cancelled_the_engine_sees_the_end_and_nobody_is_told() -> None:
    async with back() as place:
        place.send()
        place.stream.cancel()
        place.stream.cancel()
        assert (await place.peer.rest()).endswith(b"hi")
        assert (place.carrier.heard, place.stream.closed, place.stream.carrier) == ([], True, None)
        assert place.pool.heard == ["gone"]


async def test_an_upgrade_is_a_tunnel_both_ways() -> None:
    async with back() as place:
        place.send(b"GET", 0, b"", upgrade=True)
        place.peer.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nfirst")
        await until(lambda: place.carrier.heard == [("head", 101)])
        place.stream.tunnel()
        place.peer.send(b"more")
        await until(lambda: place.carrier.payload == b"firstmore")
        place.peer.at_hand()
        assert place.stream.write(b"up") == SENT
        assert await place.peer.receive(2) == b"up"


@pytest.mark.parametrize("call", ["head", "data", "end", "silent", "drained"])
async def test_a_bug_above_ends_the_request_and_is_told(call: str) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    async with back() as place:
        place.carrier.then[call] = fail
        if call == "drained":
            place.send(b"POST", 8 << 20, b"x" * (8 << 20))
            await place.peer.receive(8 << 20)
            place.peer.at_hand()
        else:
            place.send()
        if call in ("head", "data"):
            place.peer.send(OK + b"content-length: 9\r\n\r\n")
            await turns()
            if call == "data":
                place.peer.send(b"x")
        elif call == "end":
            place.peer.sock.shutdown(socket.SHUT_WR)
        elif call == "silent":
            place.stream.due(monotonic())
        await until(lambda: ("crashed", "a bug") in place.pool.heard)
        assert place.carrier.heard[-1] == ("error", "internal", "")
        assert place.stream.closed


# --- idle, and not
async def test_bytes_or_an_end_that_nobody_asked_for_close_what_is_idle() -> None:
    for end in (False, True):
        async with back() as place:
            place.conn.park(monotonic(), 10.0, 10.0)
            assert place.conn.state is UpstreamState.IDLE
            place.peer.sock.shutdown(socket.SHUT_WR) if end else place.peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            await until(lambda: place.pool.heard == ["gone", ("idle closed", True)])
            assert place.carrier.heard == []


async def test_what_was_taken_and_not_asked_yet_tells_its_carrier_of_the_end() -> None:
    for end in (False, True):
        async with back() as place:
            place.peer.sock.shutdown(socket.SHUT_WR) if end else place.peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            await until(lambda: place.carrier.heard)
            assert place.carrier.heard == [("end", "fin" if end else "reset")]
            assert not place.stream.begun()


async def test_the_time_in_the_pool_is_over() -> None:
    async with back() as place:
        place.conn.park(monotonic(), 0.1, 0.1)
        await until(lambda: place.pool.heard == ["unneeded", "gone", ("idle closed", False)])
        assert await place.peer.rest() == b""


async def test_the_pool_may_keep_it_for_longer() -> None:
    async with back() as place:
        place.pool.keeps_until = monotonic() + 0.3
        place.conn.park(monotonic(), 10.0, 0.05)
        await until(lambda: place.pool.heard == ["unneeded"])
        await turns(50)
        assert place.pool.heard == ["unneeded"]
        await until(lambda: place.pool.heard == ["unneeded", "unneeded", "gone", ("idle closed", False)])


async def test_taken_again_its_time_in_the_pool_does_not_count() -> None:
    async with back() as place:
        place.conn.park(monotonic(), 0.1, 0.1)
        stream = place.conn.take(place.carrier)
        assert isinstance(stream, H1UpstreamStream)
        place.send()
        await turns(250)
        assert place.pool.heard == []


# --- dials
def dial(
    reactor: Reactor, addresses: tuple[object, ...], pool: Pool, carrier: HeardCarrier | None, stats: Stats
) -> H1UpstreamConn:
    found = tuple((socket.AF_INET, address) for address in addresses)
    return H1UpstreamConn.dial(reactor, found, pool, OWN, carrier, stats, 0.3)


def free() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()


@pytest.mark.parametrize("dead_first", [0, 2])
async def test_a_dial_tries_the_addresses_in_order(dead_first: int) -> None:
    async with reacting() as reactor:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            pool, carrier, stats = Pool(), HeardCarrier(), Stats()
            addresses = (*(free() for _ in range(dead_first)), listener.getsockname())
            conn = dial(reactor, addresses, pool, carrier, stats)
            stream = conn.stream
            assert stream is not None
            assert (stream.connected, carrier.heard) == (False, []), "never from within the call"
            await until(lambda: carrier.heard == ["stream"])
            assert stream.connected
            conn.close()
            assert stats.upstream_open == 0


async def test_nobody_there() -> None:
    async with reacting() as reactor:
        pool, carrier, stats = Pool(), HeardCarrier(), Stats()
        conn = dial(reactor, (free(), free()), pool, carrier, stats)
        stream = conn.stream
        await until(lambda: carrier.heard)
        assert carrier.heard == [("unreachable", "Connection refused", False)]
        assert stream is not None
        assert stream.closed
        assert pool.heard == ["gone"]


async def test_a_dial_that_takes_too_long() -> None:
    async with reacting() as reactor:
        pool, carrier, stats = Pool(), HeardCarrier(), Stats()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            with contextlib.ExitStack() as full:
                for _ in range(4):
                    sock = full.enter_context(socket.socket())
                    sock.setblocking(False)
                    sock.connect_ex(listener.getsockname())
                dial(reactor, (listener.getsockname(), free()), pool, carrier, stats)
                await until(lambda: carrier.heard)
        assert carrier.heard == [("unreachable", "connect timeout", True)]


async def test_a_dial_without_a_request() -> None:
    async with reacting() as reactor:
        pool, stats = Pool(), Stats()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            conn = dial(reactor, (listener.getsockname(),), pool, None, stats)
            await until(lambda: pool.heard == ["warmed"])
            conn.close()
        dial(reactor, (free(),), pool, None, stats)
        await until(lambda: pool.heard[1:] == ["gone", "gone", ("warm failed", "Connection refused")])


async def test_cancelled_while_it_is_dialled_nobody_is_told() -> None:
    async with reacting() as reactor:
        pool, carrier, stats = Pool(), HeardCarrier(), Stats()
        for address in (free(), ("127.0.0.1", 1)):
            conn = dial(reactor, (address, free()), pool, carrier, stats)
            assert conn.stream is not None
            conn.stream.cancel()
        await turns(10)
        assert (carrier.heard, stats.upstream_open) == ([], 0)


async def test_a_closed_connection_and_its_parts_need_no_collector() -> None:
    classes = {"H1UpstreamConn", "H1UpstreamStream", "PlainWire"}

    def alive() -> int:
        return sum(type(one).__name__ in classes for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        async with back() as place:
            place.send()
            assert alive() == before + 3
        del place
        await turns()
        assert alive() == before
    finally:
        gc.enable()
