"""CASES, group J, row J9 (and I1's "queued"): the queue that is full, that takes too long, that clients leave, and whose
engine dies.

Owns: :class:`Gate`, an engine that keeps requests until the test lets them go, so that "under way" and "waiting" are facts
and no matter of timing. Must never: count a place of the queue by the gateway's own word alone where the engine can be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.limits.account import Account
from fastgw.sim import ScriptedConnection, ScriptedEngine
from fastgw.sim.scripted import RawRequest
from tests.e2e.served import served
from tests.e2e.test_cases_k_process import serve
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.gateway import Running, running

QUIET: dict[str, Any] = {"health_interval_s": 60.0, "warm_connections": 0}
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'


class Held:
    """One request that the engine has."""

    def __init__(self, seen: RawRequest, conn: ScriptedConnection) -> None:
        self.seen = seen
        self.conn = conn
        self.tag = (seen.header(b"x-tag") or b"").decode()
        self.let = asyncio.Event()


class Gate:
    """An engine that answers a request when :meth:`finish` says so, or by itself after ``auto_s``.

    ``order``: the tags (``x-tag``) of all requests as they came; ``held``: those that it has now; ``peak``: the most at once.
    """

    def __init__(self, auto_s: float | None = None, status: int = 200) -> None:
        self.auto_s = auto_s
        self.status = status
        self.order: list[str] = []
        self.held: list[Held] = []
        self.peak = 0
        self.engine = ScriptedEngine(self._serve)

    @property
    def url(self) -> str:
        return self.engine.url

    async def __aenter__(self) -> Gate:
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()

    async def _serve(self, conn: ScriptedConnection) -> None:
        while True:
            seen = await conn.read_request(60.0)
            if seen.method == b"GET":
                await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                continue
            held = Held(seen, conn)
            self.order.append(held.tag)
            self.held.append(held)
            self.peak = max(self.peak, len(self.held))
            try:
                if self.auto_s is not None:
                    await asyncio.sleep(self.auto_s)
                elif not await self._let(held):
                    return
            finally:
                self.held.remove(held)
            head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            await conn.send(head % (self.status, len(ANSWER)) + ANSWER)

    @staticmethod
    async def _let(held: Held) -> bool:
        """Wait for the test's word; False when the gateway has left."""
        let, gone = asyncio.ensure_future(held.let.wait()), asyncio.ensure_future(held.conn.wait_closed(60.0))
        try:
            await asyncio.wait({let, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            let.cancel()
            gone.cancel()
            await asyncio.gather(let, gone, return_exceptions=True)
        return held.let.is_set()

    def finish(self, *tags: str) -> None:
        """Answer these requests; without tags, all that are held."""
        for held in list(self.held):
            if not tags or held.tag in tags:
                held.let.set()

    async def has(self, *tags: str, timeout_s: float = 5.0) -> None:
        """Wait until the engine has just these requests."""
        end = time.monotonic() + timeout_s
        while sorted(held.tag for held in self.held) != sorted(tags):
            assert time.monotonic() < end, f"wanted {tags}, there are {[held.tag for held in self.held]}"
            await asyncio.sleep(0.002)

    async def die(self) -> None:
        """No more connections, and those that are there are reset."""
        await self.engine.stop_listening()
        for conn in self.engine.connections:
            conn.reset()


def tagged(tag: str, model: str = "m", *, headers: tuple[tuple[str, str], ...] = (), **more: Any) -> bytes:
    return chat(model, headers=[("x-tag", tag), *headers], **more)


class Asked:
    """A request on a connection of its own, and its answer when that has come."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.sent_at = time.monotonic()

    async def answer(self, timeout_s: float = 5.0) -> RawResponse:
        return await self.client.read_response(timeout_s)


@contextlib.asynccontextmanager
async def asking(gw: Running) -> AsyncIterator[Any]:
    """``await ask(data)`` sends ``data`` on a new connection; all of them are closed at the end."""
    clients: list[RawClient] = []

    async def ask(data: bytes) -> Asked:
        client = await gw.client()
        clients.append(client)
        asked = Asked(client)
        await client.send(data)
        return asked

    try:
        yield ask
    finally:
        for client in clients:
            client.close()


def account_of(gw: Running, key: str) -> Account:
    core = gw.gateway.core
    assert core is not None
    found = core.accounts.find(sha256(key.encode()).digest())
    assert found is not None
    return found


async def waiting(gw: Running, count: int) -> None:
    await gw.until(f"{count} waiting", lambda: gw.stats.queue_waiting_open == count)


def judge_refusal(answer: RawResponse, status: int, code: str, type_: str) -> None:
    """An error in OpenAI's shape that says when to come back."""
    assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, type_)
    after, after_ms = answer.header("retry-after"), answer.header("retry-after-ms")
    assert after is not None
    assert after_ms is not None
    assert int(after) >= 1
    assert int(after) == max(1, -(-int(after_ms) // 1000))


class TestFull:
    """Nobody waits beyond the bounds of the queue: 429 at once, and the connection stays usable."""

    async def test_J9_queue_full(self) -> None:
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, queue_size=2) as gw,
            asking(gw) as ask,
        ):
            first = await ask(tagged("a"))
            await engine.has("a")
            second, third = await ask(tagged("b")), None
            await waiting(gw, 1)
            third = await ask(tagged("c"))
            await waiting(gw, 2)
            best = 1.0
            for _ in range(5):
                late = await ask(tagged("late"))
                answer = await late.answer()
                best = min(best, time.monotonic() - late.sent_at)
                judge_refusal(answer, 429, "queue_full", "rate_limit_error")
            assert best < 0.05
            assert gw.stats.limited_queue == 5
            # The connection goes on, and so do those who wait.
            await late.client.send(request("GET", "/healthz"))
            assert (await late.client.read_response()).status == 200
            for asked, tag in ((first, "a"), (second, "b"), (third, "c")):
                await engine.has(tag)
                engine.finish(tag)
                assert (await asked.answer()).status == 200
            # Its place is there again.
            await late.client.send(tagged("again"))
            await engine.has("again")
            engine.finish()
            assert (await late.client.read_response()).status == 200
            assert engine.order == ["a", "b", "c", "again"]
        refused = [record for record in gw.records if record["status"] == 429]
        assert [(record["error"], record["queued_s"]) for record in refused] == [("queue_full", -1.0)] * 5

    async def test_J9_queue_bytes(self) -> None:
        """What may wait is bounded in bytes too; a body that still fits waits."""
        limits = {"engine_max_concurrent": 1, "queue_size": 100, "queue_bytes": 65536}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            await ask(tagged("a"))
            await engine.has("a")
            large = [await ask(tagged(tag, content="x" * 30_000)) for tag in ("b", "c")]
            await waiting(gw, 2)
            judge_refusal(
                await (await ask(tagged("d", content="x" * 30_000))).answer(), 429, "queue_full", "rate_limit_error"
            )
            small = await ask(tagged("e"))
            await waiting(gw, 3)
            # One that leaves takes its bytes along.
            large.pop().client.close()
            await waiting(gw, 2)
            fits = await ask(tagged("f", content="x" * 30_000))
            await waiting(gw, 3)
            engine.auto_s = 0.0
            engine.finish()
            for asked in (*large, small, fits):
                assert (await asked.answer()).status == 200
            assert engine.order == ["a", "b", "e", "f"]

    async def test_J9_refusals_leave_nothing_behind(self) -> None:
        """A thousand refusals, on a connection or the next: no place is lost, and each has its record."""
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, queue_size=1) as gw,
            asking(gw) as ask,
        ):
            first = await ask(tagged("a"))
            await engine.has("a")
            second = await ask(tagged("b"))
            await waiting(gw, 1)
            client = await gw.client()
            for _ in range(1000):
                assert (await client.ask(tagged("late"))).status == 429
            client.close()
            engine.auto_s = 0.0
            engine.finish()
            assert [(await asked.answer()).status for asked in (first, second)] == [200, 200]
            assert engine.order == ["a", "b"]
        assert sum(record["error"] == "queue_full" for record in gw.records) == 1000


