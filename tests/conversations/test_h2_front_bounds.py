"""What a client of HTTP/2 may leave half done, and what it may have the gateway hold (CASES B, H)."""

from __future__ import annotations

from typing import ClassVar

import pytest

from fastgw.net.h1_states import DISCARD_BYTES
from fastgw.net.h2_arrival import MOST_LIMBO
from fastgw.net.h2_client import WINDOW_BYTES
from fastgw.net.h2_connection import UNANSWERED_S
from tests.support.byhand.h2_front import H2HandClient, h2_client
from tests.support.conversation import answering, conversation, kills
from tests.support.h2 import frames as f
from tests.support.requests import chat_body
from tests.support.scripts import EVENT, SSE_HEAD, chunk

POST = (
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/v1/chat/completions"), (b":authority", b"localhost"),
    (b"content-type", b"application/json"),
)  # fmt: skip
HEAD_S = 4.0


def asks(stream: int, body: bytes, *, end: bool = True, path: bytes = b"") -> bytes:
    head = list(POST)
    if path:
        head[2], head[4] = (b":path", path), (b"content-type", b"application/octet-stream")
    return f.headers(stream, head) + (f.data(stream, body, end=end) if body or end else b"")


def half_a_head() -> bytes:
    return f.headers(3, POST)[:20]


def half_a_block() -> bytes:
    return f.headers(3, POST, whole=False)


def half_a_ping() -> bytes:
    return f.ping()[:12]


HALVES = [half_a_head, half_a_block, half_a_ping]


class TestHalves:
    """One that is slow has the time of a head, whatever else goes on on its connection."""

    @pytest.mark.parametrize("half", HALVES)
    @pytest.mark.parametrize("busy", [True, False])
    def test_of_a_frame_or_a_block(self, half: object, busy: bool) -> None:
        with conversation(head_timeout_s=HEAD_S) as talk, h2_client(talk) as client:
            if busy:
                client.says(asks(1, chat_body()))
            client.sends(half())  # type: ignore[operator]
            client.passes(HEAD_S * 0.9)
            assert not client.ended
            client.passes(HEAD_S * 0.5)
            client.sees("GOAWAY")
            assert client.ended

    @pytest.mark.parametrize("half", HALVES)
    def test_more_of_the_same_is_no_new_beginning(self, half: object) -> None:
        with conversation(head_timeout_s=HEAD_S) as talk, h2_client(talk) as client:
            data = half()  # type: ignore[operator]
            client.says(asks(1, chat_body()))
            client.sends(data)
            for _ in range(8):
                client.passes(HEAD_S / 8)
                client.sends(f.continuation(3, b"", whole=False)[: 9 if half is half_a_block else 0])
            client.passes(HEAD_S / 4)
            assert client.ended

    def test_who_goes_on_is_not_ended(self) -> None:
        """Reads that end within a frame are usual: each is another one."""
        with conversation(head_timeout_s=HEAD_S) as talk, h2_client(talk) as client:
            client.says(asks(1, b"{", end=False))
            body = f.data(1, b"x" * 3000) * 12
            for at in range(0, len(body), 3003):
                client.sends(body[at : at + 3003])
                client.passes(HEAD_S / 4)
            assert not client.ended


def test_who_does_not_answer_the_PING_of_a_farewell_is_not_waited_for() -> None:
    with conversation() as talk, h2_client(talk, acks=False) as client:
        client.says(asks(1, chat_body()))
        client.connection.close_idle()
        client.sees("GOAWAY last=2147483647")
        client.says(asks(3, chat_body()))
        assert talk.asked == [2]
        client.passes(UNANSWERED_S * 3)
        client.sees("GOAWAY last=3")
        client.says(asks(5, chat_body()))
        assert talk.asked == [2]


@pytest.mark.parametrize("more", [
    ((b"x-long", b"0" * 3000),) * 25, ((b"x-a", b"b"),) * 250, ((b"x-long", b"v" * 3000),) * 12,
], ids=["more than is announced", "fields", "more than the setting"])  # fmt: skip
def test_a_head_that_is_too_long_is_its_request_s_alone(more: tuple[tuple[bytes, bytes], ...]) -> None:
    with conversation() as talk, h2_client(talk) as client:
        talk.plays(answering(SSE_HEAD + chunk(EVENT)))
        client.says(asks(1, chat_body(stream=True)))
        client.says(f.continued(3, (*POST, *more), 4, end=True))
        client.sees("HEADERS 3 :status=431")
        client.says(asks(5, chat_body(stream=True)))
        client.sees("DATA 5")
        assert not client.ended
        assert talk.asked == [2]


