"""No circle among modules: whoever reads one can read what it stands on first, and need not come back.

A name imported for its type alone counts, and a late import inside of a function: both say that two files are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.architecture.sources import imports

WHERE = ("fastgw", "tests", "benchmarks")


def _circles(graph: Mapping[str, set[str]]) -> Iterator[str]:
    """The sets of modules, of two or more, in which each one leads to every other."""
    reached = {start: _reached(graph, start) for start in graph}
    seen: set[str] = set()
    for start in sorted(graph):
        circle = {one for one in reached[start] if start in reached[one]}
        if len(circle) > 1 and start not in seen:
            yield " ".join(sorted(circle))
        seen |= circle


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        for target in graph[ahead.pop()] - found:
            found.add(target)
            ahead.append(target)
    return found


def _graph(tree: str) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for importer, target, _ in imports(tree):
        graph.setdefault(importer, set())
        if target != tree:  # the root gives nothing but its version to the inside; test_imports holds that
            graph[importer].add(target)
    return {name: {one for one in targets if one in graph and one != name} for name, targets in graph.items()}


@pytest.mark.parametrize("tree", WHERE)
def test_modules_do_not_go_in_circles(tree: str) -> None:
    assert list(_circles(_graph(tree))) == []


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f", "a"}, "f": {"e"}}
    assert list(_circles(graph)) == ["b c", "e f"]
