"""The queue's filter against its promises, over any history: no cap is passed, nobody waits who could go, nothing is lost.

Real exchanges, accounts and engines, without an engine's socket: whoever may go is taken by :class:`World` instead of being
sent. Times do not matter here; what they do is tested over sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw import Config, EngineConfig
from fastgw.accel.heads import RequestHead
from fastgw.config import RouteConfig
from fastgw.errors import GatewayError
from fastgw.exchange.call import Call
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.gateway import GatewayCore
from fastgw.exchange.phases import CONNECTING, DONE, QUEUED, RECEIVING
from fastgw.limits.account import Accounts, Defaults
from fastgw.limits.meter import Meter
from fastgw.limits.scope import Limits, Share, holder, places
from fastgw.limits.scopes import NONE, ModelLimits
from fastgw.net.client import ConnLimits, told_of
from fastgw.net.clock import micros, monotonic
from fastgw.net.h1_connection import H1Connection
from fastgw.net.poller import Reactor
from fastgw.net.wire import PlainWire
from fastgw.policy.queue import Queue
from fastgw.policy.routing import strategy_of
from fastgw.protocol.openai import scan_body
from fastgw.stats import NullLog, Stats
from fastgw.upstream.health import Health
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import UpstreamTable
from fastgw.upstream.target import Engine
from tests.support.tenants import scopes_of

HEAD = RequestHead(b"POST", b"/v1/embeddings", b"/v1/embeddings", b"", 1, b"", b"", -1, True, False, 0, None, None, None)
KEYS = ("k-0", "k-1", "k-2")
MODELS = ("a", "b", "c")
QUANTUM = 512  # tokens of a turn
LIMITS = ConnLimits(head_bytes=1000, header_count=10, head_s=9.0, idle_s=9.0, body_s=9.0, write_s=9.0)


def engine_of(exchange: Exchange) -> Pool:
    assert exchange.call is not None
    return exchange.call.pool


class World:
    """A gateway's core whose requests go nowhere: ``under_way`` are those that were let go, in that order in ``gone``."""

    def __init__(self, core: GatewayCore, queue: Queue, conn: H1Connection, pools: Sequence[Pool]) -> None:
        self.core = core
        self.queue = queue
        self.conn = conn
        self.pools = pools
        self.live: list[Exchange] = []
        self.under_way: list[Exchange] = []
        self.gone: list[int] = []
        self.number = 0
        self.refused: list[str] = []

    # --- what the exchange would do
    def take(self, exchange: Exchange) -> bool:
        """In the place of an attempt: an engine is chosen, and has one more."""
        pool = self.core.strategy.pick(exchange.group, exchange.tries.pools, exchange)  # type: ignore[arg-type]
        if pool is None:
            exchange.phase = CONNECTING
            left = [one for one in exchange.group.pools if one not in exchange.tries.pools]  # type: ignore[union-attr]
            if not any(one.engine.full() for one in left) or not self.queue.on_full(exchange):
                self.refused.append("nobody is left")
                self.end(exchange)
            return True
        exchange.phase = CONNECTING
        exchange.call = Call(self.core, pool, False)
        exchange.call.settled = True
        pool.engine.inflight += 1
        self.under_way.append(exchange)
        self.gone.append(int(exchange.request_id))
        return True

    def end(self, exchange: Exchange) -> None:
        self.leave_engine(exchange)
        exchange.end("ok", False)
        self.live.remove(exchange)

    def leave_engine(self, exchange: Exchange) -> None:
        if exchange in self.under_way:
            self.under_way.remove(exchange)
            assert exchange.call is not None
            exchange.call.pool.engine.inflight -= 1

    # --- what happens
    def arrive(self, model: str, key: str, size: int = 0) -> Exchange:
        self.number += 1
        endpoint = self.core.endpoints.get(b"/v1/embeddings")
        exchange = Exchange(self.core, self.conn.stream, HEAD, endpoint, b"%d" % self.number)
        exchange.body = b'{"model":"%b","input":"%b"}' % (model.encode(), b"x" * size)
        exchange.held_bytes = len(exchange.body)  # as if it had arrived
        exchange.facts = scan_body(exchange.body, 9)
        exchange.account = self.core.accounts.find(sha256(key.encode()).digest())
        exchange.group = self.core.table.group(model)
        assert exchange.account is not None
        scopes = self.core.accounts.scopes
        lab = scopes.tenant("lab") if key in KEYS[:2] else None
        exchange.shares = tuple([Share(scope) for scope in scopes.of(exchange.account.id, lab, model, 0, 0)])
        exchange.walked = len(self.core.walk)  # the queue was the last one
        self.live.append(exchange)
        self.core.stats.exchanges_open += 1
        try:
            self.queue.on_route(exchange)
        except GatewayError as error:
            self.refused.append(error.kind.name)
            self.end(exchange)
        else:
            if exchange.phase == RECEIVING:
                self.take(exchange)
        return exchange

    def leave(self, exchange: Exchange) -> None:
        """Its client goes, wherever it is."""
        self.leave_engine(exchange)
        self.live.remove(exchange)
        exchange.on_gone("fin")

    def fail_over(self, exchange: Exchange) -> None:
        """Its engine could not be reached: another one, or it waits for one."""
        self.leave_engine(exchange)
        assert exchange.call is not None
        exchange.tries = exchange.tries.tried(exchange.call.pool)
        self.core.room()
        try:
            self.take(exchange)
        except GatewayError as error:
            self.refused.append(error.kind.name)
            self.end(exchange)

    def waiting(self) -> list[Exchange]:
        return [exchange for exchange in self.live if exchange.phase == QUEUED]

    def key(self, exchange: Exchange) -> Any:
        assert exchange.account is not None
        return exchange.account


