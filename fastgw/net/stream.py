"""A raw non-blocking socket on the loop's pollers: one ``recv`` in, one ``send`` out, a bounded residue between.

Owns: the file descriptor, its poller registrations, and the bytes that the kernel would not take yet. There is no
transport: a poller and direct system calls cost next to nothing over C. Invariant: the residue is
queued only when a ``send`` came back short, and whoever produced the bytes is told (``write`` returns ``QUEUED``) so
that it stops reading its own source; so the queue never holds more than one read's worth of bytes plus a head.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from typing import Final

from fastgw.accel.sockets import keep, send, unacknowledged, unread
from fastgw.net.poller import READ, WRITE, Polled, Reactor

RECV_BYTES: Final = 65536

SENT: Final = 1  # everything went to the kernel
QUEUED: Final = 0  # a residue waits: stop producing until ``drained``
DEAD: Final = -1  # the socket is broken; the read side will say how

_LINGER_RESET: Final = struct.pack("ii", 1, 0)


class RawStream(Polled):
    """Base of client and engine connections; subclasses implement ``_readable``, ``drained`` and ``expired``."""

    __slots__ = (
        "_queue",
        "closed",
        "loop",
        "poller",
        "queued_bytes",
        "reading",
        "sock",
        "wheel",
    )

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        super().__init__()
        self.loop = reactor.loop
        self.poller = reactor.poller
        self.wheel = reactor.wheel
        self._bind(sock)
        self.closed = False
        self.reading = False
        self.queued_bytes = 0
        self._queue: deque[bytes] | None = None

    def _bind(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()

    # --- the read side
    def resume_reading(self) -> None:
        if not self.reading and not self.closed:
            self.reading = True
            self.poller.watch(self, self.interest | READ)

    def pause_reading(self) -> None:
        if self.reading:
            self.reading = False
            self.poller.watch(self, self.interest & ~READ)

    # --- the write side
    def write(self, data: bytes) -> int:
        """Send ``data`` now; what the kernel does not take is queued. Returns ``SENT``, ``QUEUED`` or ``DEAD``."""
        if self.queued_bytes:
            assert self._queue is not None
            self._queue.append(keep(data))
            self.queued_bytes += len(data)
            return QUEUED
        if self.closed:
            return DEAD
        try:
            sent = send(self.fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return DEAD
        if sent == len(data):
            return SENT
        if self._queue is None:
            self._queue = deque()
        self._queue.append(keep(data, sent))
        self.queued_bytes = len(data) - sent
        self.poller.watch(self, self.interest | WRITE)
        self.congested()
        return QUEUED

    def _writable(self) -> None:
        queue = self._queue
        if self.closed or not queue:
            return
        while queue:
            data = queue[0]
            try:
                sent = send(self.fd, data)
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
        self.poller.watch(self, self.interest & ~WRITE)
        self.drained()

    def _drop_queue(self) -> None:
        if self.queued_bytes:
            self.queued_bytes = 0
            if self._queue is not None:
                self._queue.clear()
            if not self.closed:
                self.poller.watch(self, self.interest & ~WRITE)

    def unread(self) -> bool:
        """Whether the kernel holds bytes that have not been read (FIONREAD: half the cost of a peek that fails)."""
        return unread(self.fd)

    def unacknowledged(self) -> int:
        """Bytes in the kernel that the peer has not acknowledged (TCP) or read (Unix sockets)."""
        return unacknowledged(self.fd)

    def congested(self) -> None:
        """The first residue was queued."""

    def progressed(self) -> None:
        """Some of the residue went out, not all."""

    def drained(self) -> None:
        """The residue went out whole."""

    def write_failed(self) -> None:
        """A queued write met a broken socket; the default leaves the verdict to the read side."""

    # --- the end
    def dispose(self, *, reset: bool = False) -> None:
        """Give the descriptor back. ``reset`` sends RST, so that no peer takes what it has for complete."""
        if self.closed:
            return
        self._drop_queue()
        self.reading = False
        self.poller.watch(self, 0)
        self.closed = True
        self.wheel.disarm(self)
        if reset:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        with contextlib.suppress(OSError):
            self.sock.close()
