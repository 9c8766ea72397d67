# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The compiled twin of fastgw/accel/heads.py: the same verdicts and values for every input, in one pass over the bytes.

Owns: the pass. The tables are those of ``fields``, read into C at import; what is rare (an IPv6 host, a foreign reason
phrase) is asked of ``fields`` as it comes. Must never remember a secret, but in scanners, and in what they give to
a ``HeadMemory``: the few values kept between heads are a path without a query, a host, a content type and a hint. Invariant: no byte at or behind ``size`` is
read, and nothing is found that the Python twin would not find.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.dict cimport PyDict_GetItem
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from fastgw.accel import fields

cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030E0000
    #define fastgw_hash Py_HashBuffer
    #else
    #define fastgw_hash _Py_HashBytes
    #endif
    """
    Py_hash_t fastgw_hash(const void* data, Py_ssize_t size) noexcept

LAST_HEAD_BYTES = 2048
MAX_STRANGERS = 8
MOST_HEADS = 256
MOST_SPARED = 8
UNLIMITED = 2**31 - 1

cdef enum:
    _LAST_HEAD_BYTES = 2048
    _MAX_STRANGERS = 8
    _MOST_HEADS = 256
    _MOST_SPARED = 8
    _UNLIMITED = 2147483647
    _MAX_DIGITS = 18

# The kinds of `fields` as C constants; _check_kinds() holds them to it.
cdef enum Kind:
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
    CREDENTIAL = 12
    UPGRADE = 13
    DATE = 14
    KEEP_ALIVE = 15
    TRACE = 16
    FRAMES = 17

ctypedef const unsigned char* Bytes


# ---- tables, filled at import ------------------------------------------------------------------------------------------

cdef enum:
    _SLOTS = 256
    _LONGEST = 64  # name of the tables
    _IN_PATH = 1
    _IN_QUERY = 2
    _IN_HOST = 4
    _IN_VISIBLE = 8
    _IN_TEXT = 16
    _IN_DIGITS = 32
    _IN_HEX = 64  # lower-case digits only
    _MAX_HOST = 255

cdef Entry REQUEST_ENTRIES[_SLOTS]
cdef Entry RESPONSE_ENTRIES[_SLOTS]
cdef enum:
    _PREFIXES = 8

cdef struct Prefixes:
    Entry entries[_PREFIXES]
    int count

cdef Prefixes REQUEST_PREFIXES
cdef Prefixes RESPONSE_PREFIXES
cdef unsigned char LOWER[256]  # of a byte that a name may hold; 0 for any other
cdef unsigned char CLASS[256]
cdef list KEPT_ALIVE = []  # what the pointers of the tables point into

cdef PyObject* METHODS[16]
cdef int methods = 0

cdef list STATUS_LINES = []


cdef inline unsigned int _hash(Bytes name, Py_ssize_t size) noexcept nogil:
    """Of a name that LOWER knows all bytes of."""
    return (<unsigned int>size * 31 + LOWER[name[0]] * 7 + LOWER[name[size - 1]] * 13 + LOWER[name[size >> 1]]) & (_SLOTS - 1)


cdef int _fill(Entry* entries, dict table, framing) except -1:
    cdef bytes name
    cdef unsigned int slot
    memset(entries, 0, _SLOTS * sizeof(Entry))
    for name, kind in table.items():
        KEPT_ALIVE.append(name)
        slot = _hash(<Bytes>PyBytes_AS_STRING(name), len(name))
        while entries[slot].name != NULL:
            slot = (slot + 1) & (_SLOTS - 1)
        entries[slot].name = <Bytes>PyBytes_AS_STRING(name)
        entries[slot].size = <int>len(name)
        entries[slot].kind = kind
        entries[slot].framing = name in framing
        entries[slot].object = <PyObject*>name
    return 0


cdef int _fill_prefixes(Prefixes* prefixes, tuple names) except -1:
    cdef bytes name
    if len(names) > _PREFIXES:
        raise ImportError("fastgw.accel.heads has no room for so many prefixes: build it with more")
    prefixes.count = 0
    for name in names:
        KEPT_ALIVE.append(name)
        prefixes.entries[prefixes.count] = Entry(
            <Bytes>PyBytes_AS_STRING(name), <int>len(name), DROP, False, <PyObject*>name
        )
        prefixes.count += 1
    return 0


cdef int _fill_tables() except -1:
    global methods
    cdef bytes name
    cdef int byte
    for byte in fields.TOKEN:
        LOWER[byte] = bytes((byte,)).lower()[0]
    for members, flag in (
        (fields.PATH, _IN_PATH), (fields.QUERY, _IN_QUERY), (fields.REG_NAME, _IN_HOST), (fields.VISIBLE, _IN_VISIBLE),
        (fields.TEXT, _IN_TEXT), (b"0123456789", _IN_DIGITS), (b"0123456789abcdef", _IN_HEX),
    ):
        for byte in members:
            CLASS[byte] |= <unsigned char>flag
    _fill(REQUEST_ENTRIES, fields.FIELDS, fields.FRAMING)
    _fill(RESPONSE_ENTRIES, fields.RESPONSE_FIELDS, fields.RESPONSE_FRAMING)
    _fill_prefixes(&REQUEST_PREFIXES, fields.PREFIXES)
    _fill_prefixes(&RESPONSE_PREFIXES, fields.OUR_PREFIXES)
    if max(map(len, (*fields.FIELDS, *fields.RESPONSE_FIELDS, *fields.PREFIXES, *fields.OUR_PREFIXES))) > _LONGEST:
        raise ImportError("fastgw.accel.heads was compiled for shorter names of fields: build it again")
    for name in fields.METHODS:
        KEPT_ALIVE.append(name)
        METHODS[methods] = <PyObject*>name
        methods += 1
    STATUS_LINES.extend([fields.response_status(status, b"") for status in range(600)])
    return 0


cdef int _check_kinds() except -1:
    for name, kind in (
        ("KEEP", KEEP), ("DROP", DROP), ("LENGTH", LENGTH), ("HOST", HOST), ("BEARER", BEARER), ("API_KEY", API_KEY),
        ("CONTENT_TYPE", CONTENT_TYPE), ("CONNECTION", CONNECTION), ("CODING", CODING), ("EXPECT", EXPECT), ("OWN", OWN),
        ("NOTED", NOTED), ("CREDENTIAL", CREDENTIAL), ("UPGRADE", UPGRADE), ("DATE", DATE), ("KEEP_ALIVE", KEEP_ALIVE),
        ("TRACE", TRACE), ("FRAMES", FRAMES),
    ):
        if getattr(fields, name) != kind:
            raise ImportError(f"fastgw.accel.heads was compiled with another fields.{name}: build it again")
    # What the code below takes for granted of the tables, beside the kinds.
    if fields.MAX_HOST_BYTES != _MAX_HOST:
        raise ImportError("fastgw.accel.heads was compiled with another fields.MAX_HOST_BYTES: build it again")
    if set(fields.TEXT) != {9, *range(32, 127), *range(128, 256)}:
        raise ImportError("fastgw.accel.heads was compiled with another fields.TEXT: build it again")
    return 0


_check_kinds()
_fill_tables()


# ---- the heads ---------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class RequestHead:
    """A request head that was found to be unambiguous. ``forward`` is what may go to an engine as it stands."""

    def __init__(
        self, bytes method not None, bytes target not None, bytes path not None, bytes query not None, int minor,
        bytes host not None, bytes forward not None, long long content_length, bint chunked, bint keep_alive, int expect,
        bytes credential, bytes content_type, dict own,
    ):
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.minor = minor
        self.host = host
        self.forward = forward
        self.content_length = content_length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.expect = expect
        self.credential = credential
        self.content_type = content_type
        self.own = own

    def __eq__(self, other):
        if type(other) is not RequestHead:
            return NotImplemented
        cdef RequestHead one = self
        cdef RequestHead two = <RequestHead>other
        return (
            one.method == two.method and one.target == two.target and one.path == two.path and one.query == two.query
            and one.minor == two.minor and one.host == two.host and one.forward == two.forward
            and one.content_length == two.content_length and one.chunked == two.chunked
            and one.keep_alive == two.keep_alive and one.expect == two.expect and one.credential == two.credential
            and one.content_type == two.content_type and one.own == two.own
        )

    def __repr__(self):
        return (
            f"RequestHead(method={self.method!r}, target={self.target!r}, path={self.path!r}, query={self.query!r}, "
            f"minor={self.minor!r}, host={self.host!r}, forward={self.forward!r}, content_length={self.content_length!r}, "
            f"chunked={bool(self.chunked)!r}, keep_alive={bool(self.keep_alive)!r}, expect={self.expect!r}, "
            f"credential={self.credential!r}, content_type={self.content_type!r}, own={self.own!r})"
        )

    def __copy__(self):
        return RequestHead(
            self.method, self.target, self.path, self.query, self.minor, self.host, self.forward, self.content_length,
            self.chunked, self.keep_alive, self.expect, self.credential, self.content_type, self.own,
        )

    def get(self, bytes name not None):
        return fields.value_in(self.forward, name)

    def get_all(self, bytes name not None):
        return fields.values_in(self.forward, name)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class ResponseHead:
    """A response head that was found to be unambiguous.

    ``keep_alive`` is what version and ``Connection`` say. A message with neither length nor chunks ends with the
    connection, unless the request's method or the status forbids a body; only the caller knows the method.
    """

    def __init__(
        self, int status, int minor, bytes status_line not None, bytes forward not None, long long content_length,
        bint chunked, bint keep_alive, bint sse, bint json, bint has_date, double idle_s, long long max_requests,
    ):
        self.status = status
        self.minor = minor
        self.status_line = status_line
        self.forward = forward
        self.content_length = content_length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.sse = sse
        self.json = json
        self.has_date = has_date
        self.idle_s = idle_s
        self.max_requests = max_requests

    def __eq__(self, other):
        if type(other) is not ResponseHead:
            return NotImplemented
        cdef ResponseHead one = self
        cdef ResponseHead two = <ResponseHead>other
        return (
            one.status == two.status and one.minor == two.minor and one.status_line == two.status_line
            and one.forward == two.forward and one.content_length == two.content_length and one.chunked == two.chunked
            and one.keep_alive == two.keep_alive and one.sse == two.sse and one.json == two.json
            and one.has_date == two.has_date and one.idle_s == two.idle_s and one.max_requests == two.max_requests
        )

    def __repr__(self):
        return (
            f"ResponseHead(status={self.status!r}, minor={self.minor!r}, status_line={self.status_line!r}, "
            f"forward={self.forward!r}, content_length={self.content_length!r}, chunked={bool(self.chunked)!r}, "
            f"keep_alive={bool(self.keep_alive)!r}, sse={bool(self.sse)!r}, json={bool(self.json)!r}, "
            f"has_date={bool(self.has_date)!r}, idle_s={self.idle_s!r}, max_requests={self.max_requests!r})"
        )

    def __copy__(self):
        return ResponseHead(
            self.status, self.minor, self.status_line, self.forward, self.content_length, self.chunked, self.keep_alive,
            self.sse, self.json, self.has_date, self.idle_s, self.max_requests,
        )

    def get(self, bytes name not None):
        return fields.value_in(self.forward, name)

    def get_all(self, bytes name not None):
        return fields.values_in(self.forward, name)


# ---- small readers -----------------------------------------------------------------------------------------------------

cdef inline bytes _bytes(Bytes start, Py_ssize_t size):
    return PyBytes_FromStringAndSize(<const char*>start, size)


cdef inline bytes _shared(bytes known, Bytes start, Py_ssize_t size):
    """``known`` when it is the same: no object is made, and its hash has been computed."""
    if PyBytes_GET_SIZE(known) == size and memcmp(PyBytes_AS_STRING(known), start, size) == 0:
        return known
    return PyBytes_FromStringAndSize(<const char*>start, size)


cdef inline bint _is(Bytes start, Py_ssize_t size, const char* lower, Py_ssize_t lower_size) noexcept nogil:
    """Whether these bytes are ``lower`` (letters and -/+ only) in whatever case."""
    cdef Py_ssize_t i
    if size != lower_size:
        return False
    for i in range(size):
        if LOWER[start[i]] != <unsigned char>lower[i] and start[i] != <unsigned char>lower[i]:
            return False
    return True


cdef extern from *:
    """
    /* Where the first control byte other than a tab, or DEL, stands in a word: 0 to 7; 8 = there is none. Exact: the lowest
       byte that either difference marks is never marked by a borrow. */
    #include <stdint.h>
    #include <string.h>
    static CYTHON_INLINE int fastgw_first_control(const unsigned char *p) {
        uint64_t word, blank, del;
        memcpy(&word, p, 8);
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
    #endif
        del = word ^ 0x7f7f7f7f7f7f7f7fULL;
        blank = ((word - 0x2020202020202020ULL) & ~word) | ((del - 0x0101010101010101ULL) & ~del);
        blank &= 0x8080808080808080ULL;
        return blank ? __builtin_ctzll(blank) >> 3 : 8;
    }
    """
    int fastgw_first_control(Bytes data) noexcept nogil


cdef inline Py_ssize_t _text_end(Bytes data, Py_ssize_t at, Py_ssize_t size) noexcept nogil:
    """Where the run of fields.TEXT that begins at ``at`` ends; eight bytes at a time, but for the last ones and what has tabs."""
    cdef int first, i
    while size - at >= 8:
        first = fastgw_first_control(data + at)
        at += first
        if first < 8:
            if data[at] != 9:
                return at
            # Where there is one, there may be many: byte by byte for a while.
            for i in range(min(16, size - at)):
                if not CLASS[data[at]] & _IN_TEXT:
                    return at
                at += 1
    while at < size and CLASS[data[at]] & _IN_TEXT:
        at += 1
    return at


cdef inline long long _number(Bytes start, Py_ssize_t size) noexcept nogil:
    """1 to 18 digits; -1 for anything else."""
    cdef long long value = 0
    cdef Py_ssize_t i
    if not 1 <= size <= _MAX_DIGITS:
        return -1
    for i in range(size):
        if start[i] < 48 or start[i] > 57:
            return -1
        value = value * 10 + (start[i] - 48)
    return value


cdef inline bint _visible(Bytes start, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        if not CLASS[start[i]] & _IN_VISIBLE:
            return False
    return True


cdef inline bint _hex_run(Bytes start, Py_ssize_t size, bint* zero) noexcept nogil:
    cdef Py_ssize_t i
    zero[0] = True
    for i in range(size):
        if not CLASS[start[i]] & _IN_HEX:
            return False
        if start[i] != 48:
            zero[0] = False
    return True


cdef bint _valid_trace(Bytes start, Py_ssize_t size) except -1:
    """As fields.valid_trace(): of version 00, which all send, here."""
    cdef bint zero = False
    if size < 2 or start[0] != 48 or start[1] != 48:
        return fields.valid_trace(_bytes(start, size))
    if size != 55 or start[2] != 45 or start[35] != 45 or start[52] != 45:
        return False
    if not _hex_run(start + 3, 32, &zero) or zero:
        return False
    if not _hex_run(start + 36, 16, &zero) or zero:
        return False
    return _hex_run(start + 53, 2, &zero)


cdef bint _valid_host(Bytes start, Py_ssize_t size) except -1:
    """As fields.valid_host(): a name or an IPv4 address, and a port, here."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t port
    if size and start[0] == 91:
        return fields.valid_host(_bytes(start, size))
    while i < size and i <= _MAX_HOST and CLASS[start[i]] & _IN_HOST:
        i += 1
    if i == 0 or i > _MAX_HOST:
        return False
    if i == size:
        return True
    port = i + 1
    if start[i] != 58 or size - port > 5:
        return False
    for i in range(port, size):
        if not CLASS[start[i]] & _IN_DIGITS:
            return False
    return True


