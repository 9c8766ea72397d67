"""One gateway takes another's place, and a runner has dialled in: it serves both, until the first has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest

from fastgw.net.ws_wire import CLOSE_S
from fastgw.upstream.runners import GRACE_S
from tests.e2e.agents import agent, there
from tests.e2e.paced import ANSWER, WHOLE, Paced
from tests.e2e.test_hand_over import config_of, make, say, successor, usage
from tests.support.client import chat
from tests.support.gateway import running
from tests.support.runners import TOKEN


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "address"])
async def test_a_runner_serves_the_other_one_at_once_and_what_is_under_way_to_its_end(tmp_path: Path, tunnel: bool) -> None:
    """Who comes is answered within a second, by the one process or the other; and what streams hold of an engine's places they
    hold at the new one."""
    paced = Paced()
    settings: dict[str, Any] = {
        "runner_auth_token": TOKEN, "runner_allowed_networks": ["127.0.0.0/8"], "state_dir": str(tmp_path),
        "flush_interval_s": 0.05, "keepalive_timeout_s": 5.0, "engine_max_concurrent": 2,
    }  # fmt: skip
    async with paced.engine as engine, running([], **settings) as gw, agent(gw.url, engine.url, tunnel=tunnel) as one:
        key = await make(gw)
        await gw.until("it is there", lambda: there(gw) == ["r1"])
        client, kept = await gw.client(), await gw.client()
        await client.send(chat("sim", stream=True, key=key, max_tokens=50))
        head = await client.read_until(await client.read_head(), b"one")
        assert (await kept.ask(chat("sim", key=key))).status == 200
        new = msgspec.structs.replace(config_of("http://127.0.0.1:9", **settings), engines=())
        began = monotonic()
        async with successor(gw, new) as other:
            while await say(other.url, key) != 200:
                assert monotonic() - began < 1.0, "nobody answers"
                await asyncio.sleep(0.02)
            (pool,) = other.gateway.fleet.pools
            assert pool.engine.inflight == 1
            await asyncio.sleep(max(GRACE_S, CLOSE_S) + 0.3)  # (longer than one who is away, or does not answer, is waited for)
            assert (await kept.ask(chat("sim", key=key))).status == 200, "his last one, at the old process"
            paced.go.set()
            await client.read_body(head)
            assert (head.complete, head.events()[-1]) == (True, "[DONE]")
            kept.close()
            client.close()
            await other.until("the one before has let it go", lambda: len(one.link._all) == 1, 10.0)
            assert await say(other.url, key) == 200
            found = await usage(other.url, key)
            assert (found["requests"], found["completion_tokens"], pool.engine.inflight) == (5, ANSWER + 4 * WHOLE, 0)
