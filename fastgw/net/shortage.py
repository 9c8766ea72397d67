"""The system has no descriptor, buffer or memory for a socket: which errors say so, and the log that hears of it now and then.

Invariant: that is this process's own trouble, and never a verdict on whoever was to be spoken to.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from fastgw.errors import GatewayError, Source
from fastgw.net.clock import monotonic
from fastgw.stats import EventLog, Stats

LACKING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC)
# (ENOSPC is epoll's: one user may have so many descriptors watched, fs.epoll.max_user_watches.)
TOLD_EVERY_S: Final = 10.0


class Shortage:
    """Counts each time in ``stats``, and tells the log, once for all who meet it in ten seconds."""

    __slots__ = ("_log", "_stats", "_told_at")

    def __init__(self, log: EventLog, stats: Stats | None = None) -> None:
        self._log = log
        self._stats = stats
        self._told_at = -TOLD_EVERY_S

    def met(self, code: int, what: str) -> None:
        """``what`` could not be done for want of something; ``code`` says of what."""
        if self._stats is not None:
            self._stats.shortages += 1
        now = monotonic()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            if code in (errno.EMFILE, errno.ENFILE):
                message, limit = "too few open files", "the limit of open files"
            elif code == errno.ENOSPC:
                message, limit = "too many watched descriptors", "fs.epoll.max_user_watches"
            else:
                message, limit = "too little memory for sockets", "the limit of open files"
            hint = f"raise {limit}, or lower max_connections"
            self._log.warning(message, what=what, error=os.strerror(code), hint=hint)


def no_socket(detail: str) -> GatewayError:
    """A dial that this process was too short of something for."""
    return GatewayError("engine_busy", source=Source.GATEWAY, retry_after_s=1.0, detail=f"no socket: {detail}")
