"""Places in the queue: a request that waits, from when on, where and for what.

Owns nothing but what is said of one request; the queue puts it somewhere and takes it out. Invariant: it is armed in the wheel
as long as it waits, and what it throws there ends its own exchange alone.
"""

from __future__ import annotations

from typing import Protocol

from fastgw.exchange.exchange import Exchange
from fastgw.limits.fairqueue import Waiter
from fastgw.limits.meter import Meter
from fastgw.limits.scope import Scope, Share
from fastgw.net.timers import Timed
from fastgw.policy.lanes import Lane


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
