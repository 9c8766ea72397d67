"""Watches a stream of server-sent events while its bytes go by: counts, usage, errors, the end.

It takes out one kind of event, and only when told to: the usage chunk that the gateway asked for and the client did not. What
that says beside usage (vLLM's fingerprint, llama.cpp's timings) it would have said in the event before: so an event that says
why its answer ends is held until the next one is there, and is given it. No other event is changed, none that is whole is held,
and comments pass by in any case. Invariant: the output and the counters depend on the bytes alone, not on how they were split:
each short way below answers only for bytes of which it knows that the long way would say the same. And when nothing is taken
out or held back, the very object that came in goes out, so that the caller can forward its frames; :func:`passes` says so
before any payload is cut out.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.chunks import ChunkScanner
from fastgw.accel.event_notes import EXTRA, PLAIN
from fastgw.accel.events import SHORT_BYTES, TEXT, LongEvent, is_json, read, tokens_in, weight
from fastgw.accel.held_events import HeldEvents
from fastgw.accel.usage_chunk import MAX_USAGE_BYTES, is_extra, may_be_extra, spliced

MAX_EVENT_BYTES: Final = 65536
"""An unfinished event longer than this is passed on, unless it may be the extra chunk; only what it says of usage and errors is
read, in passing."""

# From anywhere in an event on: what is left of its line, more lines, and a line end behind a line end; CRLF is one. (Lines are
# taken as runs: to search for two line ends costs ten times as much.)
_EVENT_END: Final = re.compile(
    rb"[^\r\n]*+(?>\r\n|\n|\r)(?>[^\r\n]++(?>\r\n|\n|\r))*+(?>\r\n|\n|\r)"
).match
# Blank lines (they end events of nothing) and comments.
_PASSING: Final = re.compile(rb"(?>(?::[^\r\n]*+)?(?>\r\n|\n|\r))++").match
_LINE: Final = re.compile(rb"[^\r\n]*+[\r\n]*+").match
# Whole events without data or a name, of which many may come.
_DULL: Final = re.compile(rb"(?>(?>(?!data[:\r\n]|event:|error:)[^\r\n]++(?>\r\n|\n|\r))++(?>\r\n|\n|\r)++)++").match


def line_at(data: bytes, at: int) -> bytes:
    """The line of ``data`` that begins at ``at``, and all line ends behind it: an event ends with them or goes on."""
    return _LINE(data, at).group()  # type: ignore[union-attr]


class SseScanner(HeldEvents):
    """One per stream. ``feed`` takes the payload as it comes and answers what of it to forward now.

    ``events`` counts events with data; ``tokens`` the pieces of text, reasoning or arguments in them (engines send about one
    token in each, and in one that is longer a token for four bytes, so it approximates the tokens produced when no usage
    comes). ``prompt_tokens``,
    ``completion_tokens``, ``cached_tokens`` and ``reasoning_tokens`` are the engine's last word, -1 before any; ``said_at``
    is how many ``tokens`` had come by then: where more have come since, it was an early one. ``of_choices``: it came with text
    or its end, so that of several answers it may be the word on one. ``error``: an event has told of one, and ``failure`` is
    its data (none, where it outgrew what is held). ``done``: the last word has come, ``[DONE]`` (1), an event of that kind (2)
    or both (3); of an event that outgrew what is held nobody knows, and ``long_at`` is the number of ``events`` with the last
    such. ``last`` is an event that is held until the next one. ``mid_event`` says that the client has, or is owed, that or the
    beginning of an event whose end has not come.
    """

    __slots__ = (
        "_framed_bytes",
        "_has_cr",
        "_lessons",
        "_long",
        "_plain_bytes",
        "_prefix",
        "_prefix_bytes",
        "_suffix",
        "_suffix_bytes",
        "_suffix_framed",
    )  # fmt: skip

    def __init__(self, strip_usage: bool) -> None:
        super().__init__(strip_usage)
        self._has_cr = False  # there is a CR in the tail, perhaps
        # The last plain event, up to its text and behind it. None yet: nothing is as long as this, and no quote is a NUL.
        self._prefix = self._suffix = self._suffix_framed = b"\x00"
        self._prefix_bytes = self._suffix_bytes = self._framed_bytes = 1
        self._plain_bytes = MAX_EVENT_BYTES
        self._long: LongEvent | None = None  # the reader of an event that outgrew the tail
        self._lessons = 8  # events whose surroundings change each time are not worth learning from for ever

    def feed(self, payload: bytes) -> bytes:
        """What to forward of ``payload`` (and of what was held before): the same object when that is all of it."""
        # (A number is looked for in bytes at a seventh of what a byte string costs.)
        # The events of one stream differ in one string. When a payload is the last plain event with another text (no
        # quote, no line end before what followed that text), all that can be said of it is known already.
        if (
            payload.startswith(self._prefix)
            and payload.endswith(self._suffix)
            and self._plain_bytes <= len(payload) < MAX_EVENT_BYTES
            and not self.mid_event
            and not self._drop_lf
        ):
            text = payload[self._prefix_bytes : -self._suffix_bytes]
            if 34 not in text and 10 not in text and 13 not in text and payload[-self._suffix_bytes - 1] != 92:
                self.events += 1
                if text:
                    self.tokens += 1 if len(text) <= SHORT_BYTES else weight(len(text))
                return payload
        if not self.mid_event and not self._drop_lf and self._told(payload):
            return payload
        return self._feed(payload) if payload else payload

    def _told(self, payload: bytes) -> bool:
        """Whether ``payload`` is one whole event of which a few searches say all that there is to say."""
        size = len(payload)
        if payload.find(b"\n\n") != size - 2 or size > MAX_EVENT_BYTES or 13 in payload or payload.find(b"error") >= 0:
            return False
        if payload.startswith(b"data: {"):
            if payload.find(b"\n") != size - 2:
                return False
        elif (
            not payload.startswith(b"event: ")
            or payload.count(b"\n") != 3
            or payload.find(b"\ndata: {") < 0
            or 34 in payload[: payload.find(b"\n")]
        ):
            return False
        # The name of a member may be written with escapes; whoever wants to know decodes it. And so is of what kind it is.
        if payload.find(b'"timings"') >= 0 or payload.find(b"\\u") >= 0 or payload.find(b'"type"') >= 0:
            return False
        uses = payload.count(b'"usage"')
        if uses and payload.count(b'"usage":null') != uses:
            return False
        reasons = payload.count(b'_reason"')
        if reasons and payload.count(b'_reason":null') != reasons:
            return False
        tokens = tokens_in(payload)
        if tokens:
            self.tokens += tokens
            self.first_token_seen = True
            if self._lessons:
                self._lessons -= 1
                self._learn(payload)
        self.events += 1
        self._first = False
        return True

    def _learn(self, event: bytes) -> None:
        """Remember what surrounds the text of ``event``, which says nothing else that is of interest.

        Another text in its place changes one thing only: how many tokens it counts. For that the event must be JSON, the
        text must stand in a line of data and end with a quote that is no escaped one, and no second text may follow. (A
        text that ends with a backslash swallows its quote, and is looked into.)
        """
        match = TEXT(event)
        if match is None:
            return
        start = match.end()
        end = event.find(b'"', start)
        line = max(event.rfind(b"\n", 0, start), event.rfind(b"\r", 0, start)) + 1
        suffix = event[end:]
        if (
            end < 0
            or event[end - 1] == 92
            or event[line : line + 5] != b"data:"
            or suffix[-2:] not in (b"\n\n", b"\r\n")
            or b'.delta"' in event
            or b"\n" in event[start:end]
            or b"\r" in event[start:end]
            or TEXT(suffix)
            or not is_json(read(event)[0])
        ):
            return
        self._prefix = event[:start]
        self._suffix = suffix
        self._suffix_framed = suffix + b"\r\n"
        self._prefix_bytes = start
        self._suffix_bytes = len(suffix)
        self._framed_bytes = len(suffix) + 2
        self._plain_bytes = start + len(suffix)

    def _feed(self, payload: bytes) -> bytes:
        tail = self._tail
        held = len(tail) - self._sent
        out: list[bytes] = []
        cut = False
        new = payload
        if self._drop_lf:
            self._drop_lf = False
            if payload[0] == 10:
                if self.last:
                    self.last += b"\n"
                if len(payload) == 1:
                    return b""
                new = payload[1:]
                cut = True
        # Nothing is copied that need not be held; and of what is, no byte is looked at again with each read.
        text: bytes | bytearray = new
        has_cr = 13 in new
        known = len(tail)
        if tail:
            tail += new
            text = tail
            has_cr = has_cr or self._has_cr
        size = len(text)
        pos, sent = self._events(text, known, has_cr, out)
        cut = cut or sent != self._sent or bool(out)
        if pos == size and text is new and not cut:
            self.mid_event = self._amid_comment or bool(self.last)
            return payload  # whole events, as nearly every read is
        if self._overlong or size - pos > MAX_EVENT_BYTES:
            self._goes_on(text, pos, known)
        most = MAX_USAGE_BYTES if self._overlong and self._candidate else MAX_EVENT_BYTES
        keep = self._strip and pos < size <= pos + most and sent <= pos
        if self.last and pos < size and not keep:
            sent = self._sifted(text, pos, b"", PLAIN, sent, out)
            cut = True
        stop = pos if keep else size
        whole = stop > sent and not (cut or held or keep)
        if stop > sent:
            if not whole:
                out.append(bytes(text[sent:stop]))
            sent = stop
        self._scanned = size - pos
        if text is new:
            if pos < size:
                tail += new[pos:]
        elif pos:
            del tail[:pos]
        self._has_cr = has_cr and (not pos or 13 in tail)
        sent -= pos
        if self._overlong and not keep and len(tail) > 3:
            del tail[:-3]
            sent = self._scanned = len(tail)
        self._sent = sent
        self.mid_event = bool(tail or self.last) or self._amid_comment
        if whole:
            return payload
        return out[0] if len(out) == 1 else b"".join(out)

    def _events(self, text: bytes | bytearray, known: int, has_cr: bool, out: list[bytes]) -> tuple[int, int]:
        """Take note of the whole events in ``text``, of which ``known`` bytes were there before. Where the next one begins, and
        how much of ``text`` is in ``out``, or forwarded, or taken out."""
        sent = self._sent
        pos = 0
        size = len(text)
        scan = max(0, self._scanned - 3)
        if self._amid_comment:
            pos = self._comment_end(text, 0)
        while pos < size:
            # A read of several plain events: each is told as in feed, without being looked into.
            if text.startswith(self._prefix, pos) and not (self._overlong or self.last):
                end = self._plain_end(text, pos)
                if end > pos:
                    pos = scan = end
                    continue
            # Within an unfinished event the search goes on where it stopped. Before that, what is of no event or a dull one is
            # passed over, as much as there is of it. (For what is more than a comment, an event that is held does not wait.)
            if pos >= scan and not self._overlong:
                first = text[pos]
                match = None
                if first == 58 or first == 10 or first == 13:
                    match = _PASSING(text, pos)
                    if match is None:
                        pos = scan = self._comment_end(text, pos)
                        continue
                elif first != 100 and first != 101 and not (self._first or self.last):
                    match = _DULL(text, pos, min(size, pos + MAX_EVENT_BYTES))
                if match is not None:
                    pos = scan = match.end()
                    self._first = False
                    continue
            if not has_cr:
                end = text.find(b"\n\n", max(pos, scan)) + 2
            else:
                match = _EVENT_END(text, max(pos, scan))
                end = match.end() if match is not None else 1
            if end == 1:
                break
            event = bytes(text[pos:end])
            what = PLAIN
            line_bytes = event.find(b"\r\n\r\n" if has_cr else b"\n\n")
            if (
                line_bytes >= 4
                and event.startswith(b"data")
                and event.find(b"\n") == line_bytes + has_cr
                and (event[4] == 58 or line_bytes == 4)
                and not (self._first or self._overlong or end - pos > MAX_EVENT_BYTES)
                and not (has_cr and 13 in event[:line_bytes])
            ):
                # One line of data, which nearly every event is.
                self.events += 1
                what = self._says(event, event[6 if event[5] == 32 else 5 : line_bytes])
            elif self._overlong:
                self._long_ends(event[known:])
                if self._strip and sent <= pos and is_extra(event, MAX_EVENT_BYTES):
                    what = EXTRA
            else:
                what = self._event(event)
            if self._strip and (what or self.last):
                sent = self._sifted(text, pos, event, what, sent, out)
            pos = scan = end
            self._first = False
        return pos, sent

    def _plain_end(self, text: bytes | bytearray, pos: int) -> int:
        """Where a run of events ends that are the last plain one but for their texts; they are counted."""
        prefix, suffix = self._prefix, self._suffix
        while True:
            begin = pos + self._prefix_bytes
            quote = text.find(b'"', begin)
            end = quote + self._suffix_bytes
            if (
                quote < 0
                or end - pos >= MAX_EVENT_BYTES
                or not text.startswith(suffix, quote)
                or text.find(b"\n", begin, quote) >= 0
                or text.find(b"\r", begin, quote) >= 0
                or text[quote - 1] == 92
            ):
                return pos
            self.events += 1
            if end - pos > self._plain_bytes:
                self.tokens += weight(end - pos - self._plain_bytes)
            pos = end
            if not text.startswith(prefix, pos):
                return pos

    def _goes_on(self, text: bytes | bytearray, pos: int, known: int) -> None:
        """The event at ``pos`` has no end yet: one that outgrows the tail is read as it passes from there on."""
        if self._overlong:
            assert self._long is not None
            self._long.feed(bytes(text[known:]))
        elif len(text) - pos > MAX_EVENT_BYTES:
            self._overlong = True
            self._candidate = self._strip and may_be_extra(bytes(text[pos : pos + MAX_EVENT_BYTES]))
            self._long = LongEvent()
            self._long.feed(self._unmarked(bytes(text[pos:])))

    def _event(self, event: bytes) -> int:
        """Take note of one whole event; what it is."""
        if len(event) > MAX_EVENT_BYTES and len(event) - event.endswith(b"\r\n") > MAX_EVENT_BYTES:
            # (CR ends it; the LF behind it may come later, and must make no difference.)
            self._long = LongEvent()
            self._long_ends(self._unmarked(event))
            return EXTRA if self._strip and is_extra(event, MAX_EVENT_BYTES) else PLAIN
        event = self._unmarked(event)
        data, error = read(event)
        if error:
            self._fails(data or b"")
        if data is None:
            return PLAIN
        self.events += 1
        what = self._says(event, data)
        return PLAIN if error else what

    def _unmarked(self, event: bytes) -> bytes:
        """An event without the byte order mark that a stream may begin with."""
        return event[3:] if self._first and event[:3] == b"\xef\xbb\xbf" else event

    def _long_ends(self, rest: bytes) -> None:
        """The event that outgrew the tail ends with ``rest``."""
        long = self._long
        assert long is not None
        self._long = None
        self._overlong = False
        self.events += 1
        self.long_at = self.events
        long.feed(rest)
        scanner = long.scanner
        if long.named():
            self._fails(scanner.failure())
        if scanner.whole:
            if scanner.error:
                self._fails(scanner.failure())
            # (Its choices are not looked for: there may be some.)
            self._take((*scanner.figures(), scanner.measured), True)
            self._heard(scanner.seconds)

    def _says(self, event: bytes, data: bytes) -> int:
        """Take note of what an event's data says, and learn from it; what it is."""
        tokens, noted = self.tokens, self._noted
        what = self._data(data)
        if self.tokens != tokens and self._noted == noted and self._lessons:
            self._lessons -= 1
            self._learn(event)
        return what

    def flush(self) -> bytes:
        """What is held at the clean end of the message, an event whose blank line never came too: ``mid_event`` then."""
        event = bytes(self._tail)
        what = PLAIN
        self.mid_event = event != b"" or self._amid_comment
        if self._overlong:
            self._long_ends(b"")
            if self._strip and not self._sent and is_extra(event, MAX_EVENT_BYTES):
                what = EXTRA
        elif event:
            what = self._event(event)
        if what == EXTRA and self._strip and not self._sent:
            held = spliced(self.last, event) if self.last else b""
            self.last = b""
            self.mid_event = False
        else:
            held = self._let_go() + event[self._sent :]
        self._tail.clear()
        self._sent = self._scanned = 0
        self._amid_comment = False
        return held


