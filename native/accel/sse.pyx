"""Compiled twin of fastgw/accel/sse.py: events are found, told and counted over a pointer.

What an event says is found in one strict pass over its JSON, without objects. That pass takes the usual events (no escapes in
names, no member that matters twice, no counts but plain integers); what is odd is read again, by rules that are those of the
Python twin's decoders and patterns to the letter, and costs a small multiple. Only what nests hundreds of levels deep is given
to the same decoders as there.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

from fastgw.accel.chunks cimport ChunkScanner, plain_chunk
from fastgw.accel.json cimport (
    ESCAPED, STACK_WORDS, Bytes, after_colon, after_key, after_space, after_value, bytes_end, string_end,
    unescape,
)
from fastgw.accel.usage cimport Figures, Scan, scan_begin, scan_failure, scan_feed, scan_figures

import re

import msgspec

from fastgw.accel.usage_chunk import is_another, is_extra, is_silent, may_be_extra, spliced, takes_more

MAX_EVENT_BYTES = 65536
"""An unfinished event longer than this is passed on, unless it may be the extra chunk; only what it says of usage and errors is
read, in passing."""

cdef extern from *:
    """
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* Where the first line end from `i` on is; `n` when there is none before. */
    static CYTHON_INLINE Py_ssize_t fastgw_line_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
        /* Where lines are many they are short. */
        if (i + 2 > n)
            return i < n && (p[i] == '\\n' || p[i] == '\\r') ? i : n;
        if (p[i] == '\\n' || p[i] == '\\r')
            return i;
        if (p[i + 1] == '\\n' || p[i + 1] == '\\r')
            return i + 1;
    #ifdef __SSE2__
        const __m128i lf = _mm_set1_epi8('\\n'), cr = _mm_set1_epi8('\\r');
        for (; i + 16 <= n; i += 16) {
            const __m128i some = _mm_loadu_si128((const __m128i *)(p + i));
            const __m128i ends = _mm_or_si128(_mm_cmpeq_epi8(some, lf), _mm_cmpeq_epi8(some, cr));
            const unsigned stops = (unsigned)_mm_movemask_epi8(ends);
            if (stops)
                return i + __builtin_ctz(stops);
        }
    #endif
        while (i < n && p[i] != '\\n' && p[i] != '\\r')
            i++;
        return i;
    }

    /* What begins the name of a text or of a reason. */
    static const unsigned char fastgw_begins_word[256] = {
        ['a'] = 1, ['c'] = 1, ['f'] = 1, ['p'] = 1, ['r'] = 1, ['s'] = 1, ['t'] = 1,
    };

    /* The first quote from `i` on that such a letter follows; `n` when there is none. */
    static CYTHON_INLINE Py_ssize_t fastgw_next_word(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
    #ifdef __SSE2__
        const __m128i quote = _mm_set1_epi8('"');
        for (; i + 17 <= n; i += 16) {
            unsigned quotes = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i)), quote));
            for (; quotes; quotes &= quotes - 1)
                if (fastgw_begins_word[p[i + __builtin_ctz(quotes) + 1]])
                    return i + __builtin_ctz(quotes);
        }
    #endif
        for (; i + 1 < n; i++)
            if (p[i] == '"' && fastgw_begins_word[p[i + 1]])
                return i;
        return n;
    }
    """
    Py_ssize_t next_word "fastgw_next_word"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil
    Py_ssize_t line_end "fastgw_line_end"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil


cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t haystack_bytes, const void *needle, size_t needle_bytes)

cdef enum:
    EVENT_MAX = 65536
    USAGE_MAX = 1048576  # of the extra usage chunk
    JOINED_ROOM = 2048  # for the data of several lines, on the stack
    SMALL_BUFFER = 4096  # an empty buffer up to this size is kept for the next unfinished event
    ROOM = 64 * STACK_WORDS - 4  # how deep an event may nest; deeper ones are left to the decoders
    REASON_BYTES = 64
    SHORT_BYTES = 32  # a text up to this size is a token
    SHORTEST = 10  # data that says anything: {"text":"a

# The members of an event that matter, as bits.
cdef enum Member:
    NONE = 0
    CHOICES = 1
    USAGE = 2
    TIMINGS = 4
    ERROR = 8
    TYPE = 16
    DELTA = 32
    RESPONSE = 64
    MESSAGE = 128
    USES = 2 | 4 | 64 | 128  # where they are objects, there may be usage in them

# Of what kind an event says it is.
cdef enum:  # of a last word
    MARKED = 1  # [DONE]
    NAMED = 2  # an event of its kind

cdef enum:
    NO_KIND
    DELTA_KIND  # "*.delta"
    SOUND_KIND  # "*audio.delta"
    BLOCK_KIND  # "content_block_delta"
    OTHER_KIND  # it frames what was said, or repeats it

# What was found of one event.
cdef enum:
    ODD
    PLAIN
    EXTRA  # the extra usage chunk
    CLOSING  # it says why an answer ends
    DEEP

# The texts of an event: their tokens, and the last one that counted.
cdef struct Texts:
    Py_ssize_t tokens
    const unsigned char *name
    Py_ssize_t name_bytes
    const unsigned char *text
    Py_ssize_t text_bytes

# What one event says.
cdef struct Said:
    Py_ssize_t key_end  # of the key looked at last
    Py_ssize_t texts  # the members that are a piece of text, and the first one's place
    Py_ssize_t text_at
    Texts spoken
    Py_ssize_t reason_at
    Py_ssize_t reason_bytes  # 0 = it says of none
    bint error
    bint last  # it is the last one
    bint no_choices  # an empty list, or no such member, or null
    bint listed  # there is a list
    bint choices  # there are some
    Py_ssize_t delta_bytes  # of a text that is the whole delta
    bint usage  # an object of its own
    bint uses
    int kind

cdef object _finish = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"([^"\\]{1,64})"').search
cdef object _a_list = re.compile(rb"\[\s*[^\s\]]").match
cdef object _no_choices = re.compile(rb"(?:\[\s*\]|null)?").fullmatch

_Raw = msgspec.Raw


def _struct(str name, list fields):
    return msgspec.json.Decoder(msgspec.defstruct(name, fields, gc=False)).decode


cdef object _decode_event = _struct("_Event", [
    (name, _Raw, _Raw(b"null" if name in ("usage", "error") else b""))
    for name in ("choices", "usage", "timings", "error", "type", "delta", "response", "message")
])
cdef object _DecodeError = msgspec.DecodeError

cdef inline bint _blank(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline bint _at(Bytes p, Py_ssize_t i, Py_ssize_t n, const char *what, Py_ssize_t size) noexcept nogil:
    return n - i >= size and memcmp(p + i, what, size) == 0


# ---- what an event says ------------------------------------------------------------------------------------------------

cdef inline bint _is_text(Bytes p, Py_ssize_t size) noexcept nogil:
    """Whether a member of this name is a piece of what the model says."""
    if size == 7:
        return memcmp(p, b"content", 7) == 0 or memcmp(p, b"refusal", 7) == 0
    if size == 4:
        return memcmp(p, b"text", 4) == 0
    if size == 9:
        return memcmp(p, b"arguments", 9) == 0 or memcmp(p, b"reasoning", 9) == 0
    if size == 8:
        return memcmp(p, b"thinking", 8) == 0
    if size == 12:
        return memcmp(p, b"partial_json", 12) == 0
    return size == 17 and memcmp(p, b"reasoning_content", 17) == 0


cdef inline Py_ssize_t _weight(Py_ssize_t size) noexcept nogil:
    """The tokens of a text of ``size`` bytes."""
    return 1 if size <= SHORT_BYTES else (size >> 2) + ((size & 3) != 0)


cdef inline Py_ssize_t _text_end(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Where the text that begins at ``i`` ends: at a quote, a line feed, or where the bytes do."""
    cdef Py_ssize_t stop
    cdef Bytes line
    while True:
        stop = bytes_end(p, i, n)
        line = <Bytes>memchr(p + i, 10, stop - i)
        if line != NULL:
            return line - p
        i = stop
        if i + 1 >= n or p[i] != 92 or p[i + 1] == 10:
            return i
        i += 2


