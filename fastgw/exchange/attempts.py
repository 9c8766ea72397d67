"""Towards the engine: which one, over which connection, with which bytes, and what follows when that fails.

Nothing here waits: a dial reports back from the loop. What may be sent again is decided in ``retry``, as a pure function.
"""

from __future__ import annotations

import re
from random import random
from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.accel.lines import request_start
from fastgw.errors import GatewayError, Source
from fastgw.exchange.retry import Failure, Verdict, judge
from fastgw.exchange.state import BACKOFF, CONNECTING, DONE, QUEUED, WAITING, ExchangeState
from fastgw.limits.breaker import CLOSED, NO, PROBE
from fastgw.limits.budget import backoff_s
from fastgw.limits.meter import address_key
from fastgw.net.clock import monotonic
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.protocol.query import with_value
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

MAX_RETRY_AFTER_S: Final = 60.0  # an engine that asks for more is asked again all the same
_RETRY_AFTER: Final = re.compile(rb"(?im)^retry-after:[ \t]*([0-9]{1,6})[ \t]*\r$").search
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
                if failure is None and self._wait_for_room():
                    return
                raise failure or self._unavailable()
            now = monotonic()
            breaker = pool.engine.breaker
            if breaker.state != CLOSED:
                admitted = breaker.admit(now)
                if admitted == NO:
                    self.tried = (*self.tried, pool)
                    continue
                self.probe = admitted == PROBE
            self.judged = False
            self.pool = pool
            # Once repeated, a request takes no further chance with a connection that may have died as well.
            if not (self.upgrade or self.replayed or self.retries):
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
                self._release()
                self.tried = (*self.tried, pool)

    def _wait_for_room(self) -> bool:
        """Whether the request waits now: the engines that are left are well, and full."""
        group = self.group
        assert group is not None
        for pool in group.pools:
            if pool not in self.tried and pool.engine.full():
                for hook in self.gateway.on_full:
                    if hook(self):  # type: ignore[arg-type]
                        return True
                break
        return False

    def _unavailable(self) -> GatewayError:
        """Nobody is left to be asked: why, and when it may be otherwise."""
        group = self.group
        assert group is not None
        now = monotonic()
        engines = [pool.engine for pool in group.pools]
        # Until the first of them may be asked again: its breaker's recovery, and what it has asked for itself.
        wait_s = min([max(engine.breaker.wait_s(now), engine.not_before - now) for engine in engines])
        if not self.detail and CLOSED not in [engine.breaker.state for engine in engines]:
            return GatewayError("circuit_open", source=Source.UPSTREAM, retry_after_s=max(1.0, wait_s))
        if wait_s <= 0.0:
            wait_s = self.gateway.retry_after_s
        return GatewayError("engines_unavailable", source=Source.UPSTREAM, retry_after_s=wait_s, detail=self.detail)

    # --- what the engine's breaker is told of an attempt, once
    def _succeed(self) -> None:
        pool = self.pool
        if self.judged or pool is None:
            return
        self.judged = True
        breaker = pool.engine.breaker
        if breaker.failures or breaker.state != CLOSED:
            open_before = breaker.state != CLOSED
            breaker.succeeded(self.probe)
            if open_before and breaker.state == CLOSED:
                self.gateway.breaker_moved(pool)
        self.probe = False

    def _fault(self) -> None:
        """The engine failed: it counts once, here and in its statistics."""
        pool = self.pool
        if pool is None:
            return
        pool.engine.failures_total += 1
        if self.judged:
            return
        self.judged = True
        before = pool.engine.breaker.opened_total
        pool.engine.breaker.failed(monotonic(), random(), self.probe)  # noqa: S311 - spreads probes, guards nothing
        self.probe = False
        if pool.engine.breaker.opened_total != before:
            self.gateway.breaker_moved(pool)

    def _release(self) -> None:
        """The attempt said nothing about the engine."""
        pool = self.pool
        if self.judged or pool is None:
            return
        self.judged = True
        if self.probe:
            pool.engine.breaker.released(True)
            self.probe = False
            for hook in self.gateway.on_room:
                hook()

    def has_another(self) -> bool:
        """Whether an engine of the group that has not been tried may be asked; one that is being spared may not."""
        return self.group is not None and any(pool not in self.tried and pool.engine.permitted() for pool in self.group.pools)

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
        if upload is not None and not upload.joined:
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
                known.line = self._request_line(engine)
                known.base = base
            line = known.line
            if self.endpoint.metered:
                fields = known.uncoded_fields or self._fields()
                known.uncoded_fields = fields
            else:
                fields = known.fields or self._fields()
                known.fields = fields
        else:
            line = self._request_line(engine)
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

    def _request_line(self, engine: Engine) -> bytes:
        head = self.head
        target = head.target
        value = self.session.value if self.session is not None else None
        name = engine.served_name or self.substitute
        if value is not None and name and name != value.text:
            target = b"%b?%b" % (head.path, with_value(head.query, value, name))
        return b"".join((head.method, b" ", engine.base, target, b" HTTP/1.1\r\n"))

    def _fields(self) -> bytes:
        """The fields that are not the engine's own, up to the value of ``x-request-id``."""
        head = self.head
        conn = self.conn
        forward = head.forward
        if self.endpoint.metered and b"ccept-" in forward:
            # What is to be read, or taken out again, must not come compressed.
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
        stale = failure is Failure.LOST and self.reused
        if stale:
            self._release()
        else:
            # Before the engine is left: whoever waits for its place must find the verdict.
            self._fault()
        self._leave_engine()
        self.detail = f"{pool.engine.name}: {detail}"
        if failure is Failure.LOST and not self.reused:
            self.kills += 1
        verdict = judge(
            failure,
            reused=self.reused,
            response_begun=response_begun,
            body_at_hand=self._body_at_hand(),
            replayed=self.replayed or not gateway.replay,
            retried=self.retries >= gateway.max_retries,
            retry_fresh=gateway.retry_fresh,
        )
        try:
            if verdict is Verdict.SAME_FRESH:
                self.replayed = True
                gateway.stats.replays_total += 1
                self.judged = False
                # It may have been its breaker's probe: it still is, or two would be out.
                self.probe = pool.engine.breaker.admit(monotonic()) == PROBE
                try:
                    self._dial(pool)
                    return
                except GatewayError as error:
                    self._release()
                    if not error.retryable:
                        raise
                    verdict = Verdict.NEXT_ENGINE
            if verdict is Verdict.NEXT_ENGINE:
                self.tried = (*self.tried, pool)
                if len(self.tried) < gateway.max_attempts and self.has_another():
                    if failure is Failure.CONNECT or failure is Failure.CONNECT_TIMEOUT:
                        # Nothing was sent: this is no second try, and costs no engine anything.
                        gateway.stats.failovers_total += 1
                        self.attempt()
                        return
                    if gateway.quarantine_after and self.kills >= gateway.quarantine_after:
                        gateway.stats.quarantined += 1
                        raise GatewayError("quarantined", source=Source.UPSTREAM, detail=self.detail)
                    if self._may_retry():
                        self._back_off()
                        return
        except GatewayError as error:
            self.fail(error)
            return
        timed_out = failure is Failure.SILENT or failure is Failure.CONNECT_TIMEOUT
        self.fail(GatewayError("upstream_timeout" if timed_out else "bad_gateway", source=Source.UPSTREAM, detail=self.detail))

    def _body_at_hand(self) -> bool:
        """Whether the whole request can be sent again."""
        return self.upload is None or self.upload.whole or not self.upload.begun

    # --- retries by policy
    def _may_retry(self) -> bool:
        """Take one retry of this request's, and one out of the budget of all."""
        gateway = self.gateway
        if self.retries >= gateway.max_retries:
            return False
        if not gateway.budget.withdraw(monotonic()):
            gateway.stats.retries_refused += 1
            return False
        self.retries += 1
        gateway.stats.retries_total += 1
        gateway.stats.failovers_total += 1
        return True

    def _back_off(self) -> None:
        """Another engine is asked after a short wait, longer each time, so that many retries do not come as one wave."""
        self.phase = BACKOFF
        self.gateway.later(self, backoff_s(self.retries, random()))  # noqa: S311 - spreads retries, guards nothing

    def _retry_answer(self, head: ResponseHead) -> bool:
        """Whether another engine is asked instead of passing this answer on."""
        pool = self.pool
        assert pool is not None
        found = _RETRY_AFTER(head.forward)
        if found is not None:
            account = self.account
            keyless = account is None or account is self.gateway.accounts.anonymous
            caller = address_key(self.client_ip) if keyless else account.id  # type: ignore[union-attr]
            pool.engine.told_to_wait(caller, monotonic(), min(float(found[1]), MAX_RETRY_AFTER_S))
        if not self._body_at_hand():
            return False
        tried = self.tried
        self.tried = (*tried, pool)
        if len(self.tried) >= self.gateway.max_attempts or not self.has_another() or not self._may_retry():
            self.tried = tried
            return False
        if head.status == 429 or head.status == 503:
            self._release()
        else:
            self._fault()
        self._leave_engine()
        self.detail = f"{pool.engine.name}: answered {head.status}"
        self._back_off()
        return True

    def _asked_too_much(self) -> bool:
        """Whether the engine is asked again, for a shorter answer: its refusal may be of a length that the client did not name.

        (vLLM, and TGI by 422, refuse a maximum for which the prompt leaves no room, and would have cut an answer without one.)
        """
        facts = self.facts
        gateway = self.gateway
        if facts is None or facts.token_limit >= 0 or self.bound <= gateway.default_cost or not self._body_at_hand():
            return False
        self.bound = gateway.default_cost
        self._release()
        self._leave_engine()
        self.phase = BACKOFF
        gateway.later(self, 0.0)
        return True

    def resume(self) -> None:
        """Go on after a wait: the next attempt."""
        self.timer = None
        if self.phase is DONE:
            return
        if self.phase is QUEUED:
            self.queued_s = monotonic() - self.queued_at + max(self.queued_s, 0.0)
        try:
            merger = self.gateway.merger
            if merger is None or not self.endpoint.merges or not merger.take(self):
                self.attempt()
        except GatewayError as error:
            self.fail(error)
        except Exception as error:
            self.gateway.crashed(self.conn, error)