cdef bytes _bearer(Bytes start, Py_ssize_t size):
    """As fields.bearer()."""
    if size < 7 or start[6] != 32 or not _is(start, 6, b"bearer", 6):
        return None
    start += 7
    size -= 7
    while size and start[0] == 32:
        start += 1
        size -= 1
    return _bytes(start, size) if size and _visible(start, size) else None


cdef inline void _media(Bytes start, Py_ssize_t size, ResponseHead head) noexcept:
    """As fields.media_flags()."""
    cdef Py_ssize_t end = 0
    while end < size and start[end] != 59:
        end += 1
    while end and (start[end - 1] == 32 or start[end - 1] == 9):
        end -= 1
    head.sse = _is(start, end, b"text/event-stream", 17)
    head.json = _is(start, end, b"application/json", 16) or (end >= 5 and _is(start + end - 5, 5, b"+json", 5))


# ---- what the complete path takes from here ----------------------------------------------------------------------------

cdef unsigned char* lower_case() noexcept:
    return LOWER


cdef bint in_host(Bytes start, Py_ssize_t size) except -1:
    return _valid_host(start, size)


cdef bint is_trace(Bytes start, Py_ssize_t size) except -1:
    return _valid_trace(start, size)


cdef bytes bearer_token(Bytes start, Py_ssize_t size):
    return _bearer(start, size)


