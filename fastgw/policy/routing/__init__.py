"""Strategies: which engine of a group an attempt goes to."""

from fastgw.policy.routing.registry import strategy_for, strategy_of

__all__ = ["strategy_for", "strategy_of"]
