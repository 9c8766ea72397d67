"""Strategies: which engine of a group an attempt goes to."""

from __future__ import annotations

from collections.abc import Callable

from fastgw.exchange.context import Strategy
from fastgw.policy.routing.ordered import Ordered
from fastgw.policy.routing.round_robin import RoundRobin

STRATEGIES: dict[str, Callable[[], Strategy]] = {"ordered": Ordered, "round_robin": RoundRobin}
