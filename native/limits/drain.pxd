cimport cython

cdef Py_ssize_t BUCKETS

@cython.final
cdef class DrainRate:
    cdef double _begun, _latest, _width_s
    cdef long long _bucket, _total
    cdef list _counts

    cpdef left(self, double now)
    @cython.locals(begun=cython.double)
    cpdef double rate(self, double now) except? -1.0
    @cython.locals(rate=cython.double)
    cpdef double retry_after_s(self, long long waiting, double now, double least=*, double most=*) except? -1.0
    @cython.locals(bucket=cython.longlong, passed=cython.longlong, step=cython.longlong, at=cython.Py_ssize_t)
    cdef double _advance(self, double now) except? -1.0
