"""An upgraded connection: bytes pass both ways, each side slowed by the other, until either closes."""

from __future__ import annotations

from fastgw.accel.heads import ResponseHead
from fastgw.exchange.attempts import Attempts
from fastgw.exchange.state import TUNNEL
from fastgw.net.client_conn import TUNNEL as CLIENT_TUNNEL
from fastgw.net.clock import monotonic
from fastgw.net.stream import DEAD, QUEUED
from fastgw.net.timers import NEVER
from fastgw.net.upstream_conn import TUNNEL as UPSTREAM_TUNNEL


class Tunnelling(Attempts):
    """The part of an exchange that has become a tunnel."""

    __slots__ = ()

    def _open_tunnel(self, head: ResponseHead, rest: bytes) -> None:
        upstream = self.upstream
        assert upstream is not None
        self.phase = TUNNEL
        # It took the session: that is its breaker's verdict. One that came with the end would hold a probe's place for hours.
        self._succeed()
        upstream.state = UPSTREAM_TUNNEL
        upstream.wheel.arm(upstream, monotonic() + self.gateway.between_bytes_timeout_s)
        conn = self.conn
        conn.state = CLIENT_TUNNEL
        # A session has no end in sight: request_timeout_s is for exchanges.
        conn.deadline = conn.total_deadline = NEVER
        lines = b"connection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b\r\n\r\n" % self.request_id
        data = head.status_line + head.forward + lines
        self.bytes_out = len(data)
        if conn.write(data + rest) == DEAD:
            self._client_broke()
            return
        if conn.surplus:
            early, conn.surplus = conn.surplus, b""
            self.on_tunnel_data(early)
            if not upstream.queued_bytes:
                # Much of it may have come early, and reading stopped for that.
                conn.resume_reading()

    def on_tunnel_data(self, data: bytes) -> None:
        """From the client to the engine."""
        upstream = self.upstream
        if upstream is None:
            return
        self.bytes_in += len(data)
        upstream.deadline = monotonic() + self.gateway.between_bytes_timeout_s
        if upstream.write(data) == QUEUED:
            self.conn.pause_reading()

    def _tunnel_down(self, data: bytes) -> None:
        upstream = self.upstream
        assert upstream is not None
        self.bytes_out += len(data)
        upstream.deadline = monotonic() + self.gateway.between_bytes_timeout_s
        written = self.conn.write(data)
        if written == DEAD:
            self._client_broke()
        elif written == QUEUED:
            self._hold_upstream()

    def _tunnel_closed(self) -> None:
        self._leave_engine()
        self.conn.abort(reset=False)
        self._end("ok", False)
