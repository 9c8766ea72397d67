"""Words and sockets between two processes of one gateway, over a pair of Unix sockets of which one has inherited an end.

Owns: frames (four bytes of length, then as many), the sockets that come along (``SCM_RIGHTS``), and what waits to be sent or
read. Must never: hold the loop for the other side, or take a frame that is larger than :data:`MAX_FRAME_BYTES`.

Nobody else can speak here: the pair has no name, and is given to the one process that is started with it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Final, Self

MAX_FRAME_BYTES: Final = 4 << 20
MAX_SOCKETS: Final = 64  # that come along, in all: listening sockets, one for each address
MAX_FRAMES: Final = 64  # read and not taken: then nothing more is read until one is
_READ_BYTES: Final = 1 << 16
_LENGTH_BYTES: Final = 4
_FD_BYTES: Final = array("i").itemsize


class LineGone(Exception):
    """The other side has ended, or said what cannot be read."""


class ProcessLine:
    """One end. Runs in the running loop until :meth:`close`."""

    __slots__ = ("_fds", "_frames", "_in", "_loop", "_out", "_out_fds", "_reads", "_sock", "_waits", "_writes", "gone")

    def __init__(self, sock: socket.socket, reads: bool = True) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._fds: list[int] = []  # that came along, and were not taken
        self._frames: deque[bytes] = deque()
        self._out = bytearray()
        self._out_fds: list[int] = []
        self._waits: asyncio.Future[None] | None = None
        self._reads = self._writes = False
        self.gone = False
        if reads:
            self._read_on()

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """One end, and the other for a process that inherits it."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(here), there

    @classmethod
    def going_on(cls, sock: socket.socket, read: bytes, unsent: bytes) -> Self:
        """An end that another process has had, as :meth:`leave` said there. Nothing is read or sent before :meth:`go_on`: until
        then that may go on itself."""
        line = cls(sock, reads=False)
        line._take(read)
        line._out += unsent
        return line

    @classmethod
    def inherited(cls, fd: int) -> Self:
        """The end that this process was given. Raises OSError where it is none."""
        os.set_inheritable(fd, False)
        return cls(socket.socket(fileno=fd))

    # --- out
    def send(self, frame: bytes, socks: Sequence[socket.socket] = ()) -> None:
        """Send it when the other side reads; ``socks`` come before its last byte. Nothing where that has gone."""
        if self.gone:
            return
        self._out += len(frame).to_bytes(_LENGTH_BYTES) + frame
        self._out_fds += [sock.fileno() for sock in socks]
        self._write()

    @property
    def waiting_bytes(self) -> int:
        """What was not sent yet."""
        return len(self._out)

    def _write(self) -> None:
        try:
            while self._out:
                if self._out_fds:
                    sent = socket.send_fds(self._sock, [self._out], self._out_fds)
                    self._out_fds = []
                else:
                    sent = self._sock.send(self._out)
                del self._out[:sent]
        except (BlockingIOError, InterruptedError):
            if not self._writes:
                self._writes = True
                self._loop.add_writer(self._sock.fileno(), self._write)
            return
        except OSError:
            self._end()
            return
        if self._writes:
            self._writes = False
            self._loop.remove_writer(self._sock.fileno())

    # --- in
    async def receive(self) -> bytes:
        """The next frame. Raises :class:`LineGone` when there is none, and there will be none."""
        while not self._frames:
            if self.gone:
                raise LineGone
            self._waits = self._loop.create_future()
            await self._waits
        frame = self._frames.popleft()
        if not self._reads and not self.gone:
            self._read_on()
        return frame

    def take_sockets(self, count: int) -> list[socket.socket]:
        """So many of those that have come along, the first first. Raises :class:`LineGone` where they are not as many."""
        if count > len(self._fds):
            raise LineGone
        fds, self._fds = self._fds[:count], self._fds[count:]
        return [socket.socket(fileno=fd) for fd in fds]

    def leave(self) -> tuple[socket.socket, bytes, bytes]:
        """Nothing more is read or sent here, until :meth:`go_on`: the socket, what was read and not taken, and what waits to be
        sent, for another process to go on with."""
        self._stop()
        read = b"".join(len(frame).to_bytes(_LENGTH_BYTES) + frame for frame in self._frames) + self._in
        return self._sock, read, bytes(self._out)

    def go_on(self) -> None:
        """Read and send, which nobody else does."""
        if not self.gone:
            self._read_on()
            self._write()

    def _read_on(self) -> None:
        self._reads = True
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _stop(self) -> None:
        self._reads = self._writes = False
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data, fds = self._recv()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end()
            return
        self._fds += fds
        if not data or len(self._fds) > MAX_SOCKETS:
            self._end()
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= _LENGTH_BYTES:
            length = int.from_bytes(self._in[:_LENGTH_BYTES])
            if length > MAX_FRAME_BYTES:
                self._end()
                return
            if len(self._in) < _LENGTH_BYTES + length:
                break
            self._frames.append(bytes(self._in[_LENGTH_BYTES : _LENGTH_BYTES + length]))
            del self._in[: _LENGTH_BYTES + length]
        if len(self._frames) > MAX_FRAMES:
            self._reads = False
            self._loop.remove_reader(self._sock.fileno())
        self._wake()

    def _recv(self) -> tuple[bytes, list[int]]:
        fds = array("i")
        room = socket.CMSG_SPACE(MAX_SOCKETS * _FD_BYTES)
        data, ancillary, _, _ = self._sock.recvmsg(_READ_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, found in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(found[: len(found) - len(found) % _FD_BYTES])
        return data, list(fds)

    def _wake(self) -> None:
        if self._waits is not None and not self._waits.done():
            self._waits.set_result(None)

    # --- the end
    def _end(self) -> None:
        if not self.gone:
            self.gone = True
            self._stop()
            self._out.clear()
            self._wake()

    def close(self) -> None:
        """No more; sockets that came and were not taken are closed."""
        self._end()
        self._sock.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
