"""What is known of a request's trace while it is under way: its ids, and the engines that it was sent to.

Owns: what an engine is told of it, a span of its own for each attempt. Spans are made when the exchange has ended, elsewhere
(``observe.spans``), from the times that an exchange and its calls keep in any case. Of a request that is not sampled nothing is
kept but the ids.
"""

from __future__ import annotations

from random import getrandbits
from typing import Final

from fastgw.exchange.call import Call
from fastgw.net.clock import monotonic
from fastgw.protocol.start import RequestStart
from fastgw.protocol.traceparent import written

MOST_ASKED: Final = 16
"""So many engines of one request are told of: the first, and the last."""


class Asked:
    """One engine that was asked, or to which a connection was to be made. ``at``: since when, by the monotonic clock; ``why``:
    how it ended, where another was asked."""

    __slots__ = ("at", "call", "span_id", "why")

    def __init__(self, call: Call) -> None:
        self.at = monotonic()
        self.call = call
        self.span_id = b"%016x" % (getrandbits(64) or 1)
        self.why = ""


class Contents:
    """What was asked and what was answered, as far as it fits. ``cut``: something did not."""

    __slots__ = ("answer", "cut", "most", "prompt")

    def __init__(self, prompt: bytes, most: int) -> None:
        self.most = most
        self.cut = len(prompt) > most
        self.prompt = b"" if self.cut else prompt
        self.answer = bytearray()

    def hears(self, data: bytes) -> None:
        """A piece of the answer goes down."""
        room = self.most - len(self.answer)
        if len(data) > room:
            self.cut = True
        self.answer += data[:room]


class Trace:
    """See the head of this file. Ids are hexadecimal; ``parent`` is the client's span, b"" = there is none."""

    __slots__ = ("asked", "contents", "parent", "sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, parent: bytes, sampled: bool, state: bytes) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent
        self.sampled = sampled
        self.state = state
        self.asked: list[Asked] = []
        self.contents: Contents | None = None

    def asks(self, call: Call, why: str) -> None:
        """An engine is about to be asked; ``why`` the one before it has not answered."""
        if not self.sampled:
            return
        asked = self.asked
        if asked:
            asked[-1].why = why or "no room"
            if len(asked) == MOST_ASKED:
                del asked[-1]
        asked.append(Asked(call))

    def told(self, start: RequestStart) -> RequestStart:
        """``start`` as the engine gets it that is asked now: its span is the parent of that engine's."""
        span_id = self.asked[-1].span_id if self.asked else self.span_id
        lines = written(self.trace_id, span_id, self.sampled, self.state)
        return RequestStart(start.method, start.target, lines + start.fields, start.upgrade)
