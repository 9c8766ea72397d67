"""The certificates of a running gateway, those that it shows and those by which engines are believed: when their files are read
again.

Owns: that somebody looks at the files for as long as there are any. Must never: import TLS where nothing speaks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgw.stats import EventLog
from fastgw.tasks import Tasks
from fastgw.upstream.fleet import Fleet

if TYPE_CHECKING:
    from fastgw.net.certificates import Kept, Shown


class Certificates:
    """See the head of this file. ``shown``: to clients, None = nothing is."""

    __slots__ = ("_fleet", "_log", "_looked_after", "_shown", "_tasks")

    def __init__(self, shown: Shown | None, fleet: Fleet, tasks: Tasks, log: EventLog) -> None:
        self._shown = shown
        self._fleet = fleet
        self._tasks = tasks
        self._log = log
        self._looked_after = False
        for note in shown.notes if shown is not None else ():
            log.warning(note)
        self.look_after()

    def look_after(self) -> None:
        """Have the files looked at from now on, where there are any."""
        if not self._looked_after and self._kept():
            from fastgw.net.certificates import keep_fresh

            self._looked_after = True
            self._tasks.spawn("certificates", keep_fresh(self._kept, self._log))

    def renew(self) -> None:
        """Read all files again, in a thread; no connection ends by it. What cannot be used is told to the log, and what was
        there before goes on."""
        self.look_after()  # (an engine may have come that is the first to speak TLS)
        for one in self._kept():
            from fastgw.net.certificates import read_again

            self._tasks.spawn("certificates again", read_again(one, self._log, False))

    def _kept(self) -> list[Kept]:
        """What was made of files of certificates and keys."""
        found: list[Kept] = [] if self._shown is None else [self._shown]
        trusts = dict.fromkeys(pool.engine.secure.trust for pool in self._fleet.pools if pool.engine.secure is not None)
        return [*found, *trusts]
