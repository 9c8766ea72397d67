"""Frames of HTTP/2: the compiled cutter, the Python one and hyperframe, however they come; and field blocks cut in fields."""

from __future__ import annotations

from typing import Any

from hpack import Decoder, HPACKError
from hyperframe.frame import Frame

from tests.fuzz.sides import native, python, some_ways
from tests.support.h2 import frames as f

FRAMES = "fastgw.accel.frames"
NATIVE = native(FRAMES)
PYTHON = python(FRAMES)

MOST = 8  # fields, so that there are often more
MOST_BYTES = 16_384

PARTS = (
    f.settings(), f.settings(INITIAL_WINDOW_SIZE=9), f.settings_ack(), f.ping(), f.window(0, 5), f.window(3, 1), f.rst(1),
    f.goaway(3), f.goaway(3, debug=b"why"), f.priority(3, 1), f.headers(1), f.headers(1, end=True, pad=3),
    f.headers(3, depends_on=1), f.headers(5, whole=False), f.continuation(5, b"\x82"), f.data(1, b"hello"),
    f.data(1, b"", end=True), f.data(1, b"hello", pad=4), f.data(1, b"", pad=0), f.raw(0x42, 0xFF, 7, b"x"),
    f.raw(0, 0, 1 << 31 | 1, b"x"), f.raw(0, 0, 1, b"", 16_385), f.raw(6, 0, 0, b"", 16_384), f.raw(1, 4, 1, b"x" * 300),
    b"\x82\x86\x84\x41\x01a", b"\x40\x01a\x01b", b"\x10\x01a\x7f\x80\x01", b"\x0f\x0d\x015",
    b"\x00" + f.huffman(b"a") + b"\x00",
    b"\xff\x80\x80\x80\x80\x01", b"\x20\x82", b"\x82\x20", b"\x7f\xff\x7f\x01a", b"\x00\x7f",
)  # fmt: skip


def seeds() -> list[bytes]:
    return [*PARTS, *(part + f.data(1, b"next") + f.ping() for part in PARTS)]


def words() -> list[bytes]:
    return [*PARTS, b"\0\0\0\0", b"\0\x40\0", b"\0\x40\1"]


def check(data: bytes) -> None:
    told = whole(data)
    for pieces in some_ways(data):
        for twin in (NATIVE, PYTHON):
            assert run(twin, pieces) == told, (twin, pieces)
    parts = NATIVE.cut(data, MOST)
    assert parts == PYTHON.cut(data, MOST), data
    if parts is not None:
        assert b"".join(parts) == data
        each_means_the_same(data, parts)


def whole(data: bytes) -> list[tuple[int, int, int, bytes, bool]]:
    """Frames by hyperframe's reading of their headers: kind, flags, stream, payload, whether it is whole. A frame but DATA is
    looked at when it is; nothing is behind one that is too large."""
    found: list[tuple[int, int, int, bytes, bool]] = []
    while len(data) >= 9:
        kind, flags = data[3], data[4]
        # (By itself it refuses some kinds on some streams; one that it does not know may be anywhere.)
        frame, size = Frame.parse_frame_header(memoryview(data[:3] + b"\x42" + data[4:9]))
        stream = frame.stream_id
        payload, rest = data[9 : 9 + size], data[9 + size :]
        if size > MOST_BYTES:
            return [*found, (kind, flags, stream, b"too large", False)]
        done = len(payload) == size
        if not done and (kind or flags & 8 or not payload):
            break
        found.append((kind, flags, stream, payload, done))
        if not done:
            break
        data = rest
    return found


def run(twin: Any, pieces: list[bytes]) -> list[tuple[int, int, int, bytes, bool]]:
    reader = twin.FrameReader()
    found: list[tuple[int, int, int, bytes, bool]] = []
    goes_on = False
    for piece in pieces:
        reader.feed(piece)
        while reader.next():
            if reader.oversized:
                return [*found, (reader.kind, reader.flags, reader.stream, b"too large", False)]
            payload = reader.payload()
            assert len(payload) == reader.stop - reader.start
            if goes_on:
                payload = found.pop()[3] + payload
            else:
                assert reader.kind == 0 or reader.frame()[9:] == payload
            found.append((reader.kind, reader.flags, reader.stream, payload, reader.whole))
            goes_on = not reader.whole
            assert len(payload) == reader.size or goes_on
        assert reader.held < MOST_BYTES + 9
    return found


def each_means_the_same(block: bytes, parts: list[bytes]) -> None:
    """Where hpack reads the block without a table, it reads each field by itself as the same."""
    try:
        all_of_it = _read(block)
        apart = [_read(part) for part in parts]
    except HPACKError:
        return
    assert [field for fields in apart for field in fields] == all_of_it, block


def _read(block: bytes) -> list[tuple[bytes, bytes]]:
    decoder = Decoder()
    decoder.header_table_size = 0
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
