"""Request heads: underscore twins, request lines, hosts and targets, and what is no HTTP at all (A18 to A23, A27)."""

from __future__ import annotations

import pytest

from fastgw.protocol.http1.server import RequestReader
from tests.protocol.http1.judge import PLAIN, accept, check, post, read
from tests.protocol.splits import ways


@pytest.mark.parametrize("name", [b"Transfer_Encoding", b"Content_Length", b"transfer-Encoding_", b"CONTENT_LENGTH", b"Host_"])
def test_A18_framing_twins(name: bytes) -> None:
    if name.endswith(b"_"):
        # Not a twin: mapped to "-" it is a name of its own.
        assert accept(post(name + b": 5")).forward == name + b": 5\r\n"
    else:
        check(post(name + b": 5"), "bad_request")


@pytest.mark.parametrize(
    "name",
    [b"X_Forwarded_For", b"X-Forwarded_For", b"X_Api_Key", b"x_api-key", b"Api_Key", b"X_Request_Id", b"X_Real_IP",
        b"X_Forwarded_Any",
     b"x_request_timeout_ms", b"Keep_Alive", b"Proxy_Authorization"],
)  # fmt: skip
def test_A18_twins_of_our_fields_are_dropped(name: bytes) -> None:
    head = accept(post(b"A: b", name + b": 1.2.3.4", b"My_Field: kept"))
    assert head.forward == b"A: b\r\nMy_Field: kept\r\n"
    assert head.own is None
    assert head.credential is None


# A19 to A21, A27: the request line.


@pytest.mark.parametrize(
    "line",
    [b"GET / HTTP/2.0", b"GET / HTTP/1.11", b"GET / HTTP/0.9", b"GET / HTTP/", b"GET / http/1.1", b"GET /", b"GET  / HTTP/1.1",
     b"GET /  HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.1 x", b"GET / HTTP/1.1\t",
     b" GET / HTTP/1.1",
     b"GET", b"GET ", b"GET / HTTP/1", b"GET / HTTP/1.", b"GET / HTTP/.1", b"GET / HTTP/1.2", b"GET / HTTP/3.0",
     b"GET / HTTP/1.1.1",
     b"GET / HTTPS/1.1", b"GET / HTTP/1,1", b"GET / HTTP 1.1", b"GET / HTTP/+1.1", b"GET / HTTP/01.1", b"GET / RTSP/1.0",
     b"G\xc9T / HTTP/1.1",
     b"GET@ / HTTP/1.1", b"(GET) / HTTP/1.1", b"/ HTTP/1.1"],
)  # fmt: skip
def test_A19_request_line(line: bytes) -> None:
    check(post(line=line), "bad_request", "version_not_supported")


@pytest.mark.parametrize("method", [b"get", b"Post", b"BREW", b"PROPFIND", b"GETX", b"A"])
def test_A19_unknown_methods(method: bytes) -> None:
    check(post(line=method + b" / HTTP/1.1"), "not_implemented")


@pytest.mark.parametrize(
    "host",
    [b"", b"Host: a\r\nHost: a\r\n", b"Host: a\r\nhost: b\r\n", b"Host: a b\r\n", b"Host: u@a\r\n", b"Host: u:p@a\r\n",
        b"Host: a,b\r\n",
     b"Host: 4714::abcd:8001\r\n", b"Host:\r\n", b"Host: \r\n", b"Host: a:b\r\n", b"Host: a:123456\r\n",
     b"Host: http://a\r\n", b"Host: a/b\r\n",
     b"Host: [::1\r\n", b"Host: ::1]\r\n", b"Host: [zz]\r\n", b"Host: a?b\r\n", b"Host: a#b\r\n", b"Host: :80\r\n",
     b"Host: a\xe9\r\n",
     b'Host: "a"\r\n', b"Host: a\\b\r\n", b"Host: a, a\r\n"],
)  # fmt: skip
def test_A20_host(host: bytes) -> None:
    check(post(host=host), "bad_request")


@pytest.mark.parametrize("host", [b"a", b"a.b.c:80", b"127.0.0.1:8080", b"[::1]", b"[2001:db8::1]:443", b"a:", b"x_y-z~",
    b"A%41"])
def test_A20_good_host(host: bytes) -> None:
    assert accept(post(host=b"Host: " + host + b"\r\n")).host == host


