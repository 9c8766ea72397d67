"""What filters are shown on the way, and what they say to it: an attempt, an answer, a piece of one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fastgw.accel.heads import ResponseHead
from fastgw.errors import GatewayError
from fastgw.exchange.figures import coded
from fastgw.exchange.state import ExchangeState
from fastgw.protocol.openai import written

if TYPE_CHECKING:
    from fastgw.accel.renaming import Renamer
    from fastgw.exchange.responses import Reader

_LINES: Final = re.compile(rb"(?im)^content-type[ \t]*:[ \t]*application/(?:x-)?(?:ndjson|jsonl|jsonlines)[ \t]*[;\r]").search


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


class Showing:
    """What is done to each piece of an answer's body before it goes down: it gets the name of the model that its client knows,
    where it has another (``renamer``), filters are shown it, and the id of a response is looked for (``reader``)."""

    __slots__ = ("_exchange", "_hooks", "_reader", "renamer")

    def __init__(
        self,
        exchange: ExchangeState,
        hooks: tuple[Callable[[Any, Any], None], ...],
        renamer: Renamer | None,
        reader: Reader | None = None,
    ) -> None:
        self._exchange = exchange
        self._hooks = hooks
        self._reader = reader
        self.renamer = renamer

    def __call__(self, data: bytes) -> bytes | None:
        """``data`` as it goes down; None = the exchange has ended."""
        if self._reader is not None and self._reader.feed(data):
            self._reader = None
            call = self._exchange.call
            if self.renamer is None and not self._hooks and call is not None and call.relay is not None:
                call.relay.show = None  # the rest goes the short way
        if self.renamer is not None:
            data = self.renamer.feed(data)
        if self._hooks and not goes_on(self._exchange, self._hooks, data):
            return None
        return data


def showing(exchange: ExchangeState, hooks: tuple[Callable[[Any, Any], None], ...], head: ResponseHead) -> Showing | None:
    """What is to be done to the pieces of the answer with ``head``; None = nothing."""
    renamer = None
    asked = exchange.model
    route = exchange.gateway.table.routes.get(asked)
    if route is not None and route.restore_name and not coded(head):
        lines = head.sse or _LINES(head.forward) is not None
        if lines or head.json:
            from fastgw.accel.renaming import Renamer

            renamer = Renamer(written(asked), lines)
    reader = None
    responses = exchange.gateway.responses
    if responses is not None and exchange.endpoint.stored and head.status < 300 and not coded(head):
        reader = responses.reader(exchange)
    if not hooks and renamer is None and reader is None:
        return None
    return Showing(exchange, hooks, renamer, reader)
