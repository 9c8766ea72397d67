"""Another process takes a gateway's place (SIGUSR2): streams go on, nobody is refused, and what was used is counted once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.upgrade.crowd import Http1, Http2, Seen, Where, newcomers, request
from fastgw.sim import SimConfig, Simulator
from tests.e2e.durability import ADMIN, Life, life, make_key
from tests.support.client import RawClient
from tests.support.pki import Certificates

STREAMS = 20  # of each kind
TOKENS = 60
GONE = "the process before has ended"
IS_THERE = "upgrade: the new process is the gateway"


def pids(gw: Life) -> list[int]:
    """All processes that have been the gateway."""
    return [line["pid"] for line in gw.said("listening")]


async def upgrade(gw: Life, number: int = 1) -> int:
    """Have another process take over, and return when it has; its id."""
    os.kill(pids(gw)[-1], signal.SIGUSR2)
    await gw.until("it has taken over", lambda: len(gw.said(IS_THERE)) == number and len(pids(gw)) == number + 1)
    return pids(gw)[-1]


async def ended(pid: int) -> None:
    """Until that process is there no more. (Its parent may have ended before it.)"""
    for _ in range(1000):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not end")


@asynccontextmanager
async def upgradable(tmp_path: Path, engine: str, **env: str) -> AsyncIterator[Life]:
    """A gateway, of which whatever process is the last one ends with a drain."""
    env = {"FASTGW_KEEPALIVE_TIMEOUT_S": "5", **env}
    async with life(tmp_path, engine, **env) as gw:
        try:
            yield gw
        finally:
            for pid in reversed(pids(gw)):
                try:
                    os.kill(pid, signal.SIGTERM)
                except ProcessLookupError:
                    continue
                await ended(pid)


async def keeps_asking(kept: Http1, key: str) -> int:
    """One who keeps his connection asks again and again, until he is told that it ends with an answer; how often he has."""
    for count in range(1, 1000):
        await kept.ended
        assert kept.problem(False) == ""
        if kept.says_it_ends():
            return count
        await asyncio.sleep(0.2)
        kept.again(request(key, 1, False))
    raise AssertionError("he was never told")


def used(found: dict[str, Any]) -> tuple[int, int, int]:
    return found["requests"], found["prompt_tokens"], found["completion_tokens"]


class TestUnderLoad:
    """Streams by HTTP/1, by TLS and by HTTP/2 over it, and new connections all the time, by each of the two ways."""

    @pytest.mark.deadline_s(60)
    async def test_nobody_notices_and_each_token_is_counted_once(self, tmp_path: Path, certs: Certificates) -> None:
        """Twice in a row, with limits and a budget on, so that all of them are handed over, settled and given back."""
        limits = ("--tokens-per-minute", "10000000", "--daily-tokens", "10000000", "--requests-per-minute", "1000000",
                  "--concurrency", "500", "--budget", "1000000")  # fmt: skip
        _, key = make_key(tmp_path, *limits)
        path = str(tmp_path / "clients")
        shown = {"FASTGW_TLS_CERT_FILE": certs.gateway.cert, "FASTGW_TLS_KEY_FILE": certs.gateway.key}
        prices = {"FASTGW_PRICES": "sim|1|2|1"}
        h1, h2 = certs.trusting(), certs.trusting()
        h2.set_alpn_protocols(["h2"])
        async with (
            Simulator(SimConfig(itl_ms=40.0)) as engine,
            upgradable(tmp_path, engine.url, FASTGW_UNIX_SOCKET=path, **shown, **prices) as gw,
        ):
            port = int(gw.url.split()[0].rpartition(":")[2])
            places = [Where(unix=path), Where(port=port, tls=h1)]
            ones = [await place.connect(lambda: Http1(request(key, TOKENS, True))) for place in places for _ in range(STREAMS)]
            many = await Where(port=port, tls=h2).connect(lambda: Http2(key, STREAMS, TOKENS))
            kept = await places[0].connect(lambda: Http1(request(key, 1, False)))
            asks = asyncio.ensure_future(keeps_asking(kept, key))
            await asyncio.wait({many.begun, *(one.begun for one in ones)})
            seen, over = Seen(), asyncio.Event()
            crowd = asyncio.ensure_future(newcomers(places, key, 60.0, seen, over))
            await upgrade(gw)
            await upgrade(gw, 2)
            await asyncio.wait({many.ended, *(one.ended for one in ones)})
            over.set()
            await crowd
            assert [why for one in ones if (why := one.problem(True))] == []
            assert (many.broken(), many.goaways[0]) == ([], 2**31 - 1), "told so before it is meant (RFC 9113, 6.8)"
            assert (seen.failed, seen.well) == ([], seen.asked)
            await ended(pids(gw)[0])
            await ended(pids(gw)[1])
            requests = 3 * STREAMS + seen.well + await asks
            completion = 3 * STREAMS * TOKENS + requests - 3 * STREAMS
            async with RawClient.connect(path) as client:
                await client.send(f"GET /v1/usage HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
                found = (await client.read_response()).json()
            assert used(found) == (requests, requests * (found["prompt_tokens"] // requests), completion)
            assert (found["quota_reserved"], found["requests_under_way"]) == (0, 0)
            assert found["quota_remaining"] == 10_000_000 - found["total_tokens"]
            gw_pid = pids(gw)[-1]
            os.kill(gw_pid, signal.SIGTERM)
            await ended(gw_pid)
            assert not Path(path).exists(), "the last one leaves nothing behind"
