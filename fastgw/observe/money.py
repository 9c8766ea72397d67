"""Money among the metrics: what tokens have cost, by model and by caller, and what callers have left of their budgets.

Owns: how that is shown. An amount is counted in whole billionths, and told in the currency's own unit. Which that is, is a
label: no name can say what the configuration does. Must never: count anything, or make a label of its own: models and callers
are those of ``tallies``, which bounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastgw.config.money import BILLION
from fastgw.observe.exposition import COUNTER, GAUGE, Family, labels
from fastgw.observe.tallies import Tallies


class Budget(NamedTuple):
    """What may be spent in a period, and what of it could be now, in billionths; and the first day behind that period, since
    1970-01-01 (UTC)."""

    limit: int
    left: int
    ends: int


def families(tallies: Tallies, currency: str, budget_of: Callable[[str], Budget | None]) -> Iterator[Family]:
    """(Without samples where nothing has a price.)"""
    yield Family(
        "gateway_model_cost_total", "What the tokens of requests have cost, of those models that have a price.", COUNTER,
        [
            (labels(("endpoint", cell.endpoint), ("model", cell.model), ("currency", currency)), cell.cost / BILLION)
            for cell in tallies.cells() if cell.cost
        ],
    )  # fmt: skip
    callers = [(labels(("caller", name), ("currency", currency)), name, caller) for name, caller in tallies.callers.items()]
    if not callers:
        return
    yield Family(
        "gateway_caller_cost_total", "What the tokens of a key, or a tenant, have cost.", COUNTER,
        [(own, caller.cost / BILLION) for own, _, caller in callers if caller.cost],
    )  # fmt: skip
    budgets = [(own, name, found) for own, name, _ in callers if (found := budget_of(name)) is not None]
    if not budgets:
        return
    yield Family(
        "gateway_caller_budget_limit", "What it may spend in a period.", GAUGE,
        [(own, found.limit / BILLION) for own, _, found in budgets],
    )  # fmt: skip
    yield Family(
        "gateway_caller_budget_remaining",
        "What is left of that: neither spent, nor reserved for requests under way.", GAUGE,
        [(own, found.left / BILLION) for own, _, found in budgets],
    )  # fmt: skip
    yield Family(
        "gateway_caller_budget_ends_timestamp_seconds", "When the period ends, and the next begins, in Unix time.", GAUGE,
        [(labels(("caller", name)), found.ends * 86_400) for _, name, found in budgets],
    )  # fmt: skip
