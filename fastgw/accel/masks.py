"""Frames of a WebSocket (RFC 6455 §5.2), masked and made: what touches each byte of a payload.

A key has four bytes, or none: ``b""`` leaves a payload as it is, and is how to have a piece of what was read.
"""

from __future__ import annotations


def unmasked(data: bytes, start: int, stop: int, key: bytes, phase: int) -> bytes:
    """``data[start:stop]``, masked by ``key`` or unmasked, which is the same (§5.3); ``phase``: so many bytes of the payload
    came before."""
    size = stop - start
    if not key or not size:
        return data[start:stop]
    phase &= 3
    keys = ((key[phase:] + key[:phase]) * (size // 4 + 1))[:size]
    return (int.from_bytes(data[start:stop], "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


def framed(first: int, data: bytes, start: int, stop: int, key: bytes) -> bytes:
    """The frame whose payload is ``data[start:stop]``; ``first`` is its first byte: FIN and what it is."""
    size = stop - start
    bit = 0x80 if key else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = bytes((first, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return head + key + unmasked(data, start, stop, key, 0)
