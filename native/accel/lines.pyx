# cython: boundscheck=False, wraparound=False, cdivision=True, nonecheck=False
"""Compiled twin of fastgw/accel/lines.py: each line is laid out once, in the object that goes out."""

cdef extern from "Python.h":
    ctypedef struct PyByteArrayObject:
        Py_ssize_t ob_alloc

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef extern from *:
    """
    static const char FGW_PAIRS[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960"
        "616263646566676869707172737475767778798081828384858687888990919293949596979899";
    static const unsigned long long FGW_TENS[] = {
        0, 10ULL, 100ULL, 1000ULL, 10000ULL, 100000ULL, 1000000ULL, 10000000ULL, 100000000ULL, 1000000000ULL, 10000000000ULL,
        100000000000ULL, 1000000000000ULL, 10000000000000ULL, 100000000000000ULL, 1000000000000000ULL, 10000000000000000ULL,
        100000000000000000ULL, 1000000000000000000ULL, 10000000000000000000ULL,
    };
    static inline char *fgw_put(char *to, const char *from, Py_ssize_t size) {
        memcpy(to, from, (size_t)size);
        return to + size;
    }
    static inline char *fgw_decimal(char *to, unsigned long long value) {
        /* Two digits at a time, where they belong: half the divisions, and nothing is copied. How many there are is known by
           the bits (1233 / 4096 is log10(2)), and one comparison. */
        char *end;
        unsigned pair;
        unsigned size = (unsigned)(64 - __builtin_clzll(value | 1)) * 1233 >> 12;
        end = to + size + (value >= FGW_TENS[size]);
        to = end;
        while (value >= 100) {
            pair = (unsigned)(value % 100) * 2;
            value /= 100;
            *--to = FGW_PAIRS[pair + 1];
            *--to = FGW_PAIRS[pair];
        }
        if (value >= 10) {
            *--to = FGW_PAIRS[value * 2 + 1];
            *--to = FGW_PAIRS[value * 2];
        } else {
            *--to = (char)('0' + value);
        }
        return end;
    }
    static inline char *fgw_milli(char *to, unsigned value) {
        to[0] = (char)('0' + value / 100);
        to[1] = (char)('0' + value / 10 % 10);
        to[2] = (char)('0' + value % 10);
        return to + 3;
    }
    #define FGW_PUT_LITERAL(to, text) fgw_put(to, text, sizeof(text) - 1)
    #define FGW_ID "\\r\\ncontent-length: "
    #define FGW_LENGTH "content-length: "
    #define FGW_REQUEST_ID "\\r\\nx-request-id: "
    #define FGW_END "\\r\\n\\r\\n"
    #define FGW_TIME "{\\"timestamp\\":\\""
    #define FGW_WHO "Z\\",\\"level\\":\\"info\\",\\"message\\":\\"request\\",\\"request_id\\":\\""
    #define FGW_IN ",\\"bytes_in\\":"
    #define FGW_OUT ",\\"bytes_out\\":"
    #define FGW_TOOK ",\\"duration_ms\\":"
    #define FGW_TTFT ",\\"ttft_ms\\":"
    #define FGW_PROMPT ",\\"prompt_tokens\\":"
    #define FGW_COMPLETION ",\\"completion_tokens\\":"
    #define FGW_CACHED ",\\"cached_tokens\\":"
    #define FGW_REASONING ",\\"reasoning_tokens\\":"
    #define FGW_TRACE_ID ",\\"trace_id\\":\\""
    #define FGW_PARENT "traceparent: 00-"
    #define FGW_STATE "tracestate: "
    #define FGW_LIMIT "x-ratelimit-limit-"
    #define FGW_REMAINING "\\r\\nx-ratelimit-remaining-"
    #define FGW_RESET "\\r\\nx-ratelimit-reset-"
    #define FGW_WARNING "x-budget-warning: "
    #define FGW_LEFT "x-budget-remaining: "
    """
    char *fgw_put(char *to, const char *origin, Py_ssize_t size) noexcept nogil
    char *fgw_decimal(char *to, unsigned long long value) noexcept nogil
    char *fgw_milli(char *to, unsigned int value) noexcept nogil
    char *FGW_PUT_LITERAL(char *to, const char *text) noexcept nogil
    const char *FGW_ID
    const char *FGW_LENGTH
    const char *FGW_REQUEST_ID
    const char *FGW_END
    const char *FGW_TIME
    const char *FGW_WHO
    const char *FGW_IN
    const char *FGW_OUT
    const char *FGW_TOOK
    const char *FGW_TTFT
    const char *FGW_PROMPT
    const char *FGW_COMPLETION
    const char *FGW_CACHED
    const char *FGW_REASONING
    const char *FGW_TRACE_ID
    const char *FGW_PARENT
    const char *FGW_STATE
    const char *FGW_LIMIT
    const char *FGW_REMAINING
    const char *FGW_RESET
    const char *FGW_WARNING
    const char *FGW_LEFT

