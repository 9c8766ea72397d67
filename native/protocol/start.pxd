cimport cython

@cython.final
cdef class RequestStart:
    cdef public bytes fields, line, method, target
    cdef public bint upgrade
    cdef public tuple block
