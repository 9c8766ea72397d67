cimport cython

cdef long long _SLOTS, _UNIT

@cython.final
cdef class RetryBudget:
    cdef long long _floor, _share, _now_requests, _now_retries, _past_requests, _past_retries
    cdef Py_ssize_t _at
    cdef list _requests, _retries
    cdef double _slot_end, _slot_s
    cdef public long long refused_total, retries_total

    cpdef request(self, double now)
    @cython.locals(allowed=cython.longlong)
    cpdef bint withdraw(self, double now) except -1
    @cython.locals(at=cython.Py_ssize_t, i=cython.Py_ssize_t, late=cython.double, steps=cython.longlong)
    cdef _roll(self, double now)

@cython.locals(span=cython.double)
cpdef double backoff_s(long long attempt, double chance, double base_s=*, double cap_s=*) except -1.0
