"""An engine's answer that nobody waits for any more, read to its end because this engine cannot bear an abort.

It holds its place at the engine until then: until its message ends, or where that cannot be told, until it falls silent.
"""

from __future__ import annotations

from collections.abc import Callable

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.exchange.relay import NONE, Relay, framing_of
from fastgw.limits.account import Account
from fastgw.net.clock import monotonic
from fastgw.net.session import Session
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.upstream.pool import Pool

QUIET_S = 5.0  # this long without a byte, and the answer is taken to have ended


class Discard(Session):
    """Takes an engine connection over from an exchange whose client left. ``relay`` has read the answer so far, None = there
    is none yet; ``method`` is the request's."""

    def __init__(
        self,
        pool: Pool,
        upstream: UpstreamConn,
        limit_s: float,
        ended: Callable[[Discard], None],
        relay: Relay | None,
        method: bytes,
    ) -> None:
        super().__init__()
        self._relay = relay
        self._method = method
        self._pool = pool
        self._ended = ended
        self.account: Account | None = None  # among whose requests it still counts
        self._upstream = upstream
        self._quiet_s = min(QUIET_S, limit_s)
        upstream.carrier = self
        upstream.resume_reading()
        # Before the first byte the engine may be in a long prefill: it gets the whole limit.
        upstream.wheel.arm(upstream, monotonic() + (self._quiet_s if upstream.response_begun else limit_s))

    def _end(self) -> None:
        self._upstream.close()
        self._pool.engine.inflight -= 1
        self._ended(self)

    def close(self) -> None:
        """The gateway stops, and nobody is left to wait with."""
        self._end()

    def on_connected(self, conn: UpstreamConn) -> None:
        self._end()

    def on_connect_failed(self, detail: str, timed_out: bool) -> None:
        self._end()

    def on_response_head(self, head: ResponseHead, rest: bytes) -> None:
        framing = framing_of(head, self._method)
        if framing is NONE:
            self._end()
            return
        self._relay = Relay(self._upstream, framing, head.content_length, False, None, False)
        self.on_response_data(rest)

    def on_response_error(self, error: GatewayError) -> None:
        self._end()

    def on_response_data(self, data: bytes) -> None:
        self._upstream.wheel.arm(self._upstream, monotonic() + self._quiet_s)
        if self._relay is not None and self._relay.skim(data):
            self._end()

    def on_response_eof(self, how: str) -> None:
        self._end()

    def on_upstream_drained(self) -> None: ...

    def on_upstream_timeout(self) -> None:
        self._end()
