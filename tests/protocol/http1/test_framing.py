"""The three ways a body can end."""

from __future__ import annotations

import pytest

from fastgw.errors import GatewayError, Source
from fastgw.protocol.http1.framing import ChunkedBody, CloseBody, LengthBody
from tests.protocol.splits import ways


def feed_all(body: ChunkedBody, pieces: list[bytes]) -> None:
    for piece in pieces:
        body.feed(piece)


@pytest.mark.parametrize("tail", [b"", b"x", b"GET / HTTP/1.1\r\n"])
def test_length(tail: bytes) -> None:
    for pieces in ways(b"hello" + tail):
        body = LengthBody(5)
        payload = b"".join(body.feed(piece) for piece in pieces)
        assert (payload, body.done, body.rest, body.left) == (b"hello", True, tail, 0)


def test_length_of_nothing_is_done_at_once() -> None:
    body = LengthBody(0)
    assert body.done
    assert body.feed(b"next") == b""
    assert body.rest == b"next"


def test_length_not_reached() -> None:
    body = LengthBody(5)
    piece = b"hel"
    assert body.feed(piece) is piece
    assert (body.done, body.left, body.rest) == (False, 2, b"")


@pytest.mark.parametrize("tail", [b"", b"x", b"\r\n\r\n"])
def test_chunked(tail: bytes) -> None:
    for pieces in ways(b"3\r\nhel\r\n2\r\nlo\r\n0\r\nX-A: 1\r\n\r\n" + tail):
        body = ChunkedBody()
        payload = b"".join(body.feed(piece) for piece in pieces)
        assert (payload, body.done, body.rest) == (b"hello", True, tail)


@pytest.mark.parametrize("data", [b"z\r\n", b"3\r\nhelp", b"0\r\nX\r\n"])
def test_A9_malformed_chunks_are_the_senders_fault(data: bytes) -> None:
    for pieces in ways(data):
        body = ChunkedBody()
        with pytest.raises(GatewayError) as refusal:
            feed_all(body, pieces)
        assert (refusal.value.kind.name, refusal.value.source) == ("bad_request", Source.CLIENT)
    with pytest.raises(GatewayError) as refusal:
        ChunkedBody("bad_gateway").feed(data)
    assert (refusal.value.kind.name, refusal.value.source) == ("bad_gateway", Source.UPSTREAM)
    assert refusal.value.message is None


@pytest.mark.parametrize(
    "name",
    [b"Content-Length", b"transfer-encoding", b"Host", b"Authorization", b"X-Api-Key", b"Cookie", b"Connection",
        b"X-Forwarded-For", b"x-request-id",
     b"Content-Type", b"Content_Length", b"Trailer", b"TE", b"X-Forwarded-Port"],
)  # fmt: skip
def test_forbidden_trailers(name: bytes) -> None:
    for pieces in ways(b"1\r\na\r\n0\r\nX-A: b\r\n" + name + b": 1\r\n\r\n"):
        body = ChunkedBody()
        with pytest.raises(GatewayError) as refusal:
            feed_all(body, pieces)
        assert refusal.value.kind.name == "bad_request"


def test_until_close() -> None:
    body = CloseBody()
    piece = b"anything"
    assert body.feed(piece) is piece
    assert not body.done
    body.eof()
    assert body.done
