"""Every source of the repository, parsed once, and how a rule with exceptions is held.

A rule has a list of what still breaks it. The list only shrinks: what is on it and breaks nothing any more has to go.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TREES = ("fastgw", "native", "tests", "benchmarks", "scripts")


class Import(NamedTuple):
    """One imported module, and where."""

    importer: str
    target: str
    place: str


@cache
def files(tree: str, pattern: str = "*.py") -> tuple[Path, ...]:
    """Paths below the repository's root; not what ``make bench-peers`` installs there."""
    found = [path.relative_to(ROOT) for path in (ROOT / tree).rglob(pattern)]
    return tuple(sorted(path for path in found if "site-packages" not in path.parts))


@cache
def text(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(text(path), str(path))


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules(tree: str) -> dict[str, ast.Module]:
    return {module_name(path): parsed(path) for path in files(tree)}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node but what stands in expressions: most of a tree, and neither an import nor a function by a name."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)


@cache
def imports(tree: str) -> tuple[Import, ...]:
    """What its modules import, wherever they say so: at their head, for types alone, or late, inside of a function."""
    return tuple(_imports(tree))


def _imports(tree: str) -> Iterator[Import]:
    known = modules(tree)
    for name, module in known.items():
        for node in statements(module):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(name, alias.name, f"{name}:{node.lineno}")
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    is_package = ROOT.joinpath(*name.split(".")).is_dir()
                    parents = name.split(".") if is_package else name.split(".")[:-1]
                    base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield Import(name, full if full in known else base, f"{name}:{node.lineno}")


def unlike(found: Iterable[str], listed: Iterable[str]) -> list[str]:
    """What breaks a rule and is not listed, and what is listed and does not break it."""
    breaking, excused = set(found), set(listed)
    return [f"{one}: breaks the rule" for one in sorted(breaking - excused)] + [
        f"{one}: keeps the rule now, take it off the list" for one in sorted(excused - breaking)
    ]