# How a read of so many bytes begins when it is one whole chunk; engines write the same few sizes again and again.
_size_lines: dict[int, tuple[bytes, ...]] = {}
_SIZE_LINES: Final = 4096


def _size_line(total: int) -> tuple[bytes, ...]:
    if len(_size_lines) >= _SIZE_LINES:
        _size_lines.clear()
    lines: tuple[bytes, ...] = ()
    for digits in range(1, 17):
        size = total - digits - 4
        if size > 0 and len(b"%x" % size) == digits:
            lines = (b"%x\r\n" % size, b"%X\r\n" % size)
    _size_lines[total] = lines
    return lines


def passes(chunks: ChunkScanner, sse: SseScanner | None, data: bytes) -> int:
    """How many bytes of payload are in ``data``, when it can go on as it stands, frames and all, by what is known without
    cutting one out of it; 0 = it cannot.

    Can it, it is whole plain chunks, none of them the last, after whole chunks; every payload is whole events of which
    there is nothing to hold back, take out or look into (any payload, without ``sse``). All of it has been counted, as
    by ``sse.feed(chunks.feed(data))``. 0: nothing has changed, and that is the way to take. It may be so where
    that way would come to the same end: the compiled twin looks into most events here, this one into none.
    """
    total = len(data)
    lines = _size_lines.get(total)
    if lines is None:
        lines = _size_line(total)
    if not chunks.whole or not data.startswith(lines):
        return 0
    start = len(lines[0])
    if sse is None:
        if data[-2:] != b"\r\n":
            return 0
    elif sse.mid_event or sse._drop_lf:
        return 0
    else:
        # (As in `feed`, and there it is said why.)
        if (
            data.startswith(sse._prefix, start)
            and data.endswith(sse._suffix_framed)
            and sse._plain_bytes + start + 2 <= total < MAX_EVENT_BYTES
        ):
            text = data[start + sse._prefix_bytes : -sse._framed_bytes]
            if 34 not in text and 10 not in text and 13 not in text and data[-sse._framed_bytes - 1] != 92:
                sse.events += 1
                if text:
                    sse.tokens += 1 if len(text) <= SHORT_BYTES else weight(len(text))
                chunks.aligned = True
                return total - start - 2
        if data[-2:] != b"\r\n" or not sse._told(data[start:-2]):
            return 0
    chunks.aligned = True
    return total - start - 2
