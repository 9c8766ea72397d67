"""Huffman's code of field blocks, held against the ``hpack`` package, which reads and writes it by tables of its own."""

from __future__ import annotations

import contextlib

import pytest
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.huffman import unpacked

pack = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode


def bits(*codes: tuple[int, int]) -> bytes:
    """Codes and their lengths, filled up with ones."""
    whole = "".join(f"{code:0{length}b}" for code, length in codes)
    whole += "1" * (-len(whole) % 8)
    return int(whole, 2).to_bytes(len(whole) // 8, "big")


@given(st.binary(max_size=3000))
def test_what_they_write(value: bytes) -> None:
    assert unpacked(pack(value)) == value


@pytest.mark.parametrize("symbol", range(256))
def test_each_symbol_wherever_it_begins(symbol: int) -> None:
    for before in range(9):
        value = b"0" * before + bytes((symbol,)) + b"a"
        assert unpacked(pack(value)) == value


PACKED = st.binary(max_size=20).map(pack)


@given(st.one_of(st.binary(max_size=60), st.tuples(PACKED, st.binary(max_size=5)).map(b"".join)))
def test_any_bytes_mean_the_same_to_both(value: bytes) -> None:
    found = expected = None
    with contextlib.suppress(ValueError):
        found = unpacked(value)
    with contextlib.suppress(HPACKDecodingError):
        expected = bytes(decode_huffman(value))
    assert found == expected


LETTER = (REQUEST_CODES[ord("a")], 5)
END = (REQUEST_CODES[256], REQUEST_CODES_LENGTH[256])


@pytest.mark.parametrize(
    "value",
    [
        bits(END),
        bits(LETTER, END),
        bits(END, LETTER, LETTER),
        bits(LETTER) + b"\xff",  # eleven bits that say nothing
        b"\xff",
        b"\xff\xff\xff",
        pack(b"\n")[:-1],  # a code cut off
        bits(LETTER, (0b110, 3))[:1],
        bits(LETTER, (0, 3)),
    ],
)
def test_what_is_none(value: bytes) -> None:
    with pytest.raises(ValueError, match="not in Huffman's code"):
        unpacked(value)


def test_what_it_may_end_with() -> None:
    for left in range(8):
        value = b"a" * next(count for count in range(8) if -5 * count % 8 == left)
        assert unpacked(pack(value)) == value
    assert unpacked(b"") == b""


def test_the_longest_that_five_bytes_can_say() -> None:
    assert unpacked(b"\0" * 65535) == b"0" * 104856
