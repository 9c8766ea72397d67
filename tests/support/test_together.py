"""Tests that run together: pytest runs a file of them, and its report says what each of them did."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def ran(folder: Path, code: str, *arguments: str) -> dict[str, str]:
    """pytest over that file: what became of each test, by name; and ``all``, all that was printed."""
    (folder / "test_some.py").write_text(BEGIN + code)
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder), *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "TESTED_PART": "", "PYTEST_ADDOPTS": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("test_some.py::")]
    return {"all": done.stdout + done.stderr} | {line[0].removeprefix("test_some.py::"): line[1] for line in lines}


def test_rows_of_a_test_and_tests_of_a_class_wait_side_by_side(tmp_path: Path) -> None:
    code = """
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
"""
    told = ran(tmp_path, code)
    assert "5 passed" in told["all"]
    alone = ran(tmp_path, code, "-k", "1-2")
    assert "1 wait" in alone["all"], "what was not selected does not run"


def test_each_has_its_own_result(tmp_path: Path) -> None:
    told = ran(
        tmp_path,
        """
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
    )
    assert [told[f"test_rows[{number}]"] for number in range(4)] == ["PASSED", "SKIPPED", "FAILED", "PASSED"]
    assert [told["TestLimits::test_late"], told["TestLimits::test_in_time"]] == ["FAILED", "PASSED"]
    assert "AssertionError: two" in told["all"]
    assert "the test did not end within 0.3 s" in told["all"]
    assert "2 failed, 3 passed, 1 skipped" in told["all"]


def test_what_is_left_behind_fails_and_says_who_was_there(tmp_path: Path) -> None:
    told = ran(
        tmp_path,
        """
LEFT = []

@pytest.mark.together
@pytest.mark.parametrize("number", [1, 2])
async def test_rows(number):
    if number == 2:
        LEFT.append(asyncio.create_task(asyncio.sleep(3600), name="forgotten"))
    await all_of(2)
""",
    )
    assert told["test_rows[1]"] == "FAILED"
    assert "forgotten" in told["all"]
    assert "these ran together: test_rows[1], test_rows[2]" in told["all"]


def test_a_test_with_fixtures_stays_alone(tmp_path: Path) -> None:
    told = ran(
        tmp_path,
        """
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
    )
    assert "6 passed" in told["all"]
