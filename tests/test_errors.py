"""Error kinds: the code names none that is not in the table, and the table has none that nothing names."""

from __future__ import annotations

import ast
from pathlib import Path

from fastgw.errors import KINDS, PROFILE_KINDS

PACKAGE = Path(__file__).parents[1] / "fastgw"
TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if "sim" not in path.parts and path.name != "errors.py"
}


def test_what_is_raised_is_a_row() -> None:
    unknown = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "GatewayError" and node.args:
                named = [one for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                unknown += [f"{path}:{one.lineno}: {one.value}" for one in named if one.value not in KINDS]
    assert unknown == []


def test_every_row_is_named_somewhere() -> None:
    words = {node.value for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert [name for name in KINDS if name not in words] == []


def test_profiles_change_rows_that_there_are() -> None:
    assert [name for kinds in PROFILE_KINDS.values() for name in kinds if name not in KINDS] == []
