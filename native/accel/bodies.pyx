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
    ESCAPED, STACK_WORDS, WIDE, Bytes, after_colon, after_literal, after_number, after_space, after_value, after_value_of,
    bytes_end, is_digit, plain_end, string_end, text_end, unescape, wrong, wrong_at,
)

from fastgw.accel import attached, brackets, members, prompts, tokens

import msgspec

cdef enum:
    _MAX_MODEL_CHARS = 256
    _MAX_NAME_BYTES = 256  # of a name that an answer may repeat: 64 characters
    _MAX_COUNT_DIGITS = 18  # of a number in a request
    _MOST_PROMPTS = 10000000
    _MOST_CHOICES = 1024
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
    N_PREDICT
    NUM_PREDICT
    MAX_NEW_TOKENS
    MAX_LENGTH
    BEST_OF
    N_CMPL
    BEAM_WIDTH
    NUM_BEAMS
    NUM_RETURN_SEQUENCES
    OPTIONS
    PARAMETERS
    SAMPLING_PARAMS
    MESSAGES
    PROMPT
    INPUT
    PROMPT_EMBEDS
    QUERY
    QUERIES
    TEXT_1
    DATA_1
    DOCUMENTS
    TEXT_2
    DATA_2
    TEXTS
    ITEMS
    BACKGROUND
    PREVIOUS_RESPONSE_ID
    CONVERSATION
    CHAT_TEMPLATE
    KV_TRANSFER_PARAMS
    BOOTSTRAP_HOST
    BOOTSTRAP_PORT
    BOOTSTRAP_ROOM
    MEMBERS
    INCLUDE_USAGE
    NONE

cdef enum:
    _SCALARS = 19
    _FRAME = 7

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

# What the keys within a value say of it.
cdef struct Seen:
    bint holds  # it may have pictures or recordings in it
    int kinds  # of its strings

cdef struct Facts:
    Span values[MEMBERS]
    Span usage  # include_usage, in stream_options
    Wrong names
    Wrong options
    uint64_t known  # its members, as bits
    int model_kinds
    bint odd  # some value is of another kind than it should be, or spelt in a manner that only the complete path takes
    bint stream
    bint include_usage
    long long counts[_SCALARS]
    int given  # of those, the ones that are no null, as bits
    Seen messages
    Seen input
    Seen others
    bint inside  # of `options`, `parameters` and `sampling_params` one is an object, or a list
    bint compares  # one of what is compared is there
    Py_ssize_t frame  # bytes of what is no prompt

if (
    members.MAX_MODEL_CHARS != _MAX_MODEL_CHARS or members.MAX_NAME_CHARS * 4 != _MAX_NAME_BYTES
    or prompts.MOST_PROMPTS != _MOST_PROMPTS or brackets.MAX_DEPTH != 64 * STACK_WORDS
    or list(members.Fault) != list(range(CASE + 1)) or members.Fault.CASE != CASE
    or tokens.MOST_CHOICES != _MOST_CHOICES or members.FRAME != members.SCALARS[:_FRAME]
    or members.SCALARS + members.PROMPTS != (
        "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "n_predict",
        "num_predict", "max_new_tokens", "max_length", "best_of", "n_cmpl", "beam_width", "num_beams", "num_return_sequences",
        "options", "parameters", "sampling_params", "messages", "prompt", "input", "prompt_embeds", "query", "queries", "text_1",
        "data_1", "documents", "text_2", "data_2", "texts", "items", "background", "previous_response_id", "conversation", "chat_template",
        "kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room",
    )
):
    raise ImportError("fastgw.accel.bodies was compiled with another fastgw.accel.members: build it again")

cdef long long _MOST = members.MOST
cdef long long _MOST_TOKENS = tokens.MOST_TOKENS
cdef object _ABSENT = members.ABSENT
cdef int[_FRAME] _FRAME_NAMES = [len(name) + 4 for name in members.FRAME]  # (with the quotes, the colon and the comma)
cdef object _UNSET = msgspec.UNSET
cdef object _Outline = members.Outline
cdef object _whole = members.whole
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

    def learn(self, long long limit, long long answers, long long prompts, long long tokens):
        """What the body says in an engine's own words; see the source."""
        self.token_limit, self.overrides = max(limit, self.token_limit), self.overrides or limit > 0
        self.choices, self.answers = max(answers, self.choices), max(answers, self.answers)
        self.prompts, self.prompt_tokens = max(prompts, self.prompts), self.prompt_tokens + tokens

    def __repr__(self):
        return (
            f"BodyFacts(model={self.model!r}, stream={bool(self.stream)!r}, include_usage={bool(self.include_usage)!r}, "
            f"has_stream_options={bool(self.has_stream_options)!r}, token_limit={self.token_limit!r}, "
            f"choices={self.choices!r}, answers={self.answers!r}, named={self.named!r}, overrides={bool(self.overrides)!r}, "
            f"prompt_tokens={self.prompt_tokens!r}, prompts={self.prompts!r}, uncounted={self.uncounted!r})"
        )


cdef long long _limited(object number):
    return max(min(number, _MOST), -1)


