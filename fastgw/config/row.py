"""What one setting is beside its name, type and default, and whether a value is one of its.

Owns: :class:`Setting`, the helpers that make one inside ``Annotated[...]``, and :func:`rows_of`, which reads them out of a
class again: the kind comes from the field's type, the choices from its ``Literal``. Must never: know a single setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec.structs import force_setattr

_DAY: Final = 86400.0
_TOLD: Final = 20  # of a list that are told to be wrong

AT_ONCE: Final = "yes"
CONNECTIONS: Final = "new connections"
RESTART: Final = "restart"
LISTS: Final = frozenset({"list", "keys", "engines", "routes", "prices", "tenants"})
"""Kinds of which a value holds several."""
_KINDS: Final[dict[object, str]] = {
    str: "text", int: "int", int | None: "auto_int", float: "float", bool: "bool", bool | None: "auto_bool",
    Sequence[str]: "list", Mapping[str, int]: "shares",
}  # fmt: skip


class Setting(msgspec.Struct, frozen=True):
    """One row.

    ``kind`` is one of text, int, auto_int, float, bool, auto_bool, list, choice, keys, engines, routes, prices,
    tenants, shares. ``env`` holds
    the variables that set it beside ``FASTGW_<NAME>``, the one that wins first. ``zero`` says what 0 means where 0 is outside
    the range, ``auto`` what an auto_int is that is not set. ``check`` tells what is wrong with a value of the right type.
    ``reload`` says for whom a new value holds when a gateway that runs reads its settings again: :data:`AT_ONCE` for requests
    from then on, :data:`CONNECTIONS` for those on connections from then on, :data:`RESTART` for nobody.
    """

    name: str
    kind: str
    help: str
    env: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    zero: str = ""
    auto: str = ""
    secret: bool = False
    section: str = ""
    check: Callable[[Any], list[str]] | None = None
    reload: str = AT_ONCE

    @property
    def flag(self) -> str:
        return "--engine" if self.kind == "engines" else "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        return (f"FASTGW_{self.name.upper()}", *self.env)


def row(
    help_: str,
    *env: str,
    kind: str = "",
    secret: bool = False,
    check: Callable[[Any], list[str]] | None = None,
    reload: str = AT_ONCE,
) -> Setting:
    """A setting without a range. ``kind`` only where the type does not say it."""
    return Setting("", kind, help_, env, secret=secret, check=check, reload=reload)


def within(
    low: float, high: float, help_: str, *env: str, zero: str = "", auto: str = "", reload: str = AT_ONCE
) -> Setting:
    """A number from ``low`` to ``high``."""
    return Setting("", "", help_, env, minimum=low, maximum=high, zero=zero, auto=auto, reload=reload)


def seconds(help_: str, *env: str, zero: str = "", low: float = 0.001) -> Setting:
    """A time of at most a day."""
    return Setting("", "", help_, env, minimum=low, maximum=_DAY, zero=zero)


def rows_of(fields: type[msgspec.Struct], section: str = "") -> tuple[Setting, ...]:
    """The rows of what ``fields`` itself declares (not its bases), in their order; fields without one are no settings."""
    found = []
    for name, declared in fields.__annotations__.items():
        for one in getattr(declared, "__metadata__", ()):
            type_ = declared.__origin__
            choices = get_args(type_) if get_origin(type_) is Literal else ()
            kind = one.kind or ("choice" if choices else _KINDS[type_])
            found.append(
                Setting(
                    name, kind, one.help, one.env, choices, one.minimum, one.maximum, one.zero, one.auto, one.secret,
                    section, one.check, one.reload,
                )
            )  # fmt: skip
    return tuple(found)


def own_lists(record: msgspec.Struct, rows: Sequence[Setting]) -> None:
    """Make a tuple of each list that ``record`` was given, so that nobody changes it afterwards; what is none stays as it is,
    for :func:`type_problem`."""
    for one in rows:
        if one.kind in LISTS:
            value = getattr(record, one.name)
            if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
                force_setattr(record, one.name, tuple(value))


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def default_text(value: object) -> str:
    """A value as documentation shows it."""
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number(value)
    return str(value) if value else ""


def range_text(row: Setting) -> str:
    """``1 to 10, or 0 (no limit)``, or nothing where a setting has no range."""
    if row.minimum is None or row.maximum is None:
        return ""
    text = f"{number(row.minimum)} to {number(row.maximum)}"
    if row.auto:
        text += f", auto ({row.auto})"
    return f"{text}, or 0 ({row.zero})" if row.zero else text


def wanted(row: Setting) -> str:
    """What a number must be as this setting's, with its range."""
    if row.kind == "float":
        return f"a number{' of seconds' if row.name.endswith('_s') else ''} from {range_text(row)}"
    size = " of bytes (files, variables and flags take 64MiB too)" if row.name.endswith("_bytes") else ""
    return f"a whole number{size} from {range_text(row)}"


def type_problem(row: Setting, value: object) -> str:
    """What is wrong with the type of ``value``, or with its size where it is a number; or nothing."""
    if row.kind in {"int", "auto_int", "float"}:
        if value is None and row.kind == "auto_int":
            return ""
        right = not isinstance(value, bool) and isinstance(value, (int, float) if row.kind == "float" else (int,))
        if not right or not math.isfinite(value) or not _in_range(row, value):  # type: ignore[arg-type]
            return f"must be {wanted(row)}"
    elif row.kind in {"bool", "auto_bool"}:
        if not (isinstance(value, bool) or (row.kind == "auto_bool" and value is None)):
            return "must be true or false" + (" or auto" if row.kind == "auto_bool" else "")
    elif row.kind in {"text", "choice"}:
        if not isinstance(value, str):
            return "must be text"
    elif row.kind in {"list", "keys"}:
        if not isinstance(value, (list, tuple)):
            return "must be a list of texts"
        wrong = [str(number) for number, item in enumerate(value, 1) if not isinstance(item, str)][:_TOLD]
        if not wrong:
            return ""
        return "must be a list of texts: " + (f"items {', '.join(wrong)} are none" if wrong[1:] else f"item {wrong[0]} is none")
    return ""


def value_problem(row: Setting, value: object) -> str:
    """What is wrong with ``value`` as this setting's, or nothing. (What its ``check`` would say comes when all is read.)"""
    return type_problem(row, value) or (text_problem(row, value) if isinstance(value, str) else "")


def text_problem(row: Setting, value: str) -> str:
    """What is wrong with a text or a choice."""
    if row.kind == "choice" and value not in row.choices:
        return "must be one of " + ", ".join(choice for choice in row.choices if choice)
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        return "holds a control character"
    return ""


def _in_range(row: Setting, value: float) -> bool:
    if value == 0 and row.zero:
        return True
    return row.minimum is None or row.maximum is None or row.minimum <= value <= row.maximum


def shown(record: msgspec.Struct, secrets: frozenset[str]) -> str:
    """``repr`` with what differs from the defaults, secrets only as the fact that they are set."""
    parts = []
    names = type(record).__struct_fields__
    defaults = type(record).__struct_defaults__
    required = len(names) - len(defaults)
    for index, name in enumerate(names):
        value = getattr(record, name)
        if index >= required and value == defaults[index - required]:
            continue
        if name in secrets:
            parts.append(f"{name}=<{len(value)} set>" if isinstance(value, tuple) else f"{name}=<set>")
        else:
            parts.append(f"{name}={value!r}")
    return f"{type(record).__name__}({', '.join(parts)})"
