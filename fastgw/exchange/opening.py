"""The beginning of an answer, while nothing of it has gone down: its head waits until it is seen to be one.

An engine that has only sent a head has promised nothing yet: as long as no event came, another engine can be asked, or the
client be told with a status of its own. So head and first event of a stream go down together, in one write. An error in its
place, or in that of a plain answer, is the answer that it would have been with its own status (``engine_error``). A stream
that ends without an event is no answer, however well its message ends: no reader of events would see any of it. Nor is a plain
answer that ends well with nothing in it. But who has heard nothing in a recording may say so by nothing, where that is no JSON.

Owns what has come until then, at most :data:`MAX_OPENING_BYTES` of it and one read. Must never change a byte of it, or read it
for whoever passes it on: that one is given all of it anew.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastgw.accel.chunks import FramingError
from fastgw.accel.events import decode_event, is_json, read, says_it_failed
from fastgw.accel.heads import ResponseHead
from fastgw.accel.sse import SseScanner
from fastgw.exchange.dialects import OLLAMA
from fastgw.exchange.endpoints import HEARING, MESSAGES, RESPONSES, Endpoint
from fastgw.exchange.engine_error import as_answer, is_error
from fastgw.exchange.figures import coded
from fastgw.exchange.plan import lost
from fastgw.protocol.body import CHUNKS, ChunkedSource, LengthSource, Source

MAX_OPENING_BYTES: Final = 1 << 16
"""What an engine says before its first event (comments, mostly), or an error that is all there is, waits up to this size; then
it goes down."""
OPENING_S: Final = 15.0
"""For so long too. An engine that says something for longer, and has no event, wants the connections on the way kept alive."""
ANNOUNCED_S: Final = 0.2
"""So long an announcement waits for the event behind it: an engine that cannot do it says so at once, or ends. (Behind it the
prompt is read, which may take long, and whoever asked is to see that it is.)"""

WAITS: Final = 0
BEGINS: Final = 1
REFUSES: Final = 2
UNREADABLE: Final = 3
ENDS: Final = 4

NO_CONTENT: Final = 204

ANNOUNCEMENTS: Final = frozenset(
    (b'"response.created"', b'"response.queued"', b'"response.in_progress"', b'"message_start"', b'"ping"')
)
"""Types of events that say no more than that the request is there."""
_ERRORS: Final = (b'{"error":{', b'{"error":"', b'{"object":"error"', b'{"type":"error"')
"""How an error begins that is all there is of a plain answer, blanks apart: OpenAI's and all after it; TGI's and Ollama's;
vLLM's of old, and LMDeploy's; Anthropic's."""


def is_held(endpoint: Endpoint, head: ResponseHead, source: Source, rest: bytes) -> bool:
    """Whether the answer with ``head``, of whose body ``rest`` has come, waits: it is a stream whose events can be read, may be
    an error, or is empty. (Of paths that are passed through nothing is known: on those a head says something by itself.)"""
    if not endpoint.metered or head.status >= 300 or head.status == NO_CONTENT:
        return False
    if head.sse or (endpoint.dialect == OLLAMA and not head.json):
        return not coded(head)
    if source.done or not source.length:
        return head.json or endpoint.label not in HEARING
    if not head.json or (rest and source.frames != CHUNKS and not may_fail(rest)):
        return False
    return not coded(head)


def may_fail(text: bytes) -> bool:
    """Whether a plain answer that begins so may be an error."""
    if len(text) > 2 and text[1] == 34 and text[2] != 101 and text[2] != 111 and text[2] != 116:
        return False  # (its first name has another letter, as nearly every answer's)
    for one in _ERRORS:
        at = 0
        for c in text:
            if at == len(one) or (c != one[at] and c > 32):
                break
            if c == one[at]:
                at += 1
        else:
            return True  # it is too short to say
        if at == len(one):
            return True
    return False


