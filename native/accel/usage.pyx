# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""Compiled twin of fastgw/accel/usage.py: one step for each byte that matters, sixteen bytes a step in what is skipped."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy, memset

from fastgw.accel.json cimport Bytes, after_colon, bytes_end, is_digit

from fastgw.accel import figures as table

cdef extern from *:
    """
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* The first quote or bracket from `i` on; `n` when there is none before. (Bit 5 apart, brackets are braces.) */
    static CYTHON_INLINE Py_ssize_t fastgw_structure(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
    #ifdef __SSE2__
        const __m128i quote = _mm_set1_epi8('"'), bit = _mm_set1_epi8(0x20);
        const __m128i opens = _mm_set1_epi8('{'), closes = _mm_set1_epi8('}');
        for (; i + 16 <= n; i += 16) {
            const __m128i some = _mm_loadu_si128((const __m128i *)(p + i)), low = _mm_or_si128(some, bit);
            const unsigned stops = (unsigned)_mm_movemask_epi8(_mm_or_si128(
                _mm_cmpeq_epi8(some, quote), _mm_or_si128(_mm_cmpeq_epi8(low, opens), _mm_cmpeq_epi8(low, closes))));
            if (stops)
                return i + __builtin_ctz(stops);
        }
    #endif
        while (i < n && p[i] != '"' && (p[i] | 0x20) != '{' && (p[i] | 0x20) != '}')
            i++;
        return i;
    }

    /* Whether `name` is among these bytes: one in its quotes, of `size` bytes with them. */
    static CYTHON_INLINE int fastgw_has(const unsigned char *p, Py_ssize_t n, const char *name, Py_ssize_t size) {
        Py_ssize_t i = 0;
    #ifdef __SSE2__
        const __m128i quote = _mm_set1_epi8('"'), letter = _mm_set1_epi8(name[1]);
        for (; i + 16 + size <= n; i += 16) {
            unsigned at = (unsigned)_mm_movemask_epi8(_mm_and_si128(
                _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i)), quote),
                _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i + 1)), letter)));
            for (; at; at &= at - 1)
                if (memcmp(p + i + __builtin_ctz(at), name, size) == 0)
                    return 1;
        }
    #endif
        for (; i + size <= n; i++)
            if (p[i] == '"' && memcmp(p + i, name, size) == 0)
                return 1;
        return 0;
    }
    """
    bint has "fastgw_has"(Bytes p, Py_ssize_t n, const char *name, Py_ssize_t size) noexcept nogil
    Py_ssize_t structure "fastgw_structure"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t haystack_bytes, const void *needle, size_t needle_bytes)

# As in figures.
cdef enum:
    ANSWER
    WRAPPED
    META
    USAGE
    PROMPT_PARTS
    ANSWER_PARTS
    TIMINGS
    WHERES

cdef enum:
    OWN
    RESPONSE
    MESSAGE
    TOKENS
    BILLED
    TIMED

cdef enum:
    PROMPT
    COMPLETION
    INPUT
    OUTPUT
    TOTAL
    CACHE_READ
    CACHE_WRITTEN
    SECONDS
    PROMPT_CACHED
    INPUT_CACHED
    COMPLETION_THOUGHT
    OUTPUT_THOUGHT
    THOUGHT

cdef enum:
    DIGITS = 12
    NUMBER_BYTES = 32
    MAX_DEPTH = 512
    MOST_NAMES = 64
    QUICK_BYTES = 1024
    WORD_BYTES = 64
    ROWS = 48
    LONGEST = 32

cdef enum:
    FAILED = 1
    FAILED_SO
    ANSWERED

