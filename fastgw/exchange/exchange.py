"""One request from its head to its end: the arrival of its body, the walk of the filters, call after call, the one end.

Owns: what follows what (``phases`` has the table), and the end, which runs exactly once. Whatever is taken pushes its release
onto ``guards`` in the same statement; the end runs them in reverse. No method blocks or makes a task; each is called from the
client's stream, a call, or the loop, never from two at once (one loop, one thread).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

from fastgw.accel.heads import RequestHead
from fastgw.accel.landing import Landing
from fastgw.accel.members import PEERED
from fastgw.accel.sockets import keep
from fastgw.errors import GatewayError, Source
from fastgw.exchange import asking
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context, FinishHook
from fastgw.exchange.dialects import learn
from fastgw.exchange.endpoints import JSON, Endpoint
from fastgw.exchange.engine_error import as_event
from fastgw.exchange.figures import read_off
from fastgw.exchange.intake import Intake
from fastgw.exchange.phases import (
    BACKOFF,
    DONE,
    ENDS,
    GOES_ON,
    HELD,
    IS_HELD,
    LOCAL,
    MERGING,
    QUEUED,
    RECEIVING,
    RELAYING,
    TUNNEL,
    WAITING,
)
from fastgw.exchange.plan import Failure
from fastgw.exchange.relay import Relay
from fastgw.exchange.state import ExchangeState
from fastgw.exchange.tunnel import says_close
from fastgw.exchange.unnamed import is_a_question
from fastgw.net.client import ClientStream
from fastgw.net.clock import monotonic
from fastgw.protocol.openai import refuse_peers, scan_body, scan_foreign

LARGE_BYTES: Final = 1 << 18  # of a body: what is longer is looked at in a turn of its own, for it takes 0.1 ms or more
OK: Final = 200
EVENTS: Final = b"text/event-stream"
MAX_WAIT_S: Final = 60.0  # for a filter that set no timer; who waits longer is told to come again
NOT_ALLOWED: Final = (401, 403, 421, 429)
"""Answers to who may not, or not now: a connection that gets nothing else is closed after a few."""
_WHO_ANSWERS: Final = re.compile(rb"(?m)^x-(?:fallback|fastgw)-model:[^\r\n]*\r\n").sub


def exchange_for(
    gateway: Context, client: ClientStream, head: RequestHead, endpoint: Endpoint, request_id: bytes
) -> Exchange:
    """A new exchange, and whoever answers ``client``."""
    made = Exchange.__new__(Exchange)
    made.make(gateway, client, head, endpoint, request_id)
    if gateway.tracer is not None:
        known = client.known
        made.trace = gateway.tracer.begin(head, known is not None and known.head is head and known.traceless)
    client.sink = made
    return made


class Exchange(ExchangeState):
    """See the head of this file. (:func:`exchange_for` makes them.)"""

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

    def landing(self, length: int) -> Landing | None:
        """Where a body that is needed whole, and comes as it is, is received."""
        if self.phase != RECEIVING or self.upload is not None or self.intake is not None:
            return None
        self.intake = Intake()
        return self.intake.land(length)

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
        if self.session is not None and self.session.greets(self):
            return
        if endpoint.mode is JSON or (self.body and (endpoint.stored or self.is_json())):
            depth, most, of_token = gateway.max_json_depth, gateway.max_json_members, gateway.bytes_per_token
            if endpoint.foreign:
                self.facts = scan_foreign(self.body, depth, most, of_token)
            else:
                self.facts = scan_body(self.body, depth, most, of_token)
                if endpoint.model and not self.facts.model and is_a_question(gateway, self.account):
                    raise GatewayError("missing_model", param="model")
            if self.facts is not None and self.facts.uncounted & PEERED and not gateway.allow_kv_transfer:
                refuse_peers(self.body)
            if self.facts is not None and endpoint.dialect:
                self.own = learn(self.facts, self.body, endpoint.dialect, gateway.default_max, gateway.bytes_per_token)
        self._walk(0)

    def route(self) -> None:
        """An upload's model is known: the filters that route have their turn, then an engine is found."""
        self._walk(len(self.gateway.on_body))

    def _walk(self, at: int) -> None:
        """The filters from ``at`` on, then an engine. Each may end the exchange, or have it wait: then ``resume`` goes on
        with the next. Raises GatewayError."""
        self.at = monotonic()
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
            if hook(self) is True:
                if self.phase == phase:
                    self._held()
                return
            if self.phase != phase:
                return
        merger = gateway.merger
        if merger is None or not self.endpoint.merges or not merger.take(self):
            asking.ask(self)

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
        """A filter that has it wait has it go on, in the next turn of the loop. More than once is as good as once."""
        self.gateway.reactor.poller.soon(self._woken)

    def _woken(self) -> None:
        if self.phase == HELD:
            self.resume()

    def wait_over(self) -> None:
        """The time of a wait is over: one that a filter has set, or the pause before it is sent again."""
        if self.phase == HELD or self.phase == BACKOFF:
            self.resume()

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
            self._waited()
        try:
            if phase == MERGING:
                asking.ask(self)  # alone
            else:
                self._walk(self.walked)
        except GatewayError as error:
            self.fail(error)
        except Exception as error:
            self.gateway.crashed(self.client, error)

    def _waited(self) -> None:
        now = monotonic()
        self.queued_s = now - self.queued_at + max(self.queued_s, 0.0)
        if self.trace is not None and self.trace.sampled:
            self.trace.waited(self.queued_at, now)

    # --- what its calls ask of it
    def call_failed(self, failure: Failure, begun: bool, detail: str, error: GatewayError | None) -> None:
        """The call has ended without an answer: what follows is the plan's."""
        asking.call_failed(self, failure, begun, detail, error)

    def asks_another(self, status: int) -> bool:
        """Whether another engine is asked instead of passing this answer on."""
        return asking.asks_another(self, status)

    def asks_for_less(self) -> bool:
        """Whether the engine is asked again, for a shorter answer than the one that it refuses."""
        return asking.asks_for_less(self)

    # --- answers of the gateway's own
    def fail(self, error: GatewayError) -> None:
        """Answer with an error, or end the stream with one; ends the exchange either way."""
        if self.phase == DONE:
            return
        call = self.call
        if call is not None:
            relay = call.relay
            if relay is not None:
                if relay.begun or relay.wrote:
                    call.cut(error.kind.name, error.detail, error.source is Source.UPSTREAM)
                    return
                self._another_answer(call, relay)
            call.released()
            call.leave()
        if self.phase == TUNNEL:
            self.error_kind = error.kind.name
            if says_close(self, error):
                self.client.hang_up()
            else:
                self.client.close()
            self.end(error.kind.name, False)
            return
        if error.detail:
            self.detail = error.detail
        self.error_kind = error.kind.name
        if error.kind.status in NOT_ALLOWED:
            self.client.refusals += 1
        for hook in self.gateway.on_refused:
            hook(self, error)
        self.status = self.gateway.refuse_with(error, self, self.own_lines())
        self.end("error", False)

    def answer(self, status: int, content_type: bytes, body: bytes, lines: bytes = b"") -> None:
        """A whole answer made here, with ``lines`` beside those that every answer has.

        :raises RuntimeError: an engine's answer is on its way down already.
        """
        if self.phase == DONE:
            return
        call = self.call
        if self.session is not None and self.session.accepted:
            raise RuntimeError("a session has no answer")
        if call is not None and call.relay is not None:
            if call.relay.begun or call.relay.wrote:
                raise RuntimeError("an answer is on its way down already")
            self._another_answer(call, call.relay)
        if call is not None:
            call.leave()
        if self.client.sent:
            self._late(status, content_type, body)
            return
        self.status = status
        own = b"x-request-id: %b\r\n%b%b" % (self.request_id, self.own_lines(), lines)
        self.client.local(status, content_type, body, own)
        self.end("ok", False)

    def _late(self, status: int, content_type: bytes, body: bytes) -> None:
        """The answer of a request to which the head of a stream has gone down already (``policy.heartbeat``)."""
        stream = status == OK and content_type.startswith(EVENTS)
        self.status = OK
        self.client.conclude(body if stream else as_event(status, body, self.endpoint))
        self.end("ok", False)

    def own_lines(self) -> bytes:
        """The lines that filters add to a head, where the answer is the gateway's own: no model has given it."""
        lines = self.extra_head
        return _WHO_ANSWERS(b"", lines) if lines.find(b"-model:") >= 0 else lines

    def _another_answer(self, call: Call, relay: Relay) -> None:
        """Nothing of the engine's has gone down, and nothing will: what it says that it used stands all the same."""
        read_off(self, relay, "error", monotonic())
        call.relay = None

    # --- what the client does
    def on_error(self, error: GatewayError) -> None:
        """The request's body cannot be read on (bad framing, stalled); what was sent of it is taken back."""
        self.fail(error)

    def on_drained(self) -> None:
        if self.call is not None:
            self.call.client_drained()

    def on_tunnel_data(self, data: bytes) -> None:
        self.bytes_in += len(data)
        if self.session is not None:
            self.session.take(self, data)

    def on_tunnel_end(self) -> None:
        if self.phase != TUNNEL and self.status == 101:
            self.client.hang_up()
            self.on_gone("fin")  # (nobody has been asked, or nobody has answered)
        elif self.call is not None:
            self.call.client_ended()

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
        answered = self.status == 101 or self.client.sent
        if self.phase != TUNNEL and not answered and (self.call is None or self.call.relay is None):
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
        if self.phase == RECEIVING and self.status == 101:
            self.fail(GatewayError("request_timeout", "No whole message has come.", detail="between_bytes_timeout_s reached"))
            return
        message = "The request was held until its time was over." if self.phase == HELD else None
        self.fail(GatewayError("upstream_timeout", message, source=Source.GATEWAY, detail="request_timeout_s reached"))

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
            and self.session is None  # (which an engine only opens)
            and (self.upload is None or self.upload.sent_whole)
        ):
            self.estimated = True

    def _cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self.call is not None:
            self.call.leave()

    # --- the end
    def end(self, outcome: str, reusable: bool) -> None:
        """The one end: give everything back, count, leave one access record."""
        phase = self.phase
        if phase == DONE:
            return
        self.move(ENDS)
        call = self.call
        well = outcome == "ok"
        if call is not None and (well or outcome != "error"):
            self.client.refusals = 0  # (what is answered here is answered to anybody)
        self.bytes_out = self.client.sent
        if phase == QUEUED:
            self._waited()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        now = self.at = monotonic()
        if call is not None:
            if call.relay is not None:
                read_off(self, call.relay, outcome, now)
            whole = self.upload is None or self.upload.sent_whole
            call.complete(now, well, reusable and whole and phase == RELAYING, self.token_at)
        self._release(outcome, now)

    def _release(self, outcome: str, now: float) -> None:
        gateway = self.gateway
        hook: FinishHook | None = None
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
            call = self.call
            if call is not None:
                call.part()
                if call.remainder is not None and call.remainder.then is None:
                    call.remainder = None  # nobody is charged for it

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
