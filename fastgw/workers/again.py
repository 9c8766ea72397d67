"""The control process is started anew in its own place (execve): what it leaves to the program that goes on with it.

It serves no client, so nobody meets this; its process stays what it is, for its service manager and for its workers, which are
its children still. Owns: what is left, and how it is written: a file without a name, whose descriptor the environment names, as
the listening sockets, the lines to the workers and the memory of their limits are descriptors that stay open.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Final

import msgspec

from fastgw.net.given import held
from fastgw.net.process_line import ProcessLine
from fastgw.workers import words

MOST_BYTES: Final = 256 << 20  # of what was said and not read, of all workers


class LeftWorker(msgspec.Struct, array_like=True, frozen=True):
    """A worker that lives: under which number it holds something, at which place (-1: at none any more), its line with what was
    read and not taken, and not sent yet."""

    slot: int
    at: int
    pid: int
    line: int
    read: bytes
    unsent: bytes


class Left(msgspec.Struct, frozen=True):
    """All of it. ``listen`` and ``control_listen``: the settings that sockets are bound by; ``by``: who has given them, if
    anybody has."""

    speaks: str
    listen: str
    control_listen: str
    by: str
    region: list[int]
    places: list[list[int]]
    control: list[int]
    workers: list[LeftWorker]
    engines: list[words.Engine]
    required: bool

    def fds(self) -> list[int]:
        """The descriptors that are to stay open."""
        sockets = [fd for place in self.places for fd in place]
        return [*self.region, *sockets, *self.control, *(one.line for one in self.workers)]


def leave(left: Left) -> int:
    """The descriptor of the file that has it."""
    fd = os.memfd_create("fastgw-left", 0)
    data = msgspec.msgpack.encode(left)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def find(fd: int) -> Left:
    """What was left there. Raises OSError or ``msgspec.MsgspecError`` where it cannot be read."""
    with os.fdopen(fd, "rb") as file:
        left = msgspec.msgpack.decode(file.read(MOST_BYTES), type=Left)
    for one in left.fds():
        os.set_inheritable(one, False)
    return left


def line_of(one: LeftWorker) -> ProcessLine:
    """The line to a worker, from where it was."""
    line = ProcessLine.going_on(held([one.line])[0], one.read, one.unsent)
    line.go_on()
    return line


class Adopted:
    """The process of a worker that this program has not started (as ``subprocess.Popen``)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1
        self._status: int | None = None
        with suppress(OSError):
            self._fd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self._status is None and (self._fd < 0 or select.select([self._fd], [], [], 0)[0]):
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # (of the one-file program, which is another's child)
                pid, status = self.pid, 0
            if not pid:
                return None  # (in a moment)
            self._status = os.waitstatus_to_exitcode(status)
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        return self._status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, 9)

    def wait(self) -> int:
        if self._fd >= 0:
            select.select([self._fd], [], [])
        return self.poll() or 0
