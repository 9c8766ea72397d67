"""A client's chunked body: decoded as any, and what of it is the client's fault."""

from __future__ import annotations

import pytest

from fastgw.errors import GatewayError, Source
from fastgw.protocol.http1.framing import RequestChunks
from tests.protocol.splits import ways


def feed_all(body: RequestChunks, pieces: list[bytes]) -> None:
    for piece in pieces:
        body.feed(piece)


@pytest.mark.parametrize("tail", [b"", b"x", b"\r\n\r\n"])
def test_chunked(tail: bytes) -> None:
    for pieces in ways(b"3\r\nhel\r\n2\r\nlo\r\n0\r\nX-A: 1\r\n\r\n" + tail):
        body = RequestChunks()
        payload = b"".join(body.feed(piece) for piece in pieces)
        assert (payload, body.done, body.rest, body.left) == (b"hello", True, tail, -1)


@pytest.mark.parametrize("data", [b"z\r\n", b"3\r\nhelp", b"0\r\nX\r\n"])
def test_A9_malformed_chunks_are_the_senders_fault(data: bytes) -> None:
    for pieces in ways(data):
        body = RequestChunks()
        with pytest.raises(GatewayError) as refusal:
            feed_all(body, pieces)
        assert (refusal.value.kind.name, refusal.value.source) == ("bad_request", Source.CLIENT)
        assert refusal.value.message == "The chunked body is malformed."


@pytest.mark.parametrize(
    "name",
    [b"Content-Length", b"transfer-encoding", b"Host", b"Authorization", b"X-Api-Key", b"Cookie", b"Connection",
        b"X-Forwarded-For", b"x-request-id",
     b"Content-Type", b"Content_Length", b"Trailer", b"TE", b"X-Forwarded-Port"],
)  # fmt: skip
def test_forbidden_trailers(name: bytes) -> None:
    for pieces in ways(b"1\r\na\r\n0\r\nX-A: b\r\n" + name + b": 1\r\n\r\n"):
        body = RequestChunks()
        with pytest.raises(GatewayError) as refusal:
            feed_all(body, pieces)
        assert (refusal.value.kind.name, refusal.value.detail) == ("bad_request", "forbidden trailer field")