def facts_of(known, outline) -> BodyFacts:
    """The facts of a body of this outline, whose scalars were found good."""
    cdef BodyFacts facts = BodyFacts.__new__(BodyFacts)
    cdef int at = 0
    cdef int limits = 0
    options = known.stream_options
    facts.model = "" if known.model is _ABSENT else known.model
    facts.stream = known.stream is True
    facts.has_stream_options = options is not _UNSET
    facts.include_usage = isinstance(options, members.Options) and options.include_usage is True
    facts.token_limit = -1
    for limit in (known.max_tokens, known.max_completion_tokens, known.max_output_tokens):
        if limit is not _UNSET:
            limits += 1
            if limit is not None:
                facts.token_limit = max(facts.token_limit, _limited(limit))
            if limit is not None and limit > 0:
                facts.named |= 1 << at
            else:
                facts.overrides = True
        at += 1
    facts.choices = _limited(known.n) if known.n is not None and known.n > 0 else 1
    facts.answers = facts.choices
    if limits > 1 or (known.n is not None and not 0 < known.n <= _MOST_CHOICES):
        facts.overrides = True
    for name in members.OTHER_LIMITS:
        value = getattr(known, name)
        if value is not None:
            facts.overrides = True
            facts.token_limit = max(facts.token_limit, _whole(value))
    for name in members.OTHER_WIDTHS:
        value = getattr(known, name)
        if value is not None:
            value = _whole(value)
            if not 0 < value <= _MOST_CHOICES:
                facts.overrides = True
            facts.answers = max(facts.answers, value)
            if name == "n_cmpl":
                facts.choices = max(facts.choices, value)
    facts.overrides = facts.overrides or any([type(getattr(known, name)) in (dict, list) for name in members.INSIDE])
    facts.prompt_tokens = outline.prompt_tokens
    facts.prompts = outline.prompts
    facts.uncounted = outline.uncounted
    return facts


# ---- names -------------------------------------------------------------------------------------------------------------

cdef inline int _member(Bytes p, Py_ssize_t size) noexcept nogil:
    """Which of the members that matter has this name."""
    if size == 5:
        if memcmp(p, b"model", 5) == 0:
            return MODEL
        if memcmp(p, b"input", 5) == 0:
            return INPUT
        if memcmp(p, b"query", 5) == 0:
            return QUERY
        if memcmp(p, b"texts", 5) == 0:
            return TEXTS
        if memcmp(p, b"items", 5) == 0:
            return ITEMS
    elif size == 6:
        if memcmp(p, b"stream", 6) == 0:
            return STREAM
        if memcmp(p, b"prompt", 6) == 0:
            return PROMPT
        if memcmp(p, b"n_cmpl", 6) == 0:
            return N_CMPL
        if memcmp(p, b"text_1", 6) == 0:
            return TEXT_1
        if memcmp(p, b"text_2", 6) == 0:
            return TEXT_2
        if memcmp(p, b"data_1", 6) == 0:
            return DATA_1
        if memcmp(p, b"data_2", 6) == 0:
            return DATA_2
    elif size == 8:
        if memcmp(p, b"messages", 8) == 0:
            return MESSAGES
    elif size == 10:
        if memcmp(p, b"max_tokens", 10) == 0:
            return MAX_TOKENS
        if memcmp(p, b"parameters", 10) == 0:
            return PARAMETERS
        if memcmp(p, b"max_length", 10) == 0:
            return MAX_LENGTH
        if memcmp(p, b"beam_width", 10) == 0:
            return BEAM_WIDTH
        if memcmp(p, b"background", 10) == 0:
            return BACKGROUND
    elif size == 1:
        if p[0] == 110:
            return N
    elif size == 14:
        if memcmp(p, b"stream_options", 14) == 0:
            return STREAM_OPTIONS
        if memcmp(p, b"max_new_tokens", 14) == 0:
            return MAX_NEW_TOKENS
        if memcmp(p, b"bootstrap_host", 14) == 0:
            return BOOTSTRAP_HOST
        if memcmp(p, b"bootstrap_port", 14) == 0:
            return BOOTSTRAP_PORT
        if memcmp(p, b"bootstrap_room", 14) == 0:
            return BOOTSTRAP_ROOM
    elif size == 18:
        if memcmp(p, b"kv_transfer_params", 18) == 0:
            return KV_TRANSFER_PARAMS
    elif size == 21:
        if memcmp(p, b"max_completion_tokens", 21) == 0:
            return MAX_COMPLETION_TOKENS
    elif size == 17:
        if memcmp(p, b"max_output_tokens", 17) == 0:
            return MAX_OUTPUT_TOKENS
    elif size == 7:
        if memcmp(p, b"best_of", 7) == 0:
            return BEST_OF
        if memcmp(p, b"options", 7) == 0:
            return OPTIONS
        if memcmp(p, b"queries", 7) == 0:
            return QUERIES
    elif size == 9:
        if memcmp(p, b"documents", 9) == 0:
            return DOCUMENTS
        if memcmp(p, b"n_predict", 9) == 0:
            return N_PREDICT
        if memcmp(p, b"num_beams", 9) == 0:
            return NUM_BEAMS
    elif size == 11:
        if memcmp(p, b"num_predict", 11) == 0:
            return NUM_PREDICT
    elif size == 20:
        if memcmp(p, b"num_return_sequences", 20) == 0:
            return NUM_RETURN_SEQUENCES
        if memcmp(p, b"previous_response_id", 20) == 0:
            return PREVIOUS_RESPONSE_ID
    elif size == 13:
        if memcmp(p, b"prompt_embeds", 13) == 0:
            return PROMPT_EMBEDS
        if memcmp(p, b"chat_template", 13) == 0:
            return CHAT_TEMPLATE
    elif size == 12:
        if memcmp(p, b"conversation", 12) == 0:
            return CONVERSATION
    return SAMPLING_PARAMS if size == 15 and memcmp(p, b"sampling_params", 15) == 0 else NONE


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
    return size <= _LONGEST and (
        c == 109 or c == 115 or c == 110 or c == 112 or c == 105 or c == 98 or c == 111 or c == 113 or c == 116 or c == 100
        or c == 99 or c == 107
    )


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
    uint64_t known
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
        if not names.known & (<uint64_t>1 << member):
            names.known |= <uint64_t>1 << member
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


