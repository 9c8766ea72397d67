"""Runs one asynchronous test on a fresh uvloop loop, or several at once, and judges what they leave behind.

Owns: the time limit of a test, and the two checks after it: no task still alive, no exception that nobody looked at.
Must never: swallow the test's own failure. What else went wrong is added to that failure as a note.
"""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest
import uvloop

DEFAULT_TIMEOUT_S = 30.0
# What a test ended a moment ago (a closed server, a cancelled stream) may need some turns of the loop to be gone.
LEAK_GRACE_S = 1.0

T = TypeVar("T")


class LeftBehind(AssertionError):
    """The test passed, but tasks or unseen exceptions remained."""


def run(coro: Coroutine[Any, Any, T], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> T:
    """Run ``coro`` to its end on its own loop; fail after ``timeout_s``, on leaked tasks, and on unseen exceptions."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_judged(coro, timeout_s))


def run_together(
    tests: Sequence[tuple[Callable[[], Coroutine[Any, Any, Any]], float]],
    ended: Callable[[int, BaseException | None], None],
    *,
    at_once: int,
) -> None:
    """Run those tests on one loop, ``at_once`` at a time, each within its own time limit; fail on what they leave behind.

    ``ended`` is told each one's number and its failure, which stays that one's own affair.
    """

    async def all_of_them() -> None:
        room = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            start, timeout_s = tests[number]
            async with room:
                try:
                    await _limited(start(), timeout_s)
                except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
                    ended(number, error)
                else:
                    ended(number, None)

        await asyncio.gather(*map(one, range(len(tests))))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_judged(all_of_them(), sum(timeout_s for _, timeout_s in tests)))


async def _judged(coro: Coroutine[Any, Any, T], timeout_s: float) -> T:
    unseen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unseen.append(_told(context)))
    try:
        result = await _limited(coro, timeout_s)
    except BaseException as error:
        for line in unseen:
            error.add_note(f"also: {line}")
        raise
    leaked = await _leaked(asyncio.current_task())
    gc.collect(1)  # a task caught in a cycle reports its unseen exception only when it is collected
    problems = [f"task still alive: {leak!r}" for leak in leaked] + unseen
    if problems:
        raise LeftBehind("\n".join(problems))
    return result


async def _limited(coro: Coroutine[Any, Any, T], timeout_s: float) -> T:
    where: list[str] = []
    watch = asyncio.get_running_loop().call_later(timeout_s * 0.95, lambda: where.extend(_waits()))
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await coro
    except BaseException as error:
        if limit.expired():
            error.add_note("\n".join([f"the test did not end within {timeout_s:g} s; shortly before, waiting were:", *where]))
        raise
    finally:
        watch.cancel()


async def _leaked(me: asyncio.Task[Any] | None) -> list[asyncio.Task[Any]]:
    loop = asyncio.get_running_loop()
    end = loop.time() + LEAK_GRACE_S
    while others := [task for task in asyncio.all_tasks() if task is not me and not task.done()]:
        if loop.time() > end:
            return others
        await asyncio.sleep(0.005)
    return []


def _told(context: dict[str, Any]) -> str:
    error = context.get("exception")
    if error is None:
        return str(context.get("message"))
    return f"{context.get('message')}: {''.join(traceback.format_exception(error)).rstrip()}"


def _waits() -> list[str]:
    """One line per task: its name, and the chain of coroutines down to what it waits for."""
    lines = []
    for task in asyncio.all_tasks():
        chain: list[str] = []
        inner: Any = task.get_coro()
        while (frame := getattr(inner, "cr_frame", None)) is not None:
            chain.append(f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})")
            inner = inner.cr_await
        lines.append(f"  {task.get_name()}: {' > '.join(chain)}")
    return lines