@pytest.mark.parametrize("flood", [
    f.headers(3, POST, whole=False) + f.continuation(3, b"", whole=False) * 9,
    f.continued(3, (*POST, *((b"x-long", b"v" * 16000),) * 5), 8),
    f.continued(3, ((b"x-a", b"b"),) * 1001, 1),
], ids=["frames", "bytes", "fields"])  # fmt: skip
def test_one_without_end_is_its_connection_s_end(flood: bytes) -> None:
    with conversation() as talk, h2_client(talk) as client:
        client.says(asks(1, chat_body()))
        client.says(flood)
        client.sees("GOAWAY code=ENHANCE_YOUR_CALM")
        assert client.ended


class TestABrokenAnswer:
    """Its error event arrives: clients throw away what they have not passed on when a reset comes in one read with it."""

    def _breaks(self, client: H2HandClient, *streams: int) -> None:
        talk = client.talk
        talk.plays(answering(SSE_HEAD + chunk(EVENT)))
        client.says(*[asks(stream, chat_body(stream=True)) for stream in streams])
        for asked in talk.engines[0].asked:
            kills(asked)
        client.hears()
        for stream in streams:
            assert b'"error"' in client.peer.body(stream)

    def test_is_reset_once_the_client_has_read_what_was_said_before(self) -> None:
        with conversation() as talk, h2_client(talk, acks=False) as client:
            self._breaks(client, 1, 3)
            assert not client.peer.count("RST_STREAM")
            client.says(f.ping(client.peer.sees("PING").payload, ack=True))
            client.sees("RST_STREAM 1 code=INTERNAL_ERROR")
            assert not client.peer.count("RST_STREAM 3"), "its own words are behind another PING"
            client.says(f.ping(client.peer.sees("PING").payload, ack=True))
            client.sees("RST_STREAM 3 code=INTERNAL_ERROR")
            assert not client.connection.link.streams

    def test_is_reset_all_the_same_when_it_does_not_answer(self) -> None:
        with conversation() as talk, h2_client(talk, acks=False) as client:
            self._breaks(client, 1)
            client.passes(UNANSWERED_S * 3)
            client.sees("RST_STREAM 1 code=INTERNAL_ERROR")
            assert not client.connection.link.streams
            assert not client.ended


