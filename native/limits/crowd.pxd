cimport cython

@cython.final
cdef class Crowd:
    cdef dict _by_count, _flows
    cdef Py_ssize_t _most

    @cython.locals(items=dict, count=cython.Py_ssize_t)
    cpdef add(self, str flow, object item)
    @cython.locals(items=dict, count=cython.Py_ssize_t)
    cpdef remove(self, str flow, object item)
    @cython.locals(items=dict, own=cython.Py_ssize_t)
    cpdef object victim(self, str flow)
    @cython.locals(flows=dict)
    cdef _move(self, str flow, Py_ssize_t before, Py_ssize_t after)