cdef bytes visible_token(Bytes start, Py_ssize_t size):
    return _bytes(start, size) if size and _visible(start, size) else None


cdef void media_of(Bytes start, Py_ssize_t size, ResponseHead head) noexcept:
    _media(start, size, head)


cdef bytes status_line_of(int status, Bytes reason, Py_ssize_t size):
    return _status_line(status, reason, size)


cdef int hints_of(Bytes start, Py_ssize_t size, ResponseHead head) except -1:
    return _hints(start, size, head)


cdef bint is_word(Bytes start, Py_ssize_t size, const char* lower, Py_ssize_t lower_size) noexcept nogil:
    return _is(start, size, lower, lower_size)


# ---- lines -------------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t _line_end(Bytes data, Py_ssize_t at, Py_ssize_t size, bint whole) noexcept nogil:
    """Where the next line begins, when the line ends at ``at``; ``size`` + 1 = it was the last of a whole head; -1 = neither."""
    if at == size:
        return size + 1 if whole else -1
    if size - at < 2 or data[at] != 13 or data[at + 1] != 10:
        return -1
    return at + 2


cdef inline int _classify(
    Bytes name, Py_ssize_t size, const Entry* entries, const Prefixes* prefixes, const Entry** found
) noexcept nogil:
    cdef unsigned int slot = _hash(name, size)
    cdef const Entry* entry
    cdef Py_ssize_t i
    cdef int which
    while entries[slot].name != NULL:
        entry = &entries[slot]
        if entry.size == size:
            for i in range(size):
                if LOWER[name[i]] != entry.name[i]:
                    break
            else:
                found[0] = entry
                return entry.kind
        slot = (slot + 1) & (_SLOTS - 1)
    found[0] = NULL
    for which in range(prefixes.count):
        entry = &prefixes.entries[which]
        if size >= entry.size and LOWER[name[0]] == entry.name[0]:
            for i in range(entry.size):
                if LOWER[name[i]] != entry.name[i]:
                    break
            else:
                return entry.kind
    return KEEP


