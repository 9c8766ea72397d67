"""A prompt's size in tokens before anyone has tokenised it."""

from __future__ import annotations

BYTES_PER_TOKEN = 4
"""English text in the usual vocabularies has about four bytes to a token; JSON punctuation makes it err upwards."""


def estimate(nbytes: int) -> int:
    """The estimate for ``nbytes`` bytes of prompt, rounded up; 0 for nothing."""
    return (nbytes + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN if nbytes > 0 else 0
