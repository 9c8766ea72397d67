"""Who has the GPUs read, in a thread that nobody waits for longer than :data:`DEADLINE_S`.

A reading is made when somebody asks and the last is older than :data:`FRESH_S`; all who ask meanwhile share it. A driver that
hangs keeps the thread (a call into a driver cannot be ended), and so there is never a second: whoever asks then gets the last
reading at once, with its age, and after :data:`STALE_S` none. Nothing runs while nobody asks.

Owns: that thread, the last reading and its text. Must never: touch the driver in the loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Final, Protocol

import msgspec

from fastgw import __version__
from fastgw.config.names import GPU_NAMES
from fastgw.errors import described
from fastgw.gpu.driver import Driver
from fastgw.gpu.energy import Meter
from fastgw.gpu.fields import FIELDS
from fastgw.gpu.reading import Reader, Reading
from fastgw.gpu.series import of_itself, rendered
from fastgw.stats import EventLog

FRESH_S: Final = 1.0
DEADLINE_S: Final = 3.0
"""Below what Prometheus gives a scrape (10 s by default)."""
STALE_S: Final = 60.0
CLOSE_S: Final = 1.0
HUNG: Final = "hung"
HUNG_ADVICE: Final = "the driver does not answer: `nvidia-smi` and the kernel's log (Xid) say more; it may take a restart"

_ROWS: Final = {field.seed.name: row for row, field in enumerate(FIELDS)}
_AT_A_GLANCE: Final = {
    "busy_percent": "gpu_utilization_percent", "used_gib": "gpu_memory_used_gb", "total_gib": "gpu_memory_total_gb",
    "celsius": "gpu_temperature_celsius", "watts": "gpu_power_watts",
}  # fmt: skip


class Source(Protocol):
    """What is read; in a thread, one call at a time."""

    def read(self) -> Reading: ...

    def close(self) -> None: ...


class Health(msgspec.Struct, frozen=True):
    """How the driver is: "ok", or a word, and what to do. ``age_s``: of the last reading, -1 = there was none."""

    status: str
    driver: str
    detail: str
    gpus: int
    gpus_up: int
    age_s: float


class Use(msgspec.Struct, frozen=True):
    """All GPUs together: bytes (None = none of them says: their memory is the machine's), and how busy they are on average
    (None = none of them says: they are divided by MIG); and what each has drawn in all, by its UUID."""

    used_bytes: float | None
    total_bytes: float | None
    utilization_percent: float | None
    joules: Mapping[str, float] = {}


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at a glance; None = it does not say."""

    index: int
    name: str
    up: bool
    busy_percent: float | None
    used_gib: float | None
    total_gib: float | None
    celsius: float | None
    watts: float | None


class Watch:
    """See the head of this file. ``names``: none = ``seed``; ``deadline_s``: what those who ask wait at most."""

    def __init__(
        self, source: Source, names: Sequence[str], log: EventLog, *, deadline_s: float = DEADLINE_S, fresh_s: float = FRESH_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:  # fmt: skip
        self._source = source
        self.meter = Meter()
        self._log = log
        self._told = ("", 0, 0)  # what the log was told last: how the driver is, GPUs, and how many of them answer
        self._names = tuple(names) or GPU_NAMES[:1]
        self._deadline_s = deadline_s
        self._fresh_s = fresh_s
        self._clock = clock
        self._host = os.uname().nodename
        self._last = Reading(at=0.0, state="starting")
        self._text = b""
        self._readings = 0
        self._late = 0
        self._under_way: asyncio.Future[None] | None = None
        self._began = 0.0
        self._given_up = False
        self._closed = False

    # --- for those who ask
    async def page(self) -> bytes:
        """All of it as Prometheus text."""
        fresh = await self.look()
        age_s = self._age_s()
        last = self._last
        up = fresh and last.state == "ok"
        own = of_itself(last, up=up, age_s=max(age_s, 0.0), late=self._late, readings=self._readings, version=__version__)
        return own if age_s > STALE_S else own + self._text

    def health(self) -> Health:
        """Without waiting; a reading is begun where the last is old."""
        self.begin()
        last = self._last
        hung = self._hangs()
        up = sum(card.up for card in last.cards)
        status = "ok" if last.state == "ok" and not hung and up == len(last.cards) else "degraded"
        return Health(
            status=status, driver=HUNG if hung else last.state, detail=HUNG_ADVICE if hung else last.detail, gpus=last.gpus,
            gpus_up=up, age_s=round(self._age_s(), 3),
        )  # fmt: skip

    def use(self) -> Use | None:
        """What all GPUs together had a moment ago, without waiting; None = nobody knows."""
        self.begin()
        if not 0 <= self._age_s() <= STALE_S:
            return None
        used, total, busy = (_ROWS[name] for name in ("gpu_memory_used_gb", "gpu_memory_total_gb", "gpu_utilization_percent"))
        there = [card.values for card in self._last.cards if used in card.values and total in card.values]
        say = [card.values[busy] for card in self._last.cards if busy in card.values]
        if not (there or say or self.meter.joules):
            return None
        percent = sum(say) / len(say) if say else None
        in_use, in_all = (sum(values[row] for values in there) if there else None for row in (used, total))
        return Use(in_use, in_all, percent, dict(self.meter.joules))

    def tiles(self) -> Sequence[Tile]:
        """Each GPU as it was a moment ago, without waiting."""
        self.begin()
        if not 0 <= self._age_s() <= STALE_S:
            return ()
        return [
            Tile(index=card.index, name=card.name, up=card.up,
                 **{shown: card.values[row] * FIELDS[row].seed.scale if (row := _ROWS[name]) in card.values else None
                    for shown, name in _AT_A_GLANCE.items()})
            for card in self._last.cards
        ]  # fmt: skip

    async def close(self) -> None:
        """Let the driver go, if it lets us; a thread that it holds ends with the process."""
        self._closed = True
        if await self._wait(CLOSE_S):
            self._thread(self._let_go)
            await self._wait(CLOSE_S)

    # --- the thread
    async def look(self) -> bool:
        """Have a reading that is fresh; False = there is none in time."""
        self.begin()
        if not self._hangs() and not await self._wait(self._began + self._deadline_s - self._clock()) and not self._given_up:
            self._given_up = True
            self._late += 1
            self._log.warning("the GPUs are not waited for any longer", driver=HUNG, detail=HUNG_ADVICE)
        # (Another may be under way by now, which somebody else has begun.)
        return 0 <= self._age_s() <= self._deadline_s + self._fresh_s and not self._hangs()

    def begin(self) -> None:
        """Have a reading made where the last is old, without waiting."""
        if self._under_way is None and not self._closed and not 0 <= self._age_s() < self._fresh_s:
            self._thread(self._read)

    def _thread(self, what: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        loop = asyncio.get_running_loop()
        # (Not of a pool: those are waited for when the program ends.)
        thread = threading.Thread(target=what, args=(loop,), name="reads the GPUs", daemon=True)
        with suppress(RuntimeError):  # the system gives no more threads: there is no reading then, and the next may have one
            thread.start()
            self._under_way, self._began, self._given_up = loop.create_future(), self._clock(), False

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            reading = self._source.read()
            text = rendered(reading, self._names, self._host)
        except Exception as error:  # ours; whoever waits must not wait for ever
            reading, text = Reading(at=self._clock(), state="unexpected", detail=described(error)), b""
        with suppress(RuntimeError):  # (the loop has gone)
            loop.call_soon_threadsafe(self._taken, reading, text)

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        self._source.close()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._ended)

    def _taken(self, reading: Reading, text: bytes) -> None:
        self._last, self._text = reading, text
        self.meter.take(reading)
        self._readings += 1
        self._ended()
        told = reading.state, reading.gpus, sum(card.up for card in reading.cards)
        if told != self._told:
            tell = self._log.info if reading.state == "ok" and told[2] == len(reading.cards) else self._log.warning
            tell("GPUs", driver=reading.state, detail=reading.detail, gpus=told[1], up=told[2])
            self._told = told

    def _ended(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None and not under_way.done():
            under_way.set_result(None)

    async def _wait(self, seconds: float) -> bool:
        if self._under_way is None:
            return True
        done, _ = await asyncio.wait({self._under_way}, timeout=max(seconds, 0.0))
        return bool(done)

    def _hangs(self) -> bool:
        late = self._given_up or self._clock() - self._began > self._deadline_s
        return self._under_way is not None and late

    def _age_s(self) -> float:
        return self._clock() - self._last.at if self._readings else -1.0


def watch(names: Sequence[str], processes: int, log: EventLog, fresh_s: float = FRESH_S) -> Watch:
    """The GPUs of this machine."""
    return Watch(Reader(Driver(), processes), names, log, fresh_s=fresh_s)
