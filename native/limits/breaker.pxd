cimport cython

cdef int _CLOSED, _OPEN, _HALF_OPEN
cdef int _NO, _YES, _PROBE

@cython.final
cdef class Breaker:
    cdef double _recovery_s
    cdef long long _threshold
    cdef public long long failures, opened_total
    cdef public bint dials, probing
    cdef public int state
    cdef public tuple whose
    cdef public double until

    @cython.locals(answer=cython.int)
    cpdef int admit(self, double now) except -1
    cpdef int may(self, double now) except -1
    cpdef succeeded(self, bint probe)
    cpdef failed(self, double now, double chance, bint probe, tuple whose=*, bint dial=*)
    cpdef bint answered(self) except -1
    cpdef bint hears(self, str caller, str model=*) except -1
    cpdef released(self, bint probe)
    cpdef double wait_s(self, double now) except -1.0
    cdef _count(self, tuple whose, bint dial)
    cdef _open(self, double now, double chance)
    @cython.locals(held=cython.int)
    cdef _set_state(self, int state)
