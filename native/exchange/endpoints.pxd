cimport cython

@cython.final
cdef class Endpoint:
    cdef public bint auth, by_id, foreign, generates, light, merges, metered, model, stored, untold, usage
    cdef public str dialect, label, local
    cdef public object methods, mode
    cdef public dict others
    cdef public int ends

cdef class EndpointTable:
    cdef dict _chats, _exact, _stored
    cdef tuple _prefixes
    cdef frozenset _passed
    cdef public object get
