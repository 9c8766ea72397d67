from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function on a loop of its own, and fails when it leaves a task behind."""

    def runner(main: Callable[[], Awaitable[Any]]) -> Any:
        async def checked() -> Any:
            result = await main()
            await asyncio.sleep(0.01)
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            assert not left, left
            return result

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as loop:
            return loop.run(checked())

    return runner
