"""Compiled twin of fastgw/accel/chunks.py: the same machine over a pointer.

A payload is cut out once; one that is all of what came goes out as the object that came in.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

MAX_LINE_BYTES = 256
MAX_TRAILER_BYTES = 8192
MAX_TRAILERS = 64
MAX_SIZE = 2**63 - 1

cdef enum:
    LINE = 256
    TRAILERS = 8192
    MOST_TRAILERS = 64

cdef enum:
    SIZE
    DATA
    DATA_END
    TRAILER
    DONE

# What a byte may be part of.
cdef enum:
    TOKEN = 1
    TEXT = 2  # of a field's value or a chunk's extension
    HEX = 4

cdef unsigned char kinds[256]
cdef unsigned char digits[256]


cdef void _fill_tables() noexcept:
    cdef int c
    for c in range(256):
        kinds[c] = digits[c] = 0
        if c == 9 or 32 <= c <= 126 or c >= 128:
            kinds[c] |= TEXT
    for c in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        kinds[c] |= TOKEN
    for c in range(10):
        kinds[48 + c] |= HEX
        digits[48 + c] = c
    for c in range(6):
        kinds[65 + c] |= HEX
        kinds[97 + c] |= HEX
        digits[65 + c] = digits[97 + c] = 10 + c


_fill_tables()


class FramingError(ValueError):
    """The bytes are not a chunked body. ``payload`` is what was, of the bytes that were fed last."""

    payload = b""


cdef Py_ssize_t plain_chunk(const unsigned char *p, Py_ssize_t n, Py_ssize_t *start, Py_ssize_t *end) noexcept nogil:
    cdef unsigned long long size = 0
    cdef Py_ssize_t i = 0
    while i < n and i < 16 and kinds[p[i]] & HEX:
        size = size << 4 | digits[p[i]]
        i += 1
    # (Compared so that no sum overflows.)
    if i + 4 > n or p[i] != 13 or p[i + 1] != 10 or size == 0 or size > <unsigned long long>(n - i - 4):
        return 0
    start[0] = i + 2
    i += 2 + <Py_ssize_t>size
    if p[i] != 13 or p[i + 1] != 10:
        return 0
    end[0] = i + 2
    return <Py_ssize_t>size


cdef inline Py_ssize_t _line_end(const unsigned char *p, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t limit) noexcept nogil:
    """Where the next LF is, if it is within what a line may take; else -1."""
    cdef const unsigned char *at = <const unsigned char *>memchr(p + pos, 10, min(end - pos, limit + 2))
    return at - p if at != NULL else -1


cdef Py_ssize_t _size_digits(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n and kinds[p[i]] & HEX:
        i += 1
    return i


cdef bint _size_prefix(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    """Whether this can become a size line: digits, perhaps an extension, perhaps CR."""
    cdef Py_ssize_t i = _size_digits(p, n)
    if n == 0:
        return True
    if i == 0 or i > 16:
        return False
    if i < n and p[i] == 59:
        while i < n and (kinds[p[i]] & TEXT):
            i += 1
    return i == n or (i == n - 1 and p[i] == 13)


cdef bint _extensions(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    """Whether this, which is all text, is what the grammar has behind a size (RFC 9112 §7.1.1)."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t start
    while i < n:
        i += _blanks(p + i, n - i)
        if i == n or p[i] != 59:
            return False
        i += 1
        i += _blanks(p + i, n - i)
        start = i
        i += _token(p + i, n - i)
        if i == start:
            return False
        start = i + _blanks(p + i, n - i)
        if start == n or p[start] != 61:
            continue
        i = start + 1
        i += _blanks(p + i, n - i)
        if i < n and p[i] == 34:
            i += 1
            while i < n and p[i] != 34:
                i += 2 if p[i] == 92 else 1
            if i >= n:
                return False
            i += 1
        else:
            start = i
            i += _token(p + i, n - i)
            if i == start:
                return False
    return True


