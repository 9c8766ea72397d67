"""Limits of every kind, under clients and engines that behave as badly as they can: whatever was taken is given back, once.

A request holds much at a time: a place of its key's, of its lane's, of its engine's, tokens of a minute and of a day, a
probe's place at a breaker, a member's in a shared call. Each end of it (an answer, a reset, a deadline, a cut, a retry, a
key that was deleted meanwhile) must give back all of that. So the dice choose, and when nobody asks any more every one of
these counts is zero, and what keys were charged is what the records say. ``STRESS_S`` in the environment says how long.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from hashlib import sha256
from time import monotonic
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.config.names import PRIORITIES
from fastgw.limits.key import KeyRecord
from fastgw.policy.places import Place
from fastgw.policy.queue import Queue
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.native.test_stress import UPGRADE
from tests.support.client import BadResponse, NoResponse, RawClient, chat, request
from tests.support.gateway import Running, running

STRESS_S = float(os.environ.get("STRESS_S", "3.0"))
ROUND_S = 1.2
CLIENTS = 36
KEYS = [f"sk-governed-{number}" for number in range(8)]
GONE = (ConnectionError, TimeoutError, NoResponse, OSError)
METERED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions")

FAULTS = (
    "close", "reset", "stall-before", "status=503,retry-after=1", "status=500", "status=429", "close-on-reuse", "garbage",
    "reset-after-events=2", "close-after-events=1", "end-after-events=2", "stall-after-events=1", "error-event,after-events=2",
    "truncate-chunk,after-events=2", "bad-chunk,after-events=1", "itl-ms=8", "ttft-ms=30", "gather=65536",
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "health_interval_s": 0.2, "first_byte_timeout_s": 0.3, "between_bytes_timeout_s": 0.3, "body_timeout_s": 0.3,
    "write_timeout_s": 0.3, "connect_timeout_s": 0.5, "engine_max_idle": 4, "model_refresh_s": 0.5, "require_key": True,
    "max_concurrent": 9, "queue_size": 14, "queue_bytes": 1 << 16, "queue_timeout_s": 0.25, "queue_target_s": 0.02,
    "cb_failure_threshold": 3, "cb_recovery_timeout_s": 0.1, "max_retries": 2, "retry_statuses": ["500", "503"],
    "retry_budget_percent": 100, "quarantine_after": 2, "scheduler": "auto", "scheduler_interval_s": 0.05,
    "embedding_merge_s": 0.004, "default_cost_tokens": 20, "rate_limit_per_second": 2000,
    "metrics_by": "key",
}  # fmt: skip
HUGE = (-1, 0, 2**31, 2**62, 2**63, 10**30)


def record(number: int, dice: random.Random, revision: int, **fields: Any) -> KeyRecord:
    """Key ``number`` with limits as the dice have it."""
    some: dict[str, Any] = {
        "tenant": dice.choice(("", "blue", "green")),
        "priority": dice.choice((None, *PRIORITIES)),
        "concurrency": dice.choice((None, 0, 1, 2, 5)),
        "requests_per_minute": dice.choice((None, None, 0, 300)),
        "tokens_per_minute": dice.choice((None, 0, 4000, 1_000_000)),
        "daily_tokens": dice.choice((None, 0, 3000, 1_000_000)),
        "on_exhausted": dice.choice((None, "cut", "refuse")),
        "models": dice.choice(((), (), ("sim", "other"))),
        **fields,
    }
    digest = sha256(KEYS[number].encode()).digest()
    return KeyRecord(id=f"key_{number:016x}", digest=digest, revision=revision, created_at=1.0, **some)


class Client:
    """One client's dice."""

    def __init__(self, seed: str, port: int, seen: Counter[str]) -> None:
        self.dice = random.Random(seed)
        self.port = port
        self.seen = seen

    def headers(self) -> list[tuple[str, str]]:
        found = []
        if self.dice.random() < 0.25:
            found.append(("x-sim-fault", self.dice.choice(FAULTS)))
        if self.dice.random() < 0.15:
            found.append(("x-request-timeout-ms", str(self.dice.choice((1, 30, 200, 10**11)))))
        return found

    def any(self, **fields: Any) -> bytes:
        """Whatever a client may ask for."""
        key = self.dice.choice(KEYS)
        model = self.dice.choice(("sim", "sim", "other", "nobody's"))
        if self.dice.random() < 0.25:
            body = b'{"model":"sim","input":"text %d"}' % self.dice.randrange(9)
            lines = [("Content-Type", "application/json"), *(self.headers() if self.dice.random() < 0.2 else [])]
            return request("POST", "/v1/embeddings", headers=lines, body=body, key=self.dice.choice(KEYS[:2]))
        if self.dice.random() < 0.08:
            fields["n"] = self.dice.choice(HUGE)
            fields["max_tokens"] = self.dice.choice(HUGE)
        if self.dice.random() < 0.8:
            fields.setdefault("max_tokens", self.dice.randint(1, 40))
        content = "x" * self.dice.choice((5, 5, 300, 12_000))
        return chat(model, self.dice.random() < 0.6, content=content, headers=self.headers(), key=key, **fields)

    async def talks(self, client: RawClient) -> None:
        for _ in range(self.dice.randint(1, 6)):
            await client.send(self.any())
            answer = await client.read_response(2.0)
            self.seen[str(answer.status)] += 1
            if answer.status != 200:
                await asyncio.sleep(self.dice.random() * 0.04)
            if not answer.complete or answer.header("connection") == "close":
                return

    async def pipelines(self, client: RawClient) -> None:
        count = self.dice.randint(2, 6)
        await client.send(b"".join(self.any() for _ in range(count)))
        for _ in range(self.dice.randint(0, count)):
            answer = await client.read_response(2.0)
            if not answer.complete or answer.header("connection") == "close":
                return

    async def leaves(self, client: RawClient) -> None:
        """While it waits in the queue, for its engine, or for the rest."""
        await client.send(self.any())
        if self.dice.random() < 0.3:
            client.shutdown_write()
        await asyncio.sleep(self.dice.choice((0.0, 0.002, 0.02, 0.15)))

    async def uploads(self, client: RawClient) -> None:
        form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n'
        form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"a" * 4000 + b"\r\n--b--\r\n"
        lines = [("Content-Type", "multipart/form-data; boundary=b"), *self.headers()]
        data = request("POST", "/v1/audio/transcriptions", headers=lines, body=form, key=self.dice.choice(KEYS))
        await client.send(data[: self.dice.choice((600, 2000, len(data)))])
        await client.read_some(self.dice.choice((0.02, 0.5)))

    async def tunnels(self, client: RawClient) -> None:
        await client.send(request("GET", "/v1/realtime?model=sim", headers=UPGRADE, key=self.dice.choice(KEYS)))
        await client.read_head(1.0)
        await client.send(b"\x81\x85\0\0\0\0hello")
        await client.read_some(0.1)

    async def asks_for_usage(self, client: RawClient) -> None:
        await client.send(request("GET", "/v1/usage", key=self.dice.choice(KEYS)))
        await client.read_response(2.0)

    async def lives(self, until: float) -> None:
        ways: list[Callable[[RawClient], Awaitable[None]]] = [
            self.talks, self.talks, self.talks, self.pipelines, self.leaves, self.leaves, self.uploads, self.tunnels,
            self.asks_for_usage,
        ]  # fmt: skip
        while monotonic() < until:
            way = self.dice.choice(ways)
            client = await RawClient.connect("127.0.0.1", self.port)
            try:
                await way(client)
            except GONE:
                self.seen["gone"] += 1
            except BadResponse as error:
                raise AssertionError(f"{way.__name__} got bytes that are no answer") from error
            finally:
                if self.dice.random() < 0.5:
                    client.reset()
                else:
                    client.close()


