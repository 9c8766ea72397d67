"""Frames without a mask are found, wherever they stand and however they come."""

from __future__ import annotations

import random

import pytest

from fastgw.protocol.masking import MaskWatch
from tests.support.ws import BINARY, PING, TEXT, frame

GOOD = [
    frame(TEXT, b""), frame(TEXT, b"x"), frame(PING, b"y" * 125), frame(TEXT, b"z" * 126), frame(BINARY, b"w" * 70_000),
    frame(TEXT, b"a", fin=False), frame(0, b"b"),
]  # fmt: skip


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 1 << 20])
def test_masked_frames_pass_whole_in_whatever_pieces(size: int) -> None:
    data = b"".join(GOOD * 2)
    watch = MaskWatch()
    passed = [watch.take(piece) for piece in pieces(data, size)]
    assert all(on for _, on in passed)
    assert b"".join(one for one, _ in passed) == data


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 1 << 20])
@pytest.mark.parametrize("bad", [frame(TEXT, b"q", masked=False), frame(TEXT, b"q" * 300, masked=False), b"\x81\x00"])
def test_what_stands_before_one_without_a_mask_passes_and_no_byte_of_it(size: int, bad: bytes) -> None:
    random.seed(size)
    good = b"".join(random.sample(GOOD, len(GOOD)))
    watch = MaskWatch()
    passed = b""
    for piece in pieces(good + bad, size):
        one, on = watch.take(piece)
        passed += one
        if not on:
            break
    assert not on
    assert passed == good
