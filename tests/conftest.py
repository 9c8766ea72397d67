"""Collects ``async def test_*`` and runs them on uvloop; checks that an e2e test leaves nothing behind.

One session runs one twin, the one that ``FASTGW_NATIVE`` chooses, and so do the processes that tests start; ``make test``
is sessions for each, and two for what has no twins (``TESTED_PART`` tells them: those of ``PARTS``, ``twins`` for
all of a twin, those of ``TWINLESS``). ``@pytest.mark.deadline_s(60)`` gives a slow asynchronous test more than the default.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from fastgw import twins
from tests.support import aio, leaks, pki, tls_client, together

# A closed connection's descriptor may go a moment later (a thread's, a child process's end).
FD_GRACE_S = 1.0


# These run a gateway, or what it is made of.
LEAK_CHECKED = {"accounts", "adversity", "conversations", "e2e", "exchange", "net", "reference", "upstream"}
# These test nothing that has two twins, as what is marked `once` does not (that is "beside"): `make test` runs them in sessions
# of their own, of about the same length.
TWINLESS = {
    "around": {
        "architecture", "audit", "benchmarks", "cli", "config", "docs", "gpu", "importing", "peers", "recipes", "support",
        "top",
    },
    "beside": {"control", "deploy", "h2cases", "sim", "store"},
}  # fmt: skip
# The parts of a twin's tests that `make test` runs in sessions of their own, so that they can be side by side: what starts
# gateways and engines, what reads bytes and counts, and the rest, which is called "machines".
PARTS = {"sockets": {"e2e"}, "bytes": {"accel", "limits", "protocol"}, "machines": set[str]()}
PLACES = PARTS | TWINLESS
FAILED = pytest.StashKey[bool]()

# How many examples a property is tried with that does not say so itself. `make fuzz` runs them with the larger profile,
# `make check` with the smaller one.
hypothesis.settings.register_profile("check", max_examples=50, deadline=None)
hypothesis.settings.register_profile("test", max_examples=80, deadline=None)
hypothesis.settings.register_profile("fuzz", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("test")


def pytest_configure(config: pytest.Config) -> None:
    try:
        running = twins.select(twins.asked())
    except (ImportError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error
    os.environ["FASTGW_NATIVE"] = "1" if running == "native" else "0"
    config.addinivalue_line("markers", "deadline_s(seconds): time limit of an asynchronous test (default 30)")
    config.addinivalue_line("markers", "keeps_fds: this test may leave descriptors open (say why beside the mark)")
    config.addinivalue_line("markers", "both_twins: holds one twin against the other; runs where the native ones run")
    config.addinivalue_line("markers", "once: the store and what else has no twins; `make test` runs it once")
    config.addinivalue_line("markers", "together: its rows, or the class's or module's tests, wait side by side")
    config.addinivalue_line("markers", "alone: not together with others of its class or module")
    config.addinivalue_line("markers", "quiet: measures time; `make test` runs it when nothing else is running")
    config.addinivalue_line("markers", "soak: takes minutes; runs only when asked for by `-m soak`")
    config.addinivalue_line("markers", "peers: holds cases against other programs alone; runs only with `make peers`")
    config.addinivalue_line("markers", "bench: a benchmark run for real; runs only when asked for: `make bench-test`")
    config.addinivalue_line("markers", "gpu: wants a GPU and its driver; runs only when asked for by `-m gpu`")
    config.addinivalue_line("markers", "packaging: builds wheels, programs, images; runs only when asked for: `make packaging`")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Sessions of ``make test`` that are of a few tests read no file that has none of them."""
    if collection_path.suffix != ".py":
        return None
    if config.option.markexpr.split(" ")[0] == "quiet" and not _says("quiet", collection_path):
        return True
    part = os.environ.get("TESTED_PART")
    if part in TWINLESS:
        return _twinless(collection_path, _says("once", collection_path)) != part or None
    if part in PARTS and part != next((name for name, of in PLACES.items() if collection_path.parent.name in of), "machines"):
        return True
    return None


def _twinless(path: Path, once: bool) -> str | None:
    """Which session of ``TWINLESS`` a file's tests belong to, or its tests that are marked ``once``."""
    found = next((name for name, of in TWINLESS.items() if path.parent.name in of), None)
    return found or ("beside" if once else None)


@functools.cache
def _says(mark: str, path: Path) -> bool:
    return f"mark.{mark}" in path.read_text()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for mark in ("once", "quiet"):
            if item.get_closest_marker(mark) and not _says(mark, item.path):
                raise pytest.UsageError(f"{item.nodeid} has its mark {mark!r} from another file: it would never be run")
    without = set()
    if not twins.native():
        without.add("both_twins")
    without.update(mark for mark in ("bench", "gpu", "packaging", "peers", "soak") if mark not in config.option.markexpr)
    part = os.environ.get("TESTED_PART", "")

    def elsewhere(item: pytest.Item) -> bool:
        twinless = _twinless(item.path, item.get_closest_marker("once") is not None)
        return twinless != part if part in TWINLESS else part != "" and twinless is not None

    dropped = [item for item in items if any(item.get_closest_marker(mark) for mark in without) or elsewhere(item)]
    if dropped:
        items[:] = [item for item in items if item not in set(dropped)]
        config.hook.pytest_deselected(items=dropped)


def pytest_collection_finish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # not in pytest_report_header: `-q` does without a header
        reporter.write_line(f"twin: {'native' if twins.native() else 'pure Python'}")
    leaks.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


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
    if together.can(pyfuncitem):
        together.run(pyfuncitem, _deadline_s, FAILED)
        return True
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


@pytest.fixture(autouse=True, scope="session")
def _folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """For tests that run together: each gets its own, before pytest gets to it."""
    request.session.stash[together.FOLDERS] = tmp_path_factory


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


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest, _fds_back_to_base: None) -> Iterator[None]:
    """After each test that may run a gateway its counters are zero, and nothing that it was made of is alive."""
    if not LEAK_CHECKED & set(request.node.path.parts):
        yield
        return
    with leaks.gateways() as made:
        yield
    if request.node.stash.get(FAILED, False):
        return  # its traceback holds what it was doing
    if alive := leaks.alive(made):
        pytest.fail(f"gateways were left running, or lost count: {alive}")
    made.clear()
    end = time.monotonic() + FD_GRACE_S
    while left := leaks.left():
        if time.monotonic() > end:
            pytest.fail(f"left alive: {left}")
        time.sleep(0.01)
    gc.freeze()  # the next test's look need not go over what this one's passed


@pytest.fixture(scope="session")
def certs() -> pki.Certificates:
    """A CA of the tests' own, and what it has issued."""
    return tls_client.shared()
