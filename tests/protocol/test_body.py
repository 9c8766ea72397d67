"""Where a body ends: each source says the same of the same bytes, however they come; and what is behind the end is not its."""

from __future__ import annotations

import pytest

from fastgw.accel.chunks import FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.protocol.body import (
    CHUNKS,
    PLAIN,
    ChunkedSource,
    CloseSource,
    LengthSource,
    NoSource,
    Source,
    source_of,
)
from fastgw.protocol.http1.client import parse_response
from tests.protocol.splits import ways

CHUNKED = b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
TRAILERS = b"3\r\nhel\r\n2\r\nlo\r\n0\r\nx-a: 1\r\n\r\n"


def fed(source: Source, pieces: list[bytes]) -> bytes:
    return b"".join(source.feed(piece) for piece in pieces)


@pytest.mark.parametrize("tail", [b"", b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize(
    ("make", "data"),
    [(lambda: LengthSource(5), b"hello"), (ChunkedSource, CHUNKED), (ChunkedSource, TRAILERS)],
    ids=["length", "chunks", "trailers"],
)
def test_a_body_ends_where_it_says_however_it_is_split(make: type[Source], data: bytes, tail: bytes) -> None:
    for pieces in ways(data + tail):
        source = make()
        assert fed(source, pieces) == b"hello"
        assert (source.done, source.rest) == (True, tail)
        assert source.spoiled is bool(tail), "a connection with bytes behind the end is of no use"


@pytest.mark.parametrize(
    ("make", "data"),
    [(lambda: LengthSource(5), b"hell"), (ChunkedSource, CHUNKED[:-1]), (CloseSource, b"hello")],
    ids=["length", "chunks", "close"],
)
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_an_end_of_the_connection_completes_only_what_has_no_other(make: type[Source], data: bytes, how: str) -> None:
    for pieces in ways(data):
        source = make()
        fed(source, pieces)
        assert not source.done
        whole = how == "fin" and isinstance(source, CloseSource)
        assert (source.eof(how), source.done, source.spoiled) == (whole, whole, True)


def test_an_end_behind_the_end_of_the_message_is_none_of_its_business() -> None:
    source = LengthSource(2)
    source.feed(b"ok")
    assert source.eof("reset")
    assert source.spoiled


def test_a_length_counts_down_and_can_be_used_again() -> None:
    source = LengthSource(5)
    piece = b"hel"
    assert source.feed(piece) is piece
    assert (source.length, source.left, source.done, source.aligned) == (5, 2, False, True)
    source.feed(b"loxx")
    assert (source.left, source.done, source.aligned, source.spoiled) == (0, True, False, True)
    source.begin(3)
    assert (source.length, source.left, source.done, source.rest) == (3, 3, False, b"")
    assert (source.aligned, source.spoiled) == (True, False)
    source.begin(0)
    assert source.done


def test_a_read_of_whole_chunks_is_aligned_and_may_go_on_as_it_is() -> None:
    source = ChunkedSource()
    event = b"data: {}\n\n"
    assert source.passes(None, b"a\r\n" + event + b"\r\n") == len(event)
    assert source.passes(SseScanner(False), b"a\r\n" + event + b"\r\n") >= 0
    source = ChunkedSource()
    assert (source.feed(b"3\r\nhel\r\n"), source.aligned) == (b"hel", True)
    assert (source.feed(b"3\r\nhe"), source.aligned) == (b"he", False)
    assert source.passes(None, b"l\r\n") == 0, "it stands within a chunk"
    assert (source.feed(b"l\r\n"), source.aligned) == (b"l", False)
    assert (source.feed(b"1\r\nx\r\n0\r\n\r\n"), source.aligned, source.done) == (b"x", True, True)


def test_what_passes_is_read() -> None:
    """What went on as it is counts as read: the body ends where it would have ended otherwise."""
    source = ChunkedSource()
    assert source.passes(None, b"3\r\nhel\r\n") == 3
    assert source.feed(b"0\r\n\r\n") == b""
    assert source.done


@pytest.mark.parametrize("data", [b"z\r\n", b"3\r\nhelp", b"0\r\nX\r\n"])
def test_frames_that_cannot_be_read_spoil_the_connection_and_bring_what_came_before(data: bytes) -> None:
    source = ChunkedSource()
    source.feed(b"1\r\na\r\n")
    with pytest.raises(FramingError) as error:
        source.feed(b"1\r\nb\r\n" + data)
    assert error.value.payload.startswith(b"b")
    assert source.spoiled
    assert not source.done


def test_where_there_is_no_body_all_bytes_are_too_many() -> None:
    source = NoSource()
    assert (source.done, source.feed(b""), source.spoiled) == (True, b"", False)
    assert (source.feed(b"x"), source.spoiled, source.rest) == (b"", True, b"x")


def answered(fields: bytes, status: bytes = b"200 OK") -> ResponseHead:
    return parse_response(b"HTTP/1.1 " + status + b"\r\n" + fields)


LENGTH = b"content-length: 3"
CODED = b"transfer-encoding: chunked"


@pytest.mark.parametrize(
    ("method", "head", "kind", "frames", "length"),
    [
        (b"POST", answered(LENGTH), LengthSource, PLAIN, 3),
        (b"POST", answered(b"content-length: 0"), LengthSource, PLAIN, 0),
        (b"GET", answered(CODED), ChunkedSource, CHUNKS, -1),
        (b"GET", answered(b"x-a: 1"), CloseSource, PLAIN, -1),
        (b"HEAD", answered(LENGTH), NoSource, PLAIN, -1),
        (b"HEAD", answered(CODED), NoSource, PLAIN, -1),
        (b"POST", answered(LENGTH, b"304 Not Modified"), NoSource, PLAIN, -1),
        (b"POST", answered(CODED, b"204 No Content"), NoSource, PLAIN, -1),
    ],
    ids=["length", "nothing", "chunks", "close", "HEAD", "HEAD with chunks", "304", "204"],
)
def test_what_reads_an_answer(method: bytes, head: ResponseHead, kind: type[Source], frames: int, length: int) -> None:
    spare = LengthSource(7)
    for source in (source_of(head, method), source_of(head, method, spare)):
        assert (type(source), source.frames, source.length) == (kind, frames, length)
        assert source.done is (kind is NoSource or length == 0)
    assert (source is spare) is (kind is LengthSource), "the usual one costs no object"
