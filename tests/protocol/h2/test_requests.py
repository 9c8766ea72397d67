"""A client's heads: what is remembered of one says the same as reading it anew, with a table and without."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.accel.heads import RequestHead
from fastgw.errors import GatewayError
from fastgw.protocol.h2 import heads
from fastgw.protocol.h2.heads import Malformed
from fastgw.protocol.h2.hpack import MOST_FIELDS, MOST_READ_BYTES, MOST_READ_FIELDS, Endless, HpackError
from fastgw.protocol.h2.requests import RequestBlocks
from fastgw.protocol.h2.writer import own_block, request_block, start_block
from fastgw.protocol.start import RequestStart

POST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/v1/chat/completions"), (b":authority", b"localhost")]
FIELDS = st.sampled_from([
    (b"accept", b"application/json"), (b"accept", b"*/*"), (b"authorization", b"Bearer sk-a"),
    (b"authorization", b"Bearer sk-b"),
    (b"content-length", b"12"), (b"content-length", b"4096"), (b"cookie", b"a=b"), (b"x-a", b"v" * 200), (b"x-a", b" bad"),
    (b"connection", b"x"), (b":path", b"/late"), (b"X-Upper", b"v"), (b"content-type", b"application/json"),
])  # fmt: skip


def told(blocks: RequestBlocks, block: bytes) -> tuple[object, ...]:
    try:
        head = blocks.read(block, False)
    except (Malformed, HpackError, Endless) as error:
        return type(error).__name__, str(error)
    except GatewayError as error:
        return "answered", error.kind.name
    blocks.known = blocks.known or object()  # (as the service does: it has seen the head)
    return said(head)


def said(head: RequestHead) -> tuple[object, ...]:
    return head.method, head.target, head.forward, head.content_length, head.chunked, dict(head.own or {})


@given(st.lists(st.lists(FIELDS, max_size=6), min_size=2, max_size=6), st.booleans(), st.booleans())
def test_what_is_remembered_is_what_is_read(several: list[list[tuple[bytes, bytes]]], table: bool, packed: bool) -> None:
    encoder, plain = hpack.Encoder(), hpack.Encoder()
    encoder.header_table_size = 4096 if table else 0
    plain.header_table_size = 0
    one = RequestBlocks(32768, 100)
    for more in [*several, *several]:
        anew = RequestBlocks(32768, 100)
        expected = told(anew, plain.encode(POST + more, huffman=False))
        assert told(one, encoder.encode(POST + more, huffman=packed)) == expected


LONG = [(b"x-long", b"v" * 4000)] * 20


@pytest.mark.parametrize("more", [LONG, [(b"x-a", b"b")] * (MOST_FIELDS + 1)], ids=["bytes", "fields"])
def test_one_that_is_too_long_is_its_request_s_alone(more: list[tuple[bytes, bytes]]) -> None:
    """What it told the table is known when it is over (RFC 9113 section 10.5.1), behind all that is kept of it too."""
    encoder = hpack.Encoder()
    blocks = RequestBlocks(32768, 100)
    late = [(b"x-late", b"said behind the bound")]
    for read in (lambda block: blocks.read(block, True), blocks.trailers):
        with pytest.raises(GatewayError) as refusal:
            read(encoder.encode([*POST, *more, *late]))
        assert refusal.value.kind.name == "head_too_large"
    blocks.skip(encoder.encode([*POST, *more, *late]))
    block = encoder.encode([*POST, *late])
    assert b"late" not in block, "the table has it"
    assert blocks.read(block, True).get(b"x-late") == b"said behind the bound"


@pytest.mark.parametrize("flood", [
    [(b"x-long", b"v" * 4000)] * (MOST_READ_BYTES // 4000), [(b"x-a", b"b")] * (MOST_READ_FIELDS + 1),
], ids=["bytes", "fields"])  # fmt: skip
def test_and_one_without_end_is_not_gone_through(flood: list[tuple[bytes, bytes]]) -> None:
    """A field of 4,000 bytes that the table has is one byte (CVE-2016-6581)."""
    block = hpack.Encoder().encode([*POST, *flood])
    assert len(block) < 8000
    for read in (lambda block: RequestBlocks(32768, 100).read(block, True), RequestBlocks(32768, 100).skip):
        with pytest.raises(Endless):
            read(block)


def test_who_offers_every_field_to_a_table_that_there_is_not_is_known_again() -> None:
    """As clients in Python do (httpx)."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    blocks = RequestBlocks(32768, 100)
    pairs = [*POST, (b"authorization", b"Bearer sk-a"), (b"x-sdk", b"v")]
    blocks.read(encoder.encode(pairs), False)
    head = blocks.read(encoder.encode(pairs), False)
    blocks.known = object()
    assert blocks.read(encoder.encode(pairs), False) is head


