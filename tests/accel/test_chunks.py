"""The chunked coding: rows A8 and A9, every split, and h11 as the second reader."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.accel.chunks import ChunkScanner, FramingError
from fastgw.protocol.http1.reference import h11_verdict
from tests.protocol.splits import cut, ways

BUDGET = settings()  # as many as the profile has: tests/conftest.py


def read(pieces: list[bytes]) -> tuple[str, bytes, bytes]:
    """Verdict (``done``, ``more`` or ``bad``), payload before it, and what followed the body."""
    scanner = ChunkScanner()
    payload = b""
    rest = b""
    for piece in pieces:
        if scanner.done:
            rest += piece
            continue
        try:
            payload += scanner.feed(piece)
        except FramingError:
            return "bad", payload, b""
        rest += scanner.rest
    return ("done" if scanner.done else "more"), payload, rest


def feed_all(scanner: ChunkScanner, pieces: list[bytes]) -> None:
    for piece in pieces:
        scanner.feed(piece)


def accept(data: bytes, payload: bytes) -> None:
    for tail in (b"", b"x", b"0\r\n\r\n", b"\r\n"):
        for pieces in ways(data + tail, splits=24):
            assert read(pieces) == ("done", payload, tail)


def refuse(data: bytes) -> None:
    for tail in (b"", b"\r\n0\r\n\r\n"):
        for pieces in ways(data + tail, splits=24):
            assert read(pieces)[0] == "bad", pieces


@pytest.mark.parametrize(
    ("data", "payload"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc"),
        (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
        (b"00000005\r\nhello\r\n0000\r\n\r\n", b"hello"),
        (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        (b"5;a=b\r\nhello\r\n0;x\r\n\r\n", b"hello"),
        (b'5;a="b c;\xe9"\r\nhello\r\n0\r\n\r\n', b"hello"),
        (b"5\r\nhello\r\n0\r\nX-A: 1\r\nx-b:\r\n\r\n", b"hello"),
        (b"5;" + b"a" * 250 + b"\r\nhello\r\n0\r\n\r\n", b"hello"),
    ],
)
def test_bodies(data: bytes, payload: bytes) -> None:
    accept(data, payload)


@pytest.mark.parametrize(
    "size",
    [b"0x5", b"+5", b"-1", b"5_0", b" 5", b"5 ", b"5\t", b"", b"0" * 16 + b"5", b"1" * 17, b"10000000000000001",
        b"%x" % (2**64 + 1), b"8000000000000000",
     b"ffffffffffffffff", b"g", b"5h", b"\xd9\xa5", b"5;\x00", b"5;\x7f", b"5\x00", b"5 ;a", b";a=b", b"5\r", b"5;a\r",
     b"'5'", b"5,5", b"0x", b"5.0"],
)  # fmt: skip
def test_A8_chunk_size(size: bytes) -> None:
    refuse(size + b"\r\nhello\r\n0\r\n\r\n")
    refuse(b"3\r\nabc\r\n" + size + b"\r\nhello\r\n0\r\n\r\n")


def test_A8_the_largest_size_is_taken() -> None:
    scanner = ChunkScanner()
    assert scanner.feed(b"7fffffffffffffff\r\nabc") == b"abc"


@pytest.mark.parametrize(
    "extensions",
    [b';a="', b';a="x', b';a="x\\"', b';a="\\', b';a=x"', b';"', b';""', b';"a"', b';="a"', b';a=="x"',
     b';a="x"y', b';a="x" y', b';a="x";', b';a="x" ', b';a="x"\t', b';a="x";;b', b';a="x"=b', b';a="x""y"',
     b";a='\"", b';a b="x"', b';a="x";b=',
     b';a="x";b c', b';a=\xe9;b="x"', b';\xe9="x"', b';a="x";b="', b';;a="x"', b';a="x";b="y\\"'],
)  # fmt: skip
def test_a_quote_stands_where_the_grammar_has_it(extensions: bytes) -> None:
    """What ends a line for one reader could stand in another's string."""
    for before in (b"", b"5\r\nhello\r\n"):  # (and where this size was met before)
        for size in (b"5", b"5;x", b"0000000000000005"):
            refuse(before + size + extensions + b"\r\nhello\r\n0\r\n\r\n")
        refuse(before + b"0" + extensions + b"\r\n\r\n")


@pytest.mark.parametrize(
    "extensions",
    [b';a=""', b';a="x"', b';a="\\""', b';a="\\\\"', b';a="\\\t;=\\x\xff\t"', b'; a = "x" ;\tb;c=d ; e="\xe9"', b';a;b=""',
     b";!#$%&'*+-.^_`|~0=\"\"", b';a=";";b="="', b';a="' + b"x" * 240 + b'"'],
)  # fmt: skip
def test_quotes_of_the_grammar(extensions: bytes) -> None:
    for before, payload in ((b"", b"hello"), (b"5\r\nhello\r\n", b"hellohello")):
        accept(before + b"5" + extensions + b"\r\nhello\r\n0" + extensions + b"\r\n\r\n", payload)


