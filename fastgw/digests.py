"""SHA-256 without OpenSSL, for those who take a digest of a key: Python's own, which stands behind ``hashlib`` as well.

Importing ``hashlib`` has OpenSSL list all it knows: two milliseconds of each start, and half a megabyte; a digest of a key
takes it as long. Must never: be used for more than keys (OpenSSL's is quicker over long texts).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _own() -> Callable[[bytes], Any]:
    for name in ("_sha2", "_sha256"):  # from Python 3.12 on, and before
        try:
            found: Callable[[bytes], Any] = import_module(name).sha256
        except ImportError:
            continue
        return found
    from hashlib import sha256

    return sha256


_sha256 = _own()


def digest(token: bytes) -> bytes:
    """SHA-256 of ``token``, 32 bytes."""
    found: bytes = _sha256(token).digest()
    return found


def certified(fingerprint: bytes) -> bytes:
    """A client certificate, by its SHA-256, where it stands among the digests of keys: no key has such a one, whatever text is
    sent as one."""
    return fingerprint + b"\0"
