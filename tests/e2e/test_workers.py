"""One gateway in several processes: clients meet one, whoever serves them; a worker that ends takes its own connections."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.upgrade.crowd import Http1, Seen, Where, newcomers, request
from tests.e2e.durability import ADMIN, Life, life, make_key
from tests.e2e.metered import ask
from tests.e2e.paced import ANSWER, PROMPT, WHOLE, Paced
from tests.support.client import RawClient
from tests.support.client import request as raw

MONEY = {"FASTGW_PRICES": "sim|1|2|1"}


def workers(gw: Life) -> dict[int, int]:
    """The pid of each that serves now, by its number."""
    found: dict[int, int] = {}
    for line in gw.lines():
        if "worker" in line and line["message"] == "listening":
            found[line["worker"]] = line["pid"]
    return found


@asynccontextmanager
async def several(tmp_path: Path, engine: str, **env: str) -> AsyncIterator[Life]:
    """Two workers; at the end all drain, and none is left."""
    async with life(tmp_path, engine, errors=True, FASTGW_WORKERS="2", FASTGW_KEEPALIVE_TIMEOUT_S="5", **env) as gw:
        yield gw
        assert await gw.end() == 0
        assert not any([await asyncio.to_thread(os.path.exists, f"/proc/{pid}") for pid in workers(gw).values()])


async def admin(gw: Life, method: str, path: str, body: Any = None) -> Any:
    async with RawClient.connect(gw.control) as client:
        data = json.dumps(body).encode() if body is not None else b""
        answer = await ask(client, raw(method, path, key=ADMIN, body=data))
    assert answer.status < 300, answer.body
    return answer.json() if answer.body else None


async def under_way(gw: Life, key: str, count: int) -> list[Http1]:
    place = Where(port=int(gw.url.rpartition(":")[2]))
    ones = [await place.connect(lambda: Http1(request(key, 50, True))) for _ in range(count)]
    await asyncio.wait({one.begun for one in ones})
    return ones


@pytest.mark.deadline_s(60)
async def test_whoever_serves_it_is_one_gateway(tmp_path: Path) -> None:
    """Keys, usage, limits, figures and the state are one; a worker that is killed, asked to end, or replaced loses nothing that
    another has, and nobody who comes is refused."""
    limits = ("--tokens-per-minute", "10000000", "--daily-tokens", "10000000", "--concurrency", "500", "--budget", "1000000")
    key_id, key = make_key(tmp_path, *limits)
    paced = Paced()
    async with paced.engine as engine, several(tmp_path, engine.url, **MONEY) as gw:
        port = int(gw.url.rpartition(":")[2])
        await gw.until("both have said so", lambda: len(workers(gw)) == 2)
        made = await admin(gw, "POST", "/admin/keys", {"name": "other"})
        for _ in range(10):  # (on connections that go to either)
            assert await gw.chat(made["key"]) == 200
        ones = await under_way(gw, key, 24)
        assert await gw.metric("gateway_active_requests") == 24
        engines = (await admin(gw, "GET", "/admin/engines"))["data"]
        assert [one["inflight"] for one in engines] == [24]
        assert (await gw.usage(key))["requests_under_way"] == 24
        seen, over = Seen(), asyncio.Event()
        crowd = asyncio.ensure_future(newcomers([Where(port=port)], key, 60.0, seen, over))
        # Killed: its own streams break, and what they held is free.
        before = workers(gw)
        os.kill(before[1], signal.SIGKILL)
        await gw.until("another is there", lambda: workers(gw)[1] != before[1])
        broken = [one for one in ones if one.ended.done()]
        whole = [one for one in ones if not one.ended.done()]
        assert broken
        assert whole
        held = len(whole)
        for _ in range(200):
            if (found := await gw.usage(key))["requests_under_way"] <= held + 8:  # (the crowd's)
                break
            await asyncio.sleep(0.02)
        assert found["requests_under_way"] <= held + 8
        # Asked to end: it ends what it has.
        before = workers(gw)
        os.kill(before[2], signal.SIGTERM)
        await gw.until("it takes nobody else", lambda: gw.said("retiring"))
        paced.go.set()
        await asyncio.wait({one.ended for one in whole})
        await gw.until("another is there", lambda: workers(gw)[2] != before[2])
        # Replaced.
        before = workers(gw)
        gw.process.send_signal(signal.SIGUSR2)
        await gw.until("others are there", lambda: not set(workers(gw).values()) & set(before.values()))
        await asyncio.sleep(0.2)
        over.set()
        await crowd
        assert [why for one in whole if (why := one.problem(True))] == []
        lost = len([one for one in seen.failed if one])
        assert lost <= 20, "those that the killed worker had"
        found = await gw.usage(key)
        assert (found["quota_reserved"], found["requests_under_way"]) == (0, 0)
        requests = found["requests"]
        assert found["prompt_tokens"] == PROMPT * requests
        assert requests >= len(whole) + seen.well
        assert found["quota_remaining"] == 10_000_000 - found["total_tokens"]
        assert found["completion_tokens"] >= ANSWER * len(whole) + WHOLE * seen.well
        # And so it stands in the state, and in the figures.
        shown = await admin(gw, "GET", f"/admin/keys/{key_id}")
        assert shown["usage"]["requests"] == requests
        assert await gw.metric("gateway_active_requests") == 0
        assert not [line for line in gw.lines() if line["level"] == "error" and "a worker has ended" not in line["message"]]


@pytest.mark.once
@pytest.mark.deadline_s(60)
async def test_settings_and_engines_hold_in_all(tmp_path: Path) -> None:
    """A bad file changes nothing anywhere; a good one, and what the operator does, holds in each when that is answered."""
    paced = Paced()
    written = tmp_path / "gw.toml"
    written.write_text("max_retries = 1\n")
    env = {"API_KEYS": "k" * 16, "RATE_LIMIT_PER_SECOND": "1", "FASTGW_RATE_LIMIT_BURST": "60"}
    async with paced.engine as engine, several(tmp_path, engine.url, FASTGW_CONFIG=str(written), **env) as gw:
        written.write_text("max_retries = 1\nno_setting = 2\n")
        gw.process.send_signal(signal.SIGHUP)
        await gw.until("it is told", lambda: gw.said("the configuration was not taken over"))
        assert await gw.chat("k" * 16) == 200
        written.write_text("max_body_bytes = 1024\n")
        assert (await admin(gw, "POST", "/admin/reload"))["changed"]
        await admin(gw, "POST", "/admin/engines", {"url": engine.url, "name": "b", "models": ["b"]})
        body = json.dumps({"model": "b", "messages": [{"role": "user", "content": "x"}]}).encode()
        for _ in range(8):
            async with RawClient.connect(gw.url) as client:
                answer = await ask(client, raw("POST", "/v1/chat/completions", key="k" * 16, body=body))
                assert answer.status == 200, answer.body
                long = raw("POST", "/v1/chat/completions", key="k" * 16, body=b"{" + b" " * 2000 + b"}")
                assert (await ask(client, long)).status == 413
        os.kill(workers(gw)[1], signal.SIGKILL)
        await gw.until("another is there", lambda: len([line for line in gw.said("listening") if line.get("worker") == 1]) == 2)
        for _ in range(8):  # who has begun since knows of it
            async with RawClient.connect(gw.url) as client:
                assert (await ask(client, raw("POST", "/v1/chat/completions", key="k" * 16, body=body))).status == 200
        await admin(gw, "DELETE", "/admin/engines/b")
        statuses = []
        for _ in range(80):  # (of one address, over both)
            async with RawClient.connect(gw.url) as client:
                statuses.append((await ask(client, raw("GET", "/v1/models", key="k" * 16))).status)
        assert 20 <= statuses.count(200) < 55, "what is left of 60"