@pytest.mark.parametrize("size", [b"5;" + b"a" * 400, b"1" * 300, b"5;" + b"a" * 256])
def test_A8_a_size_line_is_bounded(size: bytes) -> None:
    refuse(size + b"\r\nhello\r\n0\r\n\r\n")
    scanner = ChunkScanner()
    with pytest.raises(FramingError):  # before any line end is seen
        feed_all(scanner, [size[i : i + 1] for i in range(len(size))])


@pytest.mark.parametrize(
    "data",
    [
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\rX0\r\n\r\n",
        b"5\r\nhello\nX0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\rhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"0\r\n\rX",
        b"0\r\nX\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: b\rc\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n: b\r\n\r\n",
        b"0\r\nA: \x00\r\n\r\n",
        b"0\r\nA\xe9: b\r\n\r\n",
        b"0\r\nA: " + b"b" * 9000 + b"\r\n\r\n",
        b"0\r\n" + b"A: bcd\r\n" * 1100 + b"\r\n",
    ],
)
def test_A9_line_ends_and_trailers(data: bytes) -> None:
    expected = read([data])[0]
    assert expected == "bad"
    for pieces in ways(data, splits=24):
        assert read(pieces)[0] == "bad"


@BUDGET
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=10),
    st.binary(max_size=8))
def test_any_chunks_in_any_split(chunks: list[bytes], at: list[int], tail: bytes) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    assert read(cut(data + tail, at)) == ("done", b"".join(chunks), tail)


@BUDGET
@given(st.lists(st.sampled_from([b"5\r\nhello\r\n", b"0\r\n", b"\r\n", b"5", b";a", b"\n", b"\r", b"hello", b"A: b\r\n",
    b"ff", b" ", b"0\r\n\r\n"]), max_size=7),
       st.lists(st.integers(0, 60), max_size=6))  # fmt: skip
def test_any_bytes_get_one_verdict_and_h11_reads_no_more_than_we_do(parts: list[bytes], at: list[int]) -> None:
    data = b"".join(parts)
    whole = read([data])
    assert read([data[i : i + 1] for i in range(len(data))])[0] == whole[0]
    assert read(cut(data, at) if data else [])[0] == whole[0]
    if whole[0] != "done":
        return
    theirs = h11_verdict(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    if theirs.ok:
        assert (theirs.complete, theirs.body, theirs.rest) == (True, whole[1], whole[2])


def test_aligned_says_when_the_same_bytes_are_clean_chunks() -> None:
    def after(*pieces: bytes) -> tuple[bool, bool]:
        scanner = ChunkScanner()
        for piece in pieces:
            scanner.feed(piece)
        return scanner.aligned, scanner.whole

    assert after(b"5\r\nhello\r\n") == (True, True)
    assert after(b"5\r\nhello\r\n", b"5\r\nhello\r\n") == (True, True), "the second one takes the fast path"
    assert after(b"5\r\nhello\r\n2\r\nab\r\n") == (True, True)
    assert after(b"5\r\nhello\r\n0\r\n\r\n") == (True, False)
    assert after(b"5\r\nhello\r\n0\r\n\r\nrest") == (True, False)
    assert after(b"5\r\nhel") == (False, False)
    assert after(b"5\r\nhel", b"lo\r\n") == (False, True)
    assert after(b"5\r\nhel", b"lo\r\n5\r\nhello\r\n") == (False, True)
    assert after(b"5\r\nhello\r\n5") == (False, False)
    assert after(b"5\r\nhello\r\n5\r\n") == (False, False)
    assert after(b"5\r\nhello\r") == (False, False)
    assert after(b"5;a\r\nhello\r\n") == (False, True)
    assert after(b"0\r\nA: b\r\n\r\n") == (False, False)
    assert after(b"0\r\n") == (False, False)


def test_payload_of_one_whole_chunk() -> None:
    scanner = ChunkScanner()
    for _ in range(3):
        assert scanner.feed(b"c\r\ndata: {}\r\n\r\n\r\n") == b"data: {}\r\n\r\n"
        assert scanner.aligned


def test_payload_before_a_fault_is_told() -> None:
    with pytest.raises(FramingError) as fault:
        ChunkScanner().feed(b"5\r\nhello\r\n1\r\n!\r\nzz\r\n")
    assert fault.value.payload == b"hello!"


def test_trailer_names_are_told() -> None:
    scanner = ChunkScanner()
    scanner.feed(b"0\r\nX-A: 1\r\nHOST: b\r\n\r\n")
    assert scanner.trailers == [b"x-a", b"host"]
    assert scanner.lines == b"X-A: 1\r\nHOST: b\r\n"


def test_tiny_chunks_take_linear_time() -> None:
    def seconds(count: int) -> float:
        data = b"1\r\na\r\n" * count
        scanner = ChunkScanner()
        start = time.process_time()
        assert len(scanner.feed(data)) == count
        for i in range(0, len(data), 7):
            scanner.feed(data[i : i + 7])
        return time.process_time() - start

    seconds(1000)
    assert seconds(40_000) < 40 * max(seconds(4_000), 0.002)
