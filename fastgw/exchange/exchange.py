"""One request from its head to its end.

    RECEIVING  the head is judged, the body is arriving
    UPLOADING  the body is passed on while it arrives
    CONNECTING a dial is under way
    WAITING    the request is written, no response head yet
    RELAYING   the response is on its way down
    LOCAL      answered here, by a task that may wait
    TUNNEL     upgraded: bytes pass both ways until either side closes
    DONE       terminal: ``finish`` ran, exactly once

Owns: the order of the phases, the attempts on engines, and the one end. Whatever is taken pushes its release onto
``guards`` in the same statement; ``finish`` runs them in reverse. No method blocks or makes a task; each is called
from the client's or the engine's connection, never from both at once (one loop, one thread).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.errors import GatewayError, Source
from fastgw.exchange.endpoints import JSON, Endpoint
from fastgw.exchange.relay import BROKEN, END, LENGTH, NONE, Framing, Relay, framing_of, usage_in
from fastgw.exchange.retry import Failure, Verdict, judge
from fastgw.exchange.upload import Upload
from fastgw.net.client_conn import DISCARD_BYTES, ClientConn
from fastgw.net.client_conn import TUNNEL as CLIENT_TUNNEL
from fastgw.net.stream import DEAD, QUEUED
from fastgw.net.timers import NEVER
from fastgw.net.upstream_conn import TUNNEL as UPSTREAM_TUNNEL
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.protocol.openai import BodyFacts, scan_body
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

if TYPE_CHECKING:
    from fastgw.exchange.gateway import GatewayCore

JOIN_BYTES: Final = 65536  # bodies up to this go out in one send with their head


class Phase(enum.IntEnum):
    RECEIVING = 0
    UPLOADING = 1
    CONNECTING = 2
    WAITING = 3
    RELAYING = 4
    LOCAL = 5
    TUNNEL = 6
    DONE = 7


RECEIVING: Final = Phase.RECEIVING
CONNECTING: Final = Phase.CONNECTING
WAITING: Final = Phase.WAITING
RELAYING: Final = Phase.RELAYING
LOCAL: Final = Phase.LOCAL
TUNNEL: Final = Phase.TUNNEL
DONE: Final = Phase.DONE


class Exchange:
    """See the head of this file."""

    __slots__ = (
        "allow",
        "body",
        "bytes_in",
        "bytes_out",
        "client_ip",
        "completion_tokens",
        "conn",
        "detail",
        "endpoint",
        "error_kind",
        "extra_head",
        "facts",
        "first_byte_at",
        "gateway",
        "group",
        "guards",
        "head",
        "key_id",
        "local_task",
        "phase",
        "pieces",
        "pool",
        "prompt_tokens",
        "relay",
        "replayed",
        "request_id",
        "response",
        "retried",
        "reused",
        "routed_at",
        "sent_at",
        "started_at",
        "status",
        "strip_usage",
        "token_at",
        "tried",
        "upgrade",
        "upload",
        "upstream",
    )

    def __init__(
        self, gateway: GatewayCore, conn: ClientConn, head: RequestHead, endpoint: Endpoint, request_id: bytes
    ) -> None:
        self.gateway = gateway
        self.conn = conn
        self.head = head
        self.endpoint = endpoint
        self.request_id = request_id
        self.phase = RECEIVING
        self.started_at = conn.received_at
        self.client_ip = conn.peer_ip
        self.key_id = ""
        self.facts: BodyFacts | None = None
        self.body = b""
        self.pieces: bytearray | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.group: Group | None = None
        self.pool: Pool | None = None
        self.tried: tuple[Pool, ...] = ()
        self.upstream: UpstreamConn | None = None
        self.upgrade = False
        self.upload: Upload | None = None
        self.reused = False
        self.replayed = False
        self.retried = False
        self.strip_usage = False
        self.response: ResponseHead | None = None
        self.relay: Relay | None = None
        self.status = 0
        self.routed_at = 0.0
        self.sent_at = 0.0
        self.first_byte_at = 0.0
        self.token_at = 0.0
        self.prompt_tokens = -1
        self.completion_tokens = -1
        self.extra_head = b""  # lines that filters add to the answer's head
        self.detail = ""
        self.error_kind = ""
        self.local_task: asyncio.Task[None] | None = None
        self.guards: list[Callable[[], None]] | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.request_id.decode('latin-1')} {self.endpoint.label} {self.phase.name} status={self.status}>"

    @property
    def model(self) -> str:
        return self.facts.model if self.facts is not None else (self.upload.model if self.upload is not None else "")

    # --- the request arrives
    def on_body(self, data: bytes, last: bool) -> None:
        """Bytes of the request body, decoded; ``last`` comes exactly once."""
        if self.phase is LOCAL:
            return
        self.bytes_in += len(data)
        try:
            if self.upload is not None:
                self.upload.take(self, data, last)
                return
            if self.bytes_in > self.gateway.max_body_bytes:
                self.pieces = None
                raise GatewayError("body_too_large", detail="crossed while reading")
            if self.pieces is None:
                if last:
                    self.body = data
                    self._dispatch()
                    return
                # One buffer: a list of two-byte pieces would hold twenty times what the client sent.
                self.pieces = bytearray()
            self.pieces += data
            if last:
                self.body = bytes(self.pieces)
                self.pieces = None
                self._dispatch()
        except GatewayError as error:
            self.fail(error)

    def _dispatch(self) -> None:
        """The body is whole: BODY and ROUTE phases, then the first attempt."""
        gateway = self.gateway
        endpoint = self.endpoint
        if endpoint.mode is JSON or (self.body and self.is_json()):
            self.facts = scan_body(self.body, gateway.max_json_depth, endpoint.model)
        for hook in gateway.on_body:
            hook(self)
        self.route()

    def is_json(self) -> bool:
        content_type = self.head.content_type
        return content_type is not None and b"json" in content_type.lower()

    def route(self) -> None:
        """ROUTE phase, then an attempt; raises GatewayError when no engine would take it."""
        gateway = self.gateway
        if gateway.server_timing:
            self.routed_at = monotonic()
        for hook in gateway.on_route:
            hook(self)
        self.attempt()

    # --- attempts
    def attempt(self) -> None:
        """Try the next engine, on an idle connection or a new one."""
        gateway = self.gateway
        group = self.group
        assert group is not None
        failure: GatewayError | None = None
        while True:
            pool = gateway.pick(group, self.tried)
            if pool is None:
                raise failure or GatewayError(
                    "engines_unavailable", source=Source.UPSTREAM, retry_after_s=gateway.retry_after_s, detail=self.detail
                )
            self.pool = pool
            now = monotonic()
            if not self.upgrade:
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
            upload.begin(self, conn, now)
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
        conn = self.conn
        method = head.method
        if length > 0:
            framing = b"\r\ncontent-length: %d\r\n\r\n" % length
        elif self.upgrade:
            framing = b"\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
        elif length < 0:
            framing = b"\r\ntransfer-encoding: chunked\r\n\r\n"
        else:
            framing = b"\r\ncontent-length: 0\r\n\r\n" if method == b"POST" else b"\r\n\r\n"
        forward = head.forward
        if self.strip_usage and b"ccept-" in forward:
            # What is to be taken out again must not come compressed.
            forward = self.gateway.without_accept_encoding(forward)
        return b"".join(
            (
                method,
                b" ",
                engine.base,
                head.target,
                b" HTTP/1.1\r\n",
                engine.head_block,
                forward,
                conn.forwarded or self.gateway.forwarded_lines(conn, head),
                b"x-request-id: ",
                self.request_id,
                framing,
            )
        )

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

    def _leave_engine(self) -> None:
        """Close the engine's connection, if there is one; this is what cancels its work."""
        upstream = self.upstream
        if self.pool is not None and upstream is not None:
            self.pool.engine.inflight -= 1
        self.upstream = None
        if upstream is not None:
            upstream.close()

    # --- the response
    def on_response_head(self, head: ResponseHead, rest: bytes) -> None:
        now = self.first_byte_at = monotonic()
        self.response = head
        self.status = status = head.status
        self.phase = RELAYING
        if status >= 500 and status != 503:
            # 429 and 503 say "not now": back-pressure, not a fault.
            assert self.pool is not None
            self.pool.engine.failures_total += 1
        length = head.content_length
        request = self.head
        if length == len(rest) and length and not head.sse and request.method != b"HEAD" and status != 304 and status != 204:
            # The usual plain answer: whole in one read, out in one send.
            lines = self.response_lines(head, now)
            data = b"%b%bcontent-length: %d\r\n%b%b" % (head.status_line, head.forward, length, lines, rest)
            self.conn.answer(data, request.keep_alive)
            self.token_at = now
            self.bytes_out = len(data)
            if head.json:
                self.prompt_tokens, self.completion_tokens = usage_in(rest)
            self._end("ok", True)
            return
        if self.upgrade and status == 101:
            self._open_tunnel(head, rest)
            return
        framing = framing_of(head, request.method)
        lines = self.response_lines(head, now)
        if framing is NONE:
            tail = b"content-length: %d\r\n" % length if length >= 0 and status != 204 else b""
            data = b"".join((head.status_line, head.forward, tail, lines))
            self.bytes_out = len(data)
            self.conn.answer(data, request.keep_alive)
            self._end("ok", not rest)
            return
        self._start_relay(head, framing, lines, rest)

    def _start_relay(self, head: ResponseHead, framing: Framing, lines: bytes, rest: bytes) -> None:
        """The answer comes in several reads (or is a stream): its head goes down now."""
        http11 = self.head.minor == 1
        sse = None
        if head.sse and b"content-encoding" not in head.forward.lower():
            sse = SseScanner(self.strip_usage)
        # A stream that something may be taken out of has no length to announce.
        chunked_out = http11 and (framing is not LENGTH or (sse is not None and self.strip_usage))
        if chunked_out:
            mark = b"transfer-encoding: chunked\r\n"
        elif framing is LENGTH:
            mark = b"content-length: %d\r\n" % head.content_length
        else:
            # HTTP/1.0: the close is the end, so the connection cannot be kept.
            mark = b""
        if mark == b"" and self.head.keep_alive:
            lines = self.response_lines(head, self.first_byte_at, close=True)
        self.relay = relay = Relay(self.conn, framing, head.content_length, chunked_out, sse, head.json)
        data = b"".join((head.status_line, head.forward, mark, lines))
        upstream = self.upstream
        assert upstream is not None
        upstream.wheel.arm(upstream, self.first_byte_at + self.gateway.between_bytes_timeout_s)
        verdict = relay.start(data, rest)
        if verdict == BROKEN and not relay.begun:
            # Nothing has gone down, so the client can still be told properly.
            self.relay = None
            self.on_response_error(GatewayError("bad_gateway", source=Source.UPSTREAM, detail=f"framing: {relay.broken}"))
            return
        self.bytes_out = len(data)
        if relay.written == DEAD:
            self._client_broke()
        elif verdict == END:
            self._relayed()
        elif verdict == BROKEN:
            self._cut("bad_gateway", f"framing: {relay.broken}")
        else:
            if rest and (sse is None or sse.first_token_seen):
                self.token_at = self.first_byte_at
            if relay.written == QUEUED:
                self._hold_upstream()

    def response_lines(self, head: ResponseHead, now: float, close: bool = False) -> bytes:
        """The gateway's own lines of the answer's head, and the empty line."""
        gateway = self.gateway
        request = self.head
        usual = head.has_date and request.keep_alive and request.minor
        if usual and not (close or head.sse or self.extra_head or gateway.plain_lines_off):
            return b"x-request-id: %b\r\n\r\n" % self.request_id
        lines = [b"x-request-id: ", self.request_id, b"\r\n"]
        if head.sse:
            lines.append(b"x-accel-buffering: no\r\n")
        if not head.has_date:
            lines.append(gateway.date_line())
        if self.extra_head:
            lines.append(self.extra_head)
        if gateway.server_timing:
            lines.append(gateway.timing_line(self, now))
        if close or not request.keep_alive or gateway.draining:
            lines.append(b"connection: close\r\n")
        elif request.minor == 0:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def on_response_data(self, data: bytes) -> None:
        if self.phase is not RELAYING:
            self._tunnel_down(data)
            return
        relay = self.relay
        assert relay is not None
        sse = relay.sse
        events = sse.events if sse is not None else -1
        verdict = relay.feed(data)
        written = relay.written
        if written == DEAD:
            self._client_broke()
            return
        if verdict == END:
            self._relayed()
            return
        if verdict == BROKEN:
            self._cut("bad_gateway", f"framing: {relay.broken}")
            return
        upstream = self.upstream
        assert upstream is not None
        if sse is None:
            if not self.token_at:
                self.token_at = monotonic()
            upstream.deadline = monotonic() + self.gateway.between_bytes_timeout_s
        elif sse.events != events:
            # Comments that only keep a connection alive do not prove that the engine still works.
            now = monotonic()
            if not self.token_at and sse.first_token_seen:
                self.token_at = now
            upstream.deadline = now + self.gateway.between_bytes_timeout_s
        if written == QUEUED:
            self._hold_upstream()

    def _hold_upstream(self) -> None:
        """The client is slow: stop reading its engine until it has caught up."""
        upstream = self.upstream
        if upstream is not None:
            upstream.pause_reading()
            upstream.deadline = NEVER

    def on_client_drained(self) -> None:
        upstream = self.upstream
        if upstream is None or upstream.closed:
            return
        if self.phase is RELAYING or self.phase is TUNNEL:
            upstream.wheel.arm(upstream, monotonic() + self.gateway.between_bytes_timeout_s)
        upstream.resume_reading()

    def _relayed(self) -> None:
        relay = self.relay
        response = self.response
        assert relay is not None
        assert response is not None
        keep = self.head.keep_alive and (relay.chunked_out or response.content_length >= 0)
        outcome = "ok"
        if relay.sse is not None and relay.sse.error:
            outcome = "engine_error"
            if self.pool is not None:
                self.pool.engine.failures_total += 1
        self.conn.finished(keep)
        self._end(outcome, relay.reusable)

    def on_response_eof(self, how: str) -> None:
        upstream = self.upstream
        if upstream is None:
            return
        relay = self.relay
        if self.phase is TUNNEL:
            self._tunnel_closed()
            return
        if relay is None:
            begun = upstream.response_begun
            self._attempt_failed(Failure.LOST, begun, f"connection {'lost' if how != 'fin' else 'closed'} before a response")
            return
        if relay.eof(how) == END:
            if relay.written == DEAD:
                self._client_broke()
            else:
                self._relayed()
        else:
            self._cut("bad_gateway", relay.broken)

    def on_response_error(self, error: GatewayError) -> None:
        """What came is no response head; the connection is closed already."""
        pool = self.pool
        assert pool is not None
        pool.engine.failures_total += 1
        error.detail = f"{pool.engine.name}: {error.detail}"
        self._leave_engine()
        self.fail(error)

    def on_upstream_timeout(self) -> None:
        upstream = self.upstream
        if upstream is None:
            return
        if self.phase is TUNNEL:
            self._tunnel_closed()
        elif self.relay is None:
            limit = self.gateway.first_byte_timeout_s
            self._attempt_failed(Failure.SILENT, upstream.response_begun, f"no answer within {limit:g} s")
        else:
            self._cut("upstream_timeout", f"silent for {self.gateway.between_bytes_timeout_s:g} s mid-response")

    def on_upstream_drained(self) -> None:
        if self.upload is not None or self.phase is TUNNEL:
            self.conn.resume_reading()

    # --- the end
    def _cut(self, kind: str, detail: str) -> None:
        """The engine broke off after bytes had gone down: a typed event where there is room, then an abort."""
        gateway = self.gateway
        relay = self.relay
        pool = self.pool
        assert relay is not None
        if pool is not None:
            pool.engine.truncations_total += 1
            pool.engine.failures_total += 1
            self.detail = f"{pool.engine.name}: {detail}"
        gateway.stats.truncations_total += 1
        self.error_kind = kind
        self._leave_engine()
        told = relay.break_off(gateway.error_event(kind, self))
        # Without room for an event, or without framing that shows the cut, only an RST tells the client.
        self.conn.abort(reset=not told or not relay.chunked_out)
        self._end("truncated" if kind == "bad_gateway" else kind, False)

    def fail(self, error: GatewayError) -> None:
        """Answer with an error, or end the stream with one; ends the exchange either way."""
        if self.phase is DONE:
            return
        if self.relay is not None:
            self._cut(error.kind.name, error.detail)
            return
        self._leave_engine()
        if self.conn.state is CLIENT_TUNNEL:
            self.conn.close()
            self._end(error.kind.name, False)
            return
        if error.detail:
            self.detail = error.detail
        self.error_kind = error.kind.name
        head = self.head
        body = self.conn.body
        # A body that may never come, or too long to be read for nothing: the connection ends, and the answer says so.
        close = body is not None and (head.expect != 0 or body.left > DISCARD_BYTES)
        data, status, close = self.gateway.error_answer(error, head, self.request_id, self.endpoint, self.extra_head, close)
        self.status = status
        self.bytes_out = len(data)
        self.conn.answer(data, not close and head.keep_alive)
        self._end("error", False)

    def answer(self, status: int, data: bytes) -> None:
        """A complete local answer."""
        if self.phase is DONE:
            return
        self.status = status
        self.bytes_out = len(data)
        self.conn.answer(data, self.head.keep_alive)
        self._end("ok", False)

    def on_request_error(self, error: GatewayError) -> None:
        """The request's body cannot be read on (bad framing, stalled); what was sent of it is taken back."""
        self.fail(error)

    def on_client_gone(self, how: str) -> None:
        """The client left: cancel the engine's work, now."""
        if self.phase is DONE:
            return
        gateway = self.gateway
        upstream = self.upstream
        pool = self.pool
        if (
            upstream is not None
            and pool is not None
            and not pool.engine.cancel
            and self.phase in (WAITING, RELAYING)
        ):
            # This engine cannot bear an abort: let it finish, unseen.
            gateway.let_finish(pool, upstream, self.relay)
            self.upstream = None
        else:
            self._leave_engine()
        gateway.stats.cancelled += 1
        if self.local_task is not None:
            self.local_task.cancel()
        self.detail = f"client closed ({how})"
        self.error_kind = "client_closed"
        if self.relay is None:
            self.status = 499
        self._end("client_closed", False)

    def on_client_stalled(self) -> None:
        self._leave_engine()
        self.detail = "client does not read"
        self._end("client_stalled", False)

    def on_total_timeout(self) -> None:
        self.fail(GatewayError("upstream_timeout", source=Source.UPSTREAM, detail="request_timeout_s reached"))

    def _client_broke(self) -> None:
        """A write met a dead socket: the client is gone, whatever its read side says later."""
        self.conn.sink = None
        self.conn.close()
        self.on_client_gone("reset")

    def abandon(self, kind: str, detail: str) -> None:
        """The gateway itself ends this exchange (drain over, internal failure)."""
        if self.phase is DONE:
            return
        self.fail(GatewayError(kind, source=Source.GATEWAY, detail=detail))

    def _end(self, outcome: str, reusable: bool) -> None:
        """The one end: give everything back, count, leave one access record."""
        phase = self.phase
        if phase is DONE:
            return
        self.phase = DONE
        gateway = self.gateway
        now = monotonic()
        relay = self.relay
        if relay is not None:
            self.bytes_out += relay.bytes_out
            self.prompt_tokens, self.completion_tokens = relay.usage()
            if not self.token_at and relay.bytes_out and (relay.sse is None or relay.sse.first_token_seen):
                self.token_at = now  # the first token came with the end
            if relay.sse is not None:
                gateway.stats.events_total += relay.sse.events
                if self.completion_tokens < 0 and relay.sse.tokens:
                    self.completion_tokens = relay.sse.tokens
        upstream = self.upstream
        if upstream is not None:
            pool = self.pool
            assert pool is not None
            self.upstream = None
            engine = pool.engine
            engine.inflight -= 1
            engine.answered_total += 1
            response = self.response
            if (
                reusable
                and phase is RELAYING
                and response is not None
                and response.keep_alive
                and not upstream.queued_bytes
                and (self.upload is None or self.upload.sent_whole)
            ):
                pool.release(upstream, now, response.idle_s, response.max_requests)
            else:
                upstream.close()
        guards = self.guards
        if guards is not None:
            while guards:
                guards.pop()()
        for hook in gateway.on_finish:
            hook(self, outcome)
        self.body = b""
        self.pieces = None
        gateway.finished(self, outcome, now)

    # --- an upgraded connection
    def _open_tunnel(self, head: ResponseHead, rest: bytes) -> None:
        upstream = self.upstream
        assert upstream is not None
        self.phase = TUNNEL
        upstream.state = UPSTREAM_TUNNEL
        upstream.wheel.arm(upstream, monotonic() + self.gateway.between_bytes_timeout_s)
        conn = self.conn
        conn.state = CLIENT_TUNNEL
        conn.deadline = NEVER
        lines = b"connection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b\r\n\r\n" % self.request_id
        data = head.status_line + head.forward + lines
        self.bytes_out = len(data)
        if conn.write(data + rest) == DEAD:
            self._client_broke()
            return
        if conn.surplus:
            early, conn.surplus = conn.surplus, b""
            self.on_tunnel_data(early)

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
