# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The compiled twin of fastgw/accel/bodies.py: one strict pass over a body, without recursion (RFC 8259, RFC 3629).

Owns: the pass. It takes fewer bodies than the Python twin (no escapes in the keys of an object that matters or in a
model's name, no member that matters twice), and never one that the complete path would refuse or see otherwise.
Invariant: a bytes object ends with a zero that is not part of it, and zero is good nowhere in JSON: so a loop that stops
at what it does not know needs no other limit. What reads several bytes at a time looks at the size first.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memset

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
    _STACK_WORDS = 8  # 512 levels: the most that can be configured
    _MODELS = 16

# What a string was found to hold.
cdef enum:
    ESCAPED = 1
    WIDE = 2

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

ctypedef const unsigned char* Bytes

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


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* The first byte from `i` on that does not simply go on with a string: a quote, a backslash, a control character, or
       one that is not ASCII; `n` when there is none before. */
    static CYTHON_INLINE Py_ssize_t fastgw_plain_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
    #ifdef __SSE2__
        if (n >= 16) {
            const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\\\'), blank = _mm_set1_epi8(' ');
            for (;;) {
                /* The last load ends with the text: what it reads again of what went before is shifted out. */
                int again = i + 16 <= n ? 0 : (int)(i + 16 - n);
                __m128i some;
                unsigned stops;
                if (again >= 16)
                    return n;
                some = _mm_loadu_si128((const __m128i *)(p + i - again));
                /* As signed bytes, all that are not ASCII come before the blank as well. */
                stops = (unsigned)_mm_movemask_epi8(_mm_or_si128(
                    _mm_or_si128(_mm_cmpeq_epi8(some, quote), _mm_cmpeq_epi8(some, slash)), _mm_cmplt_epi8(some, blank)));
                stops >>= again;
                if (stops)
                    return i + __builtin_ctz(stops);
                i += 16;
            }
        }
    #else
        while (i + 8 <= n) {
            const uint64_t ones = 0x0101010101010101ULL;
            uint64_t word, quote, slash;
            memcpy(&word, p + i, 8);
            quote = word ^ (ones * '"');
            slash = word ^ (ones * '\\\\');
            if (((word | (word - ones * ' ') | (quote - ones) | (slash - ones)) & (ones << 7)) != 0)
                break;
            i += 8;
        }
    #endif
        while (i < n && p[i] >= ' ' && p[i] < 0x80 && p[i] != '"' && p[i] != '\\\\')
            i++;
        return i;
    }
    """
    Py_ssize_t fastgw_plain_end(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil


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
            facts.token_limit = _limited(limit)
            break
    facts.choices = _limited(found.n) if found.n is not None and found.n > 0 else 1
    facts.prompt_bytes = len(found.messages) + len(found.prompt) + len(found.input)
    return facts


# ---- the grammar -------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t _space(Bytes p, Py_ssize_t i) noexcept nogil:
    """Where what is not white space begins."""
    while p[i] <= 32 and (p[i] == 32 or p[i] == 10 or p[i] == 13 or p[i] == 9):
        i += 1
    return i


cdef inline int _hex(unsigned char c) noexcept nogil:
    """A hexadecimal digit's value; -1 = it is none."""
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef inline int _hex4(Bytes p) noexcept nogil:
    cdef int value = 0
    cdef int digit, i
    for i in range(4):
        digit = _hex(p[i])
        if digit < 0:
            return -1
        value = value << 4 | digit
    return value


cdef inline bint _more(unsigned char c) noexcept nogil:
    """Whether a character's later byte."""
    return c & 0xC0 == 0x80


cdef Py_ssize_t _after_wide(Bytes p, Py_ssize_t i) noexcept nogil:
    """Behind the characters from ``i`` on that are not ASCII; -1 = they are not UTF-8."""
    cdef unsigned char c = p[i]
    while c >= 0x80:
        if c < 0xE0:
            if c < 0xC2 or not _more(p[i + 1]):
                return -1
            i += 2
        elif c < 0xF0:
            # Neither overlong nor a surrogate.
            if not _more(p[i + 1]) or not _more(p[i + 2]) or (c == 0xE0 and p[i + 1] < 0xA0) or (c == 0xED and p[i + 1] > 0x9F):
                return -1
            i += 3
        else:
            if c > 0xF4 or not _more(p[i + 1]) or not _more(p[i + 2]) or not _more(p[i + 3]):
                return -1
            if (c == 0xF0 and p[i + 1] < 0x90) or (c == 0xF4 and p[i + 1] > 0x8F):
                return -1
            i += 4
        c = p[i]
    return i


