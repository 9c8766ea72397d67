"""CASES, group J, row J9 (and I1's "queued"): the queue that clients leave, whose engine dies, or whose gateway stops."""

from __future__ import annotations

import asyncio
import signal
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.limits.account import Account
from tests.e2e.gate import QUIET, Gate, asking, tagged, waiting
from tests.e2e.served import served
from tests.e2e.test_cases_k_process import serve
from tests.support.client import RawClient, chat
from tests.support.gateway import Running, running


def account_of(gw: Running, key: str) -> Account:
    core = gw.gateway.core
    assert core is not None
    found = core.accounts.find(sha256(key.encode()).digest())
    assert found is not None
    return found


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


@pytest.mark.together
class TestDrain:
    """The gateway stops while requests wait: they have the drain's time like all others."""

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

            # How many of a crowd's 5 MB are there at once is chance, and the allocator keeps what the largest crowd took:
            # two crowds' worth may stay, ten were there.
            await crowd()
            base = await gateway.settled_rss_bytes()
            for _ in range(10):
                await crowd()
            assert await gateway.settled_rss_bytes() - base < 100 * len(data) * 2
            engine.finish()
            assert (await first.read_response()).status == 200
            assert engine.order == ["a"]


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
