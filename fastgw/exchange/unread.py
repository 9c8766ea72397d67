"""An engine's answer that nobody waits for any more, read to its end because this engine cannot bear an abort.

It holds its place at the engine until then: until its message ends, or where that cannot be told, until it falls silent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastgw.accel.chunks import FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context
from fastgw.limits.account import Account
from fastgw.net.clock import monotonic
from fastgw.protocol.body import Source

QUIET_S: Final = 5.0  # this long without a byte, and the answer is taken to have ended


class Unread(Call):
    """Goes on with a call whose client left. ``ended`` is told at its end; ``account``: among whose requests it counts."""

    __slots__ = ("_ended", "_quiet_s", "_source", "account")

    def __init__(self, core: Context, call: Call, limit_s: float, ended: Callable[[Unread], None]) -> None:
        super().__init__(core, call.pool, False)
        self.settled = True
        self._source = call.reading()
        self._ended = ended
        self._quiet_s = min(QUIET_S, limit_s)
        self.account: Account | None = None
        stream = self.stream = call.stream
        call.stream = None
        self.watch, self.reads, self.makes = call.watch, call.reads, call.makes
        call.watch = None
        assert stream is not None
        stream.carrier = self
        stream.resume()
        # Before the first byte the engine may be in a long prefill: it gets the whole limit.
        stream.due(monotonic() + (self._quiet_s if stream.begun() else limit_s))

    def close(self) -> None:
        """It has ended; or the gateway stops, and nobody is left to wait with."""
        stream = self.stream
        if stream is not None:
            self.stream = None
            stream.cancel()
            self.pool.engine.inflight -= 1
            if self.watch is not None:
                self.unwatch()
            self._ended(self)

    def on_stream(self) -> None:
        self.close()

    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        self.close()

    def on_head(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        self._source = source
        self.on_data(rest)

    def on_error(self, error: GatewayError) -> None:
        self.close()

    def on_data(self, data: bytes) -> None:
        stream = self.stream
        source = self._source
        if stream is None:
            return
        stream.due(monotonic() + self._quiet_s)
        if source is None:
            return
        try:
            source.feed(data)
        except FramingError:
            self.close()
            return
        if source.done:
            self.close()

    def on_end(self, how: str) -> None:
        self.close()

    def on_drained(self) -> None: ...

    def on_silent(self) -> None:
        self.close()
