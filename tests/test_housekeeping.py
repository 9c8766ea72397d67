"""What was used is handed to the store in pieces that the loop can bear, and nothing of it is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from fastgw.housekeeping import MOST_KEYS, Housekeeping
from fastgw.limits.account import Account
from fastgw.limits.key import UsageRow


class Store:
    """Keeps the batches; the test says how each went."""

    def __init__(self) -> None:
        self.batches: list[Sequence[UsageRow]] = []
        self.done: Callable[[bool], None] | None = None

    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None]) -> bool:
        assert self.done is None, "one batch at a time"
        self.batches.append(rows)
        self.done = done
        return True

    def finish(self, well: bool) -> None:
        done, self.done = self.done, None
        assert done is not None
        done(well)


def keeping(count: int) -> tuple[Housekeeping, Store, Any]:
    accounts = [Account(f"key_{number}") for number in range(count)]
    for account in accounts:
        account.ledger.settle(20_000, 0, 3, 4, False)
    core: Any = SimpleNamespace(accounts=SimpleNamespace(touched=list(accounts)), stats=SimpleNamespace(store_failures=0))
    store = Store()
    loop = asyncio.get_running_loop()
    return Housekeeping(core, loop, meters=None, store=store, flush_s=1.0), store, core


async def test_many_keys_go_in_pieces_one_after_the_other() -> None:
    house, store, core = keeping(2 * MOST_KEYS + 7)
    house.flush()
    for _ in range(3):
        store.finish(True)
    assert [len(batch) for batch in store.batches] == [MOST_KEYS, MOST_KEYS, 7]
    assert len({row[0] for batch in store.batches for row in batch}) == 2 * MOST_KEYS + 7
    assert core.accounts.touched == []
    assert store.done is None, "nothing is left to be written"


async def test_what_failed_waits_for_the_next_time_and_is_all_written_then() -> None:
    house, store, core = keeping(MOST_KEYS + 1)
    house.flush()
    store.finish(False)
    assert core.stats.store_failures == 1
    assert store.done is None, "a sick disk is not asked again at once"
    assert len(core.accounts.touched) == MOST_KEYS + 1
    house.flush()
    store.finish(True)
    store.finish(True)
    assert {row[0] for batch in store.batches[1:] for row in batch} == {f"key_{number}" for number in range(MOST_KEYS + 1)}
    assert core.accounts.touched == []


async def test_what_is_used_while_a_batch_is_written_goes_with_the_next() -> None:
    house, store, core = keeping(1)
    account = core.accounts.touched[0]
    house.flush()
    account.ledger.settle(20_000, 0, 10, 0, False)
    store.finish(True)
    house.flush()
    assert store.batches[1] == [("key_0", 20_000, 13, 4, 2, 0, 0, 0)]
    store.finish(True)
    assert core.accounts.touched == []
