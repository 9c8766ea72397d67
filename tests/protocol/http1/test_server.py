"""Request heads: where they end, and bytes where they must not be (A1 to A17)."""

from __future__ import annotations

import pytest

from fastgw.accel.heads import scan_request
from tests.protocol.http1.judge import PLAIN, accept, check, post


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
