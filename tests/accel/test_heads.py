"""The fast scanner against the complete path, and both against a model, httptools and h11: field by field, byte for byte."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.accel import fields, head_lines
from fastgw.accel.heads import (
    MOST_HEADS,
    HeadMemory,
    RequestHead,
    RequestScanner,
    ResponseHead,
    ResponseScanner,
    scan_request,
    scan_response,
)
from fastgw.accel.judges import head_end
from fastgw.errors import GatewayError
from fastgw.protocol.http1.client import parse_response
from fastgw.protocol.http1.reference import h11_verdict
from fastgw.protocol.http1.server import parse_request
from tests.support import heads_model
from tests.support.twins import python_twin

BUDGET = settings()  # as many as the profile has: tests/conftest.py

REQUEST_LINES = (
    b"POST /v1/chat/completions HTTP/1.1", b"GET / HTTP/1.1", b"GET /a?b=c HTTP/1.0", b"OPTIONS * HTTP/1.1", b"get / HTTP/1.1",
    b"GET /a#b HTTP/1.1", b"GET http://h/x HTTP/1.1", b"HEAD /%41;x HTTP/1.1", b"GET / HTTP/2.0", b"PUT //x? HTTP/1.1",
    b"GET /? HTTP/1.1",
)  # fmt: skip
REQUEST_FIELDS = (
    b"Host: a", b"host: b:80", b"Host:\t[::1]", b"Host: a,b", b"Content-Length: 5", b"content-length: 05",
    b"Content-Length:5 ", b"Content-Length: +5",
    b"Content-Length: 5\t", b"Content-Length: 5\x0b", b"Content-Length:", b"Transfer-Encoding: chunked",
    b"transfer-encoding:Chunked",
    b"Transfer-Encoding: gzip", b"Connection: close", b"connection: Keep-Alive", b"Connection: x-a",
    b"Connection: keep-alive, close",
    b"Connection:", b"Authorization: Bearer abc", b"Authorization: bearer  a b", b"authorization:Bearer",
    b"Authorization: Bearer a\xff",
    b"Authorization: Bearer a\x01", b"X-Api-Key: k", b"x-api-key:", b"api-key: z", b"Cookie: a=b",
    b"Content-Type: application/json",
    b"content-type: text/plain; x=y", b"Content-Type:", b"Accept: */*", b"User-Agent: a (b) c/1", b"X-A: \xe9",
    b"X-A:\t b \t", b"X-A:", b"X_B: 1",
    b"X_Api_Key: 1", b"Content_Length: 4", b"Expect: 100-continue", b"expect: 100-Continue", b"Expect: x", b"X-Request-Id: r1",
    b"x-request-id: r2", b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Port: 1", b"Forwarded: for=x", b"Origin: https://o",
    b"TE: trailers",
    b"Trailer: x", b"Keep-Alive: timeout=5", b"Upgrade: websocket", b"Upgrade: h2c", b"Sec-WebSocket-Key: x",
    b"traceparent: 00-1-2-3", b"A : b",
    b" folded", b"nocolon", b": empty", b"A\xe9: b", b"A: \x7f", b"", b"A: b\rc", b"A: b\nc", b"Date: x",
    b"Cache-Control: no-store, a=\"b\"",
)  # fmt: skip
RESPONSE_LINES = (
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 404 N\xf6t F\tound ",
    b"HTTP/1.1 099 x", b"HTTP/1.1 600 x",
    b"HTTP/1.1 20", b"HTTP/2.0 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 101 X", b"HTTP/1.1 200 O\x01",
)  # fmt: skip
RESPONSE_FIELDS = (
    b"Content-Length: 5", b"content-length: 5", b"Content-Length: 5,5", b"Content-Length: -1", b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked ",
    b"Transfer-Encoding: chunked\t", b"Transfer-Encoding: gzip, chunked", b"Connection: close", b"Connection: keep-alive",
    b"Connection: Close, x-a",
    b"Content-Type: application/json", b"content-type: text/event-stream; charset=utf-8", b"Content-Type: application/x+json",
    b"Date: now",
    b"date: Fri, 20 Nov 2026 13:00:00 GMT", b"Server: uvicorn", b"Keep-Alive: timeout=5, max=100", b"keep-alive: timeout=x",
    b"X-Request-Id: e",
    b"X-Accel-Buffering: no", b"Alt-Svc: h3", b"Server-Timing: a;dur=1", b"Set-Cookie: a=b", b"set-cookie: c", b"X-A: 1",
    b"X_Request_Id: 1",
    b"Transfer_Encoding: chunked", b"Upgrade: h2c", b"Upgrade: WebSocket ", b"Connection: upgrade\r\nUpgrade: websocket",
    b"Upgrade: h2c\r\nConnection: upgrade", b"Proxy-Authenticate: x", b"Trailer: y", b"A : b", b" fold", b"A",
    b"A: \x00", b"A: \xe9", b"Location: http://x",
)  # fmt: skip


def verdict(parse: Any, head: bytes) -> Any:
    """The head, or the kind of the error."""
    try:
        return parse(head, 10**6)
    except GatewayError as error:
        return error.kind.name


def agree_on_request(head: bytes) -> None:
    """Both paths, and a model with httptools' opinion."""
    complete = verdict(parse_request, head)
    assert complete == verdict(heads_model.parse_request, head), head
    fast = scan_request(head)
    assert fast is None or fast == complete, head


