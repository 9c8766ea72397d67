"""What a request has cost, when it has ended: its tokens are counted, and what it had reserved is given back.

What it did cost is the engine's count; where the engine gave none, the tokens that passed are counted, and marked as an
estimate. An answer that was broken off is charged for what was produced, a request that no engine began to answer for nothing.

Invariant: each request is charged once, whatever became of it, and what it had reserved is given back in the same step; so
a key is never admitted beyond its limit by more than the reservations that were under way.
"""

from __future__ import annotations

from fastgw.accel.tokens import MOST_CHOICES, MOST_TOKENS, estimate
from fastgw.config import Config
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.net.clock import micros, monotonic


class Charge(Filter):
    """See the head of this file."""

    name = "charge"

    @classmethod
    def from_config(cls, config: Config) -> Charge:
        return cls()

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
            exchange.prompt_tokens = facts.prompt_tokens
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