@pytest.mark.together
class TestTooLong:
    async def test_J9_queue_timeout(self) -> None:
        """503 when its time in the queue is over, by a tick of the clock at most later; the engine never hears of it."""
        limits = {"engine_max_concurrent": 1, "queue_timeout_s": 0.3}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            first = await ask(tagged("a"))
            await engine.has("a")
            late = await ask(tagged("late"))
            judge_refusal(await late.answer(), 503, "queue_timeout", "upstream_error")
            assert 0.3 <= time.monotonic() - late.sent_at < 0.8
            assert gw.stats.queue_waiting_open == 0
            assert gw.stats.queue_timeouts == 1
            await late.client.send(tagged("next"))  # the connection stays usable, and it may wait again
            await waiting(gw, 1)
            engine.finish("a")
            assert (await first.answer()).status == 200
            await engine.has("next")
            engine.finish()
            assert (await late.client.read_response()).status == 200
            assert engine.order == ["a", "next"]
        (record,) = [record for record in gw.records if record["status"] == 503]
        assert (record["error"], record["outcome"]) == ("queue_timeout", "error")
        assert 0.3 <= record["queued_s"] < 0.8

    async def test_J9_each_has_its_own_time(self) -> None:
        """The time runs from when it began to wait, for the key's own limit as for an engine."""
        limits = {"key_concurrency": 1, "queue_timeout_s": 0.4}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            await ask(tagged("a"))
            await engine.has("a")
            early = await ask(tagged("b"))
            await waiting(gw, 1)
            await asyncio.sleep(0.25)
            late = await ask(tagged("c"))
            judge_refusal(await early.answer(), 503, "queue_timeout", "upstream_error")
            assert gw.stats.queue_waiting_open == 1
            engine.finish()
            await engine.has("c")
            engine.finish()
            assert (await late.answer()).status == 200
            assert engine.order == ["a", "c"]


    async def test_J9_the_time_ends_with_the_wait(self) -> None:
        """Once let go, a request is an engine's: what was left of its time in the queue means nothing any more."""
        limits = {"engine_max_concurrent": 1, "key_concurrency": 2, "queue_timeout_s": 0.3}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            first = await ask(tagged("a"))
            await engine.has("a")
            second = await ask(tagged("b"))
            await waiting(gw, 1)
            engine.finish()
            assert (await first.answer()).status == 200
            await engine.has("b")
            await asyncio.sleep(0.6)
            engine.finish()
            assert (await second.answer()).status == 200
            assert gw.stats.queue_timeouts == 0


