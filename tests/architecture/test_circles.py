"""No circle among modules: whoever reads one can read what it stands on first, and need not come back.

A name imported for its type alone counts, and a late import inside of a function: both say that two files are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.architecture.sources import imports

WHERE = ("fastgw", "tests", "benchmarks")


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    """One of its circles, from a module back to itself; [] = there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _graph(tree: str) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for importer, target, _ in imports(tree):
        graph.setdefault(importer, set())
        if target != tree:  # the root gives nothing but its version to the inside; test_imports holds that
            graph[importer].add(target)
    return {name: {one for one in targets if one in graph and one != name} for name, targets in graph.items()}


@pytest.mark.parametrize("tree", WHERE)
def test_modules_do_not_go_in_circles(tree: str) -> None:
    assert _circle(_graph(tree)) == []


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert sorted(set(_circle(graph))) == ["b", "c"]
    assert _circle(graph | {"c": {"d"}}) == []