cdef const char *HEX = b"0123456789abcdef"

cdef enum:
    NUMBER = 20  # digits of the greatest 64-bit number
    FIXED = 400  # more than all fixed text and numbers of an access record


cdef inline char *_signed(char *to, long long value) noexcept nogil:
    if value < 0:
        to[0] = 45
        return fgw_decimal(to + 1, 0 - <unsigned long long>value)
    return fgw_decimal(to, <unsigned long long>value)


cdef inline int _given(bytes one, bytes two, bytes three, bytes four) except -1:
    """A typed argument may still be None, whose size would be read from memory that is not its own."""
    if one is None or two is None or three is None or four is None:
        raise TypeError("bytes are needed, not None")
    return 0


cpdef bytes serial_id(bytes prefix, long long number):
    """``prefix`` and ``number`` in eight hexadecimal digits (more when it needs them)."""
    _given(prefix, prefix, prefix, prefix)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(prefix)
    cdef unsigned long long value = <unsigned long long>number
    cdef bytes made
    cdef char *to
    cdef int at
    if number < 0 or value >> 32:
        return b"%b%08x" % (prefix, number)
    made = PyBytes_FromStringAndSize(NULL, size + 8)
    to = fgw_put(PyBytes_AS_STRING(made), PyBytes_AS_STRING(prefix), size)
    for at in range(7, -1, -1):
        to[at] = HEX[value & 15]
        value >>= 4
    return made


cpdef bytes chunk(bytes payload):
    """``payload`` as one chunk (RFC 9112 §7.1); nothing for nothing, since an empty chunk would end the body."""
    _given(payload, payload, payload, payload)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef size_t left = <size_t>size
    cdef int digits = 0
    cdef int at
    cdef bytes made
    cdef char *to
    if not size:
        return payload
    while left:
        digits += 1
        left >>= 4
    made = PyBytes_FromStringAndSize(NULL, digits + 2 + size + 2)
    to = PyBytes_AS_STRING(made)
    left = <size_t>size
    for at in range(digits - 1, -1, -1):
        to[at] = HEX[left & 15]
        left >>= 4
    to += digits
    to[0] = 13
    to[1] = 10
    to = fgw_put(to + 2, PyBytes_AS_STRING(payload), size)
    to[0] = 13
    to[1] = 10
    return made


cpdef bytes request_start(bytes line, bytes block, bytes trace, bytes fields, bytes request_id, long long length):
    """A request's head; see the Python twin."""
    _given(line, block, fields, request_id)
    _given(trace, trace, trace, trace)
    cdef char number[24]
    cdef Py_ssize_t digits = _signed(number, length) - number
    cdef Py_ssize_t first = PyBytes_GET_SIZE(line)
    cdef Py_ssize_t second = PyBytes_GET_SIZE(block)
    cdef Py_ssize_t third = PyBytes_GET_SIZE(fields)
    cdef Py_ssize_t ids = PyBytes_GET_SIZE(request_id)
    cdef Py_ssize_t traced = PyBytes_GET_SIZE(trace)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, first + second + traced + third + ids + 18 + digits + 4)
    cdef char *to = fgw_put(PyBytes_AS_STRING(made), PyBytes_AS_STRING(line), first)
    to = fgw_put(to, PyBytes_AS_STRING(block), second)
    if traced:
        to = fgw_put(to, PyBytes_AS_STRING(trace), traced)
    to = fgw_put(to, PyBytes_AS_STRING(fields), third)
    to = fgw_put(to, PyBytes_AS_STRING(request_id), ids)
    to = FGW_PUT_LITERAL(to, FGW_ID)
    to = fgw_put(to, number, digits)
    FGW_PUT_LITERAL(to, FGW_END)
    return made


