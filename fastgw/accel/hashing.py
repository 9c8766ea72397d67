"""The digest by which keys are looked up: only it is stored or compared, never the key itself."""

from __future__ import annotations

from hashlib import sha256

DIGEST_BYTES = 32


def digest(token: bytes) -> bytes:
    """SHA-256 of a credential, 32 bytes."""
    return sha256(token).digest()
