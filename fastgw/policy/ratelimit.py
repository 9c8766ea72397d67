"""Requests per minute with one key (GCRA), and what is left of them in every answer.

The fields are OpenAI's (``x-ratelimit-limit-requests`` and so on), so that its SDKs and those who read them by hand find
them where they are used to. Tokens per minute are ``quota``'s, which knows what a request costs.
"""

from __future__ import annotations

from fastgw.accel.lines import limit_lines
from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.net.clock import micros


class RateLimit(Filter):
    """Answers 429 when a key has used up its requests; ``Retry-After`` is the meter's own word."""

    name = "ratelimit"

    @classmethod
    def from_config(cls, config: Config) -> RateLimit:
        return cls()

    def on_request(self, exchange: Exchange) -> None:
        account = exchange.account
        if account is None or exchange.endpoint.local:
            return  # what the gateway answers itself costs no engine anything
        meter = account.requests
        if meter is None:
            return
        now_us = micros(exchange.started_at)
        taken = meter.take(now_us, 1)
        exchange.extra_head += limit_lines(b"requests", meter.rate, meter.left(now_us), meter.reset_us(now_us))
        if not taken:
            exchange.gateway.stats.limited_requests += 1
            raise GatewayError(
                "rate_limited",
                f"Too many requests with this key: more than {meter.rate} per minute.",
                retry_after_s=meter.wait_us(now_us, 1) / 1e6,
            )