def agree_on_response(head: bytes) -> None:
    complete = verdict(parse_response, head)
    assert complete == verdict(heads_model.parse_response, head), head
    fast = scan_response(head)
    assert fast is None or fast == complete, head


def test_every_pair_of_request_lines_and_fields() -> None:
    for line, field in itertools.product(REQUEST_LINES, REQUEST_FIELDS):
        agree_on_request(line + b"\r\nHost: a\r\n" + field)
        agree_on_request(line + b"\r\n" + field)
        agree_on_request(line)


def test_every_pair_of_request_fields() -> None:
    for one, two in itertools.product(REQUEST_FIELDS, repeat=2):
        agree_on_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + one + b"\r\n" + two)


def test_every_pair_of_response_lines_and_fields() -> None:
    for line, one in itertools.product(RESPONSE_LINES, RESPONSE_FIELDS):
        agree_on_response(line + b"\r\n" + one)
    for one, two in itertools.product(RESPONSE_FIELDS, repeat=2):
        agree_on_response(b"HTTP/1.1 200 OK\r\n" + one + b"\r\n" + two)


@BUDGET
@given(st.sampled_from(REQUEST_LINES), st.lists(st.sampled_from(REQUEST_FIELDS), max_size=8))
def test_requests_of_known_lines(line: bytes, fields: list[bytes]) -> None:
    agree_on_request(b"\r\n".join([line, *fields]))


@BUDGET
@given(st.sampled_from(RESPONSE_LINES), st.lists(st.sampled_from(RESPONSE_FIELDS), max_size=8))
def test_responses_of_known_lines(line: bytes, fields: list[bytes]) -> None:
    agree_on_response(b"\r\n".join([line, *fields]))


@BUDGET
@given(
    st.sampled_from(REQUEST_LINES[:3]), st.lists(st.sampled_from(REQUEST_FIELDS), max_size=4), st.integers(0, 200),
        st.binary(max_size=3), st.integers(0, 2)
)  # fmt: skip
def test_requests_with_a_few_bytes_changed(line: bytes, fields: list[bytes], at: int, new: bytes, gone: int) -> None:
    head = b"\r\n".join([line, b"Host: a", *fields])
    at %= len(head)
    agree_on_request(head[:at] + new + head[at + gone :])


@BUDGET
@given(st.lists(st.sampled_from(RESPONSE_FIELDS), max_size=4), st.integers(0, 200), st.binary(max_size=3), st.integers(0, 2))
def test_responses_with_a_few_bytes_changed(fields: list[bytes], at: int, new: bytes, gone: int) -> None:
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *fields])
    at %= len(head)
    agree_on_response(head[:at] + new + head[at + gone :])


@BUDGET
@given(st.binary(max_size=60))
def test_random_bytes(data: bytes) -> None:
    agree_on_request(data)
    agree_on_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + data)
    agree_on_response(data)
    agree_on_response(b"HTTP/1.1 200 OK\r\n" + data)


