"""Fields of a head by their names: in any case, the first or all of them, and none that an engine does not get."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.protocol.http1.client import parse_response
from fastgw.protocol.http1.server import parse_request

REQUEST = (
    b"POST /x-a:1 HTTP/1.1\r\nHost: here\r\nX-First: one\r\nx-twice:\t a \t\r\nX-Tail-X-First: no\r\nX-TWICE: b\r\nX-Empty:\r\n"
    b"X-Colon: x-inner: y\r\nContent-Type: application/json\r\nOrigin: https://o\r\nAuthorization: Bearer secret\r\n"
    b"X-Api-Key: k2\r\nCookie: c=d\r\nX-Request-Id: r1\r\nContent-Length: 3\r\nX-Last: \xe9"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Model: m\r\nSet-Cookie: a\r\nset-cookie: b\r\n"
    b"X-Request-Id: theirs\r\nConnection: close"
)

ROWS: list[tuple[bytes, tuple[bytes, ...]]] = [
    (b"x-first", (b"one",)),
    (b"X-FIRST", (b"one",)),
    (b"x-twice", (b"a", b"b")),
    (b"x-empty", (b"",)),
    (b"x-colon", (b"x-inner: y",)),
    (b"x-last", (b"\xe9",)),
    (b"content-type", (b"application/json",)),
    (b"origin", (b"https://o",)),  # (the gateway reads it itself, and it goes on all the same)
    # Neither a part of a name, nor of a value, nor of the first line.
    (b"first", ()), (b"x-firs", ()), (b"x-inner", ()), (b"x-a", ()), (b"x-absent", ()),
    # No name.
    (b"", ()), (b"x-first: one\r\nx-twice", ()), (b"x-first:", ()), (b" x-first", ()),
    # What goes no further.
    (b"host", ()), (b"authorization", ()), (b"x-api-key", ()), (b"cookie", ()), (b"x-request-id", ()), (b"content-length", ()),
]  # fmt: skip


def request_head(text: bytes) -> RequestHead:
    return parse_request(text)


@pytest.mark.parametrize(("name", "values"), ROWS)
def test_fields_of_a_request(name: bytes, values: tuple[bytes, ...]) -> None:
    head = request_head(REQUEST)
    assert head.get_all(name) == values
    assert head.get(name) == (values[0] if values else None)


def test_what_goes_no_further_has_places_of_its_own() -> None:
    head = request_head(REQUEST)
    assert (head.credential, head.host, head.content_length) == (b"secret", b"here", 3)
    assert head.own == {b"cookie": b"c=d", b"origin": b"https://o", b"x-request-id": b"r1"}


@pytest.mark.parametrize(
    ("name", "values"),
    [(b"x-model", (b"m",)), (b"Set-Cookie", (b"a", b"b")), (b"x-request-id", ()), (b"connection", ()), (b"ok", ())],
)
def test_fields_of_a_response(name: bytes, values: tuple[bytes, ...]) -> None:
    head: ResponseHead = parse_response(RESPONSE)
    assert head.get_all(name) == values
    assert head.get(name) == (values[0] if values else None)


def test_a_head_without_fields() -> None:
    head = request_head(b"GET / HTTP/1.0")
    assert (head.forward, head.get(b"x"), head.get_all(b"x")) == (b"", None, ())


NAMES = st.sampled_from([b"X-A", b"x-a", b"X-B", b"x-a-b", b"A", b"x_c"])
VALUES = st.sampled_from([b"", b"x-a: 1", b"1", b"X-B:", b"\xe9", b"a  b"])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_all_fields_are_found_as_they_were_said(said: list[tuple[bytes, bytes]]) -> None:
    head = request_head(b"".join([b"GET / HTTP/1.0", *[b"\r\n%b: %b" % one for one in said]]))
    for asked in (b"x-a", b"X-b", b"X-A-B", b"a", b"x_C"):
        values = [value for name, value in said if name.lower() == asked.lower()]
        assert list(head.get_all(asked)) == values
        assert head.get(asked) == (values[0] if values else None)
