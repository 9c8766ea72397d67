"""An engine's answer that is an error: whether it goes down, or an engine is asked again in its place, this one or another.

Owns: what is read off such an answer, and how long one waits for that. Nothing of it has gone down; what may be repeated, and
how often, is the plan's.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.chunks import FramingError
from fastgw.accel.heads import ResponseHead
from fastgw.config import RouteConfig
from fastgw.errors import GatewayError
from fastgw.errors import Source as ErrorSource
from fastgw.exchange.engine_error import BAD_GATEWAY, LOOP, NOT_IMPLEMENTED, blames
from fastgw.exchange.plan import CONTEXT, FAILURE, Failure
from fastgw.exchange.state import NO_LIMIT, ExchangeState
from fastgw.limits.account import flow_of
from fastgw.limits.meter import address_key
from fastgw.net.clock import monotonic
from fastgw.net.upstream import Carrier, UpstreamStream
from fastgw.protocol.body import Source, source_of
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

MAX_RETRY_AFTER_S: Final = 60.0  # an engine that asks for more is asked again all the same
ERROR_BYTES: Final = 8192
FAILED_DEPENDENCY: Final = 424  # TGI's, of a generation that failed: no other engine says so, and no client is the cause
ERROR_S: Final = 2.0  # an engine that has said that it refuses says why in less

_RETRY_AFTER: Final = re.compile(rb"(?im)^retry-after:[ \t]*([0-9]{1,6})[ \t]*\r$").search
# OpenAI's code, which vLLM and SGLang have too in one version or another, and what vLLM, SGLang, llama.cpp, TGI, Ollama, LM
# Studio and Anthropic's API say in words.
_TOO_LONG: Final = re.compile(
    rb"context_length_exceeded|maximum context length|exceed_context_size_error|longer than the model's context length"
    rb"|model's context length is only|longer than the maximum model length|exceeds? the available context size"
    rb"|exceed(?:ed max|s the) context length|exceed context limit|loaded with context length of only"
    rb"|`inputs` (?:tokens \+|must have less than)|prompt is too long"
).search
# What llama.cpp says with 500 of a request that no try would help: its model takes no such input, or it cannot be read.
_UNABLE: Final = re.compile(
    rb'"message"\s*:\s*"(?:(?:image|audio|video) input is not supported|Failed to parse (?:messages|tools): )'
).search
# OpenAI's code, and with which words vLLM, SGLang and Ollama begin; and llama.cpp's router and LiteLLM, who say so with 400, as
# they say anything else. (What a client has said cannot stand there: within a string of JSON its quotes are escaped.)
_NO_MODEL: Final = {
    404: re.compile(
        rb'"code"\s*:\s*"model_not_found"'
        rb'|"(?:message|error)"\s*:\s*"(?:[Tt]he )?[Mm]odel\b[^\n]{1,600}?(?:does not exist|not found)'
    ).search,
    400: re.compile(
        rb'"code"\s*:\s*"model_not_found"'
        rb'|"(?:message|error)"\s*:\s*"(?:[Tt]he )?[Mm]odel (?:[^\s"]{1,256} )?(?:does not exist|(?:is )?not found)'
        rb"|\"message\"\s*:\s*\"(?:400: )?\{'error': '(?:/[a-z/]{1,64}: )?Invalid model name passed in "
    ).search,
}


def declines(exchange: ExchangeState, head: ResponseHead, source: Source, rest: bytes) -> bool:
    """Whether the error with this ``head``, of whose body ``rest`` has come, does not go down now: it was no answer, or it says
    why first. (500 is what some say of anything.)"""
    if exchange.session is not None and exchange.session.accepted and (head.status < 429 or head.status == 500):
        return False  # (of a handshake it says nothing of the model, nor of a key, nor of what it does for others)
    if head.status == 500:
        Declined(exchange, head, source).begin(rest)
        return True
    return _asks_again(exchange, head, counted_as(head.status, b"")) or _waits(exchange, head, source, rest)


def disagrees(exchange: ExchangeState, head: ResponseHead) -> bool:
    """Whether a session is asked for, and the answer with this ``head`` is none that may go down: another engine is asked, or
    its client is told."""
    session = exchange.session
    if session is None or session.agrees(head, exchange.client.connects):
        return False
    call = exchange.call
    assert call is not None
    why = f"no handshake: {head.status}"
    error = session.refused(exchange, head.status)
    if error is not None:
        exchange.call_failed(Failure.FULL, False, why, error)
    else:
        call.on_error(GatewayError("bad_gateway", source=ErrorSource.UPSTREAM, detail=why))
    return True


def counted_as(status: int, body: bytes) -> int:
    """The status by which it is judged whose fault an error is, and whether another engine is asked, where an engine says
    ``status`` of it and ``body``, as far as that has come."""
    if status == FAILED_DEPENDENCY:
        return BAD_GATEWAY
    return NOT_IMPLEMENTED if status >= 500 and _UNABLE(body[:ERROR_BYTES]) is not None else status


def _asks_again(exchange: ExchangeState, head: ResponseHead, status: int) -> bool:
    """Whether this was no answer: an engine is asked again instead of passing on the one with this ``head``, which counts as
    ``status``, or the client is told otherwise."""
    call = exchange.call
    assert call is not None
    if (status == 401 or status == 403) and call.pool.engine.api_key_line:
        # (It was not the client who showed that key: he can do nothing about it, and might take it for his own.)
        turned_away(exchange, "", f"refuses the gateway's api_key ({status})")
        return True
    if status < 429:
        less = status == 400 or status == 422
        return less and exchange.bound != NO_LIMIT and exchange.asks_for_less()
    if status == LOOP:
        # The request says so, not the engine's state: no fault, and to others it would go round as well.
        call.released()
        return False
    waits_s = asks_to_wait(head)
    if waits_s > 0.0 and (status == 429 or status == 503):
        call.pool.engine.told_to_wait(caller_of(exchange), monotonic(), waits_s)
    if (status == 429 or status >= 500) and exchange.asks_another(status):
        return True
    if status == 429 or status == 503:
        # "Not now": back-pressure, not a fault.
        call.released()
    else:
        call.faulty = blames(status, False)
    return False


def _waits(exchange: ExchangeState, head: ResponseHead, source: Source, rest: bytes) -> bool:
    """Whether the answer with this ``head`` waits for its body, of which ``rest`` has come: it may say that the prompt is too
    long for its engine, and there are models with more room, or that the engine does not have a model which it should."""
    lacks = head.status in _NO_MODEL and _should_have(exchange)
    told = exchange.client.sent  # a head has gone down: all of this is to be one event
    if not told and not lacks and (head.status not in (400, 413, 422) or not _has_more_room(exchange)):
        return False
    Declined(exchange, head, source).begin(rest)
    return True


def caller_of(exchange: ExchangeState) -> str:
    """Whom an engine may have a limit for, and whose word alone is no other's: the tenant, the key of none, or where no key is
    asked for the address. (Whoever has several keys has one voice.)"""
    account = exchange.account
    if account is None or account is exchange.gateway.accounts.anonymous:
        return address_key(exchange.client_ip)
    return account.flow


def is_his(engine: Engine, exchange: ExchangeState) -> bool:
    """Whether an engine is there for who asks, as things are now: everybody's, or his tenant's."""
    account = exchange.account
    return not engine.tenant or (account is not None and account.flow == flow_of(engine.tenant))


def given_away(exchange: ExchangeState, pool: Pool) -> bool:
    """Whether its engine, which a table has named, was given to somebody else since: it gets nothing of who waited for it."""
    group = exchange.group
    return group is not None and group.tabled and not is_his(pool.engine, exchange)


def falls_back(exchange: ExchangeState, why: str) -> bool:
    """Whether the request goes to another model for this reason: its routes name one that is left for it."""
    routes = routes_for(exchange)
    models = [*routes[0].models] if routes and why == FAILURE else []
    for route in routes:
        if why in route.fallback_on:
            models += route.fallback
    gone = (*exchange.tries.models, exchange.substitute or exchange.model)
    return not set(models).issubset(gone)


def routes_for(exchange: ExchangeState) -> list[RouteConfig]:
    """The route of the name that a request was sent with, and those of the models that this stands for and that were asked."""
    routes = exchange.gateway.table.routes
    asked = exchange.model
    route = routes.get(asked)
    if route is None:
        return []
    now = exchange.substitute or asked
    given_up = exchange.tries.models
    # (What is said of a model holds for those who ask for it by its class as well.)
    members = [routes.get(model) for model in route.models if now == asked or model == now or model in given_up]
    return [route, *[one for one in members if one is not None]]


def turned_away(exchange: ExchangeState, model: str, why: str) -> None:
    """The engine says that it is not set up for ``model`` ("" = for any): another may be. (It may say so of this request alone,
    so that is believed of its caller, and of the model that he asked for.)"""
    call = exchange.call
    assert call is not None
    call.head = None  # (nobody has been answered)
    exchange.gateway.misconfigured(call.pool, model, why)
    exchange.call_failed(Failure.TURNED_AWAY, False, why, None)


def _has_more_room(exchange: ExchangeState) -> bool:
    """Whether a prompt that is too long goes to another model."""
    return bool(exchange.gateway.on_lost) and falls_back(exchange, CONTEXT)


def _should_have(exchange: ExchangeState) -> bool:
    """Whether the engine that was asked is configured for the model, or lists it."""
    assert exchange.call is not None
    engine = exchange.call.pool.engine
    return (exchange.substitute or exchange.model) in (engine.configured_models or engine.discovered_models)


class Declined(Carrier):
    """A refusal that is held until it has said why: to its end, or as far and as long as it is read.

    It stands in its call's place at the stream meanwhile. Then another model is asked, or its call gets all that has come.
    """

    __slots__ = ("_body", "_call", "_exchange", "_head", "_look", "_raw", "_source")

    def __init__(self, exchange: ExchangeState, head: ResponseHead, source: Source) -> None:
        assert exchange.call is not None
        self._exchange = exchange
        self._call = exchange.call
        self._head = head
        self._source = source
        self._look = source_of(head, b"POST")  # (not its own: that is to find all of it unread)
        self._raw = b""
        self._body = b""

    def begin(self, rest: bytes) -> None:
        """``rest`` came with its head."""
        self._call.head = self._head  # (whoever leaves meanwhile has been answered)
        stream = self._told_to(self)
        assert stream is not None
        stream.due(self._call.first_byte_at + ERROR_S)
        self.on_data(rest)

    def _told_to(self, carrier: Carrier) -> UpstreamStream | None:
        stream = self._call.stream
        if stream is not None:
            stream.carrier = carrier
            stream.hold()
            stream.resume()  # what it was about to tell, it tells the carrier of now
        return stream

    def on_data(self, data: bytes) -> None:
        self._raw += data
        self._call.rest = self._raw
        try:
            self._body += self._look.feed(data)
        except FramingError:
            self._judge()
            return
        # (A stream of HTTP/2 may end without a length.)
        if self._look.done or getattr(self._source, "ended", False) or len(self._raw) >= ERROR_BYTES:
            self._judge()

    def _judge(self) -> None:
        call = self._call
        self._told_to(call)
        exchange = self._exchange
        status = self._head.status
        if status == 500:
            call.head = None  # (it may be none)
            if not _asks_again(exchange, self._head, counted_as(status, self._body)):
                call.answered(self._head, self._source, self._raw)
        elif no_model(status, self._body) and _should_have(exchange):
            turned_away(exchange, exchange.substitute or exchange.model, f"does not have the model ({status})")
        elif not too_long(self._body) or not _has_more_room(exchange) or not exchange.asks_another(status):
            call.answered(self._head, self._source, self._raw)

    def on_end(self, how: str) -> None:
        self._call.ended = True
        self._judge()
        self._call.on_end(how)

    def on_silent(self) -> None:
        self._judge()

    def on_error(self, error: GatewayError) -> None:
        self._call.on_error(error)

    def on_drained(self) -> None:
        self._call.on_drained()


def asks_to_wait(head: ResponseHead) -> float:
    """How long the engine asks to be left alone, -1.0 = it does not."""
    found = _RETRY_AFTER(head.forward)
    return min(float(found[1]), MAX_RETRY_AFTER_S) if found is not None else -1.0


def too_long(body: bytes) -> bool:
    """Whether an error, as far as it has come, says that the prompt is too long for its engine."""
    return _TOO_LONG(body[:ERROR_BYTES]) is not None


def no_model(status: int, body: bytes) -> bool:
    """Whether an error with ``status``, as far as it has come, says that its engine does not have the model."""
    return status in _NO_MODEL and _NO_MODEL[status](body[:ERROR_BYTES]) is not None
