"""Compressed request bodies: unpacked exactly, in whatever pieces they come, and within bounds."""

from __future__ import annotations

import gzip
import random
import time
import zlib
from collections.abc import Callable

import pytest
import zstandard

from fastgw.errors import GatewayError
from fastgw.protocol.coding import FREE_BYTES, MAX_MEMBERS, codings, decoder

PACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"zstd": zstandard.ZstdCompressor(level=3).compress,
}
TEXT = b'{"model":"m","messages":[' + b",".join(b'{"role":"user","content":"%d"}' % turn for turn in range(3000)) + b"]}"
LIMIT = 10 << 20
ROOM = 5000


def unpack(coding: bytes, pieces: list[bytes], *, ratio: int = 0, limit: int = LIMIT) -> bytes:
    one = decoder(coding, ratio)
    assert one is not None
    out = []
    for at, piece in enumerate(pieces or [b""]):
        one.take(piece, at >= len(pieces) - 1)
        out.append(one.step(ROOM, limit))
        assert len(out[-1]) < ROOM + (1 << 20) + 1
        while one.pending:
            out.append(one.step(ROOM, limit))
            assert len(out[-1]) < ROOM + (1 << 20) + 1
    assert one.given == sum(map(len, out))
    return b"".join(out)


def refused(coding: bytes, pieces: list[bytes], *, ratio: int = 0, limit: int = LIMIT) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        unpack(coding, pieces, ratio=ratio, limit=limit)
    return caught.value


@pytest.mark.parametrize("coding", PACK)
@pytest.mark.parametrize("text", [b"", b"{}", TEXT, bytes(range(256)) * 40, b"a" * 200_000])
def test_in_any_pieces(coding: bytes, text: bytes) -> None:
    packed = PACK[coding](text)
    assert unpack(coding, [packed]) == text
    assert unpack(coding.upper(), [packed, b""]) == text
    if len(packed) < 30_000:
        assert unpack(coding, [packed[at : at + 1] for at in range(len(packed))]) == text
    chance = random.Random(1)
    cuts = sorted(chance.randrange(len(packed)) for _ in range(20))
    assert unpack(coding, [packed[a:b] for a, b in zip([0, *cuts], [*cuts, len(packed)], strict=True)]) == text


@pytest.mark.parametrize("coding", PACK)
def test_what_is_broken(coding: bytes) -> None:
    packed = PACK[coding](TEXT)
    for bad in (b"", b"no", packed[:-1], packed[: len(packed) // 2], packed + b"x", packed[:9] + b"\xff\xff\xff" + packed[12:]):
        assert refused(coding, [bad]).kind.name == "invalid_encoding", bad[:20]


def test_the_deflate_that_is_none() -> None:
    """Some call the bare stream of RFC 1951 by that name: RFC 9110 does not."""
    bare = zlib.compressobj(wbits=-15)
    assert refused(b"deflate", [bare.compress(TEXT) + bare.flush()]).kind.name == "invalid_encoding"


@pytest.mark.parametrize("coding", [b"gzip", b"zstd"])
def test_several_members_are_one_body_but_not_without_end(coding: bytes) -> None:
    members = [PACK[coding](b"%d " % turn) for turn in range(MAX_MEMBERS)]
    assert unpack(coding, [b"".join(members)]) == b"".join(b"%d " % turn for turn in range(MAX_MEMBERS))
    assert refused(coding, [b"".join([*members, members[0]])]).kind.name == "invalid_encoding"


@pytest.mark.parametrize("coding", PACK)
def test_the_limit_is_met_to_the_byte(coding: bytes) -> None:
    packed = PACK[coding](TEXT)
    assert unpack(coding, [packed], limit=len(TEXT)) == TEXT
    assert refused(coding, [packed], limit=len(TEXT) - 1).kind.name == "body_too_large"


@pytest.mark.parametrize("coding", PACK)
def test_a_bomb_is_met_early(coding: bytes) -> None:
    """What comes out is bounded by what went in, piece by piece; and so is the time."""
    bomb = PACK[coding](b"a" * (64 << 20))
    assert refused(coding, [bomb], ratio=100).kind.name == "body_too_large"
    one = decoder(coding, 100)
    assert one is not None
    fed = 0
    began = time.process_time()
    refusal = None
    while refusal is None:
        piece = bomb[fed : fed + 1000]
        assert piece, "all of it was unpacked"
        fed += 1000
        try:
            one.take(piece, False)
            while one.pending:
                assert len(one.step(ROOM, 64 << 20)) <= max(FREE_BYTES, 100 * fed)
        except GatewayError as error:
            refusal = error.kind.name
    assert refusal == "body_too_large"
    assert time.process_time() - began < 1.0
    assert one.given <= max(FREE_BYTES, 100 * fed) + (1 << 20), "little more than allowed was made at all"


def test_a_small_body_of_one_word_is_no_bomb() -> None:
    assert unpack(b"gzip", [gzip.compress(b"a" * FREE_BYTES)], ratio=100) == b"a" * FREE_BYTES


def test_a_window_beyond_the_standards_is_refused() -> None:
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compressobj()
    refusal = refused(b"zstd", [wide.compress(b"x" * 100) + wide.flush()])
    assert refusal.kind.name == "invalid_encoding"
    assert "window of more than 8 MiB" in str(refusal.message)


def test_no_coding() -> None:
    assert decoder(b"identity", 0) is None
    assert decoder(b" Identity ", 0) is None


@pytest.mark.parametrize(
    "coding", [b"", b"br", b"compress", b"gzip, gzip", b"gzip, identity", b"gzip;q=1", b"utf-8", b"x" * 9000]
)
def test_other_codings(coding: bytes) -> None:
    with pytest.raises(GatewayError) as caught:
        decoder(coding, 0)
    assert caught.value.kind.name == "unsupported_encoding"
    assert codings() in (caught.value.message or "")


def test_without_the_package_there_is_no_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgw.protocol import coding

    monkeypatch.setattr(coding, "_zstd", lambda: None)
    assert codings() == "gzip, deflate"
    with pytest.raises(GatewayError):
        decoder(b"zstd", 0)
