cimport cython


@cython.final
cdef class ChunkScanner:
    cdef int _state
    cdef unsigned long long _left
    cdef bytes _line
    cdef Py_ssize_t _trailer_bytes
    cdef public bint aligned
    cdef readonly bint done
    cdef readonly bint whole
    cdef readonly bytes rest
    cdef readonly list trailers
    cdef readonly bytes lines

    cpdef bytes feed(self, bytes data)
    cdef bytes _feed(self, bytes data)


# The payload of the plain, whole, not last chunk at `p`: how many bytes it has (0 = no such chunk is there), where it
# begins, and where the next one would.
cdef Py_ssize_t plain_chunk(const unsigned char *p, Py_ssize_t n, Py_ssize_t *start, Py_ssize_t *end) noexcept nogil