cdef inline int _meant(
    Bytes other, Py_ssize_t n, bint whole, const Entry* entries, const Prefixes* prefixes
) noexcept nogil:
    """What becomes of a field whose name means that of a table's; KEEP = it means none."""
    cdef const Entry* entry
    if _classify(other, n, entries, prefixes, &entry) == KEEP or not (whole or entry == NULL):
        return KEEP
    return FRAMES if entry != NULL and entry.framing else DROP


cdef int _underscored(Bytes name, Py_ssize_t size, bint request) noexcept nogil:
    """The kind of a name with an underscore; as fields.request_kind() and fields.response_kind()."""
    cdef unsigned char other[_LONGEST]
    cdef const Entry* entry
    cdef Py_ssize_t i
    cdef Py_ssize_t n = min(size, _LONGEST)  # a longer one can only begin as one of the tables does
    cdef int kind
    if request:
        kind = _classify(name, size, REQUEST_ENTRIES, &REQUEST_PREFIXES, &entry)
    else:
        kind = _classify(name, size, RESPONSE_ENTRIES, &RESPONSE_PREFIXES, &entry)
    if kind != KEEP:
        return kind
    for i in range(n):
        other[i] = 45 if name[i] == 95 else LOWER[name[i]]
    if request:
        return _meant(other, n, n == size, REQUEST_ENTRIES, &REQUEST_PREFIXES)
    kind = _meant(other, n, n == size, RESPONSE_ENTRIES, &RESPONSE_PREFIXES)
    if kind == KEEP and _meant(other, n, n == size, REQUEST_ENTRIES, &REQUEST_PREFIXES) != KEEP:
        return DROP
    return kind


cdef inline Py_ssize_t _next_line(
    Bytes data, Py_ssize_t at, Py_ssize_t size, bint whole, bint request, Line* line
) noexcept nogil:
    """Take the field line at ``at`` apart; where the next one begins, as _line_end(); -1 = this is no field line."""
    cdef Py_ssize_t i = at
    cdef unsigned char byte
    cdef bint underscore = False
    line.start = at
    while True:
        if i == size:
            return -1
        byte = data[i]
        if not LOWER[byte]:
            break
        if byte == 95:
            underscore = True
        i += 1
    if byte != 58 or i == at:
        return -1
    line.name_size = i - at
    if underscore:
        line.entry = NULL
        line.kind = _underscored(data + at, i - at, request)
    elif request:
        line.kind = _classify(data + at, i - at, REQUEST_ENTRIES, &REQUEST_PREFIXES, &line.entry)
    else:
        line.kind = _classify(data + at, i - at, RESPONSE_ENTRIES, &RESPONSE_PREFIXES, &line.entry)
    i += 1
    while i < size and (data[i] == 32 or data[i] == 9):
        i += 1
    line.value = i
    line.end = _text_end(data, i, size)
    return _line_end(data, line.end, size, whole)


