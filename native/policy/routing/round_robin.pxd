cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.search cimport search
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group


cdef class RoundRobin(Strategy):
    @cython.locals(pool=Pool, turns=tuple, at=cython.Py_ssize_t)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)
