"""What we write can be read: by h11, and byte for byte."""

from __future__ import annotations

import email.utils

import pytest

from fastgw.accel import lines
from fastgw.protocol.http1 import writer
from fastgw.protocol.http1.reference import h11_verdict


def test_request_head() -> None:
    head = writer.request_head(b"POST", b"/v1/x?y", b"engine:8000", b"A: 1\r\n", b"B: 2\r\n", content_length=5)
    assert head == b"POST /v1/x?y HTTP/1.1\r\nHost: engine:8000\r\nA: 1\r\nB: 2\r\nContent-Length: 5\r\n\r\n"
    verdict = h11_verdict(head + b"hello")
    assert (verdict.ok, verdict.method, verdict.target, verdict.body, verdict.complete) == (True, b"POST", b"/v1/x?y",
        b"hello", True)
    head = writer.request_head(b"POST", b"/", b"e", b"", chunked=True)
    assert h11_verdict(head + lines.chunk(b"hello") + writer.LAST_CHUNK).body == b"hello"
    assert writer.request_head(b"GET", b"/", b"e", b"") == b"GET / HTTP/1.1\r\nHost: e\r\n\r\n"


def test_response_head() -> None:
    head = writer.response_head(b"HTTP/1.1 200 OK\r\n", b"A: 1\r\n", b"B: 2\r\n", content_length=2, date=b"now", close=True)
    assert head == b"HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nDate: now\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    verdict = h11_verdict(head + b"{}", response=True)
    assert (verdict.status, verdict.body, verdict.complete, verdict.keep_alive) == (200, b"{}", True, False)
    head = writer.response_head(b"HTTP/1.1 200 OK\r\n", b"", chunked=True)
    assert head == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert writer.response_head(b"HTTP/1.1 200 OK\r\n", b"", keep_alive=True).endswith(b"\r\nConnection: keep-alive\r\n\r\n")


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
