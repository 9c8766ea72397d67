"""The beginning of an answer that is a stream, while nothing of it has gone down: its head waits for its first event.

An engine that has only sent a head has promised nothing yet: as long as no event came, another engine can be asked, or the
client be told with a status of its own. So head and first event go down together, in one write. An error that comes in place of
the first event is the answer that it would have been without a stream: :meth:`Opening.refusal` makes that of it. And a stream
that ends without an event is no answer, however well its message ends: no reader of events would see any of it.

Owns what has come until then, at most :data:`MAX_OPENING_BYTES` of it and one read. Must never change a byte of it, or read it
for whoever passes it on: that one is given all of it anew.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from fastgw import errors
from fastgw.accel.chunks import FramingError
from fastgw.accel.events import FAILURES, decode_event, is_json, read, says_it_failed
from fastgw.accel.fields import response_status
from fastgw.accel.heads import ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.exchange.dialects import OLLAMA
from fastgw.exchange.endpoints import Endpoint
from fastgw.exchange.figures import coded
from fastgw.exchange.plan import lost
from fastgw.late import late
from fastgw.protocol.body import CHUNKS, ChunkedSource, Source

MAX_OPENING_BYTES: Final = 1 << 16
"""What an engine says before its first event (comments, mostly) waits for it up to this size; then it goes down."""
OPENING_S: Final = 15.0
"""For so long too. An engine that says something for longer, and has no event, wants the connections on the way kept alive."""

WAITS: Final = 0
BEGINS: Final = 1
REFUSES: Final = 2
UNREADABLE: Final = 3
ENDS: Final = 4

NO_CONTENT: Final = 204
BAD_GATEWAY: Final = 502

_CONTENT_TYPE: Final = late(rb"(?im)^content-type:[^\r\n]*\r\n")

_STATUS: Final = {
    # Anthropic's, and OpenAI's where they are the same
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
    "overloaded_error": 529,
    # OpenAI's
    "context_length_exceeded": 400, "insufficient_quota": 429, "rate_limit_exceeded": 429, "server_error": 500,
    # vLLM's, SGLang's, llama.cpp's, TGI's
    "BadRequestError": 400, "NotFoundError": 404, "InternalServerError": 500, "exceed_context_size_error": 400,
    "not_supported_error": 501, "unavailable_error": 503, "validation": 422, "generation": 424, "overloaded": 429,
}  # fmt: skip
"""The status with which an error comes where it is an answer of its own, by what engines call its type or its code."""


def is_stream(endpoint: Endpoint, head: ResponseHead) -> bool:
    """Whether the answer with ``head`` is a stream whose events can be read. (Of paths that are passed through nothing is
    known: on those a head says something by itself.)"""
    if not endpoint.metered or head.status >= 300 or head.status == NO_CONTENT:
        return False
    if not head.sse and (endpoint.dialect != OLLAMA or head.json):
        return False
    return not coded(head)


class Opening:
    """See the head of this file. ``source`` reads the body for whoever passes it on, and has not been fed. ``came``: all
    that has come, frames included. ``why``: it cannot be read, or has ended."""

    __slots__ = ("_data", "_line", "_sse", "_until", "came", "head", "reads", "source", "why")

    def __init__(self, head: ResponseHead, source: Source, now: float = 0.0) -> None:
        self._until = now + OPENING_S
        self.head = head
        self.source = source
        self.reads: Source | None = None  # has been fed what came, where that had to be read
        self._sse: SseScanner | None = None  # of what is no JSON, one object a line
        self._line = b""
        self._data = b""  # of an error
        self.came = b""
        self.why = ""

    def feed(self, data: bytes, now: float = 0.0) -> int:
        """More of the body: WAITS for its first event; BEGINS with it, or has waited for too long; REFUSES, for that event is
        an error; ENDS before one; or is UNREADABLE."""
        self.came = self.came + data if self.came else data
        reads = self.reader()
        try:
            payload = reads.feed(data)
        except FramingError as error:
            self.why = str(error)
            # (An event before that is one all the same.)
            return self._verdict(error.payload, False) or UNREADABLE
        verdict = self._verdict(payload, reads.done)
        return BEGINS if verdict == WAITS and now >= self._until else verdict

    def reader(self) -> Source:
        """What has been fed all that came."""
        if self.reads is None:
            # (Without frames and without a length a source remembers nothing: the same can read it twice.)
            self.reads = ChunkedSource() if self.source.frames == CHUNKS else self.source
            self._sse = SseScanner(False) if self.head.sse else None
        return self.reads

    def eof(self, how: str) -> int:
        """The connection has ended, as :meth:`feed`. (Where its message does not end with that, no event can be whole.)"""
        verdict = self._verdict(b"", True) if self.reader().eof(how) else ENDS
        if verdict == ENDS:
            self.why = lost(how, "the first event")
        return verdict

    def _verdict(self, payload: bytes, done: bool) -> int:
        sse = self._sse
        if sse is None:
            line = self._line = (self._line + payload).lstrip()
            begins = line.find(b"\n") >= 0
            fails = (begins or done) and self._fails(line[: line.find(b"\n")] if begins else line, False)
            begins = begins or (done and is_json(line))  # (the last line needs no end)
        else:
            sse.feed(payload)
            begins = sse.events > 0
            if done:
                sse.flush()  # (an event without its end is none, but who says that it fails does)
            fails = sse.error and self._first_fails()
        if fails:
            return REFUSES
        if done and not begins:
            self.why = "the stream ended before its first event"
            return ENDS
        return BEGINS if begins or len(self.came) > MAX_OPENING_BYTES else WAITS

    def _first_fails(self) -> bool:
        """Whether the error is the first event. (It may be another one that came with that.)"""
        payload = self.came
        if self.source.frames == CHUNKS:
            try:
                payload = ChunkedSource().feed(payload)
            except FramingError as error:
                payload = error.payload
        text = payload.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for event in text.split(b"\n\n"):
            data, named = read(event.strip(b"\n") + b"\n")
            if data is not None or named:
                return self._fails(data or b"", named)
        return False

    def _fails(self, data: bytes, named: bool) -> bool:
        """Whether an event with this ``data`` is an error; ``named``: it is called one."""
        self._data = data
        try:
            return named or says_it_failed(decode_event(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False

    def refusal(self, endpoint: Endpoint) -> tuple[ResponseHead, bytes]:
        """The answer that the error is: a head with its status, and a body as the API has it that the client of ``endpoint``
        speaks, which is an engine's own, Anthropic's, or OpenAI's."""
        anthropic = endpoint.label.startswith("/v1/messages")
        said = _object(self._data)
        error = said.get("error") or _dict(said.get("response")).get("error")
        fields: dict[str, Any] = error if type(error) is dict else said
        if not said:
            kind = errors.lookup("bad_gateway")
            status, body = kind.status, errors.anthropic_body(kind) if anthropic else errors.body(kind)
        else:
            status, body = _status(fields, said), self._data
            if not endpoint.dialect and (type(said.get("error")) is not dict or (anthropic and said.get("type") != "error")):
                body = _written(fields, error, anthropic)
        head = self.head
        fields_of_head = b"content-type: application/json\r\n" + _CONTENT_TYPE().sub(b"", head.forward)
        line = response_status(status, b"")
        # (Its connection is of no more use: whatever follows the error on it is nobody's.)
        return ResponseHead(
            status, head.minor, line, fields_of_head, len(body), False, False, False, True, head.has_date, 0.0, 0
        ), body


