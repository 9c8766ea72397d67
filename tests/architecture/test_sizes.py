"""A file can be read in one sitting, and a function on one screen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import TREES, files, parsed, text, unlike

MOST_LINES = 500
MOST_FUNCTION_LINES = 70

# A handwritten twin is one extension and one file, whatever its Python twin is split into: C inlines only within a file,
# and what two files share costs a call through a table. The largest scans JSON by hand.
MOST_PYX_LINES = 1_700

# One row below the other, and nothing to be followed.
TABLES = ("fastgw/errors.py",)

# One loop over a head's lines, a branch for each kind: spread over functions it took 5 to 25 % longer.
LOOPS = ("fastgw/accel/heads.py: scan_request",)


def _lines(path: Path) -> int:
    return len(text(path).splitlines())


def _functions(node: ast.AST, outer: str = "") -> Iterator[tuple[str, int]]:
    """Each function's name, and its lines without those of its decorators."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # (most of a tree, and no function by a name)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield outer + child.name, (child.end_lineno or 0) - child.lineno + 1
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from _functions(child, f"{outer}{child.name}." if named else outer)  # type: ignore[attr-defined]


def test_no_file_is_too_long() -> None:
    pages = files("fastgw", "*.js")
    assert pages != ()
    long = [str(path) for path in (*(one for tree in TREES for one in files(tree)), *pages) if _lines(path) > MOST_LINES]
    assert unlike(long, TABLES) == []


def test_no_handwritten_twin_is_too_long() -> None:
    twins = files("native", "*.pyx")
    assert twins != ()
    assert [f"{path}: {_lines(path)}" for path in twins if _lines(path) > MOST_PYX_LINES] == []


def test_no_function_is_too_long() -> None:
    long = [f"{path}: {name}" for tree in TREES for path in files(tree) for name, lines in _functions(parsed(path))
            if lines > MOST_FUNCTION_LINES]  # fmt: skip
    assert unlike(long, LOOPS) == []


@pytest.mark.parametrize(("source", "sizes"), [
    ("def f():\n    pass\n", [("f", 2)]),
    ("class A:\n    @one\n    async def f(self):\n        def g():\n            pass\n", [("A.f", 3), ("A.f.g", 2)]),
    ("if True:\n    def f():\n        pass\n", [("f", 2)]),
])  # fmt: skip
def test_functions_are_found_wherever_they_stand(source: str, sizes: list[tuple[str, int]]) -> None:
    assert list(_functions(ast.parse(source))) == sizes
