"""SHA-256 and BLAKE2 without OpenSSL, for those who take a digest of a key: Python's own, behind ``hashlib`` as well.

Importing ``hashlib`` has OpenSSL list all it knows: two milliseconds of each start, and half a megabyte; a digest of a key
takes it as long. Must never: be used for more than keys (OpenSSL's is quicker over long texts).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _own(called: str, *modules: str) -> Callable[..., Any]:
    for name in modules:
        try:
            found: Callable[..., Any] = getattr(import_module(name), called)
        except ImportError:
            continue
        return found
    import hashlib

    standard: Callable[..., Any] = getattr(hashlib, called)
    return standard


_sha256 = _own("sha256", "_sha2", "_sha256")  # from Python 3.12 on, and before
blake2b = _own("blake2b", "_blake2")


def digest(token: bytes) -> bytes:
    """SHA-256 of ``token``, 32 bytes."""
    found: bytes = _sha256(token).digest()
    return found


def certified(fingerprint: bytes) -> bytes:
    """A client certificate, by its SHA-256, where it stands among the digests of keys: no key has such a one, whatever text is
    sent as one."""
    return fingerprint + b"\0"
