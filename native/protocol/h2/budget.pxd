cimport cython

cdef int _per_frame

@cython.final
cdef class Budget:
    cdef str _what
    cdef double _burst, _per_s, _left, _at

    cpdef bint has(self, double now) except -1

@cython.final
cdef class Budgets:
    cdef public Budget glitches, pings
    cdef long long _empty, _updates

    cpdef payload(self)
    cpdef empty(self)
    cpdef sent(self, int frames)
    cpdef update(self)
