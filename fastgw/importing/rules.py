"""What becomes of single entries, as rows of a table: the name of an entry there, and what it comes to here.

Owns: the kinds of rows, and :func:`apply`. A section of a source is a table of these (``litellm_table.py``,
``tensorzero_table.py``); what needs a look at several entries is code, in the file of its source. Must never: set a setting to
what its row refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from fastgw.importing.draft import Draft
from fastgw.importing.report import Path, Report, shown

NO_LIMIT: Final = "0 is no limit here, and is not there"
OTHERWISE: Final = "it is none of the values that are known here"


class Sets(NamedTuple):
    """It is a setting here: ``of`` makes the value (ValueError: it is none). ``differs``: in what it is not the same."""

    setting: str
    of: Callable[[Any], object]
    differs: str = ""


class Case(NamedTuple):
    """What one value comes to."""

    sets: Mapping[str, object]
    differs: str = ""
    words: str = "as it is here anyway"


class Cases(NamedTuple):
    """It is one of several words; of all others ``otherwise`` says what to do."""

    cases: Mapping[Any, Case]
    otherwise: str = OTHERWISE


class Instead(NamedTuple):
    """There is nothing like it here; ``words`` say what to do."""

    words: str


class Differs(NamedTuple):
    """Nothing is to be set, and it is not the same."""

    words: str


class Needless(NamedTuple):
    """Nothing is to be set: it is so here in any case, or belongs to a part that is not here."""

    words: str


Rule = Sets | Cases | Instead | Differs | Needless
Rules = Mapping[str, Rule]


def apply(rules: Rules, at: Path, section: object, draft: Draft, report: Report) -> None:
    """Do what the rows say with the entries beneath ``at``; a name with dots is a way down."""
    for name, rule in rules.items():
        parts = tuple(name.split("."))
        value: Any = section
        for part in parts:
            value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT:
            _apply(rule, (*at, *parts), value, draft, report)


_ABSENT: Final = object()


def _apply(rule: Rule, path: Path, value: Any, draft: Draft, report: Report) -> None:
    match rule:
        case Sets(setting, of, differs):
            try:
                made = of(value)
                if made == 0:
                    raise ValueError(NO_LIMIT)
            except (ValueError, OverflowError) as error:
                report.tell("left", path, f"{error} ({setting})")
                return
            put(draft, report, path, {setting: made}, differs)
        case Cases(cases, otherwise):
            known = cases.get(value) if isinstance(value, str | bool) else None
            if known is None:
                report.tell("left", path, otherwise)
            elif known.sets:
                put(draft, report, path, known.sets, known.differs)
            else:
                report.tell("different" if known.differs else "translated", path, known.differs or known.words)
        case Instead(words):
            report.tell("left", path, words)
        case Differs(words):
            report.tell("different", path, words)
        case Needless(words):
            report.tell("translated", path, words)


def put(draft: Draft, report: Report, path: Path, sets: Mapping[str, object], differs: str = "") -> None:
    """Set settings for an entry, and tell of it."""
    taken = [name for name, value in sets.items() if name in draft.settings and draft.settings[name][0] != value]
    if taken:
        words = f"{taken[0]} is set by {draft.settings[taken[0]][1] or 'another entry'}, which goes before it"
        report.tell("different", path, words)
        return
    names = ", ".join(sets)
    if problem := draft.set(sets, shown(path)):
        report.tell("left", path, problem)
    elif differs:
        report.tell("different", path, f"{names}: {differs}")
    else:
        report.tell("translated", path, names)


def number(value: object) -> float:
    """A number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("it is no number")
    try:
        found = float(value)
    except ValueError:
        raise ValueError("it is no number") from None
    if not math.isfinite(found):
        raise ValueError("it is no number")
    return found


def limit(value: float) -> float:
    """A limit, which is above 0."""
    if value <= 0:
        raise ValueError(NO_LIMIT)
    return value


def whole(value: object) -> int:
    found = number(value)
    if found != int(found):
        raise ValueError("it is no whole number")
    return int(found)


def milliseconds(value: object) -> float:
    """As seconds."""
    return number(value) / 1000