HOWS = ("fin", "rst", "half-close")


def leave(client: RawClient, how: str) -> None:
    if how == "rst":
        client.reset()
    elif how == "half-close":
        client.shutdown_write()
    else:
        client.close()


class TestLeaving:
    """A client that leaves the queue: its place is free at once, what it had reserved is back, the engine never sees it."""

    @pytest.mark.parametrize("how", HOWS)
    @pytest.mark.parametrize("limit", ["engine_max_concurrent", "key_concurrency", "max_concurrent"])
    async def test_J9_I1_queued_client_leaves(self, how: str, limit: str) -> None:
        limits: dict[str, Any] = {limit: 1, "queue_size": 1, "daily_token_quota": 10_000, "tokens_per_minute": 10_000}
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, **limits, api_keys=["k-1"]) as gw,
            asking(gw) as ask,
        ):
            account = account_of(gw, "k-1")
            first = await ask(tagged("a", key="k-1", max_tokens=100))
            await engine.has("a")
            reserved = account.ledger.reserved
            assert reserved > 100
            best = 1.0
            for turn in range(5):
                gone = await ask(tagged("gone", key="k-1", max_tokens=1000))
                await waiting(gw, 1)
                assert account.ledger.reserved > reserved + 1000
                begun = time.monotonic()
                leave(gone.client, how)
                while gw.stats.queue_waiting_open:
                    await asyncio.sleep(0)
                    assert time.monotonic() - begun < 5.0
                best = min(best, time.monotonic() - begun)
                await gw.until("its record", lambda turn=turn: len(gw.raw_records) == turn + 1)
                assert (account.inflight, account.ledger.reserved) == (1, reserved)
            assert best < 0.020
            # Another takes the only place that there is to wait in.
            second = await ask(tagged("b", key="k-1", max_tokens=100))
            await waiting(gw, 1)
            engine.finish()
            await engine.has("b")
            engine.finish()
            assert [(await asked.answer()).status for asked in (first, second)] == [200, 200]
            assert engine.order == ["a", "b"]
            await gw.idle()
            assert (account.inflight, account.ledger.reserved) == (0, 0)
            assert account.ledger.prompt + account.ledger.completion == 10  # the two that were served
            core = gw.gateway.core
            assert core is not None
            target = core.table.pools[0].engine
            assert (target.inflight, target.failures_total, target.breaker.failures) == (0, 0, 0)
        left = [record for record in gw.records if record["status"] == 499]
        assert len(left) == 5
        assert {(record["outcome"], record["error"]) for record in left} == {("client_closed", "client_closed")}
        assert all(record["queued_s"] >= 0 for record in left)

    async def test_J9_all_leave_at_once(self) -> None:
        """Three hundred who wait leave in one moment: all places are free, and nobody behind them waits for theirs."""
        limits = {"engine_max_concurrent": 1, "queue_size": 301}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            first = await ask(tagged("a"))
            await engine.has("a")
            crowd = [await ask(tagged("gone")) for _ in range(300)]
            await waiting(gw, 300)
            last = await ask(tagged("last"))
            await waiting(gw, 301)
            for asked in crowd:
                asked.client.reset()
            await waiting(gw, 1)
            engine.finish()
            await engine.has("last")
            engine.finish()
            assert [(await asked.answer()).status for asked in (first, last)] == [200, 200]
            assert engine.order == ["a", "last"]


