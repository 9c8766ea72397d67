cimport cython

@cython.final
cdef class Endpoint:
    cdef public bint auth, generates, merges, metered, model, usage
    cdef public str label, local
    cdef public object methods, mode

cdef class EndpointTable:
    cdef dict _exact
    cdef tuple _prefixes
    cdef public object get