def test_keys_are_remembered_by_their_own_connection_alone() -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    blocks = RequestBlocks(32768, 100)
    blocks.read(encoder.encode(POST), False)
    parts = heads.known([b"\x1f\x08" + bytes((len(key),)) + key for key in (b"sk-%d" % at for at in range(20))], {})
    assert [one.value for one in parts] == [b"sk-%d" % at for at in range(20)]
    secrets: dict[bytes, heads.Field] = {}
    heads.known([b"\x1f\x08" + bytes((len(key),)) + key for key in (b"sk-%d" % at for at in range(20))], secrets)
    assert len(secrets) <= heads.MOST_SECRETS
    long = b"k" * 2000
    heads.known([b"\x1f\x08" + b"\x7f" + bytes(((2000 - 127) & 127 | 128, (2000 - 127) >> 7)) + long], secrets)
    assert all(len(part) <= heads.MOST_SECRET_BYTES for part in secrets)


@pytest.mark.parametrize("ended", [True, False])
def test_another_length_is_all_that_may_differ(ended: bool) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    blocks = RequestBlocks(32768, 100)
    for length in (5, 6, 70, 800):
        block = encoder.encode([*POST, (b"content-length", b"%d" % length), (b"x-last", b"1")])
        head = blocks.read(block, ended)
        assert head.content_length == length
        blocks.known = object()


def by_a_gateway(request_id: bytes, length: int, fields: bytes = b"accept: */*\r\n", trace: bytes = b"") -> bytes:
    """A block as a gateway before this one writes it."""
    start = RequestStart(b"POST", b"/v1/chat/completions", fields + b"x-request-id: ")
    own = own_block(b"Host: engine\r\nAuthorization: Bearer sk-e\r\n", False)
    return request_block(own, start_block(start), trace, request_id, length, b"POST")


@pytest.mark.parametrize(
    ("request_id", "again"),
    [
        (b"another-1", True), (b"a", True), (b"a" * 126, True),
        (b"a" * 127, False), (b"a b", False), (b"a,b", False), (b"a\xff", False), (b"", False),
    ],
)  # fmt: skip
def test_a_gateways_own_id_is_new_with_each_request(request_id: bytes, again: bool) -> None:
    blocks = RequestBlocks(32768, 100)
    first = blocks.read(by_a_gateway(b"id-1", 5), False)
    assert blocks.read(by_a_gateway(b"id-2", 5), False) is not first  # nobody has said yet that it is known
    first = blocks.read(by_a_gateway(b"id-3", 5), False)
    blocks.known = object()
    block = by_a_gateway(request_id, 1234)
    found, anew = told(blocks, block), told(RequestBlocks(32768, 100), block)
    assert found == anew
    assert (blocks.last is first) == again


def test_the_lines_of_a_trace_stand_before_the_other_fields() -> None:
    blocks = RequestBlocks(32768, 100)
    for number in range(3):
        line = b"traceparent: 00-%032x-%016x-00\r\n" % (number + 1, number + 1)
        head = blocks.read(by_a_gateway(b"id-1", 5, trace=line), False)
        assert head.forward.startswith(line)
        assert head.forward.count(b"accept: */*") == 1


def test_where_more_differs_than_the_id_it_is_another() -> None:
    blocks = RequestBlocks(32768, 100)
    for fields in (b"accept: */*\r\n", b"accept: a/b\r\n", b"x-request-id: id-0\r\n", b"accept: a/b\r\nx-more: 1\r\n"):
        for number in range(3):
            block = by_a_gateway(b"id-%d" % number, number + 5, fields)
            assert told(blocks, block) == told(RequestBlocks(32768, 100), block)
