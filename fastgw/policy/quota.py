"""Tokens per minute and per UTC day with one key: reserved when a request is admitted; ``charge`` settles them.

A request is expected to cost its prompt (estimated from its bytes) and the most tokens that its answers may have. How many
those are is the client's to say; where it says nothing, ``default_max_tokens``, or what is left. ``rewrite`` tells the engine.
Invariant: prompt and answers of what is told are no more than what was reserved, but for a stream under ``cut``, which is
given more as it goes on, and ended where there is none.
"""

from __future__ import annotations

from time import time
from typing import Final

from fastgw.accel.lines import limit_lines
from fastgw.accel.tokens import MOST_CHOICES, MOST_TOKENS
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


def answers_of(exchange: Exchange) -> int:
    """How many answers a request may be given."""
    facts = exchange.facts
    if facts is None:
        return 1
    answers = min(facts.answers, MOST_CHOICES)
    return answers * facts.prompts if exchange.endpoint.label == COMPLETIONS else answers


def total(prompt: int, answer: int, answers: int) -> int:
    """Tokens of a prompt and so many answers; more than any quota counts as much as another."""
    if answer > MOST_TOKENS // answers:
        return MOST_TOKENS
    return min(prompt + answer * answers, MOST_TOKENS)


def expected_cost(exchange: Exchange) -> int:
    """Tokens that a request is expected to take: its prompt's, estimated, and those of its answers; at least 1."""
    facts = exchange.facts
    if facts is None:
        return 1
    if not exchange.endpoint.generates:
        return facts.prompt_tokens or 1
    answer = facts.token_limit
    if answer < 0:
        answer = exchange.gateway.default_cost
    return total(facts.prompt_tokens, answer, answers_of(exchange)) or 1


class Quota(Filter):
    """See the head of this file."""

    name = "quota"

    @classmethod
    def from_config(cls, config: Config) -> Quota:
        return cls()

    def on_request(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or not account.reserves or exchange.endpoint.local:
            return
        # Nobody need send a body to be told this; and whatever an engine would do stops here, counted or not.
        if account.ledger.limit and account.ledger.left(exchange.gateway.today) <= 0:
            raise self._exhausted(exchange, account, 1)
        if not exchange.endpoint.metered:
            self._check_debt(exchange, account)
        elif account.tokens is not None and exchange.endpoint.mode is UPLOAD and not exchange.is_json():
            # What an upload costs shows at its end only; but whoever owes tokens does not begin another.
            self._take_minute(exchange, account, 1)

    def on_body(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or not account.reserves or not exchange.endpoint.metered:
            return
        facts = exchange.facts
        ledger = account.ledger
        if facts is None or not exchange.endpoint.generates:
            cost = expected_cost(exchange)
            if account.tokens is not None:
                self._take_minute(exchange, account, cost)
            if ledger.limit:
                if not ledger.reserve(exchange.gateway.today, cost):
                    raise self._exhausted(exchange, account, cost)
                exchange.reserved = cost
            return
        gateway = exchange.gateway
        today = gateway.today
        prompt = facts.prompt_tokens
        answers = answers_of(exchange)
        named = facts.token_limit
        if named == 0:
            named = 1  # there are engines to which 0 is no limit
        bound = gateway.default_max if named < 0 else named
        least = min(bound, gateway.default_cost) if named < 0 else bound
        cut = account.cut and facts.stream and ledger.limit > 0
        if ledger.limit and (named < 0 or cut):
            # No more than the day has left for each of them.
            room = (ledger.left(today) - prompt) // answers
            if room < bound:
                if room < 1:
                    raise self._exhausted(exchange, account, total(prompt, least, answers))
                bound = room
        meter = account.tokens
        if meter is not None:
            if named < 0:
                # As much as the minute has left, but not less than a request of this kind is expected to take.
                room = (meter.left(micros(exchange.started_at)) - prompt) // answers
                bound = min(bound, max(room, least))
            self._take_minute(exchange, account, total(prompt, bound, answers))
        exchange.bound = min(bound, MOST_TOKENS)
        if not ledger.limit:
            return
        if cut:
            # It may begin with what is left, and is ended where that ends.
            cost = total(prompt, least, answers)
            granted = ledger.extend(today, cost)
            exchange.reserved = granted
            if granted <= prompt:
                raise self._exhausted(exchange, account, cost)
            exchange.allowance = granted - prompt
            if granted == cost and named > 0:
                # The engine itself ends it there, in its own words; only one that goes on is cut.
                exchange.allowance += 1
        else:
            cost = total(prompt, bound, answers)
            if not ledger.reserve(today, cost):
                raise self._exhausted(exchange, account, cost)
            exchange.reserved = cost

    @staticmethod
    def _check_debt(exchange: Exchange, account: Account) -> None:
        """Raises where the key owes tokens of the minute. (What is not counted takes none: nothing would give them back.)"""
        meter = account.tokens
        if meter is None:
            return
        wait_us = meter.wait_us(micros(exchange.started_at), 1)
        if wait_us > 0:
            exchange.gateway.stats.limited_tokens += 1
            raise GatewayError(
                "rate_limited",
                f"Too many tokens with this key: more than {meter.rate} per minute.",
                retry_after_s=wait_us / 1e6,
            )

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
