"""Requests under way: the caps that count them until their last byte, and the order of those that wait for a place.

The engines are asked how many they had at once; the gateway's own counters are looked at for what must return to zero.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from fastgw.config import RouteConfig
from fastgw.sim import SimConfig, Simulator
from tests.e2e.gate import QUIET, Gate, asking, tagged, waiting
from tests.e2e.test_cases_j_queue_left import account_of, leave
from tests.support.client import RawClient, chat, request
from tests.support.gateway import Running, running

pytestmark = pytest.mark.together  # next to all of their time is waiting


class Peak:
    """The most requests that a simulated engine had at once, those in its own queue included."""

    def __init__(self, sim: Simulator) -> None:
        self.most = 0
        submit = sim.engine.submit

        def counted(job: Any) -> None:
            self.most = max(self.most, sim.state.running + sim.state.waiting + 1)
            submit(job)

        sim.engine.submit = counted  # type: ignore[method-assign]


async def stream_all(gw: Running, requests: Sequence[bytes]) -> list[int]:
    """Send all at once, each on a connection of its own; the statuses of the whole answers."""

    async def one(data: bytes) -> int:
        async with RawClient.connect("127.0.0.1", gw.port) as client:
            await client.send(data)
            answer = await client.read_response(20.0)
            assert answer.complete
            assert answer.status != 200 or answer.events()[-1] == "[DONE]"
            return answer.status

    return list(await asyncio.gather(*(one(data) for data in requests)))


CAPS: dict[str, tuple[dict[str, Any], int]] = {
    "global": ({"max_concurrent": 3}, 3),
    "key": ({"key_concurrency": 2}, 2),
    "route": ({"routes": [RouteConfig(model="sim", max_concurrent=4)]}, 4),
    "engine": ({"engine_max_concurrent": 5}, 5),
    "all of them": (
        {
            "max_concurrent": 6,
            "key_concurrency": 5,
            "routes": [RouteConfig(model="sim", max_concurrent=4)],
            "engine_max_concurrent": 3,
        },
        3,
    ),
}


class TestCaps:
    @pytest.mark.parametrize("name", ["all of them"])
    async def test_S5_09_a_stream_counts_until_its_last_byte(self, name: str) -> None:
        """Twenty-five streams, never more at the engine than the cap, and the cap is used."""
        settings, most = CAPS[name]
        async with (
            Simulator(SimConfig(itl_ms=2.0, ttft_ms=2.0)) as sim,
            running([sim.url], **QUIET, **settings, api_keys=["k"]) as gw,
        ):
            peak = Peak(sim)
            statuses = await stream_all(gw, [chat("sim", True, max_tokens=6, key="k") for _ in range(25)])
            assert statuses == [200] * 25
            assert peak.most == most
            await gw.idle()
            assert account_of(gw, "k").inflight == 0
        waited = [record["queued_s"] for record in gw.records]
        assert sum(one >= 0 for one in waited) == 25 - most
        assert max(waited) < 10

    @pytest.mark.parametrize("kind", ["tunnel", "upload"])
    async def test_S5_09_tunnels_and_uploads_count_too(self, kind: str) -> None:
        async with (
            Simulator(SimConfig(ttft_ms=1.0)) as sim,
            running([sim.url], **QUIET, engine_max_concurrent=1, max_concurrent=2, api_keys=["k"]) as gw,
            asking(gw) as ask,
        ):
            if kind == "tunnel":
                fields = [
                    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
                    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ]  # fmt: skip
                first = await ask(request("GET", "/v1/realtime?model=sim", headers=fields, key="k"))
                assert (await first.client.read_head()).status == 101
            else:
                part = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n--x\r\nContent-Disposition: '
                head = request(
                    "POST",
                    "/v1/audio/transcriptions",
                    headers=[("Content-Type", "multipart/form-data; boundary=x"), ("Content-Length", "5000")],
                    key="k",
                )
                first = await ask(head + part + b'form-data; name="file"; filename="f"\r\n\r\n' + b"x" * 1000)
                await gw.until("at the engine", lambda: gw.stats.upstream_open == 1)
            account = account_of(gw, "k")
            assert account.inflight == 1
            second = await ask(chat("sim", max_tokens=1, key="k"))
            await waiting(gw, 1)
            first.client.close()
            assert (await second.answer()).status == 200
            await gw.idle()
            assert account.inflight == 0


    async def test_S5_09_an_upload_waits_like_all_others(self) -> None:
        """It is held back, not read into memory, and arrives whole when its turn has come; one whose client leaves
        meanwhile gives its place back at once."""
        part = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n--x\r\nContent-Disposition: '
        file = part + b'form-data; name="file"; filename="f"\r\n\r\n' + bytes(range(256)) * 8000 + b"\r\n--x--\r\n"
        fields = [("Content-Type", "multipart/form-data; boundary=x"), ("Content-Length", str(len(file)))]
        head = request("POST", "/v1/audio/transcriptions", headers=[*fields, ("x-tag", "upload")])
        async with Gate() as engine, running([engine.url], **QUIET, engine_max_concurrent=1) as gw, asking(gw) as ask:
            await ask(tagged("a"))
            await engine.has("a")
            gone = await ask(head + file[:1000])
            await waiting(gw, 1)
            gone.client.close()
            await waiting(gw, 0)
            upload = await ask(head)
            sending = asyncio.create_task(upload.client.send(file))
            await waiting(gw, 1)
            await asyncio.sleep(0.1)
            assert gw.gateway.core is not None
            taken = [conn.stream.sink.bytes_in for conn in gw.gateway.core.connections if conn.stream.sink is not None]  # type: ignore[attr-defined]
            assert max(taken) < 1 << 20
            third = await ask(tagged("b"))
            await waiting(gw, 2)
            engine.finish()
            await engine.has("upload")
            engine.finish()
            await sending
            assert (await upload.answer()).status == 200
            assert engine.engine.requests[-1].body == file
            await engine.has("b")
            engine.finish()
            assert (await third.answer()).status == 200
            await gw.idle()
        assert sorted(record["status"] for record in gw.records) == [200, 200, 200, 499]


class TestGivenBack:
    """However a request ends, its places are free at once: the next one that waits is let go in the same moment."""

    @pytest.mark.parametrize("how", ["fin", "rst", "half-close", "engine dies"])
    async def test_S5_09_the_place_comes_back(self, how: str) -> None:
        settings = {"engine_max_concurrent": 1, "max_concurrent": 1, "key_concurrency": 1}
        fault = {"engine dies": "reset-after=300", "engine's error": "status=500"}.get(how)
        async with (
            Simulator(SimConfig(itl_ms=5.0)) as sim,
            running([sim.url], **QUIET, **settings, queue_size=1, api_keys=["k"]) as gw,
            asking(gw) as ask,
        ):
            account = account_of(gw, "k")
            for turn in range(3):
                headers = [("x-sim-fault", fault)] if fault else []
                tokens = 8 if how == "the end" else 2000
                first = await ask(chat("sim", True, max_tokens=tokens, key="k", headers=headers))
                if how in ("fin", "rst", "half-close"):
                    await first.client.read_until(await first.client.read_head(), b"\n\n")
                second = await ask(chat("sim", True, max_tokens=2, key="k"))
                if how in ("fin", "rst", "half-close"):
                    await waiting(gw, 1)
                    leave(first.client, how)
                else:
                    await first.client.read_response()
                begun = time.monotonic()
                answer = await second.answer()
                assert (answer.status, answer.events()[-1]) == (200, "[DONE]")
                assert time.monotonic() - begun < 1.0
                await gw.idle()
                assert (account.inflight, gw.stats.queue_waiting_open) == (0, 0)
                await gw.until("the engine is idle", lambda: sim.state.running == 0)
                assert len(gw.records) == 2 * (turn + 1)
            core = gw.gateway.core
            assert core is not None
            assert core.table.pools[0].engine.inflight == 0