def _object(data: bytes) -> dict[str, Any]:
    """The JSON object that ``data`` is; an empty one where it is none."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return _dict(found)


def _dict(found: Any) -> dict[str, Any]:
    return found if type(found) is dict else {}


def _status(fields: dict[str, Any], said: dict[str, Any]) -> int:
    """The status that an error says, or its words stand for."""
    code = fields.get("code")
    if type(code) is str and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if type(code) is int:
        return code if 400 <= code <= 599 and code != 499 else BAD_GATEWAY  # (499: its client has left, and this one has not)
    for word in (code, fields.get("type"), said.get("error_type")):
        if type(word) is str:
            if word in _STATUS:
                return _STATUS[word]
            if word in errors.KINDS:
                return errors.KINDS[word].status
    return BAD_GATEWAY


def _written(fields: dict[str, Any], error: Any, anthropic: bool) -> bytes:
    """An error that its engine wrote in another way, as OpenAI's clients or Anthropic's read it."""
    message = error if type(error) is str else fields.get("message")
    name = fields.get("type")
    if type(name) is not str or name in FAILURES:
        name = "api_error" if anthropic else "upstream_error"
    told = {"type": name, "message": message if type(message) is str else errors.lookup("bad_gateway").message}
    if anthropic:
        return msgspec.json.encode({"type": "error", "error": told})
    return msgspec.json.encode({"error": {**told, "param": fields.get("param"), "code": fields.get("code")}})
