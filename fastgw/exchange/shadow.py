"""A request that is sent for nobody: its answer is read to its end and dropped (``policy.mirror``).

It holds a place at its engine as any call does. It says nothing of the engine to its breaker, and nothing of anything to the
client whose request it copies. Invariant: ``ended`` is told once, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable

from fastgw.accel.chunks import FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.gateway import GatewayCore
from fastgw.net.clock import monotonic
from fastgw.protocol.body import Source
from fastgw.protocol.start import RequestStart
from fastgw.upstream.pool import Pool


class Shadow(Call):
    """See the head of this file. ``size``: bytes of the body that it holds; ``limit_s``: its time, whatever comes."""

    __slots__ = ("_body", "_ended", "_ends_at", "_gateway", "_limit_s", "_request_id", "_start", "size")

    def __init__(
        self,
        core: GatewayCore,
        pool: Pool,
        start: RequestStart,
        request_id: bytes,
        body: bytes,
        limit_s: float,
        ended: Callable[[Shadow], None],
    ) -> None:
        super().__init__(core, pool, False)
        self.settled = True  # (no verdict)
        self.size = len(body)
        self._gateway = core
        self._start = start
        self._request_id = request_id
        self._body = body
        self._limit_s = limit_s
        self._ends_at = 0.0
        self._ended: Callable[[Shadow], None] | None = ended
        core.unread.add(self)

    def begin(self) -> None:
        """Send it, or begin to dial."""
        if self._ended is None:
            return  # the gateway has stopped
        now = monotonic()
        self._ends_at = now + self._limit_s
        try:
            if self.open(now, False):
                self._send(now)
        except GatewayError:
            self.close()

    def _send(self, now: float) -> None:
        stream = self.stream
        assert stream is not None
        self.sent_at = now
        body, self._body = self._body, b""
        due = min(now + self.core.first_byte_timeout_s, self._ends_at)
        stream.send(self._start, b"", self._request_id, len(body), b"", body, 0, due)

    def close(self) -> None:
        """It has ended, or is to."""
        self.leave()
        ended, self._ended = self._ended, None
        if ended is not None:
            self._gateway.unread.discard(self)
            ended(self)

    def on_stream(self) -> None:
        self._send(monotonic())

    def on_head(self, head: ResponseHead, source: Source, rest: bytes) -> None:
        self.head = head
        self.source = source
        self.on_data(rest)

    def on_data(self, data: bytes) -> None:
        stream, source = self.stream, self.source
        if stream is None or source is None:
            return
        now = monotonic()
        if now >= self._ends_at:
            self.close()
            return
        stream.due(min(now + self.core.between_bytes_timeout_s, self._ends_at))
        try:
            source.feed(data)
        except FramingError:
            self.close()
            return
        if source.done:
            self.complete(now, True, not source.spoiled, 0.0)
            self.close()

    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        self.close()

    def on_error(self, error: GatewayError) -> None:
        self.close()

    def on_end(self, how: str) -> None:
        self.ended = True
        self.close()

    def on_drained(self) -> None: ...

    def on_silent(self) -> None:
        self.close()