cdef bint _on_key(Bytes p, Py_ssize_t start, Py_ssize_t end, Py_ssize_t value, int kinds, void* told) noexcept nogil:
    cdef Seen* seen = <Seen*>told
    cdef Py_ssize_t size = end - start
    cdef unsigned char last = p[end - 1]
    if last == 108:  # l
        if size >= 4 and (memcmp(p + end - 4, b"_url", 4) == 0 or memchr(p + start, 32, size) != NULL):
            seen.holds = True
    elif last == 101:  # e
        if size > 4:
            seen.holds = (
                seen.holds or (size == 6 and memcmp(p + start, b"source", 6) == 0)
                or (size == 5 and memcmp(p + start, b"image", 5) == 0) or memchr(p + start, 32, size) != NULL
            )
    elif last == 111 or last == 97:  # o, a
        if size >= 11:
            seen.holds = True
    elif last == 32:
        seen.holds = True
    if kinds:
        seen.holds = True
        seen.kinds |= kinds
    return True


cdef Py_ssize_t _value(Bytes p, Py_ssize_t i, Py_ssize_t n, int room, Seen* seen, int* levels) noexcept nogil:
    """As after_value(), and what its keys say of it."""
    return after_value_of(p, i, n, room, True, _on_key, seen, levels, &seen.kinds)


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
        facts.others.kinds |= kinds
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
                i = _value(p, start, n, room - 1, &facts.others, levels)
            facts.usage.start = start
            facts.usage.end = i
        else:
            i = _value(p, start, n, room - 1, &facts.others, levels)
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
            facts.others.kinds |= kinds
    elif member == STREAM:
        end = _flag(p, i, n, &facts.stream)
    elif member == STREAM_OPTIONS:
        if p[i] == 123:
            end = _options(p, i, n, room, most, facts, levels)
            if end < 0:
                return end
        else:
            end = after_literal(p, i, n, b"null", 4)
    elif member < OPTIONS:
        end = _count(p, i, n, member, facts)
    elif member < MESSAGES:
        facts.inside = facts.inside or p[i] == 123 or p[i] == 91
        facts.values[member].start = i
        end = _value(p, i, n, room, &facts.others, levels)
        facts.values[member].end = end
        return end
    if end < 0:
        facts.odd = facts.odd or member < _SCALARS
        end = _value(
            p, i, n, room, &facts.messages if member == MESSAGES else &facts.input if member == INPUT else &facts.others, levels
        )
    facts.values[member].start = i
    facts.values[member].end = end
    if member < _FRAME:
        facts.frame += _FRAME_NAMES[member] + end - i
    elif QUERY <= member <= ITEMS:
        facts.compares = True
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
    # As brackets.too_deep() sees it, which takes the text apart without reading it.
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
        facts.others.kinds |= kinds
        member = _named(p, start, i, kinds, False, &names, &facts.names)
        end = i + 1
        i = after_colon(p, end, n)
        if i < 0:
            i = wrong(end, False)
            break
        if member == NONE:
            i = _value(p, i, n, room, &facts.others, &levels)
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
    facts.known = names.known
    if i >= 0:
        return GOOD
    i = wrong_at(i, &in_text)
    return _rest(p, i, n, levels + 1, in_text, max_depth, fault)


# ---- the prompt's size -------------------------------------------------------------------------------------------------

cdef enum:
    _BYTES_PER_TOKEN = 4
    _WIDE_BYTES_PER_TOKEN = 2
    _IMAGE_TOKENS = 1000
    _SOUND_BYTES_PER_TOKEN = 256
    _FEW_VALUES = 24
    _VALUE_EACH = 400
    _DEEPEST = 24
    _SPECIAL_TOKENS = 2
    _PAIR_TOKENS = 4
    _LONGEST_KEY = 15
    _MOST_SOURCE_MEMBERS = 16

# As attached.OTHER and so on: where a picture may stand.
cdef enum:
    P_OTHER
    P_MESSAGES
    P_MESSAGE
    P_ITEMS
    P_ITEM
    P_PARTS
    P_PART
    P_IMAGE
    P_SOUND
    P_PROMPT_LIST
    P_PROMPT_OBJECT

# A key that matters in one of them; first those whose values may be a picture or say what one is.
cdef enum:
    K_NONE
    K_IMAGE_URL
    K_URL
    K_PICTURE
    K_DATA
    K_SOURCE
    K_MEDIA
    K_CONTENT
    K_OUTPUT
    K_SOUND
    K_TYPE
    K_MEDIA_TYPE

cdef struct Size:
    long long attached
    long long tokens

if (
    prompts.BYTES_PER_TOKEN != _BYTES_PER_TOKEN or prompts.WIDE_BYTES_PER_TOKEN != _WIDE_BYTES_PER_TOKEN
    or attached.IMAGE_TOKENS != _IMAGE_TOKENS or attached.SOUND_BYTES_PER_TOKEN != _SOUND_BYTES_PER_TOKEN
    or attached.FEW_VALUES != _FEW_VALUES or attached.VALUE_EACH != _VALUE_EACH or attached.DEEPEST != _DEEPEST
    or prompts.SPECIAL_TOKENS != _SPECIAL_TOKENS or prompts.PAIR_TOKENS != _PAIR_TOKENS
    or attached.PROMPT_OBJECT != P_PROMPT_OBJECT or attached.MEDIA != K_MEDIA or attached.MOST_SOURCE_MEMBERS != _MOST_SOURCE_MEMBERS
    or 1 << (CHAT_TEMPLATE - BACKGROUND + 1) != members.STORED or members.PEERED != 2 * members.STORED
):
    raise ImportError("fastgw.accel.bodies was compiled with another fastgw.accel.attached: build it again")


