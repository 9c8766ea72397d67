cimport cython

from fastgw.limits.promises cimport Promises

cdef Py_ssize_t BUCKETS
cdef double _most_s, _rough, _slack, _unknown_s, _unknown_spread

@cython.final
cdef class DrainRate:
    cdef double _held_s, _latest, _unknown_until, _width_s
    cdef long long _bucket, _most, _total, _way
    cdef list _counts, _held, _mosts
    cdef Promises _promises

    cpdef began(self, double now)
    cpdef left(self, double now)
    @cython.locals(places=cython.longlong)
    cpdef double rate(self, double now) except? -1.0
    @cython.locals(rate=cython.double, each_s=cython.double)
    cpdef double retry_after_s(self, long long waiting, double now, double chance, double longest_s=*) except? -1.0
    @cython.locals(least_s=cython.double)
    cdef double _told_in_ignorance(self, double now, double chance) except? -1.0
    @cython.locals(most=cython.longlong, one=cython.longlong)
    cdef long _places(self) except? -1
    @cython.locals(held_s=cython.double, one=cython.double)
    cdef double _place_seconds(self) except? -1.0
    @cython.locals(width_s=cython.double, held_s=cython.double, bucket=cython.longlong, most=cython.longlong, one=cython.longlong,
                   at=cython.Py_ssize_t)
    cdef _advance(self, double now)
