"""WebSockets at engines of HTTP/2 (RFC 8441): how they are asked for, what passes, and how they end."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from typing import Any

import pytest
from hyperframe.frame import SettingsFrame

from fastgw.net.h2_stream import WINDOW_BYTES
from fastgw.net.wire import QUEUED
from tests.conversations.h2_row import CANCEL, PROTOCOL_ERROR, REFUSED_STREAM, H2Talk, frame, h2
from tests.support.byhand.client import HandClient
from tests.support.byhand.h2 import JSON, Asked
from tests.support.byhand.h2_front import h2_client
from tests.support.h2 import frames as f
from tests.support.requests import request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
OFFERED = {"max_concurrent_streams": 100, "enable_connect_protocol": 1}
NOT_OFFERED = {"max_concurrent_streams": 100}
HTTP_1_1_REQUIRED = 13
OWNER = "sk-tunnels-0123456789"


def handshake(*more: tuple[str, str], key: str | None = KEY) -> bytes:
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), *more]
    return request("GET", "/v1/realtime?model=m", headers=fields + ([("Sec-WebSocket-Key", key)] if key is not None else []))


@contextmanager
def offered(greeting: dict[str, int] = OFFERED, **settings: Any) -> Iterator[H2Talk]:
    with h2(greeting=greeting, **settings) as say:
        yield say


def opened(say: H2Talk) -> tuple[HandClient, Asked]:
    client = say.talk.client().says(handshake())
    asked = say.last.begins(())
    assert client.seen.status == 101
    return client, asked


class TestAsking:
    def test_it_is_an_extended_connect_without_a_key(self) -> None:
        with offered() as say:
            more = [("Sec-WebSocket-Protocol", "realtime"), ("Sec-WebSocket-Extensions", "permessage-deflate")]
            client = say.talk.client().says(handshake(*more))
            asked = say.last
            first = [b":scheme", b":authority", b":method", b":protocol", b":path"]
            assert asked.names[:5] == first
            pseudo = [asked.fields[name] for name in (b":method", b":protocol", b":scheme", b":path")]
            assert pseudo == [b"CONNECT", b"websocket", b"http", b"/v1/realtime?model=m"]
            own = {name: value for name, value in asked.fields.items() if name.startswith(b"sec-websocket-")}
            assert own == {b"sec-websocket-version": b"13", b"sec-websocket-protocol": b"realtime"}
            assert not {b"upgrade", b"connection", b"content-length"} & set(asked.names)
            assert not asked.whole
            asked.begins([(b"sec-websocket-protocol", b"realtime"), (b"sec-websocket-accept", b"theirs")])
            answer = client.seen
            assert answer.status == 101
            assert (answer.header("sec-websocket-protocol"), answer.header("sec-websocket-accept")) == ("realtime", ACCEPT)
            assert base64.b64decode(ACCEPT) == sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()

    @pytest.mark.parametrize("status", [200, 204, 299])
    def test_every_2xx_agrees(self, status: int) -> None:
        """RFC 9110 section 9.3.6: whatever length it tells."""
        with offered() as say:
            client = say.talk.client().says(handshake())
            say.last.begins([(b"content-length", b"0")] if status == 200 else (), status).says(b"\x81\x01a")
            assert (client.seen.status, bytes(client.passed_on)) == (101, b"\x81\x01a")

    def test_one_that_does_not_offer_it_is_not_asked(self) -> None:
        """Known or not yet: the client is told what could be done, and the engine is none the worse for it."""
        with offered(NOT_OFFERED, cb_failure_threshold=1) as say:
            for _ in range(3):
                say.talk.client().says(handshake()).sees(501, "no_websockets")
            assert say.asked == []
            assert say.engine.dials_h1 == 0
            assert say.engine.engine.breaker.failures == 0

    @pytest.mark.parametrize("known", [False, True])
    def test_http1_is_spoken_for_it_where_that_is_spoken(self, known: bool) -> None:
        with offered(NOT_OFFERED) as say:
            say.engine.engine.protocol = "auto"
            if known:
                say.talk.client().says(request("GET", "/v1/nothing"))
                say.engine.keep_warm()
            client = say.talk.client().says(handshake())
            assert say.asked == []
            assert say.engine.dials_h1 >= 1
            client.sees(503, "engine_busy")  # (there is none, here)

    def test_one_that_wants_http1_for_it_is_believed_and_only_for_that(self) -> None:
        with offered() as say:
            say.engine.engine.protocol = "auto"
            client = say.talk.client().says(handshake())
            say.last.resets(HTTP_1_1_REQUIRED)
            assert say.engine.dials_h1 == 1
            client.sees(503, "engine_busy")
            other = say.talk.client().says(request("GET", "/v1/realtime?model=m"))
            other.sees(400)
            assert say.engine.engine.h2

    def test_one_that_refused_the_stream_is_asked_again(self) -> None:
        with offered() as say:
            client = say.talk.client().says(handshake())
            say.last.resets(REFUSED_STREAM)
            assert len(say.asked) == 2
            say.last.begins(())
            assert client.seen.status == 101

    @pytest.mark.parametrize("status", [400, 403, 500])
    def test_its_refusal_is_passed_on(self, status: int) -> None:
        with offered() as say:
            client = say.talk.client().says(handshake())
            say.last.begins([*JSON, (b"content-length", b"2")], status).says(b"{}", last=True)
            assert client.sees(status).body == b"{}"
            say.peer.look()
            assert say.last.reset == CANCEL  # our side was open still

    def test_a_handshake_without_a_key_is_none(self) -> None:
        with offered() as say:
            say.talk.client().says(handshake(key=None)).sees(400, "bad_request")
            assert say.asked == []

    def test_what_was_offered_is_not_taken_back(self) -> None:
        """RFC 8441 section 3: the connection has broken the protocol, and its sessions end."""
        with offered() as say:
            client, asked = opened(say)
            asked.peer.says(SettingsFrame(settings={8: 0}).serialize())
            assert asked.peer.look().goaway == PROTOCOL_ERROR
            assert client.closed

    def test_one_that_offers_it_later_is_asked_then(self) -> None:
        with offered(NOT_OFFERED) as say:
            say.talk.client().says(handshake()).sees(501)
            say.peer.says(SettingsFrame(settings={8: 1}).serialize())
            opened(say)


class TestPassing:
    def test_bytes_both_ways_and_both_ends(self) -> None:
        with offered() as say:
            client, asked = opened(say)
            client.says(b"\x82\x81mask!")
            say.peer.look()
            assert asked.body == b"\x82\x81mask!"
            asked.says(b"\x82\x01a", b"\x82\x01b")
            assert bytes(client.passed_on) == b"\x82\x01a\x82\x01b"
            asked.says(b"\x88\x00", last=True)
            assert bytes(client.passed_on)[-2:] == b"\x88\x00"
            assert client.closed == "eof"
            say.peer.look()
            assert (asked.whole, asked.reset) == (True, None)
            [record] = say.talk.records
            assert (record["status"], record["outcome"]) == (101, "ok")

    def test_one_that_resets_it_breaks_off(self) -> None:
        with offered() as say:
            client, asked = opened(say)
            asked.resets(CANCEL)
            assert client.closed
            assert say.talk.records[-1]["outcome"] == "truncated"
            assert (say.engine.engine.failures_total, say.engine.engine.truncations_total) == (1, 1)

    def test_but_behind_a_close_that_is_nobodys_loss(self) -> None:
        with offered() as say:
            _, asked = opened(say)
            asked.says(b"\x88\x00")
            asked.resets(CANCEL)
            assert (say.talk.records[-1]["outcome"], say.engine.engine.failures_total) == ("ok", 0)

    @pytest.mark.parametrize(("breaks", "says"), [
        (lambda say: say.last.resets(CANCEL), "127.0.0.1: the stream was reset: CANCEL"),
        (lambda say: say.peer.says(frame(8, 0, 1, bytes(4))), "127.0.0.1: a window of no or of too many bytes"),
        (lambda say: say.peer.goes(0), ""),
        (lambda say: say.peer.closes("reset"), ""),
    ], ids=["stream", "protocol", "goaway", "connection"])  # fmt: skip
    @pytest.mark.parametrize("said", [b"\x82\x01a", b"\x82\x05ab"])
    def test_what_an_engine_breaks_off_does_not_end_in_order(
        self, breaks: Callable[[H2Talk], object], says: str, said: bytes
    ) -> None:
        """Its client is told so by a close (1011); in the middle of a frame by CANCEL, where the end of one side is END_STREAM
        (RFC 8441 section 5)."""
        asks = f.fields(
            ":method: CONNECT", ":protocol: websocket", ":scheme: http", ":path: /v1/realtime?model=m", ":authority: peer",
            "sec-websocket-version: 13",
        )  # fmt: skip
        with offered() as say, h2_client(say.talk) as client:
            client.says(f.headers(1, asks))
            say.last.begins(()).says(said)
            client.sees("HEADERS 1")
            breaks(say)
            client.hears()
            if len(said) == 3:
                client.sees("DATA 1 end")
                assert client.peer.body(1)[3:7] == b"\x88\x20\x03\xf3"
            else:
                client.sees("RST_STREAM 1 code=CANCEL")
                assert client.peer.body(1) == said
            assert say.talk.records[-1]["detail"].replace(":9", "") == says

    def test_a_client_that_leaves_is_an_abort(self) -> None:
        with offered() as say:
            client, asked = opened(say)
            client.leaves()
            say.peer.look()
            assert asked.reset == CANCEL

    def test_what_it_has_used_until_then_stands_in_its_record(self) -> None:
        """It was a session, and its key has paid: one that says nothing of that is no account of it."""
        with offered(api_keys=(OWNER,), daily_token_quota=100) as say:
            client = say.talk.client().says(handshake(("Authorization", f"Bearer {OWNER}")))
            usage = b'{"type":"response.done","response":{"usage":{"input_tokens":3,"output_tokens":4}}}'
            say.last.begins(()).says(bytes((0x81, len(usage))) + usage)
            client.leaves()
            [record] = say.talk.records
            told = [record[name] for name in ("status", "outcome", "prompt_tokens", "completion_tokens")]
            assert told == [101, "client_closed", 3, 4]

    def test_an_engine_that_is_silent_for_too_long(self) -> None:
        with offered(between_bytes_timeout_s=5.0) as say:
            client, asked = opened(say)
            say.talk.passes(4.0)
            asked.says(b"\x89\x00")
            say.talk.passes(4.0)
            assert not client.closed
            say.talk.passes(2.0)
            assert client.closed
            say.peer.look()
            assert asked.reset == CANCEL

    def test_an_engine_that_has_no_room_holds_the_client_and_nobody_else(self) -> None:
        with offered() as say:
            client, asked = opened(say)
            client.says(b"x" * 70_000)
            say.peer.look()
            assert len(asked.body) == 65_535
            assert client.paused
            say.peer.says(_window(0, 100_000) + _window(asked.number, 100_000))
            say.peer.look()
            assert len(asked.body) == 70_000
            assert not client.paused

    def test_a_client_that_has_no_room_holds_the_engine(self) -> None:
        with offered() as say:
            client, asked = opened(say)
            client.takes = QUEUED
            sent = 0
            while sent + 16_000 <= 65_535:
                asked.says(b"y" * 16_000)
                sent += 16_000
            say.peer.look()
            assert asked.credit == 0
            client.drains()
            say.peer.look()
            assert sent <= asked.credit <= WINDOW_BYTES
            assert len(client.passed_on) == sent

    def test_the_client_has_said_its_last_and_still_listens(self) -> None:
        """What comes behind that passes; an engine that does not end it is left."""
        with offered() as say:
            client, asked = opened(say)
            sink = client.sink
            assert sink is not None
            client.says(b"\x88\x80mask")
            sink.on_tunnel_end()
            say.talk.passes(0.0)
            say.peer.look()
            assert (asked.whole, asked.reset, asked.body) == (True, None, b"\x88\x80mask")
            asked.says(b"\x88\x00")
            assert bytes(client.passed_on) == b"\x88\x00"
            assert not client.closed
            asked.says(b"", last=True)
            assert client.closed == "eof"
            assert asked.reset is None

    def test_an_engine_that_does_not_end_it_is_left(self) -> None:
        with offered() as say:
            client, asked = opened(say)
            assert client.sink is not None
            client.sink.on_tunnel_end()
            say.talk.passes(3.0)
            assert client.closed == "eof"
            say.peer.look()
            assert asked.reset == CANCEL

    def test_an_engine_that_has_said_its_close_and_does_not_end_it(self) -> None:
        """Hypercorn waits for our END_STREAM then, and a client of HTTP/1 for the end of its connection (RFC 6455 §7.1.1)."""
        with offered() as say:
            client, asked = opened(say)
            asked.says(b"\x88\x02\x03\xe8")
            client.says(b"\x88\x80mask")
            say.talk.passes(3.0)
            assert client.closed == "eof"
            say.peer.look()
            assert asked.reset == CANCEL

    def test_what_waits_goes_before_the_end(self) -> None:
        with offered() as say:
            client, asked = opened(say)
            client.says(b"x" * 70_000)
            assert client.sink is not None
            client.sink.on_tunnel_end()
            say.talk.passes(0.0)
            say.peer.look()
            assert not asked.whole
            say.peer.says(_window(0, 100_000) + _window(asked.number, 100_000))
            say.peer.look()
            assert (len(asked.body), asked.whole) == (70_000, True)


def _window(number: int, more: int) -> bytes:
    return frame(8, 0, number, more.to_bytes(4, "big"))
