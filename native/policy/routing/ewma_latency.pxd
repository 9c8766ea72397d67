cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.net.clock cimport monotonic
from fastgw.policy.routing.search cimport draw
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine
from fastgw.upstream.watch cimport Watch

cdef double UNKNOWN_S

cdef class EwmaLatency(Strategy):
    cdef object _chance

    @cython.locals(pools=tuple, count=cython.Py_ssize_t, at=cython.Py_ssize_t, beside=cython.Py_ssize_t, now=cython.double, one=Pool, other=Pool, other_fit=bint)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)

@cython.locals(ahead=cython.longlong, watch=Watch)
cpdef double cost(Engine engine, double now) except -1.0
