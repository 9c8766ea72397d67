"""Very many keys: whoever pages through them, changes them or replaces them all does not hold up traffic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import pytest

from fastgw.limits.key import KeyRecord
from fastgw.sim import Simulator
from fastgw.store import place
from fastgw.store.database import Database
from tests.e2e.metered import ask
from tests.e2e.test_cases_j_durability import ADMIN, Life, life
from tests.store.crowd import fill
from tests.support.client import RawClient, request

MANY = 20_000
OTHERS = 10_000


def filled(folder: Path, count: int) -> list[KeyRecord]:
    state = folder / "disk" / "state"
    place.claim(str(state))
    database = Database.open(str(state / "fastgw.db"))
    records = fill(database, count, deleted=False)
    database.close()
    return records


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


@pytest.mark.quiet
@pytest.mark.deadline_s(60)
async def test_whoever_pages_through_very_many_keys_holds_up_nobody(tmp_path: Path) -> None:
    filled(tmp_path, MANY)
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


@pytest.mark.once
@pytest.mark.deadline_s(60)
async def test_a_file_that_takes_the_place_of_the_one_before_is_taken_over_in_turns(tmp_path: Path) -> None:
    """All keys go and as many others come, from one look to the next; requests are answered meanwhile."""
    records = filled(tmp_path, OTHERS)
    state = tmp_path / "disk" / "state"
    other = tmp_path / "other"
    place.claim(str(other))
    database = Database.open(str(other / "fastgw.db"))
    theirs = fill(database, OTHERS, deleted=False)
    assert theirs == records
    database.change("UPDATE keys SET disabled = 1")
    database.close()
    async with Simulator() as sim, life(tmp_path, sim.url) as one:
        slowest = 0.0
        async with RawClient.connect(one.url) as client:
            (other / "fastgw.db").rename(state / "fastgw.db")
            (state / "fastgw.db-journal").unlink()
            while not (told := one.said("keys changed")):
                begin = perf_counter()
                assert (await ask(client, request("GET", "/liveness"))).status == 200
                slowest = max(slowest, perf_counter() - begin)
                await asyncio.sleep(0.005)
        print(f"the slowest of the probes: {slowest * 1e3:.1f} ms")
        assert [line["keys"] for line in told] == [OTHERS]
        async with RawClient.connect(one.control) as client:
            answer = await ask(client, request("GET", f"/admin/keys/{records[7].id}", key=ADMIN))
        assert json.loads(answer.body)["disabled"] is True
        assert await one.end() == 0
        assert slowest < 0.12, "a quarter of a second of work must not be done in one go"
