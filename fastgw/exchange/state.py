"""What one exchange is made of, and the few moves that all of its parts make.

    RECEIVING  the head is judged, the body is arriving
    CONNECTING a dial is under way
    WAITING    the request is written (or still being uploaded), no response head yet
    RELAYING   the response is on its way down
    LOCAL      answered here, by a task that may wait
    TUNNEL     upgraded: bytes pass both ways until either side closes
    QUEUED     waits for room at an engine
    BACKOFF    waits before it is sent again
    MERGING    waits for others to share one call, or shares one
    DONE       terminal: ``_end`` ran, exactly once

The life is told in four files, each a class on top of the one before: this state, ``attempts`` (towards the engine),
``tunnel`` and ``answering`` (back to the client), ``exchange`` (arrival and end).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any, Final

from fastgw.accel.bodies import BodyFacts
from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.errors import GatewayError, Source
from fastgw.exchange.context import Context
from fastgw.exchange.endpoints import Endpoint
from fastgw.exchange.relay import Relay
from fastgw.exchange.session import WebSocketSession
from fastgw.exchange.upload import Upload
from fastgw.limits.account import Account
from fastgw.limits.meter import Meter
from fastgw.net.client_conn import ClientConn
from fastgw.net.session import Session
from fastgw.net.timers import NEVER
from fastgw.net.upstream_conn import UpstreamConn
from fastgw.protocol.coding import Decoder
from fastgw.protocol.media import is_json
from fastgw.upstream.pool import Pool
from fastgw.upstream.table import Group


class Phase(enum.IntEnum):
    RECEIVING = 0
    CONNECTING = 1
    WAITING = 2
    RELAYING = 3
    LOCAL = 4
    TUNNEL = 5
    DONE = 6
    QUEUED = 7
    BACKOFF = 8
    MERGING = 9


# Plain module constants: looking a member up on an Enum class costs 50 ns on CPython 3.11.
RECEIVING: Final = Phase.RECEIVING
CONNECTING: Final = Phase.CONNECTING
WAITING: Final = Phase.WAITING
RELAYING: Final = Phase.RELAYING
LOCAL: Final = Phase.LOCAL
TUNNEL: Final = Phase.TUNNEL
DONE: Final = Phase.DONE
QUEUED: Final = Phase.QUEUED
BACKOFF: Final = Phase.BACKOFF
MERGING: Final = Phase.MERGING


NO_LIMIT: Final = 2**62
SHARED_FROM_BYTES: Final = 16384
"""What a body holds beyond this counts as its key's, or its address's: most bodies are smaller, and cost no look-up."""
TOO_LARGE_TO_HOLD: Final = (
    "A body of this size cannot be held until its model is known: send the field `model` before the file."
)


class ExchangeState(Session):
    """The record of one exchange."""

    __slots__ = (
        "account",
        "allowance",
        "body",
        "bound",
        "bytes_in",
        "bytes_out",
        "cached_tokens",
        "client_ip",
        "completion_tokens",
        "conn",
        "counted",
        "decoder",
        "detail",
        "endpoint",
        "error_kind",
        "estimated",
        "extra_head",
        "facts",
        "faulty",
        "first_byte_at",
        "gateway",
        "group",
        "guards",
        "head",
        "held_bytes",
        "judged",
        "key_id",
        "kills",
        "lane",
        "local_task",
        "meter",
        "minute",
        "phase",
        "pieces",
        "place",
        "pool",
        "probe",
        "prompt_tokens",
        "queued_at",
        "queued_s",
        "reasoning_tokens",
        "relay",
        "replayed",
        "request_id",
        "reserved",
        "reserved_minute",
        "response",
        "retries",
        "reused",
        "routed_at",
        "sent_at",
        "session",
        "shared_bytes",
        "started_at",
        "status",
        "strip_usage",
        "substitute",
        "timeout_s",
        "timer",
        "token_at",
        "tried",
        "turn_due",
        "upload",
        "upstream",
    )

    def __init__(
        self, gateway: Context, conn: ClientConn, head: RequestHead, endpoint: Endpoint, request_id: bytes
    ) -> None:
        # (Not by way of super(), which costs a look-up by name for this one assignment.)
        self.upgrade = False
        self.gateway = gateway
        self.conn = conn
        self.head = head
        self.endpoint = endpoint
        self.request_id = request_id
        self.started_at = conn.received_at
        self.client_ip = conn.peer_ip
        self.phase: Phase = RECEIVING
        self.key_id = ""
        self.account: Account | None = None
        self.meter: Meter | None = None  # of the client's address
        self.timeout_s = 0.0  # what the client asked for, 0 = nothing
        # the request
        self.facts: BodyFacts | None = None
        self.body = b""
        self.pieces: bytearray | None = None
        self.held_bytes = 0  # of the body, of the memory that all may have together
        self.shared_bytes = 0  # of those, what its key or its address is told to hold
        self.decoder: Decoder | None = None  # of a compressed body
        self.turn_due = False
        self.upload: Upload | None = None
        self.strip_usage = False
        # the attempts
        self.group: Group | None = None
        self.pool: Pool | None = None
        self.tried: tuple[Pool, ...] = ()
        self.upstream: UpstreamConn | None = None
        self.reused = False
        self.replayed = False
        self.retries = 0  # policy's, of max_retries
        self.kills = 0  # engine connections that died under this request
        self.probe = False  # this attempt is the one that an open breaker lets through
        self.judged = True  # the breaker has this attempt's verdict (or there is no attempt)
        self.faulty = False  # the engine answered that it failed; its verdict falls when the answer ends
        # what it holds of limits
        self.counted = False  # among its key's requests under way
        self.lane: Any = None  # where it is counted as under way; the queue's
        self.place: Any = None  # where it waits; the queue's
        self.queued_at = 0.0
        self.queued_s = -1.0  # how long it waited for room, -1 = it did not
        self.timer: asyncio.TimerHandle | None = None
        self.session: WebSocketSession | None = None  # where it asks for one
        self.substitute = ""  # the model that it is sent to instead of its own
        self.reserved = 0  # tokens of the day's
        self.reserved_minute = 0
        self.minute: Meter | None = None  # from which those were taken: its key may be given another meanwhile
        self.allowance = NO_LIMIT  # tokens that its answer may have before more must be asked for
        self.bound = NO_LIMIT  # the most tokens that each of its answers may have, as the engine is told
        self.estimated = False  # the engine did not say what it used
        # the answer
        self.response: ResponseHead | None = None
        self.relay: Relay | None = None
        self.local_task: asyncio.Task[None] | None = None
        self.extra_head = b""  # lines that filters add to the answer's head
        # what is told of it; times are of the monotonic clock, 0.0 = not yet, token counts -1 = unknown
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.routed_at = 0.0
        self.sent_at = 0.0
        self.first_byte_at = 0.0
        self.token_at = 0.0
        self.prompt_tokens = -1
        self.completion_tokens = -1
        self.cached_tokens = -1  # of the prompt's, those that the engine had at hand
        self.reasoning_tokens = -1  # of the answer's, those that nobody sees
        self.error_kind = ""
        self.detail = ""
        self.guards: list[Callable[[], None]] | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self.request_id.decode('latin-1')} {self.endpoint.label} {self.phase.name} status={self.status}>"

    @property
    def model(self) -> str:
        if self.facts is not None:
            return self.facts.model
        if self.session is not None:
            return self.session.model
        return self.upload.model if self.upload is not None else ""

    def is_json(self) -> bool:
        content_type = self.head.content_type
        return content_type is not None and is_json(content_type)

    # --- what the later parts do
    def fail(self, error: GatewayError) -> None:
        """Answer with an error, or end the stream with one; ends the exchange either way."""
        raise NotImplementedError

    def _end(self, outcome: str, reusable: bool) -> None:
        """The one end."""
        raise NotImplementedError

    # --- moves that several parts make
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
        self.body = b""
        self.pieces = None
        if self.upload is not None:
            self.upload.forget()

    def client_may_go_on(self) -> None:
        """What held the client back is over."""
        raise NotImplementedError

    def resume(self) -> None:
        """Go on after a wait: the next attempt."""
        raise NotImplementedError

    def _leave_engine(self) -> None:
        """Close the engine's connection, if there is one; this is what cancels its work."""
        upstream = self.upstream
        if upstream is None:
            return
        self.upstream = None
        if self.pool is not None:
            self.pool.engine.inflight -= 1
        upstream.close()
        for hook in self.gateway.on_room:
            hook()

    def _hold_upstream(self) -> None:
        """The client is slow: stop reading its engine until it has caught up."""
        upstream = self.upstream
        if upstream is not None:
            upstream.pause_reading()
            upstream.deadline = NEVER

    def _client_broke(self) -> None:
        """A write met a dead socket: the client is gone, whatever its read side says later."""
        self.conn.sink = None
        self.conn.close()
        self.on_client_gone("reset")