if (
    (table.ANSWER, table.WRAPPED, table.META, table.USAGE, table.PROMPT_PARTS, table.ANSWER_PARTS, table.TIMINGS)
    != (ANSWER, WRAPPED, META, USAGE, PROMPT_PARTS, ANSWER_PARTS, TIMINGS)
    or (table.OWN, table.RESPONSE, table.MESSAGE, table.TOKENS, table.BILLED, table.TIMED)
    != (OWN, RESPONSE, MESSAGE, TOKENS, BILLED, TIMED)
    or (table.PROMPT, table.COMPLETION, table.INPUT, table.OUTPUT, table.TOTAL, table.CACHE_READ, table.CACHE_WRITTEN)
    != (PROMPT, COMPLETION, INPUT, OUTPUT, TOTAL, CACHE_READ, CACHE_WRITTEN)
    or (table.SECONDS, table.PROMPT_CACHED, table.INPUT_CACHED, table.COMPLETION_THOUGHT, table.OUTPUT_THOUGHT, table.THOUGHT)
    != (SECONDS, PROMPT_CACHED, INPUT_CACHED, COMPLETION_THOUGHT, OUTPUT_THOUGHT, THOUGHT)
    or (table.COUNTS, table.PLACES, table.DIGITS, table.NUMBER_BYTES, table.NAME_BYTES, table.MAX_DEPTH, table.MOST_NAMES,
        table.QUICK_BYTES, table.WORDS_BYTES, table.WORD_BYTES, table.FAILED, table.FAILED_SO, table.ANSWERED)
    != (COUNTS, PLACES, DIGITS, NUMBER_BYTES, NAME_BYTES, MAX_DEPTH, MOST_NAMES, QUICK_BYTES, WORDS_BYTES, WORD_BYTES,
        FAILED, FAILED_SO, ANSWERED)
    or table.EMPTY_WORDS != {b"null", b"false", b"0"}
    or len(table.MEMBERS) > ROWS or max([len(one.name) for one in table.MEMBERS]) >= LONGEST
):
    raise ImportError("fastgw.accel.usage was compiled with another fastgw.accel.figures: build it again")

cdef enum Phase:
    START
    FIRST
    KEY
    NAME
    COLON
    VALUE
    SCALAR
    STRING
    AFTER
    SKIP
    SKIP_STRING
    OVER
    OPENED

cdef struct Row:
    char name[LONGEST]
    int size
    int count
    int opens
    int place
    int tells
    int next  # of the same size, at the same place; -1 = none

cdef Row _rows[ROWS]
cdef signed char _first[WHERES][LONGEST]


def _fill():
    cdef int at, where
    cdef bytes name
    memset(_first, 255, sizeof(_first))
    for at, one in enumerate(table.MEMBERS):
        name = one.name
        memcpy(_rows[at].name, PyBytes_AS_STRING(name), len(name))
        _rows[at].size = len(name)
        _rows[at].count = one.slot
        _rows[at].opens = one.opens
        _rows[at].place = one.place
        _rows[at].tells = one.tells
        where = one.where
        _rows[at].next = _first[where][len(name)]
        _first[where][len(name)] = at


_fill()


cdef inline bint _in_word(unsigned char c) noexcept nogil:
    return 48 <= c <= 57 or 97 <= (c | 32) <= 122 or c == 45 or c == 46 or c == 43


cdef inline bint _is_blank(unsigned char c) noexcept nogil:
    return c == 32 or c == 10 or c == 13 or c == 9


cdef void scan_begin(Scan *scan) noexcept nogil:
    scan.phase = START
    scan.levels = 0
    scan.member = -1
    scan.depth = scan.names = 0
    scan.size = 0
    scan.error = scan.answers = scan.heard = scan.whole = scan.escaped = False
    memset(scan.told, 0, sizeof(scan.told))


cdef inline int _hex(unsigned char c) noexcept nogil:
    if 48 <= c <= 57:
        return c - 48
    c |= 32
    return c - 87 if 97 <= c <= 102 else -1


cdef inline void _look_at(Scan *scan) noexcept nogil:
    scan.names += 1
    if scan.names > MOST_NAMES:
        scan.phase = OVER


