"""The peer by hand is held against the stock h2 package, which knows nothing of it: each says, the other understands."""

from __future__ import annotations

import socket

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes
from hpack import Encoder

from tests.support.h2 import frames as f
from tests.support.h2.peer import Client, OnLoop, OverSocket, Peer, Server, Talk
from tests.support.h2.reading import ProtocolBroken, Reader

FIELDS = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "e"), ("x-a", "b")]


class Stock:
    """The stock machine as a side of a Talk."""

    def __init__(self, client: bool) -> None:
        self.machine = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.machine.initiate_connection()
        self.events: list[object] = []

    def feed(self, data: bytes) -> None:
        self.events += self.machine.receive_data(data)

    def talk(self, peer: Peer, step: int = 0) -> Talk:
        return Talk(peer, self.feed, self.machine.data_to_send, step).begins()

    def last(self, kind: type) -> object:
        return [event for event in self.events if isinstance(event, kind)][-1]


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_server_by_hand_and_a_real_client(step: int) -> None:
    stock = Stock(client=True)
    talk = stock.talk(Server(), step)
    talk.peer.sees("SETTINGS !ack ENABLE_PUSH=1|0", "SETTINGS ack")
    stock.machine.send_headers(1, FIELDS)
    stock.machine.send_data(1, b"12345", end_stream=True)
    head = talk.sees("HEADERS 1 :path=/x x-a=b !end", "DATA 1 end length=5")
    assert (head.payload, talk.peer.body(1), talk.peer.streams()) == (b"12345", b"12345", [1])
    talk.says(
        f.headers(1, (*f.OK, (b"x-y", b"z"))), f.data(1, b"abc", pad=9), f.headers(1, f.fields("x-end: 1"), end=True)
    )  # fmt: skip
    assert (b"x-y", b"z") in stock.last(ResponseReceived).headers
    assert stock.last(DataReceived).data == b"abc"
    assert stock.last(TrailersReceived).headers == [(b"x-end", b"1")]
    assert stock.last(StreamEnded).stream_id == 1
    talk.peer.has_seen_all()


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_client_by_hand_and_a_real_server(step: int) -> None:
    stock = Stock(client=False)
    talk = stock.talk(Client(settings=f.settings(INITIAL_WINDOW_SIZE=3)), step)
    talk.says(
        f.request(1, b"body", "x-k: v"), f.continued(3, (*f.GET, (b"x-long", b"y" * 300)), 4, end=True), f.ping(b"12345678")
    )
    talk.sees("PING ack opaque=3132333435363738")
    asked = [event for event in stock.events if isinstance(event, RequestReceived)]
    assert [event.stream_id for event in asked] == [1, 3]
    assert (b"x-long", b"y" * 300) in asked[1].headers
    stock.machine.send_headers(1, [(":status", "200")])
    assert stock.machine.local_flow_control_window(1) == 3
    stock.machine.send_data(1, b"abc")
    talk.sees("HEADERS 1 :status=200", "DATA 1 length=3")
    talk.says(f.window(1, 2))
    stock.machine.send_data(1, b"de", end_stream=True)
    talk.sees("DATA 1 end length=2")
    talk.says(f.rst(3, "INTERNAL_ERROR"), f.settings(MAX_CONCURRENT_STREAMS=7))
    assert stock.last(StreamReset).error_code is ErrorCodes.INTERNAL_ERROR
    assert stock.machine.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 7
    talk.says(f.headers(5, f.GET, end=True, pad=3, depends_on=0, weight=200, exclusive=True), f.priority(5, 1))
    assert stock.last(RequestReceived).stream_id == 5


def test_an_encoder_of_the_tests_fills_the_table() -> None:
    encoder = Encoder()
    first, again = (f.block((*f.GET, (b"x-a", b"b")), encoder) for _ in range(2))
    assert len(again) < len(first)
    stock = Stock(client=False)
    stock.talk(Client()).says(f.headers(1, first, end=True), f.headers(3, again, end=True))
    assert next(e.headers for e in stock.events if isinstance(e, RequestReceived))[-1] == (b"x-a", b"b")
    assert f.integer(1337, 5) == b"\x1f\x9a\x0a"  # RFC 7541, C.1.2
    assert f.string(b"abc") == b"\x03abc"