cdef int field_lines(
    Bytes data, Py_ssize_t at, Py_ssize_t size, bint request, Line* lines, Py_ssize_t most
) noexcept nogil:
    cdef int count = 0
    while at <= size:
        if count == most:
            return -1
        at = _next_line(data, at, size, True, request, &lines[count])
        if at < 0:
            return -1
        count += 1
    return count


# ---- requests ----------------------------------------------------------------------------------------------------------

cdef enum:
    _ROOM = 8192  # on the stack, for gathering the kept lines before they become one object

cdef bytes EMPTY = b""
cdef bytes last_target = b"/v1/chat/completions"
cdef bytes last_host = b"localhost"
cdef bytes last_type = b"application/json"
cdef bytes last_hint = b""
cdef double last_idle_s = -1.0
cdef long long last_most = -1


cdef RequestHead scan_request_at(Bytes data, Py_ssize_t size, bint whole, Py_ssize_t max_fields, Found* found):
    global last_target, last_host, last_type
    cdef RequestHead head
    cdef Line line
    cdef Py_ssize_t at, next_at, stop, query = -1, count = 0, run = -1, kept = 0
    cdef int which
    cdef bytes method = None, target, path, host = None, token = None, api_key = None, content_type = None, name, spare
    cdef dict own = None
    cdef long long length = -1
    cdef bint chunked = False, auth = False, key = False, traced = False, typed = False, minor
    cdef int connection = 0, expect = 0  # connection: 1 keep-alive, 2 close
    cdef unsigned char room[_ROOM + 2]
    cdef unsigned char* out = room

    found.at = found.stop = -1
    # The request line.
    for which in range(methods):
        stop = PyBytes_GET_SIZE(<bytes>METHODS[which])
        if size > stop and data[stop] == 32 and memcmp(data, PyBytes_AS_STRING(<bytes>METHODS[which]), stop) == 0:
            method = <bytes>METHODS[which]
            break
    if method is None:
        return None
    at = stop + 1
    if at == size or data[at] != 47:
        return None
    stop = at
    while stop < size and CLASS[data[stop]] & _IN_PATH:
        stop += 1
    if stop < size and data[stop] == 63:
        query = stop
        while stop < size and CLASS[data[stop]] & _IN_QUERY:
            stop += 1
    if size - stop < 9 or memcmp(data + stop, b" HTTP/1.", 8) != 0 or not 48 <= data[stop + 8] <= 49:
        return None
    minor = data[stop + 8] == 49
    next_at = _line_end(data, stop + 9, size, whole)
    if next_at < 0:
        return None
    if query < 0:
        target = path = _shared(last_target, data + at, stop - at)
        if path is not last_target:
            last_target = path
    else:
        target = _bytes(data + at, stop - at)
        path = _shared(last_target, data + at, query - at)
    head = RequestHead.__new__(RequestHead)
    head.method = method
    head.target = target
    head.path = path
    head.query = EMPTY if query < 0 else _bytes(data + query + 1, stop - query - 1)

    if size > _ROOM:
        spare = PyBytes_FromStringAndSize(NULL, size + 2)
        out = <unsigned char*>PyBytes_AS_STRING(spare)
    while next_at <= size:
        at = next_at
        if not whole and at < size and data[at] == 13:
            if size - at < 2 or data[at + 1] != 10:
                return None
            break
        count += 1
        if count > max_fields:
            return None
        next_at = _next_line(data, at, size, whole, True, &line)
        if next_at < 0:
            return None
        if line.kind == KEEP:
            if run < 0:
                run = at
            continue
        stop = line.end
        while stop > line.value and (data[stop - 1] == 32 or data[stop - 1] == 9):
            stop -= 1
        if line.kind == CONTENT_TYPE:
            if typed:
                return None
            typed = True
            if stop > line.value:
                content_type = _shared(last_type, data + line.value, stop - line.value)
                if content_type is not last_type:
                    last_type = content_type
        elif line.kind == NOTED or line.kind == OWN:
            if line.entry != NULL:
                name = <bytes>line.entry.object
            else:
                name = _bytes(data + at, line.name_size).lower()
            if own is None:
                own = {}
            elif name in own:
                return None
            own[name] = _bytes(data + line.value, stop - line.value)
        elif line.kind == TRACE:
            if traced:
                return None
            traced = True
            if not _valid_trace(data + line.value, stop - line.value):
                line.kind = DROP
        elif line.kind == LENGTH:
            if length >= 0:
                return None
            length = _number(data + line.value, stop - line.value)
            if length < 0:
                return None
            found.at = line.value
            found.stop = stop
        elif line.kind == HOST:
            if host is not None:
                return None
            host = _shared(last_host, data + line.value, stop - line.value)
            if host is not last_host:
                if not _valid_host(data + line.value, stop - line.value):
                    return None
                last_host = host
        elif line.kind == CONNECTION:
            if connection:
                return None
            if _is(data + line.value, stop - line.value, b"keep-alive", 10):
                connection = 1
            elif _is(data + line.value, stop - line.value, b"close", 5):
                connection = 2
            else:
                return None
        elif line.kind == BEARER:
            if auth:
                return None
            auth = True
            token = _bearer(data + line.value, stop - line.value)
        elif line.kind == API_KEY:
            if key:
                return None
            key = True
            if stop > line.value and _visible(data + line.value, stop - line.value):
                api_key = _bytes(data + line.value, stop - line.value)
        elif line.kind == CODING:
            # llhttp takes no tab after a coding: neither do we.
            if chunked or not minor or not _is(data + line.value, stop - line.value, b"chunked", 7):
                return None
            while stop < line.end:
                if data[stop] != 32:
                    return None
                stop += 1
            chunked = True
        elif line.kind == EXPECT:
            if expect or not _is(data + line.value, stop - line.value, b"100-continue", 12):
                return None
            expect = 1
        elif line.kind == UPGRADE or line.kind == FRAMES:
            return None
        if line.kind == CONTENT_TYPE or line.kind == NOTED or line.kind == TRACE:
            if run < 0:
                run = at
        elif run >= 0:
            memcpy(out + kept, data + run, at - run)
            kept += at - run
            run = -1
    else:
        # The last line of a whole head: its CRLF is not in the data.
        at = size
    if not whole:
        found.end = at + 2
    if chunked and length >= 0:
        return None
    if host is None:
        if minor:
            return None
        host = EMPTY
    if run >= 0:
        memcpy(out + kept, data + run, at - run)
        kept += at - run
        if whole:
            out[kept] = 13
            out[kept + 1] = 10
            kept += 2
    head.minor = minor
    head.host = host
    head.forward = _bytes(out, kept)
    head.content_length = length
    head.chunked = chunked
    head.keep_alive = connection != 2 if minor else connection == 1
    head.expect = expect if minor else 0
    head.credential = token if token is not None else api_key
    head.content_type = content_type
    head.own = own
    return head


