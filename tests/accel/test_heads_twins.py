"""The compiled scanner of heads against the Python one, and all four readers against each other, over made-up heads.

Whole heads from a grammar with a few bytes changed; fed whole, byte by byte and cut at random (see ``tests/fuzz/heads.py``).
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.lines import REQUEST_FIELDS, REQUEST_LINES, RESPONSE_FIELDS, RESPONSE_LINES

pytestmark = pytest.mark.both_twins

BUDGET = settings()  # as many as the profile has: tests/conftest.py
END = b"\r\n\r\n"

BLANKS = st.sampled_from([b"", b" ", b"  ", b"\t", b" \t", b"\x0b"])
VALUES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"5", b"0" * 17 + b"5", b"1" * 18, b"1" * 19, b"chunked", b"close", b"keep-alive", b"Bearer x",
        b"bearer  y z", b"100-continue", b"a:80", b"[::1]", b"application/json", b"text/event-stream;x", b"timeout=5, max=7",
        b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00", b"01-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00-x",
        b"00-" + b"0" * 32 + b"-" + b"2" * 16 + b"-00"]),
)  # fmt: skip
EDITS = st.sampled_from([b"", b" ", b"\t", b"\r", b"\n", b"\r\n", b":", b"_", b",", b"\x00", b"\x7f", b"\x80", b"5", b"A", END])


@pytest.fixture(scope="module")
def target() -> Any:
    return importlib.import_module("tests.fuzz.heads")


def recased(line: bytes, how: int) -> bytes:
    name, colon, value = line.partition(b":")
    return (name.upper(), name.lower(), name.title(), name.replace(b"-", b"_"), name)[how] + colon + value


def names(lines: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    return st.sampled_from(sorted({line.partition(b":")[0] for line in lines}))


def fields(lines: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    made = st.tuples(names(lines), BLANKS, VALUES, BLANKS).map(lambda parts: parts[0] + b":" + b"".join(parts[1:]))
    return st.tuples(st.one_of(st.sampled_from(lines), made), st.integers(0, 4)).map(lambda parts: recased(*parts))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A head, perhaps not whole, perhaps with a few bytes changed, perhaps with something behind it."""
    if draw(st.booleans()):
        lines = [draw(st.sampled_from(REQUEST_LINES)), b"Host: a", *draw(st.lists(fields(REQUEST_FIELDS), max_size=6))]
    else:
        lines = [draw(st.sampled_from(RESPONSE_LINES)), *draw(st.lists(fields(RESPONSE_FIELDS), max_size=6))]
    data = b"\r\n".join(lines)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(EDITS) + data[at + draw(st.integers(0, 2)) :]
    return data + draw(st.sampled_from([b"", END, END + b"hello", END + END, END + lines[0] + END]))


@BUDGET
@given(data=messages())
def test_every_reader_says_the_same(target: Any, data: bytes) -> None:
    target.check(data)


@BUDGET
@given(data=st.binary(max_size=80), start=st.sampled_from([b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n"]))
def test_so_they_do_of_any_bytes(target: Any, data: bytes, start: bytes) -> None:
    target.check(start + data)


@BUDGET
@given(name=st.binary(min_size=1, max_size=300), value=st.binary(max_size=20))
def test_so_they_do_of_any_field(target: Any, name: bytes, value: bytes) -> None:
    for start in (b"GET / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n"):
        target.scan_alike(start + name + b": " + value)


@BUDGET
@given(
    said=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 10**19), st.sampled_from([b"", b"x", b"GET / HTTP/1.1"])), max_size=12
    )
)
def test_what_one_connection_says_in_turn(target: Any, said: list[tuple[int, int, bytes]]) -> None:
    heads = (
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-A: 1", b"POST /a HTTP/1.1\r\ncontent-length:\t%d\r\nHost: a",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d ", b"POST /a?%d HTTP/1.1\r\nHost: a",
    )  # fmt: skip
    one, two = target.PYTHON.RequestScanner(200, 10), target.NATIVE.RequestScanner(200, 10)
    for which, number, tail in said:
        data = heads[which] % number + END + tail
        mine, theirs = one.read(data), two.read(data)
        assert repr(mine) == repr(theirs)
        assert mine is None or one.end == two.end == len(data) - len(tail)


def test_the_twins_write_themselves_alike_and_compare_by_field(target: Any) -> None:
    for twin in (target.PYTHON, target.NATIVE):
        one, two = (twin.scan_request(b"GET /a?b HTTP/1.1\r\nHost: a\r\nX-Request-Id: r") for _ in range(2))
        assert one == two
        assert one is not two
        two.content_length = 5
        assert one != two
        assert one != 5
        with pytest.raises(TypeError):
            hash(one)
    assert repr(target.PYTHON.scan_request(b"PUT / HTTP/1.0")) == repr(target.NATIVE.scan_request(b"PUT / HTTP/1.0"))
