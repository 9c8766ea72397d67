cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.search cimport draw, lighter
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group


cdef class PowerOfTwo(Strategy):
    cdef object _chance

    @cython.locals(pools=tuple, count=cython.Py_ssize_t, at=cython.Py_ssize_t, beside=cython.Py_ssize_t, one=Pool, other=Pool, other_fit=bint)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)
