"""Traces: when requests came somewhere, and how long they were.

Three forms are read: lines of JSON with this program's names (``at_s``, ``prompt_tokens``, ``max_tokens``, ``session``); lines
of JSON as Mooncake's (``timestamp`` in milliseconds, ``input_length``, ``output_length``); and CSV as BurstGPT's (``Timestamp``
in seconds, ``Request tokens``, ``Response tokens``, a ``Session ID`` where there is one). A file is refused with the line that
cannot be read; nothing is guessed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

MAX_ROWS: Final = 1_000_000
MAX_LINE_BYTES: Final = 65536
MAX_TOKENS: Final = 1_000_000
MAX_AT_S: Final = 30 * 86400.0

_NAMES: Final = {
    "at_s": ("at_s", "timestamp", "Timestamp"),
    "prompt_tokens": ("prompt_tokens", "input_length", "Request tokens"),
    "max_tokens": ("max_tokens", "output_length", "Response tokens"),
    "session": ("session", "session_id", "Session ID"),
}


class Row(NamedTuple):
    at_s: float
    prompt_tokens: int
    max_tokens: int
    session: str = ""


class TraceError(ValueError):
    """The file cannot be played; the text says which line, and why."""


def read(file: BinaryIO) -> list[Row]:
    """All rows of a file.

    :raises TraceError: in words.
    """
    lines = _lines(file)
    first = next(lines, (0, ""))
    if not first[1]:
        raise TraceError("the trace is empty")
    as_json = first[1].lstrip().startswith("{")
    found: list[Row] = []
    for number, fields in _of_json([first], lines) if as_json else _of_csv(first[1], lines):
        if len(found) == MAX_ROWS:
            raise TraceError(f"line {number}: a trace has {MAX_ROWS:,} requests at most")
        found.append(_row(number, fields))
    if not found:
        raise TraceError("the trace has no requests")
    return found


def _lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Numbered, without those that are empty."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise TraceError(f"line {number}: longer than {MAX_LINE_BYTES} bytes")
        try:
            text = line.decode("utf-8").strip().removeprefix("\ufeff")
        except UnicodeDecodeError:
            raise TraceError(f"line {number}: not UTF-8") from None
        if text:
            yield number, text


def _of_json(first: Iterable[tuple[int, str]], more: Iterable[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for lines in (first, more):
        for number, line in lines:
            try:
                yield number, msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.DecodeError, RecursionError) as error:
                raise TraceError(f"line {number}: {error}") from None


def _of_csv(header: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    names = next(csv.reader([header]))
    for what in ("at_s", "prompt_tokens", "max_tokens"):
        _field(1, dict.fromkeys(names), what)
    for number, line in lines:
        try:
            yield number, dict(zip(names, next(csv.reader([line])), strict=True))
        except (ValueError, csv.Error):
            raise TraceError(f"line {number}: not {len(names)} columns, as the first line has") from None


def _row(number: int, fields: dict[str, Any]) -> Row:
    at, name = _field(number, fields, "at_s")
    unit = 1000 if name == "timestamp" else 1
    at_s = _number(number, name, at, MAX_AT_S * unit) / unit
    session = next((fields[name] for name in _NAMES["session"] if fields.get(name) not in (None, "")), "")
    return Row(at_s, _tokens(number, fields, "prompt_tokens"), _tokens(number, fields, "max_tokens"), str(session)[:128])


def _tokens(number: int, fields: dict[str, Any], what: str) -> int:
    value, name = _field(number, fields, what)
    count = _number(number, name, value, MAX_TOKENS)
    if count != int(count):
        raise TraceError(f"line {number}: {name} is no whole number")
    return max(1, int(count))  # (traces of the wild have requests of 0: they were asked, and cost something)


def _field(number: int, fields: dict[str, Any], what: str) -> tuple[Any, str]:
    for name in _NAMES[what]:
        if name in fields:
            return fields[name], name
    raise TraceError(f"line {number}: it has none of {', '.join(_NAMES[what])}")


def _number(number: int, name: str, value: object, most: float) -> float:
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not 0 <= found <= most:
        raise TraceError(f"line {number}: {name} must be a number from 0 to {most:g}")
    return found
