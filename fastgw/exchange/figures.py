"""What an exchange is told of its answer: who passes it on and reads it, what passed, and what the engine says that it used."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from fastgw.accel.figures import TOKENS_PER_SECOND
from fastgw.accel.heads import ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.accel.tokens import MOST_CHOICES
from fastgw.accel.usage import UsageScanner, names_error, seconds_in, usage_in
from fastgw.exchange.dialects import Dialect
from fastgw.exchange.endpoints import AT_A_MARK, AT_A_REASON, COMPLETIONS
from fastgw.exchange.relay import Relay
from fastgw.exchange.state import NO_LIMIT, ExchangeState
from fastgw.limits.admission import broke
from fastgw.net.client import UNTOLD
from fastgw.protocol.body import Source
from fastgw.upstream.pool import Pool
from fastgw.upstream.target import Engine

_FEW: Final = 8  # engines that are looked at for a model's other names
_CODING: Final = re.compile(rb"(?im)^content-encoding[ \t]*:[ \t]*(?!identity[ \t]*\r)[^ \t\r]").search


def coded(head: ResponseHead) -> bool:
    """Whether the answer's body is in a coding (RFC 9110 §8.4), so that what passes says nothing. (A field that has the word in
    its own name, or ``identity``, is none.)"""
    # (Not by `in`: bytes look first whether they were asked for a number, and an exception is made to find out.)
    return head.forward.lower().find(b"content-encoding") >= 0 and _CODING(head.forward) is not None


def relay_for(
    exchange: ExchangeState,
    head: ResponseHead,
    source: Source,
    extra: bytes,
    show: Callable[[bytes], bytes | None] | None,
    changes: bool,
) -> Relay:
    """What passes on, and reads, the body behind a ``head`` with ``extra`` lines; ``show`` is shown it, and ``changes`` its
    size."""
    sse = None
    if head.sse and not coded(head):
        sse = SseScanner(exchange.strip_usage)
    # A stream that something may be taken out of, or that may be ended before its end, has no length to announce.
    open_ended = sse is not None and (exchange.strip_usage or exchange.allowance < NO_LIMIT)
    if not exchange.client.sent:  # (a heartbeat has brought a head)
        exchange.client.begin(head, UNTOLD if open_ended or changes else source.length, exchange.request_id, extra)
    relay = Relay(exchange.client, source, sse, head.json)
    if sse is not None and head.status < 400 and exchange.call is not None and exchange.call.pool.engine.strict:
        ends = exchange.endpoint.ends
        # (Of several answers a reason ends one.)
        relay.ends = AT_A_MARK if ends == AT_A_REASON and answers_of(exchange) > 1 else ends
    if exchange.endpoint.dialect:
        relay.dialect = dialect = dialect_of(exchange, head)
        relay.show = dialect.sees(show)
    elif show is not None:
        relay.show = show
    if exchange.allowance < NO_LIMIT:
        allow(exchange, relay)
    return relay


def read_off(exchange: ExchangeState, relay: Relay, outcome: str, now: float) -> None:
    """The answer that ``relay`` passed on has ended."""
    told(exchange, relay, outcome)
    sse = relay.sse
    if not exchange.token_at and relay.wrote and (sse is None or sse.first_token_seen or relay.dialect is not None):
        exchange.token_at = now  # the first token came with the end
    if sse is not None:
        exchange.gateway.stats.events_total += sse.events


def told(exchange: ExchangeState, relay: Relay, outcome: str) -> None:
    """What the engine says, as far as ``relay`` has read it, that it used."""
    dialect = relay.dialect
    if dialect is not None:
        _in_dialect(exchange, dialect)
        return
    (
        exchange.prompt_tokens, exchange.completion_tokens, exchange.cached_tokens, exchange.reasoning_tokens,
    ) = relay.usage()  # fmt: skip
    if exchange.prompt_tokens < 0 and exchange.upload is not None:
        heard(exchange, relay.seconds())
    sse = relay.sse
    if sse is None:
        if outcome == "engine_error" and relay.answers():
            _made_before(exchange)
        return
    # What was said before more text came, or of a broken answer before any, was an early word, and so was what came with one of
    # several answers, for it may be of that one alone: what has passed counts, where it is more. And who says that neither the
    # prompt nor the answer had a token has not counted.
    passed = sse.tokens
    several = sse.of_choices and answers_of(exchange) > 1
    zeros = exchange.prompt_tokens == 0 and exchange.completion_tokens == 0
    early = passed > sse.said_at or (outcome != "ok" and not sse.said_at) or several or zeros
    if early and (passed or exchange.completion_tokens >= 0):
        exchange.completion_tokens = max(exchange.completion_tokens, passed)
        exchange.estimated = True
    if not exchange.prompt_tokens and (outcome != "ok" or passed > sse.said_at):
        exchange.prompt_tokens = -1  # (zeros with which an answer begins)


def _in_dialect(exchange: ExchangeState, dialect: Dialect) -> None:
    exchange.prompt_tokens, exchange.completion_tokens, exchange.estimated = dialect.figures()
    facts = exchange.facts
    if facts is not None and 0 < dialect.prompts() < facts.prompts:
        # (It counts each prompt as the first text of it comes.)
        exchange.prompt_tokens = max(exchange.prompt_tokens, facts.prompt_tokens)
        exchange.estimated = True
    exchange.cached_tokens = exchange.reasoning_tokens = -1


def dialect_of(exchange: ExchangeState, head: ResponseHead) -> Dialect:
    """What reads the answer with this ``head``, whose engine was asked in its own API."""
    return Dialect(head.forward, exchange.own.each if exchange.own is not None else 1)


def answers_of(exchange: ExchangeState) -> int:
    """How many answers a request may be given."""
    facts = exchange.facts
    if facts is None:
        return 1
    answers = min(facts.answers, MOST_CHOICES)
    if facts.prompts != 1 and (exchange.endpoint.label == COMPLETIONS or exchange.endpoint.dialect):
        answers *= facts.prompts
    return answers


def allow(exchange: ExchangeState, relay: Relay) -> None:
    """No more than the exchange's allowance may pass, beside a prompt of the size that it is taken for; or that its engine says
    it has, where it is one alone."""
    facts = exchange.facts
    if facts is not None:
        relay.follows = facts.prompts == 1
    relay.allow(exchange.allowance, facts.prompt_tokens if facts is not None else 0)


def spent_kind(exchange: ExchangeState) -> str:
    """The error of an answer that is ended because nothing is left, of money or of the day's tokens. It is counted."""
    gateway = exchange.gateway
    hold = exchange.money
    account = exchange.account
    if hold is not None:
        money = hold.broke
    else:  # (only of a session: a stream that holds no money is not ended for it)
        money = exchange.session is not None and account is not None and broke(account, gateway.today) is not None
    if money:
        gateway.stats.budget_cut += 1
        return "budget_exhausted"
    gateway.stats.quota_cut += 1
    return "quota_exhausted"


