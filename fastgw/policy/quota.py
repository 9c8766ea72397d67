"""Tokens per minute and per UTC day with one key: reserved when a request is admitted; ``charge`` settles them.

A request is expected to cost its prompt (estimated from its bytes) and the most tokens that its answer may have.
"""

from __future__ import annotations

from time import time
from typing import Final

from fastgw.accel.lines import limit_lines
from fastgw.accel.tokens import MOST_CHOICES, MOST_TOKENS, estimate
from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.endpoints import UPLOAD
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.exchange.state import NO_LIMIT
from fastgw.limits.account import Account
from fastgw.limits.ledger import seconds_to_midnight
from fastgw.net.clock import micros

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
