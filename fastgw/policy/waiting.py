"""All who wait for room: in which queue each does, how many there are, and how much memory their bodies take.

    waiting for its key     one fair queue per key, while the key has as many requests under way as it may; and likewise
                            per tenant, fair between its keys, and per model of a key, where these have a limit
    waiting in its lane     one fair queue per lane: by class, then fair between tenants by tokens (``limits.fairqueue``)
    waiting beside it       the same, one fair queue for those for whom the same of its engines are left: who needs what not
                            all have, or has been at an engine

Owns who waits where, and the counts of them. Decides nothing: who may go and who is refused is the queue's. Invariants: whoever
waits is in the counts, in its tenant's crowd and in the wheel, and has its ``place``; a lane or a key with nobody is not in the
lists.
"""

from __future__ import annotations

from typing import Final

from fastgw.config import Config
from fastgw.config.names import PRIORITIES
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.phases import QUEUES, RECEIVING
from fastgw.limits.account import Account
from fastgw.limits.crowd import Crowd
from fastgw.limits.fairqueue import FairQueue
from fastgw.limits.purse import TENANT
from fastgw.limits.scope import Scope, hold_requests, holder, settle_requests
from fastgw.net.clock import micros, monotonic
from fastgw.policy.lanes import Lane
from fastgw.policy.places import Place
from fastgw.policy.quota import expected_cost

QUANTUM: Final = 512  # tokens of one tenant's turn: about what a short chat takes
INTERVAL_S: Final = 5.0  # waits are looked at over so long before a queue counts as overloaded


