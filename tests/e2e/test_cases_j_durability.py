"""J3: what was used, and which keys there are, through kills and restarts."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.e2e.durability import (
    ADMIN,
    FLUSH_S,
    TOKENS,
    _one_day,  # noqa: F401 - for all that is here
    durable,
    life,
    make_key,
    sound,
    written,
)
from tests.e2e.metered import ask, estimate, prompt_tokens, say
from tests.support.client import NoResponse, RawClient, request

pytestmark = pytest.mark.once  # the store and the control listener have no twins
COST = prompt_tokens() + TOKENS
OVER = estimate() - prompt_tokens()  # what is expected beyond it
DUE_S = FLUSH_S + 0.25 + 0.4  # the gateway looks four times a second; and this machine is shared


class Load:
    """Clients that ask one thing after the other until their gateway is gone."""

    def __init__(self, url: str, key: str, clients: int = 4) -> None:
        self.sent = self.answered = 0
        self.samples: list[tuple[float, int]] = []  # what /v1/usage said, and when it had said it
        self._url = url
        self._key = key
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]
        self._tasks.append(asyncio.create_task(self._watch()))

    async def over(self) -> None:
        """All have noticed that the gateway is gone."""
        async with asyncio.timeout(10.0):
            await asyncio.gather(*self._tasks)

    def counted(self, before: float) -> int:
        """What had been counted at that time, as far as was asked."""
        return max((count for at, count in self.samples if at <= before), default=0)

    async def _client(self, number: int) -> None:
        data = say(TOKENS, key=self._key, stream=bool(number % 2))
        try:
            async with RawClient.connect(self._url) as client:
                while True:
                    self.sent += 1
                    await client.send(data)
                    answer = await client.read_response()
                    if not answer.complete:
                        return
                    assert answer.status == 200, answer.body
                    self.answered += 1
                    await asyncio.sleep(0.002)  # others use this machine too
        except (NoResponse, OSError):
            return

    async def _watch(self) -> None:
        data = request("GET", "/v1/usage", key=self._key)
        try:
            async with RawClient.connect(self._url) as client:
                while True:
                    answer = await ask(client, data)
                    if not answer.complete:
                        return
                    self.samples.append((monotonic(), answer.json()["requests"]))
                    await asyncio.sleep(0.01)
        except (NoResponse, OSError):
            return


async def test_J3_five_kills_under_load(tmp_path: Path) -> None:
    await kills_under_load(tmp_path, 5)


@pytest.mark.soak
@pytest.mark.deadline_s(120)
async def test_J3_twenty_kills_under_load(tmp_path: Path) -> None:
    await kills_under_load(tmp_path, 20)


async def kills_under_load(tmp_path: Path, times: int) -> None:
    """Lost is at most what was used since the last writing; nothing is counted twice or in part; the file stays sound."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    id, key = make_key(tmp_path, "--daily-tokens", str(10**9))
    least = most = served = lost = 0  # of the key's requests: what a new life must find
    async with Simulator(SimConfig(record=0)) as sim:
        for number in range(times):
            if number % 5 == 4:
                async with life(tmp_path, sim.url, wait=False) as dying:  # perhaps before it has read anything
                    await asyncio.sleep(chance.uniform(0.0, 0.3))
                    await dying.end(signal.SIGKILL)
                continue
            async with life(tmp_path, sim.url) as one:
                found = await one.requests(key)
                assert least <= found <= most
                lost += served - found
                sound(one.state)
                load = Load(one.url, key)
                await asyncio.sleep(chance.uniform(0.05, 0.4) if number % 5 else 0.9)
                row = written(one.state, id)
                killed = monotonic()
                assert await one.end(signal.SIGKILL) == -signal.SIGKILL
                await load.over()
                if row:
                    durable(row, row["requests"])
                least = max(found, row["requests"] if row else 0, load.counted(killed - DUE_S))
                most = found + load.sent
                served = found + load.answered
                assert least <= most
        async with life(tmp_path, sim.url) as one:
            found = await one.requests(key)
            assert least <= found <= most
            assert found > 10 * times, "hardly anything was written: this proves nothing"
            assert await one.chat(key) == 200
            assert await one.end() == 0
            durable(written(one.state, id), found + 1)
            sound(one.state)
    print(f"{found} requests are there; of those that were answered, {lost} were not written down yet when their life ended")


