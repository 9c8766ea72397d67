"""The three changes that fastgw makes to a request body, by splicing bytes: nothing is serialised again.

What is put in front of a long body (``exchange.apart``) stays apart from it (``exchange.lead``, ``exchange.skip``), so that it
is sent from where it lies: it is not copied, and not there twice while its engine takes it.

``stream_options.include_usage`` is asked of the engine, so that streams can be accounted for, and the extra chunk is taken
out again (not of kinds that count without: ``upstream/kinds``); and ``model`` becomes the engine's own name for it, where one
is configured, or that of the model it falls back to; in forms too.
(In the query of a WebSocket session it does where the request's first line is written.)

And where the key has a limit of tokens, the engine is told how many each answer may have at most, in the API's own field, and
so is what would tell it otherwise. A body that says no more than that already stays as it is.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.bodies import BodyFacts, place_in, span_of, with_member
from fastgw.accel.tokens import MOST_CHOICES
from fastgw.config import Config
from fastgw.exchange.dialects import told
from fastgw.exchange.endpoints import CHAT, RESPONSES
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import NO_LIMIT, ExchangeState, model_of
from fastgw.protocol.openai import ASKS_USAGE, with_bound, with_model, with_usage, written
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.target import Engine

# Bits of BodyFacts.named.
TOKENS: Final = 1
COMPLETION_TOKENS: Final = 2
OUTPUT_TOKENS: Final = 4

LEAD_BYTES: Final = 4096
"""A value further in is not reached from the front of a body: what stands before it would be copied."""


def member(name: str, bound: int) -> bytes:
    """What is put into a body that names nothing."""
    return b'"%b":%d' % (name.encode(), bound)


def bounded(body: bytes, facts: BodyFacts, bound: int, label: str, kind: Kind) -> bytes:
    """``body`` for an engine of a ``kind``, to which it says that each answer may have ``bound`` tokens at most."""
    named = facts.named
    own = TOKENS
    names: tuple[str, ...] = ("max_tokens",)
    if label == CHAT:
        if named & COMPLETION_TOKENS or (kind.refuses_max_tokens and not named):
            own = COMPLETION_TOKENS if kind.knows_completion_tokens else COMPLETION_TOKENS | TOKENS
            names = ("max_completion_tokens",) if kind.knows_completion_tokens else ("max_completion_tokens", "max_tokens")
    elif label == RESPONSES:
        own = OUTPUT_TOKENS
        names = ("max_output_tokens",)
    if not facts.overrides and facts.token_limit <= bound:
        if named == own:
            return body
        if not named & ~own:
            # Nothing is to be changed, only one thing to be said.
            return with_member(body, member(names[-1], bound))
    return with_bound(body, names, bound, min(facts.answers, MOST_CHOICES))


def put(exchange: ExchangeState, body: bytes, member: bytes) -> bytes:
    """``body`` with a ``member`` more, which it does not have; itself where that stays apart from it."""
    if not exchange.apart:
        return with_member(body, member)
    at = exchange.skip
    if not at:
        at = place_in(body)
        if at < 0 or at > LEAD_BYTES:
            return with_member(body, member)
        exchange.skip = at
        exchange.lead = body[:at]
    lead = exchange.lead
    exchange.lead = b"".join((lead[:at], member, b",", lead[at:]))
    return body


def renamed(exchange: ExchangeState, body: bytes, facts: BodyFacts, name: str) -> bytes:
    """``body`` for the model ``name``; itself where that stays apart from it. Nothing more is put into it."""
    if not exchange.apart:
        return with_model(body, facts, name)
    start, end = span_of(body, "model")
    skip = exchange.skip
    if start < skip or end > LEAD_BYTES:
        return with_model(body, facts, name)
    exchange.lead = b"".join((exchange.lead, body[skip:start], written(name)))
    exchange.skip = end
    return body


class Rewriting(Filter):
    """See the head of this file."""

    __slots__ = ("_ask_usage", "_said", "_said_bound", "_said_kind", "_said_label")
    name = "rewrite"
    splices = True

    def __init__(self, ask_usage: bool) -> None:
        self._ask_usage = ask_usage
        # What was said last where nothing was named, of how many, on which endpoint and to which kind: nearly always the same.
        self._said = b""
        self._said_bound = 0
        self._said_label = ""
        self._said_kind: Kind | None = None

    @classmethod
    def from_config(cls, config: Config) -> Rewriting:
        return cls(config.inject_usage)  # (any key may be given a limit of tokens)

    def after(self, before: Filter, config: Config) -> Filter:
        return self

    def rewrite(self, exchange: ExchangeState, engine: Engine, body: bytes) -> bytes:
        facts = exchange.facts
        name = engine.served_name or exchange.substitute
        if engine.aliases:
            name = engine.aliases.get(name or model_of(exchange), name)
        if facts is None:
            upload = exchange.upload
            return upload.renamed(body, name) if upload is not None and name else body
        if exchange.bound != NO_LIMIT:
            body = self._bounded(exchange, facts, engine, body)
        exchange.strip_usage = False
        ask = self._ask_usage and not facts.include_usage and exchange.endpoint.usage
        if ask and facts.stream and engine.kind.asks_usage:
            body = with_usage(body, facts) if facts.has_stream_options else put(exchange, body, ASKS_USAGE)
            exchange.strip_usage = True
        if name and facts.model and facts.model != name:
            body = renamed(exchange, body, facts, name)
        return body

    def _bounded(self, exchange: ExchangeState, facts: BodyFacts, engine: Engine, body: bytes) -> bytes:
        bound = exchange.bound
        if exchange.own is not None:
            lowered = with_bound(body, (), bound, min(facts.answers, MOST_CHOICES)) if facts.named or facts.overrides else body
            return told(lowered, exchange.own.places, bound)
        label = exchange.endpoint.label
        if facts.named or facts.overrides:
            return bounded(body, facts, bound, label, engine.kind)
        if bound != self._said_bound or label is not self._said_label or engine.kind is not self._said_kind:
            name = "max_output_tokens" if label == RESPONSES else "max_tokens"
            if label == CHAT and engine.kind.refuses_max_tokens:
                name = "max_completion_tokens"
            self._said = member(name, bound)
            self._said_bound = bound
            self._said_label = label
            self._said_kind = engine.kind
        return put(exchange, body, self._said)