class Waiting:
    """See the head of this file."""

    __slots__ = (
        "_adaptive", "_target_s", "_timeout_s", "by_class", "count", "crowd", "lanes", "parked", "ready", "size_bytes",
    )  # fmt: skip

    def __init__(self, config: Config) -> None:
        self.set(config)
        self.count = 0
        self.size_bytes = 0
        self.by_class = [0] * len(PRIORITIES)
        self.crowd = Crowd()
        self.lanes: dict[Lane, None] = {}  # those with somebody waiting
        self.parked: dict[Scope, None] = {}  # keys, and what stands beside them, with somebody waiting for them
        self.ready: dict[Scope, None] = {}  # those of them with room again

    def set(self, config: Config) -> None:
        """What the settings say: for waits that begin from now on, each lane's order from when nobody waits there."""
        self._adaptive = config.queue_order == "adaptive"
        self._target_s = config.queue_target_s
        self._timeout_s = config.queue_timeout_s

    # --- in
    def take(self, exchange: Exchange, account: Account) -> Scope | None:
        """Take a place in each of its scopes, as far as there is room; returns the first that has none. (Where somebody waits
        for one, that has just come free for him.)"""
        shares = exchange.shares
        scope = holder(account, shares, exchange.counted) if shares or exchange.counted else account
        region = exchange.gateway.accounts.region
        while scope is not None:
            if region is not None:
                region.bring((scope,))
            if scope.concurrency and (
                scope.inflight >= scope.concurrency or (scope.parked is not None and len(scope.parked))
            ):
                return scope
            scope.inflight += 1
            exchange.counted += 1
            scope = holder(account, shares, exchange.counted) if shares else None
        return None

    def give_back(self, exchange: Exchange, account: Account) -> None:
        """The places that it has in them are others'."""
        shares = exchange.shares
        while exchange.counted:
            exchange.counted -= 1
            scope = holder(account, shares, exchange.counted) if shares else account
            assert scope is not None
            scope.inflight -= 1
            if scope.parked is not None and len(scope.parked):
                self.ready[scope] = None

    def park(self, place: Place, account: Account, scope: Scope) -> None:
        """Until that has room."""
        now = monotonic()
        self._park(place, account, scope, now)
        self._begin(place, account, now)

    def _park(self, place: Place, account: Account, scope: Scope, now: float) -> None:
        queue: FairQueue | None = scope.parked
        if queue is None or self._outdated(queue):
            queue = scope.parked = self._new_queue()
        self.parked[scope] = None
        place.parked = scope
        flow = account.id if scope.kind == TENANT else account.flow
        place.waiter = queue.put(place, account.priority, flow, expected_cost(place.exchange), now)

    def in_lane(self, place: Place, account: Account) -> None:
        """Until its lane has room."""
        now = monotonic()
        self._line_up(place, account, now)
        self._begin(place, account, now)

    def _line_up(self, place: Place, account: Account, now: float) -> None:
        place.parked = None
        cost = expected_cost(place.exchange)
        place.waiter = self._queue_of(place.lane).put(place, account.priority, account.flow, cost, now)

    def unpark(self, scope: Scope, now: float) -> None:
        """It has room: the next of those who wait for it go on, to wait for a wider one, or in their lanes."""
        del self.ready[scope]
        if scope.record is None:
            self._unpark(scope, now)
            return
        with scope.record.region.inside(scope):
            self._unpark(scope, now)

    def has_room(self, scope: Scope) -> bool:
        """Whether whoever waits for it may go on."""
        if scope.record is not None:
            with scope.record.region.inside(scope):
                return scope.room()
        return scope.room()

    def _unpark(self, scope: Scope, now: float) -> None:
        queue: FairQueue | None = scope.parked
        while queue is not None and len(queue) and scope.room():
            place: Place = queue.pop(now)  # type: ignore[assignment]
            exchange = place.exchange
            account = exchange.account
            assert account is not None
            scope.inflight += 1
            exchange.counted += 1
            full = self.take(exchange, account)
            if full is not None:
                self._park(place, account, full, now)
            elif exchange.endpoint.light:
                place.waiter = None
                self.leave(place)
                exchange.resume()  # (no lane is for what takes no place at an engine)
            else:
                self._line_up(place, account, now)
        if queue is None or not len(queue):
            self.parked.pop(scope, None)

    def move(self, place: Place, lane: Lane) -> None:
        """Out of its lane and into another, as if it had come there first; it has waited as long as it has."""
        left = place.lane
        place.lane = lane
        if place.parked is not None:
            return
        waiter = place.waiter
        assert waiter is not None
        assert left.queue is not None
        left.queue.remove(waiter)
        if not len(left.queue):
            self._emptied(left)
        place.waiter = self._queue_of(lane).put(place, waiter.priority, waiter.flow, waiter.cost, waiter.at)

    @staticmethod
    def _settle(place: Place) -> None:
        """The request that it has taken does not come back."""
        since_us = micros(place.exchange.queued_at)
        if place.meter is not None:
            place.meter.settle(micros(monotonic()), since_us, 1, 1)
            place.meter = None
        if place.shares:
            settle_requests(place.shares, micros(monotonic()), since_us, 1)
            place.shares = ()

    def _new_queue(self) -> FairQueue:
        return FairQueue(quantum=QUANTUM, adaptive=self._adaptive, target_s=self._target_s, interval_s=INTERVAL_S)

    def _outdated(self, queue: FairQueue) -> bool:
        """Whether it has other rules than hold now, and nobody waits by them any more."""
        return not len(queue) and not queue.goes_by(self._adaptive, self._target_s)

    def _queue_of(self, lane: Lane) -> FairQueue:
        """The lane's queue, for somebody who is to wait there."""
        queue = lane.queue
        if queue is None or self._outdated(queue):
            queue = lane.queue = self._new_queue()
        self.lanes[lane] = None
        return queue

    def _begin(self, place: Place, account: Account, now: float) -> None:
        exchange = place.exchange
        place.priority = account.priority
        place.flow = account.flow
        self.crowd.add(place.flow, place)
        self.by_class[place.priority] += 1
        self.count += 1
        self.size_bytes += place.size
        exchange.gateway.stats.queue_waiting_open += 1
        fresh = exchange.phase == RECEIVING  # what was taken was taken in this same turn of the loop
        exchange.place = place
        exchange.move(QUEUES)
        exchange.queued_at = now
        if account.requests is not None and fresh:
            place.meter = account.requests
            account.requests.hold()
        if exchange.shares and fresh:
            place.shares = exchange.shares
            hold_requests(place.shares)
        exchange.gateway.reactor.wheel.arm(place, now + self._timeout_s)
        if exchange.upload is not None:
            exchange.client.mind_leaving(True)  # it is held back meanwhile, and would not be seen to leave

    # --- out
    def take_first(self, lane: Lane, now: float) -> Place:
        """The next one of a lane where somebody waits, out of its queue: ``leave`` follows."""
        queue = lane.queue
        assert queue is not None
        place: Place = queue.pop(now)  # type: ignore[assignment]
        place.waiter = None
        if not len(queue):
            self._emptied(lane)
        return place

    def _emptied(self, lane: Lane) -> None:
        self.lanes.pop(lane, None)
        lane.emptied()

    def leave(self, place: Place) -> None:
        """Out of whatever it waits in."""
        exchange = place.exchange
        exchange.place = None
        exchange.gateway.reactor.wheel.disarm(place)
        if place.meter is not None or place.shares:
            account = exchange.account
            assert account is not None
            with exchange.gateway.accounts.inside(account, *[share.scope for share in place.shares]):
                self._settle(place)
        if exchange.upload is not None:
            exchange.client.mind_leaving(False)
        self.count -= 1
        self.size_bytes -= place.size
        self.by_class[place.priority] -= 1
        self.crowd.remove(place.flow, place)
        exchange.gateway.stats.queue_waiting_open -= 1
        scope = place.parked
        queue = scope.parked if scope is not None else place.lane.queue
        waiter = place.waiter
        if queue is None or waiter is None:
            return
        place.waiter = None  # each knows the other: nobody but the collector would part them
        queue.remove(waiter)
        if len(queue):
            return
        if scope is not None:
            self.parked.pop(scope, None)
        else:
            self._emptied(place.lane)