@contextlib.asynccontextmanager
async def world(engines: Sequence[dict[str, Any]], **options: Any) -> AsyncIterator[World]:
    described = [EngineConfig(url=f"http://127.0.0.1:{number + 1}", **more) for number, more in enumerate(engines)]
    config = Config(engines=described, port=0, scheduler="auto", **options)
    reactor = Reactor(asyncio.get_running_loop())
    stats = Stats()
    pools = [Pool(Engine(one), reactor, stats, NullLog(), 1.0) for one in config.engines]
    queue = Queue.from_config(config)
    core = GatewayCore(
        config,
        reactor=reactor, stats=stats, log=NullLog(), access=None, filters=(queue,),
        strategy=strategy_of("round_robin"),
        health=Health(lambda: pools, config, NullLog(), lambda: None, lambda: None),
        table=UpstreamTable(pools),
        accounts=Accounts(
            Defaults(concurrency=config.key_concurrency), [sha256(key.encode()).digest() for key in KEYS], required=True
        ),
        instance=b"x",
    )  # fmt: skip
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    told = told_of("127.0.0.1", False, False)
    conn = H1Connection(reactor, PlainWire(reactor, ours.detach()), core, LIMITS, stats, "127.0.0.1", False, told)
    made = World(core, queue, conn, pools)
    core.merger = made
    try:
        yield made
        for exchange in list(made.live):
            if exchange.phase != DONE:
                made.leave(exchange)
        await asyncio.sleep(0)
        assert (queue.waiting, queue.waiting_bytes, sum(queue.by_class()), stats.queue_waiting_open) == (0, 0, 0, 0)
        assert [pool.engine.inflight for pool in pools] == [0] * len(pools)
        assert [account.inflight for account in core.accounts.all()] == [0] * (len(KEYS) + 1)
    finally:
        core.merger = None
        conn.close()
        theirs.close()
        reactor.close()


