"""Deterministic text: a prompt and a seed always give the same words; a token is always four bytes of prompt.

Owns: the vocabulary, the counting of prompt tokens, the choice of output tokens, embeddings and scores. Must never use
``random`` or a clock: two simulators with one seed answer byte for byte alike, on every machine.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

# Words with a leading blank as real tokenizers have them; some are not ASCII, so that a split inside a character is met.
# None needs escaping in JSON (the tests hold this): they are spliced into prepared events as they are.
_WORD_LIST: Final = (
    "the of and a to in is it that for on with as was are be this by at from or an have not but which you all can one "
    "more if their there about up out so what some would into has them then its over like new water light river stone "
    "tree wind fire cloud night morning garden letter music table window paper bread silver copper glass wheel road "
    "bridge harbour ship sail anchor signal engine token stream packet socket queue batch tensor kernel cache memory "
    "thread process clock timer event buffer frame header chunk byte bit word line page number value name path point "
    "field value, time, space. answer. question? yes! no; perhaps: (maybe) slow fast deep wide short long early late "
    "open closed bright quiet warm cold near far first last naïve café jalapeño Übung façade Москва 東京 北京 서울 "
    "Ελλάδα שלום مرحبا नमस्ते สวัสดี 🙂 🚀 ✓ → ≈"
)
_WORDS: Final = _WORD_LIST.split()
VOCABULARY: Final[tuple[bytes, ...]] = tuple(b" " + _WORDS[i % len(_WORDS)].encode() for i in range(256))

BYTES_PER_TOKEN: Final = 4


def count_tokens(text: str | bytes) -> int:
    """Prompt tokens of ``text``: one per four bytes of UTF-8, rounded up, never less than one."""
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    return max(1, (size + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN)


def tokenize(text: str) -> list[int]:
    """Token ids of ``text``; :func:`detokenize` gives the text back. A leading 1 byte keeps each piece's length."""
    data = text.encode("utf-8", "surrogatepass")
    return [int.from_bytes(b"\x01" + data[at : at + BYTES_PER_TOKEN], "big") for at in range(0, len(data), BYTES_PER_TOKEN)]


def detokenize(ids: list[int]) -> str:
    """The text of ``ids``. ValueError for an id that :func:`tokenize` never makes."""
    pieces = []
    for token in ids:
        raw = token.to_bytes(BYTES_PER_TOKEN + 1, "big").lstrip(b"\x00") if 0 < token < 1 << 40 else b""
        if not raw or raw[0] != 1:
            raise ValueError(f"no such token: {token}")
        pieces.append(raw[1:])
    return b"".join(pieces).decode("utf-8", "surrogatepass")


class Writer:
    """The output of one prompt: ``token(i)`` is the i-th token as UTF-8, for any i."""

    __slots__ = ("_digest",)

    def __init__(self, seed: int, prompt: bytes) -> None:
        self._digest = hashlib.sha256(b"%d:" % seed + prompt).digest()

    def token(self, index: int) -> bytes:
        digest = self._digest
        word = VOCABULARY[digest[index & 31] ^ (index >> 5) * 37 & 255]
        return word[1:] if index == 0 else word

    def text(self, count: int) -> bytes:
        """The first ``count`` tokens, joined."""
        return b"".join([self.token(i) for i in range(count)])


def embedding(seed: int, text: bytes, size: int) -> list[float]:
    """A unit-free vector of ``size`` numbers in [-1, 1), a function of the text and the seed alone."""
    raw = hashlib.shake_128(b"%d:" % seed + text).digest(2 * size)
    return [value / 32768 for value in struct.unpack(f">{size}h", raw)]


def score(seed: int, query: bytes, document: bytes) -> float:
    """A relevance in [0, 1), a function of the pair and the seed alone."""
    raw = hashlib.sha256(b"%d:%d:" % (seed, len(query)) + query + document).digest()
    return int.from_bytes(raw[:4], "big") / (1 << 32)
