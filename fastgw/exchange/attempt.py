"""A call for one exchange: the request on its way to this engine, and its answer on the way down.

Nothing here waits, and nothing here decides what follows a failure: the exchange is told, and asks its plan.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError, Source
from fastgw.exchange.call import Call
from fastgw.exchange.declined import caller_of, counted_as, declines, disagrees, given_away
from fastgw.exchange.engine_error import blames, status_of
from fastgw.exchange.figures import answers_of, read_whole, relay_for, spent_kind
from fastgw.exchange.opening import BEGINS, ENDS, REFUSES, WAITS, Opening, is_held
from fastgw.exchange.phases import IS_ANSWERED, RELAYING, SENDS, TUNNEL
from fastgw.exchange.plan import REFUSALS, Failure, lost
from fastgw.exchange.record import streamed, timing_line
from fastgw.exchange.relay import BROKEN, END, MORE, SPENT, Relay
from fastgw.exchange.remainder import Remainder, remainder_of
from fastgw.exchange.request import request_start, rewritten
from fastgw.exchange.showing import goes_on, showing
from fastgw.exchange.state import ExchangeState
from fastgw.exchange.tally import MALFORMED, TRUNCATED
from fastgw.exchange.tunnel import Tunnel
from fastgw.limits.scope import Scope, places
from fastgw.net.client import NO_BODY
from fastgw.net.clock import monotonic
from fastgw.net.upstream import NOT_TAKEN, WANTS_HTTP1
from fastgw.net.wire import DEAD, QUEUED
from fastgw.protocol.body import LengthSource
from fastgw.protocol.body import Source as BodySource
from fastgw.upstream.pool import Pool

MOST_WEIGHED: Final = 64  # answers of one request that count towards what an engine has to do
LAST_S: Final = 1.0  # an answer's last chunk waits so long for the event behind it; engines send both at once
CLOSING_S: Final = 2.0  # an engine that has made all that it may ends its stream in less
APART_BYTES: Final = 16384  # a longer body stays where it lies when something is put before it; up to here a copy costs no more


def attempt_for(exchange: ExchangeState, pool: Pool, probe: bool) -> Attempt:
    """A new attempt of ``exchange``'s at the engine of ``pool``."""
    made = Attempt.__new__(Attempt)
    made.make(exchange.gateway, pool, probe)
    made.light = exchange.endpoint.light
    made._exchange = exchange
    made._opening = None
    made._tunnel = None
    return made