@BUDGET
@given(st.sampled_from(REQUEST_LINES), st.lists(st.sampled_from(REQUEST_FIELDS), max_size=6))
def test_what_we_accept_h11_frames_alike(line: bytes, fields: list[bytes]) -> None:
    head = b"\r\n".join([line, *fields])
    try:
        ours = parse_request(head)
    except GatewayError:
        return
    body = b"0\r\n\r\n" if ours.chunked else b"z" * max(ours.content_length, 0)
    theirs = h11_verdict(head + b"\r\n\r\n" + body + b"NEXT")
    if not theirs.ok:
        return
    assert theirs.complete
    assert theirs.rest == b"NEXT", "both must see the end of the message at the same byte"
    assert theirs.body == (b"" if ours.chunked else body)
    assert theirs.method == ours.method
    if not line.startswith(b"GET http"):
        assert theirs.target == ours.target
    if ours.keep_alive and ours.minor:  # h11 keeps no HTTP/1.0 connection
        assert theirs.keep_alive


@BUDGET
@given(st.sampled_from(RESPONSE_LINES), st.lists(st.sampled_from(RESPONSE_FIELDS), max_size=6))
def test_what_we_accept_of_engines_h11_frames_alike(line: bytes, fields: list[bytes]) -> None:
    head = b"\r\n".join([line, *fields])
    try:
        ours = parse_response(head)
    except GatewayError:
        return
    if ours.status in (100, 101, 204) or (not ours.chunked and ours.content_length < 0):
        return
    body = b"0\r\n\r\n" if ours.chunked else b"z" * ours.content_length
    theirs = h11_verdict(head + b"\r\n\r\n" + body + b"NEXT", response=True)
    if theirs.ok:
        assert (theirs.complete, theirs.rest, theirs.status) == (True, b"NEXT", ours.status)


def memories() -> tuple[dict[bytes, object], ...]:
    """What the Python twin remembers of lines, whoever sent them."""
    return (
        head_lines.request_lines, head_lines.request_fields, head_lines.request_names,
        head_lines.status_lines, head_lines.response_fields, head_lines.response_names,
    )  # fmt: skip


def test_secrets_and_changing_values_are_not_remembered() -> None:
    heads = python_twin("fastgw.accel.heads")
    secret = b"canary-5b1f"
    names = (b"Authorization: Bearer ", b"X-Api-Key: ", b"api-key: ", b"Cookie: ", b"Proxy-Authorization: ",
        b"X-Auth-Token: ", b"X-Session-Id: ",
             b"X-Request-Id: ", b"traceparent: ", b"X-Forwarded-For: ", b"X-Goog-Api-Key: ")  # fmt: skip
    for name in names:
        heads.scan_request(b"GET /x?key=" + secret + b" HTTP/1.1\r\nHost: a\r\n" + name + secret)
        heads.scan_response(b"HTTP/1.1 200 OK\r\nSet-Cookie: " + secret + b"\r\n" + name + secret)
    heads.scan_request(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8675309")
    for memo in memories():
        for line, value in memo.items():
            assert secret not in line
            assert secret not in repr(value).encode()
            assert b"8675309" not in line


def test_memory_of_lines_is_bounded() -> None:
    heads = python_twin("fastgw.accel.heads")
    for i in range(10_000):
        heads.scan_request(b"GET /%d HTTP/1.1\r\nHost: h%d\r\nX-N%d: %d" % (i, i, i, i))
        heads.scan_response(b"HTTP/1.1 200 R%d\r\nX-N%d: %d" % (i, i, i))
    heads.scan_request(b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nHost: h\r\nX-N: " + b"b" * 1000)
    for memo in memories():
        assert len(memo) <= 4096
        assert all(len(line) <= 256 for line in memo)
    head = b"GET /42 HTTP/1.1\r\nHost: h42\r\nX-N42: 42"
    assert repr(heads.scan_request(head)) == repr(parse_request(head))


@pytest.mark.parametrize("spelling", [b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"cOnTeNt-LeNgTh"])
def test_any_spelling_of_a_name_is_understood_the_first_time(spelling: bytes) -> None:
    for memo in memories():
        memo.pop(spelling, None)
    for _ in range(2):
        request = scan_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + spelling + b": 12")
        response = scan_response(b"HTTP/1.1 200 OK\r\n" + spelling + b": 12")
        assert request is not None
        assert response is not None
        assert (request.content_length, response.content_length) == (12, 12)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a", b"GET / HTTP/1.1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\x0b", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\rb", b"", b"\r\n",
    ],
)  # fmt: skip
def test_the_fast_path_leaves_the_ambiguous_to_the_complete_one(head: bytes) -> None:
    for _ in range(2):
        assert scan_request(head) is None