def judge(made: World, lowered: set[str]) -> None:
    """What holds after every step. ``lowered``: limits that were taken back below what they held."""
    queue, config = made.queue, made.core.config
    waits = made.waiting()
    assert queue.waiting == len(waits) == sum(queue.by_class()) == made.core.stats.queue_waiting_open
    assert queue.waiting_bytes == sum(len(exchange.body) for exchange in waits)
    assert len(waits) <= config.queue_size
    total = len(made.under_way)
    assert not config.max_concurrent or total <= config.max_concurrent
    by_model = {model: sum(one.model == model for one in made.under_way) for model in MODELS}
    routes = {route.model: route.max_concurrent for route in config.routes if route.max_concurrent}
    assert all(by_model[model] <= most for model, most in routes.items())
    for pool in made.pools:
        engine = pool.engine
        assert not engine.slots or engine.inflight <= engine.slots or engine.name in lowered
    held = [scope for one in made.live for scope in places(one.account, one.shares, one.counted)]
    for scope in (*made.core.accounts.all(), *scopes_of(made.core)):
        holding = sum(one is scope for one in held)
        assert scope.inflight == holding
        assert not scope.concurrency or holding <= scope.concurrency or scope.id in lowered
    for exchange in waits:
        full = holder(made.key(exchange), exchange.shares, exchange.counted)
        if full is not None:
            assert full.concurrency, f"{exchange} waits for {full}, which has no limit"
            assert full.inflight >= full.concurrency, f"{exchange} waits, and {full} has room"
            continue
        route_full = exchange.model in routes and by_model[exchange.model] >= routes[exchange.model]
        all_full = bool(config.max_concurrent) and total >= config.max_concurrent
        engines = [pool.engine for pool in exchange.group.pools if pool not in exchange.tries.pools]  # type: ignore[union-attr]
        no_engine = not any(engine.usable() for engine in engines) and any(engine.full() for engine in engines)
        assert route_full or all_full or no_engine, f"{exchange} waits, and could go"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(MODELS), st.sampled_from(KEYS)),
        st.tuples(st.just("arrive"), st.sampled_from(MODELS), st.sampled_from(KEYS)),
        st.tuples(st.just("end"), st.integers(0, 50), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 50), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 50), st.just(0)),
        st.tuples(st.just("fail over"), st.integers(0, 50), st.just(0)),
        st.tuples(st.just("slots"), st.integers(0, 1), st.integers(0, 4)),
        st.tuples(st.just("ill"), st.integers(0, 1), st.booleans()),
        st.tuples(st.just("concurrency"), st.sampled_from(KEYS), st.integers(0, 4)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    max_concurrent=st.integers(0, 4),
    key_concurrency=st.integers(0, 3),
    route=st.integers(0, 2),
    beside=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    slots=st.integers(0, 3),
    size=st.sampled_from([3, 100]),
    order=st.sampled_from(["fifo", "adaptive"]),
)
async def test_no_cap_is_passed_and_nobody_waits_who_could_go(
    steps: list[tuple[Any, Any, Any]], max_concurrent: int, key_concurrency: int, route: int, beside: tuple[int, int],
    slots: int, size: int, order: str,
) -> None:  # fmt: skip
    """``beside``: of the tenant of the first two keys, and of each key for a model."""
    options: dict[str, Any] = {
        "max_concurrent": max_concurrent, "key_concurrency": key_concurrency, "queue_size": size, "queue_order": order,
        "routes": [RouteConfig(model="a", max_concurrent=route)] if route else [],
    }  # fmt: skip
    engines: list[dict[str, Any]] = [{"max_concurrent": slots}, {"max_concurrent": slots, "models": ["a", "b", "c"]}]
    engines[0]["models"] = ["a", "b"]
    async with world(engines, **options) as made:
        lowered: set[str] = set()
        lab, each = (Limits(concurrency=one) for one in beside)
        made.core.accounts.scopes.follow({"lab": lab}, [ModelLimits(("a",), NONE, each)], 0)
        for what, one, two in steps:
            if what == "arrive":
                made.arrive(one, two)
            elif what == "end" and made.under_way:
                made.end(made.under_way[one % len(made.under_way)])
            elif what == "leave" and made.live:
                made.leave(made.live[one % len(made.live)])
            elif what == "fail over" and made.under_way:
                made.fail_over(made.under_way[one % len(made.under_way)])
            elif what == "slots":
                engine = made.pools[one].engine
                engine.slots = two
                lowered.add(engine.name)
                made.core.room()
            elif what == "ill":
                made.pools[one].engine.healthy = not two
                made.core.room()
            elif what == "concurrency":
                account = made.core.accounts.find(sha256(one.encode()).digest())
                assert account is not None
                account.concurrency = two
                lowered.add(account.id)
                made.core.room()
            # Nobody but the filter itself says that it is time to look.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            judge(made, lowered)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 600)), min_size=1, max_size=60),
    priorities=st.tuples(*[st.integers(0, 2)] * len(KEYS)),
)
async def test_order_of_classes_and_of_one_tenant(requests: list[tuple[str, int]], priorities: tuple[int, ...]) -> None:
    """Let go one by one: no class before a better one, and each tenant's own in the order in which they came."""
    async with world([{"max_concurrent": 1}]) as made:
        for key, priority in zip(KEYS, priorities, strict=True):
            account = made.core.accounts.find(sha256(key.encode()).digest())
            assert account is not None
            account.priority = priority
        first = made.arrive("a", KEYS[0])
        sent = {int(made.arrive("a", key, 4 * cost).request_id): (priorities[KEYS.index(key)], key) for key, cost in requests}
        made.end(first)
        while made.queue.waiting or made.under_way:
            made.queue.look()
            made.end(made.under_way[0])
        order = made.gone[1:]
        assert sorted(order) == sorted(sent)
        assert [sent[one][0] for one in order] == sorted(sent[one][0] for one in order)
        for key in KEYS:
            own = [one for one in order if sent[one][1] == key]
            assert own == sorted(own)


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.tuples(st.sampled_from(KEYS[:2]), st.integers(1, 1200)), min_size=10, max_size=80),
    places=st.integers(1, 3),
)
async def test_fair_by_tokens(costs: list[tuple[str, int]], places: int) -> None:
    """While both tenants wait, what they were served differs by a turn and a request each at most."""
    async with world([{"max_concurrent": places}]) as made:
        begun = [made.arrive("a", KEYS[2]) for _ in range(places)]
        sent = {int(made.arrive("a", key, 4 * cost).request_id): (key, cost) for key, cost in costs}
        left = {key: sum(one == key for one, _ in costs) for key in KEYS[:2]}
        for exchange in begun:
            made.end(exchange)
        while made.queue.waiting or made.under_way:
            made.queue.look()
            for exchange in list(made.under_way):
                made.end(exchange)
        served = dict.fromkeys(KEYS[:2], 0)
        most = max(cost for _, cost in costs)
        for number in made.gone[places:]:
            key, cost = sent[number]
            served[key] += cost + 1  # (and what stands around the text)
            left[key] -= 1
            if min(left.values()) > 0:
                assert abs(served[KEYS[0]] - served[KEYS[1]]) <= QUANTUM + 2 * (most + 1) + len(costs)


