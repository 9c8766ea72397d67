"""An engine's answer that nobody waits for any more, read to its end because this engine cannot bear an abort.

It holds its place at the engine until then: until its message ends, or where that cannot be told, until it falls silent. What
it says in the meantime is its ``remainder``. Invariant: whatever it sends, it is read for no longer than a request may take; as
long are its place, and what its caller's key has reserved, held.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.chunks import FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context
from fastgw.exchange.figures import coded
from fastgw.exchange.remainder import Remainder
from fastgw.net.clock import monotonic
from fastgw.protocol.body import Source

QUIET_S: Final = 5.0
"""This long without a byte, and the answer is taken to have ended."""
UNREAD_S: Final = 3600.0
"""So long it may take from then on, where no setting says how long a request may."""


class Unread(Call):
    """Takes the place of ``call``, which nobody waits for any more. It is among ``others`` until it has ended. ``limit_s``: the
    engine's time to its next sign of life."""

    __slots__ = ("_ends_at", "_limit_s", "_lived_at", "_others", "_places", "_quiet_s", "_says", "_sse")

    def __init__(self, core: Context, call: Call, limit_s: float, others: set[Unread]) -> None:
        super().__init__(core, call.pool, False)
        self.settled = True
        self.light = call.light
        self.sent_at, self.source, self.rest = call.sent_at, call.source, call.rest
        self._others = others
        others.add(self)
        # Whoever leaves and asks again has no more under way than the key allows.
        self._places = call.places()
        for scope in self._places:
            scope.inflight += 1
        self._says: Remainder | None = call.goes_on()
        now = self._lived_at = monotonic()
        self._limit_s = limit_s
        self._quiet_s = min(QUIET_S, limit_s)
        self._ends_at = now + (core.request_timeout_s or UNREAD_S)
        self._sse: SseScanner | None = None
        self._begins(self._says.head if self._says is not None else call.head)
        stream = self.stream = call.stream
        call.stream = None
        self.watch, self.reads, self.makes = call.watch, call.reads, call.makes
        call.watch = None
        assert stream is not None
        stream.carrier = self
        stream.resume()
        # Before the first byte the engine may be in a long prefill: it gets the whole limit.
        stream.due(min(now + (self._quiet_s if stream.begun() else limit_s), self._ends_at))

    def begin(self) -> None:
        """Read what has come already: that may be all."""
        rest, self.rest = self.rest, b""
        if rest:
            self.on_data(rest)

    def _begins(self, head: ResponseHead | None) -> None:
        if head is not None and head.sse and not coded(head):
            self._sse = SseScanner(False)

    def works(self) -> bool:
        return False  # (nothing takes its place)

    def close(self) -> None:
        """It has ended; or the gateway stops, and nobody is left to wait with."""
        if self.stream is None:
            return
        self._others.discard(self)
        for scope in self._places:
            scope.inflight -= 1
        self.leave()
        says, self._says = self._says, None
        if says is not None:
            says.end()

    def on_stream(self) -> None:
        self.close()

    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        self.close()

    def on_head(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        self.source = source
        self._lived_at = monotonic()
        self._begins(head)
        if self._says is not None:
            self._says.begins(head, source)
        self.on_data(rest)

    def on_error(self, error: GatewayError) -> None:
        self.close()

    def on_data(self, data: bytes) -> None:
        stream, source = self.stream, self.source
        if stream is None or source is None:
            return
        try:
            payload = source.feed(data)
        except FramingError:
            self.close()
            return
        if self._says is not None:
            self._says.feed(payload, source.done)
        now = monotonic()
        if self._lives(payload):
            self._lived_at = now
        due = min(now + self._quiet_s, self._lived_at + self._limit_s, self._ends_at)
        if source.done or now >= due:
            self.close()
        else:
            stream.due(due)

    def _lives(self, payload: bytes) -> bool:
        """Whether that is more than keeps a connection alive: an event, or of another answer no mere blanks."""
        sse = self._sse
        if sse is None:
            return bool(payload) and not payload.isspace()
        before = sse.events
        sse.feed(payload)
        return sse.events != before

    def on_end(self, how: str) -> None:
        if self._says is not None and self.source is not None and self.source.eof(how):
            self._says.feed(b"", True)
        self.close()

    def on_drained(self) -> None: ...

    def on_silent(self) -> None:
        self.close()
