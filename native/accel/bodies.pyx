# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The compiled twin of fastgw/accel/bodies.py: one strict pass over a body, without recursion (RFC 8259, RFC 3629).

Owns: the pass. It takes fewer bodies than the Python twin (no escapes in the keys of an object that matters or in a
model's name, no member that matters twice), and never one that the complete path would refuse or see otherwise.
Invariant: a bytes object ends with a zero that is not part of it, as the grammar wants it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memset

from fastgw.accel.json cimport (
    ESCAPED, STACK_WORDS, WIDE, Bytes, after_colon, after_literal, after_space, after_value, is_digit, plain_end, string_end,
)

import msgspec

from fastgw.accel import members

SEARCH_BYTES = 8192
CANDIDATES = 8

cdef enum:
    _SEARCH_BYTES = 8192
    _CANDIDATES = 8
    _MAX_MODEL_CHARS = 256
    _MAX_COUNT_DIGITS = 18  # of a number in a request
    _MAX_USAGE_DIGITS = 12
    _MODELS = 16

# The members that matter, as bits.
cdef enum Member:
    NONE = 0
    MODEL = 1
    STREAM = 2
    STREAM_OPTIONS = 4
    MAX_TOKENS = 8
    MAX_COMPLETION_TOKENS = 16
    MAX_OUTPUT_TOKENS = 32
    N = 64
    MESSAGES = 128
    PROMPT = 256
    INPUT = 512

cdef struct Facts:
    Py_ssize_t model_at
    Py_ssize_t model_size
    int model_kinds
    bint stream
    bint include_usage
    bint has_stream_options
    long long max_tokens
    long long max_completion_tokens
    long long max_output_tokens
    long long n
    int given  # of those four, the ones that are no null
    Py_ssize_t prompt_bytes

if members.MAX_MODEL_CHARS != _MAX_MODEL_CHARS:
    raise ImportError("fastgw.accel.bodies was compiled with another members.MAX_MODEL_CHARS: build it again")

cdef long long _MOST = members.MOST
cdef object _ABSENT = members.ABSENT
cdef object _UNSET = msgspec.UNSET


cdef extern from "Python.h":
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void* PyUnicode_DATA(object text)
    str PyUnicode_DecodeASCII(const char* data, Py_ssize_t size, const char* errors)
    str PyUnicode_DecodeUTF8(const char* data, Py_ssize_t size, const char* errors)


# ---- the facts ---------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class BodyFacts:
    """What a body says of itself. ``model`` is "" where none is given; ``stream`` null is as good as False."""

    def __repr__(self):
        return (
            f"BodyFacts(model={self.model!r}, stream={bool(self.stream)!r}, include_usage={bool(self.include_usage)!r}, "
            f"has_stream_options={bool(self.has_stream_options)!r}, token_limit={self.token_limit!r}, "
            f"choices={self.choices!r}, prompt_bytes={self.prompt_bytes!r})"
        )


cdef long long _limited(object number):
    return max(min(number, _MOST), -1)


def facts_of(found) -> BodyFacts:
    """The facts of a body that the complete path has decoded, and found good."""
    cdef BodyFacts facts = BodyFacts.__new__(BodyFacts)
    options = found.stream_options
    facts.model = "" if found.model is _ABSENT else found.model
    facts.stream = found.stream is True
    facts.has_stream_options = options is not _UNSET
    facts.include_usage = isinstance(options, members.Options) and options.include_usage is True
    facts.token_limit = -1
    for limit in (found.max_tokens, found.max_completion_tokens, found.max_output_tokens):
        if limit is not None:
            facts.token_limit = max(facts.token_limit, _limited(limit))
    facts.choices = _limited(found.n) if found.n is not None and found.n > 0 else 1
    facts.prompt_bytes = len(found.messages) + len(found.prompt) + len(found.input)
    return facts


# ---- the members that matter -------------------------------------------------------------------------------------------

cdef inline int _member(Bytes p, Py_ssize_t size) noexcept nogil:
    """Which of them has this name."""
    if size == 5:
        if memcmp(p, b"model", 5) == 0:
            return MODEL
        if memcmp(p, b"input", 5) == 0:
            return INPUT
    elif size == 6:
        if memcmp(p, b"stream", 6) == 0:
            return STREAM
        if memcmp(p, b"prompt", 6) == 0:
            return PROMPT
    elif size == 8:
        if memcmp(p, b"messages", 8) == 0:
            return MESSAGES
    elif size == 10:
        if memcmp(p, b"max_tokens", 10) == 0:
            return MAX_TOKENS
    elif size == 1:
        if p[0] == 110:
            return N
    elif size == 14:
        if memcmp(p, b"stream_options", 14) == 0:
            return STREAM_OPTIONS
    elif size == 21:
        if memcmp(p, b"max_completion_tokens", 21) == 0:
            return MAX_COMPLETION_TOKENS
    elif size == 17:
        if memcmp(p, b"max_output_tokens", 17) == 0:
            return MAX_OUTPUT_TOKENS
    return NONE


cdef Py_ssize_t _flag(Bytes p, Py_ssize_t i, Py_ssize_t n, bint* value) noexcept nogil:
    """Behind true, false or null (which is as good as false); -1 = it is none of them."""
    value[0] = p[i] == 116
    if p[i] == 116:
        return after_literal(p, i, n, b"true", 4)
    if p[i] == 102:
        return after_literal(p, i, n, b"false", 5)
    return after_literal(p, i, n, b"null", 4)


cdef Py_ssize_t _count(Bytes p, Py_ssize_t i, Py_ssize_t n, int member, long long* value, int* given) noexcept nogil:
    """Behind a null or the first 18 digits of an integer; -1 = something else begins there. What follows is not looked at:
    where a number goes on, no comma stands."""
    cdef bint negative = p[i] == 45
    cdef long long number = 0
    cdef Py_ssize_t start
    if p[i] == 110:
        return after_literal(p, i, n, b"null", 4)
    if negative:
        i += 1
    start = i
    while is_digit(p[i]) and i - start < _MAX_COUNT_DIGITS:
        number = number * 10 + (p[i] - 48)
        i += 1
    if i == start or (p[start] == 48 and i - start > 1):
        return -1
    value[0] = -number if negative else number
    given[0] |= member
    return i


cdef Py_ssize_t _options(Bytes p, Py_ssize_t i, Py_ssize_t n, int room, Facts* facts) noexcept nogil:
    """Behind ``stream_options``."""
    cdef Py_ssize_t start
    cdef int kinds
    cdef bint seen = False
    facts.has_stream_options = True
    if p[i] != 123:
        return after_literal(p, i, n, b"null", 4)
    if room < 1:
        return -1
    i = after_space(p, i + 1, n)
    if p[i] == 125:
        return i + 1
    while True:
        kinds = 0
        if p[i] != 34:
            return -1
        start = i + 1
        i = string_end(p, start, n, &kinds)
        if i < 0 or kinds & ESCAPED:
            return -1
        if i - start == 13 and memcmp(p + start, b"include_usage", 13) == 0:
            i = after_colon(p, i + 1, n)
            if i < 0 or seen:
                return -1
            seen = True
            i = _flag(p, i, n, &facts.include_usage)
        else:
            i = after_colon(p, i + 1, n)
            if i >= 0:
                i = after_value(p, i, n, room - 1, NULL, NULL)
        if i < 0:
            return -1
        i = after_space(p, i, n)
        if p[i] == 125:
            return i + 1
        if p[i] != 44:
            return -1
        i = after_space(p, i + 1, n)


cdef Py_ssize_t _take(Bytes p, Py_ssize_t i, Py_ssize_t n, int room, int member, Facts* facts) noexcept nogil:
    """Behind the value of ``member``; -1 = it is not plainly good."""
    cdef Py_ssize_t end
    if member == MODEL:
        if p[i] != 34:
            return -1
        end = string_end(p, i + 1, n, &facts.model_kinds)
        if end < 0 or facts.model_kinds & ESCAPED:
            return -1
        facts.model_at = i + 1
        facts.model_size = end - i - 1
        return end + 1
    if member == MESSAGES or member == PROMPT or member == INPUT:
        end = after_value(p, i, n, room, NULL, NULL)
        facts.prompt_bytes += end - i
        return end
    if member == STREAM:
        return _flag(p, i, n, &facts.stream)
    if member == STREAM_OPTIONS:
        return _options(p, i, n, room, facts)
    if member == MAX_TOKENS:
        return _count(p, i, n, member, &facts.max_tokens, &facts.given)
    if member == MAX_COMPLETION_TOKENS:
        return _count(p, i, n, member, &facts.max_completion_tokens, &facts.given)
    if member == MAX_OUTPUT_TOKENS:
        return _count(p, i, n, member, &facts.max_output_tokens, &facts.given)
    return _count(p, i, n, member, &facts.n, &facts.given)


cdef bint _body(Bytes p, Py_ssize_t n, int max_depth, Facts* facts) noexcept nogil:
    """Whether all of ``p`` is one object that is plainly good."""
    cdef Py_ssize_t i = after_space(p, 0, n)
    cdef Py_ssize_t start
    cdef int room = min(max_depth, 64 * STACK_WORDS) - 1  # below the object itself
    cdef int seen = 0
    cdef int member, kinds
    if p[i] != 123 or room < 0:
        return False
    i = after_space(p, i + 1, n)
    if p[i] == 125:
        return after_space(p, i + 1, n) == n
    while True:
        kinds = 0
        if p[i] != 34:
            return False
        start = i + 1
        i = string_end(p, start, n, &kinds)
        if i < 0 or kinds & ESCAPED:
            return False
        member = _member(p + start, i - start)
        i = after_colon(p, i + 1, n)
        if i < 0:
            return False
        if member == NONE:
            i = after_value(p, i, n, room, NULL, NULL)
        else:
            if seen & member:
                return False
            seen |= member
            i = _take(p, i, n, room, member, facts)
        if i < 0:
            return False
        i = after_space(p, i, n)
        if p[i] == 125:
            return after_space(p, i + 1, n) == n
        if p[i] != 44:
            return False
        i = after_space(p, i + 1, n)


# The names met last, so that the usual one is not made again: a slot for each of so many kinds of name.
cdef list _models = [""] * _MODELS


cdef str _model(Bytes p, Py_ssize_t size, int kinds):
    """The name; None = it is not a usable one, or an odd one."""
    cdef str known, made
    cdef int slot
    if size == 0:
        return None
    if kinds & WIDE:
        if size > 4 * _MAX_MODEL_CHARS:
            return None
        made = PyUnicode_DecodeUTF8(<const char*>p, size, NULL)
        return made if PyUnicode_GET_LENGTH(made) <= _MAX_MODEL_CHARS and made.isprintable() else None
    if size > _MAX_MODEL_CHARS:
        return None
    slot = (size + 3 * p[size - 1] + 5 * p[size >> 1]) & (_MODELS - 1)
    known = <str>_models[slot]
    if PyUnicode_GET_LENGTH(known) == size and memcmp(PyUnicode_DATA(known), p, size) == 0:
        return known
    if memchr(p, 127, size) != NULL:
        return None
    made = PyUnicode_DecodeASCII(<const char*>p, size, NULL)
    _models[slot] = made
    return made


cpdef BodyFacts read(bytes body, int max_depth):
    """The facts of a body that nests at most ``max_depth`` levels; ``None`` = ask the complete path."""
    cdef Facts found
    cdef BodyFacts facts
    cdef Bytes p
    cdef str model = ""
    if body is None:
        raise TypeError("a body is bytes")
    p = <Bytes>PyBytes_AS_STRING(body)
    memset(&found, 0, sizeof(found))
    if not _body(p, PyBytes_GET_SIZE(body), max_depth, &found):
        return None
    if found.model_at:
        model = _model(p + found.model_at, found.model_size, found.model_kinds)
        if model is None:
            return None
    facts = BodyFacts.__new__(BodyFacts)
    facts.model = model
    facts.stream = found.stream
    facts.include_usage = found.include_usage
    facts.has_stream_options = found.has_stream_options
    facts.token_limit = -1
    if found.given & MAX_TOKENS:
        facts.token_limit = max(facts.token_limit, found.max_tokens)
    if found.given & MAX_COMPLETION_TOKENS:
        facts.token_limit = max(facts.token_limit, found.max_completion_tokens)
    if found.given & MAX_OUTPUT_TOKENS:
        facts.token_limit = max(facts.token_limit, found.max_output_tokens)
    facts.choices = found.n if found.n > 0 else 1
    facts.prompt_bytes = found.prompt_bytes
    return facts


# ---- an answer's usage -------------------------------------------------------------------------------------------------

cdef struct Counts:
    long long prompt
    long long completion
    long long input
    long long output


cdef Py_ssize_t _last_usage(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Where the last ``"usage"`` between these begins; -1 = there is none."""
    cdef Py_ssize_t i = end - 7
    cdef unsigned char c
    while i >= start:
        c = p[i]
        if c == 34:
            if memcmp(p + i, b'"usage"', 7) == 0:
                return i
            i -= 6  # the quote could be the closing one
        # As far as this byte could be a part of it.
        elif c == 101:
            i -= 5
        elif c == 103:
            i -= 4
        elif c == 97:
            i -= 3
        elif c == 115:
            i -= 2
        elif c == 117:
            i -= 1
        else:
            i -= 7
    return -1


cdef inline long long* _counter(Bytes p, Py_ssize_t left, Counts* counts, Py_ssize_t* size) noexcept nogil:
    """What the name at ``p``, from quote to quote, counts; NULL = nothing."""
    cdef unsigned char c = p[1]
    if c != 112 and c != 99 and c != 105 and c != 111:
        return NULL
    if left >= 15 and memcmp(p, b'"prompt_tokens"', 15) == 0:
        size[0] = 15
        return &counts.prompt
    if left >= 19 and memcmp(p, b'"completion_tokens"', 19) == 0:
        size[0] = 19
        return &counts.completion
    if left >= 14 and memcmp(p, b'"input_tokens"', 14) == 0:
        size[0] = 14
        return &counts.input
    if left >= 15 and memcmp(p, b'"output_tokens"', 15) == 0:
        size[0] = 15
        return &counts.output
    return NULL


cdef void _tally(Bytes p, Py_ssize_t i, Py_ssize_t n, Counts* counts) noexcept nogil:
    """The counts of the object that opens before ``i``; that it is JSON is not asked."""
    cdef long long number
    cdef long long* counter
    cdef Py_ssize_t at, start, size
    cdef Py_ssize_t depth = 1
    cdef unsigned char c
    while i < n:
        c = p[i]
        if c == 34:
            counter = _counter(p + i, n - i, counts, &size)
            if counter != NULL:
                at = after_colon(p, i + size, n)
                if at >= 0:
                    start = at
                    number = 0
                    while is_digit(p[at]) and at - start < _MAX_USAGE_DIGITS:
                        number = number * 10 + (p[at] - 48)
                        at += 1
                    c = p[at]
                    if at > start and at < n and (c == 44 or c == 125 or c == 32 or c == 9 or c == 13 or c == 10):
                        if depth == 1:
                            counter[0] = number
                        i = at
                        continue
            i += 1
            while True:
                i = plain_end(p, i, n)
                if i >= n:
                    return
                c = p[i]
                if c == 34:
                    break
                i += 2 if c == 92 else 1
        elif c == 123 or c == 91:
            depth += 1
        elif c == 125 or c == 93:
            depth -= 1
            if not depth:
                return
        i += 1


cdef bint usage_at(bytes body, long long* prompt, long long* completion) noexcept:
    """As :func:`usage_in`; False = neither is said."""
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(body)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t start = max(n - _SEARCH_BYTES, 0)
    cdef Py_ssize_t at = n
    cdef Py_ssize_t value
    cdef Counts counts = Counts(-1, -1, -1, -1)
    cdef int i
    for i in range(_CANDIDATES):
        at = _last_usage(p, start, at)
        if at < 0:
            break
        value = after_colon(p, at + 7, n)
        if value >= 0 and p[value] == 123 and (not at or p[at - 1] != 92):
            _tally(p, value + 1, n, &counts)
            break
    prompt[0] = counts.prompt if counts.prompt >= 0 else counts.input
    completion[0] = counts.completion if counts.completion >= 0 else counts.output
    return prompt[0] >= 0 or completion[0] >= 0


cpdef tuple usage_in(bytes body):
    """(prompt, completion) tokens of a plain JSON answer, or of its last bytes; -1 = not said."""
    cdef long long prompt, completion
    if body is None:
        raise TypeError("a body is bytes")
    usage_at(body, &prompt, &completion)
    return prompt, completion
