"""The request as an engine gets it: which target, which fields.

Owns: what of a client's head goes on, and what stands in its place. The body is the rewriters', the framing and the engine's
own fields are the stream's.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.exchange.state import ExchangeState
from fastgw.protocol.query import with_value
from fastgw.protocol.start import RequestStart
from fastgw.protocol.traceparent import without
from fastgw.upstream.target import Engine

_ACCEPT_ENCODING: Final = re.compile(rb"(?im)^accept-encoding:[^\r\n]*\r\n").sub


def request_start(exchange: ExchangeState, engine: Engine) -> RequestStart:
    """The request as ``engine`` gets it, but for its own fields, the id and the body."""
    head = exchange.head
    known = exchange.client.known
    if known is None or known.head is not head:
        return RequestStart(head.method, _target(exchange, engine), _fields(exchange), exchange.session is not None)
    # A connection's requests have their heads in common, whichever engine they go to.
    start: RequestStart = known.start
    base = known.base
    if base is None or base != engine.base:
        start = known.start = RequestStart(head.method, _target(exchange, engine), _fields(exchange))
        known.base = engine.base
    return start


def _target(exchange: ExchangeState, engine: Engine) -> bytes:
    head = exchange.head
    target = head.target
    value = exchange.session.value if exchange.session is not None else None
    name = engine.served_name or exchange.substitute
    if engine.aliases:
        name = engine.aliases.get(name or exchange.model, name)
    if value is not None and name and name != value.text:
        target = b"%b?%b" % (head.path, with_value(head.query, value, name))
    return engine.base + target if engine.base else target


def _fields(exchange: ExchangeState) -> bytes:
    """The fields that are not the engine's own, up to the value of ``x-request-id``."""
    gateway = exchange.gateway
    head = exchange.head
    forward = head.forward
    # (Not by `in`: bytes look first whether they were asked for a number, and an exception is made to find out.)
    if exchange.endpoint.metered and forward.find(b"ccept-") >= 0:
        # What is to be read, or taken out again, must not come compressed.
        forward = _ACCEPT_ENCODING(b"", forward)
    if gateway.tracer is not None:
        forward = without(b"", forward)  # (an engine is told of a span of its own)
    forwarded = exchange.client.forwarded or gateway.forwarded_lines(exchange.client, head)
    own = head.own
    via = gateway.hops.line(own.get(b"via") if own is not None else None, exchange.client.spoken.protocol)
    return b"".join((forward, forwarded, via, b"x-request-id: "))


def rewritten(body: bytes | None) -> bytes:
    """What a filter has made of a body: a forgotten ``return`` is a bug of its own, and of nothing behind it."""
    if body is None:
        raise TypeError("a filter's rewrite returned no body")
    return body
