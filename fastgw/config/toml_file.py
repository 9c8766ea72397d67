"""The configuration file: TOML, with the line of every mistake.

Must never: accept a key that is not a setting; a misspelt limit would be no limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastgw.config.entries import ENGINE_FIELDS, ROUTE_FIELDS, EngineConfig, RouteConfig
from fastgw.config.paying import PRICE_FIELDS, TENANT_FIELDS, PriceConfig, TenantConfig
from fastgw.config.problems import ConfigErrors
from fastgw.config.row import Setting
from fastgw.config.sources import Source, level, parse_text, read_file
from fastgw.config.table import BY_NAME


def read_toml(path: str, variables: Mapping[str, str] | None = None) -> Source:
    """Read a configuration file. Errors carry ``file:line``. ``variables``: where an engine's ``api_key_env`` is looked up."""
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
        source.fail(f"{path}:{line[1]}" if line else path, "", f"not valid TOML: {_explained(what)}")
        return source
    except (ValueError, RecursionError):
        source.fail(path, "", "not valid TOML: a number is too long, or tables and lists are nested too deeply")
        return source
    lines = _key_lines(text)

    def at(table: str, key: str) -> str:
        places = ((table, key), (table, ""), (key, ""), (f"{key}[0]", ""), ("", table.partition("[")[0]))
        line = next((lines[place] for place in places if place in lines), 0)
        return f"{path}:{line}" if line else path

    for key, value in data.items():
        row = BY_NAME.get(key)
        if key == "engines":
            _keys_of_variables(source, value, at, variables or {})
            for engine, where in _tables(source, _ENGINES, data, at):
                source.take_engine(engine, where)
        elif key in _SORTS:
            source.put(key, [entry for entry, _ in _tables(source, _SORTS[key], data, at)], at("", key))
        elif row is None:
            hint = source.hint(key, BY_NAME)
            if not hint and isinstance(value, dict) and not BY_NAME.keys().isdisjoint(value):
                hint = "; settings stand in no table: move them to the top"
            source.fail(at("", key), key, "there is no such setting" + hint)
        else:
            _toml_value(source, row, value, at("", key))
    return source


KEY_VARIABLE: Final = "api_key_env"
"""What stands in an engine's table in the place of its ``api_key``. It is no field of an engine: who adds one by the admin API
is to name no variable of this process."""
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def _keys_of_variables(source: Source, entries: object, at: Callable[[str, str], str], variables: Mapping[str, str]) -> None:
    """Put the key that a variable has in the place of its name."""
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict) or KEY_VARIABLE not in entry:
            continue
        name, problem = entry.pop(KEY_VARIABLE), ""
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            problem = "must be the name of a variable: letters, digits and _"
        elif "api_key" in entry:
            problem = "and api_key: an engine has one key"
        elif not variables.get(name, "").strip():
            problem = f"the variable {name} is not set: set it in the environment, or in config/.env"
        else:
            entry["api_key"] = variables[name].strip()
        if problem:
            source.fail(at(f"engines[{index}]", KEY_VARIABLE), "engines", f"{KEY_VARIABLE}: {problem}")


_EXPLAINED: Final = (
    # How what tomllib says begins, and what it means to whoever has written the file.
    ("Invalid value", "a value is missing, or a text stands without quotes (write name = \"text\")"),
    ("Illegal character '\\n'", "the quotes of a text are not closed on its line"),
    ("Illegal character '\\r'", "a line ends in a lone carriage return: save the file with line ends of \\n"),
    ("Illegal character", "a control character stands in a text or a comment"),
    ("Unterminated string", "the quotes of a text are not closed"),
    ("Expected \"'", "the quotes of a text are not closed"),
    ("Unescaped '\\'", "a backslash in a text is written \\\\, or the text stands in single quotes"),
    ("Cannot overwrite a value", "the same setting stands here a second time"),
    ("Cannot declare", "the same [table] stands here a second time; a further entry of a list is written [[name]]"),
    ("Cannot mutate immutable", "this belongs to a table or a list that was closed before"),
    ("Duplicate inline table key", "a table in braces has the same name twice"),
    ("Expected '=' after a key", "there is no = behind the setting's name"),
    ("Expected newline or end of document", "something follows the value: one setting a line, and # before a comment"),
    ("Unclosed array", "a list is not closed: ] or a comma is missing"),
    ("Unclosed inline table", "a table in braces is not closed: } or a comma is missing"),
    ("Expected ']", "the name of a [table] is not closed"),
    ("Invalid statement", "this is neither name = value, nor a [table], nor a # comment"),
    ("Invalid initial character for a key", "this is no name: letters, digits, - and _, or a text in quotes"),
    ("Invalid date", "there is no such date"),
)


def _explained(what: str) -> str:
    return next((means for begins, means in _EXPLAINED if what.startswith(begins)), what)


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


class _Sort(NamedTuple):
    """A list of tables. ``must``: the fields that none may lack, each with what stands in for it while the others are looked
    at."""

    name: str
    a: str
    made: Callable[..., object]
    rows: Sequence[Setting]
    must: Mapping[str, str]


_ENGINES: Final = _Sort("engines", "an engine", EngineConfig, ENGINE_FIELDS, {"url": "http://host:1"})
_SORTS: Final = {
    "routes": _Sort("routes", "a route", RouteConfig, ROUTE_FIELDS, {"model": "(none)"}),
    "prices": _Sort("prices", "a price", PriceConfig, PRICE_FIELDS, {"model": "(none)", "input": "0"}),
    "tenants": _Sort("tenants", "a tenant", TenantConfig, TENANT_FIELDS, {"name": "(none)"}),
}


def _tables(source: Source, sort: _Sort, data: Mapping[str, object], at: Callable[[str, str], str]) -> list[tuple[Any, str]]:
    """The entries of which all is right, each with where it stands. Of the others all that is wrong is told."""
    name, value = sort.name, data[sort.name]
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        source.fail(at("", name), name, f"must be written as [[{name}]] tables")
        value = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    known = [row.name for row in sort.rows]
    first = next(key for key in data if key == "engines" or key in _SORTS)
    found: list[tuple[Any, str]] = []
    for index, entry in enumerate(value):
        table, before = f"{name}[{index}]", len(source.errors)
        for key in entry:
            if key not in known:
                above = f"; it belongs to the gateway: move it above the first [[{first}]]" if key in BY_NAME else ""
                source.fail(at(table, key), name, f"{sort.a} has no setting {key}{above or source.hint(key, known)}")
        for key in sort.must:
            if key not in entry:
                source.fail(at(table, ""), name, f"this {sort.a.split()[1]} has no {key}")
        try:
            made = sort.made(**{**sort.must, **{key: entry[key] for key in known if key in entry}})
        except ConfigErrors as wrong:
            for error in wrong.errors:
                source.fail(at(table, error.name), name, f"{error.name}: {error.message}")
        else:
            if len(source.errors) == before:
                found.append((made, at(table, next(iter(sort.must)))))
    return found


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
