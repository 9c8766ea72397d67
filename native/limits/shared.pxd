# The compiled twin of fastgw/limits/shared.py: what compiled modules may take from it at C level.

cimport cython


@cython.final
cdef class Pages:
    cdef long long *words
    cdef object _map
    cdef Py_buffer _view

    cdef int lock(self) except -1
    cdef int unlock(self) except -1
    cdef void settle(self) noexcept
    cpdef close(self)


@cython.final
cdef class Record:
    cdef public object region
    cdef public str kind
    cdef public long long high, low, at, entry, seen, inflight, reserved, open_requests, open_tokens
    cdef public bint crowd, inside
    cdef public object requests, tokens, day
