"""Back to the client: the engine's answer on its way down, and what is said when it breaks off."""

from __future__ import annotations

from typing import Final

from fastgw.accel.figures import TOKENS_PER_SECOND
from fastgw.accel.heads import ResponseHead
from fastgw.accel.lines import plain_answer
from fastgw.accel.sse import SseScanner
from fastgw.accel.usage import seconds_in, usage_in
from fastgw.errors import GatewayError, Source
from fastgw.exchange.relay import BROKEN, END, LENGTH, MORE, NONE, SPENT, Framing, Relay, framing_of
from fastgw.exchange.retry import Failure
from fastgw.exchange.state import NO_LIMIT, RELAYING, TUNNEL
from fastgw.exchange.tunnel import Tunnelling
from fastgw.net.clock import monotonic
from fastgw.net.stream import DEAD, QUEUED

CLOSING_S: Final = 2.0  # an engine that has made all that it may ends its stream in less


class Answering(Tunnelling):
    """The part of an exchange that relays an answer."""

    __slots__ = ()

    def on_response_head(self, head: ResponseHead, rest: bytes) -> None:
        now = self.first_byte_at = monotonic()
        status = head.status
        if (status == 400 or status == 422) and self.bound != NO_LIMIT and self._asked_too_much():
            return
        if status >= 429:
            if status in self.gateway.retry_statuses and self._retry_answer(head):
                return
            if status == 429 or status == 503:
                # "Not now": back-pressure, not a fault.
                self._release()
            elif status >= 500:
                self.faulty = True
        self.response = head
        self.status = status
        self.phase = RELAYING
        length = head.content_length
        request = self.head
        if length == len(rest) and length and not head.sse and request.method != b"HEAD" and status != 304 and status != 204:
            # The usual plain answer: whole in one read, out in one send.
            if (
                head.has_date and request.keep_alive and request.minor
                and not self.gateway.plain_lines_off
            ):  # fmt: skip
                data = plain_answer(head.status_line, head.forward, self.request_id, self.extra_head, rest)
            else:
                lines = self.response_lines(head, now)
                data = b"%b%bcontent-length: %d\r\n%b%b" % (head.status_line, head.forward, length, lines, rest)
            self.conn.answer(data, request.keep_alive)
            self.token_at = now
            self.bytes_out = len(data)
            if head.json:
                self.prompt_tokens, self.completion_tokens, self.cached_tokens, self.reasoning_tokens = usage_in(rest)
                if self.prompt_tokens < 0 and self.upload is not None:
                    self._heard(seconds_in(rest))
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
        if self.upload is None or self.upload.sent_whole:
            self.let_body_go()
        http11 = self.head.minor == 1
        sse = None
        if head.sse and b"content-encoding" not in head.forward.lower():
            sse = SseScanner(self.strip_usage)
        # A stream that something may be taken out of, or that may be ended before its end, has no length to announce.
        open_ended = sse is not None and (self.strip_usage or self.allowance < NO_LIMIT)
        chunked_out = http11 and (framing is not LENGTH or open_ended)
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
        if self.allowance < NO_LIMIT:
            relay.allow(self.allowance, self.facts.prompt_tokens if self.facts is not None else 0)
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
        while verdict == SPENT and relay.written != DEAD:
            if not self._granted(relay):
                return
            verdict = relay.go_on()
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

    def _heard(self, seconds: int) -> None:
        """The engine says how long the audio is, and of no tokens: they are estimated."""
        if seconds >= 0:
            self.prompt_tokens = seconds * TOKENS_PER_SECOND
            self.estimated = True

    def on_response_data(self, data: bytes) -> None:
        if self.phase is not RELAYING:
            self._tunnel_down(data)
            return
        relay = self.relay
        assert relay is not None
        if relay.closing:
            self._closes(relay, relay.feed(data))
            return
        sse = relay.sse
        events = sse.events if sse is not None else -1
        verdict = relay.feed(data)
        while verdict == SPENT and relay.written != DEAD:
            if not self._granted(relay):
                return
            verdict = relay.go_on()
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

    def on_client_drained(self) -> None:
        upstream = self.upstream
        if upstream is None or upstream.closed:
            return
        closing = self.relay is not None and self.relay.closing
        if (self.phase is RELAYING or self.phase is TUNNEL) and not closing:
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
            self.faulty = True
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
        if relay.closing:
            self._closes(relay, relay.eof(how))
        elif relay.eof(how) == END:
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
        if error.source is Source.UPSTREAM:
            self._fault()
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
        elif self.relay.closing:
            self._cut_short(self.relay)
        else:
            self._cut("upstream_timeout", f"silent for {self.gateway.between_bytes_timeout_s:g} s mid-response")

    def on_upstream_drained(self) -> None:
        if self.upload is not None:
            self.upload.drained(self)
        elif self.phase is TUNNEL:
            self.conn.resume_reading()

    def _granted(self, relay: Relay) -> bool:
        """The stream has used the tokens that it was given: whether it gets more. Otherwise it ends here, well-formed.

        An engine that was told so ends there by itself, and says what it has used: that is still waited for.
        """
        gateway = self.gateway
        for hook in gateway.on_allowance:
            if hook(self):  # type: ignore[arg-type]
                relay.allow(self.allowance, relay.prompt)
                return True
        upstream = self.upstream
        assert upstream is not None
        verdict = relay.close()
        if verdict == MORE:
            upstream.wheel.arm(upstream, monotonic() + CLOSING_S)
        self._closes(relay, verdict)
        return False

    def _closes(self, relay: Relay, verdict: int) -> None:
        """What an engine says behind the last token that may pass."""
        if verdict == MORE:
            return
        if verdict == END and relay.pass_end():
            if relay.written == DEAD:
                self._client_broke()
            else:
                self._relayed()
            return
        self._cut_short(relay)

    def _cut_short(self, relay: Relay) -> None:
        """The stream ends for length, and says why."""
        gateway = self.gateway
        gateway.stats.quota_cut += 1
        event = gateway.final_event("quota_exhausted", self)
        if not event or not relay.finish(event):
            self._cut("quota_exhausted", "the key's tokens for today are spent", engine_fault=False)
            return
        self._release()
        self._leave_engine()
        self.error_kind = "quota_exhausted"
        if relay.written == DEAD:
            self._client_broke()
            return
        self.conn.finished(self.head.keep_alive and relay.chunked_out)
        self._end("quota", False)

    def _cut(self, kind: str, detail: str, *, engine_fault: bool = True) -> None:
        """The answer breaks off after bytes had gone down: a typed event where there is room, then an abort.

        ``engine_fault``: the engine broke it off. What the client or the gateway ended does not count against an engine.
        """
        gateway = self.gateway
        relay = self.relay
        pool = self.pool
        assert relay is not None
        if pool is not None:
            self.detail = f"{pool.engine.name}: {detail}"
            if engine_fault:
                pool.engine.truncations_total += 1
                gateway.stats.truncations_total += 1
                self._fault()
        self.error_kind = kind
        self._leave_engine()
        told = relay.break_off(gateway.error_event(kind, self))
        # Without room for an event, or without framing that shows the cut, only an RST tells the client.
        self.conn.abort(reset=not told or not relay.chunked_out)
        self._end("truncated" if kind == "bad_gateway" else kind, False)