class TestEngineDies:
    """Whoever waits for an engine that dies goes to another one, or is told within a second; usual breaker settings."""

    @pytest.mark.parametrize("policy", ["round_robin", "ordered"])
    async def test_J9_rerouted(self, policy: str) -> None:
        limits = {"engine_max_concurrent": 2, "policy": policy, "retry_fresh": False}
        async with (
            Gate() as dying,
            Gate() as other,
            running([dying.url, other.url], **QUIET, **limits) as gw,
            asking(gw) as ask,
        ):
            begun = [await ask(tagged(f"under way {number}")) for number in range(4)]
            await gw.until("both full", lambda: len(dying.held) == len(other.held) == 2)
            crowd = [await ask(tagged(str(number))) for number in range(40)]
            await waiting(gw, 40)
            other.auto_s = 0.002
            died_at = time.monotonic()
            await dying.die()
            other.finish()
            answers = [await asked.answer() for asked in crowd]
            assert time.monotonic() - died_at < 1.0
            assert [answer.status for answer in answers] == [200] * 40
            statuses = sorted([(await asked.answer()).status for asked in begun])
            assert statuses == [200, 200, 502, 502]  # an engine may have worked on those that it had
            assert other.peak == 2

    async def test_J9_nobody_is_left(self) -> None:
        limits = {"engine_max_concurrent": 2}
        async with Gate() as dying, running([dying.url], **QUIET, **limits) as gw, asking(gw) as ask:
            begun = [await ask(tagged("under way")) for _ in range(2)]
            await gw.until("full", lambda: len(dying.held) == 2)
            crowd = [await ask(tagged(str(number))) for number in range(100)]
            await waiting(gw, 100)
            died_at = time.monotonic()
            await dying.die()
            answers = [await asked.answer() for asked in crowd]
            assert time.monotonic() - died_at < 1.0
            assert {answer.status for answer in answers} <= {502, 503}
            assert {answer.error["code"] for answer in answers} <= {"bad_gateway", "engines_unavailable", "circuit_open"}
            # After a few nobody tries in vain any more, and all of those are told when to come back.
            told = [answer for answer in answers if answer.status == 503]
            assert len(told) >= 90
            assert all(1 <= int(answer.header("retry-after") or 0) <= 60 for answer in told)
            assert [(await asked.answer()).status for asked in begun] == [502, 502]
            assert gw.stats.queue_waiting_open == 0

    async def test_J9_it_comes_back(self) -> None:
        """Whoever comes to wait while the only engine is full, and its process is started again, is served."""
        limits = {"engine_max_concurrent": 1, "cb_failure_threshold": 100}
        async with Gate() as engine, running([engine.url], **QUIET, **limits) as gw, asking(gw) as ask:
            first = await ask(tagged("a"))
            await engine.has("a")
            second = await ask(tagged("b"))
            await waiting(gw, 1)
            engine.auto_s = 0.0
            for conn in engine.engine.connections:
                conn.reset()
            assert (await first.answer()).status == 502
            assert (await second.answer()).status == 200


