"""What is left of an exchange when it has ended: its one access record, and whom it is told to."""

from __future__ import annotations

from typing import Protocol

import msgspec

from fastgw.errors import code_of
from fastgw.exchange.state import ExchangeState


class AccessRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one exchange, or a connection refused over a cap, leaves behind. -1 = unknown, or there was none."""

    at: float  # when it ended, by the monotonic clock
    request_id: bytes
    client: str  # address
    endpoint: str
    status: int
    outcome: str
    key_id: str = ""
    protocol: str = ""  # "h1" or "h2"
    tls: str = ""  # its version; "" = none
    method: bytes = b""
    path: bytes = b""  # as it may be logged: without keys, not without the unprintable
    model: str = ""
    engine: str = ""  # its name
    bytes_in: int = 0
    bytes_out: int = 0
    prompt_tokens: int = -1
    cached_tokens: int = -1  # of the prompt
    completion_tokens: int = -1
    reasoning_tokens: int = -1  # of the completion
    estimated: bool = False  # whether the tokens are an estimate
    duration_s: float = 0.0
    queued_s: float = -1.0
    ttft_s: float = -1.0  # from the first byte of the request to the first token
    stream: bool = False
    served_model: str = ""  # that it was sent to, where that is not the one that it names
    trace_id: str = ""  # hexadecimal; where requests are traced
    error: str = ""  # the name of its kind
    detail: str = ""


class AccessSink(Protocol):
    """What an embedding program gives: anything that takes records, a list for instance."""

    def append(self, record: AccessRecord) -> None: ...


class AccessLog:
    """Is told of each exchange as it ends. A log that reads the exchange itself spares the record's twenty objects."""

    __slots__ = ()

    def ended(self, exchange: ExchangeState, outcome: str, now: float) -> None:
        """``exchange`` has ended at ``now``; everything of it is still there."""
        raise NotImplementedError

    def append(self, record: AccessRecord) -> None:
        """A record of what never became an exchange."""
        raise NotImplementedError


class Records(AccessLog):
    """Turns each exchange into a record for a plain sink."""

    __slots__ = ("_sink",)

    def __init__(self, sink: AccessSink) -> None:
        self._sink = sink

    def ended(self, exchange: ExchangeState, outcome: str, now: float) -> None:
        self._sink.append(record_of(exchange, outcome, now))

    def append(self, record: AccessRecord) -> None:
        self._sink.append(record)


def shown_path(exchange: ExchangeState) -> bytes:
    """The path as it may be logged."""
    path = exchange.head.path
    return path if path == exchange.endpoint.label.encode() else exchange.gateway.shown(exchange, path)


def shown_model(exchange: ExchangeState) -> str:
    """The model as it may be logged."""
    model = exchange.model
    if not model or model in exchange.gateway.table.models:
        return model
    told = model.encode("utf-8", "replace")
    shown = exchange.gateway.shown(exchange, told)
    return model if shown == told else shown.decode("utf-8", "replace")


def streamed(exchange: ExchangeState) -> bool:
    """Whether events passed, or lines."""
    call = exchange.call
    if call is None or call.relay is None:
        return False
    relay = call.relay
    return relay.sse is not None or (relay.dialect is not None and call.head is not None and not call.head.json)


def traced(exchange: ExchangeState) -> str:
    """The id of its trace, "" = none."""
    return exchange.trace.trace_id.decode() if exchange.trace is not None else ""


def ids_of(exchange: object) -> dict[str, str]:
    """By what a line that tells of ``exchange`` is found again."""
    if not isinstance(exchange, ExchangeState):
        return {}
    ids = {"request_id": exchange.request_id.decode("latin-1"), "trace_id": traced(exchange)}
    return ids if ids["trace_id"] else {"request_id": ids["request_id"]}


def record_of(exchange: ExchangeState, outcome: str, now: float) -> AccessRecord:
    """The record of an exchange that ends at ``now``."""
    head = exchange.head
    started = exchange.started_at
    call = exchange.call
    spoken = exchange.client.spoken
    return AccessRecord(
        at=now,
        request_id=exchange.request_id,
        client=exchange.client_ip,
        endpoint=exchange.endpoint.label,
        status=exchange.status,
        outcome=outcome,
        key_id=exchange.key_id,
        protocol=spoken.protocol,
        tls=spoken.tls,
        method=head.method,
        path=shown_path(exchange),
        model=shown_model(exchange),
        engine=call.pool.engine.name if call is not None else "",
        bytes_in=exchange.bytes_in,
        bytes_out=exchange.bytes_out,
        prompt_tokens=exchange.prompt_tokens,
        cached_tokens=exchange.cached_tokens,
        completion_tokens=exchange.completion_tokens,
        reasoning_tokens=exchange.reasoning_tokens,
        estimated=exchange.estimated,
        duration_s=now - started,
        queued_s=exchange.queued_s,
        ttft_s=exchange.token_at - started if exchange.token_at else -1.0,
        stream=streamed(exchange),
        served_model=exchange.substitute,
        trace_id=traced(exchange),
        error=code_of(exchange.error_kind) if exchange.error_kind else "",  # (few have one)
        detail=exchange.detail,
    )


def timing_line(exchange: ExchangeState, first_byte_at: float, now: float) -> bytes:
    """The receipt (W3C Server-Timing, milliseconds): reading the request, waiting for an engine's connection, the
    engine's first byte, and the gateway's own share of it all."""
    received = exchange.started_at
    routed = max(exchange.routed_at, received)  # (nobody looked, where this was not asked for when it was routed)
    sent = exchange.sent_at
    upstream = first_byte_at - sent
    own = now - received - upstream
    return b"server-timing: parse;dur=%.3f, queue;dur=%.3f, upstream;dur=%.3f, gateway;dur=%.3f\r\n" % (
        (routed - received) * 1e3,
        (sent - routed) * 1e3,
        upstream * 1e3,
        own * 1e3,
    )
