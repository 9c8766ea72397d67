"""What is known of a request's trace while it is under way: its ids, and the engines that it was sent to.

Owns: which requests are sampled, and what an engine is told of it, a span of its own for each attempt. Spans are made when the
exchange has ended, elsewhere (``observe.spans``), from the times that an exchange and its calls keep in any case. Of a request
that is not sampled nothing is kept but the ids.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from os import urandom
from random import getrandbits
from typing import Any, Final, Protocol

from fastgw.accel.heads import RequestHead
from fastgw.accel.lines import trace_lines
from fastgw.config import Config
from fastgw.net.clock import monotonic
from fastgw.protocol.traceparent import parent_of, state_of

MOST_ASKED: Final = 16
"""So many engines of one request are told of, and so many waits: the first ones, and the last."""
IDS: Final = 48  # hexadecimal digits of a trace's id and its span's
IDS_AT_ONCE: Final = 128  # made together: a call for each would cost more than all the rest
ALL: Final = b"g"  # stands behind every hexadecimal number
UNSAID, NOT_SAMPLED, SAMPLED = -1, 0, 1


_NAME: Final = b"raceparent:"
_ODD: Final = b"13579bdf"


def kept_in(fields: bytes) -> str:
    """The trace that a head with these ``fields`` is in and that its sender keeps, by its id; "" = there is none. (What is no
    ``traceparent`` has been dropped with the head that it came in, and so have two of them.)"""
    at = fields.find(_NAME)
    while at > 0 and not ((fields[at - 1] | 32) == 116 and (at == 1 or fields[at - 2] == 10)):
        at = fields.find(_NAME, at + 1)  # (that is the end of another name)
    if at < 1:
        return ""
    at += len(_NAME)
    while fields[at] == 32 or fields[at] == 9:
        at += 1
    return fields[at + 3 : at + 35].decode() if _ODD.find(fields[at + 54 : at + 55]) >= 0 else ""


class Asked:
    """One engine that was asked, or to which a connection was to be made. ``at``: since when, by the monotonic clock;
    ``model``: in place of the one that was asked for; ``status``: its answer, where another was asked then; ``why``: how it
    ended."""

    __slots__ = ("at", "call", "model", "span_id", "status", "why")

    def __init__(self, call: Any, model: str, span_id: bytes) -> None:
        self.at = monotonic()
        self.call = call
        self.model = model
        self.span_id = span_id
        self.status = 0
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

    __slots__ = ("asked", "contents", "parent", "sampled", "span_id", "state", "trace_id", "waits")

    def __init__(self, trace_id: bytes, span_id: bytes, parent: bytes, sampled: bool, state: bytes) -> None:
        self.make(trace_id, span_id, parent, sampled, state)

    def make(self, trace_id: bytes, span_id: bytes, parent: bytes, sampled: bool, state: bytes) -> None:
        """As by ``Trace()``, of one that ``__new__`` gave: where each request has one that is less."""
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent
        self.sampled = sampled
        self.state = state
        self.asked: list[Asked] | None = None
        self.waits: list[tuple[float, float]] | None = None  # for room: from when, until when
        self.contents: Contents | None = None

    def asks(self, call: Any, model: str, why: str) -> None:
        """An engine is about to be asked; ``why`` the one before it has not answered."""
        asked = self.asked
        if asked is None:
            asked = self.asked = []
        else:
            last = asked[-1]
            last.why = why or "no room"
            if len(asked) == MOST_ASKED:
                del asked[-1]
        asked.append(Asked(call, model, b"%016x" % (getrandbits(64) or 1)))

    def refused(self, status: int) -> None:
        """The engine that was asked last has answered ``status``, and another may be asked for it."""
        if self.asked is not None:
            last = self.asked[-1]
            last.status = status

    def waited(self, start: float, end: float) -> None:
        """The request has waited for room."""
        if self.waits is None:
            self.waits = []
        elif len(self.waits) == MOST_ASKED:
            del self.waits[-1]
        self.waits.append((start, end))

    def told(self) -> bytes:
        """The lines for the engine that is asked now: its span is the parent of that engine's."""
        span_id = self.span_id
        if self.asked is not None:
            last = self.asked[-1]
            span_id = last.span_id
        return trace_lines(self.trace_id, span_id, self.sampled, self.state)


class Reporter(Protocol):
    """Whoever is told of sampled requests that have ended (``observe.trace``)."""

    def start(self, loop: AbstractEventLoop) -> None:
        """Some may end from now on."""
        ...

    def ended(self, exchange: Any, outcome: str, now: float) -> None:
        """``exchange``, which is sampled, has ended at ``now``."""
        ...

    def follow(self, config: Config) -> None:
        """Go by other settings from now on."""
        ...

    async def close(self) -> None:
        """No more of them end."""
        ...


class Tracing:
    """Gives requests their traces. It is closed, for each request asks it twice; what becomes of them is its ``reporter``'s."""

    __slots__ = ("_at", "_bound", "_ids", "_parents", "reporter")

    def __init__(self, config: Config, reporter: Reporter) -> None:
        self.reporter = reporter
        self._ids = b""
        self._at = 0
        self.follow(config)

    def follow(self, config: Config) -> None:
        """Sample by other settings from now on."""
        name = config.trace_sampler
        share = {"always_on": 1.0, "always_off": 0.0}.get(name.removeprefix("parentbased_"), config.trace_ratio)
        self._parents = name.startswith("parentbased_")
        self._bound = ALL if share >= 1.0 else b"%016x" % round(share * (1 << 64))
        self.reporter.follow(config)

    def samples(self, trace_id: bytes, parent: int) -> bool:
        """Whether that trace is recorded. ``parent``: whether the client's span is, ``UNSAID`` = it has none."""
        if self._parents and parent >= 0:
            return parent == SAMPLED
        # (As numbers: of the same length, and in small letters. Both are addresses to the compiled twin.)
        digits, bound = trace_id, self._bound
        for at in range(16):
            if digits[16 + at] != bound[at]:
                return digits[16 + at] < bound[at]
        return False

    def begin(self, head: RequestHead, alone: bool) -> Trace:
        """The trace of a request with this ``head``: its client's, or a new one. ``alone``: the head is known to name none."""
        at = self._at
        if at == len(self._ids):
            self._ids = urandom(IDS * IDS_AT_ONCE // 2).hex().encode()  # (`random` takes as long as all the rest)
            at = 0
        middle, end = at + 32, at + IDS
        self._at = end
        ids = self._ids
        made = Trace.__new__(Trace)
        span_id = ids[middle:end]
        if not alone:
            found = parent_of(head.forward)
            if found is not None:
                trace_id, parent, sampled = found
                made.make(trace_id, span_id, parent, self.samples(trace_id, sampled), state_of(head.forward))
                return made
        trace_id = ids[at:middle]
        made.make(trace_id, span_id, b"", self.samples(trace_id, UNSAID), b"")
        return made