def test_A20_no_host_in_http_1_0() -> None:
    head = accept(b"GET / HTTP/1.0\r\n\r\n")
    assert (head.minor, head.host, head.keep_alive) == (0, b"", False)


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        (b"GET * HTTP/1.1", ("bad_request",)),
        (b"CONNECT h:443 HTTP/1.1", ("method_not_allowed",)),
        (b"CONNECT / HTTP/1.1", ("method_not_allowed",)),
        (b"GET host:80 HTTP/1.1", ("bad_request",)),
        (b"GET admin HTTP/1.1", ("bad_request",)),
        (b"GET /a#b HTTP/1.1", ("bad_request",)),
        (b"GET /?a#b HTTP/1.1", ("bad_request",)),
        (b"GET /a b HTTP/1.1", ("bad_request",)),
        (b"GET /a\\b HTTP/1.1", ("bad_request",)),
        (b"GET /?a\\b HTTP/1.1", ("bad_request",)),
        (b"GET /\xe9 HTTP/1.1", ("bad_request",)),
        (b"GET ?a HTTP/1.1", ("bad_request",)),
        (b"GET ** HTTP/1.1", ("bad_request",)),
        (b"OPTIONS ** HTTP/1.1", ("bad_request",)),
        (b"GET http:// HTTP/1.1", ("bad_request",)),
        (b"GET http:/// HTTP/1.1", ("bad_request",)),
        (b"GET http://u@h/ HTTP/1.1", ("bad_request",)),
        (b"GET http://h,i/ HTTP/1.1", ("bad_request",)),
        (b"GET ftp://h/ HTTP/1.1", ("bad_request",)),
        (b"GET //\\h HTTP/1.1", ("bad_request",)),
        (b"GET http:/h HTTP/1.1", ("bad_request",)),
        (b"GET http://h#f HTTP/1.1", ("bad_request",)),
    ],
)
def test_A21_target(line: bytes, kinds: tuple[str, ...]) -> None:
    check(post(line=line), *kinds)


@pytest.mark.parametrize(
    ("line", "target", "host"),
    [
        (b"GET http://h/a?b HTTP/1.1", b"/a?b", b"h"),
        (b"GET HTTP://h:81 HTTP/1.1", b"/", b"h:81"),
        (b"GET https://[::1]:81?q HTTP/1.1", b"/?q", b"[::1]:81"),
        (b"OPTIONS http://h HTTP/1.1", b"*", b"h"),
        (b"OPTIONS * HTTP/1.1", b"*", b"a"),
        (b"GET /?a?b HTTP/1.1", b"/?a?b", b"a"),
        (b"GET //v1 HTTP/1.1", b"//v1", b"a"),
        (b"GET /v1/../%00;x HTTP/1.1", b"/v1/../%00;x", b"a"),
        (b"TRACE / HTTP/1.1", b"/", b"a"),
    ],
)
def test_A21_good_target(line: bytes, target: bytes, host: bytes) -> None:
    head = accept(post(line=line))
    assert (head.target, head.host) == (target, host)
    assert head.target == head.path + (b"?" + head.query if b"?" in target else b"")


def test_A27_preface_of_http_2() -> None:
    check(b"PRI * HTTP/2.0\r\n\r\n", "version_not_supported")


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"\x00", b"{}", b"(", b"\r\n\r\n\r\n", b"GET" * 20, b"<xml>",
    b"\xff"])
def test_garbage_is_refused_without_waiting_for_more(data: bytes) -> None:
    for pieces in ways(data):
        assert read(pieces)[0] == "bad_request"


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\n", b"GET / HTTP/1.1\r\nA\x00", b"GET \x1b"])
def test_what_can_never_be_a_head_is_refused_at_once(start: bytes) -> None:
    for pieces in ways(start):
        assert read(pieces)[0] == "bad_request"


@pytest.mark.parametrize("lines", [1, 2])
def test_empty_lines_before_a_request_are_skipped(lines: int) -> None:
    assert accept(b"\r\n" * lines + PLAIN) == accept(PLAIN)


def test_A23_one_reader_reads_request_after_request() -> None:
    second = b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n"
    for pieces in ways(PLAIN + b"\r\n" + second):
        reader = RequestReader()
        seen = []
        for piece in pieces:
            data = piece
            while data:
                head = reader.feed(data)
                data = reader.rest
                if head is None:
                    break
                seen.append(head.path)
        assert seen == [b"/v1/chat/completions", b"/next"]
