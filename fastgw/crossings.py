"""Who is told that a budget has crossed a line: the counters, the log, and a URL where one is set.

Owns: what has been told and is not written down yet, so that a start knows it. Must never: wait for anybody. Invariant: a
crossing is written down when the receiver has taken it (where there is none, when it stands in the log), so it is told once in
a period, and again only where nobody knows whether it was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, date, datetime
from functools import partial
from importlib import import_module
from time import time
from typing import TYPE_CHECKING, Any, Final

from fastgw.config.money import written
from fastgw.exchange.gateway import GatewayCore
from fastgw.limits.purse import Purse, ToldRow

if TYPE_CHECKING:
    from fastgw.control.webhook import Webhook

Spawn = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]
_EPOCH: Final = date(1970, 1, 1).toordinal()


class Crossings:
    """See the head of this file. ``spawn`` starts a task; None = there is nobody but the log."""

    __slots__ = ("_core", "_hook", "_silent", "_spawn", "rows")

    def __init__(self, core: GatewayCore, spawn: Spawn | None = None) -> None:
        self._core = core
        self._spawn = spawn
        self._hook: Webhook | None = None
        self._silent = False
        self.rows: dict[tuple[str, str, int, int, int], int] = {}  # of what was told, and how much: for the store
        if spawn is not None and core.config.budget_webhook_url:
            import_module("fastgw.control.webhook")  # (a tenth of a second, which no request shall wait for)

    def told_elsewhere(self, silent: bool = True) -> None:
        """Another process counts what is spent from now on, and tells of it."""
        self._silent = silent

    def tell(self) -> None:
        """Of each budget that has crossed a line since the last call."""
        core = self._core
        if self._silent:
            core.accounts.crossed.clear()
            return
        config = core.config
        crossed = dict.fromkeys(core.accounts.crossed)
        core.accounts.crossed.clear()
        for purse in crossed:
            if not purse.told:
                continue  # (its limit is another since: of that nothing is to be told)
            if purse.told >= 100:
                core.stats.budgets_spent += 1
            else:
                core.stats.budgets_warned += 1
            core.log.warning(
                f"{purse.told} percent of a budget are spent", **{purse.kind: purse.name}, spent=written(purse.spent),
                budget=written(purse.limit), period=purse.period, currency=config.currency,
            )  # fmt: skip
            row = (purse.kind, purse.name, purse.begins, purse.ends, purse.limit, purse.told)
            if self._spawn is None or not config.budget_webhook_url:
                self._taken(row)
            else:
                self._webhook(self._spawn).tell(event(purse, config.currency, time()), partial(self._taken, row))

    def take(self, most: int) -> list[ToldRow]:
        """At most so many rows for the store."""
        found: list[ToldRow] = []
        while self.rows and len(found) < most:
            (kind, name, begins, ends, limit), percent = self.rows.popitem()
            found.append((kind, name, begins, ends, limit, percent))
        return found

    def _taken(self, row: ToldRow) -> None:
        if self._core.accounts.books.kept:
            budget, percent = row[:5], row[5]
            self.rows[budget] = max(percent, self.rows.get(budget, 0))

    def _webhook(self, spawn: Spawn) -> Webhook:
        if self._hook is None:
            from fastgw.control.webhook import Webhook

            core = self._core
            self._hook = Webhook(
                lambda: (core.config.budget_webhook_url, core.config.budget_webhook_secret), spawn, core.stats, core.log
            )
        return self._hook


def event(purse: Purse, currency: str, unix_s: float) -> dict[str, object]:
    """What a receiver is told. ``id`` is the same for the same crossing, so that it can be counted once."""
    begins, ends = (date.fromordinal(day + _EPOCH).isoformat() for day in (purse.begins, purse.ends))
    return {
        "id": f"{purse.kind}:{purse.name}:{begins}:{written(purse.limit)}:{purse.told}",
        "type": "budget.crossed",
        "at": datetime.fromtimestamp(int(unix_s), UTC).isoformat().replace("+00:00", "Z"),
        purse.kind: purse.name,
        "percent": purse.told,
        "spent": written(purse.spent),
        "budget": written(purse.limit),
        "currency": currency,
        "period": purse.period,
        "begins": begins,
        "ends": ends,
    }
