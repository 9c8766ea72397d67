cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.search cimport those
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group


cdef class Random(Strategy):
    cdef object _chance

    @cython.locals(pool=Pool, pools=tuple, upto=list, fit=list)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)

cpdef list shares(tuple pools)
