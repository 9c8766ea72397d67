"""Watches a stream of server-sent events while its bytes go by: counts, usage, errors, the end.

It never changes a byte of an event. It takes out one kind of event whole, and only when told to: the usage chunk that
the gateway asked for and the client did not. What can no longer be that chunk is never held back. Invariant: the output
depends on the bytes alone, not on how they were split, and so do the counters as long as the events are JSON; and when
nothing is taken out or held back, the very object that came in goes out, so that the caller can forward its frames.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

MAX_EVENT_BYTES: Final = 65536
"""An unfinished event longer than this is passed on and not looked into."""

# A line end, then a line end; CRLF is one. What begins an event with a line end is an empty event of its own.
_EVENT_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)").search
_BLANK: Final = re.compile(rb"\r\n|\n|\r").match
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
# Seen in an unfinished event, these say that it is not the extra usage chunk: choices that are not empty, or an error.
_RELEASE: Final = re.compile(rb'"choices"\s{0,8}:\s{0,8}\[\s{0,8}[^\s\]]|"error"').search
_RELEASE_OVERLAP: Final = 40
# A delta with something in it. Escaped quotes keep these bytes from occurring inside a JSON string.
_TEXT: Final = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|arguments|thinking|refusal|partial_json)"\s?:\s?"[^"]'
).search


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Timings(msgspec.Struct, gc=False):
    prompt_n: int = -1
    predicted_n: int = -1


class _Nested(msgspec.Struct, gc=False):
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Event(msgspec.Struct, gc=False):
    choices: msgspec.Raw = msgspec.Raw(b"")
    usage: msgspec.Raw = msgspec.Raw(b"null")
    timings: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"null")
    type: msgspec.Raw = msgspec.Raw(b"")
    delta: msgspec.Raw = msgspec.Raw(b"")
    response: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")


_decode_event: Final = msgspec.json.Decoder(_Event).decode
_decode_usage: Final = msgspec.json.Decoder(_Usage).decode
_decode_timings: Final = msgspec.json.Decoder(_Timings).decode
_decode_nested: Final = msgspec.json.Decoder(_Nested).decode
_FINISH: Final = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"([^"\\]{1,64})"').search
_EMPTY_LIST: Final = re.compile(rb"\[\s*\]").fullmatch
_DELTA_TYPE: Final = re.compile(rb'"[^"\\]*\.delta"').fullmatch


class SseScanner:
    """One per stream. ``feed`` takes the payload as it comes and answers what of it to forward now.

    ``events`` counts events with data; ``tokens`` those that carry a piece of text, reasoning or arguments (engines send
    about one token in each, so it approximates the tokens produced when no usage comes). ``prompt_tokens`` and
    ``completion_tokens`` are from the last usage object, -1 before any. ``mid_event`` says that the client has, or is
    owed, the beginning of an event whose end has not come.
    """

    __slots__ = (
        "_drop_lf",
        "_first",
        "_lessons",
        "_noted",
        "_overlong",
        "_plain_bytes",
        "_prefix",
        "_prefix_bytes",
        "_scanned",
        "_sent",
        "_strip",
        "_suffix",
        "_suffix_bytes",
        "_tail",
        "completion_tokens",
        "done",
        "error",
        "events",
        "finish_reason",
        "first_token_seen",
        "mid_event",
        "prompt_tokens",
        "tokens",
    )  # fmt: skip

    def __init__(self, strip_usage: bool) -> None:
        self._strip = strip_usage
        self._tail = bytearray()  # the unfinished event
        self._sent = 0  # how many bytes of the tail have been forwarded
        self._scanned = 0  # how many bytes of the tail have been searched for its end
        self._overlong = False  # the unfinished event outgrew the tail: only its last bytes are there
        self._drop_lf = False  # an event that was taken out ended with CR; a LF belongs to it
        self._first = True  # nothing has come yet: a byte order mark may
        self._noted = 0  # how many events said more than a piece of text
        self._prefix = b"\x00"  # of the last plain event, up to its text; no event begins with NUL
        self._suffix = b""
        self._prefix_bytes = self._suffix_bytes = self._plain_bytes = 0
        self.events = 0
        self.tokens = 0
        self.done = False
        self.error = False
        self.finish_reason: bytes | None = None
        self.prompt_tokens = -1
        self.completion_tokens = -1
        self.first_token_seen = False
        self.mid_event = False
        self._lessons = 8  # events whose surroundings change each time are not worth learning from for ever

    def feed(self, payload: bytes) -> bytes:
        """What to forward of ``payload`` (and of what was held before): the same object when that is all of it."""
        # The events of one stream differ in one string. When a payload is the last plain event with another text (no
        # quote before the one that the known suffix begins with), all that can be said of it is known already.
        if (
            payload.startswith(self._prefix)
            and payload.find(b'"', self._prefix_bytes) == len(payload) - self._suffix_bytes
            and payload.endswith(self._suffix)
            and not self.mid_event
            and not self._drop_lf
        ):
            self.events += 1
            if self._plain_bytes < len(payload) <= MAX_EVENT_BYTES:
                self.tokens += 1
            return payload
        if not self.mid_event and not self._drop_lf and self._told(payload):
            return payload
        return self._feed(payload) if payload else payload

    def _told(self, payload: bytes) -> bool:
        """Whether ``payload`` is one whole event of which a few searches say all that there is to say."""
        size = len(payload)
        if payload.find(b"\n\n") != size - 2 or size > MAX_EVENT_BYTES or b"\r" in payload or b"error" in payload:
            return False
        if payload.startswith(b"data: {"):
            if payload.find(b"\n") != size - 2:
                return False
        elif not (payload.startswith(b"event: ") and payload.count(b"\n") == 3 and b"\ndata: {" in payload):
            return False
        if (b'"usage"' in payload and b'"usage":null' not in payload) or b'"timings"' in payload:
            return False
        reasons = payload.count(b'_reason"')
        if reasons and payload.count(b'_reason":null') != reasons:
            return False
        # The pattern costs ten times the search for its commonest case.
        at = payload.find(b'"content":"')
        if (at >= 0 and payload[at + 11] != 34) or _TEXT(payload):
            self.tokens += 1
            self.first_token_seen = True
            if self._lessons:
                self._lessons -= 1
                self._learn(payload)
        elif b'.delta"' in payload:
            return False
        self.events += 1
        self._first = False
        return True

    def _learn(self, event: bytes) -> None:
        """Remember what surrounds the text of ``event``, which says nothing else that is of interest."""
        match = _TEXT(event)
        if match is None:
            return
        start = match.end() - 1
        end = event.find(b'"', start)
        suffix = event[end:]
        if event[end - 1] != 92 and suffix[-2:] in (b"\n\n", b"\r\n") and not _TEXT(suffix):
            self._prefix = event[:start]
            self._suffix = suffix
            self._prefix_bytes = start
            self._suffix_bytes = len(suffix)
            self._plain_bytes = start + len(suffix)

    def _feed(self, payload: bytes) -> bytes:
        tail = self._tail
        held = len(tail) - self._sent
        out: list[bytes] = []
        cut = False
        if self._drop_lf:
            self._drop_lf = False
            if payload[0] == 10:
                if len(payload) == 1:
                    return b""
                tail += payload[1:]
                cut = True
            else:
                tail += payload
        else:
            tail += payload
        sent = self._sent
        pos = 0
        size = len(tail)
        scan = max(0, self._scanned - 3)
        while pos < size:
            # A read of several plain events: each is told as in feed, without being looked into.
            if tail.startswith(self._prefix, pos) and not self._overlong:
                quote = tail.find(b'"', pos + self._prefix_bytes)
                end = quote + self._suffix_bytes
                if quote >= 0 and end - pos <= MAX_EVENT_BYTES and tail.startswith(self._suffix, quote):
                    self.events += 1
                    if end - pos > self._plain_bytes:
                        self.tokens += 1
                    pos = scan = end
                    continue
            # Within an unfinished event the search goes on where it stopped; at an event's first byte a blank line ends it.
            match = _BLANK(tail, pos) if pos >= scan and not self._overlong else None
            match = match or _EVENT_END(tail, max(pos, scan))
            if match is None:
                break
            end = match.end()
            if self._overlong:
                self._overlong = False
                self.events += 1
            elif self._event(tail, pos, end) and self._strip and sent <= pos:
                if sent < pos:
                    out.append(bytes(tail[sent:pos]))
                sent = end
                cut = True
                self._drop_lf = end == size and tail[end - 1] == 13
            pos = scan = end
            self._first = False
        if pos < size and not self._overlong and size - pos > MAX_EVENT_BYTES:
            self._overlong = True
        keep = self._strip and pos < size and sent <= pos and self._may_be_usage(tail, pos)
        stop = pos if keep else size
        if stop > sent:
            if not cut and not held and not keep:
                whole = True
            else:
                whole = False
                out.append(bytes(tail[sent:stop]))
            sent = stop
        else:
            whole = False
        self._scanned = size - pos
        if pos:
            del tail[:pos]
            sent -= pos
        if self._overlong and len(tail) > 3:
            del tail[:-3]
            sent = self._scanned = len(tail)
        self._sent = sent
        self.mid_event = bool(tail)
        if whole:
            return payload
        return out[0] if len(out) == 1 else b"".join(out)

    def _may_be_usage(self, tail: bytearray, pos: int) -> bool:
        """Whether the unfinished event at ``pos`` can still turn out to be the usage chunk."""
        if self._overlong or tail[pos] == 58:
            return False
        start = pos if pos else max(0, self._scanned - _RELEASE_OVERLAP)
        return _RELEASE(tail, start) is None

    def _event(self, tail: bytearray, start: int, end: int) -> bool:
        """Take note of one whole event; says whether it is the extra usage chunk."""
        if end - start > MAX_EVENT_BYTES:
            self.events += 1
            return False
        event = bytes(tail[start:end])
        if self._first and event[:3] == b"\xef\xbb\xbf":
            event = event[3:]
        data: bytes | None = None
        for line in _LINE_END.split(event):
            if line[:5] == b"data:":
                value = line[6:] if line[5:6] == b" " else line[5:]
                data = value if data is None else data + b"\n" + value
            elif line == b"data":
                data = b"" if data is None else data + b"\n"
            elif line[:6] == b"event:" and line[6:].strip(b" ") == b"error":
                self.error = True
        if data is None:
            return False
        self.events += 1
        tokens, noted = self.tokens, self._noted
        usage = self._data(data)
        if self.tokens != tokens and self._noted == noted:
            self._learn(event)
        return usage

    def _data(self, data: bytes) -> bool:
        if data == b"[DONE]":
            self.done = True
            self._noted += 1
            return False
        try:
            event = _decode_event(data)
        except (msgspec.DecodeError, RecursionError):
            # Whoever reads it will fail; until then it counts as it does where it is told without being decoded.
            if data[:1] == b"{" and _TEXT(data):
                self.tokens += 1
                self.first_token_seen = True
            return False
        choices = bytes(event.choices)
        if bytes(event.error) != b"null":
            self.error = True
            self._noted += 1
        if _TEXT(data) or (_DELTA_TYPE(bytes(event.type)) and bytes(event.delta)[:1] == b'"' and len(event.delta) > 2):
            self.tokens += 1
            self.first_token_seen = True
        match = _FINISH(data)
        if match is not None:
            self.finish_reason = match[1]
            self._noted += 1
        usage = self._usage(bytes(event.usage))
        if len(event.timings) and self.completion_tokens < 0:
            self._timed(bytes(event.timings))
        for nested in (event.response, event.message):
            raw = bytes(nested)
            if raw[:1] == b"{":
                self._nested(raw)
        return usage and _EMPTY_LIST(choices) is not None

    def _timed(self, raw: bytes) -> None:
        """llama.cpp counts in ``timings`` when it is not asked for usage; a prompt part from its cache is not in it."""
        self._noted += 1
        try:
            timings = _decode_timings(raw)
        except (msgspec.DecodeError, RecursionError):
            return
        self.prompt_tokens, self.completion_tokens = timings.prompt_n, timings.predicted_n

    def _nested(self, raw: bytes) -> None:
        try:
            self._usage(bytes(_decode_nested(raw).usage))
        except (msgspec.DecodeError, RecursionError):
            return

    def _usage(self, raw: bytes) -> bool:
        if raw[:1] != b"{":
            return False
        self._noted += 1
        try:
            usage = _decode_usage(raw)
        except (msgspec.DecodeError, RecursionError):
            return True
        prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
        if prompt is not None and prompt >= 0:
            self.prompt_tokens = prompt
        completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
        if completion is not None and completion >= 0:
            self.completion_tokens = completion
        return True

    def flush(self) -> bytes:
        """What is still held, at the clean end of the message: an event whose blank line never came."""
        tail = self._tail
        if not tail:
            return b""
        usage = False
        if self._overlong:
            self.events += 1
        else:
            usage = self._event(tail, 0, len(tail))
        held = b"" if usage and self._strip and not self._sent else bytes(tail[self._sent :])
        tail.clear()
        self._sent = self._scanned = 0
        self._overlong = self.mid_event = False
        return held
