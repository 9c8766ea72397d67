"""A process that was the gateway before, in the one that is now: what it says of its requests counts here, until it has gone.

Owns: its line, and what it holds of the limits here. What it held when it goes is held no more. It may go over to a third
process, as everything does: then that hears it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.exchange.gateway import GatewayCore
from fastgw.net.clock import micros, monotonic
from fastgw.net.process_line import LineGone, ProcessLine
from fastgw.stats import EventLog
from fastgw.upgrade import standing, words
from fastgw.upgrade.words import HeldRow, Word

if TYPE_CHECKING:
    import socket

SLACK_S: Final = 2.0  # for the last of it to be said


class Beside:
    """See the head of this file. ``held``: what it holds now."""

    def __init__(self, line: ProcessLine, held: list[HeldRow], core: GatewayCore, log: EventLog) -> None:
        self._line = line
        self._core = core
        self._log = log
        self._mirror = standing.Mirror(core)
        self._mirror.take(held, micros(monotonic()))
        self._task: asyncio.Task[None] | None = None

    @property
    def there(self) -> bool:
        """It has something under way still."""
        return self._task is not None and not self._task.done()

    def listen(self) -> None:
        """From now on what it says counts here."""
        self._line.go_on()
        self._task = asyncio.get_running_loop().create_task(self._listens(), name="a process before")

    async def _listens(self) -> None:
        try:
            while True:
                self.counts(words.read(await self._line.receive()))
        except LineGone:
            self._log.info("the process before has ended")
        except msgspec.MsgspecError:
            self._log.error("the process before has said what this version does not know: it is not heard any more")
        self._line.close()
        self._mirror.end(micros(monotonic()))

    def counts(self, word: Word) -> None:
        """What it has said."""
        now_us = micros(monotonic())
        if isinstance(word, words.Used):
            standing.count(self._core, word.rows)
            if word.batch:
                self._send(words.Noted(word.batch))
        elif isinstance(word, words.Settled):
            for row in word.rows:
                standing.settle(self._core, row, now_us)
        elif isinstance(word, words.Held):
            self._mirror.take(word.rows, now_us)

    def follow(self) -> None:
        """Engines have come and gone here."""
        self._mirror.follow()

    async def end(self, seconds: float) -> None:
        """This process drains: that one is to end too, within so long, and is heard no longer."""
        if self._task is not None and not self._task.done():
            self._send(words.Hurry(seconds))
            await asyncio.wait({self._task}, timeout=seconds + SLACK_S)
        self.close()

    def close(self) -> None:
        """It is not heard any more."""
        if self._task is not None:
            self._task.cancel()
        self._line.close()

    # --- a third process
    def leave(self) -> tuple[socket.socket, words.Before]:
        """It is heard elsewhere from now on, or here again (:meth:`go_on`)."""
        assert self._task is not None
        self._task.cancel()
        sock, read, unsent = self._line.leave()
        rows = self._mirror.rows()
        self._mirror.end(micros(monotonic()))
        return sock, words.Before(rows, read, unsent)

    def go_on(self, before: words.Before) -> None:
        """Nobody else hears it."""
        self._mirror.take(before.held, micros(monotonic()))
        self.listen()

    def _send(self, word: Word) -> None:
        self._line.send(words.write(word))
