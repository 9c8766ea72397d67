"""Places in the queue: a request that waits, from when on, where and for what.

Owns nothing but what is said of one request; the queue puts it somewhere and takes it out. Invariant: it is armed in the wheel
as long as it waits, and what it throws there ends its own exchange alone.
"""

from __future__ import annotations

from typing import Protocol

from fastgw.exchange.exchange import Exchange
from fastgw.exchange.phases import RECEIVING
from fastgw.limits.fairqueue import Waiter
from fastgw.limits.meter import Meter
from fastgw.limits.scope import Scope, Share, give_requests, settle_requests
from fastgw.net.clock import micros, monotonic
from fastgw.net.timers import Timed
from fastgw.policy.lanes import Lane
from fastgw.policy.quota import take_back


class Owner(Protocol):
    """The queue that a place is in."""

    def late(self, place: Place, detail: str) -> None: ...


class Place(Timed):
    """One request's place in the queue, until it is let go, or leaves."""

    __slots__ = ("beside", "exchange", "flow", "lane", "meter", "owner", "parked", "priority", "shares", "size", "waiter")

    def __init__(self, owner: Owner, exchange: Exchange, lane: Lane) -> None:
        super().__init__()
        self.owner = owner
        self.exchange = exchange
        self.lane = lane
        self.size = exchange.held_bytes
        self.flow = ""
        self.meter: Meter | None = None  # of its key's requests, to which this one comes back if it is given up
        self.shares: tuple[Share, ...] = ()  # the same of what stands beside its key
        self.waiter: Waiter | None = None
        self.parked: Scope | None = None  # for which it waits, not in its lane: its key, or one beside it
        self.priority = 0
        self.beside = False  # its lane, which is for more engines than are left for it

    def expired(self, now: float) -> None:
        exchange = self.exchange
        try:
            self.owner.late(self, "")
        except Exception as error:
            # Not into the wheel, which holds everybody's deadlines.
            exchange.gateway.crashed(exchange.client, error)


def given_up(exchange: Exchange) -> float:
    """A request that has not been sent is none: what was taken for it, of requests and of tokens, comes back. Returns after how
    long its key may take as much again."""
    account, region = exchange.account, exchange.gateway.accounts.region
    if account is None or region is None:
        return _given_up(exchange)
    region.enter(account, exchange.shares)
    try:
        return _given_up(exchange)
    finally:
        region.leave()


def _given_up(exchange: Exchange) -> float:
    place: Place | None = exchange.place
    account = exchange.account
    if place is not None:
        meter = place.meter
        place.meter = None
        if place.shares:
            settle_requests(place.shares, micros(monotonic()), micros(exchange.queued_at), 0)
            place.shares = ()
        return take_back(exchange, meter, exchange.queued_at)
    if account is not None and exchange.routed_at > 0.0 and exchange.phase == RECEIVING:
        # (In this same turn of the loop. What was taken before an engine was tried may have decayed.)
        if account.requests is not None:
            account.requests.give(micros(monotonic()), 1)
        give_requests(exchange.shares, micros(monotonic()))
    return take_back(exchange, None, 0.0)
