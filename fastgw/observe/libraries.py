"""What libraries say by Python's ``logging``, as lines of our log.

Owns: that nothing of it goes to standard error past the log, where it would be no JSON and know no limit of lines: a warning of
aiohttp's is a handshake away for whoever reaches the port. Must never: tell what a message was filled in with, which may be a
client's header or a key.
"""

from __future__ import annotations

import asyncio
import logging

from fastgw.errors import described
from fastgw.stats import EventLog


class Libraries(logging.Handler):
    """Hears all loggers of this process, from WARNING on."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """(What another thread says is dropped: the log is the loop's.)"""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        error = record.exc_info[1] if record.exc_info else None
        says = str(record.msg).partition("\n")[0]
        self._log.warning("a library says", library=record.name, text=says, error="" if error is None else described(error))


def hear(log: EventLog) -> None:
    """From now on ``log`` has what libraries say, and standard error has not."""
    logging.getLogger().addHandler(Libraries(log))
