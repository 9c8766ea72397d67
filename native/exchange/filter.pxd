cdef class Filter:
    pass
