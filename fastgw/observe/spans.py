"""The spans of a request that has ended, as OpenTelemetry has them.

    POST /v1/chat/completions           server: the whole of it, with what was used
      receive                           until the first engine is chosen, but for the queue
      queue                             waiting for room, where it did
      chat a-model                      client: one for each engine that was asked
        connect                         until it was sent
        first token                     from then on
        stream                          from the first token to the end

Owns: which spans there are, and their attributes (``conventions`` has the names). It runs in a thread of its own. Must never:
say of a prompt or an answer more than was asked for, or show a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import getrandbits
from typing import Any, Final

import msgspec
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from fastgw import __version__
from fastgw.exchange.record import AccessRecord
from fastgw.observe import conventions as names
from fastgw.observe.messages import asked_in, said_in
from fastgw.upstream.target import Engine

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
MAX_WHY: Final = 512  # characters of what an attempt failed of

Attributes = dict[str, Any]


class Attempt(msgspec.Struct, kw_only=True):
    """One engine that was asked; times by the monotonic clock, 0.0 = never. ``why``: it did not answer. ``shared``: several
    requests asked it together."""

    engine: Engine
    span_id: bytes
    at: float
    sent_at: float
    ended_at: float
    status: int
    why: str
    shared: bool = False


class Finished(msgspec.Struct, kw_only=True):
    """What is left of a sampled request. ``offset``: Unix time less the monotonic clock's."""

    record: AccessRecord
    offset: float
    trace_id: bytes
    span_id: bytes
    parent: bytes
    state: bytes
    attempts: list[Attempt]
    metered: bool
    max_tokens: int
    prompt: bytes = b""
    answer: bytes = b""
    cut: bool = False

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.answer)


class Maker:
    """Makes spans of one gateway's requests; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` say whose they are."""

    def __init__(self) -> None:
        found = Resource.create()
        if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            found = found.merge(Resource({SERVICE_NAME: "fastgw"}))
        self._resource = found
        self._scope = InstrumentationScope("fastgw", __version__)

    def spans(self, batch: Sequence[Finished]) -> list[ReadableSpan]:
        return [span for one in batch for span in _Request(one, self._resource, self._scope).spans()]


