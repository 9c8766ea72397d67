"""The control listener's paths: one table, from which calls are answered, ``Allow`` is told and OpenAPI is written.

A page (``admin_keys``, ``admin_engines``, ...) has rows for what it answers, the server asks the table who that is, and for
which role. Must never: answer a path that has no row, or match a path that was written otherwise than its row (a parameter
alone is decoded: a name may hold a slash, written ``%2F``).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from fastgw.control.call import AdminAnswer, AdminCall


class Role(enum.IntEnum):
    """Who may: ``OPEN`` anybody who gets to the listener, ``READ`` every admin key, ``WRITE`` one that may change things."""

    OPEN = 0
    READ = 1
    WRITE = 2


Handler = Callable[[AdminCall], Awaitable[AdminAnswer]]
Answer = Any
"""What a status comes with: a struct's type (JSON), a media type as text, None = no body."""

TEXT: Final = {"type": "string"}
FLAG: Final = {"type": "string", "enum": ["true", "false"]}


def count(low: int, high: int) -> dict[str, object]:
    """The schema of a number in a query."""
    return {"type": "integer", "minimum": low, "maximum": high}


class Parameter(NamedTuple):
    """Of a query. ``schema``: as OpenAPI says it."""

    name: str
    summary: str
    schema: Mapping[str, object] = TEXT
    required: bool = False


class Route(NamedTuple):
    """One row. ``path`` names its parameters in braces; ``action`` is what logs and OpenAPI call it."""

    method: str
    path: str
    role: Role
    action: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    query: tuple[Parameter, ...] = ()
    body: type | None = None
    needs_body: bool = True
    """Where it has one: it cannot be left out."""


class _Path:
    """Of one pattern: its segments ("" = a parameter), and what can be done there."""

    __slots__ = ("methods", "names", "parts", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        parts = pattern.split("/")[1:]
        self.names = [part[1:-1] if part.startswith("{") else "" for part in parts]
        self.parts = ["" if name else part for name, part in zip(self.names, parts, strict=True)]
        self.methods: dict[str, Route] = {}

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        found = {}
        for name, wanted, part in zip(self.names, self.parts, parts, strict=True):
            if not name and part != wanted:
                return None
            if name:
                if not part:
                    return None
                found[name] = unquote(part)
        return found


class Routes:
    """The table; never changes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.rows: tuple[Route, ...] = tuple(routes)
        paths: dict[str, _Path] = {}
        for row in self.rows:
            one = paths.setdefault(row.path, _Path(row.path))
            if row.method in one.methods:
                raise ValueError(f"two rows for {row.method} {row.path}")
            one.methods[row.method] = row
        self._by_length: dict[int, list[_Path]] = {}
        for one in paths.values():
            self._by_length.setdefault(len(one.parts), []).append(one)
        for ones in self._by_length.values():
            ones.sort(key=lambda one: [part == "" for part in one.parts])  # (a word goes before a parameter)

    def match(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        """What can be done at ``path`` by its method, and what the path's parameters say; nothing = it is not there."""
        parts = path.split("/")[1:]
        for one in self._by_length.get(len(parts), ()):
            names = one.match(parts)
            if names is not None:
                return one.methods, names
        return {}, {}

    def paths(self) -> list[str]:
        """All patterns, sorted."""
        return sorted({row.path for row in self.rows})


def allowed(methods: Mapping[str, Route]) -> str:
    """As ``Allow`` says it."""
    return ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
