"""The configuration file: TOML, with the line of every mistake.

Must never: accept a key that is not a setting; a misspelt limit would be no limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from fastgw.config.entries import ENGINE_FIELDS, ROUTE_FIELDS, RouteConfig
from fastgw.config.problems import ConfigErrors
from fastgw.config.row import Setting
from fastgw.config.sources import Source, level, parse_text, read_file
from fastgw.config.table import BY_NAME


def read_toml(path: str) -> Source:
    """Read a configuration file. Errors carry ``file:line``."""
    import tomllib  # 2 ms that only those with a file pay

    source = Source()
    text = read_file(path, source, "configuration file")
    if text is None:
        return source
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        what = re.sub(r"\s*\(at .*\)$", "", str(error))
        source.fail(f"{path}:{line[1]}" if line else path, "", f"not valid TOML: {what}")
        return source
    except (ValueError, RecursionError):
        source.fail(path, "", "not valid TOML: a number is too long, or tables and lists are nested too deeply")
        return source
    lines = _key_lines(text)

    def at(table: str, key: str) -> str:
        line = lines.get((table, key)) or lines.get((table, "")) or lines.get((key, "")) or lines.get((f"{key}[0]", ""))
        return f"{path}:{line}" if line else path

    for key, value in data.items():
        row = BY_NAME.get(key)
        if key == "engines":
            _toml_engines(source, value, at)
        elif key == "routes":
            _toml_routes(source, value, at)
        elif row is None:
            hint = source.hint(key, BY_NAME)
            source.fail(at("", key), key, "there is no such setting" + hint)
        else:
            _toml_value(source, row, value, at("", key))
    return source


def _toml_value(source: Source, row: Setting, value: object, where: str) -> None:
    if row.name.endswith("_bytes") and isinstance(value, str):
        try:
            value = parse_text(row, value)
        except ValueError as error:
            source.fail(where, row.name, str(error))
            return
    if row.name == "log_level" and isinstance(value, str):
        value = level(value)
    if row.kind in {"auto_bool", "auto_int"} and value == "auto":
        value = None
    if row.kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if row.kind == "keys" and value == []:
        source.fail(where, row.name, "holds no key; leave it out to have none")
        return
    source.put(row.name, value, where)


def _toml_engines(source: Source, value: object, at: Callable[[str, str], str]) -> None:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        source.fail(at("", "engines"), "engines", "must be written as [[engines]] tables")
        return
    known = [row.name for row in ENGINE_FIELDS]
    for index, entry in enumerate(value):
        table = f"engines[{index}]"
        source.engines = source.engines or []
        unknown = [key for key in entry if key not in known]
        for key in unknown:
            hint = source.hint(key, known)
            if not hint and key in BY_NAME:
                hint = "; it belongs to the gateway: move it above the first [[engines]]"
            source.fail(at(table, key), "engines", f"an engine has no setting {key}{hint}")
        if "url" not in entry:
            source.fail(at(table, ""), "engines", "this engine has no url")
        elif not unknown:
            source.add_engine(entry, partial(at, table))


def _toml_routes(source: Source, value: object, at: Callable[[str, str], str]) -> None:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        source.fail(at("", "routes"), "routes", "must be written as [[routes]] tables")
        return
    known = [row.name for row in ROUTE_FIELDS]
    routes = []
    for index, entry in enumerate(value):
        table = f"routes[{index}]"
        unknown = [key for key in entry if key not in known]
        for key in unknown:
            source.fail(at(table, key), "routes", f"a route has no setting {key}{source.hint(key, known)}")
        if "model" not in entry:
            source.fail(at(table, ""), "routes", "this route has no model")
        elif not unknown:
            try:
                routes.append(RouteConfig(**entry))
            except ConfigErrors as found:
                for error in found.errors:
                    source.fail(at(table, error.name), "routes", f"{error.name}: {error.message}")
    source.put("routes", routes, at("", "routes"))


def _key_lines(text: str) -> dict[tuple[str, str], int]:
    """The line of each key, by table (``""`` = top, ``engines[0]``...); the key ``""`` is the table's header.

    A scan, not a parser: it runs on text that tomllib has accepted, and only error messages depend on it.
    """
    lines: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    table, closing = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if closing:
            closing = "" if closing in line else closing
            continue
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
        key = re.match(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*[.=]""", line)
        if header:
            table = header[2].strip("\"'")
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = f"{table}[{counts[table]}]"
            lines.setdefault((table, ""), number)
        elif key:
            lines.setdefault((table, key[1]), number)
        for quotes in ('"""', "'''"):
            if line.count(quotes) % 2:
                closing = quotes
    return lines