cpdef bytes plain_answer(bytes status_line, bytes forward, bytes request_id, bytes extra, bytes body):
    """The usual answer: the engine's status and fields, the body's length, our id, ``extra`` whole lines, and the body."""
    _given(status_line, forward, request_id, body)
    _given(extra, extra, extra, extra)
    cdef char number[24]
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t digits = fgw_decimal(number, <unsigned long long>size) - number
    cdef Py_ssize_t first = PyBytes_GET_SIZE(status_line)
    cdef Py_ssize_t second = PyBytes_GET_SIZE(forward)
    cdef Py_ssize_t third = PyBytes_GET_SIZE(request_id)
    cdef Py_ssize_t fourth = PyBytes_GET_SIZE(extra)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, first + second + third + 16 + digits + 16 + 2 + fourth + 2 + size)
    cdef char *to = fgw_put(PyBytes_AS_STRING(made), PyBytes_AS_STRING(status_line), first)
    to = fgw_put(to, PyBytes_AS_STRING(forward), second)
    to = FGW_PUT_LITERAL(to, FGW_LENGTH)
    to = fgw_put(to, number, digits)
    to = FGW_PUT_LITERAL(to, FGW_REQUEST_ID)
    to = fgw_put(to, PyBytes_AS_STRING(request_id), third)
    to[0] = 13
    to[1] = 10
    to = fgw_put(to + 2, PyBytes_AS_STRING(extra), fourth)
    to[0] = 13
    to[1] = 10
    fgw_put(to + 2, PyBytes_AS_STRING(body), size)
    return made