cdef inline void _speak(Texts *texts, Bytes name, Py_ssize_t name_bytes, Bytes text, Py_ssize_t size) noexcept nogil:
    """Add a text, unless it repeats the one before it under another name."""
    if (
        texts.name == NULL or size != texts.text_bytes or memcmp(text, texts.text, size) != 0
        or (name_bytes == texts.name_bytes and memcmp(name, texts.name, name_bytes) == 0)
    ):
        texts.tokens += _weight(size)
        texts.name = name
        texts.name_bytes = name_bytes
        texts.text = text
        texts.text_bytes = size


cdef inline bint _is_reason(Bytes p, Py_ssize_t size) noexcept nogil:
    if size == 13:
        return memcmp(p, b"finish_reason", 13) == 0
    return size == 11 and memcmp(p, b"stop_reason", 11) == 0


cdef Py_ssize_t _string_end(Bytes p, Py_ssize_t i) noexcept nogil:
    """Where the string ends that goes on at ``i``, or what is none."""
    while p[i] != 34 and p[i] >= 32:
        i += 1 if p[i] != 92 or p[i + 1] < 32 else 2
    return i


cdef inline bint _on_key(Bytes p, Py_ssize_t start, Py_ssize_t end, Py_ssize_t value, int kinds, void *told) noexcept nogil:
    """Take note of a text or a reason, wherever in the event it stands.

    The Python twin looks for them among all bytes; where no name has an escape in it they can be nowhere else.
    """
    cdef Said *said = <Said *>told
    cdef Py_ssize_t size = end - start
    cdef Py_ssize_t i
    said.key_end = end
    if kinds & ESCAPED:
        return False
    if p[value] != 34:
        return True
    if _is_text(p + start, size):
        # With one blank at most before the colon and behind it.
        i = end + 1 + (p[end + 1] != 58)
        if p[i] == 58 and value - i <= 2 and p[value + 1] != 34:
            if not said.texts:
                said.text_at = value + 1
            said.texts += 1
            i = value + 1
            while p[i] != 34 and p[i] != 92 and p[i] >= 32 and i - value <= SHORT_BYTES:
                i += 1
            if p[i] != 34:
                i = _string_end(p, i)
            _speak(&said.spoken, p + start, size, p + value + 1, i - value - 1)
    elif not said.reason_bytes and _is_reason(p + start, size):
        i = value + 1
        while p[i] != 34 and p[i] != 92 and p[i] >= 32 and i - value <= REASON_BYTES:
            i += 1
        if p[i] == 34:
            said.reason_at = value + 1
            said.reason_bytes = i - value - 1
    return True


cdef inline int _member(Bytes p, Py_ssize_t size) noexcept nogil:
    """Which of the members that matter has this name."""
    if size == 5:
        if memcmp(p, b"usage", 5) == 0:
            return USAGE
        if memcmp(p, b"delta", 5) == 0:
            return DELTA
        if memcmp(p, b"error", 5) == 0:
            return ERROR
    elif size == 7:
        if memcmp(p, b"choices", 7) == 0:
            return CHOICES
        if memcmp(p, b"message", 7) == 0:
            return MESSAGE
        if memcmp(p, b"timings", 7) == 0:
            return TIMINGS
    elif size == 4:
        if memcmp(p, b"type", 4) == 0:
            return TYPE
    elif size == 8 and memcmp(p, b"response", 8) == 0:
        return RESPONSE
    return NONE


