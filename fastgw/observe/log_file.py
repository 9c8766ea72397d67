"""The file that a log goes to, where it is one: what is done about it when others have renamed it.

Owns: its name, as it was at the start. Must never: open anything that was no file then (a terminal, a pipe, a journal).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

LOG_TURN: Final = 1 << 40  # the byte of a file that is locked, behind all that is in it


class LogFile:
    """The file that standard error is, where it is one: after it was renamed (logrotate), lines go to a new one of that name.

    Such a file belongs to whoever started the gateway: it is opened, and made, with this process's rights.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self.path = ""
        with suppress(OSError):
            here = os.fstat(fd)
            if stat.S_ISREG(here.st_mode):
                self.path = os.readlink(f"/proc/self/fd/{fd}")
            self._beside = [one for one in (1,) if one != fd and os.path.samestat(os.fstat(one), here)]

    def reopen(self) -> bool:
        """Whether lines go to another file from now on. Raises OSError where it cannot be opened; then nothing changes."""
        if not self.path:
            return False
        now = os.fstat(self._fd)
        with suppress(FileNotFoundError):
            named = os.stat(self.path)
            if (named.st_dev, named.st_ino) == (now.st_dev, now.st_ino):
                return False
        # (What does not block is a pipe that somebody has put there: nobody is waited for.)
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        fd = os.open(self.path, how, stat.S_IMODE(now.st_mode))
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            for one in (self._fd, *self._beside):
                os.dup2(fd, one)  # at once for whoever writes: no line is lost, or cut
        finally:
            os.close(fd)
        return True


@contextmanager
def turn_of(file: int) -> Iterator[None]:
    """Nobody else has it meanwhile, in whatever process; -1 = there is nobody else. It ends with its process."""
    if file < 0:
        yield
        return
    fcntl.lockf(file, fcntl.LOCK_EX, 1, LOG_TURN)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, LOG_TURN)
