"""Request heads: the fields that are the gateway's own business (A24, D1 to D12)."""

from __future__ import annotations

import itertools

import pytest

from tests.protocol.http1.judge import accept, check, post

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
    assert head.forward == b"", "what of a handshake goes on is written anew"
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
        ([b"Api-Key: a"], b"a"),
        ([b"api-key: a", b"Authorization: Bearer b"], b"b"),
        ([b"api-key: a", b"x-api-key: a"], None),
        ([b"api-key: a", b"api-key: a"], None),
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
