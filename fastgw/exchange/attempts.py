"""Towards the engine: which one, over which connection, with which bytes, and what follows when that fails.

Nothing here waits: a dial reports back from the loop. What may be sent again is decided in ``retry``, as a pure function.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.lines import request_start
from fastgw.errors import GatewayError, Source
from fastgw.exchange.retry import Failure, Verdict, judge
from fastgw.exchange.state import CONNECTING, WAITING, ExchangeState
from fastgw.net.clock import monotonic
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.upstream.pool import Pool

JOIN_BYTES: Final = 65536  # bodies up to this go out in one send with their head


class Attempts(ExchangeState):
    """The part of an exchange that finds it an engine."""

    __slots__ = ()

    def attempt(self) -> None:
        """Try the next engine, on an idle connection or a new one."""
        gateway = self.gateway
        group = self.group
        assert group is not None
        failure: GatewayError | None = None
        while True:
            pool = gateway.strategy.pick(group, self.tried)
            if pool is None:
                raise failure or GatewayError(
                    "engines_unavailable", source=Source.UPSTREAM, retry_after_s=gateway.retry_after_s, detail=self.detail
                )
            self.pool = pool
            now = monotonic()
            # Once repeated, a request takes no further chance with a connection that may have died as well.
            if not (self.upgrade or self.replayed or self.retried):
                conn = pool.take_idle(now)
                if conn is not None:
                    self.reused = True
                    pool.engine.inflight += 1
                    self._send(conn, pool, now)
                    return
            try:
                self._dial(pool)
                return
            except GatewayError as error:
                if not error.retryable:
                    raise
                # Nothing was sent: the next engine may have room.
                failure = error
                self.tried = (*self.tried, pool)

    def has_another(self) -> bool:
        """Whether an engine of the group has not been tried."""
        return self.group is not None and any(pool not in self.tried for pool in self.group.pools)

    def _dial(self, pool: Pool) -> None:
        self.reused = False
        self.phase = CONNECTING
        self.upstream = pool.dial(self)
        pool.engine.inflight += 1

    def on_connected(self, conn: UpstreamConn) -> None:
        assert self.pool is not None
        if self.pool.engine.failures and self.pool.engine.healthy is not False:
            self.pool.engine.failures = 0
        self._send(conn, self.pool, monotonic())

    def _send(self, conn: UpstreamConn, pool: Pool, now: float) -> None:
        """Write the whole request, or its head and what has arrived of it."""
        self.upstream = conn
        self.phase = WAITING
        self.sent_at = now
        gateway = self.gateway
        upload = self.upload
        if upload is not None and not upload.whole:
            upload.begin(self, conn)
            return
        body = self.body
        for rewrite in gateway.rewriters:
            body = rewrite(self, pool.engine, body)
        length = len(body)
        head = self.request_head(pool, length)
        if length <= JOIN_BYTES:
            conn.begin(self, head + body, now + gateway.first_byte_timeout_s)
        else:
            # A copy of a large body costs more than a second system call.
            conn.begin(self, head, now + gateway.first_byte_timeout_s)
            conn.write(body)

    def request_head(self, pool: Pool, length: int) -> bytes:
        """The head as this engine gets it; ``length`` -1 = chunked, as it arrives."""
        head = self.head
        engine = pool.engine
        base = engine.base
        known = self.conn.memo
        if known is not None and known.head is head:
            # A connection's requests have their heads in common, whichever engine they go to.
            if known.base is None or known.base != base:
                known.line = self._request_line(base)
                known.base = base
            line = known.line
            if self.strip_usage:
                fields = known.uncoded_fields or self._fields()
                known.uncoded_fields = fields
            else:
                fields = known.fields or self._fields()
                known.fields = fields
        else:
            line = self._request_line(base)
            fields = self._fields()
        if length > 0:
            return request_start(line, engine.head_block, fields, self.request_id, length)
        if self.upgrade:
            framing = b"\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
        elif length < 0:
            framing = b"\r\ntransfer-encoding: chunked\r\n\r\n"
        else:
            framing = b"\r\ncontent-length: 0\r\n\r\n" if head.method == b"POST" else b"\r\n\r\n"
        return b"".join((line, engine.head_block, fields, self.request_id, framing))

    def _request_line(self, base: bytes) -> bytes:
        head = self.head
        return b"".join((head.method, b" ", base, head.target, b" HTTP/1.1\r\n"))

    def _fields(self) -> bytes:
        """The fields that are not the engine's own, up to the value of ``x-request-id``."""
        head = self.head
        conn = self.conn
        forward = head.forward
        if self.strip_usage and b"ccept-" in forward:
            # What is to be taken out again must not come compressed.
            forward = self.gateway.without_accept_encoding(forward)
        return b"".join((forward, conn.forwarded or self.gateway.forwarded_lines(conn, head), b"x-request-id: "))

    # --- an attempt fails before a response
    def on_connect_failed(self, detail: str, timed_out: bool) -> None:
        pool = self.pool
        assert pool is not None
        self.gateway.dial_failed(pool, detail)
        self._attempt_failed(Failure.CONNECT_TIMEOUT if timed_out else Failure.CONNECT, False, detail)

    def _attempt_failed(self, failure: Failure, response_begun: bool, detail: str) -> None:
        pool = self.pool
        assert pool is not None
        gateway = self.gateway
        self._leave_engine()
        self.detail = f"{pool.engine.name}: {detail}"
        verdict = judge(
            failure,
            reused=self.reused,
            response_begun=response_begun,
            body_at_hand=self.upload is None or self.upload.whole or not self.upload.begun,
            replayed=self.replayed or not gateway.replay,
            retried=self.retried,
            retry_fresh=gateway.retry_fresh,
        )
        if not (failure is Failure.LOST and self.reused):
            pool.engine.failures_total += 1
        try:
            if verdict is Verdict.SAME_FRESH:
                self.replayed = True
                gateway.stats.replays_total += 1
                try:
                    self._dial(pool)
                    return
                except GatewayError as error:
                    if not error.retryable:
                        raise
                    verdict = Verdict.NEXT_ENGINE
            if verdict is Verdict.NEXT_ENGINE:
                if failure is Failure.LOST or failure is Failure.SILENT:
                    self.retried = True
                self.tried = (*self.tried, pool)
                if len(self.tried) < gateway.max_attempts and self.has_another():
                    gateway.stats.failovers_total += 1
                    self.attempt()
                    return
        except GatewayError as error:
            self.fail(error)
            return
        timed_out = failure is Failure.SILENT or failure is Failure.CONNECT_TIMEOUT
        self.fail(GatewayError("upstream_timeout" if timed_out else "bad_gateway", source=Source.UPSTREAM, detail=self.detail))
