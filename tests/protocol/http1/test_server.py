"""Request heads: group A of the cases, in every split, on the fast path and on the complete one."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.accel.heads import RequestHead, scan_request
from fastgw.errors import GatewayError
from fastgw.protocol.http1.server import RequestReader, parse_request
from tests.protocol.splits import cut, ways

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
    fast = scan_request(data[start:end])
    assert fast is None or fast == expected
    return expected


PLAIN = (
    b"POST /v1/chat/completions?a=b&c HTTP/1.1\r\nHost: api.example:8080\r\nUser-Agent: x/1 (y; z)\r\naccept:*/*\r\n"
    b"Authorization: Bearer sk-1\r\nContent-Type: application/json\r\nX-Custom: \xe9t\xe9\t\r\nContent-Length: 12\r\n\r\n"
)


def test_plain_request() -> None:
    head = accept(PLAIN)
    assert (head.method, head.target) == (b"POST", b"/v1/chat/completions?a=b&c")
    assert (head.path, head.query, head.minor, head.host) == (b"/v1/chat/completions", b"a=b&c", 1, b"api.example:8080")
    assert head.forward == (
        b"User-Agent: x/1 (y; z)\r\naccept:*/*\r\nContent-Type: application/json\r\nX-Custom: \xe9t\xe9\t\r\n"
    )
    assert (head.content_length, head.chunked, head.keep_alive, head.expect) == (12, False, True, 0)
    assert (head.credential, head.content_type, head.own) == (b"sk-1", b"application/json", None)
    assert scan_request(PLAIN[:-4]) is not None, "the commonest request must take the fast path"


# A1 to A7: the length is said twice, or not so that everybody reads the same.


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"identity", b"gzip, chunked"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("length", [b"0", b"5", b"00"])
def test_A1_length_and_coding(coding: bytes, swap: bool, length: bytes) -> None:
    fields = [b"Content-Length: " + length, b"Transfer-Encoding: " + coding]
    check(post(*(fields[::-1] if swap else fields)), "bad_request", "not_implemented")


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length: 5", b"Content-Length: 6"],
        [b"Content-Length: 5", b"Content-Length: 5"],
        [b"content-length: 5", b"Accept: a", b"CONTENT-LENGTH: 5"],
        [b"Content-Length: 5, 6"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: 5,"],
        [b"Content-Length: ,5"],
    ],
)
def test_A2_two_lengths(fields: list[bytes]) -> None:
    check(post(*fields), "bad_request")


@pytest.mark.parametrize(
    "value",
    [b"+5", b"-5", b"0x5", b"5_0", b"1e1", b"", b" ", b"\t", b"%d" % 2**63, b"%d" % 2**64, b"5 5", b"5.0", b"five", b'"5"',
     b"9" * 40, b"\xb2", b"\xd9\xa5", b"5;", b"0" * 30],
)  # fmt: skip
def test_A3_malformed_length(value: bytes) -> None:
    check(post(b"Content-Length: " + value), "bad_request")


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"7", 7), (b"007", 7), (b"%d" % (2**63 - 1), 2**63 - 1), (b" 7\t ",
    7)])
def test_A3_good_length(value: bytes, length: int) -> None:
    assert accept(post(b"Content-Length:" + value)).content_length == length


@pytest.mark.parametrize(
    "value",
    [b"gzip", b"identity", b"xchunked", b"chunkedx", b"chunked, gzip", b"chunked, chunked", b",chunked", b"chunked,",
        b'"chunked"',
     b"gzip, chunked", b"", b"chunked;q=1", b"chunk ed", b"\xa0chunked", b"chunked\x85", b"br", b"chu\tnked", b"chunked\t"],
)  # fmt: skip
def test_A5_other_coding(value: bytes) -> None:
    check(post(b"Transfer-Encoding: " + value), "bad_request", "not_implemented")


@pytest.mark.parametrize("second", [b"chunked", b"identity", b"", b"gzip"])
def test_A5_coding_twice(second: bytes) -> None:
    check(post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: " + second), "bad_request")
    check(post(b"Transfer-Encoding: " + second, b"Accept: a", b"transfer-encoding: chunked"), "bad_request")


@pytest.mark.parametrize("value", [b"chunked", b"CHUNKED", b"\t chunked  "])
def test_A5_chunked(value: bytes) -> None:
    head = accept(post(b"Transfer-Encoding:" + value))
    assert head.chunked
    assert head.content_length == -1
    assert head.forward == b""


@pytest.mark.parametrize("value", [b"chunked", b"gzip", b"identity"])
def test_A7_coding_in_http_1_0(value: bytes) -> None:
    check(post(b"Transfer-Encoding: " + value, line=b"POST / HTTP/1.0"), "bad_request")


# A12 to A17: bytes where they must not be.


@pytest.mark.parametrize(
    "data",
    [
        post(b"A\r: b"),
        post(b"A: b\rc"),
        post(b"A: b\r"),
        post(b"A: b\r\r\nC: d"),
        b"GET / HTTP/1.1\r\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n",
    ],
)
def test_A12_bare_cr(data: bytes) -> None:
    check(data, "bad_request")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nB: c\n\r\n\r\n",
        b"GET / HTTP/1.1\n\r\nHost: a\r\n\r\n",
    ],
)
def test_A13_bare_lf(data: bytes) -> None:
    check(data, "bad_request")


CONTROLS = [c for c in range(32) if c not in (9, 10, 13)] + [127]


@pytest.mark.parametrize("code", CONTROLS)
def test_A14_controls(code: int) -> None:
    c = bytes([code])
    check(post(b"A: b" + c + b"c"), "bad_request")
    check(post(b"A: " + c), "bad_request")
    check(post(b"A" + c + b"B: c"), "bad_request")
    check(post(line=b"GET /a" + c + b"b HTTP/1.1"), "bad_request")
    check(post(b"Content-Length: 5" + c), "bad_request")
    check(post(b"Authorization: Bearer a" + c), "bad_request")
    check(post(host=b"Host: a" + c + b"\r\n"), "bad_request")


@pytest.mark.parametrize(
    "fields",
    [
        [b"Content-Length : 5"],
        [b"Content-Length\t: 5"],
        [b"Transfer-Encoding : chunked"],
        [b"A : b"],
        [b" A: b"],
        [b"\tA: b"],
    ],
)
def test_A15_space_around_the_name(fields: list[bytes]) -> None:
    check(post(*fields), "bad_request")
    check(post(*fields, host=b""), "bad_request")


@pytest.mark.parametrize("fold", [b" ", b"\t", b"  ", b" \t"])
def test_A16_folded_lines(fold: bytes) -> None:
    check(post(b"A: b\r\n" + fold + b"c"), "bad_request")
    check(post(b"Transfer-Encoding:\r\n" + fold + b"chunked"), "bad_request")
    check(post(b"A: b\r\n" + fold), "bad_request")


@pytest.mark.parametrize(
    "field",
    [b": b", b"a b: c", b"nocolon", b"\xe9: a", b"a\xff: b", b"\xa0Content-Length: 5", b"Content-Length\xa0: 5", b"\x85A: b",
        b"a(: b",
     b"a\"b: c", b"a/b: c", b"a[: c", b"a{: c", b"a@: c", b"a,b: c", b"a;b: c", b"a=b: c", b"a?: c", b"a\\: c",
     b"Content-Length:\xa05",
     b"Content-Length: 5\x85", b"Transfer-Encoding: \xa0chunked", b""],
)  # fmt: skip
def test_A17_malformed_names(field: bytes) -> None:
    data = post(field) if field else b"GET / HTTP/1.1\r\n: \r\nHost: a\r\n\r\n"
    check(data, "bad_request")


@pytest.mark.parametrize("value", [bytes(range(128, 256)), b"\xa0x\x85", b"caf\xc3\xa9", b"a\tb", b"\x80"])
def test_A17_obs_text_in_values_is_forwarded_untouched(value: bytes) -> None:
    assert accept(post(b"X-Name:  " + value + b" ")).forward == b"X-Name:  " + value + b" \r\n"


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


# A24 and the fields that are ours.


@pytest.mark.parametrize(
    ("fields", "minor", "expected"),
    [
        ([b"Expect: 100-continue"], 1, 1),
        ([b"Expect: 100-Continue "], 1, 1),
        ([b"Expect: 200-ok"], 1, 2),
        ([b"Expect:"], 1, 2),
        ([b"Expect: 100-continue", b"Expect: 100-continue"], 1, 2),
        ([b"Expect: 100-continue, x"], 1, 2),
        ([b"Expect: 100-continue"], 0, 0),
        ([b"Expect: x"], 0, 0),
        ([], 1, 0),
    ],
)
def test_A24_expect(fields: list[bytes], minor: int, expected: int) -> None:
    head = accept(post(*fields, line=b"POST / HTTP/1.%d" % minor))
    assert head.expect == expected
    assert head.forward == b""


@pytest.mark.parametrize(
    ("fields", "minor", "expected"),
    [
        ([], 1, True),
        ([b"Connection: close"], 1, False),
        ([b"Connection: Close"], 1, False),
        ([b"Connection: keep-alive"], 1, True),
        ([b"Connection: keep-alive, close"], 1, False),
        ([b"Connection: keep-alive", b"Connection: close"], 1, False),
        ([b"Connection: x, close"], 1, False),
        ([b"Connection: closed"], 1, True),
        ([], 0, False),
        ([b"Connection: Keep-Alive"], 0, True),
        ([b"Connection: close, keep-alive"], 0, False),
        ([b"Connection: ,, ,keep-alive"], 0, True),
    ],
)
def test_keep_alive(fields: list[bytes], minor: int, expected: bool) -> None:
    assert accept(post(*fields, line=b"GET / HTTP/1.%d" % minor)).keep_alive is expected


def test_D9_hop_by_hop_fields_and_what_connection_nominates() -> None:
    head = accept(
        post(
            b"X-A: 1", b"Connection: x-a, Authorization, content-length, host", b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic eA==", b"Proxy-Authenticate: x", b"TE: trailers", b"Trailer: x", b"Upgrade: foo",
            b"X-B: 2",
            b"HTTP2-Settings: AAA", b"Authorization: Bearer k", b"Content-Length: 3", b"x-A: again", b"X-Forwarded-Port: 1",
        )
    )  # fmt: skip
    assert head.forward == b"X-B: 2\r\n"
    assert (head.host, head.content_length, head.credential) == (b"a", 3, b"k")
    assert head.own == {b"connection": b"x-a, Authorization, content-length, host", b"upgrade": b"foo"}


def test_upgrade_to_websocket() -> None:
    fields = [b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", b"Sec-WebSocket-Key: abc",
        b"Sec-WebSocket-Version: 13"]
    head = accept(post(*fields, line=b"GET /v1/realtime HTTP/1.1"))
    assert head.own == {
        b"connection": b"keep-alive, Upgrade", b"upgrade": b"WebSocket", b"sec-websocket-key": b"abc",
        b"sec-websocket-version": b"13",
    }  # fmt: skip
    assert head.forward == b"Sec-WebSocket-Key: abc\r\nSec-WebSocket-Version: 13\r\n"
    check(post(*fields, b"Content-Length: 1", line=b"GET /v1/realtime HTTP/1.1"), "bad_request")
    check(post(*fields, b"Transfer-Encoding: chunked", line=b"GET /v1/realtime HTTP/1.1"), "bad_request")


@pytest.mark.parametrize(
    ("fields", "credential"),
    [
        ([b"Authorization: Bearer abc"], b"abc"),
        ([b"authorization: bearer abc"], b"abc"),
        ([b"AUTHORIZATION: BEARER   abc  "], b"abc"),
        ([b"Authorization:Bearer abc"], b"abc"),
        ([b"X-Api-Key: abc"], b"abc"),
        ([b"x-api-key:  abc "], b"abc"),
        ([b"X-API-Key: b", b"Authorization: Bearer a"], b"a"),
        ([b"Authorization: Basic eA==", b"x-api-key: b"], b"b"),
        ([b"Authorization: Bearer", b"x-api-key: b"], b"b"),
        ([b"Authorization: Bearer \xe9\x80"], b"\xe9\x80"),
        ([b"Authorization: Bearer"], None),
        ([b"Authorization: Bearer "], None),
        ([b"Authorization:"], None),
        ([b"Authorization: abc"], None),
        ([b"Authorization: Bearerabc"], None),
        ([b"Authorization: Bearer a b"], None),
        ([b"Authorization: Bearer a\tb"], None),
        ([b"Authorization: Bearer\tabc"], None),
        ([b"Authorization: Bearer ' OR '1'='1"], None),
        ([b"Authorization: Bearer a", b"Authorization: Bearer b"], None),
        ([b"x-api-key: a", b"X-Api-Key: a"], None),
        ([b"x-api-key:"], None),
        ([b"api-key: a"], None),
        ([], None),
    ],
)
def test_D1_credential(fields: list[bytes], credential: bytes | None) -> None:
    for order in itertools.permutations([*fields, b"A: b"]):
        head = accept(post(*order))
        assert head.credential == credential
        assert head.forward == b"A: b\r\n"


def test_D8_credentials_and_cookies_are_never_forwarded() -> None:
    head = accept(post(b"Cookie: a=b", b"Authorization: Basic x", b"X-API-KEY: k", b"Api-Key: k", b"cookie: c", b"Accept: x"))
    assert head.forward == b"Accept: x\r\n"


def test_D10_forwarded_fields_are_taken_out_and_told() -> None:
    fields = [b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: h", b"Forwarded: for=1",
        b"X-Real-IP: 2",
              b"X-Request-Timeout-Ms: 5", b"x-request-id: r"]  # fmt: skip
    head = accept(post(*fields, b"Origin: o", b"Access-Control-Request-Method: POST", b"x-forwarded-for: 2.2.2.2"))
    assert head.own == {
        b"x-forwarded-for": b"1.1.1.1, 2.2.2.2", b"x-forwarded-proto": b"https", b"x-forwarded-host": b"h",
        b"forwarded": b"for=1",
        b"x-real-ip": b"2", b"x-request-timeout-ms": b"5", b"x-request-id": b"r", b"origin": b"o",
        b"access-control-request-method": b"POST",
    }  # fmt: skip
    assert head.forward == b"Origin: o\r\nAccess-Control-Request-Method: POST\r\n"


def test_D12_two_request_ids_are_none() -> None:
    assert accept(post(b"X-Request-Id: a", b"x-request-id: b")).own == {b"x-request-id": b""}
    assert accept(post(b"X-Request-Id: a", b"x-request-id: b", b"x-request-id: c")).own == {b"x-request-id": b""}


def test_content_type_twice_is_ambiguous() -> None:
    check(post(b"Content-Type: application/json", b"content-type: multipart/form-data; boundary=x"), "bad_request")
    assert accept(post(b"Content-Type:")).content_type is None


# B1, B3: limits.


def refused_after(reader: RequestReader, pieces: list[bytes]) -> tuple[str, int]:
    """The refusal, and the most that was ever held before it."""
    most = 0
    for piece in pieces:
        try:
            assert reader.feed(piece) is None
        except GatewayError as error:
            return error.kind.name, max(most, reader.held)
        most = max(most, reader.held)
    return "more", most


@pytest.mark.parametrize("step", [1, 7, 1000, 4096, 10**6])
@pytest.mark.parametrize(
    "data",
    [
        post(b"A: " + b"b" * 32768),
        post(*[b"A: " + b"b" * 1000] * 40),
        b"GET /" + b"a" * 40000,
        b"GET / HTTP/1.1\r\nA: " + b"b" * 100000,
    ],
)
def test_B1_head_too_large(data: bytes, step: int) -> None:
    reader = RequestReader()
    start = time.process_time()
    kind, held = refused_after(reader, [data[i : i + step] for i in range(0, len(data), step)])
    assert kind == "head_too_large"
    assert held <= 40 * 1024
    assert time.process_time() - start < 2.0


def test_B1_the_limit_is_exact() -> None:
    def sized(size: int) -> bytes:
        return post(b"A: " + b"b" * (size - len(post(b"A: "))))

    for pieces in ways(sized(32768), splits=4):
        assert read(pieces)[0] == "ok"
    for pieces in ways(sized(32769), splits=4):
        assert read(pieces)[0] == "head_too_large"
    assert read([sized(32768) + b"y" * 100000])[2] == b"y" * 100000


@pytest.mark.parametrize(("count", "kind"), [(99, "ok"), (100, "head_too_large"), (10_000, "head_too_large")])
def test_B3_number_of_fields(count: int, kind: str) -> None:
    data = post(*[b"A: b"] * count)
    for pieces in ways(data, splits=4) if count < 1000 else [[data]]:
        assert read(pieces)[0] == kind


def test_B3_many_tiny_fields() -> None:
    assert read([post(*[b"a:"] * 100)])[0] == "head_too_large"


def test_limits_are_arguments() -> None:
    reader = RequestReader(max_head_bytes=64, max_fields=1)
    assert reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") is not None
    with pytest.raises(GatewayError) as refusal:
        reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n")
    assert refusal.value.kind.status == 431


def test_partial_and_held_tell_what_has_come() -> None:
    reader = RequestReader()
    assert (reader.partial, reader.held) == (False, 0)
    assert reader.feed(b"\r\n") is None
    assert not reader.partial
    assert reader.feed(b"GET / ") is None
    assert (reader.partial, reader.held) == (True, 6)
    assert reader.feed(b"HTTP/1.0\r\n\r\nrest") is not None
    assert (reader.partial, reader.held, reader.rest) == (False, 0, b"rest")


def test_refusals_say_nothing_of_the_machine() -> None:
    with pytest.raises(GatewayError) as refusal:
        parse_request(b"GET / HTTP/1.1\r\nHost: a\r\nA: \x00")
    assert refusal.value.kind.status == 400
    assert "httptools" not in str(refusal.value.message)


# One connection, many requests: what a reader remembers of the last head must never change what the next one means.

SEQUENCE = [
    post(b"A: b", b"Content-Length: 5"),
    post(b"A: b", b"Content-Length: 12345"),
    post(b"A: b", b"Content-Length: 5", b"C: d"),
    post(b"A: b", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    post(b"A: b", b"Content-Length: 5", b"Content-Length: 5"),
    post(b"A: b", b"Content-Length: "),
    post(b"A: b", b"Content-Length: +5"),
    post(b"A: b", b"Content-Length: 5 "),
    post(b"A: b", b"Content-Length: " + b"5" * 19),
    post(b"A: b", b"Content-Length: " + b"9" * 30),
    post(b"A: b", b"Content-Length: 5\r"),
    post(b"A: b", b"content-length:7", b"C: d"),
    post(b"A: b", b"content-length:8", b"C: d"),
    post(b"A: b", b"content-length:8", b"C: d", b" folded"),
    post(b"Content-Length: 5", b"Authorization: Bearer k"),
    post(b"Content-Length: 55", b"Authorization: Bearer l"),
    post(b"A: b"),
    b"\r\n" + post(b"A: b", b"Content-Length: 6"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SEQUENCE), min_size=2, max_size=6), st.lists(st.integers(0, 400), max_size=4),
    st.binary(max_size=5))
def test_one_reader_judges_each_request_as_a_new_one_would(sequence: list[bytes], at: list[int], tail: bytes) -> None:
    reader = RequestReader()
    for data in sequence:
        expected = read([data + tail])
        got: tuple[str, RequestHead | None, bytes] = ("more", None, b"")
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


def test_an_empty_line_after_every_body_is_always_skipped() -> None:
    reader = RequestReader()
    for length in range(10):
        for piece in (b"\r\n", post(b"Content-Length: %d" % length)):
            head = reader.feed(piece)
        assert head is not None
        assert head.content_length == length
