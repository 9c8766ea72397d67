"""Money, as people write it and as it is counted.

Owns: amounts and prices as texts, in whole billionths of the currency (an amount) or trillionths of it per token (a price).
Must never: be a float, or round what was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

BILLION: Final = 10**9
MOST_AMOUNT: Final = 10**18
"""The largest amount, in billionths: 10^9 of the currency. Sums of nine still fit 64 bits."""
MOST_PRICE: Final = 10**13
"""The dearest token, in trillionths: 10^7 of the currency for a million."""

_NUMBER: Final = r"([0-9]{1,10})(?:\.([0-9]{1,9}))?"  # (compiled by who needs it)


def _read(text: str, digits: int, most: int) -> int | None:
    found = re.fullmatch(_NUMBER, text)
    if found is None or len(found[2] or "") > digits:
        return None
    value = int(found[1]) * 10**digits + int((found[2] or "").ljust(digits, "0"))
    return value if value <= most else None


def amount(text: str) -> int:
    """Billionths of ``12.50``; ValueError with the end of a sentence where it is none."""
    value = _read(text, 9, MOST_AMOUNT)
    if value is None:
        raise ValueError('must be an amount such as "12.50": up to 1000000000, 9 digits behind the point')
    return value


def price(text: str) -> int:
    """Trillionths a token of a price for a million tokens; ValueError with the end of a sentence where it is none."""
    value = _read(text, 6, MOST_PRICE)
    if value is None:
        raise ValueError('must be a price of a million tokens, such as "0.60": up to 10000000, 6 digits behind the point')
    return value


def amount_problems(text: str) -> list[str]:
    """What is wrong with the text of an amount; an empty one is none."""
    return _problems(amount, text)


def price_problems(text: str) -> list[str]:
    """What is wrong with the text of a price; an empty one is none."""
    return _problems(price, text)


def _problems(read: Callable[[str], int], text: str) -> list[str]:
    try:
        if text:
            read(text)
    except ValueError as error:
        return [str(error)]
    return []


def written(billionths: int) -> str:
    """The amount with all its digits and no more: ``12.5``, ``0.000000001``, ``3``."""
    whole, rest = divmod(abs(billionths), BILLION)
    sign = "-" if billionths < 0 else ""
    return f"{sign}{whole}.{rest:09}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"
