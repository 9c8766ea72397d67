"""Tokens: per minute and per UTC day with one key, reserved when a request is admitted, settled when it has ended.

A request is expected to cost its prompt (estimated from its bytes) and the most tokens that its answer may have. What it
did cost is the engine's count; where the engine gave none, the tokens that passed are counted, and marked as an estimate.
An answer that was broken off is charged for what was produced, a request that no engine began to answer for nothing.

Invariant: each request is charged once, whatever became of it, and what it had reserved is given back in the same step; so
a key is never admitted beyond its limit by more than the reservations that were under way.
"""

from __future__ import annotations

from time import time
from typing import Final

from fastgw.accel.lines import limit_lines
from fastgw.accel.tokens import estimate
from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import UPLOAD
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import NO_LIMIT
from fastgw.limits.account import Account
from fastgw.limits.ledger import seconds_to_midnight
from fastgw.net.clock import micros, monotonic

# Of one request: no engine counts so far, and sums of it fit a machine's integer; so does the product with its prompts.
MOST_TOKENS: Final = 10**12
MOST_CHOICES: Final = 1024
COMPLETIONS: Final = "/v1/completions"


def expected_cost(exchange: Exchange) -> int:
    """Tokens that a request may take: its prompt's, estimated, and the most that its answers may have; at least 1."""
    facts = exchange.facts
    if facts is None:
        return 1
    answer = 0
    if exchange.endpoint.generates:
        answer = facts.token_limit
        if answer < 0:
            answer = exchange.gateway.default_cost
        answers = min(facts.choices, MOST_CHOICES)
        if exchange.endpoint.label == COMPLETIONS:
            answers *= facts.prompts
        answer = min(min(answer, MOST_TOKENS) * answers, MOST_TOKENS)
    # (A ranking has its texts under other names: all that came is its prompt.)
    return estimate(facts.prompt_bytes or exchange.bytes_in) + answer or 1


