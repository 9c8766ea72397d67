"""One answer: what came of it and when, and whether it is one.

Owns: what counts as an answer. The status is 200; the message is whole by its own framing; a stream is events of JSON in the
shape of OpenAI's, with text in them, at whose end stands a ``finish_reason`` or ``[DONE]`` (which of the two is missing is
told), and nothing behind it; the answer is no longer than was asked for. What is text is the same here as where the gateway
measures: content, reasoning, a refusal, the arguments of a call of a tool. A role, or a tool's name, is none. Never: believes a
peer about lengths (each has a bound), or hands on text of a peer's that a terminal would obey.

Without I/O: it is fed what was read, and the time at which it was.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from fastgw.accel.chunks import FramingError
from fastgw.accel.tokens import MOST_TOKENS
from fastgw.bench.events import EventReader, TooLong
from fastgw.errors import GatewayError
from fastgw.protocol.body import Source, source_of
from fastgw.protocol.http1.client import ResponseReader

MAX_HEAD_BYTES: Final = 65536
MAX_FIELDS: Final = 200
MAX_INTERIM: Final = 16
MAX_BODY_BYTES: Final = 64 << 20
"""Of one answer, streamed or not: a million tokens have room in it."""
MAX_EVENTS: Final = 1_000_000
MOST_DETAIL: Final = 200
_OF_REFUSAL: Final = 1 << 16
"""So much of an answer that is none is kept, for its words, and what came in one read with them."""

_DONE: Final = b"[DONE]"


class Wrong(Exception):
    """Why an answer is none: ``kind`` is counted, ``detail`` shown with the first of its kind."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = printable(detail)


def printable(text: str) -> str:
    """A peer's words, short and harmless on a terminal."""
    text = " ".join(text[: 4 * MOST_DETAIL].split())
    return "".join(char if char.isprintable() else "?" for char in text)[:MOST_DETAIL]


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Piece(msgspec.Struct, gc=False):
    """A delta or a message."""

    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Piece | None = None
    message: _Piece | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Said(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Said).decode


