"""What is left of an exchange when it has ended: its one access record, and whom it is told to."""

from __future__ import annotations

from typing import Protocol

from fastgw.exchange.state import ExchangeState

# One access record: time of its end (monotonic clock), request id, key id, client, method, path, endpoint, model, engine,
# status, bytes in and out, prompt and completion tokens (-1 = unknown), seconds to the first token (-1 = none) and in all,
# streamed, outcome, error, detail, seconds in the queue (-1 = none), whether the tokens are an estimate, cached tokens of the
# prompt and reasoning tokens of the completion (-1 = unknown).
AccessRecord = tuple[
    float, bytes, str, str, bytes, bytes, str, str, str, int, int, int, int, int, float, float, bool, str, str, str, float,
    bool, int, int,
]  # fmt: skip


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
    """Whether events passed."""
    call = exchange.call
    return call is not None and call.relay is not None and call.relay.sse is not None


def record_of(exchange: ExchangeState, outcome: str, now: float) -> AccessRecord:
    """The record of an exchange that ends at ``now``."""
    head = exchange.head
    started = exchange.started_at
    call = exchange.call
    return (
        now,
        exchange.request_id,
        exchange.key_id,
        exchange.client_ip,
        head.method,
        shown_path(exchange),
        exchange.endpoint.label,
        shown_model(exchange),
        call.pool.engine.name if call is not None else "",
        exchange.status,
        exchange.bytes_in,
        exchange.bytes_out,
        exchange.prompt_tokens,
        exchange.completion_tokens,
        exchange.token_at - started if exchange.token_at else -1.0,
        now - started,
        streamed(exchange),
        outcome,
        exchange.error_kind,
        exchange.detail,
        exchange.queued_s,
        exchange.estimated,
        exchange.cached_tokens,
        exchange.reasoning_tokens,
    )
