"""The system calls of the hot path, on bare descriptors.

None of them waits and none of them looks at what it moves: ``BlockingIOError`` says that the kernel has nothing, or no
room; any other ``OSError`` that the connection is broken. What :func:`recv` returned belongs to the caller until it reads
again; bytes that are to live longer (queued, put aside, part of a body) go through :func:`keep`.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from typing import Final

_NONE: Final = bytes(4)  # an int that is 0

# ``recv(fd, max_bytes)``: what is there, b"" at the end of the stream. Aliases: a wrapper would cost as much as they do.
recv = os.read
# ``send(fd, data)``: how many bytes the kernel took.
send = os.write
# ``send_last(fd, data)``: the same, for what our end follows at once (``finish``, ``close``): it may wait for that, and leave
# in one packet with it, which wakes the peer once.
send_last = os.write


def send_from(fd: int, data: bytes, start: int) -> int:
    """How many bytes of ``data[start:]`` the kernel took: nothing is copied on the way."""
    if not 0 <= start <= len(data):
        raise ValueError("start is not within data")
    return os.write(fd, memoryview(data)[start:])


def send_both(fd: int, first: bytes, second: bytes, start: int = 0) -> int:
    """How many bytes of ``first``, and ``second[start:]`` behind it, the kernel took: in one call, without joining them."""
    if not 0 <= start <= len(second):
        raise ValueError("start is not within data")
    return os.writev(fd, (first, memoryview(second)[start:]))


_copies = 0
_copied_bytes = 0


def keep(data: bytes, start: int = 0) -> bytes:
    """``data[start:]`` for longer than until the next :func:`recv`, in no more memory than it needs.

    Called at once, where the bytes are put aside. Where ``recv`` reads into a buffer of its own this copies small reads
    out of it.
    """
    if not start:
        return data
    global _copies, _copied_bytes
    kept = data[start:]
    _copies += 1
    _copied_bytes += len(kept)
    return kept


def unread(fd: int) -> bool:
    """Whether the kernel holds bytes that have not been read (FIONREAD: half the cost of a peek that fails)."""
    try:
        return bool(fcntl.ioctl(fd, termios.FIONREAD, _NONE) != _NONE)
    except (OSError, ValueError):  # closed: its number is -1
        return True


def unacknowledged(fd: int) -> int:
    """Bytes in the kernel that the peer has not acknowledged (TCP) or read (Unix sockets)."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, _NONE), sys.byteorder)
    except (OSError, ValueError):
        return 0


def counters() -> dict[str, int]:
    """What the calls have done since :func:`reset_counters`.

    ``copies`` and ``copied_bytes``: payload that :func:`keep` copied. ``receives``, ``sends``: system calls that moved
    bytes or met an end, and ``buffers``: read buffers taken from the allocator; these three are 0 where counting would
    cost a call its wrapper.
    """
    return {"copies": _copies, "copied_bytes": _copied_bytes, "receives": 0, "sends": 0, "buffers": 0}


def reset_counters() -> None:
    """Start again at 0."""
    global _copies, _copied_bytes
    _copies = _copied_bytes = 0