async def operate(gw: Running, dice: random.Random, until: float) -> None:
    """Keys change, end and come back, and the table of engines is made anew, under load."""
    keeping = gw.gateway._keeping
    assert keeping is not None
    revision = 100
    while monotonic() < until:
        await asyncio.sleep(0.03)
        revision += 1
        number = dice.randrange(len(KEYS))
        fields = dice.choice((*[{}] * 9, {"disabled": True}, {"deleted": True}, {"expires_at": 1.0}))
        keeping.keys_changed([record(number, dice, revision, **fields)])
        if dice.random() < 0.2:
            gw.gateway._publish()


def queue_of(gw: Running) -> Queue:
    queue = gw.gateway._queue
    assert queue is not None
    return queue


def lanes_of(queue: Queue) -> list[Any]:
    """All lanes that anybody has been counted in; only the collector knows those of routes in the compiled twin."""
    return [one for one in gc.get_objects() if type(one).__name__ == "Lane"]


def judge_empty(gw: Running, accounts: list[Any]) -> None:
    """Whatever the requests held has been given back."""
    core = gw.gateway.core
    assert core is not None
    queue = queue_of(gw)
    assert (queue.waiting, queue.waiting_bytes, queue.by_class()) == (0, 0, [0, 0, 0])
    assert [lane.terms.inflight for lane in lanes_of(queue) if lane.terms.inflight] == []
    assert [lane for lane in lanes_of(queue) if lane.queue is not None and len(lane.queue)] == []
    for account in accounts:
        held = account.inflight, account.ledger.reserved, len(account.parked) if account.parked is not None else 0
        assert held == (0, 0, 0), (account, held)
    for pool in core.table.pools:
        assert (pool.engine.inflight, pool.engine.breaker.probing) == (0, False), pool.engine
    if core.merger is not None:
        assert (len(core.merger), len(core.merger.calls)) == (0, 0)