def read_whole(exchange: ExchangeState, head: ResponseHead, body: bytes) -> bytes | None:
    """``body`` is the whole answer: what the engine says in it that it has used; and in which words that it failed, None = it
    does not."""
    fine = 200 <= head.status < 300
    if exchange.endpoint.dialect:
        dialect = dialect_of(exchange, head)
        dialect.feed(body)
        _in_dialect(exchange, dialect)
        return dialect.failure if fine and dialect.error else None
    (
        exchange.prompt_tokens, exchange.completion_tokens, exchange.cached_tokens, exchange.reasoning_tokens,
    ) = usage_in(body)  # fmt: skip
    if exchange.prompt_tokens < 0 and exchange.upload is not None:
        heard(exchange, seconds_in(body))
    if not fine or not exchange.endpoint.metered or not names_error(body):
        return None
    scanner = UsageScanner()
    scanner.feed(body)
    if not scanner.error:
        return None
    if scanner.answers:
        _made_before(exchange)
    return scanner.failure()


def _made_before(exchange: ExchangeState) -> None:
    """The engine has failed, and there is something of its answer: that is estimated, where it does not say what it used."""
    if exchange.prompt_tokens < 0 and exchange.completion_tokens < 0:
        exchange.estimated = True


def known_as(exchange: ExchangeState, model: str, names: Mapping[str, object]) -> str:
    """By which of its names ``model`` is one of ``names`` (that have a price, or limits): an engine may have several for one,
    and list one of them (``llama3:latest``, and ``llama3``). The first that is there; the listed one where none is; ``model``
    itself where no engine says more. No name stands for the one model that there is."""
    model = model or _only(exchange)
    if model in names:
        return model
    for pool in _who_may_say(exchange, model):
        same = _names_of(pool.engine, model)
        for name in same:
            if name in names:
                return name
        if same:
            return same[0]
    return model


def _names_of(engine: Engine, model: str) -> tuple[str, ...]:
    """All that the engine has for ``model``, the listed one first; none where it does not say."""
    facts = engine.facts
    found = facts.get(model)
    if found is None:
        for fact in facts.values():
            if model in fact.aliases:
                found = fact
                break
    if found is not None:
        return (found.name, *found.aliases)
    other = engine.kind.also(model)
    return (other, model) if other in engine.configured_models else (model, other) if other else ()


def _only(exchange: ExchangeState) -> str:
    """The one model of the engine that was asked, before that of all; "" = there are several."""
    engine = exchange.call.pool.engine if exchange.call is not None else None
    there = (engine.configured_models or engine.discovered_models) if engine is not None else exchange.gateway.table.models
    return next(iter(there)) if len(there) == 1 else ""


def _who_may_say(exchange: ExchangeState, model: str) -> tuple[Pool, ...]:
    """The engine that was asked; before that a few of those that may be."""
    if exchange.call is not None:
        return (exchange.call.pool,)
    table = exchange.gateway.table
    if table.deployed is None:
        group = table.known(model)
        return group.pools[:_FEW] if group is not None else ()
    from fastgw.upstream.deployments import Asker  # (most gateways have none)

    asker = Asker(exchange.account.flow if exchange.account is not None else "")
    return tuple([pool for _, group in table.deployed.engines(model, asker) for pool in group.pools[:_FEW]])[:_FEW]


def heard(exchange: ExchangeState, seconds: int) -> None:
    """The engine says how long the audio is, and of no tokens: they are estimated."""
    if seconds >= 0:
        exchange.prompt_tokens = seconds * TOKENS_PER_SECOND
        exchange.estimated = True
