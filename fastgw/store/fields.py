"""What the fields of a key may be, as an operator writes them.

Owns: the reader of each field, and the sentences about what cannot be. Must never: repeat in a sentence what was given, which
may be a key that somebody has pasted.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from fastgw.config.grammar import fingerprint
from fastgw.config.money import amount, written
from fastgw.config.names import BUDGET_PERIODS, ON_EXHAUSTED, PRIORITIES
from fastgw.config.sources import suggest
from fastgw.digests import digest
from fastgw.limits.key import NUMBERS
from fastgw.protocol.x509 import ends_at

PREFIX: Final = "fgw_"
MAX_TEXT: Final = 128
MAX_MODELS: Final = 1000
MAX_MODEL_CHARS: Final = 256
MAX_NETWORKS: Final = 256
MAX_CERTIFICATES: Final = 16  # that one key is: before one ends its successor is there, on several machines
MAX_PEM_CHARS: Final = 65_536
ID: Final = re.compile(r"key_[0-9a-f]{16}\Z")

CHOICES: Final = {"priority": PRIORITIES, "on_exhausted": ON_EXHAUSTED, "budget_period": BUDGET_PERIODS}

_LATEST: Final = 253_402_300_799  # the end of the year 9999, the last that ISO 8601 writes in four digits
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class KeyProblems(Exception):
    """Fields that a key cannot have: ``problems`` holds a sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def duration_s(text: str) -> float | None:
    """Seconds of ``90s``, ``30m``, ``12h``, ``30d`` or ``2w``; None when it is no such text."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    return float(int(found[1]) * _UNITS[found[2]]) if found else None


# --- each reader gives the value to keep, or raises ValueError with the end of a sentence
def _text(value: object, now: float) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable() or value != value.strip():
        raise ValueError(f"must be text of at most {MAX_TEXT} printable characters, with no space at either end")
    if value.startswith(PREFIX) or ID.match(value):
        raise ValueError("must not look like a key or a key's id")
    return value


def _time(value: object, now: float) -> float:
    """Unix seconds of what was given; 0 = never."""
    if value is None or value in ("", "never") or (type(value) is int and value == 0):
        return 0.0
    at = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        at = float(value) if abs(value) <= _LATEST else math.inf
    elif isinstance(value, str) and len(value) <= 64:
        after_s = duration_s(value)
        if after_s is not None:
            at = now + after_s
        elif re.fullmatch(r"[0-9]{1,12}", value):
            at = float(value)
        else:
            try:
                read = datetime.fromisoformat(value)
                at = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
            except (ValueError, OverflowError):
                pass
    if math.isnan(at):
        raise ValueError('must be Unix seconds, an ISO 8601 date or time, "30d" or the like, or "never"')
    if not now < at <= _LATEST:
        raise ValueError("must lie in the future, and before the year 10000")
    return at


def _number(most: int, value: object, now: float) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"must be a whole number from 0 to {most} (0 = no limit), or null for the gateway's default")
    return value


def _choice(choices: tuple[str, ...], value: object, now: float) -> str | None:
    if value is not None and value not in choices:
        raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}, or null for the gateway's default")
    return None if value is None else str(value)


def _budget(value: object, now: float) -> int | None:
    """Billionths of an amount in text."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return amount(value)
        except ValueError:
            pass
    raise ValueError('must be an amount as text, such as "12.50" (0 = no limit), or null for the gateway\'s default')


def shown_budget(budget: int | None) -> str | None:
    """A key's budget as it is written; None = the gateway's default."""
    return None if budget is None else written(budget)


def _models(value: object, now: float) -> tuple[str, ...]:
    good = isinstance(value, list | tuple) and len(value) <= MAX_MODELS
    if not isinstance(value, list | tuple) or not good or not all(_is_model(one) for one in value):
        raise ValueError(f"must be a list of at most {MAX_MODELS} names of 1 to {MAX_MODEL_CHARS} printable characters")
    return tuple(dict.fromkeys(value))


def _is_model(one: object) -> bool:
    return isinstance(one, str) and 0 < len(one) <= MAX_MODEL_CHARS and one.isprintable()


def _networks(value: object, now: float) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_NETWORKS:
        raise ValueError(f"must be a list of at most {MAX_NETWORKS} networks, such as 10.0.0.0/8 or 2001:db8::/32")
    return tuple(dict.fromkeys(_network(one, place) for place, one in enumerate(value, 1)))


def _network(one: object, place: int) -> str:
    import ipaddress

    if isinstance(one, str) and len(one) <= 64 and "%" not in one:
        try:
            network = ipaddress.ip_network(one, strict=False)
        except ValueError:
            pass
        else:
            if "/" in one and ipaddress.ip_address(one.partition("/")[0]) != network.network_address:
                raise ValueError(f"entry {place} has bits set beyond its prefix; did you mean {network}?")
            return str(network)
    raise ValueError(f"entry {place} must be an address or a network, such as 10.0.0.0/8 or 2001:db8::/32")


def _certificates(value: object, now: float) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > MAX_CERTIFICATES:
        raise ValueError(f"must be a list of at most {MAX_CERTIFICATES} certificates")
    return tuple(dict.fromkeys(_certificate(one, place) for place, one in enumerate(value, 1)))


def _certificate(one: object, place: int) -> str:
    """The fingerprint of a certificate that is given by it, or as PEM (RFC 7468: the first of a chain)."""
    if isinstance(one, str) and len(one) <= MAX_PEM_CHARS:
        try:
            _, begin, rest = one.partition("-----BEGIN CERTIFICATE-----")
            if not begin:
                return fingerprint(one.strip()).hex()
            der = b64decode("".join(rest.partition("-----END CERTIFICATE-----")[0].split()), validate=True)
            ends_at(der)
            return digest(der).hex()
        except ValueError:
            pass
    raise ValueError(f"entry {place} must be a certificate in PEM, or its SHA-256 fingerprint: 64 hexadecimal digits")


def _flag(value: object, now: float) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


_READERS: Final[dict[str, Callable[[object, float], object]]] = {
    "name": _text,
    "tenant": _text,
    "expires_at": _time,
    "disabled": _flag,
    **{name: partial(_number, most) for name, most in NUMBERS.items()},
    **{name: partial(_choice, choices) for name, choices in CHOICES.items()},
    "budget": _budget,
    "models": _models,
    "networks": _networks,
    "certificates": _certificates,
}

FIELDS: Final = tuple(_READERS)
"""What can be set."""


def read_fields(fields: Mapping[str, object], now: float) -> dict[str, Any]:
    """The values to keep, or :class:`KeyProblems` with all that is wrong."""
    found: dict[str, Any] = {}
    problems = []
    for name, value in fields.items():
        reader = _READERS.get(name)
        if reader is None:
            shown = name if name.isascii() and name.isidentifier() and len(name) <= 32 else "of that name"
            problems.append(f"there is no field {shown}{suggest(name[:32], FIELDS)}")
            continue
        try:
            found[name] = reader(value, now)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise KeyProblems(problems)
    return found
