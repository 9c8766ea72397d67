"""What is counted by callgrind: its loads are served, what it writes is read, and what is divided by what."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.micro import counted

WRITTEN = """events: Ir
ob=/work/fastgw/policy/queue.cpython-311-x86_64-linux-gnu.so
fl=???
fn=0x10
0 12
cob=/usr/lib/libpython3.11.so.1.0
cfn=getset_get
calls=3 0
0 900
+4 5

ob=/usr/lib/libpython3.11.so.1.0
fn=getset_get
0 41
totals: 58
"""


def test_what_is_called_counts_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").write_text(WRITTEN)
    assert counted.counts(tmp_path / "out") == {"policy/queue": 17, "libpython3.11": 41}


@pytest.mark.parametrize("name", counted.LOADS)
def test_each_load_is_served(name: str) -> None:
    load, marks = counted.LOADS[name], []
    load.requests = 2
    asyncio.run(load.run(lambda: marks.append(name)))
    assert marks == [name] * 2


def test_an_event_is_what_more_of_them_cost() -> None:
    twice, once = Counter({"a": 4200, "b": 10}), Counter({"a": 1000, "b": 10})
    assert counted.ROWS["event"][2](twice, once) == {"a": 100, "b": 0}


def test_what_has_changed_most_is_told_first(capsys: pytest.CaptureFixture[str]) -> None:
    counted.told("plain", "a plain request", Counter({"a": 1000, "b": 50}), Counter({"a": 990, "b": 150}), 1)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["plain", "1,050", "->", "1,140", "+90", "+8.57%", "a", "plain", "request"], ["+100", "b"],
    ]  # fmt: skip
