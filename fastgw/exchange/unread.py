"""An engine's answer that nobody waits for any more, read to its end because this engine cannot bear an abort.

It holds its place at the engine until then: until its message ends, or where that cannot be told, until it falls silent. What
it says in the meantime is its ``remainder``.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.chunks import FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context
from fastgw.exchange.remainder import Remainder
from fastgw.net.clock import monotonic
from fastgw.protocol.body import Source

QUIET_S: Final = 5.0  # this long without a byte, and the answer is taken to have ended


class Unread(Call):
    """Takes the place of ``call``, which nobody waits for any more. It is among ``others`` until it has ended."""

    __slots__ = ("_others", "_places", "_quiet_s", "_says")

    def __init__(self, core: Context, call: Call, limit_s: float, others: set[Unread]) -> None:
        super().__init__(core, call.pool, False)
        self.settled = True
        self.sent_at, self.source, self.rest = call.sent_at, call.source, call.rest
        self._others = others
        others.add(self)
        # Whoever leaves and asks again has no more under way than the key allows.
        self._places = call.places()
        for scope in self._places:
            scope.inflight += 1
        self._says: Remainder | None = call.goes_on()
        self._quiet_s = min(QUIET_S, limit_s)
        stream = self.stream = call.stream
        call.stream = None
        self.watch, self.reads, self.makes = call.watch, call.reads, call.makes
        call.watch = None
        assert stream is not None
        stream.carrier = self
        stream.resume()
        # Before the first byte the engine may be in a long prefill: it gets the whole limit.
        stream.due(monotonic() + (self._quiet_s if stream.begun() else limit_s))

    def begin(self) -> None:
        """Read what has come already: that may be all."""
        rest, self.rest = self.rest, b""
        if rest:
            self.on_data(rest)

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
        if self._says is not None:
            self._says.begins(head, source)
        self.on_data(rest)

    def on_error(self, error: GatewayError) -> None:
        self.close()

    def on_data(self, data: bytes) -> None:
        stream = self.stream
        source = self.source
        if stream is None:
            return
        stream.due(monotonic() + self._quiet_s)
        if source is None:
            return
        try:
            payload = source.feed(data)
        except FramingError:
            self.close()
            return
        if self._says is not None:
            self._says.feed(payload, source.done)
        if source.done:
            self.close()

    def on_end(self, how: str) -> None:
        if self._says is not None and self.source is not None and self.source.eof(how):
            self._says.feed(b"", True)
        self.close()

    def on_drained(self) -> None: ...

    def on_silent(self) -> None:
        self.close()
