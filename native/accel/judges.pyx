# cython: boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of fastgw/accel/judges.py: the same verdicts and values, over a pointer.

Fields are taken apart once, into a table of lines; what is kept of them is gathered at the end, when it is known which ones
``Connection`` nominates. Invariant: no object is made for a line that is only kept or dropped.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Check, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from fastgw.accel.heads cimport (
    Entry, Line, RequestHead, ResponseHead, bearer_token, field_lines, hints_of, in_host, is_trace, is_word, lower_case, media_of,
    status_line_of, visible_token,
)

from fastgw.accel import fields
from fastgw.accel.refusals import Refusal

ctypedef const unsigned char* Bytes

# As fields.
cdef enum:
    KEEP = 0
    DROP = 1
    LENGTH = 2
    HOST = 3
    BEARER = 4
    API_KEY = 5
    CONTENT_TYPE = 6
    CONNECTION = 7
    CODING = 8
    EXPECT = 9
    OWN = 10
    NOTED = 11
    UPGRADE = 13
    DATE = 14
    KEEP_ALIVE = 15
    TRACE = 16
    FRAMES = 17

# As refusals.Refusal.
cdef enum:
    GOOD
    MANY_FIELDS
    LINE
    METHOD
    VERSION
    OTHER_VERSION
    CONNECT
    OTHER_METHOD
    TARGET
    STAR
    FIELD
    HOST_AGAIN
    LENGTH_AGAIN
    TYPE_AGAIN
    CODING_AGAIN
    IMITATION
    BAD_LENGTH
    OLD_CODING
    OTHER_CODING
    BAD_CODING
    BOTH
    NO_HOST
    BAD_HOST
    BAD_UPGRADE
    OPTIONS

cdef enum:
    _FEW = 256  # lines on the stack
    _MAX_OPTIONS = 64
    _MAX_AUTHORITY = 300  # longer than any host and port: more need not be looked at
    _METHODS = 16
    _NAMES = 32  # of fields that are recorded

cdef tuple _refusals = (None, *Refusal)
cdef tuple _methods = fields.METHODS
cdef tuple _codings = (b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"br", b"zstd")
cdef unsigned char* LOWER = lower_case()
cdef unsigned char IN_TARGET[256]

if (
    [one.value for one in Refusal] != list(range(1, OPTIONS + 1)) or Refusal.OPTIONS != OPTIONS or Refusal.FIELD != FIELD
    or Refusal.BOTH != BOTH or sum(kind in (OWN, NOTED, UPGRADE) for kind in fields.FIELDS.values()) > _NAMES
    or fields.MAX_OPTIONS != _MAX_OPTIONS or fields.FRAMES != FRAMES
    or len(fields.METHODS) > _METHODS
):
    raise ImportError("fastgw.accel.judges was compiled with other tables: build it again")


cdef int _fill() except -1:
    cdef int c
    for c in range(256):
        IN_TARGET[c] = 33 <= c <= 126 and c != 35 and c != 92
    return 0


