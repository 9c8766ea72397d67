"""A configuration of fastgw while it is written: settings, engines, routes, prices, and its text.

Owns: :class:`Draft`. Invariant: what its text says is taken by the reader of the configuration; whatever its rows would refuse
does not get in, and whoever brings it is told why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastgw.config.check import MAX_ROUTES
from fastgw.config.entries import EngineConfig, RouteConfig
from fastgw.config.paying import MAX_PRICES, PriceConfig
from fastgw.config.problems import ConfigErrors, told
from fastgw.config.row import value_problem
from fastgw.config.settings import Config
from fastgw.config.table import BY_NAME
from fastgw.config.toml_file import KEY_VARIABLE

Fields = dict[str, Any]
STATE_DIR: Final = "fastgw-state"
STATE_DIR_IS: Final = "the keys, and what they have used; name a folder that stays"

_HEAD: Final = """\
# Made by `fastgw import {kind}`. What of it could not be translated stands in the report of that command.
# Next: fastgw check --config FILE
"""


class Draft:
    """What has been found out so far."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.settings: dict[str, tuple[object, str]] = {}
        self.models: dict[str, None] = {}
        """That its engines serve by their names."""
        self.engines: list[tuple[Fields, list[str]]] = []
        self._routes: dict[str, Fields] = {}
        self._prices: dict[str, Fields] = {}

    def set(self, sets: Mapping[str, object], why: str = "") -> str:
        """Set settings, all or none, with a comment; returns what is wrong with one. What is set already stays."""
        for name, value in sets.items():
            row = BY_NAME[name]
            problem = value_problem(row, value)
            if not problem and row.check is not None:
                problem = "; ".join(row.check(value))
            if problem:
                return f"{name} {problem}"
        for name, value in sets.items():
            self.settings.setdefault(name, (value, why))
        return ""

    def add_engine(self, fields: Mapping[str, Any], notes: list[str]) -> str:
        """Returns what is wrong with it. ``notes``: comments that stand in its table."""
        fields = {name: value for name, value in fields.items() if value not in ("", [], None)}
        if problem := _problem(EngineConfig, _known(fields)):
            return problem
        self.engines.append((dict(fields), notes))
        self.models |= {model: None for model in fields.get("models", ()) if model != "*"}
        return ""

    def route(self, model: str, fields: Mapping[str, object]) -> str:
        """Say more of a model; returns what is wrong with it."""
        whole = {**self._routes.get(model, {"model": model}), **fields}
        if problem := _problem(RouteConfig, whole):
            return problem
        if model not in self._routes and len(self._routes) >= MAX_ROUTES:
            return f"there are more than {MAX_ROUTES} routes"
        self._routes[model] = whole
        return ""

    def of_route(self, model: str, name: str) -> list[Any]:
        """What a list of a model's route holds by now."""
        return list(self._routes.get(model, {}).get(name, ()))

    def price(self, model: str, fields: Mapping[str, object]) -> str:
        """Say what a model costs; returns what is wrong with it. What was said first stays."""
        if model in self._prices:
            return (
                "" if self._prices[model] == {"model": model, **fields} else "another price of this model stands there already"
            )
        if problem := _problem(PriceConfig, {"model": model, **fields}):
            return problem
        if len(self._prices) >= MAX_PRICES:
            return f"there are more than {MAX_PRICES} prices"
        self._prices[model] = {"model": model, **fields}
        return ""

    def problems(self) -> list[str]:
        """What is wrong between entries that are right each by itself."""
        try:
            Config(
                engines=[EngineConfig(**_known(fields)) for fields, _ in self.engines],
                routes=[RouteConfig(**entry) for entry in self._routes.values()],
                prices=[PriceConfig(**entry) for entry in self._prices.values()],
                **{name: value for name, (value, _) in self.settings.items()},  # type: ignore[arg-type]
            )
        except ConfigErrors as error:
            return [f"{one.name}: {one.message}" for one in error.errors]
        return []

    def text(self) -> str:
        """All of it, as a file."""
        lines = [_HEAD.format(kind=self._kind)]
        lines += [_line(name, value, why) for name, (value, why) in self.settings.items()]
        for fields, notes in self.engines:
            lines += ["", "[[engines]]", *_table(fields), *(f"# {_printable(note)}" for note in notes)]
        for name, entries in (("routes", self._routes), ("prices", self._prices)):
            for entry in entries.values():
                lines += ["", f"[[{name}]]", *_table(entry)]
        return "\n".join(lines) + "\n"


def _known(fields: Mapping[str, Any]) -> Fields:
    """An engine's fields, without what stands for one in a file alone."""
    return {name: value for name, value in fields.items() if name != KEY_VARIABLE}


def _problem(made: type[EngineConfig] | type[RouteConfig] | type[PriceConfig], fields: Mapping[str, Any]) -> str:
    try:
        made(**fields)
    except ConfigErrors as error:
        return told(error)
    return ""


def _table(fields: Mapping[str, object]) -> Iterator[str]:
    return (_line(name, value) for name, value in fields.items())


def _line(name: str, value: object, why: str = "") -> str:
    return f"{name} = {_value(value)}" + (f"  # {_printable(why)}" if why else "")


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)  # (TOML reads it; control characters have not come so far)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
