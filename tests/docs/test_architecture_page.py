"""The page about the house is true as far as a parser can see: what it names exists, and where it has an arrow is a call."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.architecture.test_imports import LAYERS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)(?:: ([\w.]+))?`")
ARROW = re.compile(r"`([\w/]+\.py): ([\w.]+)` → (?=`([\w/]+\.py): ([\w.]+)`)")

Defined = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def definitions(file: str) -> dict[str, Defined]:
    """The classes and functions of a file, as `Class.method`."""
    found: dict[str, Defined] = {}
    for node in ast.parse((ROOT / "fastgw" / file).read_text()).body:
        if isinstance(node, Defined):
            found[node.name] = node
            found |= {f"{node.name}.{one.name}": one for one in node.body if isinstance(one, Defined)}
    return found


def called(node: Defined) -> set[str]:
    """What is named in the body of a function, in whatever way it is called or handed over."""
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return names | {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}


def test_what_is_named_exists() -> None:
    names = NAMED.findall(PAGE + GLOSSARY)
    assert len(names) > 150
    # (Below tests/ and the like is somebody else's test: test_pages.)
    missing = [file for file, _ in names if not (ROOT / "fastgw" / file).exists() and not (ROOT / file).exists()]
    assert missing == []
    assert [f"{file}: {name}" for file, name in names if name and name not in definitions(file)] == []


# Not by its name: a filter's hook, a class by itself, what `app` has handed over.
BY_ANOTHER_NAME = {
    "Exchange._release → Charge.on_finish": "on_finish",
    "Queue.from_config → Queue": "cls",
    "GatewayCore.closed → Listener.released": "on_closed",
}


@pytest.mark.parametrize(("first", "second"), [(f"{file}: {name}", next_) for file, name, _, next_ in ARROW.findall(PAGE)])
def test_where_an_arrow_stands_there_is_a_call(first: str, second: str) -> None:
    file, _, name = first.partition(": ")
    wanted = BY_ANOTHER_NAME.get(f"{name} → {second}", second.rpartition(".")[2])
    assert wanted in called(definitions(file)[name])


def test_the_table_of_layers_is_the_one_that_is_tested() -> None:
    rows = re.findall(r"^\| [\w ]+ \| (`[^|]+) \| [^|]+ \|$", PAGE.partition("## What knows what")[0], re.MULTILINE)
    assert [tuple(re.findall(r"`(\w+)`", row)) for row in rows] == list(LAYERS)


def test_every_room_is_on_the_page() -> None:
    rooms = {path.name for path in (ROOT / "fastgw").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {room for room in rooms if f"`{room}`" not in PAGE} == set()
