"""Request heads: limits (B1, B3), and many requests through one reader."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.heads import RequestHead
from fastgw.errors import GatewayError
from fastgw.protocol.http1.server import RequestReader, parse_request
from tests.protocol.http1.judge import post, read
from tests.protocol.splits import cut, ways

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
