"""Asynchronous tests that mostly wait do so side by side: ``@pytest.mark.together``.

On a test its rows run together, on a class or a module all of its asynchronous tests, a few at a time on one loop. Each stays
a test of its own, with its own time limit and its own result; whoever selects one runs that one. For tests whose time goes by
in waiting: one that holds the loop, measures milliseconds, or changes what others see is none of them. A test that has
fixtures other than ``tmp_path`` stays alone, and so does one that is marked ``alone``.

Owns: which tests run together, and their results until each is asked for its own. Must never: let one's result become
another's. What is left behind is looked for when all have ended, and is then the first one's failure, which names the others.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import aio

AT_ONCE = 8
# Each test has these; they judge what is left behind, and give it nothing. A folder is made here for each.
JUDGES = frozenset({"_fds_back_to_base", "_nothing_left", "_folders", "request"})
FOLDER = frozenset({"tmp_path", "tmp_path_factory"})
ALONE = ("alone", "skip", "skipif", "xfail", "usefixtures")

Result = BaseException | None
GROUPS = pytest.StashKey[dict[Any, list[pytest.Function]]]()
FOLDERS = pytest.StashKey[pytest.TempPathFactory]()
RESULTS = pytest.StashKey[dict[pytest.Item, Result]]()


def run(item: pytest.Function, deadline_s: Callable[[pytest.Item], float], failed: pytest.StashKey[bool]) -> None:
    """Run ``item`` and all that run together with it, unless they have run already; raise its failure.

    When one has failed all of them get the mark ``failed``: what its traceback holds is nobody's leak.
    """
    results = item.session.stash.setdefault(RESULTS, {})
    if item not in results:
        tests = [one for one in _group(item) if one not in results]
        limited = [(_starter(one), deadline_s(one)) for one in tests]
        try:
            aio.run_together(limited, lambda number, error: results.update({tests[number]: error}), at_once=AT_ONCE)
        except aio.LeftBehind as left:
            left.add_note("these ran together: " + ", ".join(one.name for one in tests))
            results[item] = results[item] or left
        if any(results[one] for one in tests):
            for one in tests:
                one.stash[failed] = True
    error, results[item] = results[item], None
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback would keep alive what the test had


def _starter(item: pytest.Function) -> Callable[[], Any]:
    arguments = {name: item.callspec.params[name] for name in _parameters(item)} if hasattr(item, "callspec") else {}
    if "tmp_path" in item.fixturenames:
        arguments["tmp_path"] = item.session.stash[FOLDERS].mktemp("together")
    return lambda: item.obj(**arguments)


def _parameters(item: pytest.Function) -> set[str]:
    """Names of what ``parametrize`` gives to the test itself."""
    names: set[str] = set()
    for mark in item.iter_markers("parametrize"):
        if not mark.kwargs.get("indirect"):
            said = mark.args[0]
            names.update(name.strip() for name in (said.split(",") if isinstance(said, str) else said))
    return names


def can(item: pytest.Item) -> bool:
    """Marked, asynchronous, and in need of nothing that pytest prepares for one test at a time."""
    return (
        isinstance(item, pytest.Function)
        and item.get_closest_marker("together") is not None
        and inspect.iscoroutinefunction(item.obj)
        and not any(item.get_closest_marker(mark) for mark in ALONE)
        and set(item.fixturenames) <= JUDGES | FOLDER | _parameters(item)
    )


def _owner(item: pytest.Function) -> Any:
    """Whose tests run together: the closest thing that is marked."""
    node, _ = next(item.iter_markers_with_node("together"))
    return (item.parent, item.originalname) if node is item else node


def _group(item: pytest.Function) -> list[pytest.Function]:
    groups = item.session.stash.get(GROUPS, None)
    if groups is None:
        groups = item.session.stash[GROUPS] = defaultdict(list)
        for one in item.session.items:
            if isinstance(one, pytest.Function) and can(one):
                groups[_owner(one)].append(one)
    return groups[_owner(item)]
