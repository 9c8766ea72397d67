cimport cython


cpdef bytes header(Py_ssize_t size, int kind, int flags, unsigned int stream)
cpdef bytes framed(bytes payload, int kind, int flags, unsigned int stream)
cpdef bytes text(bytes value)
cpdef bytes field_block(bytes first, bytes second, bytes third, bytes fourth, bytes request_id, long long length)

cpdef list cut(bytes block, Py_ssize_t most)
cpdef tuple bare(bytes block)


@cython.final
cdef class FrameReader:
    cdef bytes _data
    cdef bytes _held
    cdef Py_ssize_t _at
    cdef Py_ssize_t _left
    cdef readonly int kind
    cdef readonly int flags
    cdef readonly long stream
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t start
    cdef readonly Py_ssize_t stop
    cdef readonly bint whole
    cdef readonly bint oversized

    cpdef bint halfway(self) except -1
    cpdef feed(self, bytes data)
    cpdef bint next(self) except -1
    cdef bint _go_on(self, Py_ssize_t at, Py_ssize_t end) except -1
    cdef bint _wait(self, Py_ssize_t at, Py_ssize_t end) except -1
    cpdef bytes payload(self)
    cpdef bytes frame(self)
