"""The spans of a request that has ended.

    POST /v1/chat/completions           server: the whole of it, with what was used
      receive                           until it waits for room, or the first engine is chosen
      queue                             waiting for room, each time that it did
      chat a-model                      client: one for each engine that was asked
        connect                         until it was sent
        first token                     from then on
        stream                          from the first token to the end

Owns: which spans there are, and their attributes (``conventions`` has the names, ``otlp`` the bytes). It runs in a thread of
its own. Must never: say of a prompt or an answer more than was asked for, or show a key.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Iterator, Sequence
from random import getrandbits
from typing import Final

import msgspec
from opentelemetry.sdk.resources import Resource

from fastgw import __version__
from fastgw.exchange.record import AccessRecord
from fastgw.observe import conventions as names
from fastgw.observe import otlp
from fastgw.observe.messages import asked_in, said_in
from fastgw.upstream.target import Engine

MAX_WHY: Final = 512  # characters of what an attempt failed of

Attributes = dict[str, otlp.Value]


class Attempt(msgspec.Struct, kw_only=True):
    """One engine that was asked; times by the monotonic clock, 0.0 = never. ``model``: in place of the one that was asked for.
    ``why``: it did not answer. ``shared``: several requests asked it together."""

    engine: Engine
    model: str
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
    waits: list[tuple[float, float]]
    metered: bool
    max_tokens: int
    prompt: bytes = b""
    answer: bytes = b""
    cut: bool = False

    @property
    def size(self) -> int:
        return len(self.prompt) + len(self.answer)


class Maker:
    """Makes spans of one gateway's requests. ``resource``: whose they are."""

    def __init__(self, resource: Resource) -> None:
        about = {name: value for name, value in resource.attributes.items() if value is not None}
        self._source = otlp.Source(about, resource.schema_url, "fastgw", __version__)  # type: ignore[arg-type]

    def request(self, batch: Sequence[Finished]) -> bytes:
        """What a collector is sent of these."""
        return self._source.request([span for one in batch for span in _Request(one).spans()])


class _Request:
    """The spans of one."""

    def __init__(self, finished: Finished) -> None:
        self._one = finished
        self._whose = otlp.identity(unhexlify(finished.trace_id), finished.state)
        self._own = unhexlify(finished.span_id)
        record = finished.record
        self._end = record.at
        self._start = record.at - record.duration_s
        self._token = self._start + record.ttft_s if record.ttft_s >= 0 else 0.0

    def spans(self) -> Iterator[bytes]:
        one, record = self._one, self._one.record
        # (An error behind a heartbeat has had its status before.)
        fails = record.status >= 500 or record.outcome in BROKEN or (record.outcome == "error" and record.status < 400)
        fault = record.error or record.outcome if fails else ""
        about = {**self._http(), **self._usage(), **self._contents()}
        parent = unhexlify(one.parent)
        start, end = self._start, self._end
        yield self._span(self._name(), self._own, parent, start, end, about, otlp.SERVER, fault, remote=bool(parent))
        received = one.attempts[0].at if one.attempts else self._end
        if one.waits:
            received = min(received, one.waits[0][0])
        yield self._phase("receive", self._own, self._start, received)
        for start, end in one.waits:
            yield self._phase("queue", self._own, start, end)
        for number, attempt in enumerate(one.attempts):
            yield from self._attempt(attempt, number)

    def _attempt(self, attempt: Attempt, number: int) -> Iterator[bytes]:
        one, engine = self._one, attempt.engine
        record = one.record
        last = number == len(one.attempts) - 1
        why = attempt.why or (record.detail if last and record.outcome != "ok" else "")
        operation = names.OPERATIONS.get(record.endpoint, "")
        asked_for = engine.served_name or attempt.model or record.model
        about: Attributes = {names.ENGINE: engine.name, names.METHOD: record.method.decode("latin-1")}
        if engine.tunnelled:
            about[names.TUNNELLED] = True  # (nobody dials it: it has no address)
        else:
            about[names.SERVER] = engine.unix_path or engine.host
            if not engine.unix_path:
                about[names.SERVER_PORT] = engine.port
        if operation:
            about[names.OPERATION] = operation
            about[names.PROVIDER] = engine.kind.name
            about[names.REQUEST_MODEL] = asked_for
        if number:
            about[names.RESENT] = number
        if attempt.status:
            about[names.STATUS] = attempt.status
        fault = (record.error or record.outcome) if last else "no_answer" if attempt.sent_at else "no_connection"
        own = _some_id() if attempt.shared else unhexlify(attempt.span_id)
        name = f"{operation} {asked_for}".rstrip() if operation else self._name()
        end = max(attempt.ended_at, attempt.at)
        if attempt.status >= 400:
            why, fault = why or f"answered {attempt.status}", str(attempt.status)
        yield self._span(name, own, self._own, attempt.at, end, about, otlp.CLIENT, fault if why else "", why)
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
        if kind := names.error_type(record.status, record.error, record.outcome):
            about[names.ERROR] = kind
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
    def _phase(self, name: str, parent: bytes, start: float, end: float) -> bytes:
        return self._span(name, _some_id(), parent, start, end, {}, otlp.INTERNAL, "")

    def _span(
        self, name: str, own: bytes, parent: bytes, start: float, end: float, about: Attributes, kind: bytes, fault: str,
        why: str = "", *, remote: bool = False,
    ) -> bytes:  # fmt: skip
        failed = b""
        if fault:
            about[names.ERROR] = fault
            failed = otlp.status((why or self._one.record.detail)[:MAX_WHY])
        offset = self._one.offset
        begins, ends = int((start + offset) * 1e9), int((max(end, start) + offset) * 1e9)
        return otlp.span(self._whose, own, parent, name, kind, begins, ends, otlp.attributes(about), failed, remote)


def _some_id() -> bytes:
    return (getrandbits(64) or 1).to_bytes(8, "big")


BROKEN: Final = frozenset({"truncated", "engine_error", "upstream_timeout", "internal"})
"""Outcomes of answers that had begun, and broke off for a fault that is not the client's."""