class TestRetryAfter:
    @pytest.mark.deadline_s(60)
    async def test_J9_retry_after_is_the_measured_rate(self) -> None:
        """Twenty a second leave, forty wait: two seconds."""
        limits = {"engine_max_concurrent": 1, "queue_size": 40}
        async with Gate(auto_s=0.05) as engine, running([engine.url], **QUIET, **limits) as gw:
            async def steady(client: RawClient) -> None:
                while True:
                    await client.send(tagged("steady"))
                    if (await client.read_response(10.0)).status != 200:
                        await asyncio.sleep(0.01)  # one of the late ones had its place

            clients = [await gw.client() for _ in range(43)]  # (some are refused: it is full at all times)
            tasks = [asyncio.create_task(steady(client)) for client in clients]
            try:
                await waiting(gw, 40)
                before = len(engine.order)
                begun = time.monotonic()
                await asyncio.sleep(2.5)
                rate = (len(engine.order) - before) / (time.monotonic() - begun)
                async with asking(gw) as ask:
                    told = []
                    for _ in range(20):
                        await waiting(gw, 40)
                        answer = await (await ask(tagged("late"))).answer(10.0)
                        if answer.status == 429:
                            told.append(int(answer.header("retry-after-ms") or 0) / 1e3)
                        if len(told) == 3:
                            break
                assert told
                assert 10 < rate < 21
                for wait_s in told:
                    assert 0.75 * 40 / rate <= wait_s <= 1.35 * 40 / rate, (told, rate)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for client in clients:
                    client.close()


@pytest.mark.together
class TestDrain:
    """The gateway stops while requests wait: they have the drain's time like all others."""

    async def test_J9_drain_lets_the_queue_go(self) -> None:
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, drain_timeout_s=10.0) as gw,
            asking(gw) as ask,
        ):
            asked = [await ask(tagged(tag)) for tag in ("a",)]
            await engine.has("a")
            for number, tag in enumerate("bc"):
                asked.append(await ask(tagged(tag)))
                await waiting(gw, number + 1)
            stopping = asyncio.create_task(gw.gateway.stop())
            await gw.until("draining", lambda: gw.gateway.core is not None and gw.gateway.core.draining)
            engine.auto_s = 0.0
            engine.finish()
            answers = [await one.answer() for one in asked]
            assert [answer.status for answer in answers] == [200, 200, 200]
            assert {answer.header("connection") for answer in answers} == {"close"}
            await stopping
            assert engine.order == ["a", "b", "c"]

    async def test_J9_drain_time_over(self) -> None:
        async with (
            Gate() as engine,
            running([engine.url], **QUIET, engine_max_concurrent=1, drain_timeout_s=0.3) as gw,
            asking(gw) as ask,
        ):
            asked = [await ask(tagged("a"))]
            await engine.has("a")
            for number in range(3):
                asked.append(await ask(tagged("never")))
                await waiting(gw, number + 1)
            begun = time.monotonic()
            await gw.gateway.stop()
            assert time.monotonic() - begun < 2.0
            answers = [await one.answer() for one in asked]
            assert [(answer.status, answer.error["code"]) for answer in answers] == [(503, "shutting_down")] * 4
            assert engine.order == ["a"]  # giving up one did not send the next


    async def test_J9_sigterm(self, tmp_path: Path) -> None:
        """The process itself: SIGTERM while one is under way and three wait; all are served, and it ends with 0."""
        async with Gate() as engine, serve(tmp_path, engine.url, "--engine-max-concurrent", "1") as gateway:
            clients = [await RawClient.connect("127.0.0.1", gateway.port) for _ in range(4)]
            try:
                await clients[0].send(tagged("a"))
                await engine.has("a")
                for client in clients[1:]:
                    await client.send(tagged("b"))
                await asyncio.sleep(0.1)  # they wait, or will at once: the process reads what is there before a signal
                gateway.process.send_signal(signal.SIGTERM)
                await gateway.until("it drains", lambda: gateway.said("draining"))
                engine.auto_s = 0.0
                engine.finish()
                assert [(await client.read_response()).status for client in clients] == [200] * 4
                await gateway.gone()
                assert gateway.process.returncode == 0
            finally:
                for client in clients:
                    client.close()

    @pytest.mark.deadline_s(60)
    async def test_J9_memory_returns(self, tmp_path: Path) -> None:
        """A thousand requests of 50 kB that waited and left cost the process nothing that stays."""
        flags = ("--engine-max-concurrent", "1", "--rate-limit-per-second", "0", "--warm-connections", "0")
        data = tagged("b", content="x" * 50_000)
        async with (
            Gate() as engine,
            served(tmp_path, "--engine", engine.url, *flags) as gateway,
            RawClient.connect("127.0.0.1", gateway.port) as first,
        ):
            await first.send(tagged("a"))
            await engine.has("a")

            async def crowd() -> None:
                clients = [await gateway.client() for _ in range(100)]
                for client in clients:
                    await client.send(data)
                await asyncio.sleep(0.05)
                for client in clients:
                    client.close()
                await asyncio.sleep(0.05)

            # The most that a few crowds leave behind: how many wait at once is chance, and so is what the allocator keeps.
            base = 0
            for _ in range(6):
                await crowd()
                base = max(base, await gateway.settled_rss_bytes())
            for _ in range(10):
                await crowd()
            assert await gateway.settled_rss_bytes() - base < 5 << 20
            engine.finish()
            assert (await first.read_response()).status == 200
            assert engine.order == ["a"]