cdef void _named(Scan *scan, Bytes p, Py_ssize_t size) noexcept nogil:
    """The next value's name is what stands at ``p``."""
    cdef Level *level = &scan.stack[scan.levels - 1]
    cdef unsigned char name[NAME_BYTES]
    cdef Py_ssize_t i
    cdef Py_ssize_t made = 0
    cdef int at
    cdef Row *row
    scan.member = -1
    scan.phase = COLON
    if size > NAME_BYTES:
        return
    if memchr(p, 92, size) != NULL:
        if memmem(p, size, b"\\u00", 4) == NULL:
            return
        _look_at(scan)
        i = made = 0
        while i < size:
            if p[i] == 92:
                if (
                    size - i < 6 or p[i + 1] != 117 or p[i + 2] != 48 or p[i + 3] != 48 or not 48 <= p[i + 4] <= 55
                    or _hex(p[i + 5]) < 0
                ):
                    return
                name[made] = <unsigned char>((p[i + 4] - 48) << 4 | _hex(p[i + 5]))
                i += 6
            else:
                name[made] = p[i]
                i += 1
            made += 1
        p = name
        size = made
    if size >= LONGEST:
        return
    at = _first[level.where][size]
    while at >= 0 and memcmp(_rows[at].name, p, size) != 0:
        at = _rows[at].next
    if at < 0:
        return
    if not made:
        _look_at(scan)
    scan.member = at
    row = &_rows[at]
    # The last of its name counts, whatever it is.
    if row.place >= 0:
        scan.told[row.place] = False
    elif row.opens == USAGE:
        scan.told[level.place] = False
    if row.count >= 0:
        scan.counts[row.count] = -1
    elif level.parts >= 0:
        scan.counts[level.parts] = -1


cdef inline bint _is_empty_word(Bytes p, Py_ssize_t size) noexcept nogil:
    """Whether it is one of those that tell of nothing."""
    if size == 4:
        return memcmp(p, b"null", 4) == 0
    return (size == 5 and memcmp(p, b"false", 5) == 0) or (size == 1 and p[0] == 48)


cdef void _scalar(Scan *scan, Bytes p, Py_ssize_t size) noexcept nogil:
    """The value is what stands at ``p``."""
    cdef Row *row
    cdef long long number = 0
    cdef int count
    cdef Py_ssize_t i = 0
    if scan.member < 0:
        return
    row = &_rows[scan.member]
    if row.tells:
        if row.tells == FAILED and not _is_empty_word(p, size):
            scan.error = True
        return
    count = row.count
    if row.opens >= 0 or size > NUMBER_BYTES:
        return
    if count < 0:
        count = scan.stack[scan.levels - 1].parts
    if count < 0:
        return
    while i < size and is_digit(p[i]):
        number = number * 10 + (p[i] - 48)
        i += 1
        if i > DIGITS:
            return
    if i == 0:
        return
    if i < size:
        if p[i] != 46 or i + 1 == size:
            return
        i += 1
        if count == SECONDS:
            while i < size and p[i] == 48:
                i += 1
            if i < size:
                number += 1
            while i < size and is_digit(p[i]):
                i += 1
        else:
            while i < size and p[i] == 48:
                i += 1
        if i < size:
            return
    scan.counts[count] = number


cdef inline void _open(Scan *scan, int where, int place, int parts) noexcept nogil:
    cdef Level *level = &scan.stack[scan.levels]
    level.where = where
    level.place = place
    level.parts = parts
    scan.levels += 1


cdef inline int _no_counts(Scan *scan) noexcept nogil:
    cdef int i
    for i in range(COUNTS):
        scan.counts[i] = -1
    return 0


cdef inline void _keep(Words *one, unsigned char c) noexcept nogil:
    if one.size == WORDS_BYTES:
        one.full = one.over = True
    else:
        one.kept[one.size] = c
        one.size += 1


cdef void _begin(Words *one, const char *name, Py_ssize_t size) noexcept nogil:
    """The value of the member ``name`` follows, as words.Words.begin()."""
    cdef Py_ssize_t i
    one.depth = 0
    one.text = one.escaped = False
    one.over = one.full
    _keep(one, 44 if one.size else 123)
    _keep(one, 34)
    for i in range(size):
        _keep(one, name[i])
    _keep(one, 34)
    _keep(one, 58)


cdef void _hear(Words *one, Bytes p, Py_ssize_t n) noexcept nogil:
    """More of an error, as words.Words.feed()."""
    cdef Py_ssize_t i
    cdef unsigned char c
    cdef bint keeps
    for i in range(n):
        if one.over:
            return
        c = p[i]
        keeps = one.depth <= 1
        if one.text:
            keeps = keeps and 32 <= c < 127
            if one.escaped:
                one.escaped = keeps = False
            elif c == 92:
                one.escaped = True
                keeps = False
            elif c == 34:
                one.text = False
            else:
                one.length += 1
                keeps = keeps and one.length <= WORD_BYTES
        elif c == 34:
            one.text = True
            one.length = 0
        elif c == 123 or c == 91:
            one.depth += 1
            if keeps and one.depth == 2:
                _keep(one, 48)
            keeps = one.depth == 1
        elif c == 125 or c == 93:
            one.depth -= 1
            keeps = one.depth == 0
        if keeps:
            _keep(one, c)
        if one.depth <= 0 and not one.text:
            one.over = True


