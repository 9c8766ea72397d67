"""Compiled twin of fastgw/accel/sse.py: events are found, told and counted over a pointer.

Only an event that says more than a piece of text (usage, timings, an error, how it ended) becomes Python objects, and is
read by the same decoders as in the Python twin.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove

from fastgw.accel.chunks cimport ChunkScanner, plain_chunk

import re
from typing import Annotated, Optional

import msgspec

MAX_EVENT_BYTES = 65536
"""An unfinished event longer than this is passed on and not looked into."""

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t haystack_bytes, const void *needle, size_t needle_bytes)

ctypedef const unsigned char *Bytes

cdef enum:
    EVENT_MAX = 65536
    RELEASE_OVERLAP = 40
    SMALL_BUFFER = 4096  # an empty buffer up to this size is kept for the next unfinished event

cdef object _text = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|arguments|thinking|refusal|partial_json)"\s?:\s?"[^"\n]'
).search
cdef object _finish = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"([^"\\]{1,64})"').search
cdef object _empty_list = re.compile(rb"\[\s*\]").fullmatch
cdef object _delta_type = re.compile(rb'"[^"\\]*\.delta"').fullmatch

_Count = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Raw = msgspec.Raw


def _struct(str name, list fields):
    return msgspec.json.Decoder(msgspec.defstruct(name, fields, gc=False)).decode


cdef object _decode_usage = _struct("_Usage", [
    (name, Optional[_Count], None) for name in ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
])
cdef object _decode_timings = _struct("_Timings", [(name, _Count, -1) for name in ("prompt_n", "predicted_n")])
cdef object _decode_nested = _struct("_Nested", [("usage", _Raw, _Raw(b"null"))])
cdef object _decode_event = _struct("_Event", [
    (name, _Raw, _Raw(b"null" if name in ("usage", "error") else b""))
    for name in ("choices", "usage", "timings", "error", "type", "delta", "response", "message")
])
cdef object _DecodeError = msgspec.DecodeError

# Bytes at which the look at a plain event stops.
cdef unsigned char stops[256]
stops[10] = stops[13] = stops[34] = stops[92] = 1


cdef inline bint _blank(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline bint _at(Bytes p, Py_ssize_t i, Py_ssize_t n, const char *what, Py_ssize_t size) noexcept nogil:
    return n - i >= size and memcmp(p + i, what, size) == 0


cdef bint _holds_text(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Whether a string with something in it follows the name that ended before ``i``."""
    if i < n and _blank(p[i]):
        i += 1
    if i >= n or p[i] != 58:
        return False
    i += 1
    if i < n and _blank(p[i]):
        i += 1
    return i + 1 < n and p[i] == 34 and p[i + 1] != 34 and p[i + 1] != 10


cdef Py_ssize_t _told(Bytes p, Py_ssize_t n, bint *text) noexcept nogil:
    """The size of the event at ``p``, when it is a whole one with a line of data, and one look along it says all that
    there is to say: a piece of text or nothing. 0 = it must be looked into, or does not end here.

    A name is looked for behind every quote, be it the quote of a name or not: what has none of them among all of those
    has none among its members. Names may be written with escapes; then it is not told.
    """
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t rest
    cdef bint delta = False
    cdef unsigned char c
    cdef Bytes line
    text[0] = False
    if _at(p, 0, n, "event: ", 7):
        line = <Bytes>memchr(p, 10, n)
        if line == NULL:
            return 0
        i = line - p
        if memchr(p, 34, i) != NULL or memchr(p, 13, i) != NULL or memmem(p, i, b"error", 5) != NULL:
            return 0
        i += 1
    if not _at(p, i, n, "data: {", 7):
        return 0
    i += 6
    while True:
        i += 1
        while i < n and not stops[p[i]]:
            i += 1
        if i + 1 >= n:
            return 0
        c = p[i]
        if c == 34:
            if p[i - 1] == 97 and memcmp(p + i - 6, b".delta", 6) == 0:
                delta = True
            c = p[i + 1]
            rest = i + 1
            if c == 99:
                if _at(p, rest, n, "content\"", 8) and _holds_text(p, rest + 8, n):
                    text[0] = True
            elif c == 116:
                if _at(p, rest, n, "timings\"", 8):
                    return 0
                if _at(p, rest, n, "text\"", 5):
                    if _holds_text(p, rest + 5, n):
                        text[0] = True
                elif _at(p, rest, n, "thinking\"", 9) and _holds_text(p, rest + 9, n):
                    text[0] = True
            elif c == 117:
                if _at(p, rest, n, "usage\"", 6) and not _at(p, rest + 6, n, ":null", 5):
                    return 0
            elif c == 102:
                if _at(p, rest, n, "finish_reason\"", 14) and not _at(p, rest + 14, n, ":null", 5):
                    return 0
            elif c == 115:
                if _at(p, rest, n, "stop_reason\"", 12) and not _at(p, rest + 12, n, ":null", 5):
                    return 0
            elif c == 101:
                if _at(p, rest, n, "error\"", 6):
                    return 0
            elif c == 114:
                if _at(p, rest, n, "reasoning_content\"", 18):
                    if _holds_text(p, rest + 18, n):
                        text[0] = True
                elif _at(p, rest, n, "reasoning\"", 10):
                    if _holds_text(p, rest + 10, n):
                        text[0] = True
                elif _at(p, rest, n, "refusal\"", 8) and _holds_text(p, rest + 8, n):
                    text[0] = True
            elif c == 97:
                if _at(p, rest, n, "arguments\"", 10) and _holds_text(p, rest + 10, n):
                    text[0] = True
            elif c == 112:
                if _at(p, rest, n, "partial_json\"", 13) and _holds_text(p, rest + 13, n):
                    text[0] = True
        elif c == 92:
            if p[i + 1] == 117:
                return 0
        elif c == 10:
            if p[i + 1] != 10 or (delta and not text[0]) or i + 2 > EVENT_MAX:
                return 0
            return i + 2
        else:
            return 0