cdef inline int _kind(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """What the value of ``type`` that stands there says."""
    cdef Py_ssize_t size = end - start
    if p[start] != 34:
        return NO_KIND
    if memchr(p + start, 92, size) != NULL:
        return OTHER_KIND
    if size >= 8 and memcmp(p + end - 7, b'.delta"', 7) == 0:
        return SOUND_KIND if size >= 13 and memcmp(p + end - 12, b'audio', 5) == 0 else DELTA_KIND
    return BLOCK_KIND if size == 21 and memcmp(p + start, b'"content_block_delta"', 21) == 0 else OTHER_KIND


cdef inline bint _is_failure(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Whether the value of ``type`` that stands there is that of an event which tells of one."""
    cdef Py_ssize_t size = end - start
    if size == 7:
        return memcmp(p + start, b'"error"', 7) == 0
    return size == 17 and memcmp(p + start, b'"response.failed"', 17) == 0


cdef inline bint _is_last(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Whether the value of ``type`` that stands there is that of an event behind which nothing more is to come."""
    cdef Py_ssize_t size = end - start
    if size == 14:
        return memcmp(p + start, b'"message_stop"', 14) == 0
    if size == 20:
        return memcmp(p + start, b'"response.completed"', 20) == 0 or memcmp(p + start, b'"response.cancelled"', 20) == 0
    if size == 21:
        return memcmp(p + start, b'"response.incomplete"', 21) == 0
    return size == 17 and memcmp(p + start, b'"response.failed"', 17) == 0


cdef inline bint _is_error(Bytes p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Whether the value of ``error`` that stands there tells of one, as the Python twin's NO_ERROR."""
    cdef unsigned char c = p[start]
    if c == 34:
        return end - start > 2
    if c == 123 or c == 91:
        return after_space(p, start + 1, end) != end - 1
    return c != 110 and c != 102 and (c != 48 or end - start > 1)


cdef Py_ssize_t _object(Bytes p, Py_ssize_t i, Py_ssize_t n, Said *said) noexcept nogil:
    """Behind the object that opens at ``i``; -1 = it is not plainly good."""
    cdef Py_ssize_t start, end
    cdef int seen = 0
    cdef int member
    cdef unsigned char c
    i = after_space(p, i + 1, n)
    if p[i] == 125:
        return i + 1
    while True:
        start = i + 1
        i = after_key(p, i, n, False, _on_key, said)
        if i < 0:
            return -1
        member = _member(p + start, said.key_end - start)
        c = p[i]
        start = i
        i = after_value(p, i, n, ROOM, False, _on_key, said, NULL)
        if i < 0:
            return -1
        if member:
            if seen & member:
                return -1
            seen |= member
            if member & USES:
                if c == 123:
                    said.uses = True
                    if member == USAGE:
                        said.usage = True
            elif member == CHOICES:
                said.listed = c == 91
                said.no_choices = c == 110 or (c == 91 and p[after_space(p, start + 1, n)] == 93)
                said.choices = c == 91 and not said.no_choices
            elif member == ERROR:
                said.error = said.error or _is_error(p, start, i)
            elif member == DELTA:
                said.delta_bytes = i - start - 2 if c == 34 else 0
            elif member == TYPE:
                said.kind = _kind(p, start, i)
                said.error = said.error or _is_failure(p, start, i)
                said.last = _is_last(p, start, i)
        i = after_space(p, i, n)
        if p[i] == 125:
            return i + 1
        if p[i] != 44:
            return -1
        i = after_space(p, i + 1, n)


cdef void _take(Run *run, const Scan *scan, bint of_choices) noexcept nogil:
    """An event's word on usage: the last one counts, and what llama.cpp measures where there is no other."""
    cdef Figures said
    scan_figures(scan, &said)
    if said.measured:
        if run.used:
            return
    elif said.prompt >= 0 or said.completion >= 0:
        run.used = True
    if said.prompt >= 0 or said.completion >= 0:
        run.of_choices = of_choices
    if not run.spoke:
        run.spoke = True
        run.said.completion = run.said.reasoning = run.said.seconds = -1
    if said.prompt > run.said.prompt or (said.prompt > 0 and (said.cached >= 0 or run.said.cached < 0)):
        run.said.prompt = said.prompt
    if said.completion >= 0:
        run.said.completion = said.completion
        run.counted = True
        run.counted_at = run.tokens
    if said.cached >= 0:
        run.said.cached = said.cached
    if said.reasoning >= 0:
        run.said.reasoning = said.reasoning
    if said.seconds >= 0:
        run.said.seconds = said.seconds


cdef void _usage_of(Run *run, Bytes p, Py_ssize_t n, bint of_choices) noexcept nogil:
    cdef Scan scan
    scan_begin(&scan)
    scan_feed(&scan, p, n)
    _take(run, &scan, of_choices)


cdef inline Py_ssize_t _delta(int kind, Py_ssize_t size) noexcept nogil:
    """The tokens of a text that is the whole delta. (What is sound is one, however long.)"""
    return 1 if kind == SOUND_KIND else _weight(size)


cdef inline void _fails(Run *run, Bytes p, Py_ssize_t n) noexcept nogil:
    """An event with this data tells of an error; the first one says which."""
    if not run.error:
        run.error = True
        run.failure = p
        run.failure_bytes = n


cdef int _look(Bytes event, Py_ssize_t size, Bytes p, Py_ssize_t n, bint error, Run *run) noexcept nogil:
    """Add to ``run`` what the data at ``p`` says: that of the event at ``event``, which calls itself an error or not.

    ODD says that nothing was added. Behind the data is a line end, or a zero. With ``event`` NULL nothing is learned from it.
    """
    cdef Said said
    cdef Py_ssize_t i
    cdef bint noted
    i = 0
    if n >= SHORTEST:
        i = after_space(p, 0, n)
    if n < SHORTEST or p[i] != 123:
        # No object, or too short to say anything; or the last word.
        run.events += 1
        if n >= 6 and memcmp(p, b"[DONE]", 6) == 0:
            run.done |= MARKED
        if error:
            _fails(run, p, n)
        return PLAIN
    memset(&said, 0, sizeof(said))
    said.no_choices = True
    i = _object(p, i, n, &said)
    if i < 0 or after_space(p, i, n) != n:
        return ODD
    run.events += 1
    noted = error or said.error
    if noted:
        _fails(run, p, n)
    if said.last:
        run.done |= NAMED
    if said.reason_bytes:
        run.reason = p + said.reason_at
        run.reason_bytes = said.reason_bytes
        noted = True
    if said.texts and said.kind != OTHER_KIND:
        run.tokens += said.spoken.tokens
        if said.texts == 1 and not noted and not said.uses and event != NULL:
            run.stranger = event
            run.stranger_bytes = size
            run.stranger_text = p + said.text_at
    elif said.delta_bytes and (said.kind == DELTA_KIND or said.kind == SOUND_KIND):
        run.tokens += _delta(said.kind, said.delta_bytes)
    if said.uses:
        _usage_of(run, p, n, said.choices)
    if error or said.error:
        return PLAIN
    if said.choices:
        return CLOSING if said.reason_bytes else PLAIN
    return EXTRA if said.usage and said.no_choices and (said.listed or said.kind == NO_KIND) else PLAIN


# ---- what is odd -------------------------------------------------------------------------------------------------------

# A member's value, and where it stands: the last one of its name.
cdef struct Value:
    Py_ssize_t start  # 0 = there is none: no value begins its text
    Py_ssize_t end

cdef enum:
    VALUES = 8

cdef inline int _bit(int member) noexcept nogil:
    """The place of a member among an event's values."""
    cdef int place = 0
    while member > 1:
        member >>= 1
        place += 1
    return place


cdef inline Bytes _after_blanks(Bytes at, Bytes end, Py_ssize_t most) noexcept nogil:
    cdef Bytes stop = at + most if end - at > most else end
    while at < stop and _blank(at[0]):
        at += 1
    return at


cdef Py_ssize_t _words(Bytes p, Py_ssize_t n, Py_ssize_t *reason, Py_ssize_t *reason_bytes) noexcept nogil:
    """The tokens of all texts among these bytes, wherever they stand, and where the first reason is (no bytes = nowhere): as
    the Python twin's _tokens() and _FINISH say it."""
    cdef Texts texts
    cdef Py_ssize_t spoken = 0  # up to there
    cdef Bytes at
    cdef Bytes value
    cdef Bytes end = p + n
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t start, size, begin
    memset(&texts, 0, sizeof(texts))
    reason_bytes[0] = 0
    while True:
        start = next_word(p, i, n) + 1
        if start >= n:
            return texts.tokens
        i = start
        while i < n and (97 <= p[i] <= 122 or p[i] == 95):
            i += 1
        if i >= n:
            return texts.tokens
        if p[i] != 34:
            continue
        size = i - start
        # (The quote that ends this name may begin the next one, and so may the one that ends a text.)
        if start > spoken and _is_text(p + start, size):
            at = _after_blanks(p + i + 1, end, 1)
            if at < end and at[0] == 58:
                at = _after_blanks(at + 1, end, 1)
                if at + 1 < end and at[0] == 34 and at[1] != 34 and at[1] != 10:
                    begin = at + 1 - p
                    spoken = _text_end(p, begin, n)
                    _speak(&texts, p + start, size, p + begin, spoken - begin)
        elif reason_bytes[0] == 0 and _is_reason(p + start, size):
            at = _after_blanks(p + i + 1, end, n)
            if at < end and at[0] == 58:
                at = _after_blanks(at + 1, end, n)
                if at < end and at[0] == 34:
                    at += 1
                    value = at
                    while value < end and value - at <= REASON_BYTES and value[0] != 34 and value[0] != 92:
                        value += 1
                    if value < end and value[0] == 34 and 0 < value - at <= REASON_BYTES:
                        reason[0] = at - p
                        reason_bytes[0] = value - at


cdef inline int _member_at(Bytes p, Py_ssize_t start, Py_ssize_t end, int kinds) noexcept nogil:
    """Which member the name is, however it is spelt."""
    cdef unsigned char name[6 * 20]
    if not kinds & ESCAPED:
        return _member(p + start, end - start)
    if end - start > 6 * 17:
        return NONE  # although every character were an escape
    return _member(name, unescape(p, start, end, name))


cdef Py_ssize_t _values(Bytes p, Py_ssize_t i, Py_ssize_t n, Value *values, bint *deep) noexcept nogil:
    """Behind the object that opens at ``i``, whose members that matter are put into ``values``; -1 = it is none."""
    cdef Py_ssize_t start, value
    cdef int levels = 0
    cdef int member, kinds
    i = after_space(p, i + 1, n)
    if p[i] == 125:
        return i + 1
    while True:
        kinds = 0
        if p[i] != 34:
            return -1
        start = i + 1
        i = string_end(p, start, n, &kinds, False)
        if i < 0:
            return -1
        member = _member_at(p, start, i, kinds)
        value = after_colon(p, i + 1, n)
        if value < 0:
            return -1
        i = after_value(p, value, n, ROOM, False, NULL, NULL, &levels)
        if i < 0:
            deep[0] = levels > ROOM
            return -1
        if member:
            values[_bit(member)].start = value
            values[_bit(member)].end = i
        i = after_space(p, i, n)
        if p[i] == 125:
            return i + 1
        if p[i] != 44:
            return -1
        i = after_space(p, i + 1, n)


cdef int _odd(Bytes p, Py_ssize_t n, bint error, Run *run) noexcept nogil:
    """Add to ``run`` what odd data at ``p`` says, as the Python twin's _data(); DEEP = nothing was added: the decoders know."""
    cdef Value values[VALUES]
    cdef Value *one
    cdef Py_ssize_t i, reason, reason_bytes
    cdef int kind = NO_KIND
    cdef bint deep = False
    cdef Py_ssize_t tokens
    cdef bint usage, listed, choices
    cdef bint fails = error
    memset(values, 0, sizeof(values))
    i = after_space(p, 0, n)
    if i < n and p[i] == 123:
        i = _values(p, i, n, values, &deep)
        if deep:
            return DEEP
        if i >= 0 and after_space(p, i, n) != n:
            i = -1
    else:
        i = -1
    run.events += 1
    if error:
        _fails(run, p, n)
    tokens = _words(p, n, &reason, &reason_bytes)
    if i < 0:
        # Whoever reads it will fail; until then it counts as it does where it is told without being decoded.
        if p[0] == 123:
            run.tokens += tokens
        return PLAIN
    one = &values[_bit(ERROR)]
    if one.start and _is_error(p, one.start, one.end):
        fails = True
    one = &values[_bit(TYPE)]
    if one.start:
        kind = _kind(p, one.start, one.end)
        if _is_failure(p, one.start, one.end):
            fails = True
        if _is_last(p, one.start, one.end):
            run.done |= NAMED
    if fails:
        _fails(run, p, n)
    if kind == OTHER_KIND:
        tokens = 0
    elif not tokens and (kind == DELTA_KIND or kind == SOUND_KIND):
        one = &values[_bit(DELTA)]
        if one.end - one.start > 2 and p[one.start] == 34:
            tokens = _delta(kind, one.end - one.start - 2)
    run.tokens += tokens
    if reason_bytes:
        run.reason = p + reason
        run.reason_bytes = reason_bytes
    one = &values[_bit(CHOICES)]
    listed = one.start and p[one.start] == 91
    choices = listed and after_space(p, one.start + 1, n) != one.end - 1
    one = &values[_bit(USAGE)]
    usage = one.start and p[one.start] == 123
    if usage or (
        values[_bit(TIMINGS)].start and p[values[_bit(TIMINGS)].start] == 123
    ) or (
        values[_bit(RESPONSE)].start and p[values[_bit(RESPONSE)].start] == 123
    ) or (values[_bit(MESSAGE)].start and p[values[_bit(MESSAGE)].start] == 123):
        _usage_of(run, p, n, choices)
    if fails:
        return PLAIN
    if choices:
        return CLOSING if reason_bytes else PLAIN
    one = &values[_bit(CHOICES)]
    if not listed and ((one.start and p[one.start] != 110) or kind != NO_KIND):
        return PLAIN
    return EXTRA if usage else PLAIN


# ---- events in bytes ---------------------------------------------------------------------------------------------------

cdef Py_ssize_t _end_of_event(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Behind the first line end that a line end follows (CRLF is one); -1 = not there yet."""
    cdef Py_ssize_t after
    while True:
        i = line_end(p, i, n)
        if i >= n:
            return -1
        after = i + 1
        if p[i] == 13 and after < n and p[after] == 10:
            after += 1
        if after < n:
            if p[after] == 10:
                return after + 1
            if p[after] == 13:
                return after + 2 if after + 1 < n and p[after + 1] == 10 else after + 1
        i += 1


cdef bint _names_error(Bytes p, Py_ssize_t n) noexcept nogil:
    """Whether the line at ``p`` names its event ``error``."""
    cdef Py_ssize_t i = 6
    if n < 11 or p[0] != 101 or not _at(p, 0, n, b"event:", 6):
        return False
    while i < n and p[i] == 32:
        i += 1
    while n > i and p[n - 1] == 32:
        n -= 1
    return n - i == 5 and memcmp(p + i, b"error", 5) == 0


cdef Py_ssize_t _value_of(Bytes p, Py_ssize_t n) noexcept nogil:
    """Where in the line at ``p`` its data begins; -1 = it has none."""
    if n < 4 or p[0] != 100 or memcmp(p, b"data", 4) != 0 or (n > 4 and p[4] != 58):
        return -1
    return 4 if n == 4 else 6 if n > 5 and p[5] == 32 else 5


cdef inline Py_ssize_t _value_of_error(Bytes p, Py_ssize_t n) noexcept nogil:
    """The same of a line ``error: ...``, which says an event's name and its data at once."""
    if n < 6 or p[0] != 101 or memcmp(p, b"error:", 6) != 0:
        return -1
    return 7 if n > 6 and p[6] == 32 else 6


cdef Py_ssize_t _next_line(Bytes p, Py_ssize_t end, Py_ssize_t n) noexcept nogil:
    return end + (2 if end + 1 < n and p[end] == 13 and p[end + 1] == 10 else 1)


cdef int _read(Bytes p, Py_ssize_t n, Py_ssize_t *at, Py_ssize_t *size, bint *error) noexcept nogil:
    """How many lines of data an event has, where the data of the last one is, and whether it calls itself an error."""
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t end, value
    cdef int lines = 0
    while start <= n:
        end = line_end(p, start, n)
        value = _value_of(p + start, end - start)
        if value < 0:
            value = _value_of_error(p + start, end - start)
            error[0] = error[0] or value >= 0
        if value >= 0:
            lines += 1
            at[0] = start + value
            size[0] = end - start - value
        elif _names_error(p + start, end - start):
            error[0] = True
        start = _next_line(p, end, n)
    return lines


cdef Py_ssize_t _join(Bytes p, Py_ssize_t n, unsigned char *to) noexcept nogil:
    """Put the data of all lines of an event that has such at ``to``, and a zero behind it; its size."""
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t end, value
    cdef bint more = False
    while start <= n:
        end = line_end(p, start, n)
        value = _value_of(p + start, end - start)
        if value < 0:
            value = _value_of_error(p + start, end - start)
        if value >= 0:
            if more:
                to[size] = 10
                size += 1
            more = True
            memcpy(to + size, p + start + value, end - start - value)
            size += end - start - value
        start = _next_line(p, end, n)
    to[size] = 0
    return size


cdef Py_ssize_t _dull(Bytes p, Py_ssize_t n) noexcept nogil:
    """The size of the event at ``p``, when it is a whole one without data or a name; 0 = it is not."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t end
    while True:
        end = line_end(p, i, n)
        if end >= n:
            return 0
        if end == i:
            i = _next_line(p, end, n)
            return i if i <= EVENT_MAX else 0
        if _value_of(p + i, end - i) >= 0 or (p[i] == 101 and (_at(p, i, end, b"event:", 6) or _at(p, i, end, b"error:", 6))):
            return 0
        i = _next_line(p, end, n)
        # A CR at the end of all that came: the LF that would make it one line end may follow.
        if i >= n:
            return 0


cdef Py_ssize_t _told(Bytes p, Py_ssize_t n, Run *run, int *what) noexcept nogil:
    """The size of the event at ``p``, when it is a whole one, and the last of its lines its only data: ``what`` it is has been
    added to ``run`` then. 0 = it must be looked into, or does not end here."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t end, value, after
    cdef bint error = False
    if p[0] == 0xEF:
        return 0  # perhaps a byte order mark
    while True:
        end = line_end(p, i, n)
        if end >= n:
            return 0
        value = _value_of(p + i, end - i)
        if value < 0:
            value = _value_of_error(p + i, end - i)
            error = error or value >= 0
        after = _next_line(p, end, n)
        if after >= n:
            return 0
        if value >= 0:
            break
        if end == i:
            return 0
        if _names_error(p + i, end - i):
            error = True
        i = after
    if p[after] != 10 and p[after] != 13:
        return 0
    after = _next_line(p, after, n)
    if after > EVENT_MAX:
        return 0
    what[0] = _look(p, after, p + i + value, end - i - value, error, run)
    if what[0] == ODD:
        what[0] = _odd(p + i + value, end - i - value, error, run)
    return after if what[0] != DEEP else 0


cdef enum:
    LINE_BEGINS
    LINE_DATA
    LINE_NAME
    LINE_OTHER


cdef void _calls(LongEvent *one, Bytes p, Py_ssize_t n) noexcept nogil:
    """More of the name that a line gives it."""
    cdef Py_ssize_t i
    for i in range(n):
        if p[i] == 32:
            if 0 < one.name < 5:
                one.name = -1
        elif 0 <= one.name < 5 and p[i] == b"error"[one.name]:
            one.name += 1
        else:
            one.name = -1


cdef inline bint _is_named(LongEvent *one) noexcept nogil:
    """Whether it is called an error."""
    return one.named or (one.kind == LINE_NAME and one.name == 5)


cdef void _long_feed(LongEvent *one, Bytes p, Py_ssize_t n) noexcept nogil:
    """Read on in an event of any length: the data of its lines goes into the scanner of usage."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t stop, take
    cdef bint fails
    while i < n:
        stop = line_end(p, i, n)
        if one.kind == LINE_BEGINS:
            take = min(6 - one.size, stop - i)
            memcpy(one.head + one.size, p + i, take)
            one.size += <int>take
            i += take
            if one.size == 6 or stop < n:
                one.kind = LINE_OTHER
                if one.size == 6 and memcmp(one.head, b"event:", 6) == 0:
                    one.kind = LINE_NAME
                    one.name = 0
                fails = one.size == 6 and memcmp(one.head, b"error:", 6) == 0  # (llama.cpp's: both its name and its data)
                if fails or (one.size >= 4 and memcmp(one.head, b"data", 4) == 0 and (one.size == 4 or one.head[4] == 58)):
                    one.kind = LINE_DATA
                    one.named = one.named or fails
                    if one.begun:
                        scan_feed(&one.scan, b"\n", 1)
                    one.begun = True
                    take = 6 if one.size == 6 and (fails or one.head[5] == 32) else 5
                    if one.size > take:
                        scan_feed(&one.scan, one.head + take, one.size - take)
        if one.kind == LINE_DATA:
            scan_feed(&one.scan, p + i, stop - i)
        elif one.kind == LINE_NAME:
            _calls(one, p + i, stop - i)
        if stop < n:
            one.named = _is_named(one)
            one.kind = LINE_BEGINS
            one.size = 0
        i = stop + 1


cdef int _add(list out, Bytes p, Py_ssize_t n) except -1:
    if n > 0:
        out.append(PyBytes_FromStringAndSize(<const char *>p, n))
    return 0


# The reasons that engines give, ready made.
cdef tuple _reasons = (b"stop", b"length", b"tool_calls", b"end_turn", b"max_tokens", b"tool_use")


cdef bytes _reason(Bytes p, Py_ssize_t n):
    cdef bytes known
    for known in _reasons:
        if PyBytes_GET_SIZE(known) == n and memcmp(PyBytes_AS_STRING(known), p, n) == 0:
            return known
    return PyBytes_FromStringAndSize(<const char *>p, n)


@cython.final
@cython.no_gc
@cython.freelist(32)
cdef class SseScanner:
    """One per stream. ``feed`` takes the payload as it comes and answers what of it to forward now."""

    def __cinit__(self, bint strip_usage):
        self._strip = strip_usage
        self._first = True
        self._lessons = 8
        self.failure = self.last = b""
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = self.reasoning_tokens = self.seconds = -1

    def __dealloc__(self):
        free(self._long)
        free(self._buffer)
        free(self._lesson)

    @property
    def _tail(self):
        return PyBytes_FromStringAndSize(<const char *>self._buffer, self._size)

    cpdef bytes feed(self, bytes payload):
        """What to forward of ``payload`` (and of what was held before): the same object when that is all of it."""
        cdef Run run
        cdef Py_ssize_t n, done
        if payload is None:
            raise TypeError("expected bytes, not None")
        n = PyBytes_GET_SIZE(payload)
        if n == 0:
            return payload
        if self.mid_event or self._drop_lf:
            return self._feed(payload, NULL, 0)
        self._begin(&run)
        done = self._plain(<Bytes>PyBytes_AS_STRING(payload), n, &run)
        if done < n:
            return self._feed(payload, &run, done)
        self._commit(&run)
        return payload

    cdef void _begin(self, Run *run) noexcept nogil:
        run.events = run.tokens = 0
        run.spoke = run.counted = run.error = False
        run.done = 0
        run.used = self._used
        run.of_choices = self.of_choices
        run.said.prompt = self.prompt_tokens
        run.said.cached = self.cached_tokens
        run.reason_bytes = run.stop_bytes = 0
        run.stranger = run.failure = NULL

    cdef Py_ssize_t _plain(self, Bytes p, Py_ssize_t n, Run *run) noexcept nogil:
        """How many bytes from ``p`` are whole events that go on as they are; what they come to is added to ``run``. So is
        what the event behind them says that is taken out or held. Changes nothing else."""
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t size, i
        cdef int what = PLAIN
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
                    and p[i - 1] != 92
                ):
                    run.events += 1
                    if i > pos + size:
                        run.tokens += _weight(i - pos - size)
                    pos = i + self._suffix_bytes
                    continue
            if p[pos] == 10 or p[pos] == 13:
                # A blank line ends an event of nothing.
                pos += 1
                continue
            if p[pos] == 58:
                # A comment is of no event, but there to arrive in time.
                i = line_end(p, pos, n)
                if i >= n:
                    break
                pos = _next_line(p, i, n)
                continue
            if p[pos] != 100 and p[pos] != 101 and not (self._first and pos == 0):
                size = _dull(p + pos, n - pos)
                if size:
                    pos += size
                    continue
            size = _told(p + pos, n - pos, run, &what)
            if size == 0:
                break
            if what != PLAIN and self._strip:
                run.stop_bytes = size
                run.stop_what = what
                break
            pos += size
        return pos

    cdef int _commit(self, const Run *run) except -1:
        if run.reason_bytes:
            self.finish_reason = _reason(run.reason, run.reason_bytes)
        self.events += run.events
        if run.counted:
            self.said_at = self.tokens + run.counted_at
        if run.tokens:
            self.tokens += run.tokens
            self.first_token_seen = True
        if run.done:
            self.done |= run.done
        if run.error and not self.error:
            self.error = True
            if run.failure != NULL:
                self.failure = PyBytes_FromStringAndSize(<const char *>run.failure, run.failure_bytes)
        if run.spoke:
            self._used = run.used
            self.of_choices = run.of_choices
            self.prompt_tokens = run.said.prompt
            self.cached_tokens = run.said.cached
            if run.said.completion >= 0:
                self.completion_tokens = run.said.completion
            if run.said.reasoning >= 0:
                self.reasoning_tokens = run.said.reasoning
            if run.said.seconds >= 0:
                self.seconds = run.said.seconds
        self._first = False
        if run.stranger != NULL and self._lessons:
            # Events whose surroundings change each time are not worth learning from for ever.
            self._lessons -= 1
            self._learn(run)
        return 0

    cdef void _learn(self, const Run *run) noexcept nogil:
        """Remember what surrounds the text of an event that says nothing else; for which, and why, see the Python twin."""
        cdef Bytes event = run.stranger
        cdef Bytes text = run.stranger_text
        cdef Py_ssize_t n = run.stranger_bytes
        cdef Bytes end = <Bytes>memchr(text, 34, event + n - text)
        cdef unsigned char *lesson
        if (
            end == NULL
            or end[-1] == 92
            or event[n - 1] != 10
            or (event[n - 2] != 10 and event[n - 2] != 13)
            or memmem(event, n, b'.delta"', 7) != NULL
        ):
            return
        if n > self._lesson_capacity:
            lesson = <unsigned char *>realloc(self._lesson, n)
            if lesson == NULL:
                return  # it is as well not to know
            self._lesson = lesson
            self._lesson_capacity = n
        memcpy(self._lesson, event, n)
        self._prefix = self._lesson
        self._prefix_bytes = text - event
        self._suffix = self._lesson + (end - event)
        self._suffix_bytes = event + n - end

    cdef int _append(self, Bytes p, Py_ssize_t n) except -1:
        """Behind the buffered bytes there is a zero: the grammar wants one."""
        cdef Py_ssize_t capacity = self._capacity
        cdef void *grown
        if self._size + n >= capacity:
            capacity = max(self._size + n + 1, 2 * capacity, 512)
            grown = realloc(self._buffer, capacity)
            if grown == NULL:
                raise MemoryError
            self._buffer = <unsigned char *>grown
            self._capacity = capacity
        memcpy(self._buffer + self._size, p, n)
        self._size += n
        self._buffer[self._size] = 0
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
            self._buffer[n] = 0
            if n < SMALL_BUFFER and self._capacity > 4 * SMALL_BUFFER:
                p = <Bytes>realloc(self._buffer, SMALL_BUFFER)
                if p != NULL:
                    self._buffer = <unsigned char *>p
                    self._capacity = SMALL_BUFFER
        else:
            self._append(p, n)
        return 0

    cdef bytes _feed(self, bytes payload, const Run *known, Py_ssize_t known_bytes):
        """``feed``, the long way. ``known``: what the first bytes of the payload come to; nothing is held then."""
        cdef Bytes p = <Bytes>PyBytes_AS_STRING(payload)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t held = self._size - self._sent
        cdef Py_ssize_t sent = self._sent
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t scan = max(self._scanned - 3, 0)
        cdef Py_ssize_t read = self._size  # of an event that outgrew the buffer, so much has been read
        cdef Py_ssize_t end, stop, done
        cdef bint cut = False
        cdef bint keep = False
        cdef bint whole = False
        cdef int what
        cdef list out = []
        cdef Run run
        if self._drop_lf:
            self._drop_lf = False
            if p[0] == 10:
                if PyBytes_GET_SIZE(self.last):
                    self.last = self.last + b"\n"
                if size == 1:
                    return b""
                p += 1
                size -= 1
                cut = True
        if self._size:
            self._append(p, size)
            p = self._buffer
            size = self._size
        elif self._amid_comment:
            pos = self._comment_end(p, 0, size)
        while pos < size:
            what = PLAIN
            if not self._overlong and pos >= scan:
                if PyBytes_GET_SIZE(self.last) and (p[pos] == 10 or p[pos] == 13 or p[pos] == 58):
                    # These pass it by.
                    pos = scan = self._comment_end(p, pos, size) if p[pos] == 58 else pos + 1
                    continue
                if known != NULL:
                    run = known[0]
                    done = known_bytes
                    known = NULL
                elif PyBytes_GET_SIZE(self.last):
                    # What stands behind that is looked at by itself.
                    self._begin(&run)
                    done = 0
                else:
                    self._begin(&run)
                    done = self._plain(p + pos, size - pos, &run)
                if done or run.stop_bytes:
                    self._commit(&run)
                    pos = scan = pos + done
                    if run.stop_bytes == 0:
                        continue
                    what = run.stop_what
                    end = pos + run.stop_bytes
                elif p[pos] == 58:
                    pos = scan = self._comment_end(p, pos, size)
                    continue
                else:
                    end = _end_of_event(p, pos, size)
            else:
                end = _end_of_event(p, max(pos, scan), size)
            if end < 0:
                break
            if self._overlong:
                self._overlong = False
                self.events += 1
                self._long_ends(p + read, end - read)
                if self._strip and sent <= pos and is_extra(p[pos:end], EVENT_MAX):
                    what = EXTRA
            elif what == PLAIN:
                what = self._event(p + pos, end - pos)
            if self._strip and (what != PLAIN or PyBytes_GET_SIZE(self.last)):
                self._sifted(out, p, pos, end, size, what, &sent)
                cut = True
            pos = scan = end
            self._first = False
        if pos < size and self._overlong:
            _long_feed(self._long, p + read, size - read)
        elif pos < size and size - pos > EVENT_MAX:
            self._overlong = True
            self._candidate = self._strip and may_be_extra(p[pos:pos + EVENT_MAX])
            self._long_begins(p + pos, size - pos)
        if self._strip and pos < size:
            keep = sent <= pos and size - pos <= (USAGE_MAX if self._overlong and self._candidate else EVENT_MAX)
            if not keep and PyBytes_GET_SIZE(self.last):
                self._sifted(out, p, pos, pos, size, PLAIN, &sent)
                cut = True
        stop = pos if keep else size
        if stop > sent:
            if not cut and not held and not keep:
                whole = True
            else:
                _add(out, p + sent, stop - sent)
            sent = stop
        self._scanned = size - pos
        if self._overlong and not keep and size - pos > 3:
            self._keep_tail(p + size - 3, 3)
            self._sent = self._scanned = 3
        else:
            self._keep_tail(p + pos, size - pos)
            self._sent = sent - pos
        self.mid_event = self._size > 0 or self._amid_comment or PyBytes_GET_SIZE(self.last) > 0
        if whole:
            return payload
        return out[0] if len(out) == 1 else b"".join(out)

    cdef int _sifted(
        self, list out, Bytes p, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t size, int what, Py_ssize_t *sent
    ) except -1:
        """Take the event at ``pos`` out, or hold it, or let go what is held before it, which goes into ``out``. ``sent``: how
        much of these bytes is in there then, or forwarded, or taken out."""
        cdef bytes last = self.last
        cdef bytes event = p[pos:end]
        _add(out, p + sent[0], pos - sent[0])
        self.last = b""
        if sent[0] <= pos and (what == EXTRA or (what == PLAIN and PyBytes_GET_SIZE(last) and is_silent(event))):
            if PyBytes_GET_SIZE(last):
                last = spliced(last, event)
                self._given = True
        elif what == CLOSING and sent[0] <= pos and not self._given and takes_more(event):
            self.last = event
        else:
            end = max(sent[0], pos)
        if PyBytes_GET_SIZE(last):
            out.append(last)
        if sent[0] <= pos < end:
            self._drop_lf = end == size and p[end - 1] == 13
        sent[0] = end
        return 0

    cdef Py_ssize_t _comment_end(self, Bytes p, Py_ssize_t pos, Py_ssize_t n) noexcept nogil:
        """Behind a comment's line, or what there is of it: it is of no event, but there to arrive in time."""
        cdef Py_ssize_t end = line_end(p, pos, n)
        self._amid_comment = end >= n
        self._first = False
        return n if end >= n else _next_line(p, end, n)

    cdef int _long_begins(self, Bytes p, Py_ssize_t n) except -1:
        """The event that begins with these bytes outgrows the buffer."""
        free(self._long)
        self._long = <LongEvent *>malloc(sizeof(LongEvent))
        if self._long == NULL:
            raise MemoryError
        scan_begin(&self._long.scan)
        self._long.kind = LINE_BEGINS
        self._long.size = 0
        self._long.begun = self._long.named = False
        if self._first and n >= 3 and p[0] == 0xEF and p[1] == 0xBB and p[2] == 0xBF:
            p += 3
            n -= 3
        _long_feed(self._long, p, n)
        return 0

    cdef int _long_ends(self, Bytes p, Py_ssize_t n) except -1:
        """It ends with these."""
        cdef LongEvent *one = self._long
        cdef Run run
        self.long_at = self.events
        _long_feed(one, p, n)
        if _is_named(one) and not self.error:
            self.error = True
            self.failure = scan_failure(&one.scan)
        if one.scan.whole:
            self._begin(&run)
            if one.scan.error and not self.error:
                self.failure = scan_failure(&one.scan)
            run.error = one.scan.error
            # (Its choices are not looked for: there may be some.)
            _take(&run, &one.scan, True)
            self._commit(&run)
        self._long = NULL
        free(one)
        return 0

    cdef int _event(self, Bytes p, Py_ssize_t n) except -1:
        """Take note of one whole event; what it is."""
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t size = 0
        cdef int lines, what
        cdef bint error = False
        cdef unsigned char room[JOINED_ROOM]
        cdef unsigned char *joined = room
        cdef bytes spare
        cdef Run run
        if n > EVENT_MAX and n - (p[n - 2] == 13 and p[n - 1] == 10) > EVENT_MAX:
            # (CR ends it; the LF behind it may come later, and must make no difference.)
            self.events += 1
            self._long_begins(p, n)
            self._long_ends(p, 0)
            return EXTRA if self._strip and is_extra(p[:n], EVENT_MAX) else PLAIN
        if self._first and n >= 3 and p[0] == 0xEF and p[1] == 0xBB and p[2] == 0xBF:
            p += 3
            n -= 3
        lines = _read(p, n, &at, &size, &error)
        if lines == 0:
            if error:
                self.error = True
            return PLAIN
        if lines > 1:
            # (The bytes that are joined are nowhere in the event: nothing is learned from them.)
            if n >= JOINED_ROOM:
                spare = PyBytes_FromStringAndSize(NULL, n)  # with a zero behind it
                joined = <unsigned char *>PyBytes_AS_STRING(spare)
            size = _join(p, n, joined)
            p = joined
            at = 0
        self._begin(&run)
        what = _look(p if lines == 1 else NULL, n, p + at, size, error, &run)
        if what == ODD:
            what = _odd(p + at, size, error, &run)
        if what != DEEP:
            self._commit(&run)
            return what
        self.events += 1
        return self._decoded(PyBytes_FromStringAndSize(<const char *>p + at, size), error)

    cdef int _decoded(self, bytes data, bint error) except -1:
        """Take note of what odd data says, of an event that calls itself an ``error`` or not; what it is."""
        cdef bint usage, choices, fails
        cdef bytes kind, said
        cdef int at
        cdef Py_ssize_t reason, reason_bytes
        cdef Py_ssize_t tokens = _words(<Bytes>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &reason, &reason_bytes)
        cdef Run run
        if error and not self.error:
            self.error = True
            self.failure = data
        if data[:6] == b"[DONE]":
            self.done |= MARKED
            return PLAIN
        try:
            event = _decode_event(data)
        except (_DecodeError, RecursionError):
            # Whoever reads it will fail; until then it counts as it does where it is told without being decoded.
            if data[:1] == b"{" and tokens:
                self.tokens += tokens
                self.first_token_seen = True
            return PLAIN
        kind = bytes(event.type)
        said = bytes(event.error)
        fails = (
            _is_error(<Bytes>PyBytes_AS_STRING(said), 0, PyBytes_GET_SIZE(said))
            or _is_failure(<Bytes>PyBytes_AS_STRING(kind), 0, PyBytes_GET_SIZE(kind))
        )
        if fails and not self.error:
            self.error = True
            self.failure = data
        if _is_last(<Bytes>PyBytes_AS_STRING(kind), 0, PyBytes_GET_SIZE(kind)):
            self.done |= NAMED
        at = _kind(<Bytes>PyBytes_AS_STRING(kind), 0, PyBytes_GET_SIZE(kind)) if PyBytes_GET_SIZE(kind) else NO_KIND
        if at == OTHER_KIND:
            tokens = 0
        elif not tokens and (at == DELTA_KIND or at == SOUND_KIND) and bytes(event.delta)[:1] == b'"' and len(event.delta) > 2:
            tokens = _delta(at, len(event.delta) - 2)
        if tokens:
            self.tokens += tokens
            self.first_token_seen = True
        match = _finish(data)
        if match is not None:
            self.finish_reason = match[1]
        usage = bytes(event.usage)[:1] == b"{"
        choices = _a_list(bytes(event.choices)) is not None
        if usage or b"{" in (bytes(event.timings)[:1], bytes(event.response)[:1], bytes(event.message)[:1]):
            self._begin(&run)
            _usage_of(&run, <Bytes>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), choices)
            self._commit(&run)
        if fails or error:
            return PLAIN
        if choices:
            return CLOSING if match is not None else PLAIN
        if at != NO_KIND and bytes(event.choices)[:1] != b"[":
            return PLAIN
        return EXTRA if usage and _no_choices(bytes(event.choices)) is not None else PLAIN

    cdef bytes _let_go(self):
        """The event that is held, where it goes on as it came, at the end. (A comment before it has a line of its own.)"""
        cdef bytes last = self.last
        self.last = b""
        return b"\n" + last if self._amid_comment and PyBytes_GET_SIZE(last) else last

    def let_go(self):
        """The event that is held: the next one is waited for no longer."""
        cdef bytes last = self._let_go()
        self._amid_comment = False
        self.mid_event = self._size > 0
        return last

    cpdef bytes release(self):
        """What is held, but for the beginning of what may be the extra chunk: nothing more goes on. (More may be read.)"""
        cdef bytes half
        if self._size == 0 and PyBytes_GET_SIZE(self.last) == 0:
            return b""
        half = PyBytes_FromStringAndSize(<const char *>self._buffer + self._sent, self._size - self._sent)
        if not self._sent and not is_another(half):
            half = b""
        else:
            self._sent = self._size
        self.mid_event = self._size > 0 or self._amid_comment
        return self._let_go() + half

    cpdef bytes flush(self):
        """What is held at the clean end of the message, an event whose blank line never came too: ``mid_event`` then."""
        cdef bytes event = PyBytes_FromStringAndSize(<const char *>self._buffer, self._size)
        cdef int what = PLAIN
        cdef bytes held
        self.mid_event = PyBytes_GET_SIZE(event) > 0 or self._amid_comment
        if self._overlong:
            self.events += 1
            self._long_ends(self._buffer, 0)
            if self._strip and not self._sent and is_extra(event, EVENT_MAX):
                what = EXTRA
        elif self._size:
            what = self._event(self._buffer, self._size)
        if what == EXTRA and self._strip and not self._sent:
            held = spliced(self.last, event) if PyBytes_GET_SIZE(self.last) else b""
            self.last = b""
            self.mid_event = False
        else:
            held = self._let_go() + event[self._sent:]
        self._keep_tail(NULL, 0)
        self._sent = self._scanned = 0
        self._overlong = self._amid_comment = False
        return held


cpdef bytes line_at(bytes data, Py_ssize_t at):
    """The line of ``data`` that begins at ``at``, and all line ends behind it."""
    if data is None:
        raise TypeError("expected bytes, not None")
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(data)
    cdef Py_ssize_t end
    at = min(max(at, 0), n)
    end = line_end(p, at, n)
    while end < n and (p[end] == 10 or p[end] == 13):
        end += 1
    return PyBytes_FromStringAndSize(<const char *>p + at, end - at)


cpdef Py_ssize_t passes(ChunkScanner chunks, SseScanner sse, bytes data) except -1:
    """How many bytes of payload are in ``data``, when it can go on as it stands, frames and all; 0 = it cannot."""
    cdef Bytes p
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t end = 0
    cdef Py_ssize_t n, size
    cdef Py_ssize_t payload = 0
    cdef Run run
    if chunks is None or data is None:
        raise TypeError("expected a ChunkScanner and bytes")
    p = <Bytes>PyBytes_AS_STRING(data)
    n = PyBytes_GET_SIZE(data)
    if n == 0 or not chunks.whole or (sse is not None and (sse.mid_event or sse._drop_lf)):
        return 0
    if sse is not None:
        if n > 5 and p[n - 6] == 10 and memcmp(p + n - 5, b"0\r\n\r\n", 5) == 0:
            # The end of the message; what comes with it says the most, and would be read twice.
            return 0
        sse._begin(&run)
    while n:
        size = plain_chunk(p, n, &start, &end)
        if size == 0 or (sse is not None and sse._plain(p + start, size, &run) != size):
            return 0
        payload += size
        p += end
        n -= end
    if sse is not None:
        sse._commit(&run)
    chunks.aligned = True
    return payload