def judge_charges(gw: Running, accounts: list[Any]) -> None:
    """Each request has been charged once, and for what its record says. (What an engine that bears no abort goes on to make for
    whoever has left is charged behind his record: of those keys the metrics alone say what it was.)"""
    charged: Counter[str] = Counter()
    finished = {pool.engine.name for pool in gw.gateway.fleet.pools if not pool.engine.cancel}
    behind = {one["key_id"] for one in gw.records if one["engine"] in finished and one["outcome"] != "ok"}
    for one in gw.records:
        if one["endpoint"] in METERED:
            charged[one["key_id"]] += max(one["prompt_tokens"], 0) + max(one["completion_tokens"], 0)
    counted: Counter[str] = Counter()
    for account in accounts:
        assert account.ledger.prompt >= 0
        assert account.ledger.completion >= 0
        counted[account.id] += account.ledger.prompt + account.ledger.completion
    assert {key: count for key, count in counted.items() if count and key not in behind} == {
        key: count for key, count in charged.items() if count and key not in behind
    }
    told = gw.gateway.core.tally.callers
    assert +counted == +Counter({key: one.prompt + one.completion for key, one in told.items()}), "nor do metrics say another"
    assert sum(counted.values()) == gw.stats.tokens_prompted + gw.stats.tokens_generated


