"""The system has no descriptor, buffer or memory for a socket: which errors say so, and the log that hears of it now and then.

Invariant: that is this process's own trouble, and never a verdict on whoever was to be spoken to.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from fastgw.net.clock import monotonic
from fastgw.stats import EventLog

LACKING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
TOLD_EVERY_S: Final = 10.0


class Shortage:
    """Tells the log, once for all who meet it in ten seconds."""

    __slots__ = ("_log", "_told_at")

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._told_at = -TOLD_EVERY_S

    def met(self, code: int, what: str) -> None:
        """``what`` could not be done for want of something; ``code`` says of what."""
        now = monotonic()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            message = "too few open files" if code in (errno.EMFILE, errno.ENFILE) else "too little memory for sockets"
            hint = "raise the limit of open files, or lower max_connections"
            self._log.warning(message, what=what, error=os.strerror(code), hint=hint)
