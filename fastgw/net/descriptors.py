"""Bare descriptors of sockets: where they come from, and how they end.

Owns: the system calls around a connection's life, as ``accel/sockets.py`` has those between. A descriptor is a number: who has
it gives it back once, and a connection for each request pays for no object beside it. None of these calls waits.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Final

_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_MAPPED: Final = "::ffff:"

close = os.close


def accept(listening: socket.socket) -> tuple[int, str] | None:
    """The next connection on a listening socket, non-blocking, and the address that it comes from (IPv4 also where it was
    mapped into IPv6; ``unix`` of a Unix socket). None = nobody waits, or who did has left. Raises OSError for want of
    descriptors or memory.

    ``TCP_NODELAY`` and the like are the listening socket's: Linux hands them down, which spares a system call for each.
    """
    try:
        sock, address = listening.accept()
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
    sock.setblocking(False)
    if not isinstance(address, tuple):
        return sock.detach(), "unix"
    ip: str = address[0]
    if ip.startswith(_MAPPED) and "." in ip:
        ip = ip[len(_MAPPED) :]
    return sock.detach(), ip


def finish(fd: int) -> None:
    """Close our side: the peer reads an end. Raises OSError where the connection is broken."""
    sock = socket.socket(fileno=fd)
    try:
        sock.shutdown(socket.SHUT_WR)
    finally:
        sock.detach()


def abort(fd: int) -> None:
    """Give ``fd`` back, and tell the peer by an RST that what it has is not complete."""
    with socket.socket(fileno=fd) as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def dial_error(fd: int) -> int:
    """How a dial went: 0, or the error number."""
    sock = socket.socket(fileno=fd)
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    finally:
        sock.detach()