async def round_of(number: int, engines: list[EngineConfig], seen: Counter[str]) -> None:
    dice = random.Random(f"governance {number}")
    routes = (
        RouteConfig(model="sim", max_concurrent=5, on_capacity=dice.choice(("", "queue", "fallback")), fallback=("other",)),
        RouteConfig(model="other", max_concurrent=3, on_capacity=dice.choice(("", "fallback")), fallback=("sim",), timeout_s=1),
    )
    more = {
        "on_exhausted": dice.choice(("cut", "refuse")), "queue_order": dice.choice(("fifo", "adaptive")),
        "on_capacity": dice.choice(("queue", "queue", "fallback")), "key_concurrency": dice.choice((0, 3)),
        "daily_token_quota": dice.choice((0, 20_000)), "retry_fresh": True, "policy": dice.choice(("ordered", "round_robin")),
    }  # fmt: skip
    async with running(engines, routes=routes, **SETTINGS, **more) as gw:
        core, keeping = gw.gateway.core, gw.gateway._keeping
        assert core is not None
        assert keeping is not None
        keeping.keys_changed([record(at, dice, at + 1) for at in range(len(KEYS))])
        accounts = {id(one): one for one in core.accounts.all()}
        until = monotonic() + ROUND_S
        tasks = [asyncio.ensure_future(Client(f"{number}/{n}", gw.port, seen).lives(until)) for n in range(CLIENTS)]
        tasks.append(asyncio.ensure_future(operate(gw, dice, until)))
        while not all(task.done() for task in tasks):
            # A deleted key's account is nobody's any more, and still owes.
            accounts.update({id(one): one for one in core.accounts.all()})
            await asyncio.wait(tasks, timeout=0.01, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        await gw.idle(3.0)
        await gw.until("nothing is read to its end unseen", lambda: not core.unread, 6.0)
        judge_empty(gw, list(accounts.values()))
        judge_charges(gw, list(accounts.values()))
        seen.update({name: count for name, count in gw.stats.snapshot().items() if not name.endswith("_open")})
        seen["waited"] += sum(one["queued_s"] >= 0 for one in gw.records)


@pytest.mark.deadline_s(40 + 3 * STRESS_S)
async def test_all_limits_at_once_give_back_what_they_took() -> None:
    seen: Counter[str] = Counter()
    crashes: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: crashes.append(context))
    begun = monotonic()
    async with (
        Simulator(SimConfig(seed=1, record=0, slots=3, itl_ms=1.0, models=("sim",))) as first,
        Simulator(SimConfig(seed=1, record=0, slots=2, metrics_kind="none", models=("sim", "other"))) as second,
        Simulator(SimConfig(seed=1, record=0, slots=2, ttft_ms=3.0, models=("other",))) as third,
    ):
        engines = [
            EngineConfig(url=first.url, models=("sim",), max_concurrent=4),
            EngineConfig(url=second.url, models=("sim", "other"), max_concurrent=3, max_connections=4),
            EngineConfig(url=third.url, models=("other",), cancel=False),
        ]
        rounds = 0
        while not rounds or monotonic() - begun < STRESS_S - ROUND_S:
            rounds += 1
            await round_of(rounds, engines, seen)
    assert crashes == []
    for what in ("200", "cancelled", "limited_queue", "waited", "auth_failures", "tokens_estimated"):
        assert seen[what], f"the storm brought no {what}: {seen}"


async def test_an_engine_that_dies_with_a_thousand_waiting() -> None:
    """All of them are told within a second, one after another and not one inside the other."""
    waiting = 1000
    arrived, dying = asyncio.Event(), asyncio.Event()

    async def hold(conn: ScriptedConnection) -> None:
        while (await conn.read_request()).method == b"GET":
            await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        arrived.set()
        await dying.wait()
        conn.reset()

    async with ScriptedEngine(hold) as engine:
        settings: dict[str, Any] = {"queue_size": 2000, "health_interval_s": 60.0, "cb_recovery_timeout_s": 60.0}
        settings |= {"cb_failure_threshold": 1, "queue_timeout_s": 20.0}
        async with running([EngineConfig(url=engine.url, max_concurrent=1, models=("sim",))], **settings) as gw:
            first = await gw.client()
            await first.send(chat("sim"))
            await asyncio.wait_for(arrived.wait(), 5.0)
            clients = [await gw.client() for _ in range(waiting)]
            for client in clients:
                await client.send(chat("sim"))
            await gw.until("all wait", lambda: gw.stats.queue_waiting_open == waiting)
            await engine.stop_listening()
            dying.set()
            begun = monotonic()
            await gw.until("nobody waits", lambda: gw.stats.exchanges_open == 0)
            assert monotonic() - begun < 1.5  # a second, and a busy machine
            for client in clients:
                answer = await client.read_response(2.0)
                assert answer.status == 503
                client.close()
            first.close()
            core = gw.gateway.core
            assert core is not None
            judge_empty(gw, core.accounts.all())