_fill()

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif

    /* Whether a bare CR, a bare LF or another control character but a tab stands from `i` up to `n`. A LF at `i` is what an
       earlier CR waits for when `open`; a CR as the last byte may still get its own. */
    static CYTHON_INLINE int fastgw_broken(const unsigned char *p, Py_ssize_t i, Py_ssize_t n, int open) {
        enum { TAB = 9, LF = 10, CR = 13, DEL = 127 };
    #ifdef __SSE2__
        const __m128i cr = _mm_set1_epi8(CR), lf = _mm_set1_epi8(LF), tab = _mm_set1_epi8(TAB), del = _mm_set1_epi8(DEL);
        const __m128i last = _mm_set1_epi8(31);
        for (; i + 16 <= n; i += 16) {
            const __m128i some = _mm_loadu_si128((const __m128i *)(p + i));
            const __m128i control = _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(some, last), some), _mm_cmpeq_epi8(some, del));
            const unsigned crs = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some, cr));
            const unsigned lfs = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some, lf));
            const unsigned tabs = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(some, tab));
            const unsigned odd = (unsigned)_mm_movemask_epi8(control) & ~(crs | lfs | tabs);
            if (odd | (lfs ^ ((crs << 1 | (unsigned)open) & 0xffff)))
                return 1;
            open = (int)(crs >> 15);
        }
    #endif
        for (; i < n; i++) {
            const unsigned char c = p[i];
            if (open != (c == LF) || (c < 32 && c != TAB && c != CR && c != LF) || c == DEL)
                return 1;
            open = c == CR;
        }
        return 0;
    }

    /* How many CRs there are. */
    static CYTHON_INLINE Py_ssize_t fastgw_crs(const unsigned char *p, Py_ssize_t n) {
        Py_ssize_t i = 0, count = 0;
    #ifdef __SSE2__
        const __m128i cr = _mm_set1_epi8(13), zero = _mm_setzero_si128();
        while (i + 16 <= n) {
            const Py_ssize_t stop = n - i > 16 * 255 ? i + 16 * 255 : n;
            __m128i sum = zero;
            for (; i + 16 <= stop; i += 16)
                sum = _mm_sub_epi8(sum, _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i)), cr));
            sum = _mm_sad_epu8(sum, zero);
            count += _mm_cvtsi128_si32(sum) + _mm_cvtsi128_si32(_mm_srli_si128(sum, 8));
        }
    #endif
        for (; i < n; i++)
            count += p[i] == 13;
        return count;
    }

    /* Where the first CRLFCRLF stands that begins and ends in `i` to `n`; -1 when there is none. */
    static CYTHON_INLINE Py_ssize_t fastgw_head_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
    #ifdef __SSE2__
        const __m128i cr = _mm_set1_epi8(13);
        for (; i + 19 <= n; i += 16) {
            const __m128i first = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i)), cr);
            const __m128i third = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + i + 2)), cr);
            if (_mm_movemask_epi8(_mm_and_si128(first, third))) {
                Py_ssize_t at;
                for (at = i; at < i + 16; at++)
                    if (memcmp(p + at, "\\r\\n\\r\\n", 4) == 0)
                        return at;
            }
        }
    #endif
        for (; i + 4 <= n; i++)
            if (memcmp(p + i, "\\r\\n\\r\\n", 4) == 0)
                return i;
        return -1;
    }

    /* Where the first control character stands that is no tab, from `i` on; `n` when there is none. */
    static CYTHON_INLINE Py_ssize_t fastgw_clean_end(const unsigned char *p, Py_ssize_t i, Py_ssize_t n) {
        while (i < n && (p[i] >= 32 ? p[i] != 127 : p[i] == 9))
            i++;
        return i;
    }
    """
    bint is_broken "fastgw_broken"(Bytes p, Py_ssize_t i, Py_ssize_t n, bint open) noexcept nogil
    Py_ssize_t first_end "fastgw_head_end"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil
    Py_ssize_t count_crs "fastgw_crs"(Bytes p, Py_ssize_t n) noexcept nogil
    Py_ssize_t clean_end "fastgw_clean_end"(Bytes p, Py_ssize_t i, Py_ssize_t n) noexcept nogil

cdef struct Option:
    Bytes name
    Py_ssize_t size

# What `Connection` says.
cdef struct Options:
    Py_ssize_t count
    uint64_t seen  # a bit for each size and first letter, so that few names are compared
    bint close
    bint keep_alive
    bint others
    Option one[_MAX_OPTIONS]


cpdef bint broken(object data, Py_ssize_t start, Py_ssize_t end) except -1:
    """Whether what no head can hold stands in ``data[start:end]``: a bare CR, a bare LF, a control character."""
    cdef Bytes p
    cdef Py_ssize_t n
    if PyByteArray_Check(data):
        p = <Bytes>PyByteArray_AS_STRING(data)
        n = PyByteArray_GET_SIZE(data)
    else:
        p = <Bytes>PyBytes_AS_STRING(<bytes?>data)
        n = PyBytes_GET_SIZE(<bytes>data)
    end = min(end, n)
    return is_broken(p, start, end, start > 0 and start < end and p[start] == 10)


cpdef Py_ssize_t head_end(object data, Py_ssize_t start, Py_ssize_t end) except -2:
    """Where the first empty line that ends a head begins in ``data[start:end]``; -1 = nowhere."""
    cdef Bytes p
    cdef Py_ssize_t n
    if PyByteArray_Check(data):
        p = <Bytes>PyByteArray_AS_STRING(data)
        n = PyByteArray_GET_SIZE(data)
    else:
        p = <Bytes>PyBytes_AS_STRING(<bytes?>data)
        n = PyBytes_GET_SIZE(<bytes>data)
    return first_end(p, start, min(end, n))


cdef inline uint64_t _bit(Bytes name, Py_ssize_t size) noexcept nogil:
    return <uint64_t>1 << ((size * 7 + LOWER[name[0]]) & 63)


cdef bint _options(Bytes p, Py_ssize_t start, Py_ssize_t end, Options* options) noexcept nogil:
    """Add what stands in one value; False = they are too many."""
    cdef Py_ssize_t a, b, comma
    cdef Bytes at
    cdef Option* one
    while True:
        if options.count == _MAX_OPTIONS:
            return False
        at = <Bytes>memchr(p + start, 44, end - start)
        comma = end if at == NULL else at - p
        a = start
        b = comma
        while a < b and (p[a] == 32 or p[a] == 9):
            a += 1
        while b > a and (p[b - 1] == 32 or p[b - 1] == 9):
            b -= 1
        one = &options.one[options.count]
        options.count += 1
        one.name = p + a
        one.size = b - a
        if b > a:
            options.seen |= _bit(p + a, b - a)
            if is_word(p + a, b - a, b"close", 5):
                options.close = True
            elif is_word(p + a, b - a, b"keep-alive", 10):
                options.keep_alive = True
            else:
                options.others = True
        if at == NULL:
            return True
        start = comma + 1


cdef bint _nominated(const Options* options, Bytes name, Py_ssize_t size) noexcept nogil:
    """Whether the field of this name concerns the connection alone."""
    cdef Py_ssize_t at, i
    if not options.seen & _bit(name, size):
        return False
    for at in range(options.count):
        if options.one[at].size != size:
            continue
        for i in range(size):
            if LOWER[options.one[at].name[i]] != LOWER[name[i]]:
                break
        else:
            return True
    return False


cdef bint _names(const Options* options, const char* name, Py_ssize_t size) noexcept nogil:
    return _nominated(options, <Bytes>name, size)


cdef inline Py_ssize_t _stop(Bytes p, const Line* line) noexcept nogil:
    """Where the value ends, without the blanks behind it."""
    cdef Py_ssize_t stop = line.end
    while stop > line.value and (p[stop - 1] == 32 or p[stop - 1] == 9):
        stop -= 1
    return stop


cdef Py_ssize_t _line_ends(Bytes p, Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """How many CRLFs there are; more than ``most`` = too many to count."""
    cdef Py_ssize_t count = 0
    cdef Bytes at = p
    cdef Bytes end = p + n
    while count <= most:
        at = <Bytes>memchr(at, 13, end - at)
        if at == NULL or at + 1 >= end:
            break
        at += 1
        if at[0] == 10:
            count += 1
            at += 1
    return count


cdef Py_ssize_t _first_line(Bytes p, Py_ssize_t n) noexcept nogil:
    """Where the first CRLF stands; ``n`` = there is none."""
    cdef Bytes at = p
    while True:
        at = <Bytes>memchr(at, 13, p + n - at)
        if at == NULL or at + 1 >= p + n:
            return n
        if at[1] == 10:
            return at - p
        at += 1


cdef int _framing(Bytes p, const Line* length, const Line* coding, bint minor, long long* size) except -1:
    """What is wrong with a message's length, or with its coding; its size."""
    cdef uint64_t value = 0
    cdef Py_ssize_t i, stop
    cdef bytes word
    size[0] = -1
    if length != NULL:
        stop = _stop(p, length)
        if stop == length.value or stop - length.value > 19:
            return BAD_LENGTH
        for i in range(length.value, stop):
            if not 48 <= p[i] <= 57:
                return BAD_LENGTH
            value = value * 10 + (p[i] - 48)
        if value > <uint64_t>0x7FFFFFFFFFFFFFFF:
            return BAD_LENGTH
        size[0] = <long long>value
    if coding == NULL:
        return GOOD
    if not minor:
        return OLD_CODING
    # llhttp takes no tab after a coding: neither do we.
    stop = coding.end
    while stop > coding.value and p[stop - 1] == 32:
        stop -= 1
    if not is_word(p + coding.value, stop - coding.value, b"chunked", 7):
        stop = _stop(p, coding)
        for word in _codings:
            if is_word(p + coding.value, stop - coding.value, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word)):
                return OTHER_CODING
        return BAD_CODING
    return BOTH if length != NULL else GOOD


