"""What touches each byte of a WebSocket's payload, over either twin."""

from __future__ import annotations

import pytest

from fastgw.accel.masks import framed, unmasked

KEY = b"\x37\xfa\x21\x3d"  # of RFC 6455 §5.7, whose examples are the first rows


@pytest.mark.parametrize(
    ("first", "payload", "key", "frame"),
    [
        (0x81, b"Hello", b"", b"\x81\x05Hello"),
        (0x81, b"Hello", KEY, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"),
        (0x82, b"", KEY, b"\x82\x80" + KEY),
        (0x82, b"a" * 125, b"", b"\x82\x7d" + b"a" * 125),
        (0x82, b"a" * 126, b"", b"\x82\x7e\x00\x7e" + b"a" * 126),
        (0x82, b"a" * 65535, b"", b"\x82\x7e\xff\xff" + b"a" * 65535),
        (0x82, b"a" * 65536, b"", b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + b"a" * 65536),
    ],
)
def test_a_frame_has_the_shortest_head(first: int, payload: bytes, key: bytes, frame: bytes) -> None:
    assert framed(first, b"xy" + payload + b"z", 2, 2 + len(payload), key) == frame


@pytest.mark.parametrize("size", [*range(20), 63, 64, 65, 4099])
def test_masking_twice_is_nothing_wherever_it_is_split(size: int) -> None:
    payload = bytes(at * 7 & 255 for at in range(size))
    masked = bytes(byte ^ KEY[at & 3] for at, byte in enumerate(payload))
    assert unmasked(payload, 0, size, KEY, 0) == masked
    for cut in {0, 1, 2, 3, 5, 8, size // 2, size}:
        if cut <= size:
            assert unmasked(masked, 0, cut, KEY, 0) + unmasked(masked, cut, size, KEY, cut) == payload
    assert unmasked(payload, 0, size, b"", 3) == payload
