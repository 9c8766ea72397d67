cimport cython

cdef double _apart, _crowd_s, _goes_on, _goes_on_most_s, _same_s, _most_s, _spread

@cython.final
cdef class Promises:
    cdef bint _alone
    cdef double _begun, _newcomers, _next

    @cython.locals(ahead=cython.double, furthest=cython.double, place=cython.double)
    cpdef double told(self, double now, double word_s, double each_s, double chance, double busy_s=*) except -1
