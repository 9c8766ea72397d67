"""Tests that run together: pytest runs files of them, and its report says what each of them did."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import asyncio
import time

import pytest

WAITING = []

async def all_of(count):
    WAITING.append(1)
    end = time.monotonic() + 2.0
    while len(WAITING) < count:
        assert time.monotonic() < end, f"{len(WAITING)} wait"
        await asyncio.sleep(0.005)
"""


FILES = {
    "side_by_side": """
@pytest.mark.together
@pytest.mark.parametrize(("a", "b"), [(1, 2), (3, 4), (5, 6)])
async def test_rows(a, b):
    assert b == a + 1
    await all_of(3)

@pytest.mark.together
class TestClass:
    async def test_one(self):
        await all_of(5)

    @pytest.mark.parametrize("a", [1])
    async def test_two(self, a):
        await all_of(5)
""",
    "results": """
@pytest.mark.together
@pytest.mark.parametrize("number", range(4))
async def test_rows(number):
    await all_of(4)
    if number == 1:
        pytest.skip("not today")
    assert number != 2, "two"

@pytest.mark.together
class TestLimits:
    @pytest.mark.deadline_s(0.3)
    async def test_late(self):
        await asyncio.Event().wait()

    async def test_in_time(self):
        await asyncio.sleep(0.5)
""",
    "left": """
LEFT = []

@pytest.mark.together
@pytest.mark.parametrize("number", [1, 2])
async def test_rows(number):
    if number == 2:
        LEFT.append(asyncio.create_task(asyncio.sleep(3600), name="forgotten"))
    await all_of(2)
""",
    "fixtures": """
@pytest.fixture(params=["x", "y"])
def made(request):
    return request.param * 2

@pytest.fixture(autouse=True, scope="class")
def mine(): ...

@pytest.mark.together
@pytest.mark.parametrize("number", [1, 2])
async def test_rows(number, tmp_path, made):
    WAITING.append(1)
    before = len(WAITING)
    await asyncio.sleep(0.05)
    assert len(WAITING) == before
    assert tmp_path.is_dir()
    assert made in ("xx", "yy")

@pytest.mark.together
@pytest.mark.parametrize("number", [1, 2])
async def test_more_rows(number):
    WAITING.append(1)
    before = len(WAITING)
    await asyncio.sleep(0.05)
    assert len(WAITING) == before
""",
}


class Told:
    """What a run printed, and what became of each test, by its file's name and its own."""

    def __init__(self, text: str) -> None:
        self.all = text
        self.results: dict[str, dict[str, str]] = {name: {} for name in FILES}
        for name, test, result in re.findall(r"^test_(\w+)\.py::(\S+) ([A-Z]+)", text, re.MULTILINE):
            self.results[name][test] = result


def ran(folder: Path, *arguments: str) -> Told:
    """pytest over these files, in one process."""
    for name, code in FILES.items():
        (folder / f"test_{name}.py").write_text(BEGIN + code)
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "tests.conftest", "-c", os.devnull]
    command += ["-p", "no:cacheprovider", "-p", "no:schemathesis"]  # (that one takes longer to start than all of the rest)
    done = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder), *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "TESTED_PART": "", "PYTEST_ADDOPTS": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return Told(done.stdout + done.stderr)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return ran(tmp_path_factory.mktemp("together"))


def test_rows_of_a_test_and_tests_of_a_class_wait_side_by_side(told: Told) -> None:
    assert list(told.results["side_by_side"].values()) == ["PASSED"] * 5


def test_what_was_not_selected_does_not_run(tmp_path: Path) -> None:
    alone = ran(tmp_path, "-k", "side_by_side and 1-2")
    assert "1 wait" in alone.all
    assert alone.results["side_by_side"] == {"test_rows[1-2]": "FAILED"}


def test_each_has_its_own_result(told: Told) -> None:
    found = told.results["results"]
    assert [found[f"test_rows[{number}]"] for number in range(4)] == ["PASSED", "SKIPPED", "FAILED", "PASSED"]
    assert [found["TestLimits::test_late"], found["TestLimits::test_in_time"]] == ["FAILED", "PASSED"]
    assert "AssertionError: two" in told.all
    assert "the test did not end within 0.3 s" in told.all


def test_what_is_left_behind_fails_and_says_who_was_there(told: Told) -> None:
    assert told.results["left"] == {"test_rows[1]": "FAILED", "test_rows[2]": "PASSED"}
    assert "forgotten" in told.all
    assert "these ran together: test_rows[1], test_rows[2]" in told.all


def test_a_test_with_fixtures_stays_alone(told: Told) -> None:
    assert list(told.results["fixtures"].values()) == ["PASSED"] * 6
