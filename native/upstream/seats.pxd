cimport cython

cdef int AT_ONCE, _HIGH

# (Not final: where a response is kept is one more.)
cdef class Seat:
    cdef public str name
    cdef public double until

@cython.final
cdef class Part:
    cdef public Py_ssize_t count
    cdef public dict seats
    cdef dict _ranks
    cdef Py_ssize_t _most

    cpdef Seat seat(self, str key, object told)
    cpdef put(self, str key, object told, Seat seat, Py_ssize_t most)
    cpdef drop(self, str key, object told)
    cpdef used(self, str key, object told)
    cdef _rank(self, str key, Py_ssize_t before, Py_ssize_t now)

@cython.final
cdef class Seats:
    cdef Py_ssize_t _mask
    cdef public list parts
    cdef public bytes secret

    cpdef Part part(self, Py_ssize_t told)
    cpdef Py_ssize_t share(self, Py_ssize_t most) except -1
