"""A thousand runners join, report every second, come and go: what a plain request to another engine notices of it.

``python -m pytest -s -m soak tests/soak/test_runners.py`` prints what it measures; the small one is in the suite.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.e2e.metered import say
from tests.e2e.served import Served, served
from tests.support.client import RawClient, request
from tests.support.ports import closed_port
from tests.support.runners import TOKEN

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(gateway: Served) -> float:
    """Seconds of a processor that it has used."""
    fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def asked(gateway: Served, seconds: float, pause_s: float) -> dict[str, float]:
    """What requests one after the other take, in milliseconds, and the gateway's share of a processor meanwhile."""
    took: list[float] = []
    began, used = time.monotonic(), cpu_s(gateway)
    async with RawClient.connect(gateway.url) as client:
        while time.monotonic() - began < seconds:
            at = time.perf_counter()
            await client.send(say(5, key=None, model="plain"))
            answer = await client.read_response()
            took.append((time.perf_counter() - at) * 1e3)
            assert answer.status == 200
            await asyncio.sleep(pause_s)
    took.sort()
    share = (cpu_s(gateway) - used) / (time.monotonic() - began)
    return {
        "requests": len(took), "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "worst": took[-1],
        "share": share,
    }  # fmt: skip


async def tried(tmp_path: Path, count: int, seconds: float, churn: int) -> dict[str, dict[str, float]]:
    """The figures alone, with ``count`` runners that report, and while some of them come and go."""
    engines_port = closed_port()
    settings: dict[str, Any] = {
        "RUNNER_AUTH_TOKEN": TOKEN, "RUNNER_ALLOWED_NETWORKS": "127.0.0.0/8", "FASTGW_HEALTH_INTERVAL_S": "60",
        "FASTGW_WARM_CONNECTIONS": "0", "FASTGW_RATE_LIMIT_PER_SECOND": "0", "FASTGW_MAX_CONNECTIONS": "4000",
    }  # fmt: skip
    async with (
        Simulator(SimConfig(models=("plain",))) as plain,
        served(tmp_path, "--engine", plain.url, env=settings) as gateway,
    ):
        found = {"alone": await asked(gateway, seconds, 0.002)}
        words = [sys.executable, "-m", "tests.soak.crowd_of_runners", gateway.url, str(count), str(engines_port), TOKEN]
        crowd = await asyncio.create_subprocess_exec(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        try:
            began, used = time.monotonic(), cpu_s(gateway)
            async with asyncio.timeout(60):
                assert (await crowd.stdout.readline()).strip() == b"joined"
            found["joining"] = {"seconds": time.monotonic() - began, "cpu_s": cpu_s(gateway) - used}
            await asyncio.sleep(seconds / 8)
            found["reporting"] = await asked(gateway, seconds, 0.002)
            crowd.stdin.write(b"leave %d\n" % churn)
            await asyncio.sleep(seconds / 16)
            found["churning"] = await asked(gateway, seconds, 0.002)
            crowd.stdin.close()
            async with asyncio.timeout(20):
                await crowd.wait()
            await gone(gateway)
        finally:
            if crowd.returncode is None:
                crowd.kill()
                await crowd.wait()
    return found


async def gone(gateway: Served) -> None:
    """All runners have left, and their models with them."""
    async with asyncio.timeout(10), RawClient.connect(gateway.url) as client:
        while True:
            await client.send(request("GET", "/v1/models"))
            if [one["id"] for one in (await client.read_response()).json()["data"]] == ["plain"]:
                return
            await asyncio.sleep(0.1)


async def test_runners_that_come_and_go_leave_requests_alone(tmp_path: Path) -> None:
    found = await tried(tmp_path, 100, 0.3, 20)
    assert found["churning"]["p50"] < found["alone"]["p50"] * 3 + 1.0


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_a_thousand_runners_cost_a_request_nothing_that_it_notices(tmp_path: Path) -> None:
    count = int(os.environ.get("RUNNERS", "1000"))
    found = await tried(tmp_path, count, 8.0, 20)
    for name, figures in found.items():
        print(f"{name:>10}", "  ".join(f"{what} {value:.3f}" for what, value in figures.items()))
    assert found["reporting"]["p50"] < found["alone"]["p50"] * 1.5 + 0.1