cpdef RequestHead scan_request(bytes data, Py_ssize_t end=-1, Py_ssize_t max_fields=_UNLIMITED):
    """The request whose head, without the empty line that ends it, is ``data[:end]`` (all of ``data`` when that is negative).

    ``None`` = ask the complete path; also when it has more than ``max_fields`` fields.
    """
    cdef Found found
    cdef Py_ssize_t size = len(data)
    if 0 <= end < size:
        size = end
    return scan_request_at(<Bytes>PyBytes_AS_STRING(data), size, True, max_fields, &found)


# ---- responses ---------------------------------------------------------------------------------------------------------

cdef bytes _status_line(int status, Bytes reason, Py_ssize_t size):
    """As fields.response_status()."""
    cdef bytes known = <bytes>STATUS_LINES[status]
    while size and (reason[0] == 32 or reason[0] == 9):
        reason += 1
        size -= 1
    while size and (reason[size - 1] == 32 or reason[size - 1] == 9):
        size -= 1
    # "HTTP/1.1 200 " before it and CRLF behind it.
    if size == 0 or (size == PyBytes_GET_SIZE(known) - 15 and memcmp(PyBytes_AS_STRING(known) + 13, reason, size) == 0):
        return known
    return fields.response_status(status, _bytes(reason, size))


cdef int _hints(Bytes start, Py_ssize_t size, ResponseHead head) except -1:
    """As fields.keep_alive_hints(); an engine gives the same ones each time."""
    global last_hint, last_idle_s, last_most
    cdef bytes value = _shared(last_hint, start, size)
    if value is not last_hint:
        last_idle_s, last_most = fields.keep_alive_hints(value)
        last_hint = value
    head.idle_s = last_idle_s
    head.max_requests = last_most
    return 0