@pytest.mark.parametrize(
    ("value", "hints"),
    [(b"timeout=5, max=100", (5.0, 100)), (b"Timeout=5", (5.0, -1)), (b"max=1", (-1.0, 1)), (b"", (-1.0, -1)), (b"timeout=x",
        (-1.0, -1)),
     (b'timeout="7"', (7.0, -1)), (b"timeout=-1,max=9999999999", (-1.0, -1)), (b"timeout = 3 , max = 4", (3.0, 4))],
)  # fmt: skip
def test_keep_alive_hints(value: bytes, hints: tuple[float, int]) -> None:
    assert fields.keep_alive_hints(value) == hints


@pytest.mark.parametrize("value", [b"chunked\t", b" chunked \t ", b"\tchunked\t"])
def test_a_tab_behind_a_coding_is_refused_since_llhttp_would_read_to_the_end(value: bytes) -> None:
    for head, parse in (
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:" + value, parse_request),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding:" + value, parse_response),
    ):
        assert scan_request(head) is None
        assert scan_response(head) is None
        if head.endswith(b"\t"):
            with pytest.raises(GatewayError):
                parse(head)


REQUEST = b"POST /x?a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-Request-Id: r\r\nAccept: */*"


def test_what_a_request_head_says_of_itself() -> None:
    head = scan_request(REQUEST)
    assert head == RequestHead(
        b"POST", b"/x?a", b"/x", b"a", 1, b"h", b"Accept: */*\r\n", 5, False, True, 0, None, None, {b"x-request-id": b"r"}
    )
    assert head == RequestHead(
        method=b"POST", target=b"/x?a", path=b"/x", query=b"a", minor=1, host=b"h", forward=b"Accept: */*\r\n",
        content_length=5, chunked=False, keep_alive=True, expect=0, credential=None, content_type=None,
        own={b"x-request-id": b"r"},
    )  # fmt: skip
    assert repr(head) == (
        "RequestHead(method=b'POST', target=b'/x?a', path=b'/x', query=b'a', minor=1, host=b'h', forward=b'Accept: */*\\r\\n', "
        "content_length=5, chunked=False, keep_alive=True, expect=0, credential=None, content_type=None, "
        "own={b'x-request-id': b'r'})"
    )
    assert head.chunked is False
    assert head.keep_alive is True


def test_what_a_response_head_says_of_itself() -> None:
    fields = b"Date: d\r\nContent-Type: a/b+json\r\nKeep-Alive: timeout=5\r\nContent-Length: 7"
    head = scan_response(b"HTTP/1.1 200 Fine\r\n" + fields)
    assert head == ResponseHead(
        200, 1, b"HTTP/1.1 200 Fine\r\n", b"Date: d\r\nContent-Type: a/b+json\r\n", 7, False, True, False, True, True, 5.0, -1
    )
    assert repr(head) == (
        "ResponseHead(status=200, minor=1, status_line=b'HTTP/1.1 200 Fine\\r\\n', "
        "forward=b'Date: d\\r\\nContent-Type: a/b+json\\r\\n', content_length=7, chunked=False, keep_alive=True, sse=False, "
        "json=True, has_date=True, idle_s=5.0, max_requests=-1)"
    )
    assert head.json is True


def test_an_end_and_a_limit_of_fields() -> None:
    data = REQUEST + b"\r\n\r\nGET / HTTP/1.1"
    assert scan_request(data, len(REQUEST)) == scan_request(REQUEST)
    assert scan_request(data, len(REQUEST) + 1) is None
    assert scan_request(data, 0) is None
    assert scan_request(REQUEST, -1, 4) is not None
    assert scan_request(REQUEST, -1, 3) is None
    reply = b"HTTP/1.1 200 OK\r\nA: b\r\nC: d"
    assert scan_response(reply + b"\r\n\r\n", len(reply), 2) == scan_response(reply)
    assert scan_response(reply, -1, 1) is None


def test_a_connection_knows_its_last_head_again() -> None:
    whole = REQUEST + b"\r\n\r\n"
    scanner = RequestScanner(4096, 100)
    first = scanner.read(whole + b"hello")
    assert (first, scanner.end) == (scan_request(REQUEST), len(whole))
    for length in (7, 10**17, 0, 123):
        data = whole.replace(b": 5", b": %d" % length)
        again = scanner.read(data + b"rest")
        assert again is first
        assert again.content_length == length
        assert scanner.end == len(data)
    for other in (b": 6 ", b": x", b": ", b": 1234567890123456789", b":  5", b": 5\r\nB: c"):
        found = scanner.read(whole.replace(b": 5", other))
        assert found is not first
        if found is not None:
            assert found == scan_request(REQUEST.replace(b": 5", other))


