"""What a request has cost, when it has ended: its tokens are counted, and what it had reserved is given back.

What it did cost is the engine's count; where the engine gave none, or not all of it, an estimate, and it is marked so: the
prompt by its bytes, the answer by the tokens that passed, or by the bytes of the engine's own body. An answer that was broken
off is charged for what was produced, one that a client did not wait for its prompt, and a request that no engine began to
answer nothing. docs/limits.md has a table of all endings, and tests/e2e/test_endings.py a test for each.

Where its engine is let finish (``cancel = false``), it has cost what that makes in all: it is charged when that is known, and
the record, which is written at once, says what was known then.

Invariant: each request is charged once, whatever became of it, and what it had reserved is given back in the same step; so
a key is never admitted beyond its limit by more than the reservations that were under way.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.heads import ResponseHead
from fastgw.accel.tokens import MOST_CHOICES, MOST_TOKENS, estimate
from fastgw.config import Config
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context
from fastgw.exchange.endpoints import COMPLETIONS, MESSAGES
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.figures import answers_of, coded, known_as
from fastgw.exchange.filter import Filter
from fastgw.exchange.relay import Relay
from fastgw.exchange.remainder import Remainder
from fastgw.exchange.state import NO_LIMIT, model_of
from fastgw.limits.account import Account
from fastgw.limits.purse import Purse
from fastgw.limits.spending import Use
from fastgw.net.clock import micros, monotonic
from fastgw.policy.scopes import settle_shares

FRAME_BYTES: Final = 200
"""Of a plain answer in JSON these are its id, its model, names and braces: no text that anybody has generated."""


class Charge(Filter):
    """See the head of this file."""

    __slots__ = ()
    name = "charge"
    limits = True

    @classmethod
    def from_config(cls, config: Config) -> Charge:
        return cls()

    def on_finish(self, exchange: Exchange, outcome: str) -> None:
        account = exchange.account
        if not exchange.endpoint.metered:
            if exchange.session is None or exchange.status != 101:
                # What is not counted is not told either: all books say the same. (A session is counted as it goes on.)
                exchange.prompt_tokens = exchange.completion_tokens = exchange.cached_tokens = exchange.reasoning_tokens = -1
                exchange.estimated = False
            return
        if account is None:
            return
        if not exchange.sent_at:
            # No engine has seen it.
            if exchange.reserved:
                account.ledger.release(exchange.reserved)
            if exchange.money is not None:
                exchange.money.release()
            if exchange.minute is not None:
                exchange.minute.settle(micros(exchange.at), micros(exchange.routed_at), exchange.reserved_minute, 0)
            for share in exchange.shares:
                share.release(micros(exchange.at), micros(exchange.routed_at))
            return
        call = exchange.call
        head = call.head if call is not None else None
        remainder = call.remainder if call is not None else None
        # What costs nothing, as an engine's silence or its refusal, costs nothing either when the engine has ended. Why nobody
        # waits says so: what it costs may not be known yet.
        goes_on = exchange.estimated if head is None else 200 <= head.status < 300
        self._count(exchange, head, outcome)
        if remainder is not None and call is not None:
            if not remainder.over and goes_on:
                remainder.then = self._rest_known
                return
            call.remainder = None
            if remainder.over:
                self._count_rest(exchange, call, remainder)
        self._settle(exchange, account, exchange.at)

    def _rest_known(self, remainder: Remainder) -> None:
        """The engine has ended an answer that nobody waited for."""
        exchange: Exchange = remainder.exchange  # type: ignore[assignment]
        account, call = exchange.account, exchange.call
        assert account is not None
        assert call is not None
        call.remainder = None
        self._count_rest(exchange, call, remainder)
        self._settle(exchange, account, monotonic())
        exchange.gateway.tally.used(exchange)

    def _count_rest(self, exchange: Exchange, call: Call, remainder: Remainder) -> None:
        """What it has used in all. (Where its engine has not begun an answer, what was known stands.)"""
        if remainder.refused:
            self._unanswered(exchange, False)
        elif remainder.head is not None:
            self._count(exchange, remainder.head, remainder.tell(call))

    def _count(self, exchange: Exchange, response: ResponseHead | None, outcome: str) -> None:
        """What it has used, of an answer with this head."""
        if response is None or not 200 <= response.status < 300 or _only_error(exchange, response, outcome):
            self._unanswered(exchange, response is None)
            return
        own = exchange.endpoint.dialect  # (which says itself where there was to be none)
        if not exchange.prompt_tokens and exchange.endpoint.generates and exchange.facts is not None and not own:
            exchange.prompt_tokens = -1  # there is no answer to nothing: this is no figure,
            if not exchange.completion_tokens:
                exchange.completion_tokens = -1  # nor is one beside it that says as little
        self._of_all(exchange)
        if exchange.prompt_tokens < 0 or exchange.completion_tokens < 0:
            self._estimate(exchange, response)
        _bound(exchange)

    def _settle(self, exchange: Exchange, account: Account, now: float) -> None:
        settle(
            exchange,
            account,
            now,
            exchange.prompt_tokens,
            exchange.completion_tokens,
            exchange.cached_tokens,
            exchange.reasoning_tokens,
            exchange.estimated,
        )

    @staticmethod
    def _unanswered(exchange: Exchange, silent: bool) -> None:
        """No engine began to answer with a 2xx: whatever else it said is no count of anything."""
        exchange.prompt_tokens = exchange.completion_tokens = exchange.cached_tokens = exchange.reasoning_tokens = -1
        if silent and exchange.estimated and exchange.facts is not None:
            # One was at work on it when its client left: what it had read until then is the prompt.
            exchange.prompt_tokens = prompt_of(exchange)
        else:
            exchange.estimated = False

    def _of_all(self, exchange: Exchange) -> None:
        """Of several answers or prompts an engine may have told the figures of one: some kinds do, others until the end."""
        facts = exchange.facts
        call = exchange.call
        label = exchange.endpoint.label
        if facts is None or (facts.choices <= 1 and facts.prompts <= 1) or call is None or label == MESSAGES:
            return
        relay = relay_of(exchange)
        sse = relay.sse if relay is not None else None
        prompts = facts.prompts if label == COMPLETIONS else 1
        if not call.pool.engine.kind.counts_one_answer:
            if prompts > 1 and exchange.prompt_tokens >= 0 and sse is not None and sse.of_choices:
                exchange.prompt_tokens = max(exchange.prompt_tokens, facts.prompt_tokens)
                exchange.estimated = True
            return
        if exchange.completion_tokens > 0 and not exchange.estimated:
            passed = sse.tokens if sse is not None else 0
            answers = 1 if passed else min(facts.choices, MOST_CHOICES) * prompts
            exchange.completion_tokens = max(passed, min(exchange.completion_tokens, MOST_TOKENS // answers) * answers)
            exchange.estimated = True
        if exchange.prompt_tokens > 0 and prompts > 1:
            exchange.prompt_tokens = min(exchange.prompt_tokens, MOST_TOKENS // prompts) * prompts
            exchange.estimated = True

    @staticmethod
    def _estimate(exchange: Exchange, response: ResponseHead) -> None:
        """The engine did not say what it used, or not all of it."""
        relay = relay_of(exchange)
        if exchange.prompt_tokens < 0 and exchange.facts is not None:
            exchange.prompt_tokens = prompt_of(exchange)
            exchange.estimated = True
        if exchange.completion_tokens < 0 and exchange.endpoint.generates:
            if relay is not None and relay.sse is not None:
                # (Of an engine's own events its own reader knows all there were: SGLang's have all of the text in each.)
                exchange.completion_tokens = relay.sse.tokens if relay.dialect is None else 0
            else:
                exchange.completion_tokens = produced(exchange, response)
            exchange.estimated = True


def settle(
    exchange: Exchange, account: Account, now: float, prompt: int, completion: int, cached: int, reasoning: int, estimated: bool
) -> None:
    """Count what ``exchange`` has used until ``now`` (-1 = nobody said; no more than ``MOST_TOKENS``, and ``cached`` and
    ``reasoning`` no more than they are parts of), and give back what it had reserved: in the key's day, in its minute, in what
    stands beside it, and in the sums of all."""
    region = exchange.gateway.accounts.region
    if region is None:
        _settled(exchange, account, now, prompt, completion, cached, reasoning, estimated)
        return
    region.enter(account, exchange.shares)
    try:
        _settled(exchange, account, now, prompt, completion, cached, reasoning, estimated)
    finally:
        region.leave()


def _settled(
    exchange: Exchange, account: Account, now: float, prompt: int, completion: int, cached: int, reasoning: int, estimated: bool
) -> None:
    gateway = exchange.gateway
    if prompt < 0:
        prompt = 0
    if completion < 0:
        completion = 0
    stats = gateway.stats
    stats.tokens_prompted += prompt
    stats.tokens_generated += completion
    if cached > 0:
        stats.tokens_cached += cached
    if reasoning > 0:
        stats.tokens_reasoning += reasoning
    if estimated:
        stats.tokens_estimated += prompt + completion
    ledger = account.ledger
    if not ledger.dirty:
        gateway.accounts.touched.append(account)
    ledger.settle(gateway.today, exchange.reserved, prompt, completion, estimated, cached, reasoning)
    hold = exchange.money
    if hold is not None:
        hold.release()
    books = gateway.accounts.books
    if account.scoped or exchange.shares:
        settle_shares(exchange, account, micros(now), prompt + completion)
    if books.kept or books.prices or account.pays:
        model = exchange.substitute or model_of(exchange)
        if books.prices or model not in gateway.table.models:
            model = known_as(exchange, model, books.prices)
        cost = books.cost(model, prompt, completion, cached)
        if books.kept:
            _use_of(gateway, account, model).count(cost, prompt, completion, cached, reasoning, estimated)
        if cost > 0:
            _spend(gateway, account.purse, cost)
            _spend(gateway, account.shared, cost)
            gateway.tally.spent(exchange, cost)
    meter = account.tokens
    if meter is not None:
        now_us = micros(now)
        if meter is exchange.minute:
            meter.settle(now_us, micros(exchange.routed_at), exchange.reserved_minute, prompt + completion)
        else:
            # (Its limit is newer than the request, or nothing was reserved.)
            meter.charge(now_us, prompt + completion)


def _spend(gateway: Context, purse: Purse | None, cost: int) -> None:
    if purse is not None and purse.charge(gateway.today, cost):
        gateway.accounts.cross(purse)


def _use_of(gateway: Context, account: Account, model: str) -> Use:
    """Where what ``account`` uses of ``model`` today is counted, until the store has it."""
    use = account.use
    if use is None or use.day != gateway.today or use.model != model:
        # (What engines do not say that they have is a name of the client's own: he could make up a million of them.)
        accounts = gateway.accounts
        named = model in gateway.table.models or model in accounts.books.prices or model in accounts.scopes.models
        known = model if named else ""
        use = account.use = gateway.accounts.books.use(account.id, account.tenant, known, gateway.today)
    return use


def _bound(exchange: Exchange) -> None:
    """An engine's word is taken up to here, and for all books alike: sums of what it claims must not turn over in the
    compiled twin, and what was at hand, or reasoned, is a part of the rest."""
    prompt = exchange.prompt_tokens
    if prompt > MOST_TOKENS:
        prompt = exchange.prompt_tokens = MOST_TOKENS
    completion = exchange.completion_tokens
    if completion > MOST_TOKENS:
        completion = exchange.completion_tokens = MOST_TOKENS
    if exchange.cached_tokens > prompt:
        exchange.cached_tokens = prompt
    if exchange.reasoning_tokens > completion:
        exchange.reasoning_tokens = completion


def _only_error(exchange: Exchange, response: ResponseHead, outcome: str) -> bool:
    """Whether an engine that says that it failed says nothing else: an error in the place of a plain answer. (What it had made
    before that is to be estimated.)"""
    unsaid = exchange.prompt_tokens < 0 and exchange.completion_tokens < 0
    return unsaid and response.json and outcome == "engine_error" and not exchange.estimated


def relay_of(exchange: Exchange) -> Relay | None:
    """What passed the answer's body on, where it came in pieces."""
    return exchange.call.relay if exchange.call is not None else None


def prompt_of(exchange: Exchange) -> int:
    """A prompt's tokens, before anyone has counted them."""
    facts = exchange.facts
    return facts.prompt_tokens if facts is not None else 0


def produced(exchange: Exchange, response: ResponseHead) -> int:
    """An answer's tokens, where nobody counted in it: its size says as much as a prompt's does, but no more than was asked for.

    Only what came of the engine's own body counts: no head, and no answer that the gateway gave in its place.
    """
    relay = relay_of(exchange)
    if relay is not None:
        size = relay.body_bytes
    elif exchange.token_at and response.status != 204:
        size = max(0, response.content_length)  # it was whole in one read
    else:
        size = 0
    # (Packed, a token of text takes about a byte, and the frame next to nothing.)
    packed = not response.sse and coded(response)
    if response.json and not packed:
        size -= FRAME_BYTES
    tokens = max(0, size) if packed else estimate(size)
    facts = exchange.facts
    if facts is None:
        return tokens
    most = exchange.bound if exchange.bound != NO_LIMIT else facts.token_limit
    if most < 0:
        return tokens
    return min(tokens, min(most, MOST_TOKENS) * answers_of(exchange))
