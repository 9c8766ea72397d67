# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The compiled twin of fastgw/accel/bodies.py: one strict pass over a body, without recursion (RFC 8259, RFC 3629).

Owns: the pass. It says all that there is to say of a good body, and of a bad one where it goes wrong; from there on only
brackets and characters are looked at, since what is too deep or no text is called so wherever it is. Names that were met are
kept in a table that is made when they are many; what a body is made of makes no objects.
Invariant: a bytes object ends with a zero that is not part of it, as the grammar wants it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

from fastgw.accel.json cimport (
    ESCAPED, STACK_WORDS, WIDE, Bytes, after_colon, after_literal, after_number, after_space, after_value, bytes_end, is_digit,
    plain_end, string_end, text_end, unescape, wrong, wrong_at,
)

from fastgw.accel import members

import msgspec

SEARCH_BYTES = 8192
USAGE_BYTES = 1024
WORDS = 64
CANDIDATES = 8

cdef enum:
    _SEARCH_BYTES = 8192
    _CANDIDATES = 8
    _USAGE_BYTES = 1024
    _WORDS = 64
    _MAX_MODEL_CHARS = 256
    _MAX_NAME_BYTES = 256  # of a name that an answer may repeat: 64 characters
    _MAX_COUNT_DIGITS = 18  # of a number in a request
    _MAX_USAGE_DIGITS = 12
    _MOST_PROMPTS = 4096
    _MODELS = 16

# The members that matter: first those that say one thing, as in `members.SCALARS`.
cdef enum:
    MODEL
    STREAM
    STREAM_OPTIONS
    MAX_TOKENS
    MAX_COMPLETION_TOKENS
    MAX_OUTPUT_TOKENS
    N
    MESSAGES
    PROMPT
    INPUT
    MEMBERS
    INCLUDE_USAGE
    NONE

cdef enum:
    _SCALARS = 7

# As members.Fault.
cdef enum:
    GOOD
    DEEP
    NO_TEXT
    NO_JSON
    NO_OBJECT
    MANY
    TWICE
    CASE

# What is wrong with the names of an object.
cdef struct Wrong:
    int fault
    int known  # the member that is meant, where it is the name's case
    Py_ssize_t start  # of the name that came again
    Py_ssize_t end

cdef struct Span:
    Py_ssize_t start  # 0 = there is none: no value begins a body
    Py_ssize_t end

cdef struct Facts:
    Span values[MEMBERS]
    Span usage  # include_usage, in stream_options
    Wrong names
    Wrong options
    int model_kinds
    bint odd  # some value is of another kind than it should be, or spelt in a manner that only the complete path takes
    bint stream
    bint include_usage
    long long counts[_SCALARS]
    int given  # of those, the ones that are no null, as bits

if (
    members.MAX_MODEL_CHARS != _MAX_MODEL_CHARS or members.MAX_NAME_CHARS * 4 != _MAX_NAME_BYTES
    or members.MOST_PROMPTS != _MOST_PROMPTS or members.MAX_DEPTH != 64 * STACK_WORDS
    or list(members.Fault) != list(range(CASE + 1)) or members.Fault.CASE != CASE
    or members.SCALARS + members.PROMPTS != (
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "messages",
        "prompt", "input",
    )
):
    raise ImportError("fastgw.accel.bodies was compiled with another fastgw.accel.members: build it again")

cdef long long _MOST = members.MOST
cdef object _ABSENT = members.ABSENT
cdef object _UNSET = msgspec.UNSET
cdef object _Outline = members.Outline
cdef object _shortened = members.shortened
cdef object _repeatable = members.repeatable
cdef Py_ssize_t _VALUE_BYTES = members.VALUE_BYTES
cdef tuple _names = members.SCALARS + members.PROMPTS + ("", "include_usage")


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
            f"choices={self.choices!r}, prompt_bytes={self.prompt_bytes!r}, prompts={self.prompts!r})"
        )


cdef long long _limited(object number):
    return max(min(number, _MOST), -1)


