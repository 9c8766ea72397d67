"""Heads out of field blocks: the same as HTTP/1 has them, and what is remembered of them."""

from __future__ import annotations

import contextlib

import hpack
import pytest

from fastgw.accel.frames import text
from fastgw.protocol.h2.heads import MOST_KNOWN_FIELDS, Malformed, response_head, trailer_lines
from fastgw.protocol.http1.client import parse_response

FIELDS = [(b"content-type", b"application/json"), (b"date", b"Mon, 30 Nov 2026 00:32:40 GMT"), (b"x-own", b"a b")]


def block(fields: list[tuple[bytes, bytes]], status: bytes = b"200", packed: bool = True) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode([(b":status", status), *fields], huffman=packed)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [0, 7, 12345])
def test_it_is_the_head_that_http1_would_have(packed: bool, length: int) -> None:
    told = [*FIELDS, (b"content-length", b"%d" % length)]
    lines = b"".join(b"\r\n%b: %b" % one for one in told)
    assert response_head(block(told, packed=packed)) == parse_response(b"HTTP/1.1 200 OK" + lines)


def test_what_is_an_engines_and_what_is_ours_is_judged_as_ever() -> None:
    head = response_head(block([*FIELDS, (b"x-request-id", b"theirs"), (b"access-control-allow-origin", b"*")]))
    assert b"theirs" not in head.forward
    assert b"access-control" not in head.forward
    assert head.get(b"x-own") == b"a b"


def test_a_stream_is_known_for_one() -> None:
    assert response_head(block([(b"content-type", b"text/event-stream; charset=utf-8")])).sse


def test_a_head_that_came_before_is_the_same_object_unless_it_has_a_secret() -> None:
    same = block(FIELDS)
    assert response_head(same) is response_head(bytes(bytearray(same)))
    secret = block([*FIELDS, (b"set-cookie", b"session=1")])
    assert response_head(secret) is not response_head(bytes(bytearray(secret)))


def told(length: bytes, request_id: bytes, lengths: bytes = b"") -> bytes:
    """An answer as a runner sends it: its own length and id, in places of their own; ``lengths``: another field."""
    parts = [b"\x88\x0f\x10", text(b"application/json"), b"\x0f\x0d", text(length), lengths]
    return b"".join((*parts, b"\x00\x0cx-request-id", text(request_id), b"\x00\x05x-own", text(b"a b")))


def test_answers_that_differ_in_length_and_id_are_one_head() -> None:
    first = response_head(told(b"7", b"id-0"))
    for number in range(20):
        length = 10**number // 10
        found = response_head(told(b"%d" % length, b"id-%d" % number))
        assert found == parse_response(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-own: a b" % length
        )
        # (That it was known again shows in what it shares: all but the length.)
        assert (found.forward is first.forward) == (number < 19)
    assert response_head(told(b"7", b"id-99")) is first
    assert first.content_length == 7


@pytest.mark.parametrize(
    "wrong",
    [
        told(b"5x", b"a"),
        told(b"", b"a"),
        told(b"-5", b"a"),
        told(b"7", b"a\x00"),
        told(b"7", b"a "),
        told(b"7", b"a", b"\x0f\x0d\x015"),
        told(b"5", b"a", b"\x00\x0econtent-length\x017"),
        told(b"7", b"a")[1:] + b"\x88",
    ],
)
def test_what_is_wrong_with_one_of_its_own_is_no_less_wrong_behind_one_that_was_good(wrong: bytes) -> None:
    response_head(told(b"7", b"a"))
    for good in (b"\x0f\x0d\x017", b"\x00\x0econtent-length\x017"):
        with contextlib.suppress(Malformed):
            response_head(told(b"7", b"a", good))
    with pytest.raises(Malformed):
        response_head(wrong)


def test_what_is_remembered_is_bounded() -> None:
    for length in range(MOST_KNOWN_FIELDS + 100):
        assert response_head(block([(b"content-length", b"%d" % length)], packed=False)).content_length == length
    for length in range(100):
        assert response_head(block([(b"content-length", b"%d" % length)], packed=False)).content_length == length


def test_trailers() -> None:
    encoder = hpack.Encoder()
    assert trailer_lines(encoder.encode([(b"grpc-status", b"0"), (b"x-a", b"b")])) == b"grpc-status: 0\r\nx-a: b\r\n"
    for wrong in ([(b":status", b"200")], [(b"X", b"1")], [(b"connection", b"close")]):
        with pytest.raises(Malformed):
            trailer_lines(encoder.encode(wrong))

