"""Events come out of a stream the same however its bytes were cut, and one without an end is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.bench.events import MAX_EVENT_BYTES, EventReader, TooLong

# What WHATWG's grammar allows: line ends of all kinds, comments, names, several lines of data, and data without a blank.
STREAM = (
    b"data: one\n\n: a comment\n\nevent: delta\r\ndata: two\r\ndata: 2\r\n\r\ndata:three\rdata: lines\r\rid: 4\n\ndata\n\n"
    b"data: mixed\n\r\ndata:  blank\n\ndata: [DONE]\n\n"
)

pytestmark = pytest.mark.once
EVENTS = [b"one", b"two\n2", b"three\nlines", b"", b"mixed", b" blank", b"[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, len(STREAM)])
def test_the_cut_makes_no_difference(size: int) -> None:
    reader = EventReader()
    found = [data for at in range(0, len(STREAM), size) for data in reader.feed(STREAM[at : at + size])]
    assert found == EVENTS
    assert not reader.unfinished


def test_the_same_in_two_pieces() -> None:
    for cut in range(1, len(STREAM)):
        reader = EventReader()
        assert reader.feed(STREAM[:cut]) + reader.feed(STREAM[cut:]) == EVENTS, cut


def model(text: bytes) -> list[bytes]:
    """The events of a whole stream, said as simply as it can be."""
    found: list[bytes] = []
    data: list[bytes] = []
    for line in text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            found.append(b"\n".join(data))
            data = []
    return found


WORDS = (b"data: ", b"data", b":", b" ", b"x", b"\r", b"\n", b"\n\n", b"\r\n", b"id: 1\n")
PIECES = st.lists(st.sampled_from(WORDS), max_size=30)


@given(st.lists(PIECES.map(b"".join), max_size=8))
def test_whatever_comes_is_read_as_the_whole_would_be(reads: list[bytes]) -> None:
    reader = EventReader()
    assert [data for read in reads for data in reader.feed(read)] == model(b"".join(reads))


@pytest.mark.parametrize("begun", [b"d", b"data: half", b"data: line\n", b": a comment\n"])
def test_what_has_begun_is_unfinished(begun: bytes) -> None:
    reader = EventReader()
    assert reader.feed(b"data: one\n\n" + begun) == [b"one"]
    assert reader.unfinished


LONG = b"data: " + b"x" * (MAX_EVENT_BYTES - 8) + b"\n\n"


@pytest.mark.parametrize("piece", [b"x" * 4096, b"data: " + b"x" * 100 + b"\n", b": ping\n", LONG[:6] + b"x" + LONG[6:]])
def test_an_event_without_an_end_is_given_up(piece: bytes) -> None:
    reader = EventReader()
    with pytest.raises(TooLong):
        any(reader.feed(piece) for _ in range(1 + MAX_EVENT_BYTES // len(piece)))


def test_the_longest_event_is_the_longest_however_it_comes() -> None:
    assert EventReader().feed(LONG) == [LONG[6:-2]]
    reader = EventReader()
    assert [data for at in range(0, len(LONG), 65_536) for data in reader.feed(LONG[at : at + 65_536])] == [LONG[6:-2]]