def facts_of(known, outline) -> BodyFacts:
    """The facts of a body of this outline, whose scalars were found good."""
    cdef BodyFacts facts = BodyFacts.__new__(BodyFacts)
    options = known.stream_options
    facts.model = "" if known.model is _ABSENT else known.model
    facts.stream = known.stream is True
    facts.has_stream_options = options is not _UNSET
    facts.include_usage = isinstance(options, members.Options) and options.include_usage is True
    facts.token_limit = -1
    for limit in (known.max_tokens, known.max_completion_tokens, known.max_output_tokens):
        if limit is not None:
            facts.token_limit = max(facts.token_limit, _limited(limit))
    facts.choices = _limited(known.n) if known.n is not None and known.n > 0 else 1
    facts.prompt_bytes = outline.prompt_bytes
    facts.prompts = outline.prompts
    return facts


# ---- names -------------------------------------------------------------------------------------------------------------

cdef inline int _member(Bytes p, Py_ssize_t size) noexcept nogil:
    """Which of the members that matter has this name."""
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


cdef inline int _option(Bytes p, Py_ssize_t size) noexcept nogil:
    return INCLUDE_USAGE if size == 13 and memcmp(p, b"include_usage", 13) == 0 else NONE


cdef enum:
    _LONGEST = 21  # name that matters


cdef int _meant(Bytes p, Py_ssize_t size, bint inner) noexcept nogil:
    """Which member a name would be to a reader that folds case; as members.folded()."""
    cdef unsigned char name[_LONGEST]
    cdef Py_ssize_t i = 0
    cdef int length = 0
    cdef unsigned char c
    while i < size:
        if length == _LONGEST:
            return NONE
        c = p[i]
        if 65 <= c <= 90:
            c |= 32
        elif c >= 0x80:
            if c == 0xC5 and i + 1 < size and p[i + 1] == 0xBF:
                c = 115  # the long s
                i += 1
            elif c == 0xE2 and i + 2 < size and p[i + 1] == 0x84 and p[i + 2] == 0xAA:
                c = 107  # the Kelvin sign
                i += 2
            else:
                return NONE
        name[length] = c
        length += 1
        i += 1
    return _option(name, length) if inner else _member(name, length)