cdef inline bytes _piece(Bytes p, Py_ssize_t start, Py_ssize_t end):
    return PyBytes_FromStringAndSize(<const char*>p + start, end - start)


# ---- requests ----------------------------------------------------------------------------------------------------------

cdef bint _is_target(Bytes p, Py_ssize_t i, Py_ssize_t end) noexcept nogil:
    cdef unsigned char well = 1
    while i + 8 <= end and well:
        well = (
            IN_TARGET[p[i]] & IN_TARGET[p[i + 1]] & IN_TARGET[p[i + 2]] & IN_TARGET[p[i + 3]]
            & IN_TARGET[p[i + 4]] & IN_TARGET[p[i + 5]] & IN_TARGET[p[i + 6]] & IN_TARGET[p[i + 7]]
        )
        i += 8
    while i < end and well:
        well = IN_TARGET[p[i]]
        i += 1
    return well


cdef int _start(Bytes p, Py_ssize_t n, RequestHead head) except -1:
    """Read a request's first line into ``head``, with the host of an absolute target; what is wrong with it."""
    cdef Bytes at = <Bytes>memchr(p, 32, n)
    cdef Py_ssize_t method, version, i, end
    cdef bytes name, target
    if at == NULL:
        return LINE
    method = at - p
    at = <Bytes>memchr(at + 1, 32, n - method - 1)
    if at == NULL:
        return LINE
    version = at - p
    if memchr(at + 1, 32, n - version - 1) != NULL:
        return LINE
    if method == 0:
        return METHOD
    for i in range(method):
        if not LOWER[p[i]]:
            return METHOD
    if (
        n - version != 9 or memcmp(at + 1, b"HTTP/", 5) != 0 or not 48 <= at[6] <= 57 or at[7] != 46 or not 48 <= at[8] <= 57
    ):
        return VERSION
    if at[6] != 49 or at[8] > 49:
        return OTHER_VERSION
    head.minor = at[8] - 48
    if method == 7 and memcmp(p, b"CONNECT", 7) == 0:
        return CONNECT
    for name in _methods:
        if PyBytes_GET_SIZE(name) == method and memcmp(PyBytes_AS_STRING(name), p, method) == 0:
            head.method = name
            break
    else:
        return OTHER_METHOD
    i = method + 1
    if i == version:
        return TARGET
    if p[i] == 47:
        if not _is_target(p, i, version):
            return TARGET
        target = _piece(p, i, version)
    elif p[i] == 42 and version - i == 1:
        if head.method != b"OPTIONS":
            return STAR
        target = b"*"
    else:
        # An absolute one: its host counts, and what follows is what an engine is asked for.
        if version - i >= 7 and is_word(p + i, 4, b"http", 4) and memcmp(p + i + 4, b"://", 3) == 0:
            i += 7
        elif version - i >= 8 and is_word(p + i, 5, b"https", 5) and memcmp(p + i + 5, b"://", 3) == 0:
            i += 8
        else:
            return TARGET
        end = i
        while end < version and end - i < _MAX_AUTHORITY and p[end] != 47 and p[end] != 63:
            end += 1
        if not in_host(p + i, end - i) or not _is_target(p, end, version):
            return TARGET
        head.host = _piece(p, i, end)
        if end == version:
            target = b"*" if head.method == b"OPTIONS" else b"/"
        elif p[end] == 47:
            target = _piece(p, end, version)
        else:
            target = b"/" + _piece(p, end, version)
    head.target = target
    if b"?" in target:
        head.path, _, head.query = target.partition(b"?")
    else:
        head.path = target
        head.query = b""
    return GOOD


