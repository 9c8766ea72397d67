# The compiled twin of fastgw/accel/heads.py: what compiled modules may take from it at C level.

from cpython.object cimport PyObject


cdef class RequestHead:
    cdef public bytes method
    cdef public bytes target
    cdef public bytes path
    cdef public bytes query
    cdef public bytes host
    cdef public bytes forward
    cdef public bytes credential
    cdef public bytes content_type
    cdef public dict own
    cdef public long long content_length
    cdef public int minor
    cdef public int expect
    cdef public bint chunked
    cdef public bint keep_alive


cdef class ResponseHead:
    cdef public bytes status_line
    cdef public bytes forward
    cdef public long long content_length
    cdef public long long max_requests
    cdef public double idle_s
    cdef public int status
    cdef public int minor
    cdef public bint chunked
    cdef public bint keep_alive
    cdef public bint sse
    cdef public bint json
    cdef public bint has_date


cdef class _Scanner:
    cdef object _head
    cdef long long* _length
    cdef bytes _raw
    cdef Py_ssize_t _at
    cdef Py_ssize_t _stop
    cdef Py_ssize_t _max_bytes
    cdef Py_ssize_t _max_fields
    cdef int _strangers
    cdef readonly Py_ssize_t end

    cpdef bytes behind(self, bytes data)
    cdef bint _same(self, const unsigned char* data, Py_ssize_t size) noexcept
    cdef int _remember(self, const unsigned char* data, object head, long long* length, Found* found) except -1


cdef class Kept:
    cdef bytes _raw
    cdef Py_ssize_t _at
    cdef Py_ssize_t _stop
    cdef Py_hash_t _hash
    cdef public RequestHead head
    cdef public object known
    cdef public bint used


cdef class RequestScanner(_Scanner):
    cpdef RequestHead read(self, bytes data)
    cpdef RequestHead adopt(self, Kept kept)
    cpdef Kept remembered(self, object known)


cdef class HeadMemory:
    cdef dict _kept

    cpdef Kept find(self, bytes data)
    cpdef keep(self, Kept kept)
    cdef _make_room(self)
    cpdef sweep(self)


cdef class ResponseScanner(_Scanner):
    cpdef ResponseHead read(self, bytes data)


# Where a head that was scanned in place ends (behind its empty line), and where its Content-Length's digits are.
cdef struct Found:
    Py_ssize_t end
    Py_ssize_t at
    Py_ssize_t stop


cpdef RequestHead scan_request(bytes data, Py_ssize_t end=*, Py_ssize_t max_fields=*)
cpdef ResponseHead scan_response(bytes data, Py_ssize_t end=*, Py_ssize_t max_fields=*)

# The head at the beginning of `size` bytes; `whole` = they are a head without its empty line, nothing else.
cdef RequestHead scan_request_at(
    const unsigned char* data, Py_ssize_t size, bint whole, Py_ssize_t max_fields, Found* found
)
cdef ResponseHead scan_response_at(
    const unsigned char* data, Py_ssize_t size, bint whole, Py_ssize_t max_fields, Found* found
)


# ---- for the complete path, judges.pyx

cdef struct Entry:
    const unsigned char* name
    int size
    int kind
    bint framing
    PyObject* object


cdef struct Line:
    Py_ssize_t start
    Py_ssize_t name_size
    Py_ssize_t value  # the first byte that is no blank
    Py_ssize_t end  # of the line, without its CRLF; `size` for the last line of a whole head
    int kind
    const Entry* entry


cdef unsigned char* lower_case() noexcept
# Take all lines of a whole head from ``at`` on apart; how many they are, -1 = one is malformed, or they are more than ``most``.
cdef int field_lines(
    const unsigned char* data, Py_ssize_t at, Py_ssize_t size, bint request, Line* lines, Py_ssize_t most
) noexcept nogil
cdef bint in_host(const unsigned char* start, Py_ssize_t size) except -1
cdef bint is_trace(const unsigned char* start, Py_ssize_t size) except -1
cdef bytes bearer_token(const unsigned char* start, Py_ssize_t size)
cdef bytes visible_token(const unsigned char* start, Py_ssize_t size)
cdef void media_of(const unsigned char* start, Py_ssize_t size, ResponseHead head) noexcept
cdef bytes status_line_of(int status, const unsigned char* reason, Py_ssize_t size)
cdef int hints_of(const unsigned char* start, Py_ssize_t size, ResponseHead head) except -1
cdef bint is_word(const unsigned char* start, Py_ssize_t size, const char* lower, Py_ssize_t lower_size) noexcept nogil
