"""Where workers stand: a place that is to have one, and the process that has it.

Owns: how long it is until a place has another, where the last has not lasted.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from random import uniform
from typing import Final, Protocol

from fastgw.net.clock import monotonic
from fastgw.net.process_line import ProcessLine
from fastgw.workers import words

FIRST_WAIT_S: Final = 0.5  # before the second start in a row; then twice as long each time
MAX_WAIT_S: Final = 30.0


class Process(Protocol):
    """What is read of a process, and done with it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


class Place:
    """Where one of them listens: ``at`` 0 and so on. ``worker``: who is there now; ``since``: how often in a row none has
    lasted; ``covers``: who takes its clients while nobody is there."""

    __slots__ = ("at", "covers", "failures", "socks", "timer", "worker")

    def __init__(self, at: int, socks: list[socket.socket]) -> None:
        self.at = at
        self.socks = socks
        self.worker: Worker | None = None
        self.failures = 0
        self.covers: Worker | None = None
        self.timer: asyncio.TimerHandle | None = None


class Worker:
    """One process. ``slot``: under which number it holds what it holds of the limits; ``up``: it takes requests;
    ``counts``: what it tells has not been told to the program before this one."""

    __slots__ = ("answers", "counts", "line", "place", "process", "ready", "retires", "slot", "started_at", "task", "up")

    def __init__(self, place: Place, slot: int, line: ProcessLine, process: Process) -> None:
        self.place = place
        self.slot = slot
        self.line = line
        self.process = process
        self.started_at = monotonic()
        self.up = self.retires = False
        self.counts = True
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: dict[int, asyncio.Future[list[str]]] = {}
        self.task: asyncio.Task[None] | None = None

    def say(self, word: words.Word) -> None:
        self.line.send(words.write(word))


def waits_s(failures: int) -> float:
    """How long after a worker's end another is started, where so many in a row have not lasted."""
    if failures <= 1:
        return 0.0
    return min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 2, 16)) * uniform(0.8, 1.0)  # noqa: S311 - spreads starts


def how(status: int) -> dict[str, object]:
    """How a process has ended."""
    if status >= 0:
        return {"status": status}
    with contextlib.suppress(ValueError):
        return {"signal": signal.Signals(-status).name}
    return {"signal": -status}
