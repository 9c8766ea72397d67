"""One request from its head to its end: the arrival of its body, and the one end.

Owns: the order of the phases, and the end, which runs exactly once. Whatever is taken pushes its release onto ``guards``
in the same statement; the end runs them in reverse. No method blocks or makes a task; each is called from the client's or
the engine's connection, never from both at once (one loop, one thread). The phases are in ``state``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError, Source
from fastgw.exchange.answering import Answering
from fastgw.exchange.context import FinishHook
from fastgw.exchange.endpoints import JSON
from fastgw.exchange.state import DONE, LOCAL, MERGING, QUEUED, RECEIVING, RELAYING, WAITING
from fastgw.net.client_conn import DISCARD_BYTES, MAX_REFUSALS
from fastgw.net.client_conn import TUNNEL as CLIENT_TUNNEL
from fastgw.net.clock import monotonic
from fastgw.protocol.openai import scan_body

if TYPE_CHECKING:
    from fastgw.exchange.upload import Upload

LARGE_BYTES: Final = 65536  # of a body: beyond one read's worth it is looked at in a turn of its own
INLINE_BYTES: Final = 65536  # of a packed body are unpacked with the read in which they came
STEP_BYTES: Final = 1 << 18  # and so many in each turn after that
NOT_ALLOWED: Final = (401, 403, 421, 429)
"""Answers to who may not, or not now: a connection that gets nothing else is closed after a few."""


class Exchange(Answering):
    """See the head of this file."""

    __slots__ = ()

    # --- the request arrives
    def on_body(self, data: bytes, last: bool) -> None:
        """Bytes of the request body, without its framing; ``last`` comes exactly once."""
        if self.phase is LOCAL:
            return
        try:
            if self.decoder is None:
                self._arrived(data, last)
            else:
                self.decoder.take(data, last)
                self._unpack(INLINE_BYTES)
        except GatewayError as error:
            self.fail(error)

    def _unpack(self, room: int) -> None:
        """Go on with what came packed: about ``room`` bytes at most, for everybody else waits."""
        decoder = self.decoder
        assert decoder is not None
        limit = self.gateway.max_body_bytes if self.upload is None else self.upload.limit
        data = decoder.step(room, limit)
        grown = decoder.memory_bytes - decoder.counted_bytes
        if grown > 0:
            self.hold(grown)
            decoder.counted_bytes += grown
        pending = decoder.pending
        self._arrived(data, decoder.whole and not pending)
        if self.phase is not DONE and pending:
            self.conn.hold_back()
            if self.upload is None or not self.upload.waits:
                self._in_turn()

    def _arrived(self, data: bytes, last: bool) -> None:
        """Bytes of the body itself."""
        self.bytes_in += len(data)
        upload = self.upload
        if upload is not None:
            if upload.unread is not None:
                # It waits behind what came before it.
                before, left, _ = upload.unread
                upload.unread = (before + data, left + data, last)
                return
            left = upload.read(data)
            if left:
                # Many parts at once: each takes microseconds.
                upload.unread = (data, left, last)
                self.conn.hold_back()
                self._in_turn()
            else:
                upload.take(self, data, last)
            return
        if self.bytes_in > self.gateway.max_body_bytes:
            self.pieces = None
            raise GatewayError("body_too_large", detail="crossed while reading")
        self.hold(len(data))
        if self.pieces is None and not last:
            # One buffer: a list of two-byte pieces would hold twenty times what the client sent.
            self.pieces = bytearray()
        if self.pieces is not None:
            self.pieces += data
        if not last:
            return
        if self.pieces is None:
            self.body = keep(data)
        else:
            self.body = bytes(self.pieces)
            self.pieces = None
        if self.decoder is not None:
            self.let_go(self.decoder.counted_bytes)
            self.decoder = None
        if self.bytes_in > LARGE_BYTES:
            self._in_turn()
        else:
            self._dispatch()

    def _in_turn(self) -> None:
        """Go on when everybody else has had a turn."""
        if not self.turn_due:
            self.turn_due = True
            self.gateway.take_up_later(self)

    def take_up(self) -> None:
        """The turn of a large body has come, or of what is left of one read."""
        self.turn_due = False
        if self.phase is DONE:
            return
        try:
            if self.upload is not None and self.upload.unread is not None:
                self._read_on(self.upload, self.upload.unread)
            elif self.decoder is not None and self.decoder.pending:
                self._unpack(STEP_BYTES)
                self.client_may_go_on()
            elif self.upload is None and self.body:
                self._dispatch()
        except GatewayError as error:
            self.fail(error)
        except Exception as error:
            self.gateway.crashed(self.conn, error)

    def _read_on(self, upload: Upload, unread: tuple[bytes, bytes, bool]) -> None:
        """Some more parts of a form, of what came in one read."""
        data, left, last = unread
        left = upload.read(left)
        if left:
            upload.unread = (data, left, last)
            self._in_turn()
            return
        upload.unread = None
        upload.take(self, data, last)
        self.client_may_go_on()

    def client_may_go_on(self) -> None:
        """Read the client again, unless something of what it sent has not been read yet, or has nowhere to go."""
        upload = self.upload
        if self.phase is DONE or (upload is not None and (upload.waits or upload.unread is not None)):
            return
        if self.decoder is not None and self.decoder.pending:
            self._in_turn()
        else:
            self.conn.go_on()

    def _dispatch(self) -> None:
        """The body is whole: BODY and ROUTE phases, then the first attempt."""
        gateway = self.gateway
        endpoint = self.endpoint
        if endpoint.mode is JSON or (self.body and self.is_json()):
            self.facts = scan_body(
                self.body, gateway.max_json_depth, endpoint.model, gateway.max_json_members, gateway.bytes_per_token
            )
        for hook in gateway.on_body:
            hook(self)
        if self.phase is not DONE:
            self.route()

    def route(self) -> None:
        """ROUTE phase, then an attempt; raises GatewayError when no engine would take it."""
        gateway = self.gateway
        if gateway.server_timing:
            self.routed_at = monotonic()
        for hook in gateway.on_route:
            hook(self)
        # (A hook may have ended the exchange itself, or made it wait.)
        if self.phase is RECEIVING and not (self.endpoint.merges and gateway.merger is not None and gateway.merger.take(self)):
            self.attempt()

    # --- the end
    def fail(self, error: GatewayError) -> None:
        """Answer with an error, or end the stream with one; ends the exchange either way."""
        if self.phase is DONE:
            return
        if self.relay is not None:
            self._cut(error.kind.name, error.detail, engine_fault=error.source is Source.UPSTREAM)
            return
        self._release()
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
        if error.kind.status in NOT_ALLOWED:
            self.conn.refusals += 1
            close = close or self.conn.refusals >= MAX_REFUSALS
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
        self._leaves_work()
        self._cancel()
        self.gateway.stats.cancelled += 1
        if self.local_task is not None:
            self.local_task.cancel()
        self.detail = f"client closed ({how})"
        self.error_kind = "client_closed"
        if self.relay is None:
            self.status = 499
        self._end("client_closed", False)

    def _leaves_work(self) -> None:
        """Nobody waits any more: the work of an engine that has the whole request, and has said nothing yet, is an estimate."""
        if (
            (self.phase is WAITING or self.phase is MERGING)
            and self.sent_at
            and (self.upload is None or self.upload.sent_whole)
        ):
            self.estimated = True

    def _cancel(self) -> None:
        """Nobody waits for the answer any more."""
        upstream = self.upstream
        pool = self.pool
        if (
            upstream is not None
            and pool is not None
            and not pool.engine.cancel
            and self.phase in (WAITING, RELAYING)
            and (self.upload is None or self.upload.sent_whole)
        ):
            # This engine cannot bear an abort: let it finish, unseen.
            self.gateway.let_finish(pool, upstream, self.relay, self.head.method)
            self.upstream = None
        else:
            self._leave_engine()

    def on_client_stalled(self) -> None:
        self._leaves_work()
        self._cancel()
        self.detail = "client does not read"
        self._end("client_stalled", False)

    def on_total_timeout(self) -> None:
        if self.phase is QUEUED:
            place = self.place
            place.owner.late(place, "its own deadline came first")
            return
        if self.timeout_s and monotonic() - self.started_at >= self.timeout_s:
            self._leaves_work()  # it is the client's own time that is over
        self.fail(GatewayError("upstream_timeout", source=Source.GATEWAY, detail="request_timeout_s reached"))

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
        if outcome != "error" and self.pool is not None:
            self.conn.refusals = 0  # (what is answered here is answered to anybody)
        if phase is QUEUED:
            self.queued_s = monotonic() - self.queued_at + max(self.queued_s, 0.0)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        gateway = self.gateway
        now = monotonic()
        relay = self.relay
        if relay is not None:
            self.bytes_out += relay.bytes_out
            self.prompt_tokens, self.completion_tokens, self.cached_tokens, self.reasoning_tokens = relay.usage()
            if self.prompt_tokens < 0 and self.upload is not None:
                self._heard(relay.seconds())
            if not self.token_at and relay.bytes_out and (relay.sse is None or relay.sse.first_token_seen):
                self.token_at = now  # the first token came with the end
            if relay.sse is not None:
                gateway.stats.events_total += relay.sse.events
                # What was said before more text came, or of a broken answer before any, was an early word: what has passed
                # counts, where it is more.
                sse = relay.sse
                passed = sse.tokens
                early = passed > sse.said_at or (outcome != "ok" and not sse.said_at)
                if early and (passed or self.completion_tokens >= 0):
                    self.completion_tokens = max(self.completion_tokens, passed)
                    self.estimated = True
                if not self.prompt_tokens and (outcome != "ok" or passed > sse.said_at):
                    self.prompt_tokens = -1  # (zeros with which an answer begins)
        if not self.judged:
            # The verdict on an engine falls when its answer has ended.
            if self.faulty:
                self._fault()
            elif outcome == "ok":
                self._succeed()
            else:
                self._release()
        elif self.faulty and self.pool is not None:
            self.pool.engine.failures_total += 1
        upstream = self.upstream
        if upstream is not None:
            pool = self.pool
            assert pool is not None
            self.upstream = None
            engine = pool.engine
            if engine.gradient is not None and self.token_at and outcome == "ok" and not self.faulty:
                engine.gradient.sample(self.token_at - self.sent_at, engine.inflight)
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
        hook = None
        whole = False
        try:
            guards = self.guards
            if guards is not None:
                while guards:
                    guards.pop()()
            for hook in gateway.on_finish:
                hook(self, outcome)
            whole = True
        finally:
            # Whatever a hook did: an exchange that has ended is counted, or no drain would ever end.
            if not whole:
                self._give_back_after(hook, outcome)
            self.let_body_go()
            gateway.finished(self, outcome, now)

    def _give_back_after(self, failed: FinishHook | None, outcome: str) -> None:
        """A guard or the hook ``failed`` (None = no hook had its turn yet) has raised: what the others hold is given back
        all the same, or a bug in one would take places from all."""
        left = list(self.gateway.on_finish)
        if failed is not None:
            del left[: left.index(failed) + 1]
        guards = self.guards
        while guards:
            with suppress(Exception):  # the first one is on its way to the log
                guards.pop()()
        for hook in left:
            with suppress(Exception):
                hook(self, outcome)
