"""A raw non-blocking socket on the loop's pollers: one ``recv`` in, one ``send`` out, a bounded residue between.

Owns: the file descriptor, its poller registrations, and the bytes that the kernel would not take yet. There is no
transport: uvloop's ``add_reader`` with direct system calls costs next to nothing over C. Invariant: the residue is
queued only when a ``send`` came back short, and whoever produced the bytes is told (``write`` returns ``QUEUED``) so
that it stops reading its own source; so the queue never holds more than one read's worth of bytes plus a head.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections import deque
from typing import Final

from fastgw.accel import sockets
from fastgw.net.timers import NEVER, TimerWheel

RECV_BYTES: Final = 65536

SENT: Final = 1  # everything went to the kernel
QUEUED: Final = 0  # a residue waits: stop producing until ``drained``
DEAD: Final = -1  # the socket is broken; the read side will say how

_NONE: Final = bytes(4)  # an int that is 0
_LINGER_RESET: Final = struct.pack("ii", 1, 0)


class RawStream:
    """Base of client and engine connections; subclasses implement ``_readable``, ``drained`` and ``expired``."""

    __slots__ = (
        "_queue",
        "closed",
        "deadline",
        "fd",
        "loop",
        "queued_bytes",
        "reading",
        "recv",
        "send",
        "sock",
        "wheel",
        "wheel_slot",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, wheel: TimerWheel) -> None:
        self.loop = loop
        self._bind(sock)
        self.wheel = wheel
        self.wheel_slot = 0
        self.deadline = NEVER
        self.closed = False
        self.reading = False
        self.queued_bytes = 0
        self._queue: deque[bytes] | None = None

    def _bind(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv = sockets.receiver(sock)
        self.send = sockets.sender(sock)

    # --- the read side
    def resume_reading(self) -> None:
        if not self.reading and not self.closed:
            self.reading = True
            self.loop.add_reader(self.fd, self._readable)

    def pause_reading(self) -> None:
        if self.reading:
            self.reading = False
            self.loop.remove_reader(self.fd)

    def _readable(self) -> None:
        raise NotImplementedError

    # --- the write side
    def write(self, data: bytes) -> int:
        """Send ``data`` now; what the kernel does not take is queued. Returns ``SENT``, ``QUEUED`` or ``DEAD``."""
        if self.queued_bytes:
            assert self._queue is not None
            self._queue.append(data)
            self.queued_bytes += len(data)
            return QUEUED
        if self.closed:
            return DEAD
        try:
            sent = self.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return DEAD
        if sent == len(data):
            return SENT
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data[sent:])
        self.queued_bytes = len(data) - sent
        self.loop.add_writer(self.fd, self._writable)
        self.congested()
        return QUEUED

    def _writable(self) -> None:
        queue = self._queue
        if self.closed or not queue:
            return
        while queue:
            data = queue[0]
            try:
                sent = self.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._drop_queue()
                self.write_failed()
                return
            self.queued_bytes -= sent
            if sent < len(data):
                queue[0] = data[sent:]
                self.progressed()
                return
            queue.popleft()
        self.loop.remove_writer(self.fd)
        self.drained()

    def _drop_queue(self) -> None:
        if self.queued_bytes:
            self.queued_bytes = 0
            if self._queue is not None:
                self._queue.clear()
            if not self.closed:
                self.loop.remove_writer(self.fd)

    def unread(self) -> bool:
        """Whether the kernel holds bytes that have not been read (FIONREAD: half the cost of a peek that fails)."""
        try:
            return bool(fcntl.ioctl(self.fd, termios.FIONREAD, _NONE) != _NONE)
        except OSError:
            return True

    def unacknowledged(self) -> int:
        """Bytes in the kernel that the peer has not acknowledged (TCP) or read (Unix sockets)."""
        try:
            return int.from_bytes(fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
        except OSError:
            return 0

    def congested(self) -> None:
        """The first residue was queued."""

    def progressed(self) -> None:
        """Some of the residue went out, not all."""

    def drained(self) -> None:
        """The residue went out whole."""

    def write_failed(self) -> None:
        """A queued write met a broken socket; the default leaves the verdict to the read side."""

    # --- the end
    def expired(self, now: float) -> None:
        raise NotImplementedError

    def dispose(self, *, reset: bool = False) -> None:
        """Give the descriptor back. ``reset`` sends RST, so that no peer takes what it has for complete."""
        if self.closed:
            return
        self._drop_queue()
        self.pause_reading()
        self.closed = True
        self.wheel.disarm(self)
        if reset:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        with contextlib.suppress(OSError):
            self.sock.close()