class TestAnsweredBeforeItsBodyHasCome:
    """A refusal arrives, whatever is still to come: some send all before they read, some lose what a reset comes with."""

    def _asks(self, client: H2HandClient, length: int | None) -> None:
        more = [] if length is None else [(b"content-length", b"%d" % length)]
        client.says(f.headers(1, [*POST[:2], (b":path", b"/v1/none"), *POST[3:], *more]) + f.data(1, b"x" * 1000))
        client.sees("HEADERS 1 :status=404", "DATA 1 end")

    def test_a_short_one_gets_its_window_and_is_thrown_away(self) -> None:
        with conversation() as talk, h2_client(talk) as client:
            self._asks(client, 1000 + DISCARD_BYTES)
            left = DISCARD_BYTES
            update = client.sees("WINDOW_UPDATE 1")
            assert 65535 - 1000 + int.from_bytes(update.payload, "big") == left
            while left:
                size = min(left, 16384 * 128)
                client.says(f.data(1, b"x" * 16384) * (size // 16384))
                client.sees("WINDOW_UPDATE 0")
                left -= size
                assert not talk.stats.body_bytes_open
            client.says(f.data(1, b"", end=True))
            client.says(asks(3, chat_body()))
            assert talk.asked == [1]
            assert not client.peer.count("RST_STREAM|GOAWAY")

    @pytest.mark.parametrize("length", [1000 + DISCARD_BYTES + 1, None])
    def test_any_other_is_reset_once_the_client_has_read_the_answer(self, length: int | None) -> None:
        with conversation() as talk, h2_client(talk, acks=False) as client:
            self._asks(client, length)
            assert not client.peer.count("RST_STREAM")
            client.says(f.ping(client.peer.sees("PING").payload, ack=True))
            client.sees("RST_STREAM 1 code=NO_ERROR")

    def test_it_is_reset_all_the_same_where_the_client_does_not_answer(self) -> None:
        """With no other request, too."""
        with conversation() as talk, h2_client(talk, acks=False) as client:
            self._asks(client, None)
            client.passes(UNANSWERED_S * 0.8)
            assert not client.peer.count("RST_STREAM")
            client.passes(UNANSWERED_S * 0.6)
            client.sees("RST_STREAM 1 code=NO_ERROR")
            assert not client.ended

    def test_no_more_are_waited_for_than_so_many(self) -> None:
        """A client that answers no PING, and asks and asks."""
        with conversation(max_body_bytes=1 << 20) as talk, h2_client(talk, acks=False) as client:
            for number in range(1, 2 * (MOST_LIMBO + 40), 2):
                client.says(f.headers(number, [*POST, (b"content-length", b"%d" % (1 << 40))]))
                client.sees(f"HEADERS {number} :status=413")
            assert client.peer.count("RST_STREAM") >= 40
            assert not client.ended

    def test_who_has_ended_it_meanwhile_is_not_reset(self) -> None:
        with conversation() as talk, h2_client(talk, acks=False) as client:
            self._asks(client, None)
            client.says(f.data(1, b"", end=True))
            client.says(f.ping(client.peer.sees("PING").payload, ack=True))
            assert not client.peer.count("RST_STREAM")


class TestHeld:
    """A body that nobody takes: what is on its way comes, counts, and is bounded."""

    UPLOAD = b"/v1/files"
    SETTINGS: ClassVar = {"passthrough_paths": ["/v1/files"], "max_connections": 1}

    def _upload(self, client: H2HandClient, stream: int) -> None:
        client.talk.engines[0].dial = "hangs"
        client.says(asks(stream, b"x" * 16384, end=False, path=self.UPLOAD))

    def test_counts_towards_the_memory_of_all(self) -> None:
        with conversation(**self.SETTINGS) as talk, h2_client(talk) as client:  # type: ignore[arg-type]
            self._upload(client, 1)
            before = talk.stats.body_bytes_open
            assert before
            client.says(*[f.data(1, b"y" * 16000)] * 3)
            [stream] = client.connection.streams()
            assert stream.held
            assert talk.stats.body_bytes_open - before == 48_000
            client.says(f.rst(1))
            assert talk.stats.body_bytes_open == 0

    def test_in_single_bytes_it_is_no_more_than_that(self) -> None:
        with conversation(**self.SETTINGS) as talk, h2_client(talk) as client:  # type: ignore[arg-type]
            self._upload(client, 1)
            for _ in range(50):
                client.says(f.data(1, b"y") * 100)
            [stream] = client.connection.streams()
            assert not stream.pieces
            assert len(stream.by.data) == 5000

    def test_beyond_the_memory_of_all_one_more_comes_again(self) -> None:
        settings = {**self.SETTINGS, "memory_budget_bytes": 1 << 20, "max_body_bytes": 1 << 19}
        with conversation(**settings) as talk, h2_client(talk) as client:  # type: ignore[arg-type]
            for stream in range(1, 41, 2):
                self._upload(client, stream)
            for stream in range(1, 41, 2):
                client.says(f.data(stream, b"y" * 16000), f.data(stream, b"y" * 16000), f.data(stream, b"y" * 16000))
            assert talk.stats.body_bytes_open <= 1 << 20
            refused = client.peer.count("HEADERS :status=503")
            assert 0 < refused < 20

    def test_never_more_than_a_window(self) -> None:
        with conversation(**self.SETTINGS) as talk, h2_client(talk) as client:  # type: ignore[arg-type]
            self._upload(client, 1)
            updates = [one for one in client.peer.seen if one.is_a("WINDOW_UPDATE 1")]
            given = f.WINDOW + sum(int.from_bytes(one.payload, "big") for one in updates)
            assert given <= WINDOW_BYTES
            client.says(*[f.data(1, b"y" * 16000)] * ((given - 16384) // 16000))
            assert not client.peer.count("RST_STREAM")
            assert not client.peer.count("WINDOW_UPDATE 1")
            client.says(*[f.data(1, b"y" * 16000)] * 2)
            client.sees("RST_STREAM 1 code=FLOW_CONTROL_ERROR")
