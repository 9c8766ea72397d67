"""Field blocks, held against the ``hpack`` package: it reads what we write, we what it writes, and both refuse the same."""

from __future__ import annotations

import contextlib

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.frames import cut, text
from fastgw.protocol.h2.hpack import (
    MOST_FIELDS,
    MOST_LIST_BYTES,
    NO_TABLE,
    HpackError,
    TooLong,
    field,
    fields,
    integer,
    lines,
)

NAMES = st.sampled_from([b":method", b":path", b":status", b"accept", b"content-type", b"cookie", b"x-a", b"x-" + b"n" * 130])
PAIRS = st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=20)


def theirs(block: bytes) -> list[tuple[bytes, bytes]]:
    decoder = hpack.Decoder()
    decoder.header_table_size = 0
    decoder.max_allowed_table_size = 0
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


@given(PAIRS)
def test_they_read_what_we_write(pairs: list[tuple[bytes, bytes]]) -> None:
    assert theirs(NO_TABLE + b"".join(field(*pair) for pair in pairs)) == pairs


@given(PAIRS, st.booleans())
def test_we_read_what_they_write(pairs: list[tuple[bytes, bytes]], packed: bool) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    assert fields(encoder.encode(pairs, huffman=packed)) == pairs


@given(st.binary(max_size=60))
def test_any_bytes_mean_the_same_to_both(block: bytes) -> None:
    """But for what is much longer than anything good can be, which we refuse earlier."""
    ours: list[tuple[bytes, bytes]] | None = None
    found: list[tuple[bytes, bytes]] | None = None
    with contextlib.suppress(HpackError):
        ours = fields(block)
    with contextlib.suppress(hpack.HPACKError):
        found = theirs(block)
    assert ours == found


@given(st.integers(0, 2**24), st.integers(1, 8))
def test_integers(value: int, bits: int) -> None:
    assert hpack.hpack.decode_integer(integer(value, bits, 0), bits) == (value, len(integer(value, bits, 0)))


def test_lines_are_fields_in_lower_case() -> None:
    block = lines(b"Content-Type: a/b\r\nX-Custom:  spaced \r\nAuthorization: Bearer key\r\n")
    assert theirs(block) == [(b"content-type", b"a/b"), (b"x-custom", b"spaced"), (b"authorization", b"Bearer key")]


@pytest.mark.parametrize("name", [b"api-key", b"authorization", b"cookie", b"x-api-key"])
def test_a_secret_is_never_to_be_indexed(name: bytes) -> None:
    """RFC 7541 §7.1.3: by nobody who passes it on, either."""
    [found] = hpack.Decoder().decode(field(name, b"secret"), raw=True)
    assert isinstance(found, hpack.NeverIndexedHeaderTuple)
    [found] = hpack.Decoder().decode(field(b"x-other", b"value"), raw=True)
    assert not isinstance(found, hpack.NeverIndexedHeaderTuple)


def test_too_long_and_too_many() -> None:
    value = b"v" * (MOST_LIST_BYTES - 32 - 3)
    assert fields(field(b"x-a", value)) == [(b"x-a", value)]
    with pytest.raises(TooLong):
        fields(field(b"x-a", value + b"v"))
    assert len(fields(b"\x88" * MOST_FIELDS)) == MOST_FIELDS
    with pytest.raises(TooLong):
        fields(b"\x88" * (MOST_FIELDS + 1))


def test_long_strings() -> None:
    assert text(b"x" * 126)[:1] == b"\x7e"
    assert text(b"x" * 127)[:2] == b"\x7f\x00"


@given(st.one_of(st.binary(max_size=80), PAIRS.map(lambda pairs: b"".join(field(*pair) for pair in pairs))))
def test_a_block_is_its_fields_one_by_one(block: bytes) -> None:
    """Without a table each means the same by itself; what cannot be cut is no block, or speaks of a table."""
    parts = cut(block, MOST_FIELDS)
    try:
        whole = fields(block)
    except HpackError:
        if parts is not None:
            with pytest.raises(HpackError):
                [fields(part) for part in parts]
        return
    if parts is None:
        assert b"\x20" in block
        return
    assert b"".join(parts) == block
    assert [one for part in parts for one in fields(part)] == whole


def test_no_more_are_cut_than_may_be() -> None:
    assert cut(b"\x88" * 3, 3) == [b"\x88"] * 3
    assert cut(b"\x88" * 4, 3) is None
