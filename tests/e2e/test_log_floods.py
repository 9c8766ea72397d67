"""What costs its sender nothing does not fill the log: so many lines of a kind in a second, then a number."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from time import monotonic
from typing import Any

import pytest

from fastgw import Config, Gateway
from tests.support.client import RawClient, chat, request
from tests.support.written import read_all

RATE = 5
COUNT = 400
KEY = "sk-tenant"
BODY = chat("m", key=KEY)

FLOODS = {
    "200 /liveness": request("GET", "/liveness"),
    "200 /health": request("HEAD", "/health"),
    "200 /healthz": request("GET", "/healthz"),
    "503 /readiness": request("GET", "/readiness"),
    "503 /ready": request("GET", "/ready"),
    "204 OPTIONS": request("OPTIONS", "/v1/models"),
    "404 unknown_url": request("GET", "/nowhere"),
}


async def told_of(
    flood_rate: int, data: bytes, *, left: bool = False, count: int = COUNT
) -> tuple[list[Any], list[Any], float]:
    """(access lines, lines about what was left out, seconds that it took) of so many requests for ``data``."""
    config = Config(engines=[], port=0, api_keys=[KEY], rate_limit_per_second=0, drain_timeout_s=0.2)
    with read_all(True, flood_rate=flood_rate) as (log, pieces):
        log.start(asyncio.get_running_loop())
        began = monotonic()
        async with Gateway(config, log=log, access=log) as gateway:
            if left:
                for _ in range(count):
                    async with RawClient.connect(gateway.url) as client:
                        await client.send(data[:-1])
                        await asyncio.sleep(0.002)
            else:
                async with RawClient.connect(gateway.url) as client:
                    for _ in range(count // 20):
                        await client.send(data * 20)
                        for _ in range(20):
                            await client.read_response(head_only=data.startswith(b"HEAD"))
        took = monotonic() - began
    lines = [json.loads(line) for line in b"".join(pieces).splitlines()]
    return (
        [line for line in lines if line["message"] == "request"],
        [line for line in lines if line["message"] == "lines left out"],
        took,
    )


def counted(left_out: list[Any]) -> Counter[str]:
    """What was left out, by kind."""
    kinds: Counter[str] = Counter()
    for line in left_out:
        of_line = {kind: int(count) for kind, count in (one.rsplit(": ", 1) for one in line["kinds"].split(", "))}
        assert line["count"] == sum(of_line.values())
        kinds.update(of_line)
    return kinds


@pytest.mark.parametrize("kind", FLOODS)
async def test_so_many_lines_and_then_a_number(kind: str) -> None:
    written, left_out, took = await told_of(RATE, FLOODS[kind])
    assert {line["status"] for line in written} == {int(kind.split()[0])}
    assert RATE <= len(written) <= RATE * (took + 2)
    assert counted(left_out) == {kind: COUNT - len(written)}


async def test_requests_that_their_client_ended_before_an_engine_had_them() -> None:
    written, left_out, took = await told_of(RATE, BODY, left=True, count=60)
    assert {(line["status"], line["outcome"]) for line in written} == {(499, "client_closed")}
    assert RATE <= len(written) <= RATE * (took + 2)
    assert counted(left_out) == {"499 client_closed": 60 - len(written)}


@pytest.mark.parametrize("kind", ["200 /liveness", "204 OPTIONS", "404 unknown_url"])
async def test_all_of_them_where_there_is_no_rate(kind: str) -> None:
    written, left_out, _ = await told_of(0, FLOODS[kind])
    assert (len(written), left_out) == (COUNT, [])


async def test_what_a_key_was_used_for_is_always_logged() -> None:
    written, left_out, _ = await told_of(RATE, request("GET", "/v1/models", key=KEY))
    assert (len(written), left_out) == (COUNT, [])