async def test_many_are_let_go_in_few_turns_of_the_loop() -> None:
    """A thousand places come free at once: no turn of the loop lets go all of them, and none needs a push from outside."""
    async with world([{"max_concurrent": 1}], queue_size=1000) as made:
        for number in range(1001):
            made.arrive("a", KEYS[number % 3])
        assert made.queue.waiting == 1000
        made.pools[0].engine.slots = 0
        made.core.room()
        turns = 0
        while made.queue.waiting:
            before = made.queue.waiting
            await asyncio.sleep(0)
            turns += 1
            assert before - made.queue.waiting <= 100
            assert turns < 100
        assert turns >= 10
        assert len(made.under_way) == 1001


async def test_bodies_that_wait_are_bounded_in_bytes() -> None:
    async with world([{"max_concurrent": 1}], queue_bytes=65536) as made:
        made.arrive("a", KEYS[0], size=60_000)  # goes: what does not wait does not count
        for _ in range(2):
            made.arrive("a", KEYS[0], size=30_000)
        assert (made.queue.waiting, made.refused) == (2, [])
        made.arrive("a", KEYS[0], size=30_000)
        assert made.refused == ["queue_full"]
        made.leave(made.waiting()[0])
        made.arrive("a", KEYS[0], size=30_000)
        assert (made.queue.waiting, made.refused) == (2, ["queue_full"])
        assert made.queue.waiting_bytes == sum(len(exchange.body) for exchange in made.waiting())


@pytest.mark.parametrize("on_capacity", ["queue", "reject", "fallback"])
async def test_an_engine_that_is_not_fit_is_not_waited_for(on_capacity: str) -> None:
    async with world([{"max_concurrent": 1}], on_capacity=on_capacity) as made:
        made.pools[0].engine.draining = True
        made.arrive("a", KEYS[0])
        assert (made.queue.waiting, made.refused) == (0, ["nobody is left"])


async def test_who_failed_elsewhere_waits_for_the_others_only() -> None:
    """Its own engine has room again: it stays where it is, until the other one has."""
    async with world([{"max_concurrent": 1}, {"max_concurrent": 1}]) as made:
        one, two = made.arrive("a", KEYS[0]), made.arrive("a", KEYS[0])
        assert engine_of(one) is not engine_of(two)
        own = engine_of(one)
        made.fail_over(one)
        made.queue.look()
        assert made.waiting() == [one]
        third = made.arrive("a", KEYS[0])  # takes the place that came free
        assert engine_of(third) is own
        made.end(third)
        made.queue.look()
        assert made.waiting() == [one]
        assert one.queued_s == -1.0  # it was not called up in vain
        other = engine_of(two)
        made.end(two)
        made.queue.look()
        assert (made.waiting(), engine_of(one)) == ([], other)