cdef Py_ssize_t _blanks(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n and (p[i] == 32 or p[i] == 9):
        i += 1
    return i


cdef Py_ssize_t _token(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n and kinds[p[i]] & TOKEN:
        i += 1
    return i


cdef bint _trailer_goes_on(const unsigned char *line, Py_ssize_t held, const unsigned char *p, Py_ssize_t n) noexcept nogil:
    """Whether the ``n`` bytes at ``p`` can follow ``line``, which can be the beginning of a trailer, or of the last CRLF."""
    cdef Py_ssize_t i = 0
    cdef bint named = held > 0 and memchr(line, 58, held) != NULL
    if held and line[held - 1] == 13:
        return False
    if not named:
        while i < n and kinds[p[i]] & TOKEN:
            i += 1
        if i == n:
            return True
        if held == 0 and i == 0:
            return n == 1 and p[0] == 13
        if p[i] != 58:
            return False
        i += 1
    while i < n and kinds[p[i]] & TEXT:
        i += 1
    return i == n or (i == n - 1 and p[i] == 13)


cdef Py_ssize_t _trailer_name(const unsigned char *p, Py_ssize_t n) noexcept nogil:
    """How long the name is of the field in this line (without its CRLF); 0 = it is none."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t name
    while i < n and kinds[p[i]] & TOKEN:
        i += 1
    name = i
    if i == n or p[i] != 58:
        return 0
    i += 1
    while i < n and kinds[p[i]] & TEXT:
        i += 1
    return name if i == n else 0


@cython.final
cdef class ChunkScanner:
    """Feed it bytes of a chunked body, get the payload among them."""

    def __cinit__(self):
        self._state = SIZE
        self._left = 0
        self._line = b""
        self._trailer_bytes = 0
        self.aligned = False
        self.done = False
        self.whole = True
        self.rest = b""
        self.trailers = []
        self.lines = b""

    cpdef bytes feed(self, bytes data):
        """The payload in ``data``; ``FramingError`` at the first byte that cannot be part of a chunked body."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t stop = 0
        cdef Py_ssize_t size
        if data is None:
            raise TypeError("expected bytes, not None")
        if self.whole:
            size = plain_chunk(<const unsigned char *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &start, &stop)
            if size and stop == PyBytes_GET_SIZE(data):
                self.aligned = True
                return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, size)
        if self.done:
            self.rest += data
            self.aligned = False
            return b""
        return self._feed(data)

    cdef bytes _feed(self, bytes data):
        cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(data)
        cdef const unsigned char *line
        cdef Py_ssize_t end = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t at, size, i
        cdef unsigned long long length
        cdef bint plain = self.whole
        cdef int state = self._state
        cdef str fault = None
        cdef bytes joined
        # The payload so far: one span of `data`, or, once there are two, a copy of them in `out`.
        cdef Py_ssize_t span_start = 0
        cdef Py_ssize_t span_size = 0
        cdef bytes out = None
        cdef Py_ssize_t out_size = 0
        cdef Py_ssize_t take
        while pos < end:
            if state == DATA:
                take = end - pos
                if <unsigned long long>take >= self._left:
                    take = <Py_ssize_t>self._left
                    self._left = 2
                    state = DATA_END
                else:
                    self._left -= take
                if span_size == 0 and out is None:
                    span_start = pos
                    span_size = take
                else:
                    if out is None:
                        out = PyBytes_FromStringAndSize(NULL, end - span_start)
                        memcpy(PyBytes_AS_STRING(out), p + span_start, span_size)
                        out_size = span_size
                    memcpy(PyBytes_AS_STRING(out) + out_size, p + pos, take)
                    out_size += take
                pos += take
            elif state == DATA_END:
                if p[pos] != (13 if self._left == 2 else 10):
                    fault = "chunk data without CRLF"
                    break
                pos += 1
                self._left -= 1
                if self._left == 0:
                    state = SIZE
            elif state == SIZE:
                at = _line_end(p, pos, end, LINE)
                if at < 0:
                    size = end - pos + PyBytes_GET_SIZE(self._line)
                    if size <= LINE + 1:
                        joined = self._line + data[pos:]
                        if _size_prefix(<const unsigned char *>PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined)):
                            self._line = joined
                            break
                    fault = "malformed chunk size"
                    break
                size = at + 1 - pos
                line = p + pos
                if PyBytes_GET_SIZE(self._line):
                    joined = self._line + data[pos : at + 1]
                    size = PyBytes_GET_SIZE(joined)
                    line = <const unsigned char *>PyBytes_AS_STRING(joined)
                    self._line = b""
                pos = at + 1
                if size < 2 or line[size - 2] != 13 or size > LINE + 2:
                    fault = "malformed chunk size line"
                    break
                size -= 2
                i = _size_digits(line, size)
                if i == 0 or i > 16 or (i < size and line[i] != 59):
                    fault = "malformed chunk size"
                    break
                length = 0
                for take in range(i):
                    length = length << 4 | digits[line[take]]
                if i < size:
                    plain = False
                    take = i
                    while i < size and kinds[line[i]] & TEXT:
                        i += 1
                    if i < size or (memchr(line + take, 34, size - take) != NULL and not _extensions(line + take, size - take)):
                        fault = "malformed chunk size"
                        break
                if length > 0x7FFFFFFFFFFFFFFFULL:
                    fault = "chunk size out of range"
                    break
                self._left = length
                state = DATA if length else TRAILER
            else:
                at = _line_end(p, pos, end, TRAILERS)
                if at < 0:
                    size = end - pos + PyBytes_GET_SIZE(self._line) + self._trailer_bytes
                    if size <= TRAILERS + 1 and _trailer_goes_on(
                        <const unsigned char *>PyBytes_AS_STRING(self._line), PyBytes_GET_SIZE(self._line), p + pos, end - pos
                    ):
                        self._line = self._line + data[pos:]
                        break
                    fault = "malformed trailer"
                    break
                size = at + 1 - pos
                line = p + pos
                if PyBytes_GET_SIZE(self._line):
                    joined = self._line + data[pos : at + 1]
                    size = PyBytes_GET_SIZE(joined)
                    line = <const unsigned char *>PyBytes_AS_STRING(joined)
                    self._line = b""
                pos = at + 1
                self._trailer_bytes += size
                if size == 2 and line[0] == 13:
                    state = DONE
                    self.done = True
                    self.rest = data[pos:]
                    break
                plain = False
                if size < 2 or line[size - 2] != 13 or self._trailer_bytes > TRAILERS:
                    fault = "malformed trailer line"
                    break
                if len(self.trailers) == MOST_TRAILERS:
                    fault = "too many trailer fields"
                    break
                i = _trailer_name(line, size - 2)
                if i == 0:
                    fault = "malformed trailer field"
                    break
                self.trailers.append((<const char *>line)[:i].lower())
                self.lines = self.lines + (<const char *>line)[:size]
        if out is not None:
            out = PyBytes_FromStringAndSize(PyBytes_AS_STRING(out), out_size) if out_size < end - span_start else out
        elif span_size == end:
            out = data
        else:
            out = PyBytes_FromStringAndSize(<const char *>p + span_start, span_size)
        if fault is not None:
            error = FramingError(fault)
            error.payload = out
            raise error
        self._state = state
        self.whole = state == SIZE and not PyBytes_GET_SIZE(self._line)
        self.aligned = plain and (self.whole or self.done)
        return out
