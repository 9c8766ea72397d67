"""What one place of the configuration says: its values, each with where it was written, and its mistakes.

Owns: :class:`Source` and the reading of a value from text. Must never: decide between sources (``load.py`` does), or stop
at the first mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from fastgw.config.entries import ROUTE_FIELDS, EngineConfig, RouteConfig
from fastgw.config.names import LOG_LEVELS, LogLevel
from fastgw.config.paying import parse_prices, parse_tenants
from fastgw.config.problems import ConfigError, ConfigErrors, told
from fastgw.config.row import Setting, value_problem, wanted
from fastgw.config.table import BY_NAME

_MAX_FILE_BYTES: Final = 4 << 20
_GUESSES: Final = 20  # a guess at what was meant takes a millisecond, and a wrong file may hold 300,000 words
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_UNITS: Final = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
LEVELS: Final[dict[str, LogLevel]] = {
    "trace": "debug", "warn": "warning", "off": "critical", **{level: level for level in LOG_LEVELS},
}  # fmt: skip


class Value(msgspec.Struct, frozen=True):
    """A value of the right type, and where it was written."""

    value: object
    where: str


class Source:
    """What one place says. ``engines`` is None where it names none; ``failed`` names settings whose value was no good."""

    __slots__ = ("engines", "errors", "failed", "notes", "values")

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.engines: list[tuple[EngineConfig, str]] | None = None
        self.failed: set[str] = set()
        self.errors: list[ConfigError] = []
        self.notes: list[str] = []

    def fail(self, where: str, name: str, message: str) -> None:
        self.failed.add(name)
        self.errors.append(ConfigError(where, name, message))

    def hint(self, word: str, known: Iterable[str]) -> str:
        """As :func:`suggest`, for the first mistakes."""
        return suggest(word, known) if len(self.errors) < _GUESSES else ""

    def put(self, name: str, value: object, where: str) -> None:
        """Take the value unless a variable that comes first has set it; a wrong one is an error either way."""
        row = BY_NAME[name]
        problem = value_problem(row, value)
        if problem:
            self.fail(where, name, problem)
            if row.kind == "list" and row.check is not None and isinstance(value, list):
                for more in row.check([item for item in value if isinstance(item, str)]):  # (in the same go)
                    self.fail(where, name, more)
        else:
            self.values.setdefault(name, Value(value, where))

    def add_engine(self, fields: Mapping[str, object], where: Callable[[str], str], prefix: str = "") -> None:
        try:
            self.take_engine(EngineConfig(**fields), where("url"))  # type: ignore[arg-type]
        except ConfigErrors as found:
            for error in found.errors:
                self.fail(where(error.name), "engines", f"{prefix}{error.name}: {error.message}")


    def take_engine(self, engine: EngineConfig, where: str) -> None:
        if self.engines is None:
            self.engines = []
        self.engines.append((engine, where))


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean x?``, or nothing."""
    import difflib  # only a mistake pays for it

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _items(text: str) -> list[str]:
    return [item for item in map(str.strip, text.split(",")) if item]


def parse_text(row: Setting, text: str) -> object:
    """The value that ``text`` stands for in a variable or flag; raises ``ValueError`` with a sentence."""
    text = text.strip()
    if row.kind in {"bool", "auto_bool"}:
        if row.kind == "auto_bool" and text.lower() == "auto":
            return None
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise ValueError("must be true or false" + (" or auto" if row.kind == "auto_bool" else ""))
    if row.kind == "auto_int" and text.lower() == "auto":
        return None
    if row.kind in {"int", "auto_int"}:
        match = re.fullmatch(r"([0-9]{1,18})\s*([A-Za-z]*)", text)
        unit = _UNITS.get(match[2].lower()) if match and (not match[2] or row.name.endswith("_bytes")) else None
        if match is None or unit is None:
            raise ValueError(f"must be {wanted(row)}")
        return int(match[1]) * unit
    if row.kind == "float":
        if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{0,9})?", text):
            raise ValueError(f"must be {wanted(row)}")
        return float(text)
    if row.kind in _PARSERS:
        return _PARSERS[row.kind](text)
    if row.kind in {"list", "keys"}:
        return _items(text)
    return level(text) if row.name == "log_level" else text


_PLACES: Final = ("model", "max_concurrent", "on_capacity", "fallback", "timeout_s", "policy", "needs")
_ROUTE: Final = {row.name: row for row in ROUTE_FIELDS}


def _parse_routes(text: str) -> list[RouteConfig]:
    """``model|max_concurrent|on_capacity|fallback,fallback|timeout_s|policy|need,need;...``: all but the model may be left
    out, and in any place but the first one any field of a route may stand by its name: ``aliases=a,b``."""
    routes = []
    for number, entry in enumerate((entry for entry in map(str.strip, text.split(";")) if entry), 1):
        said: dict[str, Any] = {}
        try:
            for at, part in enumerate(map(str.strip, entry.split("|"))):
                name, value = _route_field(at, part)
                if name in said:
                    raise ValueError(f"{name} is said twice")
                if value or name == "model":
                    said[name] = _route_value(name, value)
            routes.append(RouteConfig(**said))
        except ConfigErrors as found:
            raise ValueError(f"entry {number}: {told(found)}") from None
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    return routes


def _route_field(at: int, part: str) -> tuple[str, str]:
    """Which field the part in that place says, and what of it."""
    name, named, value = part.partition("=")
    if at and named and name.strip() in _ROUTE:
        return name.strip(), value.strip()
    if at < len(_PLACES):
        return _PLACES[at], part
    raise ValueError(f"{name!r} is no field of a route{suggest(name, _ROUTE)}: say it as name=value")


def _route_value(name: str, text: str) -> object:
    row = _ROUTE[name]
    try:
        if row.kind == "shares":
            return {version: int(share) for version, _, share in (one.partition("=") for one in _items(text))}
        return parse_text(row, text)
    except ValueError as error:
        said = "must be version=share, with commas between" if row.kind == "shares" else error
        raise ValueError(f"{name}: {said}") from None


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "routes": _parse_routes,
    "prices": parse_prices,
    "tenants": parse_tenants,
}


def level(text: str) -> str:
    return LEVELS.get(text.lower(), text)


def read_file(path: str, source: Source, what: str) -> str | None:
    """The text of a file; None, and an error, when it cannot be had."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError
        return data.decode("utf-8-sig")
    except OSError as error:
        source.fail(path, "", f"cannot read the {what}: {error.strerror}")
    except UnicodeDecodeError:
        source.fail(path, "", f"the {what} is not UTF-8 text")
    except ValueError:
        source.fail(path, "", f"the {what} is longer than {_MAX_FILE_BYTES} bytes")
    return None
