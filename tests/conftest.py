"""Collects ``async def test_*`` and runs them on uvloop; checks that an e2e test leaves no file descriptor open.

``@pytest.mark.deadline_s(60)`` gives a slow asynchronous test more than the default time.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import aio

# A closed connection's descriptor may go a moment later (a thread's, a child process's end).
FD_GRACE_S = 1.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deadline_s(seconds): time limit of an asynchronous test (default 30)")
    config.addinivalue_line("markers", "keeps_fds: this test may leave descriptors open (say why beside the mark)")


def pytest_sessionstart() -> None:
    # libuv opens a pipe for signals with a process's first loop and keeps it: it is part of the base.
    aio.run(asyncio.sleep(0))


def _deadline_s(item: pytest.Item) -> float:
    mark = item.get_closest_marker("deadline_s")
    return float(mark.args[0]) if mark else aio.DEFAULT_TIMEOUT_S


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    test = pyfuncitem.obj
    timeout_s = _deadline_s(pyfuncitem)
    inner = getattr(getattr(test, "hypothesis", None), "inner_test", None)
    if inspect.iscoroutinefunction(inner):  # @given over an async function: one loop per example

        @functools.wraps(inner)
        def example(*args: Any, **kwargs: Any) -> None:
            aio.run(inner(*args, **kwargs), timeout_s=timeout_s)

        test.hypothesis.inner_test = example
        return None
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    aio.run(test(**arguments), timeout_s=timeout_s)
    return True


def open_fds() -> dict[int, str]:
    """What is open now: descriptor → what it points at."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of this very listing
    return found


@pytest.fixture(autouse=True)
def _fds_back_to_base(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test under ``tests/e2e`` and ``tests/adversity`` the open descriptors are those from before it."""
    path = request.node.path.parts
    if not {"e2e", "adversity"} & set(path) or request.node.get_closest_marker("keeps_fds"):
        yield
        return
    before = open_fds()
    yield
    end = time.monotonic() + FD_GRACE_S
    while left := {fd: what for fd, what in open_fds().items() if before.get(fd) != what}:
        if time.monotonic() > end:
            pytest.fail(f"descriptors left open: {left}")
        gc.collect()
        time.sleep(0.01)
