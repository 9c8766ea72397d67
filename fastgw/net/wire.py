"""A non-blocking socket on the poller: one ``recv`` in, one ``send`` out, a bounded residue between.

A wire is held by a connection, which speaks a protocol over it and is told what happens (:class:`Holder`). It owns the file
descriptor, its registration at the poller, and the bytes that the kernel would not take yet. There is no transport: a poller
and direct system calls cost next to nothing over C. Invariant: the residue is queued only when a ``send`` came back short, and
whoever produced the bytes is told (``write`` returns ``QUEUED``) so that it stops reading its own source; so the queue never
holds more than one read's worth of bytes plus a head, or the one body that its holder has anyway. What the kernel did not take
stays where it lies: only what is small beside the object that it is the end of is copied out.

    Wire       the descriptor, the poller, the residue
    PlainWire  bytes pass as they are
    TlsWire    in records (``net/tls.py``)

What puts something between the bytes and the socket is another class, with a ``recv``, ``write`` and ``shutdown`` of its own.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from typing import Final

from fastgw.accel.landing import Landing
from fastgw.accel.sockets import keep, recv, send, send_both, send_from, unacknowledged, unread
from fastgw.net.descriptors import abort, close, dial_error, finish
from fastgw.net.poller import LEFT, READ, WRITE, Polled, Reactor
from fastgw.net.timers import Timed
from fastgw.net.vanished import watched

Address = tuple[int, object]  # family, socket address

RECV_BYTES: Final = 65536
LAND_BYTES: Final = 1 << 20
"""Of a body that is received where it stays, in one read: 0.35 to 0.5 ms, with the pages that it touches first."""
WORTH_COPYING: Final = 16384
"""Less than so much at the end of an object is copied out of it, where it has to wait."""

SENT: Final = 1  # everything went to the kernel
QUEUED: Final = 0  # a residue waits: stop producing until it has gone
DEAD: Final = -1  # the socket is broken; the read side will say how

_UNDER_WAY: Final = (0, 115)  # EINPROGRESS. (EAGAIN is a Unix socket's full backlog: no dial is under way.)


class Holder(Timed):
    """A connection, as its wire knows it. A subclass defines the calls that it can get."""

    __slots__ = ()

    def on_readable(self) -> None:
        """There is something to read, or an error to be met by reading."""
        raise NotImplementedError

    def on_left(self) -> None:
        """The peer has left while it is not read. Ends in a close, or it would be told for ever."""
        raise NotImplementedError

    def on_unwatched(self, code: int) -> None:
        """The kernel has no room to watch the socket, for want of what the error number says: neither side of it would be heard
        of again. Ends in a close; the default takes it for the peer's leaving."""
        self.on_left()

    def on_dialled(self, code: int) -> None:
        """What was dialled has answered: 0, or the error number."""
        raise NotImplementedError

    def on_congested(self) -> None:
        """The first residue was queued."""

    def on_progressed(self) -> None:
        """Some of the residue went out, not all."""

    def on_written(self) -> None:
        """The residue went out whole."""

    def on_broken(self) -> None:
        """A queued write met a broken socket; the default leaves the verdict to the read side."""


NOBODY: Final = Holder()
"""Holds the wires that are closed: they and their connections must not keep each other alive."""


