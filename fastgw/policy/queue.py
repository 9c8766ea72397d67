"""Room at the engines: who may go now, who waits, in which order, and who is told to come back later.

A request needs three kinds of room: its key's (``concurrency``; and its tenant's, and its key's for its model), its lane's
(all requests for one model, where a route sets a limit, else all that the same engines serve) and all engines' together
(``max_concurrent``); and an engine of its lane must have a free place. Where it does not find it, ``on_capacity`` decides. A
stream holds its places until its last byte. How those wait who do is told in ``waiting``.

Nothing here polls: a place that comes free, an engine that recovers or gets more places ends in ``on_room``, and the queue
is looked through once, in the same turn of the loop, after what runs now has returned.

Invariant: a place is taken and given back by the counters of ``Lane``, ``Scope`` and this filter alone, each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import random
from typing import Final

from fastgw.config import Config, RouteConfig
from fastgw.errors import GatewayError, Source
from fastgw.exchange.asking import hear
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter import WAITS, Filter
from fastgw.exchange.phases import DONE
from fastgw.exchange.state import model_of
from fastgw.limits.account import Account
from fastgw.limits.drain import DrainRate
from fastgw.limits.fairqueue import FairQueue
from fastgw.limits.scope import WHOSE, Scope
from fastgw.net.clock import monotonic
from fastgw.policy.lanes import Lane, Terms, fit, makes_room
from fastgw.policy.places import Place, given_up
from fastgw.policy.route import granted, group_for, regroup
from fastgw.policy.waiting import Waiting
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable

GIVE_WAY: Final = 8  # requests that may give way to one; a large body would drive out a hundred small ones
BATCH: Final = 64  # let go in one turn of the loop; the rest in the next

REJECT: Final = "reject"
FALLBACK: Final = "fallback"


def _terms_of(route: RouteConfig, config: Config) -> Terms:
    """What a route says of its model."""
    on_capacity = route.on_capacity or config.on_capacity
    fallback = tuple(route.fallback) if on_capacity == FALLBACK else ()
    return Terms(route.max_concurrent, on_capacity == REJECT, fallback, route.timeout_s)


class Queue(Filter):
    """See the head of this file."""

    __slots__ = (
        "_all", "_bounded", "_drain", "_inflight", "_max_concurrent", "_queue_bytes", "_queue_size", "_rejects", "_routes",
        "_scheduled", "_timeout_s", "_turn",
    )  # fmt: skip
    name = "queue"
    limits = True

    def __init__(self, config: Config) -> None:
        self._all = Waiting(config)
        self._drain = DrainRate()
        self._inflight = 0
        self._turn = 0
        self._scheduled = False
        self._routes: dict[str, Lane] = {}
        self._set(config)

    def _set(self, config: Config) -> None:
        """What the settings say. (Where a lane was a route's, those under way there give its places back to it.)"""
        before = self._routes
        self._routes = {}
        for route in config.routes:
            if route.models:
                continue  # (no request is under way under such a name)
            made = _terms_of(route, config)
            lane = before.get(route.model)
            if lane is None:
                lane = Lane(made)
            else:
                terms = lane.terms
                terms.limit = made.limit
                terms.rejects = made.rejects
                terms.fallback = made.fallback
                terms.timeout_s = made.timeout_s
            self._routes[route.model] = lane
        self._max_concurrent = config.max_concurrent
        self._rejects = config.on_capacity == REJECT  # of a lane that is no route's
        self._queue_size = config.queue_size
        self._queue_bytes = config.queue_bytes
        self._timeout_s = config.queue_timeout_s
        # Where nothing is limited nobody ever waits.
        self._bounded = bool(
            config.max_concurrent
            or config.routes
            or config.scheduler != "off"
            or any(engine.max_concurrent for engine in config.engines)
        )

    @classmethod
    def from_config(cls, config: Config) -> Queue:
        return cls(config)

    def after(self, before: Filter, config: Config) -> Filter:
        if not isinstance(before, Queue):
            return self
        before.follow_settings(config)
        return before

    def follow_settings(self, config: Config) -> None:
        """From now on requests find room, or wait, by ``config``: what is under way keeps its places, and who waits waits on,
        each in the lane that is his now."""
        before = self._routes
        self._all.set(config)
        self._set(config)
        if before.keys() == self._routes.keys():
            return
        for item in self._all.crowd.items():
            self._move(item)  # type: ignore[arg-type]

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._all.count

    @property
    def waiting_bytes(self) -> int:
        """What their bodies take of memory."""
        return self._all.size_bytes

    def by_class(self) -> list[int]:
        """How many requests of each class wait, the first class first."""
        return list(self._all.by_class)

    # --- a request comes
    def on_route(self, exchange: Exchange) -> bool:
        account = exchange.account
        if exchange.group is None or account is None:
            return False
        if not self._bounded and not account.concurrency and not exchange.shares:
            # Nobody ever waits here.
            account.inflight += 1
            exchange.counted = 1
            return False
        route: Lane | None = self._routes.get(exchange.substitute or model_of(exchange)) if self._routes else None
        if route is not None and route.terms.timeout_s:
            # The route's own limit of time, where the client does not ask for less.
            limit_s = exchange.gateway.time_limit(exchange.timeout_s, route.terms.timeout_s)
            exchange.client.due(exchange.started_at + limit_s)
        endpoint = exchange.endpoint
        if endpoint.light and endpoint.by_id:
            return False  # (who ends what is under way must not wait for its end)
        full = self._all.take(exchange, account)
        if full is not None:
            self._wait_for(exchange, account, full, route)
            return WAITS
        if endpoint.light:
            return False
        self._enter(exchange, route)
        return exchange.place is not None

    def _lane(self, exchange: Exchange, route: Lane | None) -> Lane:
        """Where it competes: its route's lane, or that of its engines."""
        group = exchange.group
        assert group is not None
        if route is not None and not group.part:
            route.group = group
            return route
        if route is not None:
            lanes: dict[Terms, Lane] | None = group.lanes
            if lanes is None:
                lanes = group.lanes = {}
            found: Lane | None = lanes.get(route.terms)
            if found is None:
                found = lanes[route.terms] = Lane(route.terms)
        else:
            found = group.lane
            if found is None:
                found = group.lane = Lane(Terms(0, self._rejects))
        found.group = group
        return found

    def _left(self, exchange: Exchange) -> tuple[Pool, ...]:
        """The engines that it may still go to."""
        home: Pool | None = exchange.home
        if home is not None:
            return (home,)
        pools = exchange.gateway.strategy.chosen(exchange).able(exchange.group, exchange)  # type: ignore[arg-type]
        tried = exchange.tries.pools
        return tuple([pool for pool in pools if pool not in tried]) if tried else pools

    def _move(self, place: Place) -> None:
        """To the lane that is its now."""
        exchange = place.exchange
        lane = self._lane(exchange, self._routes.get(exchange.substitute or model_of(exchange)))
        if place.beside:
            lane = lane.line(self._left(exchange), self._turn)
        if lane is not place.lane:
            self._all.move(place, lane)

    def _enter(self, exchange: Exchange, route: Lane | None) -> None:
        """The key has room; now its lane, and an engine."""
        lane = self._lane(exchange, route)
        queue = lane.queue
        line = self._line(exchange, lane) if lane.beside else None
        # A place among all that has just come free is for those who wait: the look that gives it to them is about to come.
        # Who waits without such a look could not take it.
        ahead = self._scheduled and self._max_concurrent and not lane.terms.rejects
        if (queue is None or not len(queue)) and line is None and not ahead and (
            self._room(lane) or (makes_room(exchange) and self._room(lane))
        ):
            self._admit(exchange, lane)
        elif exchange.home is not None or not lane.terms.fallback or not self._fall_back(exchange, lane.terms.fallback):
            if lane.terms.rejects:
                exchange.gateway.stats.limited_concurrency += 1
                raise self._refused("at_capacity", None, exchange, 0)
            self._check_size(exchange)
            self._wait(exchange, lane, line is not None)
            return
        self._drain.began(exchange.at)

    def _line(self, exchange: Exchange, lane: Lane) -> Lane | None:
        """Who waits for the very engines that it is for, and comes before it."""
        left = self._left(exchange)
        return lane.beside.get(left) if 0 < len(left) < len(lane.group.pools) else None  # type: ignore[union-attr]

    def _admit(self, exchange: Exchange, lane: Lane) -> None:
        lane.terms.inflight += 1
        self._inflight += 1
        exchange.lane = lane

    def _room(self, lane: Lane, place: Place | None = None) -> bool:
        """Whether a request of the lane may go to an engine now; of one beside another, that ``place``'s."""
        if self._max_concurrent and self._inflight >= self._max_concurrent:
            return False
        if place is not None:
            exchange = place.exchange
            if exchange.gateway.doubted:
                hear(exchange, lane.group, exchange.substitute or model_of(exchange))  # type: ignore[arg-type]
            if lane.home is not None:
                return lane.room(self._left(exchange), ())
        return lane.room(lane.group.pools, ())  # type: ignore[union-attr]

    def _fall_back(self, exchange: Exchange, models: Sequence[str]) -> bool:
        """Send the request to another model of its route's, if one has room, and an engine that is well."""
        account, table = exchange.account, exchange.gateway.table
        assert account is not None
        for model in models:
            if account.models is not None and model not in account.models and not granted(table, exchange, model):
                continue  # the key may not use it
            group = group_for(table, exchange, model)
            if group is None or not fit(group):
                continue
            before = exchange.group
            exchange.group = group
            lane = self._lane(exchange, self._routes.get(model))
            if (lane.queue is None or not len(lane.queue)) and self._room(lane):
                from fastgw.policy.deployments import moves

                moves(exchange, model)
                self._admit(exchange, lane)
                return True
            exchange.group = before
        return False

    def on_lost(self, exchange: Exchange, why: str) -> bool:
        if exchange.account is None:
            return False
        from fastgw.policy.elsewhere import others

        models = others(exchange, why)
        if not models:
            return False
        tries = exchange.tries.given_up(exchange.substitute or model_of(exchange))
        lane: Lane | None = exchange.lane
        exchange.at = monotonic()
        # (Wherever it goes on, it has had a place all the time: none has left.)
        if lane is not None:
            self._free(exchange)
        if self._fall_back(exchange, models):
            exchange.tries = tries
            if lane is None:
                self._drain.began(exchange.at)
            if self._all.count:
                self._schedule(exchange)  # its place is another's now
            return True
        if lane is not None:
            self._admit(exchange, lane)
        return False

    # --- it waits
    def _check_size(self, exchange: Exchange) -> None:
        """Raises when no more can wait, unless a tenant that has more waiting than this one gives way."""
        account = exchange.account
        assert account is not None
        stats = exchange.gateway.stats
        waiting = self._all
        for _ in range(GIVE_WAY):
            if waiting.count < self._queue_size and waiting.size_bytes + exchange.held_bytes <= self._queue_bytes:
                return
            place: Place | None = waiting.crowd.victim(account.flow)  # type: ignore[assignment]
            if place is None:
                break
            stats.limited_queue += 1
            other = place.exchange
            message = "Too many requests are waiting, and this tenant has the most of them."
            other.fail(self._refused("queue_full", message, other, waiting.count))
        stats.limited_queue += 1
        raise self._refused("queue_full", None, exchange, waiting.count)

    def _refused(self, kind: str, message: str | None, exchange: Exchange, ahead: int) -> GatewayError:
        """The refusal of a request that has no room: what was taken for it comes back, and it is told when ``ahead`` others
        will have gone by the rate of late, or when its key may take as much again, if that is later."""
        wait_s = 0.0 if exchange.sent_at else given_up(exchange)
        chance = random()  # noqa: S311 - spreads a crowd, guards nothing
        told_s = self._drain.retry_after_s(ahead + 1, monotonic(), chance, self._timeout_s)
        return GatewayError(kind, message, source=Source.GATEWAY, retry_after_s=max(wait_s, told_s))

    def _wait_for(self, exchange: Exchange, account: Account, full: Scope, route: Lane | None) -> None:
        lane = self._lane(exchange, route)
        if lane.terms.rejects:
            exchange.gateway.stats.limited_concurrency += 1
            message = f"{WHOSE[full.kind][3]} {full.concurrency} requests under way, as many as may be."
            raise self._refused("concurrency_limited", message, exchange, 0)
        self._check_size(exchange)
        self._all.park(Place(self, exchange, lane), account, full)

    def _wait(self, exchange: Exchange, lane: Lane, beside: bool) -> None:
        """In its lane, or where not all engines of that are left for it, ``beside``."""
        account = exchange.account
        assert account is not None
        place = Place(self, exchange, lane)
        if beside:
            place.beside = True
            place.lane = lane.line(self._left(exchange), self._turn)
        self._all.in_lane(place, account)

    def on_full(self, exchange: Exchange) -> bool:
        """The engines that are left for a request are full, or away for a moment: it waits for them."""
        if exchange.account is None:
            return False
        # (Not always where it was let go: the engines that it was for may be ill.)
        lane = self._lane(exchange, self._routes.get(exchange.substitute or model_of(exchange)))
        if lane.terms.rejects:
            exchange.gateway.stats.limited_concurrency += 1
            raise self._refused("at_capacity", None, exchange, 0)
        self._check_size(exchange)
        if exchange.lane is not None:
            self._give_back(exchange, monotonic())
        self._wait(exchange, lane, len(self._left(exchange)) < len(lane.group.pools))  # type: ignore[union-attr]
        makes_room(exchange)
        return True

    def late(self, place: Place, detail: str) -> None:
        """Its time in the queue is over, or its own (``detail``)."""
        exchange = place.exchange
        if not detail:
            exchange.gateway.stats.queue_timeouts += 1
        # (Who waits still came later, and has hardly more time: they are not ahead of it.)
        error = self._refused("queue_timeout", None, exchange, 0)
        error.detail = detail or f"no room within {self._timeout_s:g} s"
        exchange.fail(error)

    # --- places come free
    def on_finish(self, exchange: Exchange, outcome: str) -> None:
        place: Place | None = exchange.place
        if place is not None:
            self._all.leave(place)
        if exchange.lane is not None:
            self._give_back(exchange, exchange.at)
        if exchange.counted:
            account = exchange.account
            assert account is not None
            if exchange.shares or account.parked is not None:
                self._all.give_back(exchange, account)
            else:
                exchange.counted = 0
                account.inflight -= 1
        if self._all.count:
            self._schedule(exchange)

    def _give_back(self, exchange: Exchange, now: float) -> None:
        self._drain.left(now)
        self._free(exchange)

    def _free(self, exchange: Exchange) -> None:
        lane: Lane = exchange.lane
        exchange.lane = None
        lane.terms.inflight -= 1
        self._inflight -= 1

    def on_room(self) -> None:
        """An engine may have room again, or a key been given more."""
        waiting = self._all
        if not waiting.count or self._scheduled:
            return
        for scope in waiting.parked:
            if waiting.has_room(scope):
                waiting.ready[scope] = None
        for scope in waiting.ready:
            self._schedule_for(scope.parked)
            return
        for lane in waiting.lanes:
            self._schedule_for(lane.queue)
            return

    def follow(self, before: UpstreamTable, table: UpstreamTable) -> None:
        """Engines have come or gone, or serve other models: whoever waits does so for those that would be asked now.
        (Where those from before have gone, for them: they take nothing more, and it is told so.)"""
        for pool in table.pools:
            if pool.engine.max_concurrent:
                self._bounded = True
                break
        for model, lane in self._routes.items():
            lane.group = table.group(model) or lane.group
        for item in self._all.crowd.items():
            place: Place = item  # type: ignore[assignment]
            exchange = place.exchange
            group = exchange.group
            try:
                regroup(table, exchange)
            except GatewayError as error:
                exchange.fail(error)
                continue
            if exchange.group is not group:
                self._move(place)
        of_routes = {lane.terms for lane in self._routes.values()}
        for there in table.groups():
            if there.lane is not None:
                there.lane.terms.rejects = self._rejects
            if there.lanes is not None:
                there.lanes = {terms: lane for terms, lane in there.lanes.items() if terms in of_routes}
        for gone in before.groups() - table.groups():
            gone.lane = gone.lanes = None  # each knows the other: nobody but the collector would part them

    def _schedule_for(self, queue: FairQueue | None) -> None:
        assert queue is not None
        waiter = queue.first(monotonic())
        if waiter is not None:
            place: Place = waiter.item  # type: ignore[assignment]
            self._schedule(place.exchange)

    def _schedule(self, exchange: Exchange) -> None:
        if not self._scheduled:
            self._scheduled = True
            exchange.gateway.reactor.poller.soon(self.look)

    def look(self) -> None:
        """Let go whoever may go now, in order; called by the loop."""
        self._scheduled = False
        waiting = self._all
        now = monotonic()
        while waiting.ready:
            waiting.unpark(next(iter(waiting.ready)), now)
        for _ in range(BATCH):
            lane = self._next_lane(now)
            if lane is None:
                return
            self._turn += 1
            lane.served_at = self._turn
            self._let_go(waiting.take_first(lane, now))
        for lane in waiting.lanes:
            self._schedule_for(lane.queue)
            return

    def _next_lane(self, now: float) -> Lane | None:
        """The lane whose first request goes next: the best class, then the lane that was served longest ago."""
        best: Lane | None = None
        best_class = 0
        for lane in self._all.lanes:
            queue = lane.queue
            assert queue is not None
            waiter = queue.first(now)
            assert waiter is not None
            if (
                best is None
                or waiter.priority < best_class
                or (waiter.priority == best_class and lane.served_at < best.served_at)
            ) and self._room(lane, waiter.item):  # type: ignore[arg-type]
                best = lane
                best_class = waiter.priority
        return best

    def _let_go(self, place: Place) -> None:
        exchange = place.exchange
        self._all.leave(place)
        if exchange.phase == DONE:
            return
        self._drain.began(monotonic())
        self._admit(exchange, place.lane)
        exchange.resume()