class TestEngineOfOne:
    async def test_J9_a_dead_engine_is_not_waited_for(self) -> None:
        """Where no engine is fit there is nothing to wait for: it is said at once."""
        async with Gate() as engine, Gate() as other:
            engines = [EngineConfig(url=engine.url, models=["a"]), EngineConfig(url=other.url, models=["b"])]
            async with running(engines, **QUIET, engine_max_concurrent=1) as gw, asking(gw) as ask:
                await engine.die()
                begun = time.monotonic()
                answers = [await (await ask(tagged("x", "a"))).answer() for _ in range(8)]
                assert {answer.status for answer in answers} <= {502, 503}
                assert time.monotonic() - begun < 1.0
                well = await ask(tagged("y", "b"))
                await other.has("y")
                other.finish()
                assert (await well.answer()).status == 200


@pytest.mark.parametrize("leave", ["fin", "reset"])
async def test_J9_I1_an_upload_that_waits_is_seen_to_leave(leave: str) -> None:
    """It is held back while it waits, so that nothing is read that could tell: the kernel does."""
    async with (
        Gate() as gate,
        running([EngineConfig(url=gate.url, max_concurrent=1)]) as gw,
        await gw.client() as first,
        await gw.client() as second,
    ):
        await first.send(chat())
        await gw.until("one is at the engine", lambda: len(gate.held) == 1)
        head = (
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: g\r\ncontent-type: multipart/form-data; boundary=b\r\n"
            'content-length: 5000000\r\n\r\n--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\n'
            'content-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        )
        await second.send(head.encode() + b"x" * 30_000)
        await gw.until("it waits", lambda: gw.stats.queue_waiting_open == 1)
        if leave == "fin":
            second.shutdown_write()
        else:
            second.reset()
        await gw.until("its place is free", lambda: gw.stats.queue_waiting_open == 0, 0.5)
        await gw.until("its record is there", lambda: any(one["status"] == 499 for one in gw.records), 0.5)
        gate.finish()
        assert (await first.read_response()).status == 200
        assert len(gate.order) == 1, "the engine has never heard of it"


async def test_J9_one_tenant_does_not_keep_another_out() -> None:
    """The queue is full of one tenant's requests: the newest of them gives way, and nothing of the other's is refused."""
    keys = ("sk-many", "sk-few")
    async with Gate() as gate, running([EngineConfig(url=gate.url, max_concurrent=1)], api_keys=keys, queue_size=4) as gw:
        async with asking(gw) as ask:
            many = [await ask(tagged(f"many{number}", key="sk-many")) for number in range(5)]
            await waiting(gw, 4)
            few = await ask(tagged("few", key="sk-few"))
            newest = await many[-1].answer()
            judge_refusal(newest, 429, "queue_full", "rate_limit_error")
            assert "tenant" in newest.error["message"]
            await waiting(gw, 4)
            late = await ask(tagged("late", key="sk-many"))
            judge_refusal(await late.answer(), 429, "queue_full", "rate_limit_error")
            for _ in range(5):
                await gw.until("one is at the engine", lambda: len(gate.held) == 1)
                gate.finish()
                await gw.until("it has gone", lambda: not gate.held or gate.held[0].let.is_set() is False)
            assert [(await one.answer()).status for one in (*many[:-1], few)] == [200] * 5
        assert "few" in gate.order
        assert not {"many4", "late"} & set(gate.order)
