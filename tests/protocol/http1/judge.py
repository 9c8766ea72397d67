"""Judges a request head in every way in which it can arrive, on the fast path and on the complete one."""

from __future__ import annotations

import pytest

from fastgw.accel.heads import RequestHead, scan_request
from fastgw.errors import GatewayError
from fastgw.protocol.http1.server import RequestReader, parse_request
from tests.protocol.splits import ways
from tests.support import heads_model

TRAILING = (b"", b"x", b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n\r\n", b"\x00\n")


def post(*fields: bytes, line: bytes = b"POST /v1/chat/completions HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def read(pieces: list[bytes]) -> tuple[str, RequestHead | None, bytes]:
    """What a reader makes of the pieces: the error's kind or ``ok`` or ``more``, the head, what followed it."""
    reader = RequestReader()
    head = None
    rest = b""
    for piece in pieces:
        if head is not None:
            rest += piece
            continue
        try:
            head = reader.feed(piece)
        except GatewayError as error:
            return error.kind.name, None, b""
        if head is not None:
            rest = reader.rest
            assert not reader.partial
            assert reader.held == 0
    return ("ok" if head is not None else "more"), head, rest


def check(data: bytes, *kinds: str) -> None:
    """``data`` gets one and the same verdict, one of ``kinds``, however it arrives and whatever follows it."""
    expected = read([data])[0]
    assert expected in kinds, (data, expected)
    for tail in TRAILING:
        for pieces in ways(data + tail, splits=16 if tail else 64):
            assert read(pieces)[0] == expected, pieces
    end = data.find(b"\r\n\r\n")
    if end >= 0:
        with pytest.raises(GatewayError) as refusal:
            parse_request(data[:end])
        assert refusal.value.kind.status in {400, 405, 431, 501, 505}
        assert refusal.value.kind.close or refusal.value.kind.status == 405
        assert scan_request(data[:end]) is None, "the fast path must never take what the complete one refuses"
        with pytest.raises(GatewayError):
            heads_model.parse_request(data[:end])


def accept(data: bytes) -> RequestHead:
    """``data`` is one whole head; every way of sending it gives the same one, and what follows is untouched."""
    kind, expected, rest = read([data])
    assert (kind, rest) == ("ok", b"")
    assert expected is not None
    for tail in TRAILING:
        for pieces in ways(data + tail, splits=16 if tail else 64):
            assert read(pieces) == ("ok", expected, tail)
    end = data.index(b"\r\n\r\n", 4)
    start = len(data) - len(data.lstrip(b"\r\n"))
    assert parse_request(data[start:end]) == expected
    assert heads_model.parse_request(data[start:end]) == expected, "httptools reads it otherwise"
    fast = scan_request(data[start:end])
    assert fast is None or fast == expected
    return expected


PLAIN = (
    b"POST /v1/chat/completions?a=b&c HTTP/1.1\r\nHost: api.example:8080\r\nUser-Agent: x/1 (y; z)\r\naccept:*/*\r\n"
    b"Authorization: Bearer sk-1\r\nContent-Type: application/json\r\nX-Custom: \xe9t\xe9\t\r\nContent-Length: 12\r\n\r\n"
)
