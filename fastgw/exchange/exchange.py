"""One request from its head to its end: the arrival of its body, the walk of the filters, call after call, the one end.

Owns: what follows what (``phases`` has the table), and the end, which runs exactly once. Whatever is taken pushes its release
onto ``guards`` in the same statement; the end runs them in reverse. No method blocks or makes a task; each is called from the
client's stream, a call, or the loop, never from two at once (one loop, one thread).
"""

from __future__ import annotations

from contextlib import suppress
from random import random
from typing import Any, Final

from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError, Source
from fastgw.exchange.attempt import Attempt, attempt_for
from fastgw.exchange.context import FinishHook
from fastgw.exchange.endpoints import JSON
from fastgw.exchange.figures import read_off
from fastgw.exchange.intake import Intake
from fastgw.exchange.phases import (
    BACKS_OFF,
    DIALS,
    DONE,
    ENDS,
    GOES_ON,
    IS_HELD,
    LOCAL,
    MERGING,
    QUEUED,
    RELAYING,
    TUNNEL,
    WAITING,
)
from fastgw.exchange.plan import Failure, Step, after, another, later, unavailable
from fastgw.exchange.showing import has_gone_down
from fastgw.exchange.state import ExchangeState
from fastgw.limits.breaker import CLOSED, NO, PROBE
from fastgw.limits.budget import backoff_s
from fastgw.limits.meter import address_key
from fastgw.net.clock import monotonic
from fastgw.protocol.openai import scan_body
from fastgw.upstream.pool import Pool

LARGE_BYTES: Final = 65536  # of a body: beyond one read's worth it is looked at in a turn of its own
MAX_WAIT_S: Final = 60.0  # for a filter that set no timer; who waits longer is told to come again
NOT_ALLOWED: Final = (401, 403, 421, 429)
"""Answers to who may not, or not now: a connection that gets nothing else is closed after a few."""


