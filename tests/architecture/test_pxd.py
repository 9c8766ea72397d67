"""Each compiled class has the fields that its Python source has: what ``native/*.pxd`` declares is what ``__slots__`` says,
or what the class gives itself where it has none.

Types stand in the ``.pxd`` alone. Where a ``.pyx`` replaces the source, fields and classes that only C sees are its own; public
ones are not.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from fastgw import twins
from tests.support.twins import python_twin

REPO = Path(__file__).parents[2]
NATIVE = REPO / "native"
PXDS = sorted(NATIVE.rglob("*.pxd"))

CLASS = re.compile(r"cdef class (\w+)(?:\([\w.]+\))?:\s*(?:#.*)?\Z")
FIELD = re.compile(r"\s+cdef (public |readonly )?(?:unsigned )?(?:long long|[\w.]+(?:\[[\w, ]+\])?)[ *]+([\w, *\[\]]+)\Z")


class Declared(NamedTuple):
    """The fields of one class in a ``.pxd``."""

    public: set[str]
    private: set[str]


def declared(text: str) -> dict[str, Declared]:
    """The classes of a ``.pxd``, with their fields."""
    found: dict[str, Declared] = {}
    current: Declared | None = None
    for line in text.splitlines():
        if line and not line[0].isspace():
            match = CLASS.match(line)
            current = found.setdefault(match[1], Declared(set(), set())) if match else None
        elif current is not None and "(" not in line and (field := FIELD.match(line.partition("#")[0].rstrip())):
            names = {re.sub(r"[*\s]|\[\w*\]", "", name) for name in field[2].split(",")}
            (current.public if field[1] else current.private).update(names)
    return found


def written(module: str, name: str) -> set[str]:
    """The fields of a class in the Python source: its ``__slots__``, or where it has none what it gives ``self``."""
    source = getattr(python_twin(module), name)
    if "__slots__" in vars(source):
        own = vars(source)["__slots__"]
        return {own} if isinstance(own, str) else set(own)
    tree = ast.parse(twins.source_of(module.removeprefix("fastgw.")).read_text())
    (body,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    inherited = {slot for base in source.__mro__[1:] for slot in getattr(base, "__slots__", ())}
    return {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if isinstance(node.value, ast.Name) and node.value.id == "self"
    } - inherited


def test_a_pxd_is_read_as_it_is_written() -> None:
    text = """cimport cython
cdef int MOST
cdef class A(Base):
    cdef public long long one, two  # both
    cdef readonly dict three
    cdef unsigned char *four
    cdef int[8] five
    cdef bytes six

    cdef int seven(self, int eight)
    cpdef nine(self)
cdef double ten
"""
    assert declared(text) == {"A": Declared({"one", "two", "three"}, {"four", "five", "six"})}


@pytest.mark.parametrize("path", PXDS, ids=lambda path: str(path.relative_to(NATIVE)))
def test_fields_are_the_slots_of_the_source(path: Path) -> None:
    module = ".".join(("fastgw", *path.relative_to(NATIVE).with_suffix("").parts))
    rewritten = path.with_suffix(".pyx").exists()
    wrong = {}
    for name, fields in declared(path.read_text()).items():
        if rewritten and name.startswith("_") and not hasattr(python_twin(module), name):
            wrong[name] = fields.public
        elif rewritten:
            source = getattr(python_twin(module), name)
            wrong[name] = {field for field in fields.public if not hasattr(source, field)}
        else:
            wrong[name] = ((fields.public | fields.private) ^ written(module, name)) - {"__weakref__"}
    assert not {name: names for name, names in wrong.items() if names}
