"""What requests have cost: the price of a model's tokens, and who has used what of which model since it was last written down.

Owns: :class:`Price`, and :class:`Books` with a :class:`Use` for each key, tenant, model and day. Money is whole billionths of
the currency; what a request costs is rounded up to one, each of its three parts by itself. What a row says was true when it was
counted: a price, or a key's tenant, that is another now changes nothing of it. Must never: do I/O, ask for the time, or take an
unknown price for nothing.

Invariant: what :meth:`Books.take` hands out is not changed afterwards, and is in no later batch: the store adds each once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

MOST_COST: Final = 10**18
"""The most that one part of a request may cost: 10^9 of the currency. Three of them fit 64 bits."""
MOST_OPEN: Final = 100_000
"""Rows that wait for the store; while there are so many, further models are counted without their names."""

# The compiled twin has them as C numbers.
_most: Final = 10**18
_most_open: Final = MOST_OPEN

OTHERS: Final = "*"
"""The model whose price holds for those that have none of their own, and for requests that name no model."""
_others: Final = OTHERS

NONE: Final[Mapping[str, Collection[str]]] = MappingProxyType({})

UNKNOWN: Final = -1
"""What a request costs whose model has no price."""
_unknown: Final = UNKNOWN

SpentRow = tuple[str, str, str, int, int, int, int, int, int, int, int, int]
"""(key id, tenant, model, day, and what was used since the row before: prompt tokens, completion tokens, requests, estimated,
cached and reasoning tokens, cost, tokens without a price)."""


class Price:
    """Of one model's tokens, in trillionths of the currency for one token: 0 to 10^13."""

    __slots__ = ("cached", "input", "output")

    def __init__(self, input_: int, cached: int, output: int) -> None:
        self.input = input_
        self.cached = cached
        self.output = output

    def cost(self, prompt: int, completion: int, cached: int) -> int:
        """Of so many tokens (0 to 10^12 each, ``cached`` of the prompt's), in billionths: at most :data:`MOST_COST`."""
        return min(
            _part(prompt - cached, self.input) + _part(cached, self.cached) + _part(completion, self.output), _most
        )

    def tokens(self, money: int) -> int:
        """Tokens of an answer that so much money is enough for, whatever the rounding."""
        if not self.output:
            return _most
        if money <= 0:
            return 0
        # (Thousands of them first: money times a thousand may be more than 64 bits.)
        thousands = money // self.output
        if thousands >= _most // 1000:
            return _most
        return thousands * 1000 + (money - thousands * self.output) * 1000 // self.output


def at_most(prices: Sequence[Price]) -> Price:
    """What a token costs at most, whichever of them is charged, and whatever of a prompt turns out to be at hand."""
    prompt = max([max(one.input, one.cached) for one in prices])
    return Price(prompt, prompt, max([one.output for one in prices]))


def _part(tokens: int, price: int) -> int:
    if tokens <= 0 or not price:
        return 0
    thousands = tokens // 1000
    if thousands > _most // price:
        return _most
    return min(thousands * price + ((tokens - thousands * 1000) * price + 999) // 1000, _most)


class Use:
    """What one key has used of one model on one day since it was last written down. ``day`` -1: it is not counted any more."""

    __slots__ = (
        "cached", "completion", "cost", "day", "estimated", "key", "model", "prompt", "reasoning", "requests", "tenant",
        "unpriced",
    )  # fmt: skip

    def __init__(self, key: str, tenant: str, model: str, day: int) -> None:
        self.key = key
        self.tenant = tenant
        self.model = model
        self.day = day
        self.prompt = 0
        self.completion = 0
        self.requests = 0
        self.estimated = 0
        self.cached = 0
        self.reasoning = 0
        self.cost = 0
        self.unpriced = 0

    def count(
        self, cost: int, prompt: int, completion: int, cached: int, reasoning: int, estimated: bool
    ) -> None:
        """One request has ended, with figures as :meth:`Ledger.settle` takes them."""
        self.prompt += prompt
        self.completion += completion
        self.requests += 1
        if estimated:
            self.estimated += prompt + completion
        if cached > 0:
            self.cached += cached
        if reasoning > 0:
            self.reasoning += reasoning
        if cost < 0:
            self.unpriced += prompt + completion
        else:
            self.cost = min(self.cost + cost, _most)

    def add(self, row: SpentRow) -> None:
        """What was counted elsewhere, as :meth:`row` said it there."""
        prompt, completion, requests, estimated, cached, reasoning, cost, unpriced = row[4:]
        self.prompt += prompt
        self.completion += completion
        self.requests += requests
        self.estimated += estimated
        self.cached += cached
        self.reasoning += reasoning
        self.cost = min(self.cost + cost, _most)
        self.unpriced += unpriced

    def row(self) -> SpentRow:
        return (
            self.key, self.tenant, self.model, self.day, self.prompt, self.completion, self.requests, self.estimated,
            self.cached, self.reasoning, self.cost, self.unpriced,
        )  # fmt: skip


class Books:
    """All that was used and is not written down yet, and the prices by which it is counted. ``kept``: there is a store that
    takes it; without one nothing is remembered here. ``dearest``: by the name that is asked for, what the dearest of all that
    may answer costs; ``refuses``: where that is not known, who has a budget is refused. ``may``: of names of which one of those
    that may answer has no price, all of them: an engine may have it by another name, which has one. ``opened`` is called where
    something is about to be used when nothing waits to be written down."""

    __slots__ = ("_open", "dearest", "kept", "may", "opened", "prices", "refuses")

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, str, int], Use] = {}
        self.opened: Callable[[], None] | None = None
        self.kept = False
        self.refuses = True
        self.prices: dict[str, Price] = {}
        self.dearest: dict[str, Price] = {}
        self.may: Mapping[str, Collection[str]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def follow(
        self, prices: dict[str, Price], dearest: dict[str, Price], refuses: bool, may: Mapping[str, Collection[str]] = NONE
    ) -> None:
        """These hold for whatever ends from now on."""
        self.may = may
        self.prices = prices
        self.dearest = dearest
        self.refuses = refuses

    def cost(self, model: str, prompt: int, completion: int, cached: int) -> int:
        """What so many tokens of that model cost now, or :data:`UNKNOWN`; no tokens cost nothing."""
        price = self.prices.get(model)
        if price is None:
            price = self.prices.get(_others)
        if price is not None:
            return price.cost(prompt, completion, cached if cached > 0 else 0)
        return _unknown if prompt or completion else 0

    def most(self, model: str) -> Price | None:
        """The price by which money is reserved for whoever asks for ``model``."""
        price = self.dearest.get(model)
        return price if price is not None else self.dearest.get(_others)

    def use(self, key: str, tenant: str, model: str, day: int) -> Use:
        """Where a request of that key, for that model, is counted."""
        known = (key, tenant, model, day)
        found = self._open.get(known)
        if found is None:
            if len(self._open) >= _most_open and model:
                return self.use(key, tenant, "", day)
            if not self._open and self.opened is not None:
                self.opened()
            found = self._open[known] = Use(key, tenant, model, day)
        return found

    def take(self, most: int) -> list[SpentRow]:
        """At most so many rows for the store, the oldest first."""
        rows: list[SpentRow] = []
        while self._open and len(rows) < most:
            use = self._open.pop(next(iter(self._open)))
            rows.append(use.row())
            use.day = -1
        return rows

    def rows(self) -> list[SpentRow]:
        """What waits to be taken."""
        return [use.row() for use in self._open.values()]