WRONG = [
    ("no preface", [b"GET / HTTP/1.1\r\nHost: e\r\n\r\n"]),
    # Four frames of 16,384 bytes are one byte more than the window of 65,535.
    ("beyond the window, by 1 ", [f.PREFACE, f.headers(1, f.POST), *[f.data(1, b"x" * 16384)] * 4]),
    ("where 16384 are allowed", [f.PREFACE, f.raw(f.DATA, 0, 1, b"x" * 16385)]),
    ("interrupted", [f.PREFACE, f.headers(1, whole=False), f.ping()]),
    ("stream 1 after 3", [f.PREFACE, f.headers(3), f.headers(1)]),
    ("stream 2", [f.PREFACE, f.headers(2)]),
    ("that it has ended", [f.PREFACE, f.headers(1, end=True), f.data(1, b"x")]),
    ("that it has ended", [f.PREFACE, f.headers(1), f.rst(1), f.headers(1, end=True)]),
    ("without HEADERS", [f.PREFACE, f.data(1, b"x")]),
    ("cannot be decoded", [f.PREFACE, f.headers(1, b"\xff\xff\xff\xff")]),
    ("with capitals", [f.PREFACE, f.headers(1, (*f.GET, (b"X-A", b"b")))]),
    ("SETTINGS that are none", [f.PREFACE, f.raw(f.SETTINGS, 0, 0, b"12345")]),
    ("nobody has sent", [f.PREFACE, f.settings_ack()]),
    ("WINDOW_UPDATE that is none", [f.PREFACE, f.window(0, 0)]),
    ("more padding", [f.PREFACE, f.headers(1), f.raw(f.DATA, f.PADDED, 1, b"\x05abc")]),
]


@pytest.mark.parametrize(("why", "said"), WRONG, ids=[why for why, _ in WRONG])
def test_what_no_side_may_send_is_told(why: str, said: list[bytes]) -> None:
    reader = Reader(of_client=True)
    with pytest.raises(ProtocolBroken, match=why):
        reader.feed(b"".join(said))


def test_a_smaller_window_holds_from_its_ack_on() -> None:
    server = Server(settings=f.settings(INITIAL_WINDOW_SIZE=2))
    server.begins()
    server.hears(f.PREFACE + f.settings() + f.headers(1, f.POST) + f.data(1, b"abc"))  # it cannot know yet
    with pytest.raises(ProtocolBroken, match="by 2 bytes"):
        server.hears(f.settings_ack() + f.data(1, b"d"))


def test_rows() -> None:
    peer = Client()
    peer.hears(f.settings(MAX_FRAME_SIZE=20000) + f.answer(1, b"x", "x-b: a b") + f.goaway(1, "ENHANCE_YOUR_CALM", b"why"))
    assert peer.found("HEADERS 1 x-b=a%20b !end") is not None
    with pytest.raises(AssertionError, match="'DATA 3' did not come"):
        peer.sees("DATA 3")
    peer.sees("DATA 1 end length=1", "GOAWAY last=1 code=NO_ERROR|ENHANCE_YOUR_CALM")
    peer.has_seen_all()
    assert peer.count("SETTINGS MAX_FRAME_SIZE=20000") == 1
    peer.hears(f.rst(3))
    with pytest.raises(AssertionError, match="RST_STREAM 3 code=CANCEL"):
        peer.has_seen_all()


def test_over_a_socket() -> None:
    ours, theirs = socket.create_server(("127.0.0.1", 0)), None
    with ours:
        peer = OverSocket(Client(), socket.create_connection(ours.getsockname()))
        theirs, _ = ours.accept()
        with theirs, peer:
            server = Server()
            theirs.sendall(server.begins())
            peer.begins(wait=False).says(f.request(1))
            peer.until("SETTINGS !ack")
            while not server.streams():
                theirs.sendall(server.hears(theirs.recv(65536)))
            theirs.sendall(server.says(f.answer(1, b"ok")))
            assert peer.until("DATA 1 end") is not None
            theirs.close()
            assert peer.until("DATA", 1.0) is None
            assert peer.peer.ended in ("fin", "reset")


async def test_on_a_loop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client, server = OnLoop(Client(), ours).begins(), OnLoop(Server(), theirs).begins()
        await client.sees("SETTINGS !ack")
        await server.sees("SETTINGS !ack", "SETTINGS ack")
        client.says(f.request(1, b"body"))
        await server.sees("HEADERS 1", "DATA 1 end length=4")
        server.says(f.answer(1))
        await client.sees("HEADERS 1 end :status=200")
        theirs.close()
        assert await client.ended() == "fin"
        with pytest.raises(AssertionError, match="'DATA' did not come"):
            client.peer.sees("DATA")
