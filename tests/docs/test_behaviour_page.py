"""The page of what clients may rely on: each row names tests, and they are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/behaviour.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| what holds ")
]


@cache
def functions_of(path: str) -> frozenset[str]:
    """The tests of a file, those in classes too."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def test_there_are_rows_of_all_that_is_promised() -> None:
    assert len(ROWS) > 30
    for word in ("Pipelining", "100-continue", "half-close", "reads slowly", "101", "SIGTERM", "closes its side"):
        assert word in PAGE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:50])
def test_each_is_shown_by_tests_that_exist(row: tuple[str, ...]) -> None:
    what, shown_by = row
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown_by)
    assert what.endswith(".")
    assert named
    assert len(named) == shown_by.count("`") // 2, "a test is written as `path::name`"
    assert [f"{path}::{name}" for path, name in named if name not in functions_of(path)] == []