def exchanges() -> int:
    gc.collect()
    return sum(type(one) is Exchange for one in gc.get_objects())


async def test_nothing_holds_those_that_have_gone() -> None:
    """Whatever they waited for and however they left: the queue knows no more of them."""
    before = exchanges()
    async with world([{"max_concurrent": 1}, {"max_concurrent": 1}], key_concurrency=3) as made:
        for _ in range(20):
            for _ in range(5):
                made.arrive("a", KEYS[0])  # two go, one waits for an engine, two for their key
            made.fail_over(made.under_way[0])
            made.arrive("a", KEYS[1])
            assert made.queue.waiting >= 4
            made.leave(made.waiting()[-1])
            while made.live:
                (made.end if made.under_way else made.leave)((made.under_way or made.live)[0])
                await asyncio.sleep(0)
        made.gone.clear()
        made.core.room()
        await asyncio.sleep(0)
        assert exchanges() == before


@pytest.mark.parametrize("on_capacity", ["queue", "reject"])
async def test_a_newcomer_does_not_take_the_place_of_one_who_waits(on_capacity: str) -> None:
    """A place has come free, and who waits for it has not been called up yet: it is not for him who comes just then. He is
    not refused for it either, where nobody is meant to wait."""
    routes = [RouteConfig(model="a", on_capacity="queue")]
    async with world([{"models": ["a"]}, {"models": ["b"]}], max_concurrent=1, routes=routes, on_capacity=on_capacity) as made:
        first = made.arrive("a", KEYS[0])
        second = made.arrive("a", KEYS[0])
        made.end(first)
        third = made.arrive("b", KEYS[1])
        await asyncio.sleep(0)
        if on_capacity == "queue":
            assert (made.under_way, made.waiting()) == ([second], [third])
        else:
            assert (made.under_way, made.waiting(), made.refused) == ([third], [second], [])


async def test_classes_and_turns_over_models() -> None:
    """Under a cap of all, the better class goes first whichever model it asks for; within a class models take turns."""
    async with world([{"models": ["a"]}, {"models": ["b"]}], max_concurrent=1) as made:
        high = made.core.accounts.find(sha256(KEYS[2].encode()).digest())
        assert high is not None
        high.priority = 0
        made.arrive("a", KEYS[0])
        for model, key in (*[("a", KEYS[0])] * 4, *[("b", KEYS[1])] * 4, ("a", KEYS[2]), ("b", KEYS[2])):
            made.arrive(model, key)
        assert made.queue.by_class() == [2, 8, 0]
        models = {int(exchange.request_id): exchange.model for exchange in made.live}
        while made.under_way:
            made.end(made.under_way[0])
            await asyncio.sleep(0)
        assert {made.gone[1], made.gone[2]} == {10, 11}
        rest = "".join(models[number] for number in made.gone[3:])
        assert rest in ("abababab", "babababa")


@pytest.mark.parametrize("on_capacity", ["reject", "queue"])
async def test_a_request_taken_long_ago_does_not_come_back_with_a_refusal(on_capacity: str) -> None:
    """It has decayed meanwhile, and others were admitted for it: given back, it would be one too many."""
    engines = [{"models": ("a",)}, {"models": ("a",), "max_concurrent": 1}]
    async with world(engines, on_capacity=on_capacity) as made:
        exchanges = [made.arrive("a", KEYS[0]) for _ in range(2)]
        first = next(one for one in exchanges if engine_of(one) is made.pools[0])
        meter = Meter(600, 60_000_000, 20)
        made.key(first).requests = meter
        begun = monotonic() - 2.1
        assert meter.take(micros(begun), 20)
        first.routed_at = begun
        assert meter.take(micros(begun + 2.1), 20)
        made.fail_over(first)
        if on_capacity == "queue":
            assert first.phase is QUEUED
            made.queue._refused("queue_timeout", None, first, 0)
            made.leave(first)
        else:
            assert made.refused == ["at_capacity"]
        assert meter.left(micros(begun + 2.1)) == 0
