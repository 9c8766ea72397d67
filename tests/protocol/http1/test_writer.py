"""What we write can be read: by h11, and byte for byte."""

from __future__ import annotations

import email.utils

import pytest

from fastgw.accel import lines
from fastgw.accel.heads import ResponseHead
from fastgw.protocol.http1 import writer
from fastgw.protocol.http1.client import parse_response
from fastgw.protocol.http1.reference import h11_verdict
from fastgw.protocol.start import RequestStart


def start(method: bytes = b"POST", upgrade: bool = False) -> RequestStart:
    made = RequestStart(method, b"/v1/x?y", b"a: 1\r\nx-request-id: ", upgrade)
    made.line = writer.request_line(made.method, made.target)
    return made


@pytest.mark.parametrize(
    ("begin", "length", "end"),
    [
        (start(), 5, b"content-length: 5\r\n\r\n"),
        (start(), 0, b"content-length: 0\r\n\r\n"),
        (start(), -1, b"transfer-encoding: chunked\r\n\r\n"),
        (start(b"GET"), 0, b"\r\n"),
        (start(b"DELETE"), 0, b"\r\n"),
        (start(b"PUT"), 5, b"content-length: 5\r\n\r\n"),
        (start(b"GET", upgrade=True), 0, b"connection: Upgrade\r\nupgrade: websocket\r\n\r\n"),
    ],
)
def test_request_head(begin: RequestStart, length: int, end: bytes) -> None:
    head = writer.request_head(begin, b"Host: engine:8000\r\n", b"", b"id-1", length)
    first = begin.method + b" /v1/x?y HTTP/1.1\r\nHost: engine:8000\r\na: 1\r\nx-request-id: id-1\r\n"
    assert head == first + end
    traced = writer.request_head(begin, b"Host: engine:8000\r\n", b"b: 2\r\n", b"id-1", length)
    assert traced == head.replace(b"\r\na: 1", b"\r\nb: 2\r\na: 1")
    body = writer.frame(b"hello", True) if length < 0 else b"hello"[:length]
    verdict = h11_verdict(head + body)
    assert (verdict.ok, verdict.method, verdict.target, verdict.complete) == (True, begin.method, b"/v1/x?y", True)
    assert verdict.body == (b"hello" if length else b"")


def answered(fields: bytes) -> ResponseHead:
    return parse_response(b"HTTP/1.1 200 OK\r\n" + fields)


@pytest.mark.parametrize("connection", [b"", writer.CLOSE, writer.KEEP_ALIVE])
@pytest.mark.parametrize("extra", [b"", b"x-b: 2\r\n"])
@pytest.mark.parametrize(
    ("fields", "mine"),
    [
        (b"x-a: 1\r\ndate: then", b""),
        (b"x-a: 1", b"date: now\r\n"),
        (b"content-type: text/event-stream\r\ndate: then", b"x-accel-buffering: no\r\n"),
        (b"content-type: text/event-stream", b"x-accel-buffering: no\r\ndate: now\r\n"),
    ],
)
def test_response_head(fields: bytes, mine: bytes, extra: bytes, connection: bytes) -> None:
    head = answered(fields)
    data = writer.response_head(head, writer.length_line(2), b"id-1", extra, b"now", connection, b"{}")
    theirs = b"HTTP/1.1 200 OK\r\n" + head.forward
    assert data == theirs + b"content-length: 2\r\nx-request-id: id-1\r\n" + mine + extra + connection + b"\r\n{}"
    verdict = h11_verdict(data, response=True)
    assert (verdict.status, verdict.body, verdict.complete) == (200, b"{}", True)
    assert verdict.keep_alive is (connection != writer.CLOSE)


def test_the_usual_answer_is_the_same_whichever_way_it_is_written() -> None:
    head = answered(b"content-type: application/json\r\ndate: then")
    for extra in (b"", b"x-b: 2\r\n"):
        usual = lines.plain_answer(head.status_line, head.forward, b"id-1", extra, b"{}")
        assert usual == writer.response_head(head, writer.length_line(2), b"id-1", extra, b"now", b"", b"{}")


def test_an_upgrade() -> None:
    head = parse_response(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-a: 1")
    data = writer.upgrade_head(head, b"id-1")
    assert data == head.status_line + b"x-a: 1\r\nconnection: Upgrade\r\nupgrade: websocket\r\nx-request-id: id-1\r\n\r\n"


def test_frames() -> None:
    assert writer.frame(b"hi", False) == b"2\r\nhi\r\n"
    assert writer.frame(b"hi", True) == b"2\r\nhi\r\n0\r\n\r\n"
    assert (writer.frame(b"", False), writer.frame(b"", True)) == (b"", b"0\r\n\r\n")


def test_chunks() -> None:
    assert lines.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert lines.chunk(b"") == b"", "an empty chunk would end the body"


@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize("close", [False, True])
def test_simple_response(head_only: bool, close: bool) -> None:
    data = writer.simple_response(404, b"", b"application/json", b'{"a":1}', b"X: y\r\n", close, head_only, b"then")
    verdict = h11_verdict(data, response=True, method=b"HEAD" if head_only else b"GET")
    assert (verdict.ok, verdict.complete, verdict.status, verdict.rest) == (True, True, 404, b"")
    assert verdict.body == (b"" if head_only else b'{"a":1}')
    assert verdict.keep_alive is not close
    fields = dict(verdict.fields)
    assert (fields[b"content-length"], fields[b"content-type"], fields[b"x"], fields[b"date"]) == (b"7", b"application/json",
        b"y", b"then")
    assert data.startswith(b"HTTP/1.1 404 Not Found\r\n")


@pytest.mark.parametrize("status", [100, 204, 304])
def test_statuses_without_a_body(status: int) -> None:
    data = writer.simple_response(status, body=b"never", content_type=b"text/plain")
    assert b"never" not in data
    assert b"Content-Length" not in data
    assert data.endswith(b"\r\n\r\n")


def test_no_content_type() -> None:
    assert writer.simple_response(200, content_type=b"") == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert writer.simple_response(200, b"Fine", b"", b"a").startswith(b"HTTP/1.1 200 Fine\r\n")


def test_reasons() -> None:
    assert writer.reason(503) == b"Service Unavailable"
    assert writer.reason(599) == b"Unknown"


@pytest.mark.parametrize("second", [0, 1, 59, 951782400, 951868799, 1709164800, 1709251199, 1709251200, 1732060800,
    4102444800, 4107542400, 1e9 + 0.999])
def test_date(second: float) -> None:
    assert writer.http_date(second).decode() == email.utils.formatdate(int(second), usegmt=True)


def test_every_day_of_four_centuries_now_and_then() -> None:
    for day in range(0, 366 * 430, 13):
        second = day * 86400 + day % 86400
        assert writer.http_date(second).decode() == email.utils.formatdate(second, usegmt=True)


def test_the_date_is_formatted_once_a_second() -> None:
    assert writer.http_date(1e9) is writer.http_date(1e9 + 0.5)
    assert writer.http_date(1e9 + 1) != writer.http_date(1e9)
