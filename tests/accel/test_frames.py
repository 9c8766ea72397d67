"""The cutter of HTTP/2 frames: the same frames however they come, and never more held than one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.frames import HEADER_BYTES, MOST_FRAME_BYTES, FrameReader, bare, text
from fastgw.protocol.h2.hpack import HpackError, fields
from tests.support.twins import native_twin, python_twin

Found = tuple[int, int, int, bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def read(*pieces: bytes) -> list[Found]:
    """All frames in these reads, the parts of one put together again."""
    reader = FrameReader()
    found: list[Found] = []
    parts: list[bytes] = []
    for piece in pieces:
        reader.feed(piece)
        while reader.next():
            if reader.oversized:
                return [*found, (-1, reader.kind, reader.size, b"")]
            payload = reader.payload()
            assert len(payload) == reader.stop - reader.start
            parts.append(payload)
            if reader.whole:
                whole = b"".join(parts)
                assert len(whole) == reader.size
                found.append((reader.kind, reader.flags, reader.stream, whole))
                if len(parts) == 1:
                    assert reader.frame()[HEADER_BYTES:] == whole
                parts.clear()
            else:
                assert reader.kind == 0
        assert reader.held <= HEADER_BYTES + MOST_FRAME_BYTES
    return found


FRAMES = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=300))


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 400), max_size=40))
def test_however_they_come(frames: list[Found], cuts: list[int]) -> None:
    data = b"".join(frame(*one) for one in frames)
    pieces = []
    at = 0
    for cut in cuts:
        pieces.append(data[at : at + cut])
        at += cut
    pieces.append(data[at:])
    assert read(*[piece for piece in pieces if piece]) == frames


def test_byte_by_byte() -> None:
    frames = [(0, 1, 5, b"payload"), (1, 4, 7, b"block"), (0, 8, 9, b"\x02ab\0\0"), (0, 0, 1, b""), (4, 0, 0, b"")]
    data = b"".join(frame(*one) for one in frames)
    assert read(*[data[at : at + 1] for at in range(len(data))]) == frames


def test_a_long_one_goes_on_as_it_comes() -> None:
    reader = FrameReader()
    payload = bytes(range(256)) * 64
    data = frame(0, 1, 3, payload)
    reader.feed(data[:5000])
    assert reader.next()
    assert (reader.stream, reader.stop - reader.start, reader.whole, reader.held) == (3, 5000 - HEADER_BYTES, False, 0)
    assert not reader.next()
    reader.feed(data[5000:])
    assert reader.next()
    assert (reader.whole, reader.flags) == (True, 1)
    assert not reader.next()


@pytest.mark.parametrize("kind", [0, 1, 9, 0xFE])
def test_the_largest_and_one_that_is_larger(kind: int) -> None:
    assert read(frame(kind, 0, 1, bytes(MOST_FRAME_BYTES))) == [(kind, 0, 1, bytes(MOST_FRAME_BYTES))]
    assert read(frame(4, 0, 0, b"") + frame(kind, 0, 1, bytes(MOST_FRAME_BYTES + 1))) == [
        (4, 0, 0, b""), (-1, kind, MOST_FRAME_BYTES + 1, b""),
    ]  # fmt: skip


def test_the_reserved_bit_is_not_looked_at() -> None:
    """RFC 9113 §4.1."""
    data = bytearray(frame(6, 0, 0, bytes(8)))
    data[5] |= 0x80
    assert read(bytes(data)) == [(6, 0, 0, bytes(8))]


IDS = (b"\x00\x0cx-request-id", b"\x40\x0cx-request-id")
LENGTHS = (b"\x0f\x0d", b"\x5c", b"\x1f\x0d")
VALUES = (b"0", b"17", b"9" * 18, b"9" * 19, b"7 ", b"", b"a-1", b"\xff", b"\x20", b"i" * 130)
OTHERS = (b"\x88", b"\x20", b"\x0f\x10\x02ab", b"\x0f\x0d\x82\x08\x5f", b"\x00\x01k\x01v", b"\xff\xff\xff\xff\x01")
OWN = st.one_of(st.sampled_from(VALUES), st.binary(max_size=4))
PARTS = st.one_of(
    st.tuples(st.sampled_from((*IDS, *LENGTHS)), OWN).map(lambda one: one[0] + text(one[1])),
    st.sampled_from(OTHERS),
    st.binary(max_size=3),
)


@given(st.lists(PARTS, max_size=8).map(b"".join))
def test_a_block_without_what_is_each_messages_own_says_the_same_of_the_rest(block: bytes) -> None:
    found, length = bare(block)
    if found == block:
        assert length == -1
        return
    try:
        before = fields(block)
    except HpackError as error:
        with pytest.raises(HpackError, match=str(error)):
            fields(found)
        return
    after = fields(found)
    assert [key for key, _ in before] == [key for key, _ in after]
    changed = [(key, value) for (key, value), (_, left) in zip(before, after, strict=True) if value != left]
    assert len({key for key, _ in changed}) == len(changed) <= 2
    assert {key for key, _ in changed} <= {b"content-length", b"x-request-id"}
    assert {value for key, value in changed if key == b"content-length" and int(value) == length} or length == -1


@pytest.mark.both_twins
@given(st.lists(PARTS, max_size=8).map(b"".join))
def test_both_twins_leave_out_the_same(block: bytes) -> None:
    assert native_twin("fastgw.accel.frames").bare(block) == python_twin("fastgw.accel.frames").bare(block)