cdef bytes _gathered(Bytes p, Py_ssize_t n, Line* lines, int count, const Options* options, bint traced):
    """The lines whose kind is KEEP now, but for those that are nominated; and, if ``traced``, the trace."""
    cdef bytes out
    cdef char* to
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t start
    cdef int at
    for at in range(count):
        if (lines[at].kind == KEEP or (traced and lines[at].kind == TRACE)) and not (
            options.count and _nominated(options, p + lines[at].start, lines[at].name_size)
        ):
            lines[at].kind = KEEP
            size += lines[at].end - lines[at].start + 2
        else:
            lines[at].kind = DROP
    out = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(out)
    at = 0
    while at < count:
        if lines[at].kind != KEEP:
            at += 1
            continue
        # Neighbours go together, with what stands between them.
        start = lines[at].start
        while at + 1 < count and lines[at + 1].kind == KEEP:
            at += 1
        size = lines[at].end - start
        memcpy(to, p + start, size)
        to[size] = 13
        to[size + 1] = 10
        to += size + 2
        at += 1
    return out


# The fields of one name that are recorded.
cdef struct Group:
    const Entry* entry
    int first
    int count

cdef struct Owned:
    int count
    Group groups[_NAMES]


cdef inline void _record(Owned* owned, const Line* line, int at) noexcept nogil:
    cdef int which
    for which in range(owned.count):
        if owned.groups[which].entry == line.entry:
            owned.groups[which].count += 1
            return
    owned.groups[owned.count] = Group(line.entry, at, 1)
    owned.count += 1


