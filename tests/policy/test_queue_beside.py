"""Who waits for some of a model's engines alone: in lines beside the model's own, by the same rules."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

from fastgw.exchange.context import Strategy
from fastgw.exchange.phases import QUEUED
from fastgw.policy.lanes import MOST_BESIDE
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group
from tests.policy.test_queue import KEYS, world


class Rare(Strategy):
    """A request for model "3" may go to that engine alone. ``asked``: how often anything was."""

    asked = 0

    def pick(self, group: Group, tried: tuple[Pool, ...], exchange: Any) -> Pool | None:
        return next((pool for pool in reversed(self.able(group, exchange)) if pool not in tried and pool.engine.usable()), None)

    def able(self, group: Group, exchange: Any) -> tuple[Pool, ...]:
        self.asked += 1
        return group.pools[int(exchange.model) :][:1] if exchange.model.isdigit() else group.pools


async def test_who_waits_for_few_engines_goes_in_turn_by_class_and_tenant_and_costs_the_others_nothing() -> None:
    async with world([{"max_concurrent": 1}, {"max_concurrent": 100}], queue_size=1000) as made:
        rare = made.core.strategy = Rare()
        best = made.core.accounts.find(sha256(KEYS[2].encode()).digest())
        assert best is not None
        best.priority = 0
        first = made.arrive("0", KEYS[0])
        many = [int(made.arrive("0", KEYS[0], 4 * 600).request_id) for _ in range(200)]
        bob = int(made.arrive("0", KEYS[1], 4 * 600).request_id)
        urgent = int(made.arrive("0", KEYS[2]).request_id)
        rare.asked = 0
        for _ in range(10):
            made.end(made.arrive("b", KEYS[1]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert made.queue.waiting == 202
        assert rare.asked <= 10 * 5, "one of those who wait is looked at, not all"
        made.end(first)
        late = made.arrive("0", KEYS[0])  # before the look that gives the place away
        assert late.phase == QUEUED
        for _ in range(8):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            [one] = made.under_way
            made.end(one)
        order = made.gone[-8:]
        assert order[0] == urgent
        assert bob in order[1:4]
        assert [one for one in order if one in many] == many[:6]


async def test_lines_beside_a_queue_are_few_and_each_is_gone_with_its_last() -> None:
    """Whoever is of one kind too many waits all the same, and is let go."""
    kinds = MOST_BESIDE + 8
    engines = [{"max_concurrent": 1} for _ in range(kinds)]
    async with world([*engines, {"max_concurrent": 100}], queue_size=1000) as made:
        made.core.strategy = Rare()
        lane = made.arrive("b", KEYS[0]).lane
        for _ in range(2):
            for kind in range(kinds):
                made.arrive(str(kind), KEYS[kind % 3])
        left = made.arrive("0", KEYS[0])
        assert (made.queue.waiting, len(lane.beside)) == (kinds + 1, MOST_BESIDE + 1)
        made.leave(left)
        for _ in range(2 * kinds + 1):
            made.end(made.under_way[0])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert (made.queue.waiting, len(lane.beside), len(made.gone)) == (0, 0, 2 * kinds + 1)
