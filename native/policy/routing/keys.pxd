cimport cython

from fastgw.accel.bodies cimport span_of
from fastgw.accel.lookup cimport first_in

cdef int _FIELD, _COOKIE, _MEMBER, _KEY
cdef Py_ssize_t _MOST_BYTES

cdef class Keys:
    cdef list _kinds, _words

    @cython.locals(at=cython.Py_ssize_t, kind=cython.int, found=bytes)
    cpdef bytes read(self, object exchange)

cpdef bytes cookie_in(dict own, bytes name)
@cython.locals(body=bytes, start=cython.Py_ssize_t, end=cython.Py_ssize_t)
cpdef bytes member_of(object exchange, str name)