class TestRestart:
    async def test_J3_a_restart_keeps_what_was_used_and_the_quota(self, tmp_path: Path) -> None:
        """Of keys of the store, of keys of the configuration, and through any number of restarts."""
        id, key = make_key(tmp_path, "--daily-tokens", str(3 * COST + OVER))
        settings: Any = {"GATEWAY_API_KEYS": "sk-configured"}
        async with Simulator() as sim:
            for round_ in range(3):
                async with life(tmp_path, sim.url, **settings) as one:
                    assert await one.requests(key) == round_
                    assert await one.requests("sk-configured") == 2 * round_
                    statuses = [await one.chat(who) for who in (key, "sk-configured", "sk-configured")]
                    assert statuses == [200, 200, 200]
                    assert (await one.usage(key))["quota_remaining"] == (2 - round_) * COST + OVER
                    assert await one.end() == 0
            async with life(tmp_path, sim.url, **settings) as one:
                assert await one.chat(key) == 429
                assert await one.chat("sk-configured") == 200
                assert (await one.usage(key))["quota_remaining"] == OVER
                async with RawClient.connect(one.control) as client:
                    shown = (await ask(client, request("GET", f"/admin/keys/{id}", key=ADMIN))).json()
                assert shown["usage"]["quota_remaining"] == OVER
                assert await one.end() == 0

    async def test_J3_without_any_key_usage_is_kept_too(self, tmp_path: Path) -> None:
        async with Simulator() as sim:
            for round_ in range(2):
                async with life(tmp_path, sim.url, DAILY_TOKEN_QUOTA=str(10 * COST)) as one:
                    assert await one.requests(None) == round_
                    assert await one.chat(None) == 200
                    assert (await one.usage(None))["quota_remaining"] == (9 - round_) * COST
                    assert await one.end() == 0

    async def test_J3_sigterm_writes_the_last_of_it(self, tmp_path: Path) -> None:
        """Also what a stream has used that ends while the gateway drains; nothing waits for the next writing."""
        id, key = make_key(tmp_path)
        async with Simulator(SimConfig(itl_ms=50)) as sim:
            async with life(tmp_path, sim.url, FASTGW_FLUSH_INTERVAL_S="3600") as one, RawClient.connect(one.url) as client:
                assert await one.chat(key) == 200
                await client.send(say(20, stream=True, key=key))
                head = await client.read_head()
                assert written(one.state, id) is None
                ending = asyncio.create_task(one.end())
                answer = await client.read_body(head)
                assert answer.events()[-1] == "[DONE]"
                assert await ending == 0
            assert not (one.state / "fastgw.db-journal").stat().st_size, "nothing is left to be undone"
            row = written(one.state, id)
            assert row == {"prompt": 2 * prompt_tokens(), "completion": TOKENS + 20, "requests": 2}
            sound(one.state)

    async def test_J3_one_gateway_to_a_folder(self, tmp_path: Path) -> None:
        """The second one says so in one line and ends; the first one is not disturbed, and its place is free afterwards."""
        _, key = make_key(tmp_path)
        async with Simulator() as sim:
            async with life(tmp_path, sim.url) as one:
                async with life(tmp_path, sim.url, wait=False) as two:
                    await two.until("it gives up", lambda: two.process.poll() is not None)
                    assert two.process.returncode == 1
                    told = two.log.read_text()
                    assert told.count("\n") == 1
                    assert f"another gateway (process {one.process.pid})" in told
                    assert str(one.state) in told
                assert await one.chat(key) == 200
                assert await one.metric("gateway_store_up") == 1
                await one.end(signal.SIGKILL)
            async with life(tmp_path, sim.url) as three:
                assert await three.chat(key) == 200
                assert await three.end() == 0
