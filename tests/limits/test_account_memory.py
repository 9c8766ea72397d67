"""What a key of the store takes of a gateway's memory: docs/limits.md says how much, and this holds it."""

from __future__ import annotations

import gc
import re
import tracemalloc
from pathlib import Path
from time import time
from typing import Any

import pytest

from fastgw.limits.account import Accounts, Defaults
from fastgw.store.database import Database
from fastgw.store.state import State
from fastgw.twins import native
from tests.store.crowd import fill
from tests.store.test_state import DAY, Log

COUNT = 5000
ROOT = Path(__file__).parents[2]

LISTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with the models and networks of many others": {
        "models": tuple(f"model {number}" for number in range(10)),
        "networks": ("10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"),
    },
}


@pytest.mark.parametrize("lists", LISTS)
def test_what_a_key_with_both_meters_takes(lists: str, tmp_path: Path) -> None:
    database = Database.open(str(tmp_path / "fastgw.db"))
    fill(database, COUNT, deleted=False, **LISTS[lists])
    database.close()
    state = State(str(tmp_path), log=Log())
    accounts = Accounts(Defaults(requests_per_minute=600, tokens_per_minute=100_000), (), required=True)
    gc.collect()
    tracemalloc.start()
    try:
        keys = state.open(DAY).keys
        while keys:  # as the gateway does
            accounts.apply(keys[-500:], 1_000_000_000_000, time())
            del keys[-500:]
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
        for number, account in enumerate(accounts.all()[1:]):
            assert account.requests is not None
            assert account.tokens is not None
            assert account.requests.take(1_000_000_000_000 + number, 1)
            assert account.tokens.take(1_000_000_000_000 + number, 3000)
            for day in (DAY, DAY + 1, DAY + 2):
                account.ledger.settle(day, 0, 1000 + number, 500 + number, True, 900 + number, 400 + number)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    state._file.close()
    assert len(accounts) == COUNT
    page = (ROOT / "docs/limits.md").read_text()
    told = re.search(r"keys \| .*: about (\S+) bytes each .*, (\S+) after three days of use \((\S+) without", page)
    assert told is not None
    print(f"{now / COUNT:.0f} bytes a key, {used / COUNT:.0f} after three days")
    assert now / COUNT < int(told[1].replace(",", ""))
    assert used / COUNT < int(told[2 if native() else 3].replace(",", ""))
    if not LISTS[lists]:
        assert peak < 1.2 * now, "what is read and what is kept are not there at once"
