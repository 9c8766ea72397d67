cimport cython

from fastgw.limits.meter cimport Meter
from fastgw.limits.shared cimport Pages, Record

cdef Py_ssize_t _copy, _entry, _near

@cython.final
cdef class Addresses:
    cdef Pages _pages
    cdef Py_ssize_t _first, _places

    @cython.locals(record=Record, words=cython.p_longlong, at=Py_ssize_t, whole=Py_ssize_t, other=Py_ssize_t)
    cpdef bint take(self, Meter meter, long long now_us) except -1
    @cython.locals(words=cython.p_longlong, crowd=Py_ssize_t, free=Py_ssize_t, at=Py_ssize_t, word=Py_ssize_t, _=Py_ssize_t)
    cdef Py_ssize_t _find(self, Record record, long long now_us) except -1
    @cython.locals(words=cython.p_longlong, debt=cython.longlong)
    cdef bint _idle(self, Py_ssize_t at, long long now_us) except -1
