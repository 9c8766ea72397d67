cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.search cimport draw
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group


cdef class Random(Strategy):
    cdef object _chance

    @cython.locals(pool=Pool, turns=tuple)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)
