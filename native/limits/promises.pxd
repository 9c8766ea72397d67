cimport cython

cdef double _apart, _crowd_s, _same_s, _most_s, _spread

@cython.final
cdef class Promises:
    cdef double _begun, _newcomers, _next

    @cython.locals(ahead=cython.double, furthest=cython.double, place=cython.double)
    cpdef double told(self, double now, double word_s, double each_s, double chance) except -1
