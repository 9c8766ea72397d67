"""What there is one of for each connection, request or event has slots: no dictionary, and no attribute by mistake."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from tests.architecture.sources import modules

DATA_PLANE = {"net", "exchange", "upstream", "policy", "limits", "accel", "protocol", "stats"}

# Bases whose classes need none: they have slots by themselves, are never made, or are made when something has failed.
FREE = {"Struct", "NamedTuple", "Enum", "IntEnum", "IntFlag", "Protocol", "Exception", "RuntimeError", "ValueError"}


def _last_name(node: ast.expr) -> str:
    """``Struct`` of ``msgspec.Struct``, ``dataclass`` of ``dataclass(slots=True)``."""
    node = node.func if isinstance(node, ast.Call) else node
    node = node.value if isinstance(node, ast.Subscript) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _slotted(node: ast.ClassDef) -> bool:
    for line in node.body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "__slots__" for target in targets):
            return True
    return any(isinstance(made, ast.Call) and _last_name(made) == "dataclass"
               and any(word.arg == "slots" and ast.unparse(word.value) == "True" for word in made.keywords)
               for made in node.decorator_list)  # fmt: skip


def _classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def _without(trees: Mapping[str, ast.Module]) -> list[str]:
    found = [(f"{module}.{node.name}", node.name, {_last_name(base) for base in node.bases}, _slotted(node))
             for module, tree in trees.items() for node in _classes(tree)]  # fmt: skip
    free, known = set(FREE), 0
    while len(free) > known:
        known = len(free)
        free |= {name for _, name, bases, _ in found if free & bases}
    return [full for full, name, _, slotted in found if not slotted and name not in free]


def test_classes_of_the_data_plane_have_slots() -> None:
    trees = {name: tree for name, tree in modules("fastgw").items() if "." in name and name.split(".")[1] in DATA_PLANE}
    assert _without(trees) == []


def test_a_class_without_slots_is_found() -> None:
    source = """
class A: pass
class B(A): x: int = 0
class C: __slots__ = ()
class D: __slots__: tuple[str, ...] = ("x",)
class E(msgspec.Struct): pass
@dataclass(slots=True, frozen=True)
class F: pass
@dataclass
class G: pass
class H(Generic[T]): pass
class I(E): pass
class J(C): pass
"""
    assert _without({"m": ast.parse(source)}) == ["m.A", "m.B", "m.G", "m.H", "m.J"]
