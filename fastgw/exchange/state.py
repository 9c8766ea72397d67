"""The record of one exchange, and what its parts may ask of it.

What is here has no will of its own: ``exchange`` tells the life, ``attempt`` what happens at an engine, ``upload`` how a body
passes; each of them sees the others through this face. Whoever takes a place, or memory, tokens, writes down here that it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from fastgw.accel.bodies import BodyFacts
from fastgw.accel.heads import RequestHead
from fastgw.errors import GatewayError, Source
from fastgw.exchange.call import Call
from fastgw.exchange.context import Context
from fastgw.exchange.dialects import Own
from fastgw.exchange.endpoints import Endpoint
from fastgw.exchange.intake import Intake
from fastgw.exchange.phases import EVENT_COUNT, NOWHERE, PHASES, RECEIVING, TABLE, moved
from fastgw.exchange.plan import NONE_YET, Tries
from fastgw.exchange.session import WebSocketSession
from fastgw.exchange.tracing import Trace
from fastgw.exchange.upload import Upload
from fastgw.limits.account import Account
from fastgw.limits.meter import Meter
from fastgw.limits.purse import Hold
from fastgw.limits.scope import Share
from fastgw.net.client import ClientStream, Sink
from fastgw.protocol.media import is_json
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group

NO_LIMIT: Final = 2**62
_no_limit: Final = NO_LIMIT  # (the compiled twin has it as a C number)
SHARED_FROM_BYTES: Final = 16384
"""What a body holds beyond this counts as its key's, or its address's: most bodies are smaller, and cost no look-up."""
TOO_LARGE_TO_HOLD: Final = (
    "A body of this size cannot be held until its model is known: send the field `model` before the file."
)


class ExchangeState(Sink):
    """The record of one exchange."""

    __slots__ = (
        "account",
        "allowance",
        "apart",
        "at",
        "body",
        "bound",
        "bytes_in",
        "bytes_out",
        "cached_tokens",
        "call",
        "client",
        "client_ip",
        "completion_tokens",
        "counted",
        "detail",
        "endpoint",
        "error_kind",
        "estimated",
        "extra_head",
        "facts",
        "gateway",
        "group",
        "guards",
        "head",
        "held_bytes",
        "home",
        "intake",
        "key_id",
        "lane",
        "lead",
        "local_task",
        "meter",
        "minute",
        "money",
        "own",
        "own_s",
        "phase",
        "place",
        "prompt_tokens",
        "queued_at",
        "queued_s",
        "reasoning_tokens",
        "request_id",
        "reserved",
        "reserved_minute",
        "routed_at",
        "sent_at",
        "session",
        "shared_bytes",
        "shares",
        "skip",
        "started_at",
        "status",
        "strip_usage",
        "substitute",
        "timeout_s",
        "timer",
        "token_at",
        "trace",
        "tries",
        "upload",
        "walked",
    )

    def __init__(
        self, gateway: Context, client: ClientStream, head: RequestHead, endpoint: Endpoint, request_id: bytes
    ) -> None:
        self.make(gateway, client, head, endpoint, request_id)

    def make(
        self, gateway: Context, client: ClientStream, head: RequestHead, endpoint: Endpoint, request_id: bytes
    ) -> None:
        """What ``__init__`` does, for whoever cannot wait for a call by its type's name (which packs a tuple)."""
        self.gateway = gateway
        self.client = client
        self.head = head
        self.endpoint = endpoint
        self.request_id = request_id
        self.started_at = client.received_at
        self.at = client.received_at  # when what goes on now began: the walk of the filters, or the end
        self.client_ip = client.peer_ip
        self.phase = RECEIVING
        self.key_id = ""
        self.account: Account | None = None
        self.meter: Meter | None = None  # of the client's address
        self.timeout_s = 0.0  # what the client asked for, 0 = nothing
        # the request
        self.facts: BodyFacts | None = None
        self.own: Own | None = None  # what its body says in an API that is an engine's own
        self.body = b""
        self.held_bytes = 0  # of the body, of the memory that all may have together
        self.shared_bytes = 0  # of those, what its key or its address is told to hold
        self.intake: Intake | None = None  # of a body that does not come whole, as it is
        self.upload: Upload | None = None
        self.apart = False  # what its call puts in front of its body stays apart from it: the body lies where it is
        self.lead = b""  # that: it stands in the place of the first `skip` bytes
        self.skip = 0
        self.strip_usage = False
        self.walked = 0  # the filters that have had their turn with the whole body
        # the calls
        self.group: Group | None = None
        self.home: Pool | None = None  # whose engine has the response of which it speaks
        self.tries: Tries = NONE_YET
        self.call: Call | None = None  # the one under way, or the last
        # what it holds of limits
        self.counted = 0  # of the scopes in which it needs a place, its key's among them, those in which it has one
        self.shares: tuple[Share, ...] = ()  # what it has taken beside its key
        self.lane: Any = None  # where it is counted as under way; the queue's
        self.place: Any = None  # where it waits; the queue's
        self.queued_at = 0.0
        self.queued_s = -1.0  # how long it waited for room, -1 = it did not
        self.timer: asyncio.TimerHandle | None = None
        self.session: WebSocketSession | None = None  # where it asks for one
        self.substitute = ""  # the model that it is sent to instead of its own
        self.reserved = self.reserved_minute = 0  # tokens of the day's, and of the minute's
        self.minute: Meter | None = None  # from which those were taken: its key may be given another meanwhile
        self.money: Hold | None = None  # that it may cost, of budgets
        self.allowance = _no_limit  # tokens that its answer may have before more must be asked for
        self.bound = _no_limit  # the most tokens that each of its answers may have, as the engine is told
        self.estimated = False  # the engine did not say what it used
        # the answer
        self.local_task: asyncio.Task[None] | None = None
        self.extra_head = b""  # lines that filters add to the answer's head
        # what is told of it; times are of the monotonic clock, 0.0 = not yet, token counts -1 = unknown
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.routed_at = 0.0
        self.sent_at = 0.0  # to the last engine that got it
        self.own_s = -1.0  # what the gateway took until then, at the first: without the body's coming, and the queue
        self.token_at = 0.0
        self.prompt_tokens = -1
        self.completion_tokens = -1
        self.cached_tokens = -1  # of the prompt's, those that the engine had at hand
        self.reasoning_tokens = -1  # of the answer's, those that nobody sees
        self.error_kind = ""
        self.detail = ""
        self.guards: list[Callable[[], None]] | None = None
        self.trace: Trace | None = None  # where requests are traced

    def __repr__(self) -> str:
        name = PHASES[self.phase]
        return f"<Exchange {self.request_id.decode('latin-1')} {self.endpoint.label} {name} status={self.status}>"

    @property
    def model(self) -> str:
        return model_of(self)

    def is_json(self) -> bool:
        content_type = self.head.content_type
        return content_type is not None and is_json(content_type)

    def move(self, event: int) -> None:
        """``event`` happens. Raises :class:`~fastgw.exchange.phases.IllegalMove` where it cannot."""
        found = TABLE[self.phase * EVENT_COUNT + event]
        if found == NOWHERE:
            moved(self.phase, event)  # which says so
        self.phase = found

    # --- what its parts ask of it
    def route(self) -> None:
        """The body is as far as it need be: the filters that wait for that have their turn, then an engine is found. Raises
        GatewayError when none would take it."""
        raise NotImplementedError

    def resume(self) -> None:
        """Go on after a wait: with the next filter, or the next attempt."""
        raise NotImplementedError

    def wait_over(self) -> None:
        """The time of a wait is over."""
        raise NotImplementedError

    def take_up(self) -> None:
        """The turn of a large body has come."""
        raise NotImplementedError

    def client_may_go_on(self) -> None:
        """Read the client again, unless something of what it sent has not been read yet, or has nowhere to go."""
        raise NotImplementedError

    def fail(self, error: GatewayError) -> None:
        """Answer with an error, or end the stream with one; ends the exchange either way."""
        raise NotImplementedError

    def end(self, outcome: str, reusable: bool) -> None:
        """The one end: give everything back, count, leave one access record. ``reusable``: the engine's connection, too."""
        raise NotImplementedError

    def call_failed(self, failure: Any, begun: bool, detail: str, error: GatewayError | None) -> None:
        """The call has ended without an answer: what follows is the plan's."""
        raise NotImplementedError

    def asks_another(self, status: int) -> bool:
        """Whether another engine is asked instead of passing this answer on."""
        raise NotImplementedError

    def asks_for_less(self) -> bool:
        """Whether the engine is asked again, for a shorter answer than the one that it refuses."""
        raise NotImplementedError

    def client_broke(self) -> None:
        """A write met a dead socket: the client is gone, whatever its read side says later."""
        self.client.sink = None
        self.client.close()
        self.on_gone("reset")

    # --- memory
    def hold(self, size: int) -> None:
        """``size`` more bytes of the body are kept. Raises GatewayError where the process holds as many as it may.

        One key, or one address, holds seven eighths at most, so that nobody keeps all others out; and the last sixteenth is for
        bodies that have begun: they come to their end, and new ones are told to come again. One that would not fit if it were
        alone is told so, for coming again would not help. (Uploads can be so large, and what unpacks in a small memory.)
        """
        gateway = self.gateway
        stats = gateway.stats
        budget = gateway.memory_budget
        held = self.held_bytes + size
        more = held - SHARED_FROM_BYTES - self.shared_bytes
        most = budget if self.held_bytes else budget - (budget >> 4)
        if more > 0:
            alone = budget - (budget >> 3)
            if held > alone:
                stats.limited_memory += 1
                message = TOO_LARGE_TO_HOLD if self.upload is not None else None
                raise GatewayError("body_too_large", message, detail="memory_budget_bytes is too small for it")
            if gateway.share_of(self) + more > alone:
                most = 0
        if stats.body_bytes_open + size > most:
            stats.limited_memory += 1
            raise GatewayError("overloaded", source=Source.GATEWAY, retry_after_s=1.0)
        if more > 0:
            gateway.share(self, more)
        stats.body_bytes_open += size
        if stats.body_bytes_open > gateway.most_held:
            gateway.most_held = stats.body_bytes_open
        self.held_bytes = held

    def let_go(self, size: int) -> None:
        """``size`` bytes of the body are not kept any more."""
        if size > self.held_bytes:
            size = self.held_bytes
        self.gateway.stats.body_bytes_open -= size
        self.held_bytes -= size
        if self.shared_bytes:
            left = self.held_bytes - SHARED_FROM_BYTES
            self.gateway.share(self, (left if left > 0 else 0) - self.shared_bytes)

    def let_body_go(self) -> None:
        """The body is not needed any more: nothing of it can be sent again."""
        if self.held_bytes:
            self.let_go(self.held_bytes)
        self.body = self.lead = b""
        if self.intake is not None:
            self.intake.forget()
        if self.upload is not None:
            self.upload.forget()


def model_of(exchange: ExchangeState) -> str:
    """The model that a request names, "" = none. (``exchange.model`` says the same; a property is dear for compiled code.)"""
    facts = exchange.facts
    if facts is not None:
        return facts.model
    if exchange.session is not None:
        return exchange.session.model
    return exchange.upload.model if exchange.upload is not None else ""
