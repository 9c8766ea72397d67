"""docs/compatibility.md says the truth: each promise is there once, each test that it names exists, and carries the id."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from fastgw.config.names import PROFILES
from fastgw.config.table import TABLE

pytestmark = pytest.mark.once  # (it reads the page, and names of tests)

REPO = Path(__file__).parents[2]
PAGE = REPO / "docs/compatibility.md"

PROMISES = {
    "S1": (1, 2, 3, 4, 5, 6, 7, 8, 9, 12),
    "S2": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21, 22, 23, 24, 25),
    "S3": (1, 2, 4, 6, 7, 8, 9, 10, 11, 13),
    "S4": (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14),
    "S5": (1, 2, 3, 6, 8, 9, 10, 11),
}
STATES = ("kept", "partly", "not yet")


def rows() -> dict[str, list[str]]:
    """Each row by its id: what, state, setting, tests."""
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| (S\d\.\d+) \|", line):
            assert match[1] not in found, f"{match[1]} stands there twice"
            found[match[1]] = [cell.strip() for cell in line.strip("|").split("|")][1:]
    return found


def named(cell: str) -> list[tuple[str, str]]:
    return [(path, name) for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", cell)]


@functools.cache
def functions_of(path: str) -> frozenset[str]:
    """The test functions of a file, in classes too."""
    tree = ast.parse((REPO / "tests" / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_promise_has_its_row() -> None:
    assert list(rows()) == [f"{name}.{number}" for name, numbers in PROMISES.items() for number in numbers]


@pytest.mark.parametrize("promise", [f"{name}.{number}" for name, numbers in PROMISES.items() for number in numbers])
def test_every_row_is_shown_by_tests_that_exist(promise: str) -> None:
    what, state, _, cell = rows()[promise]
    assert what
    assert state.startswith(STATES)
    tests = named(cell)
    assert len(tests) == cell.count("`") // 2, "a test is not written as `path::name`"
    for path, name in tests:
        assert name.startswith("test_")
        assert name in functions_of(path), f"{path} has no {name}"
    if state == "not yet":
        assert not tests
        return
    if state.startswith("partly"):
        assert len(state) > len("partly: "), "what is missing?"
    gateway, number = promise.split(".")
    mark = f"{gateway}_{int(number):02d}_"
    assert any(mark in name for _, name in tests), f"no test of {promise} carries {mark}"


def test_every_test_that_carries_an_id_carries_one_that_exists() -> None:
    promises = {f"{name}_{number:02d}" for name, numbers in PROMISES.items() for number in numbers}
    for path in (REPO / "tests").rglob("test_*.py"):
        for name in functions_of(str(path.relative_to(REPO / "tests"))):
            for mark in re.findall(r"(S[1-5]_\d\d)_", name):
                assert mark in promises, f"{path}: {name}"


def test_every_variable_and_setting_of_the_page_is_known() -> None:
    """A variable that nobody reads would be a promise broken in silence."""
    known = {name for row in TABLE for name in row.variables} | {"BASE_URL", "MODEL"}
    text = PAGE.read_text(encoding="utf-8")
    assert not set(re.findall(r"`([A-Z][A-Z_]+[A-Z])`", text)) - known
    assert set(re.findall(r'`compat = "([\w-]+)"`', text)) == set(PROFILES)
