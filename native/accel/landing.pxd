cimport cython
from cpython.object cimport PyObject

@cython.final
@cython.no_gc
cdef class Landing:
    cdef PyObject *_data  # bytes of ``_room``, of which the first ``got`` have been written; NULL = none
    cdef Py_ssize_t _room
    cdef readonly Py_ssize_t got
    cdef readonly long long length

    cdef void _has_room(self, Py_ssize_t size) noexcept
    cdef int _make_room(self, Py_ssize_t size) except -1
    cpdef put(self, bytes data)
    cpdef Py_ssize_t recv(self, int fd, Py_ssize_t most) except -1
    cpdef bytes whole(self)