class Wire(Polled):
    """A socket and its residue; see the head of this file."""

    __slots__ = ("_dialling", "_queue", "_taken", "closed", "holder", "poller", "queued_bytes", "reading")

    def __init__(self, reactor: Reactor, fd: int = -1) -> None:
        """``fd``: of a connected socket that does not block; from here on it is the wire's. Without one: what will dial."""
        self._set_up(reactor, fd)

    def _set_up(self, reactor: Reactor, fd: int) -> None:
        # (A call of the base's costs as much as all of this.)
        self.fd = fd
        self.interest = 0
        self.watched_in = 0
        self.poller = reactor.poller
        self.holder = NOBODY
        self.closed = False
        self.reading = False
        self.queued_bytes = 0
        self._dialling = False
        self._queue: deque[bytes] | None = None
        self._taken = 0  # bytes of the first in the queue that have gone

    def __repr__(self) -> str:
        state = "closed" if self.closed else "reading" if self.reading else "held"
        return f"<{type(self).__name__} {state} queued={self.queued_bytes}>"

    # --- the read side
    def recv(self, size: int) -> bytes:
        """What is there, ``size`` bytes at most; b"" at the end. Raises BlockingIOError where there is nothing, OSError where
        the socket is broken."""
        raise NotImplementedError

    def land(self, landing: Landing) -> int:
        """What is there, into ``landing``, :data:`LAND_BYTES` at most: how many bytes, 0 at the end. Raises as :meth:`recv`."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read. (What came before the peer's end is read before that is.)"""
        if not self.reading and not self.closed:
            self.reading = True
            self.poller.watch(self, (self.interest | READ) & ~LEFT)

    def pause(self) -> None:
        """Read no more for now, of a peer who may leave when it has said all: an engine, or one that nothing is done for. (A
        client for whom something is done is held.)"""
        if self.reading:
            self.reading = False
            self.poller.watch(self, self.interest & ~READ)

    def hold(self) -> None:
        """Read no more for now, but notice it when the peer leaves."""
        if not self.closed:
            self.reading = False
            self.poller.watch(self, (self.interest & ~READ) | LEFT)

    def watch_leaving(self, minded: bool) -> None:
        """Whether a peer that leaves while it is not read is noticed at once."""
        if not self.closed:
            self.poller.watch(self, self.interest | LEFT if minded else self.interest & ~LEFT)

    def unread(self) -> bool:
        """Whether the kernel holds bytes that have not been read."""
        return unread(self.fd)

    def silent_since(self, turn: int) -> bool:
        """Whether the kernel has been asked after the poller's ``turn``, and knew of nothing to read."""
        return self.poller.silent_since(self, turn)

    def _readable(self) -> None:
        if not self.closed:
            holder = self.holder
            holder.on_readable()

    def _left(self) -> None:
        holder = self.holder
        holder.on_left()

    def _unwatched(self, code: int) -> None:
        if not self.closed:
            holder = self.holder
            holder.on_unwatched(code)

    # --- the write side
    def write(self, data: bytes) -> int:
        """Send ``data`` now; what the kernel does not take is queued. Returns ``SENT``, ``QUEUED`` or ``DEAD``."""
        raise NotImplementedError

    def write_both(self, head: bytes, body: bytes, start: int) -> int:
        """Send ``head`` and ``body[start:]`` one behind the other, as :meth:`write` does; of a ``body`` whose head went out at
        once nothing is copied, whatever the kernel takes of it."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Close our side: no more is written. Raises OSError where the socket is broken."""
        raise NotImplementedError

    def unacknowledged(self) -> int:
        """Bytes in the kernel that the peer has not acknowledged (TCP) or read (Unix sockets)."""
        return unacknowledged(self.fd)

    def _put_behind(self, data: bytes) -> int:
        """Queue ``data`` behind the residue that there is."""
        assert self._queue is not None
        self._queue.append(keep(data))
        self.queued_bytes += len(data)
        return QUEUED

    def _put_aside(self, data: bytes, sent: int) -> int:
        """Queue what the kernel did not take of ``data``."""
        left = len(data) - sent
        if sent and left < WORTH_COPYING:
            data = keep(data, sent)
            sent = 0
        elif not sent:
            data = keep(data)
        return self._wait_with(data, sent)

    def _wait_with(self, data: bytes, sent: int) -> int:
        """Queue ``data``, of which ``sent`` bytes have gone, as it is."""
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        self._taken = sent
        self.queued_bytes = len(data) - sent
        self.poller.watch(self, self.interest | WRITE)
        holder = self.holder
        holder.on_congested()
        return QUEUED

    def _writable(self) -> None:
        if self.closed:
            return
        holder = self.holder
        if self._dialling:
            self._dialling = False
            self.poller.watch(self, 0)
            holder.on_dialled(dial_error(self.fd))
            return
        queue = self._queue
        if not queue:
            return
        while queue:
            data = queue[0]
            try:
                sent = send_from(self.fd, data, self._taken)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._drop_queue()
                holder.on_broken()
                return
            self.queued_bytes -= sent
            self._taken += sent
            if self._taken < len(data):
                holder.on_progressed()
                return
            self._taken = 0
            queue.popleft()
        self.poller.watch(self, self.interest & ~WRITE)
        holder.on_written()

    def _drop_queue(self) -> None:
        if self.queued_bytes:
            self.queued_bytes = self._taken = 0
            if self._queue is not None:
                self._queue.clear()
            if not self.closed:
                self.poller.watch(self, self.interest & ~WRITE)

    # --- the beginning and the end
    def why(self, code: int) -> str:
        """What ``code``, told to ``on_dialled``, means."""
        return os.strerror(code)

    def for_h2(self) -> bool:
        """Whether HTTP/2 may be spoken on it: over TLS where that was agreed on, else by prior knowledge."""
        return True

    def dial(self, address: Address) -> int:
        """Begin to connect: 0 = the holder will be told how that went, else the error number at once. What was dialled before,
        and did not answer, is given back. Raises OSError where no socket can be made."""
        fd = self.fd
        if fd >= 0:
            self.fd = -1
            close(fd)
        sock = _new_socket(address[0])
        try:
            code = sock.connect_ex(address[1])  # type: ignore[arg-type]
        except OSError as error:
            code = error.errno or 111
        self.fd = sock.detach()
        if code not in _UNDER_WAY:
            return code
        self._dialling = True
        self.poller.watch(self, WRITE)
        return 0

    def release(self) -> int:
        """Give the descriptor away, to whoever goes on with the connection: the wire is closed. -1 = it cannot be: something
        waits to be written, or stands between the bytes and the socket."""
        return -1

    def dispose(self, reset: bool = False) -> None:
        """Give the descriptor back. ``reset`` sends RST, so that no peer takes what it has for complete."""
        if self.closed:
            return
        self._farewell(reset)
        self._drop_queue()
        self.reading = False
        self.poller.watch(self, 0)
        self.closed = True
        self.holder = NOBODY
        fd = self.fd
        if fd >= 0:
            self.fd = -1
            try:
                if reset:
                    abort(fd)
                else:
                    close(fd)
            except OSError:  # (``suppress`` would be an object and three calls for each connection)
                pass

    def _farewell(self, reset: bool) -> None:
        """The last that can be said, before the descriptor is given back."""