cdef bytes _joined(Bytes p, const Line* lines, int count, const Group* group):
    """The values of a group's lines, as a list (RFC 9110 §5.3)."""
    cdef Py_ssize_t size = 2 * (group.count - 1)
    cdef Py_ssize_t one
    cdef bytes out
    cdef char* to
    cdef int at
    for at in range(group.first, count):
        if lines[at].entry == group.entry:
            size += _stop(p, &lines[at]) - lines[at].value
    out = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(out)
    for at in range(group.first, count):
        if lines[at].entry == group.entry:
            if at > group.first:
                to[0] = 44
                to[1] = 32
                to += 2
            one = _stop(p, &lines[at]) - lines[at].value
            memcpy(to, p + lines[at].value, one)
            to += one
    return out


cdef dict _own(Bytes p, const Line* lines, int count, const Owned* owned):
    cdef const Group* group
    cdef bytes name
    cdef dict own = {}
    cdef int which
    for which in range(owned.count):
        group = &owned.groups[which]
        name = <bytes>group.entry.object
        if group.count == 1:
            own[name] = _piece(p, lines[group.first].value, _stop(p, &lines[group.first]))
        elif name == b"x-request-id":
            # Two request ids are nobody's: an empty one is invalid, and ours takes its place.
            own[name] = b""
        else:
            own[name] = _joined(p, lines, count, group)
    return own


