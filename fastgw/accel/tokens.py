"""A prompt's size in tokens before anyone has tokenised it."""

from __future__ import annotations

MOST_TOKENS = 10**12
MOST_CHOICES = 1024
"""Of one request: no engine counts so far, and sums of it fit a machine's integer; so does the product with its prompts."""

BYTES_PER_TOKEN = 4
"""English text in the usual vocabularies has about four bytes to a token; JSON punctuation makes it err upwards."""


def estimate(nbytes: int) -> int:
    """The estimate for ``nbytes`` bytes of prompt, rounded up; 0 for nothing."""
    return (nbytes + BYTES_PER_TOKEN - 1) // BYTES_PER_TOKEN if nbytes > 0 else 0
