"""The small parts: digests and estimates."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from fastgw.accel.hashing import DIGEST_BYTES, digest
from fastgw.accel.tokens import estimate
from tests.support.twins import native_twin, python_twin


def test_digest() -> None:
    # FIPS 180-4's own examples: one block, two blocks.
    assert digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    two = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
    assert digest(two).hex() == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    assert digest(b"sk-1") == hashlib.sha256(b"sk-1").digest()
    assert len(digest(b"")) == DIGEST_BYTES


@pytest.mark.parametrize(("nbytes", "tokens"), [(0, 0), (-1, 0), (1, 1), (4, 1), (5, 2), (4000, 1000)])
def test_estimate(nbytes: int, tokens: int) -> None:
    assert estimate(nbytes) == tokens


@pytest.mark.both_twins
@pytest.mark.parametrize("instructions", [True, False])
def test_digests_of_every_length_near_a_block(instructions: bool) -> None:
    native: Any = native_twin("fastgw.accel.hashing")
    native._use_instructions(instructions)
    try:
        for size in (*range(200), 1000, 65537):
            token = bytes(i * 7 & 255 for i in range(size))
            assert native.digest(token) == hashlib.sha256(token).digest(), size
    finally:
        native._use_instructions(True)


@pytest.mark.both_twins
def test_estimates_up_to_the_largest_size() -> None:
    ours, theirs = native_twin("fastgw.accel.tokens").estimate, python_twin("fastgw.accel.tokens").estimate
    for nbytes in (-(2**63), -1, *range(20), 2**31, 2**62 + 1, *range(2**63 - 9, 2**63)):
        assert ours(nbytes) == theirs(nbytes), nbytes