cdef inline Py_ssize_t _text_end(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Where the quote is that ends the string from ``i`` on, which was found good."""
    i = bytes_end(p, i, n)
    while i < n and p[i] != 34:
        i = bytes_end(p, i + 2, n)
    return i


cdef extern from *:
    """
    /* How many bytes are not ASCII (0); are commas (1); are quotes, or open a list or an object (2). */
    static CYTHON_INLINE Py_ssize_t fastgw_count(const unsigned char *p, Py_ssize_t n, const int what) {
        Py_ssize_t i = 0, count = 0;
    #ifdef __SSE2__
        const __m128i quote = _mm_set1_epi8('"'), list = _mm_set1_epi8('['), object = _mm_set1_epi8('{');
        const __m128i comma = _mm_set1_epi8(','), zero = _mm_setzero_si128();
        while (i + 16 <= n) {
            __m128i sums = zero;
            Py_ssize_t stop = i + 255 * 16;
            for (; i + 16 <= n && i < stop; i += 16) {
                const __m128i some = _mm_loadu_si128((const __m128i *)(p + i));
                sums = _mm_sub_epi8(sums, what == 0 ? _mm_cmplt_epi8(some, zero) : what == 1 ? _mm_cmpeq_epi8(some, comma)
                    : _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(some, quote), _mm_cmpeq_epi8(some, list)), _mm_cmpeq_epi8(some, object)));
            }
            sums = _mm_sad_epu8(sums, zero);
            count += _mm_cvtsi128_si32(sums) + _mm_cvtsi128_si32(_mm_srli_si128(sums, 8));
        }
    #endif
        for (; i < n; i++)
            count += what == 0 ? p[i] >= 0x80 : what == 1 ? p[i] == ',' : p[i] == '"' || p[i] == '[' || p[i] == '{';
        return count;
    }
    static Py_ssize_t fastgw_wide(const unsigned char *p, Py_ssize_t n) { return fastgw_count(p, n, 0); }
    static Py_ssize_t fastgw_commas(const unsigned char *p, Py_ssize_t n) { return fastgw_count(p, n, 1); }
    static Py_ssize_t fastgw_opening(const unsigned char *p, Py_ssize_t n) { return fastgw_count(p, n, 2); }

    /* Whether all of it is what lists of whole numbers are made of. */
    static int fastgw_numbers(const unsigned char *p, Py_ssize_t n) {
        static const unsigned char in_list[256] = {
            ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1, ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1,
            [','] = 1, ['['] = 1, [']'] = 1, ['-'] = 1, [' '] = 1, [9] = 1, [13] = 1, [10] = 1,
        };
        Py_ssize_t i = 0;
    #ifdef __SSE2__
        /* From the comma to the nine all are in it but the point and the slash; the rest one by one. */
        const __m128i before = _mm_set1_epi8('+'), after = _mm_set1_epi8(':'), blank = _mm_set1_epi8(' ');
        const __m128i point = _mm_set1_epi8('.'), slash = _mm_set1_epi8('/');
        for (; i + 16 <= n; i += 16) {
            const __m128i some = _mm_loadu_si128((const __m128i *)(p + i));
            const __m128i range = _mm_and_si128(_mm_cmpgt_epi8(some, before), _mm_cmplt_epi8(some, after));
            const __m128i wrong = _mm_or_si128(_mm_cmpeq_epi8(some, point), _mm_cmpeq_epi8(some, slash));
            unsigned rest = 0xffffu & ~(unsigned)_mm_movemask_epi8(
                _mm_or_si128(_mm_andnot_si128(wrong, range), _mm_cmpeq_epi8(some, blank)));
            for (; rest; rest &= rest - 1)
                if (!in_list[p[i + __builtin_ctz(rest)]])
                    return 0;
        }
    #endif
        while (i < n && in_list[p[i]])
            i++;
        return i == n;
    }
    """
    Py_ssize_t wide_in "fastgw_wide"(Bytes p, Py_ssize_t n) noexcept nogil
    Py_ssize_t commas_in "fastgw_commas"(Bytes p, Py_ssize_t n) noexcept nogil
    bint all_numbers "fastgw_numbers"(Bytes p, Py_ssize_t n) noexcept nogil
    Py_ssize_t opening_in "fastgw_opening"(Bytes p, Py_ssize_t n) noexcept nogil


cdef void _add_ids(Bytes p, Py_ssize_t start, Py_ssize_t end, Size* size) noexcept nogil:
    """As prompts.ids_in()."""
    cdef Py_ssize_t i
    cdef long long commas
    if start == 0 or p[start] != 91:
        return
    i = after_space(p, start + 1, end)
    if p[i] == 123 or p[i] == 93:
        return
    commas = commas_in(p + start, end - start)
    if all_numbers(p + start, end - start):
        size.attached += end - start
        size.tokens += commas + 1
    else:
        size.tokens += commas // 2


cdef Py_ssize_t _squeezed(Bytes p, Py_ssize_t size, unsigned char* out) noexcept nogil:
    """The first characters that are no blanks; how many they are."""
    cdef Py_ssize_t i
    cdef Py_ssize_t length = 0
    for i in range(size):
        if p[i] != 32:
            out[length] = p[i]
            length += 1
            if length > _LONGEST_KEY:
                break
    return length


cdef Py_ssize_t _size(Bytes p, Py_ssize_t size) noexcept nogil:
    """How many of them are no blanks."""
    cdef Py_ssize_t i, blanks = 0
    if memchr(p, 32, size) != NULL:
        for i in range(size):
            blanks += p[i] == 32
    return size - blanks


cdef bint _begins(Bytes p, Py_ssize_t size, const char* word, Py_ssize_t length) noexcept nogil:
    """Whether a text begins with a word, blanks aside."""
    cdef Py_ssize_t i
    cdef Py_ssize_t at = 0
    for i in range(size):
        if p[i] != 32:
            if p[i] != <unsigned char>word[at]:
                return False
            at += 1
            if at == length:
                return True
    return False


cdef int _key(Bytes p, Py_ssize_t size) noexcept nogil:
    """Which of the keys that matter is this one."""
    cdef unsigned char made[_LONGEST_KEY + 1]
    if size > _LONGEST_KEY or p[size - 1] == 32 or (size > 3 and memchr(p, 32, size) != NULL):
        if memchr(p, 32, size) == NULL:
            return K_NONE
        size = _squeezed(p, size, made)
        p = made
    if size == 3:
        return K_URL if memcmp(p, b"url", 3) == 0 else K_NONE
    if size == 4:
        return K_DATA if memcmp(p, b"data", 4) == 0 else K_TYPE if memcmp(p, b"type", 4) == 0 else K_NONE
    if size == 5:
        return K_PICTURE if memcmp(p, b"image", 5) == 0 else K_NONE
    if size == 6:
        return K_OUTPUT if memcmp(p, b"output", 6) == 0 else K_SOURCE if memcmp(p, b"source", 6) == 0 else K_NONE
    if size == 7:
        return K_CONTENT if memcmp(p, b"content", 7) == 0 else K_NONE
    if size == 9:
        if memcmp(p, b"image_url", 9) == 0:
            return K_IMAGE_URL
        return K_SOUND if memcmp(p, b"audio_url", 9) == 0 or memcmp(p, b"video_url", 9) == 0 else K_NONE
    if size == 10:
        return K_MEDIA_TYPE if memcmp(p, b"media_type", 10) == 0 else K_NONE
    if size == 11:
        return K_SOUND if memcmp(p, b"input_audio", 11) == 0 else K_NONE
    return K_MEDIA if size == 15 and memcmp(p, b"multimodal_data", 15) == 0 else K_NONE


cdef bint _escapes_name(Bytes p, Py_ssize_t size) noexcept nogil:
    cdef Bytes at = p
    cdef Bytes end = p + size
    while end - at > 1:
        at = <Bytes>memchr(at, 92, end - at - 1)
        if at == NULL:
            return False
        if at[1] == 117:
            return True
        at += 2
    return False


cdef Py_ssize_t _texts_end(Bytes p, Py_ssize_t i, Py_ssize_t n, Size* size) noexcept nogil:
    """Behind a list of nothing but texts, each of which is taken for a picture or a recording; 0 = it is something else."""
    cdef Py_ssize_t at, length
    i = after_space(p, i + 1, n)
    while p[i] == 34:
        at = i + 1
        i = _text_end(p, at, n)
        length = _size(p + at, i - at)
        size.attached += length
        size.tokens += max(_IMAGE_TOKENS, length // _SOUND_BYTES_PER_TOKEN)
        i = after_space(p, i + 1, n)
        if p[i] == 44:
            i = after_space(p, i + 1, n)
    return i + 1 if p[i] == 93 else 0


cdef Py_ssize_t _source_end(Bytes p, Py_ssize_t i, Py_ssize_t n, Size* size) noexcept nogil:
    """Behind a ``source`` in which nothing is nested, as attached._source(); 0 = it is something else."""
    cdef Py_ssize_t at, length, value
    cdef Py_ssize_t members = 0
    cdef long long data = 0
    cdef long long found = 0
    cdef int kind = 0
    cdef int key
    i = after_space(p, i + 1, n)
    while p[i] == 34:
        at = i + 1
        i = _text_end(p, at, n)
        length = i - at
        i = after_space(p, after_space(p, i + 1, n) + 1, n)
        value = 0
        if p[i] == 34:
            value = i + 1
            i = _text_end(p, value, n) + 1
        else:
            while i < n and p[i] != 44 and p[i] != 125:
                if p[i] == 123 or p[i] == 91:
                    return 0
                i += 1
        members += 1
        key = _key(p + at, length) if length else K_NONE
        if key == K_NONE and _escapes_name(p + at, length):
            found += _IMAGE_TOKENS
            kind = -1
        elif key == K_DATA:
            data += _size(p + value, i - 1 - value) if value else 0
        elif key == K_URL:
            found += _IMAGE_TOKENS
        elif key == K_TYPE:
            if value and kind >= 0 and _size(p + value, i - 1 - value) == 6 and _begins(p + value, i - 1 - value, b"base64", 6):
                kind |= 1
            else:
                kind = -1
        elif key == K_MEDIA_TYPE:
            kind = kind | 2 if value and kind >= 0 and _begins(p + value, i - 1 - value, b"image", 5) else -1
        i = after_space(p, i, n)
        if p[i] == 44:
            i = after_space(p, i + 1, n)
    if members > _MOST_SOURCE_MEMBERS:
        size.tokens = _IMAGE_TOKENS * _MOST_SOURCE_MEMBERS
        return i + 1
    if data and (kind & 1) and kind > 0:
        found += _IMAGE_TOKENS
        if kind == 3:
            size.attached = data
    size.tokens = found
    return i + 1


cdef long long _roughly(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """As attached._roughly()."""
    cdef long long pictures = 0
    cdef long long texts = 0
    cdef bint media = False
    cdef Py_ssize_t at, length
    cdef int key
    while i < n:
        if p[i] != 34:
            i += 1
            continue
        at = i + 1
        i = _text_end(p, at, n)
        length = i - at
        i = after_space(p, i + 1, n)
        texts += 1
        if length >= 15 and _key(p + at, length) == K_MEDIA:
            media = True
        if p[i] != 58 or length == 0:
            continue
        i = after_space(p, i + 1, n)
        key = _key(p + at, length)
        if _ends_url(p + at, length) or (key == K_SOURCE and p[i] == 123) or (key == K_PICTURE and p[i] == 34):
            pictures += 1
        elif _escapes_name(p + at, length):
            pictures += 1
    if media:
        pictures += texts
    return _IMAGE_TOKENS * pictures


cdef bint _ends_url(Bytes p, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at = 4
    while size > 0 and at > 0:
        size -= 1
        if p[size] != 32:
            at -= 1
            if p[size] != <unsigned char>(<const char*>b"_url")[at]:
                return False
    return at == 0


cdef void _add_attached(Bytes p, Py_ssize_t start, Py_ssize_t end, int root, const Seen* seen, Size* size) noexcept nogil:
    """As attached.attached_in()."""
    cdef unsigned char stack[64 * STACK_WORDS + 1]
    cdef Size found = Size(0, 0)
    cdef Size media
    cdef int depth = 0
    cdef int state = P_OTHER
    cdef int key = K_NONE
    cdef long long few = _FEW_VALUES + (end - start) // _VALUE_EACH
    cdef Py_ssize_t i = start
    cdef Py_ssize_t at, length
    cdef unsigned char c
    if start == 0 or (p[start] != 91 and p[start] != 123) or not seen.holds:
        return
    while i < end:
        c = p[i]
        if c == 34:
            at = i + 1
            i = _text_end(p, at, end)
            length = i - at
            i = after_space(p, i + 1, end)
            if p[i] == 58:
                key = _key(p + at, length) if length else K_NONE
                if key == K_NONE and _escapes_name(p + at, length):
                    few -= 1
                    if state != P_OTHER:
                        found.tokens += _IMAGE_TOKENS
                i += 1
                if key == K_MEDIA or key == K_SOURCE:
                    i = after_space(p, i, end)
                    media = Size(0, 0)
                    at = 0
                    if key == K_MEDIA and p[i] == 91:
                        at = _texts_end(p, i, end, &media)
                    elif key == K_SOURCE and p[i] == 123:
                        at = _source_end(p, i, end, &media)
                    if at:
                        i = at
                        few -= 1
                        if state == (P_PROMPT_OBJECT if key == K_MEDIA else P_PART):
                            found.attached += media.attached
                            found.tokens += media.tokens
                if few < 0:
                    break
                continue
            if K_NONE < key <= K_DATA:
                few -= 1
                if few < 0:
                    break
                if (
                    (key == K_URL and state == P_IMAGE) or (key == K_IMAGE_URL and state == P_PART)
                    or (key == K_PICTURE and (state == P_PART or state == P_ITEM))
                ):
                    found.tokens += _IMAGE_TOKENS
                    if _begins(p + at, length, b"data:image", 10):
                        found.attached += _size(p + at, length)
                elif state == P_SOUND:
                    if key == K_URL and not _begins(p + at, length, b"data:", 5):
                        found.tokens += _IMAGE_TOKENS
                    elif key == K_DATA or (key == K_URL and (
                        _begins(p + at, length, b"data:audio", 10) or _begins(p + at, length, b"data:video", 10)
                    )):
                        length = _size(p + at, length)
                        found.attached += length
                        found.tokens += length // _SOUND_BYTES_PER_TOKEN + 1
            key = K_NONE
            continue
        if c == 123 or c == 91:
            stack[depth] = state
            depth += 1
            if depth > _DEEPEST:
                few = -1
                break
            state = _inner(state, key, c == 123, root if depth == 1 else P_OTHER)
            key = K_NONE
        elif c == 125 or c == 93:
            depth -= 1
            state = stack[depth]
            key = K_NONE
        elif c == 44:
            key = K_NONE
        i += 1
    if few < 0:
        size.tokens += _roughly(p, start, end)
        return
    size.attached += found.attached
    size.tokens += found.tokens


cdef int _inner(int state, int key, bint is_object, int root) noexcept nogil:
    """What a list or an object is that opens in a ``state``, as the value of ``key``; ``root``: of what it is all of it."""
    if root != P_OTHER:
        if not is_object:
            return root
        return P_PART if root == P_PARTS else P_PROMPT_OBJECT if root == P_PROMPT_LIST else P_OTHER
    if not is_object:
        if key == K_CONTENT or key == K_OUTPUT:
            return P_PARTS if state == P_MESSAGE or state == P_ITEM or state == P_PART else P_OTHER
        return P_OTHER
    if key == K_NONE:
        if state == P_MESSAGES:
            return P_MESSAGE
        if state == P_ITEMS:
            return P_ITEM
        if state == P_PARTS:
            return P_PART
        return P_PROMPT_OBJECT if state == P_PROMPT_LIST else P_OTHER
    if state == P_PART:
        return P_IMAGE if key == K_IMAGE_URL else P_SOUND if key == K_SOUND else P_OTHER
    return P_PART if state == P_ITEM and key == K_OUTPUT else P_OTHER


cdef inline long long _estimate(long long size, long long wide, const Size* other, long long bytes_per_token) noexcept nogil:
    """As prompts.estimate()."""
    cdef long long text = max(0, size - wide - other.attached)
    cdef long long per_wide = min(_WIDE_BYTES_PER_TOKEN, bytes_per_token)
    return (text + bytes_per_token - 1) // bytes_per_token + (wide + per_wide - 1) // per_wide + other.tokens


cdef long long _prompt_tokens(Bytes p, Py_ssize_t n, const Facts* facts, int bytes_per_token) noexcept nogil:
    """As prompts.estimate() of a body that is good."""
    cdef Size size = Size(facts.frame, 0)
    cdef Size ids
    cdef long long wide = 0
    cdef long long again = 0
    cdef int member
    cdef bint is_wide = (facts.messages.kinds | facts.input.kinds | facts.others.kinds) & WIDE
    if is_wide:
        wide = wide_in(p, n)
    _add_attached(p, facts.values[MESSAGES].start, facts.values[MESSAGES].end, P_MESSAGES, &facts.messages, &size)
    if facts.values[INPUT].start:
        _add_attached(p, facts.values[INPUT].start, facts.values[INPUT].end, P_ITEMS, &facts.input, &size)
        _add_ids(p, facts.values[INPUT].start, facts.values[INPUT].end, &size)
        size.tokens += _SPECIAL_TOKENS * (_inputs(p, facts.values[INPUT].start, facts.values[INPUT].end) - 1)
    if facts.values[PROMPT].start:
        _add_attached(p, facts.values[PROMPT].start, facts.values[PROMPT].end, P_PROMPT_LIST, &facts.others, &size)
        _add_ids(p, facts.values[PROMPT].start, facts.values[PROMPT].end, &size)
        size.tokens += _SPECIAL_TOKENS * (_inputs(p, facts.values[PROMPT].start, facts.values[PROMPT].end) - 1)
    if facts.compares:
        for member in range(QUERY, ITEMS + 1):
            if facts.values[member].start:
                _add_attached(p, facts.values[member].start, facts.values[member].end, P_PARTS, &facts.others, &size)
                ids = Size(0, 0)
                _add_ids(p, facts.values[member].start, facts.values[member].end, &ids)
                if ids.attached:
                    size.attached += ids.attached
                    size.tokens += ids.tokens
        again = _again(p, facts, is_wide, bytes_per_token)
    return _estimate(n, wide, &size, bytes_per_token) + again


cdef long long _again(Bytes p, const Facts* facts, bint is_wide, int bytes_per_token) noexcept nogil:
    """As bodies._again()."""
    cdef long long pairs = 0
    cdef long long most = 0
    cdef long long texts, tokens
    cdef Size size, ids
    cdef const Span* value
    cdef int member
    for member in range(DOCUMENTS, ITEMS + 1):
        value = &facts.values[member]
        if value.start:
            pairs = max(pairs, _several(p, value.start, value.end))
    if pairs == 0:
        return 0
    for member in range(QUERY, DOCUMENTS):
        value = &facts.values[member]
        if value.start:
            size = Size(0, 0)
            ids = Size(0, 0)
            _add_attached(p, value.start, value.end, P_PARTS, &facts.others, &size)
            _add_ids(p, value.start, value.end, &ids)
            if ids.attached:
                size = ids
            tokens = _estimate(
                value.end - value.start, wide_in(p + value.start, value.end - value.start) if is_wide else 0, &size, bytes_per_token
            )
            texts = _texts(p, value.start, value.end)
            most = max(most, tokens * ((pairs + texts - 1) // texts - 1) + _PAIR_TOKENS * max(pairs, texts))
    return min(most, _MOST_TOKENS)


cdef long long _prompts(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """How many prompts the value from ``start`` to ``end`` is; as prompts.prompts_in()."""
    cdef long long count = 0
    cdef Py_ssize_t i = start
    if p[start] != 91:
        return 1
    if memchr(p + start, 34, end - start) == NULL:
        count = opening_in(p + start, end - start)
        i = end
    while i < end:
        if p[i] == 34:
            count += 1
            i = _text_end(p, i + 1, end)
        elif p[i] == 91 or p[i] == 123:
            count += 1
        i += 1
    return min(max(1, count - 1), _MOST_PROMPTS)


cdef long long _all_prompts(Bytes p, const Facts* facts) noexcept nogil:
    cdef long long count = 0
    if facts.values[PROMPT].start:
        count = _prompts(p, facts.values[PROMPT].start, facts.values[PROMPT].end)
    if facts.values[PROMPT_EMBEDS].start and p[facts.values[PROMPT_EMBEDS].start] != 110:
        count += _prompts(p, facts.values[PROMPT_EMBEDS].start, facts.values[PROMPT_EMBEDS].end)
    return min(max(1, count), _MOST_PROMPTS)


cdef long long _inputs(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """As prompts.inputs_in()."""
    cdef unsigned char c
    if p[start] != 91:
        return 1
    c = p[after_space(p, start + 1, end)]
    return _prompts(p, start, end) if c == 34 or c == 91 else 1


cdef long long _several(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """As prompts.several_in()."""
    cdef long long commas = 0
    cdef Py_ssize_t i = start
    if p[start] != 91 and p[start] != 123:
        return 1
    if memchr(p + start, 34, end - start) == NULL:
        return _prompts(p, start, end)
    while i < end:
        if p[i] == 34:
            i = _text_end(p, i + 1, end)
        elif p[i] == 44:
            commas += 1
        i += 1
    return min(commas + 1, _MOST_PROMPTS)


cdef long long _texts(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """As prompts.texts_in()."""
    cdef long long count = 0
    cdef Py_ssize_t i = start + 1
    if p[start] != 91:
        return 1
    while i < end:
        if p[i] == 34:
            count += 1
            i = _text_end(p, i + 1, end)
        elif p[i] == 91 or p[i] == 123:
            return 1
        i += 1
    return min(max(1, count), _MOST_PROMPTS)


cdef enum:
    _PEERED = CHAT_TEMPLATE - BACKGROUND + 2


cdef int _uncounted(Bytes p, const Facts* facts) noexcept nogil:
    """As bodies._uncounted()."""
    cdef int bits = 0
    cdef int member
    cdef unsigned char c
    if facts.known >> BACKGROUND:  # (in few bodies)
        for member in range(BACKGROUND, BOOTSTRAP_ROOM + 1):
            if facts.values[member].start:
                c = p[facts.values[member].start]
                if c != 110 and (c != 102 or member != BACKGROUND):
                    bits |= 1 << (member - BACKGROUND if member <= CHAT_TEMPLATE else _PEERED)
    if facts.values[PROMPT].start and p[facts.values[PROMPT].start] == 123:
        bits |= 1 << (CHAT_TEMPLATE - BACKGROUND + 1)
    return bits


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


cdef object _outline(bytes body, int fault, const Facts* facts, int bytes_per_token):
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(body)
    cdef list known = []
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
    return _Outline(
        GOOD, "", False, b"{%b}" % b",".join(known), _prompt_tokens(p, PyBytes_GET_SIZE(body), facts, bytes_per_token),
        _all_prompts(p, facts), _uncounted(p, facts),
    )


cpdef outline(bytes body, int max_depth, Py_ssize_t max_members, int bytes_per_token=4):
    """What a body is that may nest ``max_depth`` levels, and whose objects that are read here may have ``max_members``."""
    cdef Facts found
    cdef int fault
    if body is None:
        raise TypeError("a body is bytes")
    memset(&found, 0, sizeof(found))
    fault = _survey(<Bytes>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), max_depth, max_members, &found)
    return _outline(body, fault, &found, bytes_per_token)


cpdef read(bytes body, int max_depth, Py_ssize_t max_members, int bytes_per_token=4):
    """The facts of a body that is plainly good; its outline where the complete path has to look at it."""
    cdef Facts found
    cdef BodyFacts facts
    cdef Bytes p
    cdef int fault, member
    cdef str model = ""
    if body is None:
        raise TypeError("a body is bytes")
    p = <Bytes>PyBytes_AS_STRING(body)
    memset(&found, 0, sizeof(found))
    fault = _survey(p, PyBytes_GET_SIZE(body), max_depth, max_members, &found)
    if fault != GOOD or found.odd or found.names.fault != GOOD or found.options.fault != GOOD or found.model_kinds & ESCAPED:
        return _outline(body, fault, &found, bytes_per_token)
    if found.values[MODEL].start:
        model = _model(
            p + found.values[MODEL].start + 1, found.values[MODEL].end - found.values[MODEL].start - 2, found.model_kinds
        )
        if model is None:
            return _outline(body, fault, &found, bytes_per_token)
    facts = BodyFacts.__new__(BodyFacts)
    facts.model = model
    facts.stream = found.stream
    facts.include_usage = found.include_usage
    facts.has_stream_options = found.values[STREAM_OPTIONS].start != 0
    facts.token_limit = -1
    _bounds(&found, facts)
    facts.prompt_tokens = _prompt_tokens(p, PyBytes_GET_SIZE(body), &found, bytes_per_token)
    facts.prompts = _all_prompts(p, &found)
    facts.uncounted = _uncounted(p, &found)
    member = MESSAGES if found.values[MESSAGES].start else PROMPT if found.values[PROMPT].start else INPUT
    facts.prompt_start = found.values[member].start
    facts.prompt_end = found.values[member].end
    return facts


cdef void _bounds(const Facts* found, BodyFacts facts) noexcept:
    """What a body says of how much is to be made; its figures are plain ones, or null."""
    cdef int member
    cdef int limits = 0
    cdef bint overrides = found.inside
    for member in range(MAX_TOKENS, MAX_OUTPUT_TOKENS + 1):
        if found.values[member].start == 0:
            continue
        limits += 1
        if found.given & (1 << member) and found.counts[member] > 0:
            facts.named |= 1 << (member - MAX_TOKENS)
        else:
            overrides = True
        if found.given & (1 << member):
            facts.token_limit = max(facts.token_limit, found.counts[member])
    facts.choices = found.counts[N] if found.counts[N] > 0 else 1
    facts.answers = facts.choices
    if found.given >> N:
        # (Rare: so many names are looked at only where there is one.)
        if found.given & (1 << N) and not 0 < found.counts[N] <= _MOST_CHOICES:
            overrides = True
        for member in range(N_PREDICT, BEST_OF):
            if found.given & (1 << member):
                overrides = True
                if found.counts[member] > 0:
                    facts.token_limit = max(facts.token_limit, found.counts[member])
        for member in range(BEST_OF, OPTIONS):
            if found.given & (1 << member):
                if not 0 < found.counts[member] <= _MOST_CHOICES:
                    overrides = True
                facts.answers = max(facts.answers, found.counts[member])
                if member == N_CMPL:
                    facts.choices = max(facts.choices, found.counts[member])
    facts.overrides = overrides or limits > 1


cpdef Py_ssize_t place_in(bytes body) except? -1:
    """Where the first member of the object ``body`` could stand, behind its brace; -1 = it has none."""
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(body)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t at = after_space(p, 0, n) + 1
    return -1 if p[after_space(p, at, n)] == 125 else at


cpdef bytes with_member(bytes body, bytes member):
    """``body`` with a ``member`` more, which it does not have."""
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(body)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(body)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(member)
    cdef Py_ssize_t at = after_space(p, 0, n) + 1
    cdef bint empty = p[after_space(p, at, n)] == 125
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n + size + (not empty))
    cdef char* out = PyBytes_AS_STRING(made)
    memcpy(out, p, at)
    memcpy(out + at, PyBytes_AS_STRING(member), size)
    if not empty:
        out[at + size] = 44
        size += 1
    memcpy(out + at + size, p + at, n - at)
    return made


cpdef tuple span_of(bytes text, str name, BodyFacts facts=None):
    """Where the value of ``name`` stands in the object ``text``; see the source."""
    cdef bytes wanted = name.encode()
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(text)
    cdef Bytes key
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(wanted)
    cdef Py_ssize_t i = after_space(p, 0, n)
    cdef Py_ssize_t start, size, value
    cdef unsigned char made[6 * 32]
    cdef int kinds, known
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
        known = facts is not None and value > 0 and value == facts.prompt_start and facts.prompt_end < n
        i = facts.prompt_end if known else after_value(p, value, n, 64 * STACK_WORDS, True, NULL, NULL, NULL) if value >= 0 else -1
        if i < 0:
            break
        if size == length and memcmp(key, PyBytes_AS_STRING(wanted), size) == 0:
            return value, i
        i = after_space(p, i, n)
        if p[i] == 44:
            i = after_space(p, i + 1, n)
    return -1, -1


def inputs_at(bytes text, Py_ssize_t start, Py_ssize_t end) -> tuple:
    """What the value that stands there counts for; see the source."""
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(text)
    cdef Size size = Size(0, 0)
    if not 0 < start < end <= PyBytes_GET_SIZE(text):
        raise ValueError("no value stands there")
    _add_ids(p, start, end, &size)
    return _inputs(p, start, end), size.attached, size.tokens


cpdef tuple prompt_span(bytes body, BodyFacts facts):
    """Where what becomes prompt stands in ``body``, whose facts these are; see the source."""
    cdef tuple found
    if facts.prompt_start and facts.prompt_end <= PyBytes_GET_SIZE(body):
        return facts.prompt_start, facts.prompt_end
    for name in ("messages", "prompt", "input"):
        found = span_of(body, name)
        if <Py_ssize_t>found[0] >= 0:
            return found
    return -1, -1
