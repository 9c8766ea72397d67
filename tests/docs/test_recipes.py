"""The recipes lead where they say: what stands on the page is put where the page puts it, and the page's own test is run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastgw import policy
from fastgw.exchange.filter import HOOKS

PAGE = (Path(__file__).parents[2] / "docs/recipes/filter.md").read_text()
FILE, PLACE, TEST = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def module(name: str, text: str) -> ModuleType:
    made = ModuleType(name)
    exec(compile(text, name, "exec"), vars(made))
    return made


async def test_a_filter_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    mine: Any = module("fastgw.policy.batch", FILE)
    monkeypatch.setitem(sys.modules, mine.__name__, mine)
    before, name, behind = [line.strip().removesuffix(".from_config,") for line in PLACE.splitlines()]
    names = [make.__self__.__name__ for make in policy.ORDER]  # type: ignore[attr-defined]
    at = names.index(behind)
    assert names[at - 1] == before, "the page shows its neighbours"
    monkeypatch.setattr(policy, "ORDER", (*policy.ORDER[:at], getattr(mine, name).from_config, *policy.ORDER[at:]))
    test: Any = module("test_batch", TEST)
    await test.test_batches_go_one_at_a_time_and_others_pass_them()


def test_the_page_has_every_hook() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == sorted(HOOKS)
