"""A certificate, a key or a CA file that cannot be used, as those know it who have not imported TLS."""

from __future__ import annotations


class TlsError(Exception):
    """A certificate, a key or a CA file cannot be used; the text says which and why, in one line."""