cdef bytes scan_failure(const Scan *scan):
    """What the error says, as far as that is kept."""
    if not scan.heard or not scan.error or not scan.words.over or scan.words.full:
        return b""
    return PyBytes_FromStringAndSize(<const char *>scan.words.kept, scan.words.size) + b"}"


cdef void _tells(Scan *scan, Bytes p, Py_ssize_t n) noexcept nogil:
    """The value that has been opened is not empty: ``p`` is in it, behind blanks. An error's words are kept."""
    cdef Row *row = &_rows[scan.member]
    cdef unsigned char opens = 34 if scan.closes == 34 else scan.closes - 2
    if row.tells == ANSWERED:
        scan.answers = True
    elif row.tells == FAILED_SO or not scan.error:
        if not scan.heard:
            scan.heard = True
            memset(&scan.words, 0, sizeof(scan.words) - WORDS_BYTES)
        _begin(&scan.words, row.name, row.size)
        _hear(&scan.words, &opens, 1)
        _hear(&scan.words, p, n)
        scan.error = scan.error or row.tells == FAILED


cdef void scan_feed(Scan *scan, Bytes p, Py_ssize_t n) noexcept nogil:
    """Take note of the ``n`` next bytes."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t start
    cdef unsigned char c
    cdef Level *level
    cdef Row *row
    if scan.heard:
        _hear(&scan.words, p, n)
    while i < n:
        if scan.phase == SKIP:
            c = p[i]
            if c != 34 and (c | 32) != 123 and (c | 32) != 125:
                i = structure(p, i + 1, n)
                if i >= n:
                    return
                c = p[i]
            i += 1
            if c == 34:
                if i < n and p[i] == 34:
                    i += 1
                    continue
                scan.phase = SKIP_STRING
            elif c & 6 == 2:  # [ or {
                if scan.levels + scan.depth == MAX_DEPTH:
                    scan.phase = OVER
                    return
                scan.depth += 1
            else:
                scan.depth -= 1
                if scan.depth == 0:
                    scan.phase = AFTER
                continue
            if scan.phase == SKIP:
                continue
        if scan.phase == STRING or scan.phase == SKIP_STRING:
            if scan.escaped:
                scan.escaped = False
                i += 1
            while i < n:
                i = bytes_end(p, i, n)
                if i >= n:
                    return
                if p[i] == 34:
                    break
                if i + 1 == n:
                    scan.escaped = True
                    return
                i += 2
            if i >= n:
                return
            i += 1
            scan.phase = AFTER if scan.phase == STRING else SKIP
            continue
        if scan.phase == NAME:
            start = i
            if scan.escaped:
                scan.escaped = False
                i += 1
            while i < n:
                i = bytes_end(p, i, n)
                if i >= n or p[i] == 34:
                    break
                if i + 1 == n:
                    scan.escaped = True
                    i = n
                    break
                i += 2
            if i < n and scan.size == 0:
                _named(scan, p + start, i - start)
            else:
                i = min(i, n)
                if scan.size + i - start <= NAME_BYTES:
                    memcpy(scan.token + scan.size, p + start, i - start)
                    scan.size += i - start
                else:
                    scan.size = NAME_BYTES + 1
                if i == n:
                    return
                _named(scan, scan.token, scan.size)
            i += 1
            continue
        if scan.phase == SCALAR:
            start = i
            while i < n and _in_word(p[i]):
                i += 1
            if i < n and scan.size == 0:
                if i == start:
                    scan.phase = OVER
                    return
                _scalar(scan, p + start, i - start)
            else:
                if scan.size + i - start <= NUMBER_BYTES:
                    memcpy(scan.token + scan.size, p + start, i - start)
                    scan.size += i - start
                else:
                    scan.size = NUMBER_BYTES + 1
                if i == n:
                    return
                _scalar(scan, scan.token, scan.size)
            scan.phase = AFTER
            continue
        c = p[i]
        if scan.phase == OVER:
            while scan.whole and i < n:
                scan.whole = _is_blank(p[i])
                i += 1
            return
        if scan.phase == OPENED and (scan.closes == 34 or not _is_blank(c)):
            # (This byte is looked at once more.)
            if c != scan.closes:
                _tells(scan, p + i, n - i)
            scan.phase = STRING if scan.closes == 34 else SKIP
            continue
        if _is_blank(c):
            i += 1
            continue
        if scan.phase == VALUE:
            row = &_rows[scan.member] if scan.member >= 0 else NULL
            if c == 34:
                scan.phase = STRING
            elif c == 123 and row != NULL and row.opens >= 0:
                level = &scan.stack[scan.levels - 1]
                if row.count < 0:
                    _no_counts(scan)
                _open(scan, row.opens, row.place if row.place >= 0 else level.place, row.count)
                scan.phase = FIRST
            elif c == 123 or c == 91:
                scan.phase = SKIP
                scan.depth = 1
            else:
                scan.phase = SCALAR
                scan.size = 0
                continue
            if row != NULL and row.tells and scan.phase != FIRST:
                scan.closes = 34 if c == 34 else c + 2
                scan.phase = OPENED
        elif c == 34 and (scan.phase == FIRST or scan.phase == KEY):
            scan.phase = NAME
            scan.size = 0
        elif c == 58 and scan.phase == COLON:
            scan.phase = VALUE
        elif c == 44 and scan.phase == AFTER:
            scan.phase = KEY
        elif c == 125 and (scan.phase == AFTER or scan.phase == FIRST):
            scan.levels -= 1
            level = &scan.stack[scan.levels]
            if level.where == USAGE or level.where == TIMINGS:
                scan.told[level.place] = True
                memcpy(scan.places[level.place], scan.counts, sizeof(scan.counts))
            scan.phase = AFTER
            if scan.levels == 0:
                scan.phase = OVER
                scan.whole = True
        elif c == 123 and scan.phase == START:
            _open(scan, ANSWER, OWN, -1)
            scan.phase = FIRST
        else:
            scan.phase = OVER
            return
        i += 1


cdef inline long long _some(long long count) noexcept nogil:
    return count if count > 0 else 0


cdef bint _meaning(const long long *counts, Figures *figures) noexcept nogil:
    """As figures.meaning(); whether any tokens are told."""
    cdef long long completion = counts[COMPLETION] if counts[COMPLETION] >= 0 else counts[OUTPUT]
    cdef long long prompt = counts[PROMPT]
    cdef long long total = counts[TOTAL]
    if prompt < 0 and counts[INPUT] >= 0:
        prompt = counts[INPUT] + _some(counts[CACHE_READ]) + _some(counts[CACHE_WRITTEN])
    if total >= 0:
        if prompt < 0:
            prompt = _some(total - _some(completion))
        if completion < 0:
            completion = _some(total - prompt)
    figures.prompt = prompt
    figures.completion = completion
    figures.cached = counts[PROMPT_CACHED]
    if figures.cached < 0:
        figures.cached = counts[INPUT_CACHED] if counts[INPUT_CACHED] >= 0 else counts[CACHE_READ]
        if figures.cached < 0 and counts[CACHE_WRITTEN] >= 0:
            figures.cached = 0
    figures.reasoning = counts[COMPLETION_THOUGHT]
    if figures.reasoning < 0:
        figures.reasoning = counts[OUTPUT_THOUGHT] if counts[OUTPUT_THOUGHT] >= 0 else counts[THOUGHT]
    if total >= 0 and figures.reasoning > 0 and total == prompt + completion + figures.reasoning:
        figures.completion = completion + figures.reasoning
    return prompt >= 0 or completion >= 0


cdef inline bint _says(const Scan *scan, int place) noexcept nogil:
    cdef Figures figures
    return scan.told[place] and _meaning(scan.places[place], &figures)


cdef void scan_figures(const Scan *scan, Figures *figures) noexcept nogil:
    cdef Figures timed
    cdef int place
    figures.seconds = scan.places[OWN][SECONDS] if scan.told[OWN] else -1
    for place in range(PLACES):
        if scan.told[place] and _meaning(scan.places[place], figures):
            figures.measured = place == TIMED
            if figures.cached < 0 and scan.told[TIMED]:
                _meaning(scan.places[TIMED], &timed)
                figures.cached = timed.cached
            return
    figures.prompt = figures.completion = figures.cached = figures.reasoning = -1
    figures.measured = False


@cython.final
cdef class UsageScanner:
    """One per answer, or event; see the Python twin."""

    def __cinit__(self):
        scan_begin(&self._scan)

    cpdef feed(self, bytes data):
        """Take note of the next bytes."""
        if data is None:
            raise TypeError("expected bytes, not None")
        scan_feed(&self._scan, <Bytes>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cpdef tuple figures(self):
        """(prompt, completion, cached, reasoning) tokens, -1 = not said."""
        cdef Figures figures
        scan_figures(&self._scan, &figures)
        return figures.prompt, figures.completion, figures.cached, figures.reasoning

    cpdef bytes failure(self):
        """What the error says, as far as that is kept: an object with an ``error``, or nothing."""
        return scan_failure(&self._scan)

    def says(self, int place):
        """Whether tokens are told there."""
        if not 0 <= place < PLACES:
            raise IndexError("no such place")
        return _says(&self._scan, place)

    @property
    def error(self):
        return self._scan.error

    @property
    def answers(self):
        return self._scan.answers

    @property
    def whole(self):
        return self._scan.whole

    @property
    def measured(self):
        """Whether the figures are of llama.cpp's timings alone, which it may send early."""
        cdef Figures figures
        scan_figures(&self._scan, &figures)
        return figures.measured

    @property
    def seconds(self):
        """Of audio, where the answer's own usage tells those; -1 = it does not."""
        return self._scan.places[OWN][SECONDS] if self._scan.told[OWN] else -1


