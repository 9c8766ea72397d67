"""Money that a key, or its tenant, may spend in a period: reserved when a request is admitted, settled when it has ended.

Owns: :class:`Purse`, the budget of one key or of one tenant, and :class:`Hold`, what one request has taken of both. Amounts
are whole billionths of the currency; or tokens, where a purse is what all keys of a tenant, or a model, may use in a day. Must
never: ask for the time (each call is told the UTC day), or do I/O: what a period has seen before is told by
:meth:`Purse.restore`.

Invariants: ``reserve`` never makes spent plus reserved pass the limit. It may pass it by what a request costs beyond what was
reserved for it, and by requests whose price is unknown. Each crossing is told once in a period, of each limit that it has had
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from fastgw.limits.promises import Promises
from fastgw.limits.shared import Record
from fastgw.limits.spending import Price

KEY: Final = "key"
TENANT: Final = "tenant"
DAY: Final = "day"
WEEK: Final = "week"

WARN_PERCENT: Final = 80
"""From here on answers carry a warning, and whoever pays is told."""
MOST_SPENT: Final = 4 * 10**18
"""Sums end here: 64 bits hold them."""

MOST_HEARD: Final = 16
"""Limits and periods of one budget of which it is remembered what was told: a few limits that are tried, and a clock that is
set forward and back."""

_most: Final = MOST_SPENT
_most_heard: Final = MOST_HEARD
_warn: Final = WARN_PERCENT
_EPOCH: Final = date(1970, 1, 1).toordinal()


Asked = tuple[str, str, int, int, int, Any]
"""A budget of which is asked what it has seen: its kind and name, the first day of its period and the first behind it, its
limit, and its models, as :class:`Purse` has them."""
Sums = tuple[str, Sequence[int], Sequence[int]]
"""The last batch that is in them; of each of the budgets that were asked for what it has seen, and the last line of it that was
told of."""
ToldRow = tuple[str, str, int, int, int, int]
"""A line of a budget that somebody was told of: as :data:`Asked` without the models, and the percentage."""


def span(day: int, period: str) -> tuple[int, int]:
    """The first day of the period that ``day`` is in, and the first behind it: a day, a week from Monday on, a month."""
    if period == DAY:
        return day, day + 1
    if period == WEEK:
        begins = day - (day + 3) % 7  # (1970-01-01 was a Thursday)
        return begins, begins + 7
    at = date.fromordinal(day + _EPOCH)
    year, month = at.year + at.month // 12, at.month % 12 + 1
    return day - at.day + 1, date(year, month, 1).toordinal() - _EPOCH


class Purse:
    """A budget. ``limit`` is above 0; ``begins`` and ``ends`` are days since 1970-01-01 UTC, of the current period; ``spent``
    and ``reserved`` are of that. ``known``: what was spent in it before is in ``spent``. ``told``: the percentage of the last
    crossing of this limit that was told of (:meth:`tell`); ``line``: what of its fields in an answer never changes.
    ``models``: None = it holds money, else tokens, of these models, and of all where none is named. ``common``: several
    processes count in it; ``record``: where, of one that stands by itself."""

    __slots__ = (
        "_before", "_before_begins", "_heard", "_warns_at", "begins", "common", "ends", "kind", "known", "limit", "line",
        "models", "name", "period", "promises", "record", "reserved", "spent", "told",
    )  # fmt: skip

    def __init__(self, kind: str, name: str, models: tuple[str, ...] | None = None) -> None:
        self.kind = kind
        self.name = name
        self.models = models
        self.limit = 0
        self.period = ""
        self.begins = 0
        self.ends = 0
        self.spent = 0
        self.reserved = 0
        self.known = False
        self.told = 0
        self.line = b""
        self._warns_at = 0  # spent so much, a line is crossed
        self.common = False
        self.record: Record | None = None
        self.promises: Promises | None = None  # to those who found the rest reserved
        # The period that was current before this one: a clock that steps over its edge and back finds what was spent.
        self._before_begins = -1
        self._before = 0
        self._heard: dict[tuple[int, int, int], int] | None = None  # ``told`` by period and limit, where there was anything

    def __repr__(self) -> str:
        return f"<Purse {self.kind} {self.name} {self.spent}+{self.reserved}/{self.limit} a {self.period}>"

    def change(self, limit: int, period: str, line: bytes) -> None:
        """From now on so much in such a period. What was spent stays spent, where the period is the same."""
        self.limit = limit
        # (A hundredth first: a hundred times a limit may be more than 64 bits.)
        self._warns_at = limit // 100 * _warn + limit % 100 * _warn // 100
        self.line = line
        if period != self.period:
            self.period = period
            self.begins = self.ends = 0
            self._before_begins = -1
            self.known = False
        self.told = self._told()

    def roll(self, day: int) -> None:
        """Make the period of ``day`` the current one; all other methods that are told a day do this. Reservations go along."""
        if self.begins <= day < self.ends:
            return
        begins, ends = span(day, self.period)
        spent = self._before if begins == self._before_begins else 0
        self._before_begins = self.begins if self.ends else -1
        self._before = self.spent
        self.begins = begins
        self.ends = ends
        self.spent = spent
        self.known = False
        self.told = self._told()

    def _told(self) -> int:
        heard = self._heard
        return 0 if heard is None else heard.get((self.begins, self.ends, self.limit), 0)

    def tell(self, percent: int) -> None:
        """Somebody has been told of that line."""
        heard = self._heard
        if heard is None:
            heard = self._heard = {}
        self.told = heard[(self.begins, self.ends, self.limit)] = percent
        if len(heard) > _most_heard:
            del heard[next(iter(heard))]

    def left(self, day: int) -> int:
        """What could be reserved now."""
        if not self.begins <= day < self.ends:
            self.roll(day)
        return max(0, self.limit - self.spent - self.reserved)

    def over(self, day: int) -> bool:
        """Whether all of it is spent."""
        if not self.begins <= day < self.ends:
            self.roll(day)
        return self.spent >= self.limit

    def reserve(self, day: int, cost: int) -> bool:
        """Take ``cost`` (0 or more) before a request. False = not that much is left; nothing is taken."""
        if cost > self.left(day):
            return False
        self.reserved += cost
        return True

    def release(self, cost: int) -> None:
        """Give back what was reserved."""
        self.reserved = max(0, self.reserved - cost)

    def charge(self, day: int, cost: int) -> bool:
        """Count what a request has cost. True = a line is crossed of which nobody has been told in this period, as far as is
        known: what was told before this process began is not, until :meth:`restore`."""
        if not self.begins <= day < self.ends:
            self.roll(day)
        self.spent = min(self.spent + cost, _most)
        return self.known and self.percent() > self.told

    def percent(self) -> int:
        """The line that was crossed last: 0, :data:`WARN_PERCENT` or 100."""
        if self.spent >= self.limit:
            return 100
        return _warn if self.spent >= self._warns_at else 0

    def restore(self, begins: int, spent: int, told: int = 0) -> None:
        """All that was spent in the period that begins on that day, whoever has counted it, and the last line that was told
        of in it."""
        if begins != self.begins:
            return
        if self.common:
            spent = max(spent, self.spent)  # (what another process has counted may still be on its way to the store)
        self.spent = min(spent, _most)
        self.known = True
        if told > self.told:
            self.tell(told)

    def save(self, words: memoryview[int], at: int) -> None:
        """Write there what other processes have to know of it. (Who was told of a line is the business of one of them.)"""
        words[at] = self.begins
        words[at + 1] = self.ends
        words[at + 2] = self.spent
        words[at + 3] = 1 if self.known else 0
        words[at + 4] = self._before_begins
        words[at + 5] = self._before

    def load(self, words: memoryview[int], at: int) -> None:
        """Go on from what was written there."""
        turned = words[at] != self.begins or words[at + 1] != self.ends
        self.begins = words[at]
        self.ends = words[at + 1]
        self.spent = words[at + 2]
        self.known = words[at + 3] != 0
        self._before_begins = words[at + 4]
        self._before = words[at + 5]
        if turned:
            self.told = self._told()


class Hold:
    """What one request holds: ``reserved`` of each of its purses (None = no budget), at ``price``, for so many ``tokens``.
    ``broke``: the last time that its stream asked for more there was not money enough."""

    __slots__ = ("broke", "own", "price", "reserved", "shared", "tokens")

    def __init__(self, own: Purse | None, shared: Purse | None, price: Price, reserved: int, tokens: int) -> None:
        self.make(own, shared, price, reserved, tokens)

    def make(self, own: Purse | None, shared: Purse | None, price: Price, reserved: int, tokens: int) -> None:
        """As by ``Hold()``, of one that ``__new__`` gave: where each request has one that is less."""
        self.own = own
        self.shared = shared
        self.price = price
        self.reserved = reserved
        self.tokens = tokens
        self.broke = False

    def extend(self, day: int, tokens: int) -> int:
        """Take more for a stream that goes on: for as many of ``tokens`` as there is money for. Returns how many."""
        left = left_of(self.own, self.shared, day)
        granted = min(tokens, self.price.tokens(left))
        cost = min(self.price.cost(0, granted, 0), left)
        if self.own is not None:
            self.own.reserved += cost
        if self.shared is not None:
            self.shared.reserved += cost
        self.reserved += cost
        self.tokens += granted
        self.broke = granted < tokens  # (who asks for none has nothing left of something else)
        return granted

    def release(self) -> None:
        """Give all of it back."""
        if self.own is not None:
            self.own.release(self.reserved)
        if self.shared is not None:
            self.shared.release(self.reserved)
        self.reserved = 0


def left_of(own: Purse | None, shared: Purse | None, day: int) -> int:
    """What both have left; :data:`MOST_SPENT` where there is neither."""
    left = _most
    if own is not None:
        left = own.left(day)
    if shared is not None:
        left = min(left, shared.left(day))
    return left