class Opening:
    """See the head of this file. ``source`` reads the body for whoever passes it on, and has not been fed. ``came``: all
    that has come, frames included. ``why``: it cannot be read, or has ended. ``announced``: its stream has begun, with an event
    that says nothing; ``until``: so long it waits for more. ``plain``: it is no stream."""

    __slots__ = (
        "_announces", "_data", "_hears", "_sse", "_text", "announced", "came", "head", "plain", "reads", "source", "until",
        "why",
    )  # fmt: skip

    def __init__(self, head: ResponseHead, source: Source, endpoint: Endpoint, now: float = 0.0) -> None:
        self.until = now + OPENING_S
        self.head = head
        self.source = source
        self.reads: Source | None = None  # has been fed what came, where that had to be read
        self.plain = not head.sse and (head.json or source.done or not source.length)
        self._announces = endpoint.label == RESPONSES or endpoint.label == MESSAGES
        self._hears = endpoint.label in HEARING
        self._sse: SseScanner | None = None  # of a stream of events
        self._text = b""  # of what is none: a plain answer, or JSON, one object a line
        self._data = b""  # of an error
        self.announced = False
        self.came = b""
        self.why = ""

    def feed(self, data: bytes, now: float = 0.0) -> int:
        """More of the body: WAITS for its first event; BEGINS with it, or has waited for too long; REFUSES, for that event is
        an error; ENDS before one; or is UNREADABLE."""
        self.came = self.came + data if self.came else data
        reads = self.reader()
        announced = self.announced
        try:
            payload = reads.feed(data)
        except FramingError as error:
            self.why = str(error)
            # (An event before that is one all the same.)
            return self._verdict(error.payload, False) or UNREADABLE
        # (A stream of HTTP/2 may end before its length.)
        verdict = self._verdict(payload, reads.done or getattr(self.source, "ended", False))
        if self.announced and not announced:
            self.until = now + ANNOUNCED_S
        return BEGINS if verdict == WAITS and now >= self.until else verdict

    def reader(self) -> Source:
        """What has been fed all that came."""
        if self.reads is None:
            self.reads = self._another()
            self._sse = SseScanner(False) if self.head.sse else None
        return self.reads

    def _another(self) -> Source:
        """One that reads the same body. (Without frames or a length it remembers nothing: the same can read it twice.)"""
        source = self.source
        if source.frames == CHUNKS:
            return ChunkedSource()
        return LengthSource(source.length) if source.length > 0 else source

    def eof(self, how: str) -> int:
        """The connection has ended, as :meth:`feed`. (Where its message does not end with that, no event can be whole.)"""
        verdict = self._verdict(b"", True) if self.reader().eof(how) else ENDS
        if verdict == ENDS and self.plain and not self.reader().done:
            return BEGINS  # its engine had begun to answer: as much as there is of that goes down
        if verdict == ENDS:
            self.why = lost(how, "its body" if self.plain else "the first event")
        return verdict

    def _verdict(self, payload: bytes, done: bool) -> int:
        if self.plain:
            verdict = self._of_plain(payload, done)
        else:
            verdict = self._of_lines(payload, done) if self._sse is None else self._of_events(self._sse, payload, done)
            if done and verdict == WAITS:
                if self._hears:
                    return BEGINS
                self.why = "the stream ended before its first event"
                return ENDS
        return BEGINS if verdict == WAITS and len(self.came) > MAX_OPENING_BYTES else verdict

    def _of_plain(self, payload: bytes, done: bool) -> int:
        text = self._text = self._text + payload
        if not may_fail(text):
            return BEGINS
        if not done:
            return WAITS
        if not text:
            self.why = "the answer is empty"
            return ENDS
        self._data = text
        return REFUSES if is_error(text) else BEGINS

    def _of_lines(self, payload: bytes, done: bool) -> int:
        text = self._text = (self._text + payload).lstrip()
        end = text.find(b"\n")
        if end < 0 and not (done and is_json(text)):  # (the last line needs no end)
            return WAITS
        return REFUSES if self._said(text[:end] if end >= 0 else text, False) == REFUSES else BEGINS

    def _of_events(self, sse: SseScanner, payload: bytes, done: bool) -> int:
        sse.feed(payload)
        begins = sse.events > 0
        if done:
            sse.flush()  # (an event without its end is none, but who says that it fails does)
        if sse.error or (begins and self._announces):
            return self._first(done)
        return BEGINS if begins else WAITS

    def _first(self, done: bool) -> int:
        """What the first event is that is more than an announcement; WAITS: there is none. (An error may stand behind it.)"""
        payload = self.came
        if self.source.frames == CHUNKS:
            try:
                payload = ChunkedSource().feed(payload)
            except FramingError as error:
                payload = error.payload
        text = payload.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *whole, rest = text.split(b"\n\n")
        for event in whole:
            data, named = read(event.strip(b"\n") + b"\n")
            if data is not None or named:
                verdict = self._said(data or b"", named)
                if verdict != WAITS:
                    return verdict
                self.announced = True
        data, named = read(rest.strip(b"\n") + b"\n") if done else (None, False)
        return REFUSES if (data is not None or named) and self._said(data or b"", named) == REFUSES else WAITS

    def _said(self, data: bytes, named: bool) -> int:
        """What an event with this ``data`` is, which is called an error where it is ``named``; WAITS: it says nothing yet."""
        self._data = data
        if named:
            return REFUSES
        try:
            event = decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return BEGINS
        if says_it_failed(event):
            return REFUSES
        return WAITS if self._announces and bytes(event.type) in ANNOUNCEMENTS else BEGINS

    def refusal(self, endpoint: Endpoint) -> tuple[ResponseHead, bytes]:
        """The answer that the error is."""
        return as_answer(self.head, self._data, endpoint)
