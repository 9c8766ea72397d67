"""The query of a target, where the gateway reads one: a WebSocket session names its model there.

Owns: which parameter is meant, and where its value stands. Servers differ in what else separates parameters, in which of
two they take and in whether case matters, so what two of them could read differently is refused (WHATWG URL §5.1 is what
browsers write; ``;`` was a separator once, HTML 4.01 §B.2.2). Must never: repair, or change a byte but the value's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_PARAMETERS: Final = 32


class Value(NamedTuple):
    """A parameter's value, and where it stands in the query as it came."""

    text: str
    start: int
    end: int


def parameter(query: bytes, name: str) -> Value | None:
    """The one value of ``name`` (lower case); None = it is not there.

    :raises ValueError: with a sentence for the client, where another reader could find another value.
    """
    if b";" in query:
        raise ValueError("The query may not hold a `;`: some servers take it for a `&`.")
    found: Value | None = None
    at = 0
    parts = query.split(b"&", MAX_PARAMETERS)
    if len(parts) > MAX_PARAMETERS:
        raise ValueError(f"The query has more than {MAX_PARAMETERS} parameters.")
    for part in parts:
        key, equals, value = part.partition(b"=")
        spelt = _decoded(key)
        if spelt == name:
            if found is not None:
                raise ValueError(f"`{name}` may be given once.")
            start = at + len(key) + len(equals)
            found = Value(_decoded(value), start, start + len(value))
        elif _nearly(spelt.strip(" \t\0"), name) or _nearly(spelt.partition("[")[0], name):
            raise ValueError(f"`{name}` may be given once, and in this spelling.")
        at += len(part) + 1
    return found


def with_value(query: bytes, value: Value, text: str) -> bytes:
    """``query`` with ``text`` in the place of ``value``."""
    from urllib.parse import quote

    return query[: value.start] + quote(text, safe="").encode() + query[value.end :]


def _nearly(spelt: str, name: str) -> bool:
    return len(spelt) <= len(name) and spelt.casefold() == name  # (folding makes no text shorter)


_BLANK_FOR_PLUS: Final = bytes.maketrans(b"+", b" ")


def _decoded(text: bytes) -> str:
    """A form-encoded text; raises ValueError where it is not UTF-8, or a ``%`` begins no escape."""
    raw = text.translate(_BLANK_FOR_PLUS) if b"+" in text else text
    escapes = raw.count(b"%")
    if escapes:
        # What `%61` is here, `\x61` is in a string of Python's, whose decoder refuses what is none: six thousand of them cost
        # it 70 us, and 2 ms one by one. (Where they are more than fit, nothing need become longer to be refused.)
        try:
            if 3 * escapes > len(raw):
                raise ValueError
            raw = raw.replace(b"\\", b"\\\\").replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")
        except ValueError:
            raise ValueError("The query holds a `%` that begins no escape.") from None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("The query is not UTF-8.") from None