def bring(memory: HeadMemory, data: bytes, known: object) -> RequestHead:
    """A connection that has come with ``data``, and has gone."""
    scanner = RequestScanner(4096, 100)
    head = scanner.read(data)
    kept = scanner.remembered(known)
    assert head is not None
    assert kept is not None
    memory.keep(kept)
    return head


def test_what_one_connection_has_brought_the_next_one_knows() -> None:
    whole = REQUEST + b"\r\n\r\n"
    memory = HeadMemory()
    first = bring(memory, whole + b"hello", "what it came to")
    for length in (7, 10**17, 0, 5):
        data = whole.replace(b": 5", b": %d" % length)
        kept = memory.find(data + b"rest")
        assert kept is not None
        assert (kept.head, kept.known) == (first, "what it came to")
        scanner = RequestScanner(4096, 100)
        head = scanner.adopt(kept)
        assert head is not first
        assert scanner.read(data + b"rest") is head
        assert head == scan_request(data[:-4])
        assert scanner.end == len(data)
        assert first.content_length == 5
    # What is not the same is not found, or read anew all the same.
    for size in range(len(whole)):
        for other in (whole[:size] + b"~" + whole[size + 1 :], whole[:size]):
            kept = memory.find(other)
            if kept is not None:
                scanner = RequestScanner(4096, 100)
                head = scanner.adopt(kept)
                assert scanner.read(other) is not head
                assert b": ~" in other
    assert memory.find(b"") is None
    assert memory.find(b"\n\r\n\r") is None
    assert RequestScanner(4096, 100).remembered(None) is None


def test_so_many_are_kept_and_those_that_are_asked_for_longest() -> None:
    memory = HeadMemory()
    heads = [REQUEST + b"\r\nX-A: %d\r\n\r\n" % number for number in range(3 * MOST_HEADS)]
    bring(memory, heads[0], 0)
    memory.sweep()
    for number, head in enumerate(heads[1:], 1):
        assert memory.find(heads[0]) is not None, number
        bring(memory, head, number)
        assert len(memory) <= MOST_HEADS
    assert len(memory) == MOST_HEADS
    assert memory.find(heads[-1]) is not None
    assert memory.find(heads[1]) is None
    memory.sweep()
    assert memory.find(heads[-2]) is not None
    memory.sweep()
    assert [number for number, head in enumerate(heads) if memory.find(head) is not None] == [len(heads) - 2]
    bring(memory, heads[-2], "anew")
    assert len(memory) == 1
    found = memory.find(heads[-2])
    assert found is not None
    assert found.known == "anew"


def test_a_connection_reads_no_head_that_is_not_whole_or_too_large() -> None:
    whole = REQUEST + b"\r\n\r\n"
    for end in range(len(whole)):
        assert RequestScanner(4096, 100).read(whole[:end]) is None
    assert RequestScanner(len(whole), 4).read(whole) is not None
    assert RequestScanner(len(whole) - 1, 4).read(whole) is None
    assert RequestScanner(len(whole), 3).read(whole) is None
    assert ResponseScanner(4096, 4).read(whole) is None


def test_a_peer_that_varies_its_heads_is_no_longer_remembered() -> None:
    scanner = ResponseScanner(4096, 100)
    heads = [b"HTTP/1.1 200 OK\r\nX-N: %d\r\nContent-Length: 1\r\n\r\n" % n for n in range(20)]
    for head in heads:
        assert scanner.read(head) is not None
    assert scanner.read(heads[-1]) is not scanner.read(heads[-1])
    large = ResponseScanner(8192, 100)
    head = b"HTTP/1.1 200 OK\r\nX-N: " + b"n" * 3000 + b"\r\nContent-Length: 1\r\n\r\n"
    assert large.read(head) is not large.read(head), "a large head is not kept"


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"a", b"x" * 15]), max_size=24).map(b"".join),
    st.integers(0, 40),
    st.integers(0, 400),
    st.sampled_from([bytes, bytearray]),
)
def test_where_a_head_ends(data: bytes, start: int, size: int, kind: type[bytes] | type[bytearray]) -> None:
    assert head_end(kind(data), start, start + size) == data.find(b"\r\n\r\n", start, start + size)