cdef Py_ssize_t _string(Bytes p, Py_ssize_t i, Py_ssize_t n, int* kinds) noexcept nogil:
    """Where the quote is that ends the string whose text begins at ``i``; -1 = it is no string."""
    cdef unsigned char c
    cdef int unit
    while True:
        i = fastgw_plain_end(p, i, n)
        c = p[i]
        if c == 34:  # "
            return i
        if c >= 0x80:
            kinds[0] |= WIDE
            i = _after_wide(p, i)
            if i < 0:
                return -1
        elif c == 92:  # backslash
            kinds[0] |= ESCAPED
            c = p[i + 1]
            if c == 117:  # u
                unit = _hex4(p + i + 2)
                if unit < 0 or 0xDC00 <= unit <= 0xDFFF:
                    return -1
                i += 6
                if 0xD800 <= unit <= 0xDBFF:
                    if p[i] != 92 or p[i + 1] != 117:
                        return -1
                    unit = _hex4(p + i + 2)
                    if not 0xDC00 <= unit <= 0xDFFF:
                        return -1
                    i += 6
            elif c == 110 or c == 34 or c == 92 or c == 47 or c == 116 or c == 114 or c == 98 or c == 102:
                i += 2
            else:
                return -1
        else:
            return -1


cdef inline bint _digit(unsigned char c) noexcept nogil:
    return 48 <= c <= 57


cdef Py_ssize_t _number(Bytes p, Py_ssize_t i) noexcept nogil:
    """Behind the number at ``i``; -1 = there is none."""
    if p[i] == 45:  # -
        i += 1
    if not _digit(p[i]):
        return -1
    if p[i] == 48:
        i += 1
    else:
        while _digit(p[i]):
            i += 1
    if p[i] == 46:  # .
        i += 1
        if not _digit(p[i]):
            return -1
        while _digit(p[i]):
            i += 1
    if p[i] | 32 == 101:  # e
        i += 1
        if p[i] == 43 or p[i] == 45:
            i += 1
        if not _digit(p[i]):
            return -1
        while _digit(p[i]):
            i += 1
    return i


cdef inline Py_ssize_t _literal(Bytes p, Py_ssize_t i, Py_ssize_t n, const char* word, Py_ssize_t size) noexcept nogil:
    """Behind ``word``; -1 = something else stands there."""
    return i + size if n - i >= size and memcmp(p + i, word, size) == 0 else -1


cdef inline Py_ssize_t _colon(Bytes p, Py_ssize_t i) noexcept nogil:
    """Where the value begins, from behind its key; -1 = there is no colon."""
    i = _space(p, i)
    return _space(p, i + 1) if p[i] == 58 else -1