class PlainWire(Wire):
    """Bytes pass as they are."""

    __slots__ = ()

    def recv(self, size: int) -> bytes:
        return recv(self.fd, size)

    def land(self, landing: Landing) -> int:
        return landing.recv(self.fd, LAND_BYTES)

    def write(self, data: bytes) -> int:
        if self.queued_bytes:
            return self._put_behind(data)
        if self.closed:
            return DEAD
        try:
            sent = send(self.fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return DEAD
        return SENT if sent == len(data) else self._put_aside(data, sent)

    def write_both(self, head: bytes, body: bytes, start: int) -> int:
        if self.queued_bytes:
            self._put_behind(head)
            return self._put_behind(keep(body, start))
        if self.closed:
            return DEAD
        try:
            sent = send_both(self.fd, head, body, start)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return DEAD
        size = len(head)
        if sent == size + len(body) - start:
            return SENT
        if sent >= size:
            return self._wait_with(body, start + sent - size)
        self._put_aside(head, sent)
        return self._put_behind(keep(body, start))

    def shutdown(self) -> None:
        finish(self.fd)

    def release(self) -> int:
        fd = self.fd
        if self.closed or self.queued_bytes or fd < 0:
            return -1
        self.reading = False
        self.poller.watch(self, 0)
        self.fd = -1
        self.closed = True
        self.holder = NOBODY
        return fd


def _new_socket(family: int) -> socket.socket:
    """A socket to dial with."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        watched(sock, True)
    return sock
