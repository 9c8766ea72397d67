"""CASES G8 to G12: what an engine of HTTP/2 does wrong, by the sections of RFC 9113 and RFC 7541."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.net.h2_link import MOST_CONTINUATIONS
from fastgw.net.h2_upstream import MAX_INTERIM
from fastgw.protocol.h2.budget import GLITCHES, MOST_EMPTY, PINGS
from fastgw.protocol.h2.frames import name_of
from tests.conversations.h2_row import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    H2Talk,
    broke_off,
    frame,
    h2,
    streaming,
)
from tests.support.byhand.h2 import JSON, SSE, H2Peer
from tests.support.requests import chat
from tests.support.scripts import ANSWER, DONE, EVENT


def _long_block(peer: H2Peer, size: int) -> bytes:
    return peer.block([(b":status", b"200"), *[(b"x-%d" % at, b"v" * 1000) for at in range(size // 1000)]])


class TestG8:
    """The connection ends with this code, little is held of what came, and those on it are told or asked elsewhere."""

    @staticmethod
    def _ends(say: H2Talk, code: int) -> None:
        peer = say.engine.peers[0].look()
        assert peer.goaway == code
        assert peer.wire.closed

    def test_G8_continuation_without_end(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.peer.says(frame(1, 0, 1, b""))
            for _ in range(MOST_CONTINUATIONS + 1):
                say.peer.says(frame(9, 0, 1, b""))
            self._ends(say, ENHANCE_YOUR_CALM)
            client.sees(502)

    def test_G8_a_field_block_that_does_not_end(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.peer.says(frame(1, 0, 1, bytes(16384)))
            for _ in range(4):
                if not say.peer.wire.closed:
                    say.peer.says(frame(9, 0, 1, bytes(16384)))
            self._ends(say, ENHANCE_YOUR_CALM)
            client.sees(502)

    @pytest.mark.parametrize("behind", [False, True])
    def test_G8_a_field_section_that_is_too_long(self, behind: bool) -> None:
        """Of a head or of trailers. It is its stream's alone: without a table nothing that was not read is missed."""
        with h2() as say:
            [other] = streaming(say)
            client = say.talk.client().says(chat(stream=behind))
            if behind:
                say.last.begins(SSE).says(EVENT)
            block = _long_block(say.peer, 66_000)[behind:]
            parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
            say.peer.says(frame(1, int(behind), 3, parts[0]) + b"".join(frame(9, 0, 3, part) for part in parts[1:-1]))
            say.peer.says(frame(9, 4, 3, parts[-1]))
            if behind:
                broke_off(say.talk, client)
            else:
                client.sees(502)
            assert say.peer.last.reset == PROTOCOL_ERROR
            say.asked[0].says(DONE, last=True)
            other.sees(200)

    def test_G8_a_long_one_that_is_allowed(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            block = _long_block(say.peer, 40_000)
            parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
            say.peer.says(frame(1, 0, 1, parts[0]) + b"".join(frame(9, 0, 1, part) for part in parts[1:-1]))
            say.peer.says(frame(9, 4, 1, parts[-1]) + say.peer.data(1, ANSWER, last=True))
            assert len(client.sees(200).header("x-3") or "") == 1000

    def test_G8_an_hpack_bomb(self) -> None:
        """A table that says much in little: there is no table. And what the static one says is counted."""
        with h2() as say:
            client = say.talk.client().says(chat())
            say.peer.says(frame(1, 4, 1, b"\x88" + b"\x90" * 2000))
            client.sees(502)
            assert say.peer.last.reset == PROTOCOL_ERROR

    @pytest.mark.parametrize("block", [
        b"\x3f\xe1\x1f\x88",  # a table of 4,096 bytes: ours has none (RFC 7541 §4.2, §6.3)
        b"\x88\x20",  # an update behind a field
        b"\xbe",  # an entry of the dynamic table
        b"\x80",  # the entry 0
        b"\xff\xff\xff\xff\xff\xff\xff\x0f",  # an integer without end (§5.1)
        b"\x88\x00\x05ab",  # a string that is cut off
        b"\x88\x00\x81\xff\x00",  # not Huffman's (§5.2)
        b"\x88\x40",
    ])  # fmt: skip
    def test_G8_what_is_no_field_block(self, block: bytes) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.peer.says(frame(1, 4, 1, block))
            self._ends(say, COMPRESSION_ERROR)
            client.sees(502)

    def test_G8_streams_fail_over_by_policy(self) -> None:
        with h2(2, policy="ordered") as say:
            client = say.talk.client().says(chat())
            say.peer.says(frame(1, 4, 1, b"\xbe"))
            say.talk.passes(1.0)
            say.talk.engines[1].last.answers()
            client.sees(200)


class TestG9:
    def test_G9_interim_answers_without_end(self) -> None:
        with h2() as say:
            [other] = streaming(say)
            client = say.talk.client().says(chat())
            asked = say.last
            data = say.peer.head(asked.number, 103, [(b"link", b"</a>")])
            say.peer.says(data * MAX_INTERIM)
            assert client.waits
            say.peer.says(data * 10_000)
            client.sees(502, "bad_gateway")
            assert say.peer.last.reset == PROTOCOL_ERROR
            say.asked[0].says(DONE, last=True)
            other.sees(200)

    @pytest.mark.parametrize(("data", "count"), [
        (frame(6, 0, 0, b"12345678"), PINGS),
        (frame(4, 0, 0), PINGS),
        (frame(2, 0, 1, bytes(5)), GLITCHES),
        (frame(0xA, 0, 0, b"alt"), GLITCHES),
        (frame(0xFE, 0, 1, b""), GLITCHES),
        (frame(0, 0, 1), MOST_EMPTY),
        (frame(8, 0, 0, (1).to_bytes(4, "big")), 60),
    ], ids=["ping", "settings", "priority", "altsvc", "unknown", "empty data", "window update"])  # fmt: skip
    def test_G9_floods(self, data: bytes, count: int) -> None:
        """What is within the budget passes; a flood ends the connection."""
        with h2() as say:
            [client] = streaming(say)
            say.peer.says(data * (count // 2))
            assert not say.peer.wire.closed
            say.asked[0].says(EVENT)
            say.peer.says(data * (count + 20))
            peer = say.engine.peers[0].look()
            assert peer.goaway == ENHANCE_YOUR_CALM
            assert peer.wire.closed
            assert sum(map(len, peer.wire.writes)) < 20_000
            broke_off(say.talk, client)

    def test_G9_a_budget_fills_again(self) -> None:
        with h2() as say:
            [client] = streaming(say)
            for _ in range(5):
                say.peer.says(frame(6, 0, 0, b"12345678") * (PINGS // 2))
                say.talk.passes(PINGS / 2 / 10 + 0.1)
            say.asked[0].says(DONE, last=True)
            client.sees(200)


class TestG10:
    """What breaks the protocol for all ends the connection; what does for one stream ends that stream."""

    @pytest.mark.parametrize(("data", "code"), [
        (frame(0, 0, 1, bytes(16385)), FRAME_SIZE_ERROR),  # §4.2
        (frame(0, 0, 0, b"x"), PROTOCOL_ERROR),  # §6.1
        (frame(0, 0, 99, b"x"), PROTOCOL_ERROR),  # §5.1: idle
        (frame(0, 0, 2, b"x"), PROTOCOL_ERROR),
        (frame(0, 8, 1, b"\x05abc"), PROTOCOL_ERROR),  # §6.1: padding
        (frame(1, 4, 0, b"\x88"), PROTOCOL_ERROR),  # §6.2
        (frame(1, 4, 2, b"\x88"), PROTOCOL_ERROR),  # §5.1.1: nobody pushes
        (frame(1, 4, 99, b"\x88"), PROTOCOL_ERROR),
        (frame(1, 12, 1, b"\x09\x88"), PROTOCOL_ERROR),
        (frame(1, 0x24, 1, b"\x88"), FRAME_SIZE_ERROR),
        (frame(1, 0, 1, b"\x88") + frame(6, 0, 0, bytes(8)), PROTOCOL_ERROR),  # §6.10
        (frame(1, 0, 1, b"\x88") + frame(0, 0, 1, b"x"), PROTOCOL_ERROR),
        (frame(1, 0, 1, b"\x88") + frame(9, 4, 3, b""), PROTOCOL_ERROR),
        (frame(9, 4, 1, b""), PROTOCOL_ERROR),
        (frame(3, 0, 0, bytes(4)), PROTOCOL_ERROR),  # §6.4
        (frame(3, 0, 99, bytes(4)), PROTOCOL_ERROR),
        (frame(3, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
        (frame(4, 0, 1), PROTOCOL_ERROR),  # §6.5
        (frame(4, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
        (frame(4, 1, 0, bytes(6)), FRAME_SIZE_ERROR),
        (frame(4, 0, 0, b"\x00\x02\x00\x00\x00\x02"), PROTOCOL_ERROR),
        (frame(4, 0, 0, b"\x00\x04\x80\x00\x00\x00"), FLOW_CONTROL_ERROR),
        (frame(4, 0, 0, b"\x00\x05\x00\x00\x00\x01"), PROTOCOL_ERROR),
        (frame(5, 4, 1, bytes(5)), PROTOCOL_ERROR),  # §6.6, §8.4
        (frame(6, 0, 1, bytes(8)), PROTOCOL_ERROR),  # §6.7
        (frame(6, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(7, 0, 1, bytes(8)), PROTOCOL_ERROR),  # §6.8
        (frame(7, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(8, 0, 0, bytes(3)), FRAME_SIZE_ERROR),  # §6.9
        (frame(8, 0, 0, bytes(4)), PROTOCOL_ERROR),
        (frame(8, 0, 0, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),
        (frame(8, 0, 99, b"\x00\x00\x00\x01"), PROTOCOL_ERROR),
    ])  # fmt: skip
    def test_G10_of_all(self, data: bytes, code: int) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            first = say.peer
            first.says(data)
            assert first.look().goaway == code
            assert first.wire.closed
            client.sees(502, "bad_gateway")
            assert f"before a response ({name_of(code)}: " in say.talk.records[-1]["detail"]
            after = say.talk.client().says(chat())
            say.last.answers()
            after.sees(200)

    @pytest.mark.parametrize("block", [
        frame(1, 0, 3, b"x" * 16384) + frame(9, 0, 3, b"x" * 16384) * 4,
        frame(1, 0, 3, b"\x88") + frame(9, 0, 3, b"x") * (MOST_CONTINUATIONS + 1),
    ], ids=["bytes", "frames"])  # fmt: skip
    def test_G10_a_head_that_does_not_fit(self, block: bytes) -> None:
        """Who is to blame is said in the log and in the records; whoever the engine had not been heard of for goes again."""
        with h2() as say:
            done = say.talk.client().says(chat())
            say.last.answers()
            done.sees(200)
            guilty = say.talk.client().says(chat())
            say.peer.says(block)
            assert say.peer is not say.engine.peers[0]
            assert say.engine.peers[0].look().goaway == ENHANCE_YOUR_CALM
            assert len(say.asked) == 3, "the idle connection might have ended by itself"
            [other] = streaming(say)
            say.peer.says(block.replace(b"\0\0\0\3", b"\0\0\0\1"))
            guilty.sees(502, "bad_gateway")
            broke_off(say.talk, other)
            details = [record["detail"] for record in say.talk.records if record["status"] != 200 or record["outcome"] != "ok"]
            assert len(details) == 2
            for detail in details:
                assert "ENHANCE_YOUR_CALM: a header block of more than 65536 bytes, or than 9 frames" in detail
            warned = [fields["reason"] for _, line, fields in say.talk.events.lines if line == "engine broke HTTP/2"]
            assert len(warned) == 2
            assert all(reason in details[at] for at, reason in enumerate(warned))

    @pytest.mark.parametrize(("data", "code"), [
        (frame(0, 0, 3, b"x"), PROTOCOL_ERROR),  # DATA before a head (§8.1)
        (frame(8, 0, 3, bytes(4)), PROTOCOL_ERROR),  # §6.9
        (frame(8, 0, 3, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR),  # §6.9.1
    ])  # fmt: skip
    def test_G10_of_one(self, data: bytes, code: int) -> None:
        self._one(data, code)

    @staticmethod
    def _one(data: bytes, code: int) -> None:
        with h2() as say:
            [other] = streaming(say)
            client = say.talk.client().says(chat())
            say.peer.says(data)
            client.sees(502, "bad_gateway")
            assert say.peer.last.reset == code
            say.asked[0].says(DONE, last=True)
            other.sees(200)

    @pytest.mark.parametrize("fields", [
        [],  # §8.3.2: no status
        [(b"content-type", b"a/b")],
        [(b":status", b"20")],
        [(b":status", b"2000")],
        [(b":status", b"abc")],
        [(b":status", b"099")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b"x-a", b"1"), (b":status", b"200")],
        [(b":status", b"200"), (b"X-Upper", b"1")],  # §8.2.1
        [(b":status", b"200"), (b"x y", b"1")],
        [(b":status", b"200"), (b"", b"1")],
        [(b":status", b"200"), (b"x-a", b"1\r\nx-b: 2")],
        [(b":status", b"200"), (b"x-a", b"1\x00")],
        [(b":status", b"200"), (b"x-a", b" 1")],
        [(b":status", b"200"), (b"x-a", b"1\t")],
        [(b":status", b"200"), (b"connection", b"close")],  # §8.2.2
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
        [(b":status", b"200"), (b"keep-alive", b"timeout=5")],
        [(b":status", b"200"), (b"proxy-connection", b"close")],
        [(b":status", b"200"), (b"upgrade", b"h2c")],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")],
        [(b":status", b"200"), (b"content-length", b"+5")],
        [(b":status", b"101")],  # §8.6
    ])  # fmt: skip
    def test_G10_heads_that_are_none(self, fields: list[tuple[bytes, bytes]]) -> None:
        with h2() as say:
            block = say.peer.block(fields) if say.engine.peers else b""
            client = say.talk.client().says(chat())
            block = say.peer.block(fields)
            say.peer.says(frame(1, 4, 1, block))
            client.sees(502, "bad_gateway")
            assert say.peer.last.reset == PROTOCOL_ERROR
            assert not say.peer.wire.closed

    @pytest.mark.parametrize(("length", "pieces"), [(5, [b"1234"]), (5, [b"12", b"3"]), (3, [b"12", b"34"]), (3, [b"1234"])])
    def test_G10_a_body_of_another_length(self, length: int, pieces: list[bytes]) -> None:
        """RFC 9113 §8.1.1. Its client must not take it for whole, and the others do not notice."""
        with h2() as say:
            [other] = streaming(say)
            client = say.talk.client().says(chat())
            asked = say.last.begins([*JSON, (b"content-length", b"%d" % length)])
            asked.says(*pieces, last=True)
            answer = client.seen
            if sum(map(len, pieces)) < length:
                assert not answer.complete
                assert client.closed == "reset"
            else:
                assert (answer.complete, answer.body) == (True, b"".join(pieces)[:length])
            say.asked[0].says(DONE, last=True)
            other.sees(200)

    def test_G10_an_end_where_a_body_was_announced(self) -> None:
        with h2() as say:
            client = say.talk.client().says(chat())
            say.last.begins([*JSON, (b"content-length", b"5")], last=True)
            client.sees(502, "bad_gateway")

    def test_G10_fields_in_the_middle_of_a_body(self) -> None:
        with h2() as say:
            [client] = streaming(say)
            say.peer.says(frame(1, 4, 1, b"\x88"))
            broke_off(say.talk, client)
            assert say.peer.last.reset == PROTOCOL_ERROR

    def test_G10_trailers_with_a_status(self) -> None:
        with h2() as say:
            [client] = streaming(say)
            say.peer.says(frame(1, 5, 1, b"\x88"))
            broke_off(say.talk, client)

    def test_G10_more_than_the_window(self) -> None:
        with h2() as say:
            [client] = streaming(say)
            client.takes = 0
            asked = say.last
            for _ in range(9):
                say.peer.says(say.peer.data(asked.number, b"data: " + b"x" * 8000 + b"\n\n"))
            assert say.peer.last.reset == FLOW_CONTROL_ERROR
            client.drains()
            assert not client.seen.complete

    def test_G10_what_is_not_known_is_passed_over(self) -> None:
        with h2() as say:
            [client] = streaming(say)
            setting = frame(4, 0, 0, b"\xab\xcd\x00\x00\x00\x01")
            say.peer.says(frame(0xAB, 0xFF, 0, b"what") + frame(0x10, 0, 1, b"u=1") + setting)
            say.asked[0].says(DONE, last=True)
            client.sees(200)


class TestG12:
    @pytest.mark.parametrize("said", [
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"HTTP/1.1", b"SSH-2.0-x\r\n", frame(6, 0, 0, bytes(8)), frame(4, 1, 0),
    ])  # fmt: skip
    @pytest.mark.parametrize("closes", [False, True])
    def test_G12_one_that_does_not_speak_it_is_told_so(self, said: bytes, closes: bool) -> None:
        """(Where the setting says that it does. What `auto` makes of it is below.)"""
        with h2(greeting={}) as say:
            say.engine.greeting = None
            client = say.talk.client().says(chat())
            say.peer.says(said)
            if closes and not say.peer.wire.closed:
                say.peer.closes()
            say.talk.passes(5.2)
            assert client.seen.status in (502, 504)
            assert say.peer.asked == []

    def test_G12_one_that_says_nothing(self) -> None:
        with h2() as say:
            say.engine.greeting = None
            client = say.talk.client().says(chat())
            say.talk.passes(5.2)
            assert client.seen.status in (502, 504)
            assert say.peer.wire.closed

    @pytest.mark.parametrize("goes", ["fin", "reset", "silent"])
    def test_G12_nothing_said_is_no_word_about_the_protocol(self, goes: Any) -> None:
        """An engine that ends, or begins, behind somebody who takes connections; or one that is busy."""
        with h2() as say:
            say.engine.engine.protocol = "auto"
            say.engine.greeting = None
            client = say.talk.client().says(chat())
            say.engine.peers[0].acks = False
            if goes == "silent":
                say.talk.passes(5.2)
            else:
                say.peer.closes(goes)
            assert client.seen.status == (504 if goes == "silent" else 502)
            assert (say.engine.engine.h2, say.engine.dials_h1, say.engine.engine.failures_total) == (True, 0, 1)
            say.engine.greeting = {}
            client = say.talk.client().says(chat())
            say.last.answers()
            client.sees(200)

    @pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"HTTP"])
    def test_G12_another_protocol_is(self, said: bytes) -> None:
        with h2() as say:
            say.engine.engine.protocol = "auto"
            say.engine.greeting = None
            say.talk.client().says(chat())
            say.peer.says(said)
            if not say.peer.wire.closed:
                say.peer.closes()
            assert (say.engine.engine.h2, say.engine.dials_h1) == (False, 1)

    def test_G12_refused(self) -> None:
        with h2() as say:
            say.engine.dial = "refused"
            client = say.talk.client().says(chat())
            client.sees(502, "bad_gateway")
