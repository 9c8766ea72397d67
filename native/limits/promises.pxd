cimport cython

cdef double _most_s, _spread

@cython.final
cdef class Promises:
    cdef double _next

    @cython.locals(ahead=cython.double, furthest=cython.double, place=cython.double)
    cpdef double told(self, double now, double word_s, double each_s, double chance) except -1