def scanned(bytes document) -> UsageScanner:
    """A scanner that has read ``document``."""
    cdef UsageScanner scanner = UsageScanner()
    scanner.feed(document)
    return scanner


cdef Py_ssize_t _last_usage(Bytes p, Py_ssize_t end) noexcept nogil:
    """Where the last ``"usage"`` before ``end`` begins; -1 = there is none."""
    cdef Py_ssize_t i = end - 7
    cdef unsigned char c
    while i >= 0:
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


cdef inline int _row(int where, Bytes p, Py_ssize_t size) noexcept nogil:
    """The row of this name, spelt plainly; -1 = it has none."""
    cdef int at
    if size >= LONGEST:
        return -1
    at = _first[where][size]
    while at >= 0 and memcmp(_rows[at].name, p, size) != 0:
        at = _rows[at].next
    return at


cdef inline Py_ssize_t _plain_name(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Where the name ends whose quote is at ``i``, and a colon follows; -1 = it is odd."""
    cdef Py_ssize_t end
    if p[i] != 34:
        return -1
    end = bytes_end(p, i + 1, n)
    return end if end + 1 < n and p[end] == 34 and p[end + 1] == 58 else -1


cdef Py_ssize_t _plain_counts(Bytes p, Py_ssize_t i, Py_ssize_t n, int where, int parts, long long *counts, int *names) noexcept nogil:
    """Behind the object whose first member may be at ``i``, as engines write it: without blanks; -1 = it is odd."""
    cdef Py_ssize_t start, end
    cdef long long number
    cdef int at, count
    if p[i] == 125:
        return i + 1
    while True:
        end = _plain_name(p, i, n)
        if end < 0:
            return -1
        at = _row(where, p + i + 1, end - i - 1)
        i = end + 2
        count = -1 if at < 0 else _rows[at].count if _rows[at].count >= 0 else parts
        if at >= 0:
            names[0] += 1
            if names[0] > MOST_NAMES - 8:
                return -1
        if count >= 0:
            counts[count] = -1
        start = i
        number = 0
        while is_digit(p[i]):
            number = number * 10 + (p[i] - 48)
            i += 1
            if i - start > DIGITS:
                return -1
        if i > start:
            if count == SECONDS or p[i] == 46:
                return -1
            if count >= 0 and _rows[at].opens < 0:
                counts[count] = number
        elif p[i] == 110 and n - i > 4 and memcmp(p + i, b"null", 4) == 0:
            i += 4
        elif p[i] == 123 and at >= 0 and _rows[at].opens >= 0:
            i = _plain_counts(p, i + 1, n, _rows[at].opens, count, counts, names)
            if i < 0:
                return -1
        elif p[i] == 34:
            i = bytes_end(p, i + 1, n) + 1
            if i >= n or p[i - 1] != 34:
                return -1
        else:
            return -1
        if p[i] == 125:
            return i + 1
        if p[i] != 44:
            return -1
        i += 1


cdef bint _plain_end(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """Whether from ``i`` on there are only members of the answer that say nothing of usage, and its end."""
    cdef Py_ssize_t end, start
    while p[i] == 44:
        end = _plain_name(p, i + 1, n)
        if end < 0 or _row(ANSWER, p + i + 2, end - i - 2) >= 0:
            return False
        i = end + 2
        if p[i] == 34:
            i = bytes_end(p, i + 1, n)
            if i >= n or p[i] != 34:
                return False
            i += 1
        else:
            start = i
            while i < n and _in_word(p[i]):
                i += 1
            if i == start:
                return False
    if p[i] != 125:
        return False
    i += 1
    while i < n and _is_blank(p[i]):
        i += 1
    return i == n


cpdef (long long, long long, long long, long long) usage_in(bytes body) except *:
    """(prompt, completion, cached, reasoning) tokens of a whole plain answer, -1 = not said."""
    cdef Bytes p
    cdef Py_ssize_t n, at, value, i
    cdef int names = 0
    cdef Scan scan
    cdef Figures figures
    if body is None:
        raise TypeError("expected bytes, not None")
    p = <Bytes>PyBytes_AS_STRING(body)
    n = PyBytes_GET_SIZE(body)
    at = _last_usage(p, n)
    if at > 0 and n - at <= QUICK_BYTES and p[at - 1] != 92:
        value = after_colon(p, at + 7, n)
        if value >= 0 and p[value] == 123:
            for i in range(COUNTS):
                scan.counts[i] = -1
            i = _plain_counts(p, value + 1, n, USAGE, -1, scan.counts, &names)
            if i >= 0 and _plain_end(p, i, n) and _meaning(scan.counts, &figures):
                if figures.cached >= 0 or not has(p, at, b'"timings"', 9):
                    return figures.prompt, figures.completion, figures.cached, figures.reasoning
            scan_begin(&scan)
            _open(&scan, ANSWER, OWN, -1)
            _no_counts(&scan)
            _open(&scan, USAGE, OWN, -1)
            scan.phase = FIRST
            scan.names = 1
            scan_feed(&scan, p + value + 1, n - value - 1)
            if scan.whole and _says(&scan, OWN):
                scan_figures(&scan, &figures)
                if figures.cached >= 0 or not has(p, n, b'"timings"', 9):
                    return figures.prompt, figures.completion, figures.cached, figures.reasoning
    scan_begin(&scan)
    scan_feed(&scan, p, n)
    scan_figures(&scan, &figures)
    return figures.prompt, figures.completion, figures.cached, figures.reasoning


cpdef tuple event_usage(bytes data):
    """The same of an event's data, and whether it is of llama.cpp's timings alone, which may come early."""
    cdef Scan scan
    cdef Figures figures
    if data is None:
        raise TypeError("expected bytes, not None")
    scan_begin(&scan)
    scan_feed(&scan, <Bytes>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    scan_figures(&scan, &figures)
    return figures.prompt, figures.completion, figures.cached, figures.reasoning, figures.measured


cpdef long long seconds_in(bytes body):
    """The seconds of audio that a whole plain answer says it has used, -1 = it does not."""
    if body is None:
        raise TypeError("expected bytes, not None")
    if memmem(PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), b'"seconds"', 9) == NULL:
        return -1
    return scanned(body).seconds


cpdef bint names_error(bytes body) except -1:
    """Whether a whole plain answer has the name of an error anywhere: only one that has can say that its engine failed."""
    if body is None:
        raise TypeError("expected bytes, not None")
    return has(<Bytes>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), b'"error"', 7)
