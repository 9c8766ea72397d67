"""The runner of asynchronous tests: what it lets pass and what it fails."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import aio


async def test_async_tests_run_on_uvloop() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")


@pytest.mark.parametrize("value", [1, 2])
async def test_async_tests_get_their_fixtures_and_parameters(value: int, tmp_path: object) -> None:
    assert value in {1, 2}
    assert tmp_path is not None


def test_the_result_comes_back() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert aio.run(answer()) == 42


def test_a_test_that_hangs_ends_at_its_limit_and_says_where() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        aio.run(waits_for_ever(), timeout_s=0.2)
    assert "waits_for_ever" in "".join(caught.value.__notes__)


def test_a_leaked_task_fails_the_test() -> None:
    async def leaks() -> None:
        leaked.append(asyncio.create_task(asyncio.sleep(3600), name="forgotten"))

    leaked: list[asyncio.Task[None]] = []
    with pytest.raises(aio.LeftBehind, match="forgotten"):
        aio.run(leaks())


def test_a_task_that_is_about_to_end_is_no_leak() -> None:
    async def ends_soon() -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(0.05)))

    tasks: list[asyncio.Task[None]] = []
    aio.run(ends_soon())


def test_an_exception_nobody_looked_at_fails_the_test() -> None:
    async def fails() -> None:
        raise ValueError("unseen")

    async def forgets() -> None:
        asyncio.create_task(fails())  # noqa: RUF006
        await asyncio.sleep(0.01)

    with pytest.raises(aio.LeftBehind, match="unseen"):
        aio.run(forgets())


def test_a_failing_callback_fails_the_test() -> None:
    async def calls() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)

    with pytest.raises(aio.LeftBehind, match="division by zero"):
        aio.run(calls())


def test_the_tests_own_failure_wins() -> None:
    async def both() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.01)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        aio.run(both())
    assert "division by zero" in "".join(caught.value.__notes__)
