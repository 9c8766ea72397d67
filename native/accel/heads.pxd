# The compiled twin of fastgw/accel/heads.py: what compiled modules may take from it at C level.

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

    cdef bint _same(self, const unsigned char* data, Py_ssize_t size) noexcept
    cdef int _remember(self, const unsigned char* data, object head, long long* length, Found* found) except -1


cdef class RequestScanner(_Scanner):
    cpdef RequestHead read(self, bytes data)


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
