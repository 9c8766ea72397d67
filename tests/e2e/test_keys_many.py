"""Very many keys: whoever pages through them does not hold up traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import pytest

from fastgw.sim import Simulator
from fastgw.store import place
from fastgw.store.database import Database
from tests.e2e.durability import ADMIN, Life, life
from tests.e2e.metered import ask
from tests.store.crowd import fill
from tests.support.client import RawClient, request

MANY = 20_000


def filled(folder: Path) -> None:
    state = folder / "disk" / "state"
    place.claim(str(state))
    database = Database.open(str(state / "fastgw.db"))
    fill(database, MANY, deleted=False)
    database.close()


async def while_(one: Life, work: Callable[[RawClient], Awaitable[object]]) -> tuple[list[float], int]:
    """How long ``/liveness`` takes (seconds, in order) while ``work`` is done for two seconds, and how often that was."""
    done = 0
    over = False

    async def worker() -> None:
        nonlocal done
        async with RawClient.connect(one.control) as client:
            while not over:
                await work(client)
                done += 1

    working = asyncio.create_task(worker())
    took: list[float] = []
    async with RawClient.connect(one.url) as client:
        end = perf_counter() + 2.0
        while perf_counter() < end:
            begin = perf_counter()
            assert (await ask(client, request("GET", "/liveness"))).status == 200
            took.append(perf_counter() - begin)
            await asyncio.sleep(0.002)
    over = True
    await working
    return sorted(took), done


@pytest.mark.once
@pytest.mark.quiet
@pytest.mark.deadline_s(60)
async def test_whoever_pages_through_very_many_keys_holds_up_nobody(tmp_path: Path) -> None:
    filled(tmp_path)
    after = ""

    async def page(client: RawClient) -> None:
        nonlocal after
        answer = await ask(client, request("GET", f"/admin/keys?limit=10&after={after}", key=ADMIN))
        found = answer.json()
        assert len(found["data"]) == 10 or not found["has_more"]
        after = found["last_id"] or ""

    async def nothing(client: RawClient) -> None:
        await asyncio.sleep(0.01)

    async with Simulator() as sim, life(tmp_path, sim.url) as one:
        alone, _ = await while_(one, nothing)
        busy, pages = await while_(one, page)
        told = [f"{took[len(took) // 2] * 1e3:.2f} / {took[len(took) * 99 // 100] * 1e3:.2f} ms" for took in (alone, busy)]
        print(f"liveness p50 / p99: alone {told[0]}, beside {pages} pages {told[1]}")
        assert pages > 400, "a page takes 5 ms at most"
        assert busy[len(busy) * 99 // 100] < 0.01 + alone[len(alone) * 99 // 100]
        assert await one.end() == 0