cdef Py_ssize_t _end_of_event(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the first line end that a line end follows (CRLF is one); -1 = not there yet."""
    cdef Py_ssize_t after
    while i < n:
        if p[i] == 10 or p[i] == 13:
            after = i + 1
            if p[i] == 13 and after < n and p[after] == 10:
                after += 1
            if after < n:
                if p[after] == 10:
                    return after + 1
                if p[after] == 13:
                    return after + 2 if after + 1 < n and p[after + 1] == 10 else after + 1
        i += 1
    return -1


cdef Py_ssize_t _skip_blanks(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t stop = min(n, i + 8)
    while i < stop and _blank(p[i]):
        i += 1
    return i


cdef bint _may_be_usage(Bytes p, Py_ssize_t n) noexcept nogil:
    """Whether neither of these was seen: choices that are not empty, or an error."""
    cdef Bytes at = p
    cdef Py_ssize_t i
    while True:
        at = <Bytes>memmem(at, p + n - at, b'"choices"', 9)
        if at == NULL:
            break
        at += 9
        i = _skip_blanks(p, at - p, n)
        if i < n and p[i] == 58:
            i = _skip_blanks(p, i + 1, n)
            if i < n and p[i] == 91:
                i = _skip_blanks(p, i + 1, n)
                if i < n and p[i] != 93 and not _blank(p[i]):
                    return False
    at = p
    while True:
        at = <Bytes>memmem(at, p + n - at, b'"error"', 7)
        if at == NULL:
            return True
        at += 7
        i = _skip_blanks(p, at - p, n)
        if i < n and p[i] == 58:
            i = _skip_blanks(p, i + 1, n)
            if i < n and p[i] != 110 and not _blank(p[i]):
                return False


cdef tuple _read(Bytes p, Py_ssize_t n):
    """The data of an event's lines (None = it has none), and whether its name is ``error``."""
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t end, size
    cdef Bytes line
    cdef bytes data = None
    cdef bytes value
    cdef bint error = False
    while start <= n:
        end = start
        while end < n and p[end] != 10 and p[end] != 13:
            end += 1
        size = end - start
        line = p + start
        start = end + (2 if end + 1 < n and p[end] == 13 and p[end + 1] == 10 else 1)
        value = None
        if _at(line, 0, size, "data:", 5):
            end = 6 if size > 5 and line[5] == 32 else 5
            value = PyBytes_FromStringAndSize(<const char *>line + end, size - end)
        elif size == 4 and memcmp(line, b"data", 4) == 0:
            value = b""
        elif _at(line, 0, size, "event:", 6):
            end = 6
            while end < size and line[end] == 32:
                end += 1
            while size > end and line[size - 1] == 32:
                size -= 1
            if size - end == 5 and memcmp(line + end, b"error", 5) == 0:
                error = True
        if value is not None:
            data = value if data is None else data + b"\n" + value
    return data, error


@cython.final
cdef class SseScanner:
    """One per stream. ``feed`` takes the payload as it comes and answers what of it to forward now."""

    def __cinit__(self, bint strip_usage):
        self._strip = strip_usage
        self._first = True
        self._lessons = 8
        self.prompt_tokens = self.completion_tokens = -1

    def __dealloc__(self):
        free(self._buffer)

    @property
    def _tail(self):
        return PyBytes_FromStringAndSize(<const char *>self._buffer, self._size)

    cpdef bytes feed(self, bytes payload):
        """What to forward of ``payload`` (and of what was held before): the same object when that is all of it."""
        cdef Run run
        cdef Py_ssize_t n
        if payload is None:
            raise TypeError("expected bytes, not None")
        n = PyBytes_GET_SIZE(payload)
        if n == 0:
            return payload
        if not self.mid_event and not self._drop_lf:
            run.events = run.tokens = 0
            run.stranger = -1
            if self._plain(<Bytes>PyBytes_AS_STRING(payload), n, &run) == n:
                self._count_and_learn(<Bytes>PyBytes_AS_STRING(payload), &run)
                return payload
        return self._feed(payload)

    cdef Py_ssize_t _plain(self, Bytes p, Py_ssize_t n, Run *run) noexcept nogil:
        """How many bytes from ``p`` are whole plain events, and what they come to. Changes nothing."""
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t size, i
        cdef bint text = False
        cdef Bytes end
        while pos < n:
            size = self._prefix_bytes
            if size and n - pos >= size + self._suffix_bytes and memcmp(p + pos, self._prefix, size) == 0:
                i = pos + size
                while i < n and p[i] != 34 and p[i] != 10 and p[i] != 13:
                    i += 1
                if (
                    n - i >= self._suffix_bytes
                    and memcmp(p + i, self._suffix, self._suffix_bytes) == 0
                    and i - pos + self._suffix_bytes < EVENT_MAX
                ):
                    run.events += 1
                    if i > pos + size:
                        run.tokens += 1
                    pos = i + self._suffix_bytes
                    continue
            if p[pos] == 58:
                # A comment, such as engines keep a connection alive with.
                end = <Bytes>memchr(p + pos, 10, n - pos)
                if end == NULL or memchr(p + pos, 13, end - p - pos) != NULL:
                    break
                i = end - p + 1
                if i == n or p[i] != 10 or i + 1 - pos > EVENT_MAX:
                    break
                pos = i + 1
                continue
            size = _told(p + pos, n - pos, &text)
            if size == 0:
                break
            run.events += 1
            if text:
                run.tokens += 1
                run.stranger = pos
                run.stranger_bytes = size
            pos += size
        return pos

    cdef void _count(self, const Run *run) noexcept nogil:
        self.events += run.events
        if run.tokens:
            self.tokens += run.tokens
            self.first_token_seen = True
        self._first = False

    cdef int _count_and_learn(self, Bytes p, const Run *run) except -1:
        self._count(run)
        if run.stranger >= 0 and self._lessons:
            # Events whose surroundings change each time are not worth learning from for ever.
            self._lessons -= 1
            self._learn((<const char *>p)[run.stranger : run.stranger + run.stranger_bytes], False)
        return 0

    cdef int _learn(self, bytes event, bint is_json) except -1:
        """Remember what surrounds the text of ``event``; for which, and why, see the Python twin."""
        cdef Py_ssize_t start, end, line
        match = _text(event)
        if match is None:
            return 0
        start = match.end() - 1
        end = event.find(b'"', start)
        line = max(event.rfind(b"\n", 0, start), event.rfind(b"\r", 0, start)) + 1
        if (
            end < 0
            or event[end - 1] == 92
            or event[line : line + 5] != b"data:"
            or event[-2:] not in (b"\n\n", b"\r\n")
            or b'.delta"' in event
            or b"\n" in event[start:end]
            or b"\r" in event[start:end]
            or _text(event, end) is not None
        ):
            return 0
        if not is_json:
            try:
                _decode_event(_read(<Bytes>PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event))[0])
            except (_DecodeError, RecursionError):
                return 0
        self._lesson = event
        self._prefix = <Bytes>PyBytes_AS_STRING(event)
        self._suffix = self._prefix + end
        self._prefix_bytes = start
        self._suffix_bytes = PyBytes_GET_SIZE(event) - end
        return 1

    cdef int _append(self, Bytes p, Py_ssize_t n) except -1:
        cdef Py_ssize_t capacity = self._capacity
        cdef void *grown
        if self._size + n > capacity:
            capacity = max(self._size + n, 2 * capacity, 512)
            grown = realloc(self._buffer, capacity)
            if grown == NULL:
                raise MemoryError
            self._buffer = <unsigned char *>grown
            self._capacity = capacity
        memcpy(self._buffer + self._size, p, n)
        self._size += n
        return 0

    cdef int _keep_tail(self, Bytes p, Py_ssize_t n) except -1:
        """The unfinished event is now the ``n`` bytes at ``p``, which may stand in the buffer."""
        if n == 0:
            self._size = 0
            if self._capacity > SMALL_BUFFER:
                free(self._buffer)
                self._buffer = NULL
                self._capacity = 0
        elif self._size:
            memmove(self._buffer, p, n)
            self._size = n
            if n <= SMALL_BUFFER and self._capacity > 4 * SMALL_BUFFER:
                p = <Bytes>realloc(self._buffer, SMALL_BUFFER)
                if p != NULL:
                    self._buffer = <unsigned char *>p
                    self._capacity = SMALL_BUFFER
        else:
            self._append(p, n)
        return 0

    cdef bytes _feed(self, bytes payload):
        cdef Bytes p = <Bytes>PyBytes_AS_STRING(payload)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t held = self._size - self._sent
        cdef Py_ssize_t sent = self._sent
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t scan = max(self._scanned - 3, 0)
        cdef Py_ssize_t end, stop, start, done
        cdef bint cut = False
        cdef bint keep = False
        cdef bint whole = False
        cdef bytes out = None
        cdef bytes piece
        cdef Run run
        if self._drop_lf:
            self._drop_lf = False
            if p[0] == 10:
                if size == 1:
                    return b""
                p += 1
                size -= 1
                cut = True
        if self._size:
            self._append(p, size)
            p = self._buffer
            size = self._size
        while pos < size:
            if not self._overlong and pos >= scan:
                run.events = run.tokens = 0
                run.stranger = -1
                done = self._plain(p + pos, size - pos, &run)
                if done:
                    self._count_and_learn(p + pos, &run)
                    pos = scan = pos + done
                    continue
            if pos >= scan and not self._overlong and (p[pos] == 10 or p[pos] == 13):
                end = pos + (2 if p[pos] == 13 and pos + 1 < size and p[pos + 1] == 10 else 1)
            else:
                end = _end_of_event(p, max(pos, scan), size)
                if end < 0:
                    break
            if self._overlong:
                self._overlong = False
                self.events += 1
            elif (
                self._event(p + pos, end - pos)
                and self._strip
                and sent <= pos
                and p[pos] != 58
                and _may_be_usage(p + pos, end - pos)
            ):
                if sent < pos:
                    piece = PyBytes_FromStringAndSize(<const char *>p + sent, pos - sent)
                    out = piece if out is None else out + piece
                sent = end
                cut = True
                self._drop_lf = end == size and p[end - 1] == 13
            pos = scan = end
            self._first = False
        if pos < size and not self._overlong and size - pos > EVENT_MAX:
            self._overlong = True
        if self._strip and pos < size and sent <= pos and not self._overlong and p[pos] != 58:
            start = pos if pos else max(0, self._scanned - RELEASE_OVERLAP)
            keep = _may_be_usage(p + start, size - start)
        stop = pos if keep else size
        if stop > sent:
            if not cut and not held and not keep:
                whole = True
            else:
                piece = PyBytes_FromStringAndSize(<const char *>p + sent, stop - sent)
                out = piece if out is None else out + piece
            sent = stop
        self._scanned = size - pos
        if self._overlong and size - pos > 3:
            self._keep_tail(p + size - 3, 3)
            self._sent = self._scanned = 3
        else:
            self._keep_tail(p + pos, size - pos)
            self._sent = sent - pos
        self.mid_event = self._size > 0
        if whole:
            return payload
        return out if out is not None else b""

    cdef bint _event(self, Bytes p, Py_ssize_t n) except -1:
        """Take note of one whole event; says whether it is the extra usage chunk."""
        cdef Py_ssize_t tokens, noted
        cdef bytes data
        cdef bint error, usage
        cdef Run run
        if n > EVENT_MAX and n - (p[n - 2] == 13 and p[n - 1] == 10) > EVENT_MAX:
            # (CR ends it; the LF behind it may come later, and must make no difference.)
            self.events += 1
            return False
        run.events = run.tokens = 0
        run.stranger = -1
        if self._plain(p, n, &run) == n:
            # One that came in pieces.
            self._count_and_learn(p, &run)
            return False
        if self._first and n >= 3 and p[0] == 0xEF and p[1] == 0xBB and p[2] == 0xBF:
            p += 3
            n -= 3
        data, error = _read(p, n)
        if error:
            self.error = True
        if data is None:
            return False
        self.events += 1
        tokens = self.tokens
        noted = self._noted
        usage = self._data(data)
        if self.tokens != tokens and self._noted == noted:
            self._learn((<const char *>p)[:n], True)
        return usage

    cdef bint _data(self, bytes data) except -1:
        cdef bint usage
        if data == b"[DONE]":
            self.done = True
            self._noted += 1
            return False
        try:
            event = _decode_event(data)
        except (_DecodeError, RecursionError):
            # Whoever reads it will fail; until then it counts as it does where it is told without being decoded.
            self._noted += 1
            if data[:1] == b"{" and _text(data) is not None:
                self.tokens += 1
                self.first_token_seen = True
            return False
        if bytes(event.error) != b"null":
            self.error = True
            self._noted += 1
        if _text(data) is not None or (
            _delta_type(bytes(event.type)) is not None and bytes(event.delta)[:1] == b'"' and len(event.delta) > 2
        ):
            self.tokens += 1
            self.first_token_seen = True
        match = _finish(data)
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
        return usage and _empty_list(bytes(event.choices)) is not None

    cdef int _timed(self, bytes raw) except -1:
        """llama.cpp counts in ``timings`` when it is not asked for usage; a prompt part from its cache is not in it."""
        self._noted += 1
        try:
            timings = _decode_timings(raw)
        except (_DecodeError, RecursionError):
            return 0
        self.prompt_tokens, self.completion_tokens = timings.prompt_n, timings.predicted_n
        return 0

    cdef int _nested(self, bytes raw) except -1:
        try:
            self._usage(bytes(_decode_nested(raw).usage))
        except (_DecodeError, RecursionError):
            pass
        return 0

    cdef bint _usage(self, bytes raw) except -1:
        if raw[:1] != b"{":
            return False
        self._noted += 1
        try:
            usage = _decode_usage(raw)
        except (_DecodeError, RecursionError):
            return True
        prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
        if prompt is not None and prompt >= 0:
            self.prompt_tokens = prompt
        completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
        if completion is not None and completion >= 0:
            self.completion_tokens = completion
        return True

    cpdef bytes flush(self):
        """What is still held, at the clean end of the message: an event whose blank line never came."""
        cdef bint usage = False
        cdef bytes held = b""
        if self._size == 0:
            return b""
        if self._overlong:
            self.events += 1
        else:
            usage = self._event(self._buffer, self._size)
        if not (usage and self._strip and not self._sent):
            held = PyBytes_FromStringAndSize(<const char *>self._buffer + self._sent, self._size - self._sent)
        self._keep_tail(NULL, 0)
        self._sent = self._scanned = 0
        self._overlong = self.mid_event = False
        return held


cdef bint passes_at(ChunkScanner chunks, SseScanner sse, const char *data, Py_ssize_t n) noexcept:
    """``passes`` over a pointer: no object is made, and no byte copied."""
    cdef Bytes p = <Bytes>data
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t end = 0
    cdef Py_ssize_t size
    cdef Run run
    if n == 0 or not chunks.whole or (sse is not None and (sse.mid_event or sse._drop_lf)):
        return False
    run.events = run.tokens = 0
    run.stranger = -1
    while n:
        size = plain_chunk(p, n, &start, &end)
        if size == 0 or (sse is not None and sse._plain(p + start, size, &run) != size):
            return False
        p += end
        n -= end
    if sse is not None:
        if run.stranger >= 0 and sse._lessons:
            return False  # to be learnt from
        sse._count(&run)
    chunks.aligned = True
    return True


cpdef bint passes(ChunkScanner chunks, SseScanner sse, bytes data) except -1:
    """Whether ``data`` can go on as it stands, frames and all, by what is known without cutting a payload out of it."""
    if chunks is None or data is None:
        raise TypeError("expected a ChunkScanner and bytes")
    return passes_at(chunks, sse, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