class Exchange(ExchangeState):
    """See the head of this file."""

    __slots__ = ()

    # --- the request arrives
    def on_body(self, data: bytes, last: bool) -> None:
        """Bytes of the request body, without its framing; ``last`` comes exactly once."""
        if self.phase == LOCAL:
            return
        try:
            intake = self.intake
            if intake is None:
                if last and self.upload is None:
                    # The usual case: whole, in one read.
                    self.bytes_in += len(data)
                    if self.bytes_in > self.gateway.max_body_bytes:
                        raise GatewayError("body_too_large", detail="crossed while reading")
                    self.hold(len(data))
                    self.whole(keep(data))
                    return
                intake = self.intake = Intake()
            intake.take(self, data, last)
        except GatewayError as error:
            self.fail(error)

    def whole(self, body: bytes) -> None:
        """The body has come."""
        self.body = body
        if self.bytes_in > LARGE_BYTES:
            if self.intake is None:
                self.intake = Intake()
            self.intake.in_turn(self)
        else:
            self._dispatch()

    def take_up(self) -> None:
        """The turn of a large body has come, or of what is left of one read."""
        if self.phase == DONE:
            return
        intake = self.intake
        assert intake is not None
        try:
            if not intake.take_up(self) and self.upload is None and self.body:
                self._dispatch()
        except GatewayError as error:
            self.fail(error)
        except Exception as error:
            self.gateway.crashed(self.client, error)

    def client_may_go_on(self) -> None:
        """Read the client again, unless something of what it sent has not been read yet, or has nowhere to go."""
        upload = self.upload
        if self.phase == DONE or (upload is not None and (upload.waits or upload.unread is not None)):
            return
        if self.intake is None or not self.intake.has_more(self):
            self.client.go_on()

    # --- the filters
    def _dispatch(self) -> None:
        """The body is whole: read it, and let the filters have it."""
        gateway = self.gateway
        endpoint = self.endpoint
        if endpoint.mode is JSON or (self.body and self.is_json()):
            self.facts = scan_body(
                self.body, gateway.max_json_depth, endpoint.model, gateway.max_json_members, gateway.bytes_per_token
            )
        self._walk(0)

    def route(self) -> None:
        """An upload's model is known: the filters that route have their turn, then an engine is found."""
        self._walk(len(self.gateway.on_body))

    def _walk(self, at: int) -> None:
        """The filters from ``at`` on, then an engine. Each may end the exchange, or have it wait: then ``resume`` goes on
        with the next. Raises GatewayError."""
        gateway = self.gateway
        walk = gateway.walk
        phase = self.phase
        routing = len(gateway.on_body)
        while at < len(walk):
            if at == routing and gateway.server_timing:
                self.routed_at = monotonic()
            hook = walk[at]
            at += 1
            self.walked = at
            if hook(self):
                if self.phase == phase:
                    self._held()
                return
            if self.phase != phase:
                return
        merger = gateway.merger
        if merger is None or not self.endpoint.merges or not merger.take(self):
            self._attempt()

    def _held(self) -> None:
        """A filter has it wait, and may have set a timer for it; the wait has a bound in any case."""
        self.move(IS_HELD)
        if self.timer is None:
            reactor = self.gateway.reactor
            self.timer = reactor.loop.call_later(MAX_WAIT_S, self._overdue)
            reactor.poller.hurry()

    def _overdue(self) -> None:
        """The filter that had it wait has forgotten it."""
        try:
            self.abandon("overloaded", f"a filter had it wait for {MAX_WAIT_S:g} s")
        except Exception as error:
            self.gateway.crashed(self.client, error)

    def wake(self) -> None:
        """``resume``, in the next turn of the loop: for whoever is in the middle of another exchange."""
        self.gateway.reactor.poller.soon(self.resume)

    def resume(self) -> None:
        """Go on after a wait: with the next filter, or the next attempt. Called once for each wait, from the loop.

        :raises IllegalMove: it does not wait.
        """
        phase = self.phase
        if phase == DONE:
            return
        self.move(GOES_ON)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if phase == QUEUED:
            self.queued_s = monotonic() - self.queued_at + max(self.queued_s, 0.0)
        try:
            if phase == MERGING:
                self._attempt()  # alone
            else:
                self._walk(self.walked)
        except GatewayError as error:
            self.fail(error)
        except Exception as error:
            self.gateway.crashed(self.client, error)

    # --- the engines
    def _attempt(self) -> None:
        """Ask the next engine, over an idle connection or a new one."""
        gateway = self.gateway
        group = self.group
        assert group is not None
        failure: GatewayError | None = None
        while True:
            pool = gateway.strategy.pick(group, self.tries.pools, self)
            if pool is None:
                serving = gateway.serving(gateway.table, self)
                if serving is not None and serving is not group:
                    # Its engines have gone since it was routed, and others have come.
                    group = self.group = serving
                    continue
                if failure is None and self._waits_for_room():
                    return
                raise failure or unavailable(group, monotonic(), self.detail, gateway.retry_after_s)
            now = monotonic()
            admitted = 0
            breaker = pool.engine.breaker
            if breaker.state != CLOSED:
                admitted = breaker.admit(now)
                if admitted == NO:
                    self.tries = self.tries.tried(pool)
                    continue
            call = self._new_call(pool, admitted == PROBE)
            try:
                connected = call.open(now, self.session is not None or self.tries.repeated())
            except GatewayError as error:
                call.released()
                if not error.retryable:
                    raise
                # Nothing was sent: the next engine may have room.
                failure = error
                self.tries = self.tries.tried(pool)
                continue
            if connected:
                call.send(now)
            else:
                self.move(DIALS)
            return

    def _new_call(self, pool: Pool, probe: bool) -> Attempt:
        if self.call is not None:
            self.call.part()
        call = attempt_for(self, pool, probe)
        self.call = call
        return call

    def _waits_for_room(self) -> bool:
        """Whether the request waits now: the engines that are left are well, and full."""
        group = self.group
        assert group is not None
        for pool in group.pools:
            if pool not in self.tries.pools and pool.engine.full():
                for hook in self.gateway.on_full:
                    if hook(self):
                        return True
                break
        return False

    def call_failed(self, failure: Failure, begun: bool, detail: str) -> None:
        """The call has ended without an answer: what follows is the plan's."""
        call = self.call
        group = self.group
        assert call is not None
        assert group is not None
        pool = call.pool
        if failure is Failure.LOST and call.reused:
            call.released()
        else:
            # Before the engine is left: whoever waits for its place must find the verdict.
            call.failed()
        call.leave()
        self.detail = f"{pool.engine.name}: {detail}"
        if failure is Failure.LOST and not call.reused:
            self.tries = self.tries.killed()
        tries = self.tries.tried(pool)
        others = another(group, tries)
        rules = self.gateway.rules
        step = after(
            failure, rules, self.tries, reused=call.reused, begun=begun, at_hand=self._body_at_hand(), others=others
        )  # fmt: skip
        try:
            if step is Step.AGAIN:
                if self._again(pool):
                    return
                step = later(rules, self.tries, others)
            if step is not Step.FAIL and self._goes_on(step, pool):
                return
        except GatewayError as error:
            self.fail(error)
            return
        timed_out = failure is Failure.SILENT or failure is Failure.CONNECT_TIMEOUT
        self.fail(GatewayError("upstream_timeout" if timed_out else "bad_gateway", source=Source.UPSTREAM, detail=self.detail))

    def _again(self, pool: Pool) -> bool:
        """The same engine is asked once more; False where it has no room for that. Raises GatewayError."""
        self.tries = self.tries.again()
        self.gateway.stats.replays_total += 1
        # It may have been its breaker's probe: it still is, or two would be out.
        now = monotonic()
        call = self._new_call(pool, pool.engine.breaker.admit(now) == PROBE)
        try:
            call.open(now, True)
        except GatewayError as error:
            call.released()
            if not error.retryable:
                raise
            return False
        self.move(DIALS)
        return True

    def _goes_on(self, step: Step, pool: Pool) -> bool:
        """Take ``step`` to another engine than ``pool``; False where the budget has no retry for it. Raises GatewayError."""
        self.tries = self.tries.tried(pool)
        if step is Step.BAR:
            self.gateway.stats.quarantined += 1
            raise GatewayError("quarantined", source=Source.UPSTREAM, detail=self.detail)
        if step is Step.NEXT:
            # Nothing was sent: this is no second try, and costs no engine anything.
            self.gateway.stats.failovers_total += 1
            self._attempt()
            return True
        if not self._may_retry():
            return False
        self._back_off()
        return True

    def _body_at_hand(self) -> bool:
        """Whether the whole request can be sent again."""
        return self.upload is None or self.upload.whole or not self.upload.begun

    def _may_retry(self) -> bool:
        """Take one retry out of the budget of all."""
        gateway = self.gateway
        if not gateway.budget.withdraw(monotonic()):
            gateway.stats.retries_refused += 1
            return False
        self.tries = self.tries.retried()
        gateway.stats.retries_total += 1
        gateway.stats.failovers_total += 1
        return True

    def _back_off(self) -> None:
        """Another engine is asked after a short wait, longer each time, so that many retries do not come as one wave."""
        self.move(BACKS_OFF)
        wait_s = backoff_s(self.tries.retries, random())  # noqa: S311 - spreads retries, guards nothing
        self.gateway.later(self, wait_s)

    def asks_another(self, status: int, waits_s: float) -> bool:
        """Whether another engine is asked instead of passing this answer on. ``waits_s``: its Retry-After, -1 = none."""
        gateway = self.gateway
        call = self.call
        group = self.group
        assert call is not None
        assert group is not None
        engine = call.pool.engine
        if waits_s >= 0.0:
            account = self.account
            keyless = account is None or account is gateway.accounts.anonymous
            caller = address_key(self.client_ip) if keyless else account.id  # type: ignore[union-attr]
            engine.told_to_wait(caller, monotonic(), waits_s)
        tries = self.tries.tried(call.pool)
        if not self._body_at_hand() or self.tries.retries >= gateway.rules.max_retries or not another(group, tries):
            return False
        if not self._may_retry():
            return False
        self.tries = self.tries.tried(call.pool)
        if status == 429 or status == 503:
            call.released()
        else:
            call.failed()
        call.leave()
        self.detail = f"{engine.name}: answered {status}"
        self._back_off()
        return True

    def asks_for_less(self) -> bool:
        """Whether the engine is asked again, for a shorter answer: its refusal may be of a length that the client did not name.

        (vLLM, and TGI by 422, refuse a maximum for which the prompt leaves no room, and would have cut an answer without one.)
        """
        facts = self.facts
        gateway = self.gateway
        call = self.call
        assert call is not None
        if facts is None or facts.token_limit >= 0 or self.bound <= gateway.default_cost or not self._body_at_hand():
            return False
        self.bound = gateway.default_cost
        call.released()
        call.leave()
        self.move(BACKS_OFF)
        gateway.later(self, 0.0)
        return True

    # --- answers of the gateway's own
    def fail(self, error: GatewayError) -> None:
        """Answer with an error, or end the stream with one; ends the exchange either way."""
        if self.phase == DONE:
            return
        call = self.call
        if call is not None:
            if call.relay is not None:
                call.cut(error.kind.name, error.detail, error.source is Source.UPSTREAM)
                return
            call.released()
            call.leave()
        if self.phase == TUNNEL:
            self.client.close()
            self.end(error.kind.name, False)
            return
        if error.detail:
            self.detail = error.detail
        self.error_kind = error.kind.name
        if error.kind.status in NOT_ALLOWED:
            self.client.refusals += 1
        self.status = self.gateway.refuse_with(error, self, self.extra_head)
        self.end("error", False)

    def answer(self, status: int, content_type: bytes, body: bytes, lines: bytes = b"") -> None:
        """A whole answer made here, with ``lines`` beside those that every answer has."""
        if self.phase == DONE:
            return
        self.status = status
        own = b"x-request-id: %b\r\n%b%b" % (self.request_id, self.extra_head, lines)
        self.client.local(status, content_type, body, own)
        self.end("ok", False)

    # --- what the client does
    def on_error(self, error: GatewayError) -> None:
        """The request's body cannot be read on (bad framing, stalled); what was sent of it is taken back."""
        self.fail(error)

    def on_drained(self) -> None:
        if self.call is not None:
            self.call.client_drained()

    def on_tunnel_data(self, data: bytes) -> None:
        if self.call is not None:
            self.call.from_client(data)

    def on_gone(self, how: str) -> None:
        """The client left: cancel the engine's work, now."""
        if self.phase == DONE:
            return
        self._leaves_work()
        self._cancel()
        self.gateway.stats.cancelled += 1
        if self.local_task is not None:
            self.local_task.cancel()
        self.detail = f"client closed ({how})"
        self.error_kind = "client_closed"
        if self.call is None or self.call.relay is None:
            self.status = 499
        self.end("client_closed", False)

    def on_stalled(self) -> None:
        self._leaves_work()
        self._cancel()
        self.detail = "client does not read"
        self.end("client_stalled", False)

    def on_total_timeout(self) -> None:
        place = self.place
        if self.phase == QUEUED and place is not None:
            place.owner.late(place, "its own deadline came first")
            return
        if self.timeout_s and monotonic() - self.started_at >= self.timeout_s:
            self._leaves_work()  # it is the client's own time that is over
        self.fail(GatewayError("upstream_timeout", source=Source.GATEWAY, detail="request_timeout_s reached"))

    def abandon(self, kind: str, detail: str) -> None:
        """The gateway itself ends this exchange (drain over, internal failure)."""
        if self.phase == DONE:
            return
        self.fail(GatewayError(kind, source=Source.GATEWAY, detail=detail))

    def _leaves_work(self) -> None:
        """Nobody waits any more: the work of an engine that has the whole request, and has said nothing yet, is an estimate."""
        if (
            (self.phase == WAITING or self.phase == MERGING)
            and self.sent_at
            and (self.upload is None or self.upload.sent_whole)
        ):
            self.estimated = True

    def _cancel(self) -> None:
        """Nobody waits for the answer any more."""
        call = self.call
        if call is None:
            return
        if (
            call.stream is not None
            and not call.pool.engine.cancel
            and self.phase in (WAITING, RELAYING)
            and (self.upload is None or self.upload.sent_whole)
        ):
            # This engine cannot bear an abort: let it finish, unseen. Whoever leaves and asks again has no more under way than
            # the key allows.
            self.gateway.let_finish(call, self.account if self.counted else None)
        else:
            call.leave()

    # --- the end
    def end(self, outcome: str, reusable: bool) -> None:
        """The one end: give everything back, count, leave one access record."""
        phase = self.phase
        if phase == DONE:
            return
        self.move(ENDS)
        call = self.call
        if outcome != "error" and call is not None:
            self.client.refusals = 0  # (what is answered here is answered to anybody)
        self.bytes_out = self.client.sent
        if phase == QUEUED:
            self.queued_s = monotonic() - self.queued_at + max(self.queued_s, 0.0)
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        now = monotonic()
        if call is not None:
            if call.relay is not None:
                read_off(self, call.relay, outcome, now)
            if call.stream is not None and self.token_at and outcome == "ok":
                call.felt(self.token_at)
            # The verdict on an engine falls when its answer has ended; then its place is free.
            call.conclude(outcome == "ok")
            whole = self.upload is None or self.upload.sent_whole
            call.complete(now, reusable and whole and phase == RELAYING)
        self._release(outcome, now)

    def _release(self, outcome: str, now: float) -> None:
        gateway = self.gateway
        hook: FinishHook | None = None
        whole = False
        try:
            if self.call is not None and self.call.relay is not None and self.call.relay.told:
                has_gone_down(self, self.call.relay)
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
            if self.call is not None:
                self.call.part()

    def _give_back_after(self, failed: Any, outcome: str) -> None:
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