cdef inline bint _may_mean(Bytes p, Py_ssize_t size, int kinds) noexcept nogil:
    """Whether a name that is none of those that matter is worth asking what it would be in lower case: by its first letter."""
    cdef unsigned char c
    if size == 0 or size > 3 * _LONGEST:
        return False
    if kinds & WIDE:
        return True
    c = p[0] | 32
    return size <= _LONGEST and (c == 109 or c == 115 or c == 110 or c == 112 or c == 105)


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* Both halves of a product depend on every bit of both numbers: without the secret nobody can make two names meet. */
    static CYTHON_INLINE uint64_t fastgw_mix(uint64_t a, uint64_t b) {
    #ifdef __SIZEOF_INT128__
        const unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    #else
        const uint64_t low = (a & 0xffffffffULL) * (b >> 32 | 1), high = (a >> 32 | 1) * (b & 0xffffffffULL);
        const uint64_t mixed = a * b ^ (low << 32 | low >> 32) ^ high;
        return mixed ^ mixed >> 29;
    #endif
    }
    static CYTHON_INLINE uint64_t fastgw_name_hash(const unsigned char *p, Py_ssize_t n, uint64_t secret) {
        uint64_t hash = secret ^ (uint64_t)n, word;
        for (; n >= 8; p += 8, n -= 8) {
            memcpy(&word, p, 8);
            hash = fastgw_mix(hash ^ word, secret);
        }
        if (n) {
            word = 0;
            memcpy(&word, p, (size_t)n);
            hash = fastgw_mix(hash ^ word, secret);
        }
        return hash;
    }
    """
    uint64_t name_hash "fastgw_name_hash"(Bytes p, Py_ssize_t n, uint64_t secret) noexcept nogil

# A process's own: Python salts it.
cdef uint64_t _SECRET = <uint64_t><Py_ssize_t>hash(b"names of members") | 1

cdef enum:
    _FEW = 24

cdef struct Name:
    uint64_t hash
    Bytes text  # NULL = a slot of the table that is free
    Py_ssize_t size

# The names of one object. Those that matter are told by a bit each. Others are few in nearly every body, and then only compared
# where a word of bits says that there may be such a one; a table with hashes is made when they are more.
cdef struct Names:
    int known
    Py_ssize_t count
    uint64_t seen
    Name few[_FEW]
    Name* table
    Py_ssize_t slots  # a power of two
    void* made  # copies of names that were spelt with escapes: a pointer to the next one, then the name
    bint no_memory


cdef inline void _no_names(Names* names) noexcept nogil:
    names.known = 0
    names.count = 0
    names.seen = 0
    names.table = NULL
    names.made = NULL
    names.no_memory = False


cdef void _forget_names(Names* names) noexcept nogil:
    cdef void* made
    if names.table != NULL:
        free(names.table)
    while names.made != NULL:
        made = names.made
        names.made = (<void**>made)[0]
        free(made)


cdef bint _insert(Name* table, Py_ssize_t slots, const Name* name) noexcept nogil:
    """Whether the name was not there."""
    cdef Py_ssize_t at = <Py_ssize_t>(name.hash & <uint64_t>(slots - 1))
    while table[at].text != NULL:
        if table[at].hash == name.hash and table[at].size == name.size and memcmp(table[at].text, name.text, name.size) == 0:
            return False
        at = (at + 1) & (slots - 1)
    table[at] = name[0]
    return True


cdef bint _grow(Names* names) noexcept nogil:
    cdef Py_ssize_t slots = 4 * _FEW if names.table == NULL else 2 * names.slots
    cdef Py_ssize_t size = 128
    cdef Py_ssize_t at
    cdef Name* table
    while size < slots:
        size *= 2
    table = <Name*>calloc(size, sizeof(Name))
    if table == NULL:
        names.no_memory = True
        return False
    if names.table == NULL:
        for at in range(_FEW):
            names.few[at].hash = name_hash(names.few[at].text, names.few[at].size, _SECRET)
            _insert(table, size, &names.few[at])
    else:
        for at in range(names.slots):
            if names.table[at].text != NULL:
                _insert(table, size, &names.table[at])
        free(names.table)
    names.table = table
    names.slots = size
    return True


cdef inline bint _new(Names* names, Bytes text, Py_ssize_t size) noexcept nogil:
    """Add a name; whether it was not there."""
    cdef Name name
    cdef Name* one
    cdef uint64_t bit
    cdef Py_ssize_t at
    if names.count < _FEW:
        bit = <uint64_t>1 << ((size + 5 * text[0] + 3 * text[size >> 1]) & 63) if size else 1
        if names.seen & bit:
            for at in range(names.count):
                one = &names.few[at]
                if one.size == size and memcmp(one.text, text, size) == 0:
                    return False
        names.seen |= bit
        one = &names.few[names.count]
        one.text = text
        one.size = size
    else:
        if (names.table == NULL or 2 * names.count >= names.slots) and not _grow(names):
            return True
        name.hash = name_hash(text, size, _SECRET)
        name.text = text
        name.size = size
        if not _insert(names.table, names.slots, &name):
            return False
    names.count += 1
    return True


cdef inline int _named(
    Bytes p, Py_ssize_t start, Py_ssize_t end, int kinds, bint inner, Names* names, Wrong* wrong_
) noexcept nogil:
    """Take note of a name; which member it is, or would have been if nothing were wrong with it."""
    cdef Bytes text = p + start
    cdef Py_ssize_t size = end - start
    cdef unsigned char* made
    cdef int member
    if kinds & ESCAPED:
        made = <unsigned char*>malloc(sizeof(void*) + size)
        if made == NULL:
            names.no_memory = True
            return NONE
        (<void**>made)[0] = names.made
        names.made = made
        text = made + sizeof(void*)
        size = unescape(p, start, end, made + sizeof(void*))
        kinds |= WIDE  # perhaps
    member = _option(text, size) if inner else _member(text, size)
    if wrong_.fault != GOOD:
        return member
    if member != NONE:
        if not names.known & (1 << member):
            names.known |= 1 << member
            return member
    elif _new(names, text, size):
        if _may_mean(text, size, kinds):
            wrong_.known = _meant(text, size, inner)
            if wrong_.known != NONE:
                wrong_.fault = CASE
        return NONE
    wrong_.fault = TWICE
    wrong_.start = start
    wrong_.end = end
    return member


# ---- the members that matter -------------------------------------------------------------------------------------------

cdef Py_ssize_t _flag(Bytes p, Py_ssize_t i, Py_ssize_t n, bint* value) noexcept nogil:
    """Behind true, false or null (which is as good as false); -1 = it is none of them."""
    value[0] = p[i] == 116
    if p[i] == 116:
        return after_literal(p, i, n, b"true", 4)
    if p[i] == 102:
        return after_literal(p, i, n, b"false", 5)
    return after_literal(p, i, n, b"null", 4)


cdef Py_ssize_t _count(Bytes p, Py_ssize_t i, Py_ssize_t n, int member, Facts* facts) noexcept nogil:
    """Behind a null or an integer of at most 18 digits; -1 = something else stands there."""
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
    if i == start or (p[start] == 48 and i - start > 1) or is_digit(p[i]) or p[i] == 46 or p[i] | 32 == 101:
        return -1
    facts.counts[member] = -number if negative else number
    facts.given |= 1 << member
    return i


cdef Py_ssize_t _options(
    Bytes p, Py_ssize_t i, Py_ssize_t n, int room, Py_ssize_t most, Facts* facts, int* levels
) noexcept nogil:
    """Behind the object ``stream_options``, as after_value()."""
    cdef Names names
    cdef Py_ssize_t start, end, count = 0
    cdef int kinds, member
    if room < 1:
        levels[0] = 1
        return wrong(i, False)
    _no_names(&names)
    levels[0] = 1
    i = after_space(p, i + 1, n)
    if p[i] == 125:
        return i + 1
    while True:
        kinds = 0
        if p[i] != 34:
            i = wrong(i, False)
            break
        start = i + 1
        i = string_end(p, start, n, &kinds, True)
        if i < 0:
            break
        count += 1
        if count > most:
            facts.options.fault = MANY
        if facts.options.fault == MANY:
            member = NONE
        else:
            member = _named(p, start, i, kinds, True, &names, &facts.options)
        end = i + 1
        i = after_colon(p, end, n)
        if i < 0:
            i = wrong(end, False)
            break
        start = i
        if member == INCLUDE_USAGE:
            i = _flag(p, start, n, &facts.include_usage)
            if i < 0:
                facts.odd = True
                i = after_value(p, start, n, room - 1, True, NULL, NULL, levels)
            facts.usage.start = start
            facts.usage.end = i
        else:
            i = after_value(p, start, n, room - 1, True, NULL, NULL, levels)
        if i < 0:
            levels[0] += 1
            break
        i = after_space(p, i, n)
        if p[i] == 125:
            i += 1
            break
        if p[i] != 44:
            i = wrong(i, False)
            levels[0] = 1
            break
        i = after_space(p, i + 1, n)
    _forget_names(&names)
    if names.no_memory:
        facts.names.fault = -1
    return i


cdef Py_ssize_t _take(
    Bytes p, Py_ssize_t i, Py_ssize_t n, int room, Py_ssize_t most, int member, Facts* facts, int* levels
) noexcept nogil:
    """Behind the value of ``member``, as after_value(); what it is stands in ``facts`` then."""
    cdef Py_ssize_t end = -1
    cdef int kinds = 0
    if member == MODEL:
        if p[i] == 34:
            end = string_end(p, i + 1, n, &kinds, True)
            if end < 0:
                levels[0] = 0
                return end
            end += 1
            facts.model_kinds = kinds
    elif member == STREAM:
        end = _flag(p, i, n, &facts.stream)
    elif member == STREAM_OPTIONS:
        if p[i] == 123:
            end = _options(p, i, n, room, most, facts, levels)
            if end < 0:
                return end
        else:
            end = after_literal(p, i, n, b"null", 4)
    elif member < _SCALARS:
        end = _count(p, i, n, member, facts)
    if end < 0:
        facts.odd = facts.odd or member < _SCALARS
        end = after_value(p, i, n, room, True, NULL, NULL, levels)
    facts.values[member].start = i
    facts.values[member].end = end
    return end


cdef int _rest(
    Bytes p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t depth, bint in_text, int max_depth, int otherwise
) noexcept nogil:
    """What a body is called of which nothing before ``i`` is wrong: too deep or no text, if it is so there or further on."""
    cdef Py_ssize_t at = i
    cdef unsigned char c
    if depth > max_depth:
        return DEEP
    while at >= 0 and at < n:
        at = text_end(p, at, n)
    if at < 0:
        otherwise = NO_TEXT
    # As members.too_deep() sees it, which takes the text apart without reading it.
    while i < n:
        if in_text:
            i = bytes_end(p, i, n)
            if i >= n:
                break
            if p[i] == 34:
                in_text = False
            elif p[i + 1] == 34 or p[i + 1] == 92:
                i += 1
            i += 1
            continue
        c = p[i]
        if c == 34:
            in_text = True
        elif c == 123 or c == 91:
            depth += 1
            if depth > max_depth:
                return DEEP
        elif c == 125 or c == 93:
            depth -= 1
        elif c == 92 and (p[i + 1] == 34 or p[i + 1] == 92):
            i += 1
        i += 1
    return otherwise


cdef int _survey(Bytes p, Py_ssize_t n, int max_depth, Py_ssize_t most, Facts* facts) noexcept nogil:
    """What is wrong with the body ``p``, its names apart."""
    cdef Names names
    cdef Py_ssize_t i = after_space(p, 0, n)
    cdef Py_ssize_t start, end, count = 0
    cdef int room, member, kinds
    cdef int levels = 0
    cdef int fault = NO_JSON
    cdef bint in_text = False
    max_depth = min(max_depth, 64 * STACK_WORDS)
    if p[i] != 123:
        start = after_value(p, i, n, max_depth, True, NULL, NULL, &levels)
        if start >= 0:
            start = after_space(p, start, n)
            if start == n:
                return NO_OBJECT
            start = wrong(start, False)
            levels = 0
        start = wrong_at(start, &in_text)
        return _rest(p, start, n, levels, in_text, max_depth, NO_JSON)
    room = max_depth - 1  # below the object itself
    if room < 0:
        return DEEP
    _no_names(&names)
    i = after_space(p, i + 1, n)
    if p[i] == 125:
        i = after_space(p, i + 1, n)
        if i == n:
            return GOOD
        return _rest(p, i, n, 0, False, max_depth, NO_JSON)
    while True:
        kinds = 0
        levels = 0
        if p[i] != 34:
            i = wrong(i, False)
            break
        start = i + 1
        i = string_end(p, start, n, &kinds, True)
        if i < 0:
            break
        count += 1
        if count > most:
            fault = MANY
            i = wrong(i + 1, False)
            break
        member = _named(p, start, i, kinds, False, &names, &facts.names)
        end = i + 1
        i = after_colon(p, end, n)
        if i < 0:
            i = wrong(end, False)
            break
        if member == NONE:
            i = after_value(p, i, n, room, True, NULL, NULL, &levels)
        else:
            i = _take(p, i, n, room, most, member, facts, &levels)
        if i < 0:
            break
        i = after_space(p, i, n)
        if p[i] == 125:
            levels = -1
            i = after_space(p, i + 1, n)
            if i != n:
                i = wrong(i, False)
            break
        if p[i] != 44:
            levels = 0
            i = wrong(i, False)
            break
        i = after_space(p, i + 1, n)
    _forget_names(&names)
    if names.no_memory:
        facts.names.fault = -1
    if i >= 0:
        return GOOD
    i = wrong_at(i, &in_text)
    return _rest(p, i, n, levels + 1, in_text, max_depth, fault)


cdef long long _prompts(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """How many prompts the value from ``start`` to ``end`` is; as members.prompts_in()."""
    cdef long long count = 0
    cdef int kinds = 0
    cdef Bytes at
    cdef Py_ssize_t i
    if p[start] != 91:
        return 1
    i = after_space(p, start + 1, end)
    if p[i] == 91:
        at = p + start
        while at != NULL and count <= _MOST_PROMPTS:
            at = <Bytes>memchr(at, 91, p + end - at)
            if at != NULL:
                count += 1
                at += 1
        return min(count - 1, _MOST_PROMPTS)
    if p[i] != 34:
        return 1
    while count < _MOST_PROMPTS:
        count += 1
        i = string_end(p, i + 1, end, &kinds, True) + 1
        at = <Bytes>memchr(p + i, 34, end - i)
        if at == NULL:
            break
        i = at - p
    return count


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


cdef object _wrong_name(Bytes p, const Wrong* wrong_, bint inner):
    cdef bytes text
    cdef Py_ssize_t size = wrong_.end - wrong_.start
    if wrong_.fault < GOOD:
        raise MemoryError
    if wrong_.fault == CASE:
        return _Outline(CASE, _names[wrong_.known], inner)
    if wrong_.fault == MANY:
        return _Outline(MANY, "", inner)
    if size > 3 * _MAX_NAME_BYTES:
        return _Outline(TWICE, "", inner)  # although every character were written as escapes
    text = PyBytes_FromStringAndSize(NULL, size)
    size = unescape(p, wrong_.start, wrong_.end, <unsigned char*>PyBytes_AS_STRING(text))
    return _Outline(TWICE, _repeatable(text[:size].decode()), inner)


cdef bytes _short(bytes body, int member, const Span* value):
    cdef Py_ssize_t size = value.end - value.start
    return _shortened(_names[member], body[value.start : value.start + min(size, _VALUE_BYTES)], size)


cdef object _outline(bytes body, int fault, const Facts* facts):
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(body)
    cdef list known = []
    cdef Py_ssize_t size = 0
    cdef int member
    if fault != GOOD:
        return _Outline(fault)
    if facts.names.fault != GOOD:
        return _wrong_name(p, &facts.names, False)
    if facts.options.fault != GOOD:
        return _wrong_name(p, &facts.options, True)
    for member in range(_SCALARS):
        if facts.values[member].start == 0:
            continue
        if member == STREAM_OPTIONS and p[facts.values[member].start] == 123:
            if facts.usage.start:
                known.append(b'"stream_options":{"include_usage":%b}' % _short(body, INCLUDE_USAGE, &facts.usage))
            else:
                known.append(b'"stream_options":{}')
        else:
            known.append(b'"%b":%b' % ((<str>_names[member]).encode(), _short(body, member, &facts.values[member])))
    for member in range(MESSAGES, MEMBERS):
        size += facts.values[member].end - facts.values[member].start
    return _Outline(
        GOOD, "", False, b"{%b}" % b",".join(known), size, _prompts(p, facts.values[PROMPT].start, facts.values[PROMPT].end)
    )


cpdef outline(bytes body, int max_depth, Py_ssize_t max_members):
    """What a body is that may nest ``max_depth`` levels, and whose objects that are read here may have ``max_members``."""
    cdef Facts found
    cdef int fault
    if body is None:
        raise TypeError("a body is bytes")
    memset(&found, 0, sizeof(found))
    fault = _survey(<Bytes>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), max_depth, max_members, &found)
    return _outline(body, fault, &found)


cpdef read(bytes body, int max_depth, Py_ssize_t max_members):
    """The facts of a body that is plainly good; its outline where the complete path has to look at it."""
    cdef Facts found
    cdef BodyFacts facts
    cdef Bytes p
    cdef int fault
    cdef str model = ""
    if body is None:
        raise TypeError("a body is bytes")
    p = <Bytes>PyBytes_AS_STRING(body)
    memset(&found, 0, sizeof(found))
    fault = _survey(p, PyBytes_GET_SIZE(body), max_depth, max_members, &found)
    if fault != GOOD or found.odd or found.names.fault != GOOD or found.options.fault != GOOD or found.model_kinds & ESCAPED:
        return _outline(body, fault, &found)
    if found.values[MODEL].start:
        model = _model(
            p + found.values[MODEL].start + 1, found.values[MODEL].end - found.values[MODEL].start - 2, found.model_kinds
        )
        if model is None:
            return _outline(body, fault, &found)
    facts = BodyFacts.__new__(BodyFacts)
    facts.model = model
    facts.stream = found.stream
    facts.include_usage = found.include_usage
    facts.has_stream_options = found.values[STREAM_OPTIONS].start != 0
    facts.token_limit = -1
    if found.given & (1 << MAX_TOKENS):
        facts.token_limit = max(facts.token_limit, found.counts[MAX_TOKENS])
    if found.given & (1 << MAX_COMPLETION_TOKENS):
        facts.token_limit = max(facts.token_limit, found.counts[MAX_COMPLETION_TOKENS])
    if found.given & (1 << MAX_OUTPUT_TOKENS):
        facts.token_limit = max(facts.token_limit, found.counts[MAX_OUTPUT_TOKENS])
    facts.choices = found.counts[N] if found.counts[N] > 0 else 1
    facts.prompt_bytes = (
        found.values[MESSAGES].end - found.values[MESSAGES].start + found.values[PROMPT].end - found.values[PROMPT].start
        + found.values[INPUT].end - found.values[INPUT].start
    )
    facts.prompts = _prompts(p, found.values[PROMPT].start, found.values[PROMPT].end)
    return facts


cpdef tuple span_of(bytes text, str name):
    """Where the value of ``name`` stands in the object ``text``, which was found good; (-1, -1) when it has no such member."""
    cdef bytes wanted = name.encode()
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(text)
    cdef Bytes key
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(wanted)
    cdef Py_ssize_t i = after_space(p, 0, n)
    cdef Py_ssize_t start, size, value
    cdef unsigned char made[6 * 32]
    cdef int kinds
    if length > 32:
        raise ValueError("no member that is looked for has so long a name")
    i = after_space(p, i + 1, n)
    while p[i] == 34:
        kinds = 0
        start = i + 1
        i = string_end(p, start, n, &kinds, True)
        if i < 0:
            break
        key = p + start
        size = i - start
        if kinds & ESCAPED and size <= 6 * length:
            size = unescape(p, start, i, made)
            key = made
        value = after_colon(p, i + 1, n)
        i = after_value(p, value, n, 64 * STACK_WORDS, True, NULL, NULL, NULL) if value >= 0 else -1
        if i < 0:
            break
        if size == length and memcmp(key, PyBytes_AS_STRING(wanted), size) == 0:
            return value, i
        i = after_space(p, i, n)
        if p[i] == 44:
            i = after_space(p, i + 1, n)
    return -1, -1


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
    """The counts of the object that opens before ``i``, in its first words; that it is JSON is not asked."""
    cdef long long number
    cdef long long* counter
    cdef Py_ssize_t at, start, size
    cdef Py_ssize_t depth = 1
    cdef int words = 0
    cdef unsigned char c
    while i < n:
        c = p[i]
        if c == 34 or c == 123 or c == 91 or c == 125 or c == 93:
            if words == _WORDS:
                return
            words += 1
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
                i = bytes_end(p, i, n)
                if i >= n:
                    return
                if p[i] == 34:
                    break
                i += 2
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
            _tally(p, value + 1, min(n, value + 1 + _USAGE_BYTES), &counts)
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