class Quota(Filter):
    """See the head of this file."""

    name = "quota"

    @classmethod
    def from_config(cls, config: Config) -> Quota:
        return cls()

    def on_request(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or not account.reserves or not exchange.endpoint.metered:
            return
        # Nobody need send a body to be told this.
        if account.ledger.limit and account.ledger.left(exchange.gateway.today) <= 0:
            raise self._exhausted(exchange, account, 1)
        if account.tokens is not None and exchange.endpoint.mode is UPLOAD and not exchange.is_json():
            # What an upload costs shows at its end only; but whoever owes tokens does not begin another.
            self._take_minute(exchange, account, 1)

    def on_body(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or not account.reserves or not exchange.endpoint.metered:
            return
        cost = expected_cost(exchange)
        meter = account.tokens
        if meter is not None:
            self._take_minute(exchange, account, cost)
        ledger = account.ledger
        if not ledger.limit:
            return
        facts = exchange.facts
        today = exchange.gateway.today
        if account.cut and facts is not None and facts.stream and exchange.endpoint.generates:
            # It may begin with what is left, and is ended where that ends.
            granted = ledger.extend(today, cost)
            prompt = estimate(facts.prompt_bytes or exchange.bytes_in)
            exchange.reserved = granted
            if granted <= prompt:
                raise self._exhausted(exchange, account, cost)
            exchange.allowance = granted - prompt
            if granted == cost and facts.token_limit >= 0:
                # The engine itself ends it there, in its own words; only one that goes on is cut.
                exchange.allowance += 1
        elif ledger.reserve(today, cost):
            exchange.reserved = cost
        else:
            raise self._exhausted(exchange, account, cost)

    def _take_minute(self, exchange: Exchange, account: Account, cost: int) -> None:
        meter = account.tokens
        assert meter is not None
        now_us = micros(exchange.started_at)
        taken = meter.take(now_us, cost)
        exchange.extra_head += limit_lines(b"tokens", meter.rate, meter.left(now_us), meter.reset_us(now_us))
        if taken:
            exchange.reserved_minute = cost
            return
        exchange.gateway.stats.limited_tokens += 1
        wait_us = meter.wait_us(now_us, cost)
        if wait_us < 0:
            raise GatewayError(
                "over_limit", f"The request may need {cost} tokens, and this key may use {meter.burst} in a minute."
            )
        raise GatewayError(
            "rate_limited",
            f"Too many tokens with this key: more than {meter.rate} per minute.",
            retry_after_s=wait_us / 1e6,
        )

    @staticmethod
    def _exhausted(exchange: Exchange, account: Account, cost: int) -> GatewayError:
        exchange.gateway.stats.quota_refused += 1
        ledger = account.ledger
        left = ledger.left(exchange.gateway.today)
        message = None
        if left > 0:
            message = f"The request may need {cost} tokens, and of the key's {ledger.limit} for today {left} are left."
        return GatewayError("quota_exhausted", message, retry_after_s=max(1.0, seconds_to_midnight(time())))

    def on_allowance(self, exchange: Exchange) -> bool:
        """A stream has used what it was given: as much again as an answer is expected to take, if there is any."""
        account = exchange.account
        if account is None:
            exchange.allowance = NO_LIMIT
            return True
        relay = exchange.relay
        passed = relay.sse.tokens if relay is not None and relay.sse is not None else 0
        # (One read may have brought far more than was allowed.)
        more = max(0, passed - exchange.allowance) + exchange.gateway.default_cost
        more = account.ledger.extend(exchange.gateway.today, more)
        exchange.reserved += more
        exchange.allowance += more
        return exchange.allowance > passed

    def on_finish(self, exchange: Exchange, outcome: str) -> None:
        account = exchange.account
        if account is None or not exchange.endpoint.metered:
            return
        gateway = exchange.gateway
        if not exchange.sent_at:
            # No engine has seen it.
            if exchange.reserved:
                account.ledger.release(exchange.reserved)
            if exchange.reserved_minute and account.tokens is not None:
                account.tokens.give(micros(monotonic()), exchange.reserved_minute)
            return
        prompt = exchange.prompt_tokens
        completion = exchange.completion_tokens
        if prompt < 0 or completion < 0:
            self._estimate(exchange)
            prompt = exchange.prompt_tokens
            completion = exchange.completion_tokens
            if prompt < 0:
                prompt = 0
            if completion < 0:
                completion = 0
        # An engine's word is taken up to here: sums of what it claims must not turn over in the compiled twin.
        if prompt > MOST_TOKENS:
            prompt = MOST_TOKENS
        if completion > MOST_TOKENS:
            completion = MOST_TOKENS
        stats = gateway.stats
        stats.tokens_prompted += prompt
        stats.tokens_generated += completion
        if exchange.estimated:
            stats.tokens_estimated += prompt + completion
        ledger = account.ledger
        if not ledger.dirty:
            gateway.accounts.touched.append(account)
        ledger.settle(gateway.today, exchange.reserved, prompt, completion, exchange.estimated)
        meter = account.tokens
        if meter is not None:
            reserved = exchange.reserved_minute
            used = prompt + completion
            if used > reserved:
                meter.charge(micros(monotonic()), used - reserved)
            elif used < reserved:
                meter.give(micros(monotonic()), reserved - used)

    @staticmethod
    def _estimate(exchange: Exchange) -> None:
        """The engine did not say what it used, or not all of it."""
        response = exchange.response
        if response is None or not 200 <= response.status < 300:
            return
        relay = exchange.relay
        generates = exchange.endpoint.generates
        facts = exchange.facts
        if exchange.prompt_tokens < 0 and facts is not None:
            exchange.prompt_tokens = estimate(facts.prompt_bytes or exchange.bytes_in)
            exchange.estimated = True
        if exchange.completion_tokens < 0 and generates:
            if relay is not None and relay.sse is not None:
                exchange.completion_tokens = relay.sse.tokens
            else:
                # Nobody counted in it: its size says as much as a prompt's does, but no more than was asked for.
                size = response.content_length if response.content_length >= 0 else exchange.bytes_out
                produced = estimate(size)
                if facts is not None and facts.token_limit >= 0:
                    produced = min(produced, facts.token_limit * min(facts.choices, MOST_CHOICES))
                exchange.completion_tokens = produced
            exchange.estimated = True