cpdef judge_request(bytes head, Py_ssize_t max_fields):
    """The request whose head, without the final empty line, is ``head``; or why it is refused."""
    cdef Line few[_FEW]
    cdef Line* lines = few
    cdef Bytes p
    cdef Py_ssize_t n, many
    cdef RequestHead found
    cdef int fault
    if head is None:
        raise TypeError("a head is bytes")
    p = <Bytes>PyBytes_AS_STRING(head)
    n = PyBytes_GET_SIZE(head)
    if n > 2 * max_fields and count_crs(p, n) > max_fields and _line_ends(p, n, max_fields) > max_fields:
        return _refusals[MANY_FIELDS]
    many = min(max_fields, n // 3 + 1)  # of so many bytes there can be no more lines
    found = RequestHead.__new__(RequestHead)
    if many > _FEW:
        lines = <Line*>malloc(many * sizeof(Line))
        if lines == NULL:
            raise MemoryError
    try:
        fault = _judge(p, n, lines, many, found)
    finally:
        if lines != few:
            free(lines)
    return found if fault == GOOD else _refusals[fault]


cdef int _judge(Bytes p, Py_ssize_t n, Line* lines, Py_ssize_t most, RequestHead head) except -1:
    cdef Options options
    cdef Line* line
    cdef Line* length = NULL
    cdef Line* coding = NULL
    cdef Line* host = NULL
    cdef Owned owned
    cdef bytes token = None, api_key = None
    cdef dict own = None
    cdef list said = None
    cdef Py_ssize_t first = _first_line(p, n)
    cdef Py_ssize_t stop
    cdef int fault = _start(p, first, head)
    cdef int other = GOOD
    cdef int count, at
    cdef int tokens = 0, keys = 0, expects = 0, traces = 0
    cdef bint typed = False, expected = False
    cdef long long size
    if fault != GOOD:
        return fault
    count = field_lines(p, first + 2, n, True, lines, most)
    if count < 0:
        return FIELD
    options.count = 0
    options.seen = 0
    options.close = options.keep_alive = options.others = False
    owned.count = 0
    for at in range(count):
        line = &lines[at]
        if line.kind == KEEP or line.kind == DROP:
            continue
        if line.kind == CONTENT_TYPE:
            if typed:
                fault = fault or TYPE_AGAIN
            typed = True
            stop = _stop(p, line)
            head.content_type = _piece(p, line.value, stop) if stop > line.value else None
            line.kind = KEEP
        elif line.kind == HOST:
            if host != NULL:
                fault = fault or HOST_AGAIN
            host = line
        elif line.kind == LENGTH:
            if length != NULL:
                fault = fault or LENGTH_AGAIN
            length = line
        elif line.kind == CODING:
            if coding != NULL:
                fault = fault or CODING_AGAIN
            coding = line
        elif line.kind == CONNECTION:
            if said is None:
                said = []
            stop = _stop(p, line)
            if not _options(p, line.value, stop, &options):
                other = OPTIONS
            elif len(said) < _MAX_OPTIONS:
                said.append(_piece(p, line.value, stop))
        elif line.kind == EXPECT:
            expects += 1
            expected = is_word(p + line.value, _stop(p, line) - line.value, b"100-continue", 12)
        elif line.kind == BEARER:
            tokens += 1
            if tokens == 1:
                token = bearer_token(p + line.value, _stop(p, line) - line.value)
        elif line.kind == API_KEY:
            keys += 1
            if keys == 1:
                api_key = visible_token(p + line.value, _stop(p, line) - line.value)
        elif line.kind == OWN or line.kind == NOTED or line.kind == UPGRADE:
            _record(&owned, line, at)
            line.kind = KEEP if line.kind == NOTED else DROP
        elif line.kind == TRACE:
            traces += 1
            if traces == 1 and not is_trace(p + line.value, _stop(p, line) - line.value):
                line.kind = DROP
        elif line.kind == FRAMES:
            fault = fault or IMITATION
    fault = fault or other
    if fault == GOOD:
        fault = _framing(p, length, coding, head.minor, &size)
    if fault != GOOD:
        return fault
    if host == NULL:
        if head.minor:
            return NO_HOST
        if head.host is None:
            head.host = b""
    else:
        stop = _stop(p, host)
        if not in_host(p + host.value, stop - host.value):
            return BAD_HOST
        if head.host is None:
            head.host = _piece(p, host.value, stop)
    if owned.count:
        own = _own(p, lines, count, &owned)
    elif options.others:
        own = {}
    if options.others:
        own[b"connection"] = b", ".join(said)
    if own is not None and (size > 0 or coding != NULL) and own.get(b"upgrade", b"").lower() == b"websocket":
        return BAD_UPGRADE
    head.forward = _gathered(p, n, lines, count, &options, traces == 1)
    head.content_length = size
    head.chunked = coding != NULL
    head.keep_alive = not options.close and (head.minor == 1 or options.keep_alive)
    head.expect = 0 if not expects or not head.minor else 1 if expects == 1 and expected else 2
    head.credential = token if tokens == 1 and token is not None else api_key if keys == 1 else None
    head.own = own
    return GOOD


# ---- responses ---------------------------------------------------------------------------------------------------------

cpdef judge_response(bytes head, Py_ssize_t max_fields):
    """The response whose head, without the final empty line, is ``head``; or why it is refused."""
    cdef Line few[_FEW]
    cdef Line* lines = few
    cdef Bytes p
    cdef Py_ssize_t n, many
    cdef ResponseHead found
    cdef int fault
    if head is None:
        raise TypeError("a head is bytes")
    p = <Bytes>PyBytes_AS_STRING(head)
    n = PyBytes_GET_SIZE(head)
    if n > 2 * max_fields and count_crs(p, n) > max_fields and _line_ends(p, n, max_fields) > max_fields:
        return _refusals[MANY_FIELDS]
    many = min(max_fields, n // 3 + 1)  # of so many bytes there can be no more lines
    found = ResponseHead.__new__(ResponseHead)
    if many > _FEW:
        lines = <Line*>malloc(many * sizeof(Line))
        if lines == NULL:
            raise MemoryError
    try:
        fault = _judge_response(p, n, lines, many, found)
    finally:
        if lines != few:
            free(lines)
    return found if fault == GOOD else _refusals[fault]


cdef int _judge_response(Bytes p, Py_ssize_t n, Line* lines, Py_ssize_t most, ResponseHead head) except -1:
    cdef Options options
    cdef Line* line
    cdef Line* length = NULL
    cdef Line* coding = NULL
    cdef list hints = None
    cdef bytes hint
    cdef Py_ssize_t first = _first_line(p, n)
    cdef int fault = GOOD
    cdef int other = GOOD
    cdef int count, at
    cdef int upgrades = 0
    cdef bint typed = False, dated = False, websocket = False
    cdef long long size
    # "HTTP/1.1 200", then nothing or a blank and a reason.
    if (
        first < 12 or memcmp(p, b"HTTP/1.", 7) != 0 or not 48 <= p[7] <= 49 or p[8] != 32 or not 49 <= p[9] <= 53
        or not 48 <= p[10] <= 57 or not 48 <= p[11] <= 57 or (first > 12 and p[12] != 32) or clean_end(p, 12, first) < first
    ):
        return LINE
    head.minor = p[7] - 48
    head.status = (p[9] - 48) * 100 + (p[10] - 48) * 10 + (p[11] - 48)
    head.idle_s = -1.0
    head.max_requests = -1
    count = field_lines(p, first + 2, n, False, lines, most)
    if count < 0:
        return FIELD
    options.count = 0
    options.seen = 0
    options.close = options.keep_alive = options.others = False
    for at in range(count):
        line = &lines[at]
        if line.kind == KEEP or line.kind == DROP:
            continue
        if line.kind == CONTENT_TYPE:
            if typed:
                fault = fault or TYPE_AGAIN
            typed = True
            media_of(p + line.value, _stop(p, line) - line.value, head)
            line.kind = KEEP
        elif line.kind == LENGTH:
            if length != NULL:
                fault = fault or LENGTH_AGAIN
            length = line
        elif line.kind == CODING:
            if coding != NULL:
                fault = fault or CODING_AGAIN
            coding = line
        elif line.kind == DATE:
            line.kind = DROP if dated else KEEP
            dated = True
        elif line.kind == CONNECTION:
            if not _options(p, line.value, _stop(p, line), &options):
                other = OPTIONS
        elif line.kind == KEEP_ALIVE:
            if hints is None:
                hints = []
            hints.append(_piece(p, line.value, _stop(p, line)))
        elif line.kind == UPGRADE:
            upgrades += 1
            websocket = _piece(p, line.value, _stop(p, line)).lower() == b"websocket"
        elif line.kind == FRAMES:
            fault = fault or IMITATION
    fault = fault or other
    if fault == GOOD:
        fault = _framing(p, length, coding, head.minor, &size)
    if fault != GOOD:
        return fault
    if head.status == 101 and not (upgrades == 1 and websocket and options.count and _names(&options, b"upgrade", 7)):
        return BAD_UPGRADE
    head.status_line = status_line_of(head.status, p + 12, first - 12)
    head.forward = _gathered(p, n, lines, count, &options, False)
    head.content_length = size
    head.chunked = coding != NULL
    head.keep_alive = not options.close and (head.minor == 1 or options.keep_alive)
    head.has_date = dated and not (options.count and _names(&options, b"date", 4))
    if hints is not None:
        hint = hints[0] if len(hints) == 1 else b",".join(hints)
        hints_of(<Bytes>PyBytes_AS_STRING(hint), PyBytes_GET_SIZE(hint), head)
    return GOOD
