"""``make check`` forgets no folder: each is in one of its two sessions, or named as left out."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_folder_is_in_one_session_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "test"))
    check = importlib.import_module("check")
    machines, others = check.folders()
    assert {"tests/accel", "tests/limits", "tests/protocol"} <= set(machines)
    assert {"tests/exchange", "tests/policy", "tests/test_housekeeping.py"} <= set(others)
    assert not set(machines) & set(others)
    assert (ROOT / check.TIMED).exists()
    having = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert {Path(path).name for path in machines + others} == having - check.LEFT_OUT
