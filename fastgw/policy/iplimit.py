"""Requests per second from one address, before anything else is looked at: a flood of bad keys is a flood too.

GCRA per address (IPv6: per /64, which is what one subscriber has). A connection keeps its address's meter at hand, so that
the usual request pays no look-up. Probes of health are free: an answer costs no more than a refusal, and a restart by an
orchestrator that was refused would help nobody. So is a Unix socket, whose clients have no address.
"""

from __future__ import annotations

from random import random
from typing import Final

from fastgw.config import Config
from fastgw.errors import GatewayError
from fastgw.exchange.context import Judgement
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import Filter
from fastgw.limits.meter import Meters, address_key
from fastgw.net.clock import micros, monotonic

SECOND_US: Final = 1_000_000
MAX_ADDRESSES: Final = 1_000_000  # held at once; strangers beyond that share one meter


class IpLimit(Filter):
    """See the head of this file. ``meters`` is looked after by the gateway's housekeeping."""

    __slots__ = ("meters",)
    name = "iplimit"

    def __init__(self, rate: int, burst: int) -> None:
        self.meters = Meters(rate, SECOND_US, burst, MAX_ADDRESSES)

    @classmethod
    def from_config(cls, config: Config) -> IpLimit | None:
        rate = config.rate_limit_per_second
        return cls(rate, config.rate_limit_burst or rate) if rate else None

    def after(self, before: Filter, config: Config) -> Filter:
        if not isinstance(before, IpLimit):
            return self
        before.meters.change(self.meters.rate, self.meters.burst, micros(monotonic()))
        return before

    def on_arrival(self, exchange: Exchange) -> None:
        if not exchange.endpoint.auth:
            return
        now_us = micros(exchange.at)
        meter = exchange.meter
        if meter is None or not meter.held:
            if exchange.client_ip == "unix":
                return
            meter = exchange.meter = self.meters.get(address_key(exchange.client_ip), now_us)
            known: Judgement | None = exchange.client.known
            if known is not None and known.head is exchange.head:
                known.meter = meter
        region = exchange.gateway.accounts.region
        if region is None:
            taken = meter.take(now_us, 1)
        else:
            if meter.record is None:
                meter.record = region.address("" if self.meters.crowd(meter) else address_key(exchange.client_ip))
            taken = region.take(meter, now_us)
        if not taken:
            exchange.gateway.stats.limited_ip += 1
            raise GatewayError(
                "rate_limited",
                f"Too many requests from this address: more than {meter.rate} per second.",
                retry_after_s=meter.told_s(now_us, 1, random()),  # noqa: S311 - spreads a crowd, guards nothing
            )

    def on_turn(self, exchange: Exchange) -> None:
        self.on_arrival(exchange)
