"""Traces on their way to a collector.

A request costs the loop the decision at its head (``exchange.tracing``) and, where it is sampled, one record at its end. A
thread makes spans of the records, in batches, and hands them to an exporter (``export``), which waits and tries again. The
records that wait are bounded: a collector that is dead, slow or full costs nobody anything but its traces, and those are
counted. Must never: hold a request, the start or the stop of a gateway for a collector's sake.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic, time
from typing import Final

from fastgw.config import Config
from fastgw.exchange.endpoints import LOCAL
from fastgw.exchange.record import record_of
from fastgw.exchange.state import ExchangeState
from fastgw.exchange.tracing import Trace
from fastgw.observe.export import exporter_of, resource_of
from fastgw.observe.flood import Flood
from fastgw.observe.spans import Attempt, Finished, Maker
from fastgw.stats import EventLog, Stats

BATCH: Final = 64  # requests whose spans go in one call: writing them may hold the interpreter, 50 µs for each
BATCH_BYTES: Final = 2 << 20  # of prompts and answers in it, and one more: receivers of gRPC take 4 MiB
DELAY_S: Final = 1.0  # that a record waits for others at most
STOP_S: Final = 2.0  # for the last batch, when the gateway stops
MAX_CONTENTS_BYTES: Final = 16 << 20  # of prompts and answers that wait with their records; those beyond it go without

Send = Callable[[bytes], bool]  # whether the collector has taken it


class Tracer:
    """See the head of this file; it is an ``exchange.tracing.Reporter``. ``send`` takes requests of OTLP, waiting as long as it
    must; it is called from the thread alone, ``stop`` from the loop."""

    def __init__(self, config: Config, stats: Stats, log: EventLog, send: Send, maker: Maker, stop: Callable[[], None]) -> None:
        self._export = send
        self._maker = maker
        self._stop_export = stop
        self._stats = stats
        self._log = log
        self._waiting: deque[Finished] = deque()
        # Bytes of contents that came to wait, and of those that wait no more: the loop writes the one, the thread the other. (A
        # sum that both write loses what the other adds meanwhile.)
        self._contents_come = self._contents_gone = 0
        self._flood = Flood(config.log_flood_rate)
        self._most = config.trace_queue_size
        self._wake = threading.Event()
        self._ending = False
        self._gave_up = False
        self._failing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def follow(self, config: Config) -> None:
        """Go by other settings from now on."""
        self._most = config.trace_queue_size
        self._flood.change(config.log_flood_rate)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to send."""
        self._loop = loop
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fastgw-traces", daemon=True)
        self._thread.start()

    # --- the loop's side
    def ended(self, exchange: ExchangeState, outcome: str, now: float) -> None:
        """``exchange``, which is sampled, has ended at ``now``."""
        trace = exchange.trace
        if trace is None or exchange.endpoint.mode is LOCAL:
            return
        # What gets to no engine costs its sender nothing: it must not crowd out the traces of what does.
        free = exchange.call is None and bool(exchange.error_kind)
        if len(self._waiting) >= self._most or (free and not self._flood.admits(exchange.error_kind, now)):
            self._flood.due(now)  # (the log tells how many there were)
            self._stats.traces_dropped += 1
            return
        finished = self._finished(exchange, trace, outcome, now)
        self._contents_come += finished.size
        self._waiting.append(finished)
        if len(self._waiting) >= BATCH:
            self._wake.set()

    def _finished(self, exchange: ExchangeState, trace: Trace, outcome: str, now: float) -> Finished:
        contents = trace.contents
        prompt = answer = b""
        cut = False
        if contents is not None:
            cut = contents.cut
            waiting = self._contents_come - self._contents_gone
            if waiting + len(contents.prompt) + len(contents.answer) > MAX_CONTENTS_BYTES:
                cut = True
            else:
                prompt, answer = contents.prompt, bytes(contents.answer)
        # (One that found no room there was never under way: it ended when the next was asked.)
        asked = trace.asked or []
        follows = [one.at for one in asked[1:]] + [now]
        attempts = [
            Attempt(
                engine=one.call.pool.engine, model=one.model, span_id=one.span_id, at=one.at, sent_at=one.call.sent_at,
                ended_at=one.call.left_at or next_at, why=one.why,
                status=one.call.head.status if one.call.head is not None else one.status,
            )
            for one, next_at in zip(asked, follows, strict=False)
        ]  # fmt: skip
        call = exchange.call
        if not attempts and call is not None:  # one that several requests share
            attempts = [
                Attempt(
                    engine=call.pool.engine, model="", span_id=trace.span_id, at=call.sent_at or now, sent_at=call.sent_at,
                    ended_at=now, status=exchange.status, why="", shared=True,
                )
            ]  # fmt: skip
        facts = exchange.facts
        return Finished(
            record=record_of(exchange, outcome, now),
            offset=time() - monotonic(),
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            parent=trace.parent,
            state=trace.state,
            attempts=attempts,
            waits=trace.waits or [],
            metered=exchange.endpoint.metered,
            max_tokens=facts.token_limit if facts is not None else -1,
            prompt=prompt,
            answer=answer,
            cut=cut,
        )

    async def close(self) -> None:
        """Send what waits, for a moment; what the collector has not taken then is counted as lost."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ending = True
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._ended.wait()
        self._gave_up = True
        self._loop = None
        self._stop_export()  # (it may be waiting to try again)

    # --- the thread's side
    def _run(self) -> None:
        while True:
            self._wake.wait(DELAY_S)
            self._wake.clear()
            while self._waiting and not self._gave_up:
                self._send(self._next())
            if self._ending:
                self._stats.traces_failed += len(self._waiting)
                self._waiting.clear()
                self._say(self._ended.set)
                return

    def _next(self) -> list[Finished]:
        """The next batch: those that wait, up to a number of them, and of bytes."""
        batch = [self._waiting.popleft()]
        size = batch[0].size
        while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    def _send(self, batch: list[Finished]) -> None:
        why = "the collector did not take them"
        try:
            taken = self._export(self._maker.request(batch))
        except Exception as error:
            taken, why = False, f"{type(error).__name__}: {error}"
        self._contents_gone += sum([one.size for one in batch])
        if taken:
            self._stats.traces_exported += len(batch)
        else:
            self._stats.traces_failed += len(batch)
        if taken == self._failing:
            # (A collector that fails is told of once, and once more when it takes traces again.)
            self._failing = not taken
            if taken:
                self._say(partial(self._log.info, "traces are taken again"))
            else:
                self._say(partial(self._log.warning, "traces are lost", reason=why))

    def _say(self, what: Callable[[], None]) -> None:
        """Have the loop do ``what``, where it still runs."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(what)


def tracer_of(config: Config, stats: Stats, log: EventLog) -> Tracer:
    """Whoever sends traces as ``config`` says; raises what :func:`exporter_of` does."""
    exporter = exporter_of(config)
    return Tracer(config, stats, log, exporter.send, Maker(resource_of(config)), exporter.stop)
