"""Field blocks of clients: our reader with its table, and ``hpack``'s; and requests, all over both twins, with and without what
they remember. An input is blocks, each behind two bytes: how it goes on (whether a body follows), and its length. Each block is
also read as a string in Huffman's code."""

from __future__ import annotations

import random
from typing import Any

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from fastgw.protocol.h2 import hpack as ours
from fastgw.protocol.h2 import requests as running
from tests.fuzz.sides import native, python
from tests.support.h2 import frames as f

HUFFMAN = "fastgw.accel.huffman"
STRINGS = native(HUFFMAN), python(HUFFMAN)
HPACK = "fastgw.accel.frames", HUFFMAN, "fastgw.protocol.h2.hpack"
BOTH = ours, python(HPACK[-1], *HPACK[:-1])
HEADS = "fastgw.accel.heads", "fastgw.accel.judges", "fastgw.protocol.http1.server", "fastgw.protocol.h2.heads"
PYTHON = python("fastgw.protocol.h2.requests", *HPACK, *HEADS)

packed = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode

ASK = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"a"))
MORE: tuple[f.Field, ...] = (
    (b"content-length", b"5"), (b"content-length", b"6"), (b"content-length", b"05"), (b"content-length", b"+5"),
    (b"content-length", b"5,5"), (b"content-length", b""), (b"transfer-encoding", b"chunked"), (b"host", b"a"),
    (b"host", b"b"), (b"cookie", b"a=b"), (b"te", b"trailers"), (b"te", b"gzip"), (b"expect", b"100-continue"), (b"x-a", b""),
    (b"x-a", b"b\r\nc: d"), (b"x-a", b"b\0"), (b"x-a", b" b"), (b"X-A", b"b"), (b"x a", b"b"), (b":path", b"/y"),
    (b"content_length", b"5"), (b"connection", b"close"), (b"authorization", b"Bearer sk-a"), (b"x-request-id", b"r1"),
    (b"x-long", b"v" * 60), (b"x-high", b"\xe9\xff"),
)  # fmt: skip
SIZES = (b"\x20", b"\x3f\xe1\x1f", b"\x3f\x09", b"\x3f\xe2\x1f")


def _said(*blocks: bytes, ended: bool = False) -> bytes:
    return b"".join([bytes((ended, len(block))) + block for block in blocks if len(block) < 256])


def _kept(*pairs: f.Field) -> bytes:
    """With incremental indexing."""
    return b"".join([b"\x40" + f.string(name) + f.string(value) for name, value in pairs])


def seeds() -> list[bytes]:
    asks = f.block(ASK)
    plain = f.block(ASK, huffman=False)
    found = [_said(asks), _said(asks, ended=True), _said(plain, plain), _said(b""), b""]
    for one in MORE:
        block = f.block((*ASK, one))
        found += [_said(block, block), _said(block, f.block((*ASK, one), huffman=False), block, ended=True)]
    lengths = [f.block((*ASK, (b"content-length", b"%d" % value), (b"x-a", b"b"))) for value in (5, 5, 123456, 0, 5)]
    found += [_said(*lengths), _said(_kept(*ASK), b"\xc1\xc0\xbf\xbe", b"\xc1\xc0\xbf\xbe")]
    found += [_said(size + asks, asks) for size in SIZES] + [_said(SIZES[0] + SIZES[1] + asks, _kept(*ASK))]
    return found


def words() -> list[bytes]:
    return [*SIZES, *(f.block((one,)) for one in MORE), f.block(ASK), _kept(*ASK), b"\xbe", b"\x0f\x0d\x015", b"\x0f\x0d\x8115"]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A block more, fewer, twice, or another one of the usual."""
    blocks = list(_blocks(data))
    at = chance.randrange(len(blocks) + 1)
    pairs = (*ASK, *chance.sample(MORE, chance.randrange(4)))
    fresh = _kept(*pairs) if chance.random() < 0.2 else f.block(pairs, huffman=chance.random() < 0.5)
    how = chance.random()
    if blocks and how < 0.4:
        _, block = chance.choice(blocks)
        where = chance.randrange(len(block) + 1)
        fresh = block[:where] + bytes(chance.randrange(256) for _ in range(chance.randrange(3))) + block[where + 1 :]
    elif blocks and how < 0.6:
        fresh = chance.choice(blocks)[1]
    blocks.insert(at, (chance.random() < 0.5, fresh))
    return b"".join([_said(block, ended=ended) for ended, block in blocks])


def _blocks(data: bytes) -> list[tuple[bool, bytes]]:
    found = []
    at = 0
    while at + 2 <= len(data):
        size = data[at + 1]
        found.append((data[at] & 1 != 0, data[at + 2 : at + 2 + size]))
        at += 2 + size
    return found


def check(data: bytes) -> None:
    blocks = _blocks(data)
    for side in BOTH:
        as_hpack(side, [block for _, block in blocks])
    for _, block in blocks:
        as_strings(block)
    sides = [running.RequestBlocks(8192, 20), PYTHON.RequestBlocks(8192, 20)]
    table = ours.Decoder()  # what has no memory but the table reads the same
    for number, (ended, block) in enumerate(blocks):
        said = [_read(side, block, ended) for side in sides]
        forgetful = running.RequestBlocks(8192, 20)
        try:
            plain = f.block(table.fields(block), huffman=False)
        except (ours.HpackError, ours.TooLong) as error:
            said.append((type(error).__name__, str(error)))
        else:
            said.append(_read(forgetful, plain, ended))
        assert said[0] == said[1] == said[2], (number, said, data)
        if said[0][0] in ("HpackError", "TooLong"):
            return
        if number % 2:  # the service has made something of it, and its length may be told anew
            for side in sides:
                side.known = side.last


def _read(side: Any, block: bytes, ended: bool) -> tuple[object, ...]:
    try:
        head = side.read(block, ended)
    except Exception as error:
        return type(error).__name__, str(error)
    framing = head.content_length >= 0 or head.chunked
    assert not ended or not head.chunked
    assert ended or framing
    told = head.method, head.target, head.host, head.forward, head.content_length, head.chunked, head.expect, head.credential
    return (*told, tuple(sorted((head.own or {}).items())))


def as_strings(value: bytes) -> None:
    assert [twin.unpacked(packed(value)) for twin in STRINGS] == [value] * 2
    found = []
    for twin in STRINGS:
        try:
            found.append(twin.unpacked(value))
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1], (found, value)


def as_hpack(side: Any, blocks: list[bytes]) -> None:
    """What we read, ``hpack`` reads as well; what it reads and we do not is a table beyond what was ever allowed, or its size
    told where it may not be, or so often."""
    mine, theirs = side.Decoder(), Decoder(max_header_list_size=side.MOST_LIST_BYTES)
    theirs.max_allowed_table_size = side.TABLE_BYTES
    for block in blocks:
        try:
            found = mine.fields(block)
        except (side.HpackError, side.TooLong) as error:
            stricter = ("a table", "of a table", "a peer's table", "an integer", "too long", "peer's table")
            if not any(word in str(error) for word in stricter):
                try:
                    theirs.decode(block, raw=True)
                except (HPACKError, OversizedHeaderListError):
                    return
                raise AssertionError((str(error), blocks)) from error
            return
        assert found == [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)], blocks
