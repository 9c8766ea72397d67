cimport cython

from fastgw.limits.promises cimport Promises

cdef Py_ssize_t BUCKETS
cdef double _most_s, _slack, _unknown_rate, _unknown_s

@cython.final
cdef class DrainRate:
    cdef double _begun, _latest, _width_s
    cdef long long _bucket, _total
    cdef list _counts
    cdef Promises _guesses, _promises

    cpdef left(self, double now)
    @cython.locals(begun=cython.double)
    cpdef double rate(self, double now) except? -1.0
    @cython.locals(rate=cython.double, each_s=cython.double)
    cpdef double retry_after_s(self, long long waiting, double now, double chance, double longest_s=*) except? -1.0
    @cython.locals(bucket=cython.longlong, passed=cython.longlong, step=cython.longlong, at=cython.Py_ssize_t)
    cdef double _advance(self, double now) except? -1.0
