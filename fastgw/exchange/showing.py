"""What filters are shown on the way, and what they say to it: an attempt, an answer, a piece of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastgw.errors import GatewayError
from fastgw.exchange.state import ExchangeState


def goes_on(exchange: ExchangeState, hooks: tuple[Callable[[Any, Any], None], ...], what: object) -> bool:
    """Show ``what`` to ``hooks``, in order: whether the exchange goes on. Where it does not, it has ended."""
    phase = exchange.phase
    try:
        for hook in hooks:
            hook(exchange, what)
            if exchange.phase != phase:
                return False
    except GatewayError as error:
        exchange.fail(error)
        return False
    return True