cdef inline Py_ssize_t _key(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Where the value of the member at ``i`` begins; -1 = there is no member."""
    cdef int kinds = 0
    if p[i] != 34:
        return -1
    i = _string(p, i + 1, n, &kinds)
    return _colon(p, i + 1) if i >= 0 else -1


cdef Py_ssize_t _value(Bytes p, Py_ssize_t i, Py_ssize_t n, int room) noexcept nogil:
    """Behind the value at ``i``; -1 = there is none, or it nests deeper than ``room``."""
    cdef uint64_t outer[_STACK_WORDS]  # a bit for each container around the innermost one: 1 = an object
    cdef uint64_t bit
    cdef int depth = 0
    cdef int kinds = 0
    cdef bint in_object = False
    cdef unsigned char c
    while True:
        c = p[i]
        if c == 34:
            i = _string(p, i + 1, n, &kinds)
            if i < 0:
                return -1
            i += 1
        elif c == 123 or c == 91:
            if depth >= room:
                return -1
            i = _space(p, i + 1)
            if p[i] != c + 2:  # the closing one, in ASCII
                bit = <uint64_t>1 << (depth & 63)
                if in_object:
                    outer[depth >> 6] |= bit
                else:
                    outer[depth >> 6] &= ~bit
                depth += 1
                in_object = c == 123
                if in_object:
                    i = _key(p, i, n)
                    if i < 0:
                        return -1
                continue
            i += 1
        elif c == 116:
            i = _literal(p, i, n, b"true", 4)
        elif c == 102:
            i = _literal(p, i, n, b"false", 5)
        elif c == 110:
            i = _literal(p, i, n, b"null", 4)
        else:
            i = _number(p, i)
        if i < 0:
            return -1
        while depth:
            i = _space(p, i)
            c = p[i]
            if c == 44:  # ,
                i = _space(p, i + 1)
                if in_object:
                    i = _key(p, i, n)
                    if i < 0:
                        return -1
                break
            if c != (125 if in_object else 93):
                return -1
            i += 1
            depth -= 1
            in_object = outer[depth >> 6] >> (depth & 63) & 1
        else:
            return i


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
        return _literal(p, i, n, b"true", 4)
    if p[i] == 102:
        return _literal(p, i, n, b"false", 5)
    return _literal(p, i, n, b"null", 4)


cdef Py_ssize_t _count(Bytes p, Py_ssize_t i, Py_ssize_t n, int member, long long* value, int* given) noexcept nogil:
    """Behind a null or the first 18 digits of an integer; -1 = something else begins there. What follows is not looked at:
    where a number goes on, no comma stands."""
    cdef bint negative = p[i] == 45
    cdef long long number = 0
    cdef Py_ssize_t start
    if p[i] == 110:
        return _literal(p, i, n, b"null", 4)
    if negative:
        i += 1
    start = i
    while _digit(p[i]) and i - start < _MAX_COUNT_DIGITS:
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
        return _literal(p, i, n, b"null", 4)
    if room < 1:
        return -1
    i = _space(p, i + 1)
    if p[i] == 125:
        return i + 1
    while True:
        kinds = 0
        if p[i] != 34:
            return -1
        start = i + 1
        i = _string(p, start, n, &kinds)
        if i < 0 or kinds & ESCAPED:
            return -1
        if i - start == 13 and memcmp(p + start, b"include_usage", 13) == 0:
            i = _colon(p, i + 1)
            if i < 0 or seen:
                return -1
            seen = True
            i = _flag(p, i, n, &facts.include_usage)
        else:
            i = _colon(p, i + 1)
            if i >= 0:
                i = _value(p, i, n, room - 1)
        if i < 0:
            return -1
        i = _space(p, i)
        if p[i] == 125:
            return i + 1
        if p[i] != 44:
            return -1
        i = _space(p, i + 1)


cdef Py_ssize_t _take(Bytes p, Py_ssize_t i, Py_ssize_t n, int room, int member, Facts* facts) noexcept nogil:
    """Behind the value of ``member``; -1 = it is not plainly good."""
    cdef Py_ssize_t end
    if member == MODEL:
        if p[i] != 34:
            return -1
        end = _string(p, i + 1, n, &facts.model_kinds)
        if end < 0 or facts.model_kinds & ESCAPED:
            return -1
        facts.model_at = i + 1
        facts.model_size = end - i - 1
        return end + 1
    if member == MESSAGES or member == PROMPT or member == INPUT:
        end = _value(p, i, n, room)
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
    cdef Py_ssize_t i = _space(p, 0)
    cdef Py_ssize_t start
    cdef int room = min(max_depth, 64 * _STACK_WORDS) - 1  # below the object itself
    cdef int seen = 0
    cdef int member, kinds
    if p[i] != 123 or room < 0:
        return False
    i = _space(p, i + 1)
    if p[i] == 125:
        return _space(p, i + 1) == n
    while True:
        kinds = 0
        if p[i] != 34:
            return False
        start = i + 1
        i = _string(p, start, n, &kinds)
        if i < 0 or kinds & ESCAPED:
            return False
        member = _member(p + start, i - start)
        i = _colon(p, i + 1)
        if i < 0:
            return False
        if member == NONE:
            i = _value(p, i, n, room)
        else:
            if seen & member:
                return False
            seen |= member
            i = _take(p, i, n, room, member, facts)
        if i < 0:
            return False
        i = _space(p, i)
        if p[i] == 125:
            return _space(p, i + 1) == n
        if p[i] != 44:
            return False
        i = _space(p, i + 1)


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
    if found.given & MAX_TOKENS:
        facts.token_limit = max(found.max_tokens, -1)
    elif found.given & MAX_COMPLETION_TOKENS:
        facts.token_limit = max(found.max_completion_tokens, -1)
    elif found.given & MAX_OUTPUT_TOKENS:
        facts.token_limit = max(found.max_output_tokens, -1)
    else:
        facts.token_limit = -1
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
                at = _colon(p, i + size)
                if at >= 0:
                    start = at
                    number = 0
                    while _digit(p[at]) and at - start < _MAX_USAGE_DIGITS:
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
                i = fastgw_plain_end(p, i, n)
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
        value = _colon(p, at + 7)
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
