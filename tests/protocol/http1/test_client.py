"""Response heads: what an engine says is taken apart strictly, in every split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.heads import ResponseHead, scan_response
from fastgw.errors import GatewayError, Source
from fastgw.protocol.http1.client import ResponseReader, parse_response
from tests.protocol.splits import cut, ways
from tests.support import heads_model

TRAILING = (b"", b"{}", b"HTTP/1.1 200 OK\r\n\r\n", b"\x00\n")


def reply(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def read(pieces: list[bytes]) -> tuple[str, ResponseHead | None, bytes]:
    reader = ResponseReader()
    head = None
    rest = b""
    for piece in pieces:
        if head is not None:
            rest += piece
            continue
        try:
            head = reader.feed(piece)
        except GatewayError as error:
            told = (error.source, error.message)
            kind = error.kind.name
        else:
            if head is not None:
                rest = reader.rest
            continue
        assert told == (Source.UPSTREAM, None), "it is the engine's fault, and what it did is for the log"
        return kind, None, b""
    return ("ok" if head is not None else "more"), head, rest


def accept(data: bytes) -> ResponseHead:
    expected = read([data])[1]
    assert expected is not None
    for tail in TRAILING:
        for pieces in ways(data + tail, splits=16):
            assert read(pieces) == ("ok", expected, tail)
    assert parse_response(data[:-4]) == expected
    assert heads_model.parse_response(data[:-4]) == expected, "httptools reads it otherwise"
    return expected


def refuse(data: bytes) -> None:
    for tail in TRAILING:
        for pieces in ways(data + tail, splits=16):
            assert read(pieces)[0] == "bad_gateway", pieces
    if data.endswith(b"\r\n\r\n"):
        assert scan_response(data[:-4]) is None


def test_plain_response() -> None:
    data = reply(
        b"date: Fri, 20 Nov 2026 13:00:00 GMT", b"server: uvicorn", b"Content-Length: 12", b"content-type: application/json",
        b"X-Request-Id: e",
        b"Keep-Alive: timeout=5, max=100", b"alt-svc: h3", b"x-accel-buffering: no", b"Server-Timing: a", b"set-cookie: a",
        b"X-RateLimit-Anything: 1", b"access-control-allow-origin: *", b"Retry-After: 3", b"retry-after-ms: 3000",
    )  # fmt: skip
    head = accept(data)
    assert (head.status, head.minor, head.status_line) == (200, 1, b"HTTP/1.1 200 OK\r\n")
    assert head.forward == (
        b"date: Fri, 20 Nov 2026 13:00:00 GMT\r\nserver: uvicorn\r\n"
        b"content-type: application/json\r\nset-cookie: a\r\nRetry-After: 3\r\n"
    )
    assert (head.content_length, head.chunked, head.keep_alive) == (12, False, True)
    assert (head.sse, head.json, head.has_date, head.idle_s, head.max_requests) == (False, True, True, 5.0, 100)
    assert scan_response(data[:-4]) == head


def test_stream_of_events() -> None:
    head = accept(reply(b"Transfer-Encoding: chunked", b"Content-Type: Text/Event-Stream; charset=utf-8", b"Connection: close"))
    assert (head.sse, head.json, head.chunked, head.keep_alive, head.has_date, head.idle_s, head.max_requests) == (
        True, False, True, False, False, -1.0, -1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "status_line"),
    [
        (b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n"),
        (b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\n"),
        (b"HTTP/1.0 404 Nope", b"HTTP/1.1 404 Nope\r\n"),
        (b"HTTP/1.1 422", b"HTTP/1.1 422 Unprocessable Content\r\n"),
        (b"HTTP/1.1 299", b"HTTP/1.1 299 Unknown\r\n"),
        (b"HTTP/1.1 500 caf\xe9", b"HTTP/1.1 500 caf\xe9\r\n"),
        (b"HTTP/1.1 103 Early Hints", b"HTTP/1.1 103 Early Hints\r\n"),
    ],
)
def test_status_line_is_written_anew(line: bytes, status_line: bytes) -> None:
    assert accept(reply(line=line)).status_line == status_line


@pytest.mark.parametrize(
    ("minor", "fields", "keep"),
    [
        (1, [], True),
        (1, [b"Connection: close"], False),
        (1, [b"Connection: x, CLOSE"], False),
        (0, [], False),
        (0, [b"Connection: keep-alive"], True),
        (0, [b"Connection: keep-alive, close"], False),
    ],
)
def test_keep_alive(minor: int, fields: list[bytes], keep: bool) -> None:
    assert accept(reply(b"Content-Length: 0", *fields, line=b"HTTP/1.%d 200 OK" % minor)).keep_alive is keep


def test_D9_hop_by_hop_fields_go_no_further() -> None:
    head = accept(
        reply(b"X-A: 1", b"Connection: x-a, content-length, keep-alive", b"Content-Length: 2", b"Upgrade: h2c", b"Trailer: x",
            b"Proxy-Authenticate: b",
              b"TE: x", b"X-B: 2", b"Proxy-Connection: a", b"X_Request_Id: z", b"X-Accel_Buffering: no")
    )  # fmt: skip
    assert head.forward == b"X-B: 2\r\n"
    assert head.content_length == 2


def test_two_dates_become_one() -> None:
    head = accept(reply(b"Date: a", b"date: b"))
    assert head.forward == b"Date: a\r\n"


@pytest.mark.parametrize(
    "line",
    [b"HTTP/1.1 20", b"HTTP/1.1 999 x", b"HTTP/1.1 099 x", b"HTTP/1.1 600 x", b"HTTP/3.0 200 OK", b"HTTP/2 200",
        b"HTTP/1.2 200 OK", b"ICY 200 OK",
     b"200 OK", b"http/1.1 200 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 2xx OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK",
     b"HTTP/1.1 -20 OK", b"HTTP/1.1",
     b"HTTP/1.1 200OK", b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\x7fK", b"SSH-2.0-x", b"{}", b"\x00\x00\x12\x04"],
)  # fmt: skip
def test_E4_no_http_response(line: bytes) -> None:
    refuse(reply(b"Content-Length: 0", line=line))


@pytest.mark.parametrize(
    "fields",
    [[b"A: b\rc"], [b"A: b\nC: d"], [b"A: \x00"], [b"A: b", b" folded"], [b"A : b"], [b"A\t: b"], [b": b"], [b"a b: c"],
        [b"nocolon"], [b"\xe9: a"],
     [b"A: \x1b[2J"]],
)  # fmt: skip
def test_E11_malformed_fields(fields: list[bytes]) -> None:
    refuse(reply(*fields))


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length: 1", b"Content-Length: 2"],
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 1, 1"],
        [b"Content-Length: +1"],
        [b"Content-Length: %d" % 2**63],
        [b"Content-Length:"],
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: identity"],
        [b"Transfer_Encoding: chunked"],
        [b"Content_Length: 1"],
        [b"Content-Type: a/b", b"Content-Type: c/d"],
    ],
)
def test_ambiguous_framing(fields: list[bytes]) -> None:
    refuse(reply(*fields))


def test_coding_in_http_1_0() -> None:
    refuse(reply(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"))


@pytest.mark.parametrize("step", [1, 1000, 10**6])
@pytest.mark.parametrize("data", [reply(b"A: " + b"b" * 300_000), reply(*[b"A: b"] * 10_000),
    b"HTTP/1.1 200 OK\r\nA: " + b"b" * 10**5])
def test_E5_too_large(data: bytes, step: int) -> None:
    reader = ResponseReader()

    def feed_all() -> None:
        for i in range(0, len(data), step):
            assert reader.feed(data[i : i + step]) is None
            assert reader.held <= 65536

    with pytest.raises(GatewayError) as refusal:
        feed_all()
    assert refusal.value.kind.name == "bad_gateway"
    assert reader.held <= 65536


def test_E5_number_of_fields() -> None:
    assert read([reply(*[b"A: b"] * 200)])[0] == "ok"
    refuse_kind = read([reply(*[b"A: b"] * 201)])[0]
    assert refuse_kind == "bad_gateway"


@pytest.mark.parametrize("start", [b"SSH", b"\x00", b"HTTQ", b"HTTP/2", b"\r", b"\n", b"HTTP/1.1 200 OK\n"])
def test_garbage_is_refused_without_waiting(start: bytes) -> None:
    for pieces in ways(start):
        assert read(pieces)[0] == "bad_gateway"


def test_E10_interim_heads_come_one_by_one() -> None:
    data = reply(line=b"HTTP/1.1 100 Continue") + reply(line=b"HTTP/1.1 103 Early Hints") + reply(b"Content-Length: 0")
    for pieces in ways(data):
        reader = ResponseReader()
        seen = []
        for piece in pieces:
            more = piece
            while more:
                head = reader.feed(more)
                more = reader.rest
                if head is None:
                    break
                seen.append(head.status)
        assert seen == [100, 103, 200]


SEQUENCE = [
    reply(b"Date: a", b"Content-Length: 5", b"Server: x"),
    reply(b"Date: a", b"Content-Length: 123", b"Server: x"),
    reply(b"Date: b", b"Content-Length: 5", b"Server: x"),
    reply(b"Date: a", b"Content-Length: 5", b"Server: x", b"Connection: close"),
    reply(b"Date: a", b"Content-Length: 5", b"Content-Length: 5", b"Server: x"),
    reply(b"Date: a", b"Content-Length: x", b"Server: x"),
    reply(b"Date: a", b"Content-Length: ", b"Server: x"),
    reply(b"Date: a", b"Content-Length: 5\t", b"Server: x"),
    reply(b"Date: a", b"Content-Length: " + b"1" * 19, b"Server: x"),
    reply(b"Date: a", b"Transfer-Encoding: chunked", b"Server: x"),
    reply(line=b"HTTP/1.1 100 Continue"),
    reply(b"Date: a", b"Content-Length: 5", b"Server: x", line=b"HTTP/1.1 500 No"),
]


@given(st.lists(st.sampled_from(SEQUENCE), min_size=2, max_size=6), st.lists(st.integers(0, 120), max_size=4),
    st.binary(max_size=5))
def test_one_reader_judges_each_response_as_a_new_one_would(sequence: list[bytes], at: list[int], tail: bytes) -> None:
    reader = ResponseReader()
    for data in sequence:
        expected = read([data + tail])
        got: tuple[str, ResponseHead | None, bytes] = ("more", None, b"")
        for piece in cut(data + tail, at):
            if got[1] is not None:
                got = (*got[:2], got[2] + piece)
                continue
            try:
                head = reader.feed(piece)
            except GatewayError as error:
                got = (error.kind.name, None, b"")
                break
            if head is not None:
                got = ("ok", head, reader.rest)
        assert got == expected
        if got[0] != "ok":
            return