cdef ResponseHead scan_response_at(Bytes data, Py_ssize_t size, bint whole, Py_ssize_t max_fields, Found* found):
    cdef ResponseHead head
    cdef Line line
    cdef Py_ssize_t at, next_at, stop, count = 0, run = -1, kept = 0
    cdef long long length = -1
    cdef bint chunked = False, typed = False, hinted = False, has_date = False, minor
    cdef int connection = 0, status  # connection: 1 keep-alive, 2 close
    cdef bytes spare
    cdef unsigned char room[_ROOM + 2]
    cdef unsigned char* out = room

    found.at = found.stop = -1
    # "HTTP/1.1 200", then nothing or a blank and a reason. Interim responses take the complete path.
    if size < 12 or memcmp(data, b"HTTP/1.", 7) != 0 or not 48 <= data[7] <= 49 or data[8] != 32:
        return None
    if not 50 <= data[9] <= 53 or not 48 <= data[10] <= 57 or not 48 <= data[11] <= 57:
        return None
    minor = data[7] == 49
    status = (data[9] - 48) * 100 + (data[10] - 48) * 10 + (data[11] - 48)
    stop = 12
    if size > 12 and data[12] == 32:
        stop = _text_end(data, 13, size)
    next_at = _line_end(data, stop, size, whole)
    if next_at < 0:
        return None
    head = ResponseHead.__new__(ResponseHead)
    head.idle_s = -1.0
    head.max_requests = -1
    # The line is made first: its memory is of no use to anyone else.
    head.status_line = _status_line(status, data + 12, stop - 12)

    if size > _ROOM:
        spare = PyBytes_FromStringAndSize(NULL, size + 2)
        out = <unsigned char*>PyBytes_AS_STRING(spare)
    while next_at <= size:
        at = next_at
        if not whole and at < size and data[at] == 13:
            if size - at < 2 or data[at + 1] != 10:
                return None
            break
        count += 1
        if count > max_fields:
            return None
        next_at = _next_line(data, at, size, whole, False, &line)
        if next_at < 0:
            return None
        if line.kind == KEEP:
            if run < 0:
                run = at
            continue
        stop = line.end
        while stop > line.value and (data[stop - 1] == 32 or data[stop - 1] == 9):
            stop -= 1
        if line.kind == CONTENT_TYPE:
            if typed:
                return None
            typed = True
            _media(data + line.value, stop - line.value, head)
        elif line.kind == LENGTH:
            if length >= 0:
                return None
            length = _number(data + line.value, stop - line.value)
            if length < 0:
                return None
            found.at = line.value
            found.stop = stop
        elif line.kind == DATE:
            if has_date:
                return None
            has_date = True
        elif line.kind == CONNECTION:
            if connection:
                return None
            if _is(data + line.value, stop - line.value, b"keep-alive", 10):
                connection = 1
            elif _is(data + line.value, stop - line.value, b"close", 5):
                connection = 2
            else:
                return None
        elif line.kind == CODING:
            if chunked or not minor or not _is(data + line.value, stop - line.value, b"chunked", 7):
                return None
            while stop < line.end:
                if data[stop] != 32:
                    return None
                stop += 1
            chunked = True
        elif line.kind == KEEP_ALIVE:
            if hinted:
                return None
            hinted = True
            _hints(data + line.value, stop - line.value, head)
        elif line.kind == FRAMES:
            return None
        if line.kind == CONTENT_TYPE or line.kind == DATE:
            if run < 0:
                run = at
        elif run >= 0:
            memcpy(out + kept, data + run, at - run)
            kept += at - run
            run = -1
    else:
        at = size
    if not whole:
        found.end = at + 2
    if chunked and length >= 0:
        return None
    if run >= 0:
        memcpy(out + kept, data + run, at - run)
        kept += at - run
        if whole:
            out[kept] = 13
            out[kept + 1] = 10
            kept += 2
    head.status = status
    head.minor = minor
    head.forward = _bytes(out, kept)
    head.content_length = length
    head.chunked = chunked
    head.keep_alive = connection != 2 if minor else connection == 1
    head.has_date = has_date
    return head


cpdef ResponseHead scan_response(bytes data, Py_ssize_t end=-1, Py_ssize_t max_fields=_UNLIMITED):
    """The response whose head, without the empty line that ends it, is ``data[:end]``; otherwise as :func:`scan_request`."""
    cdef Found found
    cdef Py_ssize_t size = len(data)
    if 0 <= end < size:
        size = end
    return scan_response_at(<Bytes>PyBytes_AS_STRING(data), size, True, max_fields, &found)


# ---- one connection's way in -------------------------------------------------------------------------------------------

@cython.no_gc
cdef class _Scanner:
    """One connection's way in: reads the head that a read begins with, and knows the last one again.

    A peer that keeps its connection says the same again and again, but for the length of what it says. Then the head
    returned is the one returned last, with the new length: whoever needs it longer than its own message copies it.
    """

    def __init__(self, Py_ssize_t max_bytes, Py_ssize_t max_fields):
        self._max_bytes = max_bytes
        self._max_fields = max_fields

    cdef bint _same(self, Bytes data, Py_ssize_t size) noexcept:
        """Whether ``data`` begins with the remembered head around other digits; then its length and ``end`` are set."""
        cdef Bytes raw = <Bytes>PyBytes_AS_STRING(self._raw)
        cdef Py_ssize_t at = self._at
        cdef Py_ssize_t tail = PyBytes_GET_SIZE(self._raw) - self._stop
        cdef Py_ssize_t most
        cdef long long value = 0
        if size <= at or memcmp(data, raw, at) != 0:
            return False
        most = at + _MAX_DIGITS if size - at > _MAX_DIGITS else size
        while at < most and 48 <= data[at] <= 57:
            value = value * 10 + (data[at] - 48)
            at += 1
        if at == self._at or size - at < tail or memcmp(data + at, raw + self._stop, tail) != 0:
            return False
        self._length[0] = value
        self.end = at + tail
        self._strangers = 0
        return True

    cdef int _remember(self, Bytes data, object head, long long* length, Found* found) except -1:
        """Remember a head, unless it has no length, is too large, or its peer varies them."""
        if length[0] < 0 or found.end - 4 > _LAST_HEAD_BYTES or self._strangers >= _MAX_STRANGERS:
            return 0
        self._strangers += 1
        if data[found.stop] != 13:  # blanks behind the digits: nobody writes it
            self._head = None
            return 0
        self._raw = _bytes(data, found.end)
        self._at = found.at
        self._stop = found.stop
        self._head = head
        self._length = length
        return 0

    cpdef bytes behind(self, bytes data):
        """What of ``data`` comes behind the head that was just read in it."""
        cdef Py_ssize_t size = len(data) - self.end
        return _bytes(<Bytes>PyBytes_AS_STRING(data) + self.end, size) if size > 0 else b""