cdef char *_duration(char *to, long long us) noexcept nogil:
    cdef long long seconds
    if us <= 0:
        to[0] = 48
        to[1] = 115
        return to + 2
    if us <= 999000:
        to = fgw_decimal(to, <unsigned long long>((us + 999) // 1000))
        to[0] = 109
        to[1] = 115
        return to + 2
    seconds = us // 1000000 + (us % 1000000 != 0)
    if seconds >= 3600:
        to = fgw_decimal(to, <unsigned long long>(seconds // 3600))
        to[0] = 104
        to += 1
    if seconds >= 60:
        to = fgw_decimal(to, <unsigned long long>(seconds % 3600 // 60))
        to[0] = 109
        to += 1
    to = fgw_decimal(to, <unsigned long long>(seconds % 60))
    to[0] = 115
    return to + 1


cpdef bytes duration(long long us):
    """Microseconds as OpenAI writes a wait: whole seconds from one second on, else milliseconds; rounded up."""
    cdef char text[64]
    return PyBytes_FromStringAndSize(text, _duration(text, us) - text)


cpdef bytes limit_lines(bytes before, bytes unit, long long limit, long long left, long long reset_us):
    """The lines ``before``, and what is left of a limit, in the fields that OpenAI's clients read; see the Python twin."""
    _given(before, unit, unit, unit)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(unit)
    cdef Py_ssize_t first = PyBytes_GET_SIZE(before)
    cdef char text[384]
    cdef char *to
    cdef bytes made
    if size > 32:
        raise ValueError("no such unit")
    to = FGW_PUT_LITERAL(text, FGW_LIMIT)
    to = fgw_put(to, PyBytes_AS_STRING(unit), size)
    to[0] = 58
    to[1] = 32
    to = _signed(to + 2, limit)
    to = FGW_PUT_LITERAL(to, FGW_REMAINING)
    to = fgw_put(to, PyBytes_AS_STRING(unit), size)
    to[0] = 58
    to[1] = 32
    to = _signed(to + 2, left)
    to = FGW_PUT_LITERAL(to, FGW_RESET)
    to = fgw_put(to, PyBytes_AS_STRING(unit), size)
    to[0] = 58
    to[1] = 32
    to = _duration(to + 2, reset_us)
    to[0] = 13
    to[1] = 10
    made = PyBytes_FromStringAndSize(NULL, first + (to + 2 - text))
    fgw_put(fgw_put(PyBytes_AS_STRING(made), PyBytes_AS_STRING(before), first), text, to + 2 - text)
    return made


cpdef bytes budget_lines(bytes before, bytes fixed, long long percent, long long left):
    """The lines ``before``, and those of a budget; see the Python twin."""
    _given(before, fixed, before, fixed)
    if left < 0:
        raise ValueError("less than nothing is left")
    cdef Py_ssize_t first = PyBytes_GET_SIZE(before)
    cdef Py_ssize_t second = PyBytes_GET_SIZE(fixed)
    cdef char warning[48]
    cdef char rest[64]
    cdef char *end = warning
    cdef char *to = fgw_decimal(FGW_PUT_LITERAL(rest, FGW_LEFT), <unsigned long long>(left // 1000000))
    cdef unsigned int part = <unsigned int>(left % 1000000)
    cdef bytes made
    to[0] = 46
    to = fgw_milli(fgw_milli(to + 1, part // 1000), part % 1000)
    to[0] = 13
    to[1] = 10
    to += 2
    if percent:
        end = _signed(FGW_PUT_LITERAL(warning, FGW_WARNING), percent)
        end[0] = 13
        end[1] = 10
        end += 2
    made = PyBytes_FromStringAndSize(NULL, first + (end - warning) + second + (to - rest))
    end = fgw_put(fgw_put(PyBytes_AS_STRING(made), PyBytes_AS_STRING(before), first), warning, end - warning)
    fgw_put(fgw_put(end, PyBytes_AS_STRING(fixed), second), rest, to - rest)
    return made


cpdef bytes trace_lines(bytes trace_id, bytes span_id, bint sampled, bytes state):
    """The lines that tell an engine which span is its parent; see the Python twin."""
    _given(trace_id, span_id, state, state)
    cdef Py_ssize_t ids = PyBytes_GET_SIZE(trace_id)
    cdef Py_ssize_t spans = PyBytes_GET_SIZE(span_id)
    cdef Py_ssize_t states = PyBytes_GET_SIZE(state)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 16 + ids + 1 + spans + 5 + (12 + states + 2 if states else 0))
    cdef char *to = FGW_PUT_LITERAL(PyBytes_AS_STRING(made), FGW_PARENT)
    to = fgw_put(to, PyBytes_AS_STRING(trace_id), ids)
    to[0] = 45
    to = fgw_put(to + 1, PyBytes_AS_STRING(span_id), spans)
    to[0] = 45
    to[1] = 48
    to[2] = 49 if sampled else 48
    to[3] = 13
    to[4] = 10
    if states:
        to = fgw_put(FGW_PUT_LITERAL(to + 5, FGW_STATE), PyBytes_AS_STRING(state), states)
        to[0] = 13
        to[1] = 10
    return made


cpdef append(bytearray to, bytes line):
    """Put ``line`` at the end of what ``to`` holds."""
    if to is None or line is None:
        raise TypeError("bytes are needed, not None")
    cdef Py_ssize_t size = PyByteArray_GET_SIZE(to)
    cdef Py_ssize_t more = PyBytes_GET_SIZE(line)
    if size + more >= (<PyByteArrayObject *>to).ob_alloc:
        # (By half as much again as there is: by itself it grows by an eighth, and what it holds is copied nine times.)
        PyByteArray_Resize(to, 2 * (size + more))
    PyByteArray_Resize(to, size + more)
    fgw_put(PyByteArray_AS_STRING(to) + size, PyBytes_AS_STRING(line), more)


cpdef long long microseconds(double seconds) except? -1:
    """Rounded as the access records have it: half up."""
    return <long long>(seconds * 1e6 + 0.5)


cdef inline char *_time(char *to, double seconds) noexcept nogil:
    cdef long long micro = <long long>(seconds * 1e6 + 0.5)
    if micro < 0:
        micro = 0
    to = fgw_decimal(to, <unsigned long long>(micro // 1000))
    to[0] = 46
    return fgw_milli(to + 1, <unsigned int>(micro % 1000))


cpdef bytes access_line(
    bytes stamp, int milli, bytes request_id, bytes common, long long bytes_in, long long bytes_out,
    double duration_s, double ttft_s, long long prompt_tokens, long long completion_tokens, long long cached_tokens,
    long long reasoning_tokens, bytes trace_id, bytes end,
):
    """One access record in JSON, and its ``end``; see the Python twin."""
    _given(stamp, request_id, common, end)
    _given(trace_id, end, end, end)
    cdef char room[FIXED]
    cdef Py_ssize_t ids = PyBytes_GET_SIZE(request_id)
    cdef Py_ssize_t stamps = PyBytes_GET_SIZE(stamp)
    cdef Py_ssize_t members = PyBytes_GET_SIZE(common)
    cdef Py_ssize_t trace = PyBytes_GET_SIZE(trace_id)
    cdef Py_ssize_t last = PyBytes_GET_SIZE(end)
    cdef char *to = room
    cdef char *start
    cdef Py_ssize_t numbers
    cdef bytes made
    to = FGW_PUT_LITERAL(to, FGW_IN)
    to = _signed(to, bytes_in)
    to = FGW_PUT_LITERAL(to, FGW_OUT)
    to = _signed(to, bytes_out)
    to = FGW_PUT_LITERAL(to, FGW_TOOK)
    to = _time(to, duration_s)
    if ttft_s >= 0:
        to = FGW_PUT_LITERAL(to, FGW_TTFT)
        to = _time(to, ttft_s)
    if prompt_tokens >= 0:
        to = FGW_PUT_LITERAL(to, FGW_PROMPT)
        to = fgw_decimal(to, <unsigned long long>prompt_tokens)
    if completion_tokens >= 0:
        to = FGW_PUT_LITERAL(to, FGW_COMPLETION)
        to = fgw_decimal(to, <unsigned long long>completion_tokens)
    if cached_tokens >= 0:
        to = FGW_PUT_LITERAL(to, FGW_CACHED)
        to = fgw_decimal(to, <unsigned long long>cached_tokens)
    if reasoning_tokens >= 0:
        to = FGW_PUT_LITERAL(to, FGW_REASONING)
        to = fgw_decimal(to, <unsigned long long>reasoning_tokens)
    numbers = to - room
    made = PyBytes_FromStringAndSize(NULL, 14 + stamps + 4 + 52 + ids + 2 + members + numbers + (14 + trace if trace else 0) + last)
    start = PyBytes_AS_STRING(made)
    to = FGW_PUT_LITERAL(start, FGW_TIME)
    to = fgw_put(to, PyBytes_AS_STRING(stamp), stamps)
    to[0] = 46
    to = fgw_milli(to + 1, <unsigned int>milli)
    to = FGW_PUT_LITERAL(to, FGW_WHO)
    to = fgw_put(to, PyBytes_AS_STRING(request_id), ids)
    to[0] = 34
    to[1] = 44
    to = fgw_put(to + 2, PyBytes_AS_STRING(common), members)
    to = fgw_put(to, room, numbers)
    if trace:
        to = fgw_put(FGW_PUT_LITERAL(to, FGW_TRACE_ID), PyBytes_AS_STRING(trace_id), trace)
        to[0] = 34
        to += 1
    to = fgw_put(to, PyBytes_AS_STRING(end), last)
    if to - start != PyBytes_GET_SIZE(made):
        raise SystemError("access_line miscounted")
    return made