class Attempt(Call):
    """See the head of this file. (:func:`attempt_for` makes them.)"""

    __slots__ = ("_exchange", "_opening", "_tunnel")

    _exchange: ExchangeState | None
    _opening: Opening | None  # of an answer that has not been seen to be one: nothing has gone down
    _tunnel: Tunnel | None

    def part(self) -> None:
        self._exchange = self._opening = None  # each knows the other: nobody but the collector would part them
        if self.relay is not None:
            self.relay.show = None

    def weigh(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        facts = exchange.facts
        if facts is None or self.light:
            return
        self.reads = facts.prompt_tokens
        usual, limit = self.core.default_cost, facts.token_limit
        self.makes = (limit if 0 <= limit < usual else usual) * min(answers_of(exchange), MOST_WEIGHED)

    def works(self) -> bool:
        exchange = self._exchange
        upload = exchange.upload if exchange is not None else None
        # (A session ends by its connection, and half a request never does otherwise.)
        return self._tunnel is None and (upload is None or upload.sent_whole) and Call.works(self)

    def caller(self) -> str:
        return caller_of(self._exchange) if self._exchange is not None else ""

    def places(self) -> tuple[Scope, ...]:
        exchange = self._exchange
        return () if exchange is None else places(exchange.account, exchange.shares, exchange.counted)

    def goes_on(self) -> Remainder | None:
        return remainder_of(self._exchange, self, self._opening)

    # --- to the engine
    def on_stream(self) -> None:
        self.reached()
        exchange = self._exchange
        if exchange is not None and self.pool.engine.tenant and given_away(exchange, self.pool):
            away = GatewayError("engines_unavailable", source=Source.UPSTREAM, retry_after_s=self.core.retry_after_s)
            exchange.call_failed(Failure.FULL, False, "it was given to a tenant", away)
        else:
            self.send(monotonic())

    def send(self, now: float) -> None:
        """Write the whole request, or its head and what has arrived of it."""
        exchange, stream = self._exchange, self.stream
        assert exchange is not None
        assert stream is not None
        engine = self.pool.engine
        if self.core.on_attempt and not goes_on(exchange, self.core.on_attempt, engine):
            return
        exchange.move(SENDS)
        exchange.own_s = now - exchange.at if exchange.own_s < 0.0 else exchange.own_s
        self.sent_at = exchange.sent_at = now
        start = request_start(exchange, engine)
        trace = exchange.trace.told() if exchange.trace is not None else b""
        upload = exchange.upload
        if upload is not None and not upload.joined:
            upload.begin(exchange, self, start, trace)
            return
        gateway = self.core
        speaks = exchange.session is not None and exchange.session.accepted  # what he has said follows the handshake
        body = b"" if speaks else exchange.body
        exchange.apart = gateway.splices and len(body) > APART_BYTES
        exchange.lead = b""
        exchange.skip = 0
        for rewrite in () if speaks else gateway.rewriters:
            body = rewritten(rewrite(exchange, engine, body))
        lead, skip = exchange.lead, exchange.skip
        length = len(lead) + len(body) - skip
        stream.send(start, trace, exchange.request_id, length, lead, body, skip, now + gateway.first_byte_timeout_s)

    def on_drained(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        if exchange.upload is not None:
            exchange.upload.drained(exchange)
        elif self._tunnel is not None:
            self._tunnel.drained(exchange, self)

    # --- no answer
    def on_unreachable(self, detail: str, timed_out: bool) -> None:
        exchange = self._exchange
        assert exchange is not None
        self.core.dial_failed(self.pool, detail)
        exchange.call_failed(Failure.CONNECT_TIMEOUT if timed_out else Failure.CONNECT, False, detail, None)

    def on_error(self, error: GatewayError) -> None:
        """What came is no response head (or a bug showed); the stream is closed already."""
        exchange = self._exchange
        if exchange is None:
            return  # the bug showed at its end
        if error.retryable:
            detail = error.detail.removeprefix(f"{self.pool.engine.name}: ")
            full = error.source is Source.GATEWAY
            exchange.call_failed(Failure.FULL if full else Failure.CONNECT_TIMEOUT, False, detail, error)
            return
        if error.source is Source.UPSTREAM:
            self.failed(MALFORMED)
        if self.relay is None and error.detail:
            error.detail = f"{self.pool.engine.name}: {error.detail}"
        self.leave()
        exchange.fail(error)

    def on_end(self, how: str) -> None:
        self.ended = True
        opening = self._opening
        if opening is not None:
            self._opens(opening, opening.eof(how))
        exchange, stream = self._exchange, self.stream
        if exchange is None or stream is None:
            return
        relay = self.relay
        if self._tunnel is not None:
            self._tunnel.closed(exchange, self, how)
        elif relay is None and how in NOT_TAKEN:
            why = "wanted in HTTP/1.1" if how == WANTS_HTTP1 else "the request was not taken"
            exchange.call_failed(REFUSALS[how], False, why, None)
        elif relay is None:
            if stream.shared:
                self.reused = False  # that was no idle connection
            exchange.call_failed(Failure.LOST, stream.begun(), lost(how, "a response"), None)
        elif relay.closing:
            self._closes(relay, relay.eof(how))
        elif relay.eof(how) == END:
            self._relayed(relay)
        else:
            self.cut("bad_gateway", relay.broken, True)

    def on_silent(self) -> None:
        exchange, stream = self._exchange, self.stream
        if exchange is None or stream is None:
            return
        opening = self._opening
        if opening is not None and (opening.plain or opening.announced):
            self._opens(opening, BEGINS)  # (what is left of a plain answer stays silent)
            if opening.announced or self._exchange is None or self.relay is None:
                return
        if self._tunnel is not None:
            self._tunnel.closed(exchange, self, "silent")
        elif self._opening is not None:
            self._opened_in_vain(Failure.SILENT, f"no event within {self.core.between_bytes_timeout_s:g} s of the head")
        elif self.relay is None:
            why = f"no answer within {self.core.first_byte_timeout_s:g} s"
            exchange.call_failed(Failure.SILENT, stream.begun(), why, None)
        elif self.relay.closing:
            self._cut_short(self.relay)
        elif self.relay.let_go():
            if self._may_go_on(exchange, self.relay, MORE):
                stream.due(self._due(self.relay, monotonic() - LAST_S))
        else:
            self.cut("upstream_timeout", f"silent for {self.core.between_bytes_timeout_s:g} s mid-response", True)

    # --- the answer
    def on_head(self, head: ResponseHead, source: BodySource, rest: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        self.first_byte_at = monotonic()
        if self.source is None:  # (it is a stream's own where the answer was made of that)
            self.source = source
            self.rest = rest
        if head.status < 400 or not declines(exchange, head, source, rest):
            self.answered(head, source, rest)

    def answered(self, head: ResponseHead, source: BodySource, rest: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        now = self.first_byte_at
        if exchange.session is not None and disagrees(exchange, head):
            return
        if is_held(exchange.endpoint, head, source, rest):
            stream = self.stream
            assert stream is not None
            stream.due(now + self.core.between_bytes_timeout_s)
            self._opening = Opening(head, source, exchange.endpoint, now)
            if rest or source.done:
                self._opens(self._opening, self._opening.feed(rest, now))
            return
        extra = self._accepts(exchange, head, now)
        if extra is None:
            return
        client = exchange.client
        length = head.content_length
        if length == len(rest) and length and not head.sse and not source.done:
            # The usual plain answer: whole in one read, out in one send.
            told = head.json or exchange.endpoint.dialect != ""
            if self.core.shows or exchange.endpoint.stored:
                if told:
                    read_whole(exchange, head, rest)  # whether or not it may go down
                show = showing(exchange, self.core.on_data, head)
                seen = show(rest) if show is not None else rest
                if seen is None:
                    return
                rest = seen
            client.answer(head, exchange.request_id, extra, rest)
            exchange.token_at = now
            self._ended(exchange, read_whole(exchange, head, rest) if told else None, True)
        elif head.status == 101 and exchange.session is not None:
            self._tunnel = Tunnel(exchange.session)
            self._tunnel.open(exchange, self, head, rest)
        elif source.done and source.length < 0:
            client.begin(head, NO_BODY, exchange.request_id, extra)
            if client.flush() == DEAD:
                client.close()
            else:
                client.finish()
            exchange.end("ok", not rest)
        else:
            self._start_relay(exchange, head, source, extra, rest)

    def _accepts(self, exchange: ExchangeState, head: ResponseHead, now: float) -> bytes | None:
        """This is the answer: the gateway's own lines of its head; None = the exchange has ended."""
        self.head = head
        exchange.status = head.status
        if self.core.on_response and not goes_on(exchange, self.core.on_response, head):
            return None
        exchange.move(IS_ANSWERED)
        extra = exchange.extra_head
        if self.core.server_timing:
            extra += timing_line(exchange, now, now)
        return extra

    # --- an answer that has not been seen to be one
    def _opens(self, opening: Opening, verdict: int) -> None:
        """What has come of it may be enough to say what becomes of it."""
        self.rest = opening.came
        if verdict == WAITS:
            if opening.announced and self.stream is not None:
                self.stream.due(opening.until)
            return
        exchange = self._exchange
        assert exchange is not None
        self._opening = None
        if verdict == BEGINS:
            now = self.first_byte_at = monotonic()
            extra = self._accepts(exchange, opening.head, now)
            if extra is not None:
                self._start_relay(exchange, opening.head, opening.source, extra, opening.came)
        elif verdict == REFUSES:
            head, body = opening.refusal(exchange.endpoint)
            self.on_head(head, LengthSource(len(body)), body)
        elif verdict == ENDS:
            self._opened_in_vain(Failure.LOST, opening.why)
        else:
            self.on_error(GatewayError("bad_gateway", source=Source.UPSTREAM, detail=f"framing: {opening.why}"))

    def _opened_in_vain(self, failure: Failure, why: str) -> None:
        """None comes. (The engine has shown that it has the request: its connection was no dead one.)"""
        assert self._exchange is not None
        self._opening = None
        self.reused = False
        self._exchange.call_failed(failure, False, why, None)

    def _start_relay(self, exchange: ExchangeState, head: ResponseHead, source: BodySource, extra: bytes, rest: bytes) -> None:
        """The answer comes in several reads (or is a stream): its head goes down now."""
        show = None
        if self.core.shows or exchange.endpoint.stored:
            show = showing(exchange, self.core.on_data, head)  # (which looks at the body once more)
        if exchange.upload is None or exchange.upload.sent_whole:
            exchange.let_body_go()
        relay = self.relay = relay_for(exchange, head, source, extra, show, show is not None and show.renamer is not None)
        relay.gaps, relay.engine_gaps = (self.core.tally.gaps(exchange) if streamed(exchange) else None), self.pool.engine.gaps
        stream = self.stream
        assert stream is not None
        self.rest = b""
        verdict = relay.start(rest)
        if relay.gone:
            return
        if verdict == BROKEN and not relay.begun:
            # Nothing has gone down, so the client can still be told properly.
            self.relay = self.head = None
            self.on_error(GatewayError("bad_gateway", source=Source.UPSTREAM, detail=relay.broken))
            return
        sse = relay.sse
        if self._may_go_on(exchange, relay, verdict):
            stream.due(self._due(relay, self.first_byte_at))
            if rest and (sse is None or sse.first_token_seen):
                exchange.token_at = self.first_byte_at
                self.began(self.first_byte_at)
                relay.paced(self.first_byte_at)
            if relay.written == QUEUED:
                stream.hold()

    def _due(self, relay: Relay | None, since: float) -> float:
        """When an engine that is silent ``since`` then is given up, or what waits for its next event goes on without."""
        silence_s = self.core.between_bytes_timeout_s
        held = relay is not None and relay.sse is not None and relay.sse.last != b""
        return since + (min(silence_s, LAST_S) if held else silence_s)

    def on_data(self, data: bytes) -> None:
        exchange, stream, relay = self._exchange, self.stream, self.relay
        assert exchange is not None
        assert stream is not None
        if self._opening is not None:
            self._opens(self._opening, self._opening.feed(data, monotonic()))
            return
        if relay is None:
            assert self._tunnel is not None
            self._tunnel.down(exchange, self, data)
            return
        if relay.closing:
            self._closes(relay, relay.feed(data))
            return
        sse = relay.sse
        events = sse.events if sse is not None else -1
        verdict = relay.feed(data)
        if (verdict != MORE or relay.written == DEAD or relay.gone) and not self._may_go_on(exchange, relay, verdict):
            return
        # Comments that only keep a connection alive do not prove that the engine still works.
        if sse is None or sse.events != events:
            now = monotonic()
            if not exchange.token_at and (sse is None or sse.first_token_seen):
                exchange.token_at = now
                self.began(now)
            relay.paced(now)
            stream.due(self._due(relay, now) if sse is not None and sse.last else now + self.core.between_bytes_timeout_s)
        if relay.written == QUEUED:
            stream.hold()

    def _may_go_on(self, exchange: ExchangeState, relay: Relay, verdict: int) -> bool:
        """What a read of the answer has come to: whether more of it may pass. Otherwise this has ended it."""
        while verdict == SPENT and relay.written != DEAD and not relay.gone:
            if not self._granted(relay):
                return False
            verdict = relay.go_on()
        if relay.gone:
            return False
        if relay.written == DEAD:
            exchange.client_broke()
        elif verdict == END:
            self._relayed(relay)
        elif verdict == BROKEN:
            self.cut("bad_gateway", relay.broken, True)
        else:
            return True
        return False

    def client_drained(self) -> None:
        exchange, stream, relay = self._exchange, self.stream, self.relay
        if exchange is None or stream is None or stream.closed or exchange.phase not in (RELAYING, TUNNEL):
            return
        if relay is None or not relay.closing:
            stream.due(self._due(relay, monotonic()))
        stream.resume()

    def from_client(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and self._tunnel is not None:
            self._tunnel.up(exchange, self, data)

    def client_ended(self) -> None:
        exchange = self._exchange
        if exchange is not None and self._tunnel is not None:
            self._tunnel.client_ended(exchange, self)

    def _relayed(self, relay: Relay) -> None:
        """The answer has gone down, to its end."""
        exchange = self._exchange
        assert exchange is not None
        if relay.gone:
            return
        if relay.written == DEAD:
            exchange.client_broke()
            return
        # (Of a status that is an error the verdict has fallen; what is not metered may have an `error` for a word of its own.)
        failed = exchange.status < 400 and (exchange.endpoint.metered or relay.sse is not None) and relay.failed()
        exchange.client.finish()
        self._ended(exchange, relay.failure() if failed else None, relay.source.done and not relay.source.spoiled)

    def _ended(self, exchange: ExchangeState, failure: bytes | None, reusable: bool) -> None:
        """The answer has ended, whole; ``failure``: its engine says that it failed, in words that say whose fault it is."""
        if failure is not None:
            self.faulty = blames(counted_as(status_of(failure), failure), self.pool.engine.api_key_line != b"")
        exchange.end("engine_error" if failure is not None else "ok", reusable)

    # --- an answer that is ended here
    def _granted(self, relay: Relay) -> bool:
        """The stream has used the tokens that it was given: whether it gets more. Otherwise it ends here, well-formed.

        An engine that was told so ends there by itself, and says what it has used: that is still waited for.
        """
        exchange, stream = self._exchange, self.stream
        assert exchange is not None
        assert stream is not None
        for hook in self.core.on_allowance:
            if hook(exchange):
                relay.allow(exchange.allowance, relay.prompt)
                return True
        verdict = relay.close()
        if verdict == MORE:
            stream.due(monotonic() + CLOSING_S)
        self._closes(relay, verdict)
        return False

    def _closes(self, relay: Relay, verdict: int) -> None:
        """What an engine says behind the last token that may pass."""
        if verdict == END and relay.pass_end():
            self._relayed(relay)
        elif verdict != MORE:
            self._cut_short(relay)

    def _cut_short(self, relay: Relay) -> None:
        """The stream ends for length, and says why."""
        exchange, gateway = self._exchange, self.core
        assert exchange is not None
        kind = spent_kind(exchange)
        event = gateway.final_event(kind, exchange, relay.sse.tokens if relay.sse is not None else 0)
        if not event or not relay.finish(event):
            self.cut(kind, "what the key may use is spent", False)
            return
        if relay.gone:
            return
        self.released()
        self.leave()
        exchange.error_kind = kind
        if relay.written == DEAD:
            exchange.client_broke()
            return
        exchange.client.finish()
        exchange.end("quota", False)

    def cut(self, kind: str, detail: str, engine_fault: bool) -> None:
        """The answer breaks off after bytes had gone down: a typed event where there is room, then an abort. ``engine_fault``:
        the engine broke it off. What the client or the gateway ended does not count against an engine."""
        exchange, relay, gateway = self._exchange, self.relay, self.core
        assert exchange is not None
        assert relay is not None
        if engine_fault and relay.completes():
            self._relayed(relay)
            return
        exchange.detail = f"{self.pool.engine.name}: {detail}" if detail else self.pool.engine.name
        if engine_fault:
            self.pool.engine.truncations_total += 1
            gateway.stats.truncations_total += 1
            self.failed(TRUNCATED)
        exchange.error_kind = kind
        self.leave()
        told = relay.break_off(gateway.error_event(kind, exchange))
        if not relay.gone:
            exchange.client.break_off(told)
        exchange.end("truncated" if kind == "bad_gateway" else kind, False)