class _Request:
    """The spans of one."""

    def __init__(self, finished: Finished, resource: Resource, scope: InstrumentationScope) -> None:
        self._one = finished
        self._resource = resource
        self._scope = scope
        self._trace_id = int(finished.trace_id, 16)
        self._state = TraceState.from_header([finished.state.decode()]) if finished.state else TraceState()
        record = finished.record
        self._end = record.at
        self._start = record.at - record.duration_s
        self._token = self._start + record.ttft_s if record.ttft_s >= 0 else 0.0

    def spans(self) -> Iterator[ReadableSpan]:
        one, record = self._one, self._one.record
        parent = self._context(one.parent, remote=True) if one.parent else None
        server = self._context(one.span_id)
        fault = record.error or record.outcome if record.status >= 500 or record.outcome in BROKEN else ""
        about = {**self._http(), **self._usage(), **self._contents()}
        yield self._span(self._name(), server, parent, self._start, self._end, about, SpanKind.SERVER, fault)
        asked = one.attempts[0].at if one.attempts else self._end
        waited = max(record.queued_s, 0.0)
        received = max(asked - waited, self._start)
        yield self._phase("receive", server, self._start, received)
        if record.queued_s >= 0:
            yield self._phase("queue", server, received, asked)
        for number, attempt in enumerate(one.attempts):
            yield from self._attempt(attempt, number, server)

    def _attempt(self, attempt: Attempt, number: int, server: SpanContext) -> Iterator[ReadableSpan]:
        one, engine = self._one, attempt.engine
        record = one.record
        last = number == len(one.attempts) - 1
        why = attempt.why or (record.detail if last and record.outcome != "ok" else "")
        operation = names.OPERATIONS.get(record.endpoint, "")
        asked_for = engine.served_name or record.served_model or record.model
        about: Attributes = {
            names.ENGINE: engine.name,
            names.SERVER: engine.unix_path or engine.host,
            names.METHOD: record.method.decode("latin-1"),
        }
        if not engine.unix_path:
            about[names.SERVER_PORT] = engine.port
        if number:
            about[names.RESENT] = number
        if attempt.status:
            about[names.STATUS] = attempt.status
        fault = (record.error or record.outcome) if last else "no_answer" if attempt.sent_at else "no_connection"
        own = self._context(b"%016x" % (getrandbits(64) or 1) if attempt.shared else attempt.span_id)
        name = f"{operation} {asked_for}".rstrip() if operation else self._name()
        end = max(attempt.ended_at, attempt.at)
        if attempt.status >= 400:
            why, fault = why or f"answered {attempt.status}", str(attempt.status)
        yield self._span(name, own, server, attempt.at, end, about, SpanKind.CLIENT, fault if why else "", why)
        sent = attempt.sent_at
        yield self._phase("connect", own, attempt.at, sent or end)
        if sent:
            token = self._token if last and sent <= self._token <= end else 0.0
            yield self._phase("first token", own, sent, token or end)
            if token:
                yield self._phase("stream", own, token, end)

    # --- what is said of it
    def _name(self) -> str:
        record = self._one.record
        return f"{record.method.decode('latin-1') or 'HTTP'} {record.endpoint}"

    def _http(self) -> Attributes:
        record = self._one.record
        about: Attributes = {
            names.METHOD: record.method.decode("latin-1"),
            names.ROUTE: record.endpoint,
            names.PATH: record.path.decode("latin-1"),
            names.SCHEME: "https" if record.tls else "http",
            names.STATUS: record.status,
            names.CLIENT: record.client,
            names.REQUEST_ID: record.request_id.decode("latin-1"),
            names.OUTCOME: record.outcome,
        }
        if record.protocol:
            about[names.PROTOCOL_VERSION] = "2" if record.protocol == "h2" else "1.1"
        if record.key_id:
            about[names.KEY] = record.key_id
        if record.status >= 400 or record.error:
            about[names.ERROR] = record.error or str(record.status)
        return about

    def _usage(self) -> Attributes:
        one, record = self._one, self._one.record
        operation = names.OPERATIONS.get(record.endpoint, "")
        about: Attributes = {}
        if operation:
            about[names.OPERATION] = operation
        if record.model:
            about[names.REQUEST_MODEL] = record.model
        if one.attempts:
            about[names.PROVIDER] = one.attempts[-1].engine.kind.name
            about[names.ENGINE] = record.engine
            about[names.RESPONSE_MODEL] = record.served_model or record.model
        if one.max_tokens >= 0:
            about[names.MAX_TOKENS] = one.max_tokens
        if record.stream:
            about[names.STREAM] = True
        if one.attempts and self._token and one.metered:
            about[names.FIRST_CHUNK] = max(self._token - one.attempts[-1].sent_at, 0.0)
        for name, count in (
            (names.INPUT_TOKENS, record.prompt_tokens), (names.OUTPUT_TOKENS, record.completion_tokens),
            (names.CACHED_TOKENS, record.cached_tokens), (names.REASONING_TOKENS, record.reasoning_tokens),
        ):  # fmt: skip
            if count >= 0:
                about[name] = count
        if record.estimated:
            about[names.ESTIMATED] = True
        return about

    def _contents(self) -> Attributes:
        one = self._one
        about: Attributes = {}
        if one.prompt and (asked := asked_in(one.prompt)):
            about[names.INPUT] = asked
        if one.answer and (said := said_in(one.answer)):
            about[names.OUTPUT] = said
        if one.cut:
            about[names.CUT] = True
        return about

    # --- how it is written
    def _context(self, span_id: bytes, *, remote: bool = False) -> SpanContext:
        return SpanContext(self._trace_id, int(span_id, 16), remote, _SAMPLED, self._state)

    def _phase(self, name: str, parent: SpanContext, start: float, end: float) -> ReadableSpan:
        return self._span(name, self._context(b"%016x" % (getrandbits(64) or 1)), parent, start, end, {}, SpanKind.INTERNAL, "")

    def _span(
        self, name: str, context: SpanContext, parent: SpanContext | None, start: float, end: float, about: Attributes,
        kind: SpanKind, fault: str, why: str = "",
    ) -> ReadableSpan:  # fmt: skip
        status = _UNSET
        if fault:
            about[names.ERROR] = fault
            status = Status(StatusCode.ERROR, (why or self._one.record.detail)[:MAX_WHY])
        offset = self._one.offset
        return ReadableSpan(
            name, context, parent, self._resource, about, kind=kind, status=status, instrumentation_scope=self._scope,
            start_time=int((start + offset) * 1e9), end_time=int((max(end, start) + offset) * 1e9),
        )  # fmt: skip


BROKEN: Final = frozenset({"truncated", "engine_error", "upstream_timeout", "internal"})
"""Outcomes of answers that had begun, and broke off for a fault that is not the client's."""