class Answer:
    """What has come of one answer. Times are the caller's; 0 = not yet.

    ``first_at``, ``last_at``: when text came first and last. ``gaps``: the seconds between two arrivals that brought text;
    what came in one read is one arrival, and events beyond its first are ``coalesced``. ``texts``: events with text, which are
    tokens where the server sends one in each. ``prompt_tokens``, ``completion_tokens``: the server's own count, -1 = untold.
    ``framed``: there was content without text, such as a tool's name. ``complete``: the message has ended by its own framing,
    whatever it says; where ``keep_alive``, another may follow.
    """

    __slots__ = (
        "_body", "_events", "_interim", "_kept", "_max_tokens", "_reader", "_size", "_source", "_stream",
        "coalesced", "complete", "completion_tokens", "done", "events", "finished", "first_at", "framed", "gaps", "head_at",
        "keep_alive",
        "last_at", "prompt_tokens", "reads", "status", "texts",
    )  # fmt: skip

    def __init__(self, reader: ResponseReader, *, stream: bool, max_tokens: int = 0, keep_text: bool = False) -> None:
        self._reader = reader
        self._stream = stream
        self._max_tokens = max_tokens
        self._source: Source | None = None
        self._events: EventReader | None = None
        self._body: list[bytes] = []
        self._kept: list[str] | None = [] if keep_text else None
        self._size = 0
        self._interim = 0
        self.status = 0
        self.complete = self.keep_alive = self.framed = False
        self.head_at = self.first_at = self.last_at = 0.0
        self.gaps: list[float] = []
        self.reads = self.events = self.texts = self.coalesced = 0
        self.prompt_tokens = self.completion_tokens = -1
        self.done = False
        self.finished = ""

    @property
    def begun(self) -> bool:
        """Whether any byte of it has come."""
        return self.reads > 0

    @property
    def text(self) -> str:
        return "".join(self._kept or ())

    def feed(self, data: bytes, at: float) -> bool:
        """What was read at ``at``; whether the answer is whole now.

        :raises Wrong: it is none. Nothing more may be fed then.
        """
        self.reads += 1
        try:
            source = self._source
            if source is None:
                source = self._head(data, at)
                if source is None:
                    return False
                data = self._reader.rest
            self._take(source.feed(data), at)
        except GatewayError as error:
            raise Wrong("not HTTP", error.detail) from None
        except FramingError as error:
            raise Wrong("not HTTP", str(error)) from None
        except TooLong:
            raise Wrong("endless", "an event has no end") from None
        return self._whole(source) if source.done else False

    def ended(self, how: str) -> None:
        """The connection has ended (``"fin"``, ``"reset"``) before the answer was whole.

        :raises Wrong: unless this is how it ends.
        """
        if self._source is not None and self._source.eof(how):
            self._whole(self._source)
            return
        if not self.begun:
            raise Wrong("no answer", f"the connection ended ({how}) before a byte came")
        what = f"after {self.events} events" if self._events is not None else f"after {self._size} bytes of the body"
        raise Wrong("truncated", f"the connection ended ({how}) {what if self._source is not None else 'in the head'}")

    def _head(self, data: bytes, at: float) -> Source | None:
        head = self._reader.feed(data)
        while head is not None and head.status < 200:
            self._interim += 1
            if head.status == 101 or self._interim > MAX_INTERIM:
                raise Wrong("not HTTP", "interim answers without end" if head.status != 101 else "101 that nobody asked for")
            rest = self._reader.rest
            head = self._reader.feed(rest) if rest else None
        if head is None:
            return None
        self.status = head.status
        self.head_at = at
        self.keep_alive = head.keep_alive
        if head.status == 200 and self._stream:
            if not head.sse:
                raise Wrong("no stream", "content-type is not text/event-stream")
            self._events = EventReader()
        self._source = source_of(head, b"POST")
        return self._source

    def _take(self, payload: bytes, at: float) -> None:
        self._size += len(payload)
        if self._size > MAX_BODY_BYTES:
            raise Wrong("endless", f"an answer of more than {MAX_BODY_BYTES >> 20} MiB")
        if self._events is None:
            if payload and (self.status == 200 or self._size - len(payload) < _OF_REFUSAL):
                self._body.append(payload)
            return
        texts = self.texts
        for data in self._events.feed(payload):
            self._event(data)
        new = self.texts - texts
        if new:
            self.coalesced += new - 1
            if self.first_at:
                self.gaps.append(at - self.last_at)
            else:
                self.first_at = at
            self.last_at = at

    def _event(self, data: bytes) -> None:
        if self.done:
            raise Wrong("malformed", "events behind [DONE]")
        if data == _DONE:
            self.done = True
            return
        self.events += 1
        if self.events > MAX_EVENTS:
            raise Wrong("endless", f"more than {MAX_EVENTS:,} events")
        said = self._said(data)
        texts = False
        for choice in said.choices or ():
            piece = choice.delta
            if choice.finish_reason:
                self.finished = choice.finish_reason
            if self._text(piece, choice.text):
                texts = True
        self.texts += texts

    def _said(self, data: bytes) -> _Said:
        """:raises Wrong: it is no JSON, has other types than OpenAI's, or tells an error."""
        try:
            said = _decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Wrong("malformed", f"{error}: {data[:80].decode('utf-8', 'replace')}") from None
        if said.error is not None:
            raise Wrong("error event" if self._stream else "error", _message(said.error))
        if said.usage is not None:
            self.prompt_tokens = _told(said.usage.prompt_tokens)
            self.completion_tokens = _told(said.usage.completion_tokens)
        return said

    def _text(self, piece: _Piece | None, text: str | None) -> bool:
        """Whether there is text in it: something that a person or a program waits for."""
        if piece is None:
            new = bool(text)
        else:
            content, calls = piece.content, piece.tool_calls
            text = content if isinstance(content, str) else None
            new = bool(text or piece.reasoning_content or piece.reasoning or piece.refusal)
            if not new:
                parts = content if isinstance(content, list) else ()
                called = [_member(call, "function") for call in calls or ()] + [piece.function_call]
                new = any(_member(part, "text") for part in parts) or any(_member(one, "arguments") for one in called)
                self.framed = self.framed or bool(content or calls or piece.function_call)
        if text and self._kept is not None:
            self._kept.append(text)
        return new

    def _whole(self, source: Source) -> bool:
        if source.spoiled and source.rest:
            raise Wrong("not HTTP", "bytes behind the answer's end")
        self.complete = True
        self.keep_alive = self.keep_alive and not source.spoiled
        if self.status != 200:
            raise Wrong(f"status {self.status}", self._refusal())
        if self._events is None:
            said = self._said(b"".join(self._body))
            choices = said.choices or ()
            new = [self._text(choice.message, choice.text) for choice in choices]
            self.finished = next((choice.finish_reason for choice in choices if choice.finish_reason), "")
            self.texts = sum(new)
        elif self._events.unfinished:
            raise Wrong("truncated", "the body ends in the middle of an event")
        if not (self.finished or self.done):
            raise Wrong("truncated" if self._stream else "malformed", "it ends without a finish_reason")
        if not (self.texts or self.framed) and self.completion_tokens <= 0:
            raise Wrong("empty", f"no text (finish_reason {self.finished})")
        if 0 < self._max_tokens < self.completion_tokens:
            raise Wrong("too long", f"{self.completion_tokens} tokens where {self._max_tokens} were asked for")
        return True

    def _refusal(self) -> str:
        body = b"".join(self._body)[:_OF_REFUSAL]
        try:
            return _message(msgspec.json.decode(body))
        except (msgspec.DecodeError, RecursionError):
            return body[:MOST_DETAIL].decode("utf-8", "replace")


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _told(tokens: int | None) -> int:
    return -1 if tokens is None or not 0 <= tokens <= MOST_TOKENS else tokens


def _message(error: object) -> str:
    """The words of an error, whichever of the usual shapes it has."""
    for _ in range(2):
        if isinstance(error, dict):
            error = error.get("error") or error.get("message") or error.get("detail") or error
    try:
        return str(error)[: 4 * MOST_DETAIL]
    except RecursionError:  # (what could just be read may be too deep to be written)
        return ""
