"""What an engine that is let finish goes on to say of a request that nobody waits for any more: it is read, and dropped.

The request's exchange has ended, and left its record with what was known then; what it has cost is known when its engine has
ended too (``policy.charge``). Owns: who reads the answer, from its first byte or from where the exchange left it. Must never:
write to a client, or keep what it reads. Invariant: ``then`` is told once, however the answer ends.
"""

from __future__ import annotations

from collections.abc import Callable

from fastgw.accel.heads import ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.exchange.call import Call
from fastgw.exchange.dialects import Dialect
from fastgw.exchange.figures import coded, dialect_of, told
from fastgw.exchange.opening import BEGINS, WAITS, Opening, is_held
from fastgw.exchange.relay import Relay
from fastgw.exchange.state import ExchangeState
from fastgw.protocol.body import CloseSource, Source


def remainder_of(exchange: ExchangeState | None, call: Call, opening: Opening | None) -> Remainder | None:
    """What is to come of the answer of ``call``, where ``exchange`` has asked for it; ``opening``: what has come of it has not
    been seen to be one."""
    if exchange is None:
        return None
    found = call.remainder = Remainder(exchange, call.head, call.relay)
    if opening is not None:
        found.begins(opening.head, opening.source)
    return found


class Remainder:
    """See the head of this file. ``head``: None = it has not come; ``over``: all of it that comes has; ``whole``: and that was
    its end. ``refused``: what came in its place is no answer, to whoever had waited for it."""

    __slots__ = ("_dialect", "_opening", "_relay", "exchange", "head", "over", "refused", "then", "whole")

    def __init__(self, exchange: ExchangeState, head: ResponseHead | None, relay: Relay | None) -> None:
        self.exchange = exchange
        self._relay = relay
        # (What passed is counted when the exchange ends, and a line that has no end counts as one then.)
        self._dialect: Dialect | None = relay.dialect.twin() if relay is not None and relay.dialect is not None else None
        self.head = head if relay is not None else None
        self.over = self.whole = self.refused = False
        self._opening: Opening | None = None  # whoever had waited would have been shown nothing of it yet
        self.then: Callable[[Remainder], None] | None = None

    def begins(self, head: ResponseHead, source: Source) -> None:
        """Its head has come, and nothing of its body has been read."""
        self.head = head
        sse = SseScanner(False) if head.sse and not coded(head) else None
        self._relay = Relay(self.exchange.client, source, sse, head.json)
        if self.exchange.endpoint.dialect:
            self._dialect = dialect_of(self.exchange, head)
        if is_held(self.exchange.endpoint, head, source, b""):
            self._opening = Opening(head, CloseSource(), self.exchange.endpoint)  # (its frames are taken off elsewhere)

    def feed(self, payload: bytes, last: bool) -> None:
        """More of its body."""
        if self._opening is not None:
            verdict = self._opening.feed(payload)
            if verdict == WAITS and last:
                verdict = self._opening.eof("fin")
            if verdict != WAITS:
                self._opening = None
                self.refused = verdict != BEGINS
        if self._relay is not None:
            self._relay.overhear(payload, last)
        if self._dialect is not None:
            self._dialect.feed(payload)
        self.whole = self.whole or last

    def end(self) -> None:
        """No more comes."""
        self.over = True
        if self._opening is not None and not self._opening.plain:
            self.head = None  # its stream had not begun
        then, self.then = self.then, None
        if then is not None:
            then(self)

    def tell(self, call: Call) -> str:
        """Its exchange, with this ``call``, what the engine has said in all that it used, as if that had been passed on; how it
        has ended."""
        relay, exchange = self._relay, self.exchange
        assert relay is not None
        relay.dialect = self._dialect
        call.head, call.relay = self.head, relay
        outcome = "truncated" if not self.whole else "engine_error" if relay.failed() else "ok"
        exchange.estimated = False
        told(exchange, relay, outcome)
        return outcome
