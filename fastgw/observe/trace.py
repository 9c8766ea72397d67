"""Traces: which requests have one, and how their spans get to a collector (OTLP over HTTP).

A request costs the loop the decision at its head and, where it is sampled, one record at its end. A thread makes spans of the
records, in batches, and hands them to the OpenTelemetry SDK's exporter, which waits for the collector and tries again. The
records that wait are bounded: a collector that is dead, slow or full costs nobody anything but its traces, and those are
counted. Must never: hold a request, the start or the stop of a gateway for a collector's sake.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from random import getrandbits
from time import monotonic, time
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from fastgw.accel.heads import RequestHead
from fastgw.config import Config
from fastgw.exchange.endpoints import LOCAL
from fastgw.exchange.record import record_of
from fastgw.exchange.state import ExchangeState
from fastgw.exchange.tracing import Trace
from fastgw.observe.flood import Flood
from fastgw.observe.spans import Attempt, Finished, Maker
from fastgw.protocol.traceparent import parent_of, state_of
from fastgw.stats import EventLog, Stats

BATCH: Final = 16  # requests whose spans go in one call: encoding them holds the interpreter, 0.16 ms for each
DELAY_S: Final = 1.0  # that a record waits for others at most
STOP_S: Final = 2.0  # for the last batch, when the gateway stops
MAX_CONTENTS_BYTES: Final = 16 << 20  # of prompts and answers that wait with their records; those beyond it go without

Export = Callable[[Sequence[ReadableSpan]], bool]  # whether the collector has taken them


class Sampler:
    """Which traces are recorded, by the names that OTEL_TRACES_SAMPLER has."""

    __slots__ = ("_bound", "_parents")

    def __init__(self, name: str, ratio: float) -> None:
        self._parents = name.startswith("parentbased_")
        kind = name.removeprefix("parentbased_")
        share = {"always_on": 1.0, "always_off": 0.0}.get(kind, ratio)
        self._bound = round(share * (1 << 64))

    def samples(self, trace_id: bytes, parent: bool | None) -> bool:
        """``parent``: whether the client's span is sampled, None = it has none."""
        if self._parents and parent is not None:
            return parent
        return int(trace_id[16:], 16) < self._bound


class Tracer:
    """See the head of this file. ``export`` takes spans, waiting as long as it must; it is called from the thread alone."""

    def __init__(
        self, config: Config, stats: Stats, log: EventLog, export: Export, maker: Maker, stop: Callable[[], None]
    ) -> None:
        self._export = export
        self._maker = maker
        self._stop_export = stop
        self._stats = stats
        self._log = log
        self._waiting: deque[Finished] = deque()
        self._contents_bytes = 0
        self._flood = Flood(config.log_flood_rate)
        self.follow(config)
        self._wake = threading.Event()
        self._ending = False
        self._gave_up = False
        self._failing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def follow(self, config: Config) -> None:
        """Sample by other settings from now on."""
        self._sampler = Sampler(config.trace_sampler, config.trace_ratio)
        self._most = config.trace_queue_size
        self._flood.change(config.log_flood_rate)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to send."""
        self._loop = loop
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fastgw-traces", daemon=True)
        self._thread.start()

    # --- the loop's side
    def begin(self, head: RequestHead) -> Trace:
        """The trace of a request with this ``head``: its client's, or a new one."""
        lines = head.forward
        found = parent_of(lines)
        ids = b"%048x" % getrandbits(192)
        span_id = ids[32:]
        if found is None:
            return Trace(ids[:32], span_id, b"", self._sampler.samples(ids[:32], None), b"")
        trace_id, parent, sampled = found
        return Trace(trace_id, span_id, parent, self._sampler.samples(trace_id, sampled), state_of(lines))

    def ended(self, exchange: ExchangeState, outcome: str, now: float) -> None:
        """``exchange`` has ended at ``now``."""
        trace = exchange.trace
        if trace is None or not trace.sampled or exchange.endpoint.mode is LOCAL:
            return
        # What gets to no engine costs its sender nothing: it must not crowd out the traces of what does.
        free = exchange.call is None and bool(exchange.error_kind)
        if len(self._waiting) >= self._most or (free and not self._flood.admits(exchange.error_kind, now)):
            self._flood.due(now)  # (the log tells how many there were)
            self._stats.traces_dropped += 1
            return
        finished = self._finished(exchange, trace, outcome, now)
        self._contents_bytes += finished.size
        self._waiting.append(finished)
        if len(self._waiting) >= BATCH:
            self._wake.set()

    def _finished(self, exchange: ExchangeState, trace: Trace, outcome: str, now: float) -> Finished:
        contents = trace.contents
        prompt = answer = b""
        cut = False
        if contents is not None:
            cut = contents.cut
            if self._contents_bytes + len(contents.prompt) + len(contents.answer) > MAX_CONTENTS_BYTES:
                cut = True
            else:
                prompt, answer = contents.prompt, bytes(contents.answer)
        # (One that found no room there was never under way: it ended when the next was asked.)
        follows = [one.at for one in trace.asked[1:]] + [now]
        attempts = [
            Attempt(
                engine=one.call.pool.engine, span_id=one.span_id, at=one.at, sent_at=one.call.sent_at,
                ended_at=one.call.left_at or next_at, why=one.why,
                status=one.call.head.status if one.call.head is not None else 0,
            )
            for one, next_at in zip(trace.asked, follows, strict=False)
        ]  # fmt: skip
        call = exchange.call
        if not attempts and call is not None:  # one that several requests share
            attempts = [
                Attempt(
                    engine=call.pool.engine, span_id=trace.span_id, at=call.sent_at or now, sent_at=call.sent_at,
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
                self._send([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])
            if self._ending:
                self._stats.traces_failed += len(self._waiting)
                self._waiting.clear()
                self._say(self._ended.set)
                return

    def _send(self, batch: list[Finished]) -> None:
        why = "the collector did not take them"
        try:
            taken = self._export(self._maker.spans(batch))
        except Exception as error:
            taken, why = False, f"{type(error).__name__}: {error}"
        self._contents_bytes -= sum([one.size for one in batch])
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


def url_of(endpoint: str) -> str:
    """Where traces are sent: ``endpoint`` names what stands before ``/v1/traces``, or all of it."""
    return endpoint if endpoint.endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"


def tracer_of(config: Config, stats: Stats, log: EventLog) -> Tracer:
    """Whoever sends traces as ``config`` says. Raises ValueError where one of the SDK's own variables cannot be used."""
    # Its complaints would go to stderr, between the lines of the log; who wants them gives its logger a handler.
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    exporter: Any = OTLPSpanExporter(endpoint=url_of(config.otlp_endpoint or "http://localhost:4318"))

    def export(spans: Sequence[ReadableSpan]) -> bool:
        return exporter.export(spans) is SpanExportResult.SUCCESS

    return Tracer(config, stats, log, export, Maker(), exporter.shutdown)
