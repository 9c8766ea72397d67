"""The model file: small, and the same bytes for the same seed."""

from __future__ import annotations

from pathlib import Path

from tests.support import tinymodel


def test_small_and_a_function_of_its_seed(tmp_path: Path) -> None:
    first, again, other = (
        tinymodel.write(tmp_path / f"{name}.gguf", seed).read_bytes() for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first[:4] == b"GGUF"
    assert len(first) < 1_000_000
    assert first == again
    assert first != other


def test_the_vocabulary_can_spell_every_byte() -> None:
    pieces, scores, types = tinymodel.vocabulary()
    assert len(pieces) == len(set(pieces)) == len(scores) == len(types)
    assert {f"<0x{value:02X}>".encode() for value in range(256)} <= set(pieces)