@pytest.mark.parametrize("how", ["first", "guard"])
async def test_a_hook_that_fails_at_the_end_takes_no_place_away(how: str) -> None:
    async with Simulator(SimConfig()) as sim:
        limits = {"max_concurrent": 1, "key_concurrency": 1, "daily_token_quota": 10_000, "queue_timeout_s": 0.3}
        async with running([sim.url], expect_internal_errors=True, **limits) as gw:
            core = gw.gateway.core
            assert core is not None

            def failing(exchange: Any, outcome: str) -> None:
                raise RuntimeError("a bug")

            def guarded(exchange: Any) -> None:
                exchange.guards = [lambda: failing(exchange, "")]

            if how == "guard":
                core.walk = (guarded, *core.walk)
            else:
                core.on_finish = (failing, *core.on_finish)
            for _ in range(3):
                async with RawClient.connect(gw.url) as client:
                    await client.send(chat("sim", max_tokens=3))
                    answer = await client.read_response(5.0)
                    assert answer.status == 200
                await gw.idle()
            judge_empty(gw, core.accounts.all())
            assert core.accounts.anonymous.ledger.requests == 3
            assert len(gw.events.errors()) == 3


async def test_an_error_at_a_deadline_in_the_queue_stops_no_other_deadline() -> None:
    """Deadlines share one wheel: a bug that shows in one of them is one client's misfortune."""
    async with Simulator(SimConfig(ttft_ms=1200.0)) as sim:
        limits = {"max_concurrent": 1, "queue_timeout_s": 0.15}
        async with running([sim.url], expect_internal_errors=True, **limits) as gw:
            core = gw.gateway.core
            assert core is not None
            failed: list[str] = []

            def failing(exchange: Any, outcome: str) -> None:
                if not failed:
                    failed.append(outcome)
                    raise RuntimeError("a bug")

            core.on_finish = (*core.on_finish, failing)
            busy = await gw.client()
            await busy.send(chat("sim", max_tokens=1))
            waiting = [await gw.client() for _ in range(4)]
            for client in waiting:
                await client.send(chat("sim", max_tokens=1))
            await gw.until("they wait", lambda: gw.stats.queue_waiting_open == 4)
            for client in waiting:
                assert (await client.read_response(1.0)).status == 503
                client.close()
            assert (await busy.read_response(3.0)).status == 200
            busy.close()
            await gw.idle()
            judge_empty(gw, core.accounts.all())
            assert failed


async def test_those_who_leave_the_queue_leave_memory_without_the_collector() -> None:
    async with Simulator(SimConfig(ttft_ms=400.0)) as sim, running([sim.url], max_concurrent=1) as gw:
        busy = await gw.client()
        await busy.send(chat("sim", max_tokens=1))
        waiting = [await gw.client() for _ in range(20)]
        gc.disable()
        try:
            for client in waiting:
                await client.send(chat("sim", max_tokens=1))
            await gw.until("they wait", lambda: gw.stats.queue_waiting_open == 20)
            for client in waiting:
                client.reset()
            await gw.until("nobody waits", lambda: gw.stats.queue_waiting_open == 0)
            await asyncio.sleep(0)
            left = Counter(type(one) for one in gc.get_objects())
            assert left[Place] == 0
        finally:
            gc.enable()
        assert (await busy.read_response(3.0)).status == 200
        busy.close()
