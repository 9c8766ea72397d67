"""An upgraded connection: bytes pass both ways, each side slowed by the other, until either closes.

What the engine sends is read as it passes (``protocol.websocket``): each answer that it ends is counted at once, so that what
was counted stands however the session ends. A session that may not go on is closed behind the message that said so.
"""

from __future__ import annotations

from fastgw.accel.heads import ResponseHead
from fastgw.exchange.attempts import Attempts
from fastgw.exchange.state import TUNNEL
from fastgw.net.client_conn import TUNNEL as CLIENT_TUNNEL
from fastgw.net.clock import monotonic
from fastgw.net.stream import DEAD, QUEUED
from fastgw.net.timers import NEVER
from fastgw.net.upstream_conn import TUNNEL as UPSTREAM_TUNNEL
from fastgw.protocol.websocket import Counts


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
        # However it ends, it was one request at least.
        self.guards = [*(self.guards or ()), self._session_over]
        down = self._read_down(rest) if rest else rest
        self.bytes_out += len(down)
        if conn.write(data + down) == DEAD:
            self._client_broke()
            return
        if self.error_kind:
            self._close_spent()
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
        upstream.deadline = monotonic() + self.gateway.between_bytes_timeout_s
        data = self._read_down(data)
        self.bytes_out += len(data)
        written = self.conn.write(data)
        if written == DEAD:
            self._client_broke()
        elif self.error_kind:
            self._close_spent()
        elif written == QUEUED:
            self._hold_upstream()

    def _read_down(self, data: bytes) -> bytes:
        """Count what ``data`` says of answers; returns what of it goes down: all, unless nothing is left to go on with. Then it
        ends with a close, and ``error_kind`` says why."""
        session = self.session
        assert session is not None
        frames = session.frames
        at = 0
        size = len(data)
        while at < size:
            at = frames.feed(data, at)
            said = frames.said
            if said is not None and not self._said(said):
                self.error_kind = "quota_exhausted"
                return data[:at] + self.gateway.close_frame(self.error_kind)
        return data

    def _said(self, said: Counts) -> bool:
        """An answer of the session has ended; whether there may be another."""
        session = self.session
        assert session is not None
        session.answers += 1
        going_on = True
        for hook in self.gateway.on_said:
            going_on = hook(self, said) and going_on  # type: ignore[arg-type]
        return going_on

    def _session_over(self) -> None:
        session = self.session
        assert session is not None
        if session.frames.lost:
            # What it used from there on nobody knows.
            self.estimated = True
            self.detail = self.detail or "frames that could not be read"
        if not session.answers:
            for hook in self.gateway.on_said:
                hook(self, None)  # type: ignore[arg-type]

    def _close_spent(self) -> None:
        """The client has its close: both sides end."""
        self.gateway.stats.quota_cut += 1
        self._leave_engine()
        self.conn.abort(reset=False)
        self._end("quota", False)

    def _tunnel_closed(self) -> None:
        self._leave_engine()
        self.conn.abort(reset=False)
        self._end("ok", False)
