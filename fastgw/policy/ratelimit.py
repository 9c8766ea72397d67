"""Requests per minute with one key (GCRA), and what is left of them in every answer.

The fields are OpenAI's (``x-ratelimit-limit-requests`` and so on), so that its SDKs and those who read them by hand find
them where they are used to. A head is judged here, and refused where the requests per minute alone decide: no body is read
for that. Taken is nothing yet: that is one decision with the key's tokens, and ``quota``'s, which knows what a request costs.

Invariant: each request that came so far is counted once: by ``quota``, where it was admitted, or at its end, where it was
refused for what it is before that could be asked. Who sends rubbish has sent a request.
"""

from __future__ import annotations

from random import random
from typing import Final

from fastgw.accel.lines import limit_lines
from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.limits.account import Account
from fastgw.net.clock import micros

UNDECIDED: Final = -1.0
"""As the time at which an exchange was routed: its head was judged, and nothing has been taken for it."""

_undecided: Final = UNDECIDED


class RateLimit(Filter):
    """Answers 429 when a key has used up its requests."""

    __slots__ = ()
    name = "ratelimit"
    limits = True

    @classmethod
    def from_config(cls, config: Config) -> RateLimit:
        return cls()

    def on_request(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or exchange.endpoint.local:
            return  # what the gateway answers itself costs no engine anything
        meter = account.requests
        if meter is None:
            if account.joint is not None:
                exchange.routed_at = _undecided
            return
        now_us = micros(exchange.started_at)
        left = meter.left(now_us)
        reset_us = meter.reset_us(now_us)
        if left:
            # (As it will be when this one is taken.)
            left -= 1
            reset_us += meter.period_us // meter.rate
        exchange.extra_head = limit_lines(exchange.extra_head, b"requests", meter.rate, left, reset_us)
        wait_us = meter.wait_us(now_us, 1)
        if wait_us and not (account.reserves and exchange.endpoint.metered):
            exchange.gateway.stats.limited_requests += 1
            raise too_many(account, meter.told_s(now_us, 1, random()))  # noqa: S311 - spreads a crowd, guards nothing
        exchange.routed_at = _undecided

    def on_finish(self, exchange: Exchange, outcome: str) -> None:
        if exchange.routed_at < 0.0:
            account = exchange.account
            assert account is not None
            joint = account.joint
            if account.requests is not None:
                account.requests.charge(micros(exchange.at), 1)
            if joint is not None and joint.requests is not None:
                joint.requests.charge(micros(exchange.at), 1)


def too_many(account: Account, wait_s: float) -> GatewayError:
    """The refusal of a key that has used up its requests."""
    meter = account.requests
    assert meter is not None
    message = f"Too many requests with this key: more than {meter.rate} per minute."
    return GatewayError("rate_limited", message, retry_after_s=wait_s)