@cython.final
@cython.no_gc
cdef class RequestScanner(_Scanner):
    """Reads the request heads of one client connection."""

    cpdef RequestHead read(self, bytes data):
        """The head that ``data`` begins with, and ``end`` then says where the bytes after its empty line begin.

        ``None`` = the head is not whole, larger than ``max_bytes`` with its empty line, has more than ``max_fields``
        fields, or is not understood here.
        """
        cdef Bytes start = <Bytes>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = len(data)
        cdef RequestHead head
        cdef Found found
        if self._head is not None and self._same(start, size):
            return <RequestHead>self._head
        head = scan_request_at(start, min(size, self._max_bytes), False, self._max_fields, &found)
        if head is not None:
            self.end = found.end
            self._remember(start, head, &head.content_length, &found)
        return head


    cpdef RequestHead adopt(self, Kept kept):
        """Take a copy of what another connection brought for the head that was read last. Whether the same comes here shows
        when it is read."""
        cdef RequestHead of = kept.head
        cdef RequestHead head = RequestHead.__new__(RequestHead)
        head.method = of.method
        head.target = of.target
        head.path = of.path
        head.query = of.query
        head.minor = of.minor
        head.host = of.host
        head.forward = of.forward
        head.content_length = of.content_length
        head.chunked = of.chunked
        head.keep_alive = of.keep_alive
        head.expect = of.expect
        head.credential = of.credential
        head.content_type = of.content_type
        head.own = of.own
        self._raw = kept._raw
        self._at = kept._at
        self._stop = kept._stop
        self._head = head
        self._length = &head.content_length
        return head

    cpdef Kept remembered(self, object known):
        """The head that is remembered, for other connections, with what is ``known`` of it."""
        cdef Kept kept
        if self._head is None:
            return None
        kept = Kept.__new__(Kept)
        kept.head = <RequestHead>self._head
        kept.known = known
        kept.used = True
        kept._raw = self._raw
        kept._at = self._at
        kept._stop = self._stop
        kept._hash = _around(<Bytes>PyBytes_AS_STRING(self._raw), self._at, self._stop, PyBytes_GET_SIZE(self._raw))
        return kept


@cython.final
@cython.no_gc
cdef class ResponseScanner(_Scanner):
    """Reads the response heads of one engine connection."""

    cpdef ResponseHead read(self, bytes data):
        """The head that ``data`` begins with; as :meth:`RequestScanner.read`."""
        cdef Bytes start = <Bytes>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = len(data)
        cdef ResponseHead head
        cdef Found found
        if self._head is not None and self._same(start, size):
            return <ResponseHead>self._head
        head = scan_response_at(start, min(size, self._max_bytes), False, self._max_fields, &found)
        if head is not None:
            self.end = found.end
            self._remember(start, head, &head.content_length, &found)
        return head


# ---- what connections have brought that are gone -----------------------------------------------------------------------

@cython.final
cdef class Kept:
    """A head that a connection has brought which is gone, and what its service ``known`` of it."""


cdef Py_hash_t _around(Bytes head, Py_ssize_t at, Py_ssize_t stop, Py_ssize_t size) noexcept:
    """Of all bytes but those from ``at`` to ``stop``, keyed as Python's own."""
    cdef uint64_t before = <uint64_t>fastgw_hash(head, at)
    cdef uint64_t behind = <uint64_t>fastgw_hash(head + stop, size - stop)
    return <Py_hash_t>(before * 1000003 + behind)


@cython.final
cdef class HeadMemory:
    """Heads of connections that are gone, for those that come; see the Python twin."""

    def __init__(self):
        self._kept = {}

    def __len__(self):
        return len(self._kept)

    cpdef Kept find(self, bytes data):
        """What is kept of a head like that which ``data`` begins with."""
        cdef Bytes start = <Bytes>PyBytes_AS_STRING(data)
        cdef Bytes found
        cdef Py_ssize_t size = min(len(data), _LAST_HEAD_BYTES + 4)
        cdef Py_ssize_t at = 0, first = -1, stop = -1
        cdef PyObject* held
        cdef Kept kept
        while True:
            found = <Bytes>memchr(start + at, 10, size - at)
            if found == NULL:
                return None
            at = found - start + 1
            if at >= size:
                return None
            if start[at] == 13:
                break
            if first < 0 and (start[at] | 32) == 99 and size - at > 15 and start[at + 14] == 58:
                if is_word(start + at, 14, b"content-length", 14):
                    first = at + 15
        if first < 0 or size - at < 2:
            return None
        at += 2
        while first < at and (start[first] == 32 or start[first] == 9):
            first += 1
        stop = first
        while stop < at and start[stop] != 13:
            stop += 1
        held = PyDict_GetItem(self._kept, _around(start, first, stop, at))
        if held == NULL:
            return None
        kept = <Kept>held
        kept.used = True
        return kept

    cpdef keep(self, Kept kept):
        cdef dict held = self._kept
        if len(held) >= _MOST_HEADS and kept._hash not in held:
            self._make_room()
        held[kept._hash] = kept

    cdef _make_room(self):
        cdef dict held = self._kept
        cdef Kept kept
        for _ in range(_MOST_SPARED):
            oldest = next(iter(held))
            kept = held.pop(oldest)
            if not kept.used:
                return
            kept.used = False
            held[oldest] = kept
        del held[next(iter(held))]

    cpdef sweep(self):
        """Forget what nobody has asked for since the last time."""
        cdef dict held = self._kept
        cdef Kept kept
        for own in [own for own, one in held.items() if not (<Kept>one).used]:
            del held[own]
        for kept in held.values():
            kept.used = False
